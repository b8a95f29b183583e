"""`tfmm compare`: whose settings count, what is compared with what, and what becomes of a run's report."""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import json

import numpy as np
import pytest
import shops
import test_report
from rich.console import Console

from tfmm import comparing, evaluation, standings, zoo
from tfmm.comparing import CompareOptions
from tfmm.config import parse
from tfmm.report import terminal
from tfmm.results import OURS
from tfmm.standings import Finished, Trained

SYSTEMS = (*zoo.BASELINES, "ease_plain")


@pytest.fixture
def run(tmp_path):
    """The directory of a finished run, made with other settings than the default."""
    directory = tmp_path / "runs" / "mine"
    directory.mkdir(parents=True)
    config = dataclasses.replace(shops.CONFIG, seed=5, runs=tmp_path / "runs")
    said = {"configuration": json.loads(json.dumps(config.to_dict())), "data": "abc"}
    (directory / "run.json").write_text(json.dumps(said))
    report = test_report.without_plots()
    report["models"][OURS]["slices"] = {}
    (directory / "report.json").write_text(json.dumps(report))
    return directory


@functools.cache
def trained() -> dict[str, Trained]:
    data = zoo.data_of(shops.CONFIG, shops.shop())
    return comparing.fit_all(SYSTEMS, data)


def ours() -> Finished:
    """Returns a run whose lists are those of the best popularity."""
    lists = zoo.recommend(trained()["popularity"].fitted, shops.shop().parts.test, shops.shop().table.launched)
    return Finished(shops.shop().records, shops.shop().records / "7", lists, np.eye(shops.ITEMS))


def measured(run: Finished | None) -> dict:
    baselines = {name: trained()[name] for name in zoo.BASELINES}
    against = standings.reference_of(shops.CONFIG, shops.shop(), baselines, run)
    return standings.measure(shops.CONFIG, shops.shop(), trained(), against)


def test_the_settings_are_the_run_s_and_a_flag_goes_before_them(run):
    config, options = comparing.parse(["--run", str(run), "--systems", "bpr,ease", "--towers.dim", "24"])
    assert (config.seed, config.towers.max_length, config.towers.dim) == (5, 8, 24)
    assert options == CompareOptions(systems="bpr,ease")
    assert comparing.run_directory(config) == run
    named, _ = comparing.parse(["--run", "mine", "--runs", str(run.parent)])
    assert named.seed == 5 and comparing.run_directory(named) == run


