"""Time to quality: what peers may know, when a level is reached, and who says that a training ends."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--source", "folder", "--splits.kind", "leave_last_out"]
QUESTIONS = 8


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def bench(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


def training(seconds: list[float], validation: list[float], **more: Any) -> dict[str, Any]:
    test = [value / 2 for value in np.linspace(0, 2 * max(validation), 11)]
    columns = {"seconds": seconds, "validation": validation, "test": test, "set_up": 10.0, "ended": "patience"}
    return {**columns, "given": {"width": 64}, **more}


OURS = training([5.0, 7.0, 9.0, 11.0], [0.02, 0.06, 0.05, 0.09])
PEER = training([100.0, 180.0, 270.0], [0.03, 0.06, 0.055])


def data_folder(path: Path) -> Path:
    """A shop of eight shoppers, whose events do not stand in their order in the file."""
    path.mkdir()
    items = "".join(f"i{row},title {row}\n" for row in range(30))
    (path / "items.csv").write_text("id,title\n" + items, encoding="utf-8")
    rng, lines = np.random.default_rng(0), []
    for user in range(QUESTIONS):
        for place, item in enumerate(rng.permutation(30)[: 6 + user]):
            lines.append(f"u{user},i{item},{1_600_000_000 + 1000 * place + user}\n")
    (path / "interactions.csv").write_text("user,item,time\n" + "".join(rng.permutation(lines)), encoding="utf-8")
    return path


def questions(tmp_path: Path) -> Any:
    module = bench("time_to_quality")
    return module.read_questions(module.parse([*FLAGS, "--data_dir", str(data_folder(tmp_path / "shop"))]))


# --- Levels ----------------------------------------------------------------------------------------------------------


def test_a_level_is_reached_at_the_end_of_the_first_epoch_that_measures_as_much() -> None:
    rows = bench("levels").level_rows({"ours": [OURS], "peer": [PEER]}, [0.5, 1.0], set_up=False)
    assert rows == [
        ("50% of peer's best", "0.0300", "7.0", "100.0", "14.3"),  # .06 at 7 s, .03 at 100 s: nothing in between
        ("100% of peer's best", "0.0600", "7.0", "180.0", "25.7"),
    ]


def test_with_set_up_each_clock_starts_with_its_process() -> None:
    found = {"ours": [training([5.0], [0.06], set_up=20.0)], "peer": [training([100.0], [0.06], set_up=25.0)]}
    ((_, _, ours, peer, ratio),) = bench("levels").level_rows(found, [1.0], set_up=True)
    assert (ours, peer, ratio) == ("25.0", "125.0", "5")


def test_a_level_that_is_never_reached_says_so_and_never_counts_as_a_win() -> None:
    levels = bench("levels")
    found = {"ours": [training([5.0, 7.0], [0.01, 0.02])], "peer": [PEER]}
    ((_, _, ours, peer, ratio),) = levels.level_rows(found, [1.0], set_up=False)
    assert (ours, peer, ratio) == (levels.NEVER, "180.0", levels.NEVER)
    ((*_, other, _),) = levels.level_rows({"ours": [OURS], "slow": [training([9.0], [0.01])]}, [1.0], set_up=False)
    assert other == "9.0"


def test_levels_are_those_of_the_same_seed_and_a_seed_that_never_came_so_far_counts_as_nothing() -> None:
    levels = bench("levels")
    found = {
        "ours": [OURS, training([5.0], [0.05])],
        "peer": [PEER, training([40.0, 80.0], [0.07, 0.06])],
    }
    ((_, level, ours, peer, ratio),) = levels.level_rows(found, [1.0], set_up=False)
    assert level.startswith("0.0650")
    assert (ours, peer) == ("7.0 (never in 1 of 2)", "110.0")
    assert ratio == "12.9 [0, 25.7]"  # median of 0 and 180 / 7
    assert levels.ratio_of([2.0, 4.0, 8.0], [10.0, math.inf, 16.0]) == "5 [2, inf]"


def test_the_quality_table_says_the_best_epoch_and_what_ours_has_more_on_the_same_shoppers() -> None:
    ours, peer = bench("levels").quality_rows({"ours": [OURS], "peer": [PEER]})
    assert ours[:6] == ("ours", "0.0900", "4 of 4", "10.0", "5.0", "2.8")
    assert peer[:6] == ("peer", "0.0600", "2 of 3", "10.0", "100.0", "90.0")
    assert ours[6].startswith("0.0450 [") and ours[7] == ""
    assert peer[6].startswith("0.0300 [") and peer[7].startswith("+0.0150 [+")


def test_a_training_that_patience_did_not_end_is_named() -> None:
    found = {"ours": [OURS], "peer": [PEER, training([1.0], [0.1], ended="budget")]}
    (sentence,) = bench("levels").endings(found, [3, 4])
    assert "peer, seed 4" in sentence and "budget" in sentence


# --- What peers may know ---------------------------------------------------------------------------------------------


def test_peers_get_the_shops_own_sequences_and_histories_and_no_answer(tmp_path: Path) -> None:
    exchange, asked = bench("peers.exchange"), questions(tmp_path)
    bench("time_to_quality").write_shop(tmp_path, asked)
    shop = exchange.read_shop(tmp_path)
    dataset = asked.dataset
    lines = (tmp_path / "shop" / "interactions.csv").read_text(encoding="utf-8").split()[1:]
    told = [line.split(",") for line in lines]
    assert shop.num_items == 30
    for row, user in enumerate(dataset.users.ids):
        inorder = [item for _, item in sorted((int(time), item) for who, item, time in told if who == user)]
        trained = dataset.items.ids[shop.events.item[shop.events.user == row]].tolist()
        assert trained == inorder[:-2]
        assert dataset.items.ids[shop.histories["validation"][row]].tolist() == inorder[:-2]
        assert dataset.items.ids[shop.histories["test"][row]].tolist() == inorder[:-1]
        assert dataset.items.ids[asked.parts.test.targets[row]].tolist() == inorder[-1:]
    with np.load(tmp_path / "shop.npz") as columns:
        assert not any("target" in name for name in columns)


def test_windows_hold_every_step_from_an_event_to_the_next_once_and_the_newest_is_full() -> None:
    exchange = bench("peers.exchange")
    lengths = [1, 2, 4, 5, 6, 7, 10, 11, 13]
    users = np.repeat(np.arange(len(lengths)), lengths)
    items = np.arange(len(users))
    windows = exchange.Events(users, items).windows(4)
    steps = [
        (a, b)
        for a, b, left, right in zip(windows.item, windows.item[1:], windows.user, windows.user[1:])
        if left == right
    ]
    expected = [(a, a + 1) for a in items[:-1] if users[a] == users[a + 1]]
    assert sorted(steps) == expected
    sizes = np.bincount(windows.user)
    assert sizes.max() == 4
    newest = windows.user[np.searchsorted(windows.item, np.cumsum(lengths) - 1, side="right") - 1]
    assert sizes[newest].tolist() == [min(length, 4) for length in lengths]


def test_a_system_reads_the_newest_events_that_it_knows_and_never_recommends_what_it_does_not() -> None:
    exchange = bench("peers.exchange")
    numbers = np.array([2, 0, 1, 3])  # of item 1 it knows nothing
    histories = [np.array([0, 1, 2, 3]), np.array([1])]
    assert exchange.latest(histories, numbers, 2, right=True).tolist() == [[1, 3], [0, 0]]
    assert exchange.latest(histories, numbers, 4, right=True).tolist() == [[0, 2, 1, 3], [0, 0, 0, 0]]
    assert exchange.latest(histories, numbers, 4, right=False).tolist() == [[2, 1, 3, 0], [0, 0, 0, 0]]
    scores = exchange.of_catalogue(np.array([[9.0, 0.1, 0.2, 0.3]]), numbers)
    np.testing.assert_allclose(scores, np.array([[0.2, -np.inf, 0.1, 0.3]]), rtol=1e-6)


# --- One code that measures, one rule that ends ----------------------------------------------------------------------


def test_everybody_is_measured_alike_history_excluded_and_ties_against_the_system(tmp_path: Path) -> None:
    asked = questions(tmp_path)
    targets, history = (getattr(asked.parts.validation, name) for name in ("targets", "history"))
    scores = np.zeros((QUESTIONS, 30), np.float32)
    assert not asked.ndcg("validation", scores).any()  # all alike: the target stands last
    scores[np.arange(QUESTIONS), targets.values] = 1
    scores[history.row_numbers, history.values] = 2  # what was had does not count
    assert asked.ndcg("validation", scores).tolist() == [1.0] * QUESTIONS
    scores[0, targets[0]] = -np.inf
    others = np.setdiff1d(np.arange(30), [*history[1], *targets[1]])
    scores[1, others[:2]] = 1.5
    assert asked.ndcg("validation", scores)[:2] == pytest.approx([0.0, 1 / math.log2(4)])


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from benchmarks.peers import exchange
folder, ranks = Path(sys.argv[1]), [float(value) for value in sys.argv[2].split(",")]
course = exchange.Course(folder, {"width": 7})
print("noise that is no answer")
shop = exchange.read_shop(folder)
course.ready()
try:
    for share in ranks:
        told = {part: np.load(folder / f"{part}-{share}.npy") for part in exchange.PARTS}
        course.epoch(told.__getitem__)
except exchange.Enough:
    sys.exit(0)
"""


