"""The field's systems on a shop's data: trained, measured by the report's code, and put beside a run's own figures."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from tfmm import evaluation, measuring, stages, standings, zoo
from tfmm.config import Config, parse_with
from tfmm.features import ID
from tfmm.results import OURS
from tfmm.stages import Shop
from tfmm.standings import PRIMARY, SAME, Finished, Trained
from tfmm.train import MODEL
from tfmm.writing import write_text
from tfmm.zoo.fitted import validation_ndcg
from tfmm.zoo.tuned import Tuned, read_tuned

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Which systems; all settings of train.py say on what data.

    Attributes:
        systems: of the zoo, separated by commas; "all" is every one.
        version: of the run's model; by default the newest.
        tuned: a file of `tfmm tune`: systems that have a block in it are trained with the settings there.
    """

    systems: str = "all"
    version: Optional[int] = None
    tuned: Optional[Path] = None

    def __post_init__(self) -> None:
        zoo.chosen(self.systems)


def parse(argv: Sequence[str]) -> tuple[Config, CompareOptions]:
    """Returns the settings: those of the run that `--run` names, if it names one that is there, then the flags."""
    config, options = parse_with(CompareOptions, argv, prog="tfmm compare")
    if config.run is None:
        return config, options
    directory = run_directory(config)
    if not (directory / "run.json").is_file():
        if len(Path(config.run).parts) > 1:
            raise FileNotFoundError(f"Expected a run in {directory}, found no run.json there.")
        return config, options
    settings = {**measuring.read_json(directory / "run.json")["configuration"], "run": config.run}
    return parse_with(CompareOptions, ["--config", json.dumps(settings), *argv], prog="tfmm compare")


def run_directory(config: Config, default: str = "") -> Path:
    """Returns where a run stands, named by its path or by its name below `--runs`."""
    named = Path(config.run or default)
    return named if (named / "run.json").is_file() or len(named.parts) > 1 else config.runs / named


def compare(config: Config, options: CompareOptions) -> tuple[dict[str, Any], list[Path]]:
    """Returns the comparison, and the files that hold it: `compare.json`, and the run's report if there is a run.

    Every system learns from the events before the validation period; validation chooses its epochs and settings; the
    test chooses nothing. The file is written after each system, so that `--resume` goes on after the last.

    Raises:
        ValueError: the data has no shoppers, the run in that place was made on other data or another split, or the
            file of tuned settings is none.
    """
    tuned = open_tuned(options)
    stages.set_seed(config.seed)
    dataset = stages.load(config)
    mark = dataset.fingerprint()
    directory = run_directory(config, f"{dataset.name}-{mark[:8]}-seed{config.seed}")
    finished = _check_run(config, directory, mark)
    if tuned is not None:
        tuned.refuse_other_splits(mark[:8], config.to_dict()["splits"])
    if not len(dataset.interactions):
        raise ValueError(f"Expected interactions to compare recommenders on, got none in {dataset.name!r}.")
    shop = stages.open_shop(
        config, stages.open_catalogue(config, dataset, config.records / f"{dataset.name}-{mark[:8]}")
    )
    run = None
    if finished:
        shop = stages.finetuned(config, shop, directory=directory)
        run = open_run(config, options, shop, directory)
    found = _all(config, options, shop, run, tuned, path=directory / "compare.json")
    paths = [directory / "compare.json"]
    if run is not None:
        paths += standings.add_to_report(config, shop, run, found)
    return found, paths


def _all(
    config: Config, options: CompareOptions, shop: Shop, run: Optional[Finished], tuned: Optional[Tuned], *, path: Path
) -> dict[str, Any]:
    """Returns the comparison of all systems, which `path` holds as far as it has come."""
    data = zoo.data_of(config, shop)
    others = besides_baselines(options, data)
    trained = fit_all(zoo.BASELINES, data, tuned)
    against = standings.reference_of(config, shop, trained, run)
    found = standings.joined(path, standings.measure(config, shop, trained, against))
    _write(path, found)
    done = [name for name, entry in found["systems"].items() if entry.get("tuned") == _tuned_of(name, tuned)]
    for number, name in enumerate(others, start=1):
        if config.resume and name in done:
            continue
        _log.info("[%d/%d] %s", number, len(others), name)
        found = standings.merged(found, standings.measure(config, shop, fit_all([name], data, tuned), against))
        _write(path, found)
    return found


ELSEWHERE = ("run", "runs", "saved_models", "records", "resume")
"""Settings that change no figure."""


