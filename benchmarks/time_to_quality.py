"""How soon our towers are as good as the SASRec of RecTools and of RecBole: the same events, one code that measures.

    benchmarks/peers.sh DIR
    python -m benchmarks.time_to_quality --peers DIR -- --source movielens --data_dir MOVIELENS_FOLDER

What stands after `--` goes where train.py's flags go. Each system trains in a process of its own, the peers in
environments of their own, one at a time, with the same threads, in another order each seed, on everything before the
validation item. After each epoch it leaves its scores of the whole catalogue; here they become NDCG@10 (history
excluded, ties against the system, what it does not know never recommended), and one rule stops everybody: no better
validation for `--retrieval.patience` epochs, or for more where an epoch has few steps (see the table). A training that
ends before that is named.

A level is reached at the end of the first epoch that measures as much; nothing is interpolated. Clocks stand still
while scores are made. "Of training" counts from the first step, of ours from before its ids are given their start and
its graphs are traced; "with set-up" from the start of the process: imports, reading, and of ours encoding all pictures
and texts. `--clock processor` counts the processor's seconds of a process in place of the wall's: with `--threads 1`
they are what the wall would show on an idle machine, and other work beside it changes little of them. Finished
trainings are kept in `--runs`, with their settings, and not repeated; `--again` forgets them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from benchmarks import peers
from benchmarks.common import positive, start_log
from benchmarks.levels import OURS, OURS_BY_ID, Training, endings, level_rows, quality_rows
from benchmarks.peers import exchange
from benchmarks.seeds import code_mark, say, settings, show_table, split_flags
from tfmm import evaluation, metrics, relevance, splits, stages
from tfmm.config import Config, parse
from tfmm.sources.dataset import Dataset
from tfmm.splits import Queries

_log = logging.getLogger("benchmarks.time_to_quality")


class System(NamedTuple):
    """One that is trained.

    Attributes:
        module: of `benchmarks.peers`.
        environment: that `benchmarks/peers.sh` made; "" = this one.
        arguments: of the module.
        patience: epochs without a better validation before it stops, at least.
    """

    module: str
    environment: str = ""
    arguments: tuple[str, ...] = ()
    patience: int = 1


SYSTEMS = {
    OURS: System("ours", arguments=("all",)),
    OURS_BY_ID: System("ours", arguments=("id",)),
    "rectools": System("rectools_sasrec", "rectools", patience=25),  # epochs of a few steps, so that five say nothing
    "rectools_windows": System("rectools_sasrec", "rectools", ("windows",), patience=15),
    "recbole": System("recbole_sasrec", "recbole"),
}
_MARK = "complete"
"""What `benchmarks/peers.sh` leaves in an environment that is whole: its pins."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
K = 10


class Questions(NamedTuple):
    """What everybody is asked.

    Attributes:
        dataset: as it was read.
        parts: who may see what.
    """

    dataset: Dataset
    parts: splits.Split

    def ndcg(self, part: str, scores: np.ndarray) -> np.ndarray:
        """Returns one value a shopper; `scores` `[queries, num_items]`, -inf = never recommended."""
        queries: Queries = getattr(self.parts, part)
        barred = np.where(queries.before_launch(self.dataset.items.launched), -np.inf, scores)
        ranks = relevance.pessimistic_ranks(barred, queries.targets, excluded=queries.history)
        values = metrics.ndcg(relevance.relevance_from_ranks(ranks, k=K), queries.targets.lengths, k=K)
        return evaluation.per_user(values, queries.user)


def read_questions(config: Config) -> Questions:
    """Returns what the flags' source is asked."""
    dataset = stages.load(config)
    return Questions(dataset, splits.split(dataset, config.splits))


def write_shop(folder: Path, asked: Questions) -> None:
    """Leaves what peers may know: events before validation, and the histories; no answer."""
    events = asked.parts.refit
    exchange.write_shop(
        folder,
        len(asked.dataset.items),
        exchange.Events(events.user.astype(np.int64), events.item.astype(np.int64)),
        {part: (h.values, h.offsets) for part in exchange.PARTS for h in [getattr(asked.parts, part).history]},
    )


# --- One training ----------------------------------------------------------------------------------------------------


