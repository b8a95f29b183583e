"""Rankers of judged lists: what numbers become, metrics, trees in the graph, clicks; a run from files to a server."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import ndcg_score
from tensorflow_serving.apis import input_pb2

from benchmarks.letor import simulated
from tfmm import clicks, config, judging, metrics, pipelines, ranking, records, train, trees
from tfmm.candidates import standardised
from tfmm.ragged import Ragged
from tfmm.ranker import ListNumbers, Ranker
from tfmm.reranking import ListwiseScorer, RerankingConfig
from tfmm.serving.client import Client
from tfmm.serving.server import ServerOptions, serve
from tfmm.sources import letor
from tfmm.sources.judged import JudgedLists

FEATURES = 4


def judged(seed: int = 0, count: int = 40, *, longest: int = 12) -> JudgedLists:
    """Returns lists whose order feature 2 gives away; 1 and 3 say nothing, and 4 is half missing."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, count)
    total = int(lengths.sum())
    worth = rng.normal(size=total)
    features = rng.normal(size=(total, FEATURES)).astype(np.float32)
    features[:, 1] = np.exp(worth)
    features[rng.random(total) < 0.5, 3] = np.nan
    names = np.array([f"d{row}" for row in range(total)], dtype=object)
    return JudgedLists(
        queries=np.array([f"q{seed}-{row}" for row in range(count)], dtype=object),
        documents=Ragged(names, np.concatenate([[0], np.cumsum(lengths)])),
        labels=np.digitize(worth, [0.0, 1.0]).astype(np.float32),
        features=features,
    )


def as_text(lists: JudgedLists) -> str:
    rows = []
    for row, document in enumerate(lists.documents.values):
        cells = [f"{k}:{'NULL' if np.isnan(v) else v}" for k, v in enumerate(lists.features[row], start=1)]
        query = lists.queries[lists.documents.row_numbers[row]]
        rows.append(f"{int(lists.labels[row])} qid:{query} {' '.join(cells)} #docid = {document}")
    return "\n".join(rows) + "\n"


def dense(lists: JudgedLists, width: int) -> tuple[np.ndarray, np.ndarray]:
    places = Ragged(np.arange(len(lists.labels)), lists.documents.offsets).to_dense(width)
    mask = places >= 0
    return np.where(mask[..., np.newaxis], lists.features[places], 0).astype(np.float32), mask


def random_ranker(lists: JudgedLists, **options: object) -> Ranker:
    """Returns a ranker of two members whose weights are random, as after training."""
    numbers, rng = ListNumbers(lists.features), np.random.default_rng(1)
    members = [ListwiseScorer(RerankingConfig(width=16), terms=0) for _ in range(2)]
    raw, mask = dense(lists, 12)
    for member in members:
        member({"example": numbers(raw, mask), "mask": mask})
        for weight in member.trainable_variables:
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return Ranker(numbers, members, **options)


# --- Numbers ---------------------------------------------------------------------------------------------------------


def test_a_number_becomes_its_presence_logarithm_quantile_and_places_in_the_list():
    numbers = ListNumbers(np.arange(1.0, 101.0)[:, np.newaxis], knots=100)
    raw = np.array([[[1.0], [50.0], [np.nan], [50.0], [100.0], [7.0]]], np.float32)
    mask = np.array([[True, True, True, True, True, False]])
    found = numbers(raw, mask).numpy()[0]
    low, middle, high = np.log1p([1.0, 50.0, 100.0])
    place = (middle - low) / (high - low)
    np.testing.assert_array_equal(found[:, 0], [1, 1, 0, 1, 1, 0])
    np.testing.assert_allclose(found[[0, 1, 4], 1], [low, middle, high], rtol=1e-6)
    np.testing.assert_allclose(found[[0, 1, 4], 2], [0.005, 0.495, 0.995], atol=0.006)
    np.testing.assert_allclose(found[:5, 3], [0, place, 0.5, place, 1], rtol=1e-5)
    np.testing.assert_allclose(
        found[:5, 4], [0.125, 0.5, 0.5, 0.5, 0.875]
    )  # of the four known ones: (below + half) / 4


def test_numbers_that_are_never_known_do_no_harm():
    numbers = ListNumbers(np.full([5, 1], np.nan))
    assert np.isfinite(numbers(np.full([2, 3, 1], np.nan, np.float32), np.ones([2, 3], bool))).all()


