"""Directions in which two views of the same products agree, in closed form.

Canonical correlation analysis (Hotelling 1936) with a ridge (Vinod 1976): of all linear maps of both views to a few
numbers, those whose numbers correlate most. On a few thousand products it is a better start for contrastive training
than a random one, and takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import linalg


class Pair(NamedTuple):
    """Where two views agree, the strongest agreement first.

    Attributes:
        first: `[width, k]`; the view, minus its mean, times this.
        second: likewise.
        correlations: `[k]`, under the ridge.
    """

    first: np.ndarray
    second: np.ndarray
    correlations: np.ndarray


def canonical_pair(
    first: np.ndarray, seconds: Sequence[np.ndarray], shares: Sequence[float], *, ridge: float, most: int
) -> Pair:
    """Returns at most `most` pairs of directions.

    Args:
        first: `[rows, width]`, one view.
        seconds: the other, `[rows, other width]` each: several ways of saying the same.
        shares: of each way, summing to 1.
        ridge: added to every variance, in units of the view's mean variance.
        most: directions.
    """
    mean = sum(share * second.mean(axis=0) for share, second in zip(shares, seconds))
    centred = first - first.mean(axis=0)
    count = len(first)
    blend = sum(share * second for share, second in zip(shares, seconds)) - mean
    own = centred.T @ centred / count
    other = sum(share * ((second - mean).T @ (second - mean)) for share, second in zip(shares, seconds)) / count
    left, right = _whitener(own, ridge), _whitener(other, ridge)
    across = linalg.solve_triangular(left, centred.T @ blend / count, lower=True)
    across = linalg.solve_triangular(right, across.T, lower=True).T
    u, correlations, v = linalg.svd(across, full_matrices=False, overwrite_a=True)
    return Pair(
        linalg.solve_triangular(left.T, u[:, :most], lower=False),
        linalg.solve_triangular(right.T, v[:most].T, lower=False),
        correlations[:most],
    )


def ridge_regression(inputs: np.ndarray, targets: np.ndarray, *, ridge: float) -> np.ndarray:
    """Returns `[width, k]` that take centred `inputs` `[rows, width]` nearest to centred `targets` `[rows, k]`."""
    centred = inputs - inputs.mean(axis=0)
    variance = centred.T @ centred / len(inputs)
    with_targets = centred.T @ (targets - targets.mean(axis=0)) / len(inputs)
    return linalg.cho_solve((_whitener(variance, ridge), True), with_targets)


def _whitener(variance: np.ndarray, ridge: float) -> np.ndarray:
    """Returns the lower Cholesky factor of the variance with its ridge."""
    added = ridge * np.trace(variance) / len(variance) + 1e-6
    return linalg.cholesky(variance + added * np.eye(len(variance), dtype=variance.dtype), lower=True)
