"""Values per query in; means with 95% intervals, paired differences and what could be detected, out.

Queries are the units that are resampled. NaN marks a query that does not count (see `tfmm.metrics`); it is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

_LEVELS = (2.5, 97.5)
_CELLS = 4_000_000  # numbers drawn at once, 32 MB


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over queries and its 95% interval.

    Attributes:
        mean: over the queries that count.
        low: 2.5th percentile.
        high: 97.5th percentile.
        n: how many queries count.
    """

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, object]:
        """Returns what `report.json` holds: `{"mean": x, "ci95": [low, high], "n": n}`."""
        return {"mean": self.mean, "ci95": [self.low, self.high], "n": self.n}


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """How much more one system has than another on the same queries.

    Attributes:
        difference: mean of first - second.
        low: 2.5th percentile of the difference.
        high: 97.5th percentile.
        p: two-sided, of a paired permutation test; never below 1 / (resamples + 1).
        n: how many queries count in both.
        detectable: the smallest true difference that this many queries would show (see `minimum_detectable_effect`).
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    detectable: float

    def to_dict(self, *, names: tuple[str, str], metric: str) -> dict[str, object]:
        """Returns what `report.json` holds of the first named system and the second."""
        return {
            "a": names[0],
            "b": names[1],
            "metric": metric,
            "difference": self.difference,
            "ci95": [self.low, self.high],
            "p": self.p,
            "minimum_detectable_effect": self.detectable,
        }


def mean_interval(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Returns the mean and its percentile bootstrap interval (Efron 1979).

    With fewer than about 20 queries it is too narrow, and where all values are equal it has no width: read `n` too.

    Example::

        >>> interval = mean_interval(np.array([0., 1., 1., np.nan] * 100))
        >>> round(interval.mean, 3), interval.n, bool(interval.low < interval.mean < interval.high)
        (0.667, 300, True)

    Args:
        values: `[queries]`; NaN = does not count.
        resamples: how many bootstrap samples.
        seed: of the random numbers; the same seed gives the same interval.

    Raises:
        ValueError: where no query counts.
    """
    counted = _counted(values)
    means = _bootstrap_means(counted, resamples, np.random.default_rng(seed))
    low, high = np.percentile(means, _LEVELS)
    return Interval(float(counted.mean()), float(low), float(high), len(counted))


def mean_intervals(values: Mapping[str, np.ndarray], *, resamples: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """Returns `mean_interval` of every metric; one for which no query counts is left out."""
    return {
        name: mean_interval(column, resamples=resamples, seed=seed)
        for name, column in values.items()
        if not np.all(np.isnan(column))
    }


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Returns first - second over the same queries: bootstrap interval and permutation test.

    The test flips the sign of each query's difference at random, as if the two systems were one (Smucker, Allan &
    Carterette 2007).

    Example::

        >>> better = paired_difference(np.array([.5, .7, .9] * 50), np.array([.4, .7, .7] * 50))
        >>> round(better.difference, 3), bool(better.low > 0), bool(better.p < .001)
        (0.1, True, True)

    Args:
        first: `[queries]`; NaN = does not count.
        second: `[queries]`, of the same queries in the same order.
        resamples: how many bootstrap samples, and how many permutations.
        seed: of the random numbers.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"Expected two systems' values for the same queries, got shapes {np.shape(first)} and {np.shape(second)}."
        )
    differences = _counted(np.subtract(first, second, dtype=np.float64))
    rng = np.random.default_rng(seed)
    low, high = np.percentile(_bootstrap_means(differences, resamples, rng), _LEVELS)
    return PairedDifference(
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        p=_sign_flip_p(differences, resamples, rng),
        n=len(differences),
        detectable=minimum_detectable_effect(differences),
    )


def minimum_detectable_effect(values: np.ndarray) -> float:
    """Returns 2.8 standard errors: the true mean that a two-sided 5% test would detect 80% of the time (1.96 + 0.84).

    Example::

        >>> round(minimum_detectable_effect(np.array([-1., 1.] * 5000)), 4)
        0.028
    """
    counted = _counted(values)
    return float(2.8 * counted.std(ddof=1) / np.sqrt(len(counted))) if len(counted) > 1 else float("inf")


def _counted(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    counted = values[~np.isnan(values)]
    if not len(counted):
        raise ValueError(f"Expected at least one query that counts, got {len(values)} values, all NaN.")
    return counted


def _bootstrap_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `[resamples]` means of samples drawn with replacement.

    Metrics of one target take a dozen values at most (ndcg@10: 11). Drawing how often each *distinct* value comes,
    which is multinomial, is the same bootstrap and a thousand times less work than drawing every query.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 1 + len(values) // 16:
        return rng.multinomial(len(values), counts / len(values), size=resamples) @ distinct / len(values)
    step = max(1, _CELLS // len(values))
    parts = [
        values[rng.integers(0, len(values), (min(step, resamples - start), len(values)), dtype=np.int32)].mean(axis=1)
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)


def _sign_flip_p(differences: np.ndarray, resamples: int, rng: np.random.Generator) -> float:
    """Returns the share of sign flips whose |sum| reaches the observed one; the observed one is itself counted."""
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    observed = abs(differences.sum()) - 1e-9 * sizes @ counts  # a flip that only rounds differently reaches it
    many = len(sizes) > 1 + len(differences) // 16
    step = max(1, _CELLS // max(1, len(differences) if many else len(sizes)))
    reached = 0
    for start in range(0, resamples, step):
        number = min(step, resamples - start)
        sums = _flip_each(differences, number, rng) if many else _flip_sizes(sizes, counts, number, rng)
        reached += int(np.count_nonzero(np.abs(sums) >= observed))
    return (1 + reached) / (1 + resamples)


def _flip_sizes(sizes: np.ndarray, counts: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `[number]` sums; of m differences of one size, a binomial number is positive, the others negative."""
    positive = rng.binomial(counts, 0.5, size=(number, len(sizes)))
    return (2 * positive - counts) @ sizes


def _flip_each(differences: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `[number]` sums, one random bit a difference."""
    noise = np.frombuffer(rng.bytes(number * (len(differences) // 8 + 1)), np.uint8).reshape(number, -1)
    positive = np.unpackbits(noise, axis=1, count=len(differences)).astype(np.float64)
    return 2 * (positive @ differences) - differences.sum()
