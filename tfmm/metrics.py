"""Relevance matrices and ranked lists in; one value per query, or one per catalogue, out.

`tfmm.relevance` makes the relevance matrix `[queries, k]` (bool, True = a target stands at that place). A query with no
target has no right answer: its value is NaN, and `tfmm.confidence` leaves it out of means and counts.

Where libraries differ, this is what holds here; `tests/test_metrics_oracles.py` pins each line against theirs:

- Ties: of equal scores, targets come last. trec_eval orders them by document name descending, MS MARCO ascending.
- A query without a target: NaN, counted nowhere. trec_eval and ir_measures say 0 where the query is judged.
- A query without an answer: 0, and counted, as with ir_measures. RecTools leaves it out of what tells of lists alone.
- `ndcg`: binary gains, log2, the ideal list holds min(targets, k) targets, as in trec_eval. RecTools' ideal by default
  has k, whatever can be reached.
- `recall`: hits / targets, also where there are more than k targets.
- `precision`: hits / k, also of shorter lists, as in trec_eval and RecTools.
- `map`: divided by min(targets, k). trec_eval's `map_cut` and RecTools' MAP divide by all targets.
- `diversity`: an item without a vector forms no pair; a list without a pair is NaN. RecTools has 0 there.
- `novelty`: shares of events, one added to each item's count. RecTools' MeanInvUserFreq has shares of users, and takes
  an item that nobody had for one that a single user had.
- `serendipity`: the sum by k, as RecTools writes it; what it computes is the sum by the length of the list.
- Empty lists have no diversity and no novelty (NaN).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tfmm.ragged import NO_ITEM


def recall(relevance: np.ndarray, num_targets: np.ndarray, *, k: int) -> np.ndarray:
    """Returns `[queries]`: the share of a query's targets that stand in its first k places (hits / targets).

    Where a query has more than k targets, even a perfect list stays below 1.

    Example::

        >>> recall(np.array([[1, 0, 1], [0, 0, 0]], bool), np.array([4, 1]), k=3)
        array([0.5, 0. ])
    """
    return _counted(_hits(relevance, k) / np.maximum(num_targets, 1), num_targets)


def hit_rate(relevance: np.ndarray, num_targets: np.ndarray, *, k: int) -> np.ndarray:
    """Returns `[queries]`: 1 where any target stands in the first k places, else 0.

    Example::

        >>> hit_rate(np.array([[1, 0, 1], [0, 0, 0]], bool), np.array([4, 1]), k=3)
        array([1., 0.])
    """
    return _counted((_hits(relevance, k) > 0).astype(np.float64), num_targets)


def precision(relevance: np.ndarray, num_targets: np.ndarray, *, k: int) -> np.ndarray:
    """Returns `[queries]`: hits / k; a list shorter than k is not forgiven its missing places.

    Example::

        >>> precision(np.array([[1, 0, 1, 0], [0, 0, 0, 0]], bool), np.array([4, 1]), k=4)
        array([0.5, 0. ])
    """
    return _counted(_hits(relevance, k) / k, num_targets)


def ndcg(relevance: np.ndarray, num_targets: np.ndarray, *, k: int) -> np.ndarray:
    """Returns `[queries]`: discounted cumulative gain by that of the best list of length k (Järvelin 2002).

    Gains are binary, the discount of place i (1-based) is 1 / log2(i + 1), and the best list holds min(targets, k)
    targets first.

    Example::

        >>> ndcg(np.array([[0, 1, 0], [1, 0, 1]], bool), np.array([1, 2]), k=3).round(4)
        array([0.6309, 0.9197])
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(num_targets, k)]
    gained = _first(relevance, k).astype(np.float64) @ discounts
    return _counted(gained / np.where(ideal > 0, ideal, 1.0), num_targets)


def graded_ndcg(labels: np.ndarray, *, k: int) -> np.ndarray:
    """Returns `[queries]`: NDCG@k of labels in ranked order; NaN where none is above 0.

    Gains are 2^label - 1 (Burges et al. 2005), the discount of place i (1-based) is 1 / log2(i + 1).

    Example::

        >>> graded_ndcg(np.array([[1, 2, 0], [0, 0, 0]]), k=2).round(4)
        array([0.7967,    nan])

    Args:
        labels: `[queries, list_size]`, 0 or more, best place first: of the whole list, 0 where it is padded.
        k: how many places count.
    """
    gains = np.exp2(labels.astype(np.float64)) - 1.0
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gained = _first(gains, k) @ discounts
    ideal = _first(-np.sort(-gains, axis=1), k) @ discounts
    return _counted(gained / np.where(ideal > 0, ideal, 1.0), ideal)


