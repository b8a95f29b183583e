"""Example lists -> a listwise scorer, trained with TF-Ranking's losses and metrics."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_ranking as tfr

from tfmm.candidates import Candidates, Tensors
from tfmm.progress import counter
from tfmm.retrieval import log_scalars

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RerankingConfig:
    """The scorer's shape and training.

    Attributes:
        loss: any of TF-Ranking's, by its name there: "softmax_loss", "approx_ndcg_loss", "list_mle_loss", ... Pairs of
            the pairwise ones count by what their swap would change of NDCG with "+ndcg" after it.
        epochs: at most.
        patience: epochs without a better validation NDCG@10 before training stops.
        batch_size: lists a step.
        learning_rate: of AdamW.
        width: of the scorer's layers.
        layers: of self-attention across the list.
        heads: of each.
        dropout: in the scorer.
        noise: standard deviation of what is added to the (standardised) numbers in training, so that no scorer leans on
            their exact values.
        averaging: decay of a running mean of the weights over steps, which is what validation sees and what is kept; 0
            keeps the weights of the last step.
        vectors: whether the scorer also reads the product of the query's and the candidate's vectors, where there are
            any; it then knows one space only, that of the towers whose lists it learned from.
    """

    loss: str = "softmax_loss"
    epochs: int = 12
    patience: int = 3
    batch_size: int = 64
    learning_rate: float = 1e-3
    width: int = 64
    layers: int = 1
    heads: int = 2
    dropout: float = 0.2
    noise: float = 0.0
    averaging: float = 0.0
    vectors: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.averaging < 1:
            raise ValueError(f"Expected reranking.averaging from 0 to below 1, got {self.averaging}.")
        if self.loss not in loss_names():
            raise ValueError(f"Expected reranking.loss to be one of {', '.join(loss_names())}, got {self.loss!r}.")


PAIRWISE = ("pairwise_hinge_loss", "pairwise_logistic_loss", "pairwise_soft_zero_one_loss")
_BY_NDCG = "+ndcg"


def loss_names() -> list[str]:
    """Returns what `RerankingConfig.loss` may be."""
    plain = set(tfr.keras.losses.RankingLossKey.all_keys()) - {"ordinal_loss"}  # that one wants several scores
    return sorted(plain | {name + _BY_NDCG for name in PAIRWISE})


def loss_named(name: str) -> tf.keras.losses.Loss:
    """Returns the loss; "+ndcg" weighs its pairs as LambdaLoss does (Wang et al. 2018, NDCG-Loss2)."""
    plain = name.removesuffix(_BY_NDCG)
    weight = None if plain == name else tfr.keras.losses.NDCGLambdaWeightV2()
    return tfr.keras.losses.get(plain, **({} if weight is None else {"lambda_weight": weight}))


class ListwiseScorer(tf.keras.Model):
    """Scores `[batch, list_size]` of a list whose members see one another (Pang et al. 2020, SetRank).

    The first two features, the retrieval score and what item-item weights say, are terms of the outcome from the
    start, and the rest starts at zero: untrained, the scorer adds up a learned model and a closed form, which mix well.
    Lists that nobody retrieved have no such terms, and no vectors of items and queries: numbers alone.

    Attributes:
        terms: how many features are terms of the outcome.
        trust: weights of the retrieval score, of the item-item weights, and of what is learned beside them.
    """

    def __init__(self, config: RerankingConfig, *, terms: int = 2) -> None:
        super().__init__(name="listwise_scorer")
        self._config, self.terms = config, terms
        self.normalise = tf.keras.layers.Normalization(name="normalise")
        self.match = tf.keras.layers.Dense(config.width, name="match")
        self.enter = tf.keras.layers.Dense(config.width, activation="gelu", name="enter")
        self.blocks = [_ListBlock(config, name=f"block_{i}") for i in range(config.layers)]
        # Equal scores are where TF-Ranking's logistic pairs have no gradient, so that it is nearly zero without terms.
        start = "zeros" if terms else tf.keras.initializers.RandomNormal(stddev=1e-3)
        self.leave = tf.keras.layers.Dense(1, kernel_initializer=start, name="leave")
        self.drop = tf.keras.layers.Dropout(config.dropout)
        self.blur = tf.keras.layers.GaussianNoise(config.noise) if config.noise else None
        self.trust = self.add_weight(name="trust", shape=[terms + 1], initializer="ones")

    def get_config(self) -> dict[str, object]:
        """Returns what Keras writes beside the weights."""
        return dataclasses.asdict(self._config)

    def call(self, features: Tensors, training: bool = False) -> tf.Tensor:
        """Returns logits `[batch, list_size]`; what stands in padding never changes the others'."""
        example, mask = features["example"], features["mask"]
        x = tf.clip_by_value(self.normalise(example), -5.0, 5.0)
        if self.blur is not None:
            x = self.blur(x, training=training)
        if self._config.vectors and "item" in features:
            x = tf.concat([x, self.match(features["item"] * features["query"][:, tf.newaxis])], axis=-1)
        x = self.enter(self.drop(x, training=training))
        for block in self.blocks:
            x = block(x, mask, training=training)
        terms = tf.concat([example[..., : self.terms], self.leave(x)], axis=-1)
        return tf.linalg.matvec(terms, self.trust)