def test_padding_never_changes_the_scores():
    lists = judged()
    ranker = random_ranker(lists)
    raw, mask = dense(lists, 12)
    before = ranker.mixture(raw, mask).numpy()
    wider = np.pad(raw, [(0, 0), (0, 7), (0, 0)], constant_values=9.0)
    wider[:, :12][~mask] = np.nan
    after = ranker.mixture(wider, np.pad(mask, [(0, 0), (0, 7)])).numpy()
    np.testing.assert_allclose(after[:, :12][mask], before[mask], rtol=1e-3, atol=1e-4)


def test_the_order_in_which_documents_come_never_changes_their_scores():
    lists = judged(longest=6)
    raw, mask = dense(lists, 6)
    full = mask.all(axis=1)
    raw, mask, order = raw[full], mask[full], np.array([3, 1, 5, 0, 2, 4])
    raw[:, 0] = raw[:, 1]  # equal numbers stay equal
    ranker = random_ranker(lists)
    found = ranker.mixture(raw[:, order], mask).numpy()
    np.testing.assert_allclose(found, ranker.mixture(raw, mask).numpy()[:, order], rtol=1e-3, atol=1e-4)


def test_standardised_scores_have_mean_0_and_deviation_1_over_what_is_no_padding():
    scores = np.array([[1.0, 5.0, 3.0, 99.0], [2.0, 2.0, 2.0, 2.0]], np.float32)
    found = standardised(scores, np.array([[True, True, True, False], [True, True, True, True]])).numpy()
    np.testing.assert_allclose(found[0], [-np.sqrt(1.5), np.sqrt(1.5), 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(found[1], 0)


# --- Metrics ---------------------------------------------------------------------------------------------------------


def test_graded_ndcg_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 3, (50, 15)), rng.normal(size=(50, 15))
    labels[:, 0] = 2
    ranked = np.take_along_axis(labels, np.argsort(-scores, axis=1), axis=1)
    for k in (1, 3, 10):
        expected = [ndcg_score([2.0**label - 1], [score], k=k) for label, score in zip(labels, scores)]
        np.testing.assert_allclose(metrics.graded_ndcg(ranked, k=k), expected)


def test_ties_stand_against_us_and_a_query_without_an_answer_has_no_value_or_0():
    lists = JudgedLists(
        queries=np.array(["a", "b"], dtype=object),
        documents=Ragged(np.array(list("wxyz"), dtype=object), np.array([0, 2, 4])),
        labels=np.array([2, 0, 0, 0], np.float32),
        features=np.zeros([4, 1], np.float32),
    )
    values = judging.measure(lists, np.zeros(4))
    np.testing.assert_allclose(values["ndcg@3"], [1 / np.log2(3), np.nan])
    np.testing.assert_allclose(values["mrr@10"], [0.5, np.nan])
    assert judging.with_zeros(values)["map@10"].tolist() == [0.5, 0]


def test_the_best_feature_is_found_with_its_direction():
    lists = judged()
    assert judging.best_feature(lists) == (2, 1)
    turned = dataclasses.replace(lists, features=-lists.features)
    assert judging.best_feature(turned) == (2, -1)


# --- Records ---------------------------------------------------------------------------------------------------------


def test_weights_go_through_the_records_to_training(tmp_path):
    lists = dataclasses.replace(judged(), weights=np.arange(len(judged().labels), dtype=np.float32))
    records.write_example_lists(ranking.example_lists(lists), tmp_path, "train")
    numbers = ListNumbers(lists.features)
    got = {}
    for inputs, labels, weights in ranking.read(tmp_path, "train", numbers, batch_size=8, shuffle=True, seed=0):
        mask = inputs["mask"].numpy()
        got.update(zip(weights.numpy()[mask].tolist(), labels.numpy()[mask].tolist()))
    assert got == dict(enumerate(lists.labels.tolist()))


def test_lists_that_nobody_asked_for_with_a_history_can_be_read(tmp_path):
    lists = records.ExampleLists(items=Ragged.from_rows([["a"], ["b", "c"]], object), labels=np.zeros(3, np.float32))
    records.write_example_lists(lists, tmp_path, "rank")
    batches = pipelines.example_list_batches(tmp_path, "rank", batch_size=2, list_size=None, shuffle=False, seed=0)
    (features, labels), *_ = batches
    assert features["mask"].numpy().tolist() == [[True, False], [True, True]]
    assert labels.numpy().tolist() == [[0, -1], [0, 0]]


# --- Trees -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [True, False])
def test_trees_in_the_graph_score_as_lightgbm_does(missing):
    pytest.importorskip("lightgbm", reason="needs LightGBM: pip install 'tfmm[bench]'")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(800, 5)).round(1).astype(np.float32)
    features[rng.random(features.shape) < 0.2 * missing] = np.nan
    labels = (np.nan_to_num(features[:, 0]) + np.isnan(features[:, 1]) > 0.5).astype(np.float32)
    part = trees.Part(features, labels, np.full(80, 10))
    forest = trees.fit(part, part, quality=lambda scores: float(np.corrcoef(scores, labels)[0, 1]), seed=0)
    asked = features.copy()
    asked[:50, :2] = np.nan
    np.testing.assert_allclose(trees.Trees(forest)(asked).numpy(), forest.scores(asked), rtol=1e-5, atol=1e-6)


