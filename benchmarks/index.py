"""The ivf index against the exact one: queries a second, and how much of the exact answer it finds.

    python -m benchmarks.index [--items 200000] [--dim 64] [--probes 8 16 32 64]

Both are `tfmm.index` inside one `tf.function`, asked in batches; the vectors are scattered around centres of unequal
size, as those of trained towers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

import numpy as np
import tensorflow as tf

from benchmarks.common import Comparison, compare_rates, parser, positive, seconds, show, show_values, start_log
from tfmm.index import Index, IndexConfig, retrieve

K = 100


def main(argv: Optional[Sequence[str]] = None) -> tuple[list[Comparison], dict[int, float]]:
    """Prints the tables; returns the rows, and probes -> recall."""
    made = parser(__doc__)
    made.add_argument("--items", type=positive, default=200_000)
    made.add_argument("--dim", type=positive, default=64)
    made.add_argument("--queries", type=positive, default=512)
    made.add_argument("--batch", type=positive, default=16, help="queries asked together (default 16)")
    made.add_argument("--probes", type=positive, nargs="+", default=[8, 16, 32, 64])
    options = made.parse_args(argv)
    start_log()
    corpus, queries = draw(options.items, options.queries, options.dim, seed=options.seed)
    exact = Index(tf.constant(corpus), IndexConfig(kind="exact"))
    ivf: list[Index] = []
    taken = seconds(lambda: ivf.append(Index(tf.constant(corpus), IndexConfig(kind="ivf"), seed=options.seed)))
    best, rows, recalls = answers(exact, queries, options.batch), [], {}
    for probes in options.probes:
        ivf[0].config = IndexConfig(kind="ivf", probes=probes)
        runs = {f"ivf, {probes} probes": asking(ivf[0], queries, options.batch)}
        runs["exact"] = asking(exact, queries, options.batch)
        rows += compare_rates(f"top {K}", "queries", runs, count=options.queries, rounds=options.rounds)
        recalls[probes] = recall(answers(ivf[0], queries, options.batch), best)
    clusters, width = ivf[0].columns["members"].numpy().shape
    note = f"clustering took {taken:.1f} s: {clusters:,} clusters, the largest of {width}"
    show(f"Retrieval among {options.items:,} items x {options.dim}", rows, notes=[note])
    show_values(f"Recall@{K} against exact", ["probes", "recall"], [[probes, r] for probes, r in recalls.items()])
    return rows, recalls


def draw(items: int, queries: int, dim: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[items, dim]` and `[queries, dim]` of length 1, the queries near the items."""
    rng = np.random.default_rng(seed)
    centres = max(1, items // 200)
    popular = rng.exponential(size=centres)
    near = rng.normal(size=(centres, dim))[rng.choice(centres, items, p=popular / popular.sum())]
    corpus = near + rng.normal(0, 0.7, (items, dim))
    asked = corpus[rng.integers(0, items, queries)] + rng.normal(0, 0.4, (queries, dim))
    corpus, asked = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (corpus, asked))
    return corpus.astype(np.float32), asked.astype(np.float32)


def asking(index: Index, queries: np.ndarray, batch: int) -> Callable[[], list[np.ndarray]]:
    """Returns what asks every query of the index, traced with its settings as they are now."""
    nothing = tf.fill([1, 0], -1)
    ask = tf.function(
        lambda some: retrieve(index, some, K, tf.repeat(nothing, tf.shape(some)[0], axis=0))[1],
        input_signature=[tf.TensorSpec([None, queries.shape[1]])],
    )
    ask.get_concrete_function()
    parts = [tf.constant(queries[start : start + batch]) for start in range(0, len(queries), batch)]
    return lambda: [ask(part).numpy() for part in parts]


def answers(index: Index, queries: np.ndarray, batch: int) -> np.ndarray:
    """Returns rows `[queries, K]`."""
    return np.concatenate(asking(index, queries, batch)())


def recall(found: np.ndarray, best: np.ndarray) -> float:
    """Returns the mean share of the exact answers that were found; -1 is no answer."""
    shares = [len(set(some) & set(all_)) / max(1, len(all_)) for some, all_ in zip(_known(found), _known(best))]
    return float(np.mean(shares))


def _known(rows: np.ndarray) -> list[list[int]]:
    return [[row for row in line if row >= 0] for line in rows.tolist()]


if __name__ == "__main__":
    main()
