"""Modality vectors and a presence mask -> one vector.

Every fusion takes `vectors` `[batch, modalities, dim]` and `present` `[batch, modalities]` (True = valid) and returns
`[batch, dim]`. What stands in the vectors of absent modalities never matters: a learned absent vector replaces it.
"""

from __future__ import annotations

import tensorflow as tf

KINDS = ("attention", "sum", "gated", "concat")


class _Fusion(tf.keras.layers.Layer):
    """What all share: the learned vector of each absent modality."""

    def build(self, shape: tf.TensorShape) -> None:
        self.absent = self.add_weight(name="absent", shape=shape[1:], initializer="zeros")
        super().build(shape)

    def fill(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns the vectors with the learned absent ones where `present` is False."""
        return tf.where(present[..., tf.newaxis], vectors, self.absent)


class SumFusion(_Fusion):
    """The sum of the present vectors and of the absent ones' stand-ins."""

    def call(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dim]`."""
        return tf.reduce_sum(self.fill(vectors, present), axis=1)


class AttentionFusion(_Fusion):
    """f = sum_m alpha_m v_m with alpha a softmax over the present modalities' learned scores, times their number.

    The scores are v_m's own (additive attention, Bahdanau et al. 2015), so that a plain picture may count less than a
    telling one. Scaled by the number of present modalities, uniform weights give the sum, which is where training
    starts. Absent modalities get no weight; their learned vectors are added beside it.
    """

    def build(self, shape: tf.TensorShape) -> None:
        self.hidden = tf.keras.layers.Dense(shape[-1], activation="tanh")
        self.score = self.add_weight(name="score", shape=shape[1:], initializer="zeros")
        super().build(shape)

    def weights_of(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns alpha `[batch, modalities]`: 0 where absent, summing to 1 where anything is present."""
        logits = tf.reduce_sum(self.hidden(vectors) * self.score, axis=-1)
        logits = tf.where(present, logits, tf.float32.min)
        return tf.where(present, tf.nn.softmax(logits, axis=-1), 0.0)

    def call(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dim]`."""
        clean = tf.where(present[..., tf.newaxis], vectors, 0.0)
        count = tf.reduce_sum(tf.cast(present, tf.float32), axis=-1, keepdims=True)
        alpha = self.weights_of(clean, present) * count
        absent = tf.where(present[..., tf.newaxis], 0.0, self.absent)
        return tf.einsum("bm,bmd->bd", alpha, clean) + tf.reduce_sum(absent, axis=1)


class GatedFusion(_Fusion):
    """The sum of vectors, each times a sigmoid gate that reads all of them (gated multimodal unit, Arevalo 2017)."""

    def build(self, shape: tf.TensorShape) -> None:
        self.gate = tf.keras.layers.Dense(shape[1], activation="sigmoid")
        super().build(shape)

    def call(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dim]`."""
        filled = self.fill(vectors, present)
        flat = tf.reshape(filled, [-1, filled.shape[1] * filled.shape[2]])
        return tf.einsum("bm,bmd->bd", self.gate(flat), filled)


class ConcatFusion(_Fusion):
    """A dense layer over the vectors side by side."""

    def build(self, shape: tf.TensorShape) -> None:
        self.mix = tf.keras.layers.Dense(shape[-1])
        super().build(shape)

    def call(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dim]`."""
        filled = self.fill(vectors, present)
        return self.mix(tf.reshape(filled, [-1, filled.shape[1] * filled.shape[2]]))


def fusion(kind: str) -> tf.keras.layers.Layer:
    """Returns the fusion layer of that name.

    Raises:
        ValueError: no such fusion.
    """
    layers = dict(zip(KINDS, (AttentionFusion, SumFusion, GatedFusion, ConcatFusion)))
    if kind not in layers:
        raise ValueError(f"Expected a fusion of {', '.join(KINDS)}, got {kind!r}.")
    return layers[kind](name=f"{kind}_fusion")
