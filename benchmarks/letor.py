"""Our ranker of example lists against LightGBM's lambdarank, TF-Ranking's losses side by side, and what clicks teach.

    python -m benchmarks.letor rotations -- --source letor --data_dir mq2007-agg
    python -m benchmarks.letor losses -- --source letor --data_dir mq2007-agg
    python -m benchmarks.letor clicks -- --source letor --data_dir mq2007-agg

What stands after `--` goes where train.py's flags go. `--tests A1 A4` takes some of the rotations. What one rotation
found stands in `--work` and is not computed again with the same settings. Queries without a relevant document count 0;
the other convention, which leaves them out, is printed below the first table.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import start_log
from benchmarks.seeds import say, settings, show_table, split_flags
from tfmm import clicks, confidence, judging, ranking, reranking, train, trees
from tfmm.config import Config, parse
from tfmm.judging import CUTS, Values
from tfmm.ragged import Ragged
from tfmm.ranker import LISTWISE, MIXTURE, TREES
from tfmm.sources import letor
from tfmm.sources.judged import JudgedLists, JudgedParts

_log = logging.getLogger("benchmarks.letor")
LOSSES = tuple(reranking.loss_names())
NAIVE, UNBIASED, JUDGED = "clicks as they came", "clicks by inverse propensity", "true labels"
SHOWN = "the order that was shown"
_VALIDATION = "validation"


@dataclasses.dataclass(frozen=True)
class Found:
    """What one rotation found.

    Attributes:
        values: system -> metric -> one value a test query, NaN where nothing is relevant.
        validation: system -> NDCG@10.
    """

    values: dict[str, Values]
    validation: dict[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables of one kind."""
    ours, flags = split_flags(sys.argv[1:] if argv is None else argv)
    options = _options(ours)
    start_log()
    config = parse(flags)
    tests = options.tests or list(letor.rotations(config.data_dir or Path()))
    {"rotations": _rotations, "losses": _losses, "clicks": _clicks}[options.kind](options, config, tests, flags)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.letor", description=__doc__)
    parser.add_argument("kind", choices=("rotations", "losses", "clicks"))
    parser.add_argument("--tests", nargs="+", help="parts that are the test, one rotation each; by default all")
    parser.add_argument("--losses", nargs="+", default=list(LOSSES))
    parser.add_argument("--eta", type=float, default=1.0, help="place p is looked at with probability p ** -eta")
    parser.add_argument("--sessions", type=int, default=200, help="times that each training query is asked")
    parser.add_argument("--shown_by", choices=("best", "median", "weakest"), default="weakest", help="of the features")
    parser.add_argument("--swapped", type=float, default=0.3, help="share of these in which two places are swapped")
    parser.add_argument("--work", type=Path, default=Path("runs") / "benchmark-letor")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(argv)


# --- Ours against LightGBM -------------------------------------------------------------------------------------------


def _rotations(options: argparse.Namespace, config: Config, tests: Sequence[str], flags: Sequence[str]) -> None:
    found = [
        _kept(options, config, test, "rotation", lambda one, name: _rotation(options, one, name)) for test in tests
    ]
    values = _pooled(found)
    title = f"{_queries(values)} test queries of {', '.join(tests)}: python train.py {' '.join(flags)} --subset PART"
    columns = [f"ndcg@{k}" for k in CUTS] + ["mrr@10", "map@10"]
    rows = [[name, *(_mean(judging.with_zeros(one)[metric]) for metric in columns)] for name, one in values.items()]
    show_table(title, ["system", *columns], rows, markdown=options.markdown)
    rows = [[name, *(_mean(one[metric]) for metric in columns)] for name, one in values.items()]
    show_table("Without queries that have no relevant document", ["system", *columns], rows, markdown=options.markdown)
    pairs = [(LISTWISE, TREES), (MIXTURE, TREES), (MIXTURE, LISTWISE)]
    rows = [
        [f"{a} - {b}", *(_difference(values[a], values[b], f"ndcg@{k}") for k in CUTS)]
        for a, b in pairs
        if a in values and b in values
    ]
    note = "Paired differences over queries, 95% bootstrap intervals; in brackets the smallest that could be detected"
    show_table(note, ["a - b", *columns[: len(CUTS)]], rows, markdown=options.markdown)


def _rotation(options: argparse.Namespace, config: Config, name: str) -> Found:
    """Returns what the exported model of one rotation says."""
    config = dataclasses.replace(config, saved_models=options.work / name, runs=options.work / "runs")
    version = train.run(config, argv=[])
    parts = letor.load(config.data_dir or Path(), subset=config.subset)
    has_trees = config.letor.trees != "none" and trees.available()
    scores = ranking.score_all(version, parts, has_trees=has_trees)
    return Found({system: judging.measure(parts.test, one) for system, one in scores.items()}, {})


