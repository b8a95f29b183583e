"""Exact evaluation of retrieval: ours against `tfrs.metrics.FactorizedTopK` on the same vectors.

    python -m benchmarks.exact_evaluation [--queries 2000] [--items 20000]

Each has vectors of queries and items and one right item a query, and returns top-k accuracy at 1, 5, 10, 50 and 100;
ours returns NDCG besides. FactorizedTopK runs as in the TFRS tutorials: over `candidates.batch(128)` (its Streaming
layer) and over a BruteForce index, inside a `tf.function`. Then: do they agree where nothing is tied, and what do
they say of a model whose vectors are all the same?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from benchmarks.common import compare_rates, parser, positive, show, show_values, start_log
from tfmm import metrics, relevance
from tfmm.ragged import Ragged

KS = (1, 5, 10, 50, 100)
_TUTORIAL_QUERIES = 4096
_TUTORIAL_ITEMS = 128
_COLUMNS = ["", *(f"@{k}" for k in KS)]
STREAMING = "FactorizedTopK, Streaming, batches of 128"
BRUTE_FORCE = "FactorizedTopK, BruteForce"
BY_ID = "FactorizedTopK, BruteForce, by id"
OURS = "tfmm.relevance.pessimistic_ranks"

Accuracies = dict[str, dict[int, float]]
"""Name -> k -> top-k accuracy."""
Evaluate = Callable[[], dict[int, float]]


def main(argv: Optional[Sequence[str]] = None) -> tuple[Accuracies, Accuracies]:
    """Prints the tables; returns accuracies of the vectors without ties, and of collapsed ones."""
    made = parser(__doc__)
    made.add_argument("--queries", type=positive, default=2_000)
    made.add_argument("--items", type=positive, default=20_000, help=f"at least {KS[-1]}")
    made.add_argument("--dim", type=positive, default=64, help="up to 256, so that scores are exact")
    options = made.parse_args(argv)
    start_log()
    queries, items, targets = draw_vectors(options.queries, options.items, options.dim, seed=options.seed)
    contenders = evaluations(queries, items, targets)
    rows = compare_rates("exact evaluation", "queries", contenders, count=len(queries), rounds=options.rounds)
    size = f"{options.queries:,} queries x {options.items:,} items x {options.dim}"
    show(f"Exact evaluation, {size}", rows)
    found = {name: run() for name, run in contenders.items()}
    show_values("Top-k accuracy without ties", _COLUMNS, _table(found))
    collapsed = show_collapsed(min(options.queries, 256), options.items, options.dim, seed=options.seed)
    return found, collapsed


def draw_vectors(queries: int, items: int, dim: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns `[queries, dim]`, `[items, dim]` and targets `[queries]` that lean towards their query.

    Components are whole numbers of up to 2^8, so that every score is exact in float32, whoever adds it up, and a
    target's score is no one else's: what differs between two evaluations is the evaluation.
    """
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-256, 257, (items, dim)).astype(np.float32)
    targets = rng.integers(0, items, queries)
    wanted = np.clip(np.round(0.3 * vectors[targets] + rng.normal(0, 110, (queries, dim))), -256, 256)
    asked = wanted.astype(np.float32)
    for start in range(0, queries, 256):
        _untie(asked[start : start + 256], vectors, targets[start : start + 256], rng)
    return asked, vectors, targets


def _untie(queries: np.ndarray, items: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> None:
    """Nudges, in place, queries for which another item scores just as much as the target."""
    tied = np.arange(len(queries))
    for _ in range(100):
        scores = queries[tied] @ items.T
        tied = tied[np.count_nonzero(scores == scores[np.arange(len(tied)), targets[tied]][:, np.newaxis], axis=1) > 1]
        if not len(tied):
            return
        queries[tied, rng.integers(0, queries.shape[1], len(tied))] += 1.0
    raise ValueError("Expected to find vectors without ties, got ties after 100 nudges; ask for more --dim.")


def evaluations(queries: np.ndarray, items: np.ndarray, targets: np.ndarray) -> dict[str, Evaluate]:
    """Returns name -> evaluates everything once, ours first."""
    corpus, ids = tf.constant(items), tf.range(len(items))
    streamed = tf.data.Dataset.from_tensor_slices(items).batch(_TUTORIAL_ITEMS)
    index = tfrs.layers.factorized_top_k.BruteForce().index(corpus, ids)
    return {
        OURS: lambda: exact(queries, items, targets),
        STREAMING: _factorized(streamed, queries, items, targets, by_id=False),
        BRUTE_FORCE: _factorized(index, queries, items, targets, by_id=False),
        BY_ID: _factorized(index, queries, items, targets, by_id=True),
    }


def exact(queries: np.ndarray, items: np.ndarray, targets: np.ndarray, *, chunk: int = 256) -> dict[int, float]:
    """Returns k -> top-k accuracy as tfmm measures it in validation: chunks of scores, ranks, metrics."""
    corpus = tf.constant(items)
    ranks = []
    for start in range(0, len(queries), chunk):
        scores = tf.matmul(tf.constant(queries[start : start + chunk]), corpus, transpose_b=True).numpy()
        wanted = targets[start : start + chunk]
        ranks.append(relevance.pessimistic_ranks(scores, Ragged(wanted, np.arange(len(wanted) + 1))).values)
    found = relevance.relevance_from_ranks(Ragged(np.concatenate(ranks), np.arange(len(queries) + 1)), k=KS[-1])
    one = np.ones(len(queries), np.int64)
    metrics.ndcg(found, one, k=10)
    return {k: float(np.mean(metrics.hit_rate(found, one, k=k))) for k in KS}


def _factorized(
    candidates: object, queries: np.ndarray, items: np.ndarray, targets: np.ndarray, *, by_id: bool
) -> Evaluate:
    """Returns what evaluates as `model.evaluate(test.batch(4096))` does in the TFRS tutorials."""
    metric = tfrs.metrics.FactorizedTopK(candidates, ks=KS)
    columns = {"query": queries, "candidate": items[targets], "id": targets.astype(np.int32)}
    batches = tf.data.Dataset.from_tensor_slices(columns).batch(_TUTORIAL_QUERIES).cache()

    @tf.function
    def step(batch: dict[str, tf.Tensor]) -> None:
        metric.update_state(batch["query"], batch["candidate"], batch["id"] if by_id else None)

    def run() -> dict[int, float]:
        for state in metric._top_k_metrics:
            state.reset_state()
        for batch in batches:
            step(batch)
        return {k: float(value) for k, value in zip(KS, metric.result())}

    return run


def show_collapsed(queries: int, items: int, dim: int, *, seed: int) -> Accuracies:
    """Prints what each says of a collapsed model, whose vectors are all the same; returns name -> k -> accuracy."""
    same = np.ones((items, dim), np.float32)
    targets = np.random.default_rng(seed).integers(0, items, queries)
    found = {name: run() for name, run in evaluations(same[targets], same, targets).items()}
    chance = {k: k / items for k in KS}
    show_values("Top-k accuracy of collapsed vectors", _COLUMNS, _table({**found, "chance": chance}))
    return found


def _table(found: Accuracies) -> list[list[object]]:
    return [[name, *values.values()] for name, values in found.items()]


if __name__ == "__main__":
    main()
