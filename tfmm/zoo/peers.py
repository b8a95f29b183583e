"""The field's own packages as systems of the zoo: implicit, cornac and RecTools (`pip install tfmm[bench]`).

What they learn is theirs; the data, the choice of epochs and settings on validation, and the measuring are ours. Each
package is imported when its system is fitted, and uses one thread, so that the same seed gives the same figures.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from typing import Any

import numpy as np

from tfmm import closed_form
from tfmm.splits import Queries
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Factors, Fitted
from tfmm.zoo.training import best_epoch


@dataclasses.dataclass(frozen=True)
class AlsConfig:
    """Settings of implicit's and RecTools' ALS; of those that are several, validation chooses.

    Attributes:
        dim: of the vectors.
        alphas: confidence in a pair that was observed, beside 1 of those that were not.
        l2: of every vector.
        epochs: at most.
        patience: epochs without a better validation NDCG@10.
        content_dim: principal directions of the content, which `fit_als_features` adds to the vectors.
    """

    dim: int = 64
    alphas: tuple[float, ...] = (4.0, 16.0, 40.0)
    l2: tuple[float, ...] = (0.1, 1.0, 10.0)
    epochs: int = 12
    patience: int = 2
    content_dim: int = 32


@dataclasses.dataclass(frozen=True)
class BprConfig:
    """Settings of implicit's and cornac's BPR.

    Attributes:
        dim: of the vectors.
        learning_rate: of stochastic gradient descent.
        l2: of every vector.
        rounds: passes over the events between two looks at validation.
        epochs: such looks, at most.
        patience: looks without a better validation NDCG@10.
    """

    dim: int = 64
    learning_rate: float = 0.05
    l2: float = 0.01
    rounds: int = 10
    epochs: int = 30
    patience: int = 4


def installed(package: str) -> bool:
    """Returns whether a package is there; "" always is."""
    return not package or importlib.util.find_spec(package) is not None


def absent(package: str) -> str:
    """Returns what to do where a package is not there."""
    return f"Expected the package {package!r}, which this system is, found none: pip install 'tfmm[bench]'"


def fit_als(data: Data, config: AlsConfig) -> Fitted:
    """Returns implicit's ALS: sum c_ui (p_ui - w_u . h_i)^2 + l2 (|w|^2 + |h|^2), c = alpha or 1 (Hu et al. 2008).

    A query's user is solved anew from the query's history, by the package itself.
    """
    _check("implicit")
    tried = [_als(data, config, alpha, l2) for alpha, l2 in itertools.product(config.alphas, config.l2)]
    return max(tried, key=_validation)


def fit_bpr(data: Data, config: BprConfig) -> Fitted:
    """Returns implicit's BPR: -log sigmoid(score_ui - score_uj), event by event (Rendle et al. 2009)."""
    _check("implicit")
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    matrix, known = data.matrix().tocsr(), data.known_users()
    model = BayesianPersonalizedRanking(
        factors=config.dim,
        learning_rate=config.learning_rate,
        regularization=config.l2,
        iterations=config.rounds,
        num_threads=1,
        random_state=np.random.default_rng(data.seed),  # goes on from one call of fit to the next
    )

    def epoch() -> float:
        model.fit(matrix, show_progress=False)
        return 0.0

    def scorer() -> Factors:  # the last column of its items is their bias
        users, items = model.user_factors[:, :-1].copy(), model.item_factors.copy()
        return Factors(users, items[:, :-1], items[:, -1], known)

    return best_epoch(epoch, scorer, data, epochs=config.epochs, patience=config.patience, name="implicit_bpr")


def fit_cornac_bpr(data: Data, config: BprConfig) -> Fitted:
    """Returns cornac's BPR, the same equation; items that nobody had are ranked last."""
    _check("cornac")
    from cornac.data import Dataset
    from cornac.models import BPR

    pairs = data.matrix().tocoo()
    events = Dataset.from_uir(list(zip(pairs.row.tolist(), pairs.col.tolist(), np.ones(pairs.nnz).tolist())))
    user_rows, item_rows = (np.array(list(ids)) for ids in (events.user_ids, events.item_ids))
    learned: dict[str, Any] = {"seed": data.seed}

    def epoch() -> float:
        model = BPR(
            k=config.dim,
            max_iter=config.rounds,
            learning_rate=config.learning_rate,
            lambda_reg=config.l2,
            num_threads=1,
            seed=learned["seed"],
            init_params=learned.get("weights"),
        ).fit(events)
        learned["weights"] = {"U": model.u_factors, "V": model.i_factors, "Bi": model.i_biases}
        learned["seed"] += 1  # else every call would draw the same negatives
        return 0.0

    def scorer() -> Factors:
        weights = learned["weights"]
        users, items = np.zeros((data.num_users, config.dim)), np.zeros((data.num_items, config.dim))
        bias = np.full(data.num_items, weights["Bi"].min() - np.abs(weights["V"]).sum())
        users[user_rows], items[item_rows], bias[item_rows] = weights["U"], weights["V"], weights["Bi"]
        single = np.float32
        return Factors(users.astype(single), items.astype(single), bias.astype(single), known=data.known_users())

    return best_epoch(epoch, scorer, data, epochs=config.epochs, patience=config.patience, name="cornac_bpr")


