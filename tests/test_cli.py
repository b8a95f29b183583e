"""The console script: verbs, options, and what a person reads."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import support_model
import test_report
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tfmm
from tfmm import cli, config, measuring
from tfmm.serving import server as serving_server
from tfmm.serving.catalogue import write_catalogue
from tfmm.serving.server import ServerOptions, serve

VERBS = ("train", "evaluate", "compare", "tune", "recommend", "audience", "index", "serve", "report")


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    """Two versions of a model of item0..item4; the newer one has titles and pictures."""
    directory = tmp_path_factory.mktemp("saved_models")
    support_model.write_model(directory / "tfmm", 1)
    newest = support_model.write_model(directory / "tfmm", 2)
    ids = [f"item{row}" for row in range(5)]
    pictures = [picture((40 * row, 0, 0)) for row in range(5)]
    write_catalogue(newest / "assets.extra", ids, [f"thing number {row}" for row in range(5)], pictures)
    return directory


def picture(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def ask(saved_models, capsys, monkeypatch):
    """Runs `tfmm recommend` and returns (exit status, what a person reads, messages)."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*argv: str, models: Path = saved_models):
        status = cli.main(["recommend", "--saved_models", str(models), *argv])
        return status, *capsys.readouterr()

    return run


def listed(output: str) -> list[str]:
    return [cell for line in output.splitlines() for cell in line.split() if cell.startswith("item") and cell != "item"]


# --- Verbs -----------------------------------------------------------------------------------------------------------


def test_help_and_version_answer_without_tensorflow():
    code = (
        "import sys; from tfmm import cli; status = cli.main(sys.argv[1:]); print('tensorflow' in sys.modules, status)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tfmm.__file__).parent.parent)}
    for argv in (["--help"], [], ["--version"]):
        command = [sys.executable, "-c", code, *argv]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert ran.stdout.splitlines()[-1] == "False 0"
        if argv == ["--version"]:
            assert tfmm.__version__ in ran.stdout
        else:
            assert all(f"\n  {verb} " in ran.stdout for verb in VERBS)


@pytest.mark.parametrize(("typed", "meant"), [("recomend", "recommend"), ("trian", "train"), ("servers", "serve")])
def test_an_unknown_verb_is_an_error_with_the_nearest_right_one(typed, meant, capsys):
    assert cli.main([typed]) == 2
    said = capsys.readouterr().err
    assert typed in said and f"Did you mean {meant}?" in said


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_an_error_with_the_nearest_right_one(verb):
    typed, meant = {
        "train": ("--sed", "--seed"),
        "evaluate": ("--verson", "--version"),
        "report": ("--rnu", "--run"),
    }.get(verb, ("--saved_model", "--saved_models"))
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, f"{typed}=1"])
    assert f"Did you mean {meant}?" in str(ended.value.code)


def test_train_is_the_main_job_with_the_same_flags(monkeypatch):
    seen = []
    monkeypatch.setattr("tfmm.train.main", lambda argv: seen.append(argv) or 7)
    assert cli.main(["train", "--size", "tiny", "--resume"]) == 7
    assert seen == [["--size", "tiny", "--resume"]]


# --- Settings --------------------------------------------------------------------------------------------------------


def test_a_switch_needs_no_value_and_takes_one():
    assert not config.parse([]).resume
    assert config.parse(["--resume"]).resume and config.parse(["--resume", "--seed", "3"]).resume
    assert not config.parse(["--resume=false"]).resume


def test_flags_go_before_the_file_and_the_file_before_what_source_and_size_preset(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(
        "source: movielens\nsize: tiny\nseed: 5\ntowers: {dim: 128, fusion: gated}\nretrieval: {epochs: 30}\n"
    )
    preset = config.parse(["--source", "movielens", "--size", "tiny"])
    assert preset.splits.kind == "leave_last_out" and preset.towers.dim != 128
    made = config.parse(["--config", str(file), "--seed", "9"])
    assert (made.seed, made.towers.dim, made.towers.fusion, made.retrieval.epochs) == (9, 128, "gated", 30)
    assert (
        made.splits == preset.splits and made.reranking == preset.reranking and made.refit_epochs == preset.refit_epochs
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--size", "huge"], "tiny, small, full, got 'huge'"),
        (["--towers.fusion", "glue"], "got 'glue'"),
        (["--seed", "many"], "many"),
        (["stray"], "stray"),
        (["--refit_anew", "true"], "--reranking.vectors false"),
    ],
)
def test_a_refused_setting_ends_in_a_sentence_not_a_traceback(flags, said):
    with pytest.raises(SystemExit) as ended:
        config.parse(flags)
    assert said in str(ended.value.code) and "--help" in str(ended.value.code)


def test_a_configuration_survives_run_json():
    made = config.parse(["--size", "tiny", "--source", "movielens", "--data_dir", "x", "--retrieval.epochs", "2"])
    written = json.loads(json.dumps(made.to_dict(), default=str))
    assert config.restored(written) == made
    with pytest.raises(SystemExit, match="train again"):
        config.restored({**written, "colour": "red"})


# --- recommend -------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1)))
def test_a_list_comes_back_as_the_csv_module_wrote_it(values):
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    assert cli.split_list(line.getvalue()) == values


def test_spaces_and_empty_values_do_not_count():
    assert cli.split_list(" a ,, b c ,") == ["a", "b c"]
    with pytest.raises(ValueError, match="separated by commas"):
        cli.split_list('"open')


