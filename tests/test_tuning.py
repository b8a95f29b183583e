"""`tfmm tune`: what may be chosen, by what, how often; and what `tfmm compare` makes of the file."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shops
import yaml
from rich.console import Console

from tfmm import cli, comparing, config, standings, studies, tuning, zoo
from tfmm.comparing import CompareOptions
from tfmm.config import SIZES, Config
from tfmm.report import terminal
from tfmm.sources import SOURCES
from tfmm.studies import Study, Tunable
from tfmm.tuning import TuneOptions
from tfmm.zoo import ials, spaces
from tfmm.zoo.spaces import SPACES, TOWERS, TOWERS_SPACE, Choice, Range
from tfmm.zoo.training import TrainingConfig
from tfmm.zoo.tuned import Tuned, read_tuned, write_tuned
from tfmm.zoo.vbpr import VbprConfig

needs_optuna = pytest.mark.skipif(not zoo.installed("optuna"), reason="pip install tfmm[bench] for optuna")
CONFIGS = {name: system.config for name, system in zoo.SYSTEMS.items()}
GRIDS = {*zoo.BASELINES, "ease_plain", "ease_content"}


# --- Spaces ----------------------------------------------------------------------------------------------------------


def test_every_system_that_learns_has_a_space_and_no_closed_form_has_one():
    assert set(SPACES) == set(zoo.SYSTEMS) - GRIDS


@pytest.mark.parametrize("name", SPACES)
def test_a_space_names_settings_of_its_system_and_holds_the_defaults(name):
    defaults = spaces.dotted(CONFIGS[name])
    for setting, knob in SPACES[name].items():
        values = defaults[setting] if isinstance(defaults[setting], tuple) else (defaults[setting],)
        assert all(value in knob for value in values), setting
        assert isinstance(defaults[setting], tuple) == bool(getattr(knob, "told", "")), setting
        assert knob.including(defaults[setting]) == knob
    assert not {"epochs", "patience", "training.epochs", "training.patience"} & set(SPACES[name])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("size", SIZES)
def test_the_space_of_the_towers_holds_what_every_source_presets(source, size):
    defaults = spaces.dotted(spaces.replaced(Config(), config.presets(source, size)))
    for setting, knob in TOWERS_SPACE.items():
        assert defaults[setting] in knob, setting


def test_every_value_of_a_space_makes_settings_that_the_system_takes():
    for space, made in [*((SPACES[name], CONFIGS[name]) for name in SPACES), (TOWERS_SPACE, Config())]:
        for setting, knob in space.items():
            ends = knob.options if isinstance(knob, Choice) else (knob.low, knob.high)
            for end in ends:
                changed = spaces.dotted(spaces.replaced(made, {setting: knob.setting(end)}))
                assert changed[setting] == ((end,) if getattr(knob, "told", "") else end)
                assert {**changed, setting: 0} == {**spaces.dotted(made), setting: 0}


def test_what_a_flag_sets_beyond_the_space_is_a_part_of_it():
    assert Choice((1, 2)).including(3) == Choice((1, 2, 3)) and Choice((1, 2)).including(2) == Choice((1, 2))
    assert Range(1.0, 2.0).including(0.5) == Range(0.5, 2.0)
    assert Range(1.0, 2.0, told="x").including((0.5, 4.0)) == Range(0.5, 4.0, told="x")


def test_a_number_that_was_drawn_is_written_in_three_digits():
    assert Range(0.0, 1.0).setting(0.0123456) == 0.0123 and Range(0.0, 1.0, told="x").setting(0.0123456) == (0.0123,)


def test_settings_are_changed_by_dotted_names_and_nothing_else_is():
    changed = spaces.replaced(VbprConfig(), {"training.negatives": 2, "l2": 1, "training.learning_rate": 0.5})
    training = dataclasses.replace(VbprConfig().training, negatives=2, learning_rate=0.5)
    assert changed == dataclasses.replace(VbprConfig(), l2=1.0, training=training) and type(changed.l2) is float
    assert spaces.replaced(ials.IalsConfig(), {"l2": [1, 2]}).l2 == (1.0, 2.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trainin.epochs": 3}, "Did you mean training.epochs?"),
        ({"training": 3}, "got 'training'"),
        ({"dim.x": 3}, "got 'dim.x'"),
        ({"dim": "big"}, "expected dim to be a value like 32, got 'big'"),
        ({"dim": True}, "got True"),
        ({"l2": math.nan}, "got nan"),
        ({"training.epochs": 0}, "Expected training.epochs > 0"),
    ],
)
def test_wrong_settings_end_in_a_sentence(settings, said):
    with pytest.raises(ValueError) as refused:
        spaces.replaced(VbprConfig(), settings)
    assert said in str(refused.value)


# --- Trials ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Hill:
    x: float = 0.1
    kind: str = "low"
    grid: tuple[float, ...] = (1.0, 4.0)


HILL = {"x": Range(1e-3, 1.0), "kind": Choice(("low", "high")), "grid": Range(0.5, 8.0, told="chosen")}


def height(settings: Hill) -> float:
    return 1 - abs(math.log(settings.x / 0.3)) / 10 + (settings.kind == "high") / 10


class Trainings:
    """Counts trainings; the best value of the grid is always the greatest."""

    def __init__(self, fails: Callable[[int, Hill], None] = lambda *_: None) -> None:
        self.seen: list[Hill] = []
        self._fails = fails

    def __call__(self, settings: Hill) -> tuple[float, dict[str, float]]:
        self.seen.append(settings)
        self._fails(len(self.seen), settings)
        return height(settings), {"chosen": max(settings.grid), "epoch": 3}


def searched(directory: Path, train: Trainings, trials: int, **others: object) -> Study | None:
    made = Tunable("hill", Hill(), HILL, train)
    return studies.search(made, directory, **{"trials": trials, "identity": {}, "seed": 3, **others})


@needs_optuna
def test_the_first_trial_is_the_default_and_the_best_is_never_worse(tmp_path):
    train = Trainings()
    found = searched(tmp_path, train, 12)
    assert train.seen[0] == Hill() and len(train.seen) == found.trials == 12
    assert found.default == height(Hill()) and found.best == max(map(height, train.seen)) > found.default
    assert all(len(settings.grid) == 1 for settings in train.seen[1:])
    assert spaces.replaced(Hill(), found.settings) == max(train.seen, key=height)
    for settings in train.seen:
        assert all(value in HILL["grid"] for value in settings.grid) and settings.x in HILL["x"]


@needs_optuna
def test_where_the_default_is_the_best_it_is_what_is_kept_at_what_its_grid_chose(tmp_path):
    train = Trainings()
    found = searched(tmp_path, train, 1)
    assert found.settings == {"x": 0.1, "kind": "low", "grid": (4.0,)} and found.best == found.default


@needs_optuna
def test_a_study_that_was_stopped_does_the_trials_that_it_would_have_done_and_no_other(tmp_path):
    whole, before, after = Trainings(), Trainings(), Trainings()
    expected = searched(tmp_path / "whole", whole, 12)

    def stopped(number: int, _: Hill) -> None:
        if number == 8:  # in the middle of a trial
            raise KeyboardInterrupt

    before = Trainings(stopped)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "parts", before, 12)
    found = searched(tmp_path / "parts", after, 12)
    assert before.seen[:7] + after.seen == whole.seen and len(after.seen) == 5
    assert found._replace(seconds=0) == expected._replace(seconds=0)
    again = Trainings()
    assert searched(tmp_path / "parts", again, 12) == found and not again.seen
    searched(tmp_path / "parts", again, 14)
    assert len(again.seen) == 2


@needs_optuna
def test_the_same_seed_gives_the_same_trials_and_another_one_others(tmp_path):
    one, two, other = Trainings(), Trainings(), Trainings()
    for name, train, seed in (("a", one, 0), ("b", two, 0), ("c", other, 1)):
        searched(tmp_path / name, train, 9, seed=seed)
    assert one.seen == two.seen and len(set(one.seen)) == 9
    assert not set(one.seen[1:]) & set(other.seen[1:])


@needs_optuna
def test_trials_of_other_data_are_not_taken_for_these(tmp_path):
    for mark in ("a", "b"):
        train = Trainings()
        searched(tmp_path, train, 2, identity={"data": mark})
        assert len(train.seen) == 2
    train = Trainings()
    searched(tmp_path, train, 2, identity={"data": "b"})
    assert not train.seen


@needs_optuna
@pytest.mark.parametrize("error", [MemoryError("no room"), ValueError("a bad value"), RuntimeError("lost")])
def test_a_trial_that_fails_is_told_and_counted_and_not_the_end(tmp_path, caplog, error):
    def fails(number: int, _: Hill) -> None:
        if number in (2, 4):
            raise error

    train = Trainings(fails)
    with caplog.at_level(logging.WARNING):
        found = searched(tmp_path, train, 6)
    assert (found.trials, found.failed) == (6, 2)
    assert sum(str(error) in record.message for record in caplog.records) == 2
    assert all(math.isfinite(value) for value in (found.default, found.best))


@needs_optuna
def test_a_default_that_fails_is_no_end_but_without_any_result_there_is_nothing_to_keep(tmp_path):
    def first(number: int, _: Hill) -> None:
        if number == 1:
            raise MemoryError

    found = searched(tmp_path / "first", Trainings(first), 3)
    assert math.isnan(found.default) and found.failed == 1 and math.isfinite(found.best)

    def diverges(settings: Hill) -> tuple[float, dict]:
        return math.nan, {}

    assert searched(tmp_path / "none", diverges, 2) is None


@needs_optuna
def test_a_trial_that_ends_the_process_again_and_again_is_given_up(tmp_path):
    def ends(number: int, _: Hill) -> None:
        raise SystemExit  # as if for want of memory

    searched(tmp_path, Trainings(), 2)
    for _ in range(2):
        with pytest.raises(SystemExit):
            searched(tmp_path, Trainings(ends), 3)
    train = Trainings()
    found = searched(tmp_path, train, 4)
    assert (found.trials, found.failed, len(train.seen)) == (4, 1, 1)


@needs_optuna
def test_after_its_minutes_no_trial_begins_but_the_default_always_does(tmp_path):
    train = Trainings()
    assert searched(tmp_path, train, 50, minutes=1e-9).trials == 1
    assert train.seen == [Hill()]


# --- The verb --------------------------------------------------------------------------------------------------------

QUICK = {
    "ials": ials.IalsConfig(dim=8, alphas=(0.1, 0.3), l2=(0.1,), epochs=2),
    "vbpr": VbprConfig(dim=8, content_dim=8, training=TrainingConfig(epochs=2, batch_size=512, learning_rate=1e-2)),
}


class Sealed:
    """Test queries that nobody may look at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"the test was read: {name}")


