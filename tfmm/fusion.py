"""Modality vectors and a presence mask -> one vector.

Every fusion takes `vectors` `[batch, modalities, dim]` and `present` `[batch, modalities]` (True = valid) and returns
`[batch, dim]`. What stands in the vectors of absent modalities never matters: a learned absent vector replaces it.

Every fusion is a sum of what each modality contributes, given the weights that it found, so that any score of the fused
vector falls apart into shares of the modalities, exactly.
"""

from __future__ import annotations

import tensorflow as tf


class _Fusion(tf.keras.layers.Layer):
    """What all share: the learned vector of each absent modality, and the sum."""

    def build(self, shape: tf.TensorShape) -> None:
        self.absent = self.add_weight(name="absent", shape=shape[1:], initializer="zeros")
        super().build(shape)

    def parts(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, modalities, dim]`: what each contributes; of an absent one, what its absence does."""
        raise NotImplementedError

    def call(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dim]`, the sum of the parts."""
        return tf.reduce_sum(self.parts(vectors, present), axis=1)

    def fill(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns the vectors with the learned absent ones where `present` is False."""
        return tf.where(present[..., tf.newaxis], vectors, self.absent)


class SumFusion(_Fusion):
    """f = sum_m v_m."""

    def parts(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns the vectors."""
        return self.fill(vectors, present)


class WeightedFusion(_Fusion):
    """f = sum_m w_m v_m, with one learned weight a modality, the same for every product."""

    def build(self, shape: tf.TensorShape) -> None:
        self.weight = self.add_weight(name="weight", shape=shape[1:2], initializer="ones")
        super().build(shape)

    def parts(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns the vectors by their weights."""
        return self.fill(vectors, present) * self.weight[:, tf.newaxis]


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

    def parts(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns the present vectors by their weights, and the absent ones' stand-ins."""
        clean = tf.where(present[..., tf.newaxis], vectors, 0.0)
        count = tf.reduce_sum(tf.cast(present, tf.float32), axis=-1, keepdims=True)
        alpha = self.weights_of(clean, present) * count
        return tf.where(present[..., tf.newaxis], alpha[..., tf.newaxis] * clean, self.absent)


class CrossAttentionFusion(_Fusion):
    """f = sum_m (v_m + sum_n a_mn W v_n): each modality asks all present ones (Vaswani et al. 2017), one head.

    W is zero at first, so that training starts from the sum.
    """

    def build(self, shape: tf.TensorShape) -> None:
        self.ask, self.answer = (tf.keras.layers.Dense(shape[-1], use_bias=False) for _ in range(2))
        self.value = tf.keras.layers.Dense(shape[-1], use_bias=False, kernel_initializer="zeros")
        super().build(shape)

    def parts(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns each modality's vector and what all ask of it."""
        clean = tf.where(present[..., tf.newaxis], vectors, 0.0)
        logits = tf.matmul(self.ask(clean), self.answer(clean), transpose_b=True) * clean.shape[-1] ** -0.5
        logits = tf.where(present[:, tf.newaxis], logits, tf.float32.min)  # [batch, who asks, who answers]
        asked = tf.where(present[..., tf.newaxis], tf.nn.softmax(logits, axis=-1), 0.0)
        told = tf.reduce_sum(asked, axis=1)[..., tf.newaxis] * self.value(clean)
        return tf.where(present[..., tf.newaxis], clean + told, self.absent)


class GatedFusion(_Fusion):
    """The sum of vectors, each times a sigmoid gate that reads all of them (gated multimodal unit, Arevalo 2017)."""

    def build(self, shape: tf.TensorShape) -> None:
        self.gate = tf.keras.layers.Dense(shape[1], activation="sigmoid")
        super().build(shape)

    def parts(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns the vectors by their gates."""
        filled = self.fill(vectors, present)
        flat = tf.reshape(filled, [-1, filled.shape[1] * filled.shape[2]])
        return self.gate(flat)[..., tf.newaxis] * filled


class ConcatFusion(_Fusion):
    """A linear map of the vectors side by side."""

    def build(self, shape: tf.TensorShape) -> None:
        self.mix = self.add_weight(name="mix", shape=[*shape[1:], shape[-1]], initializer="glorot_uniform")
        super().build(shape)

    def parts(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns what the map makes of each."""
        return tf.einsum("bmd,mde->bme", self.fill(vectors, present), self.mix)


class LateFusion(_Fusion):
    """Each modality in a block of its own, of length w_m: a score is the sum of w_m times the modalities' scores.

    The weights are global and learned. A query has a part for each block, so that modalities never mix before scores.
    """

    def build(self, shape: tf.TensorShape) -> None:
        self.weight = self.add_weight(name="weight", shape=shape[1:2], initializer="ones")
        self.block = tf.cast(tf.range(shape[2]) * shape[1] // shape[2] == tf.range(shape[1])[:, tf.newaxis], tf.float32)
        super().build(shape)

    def parts(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns each modality's block, zero elsewhere."""
        filled = self.fill(vectors, present) * self.block
        length = tf.sqrt(tf.reduce_sum(tf.square(filled), axis=-1, keepdims=True) + 1e-12)
        return filled / length * self.weight[:, tf.newaxis]


_LAYERS = {
    "attention": AttentionFusion,
    "sum": SumFusion,
    "weighted": WeightedFusion,
    "gated": GatedFusion,
    "concat": ConcatFusion,
    "cross": CrossAttentionFusion,
    "late": LateFusion,
}
KINDS = tuple(_LAYERS)


def fusion(kind: str) -> tf.keras.layers.Layer:
    """Returns the fusion layer of that name.

    Raises:
        ValueError: no such fusion.
    """
    if kind not in _LAYERS:
        raise ValueError(f"Expected a fusion of {', '.join(KINDS)}, got {kind!r}.")
    return _LAYERS[kind](name=f"{kind}_fusion")
