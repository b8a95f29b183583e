"""Scores or ranked lists and targets in; where the targets stand, a relevance matrix `[queries, k]` of bool, out.

- Dense scores of the whole catalogue: `pessimistic_ranks`, then `relevance_from_ranks`.
- Ranked lists, as a served model returns them: `relevance_of_lists`.

Both break ties against us: of equal scores, whatever is not a target comes first, so that a constant scorer does not
look perfect.
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from tfmm.ragged import NO_ITEM, Ragged

NEVER = np.iinfo(np.int64).max
"""The rank of a target that cannot be recommended: it is excluded, or its score is -inf."""

_CELLS = 4_000_000  # scores compared at once: 16 MB of float32, which fits a processor's cache better than memory


def pessimistic_ranks(
    scores: np.ndarray, targets: Ragged, *, excluded: Optional[Ragged] = None, chunk: int = 256
) -> Ragged:
    """Returns the rank of every target, 1 = first, best first within a query: `Ragged` int64, as long as `targets`.

    A rank counts every item before it that is neither target nor excluded and scores *at least* as much, and the
    targets that score more (equal targets take consecutive ranks). Excluded targets, and those with a score of -inf,
    have the rank `NEVER`.

    Example::

        >>> scores = np.array([[.9, .5, .5, .1], [.3, .3, .3, .3]])
        >>> targets = Ragged.from_rows([[1, 0], [2]], int)
        >>> [ranks.tolist() for ranks in pessimistic_ranks(scores, targets)]
        [[1, 3], [4]]
        >>> [ranks.tolist() for ranks in pessimistic_ranks(scores, targets, excluded=Ragged.from_rows([[2], []], int))]
        [[1, 2], [4]]

    Args:
        scores: `[queries, num_items]`, higher is better; -inf = never recommended.
        targets: item rows that are right, one row a query, each once.
        excluded: item rows that may not be recommended (seen before), one row a query; `NO_ITEM` is ignored.
        chunk: how many queries are held as a copy at once.

    Raises:
        ValueError: on a NaN score, an item row outside the catalogue, or a target named twice.
    """
    excluded = Ragged(np.zeros(0, np.int64), np.zeros(len(scores) + 1, np.int64)) if excluded is None else excluded
    _check_rows("targets", targets, scores.shape)
    _check_rows("excluded", excluded, scores.shape, padding=True)
    _check_distinct(targets)
    found = []
    for start in range(0, len(scores), chunk):
        _check_no_nan(scores[start : start + chunk], start)
        parts = _part(targets, start, chunk), _part(excluded, start, chunk)
        found.append(_ranks_of_block(scores[start : start + chunk], *parts))
    return Ragged(np.concatenate([np.zeros(0, np.int64), *found]), targets.offsets)


def relevance_from_ranks(ranks: Ragged, *, k: int) -> np.ndarray:
    """Returns `[queries, k]` bool: True where a target has that rank.

    Example::

        >>> relevance_from_ranks(Ragged.from_rows([[1, 3], [4]], int), k=3).astype(int)
        array([[1, 0, 1],
               [0, 0, 0]])
    """
    relevance = np.zeros((len(ranks), k), dtype=bool)
    within = ranks.values <= k
    relevance[ranks.row_numbers[within], ranks.values[within] - 1] = True
    return relevance


def relevance_of_lists(items: np.ndarray, targets: Ragged, *, scores: Optional[np.ndarray] = None) -> np.ndarray:
    """Returns `[queries, k]` bool: True where a ranked list holds a target.

    With scores, places are given by descending score, and equal scores are ordered against us (targets last among
    them). A list that was cut at k cannot tell of ties with what was cut off: ask for more than the k that is
    reported, or use `pessimistic_ranks`.

    Example::

        >>> items = np.array([[7, 3, 5], [2, NO_ITEM, NO_ITEM]])
        >>> targets = Ragged.from_rows([[7, 5], [2]], int)
        >>> relevance_of_lists(items, targets).astype(int)
        array([[1, 0, 1],
               [1, 0, 0]])
        >>> relevance_of_lists(items, targets, scores=np.array([[.5, .5, .1], [.9, 0., 0.]])).astype(int)
        array([[0, 1, 1],
               [1, 0, 0]])

    Args:
        items: `[queries, k]` int item rows, best first, each at most once a query; `NO_ITEM` is padding.
        targets: item rows that are right, one row a query, each once.
        scores: `[queries, k]`, higher is better; where None, the order of `items` stands.

    Raises:
        ValueError: on a NaN score, an item twice in a list, or a target named twice.
    """
    return pessimistic_lists(items, targets, scores=scores)[1]


def pessimistic_lists(
    items: np.ndarray, targets: Ragged, *, scores: Optional[np.ndarray] = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lists in the order that is measured, and their `relevance_of_lists`, both `[queries, k]`.

    Example::

        >>> targets = Ragged.from_rows([[7]], int)
        >>> pessimistic_lists(np.array([[NO_ITEM, 7, 3]]), targets, scores=np.array([[0., .5, .5]]))
        (array([[ 3,  7, -1]]), array([[False,  True, False]]))
    """
    _check_rows("targets", targets, (len(items), NO_ITEM))
    _check_distinct(targets)
    _check_lists(items)
    valid = items != NO_ITEM
    relevance = valid & _is_target(items, targets)
    if scores is None:
        return items, relevance
    if scores.shape != items.shape:
        raise ValueError(f"Expected scores of the shape of items, {items.shape}, got {scores.shape}.")
    _check_no_nan(np.where(valid, scores, 0.0), 0)
    # The last key counts most: what is valid first, then the higher score, then what is not a target.
    order = np.lexsort((relevance, -scores, ~valid), axis=1)
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(relevance, order, axis=1)