def test_without_lightgbm_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(trees, "available", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'tfmm\[bench\]'"):
        trees.require()


# --- Clicks ----------------------------------------------------------------------------------------------------------


def shown_and_clicked(looked: np.ndarray, *, documents: int = 60, times: int = 4000, swaps: bool = True):
    """Returns a log of documents that stand where their worth puts them, or one place off, and their worth."""
    rng = np.random.default_rng(0)
    worth = np.sort(rng.uniform(0.05, 0.95, (documents // len(looked), len(looked))))[:, ::-1]
    rows = []
    for query, row in enumerate(worth):
        for at, value in enumerate(row):
            for place in {at, (at + 1) % len(looked)} if swaps else {at}:
                rows.append((query * len(looked) + at, place, times, rng.binomial(times, looked[place] * value)))
    return clicks.ClickLog(*np.array(rows).T), worth.reshape(-1)


def test_propensities_are_those_that_the_clicks_were_drawn_with():
    looked = 1.0 / np.arange(1, 7)
    log, _ = shown_and_clicked(looked)
    np.testing.assert_allclose(clicks.propensities(log), looked, rtol=0.06)


def test_propensities_of_many_documents_with_few_clicks_each_are_right_too():
    """Estimating every document's worth beside the places gives up to a sixth too much here, however long it runs."""
    looked = 1.0 / np.arange(1, 7)
    log, _ = shown_and_clicked(looked, documents=12_000, times=10)
    np.testing.assert_allclose(clicks.propensities(log), looked, rtol=0.06)


def test_a_place_that_nothing_moved_to_is_looked_at_as_the_one_before_it():
    log = clicks.ClickLog(*np.array([[0, 0, 10_000, 5000], [0, 1, 10_000, 2000], [1, 2, 10, 3], [1, 3, 10, 0]]).T)
    np.testing.assert_allclose(clicks.propensities(log)[:3], [1, 0.4, 0.4], rtol=1e-3)


def test_clicks_by_propensity_are_worth_and_plain_ones_are_not():
    looked = 1.0 / np.arange(1, 7)
    log, worth = shown_and_clicked(looked, swaps=False)
    plain = clicks.labels_of_clicks(log, len(worth))
    labels = clicks.labels_of_clicks(log, len(worth), propensity=looked)
    np.testing.assert_allclose(labels, worth, atol=0.06)
    np.testing.assert_allclose(plain, worth * np.tile(looked, len(worth) // 6), atol=0.03)


def test_a_click_far_down_counts_more_but_no_label_is_above_1_and_the_unshown_are_average():
    log = clicks.ClickLog(np.array([0, 1, 2]), np.array([0, 9, 9]), np.array([10, 10, 10]), np.array([4, 4, 0]))
    labels = clicks.labels_of_clicks(log, 4, propensity=0.1 ** np.arange(10.0), prior=1.0)
    average = 8 / (10 + 2 * 10 * 1e-9)
    np.testing.assert_allclose(labels, [(4 + average) / 11, 1.0, average, average], rtol=1e-5)


def test_simulated_shoppers_look_by_place_and_click_by_worth():
    lists = judged(count=60)
    options = argparse.Namespace(eta=1.0, sessions=400, swapped=0.5)
    log = simulated(lists, -np.arange(len(lists.labels)), options, np.random.default_rng(0))
    assert (np.bincount(log.document, log.shown) == 400).all()
    worth = np.array([0.1, 0.4, 1.0])[lists.labels.astype(int)]
    expected = log.shown * worth[log.document] / (log.place + 1)
    for place in (0, 1, 4):
        assert log.clicks[log.place == place].sum() == pytest.approx(expected[log.place == place].sum(), rel=0.05)


def test_places_cannot_be_told_from_documents_that_never_moved():
    log, _ = shown_and_clicked(np.ones(4), swaps=False)
    with pytest.raises(ValueError, match="swap places at random"):
        clicks.propensities(log)


# --- A run -----------------------------------------------------------------------------------------------------------


def test_settings_that_are_none_are_refused():
    for wrong in ({"members": 0}, {"trees": "oak"}, {"losses": "softmax_loss,hinge"}):
        with pytest.raises(ValueError, match="Expected"):
            config.LetorConfig(**wrong)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns directory and report of a tiny run on text files, and its test part."""
    home = tmp_path_factory.mktemp("letor")
    for seed, stem in enumerate(("train", "vali", "test")):
        (home / "lists").mkdir(exist_ok=True)
        (home / "lists" / f"{stem}.txt").write_text(as_text(judged(seed, 120 if stem == "train" else 40)))
    places = [f"--{name}={home / name}" for name in ("saved_models", "runs", "records")]
    flags = ["--source=letor", f"--data_dir={home / 'lists'}", "--size=tiny", "--run=tiny", "--letor.members=1"]
    small = ["--reranking.width=16", "--reranking.layers=1", "--reranking.epochs=6", "--reranking.batch_size=16"]
    assert train.main([*flags, *small, *places]) == 0
    return home


@pytest.mark.slow
def test_a_run_learns_the_order_and_serves_what_it_measured(run):
    report = json.loads((run / "runs" / "tiny" / "report.json").read_text())
    found = {name: model["metrics"]["ndcg@10"]["mean"] for name, model in report["models"].items()}
    assert found["listwise"] > 0.9
    assert (run / "runs" / "tiny" / "index.html").stat().st_size > 10_000
    test = letor.read_lists(run / "lists" / "test.txt")
    messages = np.array(list(records.serialise_lists(ranking.example_lists(test))), dtype=object)
    server = serve(run / "saved_models", port=0, options=ServerOptions(poll_seconds=3600))
    try:
        with Client(f"127.0.0.1:{server.port}") as client:
            answer = client.predict({"examples": messages}, signature="rank_listwise")
            again = client.predict({"examples": messages}, signature="serving_default")
    finally:
        server.stop(0)
    mask = np.arange(answer["scores"].shape[1]) < test.documents.lengths[:, np.newaxis]
    assert answer["item_ids"][mask].astype(str).tolist() == test.documents.values.tolist()
    assert (answer["scores"][~mask] == np.finfo(np.float32).min).all()
    values = judging.with_zeros(judging.measure(test, answer["scores"][mask]))
    assert values["ndcg@10"].mean() == pytest.approx(found["listwise"], abs=1e-6)
    served = judging.with_zeros(judging.measure(test, again["scores"][mask]))["ndcg@10"].mean()
    assert served == pytest.approx(found.get("mixture", found["listwise"]), abs=1e-6)


@pytest.mark.slow
def test_a_list_in_company_scores_as_it_does_alone(run):
    test = letor.read_lists(run / "lists" / "test.txt")
    version = run / "saved_models" / "tfmm" / "1"
    together = ranking.exported_scores(version, test, signature="rank")
    alone = [ranking.exported_scores(version, test.take(np.array([row])), signature="rank") for row in range(5)]
    np.testing.assert_allclose(np.concatenate(alone), together[: sum(map(len, alone))], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_an_example_without_numbers_does_not_break_the_graph(run):
    message = input_pb2.ExampleListWithContext()
    message.examples.add().features.feature["item_id"].bytes_list.value.append(b"d")
    model = tf.saved_model.load(str(run / "saved_models" / "tfmm" / "1"))
    answer = model.signatures["rank"](examples=tf.constant([message.SerializeToString()]))
    assert np.isfinite(answer["scores"]).all()


@pytest.mark.data
def test_on_mq2007_one_of_the_rankings_alone_orders_as_its_rank_says():
    root = Path(os.environ.get("TFMM_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
    home = root / "mq2007-agg"
    if not home.is_dir():
        pytest.skip(f"needs {home}: set TFMM_DATA to the folder that holds the real data sets")
    lists = letor.read_lists(home / "A3.txt")
    number, sign = judging.best_feature(lists)
    scores = judging.feature_scores(lists, number, sign)
    assert judging.mean_ndcg(lists, scores) > 1.2 * judging.mean_ndcg(lists, -scores) > 0
    unanswered = np.isnan(judging.measure(lists, scores)["ndcg@10"])
    assert unanswered.sum() == sum(
        lists.labels[a:b].max() == 0 for a, b in zip(lists.documents.offsets, lists.documents.offsets[1:])
    )
