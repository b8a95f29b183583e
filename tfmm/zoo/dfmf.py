"""DFMF: deep multimodal features in matrix factorisation."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.network import Content, FactorNetwork, embedding
from tfmm.zoo.training import TrainingConfig, pairs, train


@dataclasses.dataclass(frozen=True)
class DfmfConfig:
    """Settings.

    Attributes:
        dim: of the vectors.
        dropout: inside the network.
        l2: of the vectors in a batch.
        training: of the loop.
    """

    dim: int = 64
    dropout: float = 0.2
    l2: float = 3e-3
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def fit(data: Data, config: DfmfConfig) -> Fitted:
    """Returns DFMF: score = p_u . (q_i + g(content_i)) + b_i, trained pairwise.

    q_i is the item's latent vector, g a network of three layers over the vectors of picture, text and attributes side
    by side: matrix factorisation whose items begin as deep features (as texts are in ConvMF: Kim et al. 2016).
    """

    def make() -> FactorNetwork:
        return _Dfmf(data, config)

    return train(make, data, config.training, name="dfmf", examples=pairs(data))


class _Dfmf(FactorNetwork):
    def __init__(self, data: Data, config: DfmfConfig) -> None:
        super().__init__(data, dim=config.dim, l2=config.l2)
        self.items = embedding(data.num_items, config.dim, "items")
        self.content = Content(data, dim=config.dim)
        self.deep = tf.keras.Sequential(
            [
                tf.keras.layers.Dense(2 * config.dim, activation="relu"),
                tf.keras.layers.Dropout(config.dropout),
                tf.keras.layers.Dense(config.dim, activation="relu"),
                tf.keras.layers.Dense(config.dim),
            ]
        )

    def item_vectors(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.items(rows) + self.deep(self.content.side_by_side(rows, training=training), training=training)
