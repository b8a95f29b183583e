"""LightGBM's lambdarank: tuned on validation, and as core ops. The one owner of `lightgbm` (extra `bench`)."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf

from tfmm.progress import track

_log = logging.getLogger(__name__)

LEAVES = (7, 15, 31)
LEAST_IN_LEAF = (20, 100)
_ROUNDS, _PATIENCE = 600, 60


class Part(NamedTuple):
    """Documents of queries that stand together.

    Attributes:
        features: `[documents, num_features]`, NaN = missing.
        labels: `[documents]`.
        lengths: `[queries]`, documents of each query.
        weights: `[documents]`, how much each label counts, or None: all alike.
    """

    features: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    weights: Optional[np.ndarray] = None


@dataclasses.dataclass(frozen=True)
class Forest:
    """A trained booster and what validation chose.

    Attributes:
        booster: LightGBM's, cut at its best round.
        settings: chosen.
        quality: of each setting on validation.
    """

    booster: Any
    settings: Mapping[str, Any]
    quality: Mapping[str, float]

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns `[documents]`, by LightGBM itself."""
        found: np.ndarray = self.booster.predict(features, num_threads=1)
        return found


def available() -> bool:
    """Returns whether LightGBM is installed."""
    return importlib.util.find_spec("lightgbm") is not None


def require() -> Any:
    """Returns the library.

    Raises:
        ValueError: where it is not installed; it says what to do.
    """
    if not available():
        raise ValueError(
            "Expected LightGBM, which is not installed: pip install 'tfmm[bench]'. Or do without: --letor.trees none."
        )
    import lightgbm

    return lightgbm


def fit(train: Part, validation: Part, *, quality: Callable[[np.ndarray], float], seed: int) -> Forest:
    """Returns the forest that is best on validation: size of the trees, of their leaves, and how many there are.

    Args:
        train: labels of whole numbers.
        validation: stops each forest, and chooses one.
        quality: scores of validation's documents -> what is to be maximised.
        seed: of the booster.
    """
    lightgbm = require()
    parts = [
        lightgbm.Dataset(one.features, one.labels, weight=one.weights, group=one.lengths, free_raw_data=False)
        for one in (train, validation)
    ]
    found: dict[str, tuple[float, Any, dict[str, Any]]] = {}
    for leaves, least in track(list(itertools.product(LEAVES, LEAST_IN_LEAF)), "growing trees"):
        settings = {"num_leaves": leaves, "min_data_in_leaf": least, "learning_rate": 0.05}
        fixed = {"objective": "lambdarank", "metric": "ndcg", "eval_at": [10], "seed": seed, "num_threads": 1}
        booster = lightgbm.train(
            {**settings, **fixed, "verbose": -1, "deterministic": True, "feature_pre_filter": False},
            parts[0],
            num_boost_round=_ROUNDS,
            valid_sets=[parts[1]],
            callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
        )
        value = quality(booster.predict(validation.features, num_threads=1))
        found[f"{leaves} leaves of at least {least}"] = value, booster, {**settings, "trees": booster.best_iteration}
    best = max(found, key=lambda name: found[name][0])
    _log.info("lightgbm: %s, %d trees: validation %.4f", best, found[best][2]["trees"], found[best][0])
    return Forest(found[best][1], found[best][2], {name: value for name, (value, *_) in found.items()})


class Trees(tf.Module):
    """A forest in core ops: every document walks down all trees at once."""

    def __init__(self, forest: Forest) -> None:
        super().__init__(name="trees")
        dumped = forest.booster.dump_model(num_iteration=forest.booster.best_iteration)
        grown = [_nodes(tree["tree_structure"]) for tree in dumped["tree_info"]]
        width = max(len(nodes) for nodes in grown)
        table = np.stack([_padded(nodes, width) for nodes in grown])  # [trees, nodes, 6]
        starts = np.arange(len(grown))[:, np.newaxis] * width
        self._feature = _constant(table[..., _FEATURE], np.int32, "feature")
        self._threshold = _constant(table[..., _THRESHOLD], np.float64, "threshold")
        self._left = _constant(table[..., _LEFT] + starts, np.int32, "left")
        self._right = _constant(table[..., _RIGHT] + starts, np.int32, "right")
        self._default_left = _constant(table[..., _DEFAULT_LEFT], np.bool_, "default_left")
        self._value = _constant(table[..., _VALUE], np.float64, "value")
        self._roots = tf.constant(starts[:, 0], tf.int32)
        self._depth = max(_depth(tree["tree_structure"]) for tree in dumped["tree_info"])

    def __call__(self, features: tf.Tensor) -> tf.Tensor:
        """Returns `[documents]` of numbers `[documents, num_features]`, NaN = missing."""
        numbers = tf.cast(features, tf.float64)  # as thresholds are: rounded ones would send documents astray
        node = tf.tile(self._roots[tf.newaxis], [tf.shape(numbers)[0], 1])  # [documents, trees]
        for _ in range(self._depth):
            value = tf.gather(numbers, tf.gather(self._feature, node), axis=1, batch_dims=1)
            below = tf.where(
                tf.math.is_nan(value), tf.gather(self._default_left, node), value <= tf.gather(self._threshold, node)
            )
            node = tf.where(below, tf.gather(self._left, node), tf.gather(self._right, node))
        return tf.cast(tf.reduce_sum(tf.gather(self._value, node), axis=1), tf.float32)


_FEATURE, _THRESHOLD, _LEFT, _RIGHT, _DEFAULT_LEFT, _VALUE = range(6)


def _constant(values: np.ndarray, dtype: Any, name: str) -> tf.Variable:
    return tf.Variable(values.reshape(-1).astype(dtype), trainable=False, name=name)


def _nodes(root: Mapping[str, Any]) -> list[list[float]]:
    """Returns a row a node: feature, threshold, left, right, missing goes left, value. Leaves lead to themselves."""
    rows: list[list[float]] = []

    def add(node: Mapping[str, Any]) -> int:
        at = len(rows)
        rows.append([0.0, 0.0, at, at, 1.0, float(node.get("leaf_value", 0.0))])
        if "split_feature" in node:
            # Where training saw nothing missing, LightGBM takes what is missing for 0.
            missing_left = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0
            ends = [add(node["left_child"]), add(node["right_child"])]
            rows[at] = [node["split_feature"], node["threshold"], *ends, float(missing_left), 0.0]
        return at

    add(root)
    return rows


def _padded(nodes: list[list[float]], width: int) -> np.ndarray:
    table = np.zeros([width, 6])
    table[: len(nodes)] = nodes
    return table


def _depth(node: Mapping[str, Any]) -> int:
    children = [node[name] for name in ("left_child", "right_child") if name in node]
    return 1 + max(map(_depth, children)) if children else 0
