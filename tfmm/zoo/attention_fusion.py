"""Attention fusion: each item weighs its own picture, text, attributes and behaviour."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfmm.features import ID
from tfmm.towers import unit
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.network import Content, FactorNetwork, embedding
from tfmm.zoo.training import TrainingConfig, pairs, train


@dataclasses.dataclass(frozen=True)
class AttentionFusionConfig:
    """Settings.

    Attributes:
        dim: of the vectors.
        temperature: a score is a cosine over it.
        dropout: inside the MLP.
        training: of the loop.
    """

    dim: int = 64
    temperature: float = 0.15
    dropout: float = 0.1
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def fit(data: Data, config: AttentionFusionConfig) -> Fitted:
    """Returns attention fusion, trained pairwise.

    alpha = softmax over m of w . tanh(W f_m) (Bahdanau et al. 2015), f = sum of alpha_m f_m, q = MLP(f), score = cosine
    of p_u and q over a temperature. The f_m are maps of picture, text and attributes; behaviour is a vector learned for
    each item. What an item lacks gets no weight.
    """

    def make() -> FactorNetwork:
        return _Fusion(data, config)

    return train(make, data, config.training, name="attention_fusion", examples=pairs(data))


class _Fusion(FactorNetwork):
    def __init__(self, data: Data, config: AttentionFusionConfig) -> None:
        super().__init__(data, dim=config.dim, l2=0.0)
        self._temperature = config.temperature
        self.content = Content(data, dim=config.dim)
        self.behaviour = embedding(data.num_items, config.dim, "behaviour")
        self._trained = tf.constant(data.present(ID))
        self.hidden = tf.keras.layers.Dense(config.dim, activation="tanh", name="attention")
        self.score = tf.keras.layers.Dense(1, use_bias=False, name="score")
        self.mlp = tf.keras.Sequential(
            [
                tf.keras.layers.Dense(2 * config.dim, activation="gelu"),
                tf.keras.layers.Dropout(config.dropout),
                tf.keras.layers.Dense(config.dim),
            ]
        )

    def attended(self, rows: tf.Tensor, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns f `[batch, dim]` and alpha `[batch, modalities + 1]`, behaviour last."""
        vectors, present = self.content(rows, training=training)
        vectors = tf.concat([vectors, self.behaviour(rows)[:, tf.newaxis]], axis=1)
        present = tf.concat([present, tf.gather(self._trained, rows)[:, tf.newaxis]], axis=1)
        logits = tf.where(present, self.score(self.hidden(vectors))[..., 0], -1e9)
        alpha = tf.nn.softmax(logits, axis=-1)  # of an item without anything, uniform over the learned absent vectors
        return tf.reduce_sum(alpha[..., tf.newaxis] * vectors, axis=1), alpha

    def item_vectors(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        return unit(self.mlp(self.attended(rows, training=training)[0], training=training))

    def represent(self, users: tf.Tensor, rows: tf.Tensor, *, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        return unit(self.users(users)) / self._temperature, self.item_vectors(rows, training=training)

    def biases(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.zeros(tf.shape(rows))
