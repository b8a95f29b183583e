"""Every reported metric against other people's libraries, on lists with ties, short, empty and missing ones.

Each test that is named after a difference pins one line of `tfmm.metrics`' list of conventions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from tfmm import metrics, relevance
from tfmm.ragged import NO_ITEM, Ragged

ITEMS, QUERIES, WIDTH = 60, 50, 30
KS = (1, 3, 10, 30)
SEEDS = range(3)
OURS_TO_THEIRS = {"ndcg": "nDCG", "recall": "R", "hit_rate": "Success", "precision": "P", "mrr": "RR", "map": "AP"}


class Case(NamedTuple):
    """Ranked lists and their answers; the first query has an empty list, the last has no target."""

    items: np.ndarray
    scores: np.ndarray
    targets: Ragged

    def found(self) -> np.ndarray:
        return relevance.relevance_of_lists(self.items, self.targets, scores=self.scores)

    def rows(self, query: int) -> list[int]:
        return [item for item in self.items[query].tolist() if item != NO_ITEM]


def case(seed: int, *, levels: int = 5) -> Case:
    """Returns lists of 0 to `WIDTH` items with few distinct scores, and 0 to 40 targets: more than some k."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(ITEMS)[:WIDTH] for _ in range(QUERIES)])
    lengths = rng.integers(1, WIDTH + 1, QUERIES)
    lengths[0] = 0
    scores = -np.sort(-rng.integers(0, levels, (QUERIES, WIDTH)), axis=1).astype(np.float32)
    padding = np.arange(WIDTH) >= lengths[:, np.newaxis]
    items[padding], scores[padding] = NO_ITEM, np.finfo(np.float32).min
    sizes = rng.choice([1, 2, 5, 40], QUERIES)
    sizes[-1] = 0
    return Case(items, scores, Ragged.from_rows([rng.permutation(ITEMS)[:size] for size in sizes], np.int64))


def trec_values(case: Case, ours: str, k: int, *, pessimistic: bool = True) -> np.ndarray:
    """Returns `[queries]`: a metric of ir_measures, NaN of queries that it says nothing of.

    Equal scores are ordered by name, descending by trec_eval and ascending by MS MARCO's script, which has the
    reciprocal ranks: documents are named so that targets stand last among equals, or first.
    """
    ir_measures = pytest.importorskip("ir_measures", reason="pip install ir-measures")
    first, last = ("z", "a") if ours == "mrr" else ("a", "z")
    target, other = (first, last) if pessimistic else (last, first)

    def name(query: int, item: int) -> str:
        return f"{target if item in case.targets[query] else other}{item}"

    qrels = {f"q{query}": {name(query, item): 1 for item in targets} for query, targets in enumerate(case.targets)}
    qrels["q3"], qrels[f"q{QUERIES - 1}"] = {**qrels["q3"], "judged": 0}, {"judged": 0}  # to be wrong is no target
    run = {
        f"q{query}": {name(query, item): float(score) for item, score in zip(case.rows(query), case.scores[query])}
        for query in range(QUERIES)
    }
    del run["q0"]  # an empty list is one that the file of a run does not mention
    values = np.full(QUERIES, np.nan)
    measure = ir_measures.parse_measure(f"{OURS_TO_THEIRS[ours]}@{k}")
    for found in ir_measures.iter_calc([measure], qrels, run):
        values[int(found.query_id[1:])] = found.value
    return values


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["ndcg", "recall", "hit_rate", "precision", "mrr"])
def test_ir_measures_agrees_with_ties_empty_lists_and_many_targets(name, seed):
    given = case(seed)
    asked = given.targets.lengths > 0
    for k in KS:
        ours = metrics.PER_QUERY[name](given.found(), given.targets.lengths, k=k)
        np.testing.assert_allclose(ours[asked], trec_values(given, name, k)[asked], atol=1e-12, err_msg=f"@{k}")
        assert ours[0] == 0.0 and np.isnan(ours[~asked]).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_map_is_trec_eval_s_but_for_the_divisor(seed):
    given = case(seed)
    sizes = given.targets.lengths
    asked = sizes > 0
    for k in KS:
        ours = metrics.average_precision(given.found(), sizes, k=k)
        theirs = trec_values(given, "map", k) * sizes / np.maximum(np.minimum(sizes, k), 1)
        np.testing.assert_allclose(ours[asked], theirs[asked], atol=1e-12)