def fit_als_features(data: Data, config: AlsConfig) -> Fitted:
    """Returns RecTools' ALS with item features: h_i = [learned, content], w_u learned against both, in one loss."""
    _check("rectools")
    content = _principal(data.content_rows(), config.content_dim)
    pairs = itertools.product(config.alphas, config.l2)
    return max((_als_features(data, config, content, alpha, l2) for alpha, l2 in pairs), key=_validation)


@dataclasses.dataclass(frozen=True)
class _Als:
    """Item vectors in a model of implicit's; users are solved when they ask."""

    model: Any
    items: np.ndarray

    def scores(self, queries: Queries) -> np.ndarray:
        """Returns `[queries, num_items]` float32."""
        history = closed_form.history_matrix(queries.history, num_items=len(self.items))
        self.model.item_factors, self.model._YtY = self.items, None  # of the epoch that was best
        users = self.model.recalculate_user(np.arange(len(queries)), history)
        return np.asarray(users @ self.items.T, np.float32)


def _als(data: Data, config: AlsConfig, alpha: float, l2: float) -> Fitted:
    model, matrix = _als_model(data, config.dim, l2, alpha=alpha), data.matrix().tocsr()

    def epoch() -> float:
        model.fit(matrix, show_progress=False)  # goes on from the vectors that it has
        return 0.0

    def scorer() -> _Als:
        return _Als(model, model.item_factors.copy())

    name = f"implicit_als {alpha:g} {l2:g}"
    found = best_epoch(epoch, scorer, data, epochs=config.epochs, patience=config.patience, name=name)
    return dataclasses.replace(found, settings={"alpha": alpha, "l2": l2, **found.settings})


def _als_features(data: Data, config: AlsConfig, content: np.ndarray, alpha: float, l2: float) -> Fitted:
    from rectools.dataset import DenseFeatures
    from rectools.models.implicit_als import fit_als_with_features_together_inplace

    features = DenseFeatures(content, tuple(f"content{number}" for number in range(content.shape[1])))
    model, matrix = _als_model(data, config.dim, l2), data.matrix().tocsr() * np.float32(alpha)

    def epoch() -> float:
        fit_als_with_features_together_inplace(model, matrix, None, features, iterations=1)
        return 0.0

    def scorer() -> Factors:
        nothing = np.zeros(data.num_items, np.float32)
        return Factors(model.user_factors.copy(), model.item_factors.copy(), nothing, data.known_users())

    name = f"rectools_als_features {alpha:g} {l2:g}"
    found = best_epoch(epoch, scorer, data, epochs=config.epochs, patience=config.patience, name=name)
    return dataclasses.replace(found, settings={"alpha": alpha, "l2": l2, **found.settings})


def _als_model(data: Data, dim: int, l2: float, *, alpha: float = 1.0) -> Any:
    """Returns implicit's model of exact solves, one iteration a call of `fit`."""
    from implicit.cpu.als import AlternatingLeastSquares

    settings = {"factors": dim, "regularization": l2, "alpha": alpha, "iterations": 1}
    return AlternatingLeastSquares(**settings, use_cg=False, num_threads=1, random_state=data.seed)


def _principal(rows: np.ndarray, dim: int) -> np.ndarray:
    """Returns `[num_items, dim]` float32: rows in their first directions, so that their products change least."""
    _, directions = np.linalg.eigh(rows.T @ rows)
    return np.asarray(rows @ directions[:, ::-1][:, :dim], np.float32)


def _validation(fitted: Fitted) -> float:
    return max(fitted.curves["validation ndcg@10"])


def _check(package: str) -> None:
    if not installed(package):
        raise ImportError(absent(package))