def mrr(relevance: np.ndarray, num_targets: np.ndarray, *, k: int) -> np.ndarray:
    """Returns `[queries]`: 1 / place of the first target, 0 where none stands in the first k places.

    Example::

        >>> mrr(np.array([[0, 1, 1], [0, 0, 0]], bool), np.array([2, 1]), k=3)
        array([0.5, 0. ])
    """
    first = _first(relevance, k)
    return _counted(np.where(first.any(axis=1), 1.0 / (first.argmax(axis=1) + 1), 0.0), num_targets)


def average_precision(relevance: np.ndarray, num_targets: np.ndarray, *, k: int) -> np.ndarray:
    """Returns `[queries]`: precision at the place of every hit, summed, by min(targets, k); its mean is `map@k`.

    Example::

        >>> average_precision(np.array([[1, 0, 1], [0, 1, 0]], bool), np.array([2, 5]), k=3).round(4)
        array([0.8333, 0.1667])
    """
    first = _first(relevance, k)
    at_hits = first * np.cumsum(first, axis=1) / np.arange(1, k + 1)
    return _counted(at_hits.sum(axis=1) / np.clip(num_targets, 1, k), num_targets)


PER_QUERY: dict[str, Callable[..., np.ndarray]] = {
    "ndcg": ndcg,
    "recall": recall,
    "hit_rate": hit_rate,
    "precision": precision,
    "mrr": mrr,
    "map": average_precision,
}
"""Name in reports -> the function that returns one value a query."""


def per_query(relevance: np.ndarray, num_targets: np.ndarray, *, ks: Sequence[int] = (10,)) -> dict[str, np.ndarray]:
    """Returns every metric of `PER_QUERY` at every k, by its name in reports: `{"ndcg@10": [queries], ...}`.

    Example::

        >>> values = per_query(np.array([[0, 1], [1, 0]], bool), np.array([1, 0]), ks=(1, 2))
        >>> values["mrr@2"], values["recall@1"]
        (array([0.5, nan]), array([ 0., nan]))
    """
    return {f"{name}@{k}": metric(relevance, num_targets, k=k) for k in ks for name, metric in PER_QUERY.items()}


def coverage(items: np.ndarray, *, num_items: int, k: int) -> float:
    """Returns the share of the catalogue that stands in the first k places of at least one list.

    Example::

        >>> coverage(np.array([[0, 1], [1, 2], [1, NO_ITEM]]), num_items=4, k=2)
        0.75
    """
    return float(np.count_nonzero(_times_shown(items, num_items, k)) / num_items)


def gini(items: np.ndarray, *, num_items: int, k: int) -> float:
    """Returns how unevenly the first k places are shared out over the catalogue: 0 = evenly, 1 = all to one.

    Example::

        >>> gini(np.array([[0, 1], [2, 3]]), num_items=4, k=2)
        0.0
        >>> gini(np.array([[0], [0]]), num_items=4, k=1)
        0.75
    """
    shown = np.sort(_times_shown(items, num_items, k))
    if shown[-1] == 0:
        raise ValueError("Expected at least one recommended item for gini, got only empty lists.")
    places = np.arange(1, num_items + 1)
    return float(np.sum((2 * places - num_items - 1) * shown) / (num_items * shown.sum()))


def diversity(items: np.ndarray, vectors: np.ndarray, *, k: int, chunk: int = 4096) -> np.ndarray:
    """Returns `[queries]`: the mean of 1 - cosine over all pairs within the first k places.

    Items without a vector (all zero, or any NaN) form no pair; a list with no pair is NaN.

    Example::

        >>> diversity(np.array([[0, 1], [0, 2], [0, NO_ITEM]]), np.array([[1., 0.], [0., 2.], [3., 0.]]), k=2)
        array([ 1.,  0., nan])

    Args:
        items: `[queries, width]` int item rows, best first; `NO_ITEM` is padding.
        vectors: `[num_items, dim]`.
        k: how many places count.
        chunk: how many lists are gathered at once.
    """
    norms = np.linalg.norm(np.nan_to_num(vectors), axis=1)
    usable = np.append(~np.isnan(vectors).any(axis=1) & (norms > 0), False)  # the last row is for NO_ITEM
    units = np.zeros((len(vectors) + 1, vectors.shape[1]), np.float32)
    units[usable] = vectors[usable[:-1]] / norms[usable[:-1], np.newaxis]
    first = _first(items, k)
    parts = [_pairwise_distance(units, usable, first[i : i + chunk]) for i in range(0, len(first), chunk)]
    return np.concatenate([np.zeros(0), *parts])


