"""Labelled example lists as TFRecords, in TF-Ranking's format (ExampleListWithContext)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional, Union

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from tfmm import schema
from tfmm.ragged import Ragged
from tfmm.records import shards
from tfmm.records.columns import put, put_string

FEATURES = "features"
"""Name of the dense numeric features of an example, `[num_features]`."""

WEIGHT = "weight"
"""Name of how much an example's label counts, where lists have weights."""

_PER_SHARD = 1024


@dataclasses.dataclass(frozen=True)
class ExampleLists:
    """Queries with labelled candidates, column by column.

    Attributes:
        items: str (object), the candidates' item ids, one row a query, in the order in which lists are cut.
        labels: `[total candidates]`, aligned with `items.values`; higher is more relevant, never negative.
        query: feature of `schema.query_spec()` -> `Ragged`, one row a query, or `[num_queries]`; what is left out is
            unknown.
        features: `[total candidates, num_features]`, dense numbers of a query and a candidate together, or None.
        weights: `[total candidates]`, how much each label counts in training, or None: all alike.
    """

    items: Ragged
    labels: np.ndarray
    query: Mapping[str, Union[Ragged, np.ndarray]] = dataclasses.field(default_factory=dict)
    features: Optional[np.ndarray] = None
    weights: Optional[np.ndarray] = None

    def __post_init__(self) -> None:
        for name, column in self.query.items():
            _check_query_feature(name, column, len(self.items))
        total = len(self.items.values)
        for name, rows in (("labels", self.labels), (FEATURES, self.features), (WEIGHT, self.weights)):
            if rows is not None and len(rows) != total:
                raise ValueError(f"Expected {total} rows (one a candidate) in {name}, got {len(rows)}.")
        bad = np.flatnonzero(~(self.labels >= 0))
        if len(bad):
            raise ValueError(f"Expected labels of 0 or more, got {self.labels[bad[0]]} for candidate {bad[0]}.")

    def __len__(self) -> int:
        return len(self.items)


def write_example_lists(
    lists: ExampleLists, directory: shards.PathLike, name: str, *, per_shard: int = _PER_SHARD
) -> shards.Manifest:
    """Returns the manifest of the lists after they stand in `directory`.

    Args:
        lists: what to write.
        directory: of the records.
        name: of this group, e.g. "rerank_train".
        per_shard: lists in a file.
    """
    shards.check_name(name)
    if name == shards.ITEMS:
        raise ValueError(f"Expected another record name than {name!r}, which is the item table's.")
    written = shards.write_shards(Path(directory), name, serialise_lists(lists), per_shard=per_shard)
    manifest = shards.Manifest(
        name=name,
        kind=shards.EXAMPLE_LISTS,
        count=len(lists),
        shards=written,
        lengths=shards.length_counts(lists.items.lengths),
        num_features=0 if lists.features is None else lists.features.shape[1],
        weighted=lists.weights is not None,
    )
    return shards.publish(Path(directory), manifest)


def serialise_lists(lists: ExampleLists) -> Iterator[bytes]:
    """Yields one ExampleListWithContext a query."""
    for row in range(len(lists)):
        message = input_pb2.ExampleListWithContext()
        for name, column in lists.query.items():
            values = column[row] if isinstance(column, Ragged) else column[row : row + 1]
            put(message.context.features, name, values)
        _add_examples(message, lists, slice(lists.items.offsets[row], lists.items.offsets[row + 1]))
        yield message.SerializeToString(deterministic=True)


def _add_examples(message: input_pb2.ExampleListWithContext, lists: ExampleLists, where: slice) -> None:
    ids, labels = lists.items.values[where].tolist(), lists.labels[where].tolist()
    numbers = None if lists.features is None else lists.features[where].tolist()
    weights = None if lists.weights is None else lists.weights[where].tolist()
    for position, item_id in enumerate(ids):
        features = message.examples.add().features
        put_string(features, schema.ITEM_ID, item_id)
        features.feature[schema.LABEL].float_list.value.append(labels[position])
        if numbers is not None:
            features.feature[FEATURES].float_list.value.extend(numbers[position])
        if weights is not None:
            features.feature[WEIGHT].float_list.value.append(weights[position])


def _check_query_feature(name: str, column: Union[Ragged, np.ndarray], num_queries: int) -> None:
    known = schema.query_spec()
    if name not in known:
        raise ValueError(f"Expected query features among {', '.join(known)}, got {name!r}.")
    ragged, dtype = isinstance(known[name], tf.io.RaggedFeature), known[name].dtype
    values = column.values if isinstance(column, Ragged) else column
    kinds = "OUS" if dtype == tf.string else "iu"
    if isinstance(column, Ragged) != ragged or values.dtype.kind not in kinds:
        wanted = f"a {'Ragged' if ragged else 'ndarray'} of {dtype.name}"
        raise ValueError(f"Expected {wanted} in {name}, got a {type(column).__name__} of {values.dtype}.")
    if len(column) != num_queries:
        raise ValueError(f"Expected {num_queries} rows (one a query) in {name}, got {len(column)}.")