def scored(asked: Any, part: str, share: float) -> np.ndarray:
    """Scores that put the target of `share` of the questions first, and of the others last."""
    targets = getattr(asked.parts, part).targets.values
    scores = np.tile(np.arange(30, dtype=np.float32), (QUESTIONS, 1))
    first = np.arange(QUESTIONS) < share * QUESTIONS
    scores[np.arange(QUESTIONS), targets] = np.where(first, 100, -100)
    return scores


def judged(tmp_path: Path, shares: list[float]) -> tuple[dict[str, Any], int]:
    """What becomes of a system in a process of its own, and how many epochs it trained."""
    module, asked = bench("time_to_quality"), questions(tmp_path)
    module.write_shop(tmp_path, asked)
    for share in shares:
        np.save(tmp_path / f"validation-{share}.npy", scored(asked, "validation", share))
        np.save(tmp_path / f"test-{share}.npy", scored(asked, "test", 1 - share))
    judge = module.Judge(asked, tmp_path, patience=2, budget=1e9)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), ",".join(map(str, shares))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    heard, started = 0, time.time()
    with subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), **pipes) as process:
        for line in process.stdout:
            answer = judge.hear(json.loads(line), started=started)
            heard += answer is not None
            if answer:
                print(answer, file=process.stdin, flush=True)
    assert process.returncode == 0
    return judge.training, heard


