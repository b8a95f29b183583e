"""Ranks, per-query and per-catalogue metrics against plain loops, trec_eval and arithmetic."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmm import metrics, relevance
from tfmm.ragged import NO_ITEM, Ragged

KS = (1, 3, 5, 10)


def ragged(*rows):
    return Ragged.from_rows(rows, np.int64)


def naive_rank(scores, targets, excluded, target):
    """The definition, one item at a time, other targets left aside."""
    if target in excluded or scores[target] == -math.inf:
        return relevance.NEVER
    others = [item for item in range(len(scores)) if item not in targets and item not in excluded]
    return 1 + sum(1 for item in others if scores[item] >= scores[target] and scores[item] > -math.inf)


def naive_ranks(scores, targets, excluded):
    """Every target's rank: 1 + the others that are not behind it + the targets already placed."""
    allowed = [-math.inf if item in excluded else scores[item] for item in range(len(scores))]
    best_first = sorted(targets, key=lambda item: -allowed[item])
    ranks = (naive_rank(scores, targets, excluded, item) for item in best_first)
    return [rank if rank == relevance.NEVER else rank + place for place, rank in enumerate(ranks)]


def random_case(seed, *, queries=40, num_items=30, levels=6):
    """Few score levels, so that ties are everywhere; some queries without targets, some targets excluded."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (queries, num_items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.05] = -np.inf
    targets = ragged(*(rng.choice(num_items, rng.integers(0, 5), replace=False) for _ in range(queries)))
    excluded = ragged(*(rng.choice(num_items, rng.integers(0, 9), replace=False) for _ in range(queries)))
    return scores, targets, excluded


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_ranks_are_those_of_a_plain_loop(seed, chunk):
    scores, targets, excluded = random_case(seed)
    ranks = relevance.pessimistic_ranks(scores, targets, excluded=excluded, chunk=chunk)
    for row in range(len(scores)):
        assert ranks[row].tolist() == naive_ranks(scores[row], targets[row].tolist(), set(excluded[row].tolist()))


def test_the_memory_limit_does_not_change_ranks(monkeypatch):
    scores, targets, excluded = random_case(3)
    whole = relevance.pessimistic_ranks(scores, targets, excluded=excluded)
    monkeypatch.setattr(relevance, "_CELLS", 1)
    np.testing.assert_array_equal(relevance.pessimistic_ranks(scores, targets, excluded=excluded).values, whole.values)


def test_ranking_leaves_the_given_scores_as_they_were():
    scores, targets, excluded = random_case(0)
    before = scores.copy()
    relevance.pessimistic_ranks(scores, targets, excluded=excluded)
    np.testing.assert_array_equal(scores, before)


def test_a_constant_scorer_finds_nothing():
    targets = ragged(*([item] for item in range(100)))
    ranks = relevance.pessimistic_ranks(np.full((100, 100), 0.7), targets)
    assert set(ranks.values.tolist()) == {100}
    assert metrics.ndcg(relevance.relevance_from_ranks(ranks, k=10), targets.lengths, k=10).sum() == 0


def test_a_perfect_scorer_has_every_metric_at_one():
    targets = ragged([0, 1, 2], [3], [4, 1])
    scores = np.zeros((3, 6))
    scores[targets.row_numbers, targets.values] = 1
    found = relevance.relevance_from_ranks(relevance.pessimistic_ranks(scores, targets), k=6)
    for name in ("ndcg", "recall", "hit_rate", "mrr", "map"):
        np.testing.assert_allclose(metrics.PER_QUERY[name](found, targets.lengths, k=5), 1.0, err_msg=name)


def test_scores_of_any_number_type_are_ranked():
    for dtype in (np.float16, np.float64, np.int32):
        ranks = relevance.pessimistic_ranks(np.array([[3, 1, 2]], dtype), ragged([2]))
        assert ranks.values.tolist() == [2]


@pytest.mark.parametrize("scored", [False, True])
def test_lists_and_dense_scores_agree_where_the_list_is_the_whole_catalogue(scored):
    scores, targets, _ = random_case(1)
    scores = np.where(np.isinf(scores), 0, scores)
    if not scored:  # without scores the given order must stand, so it has to be the pessimistic one already
        scores = scores + np.random.default_rng(0).random(scores.shape)
    items = np.argsort(-scores, axis=1)
    listed = relevance.relevance_of_lists(
        items, targets, scores=np.take_along_axis(scores, items, axis=1) if scored else None
    )
    ranks = relevance.pessimistic_ranks(scores, targets)
    np.testing.assert_array_equal(listed, relevance.relevance_from_ranks(ranks, k=scores.shape[1]))


def test_padding_never_counts_whatever_its_score():
    items = np.array([[NO_ITEM, 4, NO_ITEM, 2]])
    found = relevance.relevance_of_lists(items, ragged([2, 0]), scores=np.array([[np.nan, 0.1, 9.0, 0.2]]))
    assert found.tolist() == [[True, False, False, False]]


def test_an_empty_list_is_a_miss_and_a_query_without_target_is_not_counted():
    items = np.array([[NO_ITEM, NO_ITEM], [1, 2]])
    found = relevance.relevance_of_lists(items, ragged([1], []))
    for name, values in metrics.per_query(found, np.array([1, 0]), ks=(2,)).items():
        assert values[0] == 0.0, name
        assert np.isnan(values[1]), name


def naive_metrics(hits, num_targets, k):
    """One query's metrics, as the textbooks write them."""
    hits = [int(hit) for hit in hits[:k]]
    gain = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
    ideal = sum(1 / math.log2(place + 2) for place in range(min(num_targets, k)))
    precisions = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
    return {
        "ndcg": gain / ideal,
        "recall": sum(hits) / num_targets,
        "hit_rate": float(any(hits)),
        "precision": sum(hits) / k,
        "mrr": max((1 / (place + 1) for place, hit in enumerate(hits) if hit), default=0.0),
        "map": sum(precisions) / min(num_targets, k),
    }