class Judge:
    """Measures each epoch of one training, and says when it is enough."""

    def __init__(self, asked: Questions, folder: Path, *, patience: int, budget: float) -> None:
        self._asked, self._folder, self._patience, self._budget = asked, folder, patience, budget
        self.training: Training = {"seconds": [], "validation": [], "ended": "its own epochs"}

    def hear(self, told: Mapping[str, Any], *, started: float) -> Optional[str]:
        """Returns the answer to a line of the system; None where it wants none."""
        if "seconds" in told:
            return self._epoch(told["seconds"])
        if "ready" in told:
            self.training["set_up"] = told["ready"] - started
        if "set_up" in told:
            self.training["set_up"] = told["set_up"]
        if "given" in told:
            self.training["given"] = {**told["given"], "patience": self._patience}
        return None

    def _epoch(self, spent: float) -> str:
        validation, values = self._measured("validation"), self.training["validation"]
        if not values or validation.mean() > max(values):
            self.training["test"] = self._measured("test").tolist()
        values.append(float(validation.mean()))
        self.training["seconds"].append(spent)
        _log.info("epoch %d, %.1f s: validation ndcg@10 %.4f", len(values), spent, values[-1])
        if len(values) - 1 - int(np.argmax(values)) >= self._patience:
            self.training["ended"] = "patience"
        elif spent >= self._budget:
            self.training["ended"] = "budget"
        else:
            return exchange.GO_ON
        return exchange.STOP

    def _measured(self, part: str) -> np.ndarray:
        return self._asked.ndcg(part, np.load(self._folder / f"{part}.npy"))


def train(name: str, config: Config, asked: Questions, flags: Sequence[str], options: argparse.Namespace) -> Training:
    """Returns the training of one system, in a process of its own."""
    system = SYSTEMS[name]
    interpreter = options.peers / system.environment / "bin" / "python" if system.environment else sys.executable
    variables = {**{name: str(options.threads) for name in _THREADS}, exchange.CLOCK: options.clock}
    log = options.runs / f"{name}-{config.seed}.log"
    with tempfile.TemporaryDirectory() as scratch, log.open("w", encoding="utf-8") as errors:
        write_shop(Path(scratch), asked)
        judge = Judge(asked, Path(scratch), patience=_patience(name, config), budget=options.budget)
        arguments = [scratch, str(config.seed), str(options.epochs), *system.arguments]
        arguments += [] if system.environment else flags
        command = [str(interpreter), "-m", f"benchmarks.peers.{system.module}", *arguments]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True}
        started = time.time()
        with subprocess.Popen(command, env={**os.environ, **variables}, **pipes) as process:
            for line in process.stdout or ():
                answer = judge.hear(json.loads(line), started=started)
                if answer and process.stdin:
                    print(answer, file=process.stdin, flush=True)
    if process.returncode or "test" not in judge.training:
        raise SystemExit(
            f"Expected {name} to train, it ended with {process.returncode}; see {log}: {shlex.join(command)}"
        )
    return judge.training


def _patience(name: str, config: Config) -> int:
    return max(SYSTEMS[name].patience, config.retrieval.patience)


Run = Callable[[str, Config, Questions, Sequence[str], argparse.Namespace], Training]


def trainings(flags: Sequence[str], options: argparse.Namespace, *, run: Run = train) -> dict[str, list[Training]]:
    """Returns each system's training a seed; one that is kept with the same settings is not repeated.

    Args:
        flags: of train.py.
        options: of this command.
        run: trains one.
    """
    found: dict[str, list[Training]] = {name: [] for name in options.systems}
    options.runs.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(options.seeds):
        config = parse([*flags, "--seed", str(seed)])
        asked, at = read_questions(config), number % len(options.systems)
        for name in options.systems[at:] + options.systems[:at]:
            wanted = _settings(name, config, asked, options)
            path = options.runs / f"{name}-{seed}.json"
            if options.again or not _kept(path, wanted):
                path.unlink(missing_ok=True)
                _log.info("%s, seed %d", name, seed)
                made = {"settings": wanted, **run(name, config, asked, flags, options)}
                path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
            found[name].append(json.loads(path.read_text(encoding="utf-8")))
    return found


