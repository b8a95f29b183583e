"""How good a run is over several seeds, beside every baseline.

    python -m benchmarks.seeds --seeds 0 1 2 -- --source movielens --data_dir DIR

What stands after `--` goes to train.py, which runs once a seed in a process of its own. A seed whose report stands
already, with the same settings, is not trained again, so that a series that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import logging
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from benchmarks.common import console, show_values, start_log
from tfmm.config import Config, parse
from tfmm.results import OURS, RETRIEVAL

_log = logging.getLogger("benchmarks.seeds")
ROOT = Path(__file__).resolve().parents[1]
METRICS = ("ndcg@10", "recall@10")
Reports = Mapping[int, Mapping[str, Any]]
"""Seed -> its `report.json`."""
_OURS_TO_SET = ("--seed", "--run", "--runs", "--saved_models", "--resume")
_PLACES = ("resume", "run", "runs", "records", "saved_models")  # settings that decide no figure


# --- The runs --------------------------------------------------------------------------------------------------------


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the flags before `--`, and those after it."""
    argv = list(argv)
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def settings(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides the figures of a configuration: everything but where files are put."""
    plain = json.loads(json.dumps(dict(configuration), default=str))
    kept = {name: value for name, value in plain.items() if name not in _PLACES}
    kept["data_dir"] = str(Path(kept["data_dir"]).resolve()) if kept.get("data_dir") else None
    return kept


def run_name(config: Config) -> str:
    """Returns the name of one seed's run; runs of one series differ in their seed alone."""
    shared = {name: value for name, value in settings(config.to_dict()).items() if name != "seed"}
    mark = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:8]
    return f"{config.source}-{mark}-seed{config.seed}"


def train(argv: Sequence[str]) -> None:
    """Runs train.py in a process of its own; what it prints goes to the error stream."""
    command = [sys.executable, str(ROOT / "train.py"), *argv]
    ended = subprocess.run(command, stdout=2, check=False).returncode
    if ended:
        raise SystemExit(f"Expected train.py to end with 0, it ended with {ended}: {shlex.join(command)}")


def series(
    seeds: Sequence[int],
    flags: Sequence[str],
    *,
    runs: Path,
    saved_models: Optional[Path] = None,
    anew: bool = False,
    run: Callable[[Sequence[str]], None] = train,
) -> dict[int, dict[str, Any]]:
    """Returns each seed's report, after those that were missing are made.

    Args:
        seeds: of the runs.
        flags: of train.py.
        runs: where the runs' directories are.
        saved_models: where exported models are kept, one directory a run; None = they are not.
        anew: whether to train seeds again whose report is there.
        run: trains, given all flags.
    """
    _check(flags)
    found = {}
    for seed in seeds:
        config = parse([*flags, "--seed", str(seed)])
        path = runs / run_name(config) / "report.json"
        if anew or not _finished(path, config):
            with tempfile.TemporaryDirectory() as scratch:
                models = saved_models / run_name(config) if saved_models else Path(scratch)
                _log.info("seed %d: training, %s", seed, path.parent)
                _train_one([*flags, "--seed", str(seed)], path, models, run)
            if not _finished(path, config):
                raise SystemExit(f"Expected {path} with the settings of seed {seed}; the run left none.")
        found[seed] = json.loads(path.read_text(encoding="utf-8"))
    _check_data(found, config.source)
    return found


def _check(flags: Sequence[str]) -> None:
    taken = [flag for flag in flags if flag.split("=")[0] in _OURS_TO_SET]
    if taken or parse(flags).resume:
        raise SystemExit(
            f"Expected flags of train.py without {', '.join(_OURS_TO_SET)}, which a series sets itself, got "
            f"{', '.join(taken) or 'resume in --config'}. Give --seeds, --runs and --saved_models before the --."
        )


def _train_one(flags: Sequence[str], path: Path, models: Path, run: Callable[[Sequence[str]], None]) -> None:
    """Trains one seed from its beginning, and notes which code did."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "code.txt").write_text(code_mark() + "\n", encoding="utf-8")
    run([*flags, "--run", path.parent.name, "--runs", str(path.parent.parent), "--saved_models", str(models)])


def _finished(path: Path, config: Config) -> bool:
    """Returns whether the report is there with these settings; warns where other code made it."""
    if not path.is_file():
        return False
    report = json.loads(path.read_text(encoding="utf-8"))
    same = settings(report["configuration"]) == settings(config.to_dict())
    by = path.parent / "code.txt"
    if same and by.is_file() and by.read_text(encoding="utf-8").strip() != code_mark():
        when = datetime.datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "minutes")
        _log.warning("%s is of %s, and tfmm/ has changed since; --anew trains again.", path, when)
    return same


def code_mark() -> str:
    """Returns a digest of the package's code."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "tfmm").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _check_data(reports: Reports, source: str) -> None:
    """Refuses seeds that saw different data; the demo's data is drawn from the seed."""
    marks = {seed: report["dataset"]["fingerprint"] for seed, report in reports.items()}
    if source != "demo" and len(set(marks.values())) > 1:
        raise SystemExit(f"Expected one data set for all seeds, got fingerprints {marks}; --anew trains all again.")


# --- The tables ------------------------------------------------------------------------------------------------------


