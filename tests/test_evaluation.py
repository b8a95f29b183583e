"""From what systems recommend to what the report says of them, held to plain loops."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import shops

from tfmm import closed_form, evaluation, gallery, metrics, results, stages
from tfmm.evaluation import LIST_SIZE, EvaluationConfig, Lists, lists_of_scores, measure, per_user
from tfmm.ragged import NO_ITEM, Ragged
from tfmm.sources.dataset import Interactions
from tfmm.splits import Queries

NEVER = float(np.finfo(np.float32).min)


def queries_of(
    targets: list[list[int]], *, users: list[int] | None = None, history: list[list[int]] | None = None
) -> Queries:
    count = len(targets)
    past = Ragged.from_rows(history or [[59]] * count, np.int32)
    empty = Ragged(np.zeros(len(past.values), np.int64), past.offsets)
    user = np.array(users if users is not None else range(count), np.int32)
    return Queries(user, past, empty, empty, Ragged.from_rows(targets, np.int32), np.zeros(count, np.int64))


def lists_of(rows: list[list[int]]) -> Lists:
    """Returns ranked lists with descending scores, padded."""
    dense = Ragged.from_rows(rows, np.int64).to_dense(LIST_SIZE)
    return Lists(dense, np.where(dense == NO_ITEM, NEVER, -np.arange(LIST_SIZE, dtype=np.float32)))


@pytest.mark.parametrize("num_items", [7, 100, 250])
def test_lists_are_the_best_scores_of_what_is_not_excluded(num_items):
    rng = np.random.default_rng(num_items)
    scores = rng.normal(size=(5, num_items)).astype(np.float32)
    excluded = Ragged.from_rows([[], [0], [1, 1, 2], rng.permutation(num_items)[:6], range(num_items)], np.int64)
    before = scores.copy()
    lists = lists_of_scores(scores, excluded)
    np.testing.assert_array_equal(scores, before)
    assert lists.rows.shape == lists.scores.shape == (5, LIST_SIZE)
    for query in range(5):
        gone = set(excluded[query].tolist())
        expected = [row for row in np.argsort(-scores[query]) if row not in gone][:LIST_SIZE]
        found = lists.rows[query].tolist()
        assert found == expected + [-1] * (len(found) - len(expected))
        np.testing.assert_array_equal(lists.scores[query, : len(expected)], scores[query, expected])
        assert np.all(lists.scores[query, len(expected) :] == NEVER)


def test_a_shopper_with_several_queries_counts_once():
    values = np.array([1.0, 0.0, 0.5, np.nan, 0.25, np.nan])
    users = np.array([3, 3, 0, 0, 7, 5])
    assert per_user(values, users).tolist() == [0.5, 0.5, 0.25]  # users 0, 3 and 7; 5 has nothing that counts
    assert evaluation.interval(values, users)["n"] == 3
    assert evaluation.interval(values, users)["mean"] == pytest.approx((0.5 + 0.5 + 0.25) / 3)


def test_where_nothing_counts_the_interval_says_so():
    assert evaluation.interval(np.array([np.nan]), np.array([0])) == {"mean": 0.0, "ci95": [0.0, 0.0], "n": 0}


def test_measured_values_are_arithmetic():
    found = measure(lists_of([[4, 9, 2], [1, 2, 3], []]), Ragged.from_rows([[2, 30], [1], [5]], np.int32))
    ideal = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(found["ndcg@10"], [1 / np.log2(4) / ideal, 1.0, 0.0])
    np.testing.assert_allclose(found["recall@10"], [0.5, 1.0, 0.0])
    np.testing.assert_allclose(found["mrr@10"], [1 / 3, 1.0, 0.0])
    np.testing.assert_allclose(found["recall@1"], [0.0, 1.0, 0.0])


def test_a_constant_scorer_is_not_perfect():
    queries = shops.shop().parts.test
    lists = lists_of_scores(np.zeros((len(queries), shops.ITEMS)), queries.history)
    assert evaluation.mean_ndcg(lists, queries) == 0.0  # of equal scores, what is no target comes first


def test_the_attainable_lists_of_a_perfect_utility_have_an_ndcg_of_1():
    queries = shops.shop().parts.test
    utility = np.zeros((shops.USERS, shops.ITEMS), np.float16)
    utility[queries.user[queries.targets.row_numbers], queries.targets.values] = 1
    lists = evaluation.attainable_lists(queries, utility, np.zeros(utility.shape[1]))
    assert evaluation.mean_ndcg(lists, queries) == 1.0
    assert not any(set(row.tolist()) & set(past.tolist()) for row, past in zip(lists.rows, queries.history))


def test_a_single_shopper_is_cut_by_how_much_was_done_and_items_by_how_often():
    item = np.array([0] * 10 + [1] * 6 + [2] * 2 + [3] * 2)
    zeros = np.zeros(20, np.int64)
    events = Interactions(zeros, item, zeros, zeros, zeros)
    history = [[0] * n for n in (1, 1, 2, 3, 5, 9)]
    parts = evaluation.slices(queries_of([[4]] * 6, history=history), events, num_items=6, tail_share=0.2)
    assert np.flatnonzero(parts.items["warm items"]).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(parts.items["cold items"]).tolist() == [4, 5]
    assert np.flatnonzero(parts.items["tail items"]).tolist() == [2, 3]  # 4 of 20 events: the rarest fifth
    lengths = {name: [len(history[row]) for row in np.flatnonzero(mask)] for name, mask in parts.queries.items()}
    assert lengths == {"up to 1 events": [1, 1], "2 to 3 events": [2, 3], "over 3 events": [5, 9]}
    assert sum(mask.astype(int) for mask in parts.queries.values()).tolist() == [1] * 6


def test_queries_of_equal_length_are_still_all_in_one_slice():
    zeros = np.zeros(1, np.int64)
    parts = evaluation.slices(
        queries_of([[4]] * 6), Interactions(zeros, zeros, zeros, zeros, zeros), num_items=6, tail_share=0.2
    )
    assert sum(mask.astype(int) for mask in parts.queries.values()).tolist() == [1] * 6


def test_a_slice_of_items_asks_for_its_targets_only():
    queries = queries_of([[0, 5], [5], [1]])
    lists = lists_of([[5, 0], [5], [1]])
    parts = evaluation.Slices(
        items={"first": np.arange(6) < 2, "none": np.zeros(6, bool)}, queries={"two": np.array([True, True, False])}
    )
    entry = evaluation.summary(lists, queries, parts, vectors=np.eye(6), popularity=np.ones(6))
    sliced = entry["slices"]["first"]["ndcg@10"]
    assert sliced["n"] == 2  # the second query has no target among them
    assert sliced["mean"] == pytest.approx((1 / np.log2(3) + 1.0) / 2)
    assert entry["slices"]["two"]["ndcg@10"] == {"mean": 1.0, "ci95": [1.0, 1.0], "n": 2}
    assert "none" not in entry["slices"]


def test_a_summary_has_every_metric_of_the_contract():
    queries = queries_of([[0], [1]])
    parts = evaluation.Slices(items={}, queries={})
    entry = evaluation.summary(lists_of([[0, 1], [0, 1]]), queries, parts, vectors=np.eye(6), popularity=np.ones(6))
    for name in ("ndcg@10", "recall@10", "mrr@10", "map@10", "coverage@10", "diversity@10", "novelty@10", "gini@10"):
        assert set(entry["metrics"][name]) == {"mean", "ci95", "n"}, name
    assert entry["metrics"]["coverage@10"]["mean"] == pytest.approx(2 / 6)
    assert entry["metrics"]["mrr@10"]["mean"] == pytest.approx(0.75)
    assert entry["metrics"]["diversity@10"]["mean"] == pytest.approx(1.0)  # orthogonal vectors


def test_a_comparison_is_positive_where_the_first_is_better():
    queries = queries_of([[0]] * 40)
    good, bad = lists_of([[0, 1]] * 40), lists_of([[1, 0]] * 40)
    found = evaluation.compare(good, bad, queries, names=("good", "bad"))
    assert found["difference"] == pytest.approx(1 - 1 / np.log2(3))
    assert found["ci95"][0] > 0
    assert found["p"] < 0.01
    assert (found["a"], found["b"]) == ("good", "bad")
    assert evaluation.compare(bad, good, queries, names=("bad", "good"))["difference"] == -found["difference"]
    assert evaluation.compare(good, good, queries, names=("good", "good"))["difference"] == 0


# --- Systems of the small shop ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def baselines():
    shop = shops.shop()
    return evaluation.fit_baselines(
        shop.parts.refit, shop.parts.validation, num_users=shops.USERS, num_items=shops.ITEMS
    )


def test_the_closed_forms_learn_the_groups_and_popularity_cannot(baselines):
    test = shops.shop().parts.test
    ndcg = {name: evaluation.mean_ndcg(baseline.lists(test), test) for name, baseline in baselines.items()}
    assert set(ndcg) == {"popularity", "recent_popularity", "item_knn", "ease", "transitions"}
    assert min(ndcg["item_knn"], ndcg["ease"], ndcg["transitions"]) > 1.5 * max(
        ndcg["popularity"], ndcg["recent_popularity"]
    )


def test_of_a_catalogue_too_large_the_most_had_items_have_the_weights_of_a_shop_with_nothing_else(monkeypatch):
    events, rows = shops.shop().parts.refit, np.random.default_rng(0).normal(size=(shops.ITEMS, 3))
    matrix = closed_form.interaction_matrix(events.user, events.item, num_users=shops.USERS, num_items=shops.ITEMS)
    had = np.diff(matrix.tocsc().indptr)
    most = 20
    chosen = np.sort(np.argsort(-had, kind="stable")[:most])
    kept = np.isin(events.item, chosen)
    fields = {field.name: getattr(events, field.name)[kept] for field in dataclasses.fields(events)}
    alone = type(events)(**{**fields, "item": np.searchsorted(chosen, fields["item"])})
    settings = {"l2": 3.0, "content": 2.0, "decay": 0.5, "back": 0.25}
    expected = {
        "ease": evaluation.ease(matrix[:, chosen], l2=3.0),
        "transitions": evaluation.transitions(alone, most, rows[chosen], settings),
    }
    monkeypatch.setattr(evaluation, "DENSE_UP_TO", most)
    found = {
        "ease": evaluation.ease(matrix, l2=3.0),
        "transitions": evaluation.transitions(events, shops.ITEMS, rows, settings),
    }
    for name, weights in found.items():
        np.testing.assert_allclose(weights.toarray()[np.ix_(chosen, chosen)], expected[name], atol=1e-6, err_msg=name)
        assert weights.nnz == np.count_nonzero(expected[name])


def test_popularity_recommends_the_most_bought_that_were_not_seen(baselines):
    shop = shops.shop()
    counts = np.bincount(shop.parts.refit.item, minlength=shops.ITEMS)
    rows = baselines["popularity"].lists(shop.parts.test, batch_size=7).rows
    for query, history in enumerate(shop.parts.test.history):
        shown = [row for row in rows[query] if row >= 0]
        assert len(shown) == shops.ITEMS - len(set(history.tolist()))
        assert not set(shown) & set(history.tolist())
        assert np.all(np.diff(counts[shown]) <= 0)


def test_a_baseline_that_knows_content_waits_for_the_launch_as_ours_does():
    shop, test = shops.shop(), shops.shop().parts.test
    launched, rows = shop.table.launched, np.arange(len(test))[:, np.newaxis]
    closed = stages.baselines(shops.CONFIG, shop)
    early = launched[np.newaxis] > test.time[:, np.newaxis]
    for name, baseline in closed.items():
        shown = baseline.lists(test).rows
        assert not (early[rows, shown] & (shown >= 0)).any(), name
    ignorant = dataclasses.replace(closed["transitions"], launched=None).lists(test).rows
    assert (early[rows, ignorant] & (ignorant >= 0)).any()


def test_the_settings_of_a_baseline_are_those_that_validation_likes_best(baselines):
    shop = shops.shop()
    best = evaluation.mean_ndcg(baselines["ease"].lists(shop.parts.validation), shop.parts.validation)
    for decay in (1.0, 0.6):
        other = dataclasses.replace(baselines["ease"], decay=decay).lists(shop.parts.validation)
        assert evaluation.mean_ndcg(other, shop.parts.validation) <= best + 1e-12


def test_what_the_export_retrieves_is_what_the_towers_in_memory_do():
    shop, test = shops.shop(), shops.shop().parts.test
    found = evaluation.exported_lists(
        shops.version(), shop.wire(test), shop.dataset.items.ids, signature="retrieve", batch_size=25
    )
    expected = evaluation.retrieval_lists(shops.retriever(), test, shop.context)
    width = expected.rows.shape[1]
    np.testing.assert_array_equal(found.rows[:, :width], expected.rows)
    assert np.all(found.rows[:, width:] == NO_ITEM)
    real = expected.rows >= 0
    temperature = shops.CONFIG.retrieval.temperature
    np.testing.assert_allclose(found.scores[:, :width][real] * temperature, expected.scores[real], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        measure(found, test.targets)["ndcg@10"], measure(expected, test.targets)["ndcg@10"], atol=1e-6
    )


def test_taking_every_modality_away_costs_more_than_one():
    shop = shops.shop()
    lists = evaluation.hidden_modalities(shops.retriever(), shop.parts.test, shop.context)
    assert list(lists) == ["all modalities", *(f"without {name}" for name in shops.features().modalities)]
    nothing = evaluation.retrieval_lists(
        shops.retriever(), shop.parts.test, shop.context, hidden=shops.features().modalities
    )
    ndcg = {name: evaluation.mean_ndcg(found, shop.parts.test) for name, found in lists.items()}
    assert evaluation.mean_ndcg(nothing, shop.parts.test) < min(ndcg.values())


def test_a_modality_that_more_and_more_items_lack_ends_where_all_lack_it():
    shop, retriever = shops.shop(), shops.retriever()
    found = {
        (name, share): lists for name, share, lists in evaluation.robustness(retriever, shop.parts.test, shop.context)
    }
    hidden = evaluation.hidden_modalities(retriever, shop.parts.test, shop.context)
    for name in shops.features().modalities:
        np.testing.assert_array_equal(found[name, 0.0].rows, hidden["all modalities"].rows)
        np.testing.assert_array_equal(found[name, 1.0].rows, hidden[f"without {name}"].rows)
    half = np.arange(shops.ITEMS) % 2 == 0
    mixed = retriever.corpus_vectors(hidden=("image",), of=half).numpy()
    whole, none = retriever.corpus_vectors().numpy(), retriever.corpus_vectors(hidden=("image",)).numpy()
    np.testing.assert_allclose(mixed, np.where(half[:, np.newaxis], none, whole), atol=1e-6)


@pytest.mark.slow
def test_the_report_holds_what_the_contract_names(baselines, tmp_path):
    shop = shops.shop()
    systems = results.recommend_all(shops.CONFIG, shop, shops.version(), baselines)
    report = results.build_report(
        shops.CONFIG,
        shop,
        systems,
        baselines=baselines,
        retriever=shops.retriever(),
        asked=results.ask_all(shops.CONFIG, shop, shops.version(), shops.aligner(), None),
        curves={},
        timings={"load": 1.0},
        directory=tmp_path,
        argv=["--size", "tiny"],
    )
    again = json.loads(json.dumps(report))
    assert again["schema_version"] == 1
    assert {"popularity", "item_knn", "ease", "retrieval", "retrieval+reranker"} <= set(again["models"])
    queries, best = shop.parts.test, report["attainable"]["ndcg@10"]["mean"]
    assert best == pytest.approx(
        evaluation.mean_ndcg(
            evaluation.attainable_lists(queries, shop.dataset.true_utility, shop.table.launched), queries
        )
    )
    ours = report["models"]["retrieval+reranker"]["metrics"]["ndcg@10"]
    assert report["attainable"]["share"] == pytest.approx(ours["mean"] / best)
    assert ours["n"] == len(np.unique(queries.user))
    assert again["dataset"]["cold items"] == len(shops.COLD)
    assert {"warm items", "cold items"} <= set(again["models"]["ease"]["slices"])
    pairs = {(found["a"], found["b"]) for found in again["comparisons"]}
    assert ("retrieval+reranker", "retrieval") in pairs
    assert ("retrieval", "ease") in pairs
    assert ("two words and the history", "the history") in pairs
    assert {"0%", "25%", "50%", "75%", "100%"} == set(again["robustness"]["image"])
    assert again["reproduce"] == ["python train.py --size tiny"]


def test_the_gallery_marks_the_hits_and_no_others():
    shop = shops.shop()
    test = shop.parts.test
    lists = lists_of([[*targets.tolist(), *[r for r in range(8) if r not in targets][:5]] for targets in test.targets])
    rows = gallery.of_shoppers(shops.CONFIG, shop, shops.version(), lists)
    assert len(rows) == min(shops.CONFIG.evaluation.gallery, len(test))
    for row in rows:
        user = int(row.user_id[1:])
        query = test.user.tolist().index(user)
        right = {f"i{target}" for target in test.targets[query]}
        assert {card.item_id for card in row.recommended if card.hit} == right & {c.item_id for c in row.recommended}
        assert [card.item_id for card in row.history] == [f"i{item}" for item in test.history[query][-8:]]
        assert not any(card.hit for card in row.history)
        assert all("%" in card.caption or card.caption.startswith("for ") for card in row.recommended)


def test_metrics_that_are_reported_are_metrics_that_are_measured():
    found = measure(lists_of([[0]]), Ragged.from_rows([[0]], np.int32))
    for name in evaluation.METRICS:
        assert name in metrics.PER_QUERY
        assert {f"{name}@{k}" for k in evaluation.KS} <= set(found)


def test_an_unknown_kind_of_ablation_is_named():
    with pytest.raises(ValueError, match="none, hide or retrain, got 'all'"):
        EvaluationConfig(ablations="all")
