"""BPR-MF: matrix factorisation that learns to put what a user had before what a user did not have."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.network import FactorNetwork, embedding
from tfmm.zoo.training import TrainingConfig, pairs, train


@dataclasses.dataclass(frozen=True)
class BprConfig:
    """Settings.

    Attributes:
        dim: of the vectors.
        l2: of the vectors in a batch.
        training: of the loop.
    """

    dim: int = 64
    l2: float = 1e-2
    training: TrainingConfig = dataclasses.field(default_factory=lambda: TrainingConfig(epochs=60, learning_rate=1e-2))


def fit(data: Data, config: BprConfig) -> Fitted:
    """Returns BPR-MF: score = p_u . q_i + b_i, loss -log sigmoid(score_ui - score_uj) (Rendle et al. 2009)."""

    def make() -> FactorNetwork:
        return _Mf(data, dim=config.dim, l2=config.l2)

    return train(make, data, config.training, name="bpr", examples=pairs(data))


class _Mf(FactorNetwork):
    """q_i is learned for each item by itself."""

    def __init__(self, data: Data, *, dim: int, l2: float) -> None:
        super().__init__(data, dim=dim, l2=l2)
        self.items = embedding(data.num_items, dim, "items")

    def item_vectors(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.items(rows)
