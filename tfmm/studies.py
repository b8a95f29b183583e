"""A system's settings -> the best of a number of trials, kept on disk. The one owner of optuna."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

import numpy as np

from tfmm.progress import counter
from tfmm.zoo import spaces
from tfmm.zoo.spaces import Space

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger(__name__)
_RANDOM = 5  # trials before those that learn from the earlier ones; TPE's own default of 10 is half of our budget
_ATTEMPTS = 2  # times that one trial may end the process before it counts as failed


class Tunable(NamedTuple):
    """A system: its default settings, what may become of them, and what trains it.

    Attributes:
        name: of the system.
        config: default settings.
        space: what they may be.
        train: settings -> NDCG@10 on validation, and what validation chose inside the training.
    """

    name: str
    config: Any
    space: Space
    train: Callable[[Any], tuple[float, Mapping[str, Any]]]


class Study(NamedTuple):
    """What came of a system's trials.

    Attributes:
        settings: of the best trial: dotted name -> value.
        default: validation NDCG@10 of the default settings; NaN where their trial failed.
        best: that of the best trial.
        trials: how many there were, with those that failed.
        failed: how many of them had no result.
        seconds: that all took.
    """

    settings: Mapping[str, Any]
    default: float
    best: float
    trials: int
    failed: int
    seconds: float


def search(
    system: Tunable,
    directory: Path,
    *,
    trials: int,
    minutes: Optional[float] = None,
    identity: Mapping[str, Any],
    seed: int,
) -> Optional[Study]:
    """Returns the best of a system's trials, those of an earlier call counted; None where all of them failed.

    The first is the default, so that the best is never worse on validation. The others are drawn by a tree-structured
    Parzen estimator (Bergstra et al. 2011), each with a seed of its own: a study that was stopped and goes on is the
    one that would have been.

    Args:
        system: what is tuned.
        directory: where the trials are kept.
        trials: how many, with those of earlier calls.
        minutes: after so many no further trial begins.
        identity: what else a result depends on: trials that have another are not taken for these.
        seed: of what is drawn.
    """
    defaults = spaces.dotted(system.config)
    space = {name: knob.including(defaults[name]) for name, knob in system.space.items()}
    study = _open(system, space, directory, identity)
    done = len(_finished(study))
    if done:
        _log.info("%s: going on after %d trials that are kept in %s", system.name, done, directory)
    with counter(f"tuning {system.name}", total=max(0, trials - done)) as advance:
        for number in range(done, trials):
            if minutes and number and _seconds(study) > 60 * minutes:
                _log.info("%s: stopped after %d trials and %g minutes", system.name, number, minutes)
                break
            _try_default(study, system, space) if number == 0 else _try(study, system, space, seed, number)
            _say(study, system.name, trials)
            advance(1)
    return _summary(study, space)


def _open(system: Tunable, space: Space, directory: Path, identity: Mapping[str, Any]) -> optuna.Study:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts = {**identity, "space": {name: str(knob) for name, knob in space.items()}}
    mark = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]
    directory.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(directory / f"{system.name}-{mark}.log")))
    return optuna.create_study(storage=storage, study_name=system.name, direction="maximize", load_if_exists=True)


def _distributions(space: Space) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    def one(knob: Union[spaces.Range, spaces.Choice]) -> Any:
        if isinstance(knob, spaces.Choice):
            return CategoricalDistribution(knob.options)
        return FloatDistribution(knob.low, knob.high, log=knob.log)

    return {name: one(knob) for name, knob in space.items()}


def _try_default(study: optuna.Study, system: Tunable, space: Space) -> None:
    """Adds the default as a trial: at what validation chose, where a setting is several values to choose from."""
    import optuna

    started, defaults = time.monotonic(), spaces.dotted(system.config)
    told: Mapping[str, Any] = {}
    try:
        value, told = _finite(*system.train(system.config))
        state, said = optuna.trial.TrialState.COMPLETE, {}
    except Exception as error:
        value, state, said = None, optuna.trial.TrialState.FAIL, _reported(system.name, 0, error)
    params = {name: _single(defaults[name], knob, told) for name, knob in space.items()}
    attributes = {**said, "seconds": time.monotonic() - started}
    made = optuna.trial.create_trial(
        params=params, distributions=_distributions(space), value=value, state=state, user_attrs=attributes
    )
    study.add_trial(made)


def _single(default: Any, knob: Union[spaces.Range, spaces.Choice], told: Mapping[str, Any]) -> Any:
    if isinstance(knob, spaces.Range) and knob.told:
        return told.get(knob.told, default[0])
    return default


def _try(study: optuna.Study, system: Tunable, space: Space, seed: int, number: int) -> None:
    import optuna

    mixed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=mixed, n_startup_trials=_RANDOM, constant_liar=False)
    trial, started = study.ask(_distributions(space)), time.monotonic()
    try:
        earlier = [one for one in study.trials[: trial.number] if one.state == optuna.trial.TrialState.RUNNING]
        if sum(one.params == trial.params for one in earlier) >= _ATTEMPTS:
            raise MemoryError(f"the process ended {_ATTEMPTS} times in the middle of it")
        settings = {name: knob.setting(trial.params[name]) for name, knob in space.items()}
        value, _ = _finite(*system.train(spaces.replaced(system.config, settings)))
        state = optuna.trial.TrialState.COMPLETE
    except Exception as error:
        value, state = None, optuna.trial.TrialState.FAIL
        trial.set_user_attr("error", _reported(system.name, number, error)["error"])
    trial.set_user_attr("seconds", time.monotonic() - started)
    study.tell(trial, value, state=state)


def _finite(value: float, told: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite validation ndcg@10, got {value}.")
    return float(value), told


def _reported(name: str, number: int, error: Exception) -> dict[str, str]:
    said = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    _log.warning("%s: trial %d failed: %s", name, number + 1, said)
    _log.debug("where it happened", exc_info=True)
    return {"error": said}


def _finished(study: optuna.Study) -> list[Any]:
    """Returns the trials that ended; one whose process was stopped is none."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def _seconds(study: optuna.Study) -> float:
    return float(sum(trial.user_attrs["seconds"] for trial in _finished(study)))


def _say(study: optuna.Study, name: str, trials: int) -> None:
    ended = _finished(study)
    values = [trial.value for trial in ended if trial.value is not None]
    now = "failed" if ended[-1].value is None else f"{ended[-1].value:.4f}"
    best = f"{max(values):.4f}" if values else "none"
    _log.info("%s: trial %d of %d: validation ndcg@10 %s, best %s", name, len(ended), trials, now, best)


def _summary(study: optuna.Study, space: Space) -> Optional[Study]:
    ended = _finished(study)
    right = [trial for trial in ended if trial.value is not None]
    if not right:
        return None
    best = max(right, key=lambda trial: trial.value)
    # What was drawn is longer than what it was rounded to; the default stays what it is.
    settings = {
        name: best.params[name]
        if best is ended[0] and not getattr(knob, "told", "")
        else knob.setting(best.params[name])
        for name, knob in space.items()
    }
    default = math.nan if ended[0].value is None else ended[0].value
    return Study(settings, default, best.value, len(ended), len(ended) - len(right), _seconds(study))
