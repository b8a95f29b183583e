"""The one training loop of the zoo: epochs, negatives, and the epoch that validation finds best."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
import tensorflow as tf

from tfmm.progress import counter
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted, Scorer, validation_ndcg

_log = logging.getLogger(__name__)
OPTIMIZERS = {"adam": tf.keras.optimizers.Adam, "adagrad": tf.keras.optimizers.Adagrad}
_REDRAWN = 10  # times that a negative which the user has had is drawn again


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a network learns.

    Attributes:
        epochs: at most.
        patience: epochs without a better validation NDCG@10 before training stops.
        batch_size: events a step.
        negatives: items drawn for each event, uniformly from those that could be had and the user never had.
        learning_rate: of the optimizer.
        optimizer: "adam", which moves what is seen seldom as far as what is seen often, or "adagrad", which does not:
            where shoppers have few events, the order of popularity is most of what can be learned.
    """

    epochs: int = 30
    patience: int = 4
    batch_size: int = 2_048
    negatives: int = 4
    learning_rate: float = 5e-3
    optimizer: str = "adam"

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size", "negatives", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected training.{name} > 0, got {getattr(self, name)}.")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"Expected training.optimizer of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}.")


class Network(Protocol):
    """What the loop trains: a Keras model that knows its loss."""

    trainable_variables: list[tf.Variable]

    def loss(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns a scalar."""

    def scorer(self) -> Scorer:
        """Returns what answers with the weights as they are now, whatever becomes of them."""


def best_epoch(
    epoch: Callable[[], float], scorer: Callable[[], Scorer], data: Data, *, epochs: int, patience: int, name: str
) -> Fitted:
    """Returns the system as it was after its best epoch by validation NDCG@10.

    Args:
        epoch: trains for one more, and returns its loss.
        scorer: returns what answers now.
        data: its validation queries choose.
        epochs: at most.
        patience: epochs without gain before training stops.
        name: of the system, for the progress bar.
    """
    losses: list[float] = []
    values: list[float] = []
    with counter(f"training {name}", total=epochs) as advance:
        while len(losses) < epochs and len(values) - 1 - int(np.argmax(values or [0])) < patience:
            losses.append(epoch())
            now = scorer()
            values.append(validation_ndcg(now, data))
            if values[-1] > max(values[:-1], default=-1.0):
                best = now
            advance(1)
    chosen = int(np.argmax(values))
    _log.info("%s: validation ndcg@10 %.4f after epoch %d of %d", name, values[chosen], chosen + 1, len(values))
    return Fitted(best, {"epoch": chosen + 1}, {"loss": losses, "validation ndcg@10": values})


def train(
    make: Callable[[], Network], data: Data, config: TrainingConfig, *, name: str, examples: Mapping[str, np.ndarray]
) -> Fitted:
    """Returns the network that `make` returns, after its best epoch.

    Args:
        make: returns an untrained network; called once, after the random numbers are seeded.
        data: what to learn from.
        config: how.
        name: of the system.
        examples: columns, one row an example, of which `user` and `positive` are needed: a batch holds them, and
            `negative` `[batch, negatives]`.
    """
    tf.keras.utils.set_random_seed(data.seed)
    network, rng = make(), np.random.default_rng(data.seed)
    optimizer = OPTIMIZERS[config.optimizer](config.learning_rate, clipnorm=10.0)
    draw = _Negatives(data)

    @tf.function(reduce_retracing=True)
    def step(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = network.loss(batch)
        variables = network.trainable_variables
        pairs = zip(tape.gradient(loss, variables), variables)
        optimizer.apply_gradients([(gradient, variable) for gradient, variable in pairs if gradient is not None])
        return loss

    def epoch() -> float:
        return float(np.mean([step(batch) for batch in _batches(examples, draw, config, rng)]))

    return best_epoch(epoch, network.scorer, data, epochs=config.epochs, patience=config.patience, name=name)


def pairs(data: Data) -> dict[str, np.ndarray]:
    """Returns the examples of systems that do not look at order: each item that a user had, once."""
    known = data.matrix().tocoo()
    return {"user": known.row.astype(np.int32), "positive": known.col.astype(np.int32)}


def _batches(
    examples: Mapping[str, np.ndarray], draw: _Negatives, config: TrainingConfig, rng: np.random.Generator
) -> Iterator[dict[str, tf.Tensor]]:
    order = rng.permutation(len(examples["user"]))
    for start in range(0, len(order), config.batch_size):
        rows = order[start : start + config.batch_size]
        batch = {name: tf.constant(column[rows]) for name, column in examples.items()}
        yield {**batch, "negative": tf.constant(draw(examples["user"][rows], config.negatives, rng))}


class _Negatives:
    """Draws items that users never had."""

    def __init__(self, data: Data) -> None:
        known = data.matrix().tocsr().sorted_indices().tocoo()
        self._width = data.num_items
        self._known = known.row.astype(np.int64) * self._width + known.col  # ascends
        self._items = data.on_sale()

    def __call__(self, users: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
        """Returns `[batch, number]` int32; who had nearly everything may get an item again."""
        drawn = rng.choice(self._items, (len(users), number))
        for _ in range(_REDRAWN):
            again = self._had(users, drawn)
            if not again.any():
                break
            drawn[again] = rng.choice(self._items, int(again.sum()))
        return drawn.astype(np.int32)

    def _had(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        pairs = users[:, np.newaxis].astype(np.int64) * self._width + items
        at = np.minimum(np.searchsorted(self._known, pairs), len(self._known) - 1)
        return self._known[at] == pairs
