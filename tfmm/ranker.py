"""What scores lists that somebody else retrieved: raw numbers -> several listwise scorers -> one score, in a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm import schema
from tfmm.candidates import Tensors, standardised
from tfmm.pipelines import parse_example_lists
from tfmm.records import FEATURES
from tfmm.reranking import ListwiseScorer, RerankingConfig
from tfmm.service import MAX_LIST
from tfmm.trees import Trees

LISTWISE, TREES, MIXTURE = "listwise", "lightgbm", "mixture"


@dataclasses.dataclass(frozen=True)
class LetorConfig:
    """Rankers of example lists (source `letor`), beside what `reranking` says of each of their scorers.

    Attributes:
        members: scorers in the exported model, each with a seed of its own; their scores are averaged.
        losses: of TF-Ranking's, separated by commas; the members take them in turn.
        trees: "auto" (LightGBM's lambdarank is trained beside the scorers, mixed with them and exported, where it is
            installed), "lightgbm" (it must be) or "none".
    """

    members: int = 3
    losses: str = "softmax_loss"
    trees: str = "auto"

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"Expected letor.members of 1 or more, got {self.members}.")
        if self.trees not in ("auto", "lightgbm", "none"):
            raise ValueError(f"Expected letor.trees to be auto, lightgbm or none, got {self.trees!r}.")
        for loss in self.loss_names:
            RerankingConfig(loss=loss)  # raises where there is no such loss

    @property
    def loss_names(self) -> list[str]:
        """The losses one by one."""
        return [name.strip() for name in self.losses.split(",")]


class ListNumbers(tf.Module):
    """Raw numbers of documents -> what a network can read of them, alone and within their list.

    Of each number: whether it is missing; its logarithm (log1p, with its sign); where it stands among all numbers of
    the training lists (quantile); and where it stands in its own list, by its logarithm from the smallest to the
    largest and by how many of the list are below it (Qin et al. 2021 on why trees need none of it, and networks do).
    """

    def __init__(self, features: np.ndarray, *, knots: int = 64) -> None:
        """Learns quantiles from `[documents, num_features]`, NaN = missing."""
        super().__init__(name="list_numbers")
        known = [column[~np.isnan(column)] for column in features.T]
        levels = (np.arange(knots) + 0.5) / knots
        quantiles = [np.quantile(column, levels) if len(column) else np.zeros(knots) for column in known]
        self._knots = tf.Variable(np.stack(quantiles), trainable=False, dtype=tf.float32, name="knots")
        means = [_log1p(column).mean() if len(column) else 0.0 for column in known]
        self._means = tf.Variable(means, trainable=False, dtype=tf.float32, name="means")

    @property
    def num_features(self) -> int:
        """Raw numbers of a document."""
        return int(self._means.shape[0])

    def __call__(self, raw: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, list_size, 5 * num_features]` of `[batch, list_size, num_features]`, NaN = missing."""
        there = tf.math.is_finite(raw) & mask[..., tf.newaxis]
        values = tf.where(there, raw, 0.0)
        logged = tf.sign(values) * tf.math.log1p(tf.abs(values))
        views = [
            tf.cast(there, tf.float32),
            tf.where(there, logged, self._means),
            tf.where(there, self._quantiles(values), 0.5),
            tf.where(there, _within(logged, there), 0.5),
            tf.where(there, _share_below(values, there), 0.5),
        ]
        return tf.concat(views, axis=-1)

    def _quantiles(self, values: tf.Tensor) -> tf.Tensor:
        columns = tf.transpose(tf.reshape(values, [-1, self.num_features]))  # [num_features, batch * list_size]
        return tf.reshape(tf.transpose(_middle(self._knots, columns)), tf.shape(values)) / self._knots.shape[1]


