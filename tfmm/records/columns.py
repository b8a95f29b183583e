"""TFRecords of `tf.train.Example` -> numpy columns, and values -> the fields of a message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Union

import numpy as np
import tensorflow as tf

from tfmm.ragged import Ragged
from tfmm.schema import FeatureSpec

_BATCH = 1024


def read_columns(paths: list[str], spec: FeatureSpec) -> dict[str, Any]:
    """Returns every feature of all records: a numpy array, or a `Ragged` where the spec says so."""
    parse = tf.function(lambda batch: tf.io.parse_example(batch, spec))
    batches = list(tf.data.TFRecordDataset(paths).batch(_BATCH).map(parse).prefetch(2))
    batches = batches or [parse(tf.constant([], tf.string))]
    columns: dict[str, Any] = {}
    for name in spec:
        parts = [batch[name] for batch in batches]
        joined = tf.concat(parts, axis=0)
        ragged = isinstance(joined, tf.RaggedTensor)
        columns[name] = Ragged(joined.values.numpy(), joined.row_splits.numpy()) if ragged else joined.numpy()
    return columns


def strings(column: np.ndarray) -> np.ndarray:
    """Returns `[n]` str (object) of `[n]` UTF-8."""
    decoded = np.empty(len(column), dtype=object)
    decoded[:] = [value.decode() for value in column]
    return decoded


def string_rows(column: Ragged) -> Ragged:
    """Returns rows of str of rows of UTF-8."""
    return Ragged(strings(column.values), column.offsets)


def put(features: tf.train.Features, name: str, values: np.ndarray) -> None:
    """Sets the feature `name` to `values`: `[n]` of integers, floats, or (dtype object) str or bytes."""
    if values.dtype.kind in "iu":
        features.feature[name].int64_list.value.extend(values.tolist())
    elif values.dtype.kind == "f":
        features.feature[name].float_list.value.extend(values.tolist())
    else:
        put_strings(features, name, values.tolist())


def put_strings(features: tf.train.Features, name: str, values: Iterable[Union[str, bytes]]) -> None:
    """Sets the feature `name` to strings, UTF-8 where they are not bytes yet."""
    encoded = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    features.feature[name].bytes_list.value.extend(encoded)


def put_string(features: tf.train.Features, name: str, value: Union[str, bytes]) -> None:
    """Sets the feature `name` to one string."""
    put_strings(features, name, (value,))