@settings(deadline=None, max_examples=80)
@given(st.lists(st.booleans(), min_size=10, max_size=10), st.integers(0, 15), st.sampled_from(KS))
def test_metrics_are_those_of_a_plain_loop_and_lie_within_0_and_1(hits, unfound, k):
    num_targets = max(1, sum(hits) + unfound)
    expected = naive_metrics(hits, num_targets, k)
    for name, metric in metrics.PER_QUERY.items():
        (value,) = metric(np.array([hits]), np.array([num_targets]), k=k)
        assert value == pytest.approx(expected[name]), name
        assert 0 <= value <= 1 + 1e-12, name


@settings(deadline=None, max_examples=60)
@given(st.lists(st.booleans(), min_size=10, max_size=10), st.integers(0, 8))
def test_moving_a_hit_up_never_lowers_a_metric(hits, place):
    better = list(hits)
    better[place], better[place + 1] = max(hits[place : place + 2]), min(hits[place : place + 2])
    num_targets = np.array([max(1, sum(hits))] * 2)
    for name, values in metrics.per_query(np.array([hits, better]), num_targets, ks=KS).items():
        assert values[1] >= values[0] - 1e-12, name


def test_trec_eval_agrees():
    trec = pytest.importorskip("pytrec_eval", reason="pip install pytrec-eval-terrier to compare with trec_eval")
    rng = np.random.default_rng(5)
    scores = rng.permuted(np.tile(np.arange(40.0), (25, 1)), axis=1)  # no ties: trec_eval breaks them by name
    targets = ragged(*(rng.choice(40, rng.integers(1, 8), replace=False) for _ in range(25)))
    found = relevance.relevance_from_ranks(relevance.pessimistic_ranks(scores, targets), k=40)
    qrels = {f"q{row}": {f"d{item}": 1 for item in targets[row]} for row in range(25)}
    run = {f"q{row}": {f"d{item}": float(scores[row, item]) for item in range(40)} for row in range(25)}
    theirs = trec.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10", "P.10", "recip_rank", "map"}).evaluate(run)
    ours = {
        "ndcg_cut_10": metrics.ndcg(found, targets.lengths, k=10),
        "recall_10": metrics.recall(found, targets.lengths, k=10),
        "P_10": metrics.precision(found, targets.lengths, k=10),
        "recip_rank": metrics.mrr(found, targets.lengths, k=40),
        "map": metrics.average_precision(found, targets.lengths, k=40),
    }
    for name, values in ours.items():
        np.testing.assert_allclose(values, [theirs[f"q{row}"][name] for row in range(25)], err_msg=name)