def _check_run(config: Config, directory: Path, fingerprint: str) -> bool:
    """Returns whether a run stands finished there; of one that was not named, all settings must be these."""
    if not (directory / "run.json").is_file():
        return False
    said = measuring.read_json(directory / "run.json")
    if said["data"] != fingerprint:
        raise ValueError(
            f"Expected the run in {directory} to have this data ({fingerprint[:8]}), got other data "
            f"({said['data'][:8]}): leave out the flags that differ, or give --run another name."
        )
    settings, before = json.loads(json.dumps(config.to_dict(), default=str)), said["configuration"]
    checked = set(settings) - set(ELSEWHERE) if config.run is None else {"splits"}
    other = sorted(name for name in checked if settings[name] != before.get(name))
    if other:
        raise ValueError(
            f"Expected the run in {directory} to have the same settings, got other values of {', '.join(other)}: name "
            f"it (--run {directory}) to take its settings, or give --run another name."
        )
    path = directory / "report.json"
    return path.is_file() and OURS in measuring.read_json(path)["models"]


def open_run(config: Config, options: CompareOptions, shop: Shop, directory: Path) -> Finished:
    """Returns what a finished run recommends.

    Raises:
        ValueError: the exported version is not the one that the run's report measured.
    """
    version = measuring.find_version(config.saved_models / MODEL, options.version)
    measuring.check_catalogue(version, shop)
    queries = shop.parts.test
    lists = evaluation.exported_lists(
        version,
        shop.wire(queries),
        shop.dataset.items.ids,
        signature="recommend",
        batch_size=config.evaluation.batch_size,
    )
    here = evaluation.mean_ndcg(lists, queries)
    there = measuring.read_json(directory / "report.json")["models"][OURS]["metrics"][PRIMARY]["mean"]
    if abs(here - there) > SAME:
        raise ValueError(
            f"Expected {version} to have the {PRIMARY} of {directory}'s report ({there:.4f}), got {here:.4f}: name "
            f"the run's own --version, or measure it again with tfmm evaluate."
        )
    items = stages.features_of(config, shop).with_ids(~shop.parts.cold_items(len(shop.table)))
    vectors = measuring.exported_retriever(config, shop, items, version).corpus_vectors().numpy()
    return Finished(directory, version, lists, vectors)


def open_tuned(options: CompareOptions) -> Optional[Tuned]:
    """Returns the file of tuned settings, if one is named, after every block of the zoo was found to fit its system."""
    if options.tuned is None:
        return None
    return read_tuned(options.tuned, {name: system.config for name, system in zoo.SYSTEMS.items()})


def besides_baselines(options: CompareOptions, data: zoo.Data) -> list[str]:
    """Returns the systems that are wanted besides the report's baselines, which always are.

    Of "all", those that need content are left out where there is none, and those of other packages where these are
    absent.
    """
    names = zoo.chosen(options.systems)
    names = possible(names, data) if names == list(zoo.SYSTEMS) else names
    return [name for name in names if name not in zoo.BASELINES]


def fit_all(names: Sequence[str], data: zoo.Data, tuned: Optional[Tuned] = None) -> dict[str, Trained]:
    """Returns the systems, trained with the settings of their blocks in `tuned`, or else the default ones."""
    trained = {}
    for name in names:
        said, config = _tuned_of(name, tuned), zoo.SYSTEMS[name].config
        if said:
            _log.info("%s is tuned: %s", name, said["file"])
        started = time.monotonic()
        fitted = zoo.SYSTEMS[name].fit(data, tuned.config(name, config) if tuned else config)
        trained[name] = Trained(fitted, time.monotonic() - started, validation_ndcg(fitted, data), said)
    return trained


def possible(names: Sequence[str], data: zoo.Data) -> list[str]:
    """Returns the systems that can be trained here: whose packages are installed, and whose content is there."""
    missing = [name for name in names if not zoo.installed(zoo.SYSTEMS[name].package)]
    if missing:
        _log.warning("Left out %s, whose packages are absent: pip install 'tfmm[bench]'", ", ".join(missing))
    found = [name for name in names if name not in missing]
    if not set(data.items.modalities) - {ID}:
        found = [name for name in found if not zoo.SYSTEMS[name].content]
        _log.warning("The products have no content: systems that need some are left out.")
    return found


def _tuned_of(name: str, tuned: Optional[Tuned]) -> Optional[dict[str, Any]]:
    """Returns what `compare.json` says of a system's tuned settings; None where they are the default."""
    if tuned is None or name not in tuned.systems:
        return None
    return {"file": str(tuned.path), "dataset": tuned.dataset, "settings": dict(tuned.systems[name]["settings"])}


def _write(path: Path, found: Mapping[str, Any]) -> Path:
    return write_text(path, json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