def test_patience_ends_a_training_and_the_test_is_that_of_the_best_validation_epoch(tmp_path: Path) -> None:
    found, heard = judged(tmp_path, [0.25, 0.75, 0.5, 0.625, 1.0])
    assert heard == 4 and found["ended"] == "patience"
    assert found["validation"] == [0.25, 0.75, 0.5, 0.625]
    assert np.mean(found["test"]) == 0.25  # of the second epoch
    assert found["given"] == {"width": 7, "patience": 2}
    assert found["set_up"] > 0 and np.all(np.diff([0.0, *found["seconds"]]) > 0)


def test_the_processors_clock_counts_work_and_not_waiting(monkeypatch, tmp_path: Path) -> None:
    exchange = bench("peers.exchange")
    told = []
    monkeypatch.setattr(exchange.Course, "_tell", lambda self, **columns: told.append(columns))
    monkeypatch.setattr(exchange.os, "dup2", lambda *_: None)
    monkeypatch.setattr(exchange.sys, "stdin", io.StringIO("go on\n" * 2))
    for clock in ("wall", "processor"):
        monkeypatch.setenv(exchange.CLOCK, clock)
        course = exchange.Course(tmp_path, {})
        course.ready()
        time.sleep(0.5)
        course.epoch(lambda part: np.zeros(1))
    (waited,), (worked,) = ([one["seconds"]] for one in told if "seconds" in one)
    assert waited >= 0.5 > 10 * worked
    assert "ready" in told[1] and told[4]["set_up"] > 0


