"""What a comparison of systems says: figures beside a reference, kept in `compare.json` and in a run's report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from tfmm import evaluation, gallery, measuring, results, zoo
from tfmm.config import Config
from tfmm.evaluation import Lists
from tfmm.report import write_report
from tfmm.results import OURS
from tfmm.stages import Shop

PRIMARY = "ndcg@10"
SAME = 1e-3
"""ndcg@10 by which two measurements of one model may differ: sums of floats depend on threads."""


class Finished(NamedTuple):
    """A run that systems are compared with.

    Attributes:
        directory: of its report.
        version: of its model.
        lists: what it recommends to the test queries.
        vectors: `[num_items, dim]` of its items.
    """

    directory: Path
    version: Path
    lists: Lists
    vectors: np.ndarray


class Reference(NamedTuple):
    """What every system is compared with.

    Attributes:
        name: of the run's model, or of a baseline.
        lists: what it recommends to the test queries.
        vectors: `[num_items, dim]` of a run's items, None without a run.
        entry: of the run's model in `compare.json`; empty of a baseline, which is measured as a system.
    """

    name: str
    lists: Lists
    vectors: Optional[np.ndarray]
    entry: Mapping[str, Any]


class Trained(NamedTuple):
    """A system, how many seconds its training took, its NDCG@10 on validation, and tuned settings if it has some."""

    fitted: zoo.Fitted
    seconds: float
    validation: float
    tuned: Optional[Mapping[str, Any]] = None


def reference_of(config: Config, shop: Shop, baselines: Mapping[str, Trained], run: Optional[Finished]) -> Reference:
    """Returns the run's retrieval+reranker, or else the baseline that is best on validation."""
    if run is not None:
        return Reference(OURS, run.lists, run.vectors, _summaries(config, shop, {OURS: run.lists}, run.vectors)[OURS])
    best = max(baselines, key=lambda name: baselines[name].validation)
    lists = zoo.recommend(baselines[best].fitted, shop.parts.test, shop.table.launched)
    return Reference(best, lists, None, {})


def _summaries(
    config: Config, shop: Shop, lists: Mapping[str, Lists], vectors: Optional[np.ndarray]
) -> dict[str, dict[str, Any]]:
    queries, count = shop.parts.test, len(shop.table)
    parts = evaluation.slices(queries, shop.parts.refit, num_items=count, tail_share=config.evaluation.tail_share)
    popularity = np.bincount(shop.parts.refit.item, minlength=count).astype(np.float32)
    return {
        name: evaluation.summary(found, queries, parts, vectors=vectors, popularity=popularity)
        for name, found in lists.items()
    }


def measure(config: Config, shop: Shop, trained: Mapping[str, Trained], against: Reference) -> dict[str, Any]:
    """Returns `compare.json` as a value: these systems on the test queries, and against the reference."""
    queries = shop.parts.test
    lists = {name: zoo.recommend(system.fitted, queries, shop.table.launched) for name, system in trained.items()}
    entries = _summaries(config, shop, lists, against.vectors)
    for name, system in trained.items():
        said = {"settings": dict(system.fitted.settings), "curves": dict(system.fitted.curves)}
        entries[name].update(said, seconds=system.seconds, validation={PRIMARY: system.validation})
        if system.tuned:
            entries[name].update(tuned=system.tuned, settings={**system.tuned["settings"], **system.fitted.settings})
    if against.entry:
        entries[against.name] = dict(against.entry)
    return {
        "dataset": results.describe(shop),
        "protocol": results.protocol_of(shop),
        "seed": config.seed,
        "reference": against.name,
        "systems": entries,
        "comparisons": [
            evaluation.compare(found, against.lists, queries, names=(name, against.name))
            for name, found in lists.items()
            if name != against.name
        ],
    }


def joined(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Returns the comparison with the systems that were compared before with the same reference, on the same test."""
    if not path.is_file():
        return found
    before, reference = measuring.read_json(path), found["reference"]
    same = all(before[part] == found[part] for part in ("dataset", "protocol", "seed", "reference"))
    if not same or abs(_mean(before, reference) - _mean(found, reference)) > SAME:
        return found
    return merged(before, found)


def merged(before: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a comparison with the systems of another one, whose figures go before its own."""
    earlier = [row for row in before["comparisons"] if row["a"] not in found["systems"]]
    systems = {**before["systems"], **found["systems"]}
    return {**found, "systems": systems, "comparisons": earlier + found["comparisons"]}


def _mean(found: Mapping[str, Any], name: str) -> float:
    mean: float = found["systems"][name]["metrics"][PRIMARY]["mean"]
    return mean


def add_to_report(config: Config, shop: Shop, run: Finished, found: Mapping[str, Any]) -> list[Path]:
    """Returns the run's report and page, rewritten with the systems that it did not have.

    They join its tables and comparisons. They stay out of its plots, which can tell eight systems apart. `tfmm
    evaluate` writes the report without them.
    """
    report = dict(measuring.read_json(run.directory / "report.json"))
    added = [name for name in found["systems"] if name not in (OURS, *zoo.BASELINES)]
    kept = ("metrics", "settings")
    models = {name: {part: found["systems"][name][part] for part in kept} for name in added}
    report["models"] = {**report["models"], **models}
    before = [row for row in report.get("comparisons", []) if row["b"] not in added]
    report["comparisons"] = before + [_turned(row) for row in found["comparisons"] if row["a"] in added]
    took = {f"compare {name}": found["systems"][name]["seconds"] for name in added}
    report["timings"] = {**report["timings"], **took}
    again = _commands(run, {name: found["systems"][name] for name in added})
    report["reproduce"] = [command for command in report.get("reproduce", []) if command not in again] + again
    return list(write_report(report, run.directory, gallery=gallery.of_shoppers(config, shop, run.version, run.lists)))


def _commands(run: Finished, systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns what trains these systems again: a command for each file of tuned settings, and one for all others."""
    files: dict[str, list[str]] = {}
    for name, entry in systems.items():
        flag = f" --tuned {entry['tuned']['file']}" if "tuned" in entry else ""
        files.setdefault(flag, []).append(name)
    return [
        f"tfmm compare --run {run.directory} --systems {','.join(names)} --version {run.version.name}{flag}"
        for flag, names in files.items()
    ]


def _turned(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a comparison as seen by the other system."""
    low, high = row["ci95"]
    other = {"a": row["b"], "b": row["a"], "difference": -row["difference"], "ci95": [-high, -low]}
    return {**row, **other}
