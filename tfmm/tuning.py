"""Each system's best settings by validation, found within the same number of trainings."""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from tfmm import comparing, stages, zoo
from tfmm.arguments import did_you_mean
from tfmm.config import Config, parse_with
from tfmm.stages import Shop
from tfmm.studies import Study, Tunable, search
from tfmm.zoo import spaces
from tfmm.zoo.fitted import validation_ndcg
from tfmm.zoo.spaces import SPACES, TOWERS, TOWERS_SPACE
from tfmm.zoo.tuned import Tuned, read_tuned, write_tuned

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TuneOptions:
    """What is tuned, and for how long; all settings of train.py say on what data.

    Attributes:
        systems: of the zoo, and "towers" (our retriever alone), separated by commas; "all" is every one that has
            settings which validation does not choose anyway.
        trials: trainings of each system, the first at its default settings.
        minutes: after so many no further trial of a system begins; by default none is given up.
        out: folder for the file of best settings, `<data set>.yaml`; blocks of other systems in it stay.
    """

    systems: str = "all"
    trials: int = 20
    minutes: Optional[float] = None
    out: Path = Path("tuned")

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"Expected at least one trial, got --trials {self.trials}.")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"Expected --minutes above 0, got {self.minutes}.")
        chosen(self.systems)


def parse(argv: Sequence[str]) -> tuple[Config, TuneOptions]:
    """Returns the settings of a command line.

    Raises:
        ValueError: optuna is absent.
    """
    config, options = parse_with(TuneOptions, argv, prog="tfmm tune")
    if not zoo.installed("optuna"):
        raise ValueError("Expected the package 'optuna', which tunes, found none: pip install 'tfmm[bench]'")
    return config, options


