"""MMFNet: picture, words and attributes gated by attention, trained on two tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from tfmm.features import ATTRIBUTES
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.mtmf import attribute_loss
from tfmm.zoo.network import Content, FactorNetwork, pointwise
from tfmm.zoo.training import TrainingConfig, pairs, train

_HIDDEN = 0.5  # of the items of a step, whose attributes are to be told, not read


@dataclasses.dataclass(frozen=True)
class MmfnetConfig:
    """Settings.

    Attributes:
        dim: of the vectors.
        l2: of the vectors in a batch.
        attribute_weight: of the second task's loss.
        training: of the loop.
    """

    dim: int = 64
    l2: float = 1e-3
    attribute_weight: float = 0.1
    training: TrainingConfig = dataclasses.field(
        # A step reads the words of most of the catalogue whatever its size: few large ones cost least.
        default_factory=lambda: TrainingConfig(batch_size=8_192, learning_rate=1e-2)
    )


def fit(data: Data, config: MmfnetConfig) -> Fitted:
    """Returns MMFNet: x = [CNN(picture); LSTM(text); dense(attributes)], a = softmax(A x), h = FC(a * x).

    Two tasks read h: interaction, sigmoid(p_u . h_i + b_i) with log loss, and the item's attribute values, softmax(U h)
    with cross-entropy; of the items of a step, half have their attributes hidden, and only these are asked for them.
    The gate a has one entry for each of x, and is scaled to a mean of 1.
    """

    def make() -> FactorNetwork:
        return _Mmfnet(data, config)

    return train(make, data, config.training, name="mmfnet", examples=pairs(data))


class _Mmfnet(FactorNetwork):
    def __init__(self, data: Data, config: MmfnetConfig) -> None:
        super().__init__(data, dim=config.dim, l2=config.l2)
        self.content = Content(data, dim=config.dim, text="lstm")
        self._width = config.dim * len(self.content.names)
        self.gate = tf.keras.layers.Dense(self._width, activation="softmax", name="gate")
        self.connected = tf.keras.Sequential(
            [tf.keras.layers.Dense(2 * config.dim, activation="relu"), tf.keras.layers.Dense(config.dim)]
        )
        tasks = ATTRIBUTES in self.content.names and len(self.content.names) > 1
        self._attribute_weight = config.attribute_weight
        self._has = tf.constant(data.items.attribute_table()) if tasks else None
        self.tell = tf.keras.layers.Dense(len(data.items.vocabulary), name="attributes")

    def interaction_loss(self, logits: tf.Tensor) -> tf.Tensor:
        return pointwise(logits)

    def gated(self, x: tf.Tensor) -> tf.Tensor:
        """Returns h `[batch, dim]`."""
        return self.connected(self.gate(x) * self._width * x)

    def item_vectors(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.gated(self.content.side_by_side(rows, training=training))

    def loss(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        wanted = super().loss(batch)
        if self._has is None:
            return wanted
        rows = tf.unique(batch["positive"])[0]
        asked = tf.random.uniform(tf.shape(rows)) < _HIDDEN
        hidden = asked[:, tf.newaxis] & tf.constant([name == ATTRIBUTES for name in self.content.names])
        told = self.tell(self.gated(self.content.side_by_side(rows, training=True, hidden=hidden)))
        has = tf.gather(self._has, rows) & asked[:, tf.newaxis]
        return wanted + self._attribute_weight * attribute_loss(told, has)
