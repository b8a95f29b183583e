"""LightGCN over who had what, and over which items look, read and are alike."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.graph import nearest_items, normalised_adjacency, sparse_tensor, spread
from tfmm.zoo.network import FactorNetwork, embedding
from tfmm.zoo.training import TrainingConfig, pairs, train


@dataclasses.dataclass(frozen=True)
class LightGcnConfig:
    """Settings.

    Attributes:
        dim: of the vectors.
        layers: K.
        neighbours: k of the graph between items; 0 = LightGCN without it.
        l2: of the vectors in a batch.
        training: of the loop.
    """

    dim: int = 64
    layers: int = 2
    neighbours: int = 10
    l2: float = 1e-3
    training: TrainingConfig = dataclasses.field(default_factory=lambda: TrainingConfig(epochs=60, learning_rate=1e-2))

    def __post_init__(self) -> None:
        if self.layers < 0 or self.neighbours < 0:
            raise ValueError(f"Expected layers and neighbours of 0 or more, got {self.layers} and {self.neighbours}.")


def fit(data: Data, config: LightGcnConfig) -> Fitted:
    """Returns LightGCN, with content where `neighbours` is above 0.

    E^(k+1) = D^-1/2 A D^-1/2 E^(k) over users and items, E = mean of E^(0) .. E^(K), score = e_u . e_i, trained
    pairwise (He et al. 2020, equations 7 and 8). To an item's vector comes S E^(0), S being the normalised graph of its
    k nearest by content (LATTICE, Zhang et al. 2021), computed once (as in FREEDOM, Zhou & Shen 2023).
    """

    def make() -> FactorNetwork:
        return _LightGcn(data, config)

    name = "lightgcn_content" if config.neighbours else "lightgcn"
    return train(make, data, config.training, name=name, examples=pairs(data))


class _LightGcn(FactorNetwork):
    """Users are the first rows of E, items the others."""

    def __init__(self, data: Data, config: LightGcnConfig) -> None:
        super().__init__(data, dim=config.dim, l2=config.l2)
        self.items = embedding(data.num_items, config.dim, "items")
        self._layers_wanted, known = config.layers, data.matrix().tocoo()
        nodes = data.num_users + data.num_items
        self._graph = sparse_tensor(normalised_adjacency(known.row, data.num_users + known.col, nodes=nodes))
        count = config.neighbours
        self._alike = sparse_tensor(nearest_items(data.content_rows(), count)) if count else None

    def everything(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns all users' vectors `[num_users, dim]` and all items' `[num_items, dim]`."""
        layer = total = tf.concat([self.users.embeddings, self.items.embeddings], axis=0)
        for _ in range(self._layers_wanted):
            layer = spread(self._graph, layer)
            total += layer
        users, items = tf.split(total / (self._layers_wanted + 1), [self.users.input_dim, self.items.input_dim])
        if self._alike is not None:
            items += spread(self._alike, self.items.embeddings)
        return users, items

    def represent(self, users: tf.Tensor, rows: tf.Tensor, *, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        everybody, everything = self.everything()
        return tf.gather(everybody, users), tf.gather(everything, rows)

    def biases(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.zeros(tf.shape(rows))