@pytest.fixture
def shop(monkeypatch, tmp_path):
    """The shop of groups behind `stages.load`, and systems that are trained in no time; a function that tunes them."""
    monkeypatch.setattr(tuning.stages, "load", lambda _: shops.dataset())
    for name, settings in QUICK.items():
        monkeypatch.setitem(zoo.SYSTEMS, name, zoo.SYSTEMS[name]._replace(config=settings))
    made = dataclasses.replace(shops.CONFIG, runs=tmp_path / "runs", records=tmp_path / "data")

    def run(systems: str, *, trials: int) -> tuple[dict, list[Path]]:
        with shops.eagerly():
            return tuning.tune(made, TuneOptions(systems, trials=trials, out=tmp_path / "tuned"))

    return run


@needs_optuna
@pytest.mark.parametrize("systems", ["ials,vbpr", pytest.param("towers", marks=pytest.mark.slow)])
def test_tuning_never_reads_the_test(shop, monkeypatch, systems):
    whole = tuning.stages.open_shop

    def sealed(*arguments: object) -> tuning.Shop:
        made = whole(*arguments)
        return dataclasses.replace(made, parts=dataclasses.replace(made.parts, test=Sealed()))

    monkeypatch.setattr(tuning.stages, "open_shop", sealed)
    found, _ = shop(systems, trials=2)
    assert set(found["systems"]) == set(systems.split(","))
    assert all(study.failed == 0 for study in found["systems"].values())