def _ranks_of_block(scores: np.ndarray, targets: Ragged, excluded: Ragged) -> np.ndarray:
    """Returns `[total targets]` ranks of some queries."""
    block = np.array(scores, dtype=np.result_type(scores.dtype, np.float32))
    barred = excluded.values != NO_ITEM
    block[excluded.row_numbers[barred], excluded.values[barred]] = -np.inf
    own = block[targets.row_numbers, targets.values]
    order = np.lexsort((-own, targets.row_numbers))
    own, rows = own[order], targets.row_numbers  # row numbers ascend, and the order keeps every row together
    block[rows, targets.values] = -np.inf
    step = max(1, _CELLS // max(1, block.shape[1]))
    before = [
        np.count_nonzero(block[rows[i : i + step]] >= own[i : i + step, np.newaxis], axis=1)
        for i in range(0, len(own), step)
    ]
    place = np.arange(len(own)) - targets.offsets[rows]
    ranks = 1 + place + np.concatenate([np.zeros(0, np.int64), *before])
    return np.where(np.isneginf(own), NEVER, ranks)


def _part(ragged: Ragged, start: int, number: int) -> Ragged:
    offsets = ragged.offsets[start : start + number + 1]
    return Ragged(ragged.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def _is_target(items: np.ndarray, targets: Ragged) -> np.ndarray:
    """Returns `[queries, k]` bool, by looking every (query, item) up among all (query, target)."""
    width = 1 + int(max(items.max(initial=0), targets.values.max(initial=0)))
    wanted = targets.row_numbers * width + targets.values
    return np.isin(np.arange(len(items))[:, np.newaxis] * width + items.astype(np.int64), wanted)


def _check_no_nan(scores: np.ndarray, first_row: int) -> None:
    bad = np.argwhere(np.isnan(scores))
    if len(bad):
        raise ValueError(
            f"Expected scores without NaN, got {len(bad)}, first at query {first_row + bad[0, 0]}, column {bad[0, 1]}; "
            f"a NaN ranks nowhere: look for a division by zero or a missing mask in what scored."
        )


def _check_rows(name: str, rows: Ragged, shape: tuple[int, ...], *, padding: bool = False) -> None:
    """Checks one row a query and items of the catalogue; a `shape[1]` of `NO_ITEM` leaves the catalogue's end open."""
    if len(rows) != shape[0]:
        raise ValueError(f"Expected one row of {name} a query ({shape[0]}), got {len(rows)}.")
    lowest, highest = rows.values.min(initial=0), rows.values.max(initial=0)
    if lowest < (NO_ITEM if padding else 0) or (shape[1] != NO_ITEM and len(rows.values) and highest >= shape[1]):
        raise ValueError(f"Expected item rows within 0..{shape[1] - 1} in {name}, got {lowest}..{highest}.")


def _check_distinct(targets: Ragged) -> None:
    order = np.lexsort((targets.values, targets.row_numbers))
    rows, values = targets.row_numbers[order], targets.values[order]
    twice = np.flatnonzero((rows[1:] == rows[:-1]) & (values[1:] == values[:-1]))
    if len(twice):
        raise ValueError(
            f"Expected each target once a query, got item {values[twice[0]]} again in query {rows[twice[0]]}; "
            f"drop repeats (np.unique of each row) before measuring."
        )


def _check_lists(items: np.ndarray) -> None:
    ordered = np.sort(items, axis=1)
    twice = np.argwhere((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_ITEM))
    if len(twice):
        row, column = twice[0]
        raise ValueError(
            f"Expected each item once a ranked list, got item {ordered[row, column]} again in query {row}."
        )
