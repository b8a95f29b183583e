"""TFRecords -> `tf.data`, and the parsing that training and serving share.

Records are parsed a batch at a time: `parse_example` on a batch is many times as fast as on one record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np
import tensorflow as tf
import tensorflow_ranking as tfr

from tfmm import schema
from tfmm.records import FEATURES, WEIGHT, shards

MASK = "mask"
KNOWN = "known"
PADDED_LABEL = -1.0
"""What TF-Ranking takes for "no example here"."""

Batch = dict[str, tf.Tensor]

_PARSED_AT_ONCE = 256
_READERS = 4
_PADDING = {tf.string: "", tf.int32: -1, tf.int64: 0, tf.float32: 0.0, tf.bool: False}


# --- User sequences --------------------------------------------------------------------------------------------------


def sequence_batches(
    directory: shards.PathLike,
    name: str,
    *,
    batch_size: int,
    max_length: int,
    shuffle: bool,
    seed: int,
    bucket_boundaries: Sequence[int] = (),
    item_ids: Optional[np.ndarray] = None,
) -> tf.data.Dataset:
    """Returns one pass over a group's sequences, as windows of at most `max_length` events.

    Consecutive windows share one event, so that every step from an event to the next is trained exactly once. The
    newest window is full; sequences of fewer than two events give none.

    Each batch has `items` int32 `[batch, length]` (item rows, oldest first, left-aligned, -1 = padding), `times` int64
    and `events` int32 alike (0 = padding), `context` string `[batch, terms]` ("" = padding) and `known` int32
    `[batch, known]`: all distinct items of the shopper's whole sequence (-1 = padding).

    Args:
        directory: of the records.
        name: of the group.
        batch_size: windows.
        max_length: events of a window.
        shuffle: over all windows, anew in every epoch.
        seed: of the shuffling.
        bucket_boundaries: lengths that part the windows: batches hold windows of one bucket, with less padding.
        item_ids: of the table that rows are to refer to; the directory's item table when left out.

    Raises:
        CorruptRecords: the files are not what was written, or refer to another item table.
    """
    if max_length < 2:
        raise ValueError(f"Expected max_length of 2 or more (one event to read, one to predict), got {max_length}.")
    manifest = shards.read_manifest(directory, name, kind=shards.SEQUENCES)
    _check_item_table(directory, manifest, item_ids)
    count = sum(_num_windows(length, max_length) * times for length, times in manifest.lengths.items())
    windows = (
        _records(directory, manifest)
        .batch(_PARSED_AT_ONCE)
        .map(lambda batch: _windows(tf.io.parse_example(batch, schema.sequence_spec()), max_length), tf.data.AUTOTUNE)
        .unbatch()
        .map(dict)  # Rows of ragged tensors become plain tensors, which can be padded.
        .cache()
    )
    windows = _shuffled(windows, count, seed) if shuffle else windows
    padding = {**_paddings(windows), schema.SEQUENCE_EVENTS: 0}
    if not bucket_boundaries:
        batches = windows.padded_batch(batch_size, padding_values=padding)
        return _ready(batches.apply(tf.data.experimental.assert_cardinality(-(-count // batch_size))))
    return _ready(
        windows.bucket_by_sequence_length(
            lambda window: tf.shape(window[schema.SEQUENCE_ITEMS])[0],
            bucket_boundaries=list(bucket_boundaries),
            bucket_batch_sizes=[batch_size] * (len(bucket_boundaries) + 1),
            padding_values=padding,
        )
    )


def _windows(users: Mapping[str, tf.RaggedTensor], max_length: int) -> dict[str, tf.RaggedTensor]:
    """Returns the windows of a batch of users, `[windows, (length)]`."""
    items = users[schema.SEQUENCE_ITEMS]
    starts, lengths = items.row_starts(), items.row_lengths()
    counts = tf.where(lengths < 2, tf.zeros_like(lengths), (lengths - 2) // (max_length - 1) + 1)
    owner = tf.repeat(tf.range(items.nrows()), counts)  # [windows]
    age = tf.repeat(tf.cumsum(counts), counts) - 1 - tf.range(tf.reduce_sum(counts))  # [windows], 0 = the newest
    limit = tf.gather(lengths, owner) - age * (max_length - 1)
    first = tf.gather(starts, owner)
    places = tf.ragged.range(first + tf.maximum(limit - max_length, 0), first + limit)  # [windows, (length)]
    columns = {
        column: tf.gather(users[column].values, places)
        for column in (schema.SEQUENCE_ITEMS, schema.SEQUENCE_TIMES, schema.SEQUENCE_EVENTS)
    }
    return {
        schema.SEQUENCE_ITEMS: tf.cast(columns[schema.SEQUENCE_ITEMS], tf.int32),
        schema.SEQUENCE_TIMES: columns[schema.SEQUENCE_TIMES],
        schema.SEQUENCE_EVENTS: tf.cast(columns[schema.SEQUENCE_EVENTS], tf.int32),
        schema.SEQUENCE_CONTEXT: tf.gather(users[schema.SEQUENCE_CONTEXT], owner),
        KNOWN: tf.gather(_distinct(items), owner),
    }


def _distinct(rows: tf.RaggedTensor) -> tf.RaggedTensor:
    """Returns the distinct numbers of each row, ascending, int32; numbers are in 0..2^32-1."""
    keys = tf.sort(tf.bitwise.left_shift(rows.value_rowids(), tf.constant(32, tf.int64)) + rows.values)
    new = tf.concat([tf.ones_like(keys[:1], tf.bool), keys[1:] != keys[:-1]], axis=0)
    keys = tf.boolean_mask(keys, new)
    owner = tf.bitwise.right_shift(keys, tf.constant(32, tf.int64))
    number = tf.cast(tf.bitwise.bitwise_and(keys, tf.constant(2**32 - 1, tf.int64)), tf.int32)
    return tf.RaggedTensor.from_value_rowids(number, owner, nrows=rows.nrows(), validate=False)


def _num_windows(length: int, max_length: int) -> int:
    return 0 if length < 2 else (length - 2) // (max_length - 1) + 1


def _check_item_table(directory: shards.PathLike, manifest: shards.Manifest, item_ids: Optional[np.ndarray]) -> None:
    """Raises CorruptRecords unless the rows in the sequences are rows of the given (else the directory's) items."""
    if item_ids is not None:
        found = shards.ids_sha256(item_ids)
    else:
        found = shards.read_manifest(directory, shards.ITEMS, kind=shards.ITEMS).items_sha256
    if found != manifest.items_sha256:
        raise shards.CorruptRecords(
            f"Expected the sequences {manifest.name!r} in {directory} to refer to the item table with SHA-256 {found}, "
            f"they refer to {manifest.items_sha256}: items were added, removed or reordered. Write the sequences again."
        )


# --- Example lists ---------------------------------------------------------------------------------------------------


def example_list_batches(
    directory: shards.PathLike, name: str, *, batch_size: int, list_size: Optional[int], shuffle: bool, seed: int
) -> tf.data.Dataset:
    """Returns one pass over a group's example lists, as (features, labels).

    Features are those of `parse_example_lists` and `mask` bool `[batch, list_size]`; labels are `[batch, list_size]`,
    -1 where the mask is False. Where the records have weights, features have `weight` `[batch, list_size]`.

    Args:
        directory: of the records.
        name: of the group.
        batch_size: lists.
        list_size: lists are cut or padded to it; None pads to the longest of those parsed together.
        shuffle: over all lists, anew in every epoch.
        seed: of the shuffling.

    Raises:
        CorruptRecords: the files are not what was written.
    """
    manifest = shards.read_manifest(directory, name, kind=shards.EXAMPLE_LISTS)

    def parse(serialized: tf.Tensor) -> tuple[Batch, tf.Tensor]:
        features, labels = _parse_labelled(serialized, manifest, list_size=list_size)
        return {name: _not_empty(value) for name, value in features.items()}, labels

    lists = _records(directory, manifest).batch(_PARSED_AT_ONCE).map(parse, tf.data.AUTOTUNE).unbatch().cache()
    lists = _shuffled(lists, manifest.count, seed) if shuffle else lists
    batches = lists.padded_batch(batch_size, padding_values=(_paddings(lists), PADDED_LABEL))
    return _ready(batches.apply(tf.data.experimental.assert_cardinality(-(-manifest.count // batch_size))))


def parse_example_lists(
    serialized: tf.Tensor, *, list_size: Optional[int] = None, num_features: int = 0
) -> tuple[Batch, tf.Tensor]:
    """Returns the features of serialised ExampleListWithContext `[batch]`, dense, and mask `[batch, list_size]`.

    The features are those of `schema.query_signature()`, `item_id` string `[batch, list_size]` ("" = padding) and, if
    `num_features`, `features` `[batch, list_size, num_features]`. Lists are cut or padded to `list_size`, or padded to
    the longest. All of it is core ops, so that it may stand in an exported graph.
    """
    features, mask, _ = _parse_elwc(serialized, _example_spec(num_features), list_size)
    return features, mask


def parse_queries(serialized: tf.Tensor) -> Batch:
    """Returns serialised queries (tf.Example) `[batch]` as the dense tensors of `schema.query_signature()`."""
    return _dense_query(tf.io.parse_example(serialized, schema.query_spec()))


def _parse_labelled(
    serialized: tf.Tensor, manifest: shards.Manifest, *, list_size: Optional[int]
) -> tuple[Batch, tf.Tensor]:
    spec = {**_example_spec(manifest.num_features), schema.LABEL: tf.io.FixedLenFeature([], tf.float32, PADDED_LABEL)}
    if manifest.weighted:
        spec[WEIGHT] = tf.io.FixedLenFeature([], tf.float32, 1.0)
    features, mask, others = _parse_elwc(serialized, spec, list_size)
    return {**features, MASK: mask}, others[schema.LABEL]


def _parse_elwc(
    serialized: tf.Tensor, example_spec: schema.FeatureSpec, list_size: Optional[int]
) -> tuple[Batch, tf.Tensor, Batch]:
    """Returns query and example features, the mask, and example features alone."""
    parsed = tfr.data.parse_from_example_list(
        serialized,
        list_size=list_size,
        context_feature_spec=schema.query_spec(),
        example_feature_spec=example_spec,
        size_feature_name="sizes",
    )
    examples = {name: parsed.pop(name) for name in example_spec}
    # TF-Ranking's own mask is as wide as the longest list, but its features have a column where all lists are empty.
    mask = tf.sequence_mask(parsed.pop("sizes"), tf.shape(examples[schema.ITEM_ID])[1])
    mask.set_shape([None, list_size])
    features = {name: value for name, value in examples.items() if name != schema.LABEL}
    return {**_dense_query(parsed), **features}, mask, examples


def _not_empty(value: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, 1]` of padding for `[batch, 0]`: TensorFlow 2.15's `unbatch` crashes on int64 of no column."""
    if value.shape.rank != 2:
        return value
    missing = tf.maximum(0, 1 - tf.shape(value)[1])
    return tf.pad(value, [[0, 0], [0, missing]], constant_values=tf.constant(_PADDING[value.dtype], value.dtype))


def _example_spec(num_features: int) -> schema.FeatureSpec:
    spec: schema.FeatureSpec = {schema.ITEM_ID: tf.io.FixedLenFeature([], tf.string, "")}
    if num_features:
        spec[FEATURES] = tf.io.FixedLenFeature([num_features], tf.float32, [0.0] * num_features)
    return spec


def _dense_query(parsed: Mapping[str, tf.Tensor]) -> Batch:
    """Returns query features with "" and 0 as padding; times and event types are as wide as the history."""
    width = parsed[schema.HISTORY].bounding_shape(axis=1)
    dense = {}
    for name, value in parsed.items():
        if isinstance(value, tf.RaggedTensor):
            alike = name in (schema.HISTORY_TIMES, schema.HISTORY_EVENTS)
            value = value.to_tensor(_PADDING[value.dtype], shape=tf.stack([value.nrows(), width]) if alike else None)
        dense[name] = value
    return dense


# --- Both ------------------------------------------------------------------------------------------------------------


def _records(directory: shards.PathLike, manifest: shards.Manifest) -> tf.data.Dataset:
    """Returns the serialised records of a group once its files are verified, read in parallel in a fixed order."""
    paths = shards.verified_paths(directory, manifest)
    return tf.data.Dataset.from_tensor_slices(tf.constant(paths, tf.string)).interleave(
        tf.data.TFRecordDataset,
        cycle_length=_READERS,
        block_length=_PARSED_AT_ONCE,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _shuffled(elements: tf.data.Dataset, count: int, seed: int) -> tf.data.Dataset:
    return elements.shuffle(max(count, 1), seed=seed, reshuffle_each_iteration=True)


def _paddings(elements: tf.data.Dataset) -> dict[str, object]:
    """Returns what each feature of the elements is padded with."""
    spec = elements.element_spec
    features = spec[0] if isinstance(spec, tuple) else spec
    return {name: tf.constant(_PADDING[value.dtype], value.dtype) for name, value in features.items()}


def _ready(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
