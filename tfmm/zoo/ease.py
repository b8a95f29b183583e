"""EASE without recency, and EASE that knows what products are: `X'X + w S`, S being how alike their content is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tfmm import closed_form
from tfmm.evaluation import Baseline
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted, validation_ndcg


@dataclasses.dataclass(frozen=True)
class EaseConfig:
    """What validation chooses from.

    Attributes:
        l2: added to the diagonal.
        weights: w of the content's Gram matrix; 0 = EASE.
        decays: how much less each older item of a history counts; 1 = all the same.
    """

    l2: tuple[float, ...] = (30.0, 100.0, 300.0, 1000.0)
    weights: tuple[float, ...] = (0.0,)
    decays: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.l2 or not self.weights or not self.decays or min(self.weights) < 0:
            raise ValueError(f"Expected at least one l2, decay and content weight of 0 or more, got {self}.")


WITH_CONTENT = EaseConfig(
    l2=(100.0, 500.0), weights=(0.0, 1.0, 3.0, 10.0, 30.0, 100.0), decays=(1.0, 0.95, 0.9, 0.8, 0.6)
)


def fit(data: Data, config: EaseConfig) -> Fitted:
    """Returns EASE at the best settings: first l2 and decay without content, then w and decay.

    B = I - P / diag(P) with P = (X'X + w S + l2 I)^-1 (Steck 2019, equation 8; side information as further rows of X:
    Jeunen, Van Balen & Goethals 2020). S = F F' with `Data.content_rows`.
    """
    best = _best(data, config, [(l2, config.weights[0]) for l2 in config.l2])
    l2 = float(best.settings["l2"])  # type: ignore[arg-type]
    if config.weights[1:]:
        others = _best(data, config, [(l2, weight) for weight in config.weights[1:]])
        best = max(best, others, key=lambda one: validation_ndcg(one, data))
    return Fitted(best, best.settings)


def _best(data: Data, config: EaseConfig, settings: list[tuple[float, float]]) -> Baseline:
    return max(_choices(data, config, settings), key=lambda one: validation_ndcg(one, data))


def _choices(data: Data, config: EaseConfig, settings: list[tuple[float, float]]) -> Iterator[Baseline]:
    matrix = data.matrix()
    rows = data.content_rows() if any(weight for _, weight in settings) else None
    for l2, weight in settings:
        content = None if rows is None else weight * (rows @ rows.T)
        weights = closed_form.ease(matrix, l2=l2, content=content, dtype=np.float32)
        for decay in config.decays:
            yield Baseline("ease", {"l2": l2, "content": weight, "decay": decay}, None, weights, decay)
