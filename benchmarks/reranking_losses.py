"""Which loss of TF-Ranking's orders the candidates best: the same lists, one scorer a loss and a seed.

    python -m benchmarks.reranking_losses --losses softmax_loss approx_ndcg_loss --seeds 0 1 2 -- --source demo

What stands after `--` goes where train.py's flags go. Everything before the reranker runs once, with `--seed`; with
`--run NAME --resume` the towers are those of that run, which is read and never written. Validation chooses the loss;
the test is measured once for all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf

from benchmarks.common import start_log
from benchmarks.seeds import mean_of, say, settings, show_table, split_flags
from tfmm import confidence, evaluation, pipelines, records, reranking, stages
from tfmm.candidates import Candidates, Wire, dense_wire, example_lists
from tfmm.config import Config, parse
from tfmm.evaluation import LIST_SIZE, Baseline, Lists
from tfmm.reranking import ListwiseScorer, RerankingConfig
from tfmm.retrieval import Retriever
from tfmm.schema import QUERY_TIME
from tfmm.service import MAX_RESULTS
from tfmm.splits import Queries
from tfmm.stages import Shop

_log = logging.getLogger("benchmarks.reranking_losses")
LOSSES = ("softmax_loss", "approx_ndcg_loss", "list_mle_loss", "pairwise_logistic_loss", "sigmoid_cross_entropy_loss")
RETRIEVAL = "retrieval alone"
_TRAIN, _VALIDATION = "lists_train", "lists_validation"


@dataclasses.dataclass(frozen=True)
class Before:
    """What all rerankers share.

    Attributes:
        config: of the run.
        shop: its data.
        baselines: at the settings that validation chose.
        early: candidates of towers that saw nothing of the reranker's period: what rerankers train on.
        towers: those towers.
        served: candidates of the towers that would be served: what is measured.
        retriever: those towers.
        scratch: where lists and weights are put.
    """

    config: Config
    shop: Shop
    baselines: Mapping[str, Baseline]
    early: Candidates
    towers: Retriever
    served: Candidates
    retriever: Retriever
    scratch: Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One reranker, or retrieval alone.

    Attributes:
        validation: `[shoppers]` NDCG@10.
        test: likewise.
        epoch: whose weights were kept; 0 = the retrieval order itself.
    """

    validation: np.ndarray
    test: np.ndarray
    epoch: int = 0


Key = tuple[str, int]
"""Loss and seed."""


# --- Up to the candidates, once --------------------------------------------------------------------------------------


def prepare(config: Config, scratch: Path) -> Before:
    """Returns what `tfmm.train.run` makes before it trains a reranker, and the candidates it serves."""
    stages.set_seed(config.seed)
    _take_towers(config, scratch)
    shop = _load(config)
    baselines = stages.baselines(config, shop)
    items = stages.features_of(config, shop)
    towers, _ = stages.train_towers(config, shop, items, directory=scratch)
    if config.finetune.blocks:
        shop, items, towers, _ = stages.finetune(config, shop, items, towers, directory=scratch)
    weights = stages.item_item(config, shop, shop.parts.train, baselines)
    early = stages.make_candidates(config, shop, towers, items, shop.parts.train, weights)
    items = items.with_ids(~shop.parts.cold_items(len(shop.table)))
    retriever = stages.refit_towers(config, shop, towers, items, directory=scratch)
    weights = stages.item_item(config, shop, shop.parts.refit, baselines)
    served = stages.make_candidates(config, shop, retriever, items, shop.parts.refit, weights)
    return Before(config, shop, baselines, early, towers, served, retriever, scratch)


def _take_towers(config: Config, scratch: Path) -> None:
    """Copies the checkpoints of the run that is resumed.

    Raises:
        SystemExit: there is no such run, or it was made with other settings than ours.
    """
    if not config.resume:
        return
    run = config.runs / (config.run or "")
    if config.run is None or not (run / "run.json").is_file():
        raise SystemExit(
            f"Expected --resume with the --run of a finished run, got {run}; without --resume towers train."
        )
    theirs, ours = (
        {name: value for name, value in settings(made).items() if name not in ("reranking", "evaluation")}
        for made in (json.loads((run / "run.json").read_text(encoding="utf-8"))["configuration"], config.to_dict())
    )
    other = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
    if other:
        raise SystemExit(f"Expected the settings of {run / 'run.json'}, got other values of {', '.join(other)}.")
    shutil.copytree(run / "checkpoints", scratch / "checkpoints", ignore=shutil.ignore_patterns("reranker"))


