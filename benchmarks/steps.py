"""What each step from two retrievers to one served mixture is worth: one training, measured after every step.

    python -m benchmarks.steps -- --source amazon --subset Beauty --data_dir DIR

What stands after `--` goes where train.py's flags go; with `--run NAME --resume` the towers are those of that run,
which is read and never written. The steps are those of train.py: a closed form alone, the towers alone, their weighted
sum over the towers' candidates and over both kinds', and the scorer that learned what to change. Validation chose all
that is chosen; each row is also told apart from the one above it, shopper by shopper, on the test.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import logging
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from benchmarks.common import start_log
from benchmarks.reranking_losses import Before, prepare, reranked
from benchmarks.seeds import say, show_table, split_flags
from tfmm import evaluation, stages
from tfmm.candidates import Candidates
from tfmm.config import Config, parse
from tfmm.evaluation import Lists
from tfmm.reranking import ListwiseScorer
from tfmm.splits import Queries

_log = logging.getLogger("benchmarks.steps")
METRICS = ("ndcg@10", "recall@10")
EARLY, TOWERS = "towers alone, without the reranker's period", "towers alone, as they are served"
NEAR, BOTH, LEARNED = "sum with the closed form, towers' candidates", "and the closed form's candidates", "and a scorer"


def lists_of(before: Before, scorers: Mapping[str, ListwiseScorer], queries: Queries) -> dict[str, Lists]:
    """Returns step -> what is recommended after it, in order."""
    config, shop = before.config, before.shop
    kind = stages.chosen_form(config, before.baselines)
    found = {f"{kind} alone": before.baselines[kind].lists(queries)}
    for name, retriever in ((EARLY, before.towers), (TOWERS, before.retriever)):
        found[name] = evaluation.retrieval_lists(retriever, queries, shop.context)
    for name, scorer in scorers.items():
        pool = near_only(before.served) if name == NEAR else before.served
        _log.info("%s: %d queries", name, len(queries))
        said = reranked(pool, {(name, 0): scorer}, shop.wire(queries), batch_size=config.evaluation.batch_size)
        found[name] = said[name, 0]
    return found


def near_only(candidates: Candidates) -> Candidates:
    """Returns the same candidates without those that the closed form adds."""
    near = copy.copy(candidates)
    near.config = dataclasses.replace(candidates.config, co_visited=0)
    near.size = near.config.retrieved
    return near


def train_scorers(before: Before) -> dict[str, ListwiseScorer]:
    """Returns step -> its scorer, weighed on validation for the candidates that it is asked about, as train.py does."""
    config, made = before.config, {}
    untrained = dataclasses.replace(config, reranking=dataclasses.replace(config.reranking, epochs=0))
    for name, settings, served in (
        (NEAR, untrained, near_only(before.served)),
        (BOTH, untrained, before.served),
        (LEARNED, config, before.served),
    ):
        stages.set_seed(config.seed)
        directory = before.scratch / name.replace(" ", "_")
        scorer, _ = stages.train_reranker(settings, before.shop, before.early, directory=directory)
        stages.recalibrate_reranker(settings, before.shop, served, scorer)
        made[name] = scorer
    return made


def rows_of(found: Mapping[str, Mapping[str, Lists]], parts: Mapping[str, Queries]) -> list[list[str]]:
    """Returns a row a step: validation's NDCG@10, the test's metrics, and the difference from the step above.

    Args:
        found: "validation" and "test" -> step -> lists.
        parts: "validation" and "test" -> whom they were made for.
    """
    rows, above = [], None
    for name, lists in found["test"].items():
        cells = [f"{evaluation.mean_ndcg(found['validation'][name], parts['validation']):.4f}"]
        measured = evaluation.measure(lists, parts["test"].targets)
        for metric in METRICS:
            one = evaluation.interval(measured[metric], parts["test"].user)
            cells.append(f"{one['mean']:.4f} [{one['ci95'][0]:.4f}, {one['ci95'][1]:.4f}]")
        rows.append([name, *cells, "" if above is None else _gain(lists, found["test"][above], parts["test"])])
        above = name
    return rows


def _gain(lists: Lists, above: Lists, queries: Queries) -> str:
    one = evaluation.compare(lists, above, queries, names=("this", "above"))
    low, high = one["ci95"]
    return f"{one['difference']:+.4f} [{low:+.4f}, {high:+.4f}] ({one['minimum_detectable_effect']:.4f})"


def measured(config: Config) -> list[list[str]]:
    """Returns the table's rows, after everything is trained."""
    with tempfile.TemporaryDirectory() as scratch:
        before = prepare(config, Path(scratch))
        scorers = train_scorers(before)
        parts = {name: getattr(before.shop.parts, name) for name in ("validation", "test")}
        return rows_of({name: lists_of(before, scorers, queries) for name, queries in parts.items()}, parts)


def main(argv: Optional[Sequence[str]] = None) -> list[list[str]]:
    """Prints the table; returns its rows."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--markdown", action="store_true", help="a table to paste into a page")
    ours, flags = split_flags(sys.argv[1:] if argv is None else argv)
    options = made.parse_args(ours)
    start_log()
    rows = measured(parse(flags))
    columns = ["step", "validation ndcg@10", *(f"test {metric}" for metric in METRICS), "ndcg@10 minus the row above"]
    show_table(f"Steps: {shlex.join(flags)}", columns, rows, markdown=options.markdown)
    say("Intervals are 95% bootstraps over shoppers; in brackets the smallest difference that these could show.")
    return rows


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is running and what is scratch go too
    main()
