"""MTMF: features that learn attributes and tastes at once, in matrix factorisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from tfmm import losses
from tfmm.features import ATTRIBUTES
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.network import Content, FactorNetwork, embedding
from tfmm.zoo.training import TrainingConfig, pairs, train


@dataclasses.dataclass(frozen=True)
class MtmfConfig:
    """Settings.

    Attributes:
        dim: of the vectors.
        dropout: inside the network.
        l2: of the vectors in a batch.
        attribute_weight: of the second task's loss.
        training: of the loop.
    """

    dim: int = 64
    dropout: float = 0.2
    l2: float = 3e-3
    attribute_weight: float = 0.1
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def fit(data: Data, config: MtmfConfig) -> Fitted:
    """Returns MTMF: score = p_u . (q_i + W g_i) + b_i, where g_i = ReLU(V [picture; text]) also tells the attributes.

    loss = pairwise loss + attribute_weight * cross-entropy of softmax(U g_i) with the item's attribute values, spread
    evenly (multi-task learning with a shared layer: Caruana 1997). A shop whose only content are attributes has them
    for features, and one task.
    """

    def make() -> FactorNetwork:
        return _Mtmf(data, config)

    return train(make, data, config.training, name="mtmf", examples=pairs(data))


def attribute_loss(logits: tf.Tensor, has: tf.Tensor) -> tf.Tensor:
    """Returns the mean cross-entropy, a scalar, over the items that have any value; 0 where none has.

    Args:
        logits: `[batch, values]`.
        has: `[batch, values]` bool.
    """
    known = tf.reduce_any(has, axis=1)
    found = losses.shared_softmax_loss(logits, has | ~known[:, tf.newaxis])
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(known, found, 0.0)), tf.reduce_sum(tf.cast(known, tf.float32)))


class _Mtmf(FactorNetwork):
    def __init__(self, data: Data, config: MtmfConfig) -> None:
        super().__init__(data, dim=config.dim, l2=config.l2)
        self.items = embedding(data.num_items, config.dim, "items")
        tasks = ATTRIBUTES in data.items.modalities and bool(data.items.content or data.tokens.any())
        self.content = Content(data, dim=config.dim, without=(ATTRIBUTES,) if tasks else ())
        self.shared = tf.keras.Sequential(
            [tf.keras.layers.Dense(2 * config.dim, activation="relu"), tf.keras.layers.Dropout(config.dropout)]
        )
        self.map = tf.keras.layers.Dense(config.dim, name="map")
        self._attribute_weight = config.attribute_weight if tasks else 0.0
        self._has = tf.constant(data.items.attribute_table()) if tasks else None
        self.tell = tf.keras.layers.Dense(len(data.items.vocabulary), name="attributes")

    def features(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        """Returns g `[batch, 2 * dim]`."""
        return self.shared(self.content.side_by_side(rows, training=training), training=training)

    def item_vectors(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.items(rows) + self.map(self.features(rows, training=training))

    def loss(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        wanted = super().loss(batch)
        if self._has is None:
            return wanted
        rows = tf.unique(batch["positive"])[0]
        told = attribute_loss(self.tell(self.features(rows, training=True)), tf.gather(self._has, rows))
        return wanted + self._attribute_weight * told
