"""A tiny SavedModel with the signatures that the contract names, whose answers a test can compute by hand.

The corpus is item0..item4. An item's score is its number plus `version / 10`, plus 10 for every excluded-free match of
the typed text; items of the history and of `exclude` never come back. The query image must be a picture, as in the
real model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from tfmm import schema

NUM_ITEMS = 5
ITEMS = np.array([f"item{row}" for row in range(NUM_ITEMS)])


class TinyModel(tf.Module):
    def __init__(self, version: int) -> None:
        super().__init__()
        self.offset = tf.Variable(version / 10.0, dtype=tf.float32)
        self.items = tf.constant(ITEMS)

    def _answers(self, query: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        batch = tf.shape(query[schema.QUERY_TEXT])[0]
        pictures = tf.map_fn(_brightness, query[schema.QUERY_IMAGE], fn_output_signature=tf.float32)
        typed = tf.cast(query[schema.QUERY_TEXT][:, tf.newaxis] == self.items, tf.float32) * 10.0
        scores = tf.range(NUM_ITEMS, dtype=tf.float32) + self.offset + typed + pictures[:, tf.newaxis]
        gone = tf.concat([query[schema.HISTORY], query[schema.EXCLUDE]], axis=1)  # [batch, width]
        seen = tf.reduce_any(gone[:, :, tf.newaxis] == self.items, axis=1)
        values, rows = tf.math.top_k(tf.where(seen, -1.0, tf.broadcast_to(scores, [batch, NUM_ITEMS])), NUM_ITEMS)
        ids = tf.where(values < 0, "", tf.gather(self.items, rows))
        return {schema.ITEM_IDS: ids, schema.SCORES: tf.where(values < 0, 0.0, values)}

    def recommend(self, **query: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._answers(query)

    def recommend_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, schema.query_spec())
        dense = {key: v.to_tensor() if isinstance(v, tf.RaggedTensor) else v for key, v in parsed.items()}
        return self._answers(dense)

    def embed_query(self, **query: tf.Tensor) -> dict[str, tf.Tensor]:
        return {schema.EMBEDDING: tf.cast(tf.strings.length(query[schema.QUERY_TEXT]), tf.float32)[:, tf.newaxis]}

    def similar_items(self, item_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = tf.zeros([tf.size(item_ids), NUM_ITEMS]) + self.offset
        known = tf.reduce_any(item_ids[:, tf.newaxis] == self.items, axis=1, keepdims=True)
        return {schema.ITEM_IDS: tf.where(known, self.items, ""), schema.SCORES: scores}


def _brightness(image: tf.Tensor) -> tf.Tensor:
    def decoded() -> tf.Tensor:
        return tf.reduce_mean(tf.cast(tf.io.decode_image(image, 3, expand_animations=False), tf.float32)) / 255.0

    return tf.cond(tf.strings.length(image) == 0, lambda: 0.0, decoded)


def write_model(directory: Path, version: int) -> Path:
    """Returns `directory/<version>`, a whole SavedModel, written at once by renaming."""
    model = TinyModel(version)
    wired = schema.query_signature()
    examples = tf.TensorSpec([None], tf.string, "examples")
    signatures = {
        "serving_default": tf.function(model.recommend).get_concrete_function(**wired),
        "retrieve": tf.function(model.recommend).get_concrete_function(**wired),
        "embed_query": tf.function(model.embed_query).get_concrete_function(**wired),
        "recommend_examples": tf.function(model.recommend_examples).get_concrete_function(examples),
        "similar_items": tf.function(model.similar_items).get_concrete_function(
            tf.TensorSpec([None], tf.string, schema.ITEM_IDS)
        ),
    }
    signatures["recommend"] = signatures["serving_default"]
    partial = directory / f".partial-{version}"
    tf.saved_model.save(model, str(partial), signatures=signatures)
    return partial.rename(directory / str(version))