def _load(config: Config) -> Shop:
    dataset = stages.load(config)
    mark = dataset.fingerprint()
    if config.resume:
        trained_on = json.loads((config.runs / str(config.run) / "run.json").read_text(encoding="utf-8"))["data"]
        if mark != trained_on:
            raise SystemExit(f"Expected the data of the run (fingerprint {trained_on}), got other data ({mark}).")
    where = config.records / f"{dataset.name}-{mark[:8]}"
    return stages.open_shop(config, stages.open_catalogue(config, dataset, where))


# --- One scorer a loss and a seed ------------------------------------------------------------------------------------


def write_lists(before: Before) -> None:
    """Writes the lists that every reranker trains on, and those that choose its epoch."""
    shop, parts = before.shop, before.shop.parts
    for name, queries in ((_TRAIN, parts.rerank), (_VALIDATION, parts.validation)):
        lists = example_lists(before.early, queries, shop.wire(queries), shop.dataset.items.ids)
        _log.info("%s: %d of %d lists hold a target", name, len(lists.items), len(queries))
        records.write_example_lists(lists, before.scratch, name)


def featurised(before: Before, name: str, *, seed: int) -> tf.data.Dataset:
    """Returns batches as `reranking.fit` takes them; the seed decides how training lists are grouped."""
    batches = pipelines.example_list_batches(
        before.scratch,
        name,
        batch_size=before.config.reranking.batch_size,
        list_size=before.early.size,
        shuffle=name == _TRAIN,
        seed=seed,
    )
    return reranking.featurise(batches, before.early, vectors=before.config.reranking.vectors)


def train_scorers(
    before: Before, configs: Mapping[str, RerankingConfig], seeds: Sequence[int]
) -> dict[Key, tuple[ListwiseScorer, int]]:
    """Returns each loss's scorer of each seed, and which epoch it is of; losses of one seed see the same batches."""
    write_lists(before)
    validation = featurised(before, _VALIDATION, seed=0)
    made = {}
    for seed in seeds:
        train = featurised(before, _TRAIN, seed=seed)
        for loss, config in configs.items():
            stages.set_seed(seed)
            scorer, place = ListwiseScorer(config), before.scratch / f"{loss}-{seed}"
            curves = reranking.fit(
                scorer, config, train=train, validation=validation, directory=place, logs=place / "logs"
            )
            values = curves["validation ndcg@10"]
            made[loss, seed] = scorer, len(values) - 1 - int(np.argmax(values[::-1]))  # `fit` keeps the last of equals
            _log.info("%s, seed %d: within the lists %.4f -> %.4f", loss, seed, values[0], max(values))
    return made


