"""Clicks on shown lists -> how likely each place is looked at, and labels that do not believe in places.

A click needs two things: that somebody looked at the place, and that the document was worth it (the examination
hypothesis, Richardson et al. 2007). Clicks alone therefore teach a ranker what was shown first. Weighed by one over the
propensity of their place they do not (Joachims et al. 2017). Propensities are identified where the same document was
shown at several places to the same query, as when two places are swapped at random for a few shoppers.
"""

from __future__ import annotations

import dataclasses
from typing import Optional

import numpy as np

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class ClickLog:
    """What was shown and clicked, one row a document and a place.

    Attributes:
        document: `[rows]` int, 0-based: a document of one query (another query's is another document).
        place: `[rows]` int, 0 = first.
        shown: `[rows]`, how often it was shown there.
        clicks: `[rows]`, how often it was clicked there; never more than `shown`.
    """

    document: np.ndarray
    place: np.ndarray
    shown: np.ndarray
    clicks: np.ndarray

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (self.document, self.place, self.shown, self.clicks)}
        if len(lengths) != 1:
            raise ValueError(f"Expected columns of one length, got {sorted(lengths)}.")
        wrong = np.flatnonzero((self.clicks < 0) | (self.clicks > self.shown) | (self.shown <= 0))
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"Expected 0 <= clicks <= shown and shown above 0, got {self.clicks[row]} of {self.shown[row]} "
                f"in row {row}."
            )


def propensities(log: ClickLog, *, iterations: int = 300) -> np.ndarray:
    """Returns `[places]`: how likely each place is looked at, as a multiple of the first place's.

    Maximum likelihood of P(click) = looked at(place) x worth it(document), by expectation maximisation (the
    position-based model: Chuklin et al. 2015; as estimated by Wang et al. 2018, without their regression).

    Raises:
        ValueError: where no document was shown at two places: nothing tells a good place from good documents then.
    """
    places = np.unique(np.stack([log.document, log.place]), axis=1)
    if np.bincount(places[0]).max(initial=0) < 2:
        raise ValueError(
            "Expected documents shown at several places, got none: swap places at random for some queries."
        )
    looked, worth = np.full(log.place.max() + 1, 0.5), np.full(log.document.max() + 1, 0.5)
    unclicked, seen_at = log.shown - log.clicks, np.bincount(log.place, log.shown, len(looked))
    shown_of = np.bincount(log.document, log.shown, len(worth))
    for _ in range(iterations):
        a, b = looked[log.place], worth[log.document]
        neither = np.maximum(1.0 - a * b, _TINY)
        examined = log.clicks + unclicked * a * (1.0 - b) / neither
        relevant = log.clicks + unclicked * b * (1.0 - a) / neither
        looked = np.bincount(log.place, examined, len(looked)) / np.maximum(seen_at, 1)
        worth = np.bincount(log.document, relevant, len(worth)) / np.maximum(shown_of, 1)
    relative: np.ndarray = looked / max(looked[0], _TINY)
    return relative


def labels_of_clicks(
    log: ClickLog, num_documents: int, *, propensity: Optional[np.ndarray] = None, least: float = 0.02
) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and weights, `[documents]`: clicks a time shown at all, and how much each of them counts.

    Args:
        log: of the clicks.
        num_documents: rows of the result; what was never shown has label 0.
        propensity: of `propensities`; None = every click counts 1, which is what is biased.
        least: propensities count as at least this much, so that one lucky click far down does not outweigh all others.
    """
    shown = np.bincount(log.document, log.shown, num_documents)
    clicks = np.bincount(log.document, log.clicks, num_documents)
    each = 1.0 if propensity is None else 1.0 / np.maximum(propensity[log.place], least)
    weighed = np.bincount(log.document, log.clicks * each, num_documents)
    weights = np.where(clicks > 0, weighed / np.maximum(clicks, 1), 1.0)
    return (clicks / np.maximum(shown, 1)).astype(np.float32), weights.astype(np.float32)