@needs_optuna
def test_what_tune_writes_is_what_compare_trains_with_and_finds_as_good_on_validation(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "BASELINES", ("popularity",))
    found, (path,) = shop("ials,vbpr", trials=2)
    assert path == tmp_path / "tuned" / "groups.yaml"
    file = comparing.open_tuned(CompareOptions(tuned=path))
    data = zoo.data_of(shops.CONFIG, shops.shop())
    with shops.eagerly():
        trained = comparing.fit_all(["popularity", "ials", "vbpr"], data, file)
    for name in ("ials", "vbpr"):
        study, block = found["systems"][name], file.systems[name]
        assert (block["trials"], block["failed"]) == (2, 0)
        assert block["validation"]["best"] == pytest.approx(study.best, abs=1e-5)
        assert block["validation"]["default"] == pytest.approx(study.default, abs=1e-5)
        assert trained[name].validation == pytest.approx(study.best, abs=1e-6)
        assert trained[name].tuned["settings"] == block["settings"]
    assert trained["popularity"].tuned is None
    against = standings.reference_of(shops.CONFIG, shops.shop(), {"popularity": trained["popularity"]}, None)
    measured = standings.measure(shops.CONFIG, shops.shop(), trained, against)
    json.dumps(measured, allow_nan=False)
    entries = measured["systems"]
    assert {name for name, entry in entries.items() if "tuned" in entry} == {"ials", "vbpr"}
    assert entries["vbpr"]["tuned"]["file"] == str(path) and entries["vbpr"]["tuned"]["dataset"] == "groups"
    assert entries["vbpr"]["settings"]["dim"] == file.systems["vbpr"]["settings"]["dim"]
    assert entries["vbpr"]["settings"]["epoch"] >= 1