def test_a_budget_ends_a_training_too_and_its_own_end_is_said(tmp_path: Path) -> None:
    module, asked = bench("time_to_quality"), questions(tmp_path)
    judge = module.Judge(asked, tmp_path, patience=2, budget=30.0)
    for part in ("validation", "test"):
        np.save(tmp_path / f"{part}.npy", scored(asked, part, 0.5))
    assert judge.hear({"seconds": 29.0}, started=0.0) == "go on"
    assert judge.training["ended"] == "its own epochs"
    assert judge.hear({"seconds": 30.0}, started=0.0) == "stop"
    assert judge.training["ended"] == "budget"


# --- What is kept ----------------------------------------------------------------------------------------------------


class Runner:
    """Trains in no time; remembers what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, name: str, config: Any, *_: Any) -> dict[str, Any]:
        self.calls.append((name, config.seed))
        return OURS if name == "ours" else PEER


def test_seeds_begin_with_another_system_and_what_is_kept_with_the_same_settings_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = bench("time_to_quality")
    flags = [*FLAGS, "--data_dir", str(data_folder(tmp_path / "shop"))]
    (tmp_path / "recbole").mkdir()
    (tmp_path / "recbole" / "complete").write_text("recbole==1", encoding="utf-8")
    plain = {
        "systems": ["ours", "recbole"],
        "peers": tmp_path,
        "seeds": [0, 1],
        "epochs": 3,
        "budget": 9.0,
        "threads": 1,
        "clock": "wall",
        "again": False,
    }
    options = argparse.Namespace(**plain, runs=tmp_path / "kept", levels=[1.0], markdown=True)
    runner = Runner()
    found = module.trainings(flags, options, run=runner)
    assert runner.calls == [("ours", 0), ("recbole", 0), ("recbole", 1), ("ours", 1)]
    runner.calls.clear()
    assert module.trainings(flags, options, run=runner) == found and runner.calls == []
    module.trainings([*flags, "--retrieval.learning_rate", "0.1"], options, run=runner)
    assert runner.calls == [("ours", 0), ("ours", 1)]  # a peer's figures do not depend on our settings
    runner.calls.clear()
    (tmp_path / "recbole" / "complete").write_text("recbole==2", encoding="utf-8")
    module.trainings([*flags, "--retrieval.learning_rate", "0.1"], options, run=runner)
    assert runner.calls == [("recbole", 0), ("recbole", 1)]
    runner.calls.clear()
    options.again = True
    assert len(module.trainings(flags, options, run=runner)["recbole"]) == 2
    assert len(runner.calls) == 4
    module.show(found, flags, options)
    assert "| 100% of recbole's best | 0.0600 ± 0.0000 | 7.0 | 180.0 | 25.7 [25.7, 25.7] |" in capsys.readouterr().out


def test_an_environment_that_is_not_whole_is_refused_with_the_command_that_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recbole").mkdir()
    with pytest.raises(SystemExit):
        bench("time_to_quality").main(["--peers", str(tmp_path), "--systems", "recbole", "--", *FLAGS])
    assert "benchmarks/peers.sh" in capsys.readouterr().err