def mean_of(values: Sequence[float]) -> str:
    """Returns "mean ± standard deviation" over seeds, the mean alone of one seed, "" of none."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def values_of(reports: Reports, system: str, metric: str) -> list[float]:
    """Returns a metric of a system, one a seed; "attainable" is the oracle, of demo shops only."""
    entries = (
        report.get("attainable", {}) if system == "attainable" else report["models"][system]["metrics"]
        for report in reports.values()
    )
    return [entry[metric]["mean"] for entry in entries if metric in entry]


def quality_rows(reports: Reports) -> list[list[str]]:
    """Returns a row a system: each metric of every seed, then its mean."""
    rows = []
    for system in (*_systems(reports), "attainable"):
        values = [values_of(reports, system, metric) for metric in METRICS]
        if values[0]:
            rows.append([system, *(cell for v in values for cell in (*(f"{x:.4f}" for x in v), mean_of(v)))])
    return rows


def difference_rows(reports: Reports) -> list[list[str]]:
    """Returns a row a comparison: the difference and its interval of every seed, the mean, how many are above 0."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for report in reports.values():
        for one in report["comparisons"]:
            found.setdefault((one["a"], one["b"], one["metric"]), []).append(one)
    rows = []
    for (a, b, metric), ones in found.items():
        cells = [f"{one['difference']:+.4f} [{one['ci95'][0]:+.4f}, {one['ci95'][1]:+.4f}]" for one in ones]
        above = sum(one["ci95"][0] > 0 for one in ones)
        mean = statistics.fmean(one["difference"] for one in ones)
        rows.append([f"{a} - {b}, {metric}", *cells, f"{mean:+.4f}", f"{above} of {len(ones)}"])
    return rows


def fact_rows(reports: Reports) -> list[list[str]]:
    """Returns a row a fact, one cell a seed: how large the test was, the share of the attainable, how long it took."""
    facts: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "test queries": lambda report: f"{report['protocol']['queries']:,}",
        "test shoppers": lambda report: f"{report['protocol']['shoppers']:,}",
        "minutes of training": lambda report: f"{training_seconds(report) / 60:.1f}",
    }
    if all("attainable" in report for report in reports.values()):
        facts["share of the attainable ndcg@10"] = lambda report: f"{report['attainable']['share']:.1%}"
    return [[name, *(fact(report) for report in reports.values())] for name, fact in facts.items()]


def training_seconds(report: Mapping[str, Any]) -> float:
    """Returns how long towers and reranker trained, without encoding, export and evaluation; fine-tuning counts."""
    return sum(
        seconds for stage, seconds in report["timings"].items() if stage.startswith(("train", "finetune", "refit"))
    )


def beaten_by(reports: Reports, system: str, metric: str) -> list[str]:
    """Returns the baselines whose mean over seeds the system's mean is not above."""
    own = statistics.fmean(values_of(reports, system, metric))
    means = {name: statistics.fmean(values_of(reports, name, metric)) for name in _baselines(reports)}
    return [f"{name} ({mean:.4f})" for name, mean in means.items() if not own > mean]


def verdicts(reports: Reports) -> list[str]:
    """Returns a sentence for each of our systems and each metric: whether its mean is above every baseline's."""
    lines = []
    for system in (OURS, RETRIEVAL):
        for metric in METRICS:
            others = beaten_by(reports, system, metric)
            said = f"NOT above {', '.join(others)}" if others else "above every baseline"
            lines.append(f"{system}, mean {metric} {mean_of(values_of(reports, system, metric))}: {said}")
    return lines


def _systems(reports: Reports) -> list[str]:
    return list(next(iter(reports.values()))["models"])


def _baselines(reports: Reports) -> list[str]:
    return [name for name in _systems(reports) if name not in (OURS, RETRIEVAL)]


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False) -> None:
    """Prints a table of text; `markdown` for a page, otherwise for a terminal."""
    if not markdown:
        show_values(title, columns, rows)
        return
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    say(f"{title}\n\n{table}\n")


def say(text: str) -> None:
    """Prints a line as it stands."""
    console().print(text, markup=False, soft_wrap=True)


def show(reports: Reports, flags: Sequence[str], *, markdown: bool = False) -> None:
    """Prints the figures, the differences, and the verdict."""
    seeds = [f"seed {seed}" for seed in reports]
    columns = ["system", *(f"{metric}, {name}" for metric in METRICS for name in (*seeds, "mean"))]
    first = next(iter(reports.values()))
    title = f"{first['dataset']['name']}, {len(seeds)} seed(s): python train.py {shlex.join(flags)} --seed S"
    show_table(title, columns, quality_rows(reports), markdown=markdown)
    note = "Paired differences over shoppers with 95% bootstrap intervals, within each seed"
    show_table(note, ["a - b", *seeds, "mean", "interval above 0"], difference_rows(reports), markdown=markdown)
    show_table("Runs", ["", *seeds], fact_rows(reports), markdown=markdown)
    drawn = ["The demo's data is drawn from the seed: each seed is another shop, for the baselines too."]
    for line in [*verdicts(reports), *(drawn if first["configuration"]["source"] == "demo" else [])]:
        say(f"- {line}" if markdown else line)


def main(argv: Optional[Sequence[str]] = None) -> dict[int, dict[str, Any]]:
    """Prints the tables; returns the reports."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs' reports are kept")
    made.add_argument("--saved_models", type=Path, help="where the models are kept; they are not where left out")
    made.add_argument("--anew", action="store_true", help="train seeds again whose report is there")
    made.add_argument("--markdown", action="store_true", help="tables to paste into a page")
    ours, flags = split_flags(sys.argv[1:] if argv is None else argv)
    options = made.parse_args(ours)
    start_log()
    reports = series(
        list(dict.fromkeys(options.seeds)),
        flags,
        runs=options.runs,
        saved_models=options.saved_models,
        anew=options.anew,
    )
    show(reports, flags, markdown=options.markdown)
    return reports


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is running and what is scratch go too
    main()
