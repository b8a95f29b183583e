"""VBPR, and matrix factorisation with multimodal features: content beside the latent factors, linearly."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.network import FactorNetwork, embedding
from tfmm.zoo.training import TrainingConfig, pairs, train


@dataclasses.dataclass(frozen=True)
class VbprConfig:
    """Settings.

    Attributes:
        dim: of the latent vectors.
        content_dim: of the space that content is mapped to.
        l2: of the vectors in a batch.
        training: of the loop.
    """

    dim: int = 32
    content_dim: int = 32
    l2: float = 1e-2
    training: TrainingConfig = dataclasses.field(default_factory=lambda: TrainingConfig(epochs=60, learning_rate=1e-2))


def fit(data: Data, config: VbprConfig) -> Fitted:
    """Returns VBPR: score = b_i + p_u . q_i + t_u . E f_i + c . f_i, trained pairwise (He & McAuley 2016).

    f_i is the item's content: picture, text and attributes side by side, zero where missing; the paper has pictures.
    """

    def make() -> FactorNetwork:
        return _Vbpr(data, config)

    return train(make, data, config.training, name="vbpr", examples=pairs(data))


def fit_features(data: Data, config: VbprConfig) -> Fitted:
    """Returns matrix factorisation with multimodal features: score = b_i + p_u . (q_i + E f_i), trained pairwise.

    As in VBPR, but what a user likes of the content and of the rest is one and the same vector.
    """

    def make() -> FactorNetwork:
        return _WithFeatures(data, config)

    return train(make, data, config.training, name="mf_features", examples=pairs(data))


class _WithFeatures(FactorNetwork):
    """q_i + E f_i."""

    def __init__(self, data: Data, config: VbprConfig) -> None:
        super().__init__(data, dim=config.dim, l2=config.l2)
        self.items = embedding(data.num_items, config.dim, "items")
        self.features = tf.constant(data.content_rows(), tf.float32)
        self.map = tf.keras.layers.Dense(config.dim, use_bias=False, name="map")

    def item_vectors(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.items(rows) + self.map(tf.gather(self.features, rows))


class _Vbpr(FactorNetwork):
    """[p_u; t_u] . [q_i; E f_i], and a bias of the content."""

    def __init__(self, data: Data, config: VbprConfig) -> None:
        super().__init__(data, dim=config.dim + config.content_dim, l2=config.l2)
        self.items = embedding(data.num_items, config.dim, "items")
        self.features = tf.constant(data.content_rows(), tf.float32)
        self.map = tf.keras.layers.Dense(config.content_dim, use_bias=False, name="map")
        self.content_bias = self.add_weight(name="content_bias", shape=[self.features.shape[1]], initializer="zeros")

    def item_vectors(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        return tf.concat([self.items(rows), self.map(tf.gather(self.features, rows))], axis=1)

    def biases(self, rows: tf.Tensor) -> tf.Tensor:
        return super().biases(rows) + tf.linalg.matvec(tf.gather(self.features, rows), self.content_bias)