# --- Losses ----------------------------------------------------------------------------------------------------------


def _losses(options: argparse.Namespace, config: Config, tests: Sequence[str], flags: Sequence[str]) -> None:
    letors = {loss: dataclasses.replace(config.letor, members=1, trees="none", losses=loss) for loss in options.losses}
    rows, best = [], (-1.0, "")
    for loss, chosen in letors.items():
        one = dataclasses.replace(config, letor=chosen)
        found = [_kept(options, one, test, "loss", lambda c, name: _one_scorer(options, c, name)) for test in tests]
        values, validation = _pooled(found)[LISTWISE], float(np.mean([part.validation[LISTWISE] for part in found]))
        best = max(best, (validation, loss))
        counted = judging.with_zeros(values)
        rows.append([loss, f"{validation:.4f}", *(_mean(counted[f"ndcg@{k}"]) for k in CUTS)])
    title = f"One scorer a loss, test parts {', '.join(tests)}: {' '.join(flags)}"
    columns = ["loss", "validation ndcg@10", *(f"test ndcg@{k}" for k in CUTS)]
    show_table(title, columns, sorted(rows, key=lambda row: row[1], reverse=True), markdown=options.markdown)
    say(f"Validation chooses {best[1]}.")


@functools.cache
def _parts(data_dir: Path | None, subset: str | None) -> JudgedParts:
    return letor.load(data_dir or Path(), subset=subset)


def _one_scorer(options: argparse.Namespace, config: Config, name: str, parts: JudgedParts | None = None) -> Found:
    """Returns what one scorer in memory says, trained on `parts` (by default those that the settings name)."""
    parts = _parts(config.data_dir, config.subset) if parts is None else parts
    records = options.work / "records" / parts.fingerprint()[:16]
    ranking.write(parts, records)
    fitted = ranking.fit(config, parts, records, directory=options.work / "runs" / name)
    values = {LISTWISE: judging.measure(parts.test, ranking.in_memory(fitted.ranker, parts.test))}
    quality = judging.mean_ndcg(parts.validation, ranking.in_memory(fitted.ranker, parts.validation))
    return Found(values, {LISTWISE: quality})


# --- Clicks ----------------------------------------------------------------------------------------------------------


def _clicks(options: argparse.Namespace, config: Config, tests: Sequence[str], flags: Sequence[str]) -> None:
    config = dataclasses.replace(
        config, letor=dataclasses.replace(config.letor, members=1, trees="none", losses="softmax_loss")
    )
    kind = f"clicks-{options.eta:g}-{options.sessions}-{options.swapped:g}-{options.shown_by}"
    found = [_kept(options, config, test, kind, lambda one, name: _taught(options, one, name)) for test in tests]
    values = _pooled(found)
    rows = [[name, *(_mean(judging.with_zeros(one)[f"ndcg@{k}"]) for k in CUTS)] for name, one in values.items()]
    told = f"A place p is looked at with probability p^-{options.eta:g}; {options.sessions} sessions a training query"
    title = f"{told}; {' '.join(flags)}"
    show_table(title, ["taught by", *(f"ndcg@{k}" for k in CUTS)], rows, markdown=options.markdown)
    pairs = [(UNBIASED, NAIVE), (JUDGED, UNBIASED), (JUDGED, NAIVE)]
    rows = [[f"{a} - {b}", *(_difference(values[a], values[b], f"ndcg@{k}") for k in CUTS)] for a, b in pairs]
    show_table("Paired differences", ["a - b", *(f"ndcg@{k}" for k in CUTS)], rows, markdown=options.markdown)
    estimated = np.mean([[part.validation[f"place {place}"] for place in (1, 2, 3, 5, 10)] for part in found], axis=0)
    say(f"Estimated for places 1, 2, 3, 5, 10: {', '.join(f'{value:.2f}' for value in estimated)} of the first's.")
    say(f"Lists were shown in an order of ndcg@10 {np.mean([part.validation[SHOWN] for part in found]):.3f}.")


def _taught(options: argparse.Namespace, config: Config, name: str) -> Found:
    """Returns rankers taught by the same queries: clicks with and without their bias, and labels."""
    parts = letor.load(config.data_dir or Path(), subset=config.subset)
    shown = judging.feature_scores(parts.train, *_ordering(parts.validation, options.shown_by))
    log = simulated(parts.train, shown, options, np.random.default_rng(config.seed))
    looked = clicks.propensities(log)
    validation = {f"place {place + 1}": float(value) for place, value in enumerate(looked)}
    validation[SHOWN] = judging.mean_ndcg(parts.train, shown)
    values = {}
    for system, propensity in ((NAIVE, None), (UNBIASED, looked), (JUDGED, None)):
        lists = parts.train
        if system != JUDGED:
            labels = clicks.labels_of_clicks(log, len(lists.labels), propensity=propensity)
            lists = dataclasses.replace(lists, labels=labels)
        one = _one_scorer(
            options, config, f"{name}-{system.replace(' ', '_')}", dataclasses.replace(parts, train=lists)
        )
        values[system] = one.values[LISTWISE]
        validation[system] = one.validation[LISTWISE]
    return Found(values, validation)


