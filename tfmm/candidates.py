"""Queries -> candidates and their features -> labelled example lists for the reranker.

`Candidates` is one value of core TF ops that the training of the reranker, the evaluation and the exported model all
call, so that a list looks the same to each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Optional, Union

import numpy as np
import tensorflow as tf

from tfmm import closed_form, schema
from tfmm.features import ID, NUMERIC, PRESENT, ItemFeatures
from tfmm.index import (
    NEVER,
    Columns,
    Index,
    IndexConfig,
    ItemIds,
    forbid,
    forbid_all,
    held,
    retrieve,
    scatter_neighbours,
    top_k,
)
from tfmm.ragged import Ragged
from tfmm.records import ExampleLists
from tfmm.retrieval import Retriever
from tfmm.sources.dataset import Interactions
from tfmm.splits import Queries
from tfmm.towers import unit

Tensors = dict[str, tf.Tensor]
Wire = Mapping[str, Union[Ragged, np.ndarray]]
"""Queries as they go over the wire: names of `schema.query_spec()` -> one row or value a query."""
_DAY = 86_400.0


@dataclasses.dataclass(frozen=True)
class CandidatesConfig:
    """Which items are handed to the reranker.

    Attributes:
        retrieved: the nearest in the towers' space.
        co_visited: further ones by closed-form item-item weights, which see what a vector of a few numbers cannot.
        neighbours: item-item weights that are kept of each item.
        decay: how much less each older item of the history counts in item-item scores and in similarities; None = as
            validation chose it for the closed form.
        half_life_days: of recent popularity.
    """

    retrieved: int = 100
    co_visited: int = 50
    neighbours: int = 200
    decay: Optional[float] = None
    half_life_days: float = 14.0


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """What shoppers' events say of items, counted over the same events that the retriever trained on.

    Attributes:
        neighbours: `[num_items, k]` int32 rows, -1 = padding, and `[num_items, k]` weights.
        popularity: `[num_items]`.
        recent: `[num_items]`, recent events counting more.
        launched: `[num_items]` int64 seconds, 0 = unknown.
    """

    neighbours: tuple[np.ndarray, np.ndarray]
    popularity: np.ndarray
    recent: np.ndarray
    launched: np.ndarray


def behaviour(
    events: Interactions, launched: np.ndarray, *, item_item: np.ndarray, config: CandidatesConfig
) -> Behaviour:
    """Returns what the events say.

    Args:
        events: that the retriever trained on, and no later ones.
        launched: `[num_items]` int64 seconds.
        item_item: `[num_items, num_items]` weights of `closed_form.ease` or `closed_form.item_knn`.
        config: how much is kept.
    """
    num_items = len(launched)
    now = int(events.time.max())
    return Behaviour(
        neighbours=closed_form.top_neighbours(item_item, min(config.neighbours, num_items)),
        popularity=closed_form.popularity(events.item, num_items=num_items),
        recent=closed_form.recent_popularity(
            events.item, events.time, now=now, half_life_days=config.half_life_days, num_items=num_items
        ),
        launched=launched,
    )


class Candidates(tf.Module):
    """Retrieval over one corpus, and what the reranker reads of each candidate.

    Attributes:
        feature_names: of the last axis of `features`.
    """

    def __init__(
        self,
        retriever: Retriever,
        items: ItemFeatures,
        known: Behaviour,
        config: CandidatesConfig,
        *,
        ids: np.ndarray,
        event_types: tuple[str, ...],
        index: Optional[IndexConfig] = None,
    ) -> None:
        """Computes once what is the same for every query.

        Args:
            retriever: trained.
            items: what it trained on.
            known: what the same events say of the items.
            config: how many candidates.
            ids: `[num_items]` item ids.
            event_types: names on the wire, weakest first.
            index: how the nearest are found; None is the default.
        """
        super().__init__(name="candidates")
        self.config, self.towers, self.temperature = config, retriever.towers, retriever.config.temperature
        self.item_ids = ItemIds(ids)
        pairs = tf.lookup.KeyValueTensorInitializer(
            tf.constant(event_types), tf.range(len(event_types), dtype=tf.int64)
        )
        self._event_types = tf.lookup.StaticHashTable(pairs, 0)
        self.size = config.retrieved + config.co_visited
        table = retriever.corpus_vectors()
        corpus = {name: column[:-1] for name, column in retriever.columns.items()}
        self.table = held(table, "table")
        self.index = Index(unit(table), index)
        self.corpus = self.index.vectors
        self.modal = held(self._modal(corpus), "modal")  # [num_items, modalities, dim]
        self.neighbours = tuple(held(part, "neighbours") for part in known.neighbours)
        self.launched = held(known.launched, "launched")
        self.counts = held(np.log1p(np.stack([known.popularity, known.recent], axis=1), dtype=np.float32), "counts")
        self.numbers = held(np.nan_to_num(items.columns[NUMERIC][:-1]), "numbers")
        modalities = [name for name in retriever.towers.candidate.modalities if name != ID]
        self._modal_columns = [retriever.towers.candidate.modalities.index(name) for name in modalities]
        self.feature_names = (
            *("retrieval", "co_visited_in_list", "retrieval_in_list", "co_visited", "co_visited_last"),
            *("age_of_launch", "history_length"),
            *(f"{name}_like_history" for name in modalities),
            *(f"{name}_like_last" for name in modalities),
            *("popularity", "recent_popularity"),
            *(s.field for s in items.vocabulary.numeric),
        )

    @property
    def columns(self) -> Columns:
        """What changes with the catalogue; almost all of it has a row an item (`tfmm.reindexing`)."""
        neighbours, weights = self.neighbours
        behaviour = {"neighbours": neighbours, "neighbour_weights": weights, "counts": self.counts}
        content = {"table": self.table, "modal": self.modal, "numbers": self.numbers}
        return {**self.item_ids.columns, **self.index.columns, **content, **behaviour, "launched": self.launched}

    def describe(self, features: Tensors) -> Tensors:
        """Returns those of `columns` that content decides, a row for each new item.

        Args:
            features: as the candidate tower reads them, without an id.
        """
        table, numbers = self.towers.candidate(features, training=False), features[NUMERIC]
        numbers = tf.where(tf.math.is_nan(numbers), 0.0, numbers)
        return {"table": table, "corpus": unit(table), "modal": self._modal(features), "numbers": numbers}

    def _modal(self, features: Tensors) -> tf.Tensor:
        """Returns `[batch, modalities, dim]`, what is fused; zeros where an item lacks a modality."""
        return tf.where(features[PRESENT][..., tf.newaxis], self.towers.candidate.project(features), 0.0)

    def encode_query(self, query: Tensors) -> Tensors:
        """Returns the query with `rows` `[batch, length]` of its newest known items, left-aligned, and its `vector`.

        Args:
            query: tensors of `schema.query_signature()`.
        """
        ids = query[schema.HISTORY]
        rows = self.item_ids.rows(ids)
        length = self.towers.config.max_length
        columns = (rows, _like(query[schema.HISTORY_TIMES], ids, 0), self._event_rows(query, ids))
        known = rows >= 0
        rows, times, events = (_newest(column, known, length) for column in columns)
        rows = tf.where(tf.sequence_mask(tf.minimum(_count(known), length), tf.shape(rows)[1]), rows, -1)
        now = query[schema.QUERY_TIME]
        vector = self.towers.embed_queries(self.table, rows, times, events, query[schema.CONTEXT], now)
        return {**query, "rows": rows, "vector": vector, "seen": self.item_ids.rows(ids)}

    def _event_rows(self, query: Tensors, ids: tf.Tensor) -> tf.Tensor:
        """Returns int32 event types, one a history item; the weakest, 0, for "" and unknown names."""
        return tf.cast(self._event_types.lookup(_like(query[schema.HISTORY_EVENTS], ids, "")), tf.int32)

    def retrieve(self, query: Tensors, *, k: int, allowed: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and rows `[batch, k]` by the towers alone, best first, -1 = padding.

        Args:
            query: of `encode_query`.
            k: how many.
            allowed: `[batch, num_items]` bool, what may be returned; None = what is on sale.
        """
        excluded = never_to_return(self.item_ids, query)
        allowed = self.on_sale(query) if allowed is None else allowed
        cosines, rows = retrieve(self.index, query["vector"], k, excluded, allowed=allowed)
        return tf.where(rows >= 0, cosines / self.temperature, NEVER), rows

    def on_sale(self, query: Tensors) -> tf.Tensor:
        """Returns `[batch, num_items]` bool: what was launched when the query is asked, as far as both are known."""
        asked = query[schema.QUERY_TIME][:, tf.newaxis]
        return (self.launched <= asked) | (asked <= 0)

    def pool(self, query: Tensors, *, allowed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns rows `[batch, size]`: the retrieved, then the co-visited that are not among them; -1 = padding."""
        allowed = self.on_sale(query) if allowed is None else allowed
        _, near = self.retrieve(query, k=self.config.retrieved, allowed=allowed)
        co_visited = self._co_visits(query["rows"], self._importance(query["rows"]))
        co_visited = forbid_all(co_visited, never_to_return(self.item_ids, query), allowed)
        _, further = top_k(forbid(tf.where(co_visited > 0, co_visited, NEVER), near), self.config.co_visited)
        return tf.concat([near, further], axis=1)

    def features(self, query: Tensors, rows: tf.Tensor) -> Tensors:
        """Returns what the scorer reads.

        Args:
            query: of `encode_query`.
            rows: `[batch, list_size]` candidates, -1 = padding.

        Returns:
            `example` `[batch, list_size, features]` in the order of `feature_names`; `item` `[batch, list_size, dim]`;
            `query` `[batch, dim]`; `mask` `[batch, list_size]`.
        """
        mask, safe = rows >= 0, tf.maximum(rows, 0)
        item = tf.gather(self.corpus, safe)
        near = tf.einsum("bd,bcd->bc", query["vector"], item) / self.temperature
        history, importance = query["rows"], self._importance(query["rows"])
        newest = self._newest(history)
        co_visited = tf.gather(self._co_visits(history, importance), safe, batch_dims=1)
        columns = [
            near,
            standardised(co_visited, mask & (tf.gather(self.counts[:, 0], safe) > 0)),
            standardised(near, mask),
            co_visited,
            tf.gather(self._co_visits(history, newest), safe, batch_dims=1),
            self._age(query, safe),
            tf.broadcast_to(tf.math.log1p(_count(history >= 0, tf.float32))[:, tf.newaxis], tf.shape(near)),
        ]
        likeness = [self._like_history(history, weights, safe) for weights in (importance, newest)]
        static = [tf.gather(part, safe) for part in (self.counts, self.numbers)]
        example = tf.concat([tf.stack(columns, axis=-1), *likeness, *static], axis=-1)
        example = tf.where(mask[..., tf.newaxis], example, 0.0)
        return {"example": example, "item": item, "query": query["vector"], "mask": mask}

    def _importance(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, length]`: decay**age, 1 for the newest known item, 0 for what is not known."""
        return tf.where(rows >= 0, self.config.decay ** tf.cast(_age(rows), tf.float32), 0.0)

    def _newest(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, length]`: 1 for the newest known item, 0 elsewhere."""
        return tf.cast((rows >= 0) & (_age(rows) == 0), tf.float32)

    def _co_visits(self, rows: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
        neighbours, weights = self.neighbours
        return scatter_neighbours(neighbours, weights, rows, importance)

    def _like_history(self, history: tf.Tensor, importance: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, list_size, modalities]`: cosine of each candidate to the history's weighted mean."""
        modal = unit(tf.gather(self.modal, self._modal_columns, axis=1))
        mean = unit(tf.einsum("bl,blmd->bmd", importance, tf.gather(modal, tf.maximum(history, 0))))
        return tf.einsum("bmd,bcmd->bcm", mean, tf.gather(modal, candidates))

    def shares(self, query: Tensors, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the towers' scores of some items are made of, zeros where a row is -1.

        Args:
            query: of `encode_query`.
            rows: `[batch, n]`.

        Returns:
            `[batch, n, modalities]`, what each modality of the item adds: exact, they sum to the score; and
            `[batch, n, length]`, by how much the score would fall without each item of the history as it was given.
        """
        safe, known = tf.maximum(rows, 0), tf.cast(rows >= 0, tf.float32)[..., tf.newaxis]
        shape = tf.concat([tf.shape(rows), self.modal.shape[1:]], axis=0)
        modal = tf.reshape(tf.gather(self.modal, safe), tf.concat([[-1], self.modal.shape[1:]], axis=0))
        parts = self.towers.candidate.fusion.parts(modal, tf.reduce_any(modal != 0, axis=-1))
        parts /= tf.maximum(tf.norm(tf.reduce_sum(parts, axis=1), axis=-1), 1e-12)[:, tf.newaxis, tf.newaxis]
        of_modalities = tf.einsum("bd,bnmd->bnm", query["vector"] / self.temperature, tf.reshape(parts, shape))
        items = tf.gather(self.corpus, safe) / self.temperature
        return of_modalities * known, tf.einsum("bld,bnd->bnl", self._changes(query), items) * known

    def _changes(self, query: Tensors) -> tf.Tensor:
        """Returns `[batch, length, dim]`: by how much the query's vector would change without each history item.

        Only the newest that are known can change it, and the one before them, that would move up.
        """
        ids = query[schema.HISTORY]
        known, newest = query["seen"] >= 0, self.towers.config.max_length + 1
        places = tf.broadcast_to(tf.range(tf.shape(ids)[1]), tf.shape(ids))
        filled = {schema.HISTORY_TIMES: 0, schema.HISTORY_EVENTS: ""}
        columns = {schema.HISTORY: ids, **{name: _like(query[name], ids, fill) for name, fill in filled.items()}}
        short = {name: tf.ragged.boolean_mask(column, known)[:, -newest:] for name, column in columns.items()}
        short = {name: column.to_tensor() for name, column in short.items()}
        length = tf.shape(short[schema.HISTORY])[1]
        given = {**short, **{name: query[name] for name in (schema.CONTEXT, schema.QUERY_TIME)}}
        each = {name: tf.repeat(column, length, axis=0) for name, column in given.items()}
        gone = tf.tile(tf.eye(length, dtype=tf.bool), [tf.shape(ids)[0], 1])
        each[schema.HISTORY] = tf.where(gone, "", each[schema.HISTORY])
        vectors = self.encode_query(each)["vector"]
        changes = query["vector"][:, tf.newaxis] - tf.reshape(vectors, [tf.shape(ids)[0], length, vectors.shape[1]])
        kept = tf.ragged.boolean_mask(places, known)[:, -newest:]
        at = tf.stack([tf.cast(kept.value_rowids(), tf.int32), kept.flat_values], axis=1)
        there = tf.boolean_mask(changes, tf.sequence_mask(kept.row_lengths(), length))
        return tf.scatter_nd(at, there, tf.concat([tf.shape(ids), [vectors.shape[1]]], axis=0))

    def _age(self, query: Tensors, rows: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, list_size]`: log of the days since launch; 0 where either time is unknown."""
        asked, launched = query[schema.QUERY_TIME][:, tf.newaxis], tf.gather(self.launched, rows)
        days = tf.cast(tf.maximum(asked - launched, 0), tf.float32) / _DAY
        return tf.where((asked > 0) & (launched > 0), tf.math.log1p(days), 0.0)


def never_to_return(ids: ItemIds, query: Tensors) -> tf.Tensor:
    """Returns int32 `[batch, n]` rows, -1 = none: what the shopper has had, and what the query excludes."""
    return tf.concat([query["seen"], ids.rows(query[schema.EXCLUDE])], axis=1)


def wire_queries(queries: Queries, ids: np.ndarray, event_types: tuple[str, ...], context: Ragged) -> Wire:
    """Returns the queries as they go over the wire."""
    names = np.array(event_types, dtype=object)
    return {
        schema.HISTORY: Ragged(ids[queries.history.values], queries.history.offsets),
        schema.HISTORY_TIMES: queries.times,
        schema.HISTORY_EVENTS: Ragged(names[queries.events.values], queries.events.offsets),
        schema.QUERY_TIME: queries.time,
        schema.CONTEXT: context.take(queries.user),
    }


def dense_wire(wire: Wire, rows: slice) -> dict[str, np.ndarray]:
    """Returns some of the queries as padded arrays that match `schema.query_signature()`."""
    result = {}
    count = len(np.arange(len(wire[schema.QUERY_TIME]))[rows])
    for name, spec in schema.query_signature().items():
        fill: object = "" if spec.dtype == tf.string else 0
        column = wire.get(name)
        if isinstance(column, Ragged):
            part = column.take(np.arange(len(column))[rows])
            width = max(1, int(part.lengths.max(initial=0)))
            result[name] = Ragged(part.values.astype(spec.dtype.as_numpy_dtype), part.offsets).to_dense(
                width, fill=fill
            )
        elif column is not None:
            result[name] = column[rows]
        else:
            shape = (count,) if spec.shape.rank == 1 else (count, 0)
            result[name] = np.full(shape, fill, spec.dtype.as_numpy_dtype)
    return result


def example_lists(
    candidates: Candidates,
    queries: Queries,
    wire: Wire,
    ids: np.ndarray,
    *,
    batch_size: int = 128,
) -> ExampleLists:
    """Returns each query's pool, labelled 1 where an item is a target; queries whose pool has no target are left out.

    Args:
        candidates: of a retriever that trained on nothing as late as the queries.
        queries: with their targets.
        wire: the same, of `wire_queries`.
        ids: `[num_items]` item ids.
        batch_size: queries at a time.
    """
    signature = [schema.query_signature()]  # one trace, however long the histories of a batch are
    pool = tf.function(lambda query: candidates.pool(candidates.encode_query(query)), input_signature=signature)
    found = []
    for start in range(0, len(queries), batch_size):
        batch = dense_wire(wire, slice(start, start + batch_size))
        found.append(pool({name: tf.constant(value) for name, value in batch.items()}).numpy())
    rows = np.concatenate(found)
    targets = queries.targets
    answers = np.zeros((len(queries), len(ids)), dtype=bool)
    answers[targets.row_numbers, targets.values] = True
    labels = answers[np.arange(len(rows))[:, np.newaxis], rows] & (rows >= 0)
    kept = np.flatnonzero(labels.any(axis=1))
    lists = Ragged.from_rows([row[row >= 0] for row in rows[kept]], np.int64)
    flat = np.concatenate([label[row >= 0] for label, row in zip(labels[kept], rows[kept])] or [np.zeros(0)])
    taken: Wire = {name: c.take(kept) if isinstance(c, Ragged) else c[kept] for name, c in wire.items()}
    return ExampleLists(items=Ragged(ids[lists.values], lists.offsets), labels=flat.astype(np.float32), query=taken)


def _count(mask: tf.Tensor, dtype: tf.DType = tf.int32) -> tf.Tensor:
    """Returns `[batch]`: how many are True in each row."""
    return tf.reduce_sum(tf.cast(mask, dtype), axis=-1)


def _age(rows: tf.Tensor) -> tf.Tensor:
    """Returns int32 `[batch, length]`: how many known items came after each place."""
    return tf.cumsum(tf.cast(rows >= 0, tf.int32), axis=1, exclusive=True, reverse=True)


def standardised(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns the values at mean 0 and deviation 1 over the mask of each list; 0, the mean, outside it."""
    count = tf.maximum(_count(mask, tf.float32), 1.0)[..., tf.newaxis]
    values = tf.where(mask, values, 0.0)  # whatever stands outside, NaN too, never counts
    centred = tf.where(mask, values - tf.reduce_sum(values, axis=-1, keepdims=True) / count, 0.0)
    deviation = tf.sqrt(tf.reduce_sum(tf.square(centred), axis=-1, keepdims=True) / count)
    return tf.math.divide_no_nan(centred, deviation)


def _newest(column: tf.Tensor, keep: tf.Tensor, length: int) -> tf.Tensor:
    """Returns the newest `length` kept values of each row, left-aligned, padded with 0."""
    return tf.ragged.boolean_mask(column, keep)[:, -length:].to_tensor()


def _like(column: tf.Tensor, ids: tf.Tensor, fill: object) -> tf.Tensor:
    """Returns the column cut or padded on the right to the width of the history; a column left out is all `fill`."""
    width = tf.shape(ids)[1]
    missing = tf.maximum(0, width - tf.shape(column)[1])
    return tf.pad(column, [[0, 0], [0, missing]], constant_values=fill)[:, :width]