class Ranker(tf.Module):
    """Scores serialised example lists: the members' mean, and trees beside it where there are any."""

    def __init__(
        self,
        numbers: ListNumbers,
        members: Sequence[ListwiseScorer],
        *,
        trees: Optional[Trees] = None,
        trees_weight: float = 0.0,
    ) -> None:
        """Takes what was trained.

        Args:
            numbers: what the members read.
            members: whose standardised scores are averaged.
            trees: what they are mixed with.
            trees_weight: how much the trees count beside the members, chosen on validation; 0 = not at all.
        """
        super().__init__(name="ranker")
        self.numbers, self.members, self.trees = numbers, list(members), trees
        self.trees_weight = tf.Variable(trees_weight, trainable=False, dtype=tf.float32, name="trees_weight")

    def listwise(self, raw: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, list_size]`: the mean of the members' scores, each standardised within the list."""
        features = {"example": self.numbers(raw, mask), "mask": mask}
        return tf.add_n([standardised(member(features), mask) for member in self.members]) / len(self.members)

    def by_trees(self, raw: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, list_size]`, standardised within the list."""
        assert self.trees is not None
        flat = self.trees(tf.reshape(raw, [-1, self.numbers.num_features]))
        return standardised(tf.reshape(flat, tf.shape(mask)), mask)

    def mixture(self, raw: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, list_size]`: the members and the trees, late-fused; the members alone without trees."""
        mean = self.listwise(raw, mask)
        return mean if self.trees is None else mean + self.trees_weight * self.by_trees(raw, mask)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Returns `rank` (= `serving_default`, the mixture), and each of its parts as `rank_<part>`."""
        parts = {LISTWISE: self.listwise}
        if self.trees is not None:
            parts |= {TREES: self.by_trees}
        rank = self._signature(self.mixture)
        named = {f"rank_{name}": self._signature(score) for name, score in parts.items()}
        return {"serving_default": rank, "rank": rank, **named}

    def _signature(self, score: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> tf.types.experimental.ConcreteFunction:
        def rank(examples: tf.Tensor) -> Tensors:
            """Scores each example of serialised ExampleListWithContext, in the order given; padding scores lowest."""
            features, mask = parse_example_lists(examples, num_features=self.numbers.num_features)
            length = tf.shape(mask)[1]
            told = f"Expected at most {MAX_LIST} examples in a list."
            with tf.control_dependencies([tf.debugging.assert_less_equal(length, MAX_LIST, told)]):
                raw = tf.identity(features[FEATURES])
            scores = tf.where(mask, score(raw, mask), tf.float32.min)
            return {schema.ITEM_IDS: features[schema.ITEM_ID], schema.SCORES: scores}

        return tf.function(rank).get_concrete_function(examples=tf.TensorSpec([None], tf.string, "examples"))


def _log1p(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values))


def _within(values: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    """Returns where each value stands between its list's smallest (0) and largest (1); 0 where these are equal."""
    low = tf.reduce_min(tf.where(there, values, tf.float32.max), axis=1, keepdims=True)
    high = tf.reduce_max(tf.where(there, values, tf.float32.min), axis=1, keepdims=True)
    return tf.math.divide_no_nan(values - low, tf.where(high > low, high - low, 0.0))


def _share_below(values: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    """Returns which share of its list's known values each one is above; equal ones count half."""
    batch, size, width = (tf.shape(values)[axis] for axis in range(3))
    columns = tf.reshape(tf.transpose(values, [0, 2, 1]), [-1, size])  # [batch * width, list_size]
    known = tf.reshape(tf.transpose(there, [0, 2, 1]), [-1, size])
    ordered = tf.sort(tf.where(known, columns, tf.float32.max), axis=1)  # what is missing stands behind all others
    below = tf.transpose(tf.reshape(_middle(ordered, columns), [batch, width, size]), [0, 2, 1])
    count = tf.reduce_sum(tf.cast(there, tf.float32), axis=1, keepdims=True)
    return tf.math.divide_no_nan(below, count)


def _middle(ordered: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns how many of each row's ordered numbers each value is above, equal ones half: `[rows, n]` float32."""
    sides = [tf.searchsorted(ordered, values, side=side) for side in ("left", "right")]
    return tf.cast(sides[0] + sides[1], tf.float32) / 2.0


def warmup_requests(ranker: Ranker, examples: np.ndarray) -> Mapping[str, dict[str, np.ndarray]]:
    """Returns one request for each signature."""
    return {name: {"examples": examples} for name in ranker.signatures()}