def _ordering(lists: JudgedLists, which: str) -> tuple[int, int]:
    """Returns the best, the median or the weakest feature, each with the direction in which it orders better."""
    found = [
        max((judging.mean_ndcg(lists, judging.feature_scores(lists, number, sign)), number, sign) for sign in (1, -1))
        for number in range(1, lists.features.shape[1] + 1)
    ]
    _, number, sign = sorted(found)[{"weakest": 0, "median": len(found) // 2, "best": -1}[which]]
    return number, sign


def simulated(
    lists: JudgedLists, shown_by: np.ndarray, options: argparse.Namespace, rng: np.random.Generator
) -> clicks.ClickLog:
    """Returns clicks of shoppers who look at place p with probability p^-eta and click what is worth it.

    What is looked at is clicked with .1 + .9 (2^label - 1) / (2^most - 1) (Joachims et al. 2017, Ai et al. 2018). Lists
    are shown in one order, but in a share of the sessions two of their places, drawn at random, are swapped.
    """
    order = np.lexsort((-shown_by, lists.documents.row_numbers))
    worth = 0.1 + 0.9 * (np.exp2(lists.labels) - 1) / (np.exp2(lists.labels.max()) - 1)
    ranked = Ragged(order, lists.documents.offsets)
    rows: list[np.ndarray] = []
    for documents in ranked:
        size = len(documents)
        places = np.tile(np.arange(size), (options.sessions, 1))  # [sessions, documents]
        swapped = np.flatnonzero(rng.random(options.sessions) < options.swapped)
        first, second = rng.integers(0, size, (2, len(swapped)))
        places[swapped, first], places[swapped, second] = second, first
        clicked = rng.random(places.shape) < (places + 1.0) ** -options.eta * worth[documents]
        cells, inverse = np.unique(np.arange(size) * size + places, return_inverse=True)
        inverse = inverse.reshape(-1)
        counts = np.bincount(inverse), np.bincount(inverse, clicked.reshape(-1))
        rows.append(np.stack([documents[cells // size], cells % size, *counts]).astype(np.int64))
    return clicks.ClickLog(*np.concatenate(rows, axis=1))


# --- All -------------------------------------------------------------------------------------------------------------


def _kept(
    options: argparse.Namespace, config: Config, test: str, kind: str, compute: Callable[[Config, str], Found]
) -> Found:
    """Returns what one rotation found, computed once for the same settings."""
    config = dataclasses.replace(config, subset=test)
    mark = hashlib.sha256(json.dumps(settings(config.to_dict()), sort_keys=True).encode()).hexdigest()[:8]
    name = f"{kind}-{test}-{mark}"
    path = options.work / f"{name}.npz"
    if not path.is_file():
        _log.info("%s", name)
        found = compute(config, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        flat = {f"{system}|{metric}": column for system, one in found.values.items() for metric, column in one.items()}
        np.savez(path, **flat, **{f"{_VALIDATION}|{system}": value for system, value in found.validation.items()})
    values: dict[str, Values] = {}
    validation = {}
    with np.load(path) as kept:
        for key in kept.files:
            system, metric = key.split("|")
            if system == _VALIDATION:
                validation[metric] = float(kept[key])
            else:
                values.setdefault(system, {})[metric] = kept[key]
    return Found(values, validation)


def _pooled(found: Sequence[Found]) -> dict[str, Values]:
    """Returns system -> metric -> the test queries of all rotations."""
    first = found[0].values
    return {
        system: {metric: np.concatenate([one.values[system][metric] for one in found]) for metric in first[system]}
        for system in first
    }


def _queries(values: dict[str, Values]) -> int:
    return len(next(iter(values.values()))["ndcg@10"])


def _mean(values: np.ndarray) -> str:
    interval = confidence.mean_interval(values)
    return f"{interval.mean:.4f} [{interval.low:.3f}, {interval.high:.3f}]"


def _difference(ours: Values, theirs: Values, metric: str) -> str:
    found = judging.compare(ours, theirs, names=("a", "b"), metric=metric)
    low, high = found["ci95"]
    return f"{found['difference']:+.4f} [{low:+.4f}, {high:+.4f}] ({found['minimum_detectable_effect']:.4f})"


if __name__ == "__main__":
    main()
