"""What `evaluation` reports, against other people's libraries: from scores and lists to means over users."""

from __future__ import annotations

import numpy as np
import pytest
import test_metrics_oracles as oracles

from tfmm import evaluation, relevance
from tfmm.evaluation import Lists
from tfmm.ragged import NO_ITEM, Ragged
from tfmm.splits import Queries

QUERIES, ITEMS = oracles.QUERIES, oracles.ITEMS


def queries_of(users: np.ndarray, past: list[np.ndarray], targets: list[np.ndarray]) -> Queries:
    history = Ragged.from_rows(past, np.int64)
    nothing = Ragged(np.zeros(len(history.values), np.int64), history.offsets)
    asked = Ragged.from_rows(targets, np.int64)
    return Queries(users.astype(np.int32), history, nothing, nothing, asked, np.zeros(len(users), np.int64))


def test_what_the_report_averages_are_ir_measures_values_of_the_whole_catalogue():
    """Of dense scores with ties and exclusions; one of the queries has a single item left to recommend."""
    ir_measures = pytest.importorskip("ir_measures", reason="pip install ir-measures")
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 9, (QUERIES, 70)).astype(np.float32)
    targets = [rng.permutation(70)[: rng.integers(1, 6)] for _ in range(QUERIES)]
    past = [np.setdiff1d(rng.permutation(70)[:10], right) for right in targets]
    past[3] = np.setdiff1d(np.arange(70), targets[3][:1])
    users = rng.integers(0, 20, QUERIES)
    queries = queries_of(users, past, targets)
    lists = evaluation.lists_of_scores(scores, queries.history)
    qrels, run = {}, {}
    for query, right in enumerate(targets):
        left = np.setdiff1d(np.arange(70), past[query])
        names = {item: f"{'a' if item in right else 'z'}{item}" for item in range(70)}
        qrels[f"{query}"] = {names[item]: 1 for item in right}
        run[f"{query}"] = {names[item]: float(scores[query, item]) for item in left}
    for name, measure in (("ndcg@10", "nDCG@10"), ("recall@50", "R@50"), ("hit_rate@1", "Success@1")):
        found = ir_measures.iter_calc([ir_measures.parse_measure(measure)], qrels, run)
        theirs = {int(one.query_id): one.value for one in found}
        means = [np.mean([theirs[q] for q in range(QUERIES) if users[q] == user]) for user in np.unique(users)]
        values = evaluation.measure(lists, queries.targets)[name]
        assert evaluation.interval(values, users)["mean"] == pytest.approx(np.mean(means)), name
        assert evaluation.interval(values, users)["n"] == len(means)


def test_serendipity_and_coverage_of_a_report_are_rectools():
    theirs, given = oracles.rectools(), oracles.case(5)
    pandas = pytest.importorskip("pandas")
    asked = np.flatnonzero(given.targets.lengths)
    counts = np.random.default_rng(5).integers(0, 9, ITEMS)
    had = np.repeat(np.arange(ITEMS), counts)
    events = pandas.DataFrame({"user_id": np.arange(len(had)), "item_id": had})
    queries = queries_of(asked, [np.zeros(1, np.int64)] * len(asked), [given.targets[query] for query in asked])
    lists = Lists(given.items[asked], given.scores[asked])
    wide = [(0, 0), (0, evaluation.LIST_SIZE - oracles.WIDTH)]
    lists = Lists(np.pad(lists.rows, wide, constant_values=NO_ITEM), np.pad(lists.scores, wide))
    nothing = evaluation.Slices({}, {})
    entry = evaluation.summary(lists, queries, nothing, vectors=None, popularity=counts.astype(np.float32))["metrics"]
    order, _ = relevance.pessimistic_lists(lists.rows, queries.targets, scores=lists.scores)
    table, pairs = oracles.table_of(order), oracles.pairs_of(queries.targets)
    values = theirs.Serendipity(k=10).calc_per_user(table, pairs, events, range(ITEMS))
    values *= np.count_nonzero(order[values.index, :10] != NO_ITEM, axis=1) / 10
    assert entry["serendipity@10"]["mean"] == pytest.approx(values.sum() / len(asked))
    assert entry["coverage@10"]["mean"] == theirs.CatalogCoverage(k=10, normalize=True).calc(
        oracles.table_of(lists.rows), range(ITEMS)
    )