def chosen(names: str) -> list[str]:
    """Returns the systems of a comma-separated list that have something to tune, in the order of the table.

    Raises:
        ValueError: one is unknown, or its package is absent; or all of them are closed forms.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in (*zoo.SYSTEMS, TOWERS, "all"):
            expected = f"all, {', '.join(zoo.SYSTEMS)}, {TOWERS}"
            hint = did_you_mean(name, [*zoo.SYSTEMS, TOWERS])
            raise ValueError(f"Expected systems of {expected}, got {name!r}.{hint}")
    theirs = [name for name in wanted if name != TOWERS]
    known = zoo.chosen(",".join(theirs)) if theirs or not wanted else []
    found = [name for name in known if name in SPACES] + [TOWERS] * bool({TOWERS, "all"} & set(wanted))
    if not found:
        raise ValueError(
            f"Expected a system with settings to tune, got {names!r}: of closed forms validation tries the whole grid "
            f"in every training. These can be tuned: {', '.join([*SPACES, TOWERS])}."
        )
    return found


def tune(config: Config, options: TuneOptions) -> tuple[dict[str, Any], list[Path]]:
    """Returns what was found for each system, and the files that hold it.

    Every system gets the same number of trials, the first at its default settings. Validation alone is asked: the test
    is taken away before anything is trained. Trials are kept in `<runs>/tune-<data set>/`, so that work that was
    stopped goes on where it was.

    Raises:
        ValueError: the data has no shoppers, the file in that place is of other data, or no trial succeeded.
    """
    dataset = stages.load(config)
    if not len(dataset.interactions):
        raise ValueError(f"Expected interactions to tune recommenders on, got none in {dataset.name!r}.")
    mark, path = dataset.fingerprint(), options.out / f"{dataset.name}.yaml"
    kept = _kept(path, dataset.name, mark, config)
    known = stages.open_catalogue(config, dataset, config.records / f"{dataset.name}-{mark[:8]}")
    shop = blind(stages.open_shop(config, known))
    directory = config.runs / (config.run or f"tune-{dataset.name}")
    studies: dict[str, Study] = {}
    paths: list[Path] = []
    for system in tunables(config, options, shop, directory):
        identity = {"data": mark, "config": _telling(config), "default": _telling(system.config)}
        study = search(
            system,
            directory,
            trials=options.trials,
            minutes=options.minutes,
            identity=identity,
            seed=config.seed,
        )
        if study is not None:
            studies[system.name] = study
            kept = dataclasses.replace(kept, systems={**kept.systems, system.name: _block(study)})
            paths = write_tuned(kept)  # at once: what is stopped later has this
    if not studies:
        raise ValueError("Expected a trial with a result, got none of any system: the log above says why each failed.")
    return {"dataset": dataset.name, "queries": len(shop.parts.validation.sample()), "systems": studies}, paths


def blind(shop: Shop) -> Shop:
    """Returns the shop without its test queries."""
    nothing = shop.parts.validation.take(np.arange(0))
    return dataclasses.replace(shop, parts=dataclasses.replace(shop.parts, test=nothing))


def tunables(config: Config, options: TuneOptions, shop: Shop, directory: Path) -> list[Tunable]:
    """Returns the systems of the command line, ready to be trained on the shop."""
    names = chosen(options.systems)
    data = zoo.data_of(config, shop)
    ours = [name for name in names if name == TOWERS]
    theirs = [name for name in names if name != TOWERS]
    asked = {name.strip() for name in options.systems.split(",")}
    if "all" in asked:
        theirs = comparing.possible(theirs, data)
    grids = [name for name in zoo.SYSTEMS if name not in SPACES and {name, "all"} & asked]
    if grids:
        _log.info("Left out %s: in every training, validation tries the whole of their grid.", ", ".join(grids))

    def fit(name: str) -> Callable[[Any], tuple[float, Mapping[str, Any]]]:
        return lambda settings: _fit(zoo.SYSTEMS[name], data, settings)

    found = [Tunable(name, zoo.SYSTEMS[name].config, SPACES[name], fit(name)) for name in theirs]
    return found + [_towers(config, shop, directory / name) for name in ours]


def _fit(system: zoo.System, data: zoo.Data, settings: Any) -> tuple[float, Mapping[str, Any]]:
    gc.collect()  # of the trial before: networks refer to themselves, and hold tables of the whole catalogue
    fitted = system.fit(data, settings)
    if not np.isfinite(fitted.scores(data.validation.take(np.arange(1)))).all():
        raise ValueError("expected finite scores, got others: the training diverged.")
    return validation_ndcg(fitted, data), fitted.settings


def _towers(config: Config, shop: Shop, directory: Path) -> Tunable:
    """Returns our retriever, trained as `train.py` does before the reranker: on the retriever's own period."""
    items = stages.features_of(config, shop)

    def train(settings: Config) -> tuple[float, Mapping[str, Any]]:
        gc.collect()  # see `_fit`
        stages.set_seed(config.seed)
        _, curves = stages.train_towers(settings, shop, items, directory=directory)
        if not math.isfinite(curves["loss"][-1]):
            raise ValueError(f"expected a finite loss, got {curves['loss'][-1]}: the training diverged.")
        return max(curves["validation ndcg@10"]), {}

    return Tunable(TOWERS, dataclasses.replace(config, resume=False), TOWERS_SPACE, train)


def _block(study: Study) -> dict[str, Any]:
    """Returns a study as the file has it."""
    validation = {
        "default": None if math.isnan(study.default) else round(study.default, 5),
        "best": round(study.best, 5),
    }
    counts = {"trials": study.trials, "failed": study.failed, "seconds": round(study.seconds)}
    return {"settings": dict(study.settings), "validation": validation, **counts}


def _telling(config: Any) -> dict[str, Any]:
    """Returns the settings that a result may depend on."""
    return {name: value for name, value in spaces.dotted(config).items() if name not in comparing.ELSEWHERE}


def _kept(path: Path, dataset: str, mark: str, config: Config) -> Tuned:
    """Returns the file as it is, or an empty one; refuses one of other data or another split."""
    splits = config.to_dict()["splits"]
    empty = Tuned(path, dataset, mark[:8], splits, {})
    if not path.is_file():
        return empty
    found = read_tuned(path, {name: system.config for name, system in zoo.SYSTEMS.items()})
    if (found.data, found.splits) != (empty.data, empty.splits):
        raise ValueError(
            f"Expected {path} to hold settings for this data ({mark[:8]}) and split, got others ({found.data}): give "
            f"--out another folder, or move that file away."
        )
    return found
