"""The names, dtypes and `tf.io` specs of every feature, once.

Records, pipelines, export and serving all read them here, so that what is parsed in training is what is parsed in
serving. Ids are strings on the wire; row numbers exist only inside one model.
"""

from __future__ import annotations

from typing import Union

import tensorflow as tf

FeatureSpec = dict[str, Union[tf.io.FixedLenFeature, tf.io.VarLenFeature, tf.io.RaggedFeature]]

# --- A query: what is known when somebody asks -----------------------------------------------------------------------
HISTORY = "history"  # item ids, oldest first
HISTORY_TIMES = "history_times"  # int64 seconds since the epoch, one per history item
HISTORY_EVENTS = "history_events"  # names of event types, one per history item; "" = the weakest
QUERY_TIME = "query_time"  # int64 seconds since the epoch; 0 = unknown
CONTEXT = "context"  # "field=value" of the user, e.g. "gender=F"
QUERY_TEXT = "query_text"  # what was typed; "" = nothing
QUERY_IMAGE = "query_image"  # JPEG, PNG, GIF or BMP bytes; "" = nothing
QUERY_AUDIO = "query_audio"  # WAV bytes; "" = nothing
EXCLUDE = "exclude"  # item ids never to return (items of the history are never returned either)
FILTERS = "filters"  # "field=value"; an item is returned only if it has all of them

# --- An item -------------------------------------------------------------------------------------------------------
ITEM_ID = "item_id"
USER_ID = "user_id"
TEXT = "text"
TITLE = "title"
IMAGE = "image"
SOUND = "sound"
LAUNCHED = "launched"  # int64 seconds since the epoch; 0 = unknown
CATEGORICAL = "categorical/"  # prefix of a field: "categorical/brand"
NUMERIC = "numeric/"  # prefix of a field: "numeric/price"
VECTOR = "vector/"  # prefix of a modality: "vector/image", float16 bytes, b"" = missing
HASH = "hash/"  # prefix of a modality: SHA-256 of what was encoded and by what

# --- Outputs -------------------------------------------------------------------------------------------------------
ITEM_IDS = "item_ids"
SCORES = "scores"
EMBEDDING = "embedding"
LABEL = "label"
MODALITIES = "modalities"
MODALITY_SHARES = "modality_shares"
HISTORY_SHARES = "history_shares"

# --- User sequences (training records) -----------------------------------------------------------------------------
SEQUENCE_ITEMS = "items"  # int64 rows of the item table that the manifest names
SEQUENCE_TIMES = "times"
SEQUENCE_EVENTS = "events"  # int64 index into the manifest's event types
SEQUENCE_CONTEXT = "context"


def _ragged(dtype: tf.DType, name: str) -> tf.io.RaggedFeature:
    return tf.io.RaggedFeature(dtype, value_key=name, row_splits_dtype=tf.int64)


def item_spec(categorical: tuple[str, ...], numeric: tuple[str, ...], vectors: tuple[str, ...]) -> FeatureSpec:
    """Returns how one item record is parsed, given the catalogue's field and modality names."""
    spec: FeatureSpec = {
        ITEM_ID: tf.io.FixedLenFeature([], tf.string),
        TEXT: tf.io.FixedLenFeature([], tf.string, ""),
        TITLE: tf.io.FixedLenFeature([], tf.string, ""),
        LAUNCHED: tf.io.FixedLenFeature([], tf.int64, 0),
    }
    for field in categorical:
        spec[CATEGORICAL + field] = _ragged(tf.string, CATEGORICAL + field)
    for field in numeric:
        spec[NUMERIC + field] = tf.io.FixedLenFeature([], tf.float32, float("nan"))
    for modality in vectors:
        spec[VECTOR + modality] = tf.io.FixedLenFeature([], tf.string, "")
        spec[HASH + modality] = tf.io.FixedLenFeature([], tf.string, "")
    return spec


def sequence_spec() -> FeatureSpec:
    """Returns how one user's training sequence is parsed."""
    return {
        USER_ID: tf.io.FixedLenFeature([], tf.string),
        SEQUENCE_ITEMS: _ragged(tf.int64, SEQUENCE_ITEMS),
        SEQUENCE_TIMES: _ragged(tf.int64, SEQUENCE_TIMES),
        SEQUENCE_EVENTS: _ragged(tf.int64, SEQUENCE_EVENTS),
        SEQUENCE_CONTEXT: _ragged(tf.string, SEQUENCE_CONTEXT),
    }


def query_spec() -> FeatureSpec:
    """Returns how a serialised query (`recommend_examples`, or the context of an ELWC) is parsed."""
    return {
        HISTORY: _ragged(tf.string, HISTORY),
        HISTORY_TIMES: _ragged(tf.int64, HISTORY_TIMES),
        HISTORY_EVENTS: _ragged(tf.string, HISTORY_EVENTS),
        QUERY_TIME: tf.io.FixedLenFeature([], tf.int64, 0),
        CONTEXT: _ragged(tf.string, CONTEXT),
        QUERY_TEXT: tf.io.FixedLenFeature([], tf.string, ""),
        QUERY_IMAGE: tf.io.FixedLenFeature([], tf.string, ""),
        QUERY_AUDIO: tf.io.FixedLenFeature([], tf.string, ""),
        EXCLUDE: _ragged(tf.string, EXCLUDE),
        FILTERS: _ragged(tf.string, FILTERS),
    }


def query_signature() -> dict[str, tf.TensorSpec]:
    """Returns the dense inputs of `recommend`, `retrieve` and `embed_query`; pad with "" and 0, leave out by size 0."""
    return {
        HISTORY: tf.TensorSpec([None, None], tf.string, HISTORY),
        HISTORY_TIMES: tf.TensorSpec([None, None], tf.int64, HISTORY_TIMES),
        HISTORY_EVENTS: tf.TensorSpec([None, None], tf.string, HISTORY_EVENTS),
        QUERY_TIME: tf.TensorSpec([None], tf.int64, QUERY_TIME),
        CONTEXT: tf.TensorSpec([None, None], tf.string, CONTEXT),
        QUERY_TEXT: tf.TensorSpec([None], tf.string, QUERY_TEXT),
        QUERY_IMAGE: tf.TensorSpec([None], tf.string, QUERY_IMAGE),
        QUERY_AUDIO: tf.TensorSpec([None], tf.string, QUERY_AUDIO),
        EXCLUDE: tf.TensorSpec([None, None], tf.string, EXCLUDE),
        FILTERS: tf.TensorSpec([None, None], tf.string, FILTERS),
    }