@needs_optuna
@pytest.mark.slow
def test_what_tune_writes_of_the_towers_is_what_train_reads(shop):
    found, (_, path) = shop("towers", trials=2)
    assert path.name == "groups-towers.yaml"
    settings = config.parse(["--config", str(path)])
    assert spaces.dotted(settings).items() >= dict(found["systems"]["towers"].settings).items()


@needs_optuna
def test_a_system_that_is_tuned_later_joins_the_file(shop, tmp_path):
    shop("ials", trials=1)
    _, (path,) = shop("vbpr", trials=1)
    before = yaml.safe_load(path.read_text())
    assert list(before["systems"]) == ["ials", "vbpr"]
    _, (path,) = shop("ials", trials=2)
    after = yaml.safe_load(path.read_text())
    assert after["systems"]["vbpr"] == before["systems"]["vbpr"] and after["systems"]["ials"]["trials"] == 2
    path.write_text(path.read_text().replace(before["data"], "ffffffff"))
    with pytest.raises(ValueError, match="got others .ffffffff.*--out another folder"):
        shop("ials", trials=2)


def test_closed_forms_are_not_tuned_twice():
    with pytest.raises(ValueError, match="validation tries the whole grid in every training"):
        tuning.chosen("ease,popularity,ease_content")
    assert tuning.chosen("towers,ease,vbpr,ials") == ["ials", "vbpr", "towers"]
    assert set(tuning.chosen("all")) == {*SPACES, TOWERS}


def test_wrong_flags_end_in_a_sentence():
    for argv, said in (
        (["--systems", "vpbr"], "Did you mean vbpr?"),
        (["--systems", "tower"], "Did you mean towers?"),
        (["--systems", " , "], "got none"),
        (["--trials", "0"], "at least one trial"),
        (["--minutes", "0"], "--minutes above 0"),
    ):
        with pytest.raises((SystemExit, ValueError)) as refused:
            tuning.parse(argv)
        assert said in str(refused.value)


def test_without_the_package_the_verb_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(zoo, "installed", lambda package: package != "optuna")
    assert cli.main(["tune", "--systems", "bpr"]) == 2
    assert "pip install 'tfmm[bench]'" in capsys.readouterr().err.replace("\n", " ")


def test_the_table_says_what_was_gained_and_that_it_is_validation_s():
    console = Console(width=200, record=True, file=io.StringIO())
    study = Study({"dim": 32, "alphas": (0.1,)}, 0.05, 0.0625, 8, 2, 61.0)
    terminal.tuning({"dataset": "shop", "queries": 99, "systems": {"bpr": study}}, console)
    printed = " ".join(console.export_text().split())
    for expected in ("0.0500", "0.0625", "+0.0125", "8 (2 failed)", "dim 32, alphas 0.1", "99 validation queries"):
        assert expected in printed
    assert "optimistic" in printed and "test was not read" in printed


# --- The file --------------------------------------------------------------------------------------------------------