def test_scikit_learn_agrees_on_ndcg():
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="pip install scikit-learn to compare with it")
    rng = np.random.default_rng(6)
    scores = rng.random((30, 20))
    targets = ragged(*(rng.choice(20, rng.integers(1, 6), replace=False) for _ in range(30)))
    labels = np.zeros((30, 20))
    labels[targets.row_numbers, targets.values] = 1
    found = relevance.relevance_from_ranks(relevance.pessimistic_ranks(scores, targets), k=10)
    ours = metrics.ndcg(found, targets.lengths, k=10)
    assert ours.mean() == pytest.approx(sklearn_metrics.ndcg_score(labels, scores, k=10))


def test_diversity_is_the_mean_over_all_pairs():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((12, 4))
    vectors[3], vectors[7] = 0.0, np.nan
    items = np.stack([rng.choice(12, 6, replace=False) for _ in range(20)])
    items[rng.random(items.shape) < 0.3] = NO_ITEM
    for row, value in enumerate(metrics.diversity(items, vectors, k=5, chunk=3)):
        kept = [vectors[item] for item in items[row, :5] if item not in (NO_ITEM, 3, 7)]
        pairs = [1 - a @ b / math.sqrt((a @ a) * (b @ b)) for number, a in enumerate(kept) for b in kept[number + 1 :]]
        assert value == pytest.approx(np.mean(pairs), abs=1e-6) if pairs else np.isnan(value)


def test_gini_is_the_mean_difference_between_items_by_twice_their_mean():
    items = np.random.default_rng(0).integers(0, 9, (50, 1))
    counts = np.bincount(items[:, 0], minlength=12).astype(float)
    differences = np.abs(counts[:, np.newaxis] - counts[np.newaxis, :]).mean()
    assert metrics.gini(items, num_items=12, k=1) == pytest.approx(differences / (2 * counts.mean()))


def test_rarer_items_are_more_novel():
    values = metrics.novelty(np.array([[0], [1], [2]]), np.array([1000, 10, 0]), k=1)
    assert values[0] < values[1] < values[2] < np.inf


def test_coverage_looks_only_at_the_first_k():
    items = np.array([[0, 1, 2], [0, 3, NO_ITEM]])
    assert [metrics.coverage(items, num_items=8, k=k) for k in (1, 2, 3)] == [1 / 8, 3 / 8, 4 / 8]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relevance.pessimistic_ranks(np.array([[0.0, np.nan]]), ragged([0])), "query 0, column 1"),
        (lambda: relevance.pessimistic_ranks(np.zeros((2, 3)), ragged([0])), "one row of targets a query"),
        (lambda: relevance.pessimistic_ranks(np.zeros((1, 3)), ragged([3])), "within 0..2 in targets"),
        (lambda: relevance.pessimistic_ranks(np.zeros((1, 3)), ragged([NO_ITEM])), "within 0..2 in targets"),
        (lambda: relevance.pessimistic_ranks(np.zeros((1, 3)), ragged([1, 1])), "item 1 again in query 0"),
        (lambda: relevance.relevance_of_lists(np.array([[4, 4]]), ragged([1])), "item 4 again in query 0"),
        (
            lambda: relevance.relevance_of_lists(np.array([[4, 5]]), ragged([1]), scores=np.array([[1, np.nan]])),
            "without NaN",
        ),
        (lambda: metrics.recall(np.zeros((1, 3), bool), np.array([1]), k=5), "rank deeper"),
        (lambda: metrics.gini(np.array([[NO_ITEM]]), num_items=3, k=1), "empty lists"),
    ],
)
def test_what_cannot_be_measured_is_an_error_that_says_where(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("module", [metrics, relevance])
def test_the_examples_in_the_documentation_hold(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 3
    assert outcome.failed == 0
