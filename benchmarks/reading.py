"""What reading costs: parsing after batching against before it, and how long a training step waits for its batch.

    python -m benchmarks.reading [--users 20000] [--step_ms 30]

Draws shoppers' sequences, writes them as records into a temporary folder, and reads them. The training step is a
stand-in that keeps all cores busy for a given time, so that reading has to compete with it as it does in training.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional

import numpy as np
import tensorflow as tf

from benchmarks.common import LESS, Comparison, compare_rates, in_turn, parser, positive, seconds, show, start_log
from tfmm import pipelines, records, schema
from tfmm.ragged import Ragged

_NUM_ITEMS = 10_000
_NAME = "train"
_MATRIX = 512


def main(argv: Optional[Sequence[str]] = None) -> list[Comparison]:
    """Prints the table; returns its rows."""
    made = parser(__doc__)
    made.add_argument("--users", type=positive, default=20_000)
    made.add_argument("--events", type=positive, default=50, help="of a user, on average")
    made.add_argument("--batch_size", type=positive, default=64)
    made.add_argument("--max_length", type=positive, default=50)
    made.add_argument("--step_ms", type=float, default=30.0, help="how long the stand-in for a training step takes")
    made.add_argument("--steps", type=positive, default=100, help="a round")
    options = made.parse_args(argv)
    start_log()
    sequences = draw_sequences(options.users, options.events, seed=options.seed)
    item_ids = np.array([f"item{n}" for n in range(_NUM_ITEMS)], object)
    with tempfile.TemporaryDirectory() as folder:
        manifest = records.write_sequences(sequences, folder, _NAME, item_ids=item_ids, event_types=("view", "buy"))
        paths = records.verified_paths(folder, manifest)
        rows = compare_parsing(paths, manifest.count, options.batch_size, rounds=options.rounds)

        def read() -> tf.data.Dataset:
            return pipelines.sequence_batches(
                folder,
                _NAME,
                batch_size=options.batch_size,
                max_length=options.max_length,
                shuffle=True,
                seed=options.seed,
                item_ids=item_ids,
            )

        rows.append(compare_epochs(read, len(sequences.items.values), rounds=options.rounds))
        rows.append(compare_waiting(read(), options.step_ms / 1000, steps=options.steps, rounds=options.rounds))
    show(f"Reading {len(sequences.items.values):,} events of {options.users:,} users", rows)
    return rows


def draw_sequences(users: int, events: int, *, seed: int) -> records.Sequences:
    """Returns sequences of geometrically distributed lengths, of 2 events or more."""
    rng = np.random.default_rng(seed)
    lengths = 1 + rng.geometric(1 / max(events - 1, 1), users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    ids = np.array([f"user{n}" for n in range(users)], object)
    terms = Ragged(np.array([f"age={n % 7}" for n in range(users)], object), np.arange(users + 1))
    times = np.sort(rng.integers(1_500_000_000, 1_700_000_000, total))
    columns = (rng.integers(0, _NUM_ITEMS, total), times, rng.integers(0, 2, total))
    items, seconds, types = (Ragged(column, offsets) for column in columns)
    return records.Sequences(ids, items, seconds, types, terms)


def compare_parsing(paths: list[str], count: int, batch_size: int, *, rounds: int) -> list[Comparison]:
    """Returns how many examples a second are parsed after batching and before it."""
    spec = schema.sequence_spec()
    raw = tf.data.TFRecordDataset(paths)
    after = raw.batch(batch_size).map(lambda batch: tf.io.parse_example(batch, spec), tf.data.AUTOTUNE)
    before = raw.map(lambda one: tf.io.parse_single_example(one, spec), tf.data.AUTOTUNE).ragged_batch(batch_size)
    ways = {
        "batch, then parse_example": lambda: _exhaust(after),
        "parse_single_example, then batch": lambda: _exhaust(before),
    }
    return compare_rates("parsing", "examples", ways, count=count, rounds=rounds)


def compare_epochs(read: Callable[[], tf.data.Dataset], num_events: int, *, rounds: int) -> Comparison:
    """Returns how many events a second reach a consumer that does nothing, from the cache and in a first epoch."""
    first, later = [], []
    for _ in range(rounds):
        batches = read()
        first.append(num_events / seconds(lambda: _exhaust(batches)))  # noqa: B023  (called at once)
        later.append(num_events / seconds(lambda: _exhaust(batches)))  # noqa: B023
    names = ("sequence_batches, a later epoch (from its cache)", "a first epoch (reads, parses, cuts windows)")
    return Comparison("delivery of batches", "events/s", *names, later, first)


def compare_waiting(batches: tf.data.Dataset, step_seconds: float, *, steps: int, rounds: int) -> Comparison:
    """Returns how long a step takes that has to read its batch, and one that does not."""
    step = busy_step(step_seconds)
    iterator = iter(batches.repeat())
    next(iterator)  # Fills the shuffle buffer: an epoch's start, not a step.
    runs = {
        "reading": lambda: _work(step, steps, batches=iterator),
        "nothing": lambda: _work(step, steps),
    }
    taken = {name: [1000 * value / steps for value in values] for name, values in in_turn(runs, rounds=rounds).items()}
    names = ("takes each batch from sequence_batches", "reads nothing")
    return Comparison("a training step", "ms", *names, taken["reading"], taken["nothing"], LESS)


def _work(step: Callable[[], object], steps: int, *, batches: Optional[Iterator[Any]] = None) -> None:
    for _ in range(steps):
        if batches is not None:
            next(batches)
        step()


def busy_step(seconds: float) -> Callable[[], object]:
    """Returns a function that multiplies matrices on all cores for about `seconds`."""
    matrix = tf.random.normal([_MATRIX, _MATRIX])

    @tf.function
    def multiply(times: tf.Tensor) -> tf.Tensor:
        product = matrix
        for _ in tf.range(times):
            product = tf.linalg.l2_normalize(tf.matmul(product, matrix), axis=1)
        return tf.reduce_sum(product)

    multiply(tf.constant(10))
    started = time.perf_counter()
    multiply(tf.constant(100)).numpy()
    times = max(1, round(100 * seconds / (time.perf_counter() - started)))
    return lambda: multiply(tf.constant(times)).numpy()


def _exhaust(batches: tf.data.Dataset) -> None:
    for _ in batches:
        pass


if __name__ == "__main__":
    main()