def test_a_judged_query_without_a_target_is_0_to_ir_measures_and_nothing_to_us():
    given = case(0)
    last = QUERIES - 1
    for name in OURS_TO_THEIRS:
        assert trec_values(given, name, 10)[last] == 0.0
        assert np.isnan(metrics.PER_QUERY[name](given.found(), given.targets.lengths, k=10)[last])


def test_ties_that_are_broken_in_favour_of_targets_look_better_and_ours_never_do():
    given, gained = case(1, levels=2), 0.0
    for name in OURS_TO_THEIRS:
        worst, best = (trec_values(given, name, 10, pessimistic=each) for each in (True, False))
        assert (worst <= best + 1e-12).all()
        gained += float((best - worst).sum())
    assert gained > 10  # else the lists would have no ties to speak of


# --- RecTools --------------------------------------------------------------------------------------------------------


def rectools():
    return pytest.importorskip("rectools.metrics", reason="pip install tfmm[bench] to compare with RecTools")


def table_of(items: np.ndarray, relevant: np.ndarray | None = None):
    """Returns lists as RecTools reads them: a row an item, `rank` from 1; empty lists have no row."""
    pandas = pytest.importorskip("pandas")
    query, place = np.nonzero(items != NO_ITEM if relevant is None else relevant)
    table = {"user_id": query, "item_id": items[query, place], "rank": place + 1}
    return pandas.DataFrame(table)


def pairs_of(targets: Ragged):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"user_id": targets.row_numbers, "item_id": targets.values})


def measured(given: Case) -> np.ndarray:
    """Returns the lists in the order that is measured: RecTools knows places, not scores."""
    return relevance.pessimistic_lists(given.items, given.targets, scores=given.scores)[0]


def dense(values, fill: float = np.nan) -> np.ndarray:
    """Returns `[queries]` of RecTools' value by user; `fill` where it says nothing."""
    return values.reindex(range(QUERIES), fill_value=fill).to_numpy(float)


@pytest.mark.parametrize("seed", SEEDS)
def test_rectools_agrees_on_what_needs_targets(seed):
    theirs, given = rectools(), case(seed)
    table, pairs, found, sizes = (
        table_of(measured(given)),
        pairs_of(given.targets),
        given.found(),
        given.targets.lengths,
    )
    for k in KS:
        pairs_of_values = (
            (metrics.precision, theirs.Precision(k=k)),
            (metrics.recall, theirs.Recall(k=k)),
            (metrics.hit_rate, theirs.HitRate(k=k)),
            (metrics.mrr, theirs.MRR(k=k)),
            (metrics.ndcg, theirs.NDCG(k=k, divide_by_achievable=True)),
        )
        for ours, metric in pairs_of_values:
            values = dense(metric.calc_per_user(table, pairs))
            np.testing.assert_allclose(ours(found, sizes, k=k), values, atol=1e-12, err_msg=f"{metric}")
        average = dense(theirs.MAP(k=k).calc_per_user(table, pairs)) * sizes / np.clip(sizes, 1, k)
        np.testing.assert_allclose(metrics.average_precision(found, sizes, k=k), average, atol=1e-12)


def test_rectools_ideal_list_is_by_default_full_of_targets():
    theirs, given = rectools(), case(0)
    discounts = 1 / np.log2(np.arange(2, 12))
    few = np.minimum(given.targets.lengths, 10)
    reachable = np.concatenate([[0.0], np.cumsum(discounts)])[few] / discounts.sum()
    ours = metrics.ndcg(given.found(), given.targets.lengths, k=10)
    values = dense(theirs.NDCG(k=10).calc_per_user(table_of(measured(given)), pairs_of(given.targets)))
    np.testing.assert_allclose(ours * np.where(few, reachable, np.nan), values, atol=1e-12)
    assert (few < 10).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_rectools_agrees_on_coverage(seed):
    theirs, items = rectools(), measured(case(seed))[:3]
    for k in KS:
        share = theirs.CatalogCoverage(k=k, normalize=True).calc(table_of(items), range(ITEMS))
        assert metrics.coverage(items, num_items=ITEMS, k=k) == share > 0


