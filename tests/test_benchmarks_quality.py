"""The commands that print quality figures say what reports and the exported model say, and train no seed twice."""

from __future__ import annotations

import dataclasses
import importlib
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shops
import tensorflow as tf

from tfmm import evaluation
from tfmm.candidates import dense_wire
from tfmm.config import Config, parse
from tfmm.ragged import Ragged
from tfmm.reranking import ListwiseScorer
from tfmm.results import OURS
from tfmm.splits import Queries

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--source", "movielens", "--data_dir", "somewhere"]
SCORES = {"popularity": 0.05, "ease": 0.10, "retrieval": 0.11, "retrieval+reranker": 0.12}


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def bench(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


# --- Variants --------------------------------------------------------------------------------------------------------


def test_a_variant_is_a_row_of_means_over_seeds_with_the_interval_of_the_first(monkeypatch, capsys):
    variants, asked = bench("variants"), []

    def measured(options, flags, value, seed):
        asked.append((options.kind, tuple(flags), options.setting, value, seed))
        mrr = {"mean": 0.2 + 0.1 * seed, "ci95": [0.1, 0.3 + seed], "n": 9}
        return variants.Found(0.5 + 0.1 * seed, {"known queries -> image, mrr": mrr})

    monkeypatch.setattr(variants, "measured", measured)
    asking = ["search", "--setting", "alignment.loss", "--values", "bpr", "--seeds", "0", "1", "--", *FLAGS]
    (row,) = variants.main(asking)
    assert asked == [("search", tuple(FLAGS), "alignment.loss", "bpr", seed) for seed in (0, 1)]
    deviation = statistics.stdev([0.2, 0.3])
    assert row == {
        "": "bpr",
        "validation": f"0.5500 ± {deviation:.4f}",
        "known queries -> image, mrr": f"0.2500 ± {deviation:.4f} [0.1000, 0.3000]",
    }
    assert "alignment.loss" in capsys.readouterr().out


def test_towers_that_know_less_of_the_items_are_told_apart_from_the_first_shopper_by_shopper(monkeypatch):
    variants = bench("variants")
    one, nothing = np.arange(3, dtype=np.int32), np.zeros(3, np.int64)
    columns = [Ragged.from_rows([[row] for row in rows], np.int32) for rows in (one, nothing, nothing, one + 3)]
    queries = Queries(one, *columns, nothing)

    def towers(config, options, modalities):
        right = modalities == ("id", "image")
        lists = evaluation.lists_of_scores(np.eye(6)[[3, 4, 5]] * (1.0 if right else -1.0), queries.history)
        value = evaluation.interval(evaluation.measure(lists, queries.targets)["ndcg@10"], queries.user)
        return variants.Found(0.1, {"ndcg@10": value}, (lists, queries))

    monkeypatch.setitem(variants._KINDS, "towers", towers)
    asking = ["towers", "--setting", "modalities", "--values", "id", "id+image", "--", *FLAGS]
    alone, both = variants.main(asking)
    least = 1 / np.log2(6)  # the target comes fifth and last, its history left out
    assert alone["ndcg@10"].startswith(f"{least:.4f} ") and both["ndcg@10"].startswith("1.0000 ")
    assert both["minus the first"].startswith(f"{1 - least:+.4f} ") and alone["minus the first"] == ""


# --- Steps -----------------------------------------------------------------------------------------------------------


def test_a_step_is_worth_what_its_shoppers_gain_over_the_step_above():
    one, nothing = np.arange(3, dtype=np.int32), np.zeros(3, np.int64)
    columns = [Ragged.from_rows([[row] for row in rows], np.int32) for rows in (one, nothing, nothing, one + 3)]
    queries = Queries(one, *columns, nothing)
    wrong, right = (evaluation.lists_of_scores(s * np.eye(6)[[3, 4, 5]], queries.history) for s in (-1.0, 1.0))
    lists = {"first": wrong, "then": right}
    parts = {"validation": queries, "test": queries}
    first, then = bench("steps").rows_of({"validation": lists, "test": lists}, parts)
    least = 1 / np.log2(6)  # the target comes fifth and last, its history left out
    assert first[:2] == ["first", f"{least:.4f}"] and first[2].startswith(f"{least:.4f} ") and first[-1] == ""
    assert then[2].startswith("1.0000 ") and then[-1].startswith(f"{1 - least:+.4f} ")


def test_candidates_of_the_towers_alone_are_the_nearest_and_nothing_else():
    shop = shops.shop()
    wire = shop.wire(shop.parts.test.take(np.arange(5)))
    query = shops.candidates().encode_query(
        {name: tf.constant(column) for name, column in dense_wire(wire, slice(None)).items()}
    )
    pool = bench("steps").near_only(shops.candidates()).pool(query)
    nearest = shops.candidates().retrieve(query, k=shops.CONFIG.candidates.retrieved)[1]
    np.testing.assert_array_equal(pool, nearest)
    assert shops.candidates().pool(query).shape[1] > pool.shape[1]  # the original was not changed


# --- Seeds -----------------------------------------------------------------------------------------------------------


def report(config: Config, *, shift: float = 0.0, fingerprint: str = "f") -> dict[str, Any]:
    """Returns what matters here of the report that train.py would leave."""
    names = list(SCORES)
    metrics = {
        name: {"metrics": {"ndcg@10": {"mean": v + shift}, "recall@10": {"mean": 2 * v}}} for name, v in SCORES.items()
    }
    pairs = [("retrieval+reranker", b) for b in names[:3]] + [("retrieval", b) for b in names[:2]]
    comparisons = [
        {"a": a, "b": b, "metric": "ndcg@10", "difference": SCORES[a] - SCORES[b], "ci95": [shift - 0.01, 0.2]}
        for a, b in pairs
    ]
    return {
        "dataset": {"name": "films", "fingerprint": fingerprint},
        "protocol": {"queries": 7, "shoppers": 5},
        "models": metrics,
        "comparisons": comparisons,
        "timings": {"load": 100.0, "train retriever": 60.0, "train reranker": 30.0, "refit retriever": 30.0},
        "configuration": config.to_dict(),
    }


class Trainer:
    """Stands for train.py: leaves a report, and remembers what it was asked."""

    def __init__(self, **changes: Any) -> None:
        self.seeds: list[int] = []
        self.changes = changes

    def __call__(self, argv: list[str]) -> None:
        config = parse(argv)
        self.seeds.append(config.seed)
        directory = config.runs / str(config.run)
        directory.mkdir(parents=True, exist_ok=True)
        made = report(config, shift=config.seed / 100, **self.changes)
        (directory / "report.json").write_text(json.dumps(made, default=str))


def test_a_series_goes_on_where_it_stopped_and_other_settings_are_another_series(tmp_path: Path) -> None:
    series, trainer = bench("seeds").series, Trainer()
    series([0, 1], FLAGS, runs=tmp_path, run=trainer)
    assert trainer.seeds == [0, 1]
    found = series([0, 1, 2], FLAGS, runs=tmp_path, run=trainer)
    assert trainer.seeds == [0, 1, 2] and list(found) == [0, 1, 2]
    series([0], [*FLAGS, "--towers.dim", "16"], runs=tmp_path, run=trainer)
    assert trainer.seeds == [0, 1, 2, 0]
    series([1], FLAGS, runs=tmp_path, anew=True, run=trainer)
    assert trainer.seeds == [0, 1, 2, 0, 1]
    kept = series([0], FLAGS, runs=tmp_path, run=trainer)[0]  # the other settings did not write over it
    assert kept["configuration"]["towers"]["dim"] == parse(FLAGS).towers.dim and len(trainer.seeds) == 5


def test_a_report_of_other_settings_under_the_same_name_is_not_taken_for_this_seed(tmp_path: Path) -> None:
    seeds, trainer = bench("seeds"), Trainer()
    seeds.series([0], FLAGS, runs=tmp_path, run=trainer)
    (path,) = tmp_path.glob("*/report.json")
    content = json.loads(path.read_text())
    content["configuration"]["retrieval"]["temperature"] = 0.5
    path.write_text(json.dumps(content))
    seeds.series([0], FLAGS, runs=tmp_path, run=trainer)
    assert trainer.seeds == [0, 0]


def test_a_kept_seed_that_other_code_trained_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seeds, trainer = bench("seeds"), Trainer()
    seeds.series([0], FLAGS, runs=tmp_path, run=trainer)
    seeds.series([0], FLAGS, runs=tmp_path, run=trainer)
    assert "--anew" not in caplog.text
    (path,) = tmp_path.glob("*/code.txt")
    path.write_text("other code\n")
    seeds.series([0], FLAGS, runs=tmp_path, run=trainer)
    assert "--anew" in caplog.text and trainer.seeds == [0]


def test_a_run_that_leaves_no_report_or_seeds_of_different_data_give_no_figures(tmp_path: Path) -> None:
    series = bench("seeds").series
    with pytest.raises(SystemExit, match="report.json"):
        series([0], FLAGS, runs=tmp_path, run=lambda argv: None)
    series([0], FLAGS, runs=tmp_path, run=Trainer(fingerprint="before"))
    with pytest.raises(SystemExit, match="one data set"):
        series([0, 1], FLAGS, runs=tmp_path, run=Trainer(fingerprint="after"))


@pytest.mark.parametrize("flag", [["--seed", "3"], ["--runs=elsewhere"], ["--resume"]])
def test_flags_that_a_series_sets_itself_are_refused(flag: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=flag[0].split("=")[0]):
        bench("seeds").series([0], [*FLAGS, *flag], runs=tmp_path, run=Trainer())


def test_the_tables_are_the_reports_own_numbers_and_their_means(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = bench("seeds")
    reports = {seed: report(parse(FLAGS), shift=seed / 100) for seed in (0, 1, 2)}
    seeds.show(reports, FLAGS, markdown=True)
    lines = capsys.readouterr().out.splitlines()
    mean = f"0.1100 ± {statistics.stdev([0.10, 0.11, 0.12]):.4f}"
    assert f"| ease | 0.1000 | 0.1100 | 0.1200 | {mean} | 0.2000 | 0.2000 | 0.2000 | 0.2000 ± 0.0000 |" in lines
    (row,) = (line for line in lines if line.startswith("| retrieval - ease"))
    assert row.endswith("| +0.0100 [+0.0100, +0.2000] | +0.0100 | 1 of 3 |")  # seed 1's interval starts at 0
    assert "| minutes of training | 2.0 | 2.0 | 2.0 |" in lines
    header = next(line for line in lines if line.startswith("| system"))
    assert {line.count("|") for line in lines[lines.index(header) :][:6]} == {header.count("|")}


def test_a_baseline_that_is_as_good_in_the_mean_is_named_whatever_single_seeds_say() -> None:
    seeds = bench("seeds")
    reports = {seed: report(parse(FLAGS)) for seed in (0, 1)}
    assert seeds.beaten_by(reports, "retrieval+reranker", "ndcg@10") == []
    assert all(line.endswith("above every baseline") for line in seeds.verdicts(reports))
    reports[1]["models"]["ease"]["metrics"]["ndcg@10"]["mean"] = 0.14  # mean .12, ours .12
    assert seeds.beaten_by(reports, "retrieval+reranker", "ndcg@10") == ["ease (0.1200)"]
    assert seeds.beaten_by(reports, "retrieval+reranker", "recall@10") == []
    assert "NOT above ease" in seeds.verdicts(reports)[0]


# --- Losses ----------------------------------------------------------------------------------------------------------


@pytest.fixture()
def before(tmp_path: Path) -> Any:
    candidates = shops.candidates()
    return bench("reranking_losses").Before(
        shops.CONFIG, shops.shop(), {}, candidates, shops.retriever(), candidates, shops.retriever(), tmp_path
    )


@pytest.mark.slow
def test_what_is_measured_of_a_scorer_is_what_the_service_recommends() -> None:
    module, shop = bench("reranking_losses"), shops.shop()
    wire = shop.wire(shop.parts.test)
    lists = module.reranked(shops.candidates(), {("a", 0): shops.scorer()}, wire, batch_size=7)["a", 0]
    dense = {name: tf.constant(column) for name, column in dense_wire(wire, slice(None)).items()}
    answer = shops.service().recommend(**dense)
    ids = np.append(shop.dataset.items.ids.astype(str), "")
    size = shops.candidates().size
    np.testing.assert_array_equal(ids[lists.rows[:, :size]], answer["item_ids"].numpy().astype(str)[:, :size])
    np.testing.assert_allclose(lists.scores[:, :size], answer["scores"].numpy()[:, :size], rtol=1e-4, atol=1e-4)
    assert lists.rows.shape == (len(shop.parts.test), evaluation.LIST_SIZE) and (lists.rows[:, size:] == -1).all()


@pytest.mark.slow
def test_a_scorer_that_trusts_retrieval_alone_measures_as_retrieval_alone(before: Any) -> None:
    scorer = ListwiseScorer(shops.CONFIG.reranking)
    scorer.trust.assign([1.0, 0.0, 1.0])
    untrained = {("softmax_loss", 0): (scorer, 0)}
    module = bench("reranking_losses")
    found = module.outcomes(before, untrained)
    for part in ("validation", "test"):
        ours, retrieval = (getattr(found[key], part) for key in (("softmax_loss", 0), (module.RETRIEVAL, 0)))
        assert retrieval.mean() > 0
        np.testing.assert_allclose(ours, retrieval, atol=1e-6)


@pytest.mark.slow
def test_every_loss_trains_on_the_same_lists_and_another_seed_on_others_orders(before: Any) -> None:
    module = bench("reranking_losses")
    configs = {
        loss: dataclasses.replace(shops.CONFIG.reranking, loss=loss, epochs=1, batch_size=16)
        for loss in ("softmax_loss", "approx_ndcg_loss")
    }
    with shops.eagerly():
        trained = module.train_scorers(before, configs, [0])
    assert list(trained) == [("softmax_loss", 0), ("approx_ndcg_loss", 0)]
    found = module.outcomes(before, trained)
    assert set(found) == {(module.RETRIEVAL, 0), *trained}
    for key, (scorer, epoch) in trained.items():
        assert found[key].epoch == epoch in (0, 1)
        changed = np.abs(scorer.leave.kernel.numpy()).max() > 0
        assert changed == (epoch > 0)  # epoch 0 is the order of retrieval: what learns starts at zero
    labels = [
        np.concatenate([batch.numpy() for _, batch in module.featurised(before, module._TRAIN, seed=seed)])
        for seed in (0, 1)
    ]
    assert not np.array_equal(*labels)
    np.testing.assert_array_equal(*(np.sort(part.sum(axis=1)) for part in labels))


def test_validation_chooses_and_the_test_never_does() -> None:
    module = bench("reranking_losses")
    values = {"good": (0.3, 0.1), "lucky": (0.2, 0.9)}
    found = {(loss, 0): module.Outcome(np.array([v, v]), np.array([t, t]), 1) for loss, (v, t) in values.items()}
    found[module.RETRIEVAL, 0] = module.Outcome(np.array([0.1, 0.1]), np.array([0.05, 0.05]))
    assert module.chosen(found) == "good"


def test_differences_from_retrieval_are_of_each_shoppers_mean_over_seeds() -> None:
    module = bench("reranking_losses")
    found = {(module.RETRIEVAL, 0): module.Outcome(np.array([0.1, 0.1]), np.array([0.1, 0.3]))}
    for seed, test in enumerate(([0.2, 0.6], [0.4, 0.4])):  # means .3 and .5: .2 above retrieval for both shoppers
        found["loss", seed] = module.Outcome(np.array([0.5, 0.5]), np.array(test), seed)
    alone, row = module.rows_of(found)
    assert alone == [module.RETRIEVAL, "0.1000", "0.1000", "0.2000", "0.2000", "", ""]
    assert row[-2:] == ["+0.2000 [+0.2000, +0.2000]", "0 1"]
    assert row[3] == "0.4000 0.4000"


def test_towers_of_a_run_with_other_settings_are_refused(tmp_path: Path) -> None:
    module = bench("reranking_losses")
    flags = ["--runs", str(tmp_path), "--run", "before", "--resume"]
    with pytest.raises(SystemExit, match="--run"):
        module.prepare(parse(flags), tmp_path)
    (tmp_path / "before").mkdir()
    other = {**parse(flags).to_dict(), "content_dim": 7}
    (tmp_path / "before" / "run.json").write_text(json.dumps({"configuration": other, "data": "x"}, default=str))
    with pytest.raises(SystemExit, match="content_dim"):
        module.prepare(parse(flags), tmp_path)


@pytest.mark.slow
def test_the_commands_run_on_the_smallest_shop_and_agree_with_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = "--size tiny --image_encoder none --text_encoder none --retrieval.epochs 1 --reranking.epochs 1".split()
    reports = bench("seeds").main(["--seeds", "0", "--markdown", "--", *flags])
    assert "| retrieval+reranker | " in capfd.readouterr().out
    name = bench("seeds").run_name(parse(flags))
    assert not (tmp_path / "saved_models").exists()
    checkpoints = sorted((tmp_path / "runs" / name).rglob("*"))
    module = bench("reranking_losses")
    found = module.main(["--losses", "softmax_loss", "--seeds", "0", "--", *flags, "--run", name, "--resume"])
    again = float(found[module.RETRIEVAL, 0].test.mean())
    models = reports[0]["models"]
    assert again == pytest.approx(models["retrieval"]["metrics"]["ndcg@10"]["mean"], abs=1e-6)
    steps = {row[0]: row[2:4] for row in bench("steps").main(["--", *flags, "--run", name, "--resume"])}
    form = next(iter(steps)).split()[0]
    for step, system in ((f"{form} alone", form), (bench("steps").TOWERS, "retrieval"), (bench("steps").LEARNED, OURS)):
        for cell, metric in zip(steps[step], ("ndcg@10", "recall@10")):
            assert float(cell.split()[0]) == pytest.approx(models[system]["metrics"][metric]["mean"], abs=1e-3)
    assert sorted((tmp_path / "runs" / name).rglob("*")) == checkpoints  # the run was read, never written
