"""Each benchmark runs, at the smallest size, and what it says beside the speed is true."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def bench(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


def assert_speeds(rows: list[Any]) -> None:
    for row in rows:
        values = [*row.our_values, *row.alternative_values]
        assert values and all(math.isfinite(value) and value > 0 for value in values), row


def test_a_ratio_above_one_is_in_our_favour_whichever_way_the_unit_points() -> None:
    common = bench("common")
    faster = common.Comparison("rate", "1/s", "ours", "theirs", [6.0, 8.0], [3.0, 2.0])
    sooner = common.Comparison("time", "s", "ours", "theirs", [1.0, 2.0], [3.0, 2.0], common.LESS)
    assert faster.ratios == [2.0, 4.0]
    assert sooner.ratios == [1.0, 3.0]


def test_what_was_never_reached_is_infinitely_late_and_never_a_number() -> None:
    training, common = bench("training"), bench("common")
    late = training.seconds_to([(1.0, 0.1), (2.0, 0.3)], 0.5)
    assert late == math.inf
    assert common.Comparison("time", "s", "ours", "theirs", [late], [3.0], common.LESS).ratios == [0.0]
    assert math.isnan(common.Comparison("time", "s", "ours", "theirs", [late], [late], common.LESS).ratios[0])


def test_a_contender_measured_after_its_budget_is_named() -> None:
    courses = {"slow": [[(9.0, 0.1)]], "quick": [[(1.0, 0.1), (4.0, 0.2)]]}
    (note,) = bench("training").overruns(courses, 5.0)
    assert "slow" in note
    assert "9 s" in note


def test_rounds_take_turns_in_going_first() -> None:
    calls: list[str] = []
    taken = bench("common").in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert {name: len(values) for name, values in taken.items()} == {"a": 2, "b": 2}


def test_the_table_names_ours_and_the_alternative(capsys: pytest.CaptureFixture[str]) -> None:
    common = bench("common")
    common.show("Speed", [common.Comparison("rate", "1/s", "ours", "another", [6.0, 9.0, 3.0], [3.0, 3.0, 3.0])])
    shown = capsys.readouterr().out
    for word in ("Speed", "rate", "ours", "another", "2 x", "1 x", "3 x"):
        assert word in shown


def test_exact_evaluation_agrees_where_nothing_is_tied_and_differs_on_collapsed_vectors() -> None:
    module = bench("exact_evaluation")
    found, collapsed = module.main(["--queries", "80", "--items", "200", "--dim", "16", "--rounds", "1"])
    queries, items, targets = module.draw_vectors(80, 200, 16, seed=0)
    scores = queries.astype(np.int64) @ items.astype(np.int64).T
    better = np.count_nonzero(scores > scores[np.arange(80), targets][:, np.newaxis], axis=1)
    naive = {k: float(np.mean(better < k)) for k in module.KS}
    assert 0 < naive[1] < naive[100]
    for accuracies in found.values():
        assert accuracies == pytest.approx(naive, abs=1e-6)
    assert collapsed[module.BRUTE_FORCE][1] == collapsed[module.STREAMING][1] == 1.0
    assert collapsed[module.OURS][100] == 0.0


@pytest.mark.slow
def test_sparse_updates_run_and_both_sides_train_the_same_model() -> None:
    module = bench("sparse_updates")
    flags = "--items 300 --dim 8 --batch_size 4 --length 6 --steps 1 --rounds 1".split()
    assert_speeds(module.main(flags))
    ours, theirs = (module.make_retriever(k, 300, dim=8, length=6) for k in (module.Retriever, module.DenselyTrained))
    shapes = [[tuple(weight.shape) for weight in model.trainable_variables] for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_tutorial_examples_hold_each_event_once_with_what_came_before_it() -> None:
    shop = bench("shops").make_shop(None, users=12, items=40, events=14, seed=0)
    columns = bench("tfrs_tutorial").examples(shop, history=True)
    expected = []
    for user in range(12):
        taken = [f"item{row}" for row in shop.events.item[shop.events.user == user]]
        expected += [(f"user{user}", taken[i], taken[max(0, i - 10) : i]) for i in range(1, len(taken))]
    got = zip(columns["user"], columns["item"], columns["history"])
    assert [(user, item, [h for h in history if h]) for user, item, history in got] == expected
    assert len(expected) == shop.num_transitions


def test_a_prefix_ends_before_its_target() -> None:
    shop = bench("shops").make_shop(None, users=12, items=40, events=14, seed=0)
    batches = bench("training").prefix_batches(shop, length=5, batch_size=512, steps=1, seed=0)
    (batch,) = list(batches)
    got = sorted([*(int(i) for i in row if i >= 0), int(t)] for row, t in zip(batch["items"], batch["target"]))
    taken = [shop.events.item[shop.events.user == user].tolist() for user in range(12)]
    assert got == sorted(items[max(0, i - 4) : i + 1] for items in taken for i in range(1, len(items)))


@pytest.mark.slow
def test_training_measures_every_contender_by_rate_and_by_budget() -> None:
    flags = "--users 60 --items 60 --events 12 --dim 8 --length 8 --budget 0.1 --rounds 1 --prefix_steps 1".split()
    rows = bench("training").main(flags)
    assert_speeds([row for row in rows if row.unit == "transitions/s"])
    assert [row.unit for row in rows] == ["transitions/s"] * 3 + ["NDCG@10", "s"] * 3
    assert len({row.alternative for row in rows}) == 3


def test_reading_and_loading_run() -> None:
    flags = "--users 40 --events 6 --steps 2 --step_ms 1 --rounds 1".split()
    assert_speeds(bench("reading").main(flags))
    assert_speeds(bench("loading").main(["--events", "200", "--items", "20", "--rounds", "1"]))


@pytest.mark.slow
def test_encoding_runs() -> None:
    rows = bench("encoding").main("--pictures 64 --texts 64 --sizes 64 --rounds 1".split())
    assert_speeds(rows)
    assert any(row.ours.startswith("second run") for row in rows)


@pytest.mark.slow
def test_latency_runs_against_a_server(tmp_path: Path) -> None:
    support, warmup = importlib.import_module("support_model"), importlib.import_module("tfmm.serving.warmup")
    queries = importlib.import_module("tfmm.serving.queries")
    (tmp_path / "tfmm").mkdir()
    version = support.write_model(tmp_path / "tfmm", 1)
    request = queries.build_request([queries.Query(history=["item1"])])
    warmup.write_warmup(version, {"serving_default": request})
    flags = ["--saved_models", str(tmp_path), *"--concurrency 1 --requests 5 --seconds 5 --rounds 1".split()]
    assert_speeds(bench("latency").main(flags))


def test_index_measures_both_kinds_and_more_probes_find_more() -> None:
    argv = "--rounds 1 --items 3000 --dim 8 --queries 32 --probes 1 4 10000".split()
    rows, recalls = bench("index").main(argv)
    assert_speeds(rows)
    assert recalls[1] < recalls[4] < recalls[10000] == 1.0
