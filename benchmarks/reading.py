"""What reading costs: parsing after batching against before it, and how long a training step waits for its batch.

    python benchmarks/reading.py --step_ms 30

Draws shoppers' sequences, writes them as records into a temporary folder, and reads them. The training step is a
stand-in that keeps all cores busy for a given time, so that reading has to compete with it as it does in training.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Callable

import numpy as np
import tensorflow as tf

from tfmm import pipelines, records, schema
from tfmm.ragged import Ragged

_log = logging.getLogger("reading")
_NUM_ITEMS = 10_000
_NAME = "train"
_MATRIX = 512


def main(argv: list[str] | None = None) -> None:
    """Logs the figures of every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=50, help="of a user, on average")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--max_length", type=int, default=50)
    parser.add_argument("--step_ms", type=float, default=30.0, help="how long the stand-in for a training step takes")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        sequences = draw_sequences(options.users, options.events)
        item_ids = np.array([f"item{n}" for n in range(_NUM_ITEMS)], object)
        started = time.perf_counter()
        manifest = records.write_sequences(sequences, folder, _NAME, item_ids=item_ids, event_types=("view", "buy"))
        _log.info("write: %s events/s", _rate(len(sequences.items.values), time.perf_counter() - started))
        compare_parsing(records.verified_paths(folder, manifest), manifest.count, options.batch_size)
        batches = pipelines.sequence_batches(
            folder,
            _NAME,
            batch_size=options.batch_size,
            max_length=options.max_length,
            shuffle=True,
            seed=0,
            item_ids=item_ids,
        )
        measure_delivery(batches)
        measure_waiting(batches, options.step_ms / 1000, options.steps)
        _log.info("records: %.1f MB", sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6)


def draw_sequences(users: int, events: int) -> records.Sequences:
    """Returns sequences of geometrically distributed lengths, of 2 events or more."""
    rng = np.random.default_rng(0)
    lengths = 1 + rng.geometric(1 / max(events - 1, 1), users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    ids = np.array([f"user{n}" for n in range(users)], object)
    terms = Ragged(np.array([f"age={n % 7}" for n in range(users)], object), np.arange(users + 1))
    times = np.sort(rng.integers(1_500_000_000, 1_700_000_000, total))
    columns = (rng.integers(0, _NUM_ITEMS, total), times, rng.integers(0, 2, total))
    items, seconds, types = (Ragged(column, offsets) for column in columns)
    return records.Sequences(ids, items, seconds, types, terms)


def compare_parsing(paths: list[str], count: int, batch_size: int) -> None:
    """Logs how many examples a second are parsed after batching, before it, and the ratio."""
    spec = schema.sequence_spec()
    raw = tf.data.TFRecordDataset(paths)
    after = raw.batch(batch_size).map(lambda batch: tf.io.parse_example(batch, spec), tf.data.AUTOTUNE)
    before = raw.map(lambda one: tf.io.parse_single_example(one, spec), tf.data.AUTOTUNE).ragged_batch(batch_size)
    fast, slow = _seconds(after), _seconds(before)
    _log.info("batch, then parse: %s examples/s", _rate(count, fast))
    _log.info("parse, then batch: %s examples/s", _rate(count, slow))
    _log.info("ratio: %.1f", slow / fast)


def measure_delivery(batches: tf.data.Dataset) -> None:
    """Logs how many events a second reach a consumer that does nothing, in the first epoch and from the cache."""
    for epoch in ("first epoch (reads, parses, cuts windows)", "from the cache"):
        started, events = time.perf_counter(), 0
        for batch in batches:
            events += int(tf.math.count_nonzero(batch[schema.SEQUENCE_ITEMS] >= 0))
        _log.info("%s: %s events/s", epoch, _rate(events, time.perf_counter() - started))


def measure_waiting(batches: tf.data.Dataset, step_seconds: float, steps: int) -> None:
    """Logs the share of a training step that is spent waiting for its batch."""
    step = busy_step(step_seconds)
    waited = worked = 0.0
    count = 0
    iterator = iter(batches.repeat())
    next(iterator)  # Fills the shuffle buffer: an epoch's start, not a step.
    for _ in range(steps):
        started = time.perf_counter()
        next(iterator)
        received = time.perf_counter()
        step()
        waited += received - started
        worked += time.perf_counter() - received
        count += 1
    share = waited / (waited + worked)
    _log.info(
        "a step of %.1f ms waits %.2f ms for its batch: %.1f%% of the time over %d steps",
        1000 * worked / count,
        1000 * waited / count,
        100 * share,
        count,
    )


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


def _seconds(batches: tf.data.Dataset) -> float:
    started = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - started


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}"


if __name__ == "__main__":
    main()
