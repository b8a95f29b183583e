"""Candidate embeddings -> top-k inside the graph, with exclusions and filters, out of core TF ops only."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfmm.ragged import NO_ITEM

NEVER = -1e9
"""The score of what may not be returned; finite, so that sorting and softmax stay well-behaved."""


class ItemIds(tf.Module):
    """Item ids on the wire <-> rows of one model."""

    def __init__(self, ids: np.ndarray) -> None:
        super().__init__(name="item_ids")
        keys = tf.constant([str(i) for i in ids], tf.string)
        self.ids = tf.Variable(tf.concat([keys, [""]], axis=0), trainable=False, name="ids")  # the last one: NO_ITEM
        rows = tf.lookup.KeyValueTensorInitializer(keys, tf.range(len(ids), dtype=tf.int64))
        self._rows = tf.lookup.StaticHashTable(rows, NO_ITEM)

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns int32 rows of string ids of any shape; -1 for "" and for what the catalogue does not have."""
        return tf.cast(self._rows.lookup(ids), tf.int32)

    def names(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns string ids of int32 rows of any shape; "" for -1."""
        last = tf.shape(self.ids)[0] - 1
        return tf.gather(self.ids, tf.where(rows >= 0, rows, last))


def forbid(scores: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns the scores `[batch, num_items]` with `NEVER` at each row of `rows` `[batch, n]` that is not -1."""
    places = tf.where(rows >= 0)
    indices = tf.stack([places[:, 0], tf.cast(tf.gather_nd(rows, places), tf.int64)], axis=1)
    return tf.tensor_scatter_nd_update(scores, indices, tf.fill(tf.shape(indices)[:1], NEVER))


def top_k(scores: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the k largest scores `[batch, k]`, and their rows, -1 where fewer than k items may be returned.

    Args:
        scores: `[batch, num_items]`.
        k: at most `num_items` of them are real; the rest is padding.
    """
    values, rows = tf.math.top_k(scores, k=tf.minimum(k, tf.shape(scores)[1]))
    missing = [[0, 0], [0, tf.maximum(0, k - tf.shape(scores)[1])]]
    values = tf.pad(values, missing, constant_values=NEVER)
    rows = tf.pad(rows, missing, constant_values=NO_ITEM)
    values, rows = tf.ensure_shape(values, [None, k]), tf.ensure_shape(rows, [None, k])
    return values, tf.where(values > NEVER / 2, rows, NO_ITEM)


def scatter_neighbours(neighbours: tf.Tensor, weights: tf.Tensor, items: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, num_items]`: for each item, the sum over a history of importance times the weight towards it.

    Args:
        neighbours: `[num_items, k]` int32 rows, -1 = padding (`closed_form.top_neighbours`).
        weights: `[num_items, k]`.
        items: `[batch, length]` int32 rows of the history, -1 = padding.
        importance: `[batch, length]` of each history item.
    """
    num_items = tf.shape(neighbours)[0]
    safe = tf.maximum(items, 0)
    targets = tf.gather(neighbours, safe)  # [batch, length, k]
    importance = tf.where(items >= 0, importance, 0.0)
    values = tf.gather(weights, safe) * importance[..., tf.newaxis]
    batch = tf.range(tf.shape(items)[0])[:, tf.newaxis, tf.newaxis]
    flat = batch * num_items + tf.maximum(targets, 0)  # padding has weight 0
    total = tf.math.unsorted_segment_sum(
        tf.reshape(values, [-1]), tf.reshape(flat, [-1]), tf.shape(items)[0] * num_items
    )
    return tf.reshape(total, [-1, num_items])