def cosine_distance(vectors: np.ndarray):
    """Returns RecTools' calculator of distances, by scipy's cosine distance."""
    rectools()
    from rectools.metrics.distances import PairwiseDistanceCalculator
    from scipy.spatial import distance

    class Cosine(PairwiseDistanceCalculator):
        def _get_distances_for_item_pairs(self, items_0, items_1):
            return np.array([distance.cosine(vectors[a], vectors[b]) for a, b in zip(items_0, items_1)])

    return Cosine()


def test_rectools_agrees_on_diversity_within_lists():
    theirs, items = rectools(), measured(case(2))
    vectors = np.random.default_rng(2).normal(size=(ITEMS, 6))
    for k in (3, 10):
        metric = theirs.IntraListDiversity(k=k, distance_calculator=cosine_distance(vectors))
        values = dense(metric.calc_per_user(table_of(items)), fill=0.0)
        paired = np.count_nonzero(items[:, :k] != NO_ITEM, axis=1) > 1
        ours = metrics.diversity(items, vectors, k=k)
        np.testing.assert_allclose(ours[paired], values[paired], atol=1e-6)
        assert np.isnan(ours[~paired]).all() and (values[~paired] == 0).all() and (~paired).sum() > 1


def test_rectools_novelty_is_ours_where_every_event_is_another_user_s_and_each_item_has_one_more():
    theirs, items = rectools(), measured(case(3))
    pandas = pytest.importorskip("pandas")
    popularity = np.random.default_rng(3).integers(0, 9, ITEMS)
    assert (popularity == 0).any()
    had = np.repeat(np.arange(ITEMS), popularity + 1)
    events = pandas.DataFrame({"user_id": np.arange(len(had)), "item_id": had})
    for k in KS:
        values = dense(theirs.MeanInvUserFreq(k=k).calc_per_user(table_of(items), events))
        ours = metrics.novelty(items, popularity, k=k)
        np.testing.assert_allclose(ours, values, atol=1e-12)
        assert np.isnan(ours[0])  # the empty list


@pytest.mark.parametrize("seed", SEEDS)
def test_rectools_serendipity_is_ours_but_for_the_divisor_of_short_lists(seed):
    theirs, given = rectools(), case(seed)
    pandas = pytest.importorskip("pandas")
    popularity = np.random.default_rng(seed).integers(0, 9, ITEMS)
    had = np.repeat(np.arange(ITEMS), popularity)
    events = pandas.DataFrame({"user_id": np.arange(len(had)), "item_id": had})
    items, found = relevance.pessimistic_lists(given.items, given.targets, scores=given.scores)
    asked = given.targets.lengths > 0
    for k in KS:
        metric = theirs.Serendipity(k=k)
        values = dense(metric.calc_per_user(table_of(items), pairs_of(given.targets), events, range(ITEMS)), fill=0.0)
        values *= np.count_nonzero(items[:, :k] != NO_ITEM, axis=1) / k
        ours = metrics.serendipity(items, found, given.targets.lengths, popularity, k=k)
        np.testing.assert_allclose(ours[asked], values[asked], atol=1e-12)
        assert np.isnan(ours[~asked]).all() and ours[asked].max() > 0.01


def test_best_sellers_are_never_serendipitous_and_what_nobody_had_is_most():
    popularity = np.array([9, 5, 3, 0])
    for item, expected in ((0, 0.0), (1, 1 / 4), (2, 2 / 4), (3, 1.0)):
        ours = metrics.serendipity(np.array([[item]]), np.array([[True]]), np.array([1]), popularity, k=1)
        assert ours.tolist() == [expected]