def reranked(
    candidates: Candidates, scorers: Mapping[Key, ListwiseScorer], wire: Wire, *, batch_size: int
) -> dict[Key, Lists]:
    """Returns what each scorer recommends, as the exported `recommend` does; all order the same pools."""

    @tf.function(reduce_retracing=True)
    def read(query: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        encoded = candidates.encode_query(query)
        rows = candidates.pool(encoded)
        return rows, candidates.features(encoded, rows)

    found: dict[Key, list[Lists]] = {key: [] for key in scorers}
    for start in range(0, len(wire[QUERY_TIME]), batch_size):
        batch = dense_wire(wire, slice(start, start + batch_size))
        rows, features = read({name: tf.constant(value) for name, value in batch.items()})
        for key, scorer in scorers.items():
            found[key].append(_best(rows, tf.constant(scorer.predict_on_batch(features))))
    return {
        key: Lists(np.concatenate([p.rows for p in parts]), np.concatenate([p.scores for p in parts]))
        for key, parts in found.items()
    }


def _best(rows: tf.Tensor, scores: tf.Tensor) -> Lists:
    """Returns the pool's best items, `[batch, LIST_SIZE]`."""
    size = min(MAX_RESULTS, rows.shape[1])
    scores, order = tf.math.top_k(tf.where(rows >= 0, scores, tf.float32.min), k=size)
    missing = [(0, 0), (0, LIST_SIZE - size)]
    chosen = np.pad(tf.gather(rows, order, batch_dims=1).numpy(), missing, constant_values=-1)
    return Lists(chosen, np.pad(scores.numpy(), missing, constant_values=tf.float32.min))


def outcomes(before: Before, trained: Mapping[Key, tuple[ListwiseScorer, int]]) -> dict[Key, Outcome]:
    """Returns NDCG@10 over the whole catalogue of retrieval alone (seed 0) and of every scorer."""
    shop, size = before.shop, before.config.evaluation.batch_size
    scorers = {key: scorer for key, (scorer, _) in trained.items()}
    values: dict[Key, list[np.ndarray]] = {key: [] for key in ((RETRIEVAL, 0), *scorers)}
    for queries in (shop.parts.validation, shop.parts.test):
        lists = reranked(before.served, scorers, shop.wire(queries), batch_size=size)
        lists[RETRIEVAL, 0] = evaluation.retrieval_lists(before.retriever, queries, shop.context)
        for key in values:
            values[key].append(_ndcg(lists[key], queries))
    epochs = {key: epoch for key, (_, epoch) in trained.items()}
    return {key: Outcome(pair[0], pair[1], epochs.get(key, 0)) for key, pair in values.items()}


def _ndcg(lists: Lists, queries: Queries) -> np.ndarray:
    return evaluation.per_user(evaluation.measure(lists, queries.targets)["ndcg@10"], queries.user)


# --- The table -------------------------------------------------------------------------------------------------------


def chosen(found: Mapping[Key, Outcome]) -> str:
    """Returns the loss that is best on validation, in the mean over seeds."""
    losses = dict.fromkeys(loss for loss, _ in found if loss != RETRIEVAL)
    return max(losses, key=lambda loss: np.mean([one.validation.mean() for one in _of(found, loss)]))


def rows_of(found: Mapping[Key, Outcome]) -> list[list[str]]:
    """Returns a row a loss, retrieval alone first; differences are of shoppers' means over seeds."""
    retrieval = found[RETRIEVAL, 0]
    rows = []
    for loss in dict.fromkeys(loss for loss, _ in found):
        ones = _of(found, loss)
        cells = []
        for part in ("validation", "test"):
            means = [float(getattr(one, part).mean()) for one in ones]
            cells += [" ".join(f"{mean:.4f}" for mean in means), mean_of(means)]
        gain = confidence.paired_difference(np.mean([one.test for one in ones], axis=0), retrieval.test)
        against = "" if loss == RETRIEVAL else f"{gain.difference:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        epochs = "" if loss == RETRIEVAL else " ".join(str(one.epoch) for one in ones)
        rows.append([loss, *cells, against, epochs])
    return rows


def _of(found: Mapping[Key, Outcome], loss: str) -> list[Outcome]:
    return [one for (name, _), one in found.items() if name == loss]


def show(found: Mapping[Key, Outcome], title: str, *, markdown: bool = False) -> None:
    """Prints the table and what validation chose."""
    columns = ["loss", "validation", "mean", "test", "mean", "test - retrieval alone", "epoch"]
    show_table(title, columns, rows_of(found), markdown=markdown)
    say(f"Best on validation: {chosen(found)}. Epoch 0 is the retrieval order itself.")


def main(argv: Optional[Sequence[str]] = None) -> dict[Key, Outcome]:
    """Prints the table; returns every outcome."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--losses", nargs="+", default=list(LOSSES), help="TF-Ranking's names")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the rerankers")
    made.add_argument("--markdown", action="store_true", help="a table to paste into a page")
    ours, flags = split_flags(sys.argv[1:] if argv is None else argv)
    options = made.parse_args(ours)
    config = parse(flags)
    try:
        configs = {loss: dataclasses.replace(config.reranking, loss=loss) for loss in options.losses}
    except ValueError as error:
        made.error(str(error))
    start_log()
    with tempfile.TemporaryDirectory() as scratch:
        before = prepare(config, Path(scratch))
        found = outcomes(before, train_scorers(before, configs, list(dict.fromkeys(options.seeds))))
    seeds = " ".join(map(str, options.seeds))
    show(found, f"NDCG@10 by loss, reranker seeds {seeds}: {shlex.join(flags)}", markdown=options.markdown)
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is running and what is scratch go too
    main()
