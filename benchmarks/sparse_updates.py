"""A training step with a large id table: sparse Adagrad on the table against dense Adam on everything.

    python -m benchmarks.sparse_updates [--items 500000] [--steps 5]

The model is `tfmm.retrieval.Retriever` on ids alone, with sampled softmax; both sides have the same towers, loss and
batches. Ours is its own `train_step`. The alternative is the `train_step` that `tfrs.Model` gives it, with Keras' Adam
for all weights, which moves two moments of the whole table at every step. Two more lines say where the time goes: the
update of the table alone, and our step with a table a tenth as large (1 = a step costs its batch, not its table).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Callable, Optional

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from benchmarks.common import Comparison, compare_rates, in_turn, parser, positive, rates, show, start_log
from benchmarks.shops import id_features
from tfmm.encoders.attributes import learn_attributes
from tfmm.retrieval import RetrievalConfig, Retriever
from tfmm.towers import TowerConfig

_log = logging.getLogger("benchmarks.sparse_updates")
OURS = "Retriever.train_step: AdamW, and sparse Adagrad on the id table"
DENSE = "tfrs.Model.train_step: keras Adam on everything"
Batch = dict[str, tf.Tensor]


class DenselyTrained(Retriever):
    """The same towers and loss, trained as `tfrs.Model` trains by itself."""

    train_step = tfrs.Model.train_step


def main(argv: Optional[Sequence[str]] = None) -> list[Comparison]:
    """Prints the table; returns its rows."""
    made = parser(__doc__)
    made.add_argument("--items", type=positive, default=500_000)
    made.add_argument("--dim", type=positive, default=64)
    made.add_argument("--batch_size", type=positive, default=64, help="windows of a step")
    made.add_argument("--length", type=positive, default=50, help="events of a window")
    made.add_argument("--steps", type=positive, default=5, help="a round")
    options = made.parse_args(argv)
    start_log()
    tf.keras.utils.set_random_seed(options.seed)
    shape = {"dim": options.dim, "length": options.length, "batch_size": options.batch_size}
    large = {
        OURS: steps_of(Retriever, options.items, steps=options.steps, seed=options.seed, **shape),
        DENSE: steps_of(DenselyTrained, options.items, steps=options.steps, seed=options.seed, **shape),
    }
    rows = compare_rates("training step", "steps", large, count=options.steps, rounds=options.rounds)
    few = max(options.items // 10, 1)
    small = steps_of(Retriever, few, steps=options.steps, seed=options.seed, **shape)
    taken = in_turn({"large": large[OURS], "small": small}, rounds=options.rounds)
    speeds = {name: rates(values, options.steps) for name, values in taken.items()}
    of_items = f"the same with {few:,} items"
    rows.append(Comparison("training step", "steps/s", OURS, of_items, speeds["large"], speeds["small"]))
    touched = min(options.batch_size * options.length, options.items)
    rows += compare_updates(options.items, options.dim, touched, steps=options.steps, rounds=options.rounds)
    show(f"Sparse updates, {options.items:,} items x {options.dim}", rows)
    return rows


def steps_of(
    kind: type[Retriever], num_items: int, *, dim: int, length: int, batch_size: int, steps: int, seed: int
) -> Callable[[], None]:
    """Returns what trains a new model of that kind for some steps."""
    _log.info("building %s with %s items", kind.__name__, f"{num_items:,}")
    rng = np.random.default_rng(seed)
    batches = [draw_batch(rng, num_items, length, batch_size) for _ in range(steps)]
    retriever = make_retriever(kind, num_items, dim=dim, length=length)
    retriever.compile(optimizer=_optimizer(kind))
    step = tf.function(retriever.train_step)

    def run() -> None:
        for batch in batches:
            step(batch)["loss"].numpy()

    return run


def make_retriever(kind: type[Retriever], num_items: int, *, dim: int, length: int) -> Retriever:
    """Returns towers over a catalogue of ids alone, which sample their negatives whatever its size."""
    ids = np.char.add("item", np.arange(num_items).astype(str)).astype(object)
    return kind(
        TowerConfig(dim=dim, max_length=length),
        RetrievalConfig(full_softmax_up_to=0),
        items=id_features(ids, trained=np.ones(num_items, bool)),
        context=learn_attributes({}, {}),
        num_events=1,
        frequency=1.0 / np.arange(1, num_items + 1),
    )


def draw_batch(rng: np.random.Generator, num_items: int, length: int, batch_size: int) -> Batch:
    """Returns full windows as `pipelines.sequence_batches` gives them, with item rows of Zipf's law."""
    items = (np.power(float(num_items), rng.random((batch_size, length))) - 1).astype(np.int32)
    times = 1_600_000_000 + np.cumsum(rng.integers(1, 100_000, items.shape), axis=1)
    return {
        "items": tf.constant(items),
        "times": tf.constant(times, tf.int64),
        "events": tf.zeros(items.shape, tf.int32),
        "context": tf.zeros([batch_size, 0], tf.string),
        "known": tf.constant(items),
    }


def compare_updates(num_items: int, dim: int, touched: int, *, steps: int, rounds: int) -> list[Comparison]:
    """Returns how fast the table alone takes the gradients of some of its rows."""
    gradient = tf.IndexedSlices(tf.ones([touched, dim]), tf.range(touched) * (num_items // touched))
    keras = tf.keras.optimizers
    runs = {
        "keras Adagrad, sparse": _updates(keras.Adagrad(0.05), num_items, gradient, steps),
        "keras Adam": _updates(keras.Adam(0.005), num_items, gradient, steps),
    }
    return compare_rates(f"update of {touched:,} rows of the table alone", "steps", runs, count=steps, rounds=rounds)


def _updates(
    optimizer: tf.keras.optimizers.Optimizer, num_items: int, gradient: tf.IndexedSlices, steps: int
) -> Callable[[], None]:
    table = tf.Variable(tf.zeros([num_items, gradient.values.shape[1]]))
    optimizer.build([table])

    @tf.function
    def step() -> None:
        optimizer.apply_gradients([(gradient, table)])

    def run() -> None:
        for _ in range(steps):
            step()

    return run


def _optimizer(kind: type[Retriever]) -> tf.keras.optimizers.Optimizer:
    rate = RetrievalConfig().learning_rate
    if kind is DenselyTrained:
        return tf.keras.optimizers.Adam(rate)
    return tf.keras.optimizers.AdamW(rate, weight_decay=RetrievalConfig().weight_decay, clipnorm=1.0)


if __name__ == "__main__":
    main()
