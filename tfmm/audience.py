"""Which shoppers want a product: the towers asked the other way round.

The scores of one shopper rank products; those of two shoppers cannot be compared. What can be is how likely each is to
want this product next rather than any other that could be had: signature `audience`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tfmm import evaluation, schema
from tfmm.asking import Table
from tfmm.candidates import Wire, dense_wire
from tfmm.progress import track
from tfmm.ragged import Ragged
from tfmm.sources.dataset import Dataset
from tfmm.splits import Queries

Predict = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Inputs of the signature `audience` -> its outputs."""
_ITEMS, _SHOPPERS = 1000, 5000  # that the report looks at, at most


def everybody(dataset: Dataset) -> Queries:
    """Returns every shopper with all that is known of them, as they are when the data ends; there are no targets."""
    events = dataset.interactions
    users = np.unique(events.user)
    history, times, kinds = (
        Ragged.from_groups(events.user, column, len(dataset.users)).take(users)
        for column in (events.item, events.time, events.event)
    )
    nothing = Ragged(np.zeros(0, np.int32), np.zeros(len(users) + 1, np.int64))
    return Queries(users, history, times, kinds, nothing, np.full(len(users), events.time.max(), np.int64))


def likelihood(predict: Predict, wire: Wire, items: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
    """Returns `[queries, items]`: log of how likely each shopper is to want each item next.

    Args:
        predict: asks the model.
        wire: the shoppers, of `candidates.wire_queries`.
        items: `[items]` ids.
        batch_size: shoppers a call.
    """
    count, found = len(wire[schema.QUERY_TIME]), []
    asked = items.astype(object)[np.newaxis]
    for start in track(range(0, count, batch_size), "asking shoppers"):
        batch = dense_wire(wire, slice(start, start + batch_size))
        batch[schema.ITEM_IDS] = np.repeat(asked, len(batch[schema.QUERY_TIME]), axis=0)
        found.append(predict(batch)[schema.SCORES])
    return np.concatenate(found)


def audience_table(predict: Predict, wire: Wire, queries: Queries, ids: np.ndarray, *, seed: int) -> Table:
    """Returns how well a product finds the shoppers who want it next: among all of the test that have not had it.

    Beside it stands what the same list is worth when the most active shoppers come first, whatever the product.

    Args:
        predict: asks the model.
        wire: the test queries.
        queries: the same, with their targets.
        ids: `[num_items]` item ids.
        seed: of the choice, where there are more products or shoppers than need be asked.
    """
    rng = np.random.default_rng(seed)
    asked = np.sort(rng.permutation(len(queries))[:_SHOPPERS])
    wire = {name: column.take(asked) if isinstance(column, Ragged) else column[asked] for name, column in wire.items()}
    queries = queries.take(asked)
    items = np.sort(rng.permutation(np.unique(queries.targets.values))[:_ITEMS])
    wanted, had = (_turned(column, items, len(ids)) for column in (queries.targets, queries.history))
    said = likelihood(predict, wire, ids[items]).T
    activity = np.tile(np.log1p(queries.history.lengths), (len(items), 1))
    table: Table = {}
    for name, scores in (("the towers", said), ("the most active first", activity)):
        found = evaluation.measure(evaluation.lists_of_scores(scores, had), wanted)
        table[name] = {m: evaluation.interval(found[m], np.arange(len(items))) for m in ("ndcg@10", "recall@50")}
    return table


def _turned(rows: Ragged, items: np.ndarray, num_items: int) -> Ragged:
    """Returns, for each of the items, the distinct queries in whose row it stands."""
    place = np.full(num_items, -1)
    place[items] = np.arange(len(items))
    pairs = np.unique(np.stack([place[rows.values], rows.row_numbers], axis=1), axis=0)
    pairs = pairs[pairs[:, 0] >= 0]
    return Ragged.from_groups(pairs[:, 0], pairs[:, 1], len(items))
