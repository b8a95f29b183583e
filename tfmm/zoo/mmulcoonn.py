"""MMulCooNN: an item is its picture, its words and its attributes, side by side through a fully connected layer."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.network import Content, FactorNetwork
from tfmm.zoo.training import TrainingConfig, pairs, train


@dataclasses.dataclass(frozen=True)
class MmulcoonnConfig:
    """Settings.

    Attributes:
        dim: of the vectors.
        dropout: before the fully connected layer.
        l2: of the vectors in a batch.
        training: of the loop.
    """

    dim: int = 64
    dropout: float = 0.2
    l2: float = 1e-3
    training: TrainingConfig = dataclasses.field(
        # A step reads the words of most of the catalogue whatever its size: few large ones cost least.
        default_factory=lambda: TrainingConfig(batch_size=8_192, learning_rate=1e-2)
    )


def fit(data: Data, config: MmulcoonnConfig) -> Fitted:
    """Returns MMulCooNN, trained pairwise: q = FC([CNN(picture); TextCNN(text); E(attributes)]), score = p . q + b.

    The picture's network is the house's frozen one and a trained layer; TextCNN is Kim's (2014). It descends from
    DeepCoNN (Zheng, Noroozi & Yu 2017), whose users are networks over what they wrote; here nobody writes, and p_u is
    learned. Items have no vector of their own: what events say of one item goes into its content's weights and b_i.
    """

    def make() -> FactorNetwork:
        return _Mmulcoonn(data, config)

    return train(make, data, config.training, name="mmulcoonn", examples=pairs(data))


class _Mmulcoonn(FactorNetwork):
    def __init__(self, data: Data, config: MmulcoonnConfig) -> None:
        super().__init__(data, dim=config.dim, l2=config.l2)
        self.content = Content(data, dim=config.dim, text="cnn")
        self.connected = tf.keras.Sequential(
            [
                tf.keras.layers.Activation("relu"),
                tf.keras.layers.Dropout(config.dropout),
                tf.keras.layers.Dense(2 * config.dim, activation="relu"),
                tf.keras.layers.Dense(config.dim),
            ]
        )

    def item_vectors(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.connected(self.content.side_by_side(rows, training=training), training=training)