def test_the_table_holds_the_k_best_items_with_titles_in_order(ask):
    status, output, messages = ask("--history", "item4", "--exclude", "item0", "--text", "item1", "--k", "2")
    assert (status, messages) == (0, "")
    assert listed(output) == ["item1", "item3"]  # of version 2: 11.2 (typed), 3.2, 2.2
    assert "11.200" in output and "thing number 1" in output and "thing number 2" not in output


def test_a_server_and_the_loaded_model_give_the_same_table(ask, saved_models):
    asked = ("--history", "item2,item0", "--text", "item3")
    running = serve(saved_models, port=0, options=ServerOptions(poll_seconds=3600))
    try:
        served = ask(*asked, "--target", f"127.0.0.1:{running.port}")
    finally:
        running.stop(0)
    assert served == ask(*asked) and listed(served[1]) == ["item3", "item4", "item1"]


def test_unknown_items_are_told_with_the_nearest_known_one_and_do_no_harm(ask):
    status, output, messages = ask("--history", "item4,itm3", "--exclude", "zzz")
    assert status == 0 and listed(output) == ["item3", "item2", "item1", "item0"]
    assert "--history: the catalogue has no item 'itm3'" in messages and "Did you mean item3?" in messages
    assert "--exclude: the catalogue has no item 'zzz'" in messages and "item4" not in messages


def test_the_page_shows_pictures_of_what_was_asked_and_answered(ask, tmp_path):
    shown = tmp_path / "query.png"
    shown.write_bytes(picture((0, 0, 255)))
    page = tmp_path / "pages" / "page.html"
    status, output, _ = ask("--history", "item4", "--image", str(shown), "--html", str(page))
    assert status == 0 and str(page) in output
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 1 + 1 + 4  # the query, the history, and all that is left
    assert "thing number 3" in html


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--image", "nowhere.jpg"], "--image: expected a file, found none at nowhere.jpg"),
        (["--filters", "mug"], "\"field=value\" in filters, got 'mug'"),
        (["--history", "item1", "--events", "view,buy"], "Expected 1 events"),
        (["--target", "127.0.0.1:1"], "Start one with `tfmm serve`"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_sentence(ask, argv, said):
    status, output, messages = ask(*argv)
    assert (status, output) == (2, "") and said in messages and "Traceback" not in messages


def test_without_a_model_the_way_to_get_one_is_named(ask, tmp_path):
    status, _, messages = ask("--text", "mug", models=tmp_path)
    assert status == 2 and "python train.py" in messages


@pytest.mark.parametrize("k", ["0", "101"])
def test_k_beyond_what_the_model_answers_is_refused(ask, k):
    with pytest.raises(SystemExit, match="k between 1 and 100"):
        ask("--k", k)


# --- serve, report, evaluate -----------------------------------------------------------------------------------------


def test_serve_listens_on_this_machine_alone_unless_told_otherwise(monkeypatch):
    seen = []
    monkeypatch.setattr(serving_server, "run", lambda saved_models, **options: seen.append((saved_models, options)))
    assert cli.main(["serve"]) == 0
    assert cli.main(["serve", "--saved_models", "m", "--host", "0.0.0.0", "--port", "9", "--op_threads", "1"]) == 0
    assert seen[0] == (
        Path("saved_models"),
        {"name": "tfmm", "host": "127.0.0.1", "port": 8500, "options": ServerOptions()},
    )
    assert seen[1][0] == Path("m") and seen[1][1]["port"] == 9 and seen[1][1]["host"] == "0.0.0.0"
    assert seen[1][1]["options"] == ServerOptions(op_threads=1)


def write_report(run: Path, *, popularity: float, age: float) -> None:
    report = test_report.example()
    for model in report["models"].values():
        for name in ("mrr@10", "diversity@10"):
            model["metrics"][name] = test_report.statistic(0.5)
    report["models"]["popularity"]["metrics"]["ndcg@10"] = test_report.statistic(popularity)
    report["protocol"] = {"queries": 200, "shoppers": 190}
    run.mkdir(parents=True)
    (run / "report.json").write_text(json.dumps(report))
    os.utime(run / "report.json", (1_700_000_000 - age, 1_700_000_000 - age))


def test_report_shows_the_newest_run_or_the_one_that_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_report(tmp_path / "runs" / "old", popularity=0.0123, age=100)
    write_report(tmp_path / "runs" / "new", popularity=0.0321, age=1)
    assert cli.main(["report", "--runs", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr().out
    assert "0.0321" in output and "0.0123" not in output and str(tmp_path / "runs" / "new" / "index.html") in output
    assert cli.main(["report", "--run", str(tmp_path / "runs" / "old")]) == 0
    assert "0.0123" in capsys.readouterr().out
    assert cli.main(["report", "--runs", str(tmp_path / "none")]) == 2
    assert "tfmm train" in capsys.readouterr().err


def test_evaluate_wants_a_run_and_a_version_that_are_there(tmp_path, saved_models, capsys):
    assert cli.main(["evaluate", "--run", str(tmp_path)]) == 2
    assert "run.json" in capsys.readouterr().err
    written = json.loads(json.dumps(config.parse([]).to_dict(), default=str))
    (tmp_path / "run.json").write_text(json.dumps({"configuration": written, "data": "0" * 64}))
    argv = ["evaluate", "--run", str(tmp_path), "--saved_models", str(saved_models), "--version", "3"]
    assert cli.main(argv) == 2
    assert "version 3" in capsys.readouterr().err


def test_evaluate_finds_the_newest_version_unless_one_is_named(saved_models):
    assert measuring.find_version(saved_models / "tfmm", None).name == "2"
    assert measuring.find_version(saved_models / "tfmm", 1).name == "1"