def novelty(items: np.ndarray, popularity: np.ndarray, *, k: int) -> np.ndarray:
    """Returns `[queries]`: the mean self-information, -log2 p(item) in bits, of the first k places; empty lists NaN.

    p is an item's share of the training events with one added to each item's count, so that an item which was never
    seen is very, but not infinitely, novel.

    Example::

        >>> novelty(np.array([[0, NO_ITEM], [1, 2]]), np.array([5, 0, 0]), k=2)
        array([0.4150375, 3.       ])

    Args:
        items: `[queries, width]` int item rows, best first; `NO_ITEM` is padding.
        popularity: `[num_items]`, how often each item stands in the training events.
        k: how many places count.
    """
    bits = np.append(-np.log2((popularity + 1.0) / (np.sum(popularity) + len(popularity))), 0.0)
    first = _first(items, k)
    number = np.count_nonzero(first != NO_ITEM, axis=1)
    return np.where(number > 0, bits[first].sum(axis=1) / np.maximum(number, 1), np.nan)


def serendipity(
    items: np.ndarray, relevance: np.ndarray, num_targets: np.ndarray, popularity: np.ndarray, *, k: int
) -> np.ndarray:
    """Returns `[queries]`: how much earlier than by popularity the targets stand; sum over hits of gain, by k.

    A hit at place i, of an item at place j by popularity, gains max(p(i) - p(j), 0), where p(i) = (n + 1 - i) / n for
    n items. Items that are equally popular share a place, and the next count has the next place; an item without an
    event has p = 0 (the Serendipity of RecTools).

    Example::

        >>> lists, hits = np.array([[2, 0], [0, 1]]), np.array([[1, 0], [1, 0]], bool)
        >>> serendipity(lists, hits, np.array([1, 1]), np.array([9, 5, 5, 0]), k=2)
        array([0.125, 0.   ])

    Args:
        items: `[queries, width]` int item rows, best first; `NO_ITEM` is padding.
        relevance: `[queries, width]` bool, of these lists in this order.
        num_targets: `[queries]`.
        popularity: `[num_items]`, how often each item stands in the training events.
        k: how many places count.
    """
    num_items = len(popularity)
    _, place = np.unique(-popularity, return_inverse=True)  # the most popular first
    anybody = np.where(popularity > 0, (num_items - place) / num_items, 0.0)
    somebody = (num_items - np.arange(k)) / num_items
    gains = np.maximum(somebody - anybody[_first(items, k)], 0.0) * _first(relevance, k)
    return _counted(gains.sum(axis=1) / k, num_targets)


def _pairwise_distance(units: np.ndarray, usable: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns `[queries]`; the cosines of all ordered pairs are |sum of units|^2 less each one's own."""
    number = usable[items].sum(axis=1).astype(np.float64)
    together = np.square(units[items].sum(axis=1, dtype=np.float64)).sum(axis=1)
    pairs = number * (number - 1)
    return np.where(pairs > 0, 1.0 - (together - number) / np.maximum(pairs, 1), np.nan)


def _times_shown(items: np.ndarray, num_items: int, k: int) -> np.ndarray:
    first = _first(items, k)
    return np.bincount(first[first != NO_ITEM], minlength=num_items)


def _hits(relevance: np.ndarray, k: int) -> np.ndarray:
    return np.count_nonzero(_first(relevance, k), axis=1)


def _first(lists: np.ndarray, k: int) -> np.ndarray:
    if not 1 <= k <= lists.shape[1]:
        raise ValueError(
            f"Expected k within 1..{lists.shape[1]} (the length of the ranked lists), got {k}; rank deeper."
        )
    return lists[:, :k]


def _counted(values: np.ndarray, num_targets: np.ndarray) -> np.ndarray:
    return np.where(np.asarray(num_targets) > 0, values, np.nan)