def written(path: Path, systems: dict, **others: object) -> Path:
    path.write_text(yaml.safe_dump({"dataset": "groups", "data": "abc", "splits": {}, "systems": systems, **others}))
    return path


def test_a_file_is_read_as_it_was_written(tmp_path):
    blocks = {
        "ials": {"settings": {"dim": 16, "alphas": (0.05,), "l2": (0.3,)}, "trials": 3},
        "towers": {"settings": {"towers.dim": 32, "retrieval.temperature": 0.07}, "trials": 3},
    }
    made = Tuned(tmp_path / "x.yaml", "x", "abc", {"kind": "leave_last_out", "test_share": 0.1}, blocks)
    assert write_tuned(made) == [tmp_path / "x.yaml", tmp_path / "x-towers.yaml"]
    found = read_tuned(tmp_path / "x.yaml", CONFIGS)
    assert (found.dataset, found.data, found.splits) == (made.dataset, made.data, made.splits)
    assert found.config("ials", CONFIGS["ials"]) == ials.IalsConfig(dim=16, alphas=(0.05,), l2=(0.3,))
    assert found.config("bpr", CONFIGS["bpr"]) is CONFIGS["bpr"]
    settings = config.parse(["--source", "movielens", "--config", str(tmp_path / "x-towers.yaml")])
    assert (settings.towers.dim, settings.retrieval.temperature) == (32, 0.07)
    assert dataclasses.replace(settings.towers, dim=64) == config.parse(["--source", "movielens"]).towers


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        ({"vpbr": {"settings": {}}}, "systems: expected .*got 'vpbr'. Did you mean vbpr?"),
        ({"vbpr": {"settings": {"dimm": 3}}}, r"systems\.vbpr\.settings: .*got 'dimm'\. Did you mean dim\?"),
        ({"vbpr": {"settings": {"dim": "x"}}}, r"systems\.vbpr\.settings: expected dim to be a value like 32, got 'x'"),
        ({"vbpr": {"settings": {"training.epochs": -1}}}, r"systems\.vbpr\.settings: Expected training\.epochs > 0"),
        ({"ease": {"settings": {"l2": 1.0}}}, r"systems\.ease\.settings: .*got 'l2'"),
        ({"vbpr": {"dim": 3}}, r"systems\.vbpr: expected 'settings:'"),
        ({"vbpr": None}, r"systems\.vbpr: expected 'settings:'"),
    ],
)
def test_a_wrong_block_is_named_with_its_file(tmp_path, systems, said):
    path = written(tmp_path / "x.yaml", systems)
    with pytest.raises(ValueError, match=said) as refused:
        comparing.open_tuned(CompareOptions(tuned=path))
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize("text", ["[1, 2", "- 1\n", "", "systems: 3\n", "dim: 3\n"])
def test_what_is_no_such_file_is_refused(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match="x.yaml: expected"):
        read_tuned(tmp_path / "x.yaml", CONFIGS)
    with pytest.raises(FileNotFoundError, match="tfmm tune writes it"):
        read_tuned(tmp_path / "y.yaml", CONFIGS)


def test_settings_chosen_on_another_split_of_the_same_data_are_refused():
    found = Tuned(Path("x.yaml"), "x", "abc", {"kind": "global_time", "test_share": 0.1}, {})
    found.refuse_other_splits("abc", {"kind": "global_time", "test_share": 0.1})
    found.refuse_other_splits("abd", {"kind": "leave_last_out", "test_share": 0.1})  # other data have other events
    with pytest.raises(ValueError, match="other values of splits.kind, whose validation may hold this test's events"):
        found.refuse_other_splits("abc", {"kind": "leave_last_out", "test_share": 0.1})


def test_a_report_s_command_names_the_file_of_those_that_were_tuned():
    run = standings.Finished(Path("runs/r"), Path("tfmm/7"), None, np.zeros((1, 1)))  # type: ignore[arg-type]
    tuned = {"tuned": {"file": "tuned/x.yaml"}}
    assert standings._commands(run, {"bpr": tuned, "ials": {}, "vbpr": tuned}) == [
        "tfmm compare --run runs/r --systems bpr,vbpr --version 7 --tuned tuned/x.yaml",
        "tfmm compare --run runs/r --systems ials --version 7",
    ]
