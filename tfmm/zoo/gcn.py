"""A graph convolutional network over users, items and attributes."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tfmm.closed_form import sp
from tfmm.features import ATTRIBUTES
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.graph import normalised_adjacency, sparse_tensor, spread
from tfmm.zoo.network import FactorNetwork, embedding
from tfmm.zoo.training import TrainingConfig, pairs, train


@dataclasses.dataclass(frozen=True)
class GcnConfig:
    """Settings.

    Attributes:
        dim: of the vectors, in each layer.
        layers: how often vectors spread.
        l2: of the vectors in a batch.
        training: of the loop.
    """

    dim: int = 64
    layers: int = 2
    l2: float = 1e-3
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def fit(data: Data, config: GcnConfig) -> Fitted:
    """Returns a GCN: H^(l+1) = s(D^-1/2 A D^-1/2 H^(l) W^(l)) (Kipf & Welling 2017, equation 2), trained pairwise.

    Nodes are users, items and attribute values; A joins a user with the items had, an item with its values, and each
    node with itself; s is a leaky ReLU. H^(0) is learned; items add a linear map of their vectors of pictures and
    texts. score = h_u . h_i, h being all layers side by side (as Wang et al. 2019).
    """

    def make() -> FactorNetwork:
        return _Gcn(data, config)

    return train(make, data, config.training, name="gcn", examples=pairs(data))


def graph_of(data: Data) -> sp.csr_matrix:
    """Returns the normalised adjacency of users, then items, then attribute values."""
    known = data.matrix().tocoo()
    ends, values = [np.stack([known.row, data.num_users + known.col])], 0
    if ATTRIBUTES in data.items.modalities:
        item, value = np.nonzero(data.items.attribute_table())
        values = len(data.items.vocabulary)
        ends.append(np.stack([data.num_users + item, data.num_users + data.num_items + value]))
    nodes = data.num_users + data.num_items + values
    return normalised_adjacency(*np.concatenate(ends, axis=1), nodes=nodes, self_loops=True)


class _Gcn(FactorNetwork):
    """Users are the first nodes, then items, then values."""

    def __init__(self, data: Data, config: GcnConfig) -> None:
        super().__init__(data, dim=config.dim, l2=config.l2)
        graph = graph_of(data)
        self._graph, self._num_items = sparse_tensor(graph), data.num_items
        self.others = embedding(graph.shape[0] - data.num_users, config.dim, "items_and_values")
        vectors = [data.vectors(name) for name in data.items.content]
        self._content = tf.constant(np.concatenate(vectors, axis=1)) if vectors else None
        self.map = tf.keras.layers.Dense(config.dim, use_bias=False, name="map")
        self.convolutions = [
            tf.keras.layers.Dense(config.dim, use_bias=False, name=f"layer{number}") for number in range(config.layers)
        ]

    def everything(self) -> tf.Tensor:
        """Returns `[nodes, dim * (layers + 1)]`."""
        items, values = tf.split(self.others.embeddings, [self._num_items, -1])
        if self._content is not None:
            items += self.map(self._content)
        layers = [tf.concat([self.users.embeddings, items, values], axis=0)]
        for convolution in self.convolutions:
            layers.append(tf.nn.leaky_relu(spread(self._graph, convolution(layers[-1]))))
        return tf.concat(layers, axis=1)

    def represent(self, users: tf.Tensor, rows: tf.Tensor, *, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        nodes = self.everything()
        return tf.gather(nodes, users), tf.gather(nodes, self.users.input_dim + rows)

    def biases(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.zeros(tf.shape(rows))