class _ListBlock(tf.keras.layers.Layer):
    """Pre-norm self-attention across the list, and a feed-forward layer."""

    def __init__(self, config: RerankingConfig, *, name: str) -> None:
        super().__init__(name=name)
        self.norms = [tf.keras.layers.LayerNormalization() for _ in range(2)]
        self.attention = tf.keras.layers.MultiHeadAttention(config.heads, config.width // config.heads)
        self.up = tf.keras.layers.Dense(2 * config.width, activation="gelu")
        self.down = tf.keras.layers.Dense(config.width)
        self.drop = tf.keras.layers.Dropout(config.dropout)

    def call(self, x: tf.Tensor, mask: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[batch, list_size, width]`."""
        normed = self.norms[0](x)
        attended = self.attention(normed, normed, attention_mask=mask[:, tf.newaxis, :])
        x += self.drop(attended, training=training)
        return x + self.drop(self.down(self.up(self.norms[1](x))), training=training)


_VECTORS = ("item", "query")


def featurise(lists: tf.data.Dataset, candidates: Candidates, *, vectors: bool = True) -> tf.data.Dataset:
    """Returns batches of (what the scorer reads, labels `[batch, list_size]`), computed once and kept in memory.

    Args:
        lists: of `pipelines.example_list_batches`.
        candidates: whose lists they are.
        vectors: whether the scorer reads the query's and the candidates' vectors, most of what is kept.
    """

    def one(features: Tensors, labels: tf.Tensor) -> tuple[Tensors, tf.Tensor]:
        rows = candidates.item_ids.rows(features["item_id"])
        read = candidates.features(candidates.encode_query(features), rows)
        kept = {name: value for name, value in read.items() if vectors or name not in _VECTORS}
        return kept, tf.where(read["mask"], labels, -1.0)

    return lists.map(one).cache()


def fit(
    scorer: ListwiseScorer,
    config: RerankingConfig,
    *,
    train: tf.data.Dataset,
    validation: tf.data.Dataset,
    directory: Path,
    logs: Path,
) -> dict[str, list[float]]:
    """Returns the training curves, after `scorer` holds the weights of its best validation epoch.

    Epoch 0 is the sum of the two stages, weighted as validation likes best, so that a scorer which never beats it stays
    it (where lists have no such terms, epoch 0 knows nothing).

    Args:
        scorer: trained in place.
        config: how.
        train: of `featurise`; weights `[batch, list_size]` may stand after the labels.
        validation: likewise; chooses the epoch by NDCG@10.
        directory: of the best weights.
        logs: of TensorBoard.
    """
    _prepare(scorer, config, train)
    if scorer.terms:
        _choose_trust(scorer, validation)
    best = directory / "best.weights.h5"
    directory.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[float]] = {"loss": [], "validation ndcg@10": []}
    mean = _RunningMean(scorer, config.averaging)
    with counter("training the reranker", total=config.epochs) as advance:
        for epoch in range(config.epochs + 1):
            if epoch:
                curves["loss"].append(
                    scorer.fit(train, epochs=1, verbose=0, callbacks=mean.callbacks()).history["loss"][-1]
                )
                advance(1)
            with mean.applied():
                value = scorer.evaluate(validation, verbose=0, return_dict=True)["ndcg@10"]
                curves["validation ndcg@10"].append(float(value))
                gain = curves["validation ndcg@10"]
                if max(gain) == gain[-1]:
                    scorer.save_weights(best)
            log_scalars(logs, {name: values[-1] for name, values in curves.items() if values}, epoch=epoch)
            _log.info("epoch %d: validation ndcg@10 within the lists %.4f", epoch, value)
            if len(gain) - 1 - gain.index(max(gain)) >= config.patience:
                break
    scorer.load_weights(best)
    return curves


class _RunningMean(tf.keras.callbacks.Callback):
    """The mean of a scorer's weights over the steps, the later the more (Polyak & Juditsky 1992), with TF's decay."""

    def __init__(self, scorer: ListwiseScorer, decay: float) -> None:
        super().__init__()
        self._scorer, self._decay, self._steps = scorer, decay, tf.Variable(0, dtype=tf.int64)
        self._means = tf.train.ExponentialMovingAverage(decay, num_updates=self._steps)

    def callbacks(self) -> list[tf.keras.callbacks.Callback]:
        """Returns what training has to call."""
        return [self] if self._decay else []

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Takes the weights of one more step in."""
        self._steps.assign_add(1)
        self._means.apply(self._scorer.trainable_variables)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The scorer holds the means meanwhile, and then what it had; before the first step nothing changes."""
        held = [(variable, variable.numpy()) for variable in self._scorer.trainable_variables] if self._steps else []
        for variable, _ in held:
            variable.assign(self._means.average(variable))
        yield
        for variable, value in held:
            variable.assign(value)


def _prepare(scorer: ListwiseScorer, config: RerankingConfig, train: tf.data.Dataset) -> None:
    """Compiles the scorer; one that was fitted before keeps its traced graph, and begins anew from its weights."""
    if getattr(scorer, "optimizer", None) is not None:
        for variable in scorer.optimizer.variables:
            if "learning_rate" not in variable.name:
                variable.assign(tf.zeros_like(variable))
        return
    # [1, examples, features]: a layer that was called before sums up as many axes as it saw then.
    real = train.map(lambda features, *_: tf.boolean_mask(features["example"], features["mask"])[tf.newaxis])
    scorer.normalise.adapt(real)
    scorer.compile(
        optimizer=tf.keras.optimizers.AdamW(config.learning_rate, weight_decay=1e-4, clipnorm=1.0),
        loss=loss_named(config.loss),
        metrics=[tfr.keras.metrics.get("ndcg", topn=10, name="ndcg@10")],
    )


_TRUST = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_LEARNED = (0.0, 0.5, 1.0)


def _choose_trust(scorer: ListwiseScorer, validation: tf.data.Dataset) -> None:
    """Sets how much an untrained scorer believes item-item weights, beside the retrieval score: best on validation."""
    _weigh(scorer, validation, [(1.0, weight, 1.0) for weight in _TRUST])


def recalibrate(scorer: ListwiseScorer, validation: tf.data.Dataset) -> None:
    """Weighs a trained scorer's three terms again, for the candidates that are served: what validation likes best.

    The scorer was trained on lists of towers and item-item weights that had seen less than those that are served; how
    much each of them is worth beside the others has changed.

    Args:
        scorer: its `trust` is set; as it is where nothing is better.
        validation: of `featurise`, over the served candidates.
    """
    near, known, learned = (float(value) for value in scorer.trust.numpy())
    others = [(near, weight * near, share * learned) for weight in _TRUST for share in _LEARNED]
    _weigh(scorer, validation, [(near, known, learned), *others])


def _weigh(scorer: ListwiseScorer, validation: tf.data.Dataset, options: Sequence[tuple[float, float, float]]) -> None:
    """Sets the scorer's `trust` to the first of the best options, by NDCG@10 within the lists."""
    scorer.trust.assign([0.0, 0.0, 1.0])
    parts = [
        (tf.concat([features["example"][..., :2], scorer(features, training=False)[..., tf.newaxis]], axis=-1), labels)
        for features, labels in validation
    ]
    terms, labels = (tf.concat(column, axis=0) for column in zip(*parts))

    def quality(trust: tuple[float, float, float]) -> float:
        ndcg = tfr.keras.metrics.get("ndcg", topn=10)
        ndcg.update_state(labels, tf.linalg.matvec(terms, trust))
        return float(ndcg.result())

    found = [quality(option) for option in options]
    near, known, learned = options[int(np.argmax(found))]
    scorer.trust.assign([near, known, learned])
    _log.info(
        "the closed form counts %.2f beside a retrieval score of %.2f, what was learned %.2f: ndcg@10 %.4f",
        *(known, near, learned, max(found)),
    )
