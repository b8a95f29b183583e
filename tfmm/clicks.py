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
from scipy import optimize


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
    places = np.unique(np.stack([log.document, log.place]), axis=1)
    if np.bincount(places[0]).max(initial=0) < 2:
        raise ValueError(
            "Expected documents shown at several places, got none: swap places at random for some queries."
        )
    clicks_of, clicks_at = np.bincount(log.document, log.clicks), np.bincount(log.place, log.clicks)

    def loss(steps: np.ndarray) -> tuple[float, np.ndarray]:
        looks = log.shown * _after(steps)[log.place]
        share = looks / np.bincount(log.document, looks)[log.document]
        expected = np.bincount(log.place, clicks_of[log.document] * share, len(clicks_at))
        gradient = np.cumsum((expected - clicks_at)[::-1])[::-1][1:]  # a step moves all places after it
        return float(likeness / 2 * steps @ steps - log.clicks @ np.log(share)), gradient + likeness * steps

    start = np.zeros(len(clicks_at) - 1)
    return _after(optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x)


def _after(steps: np.ndarray) -> np.ndarray:
    """Returns `[places]` after steps between their logarithms; the first is 1."""
    found: np.ndarray = np.exp(np.concatenate([[0.0], np.cumsum(steps)]))
    return found


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
