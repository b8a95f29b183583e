"""iALS: matrix factorisation of implicit feedback by alternating least squares, each solve in closed form."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from tfmm import closed_form
from tfmm.splits import Queries
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.training import best_epoch

_ROWS = 512  # solved at once


@dataclasses.dataclass(frozen=True)
class IalsConfig:
    """Settings; of those that are several, validation chooses.

    Attributes:
        dim: of the vectors.
        alphas: weight of every pair that was not observed, beside 1 of those that were.
        l2: of a vector, times its weight in the loss: (events + alpha * all others) ** nu.
        nu: 1 = frequent users and items are held back more, 0 = all alike.
        epochs: at most.
        patience: epochs without a better validation NDCG@10.
    """

    dim: int = 64
    alphas: tuple[float, ...] = (0.03, 0.1, 0.3)
    l2: tuple[float, ...] = (0.003, 0.01, 0.03)
    nu: float = 1.0
    epochs: int = 12
    patience: int = 2


def fit(data: Data, config: IalsConfig) -> Fitted:
    """Returns iALS: it minimises the following over w and h, one side after the other.

    sum over observed (1 - w_u . h_i)^2 + alpha sum over all (w_u . h_i)^2 + l2 sum (weight_u^nu |w_u|^2 + ...)
    (Hu, Koren & Volinsky 2008; in this form Rendle et al. 2021).

    A query's user is solved from the query's history, so that what was done since training counts, and strangers do.
    """
    tried = [_fit(data, config, alpha, l2) for alpha, l2 in itertools.product(config.alphas, config.l2)]
    return max(tried, key=lambda fitted: max(fitted.curves["validation ndcg@10"]))


def solve(
    matrix: closed_form.sp.csr_matrix, others: np.ndarray, *, alpha: float, l2: float, nu: float = 1.0
) -> np.ndarray:
    """Returns `[rows, dim]` float32: of each row the w that minimises its part of the loss, the others held.

    w = (sum over observed h h' + alpha H'H + l2 (observed + alpha n)^nu I)^-1 sum over observed h.

    Args:
        matrix: `[rows, n]`: non-zero where observed.
        others: `[n, dim]`: H.
        alpha: weight of every pair.
        l2: see `IalsConfig`.
        nu: likewise.
    """
    base, dim = alpha * others.T @ others, others.shape[1]
    solved: np.ndarray = np.zeros((matrix.shape[0], dim), np.float32)
    for start in range(0, len(solved), _ROWS):
        some = matrix[start : start + _ROWS]
        observed = [others[some.indices[a:b]] for a, b in zip(some.indptr[:-1], some.indptr[1:])]
        weight = np.diff(some.indptr) + alpha * len(others)
        ridge = (l2 * weight**nu)[:, np.newaxis, np.newaxis] * np.eye(dim)
        grams = np.stack([h.T @ h for h in observed]) + base + ridge
        right = np.stack([h.sum(axis=0) for h in observed])
        solved[start : start + _ROWS] = np.linalg.solve(grams, right[..., np.newaxis])[..., 0]
    return solved


@dataclasses.dataclass(frozen=True)
class _Folded:
    """The items' vectors; users are solved when they ask."""

    items: np.ndarray
    alpha: float
    l2: float
    nu: float

    def scores(self, queries: Queries) -> np.ndarray:
        """Returns `[queries, num_items]` float32."""
        history = closed_form.history_matrix(queries.history, num_items=len(self.items))
        users = solve(history, self.items, alpha=self.alpha, l2=self.l2, nu=self.nu)
        return users @ self.items.T


def _fit(data: Data, config: IalsConfig, alpha: float, l2: float) -> Fitted:
    matrix, rng = data.matrix().tocsr(), np.random.default_rng(data.seed)
    columns = matrix.T.tocsr()
    state = {"items": rng.normal(0, 0.1 / np.sqrt(config.dim), (data.num_items, config.dim)).astype(np.float32)}

    def epoch() -> float:
        users = solve(matrix, state["items"], alpha=alpha, l2=l2, nu=config.nu)
        state["items"] = solve(columns, users, alpha=alpha, l2=l2, nu=config.nu)
        known = matrix.tocoo()
        return float(np.mean((1 - np.sum(users[known.row] * state["items"][known.col], axis=1)) ** 2))

    def scorer() -> _Folded:
        return _Folded(state["items"], alpha, l2, config.nu)

    name = f"ials {alpha:g} {l2:g}"
    found = best_epoch(epoch, scorer, data, epochs=config.epochs, patience=config.patience, name=name)
    return dataclasses.replace(found, settings={"alpha": alpha, "l2": l2, **found.settings})
