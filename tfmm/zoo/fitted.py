"""What every system of the zoo returns, and how it is asked: with the code that the report measures everything by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from tfmm import closed_form, evaluation
from tfmm.evaluation import Lists
from tfmm.splits import Queries
from tfmm.zoo.data import Data

_CHUNK = 256  # queries scored at once


class Scorer(Protocol):
    """Whatever can score the whole catalogue for some queries."""

    def scores(self, queries: Queries) -> np.ndarray:
        """Returns `[queries, num_items]` float32."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained system.

    Attributes:
        scorer: answers.
        settings: that validation chose.
        curves: name -> one value an epoch; empty for a closed form.
    """

    scorer: Scorer
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)

    def scores(self, queries: Queries) -> np.ndarray:
        """Returns `[queries, num_items]` float32: finite, of every item, also of those never to be recommended."""
        return self.scorer.scores(queries)


@dataclasses.dataclass(frozen=True)
class Factors:
    """Scores p_u . q_i + b_i. A user without a training event is the mean of the items in the query's history.

    Attributes:
        users: `[num_users, dim]` float32.
        items: `[num_items, dim]` float32.
        bias: `[num_items]` float32.
        known: `[num_users]` bool: whether training saw the user.
    """

    users: np.ndarray
    items: np.ndarray
    bias: np.ndarray
    known: np.ndarray

    def scores(self, queries: Queries) -> np.ndarray:
        """Returns `[queries, num_items]` float32."""
        history = closed_form.history_matrix(queries.history, num_items=len(self.items))
        lengths = np.maximum(np.diff(history.indptr), 1)[:, np.newaxis]
        stranger = (history @ self.items) / lengths
        users = np.where(self.known[queries.user][:, np.newaxis], self.users[queries.user], stranger)
        return (users @ self.items.T + self.bias).astype(np.float32)


def recommend(fitted: Scorer, queries: Queries, launched: np.ndarray) -> Lists:
    """Returns what a system recommends: see `evaluation.recommend`."""
    return evaluation.recommend(fitted.scores, queries, launched, batch_size=_CHUNK)


def validation_ndcg(fitted: Scorer, data: Data) -> float:
    """Returns the mean NDCG@10 of the validation queries, of an even sample where there are very many."""
    queries = data.validation.sample()
    return evaluation.mean_ndcg(recommend(fitted, queries, data.launched), queries)
