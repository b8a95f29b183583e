"""Clicks on shown lists -> how likely each place is looked at, and labels that do not believe in places.

A click needs two things: that somebody looked at the place, and that the document was worth it (the examination
hypothesis, Richardson et al. 2007). Clicks alone therefore teach a ranker what was shown first. Counted by the looks
that their places had they do not (inverse propensities, Joachims et al. 2017). Propensities are identified where the
same document was shown at several places to the same query, as when two places are swapped at random for a few
shoppers.
"""

from __future__ import annotations

import dataclasses
from typing import Optional

import numpy as np

_ITERATIONS, _CLOSE = 100, 1e-9


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


def propensities(log: ClickLog, *, likeness: float = 1.0) -> np.ndarray:
    """Returns `[places]`: how likely each place is looked at, as a multiple of the first place's.

    P(click) = looked at(place) x worth it(document). Of a document that was clicked and stood at several places, the
    share of its clicks at each tells of the places alone, as its worth cancels. What comes back makes these shares most
    likely (given each document's clicks, as is done for fixed effects: Chamberlain 1980; one document's clicks at two
    places as the source: Agarwal et al. 2019). It stays right where each document has few clicks, where estimating
    every document's worth beside the places does not (one parameter a document: Neyman & Scott 1948).

    Args:
        log: of the clicks.
        likeness: precision of the steps (in logarithms) from place to place around 0, beforehand. 1 weighs as about
            four clicks do, and a place that no clicked document moved to or from has what the one before it has.

    Raises:
        ValueError: where no document was shown at two places: nothing tells a good place from good documents then.
    """
    if np.bincount(np.unique(np.stack([log.document, log.place]), axis=1)[0]).max(initial=0) < 2:
        raise ValueError(
            "Expected documents shown at several places, got none: swap places at random for some queries."
        )
    shown, clicks = _moved(log)
    count, each = shown.shape[1], clicks.sum(axis=1, keepdims=True)
    after = np.tri(count, count - 1, -1)  # [places, steps]: which steps stand before a place
    steps = np.zeros(count - 1)
    for _ in range(_ITERATIONS):  # Newton's, of at most 1 a step
        looks = shown * np.exp(after @ steps)
        share = looks / looks.sum(axis=1, keepdims=True)
        expected = each * share
        slope = after.T @ (expected - clicks).sum(axis=0) + likeness * steps
        curvature = after.T @ (np.diag(expected.sum(axis=0)) - expected.T @ share) @ after
        change = np.linalg.solve(curvature + likeness * np.eye(count - 1), slope)
        steps -= change / max(1.0, np.abs(change).max(initial=0))
        if np.abs(change).max(initial=0) < _CLOSE:
            break
    found: np.ndarray = np.exp(after @ steps)
    return found


def _moved(log: ClickLog) -> tuple[np.ndarray, np.ndarray]:
    """Returns shown and clicks, `[documents, places]`, of what was clicked and stood at several places."""
    _, rows = np.unique(log.document, return_inverse=True)
    shown, clicks = (np.zeros([rows.max() + 1, log.place.max() + 1]) for _ in range(2))
    np.add.at(shown, (rows, log.place), log.shown)
    np.add.at(clicks, (rows, log.place), log.clicks)
    tells = (clicks.sum(axis=1) > 0) & ((shown > 0).sum(axis=1) > 1)
    return shown[tells], clicks[tells]


def labels_of_clicks(
    log: ClickLog, num_documents: int, *, propensity: Optional[np.ndarray] = None, prior: float = 2.0
) -> np.ndarray:
    """Returns labels `[documents]`, at most 1: clicks a look, which is what a document is worth.

    A look is a time shown, times the propensity of the place. Over one place this is the inverse propensity estimate
    (Joachims et al. 2017); over several it is what varies least of those that are right (clicks over expected clicks:
    Zhang & Jones 2007).

    Args:
        log: of the clicks.
        num_documents: rows of the result.
        propensity: of `propensities`; None = every place is looked at alike, which is what is biased.
        prior: looks that each document is given beforehand, with the clicks that an average one has had in them, so
            that one lucky click far down is no proof.
    """
    each = np.ones(len(log.place)) if propensity is None else propensity[log.place]
    looks = np.bincount(log.document, log.shown * each, num_documents)
    clicks = np.bincount(log.document, log.clicks, num_documents)
    average = clicks.sum() / looks.sum()
    return np.minimum((clicks + prior * average) / (looks + prior), 1.0).astype(np.float32)