def test_a_run_that_is_not_there_is_an_error_and_a_new_name_is_not(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run.json"):
        comparing.parse(["--run", str(tmp_path / "nowhere")])
    config, _ = comparing.parse(["--run", "new", "--runs", str(tmp_path)])
    assert config == dataclasses.replace(comparing.parse([])[0], run="new", runs=tmp_path)
    assert comparing.run_directory(config) == tmp_path / "new"


def test_an_unknown_system_ends_in_a_sentence_with_the_nearest(capsys):
    with pytest.raises(SystemExit, match="Did you mean vbpr?"):
        comparing.parse(["--systems", "vpbr"])


def test_a_run_on_other_data_or_another_split_is_refused(run, tmp_path):
    config, _ = comparing.parse(["--run", str(run)])
    assert comparing._check_run(config, run, "abc")
    with pytest.raises(ValueError, match="got other data"):
        comparing._check_run(config, run, "abd")
    moved = dataclasses.replace(config, splits=dataclasses.replace(config.splits, test_share=0.2))
    with pytest.raises(ValueError, match="got other values of splits"):
        comparing._check_run(moved, run, "abc")
    wider = dataclasses.replace(config, towers=dataclasses.replace(config.towers, dim=24))
    assert comparing._check_run(wider, run, "abc")  # of a run that is named, flags may change other things
    with pytest.raises(ValueError, match="got other values of towers"):
        comparing._check_run(dataclasses.replace(wider, run=None), run, "abc")
    unnamed = dataclasses.replace(config, run=None, runs=tmp_path / "moved")
    assert comparing._check_run(unnamed, run, "abc")
    assert not comparing._check_run(config, run / "elsewhere", "abd")


def test_without_a_run_the_reference_is_the_baseline_that_validation_finds_best():
    found = measured(None)
    validation = {name: found["systems"][name]["validation"]["ndcg@10"] for name in zoo.BASELINES}
    assert found["reference"] == max(validation, key=lambda name: validation[name])
    assert set(found["systems"]) == set(SYSTEMS)
    assert {row["a"] for row in found["comparisons"]} == set(SYSTEMS) - {found["reference"]}
    assert {row["b"] for row in found["comparisons"]} == {found["reference"]}


def test_every_figure_is_the_report_s_own_function_of_the_lists():
    found, shop = measured(ours()), shops.shop()
    baselines = evaluation.fit_baselines(
        shop.parts.refit,
        shop.parts.validation,
        num_users=shops.USERS,
        num_items=shops.ITEMS,
        content=zoo.data_of(shops.CONFIG, shop).items.content_rows(),
    )
    for name in zoo.BASELINES:  # the systems of the zoo by these names are the report's baselines
        expected = evaluation.mean_ndcg(baselines[name].lists(shop.parts.test), shop.parts.test)
        assert found["systems"][name]["metrics"]["ndcg@10"]["mean"] == pytest.approx(expected)
        assert found["systems"][name]["settings"] == baselines[name].settings
    against = {row["a"]: row for row in found["comparisons"]}
    means = {name: entry["metrics"]["ndcg@10"]["mean"] for name, entry in found["systems"].items()}
    assert found["reference"] == OURS and set(against) == set(SYSTEMS)
    for name, row in against.items():
        assert row["difference"] == pytest.approx(means[name] - means[OURS])
    assert against["popularity"]["difference"] == 0.0 and against["popularity"]["p"] == 1.0  # it made OURS here
    json.dumps(found, allow_nan=False)


def test_a_run_s_report_gets_the_systems_and_keeps_what_it_had(run, monkeypatch):
    monkeypatch.setattr(standings.gallery, "of_shoppers", lambda *_: [])  # which would ask the run's export
    before = json.loads((run / "report.json").read_text())
    found = measured(ours())
    placed = ours()._replace(directory=run)
    for _ in range(2):  # a second time changes nothing
        paths = standings.add_to_report(shops.CONFIG, shops.shop(), placed, found)
        after = json.loads((run / "report.json").read_text())
        assert list(after["models"]) == [*before["models"], "ease_plain"]
        assert {name: after["models"][name] for name in before["models"]} == before["models"]
        assert after["comparisons"][:-1] == before["comparisons"]
        row = next(row for row in found["comparisons"] if row["a"] == "ease_plain")
        added = after["comparisons"][-1]
        assert (added["a"], added["b"], added["difference"]) == (OURS, "ease_plain", -row["difference"])
        assert added["ci95"] == [-row["ci95"][1], -row["ci95"][0]]
        assert after["reproduce"] == [
            *before["reproduce"],
            f"tfmm compare --run {run} --systems ease_plain --version 7",
        ]
    assert "ease<wbr>" in paths[1].read_text() or "ease_<wbr>plain" in paths[1].read_text()


def test_systems_compared_before_stay_where_reference_and_test_are_the_same(tmp_path):
    path, found = tmp_path / "compare.json", json.loads(json.dumps(measured(ours())))
    assert standings.joined(path, found) == found
    earlier = copy.deepcopy(found)
    earlier["systems"]["vbpr"] = earlier["systems"].pop("ease_plain")
    for row in earlier["comparisons"]:
        row["a"] = row["a"].replace("ease_plain", "vbpr")
    path.write_text(json.dumps(earlier))
    both = standings.joined(path, found)
    assert set(both["systems"]) == {*found["systems"], "vbpr"}
    assert [row["a"] for row in both["comparisons"]] == ["vbpr", *(row["a"] for row in found["comparisons"])]
    for part, other in (("seed", 9), ("reference", "ease"), ("protocol", {"queries": 1})):
        path.write_text(json.dumps({**earlier, part: other}))
        assert standings.joined(path, found) == found
    earlier["systems"][OURS]["metrics"]["ndcg@10"]["mean"] += 0.01  # another model
    path.write_text(json.dumps(earlier))
    assert standings.joined(path, found) == found


def test_the_table_shows_every_system_the_best_first():
    console = Console(width=160, record=True, file=io.StringIO())
    found = copy.deepcopy(measured(ours()))
    terminal.comparison(found, console)
    printed = console.export_text()
    shown = [line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│")]
    means = {name: entry["metrics"]["ndcg@10"]["mean"] for name, entry in found["systems"].items()}
    assert sorted(shown, key=lambda name: -means[name]) == shown and set(shown) == set(means)
    row = next(row for row in found["comparisons"] if row["a"] == "ease_plain")
    assert f"{row['difference']:+.4f} [{row['ci95'][0]:+.4f}, {row['ci95'][1]:+.4f}]" in printed
    assert f"{row['minimum_detectable_effect']:.4f}" in printed


def test_systems_that_need_content_are_left_out_where_there_is_none(monkeypatch):
    data = zoo.data_of(shops.CONFIG, shops.shop())
    bare = dataclasses.replace(data, items=dataclasses.replace(data.items, modalities=("id",)))
    possible = [name for name, system in zoo.SYSTEMS.items() if not system.content and zoo.installed(system.package)]
    assert [*zoo.BASELINES, *comparing.besides_baselines(CompareOptions(), bare)] == possible
    asked = comparing.besides_baselines(CompareOptions(systems="vbpr,ease"), bare)
    assert asked == ["vbpr"]  # asked for by name, it says itself what it lacks


def test_a_comparison_that_was_stopped_goes_on_after_its_last_system(tmp_path, monkeypatch):
    anything, fitted, path = trained()["popularity"].fitted, [], tmp_path / "compare.json"

    def counted(name: str, system: zoo.System) -> zoo.System:
        def fit(data: zoo.Data, config: object) -> zoo.Fitted:
            fitted.append(name)
            if stop == name:
                raise KeyboardInterrupt
            return anything

        return system._replace(fit=fit)

    for name, system in zoo.SYSTEMS.items():
        monkeypatch.setitem(zoo.SYSTEMS, name, counted(name, system))

    def go(*, resume: bool) -> dict:
        fitted.clear()
        config = dataclasses.replace(shops.CONFIG, resume=resume)
        options = CompareOptions(systems="ials,bpr,vbpr")
        return comparing._all(config, options, shops.shop(), None, None, path=path)

    stop = "bpr"
    with pytest.raises(KeyboardInterrupt):
        go(resume=False)
    assert set(json.loads(path.read_text())["systems"]) == {*zoo.BASELINES, "ials"}
    stop = ""
    found = json.loads(json.dumps(go(resume=True)))
    assert fitted == [*zoo.BASELINES, "bpr", "vbpr"]
    assert found == json.loads(path.read_text()) and set(found["systems"]) == {*zoo.BASELINES, "ials", "bpr", "vbpr"}
    assert sorted(row["a"] for row in found["comparisons"]) == sorted({*found["systems"]} - {found["reference"]})
    go(resume=False)
    assert fitted == [*zoo.BASELINES, "ials", "bpr", "vbpr"]


def test_a_system_that_needs_content_says_so():
    data = zoo.data_of(shops.CONFIG, shops.shop())
    items = dataclasses.replace(data.items, modalities=("id",))
    bare = dataclasses.replace(data, items=items, tokens=np.zeros_like(data.tokens))
    for name in ("vbpr", "ease_content", "attention_fusion"):
        with pytest.raises(ValueError, match="Expected products with content"):
            zoo.SYSTEMS[name].fit(bare, zoo.SYSTEMS[name].config)


def test_the_settings_of_a_comparison_are_those_of_train():
    for argv in (["--size", "tiny"], ["--source", "movielens", "--data_dir", "x", "--seed", "3"]):
        assert comparing.parse(argv)[0] == parse(argv)