def _settings(name: str, config: Config, asked: Questions, options: argparse.Namespace) -> dict[str, Any]:
    """Returns what a training depends on: a peer's on few of our flags, and not on our code."""
    system, plain = SYSTEMS[name], settings(config.to_dict())
    everybody = {"data": asked.dataset.fingerprint(), "budget": options.budget, "threads": options.threads}
    everybody |= {"clock": options.clock}
    everybody |= {"patience": _patience(name, config), "seed": config.seed}
    if not system.environment:
        return {**everybody, **plain, "code": code_mark()}
    script = Path(peers.__file__).with_name(f"{system.module}.py").read_text(encoding="utf-8")
    pins = (options.peers / system.environment / _MARK).read_text(encoding="utf-8")
    code = hashlib.sha256((script + pins).encode()).hexdigest()[:16]
    return {**everybody, "splits": plain["splits"], "epochs": options.epochs, "code": code}


def _kept(path: Path, wanted: Mapping[str, Any]) -> bool:
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["settings"] == wanted


# --- All of them -----------------------------------------------------------------------------------------------------


def show(found: Mapping[str, Sequence[Training]], flags: Sequence[str], options: argparse.Namespace) -> None:
    """Prints what was given to each, what each reached, and how soon."""
    names, threads = list(found), f"{options.threads} thread(s), {options.clock} clock"
    given = {name: all_of[0]["given"] for name, all_of in found.items()}
    titles = list(dict.fromkeys(title for one in given.values() for title in one))
    lines = [(title, *(str(given[name].get(title, "")) for name in names)) for title in titles]
    show_table(f"What each was given, with {threads}", ["", *names], lines, markdown=options.markdown)
    about = f"{len(options.seeds)} seed(s): python train.py {shlex.join(flags)}"
    columns = ["system", "best validation ndcg@10", "in epoch", "set-up, s", "first epoch, s", "an epoch, s"]
    columns += ["test ndcg@10", "ours minus it"]
    show_table(f"Quality, {about}", columns, quality_rows(found), markdown=options.markdown)
    columns = ["level", "validation ndcg@10", *(f"{name}, s" for name in names), f"the peer's by {OURS}"]
    for set_up, title in ((False, "of training"), (True, "with set-up")):
        rows = level_rows(found, options.levels, set_up=set_up) if OURS in found else []
        if rows:
            show_table(f"Seconds {title} to a level", columns, rows, markdown=options.markdown)
    for sentence in endings(found, options.seeds):
        say(sentence)


def main(argv: Optional[Sequence[str]] = None) -> dict[str, list[Training]]:
    """Prints the tables; returns every training."""
    ours, flags = split_flags(sys.argv[1:] if argv is None else argv)
    options = _options(ours)
    start_log()
    found = trainings(flags, options)
    show(found, flags, options)
    return found


def _options(argv: Sequence[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--peers", type=Path, help="folder that benchmarks/peers.sh made")
    made.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    made.add_argument("--seeds", nargs="+", type=int, default=[0])
    made.add_argument("--levels", nargs="+", type=float, default=[0.95, 1.0], help="shares of each peer's best")
    made.add_argument("--epochs", type=positive, default=300, help="of a peer, at most; ours: --retrieval.epochs")
    made.add_argument("--budget", type=float, default=7200.0, help="seconds of training of each, at most")
    made.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="of each system")
    made.add_argument("--clock", choices=exchange.CLOCKS, default="wall", help="see above")
    made.add_argument("--runs", type=Path, default=Path("runs") / "benchmark-time-to-quality")
    made.add_argument("--again", action="store_true", help="train those again that are kept")
    made.add_argument("--markdown", action="store_true")
    options = made.parse_args(argv)
    environments = {SYSTEMS[name].environment for name in options.systems} - {""}
    missing = [name for name in environments if not _is_whole(options.peers, name)]
    if missing:
        made.error(f"expected environments of {', '.join(sorted(missing))} in --peers: run benchmarks/peers.sh DIR")
    return options


def _is_whole(folder: Optional[Path], environment: str) -> bool:
    return folder is not None and (folder / environment / _MARK).is_file()


if __name__ == "__main__":
    main()
