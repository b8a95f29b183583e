"""Which loss, fusion, dropout or modality is best: the same data and budget, one model a value of a setting.

    python -m benchmarks.variants search --setting alignment.loss --values softmax triplet contrastive bpr \\
        -- --source fashion --data_dir DIR
    python -m benchmarks.variants towers --setting towers.fusion --values attention sum late \\
        -- --source movielens --data_dir DIR
    python -m benchmarks.variants towers --setting modalities --values id id+image id+sound id+image+sound \\
        --metrics recall@20 ndcg@20 -- --source tiktok --data_dir DIR

What stands after `--` goes where train.py's flags go. `search` trains the content tower and asks it every kind of query
that the data allows, on products that were not trained on. `towers` trains the towers alone on the retriever's events
and asks them the test queries; `modalities` is a setting of its own, all that the towers know of items. Validation
chooses the epoch and is the first column: choose by it. Row by row: mean over seeds, and of the first seed the 95%
bootstrap interval and, of towers, the paired difference from the first value.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from benchmarks.common import start_log
from benchmarks.seeds import mean_of, show_table, split_flags
from tfmm import evaluation, results, stages
from tfmm.config import Config, parse
from tfmm.evaluation import Lists
from tfmm.retrieval import Retriever
from tfmm.splits import Queries
from tfmm.stages import Catalogue, Shop

_log = logging.getLogger("benchmarks.variants")
MODALITIES = "modalities"
_ASKED = ("known queries -> image", "text -> its product's image", "one word -> image", "picture -> alike")


class Found(NamedTuple):
    """What one model is worth.

    Attributes:
        validation: of the epoch that it chose.
        columns: title -> one metric as `report.json` holds it.
        lists: what it recommends, and to whom; None of search.
    """

    validation: float
    columns: Mapping[str, Mapping[str, Any]]
    lists: Optional[tuple[Lists, Queries]] = None


_DECIDE_CONTENT = ("source", "data_dir", "subset", "size", "seed", "records", "image", "sound", "text_encoder")
_DECIDE_CONTENT += ("image_encoder", "sound_encoder")
_opened: dict[tuple, Catalogue] = {}


def _catalogue(config: Config) -> Catalogue:
    """Returns the products; those of the variant before, where nothing that they depend on differs."""
    key = tuple(getattr(config, name) for name in _DECIDE_CONTENT)
    if key not in _opened:
        _opened.clear()
        dataset = stages.load(config)
        where = config.records / f"{dataset.name}-{dataset.fingerprint()[:8]}"
        _opened[key] = stages.open_catalogue(config, dataset, where)
    stages.set_seed(config.seed)
    return _opened[key]


def search(config: Config, options: argparse.Namespace, modalities: Optional[tuple[str, ...]]) -> Found:
    """Returns the first metric of each kind of query, of one content tower."""
    if modalities:
        raise SystemExit(f"Expected a setting of train.py for search, got {MODALITIES}.")
    shop = _catalogue(config)
    if config.finetune.blocks:  # the network is tuned in place
        _opened.clear()
    with tempfile.TemporaryDirectory() as scratch:
        shop, aligner, curves = stages.align_catalogue(config, shop, directory=Path(scratch))
    table = results.asking_tables(config, shop, aligner, None)
    columns = {
        f"{kind}, {next(iter(table[kind]))}": next(iter(table[kind].values())) for kind in _ASKED if kind in table
    }
    return Found(max(curves["alignment"]["validation mrr"]), columns)


def towers(config: Config, options: argparse.Namespace, modalities: Optional[tuple[str, ...]]) -> Found:
    """Returns the metrics of towers on the test, on new products, and with modalities taken from some products."""
    shop = stages.open_shop(config, _catalogue(config))
    items = stages.features_of(config, shop, modalities)
    unknown = sorted(set(modalities or ()) - set(items.modalities))
    if unknown:
        known = ", ".join(stages.features_of(config, shop).modalities)
        raise SystemExit(f"Expected modalities of {known}, got {', '.join(unknown)}.")
    with tempfile.TemporaryDirectory() as scratch:
        retriever, curves = stages.train_towers(config, shop, items, directory=Path(scratch))
    queries = shop.parts.test
    lists = evaluation.retrieval_lists(retriever, queries, shop.context)
    columns = {name: _metric(lists, queries, name) for name in options.metrics}
    columns |= _new_products(lists, shop, options.metrics[0]) | _taken(retriever, shop, options)
    return Found(max(curves["validation ndcg@10"]), columns, (lists, queries))


def _metric(lists: Lists, queries: Queries, name: str) -> dict[str, Any]:
    return evaluation.interval(evaluation.measure(lists, queries.targets)[name], queries.user)


def _new_products(lists: Lists, shop: Shop, metric: str) -> dict[str, Mapping[str, Any]]:
    """Returns the metric of targets that no training event has; nothing where there are none."""
    parts = evaluation.slices(shop.parts.test, shop.parts.train, num_items=len(shop.table), tail_share=0.2)
    targets = shop.parts.test.targets.where(parts.items["cold items"][shop.parts.test.targets.values])
    found = evaluation.interval(evaluation.measure(lists, targets)[metric], shop.parts.test.user)
    return {f"{metric} of new products": found} if found["n"] else {}


def _taken(retriever: Retriever, shop: Shop, options: argparse.Namespace) -> dict[str, Mapping[str, Any]]:
    """Returns the first metric where modalities are taken from shares of the products."""
    order = np.random.default_rng(0).permutation(retriever.num_items)
    columns = {}
    for name in options.taken:
        for percent in options.shares:
            of = order < round(percent / 100 * len(order))
            lists = evaluation.retrieval_lists(retriever, shop.parts.test, shop.context, hidden=(name,), of=of)
            columns[f"{name} gone from {percent}%"] = _metric(lists, shop.parts.test, options.metrics[0])
    return columns


_KINDS = {"search": search, "towers": towers}


def measured(options: argparse.Namespace, flags: Sequence[str], value: str, seed: int) -> Found:
    """Returns what a model with one value of the setting is worth."""
    _log.info("%s %s, seed %d", options.setting, value, seed)
    if options.setting == MODALITIES:
        return _KINDS[options.kind](parse([*flags, "--seed", str(seed)]), options, tuple(value.split("+")))
    return _KINDS[options.kind](parse([*flags, f"--{options.setting}", value, "--seed", str(seed)]), options, None)


def row_of(value: str, found: Sequence[Found], first: Found, *, metric: str) -> dict[str, str]:
    """Returns a line of the table, a cell a title."""
    line = {"": value, "validation": mean_of([one.validation for one in found])}
    for title, statistic in found[0].columns.items():
        mean = mean_of([one.columns[title]["mean"] for one in found])
        line[title] = f"{mean} [{statistic['ci95'][0]:.4f}, {statistic['ci95'][1]:.4f}]"
    if found[0].lists and first.lists:
        (ours, queries), (theirs, _) = found[0].lists, first.lists
        one = evaluation.compare(ours, theirs, queries, names=(value, "first"), metric=metric)
        low, high = one["ci95"]
        line["minus the first"] = "" if found[0] is first else f"{one['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
    return line


def main(argv: Optional[Sequence[str]] = None) -> list[dict[str, str]]:
    """Prints the table; returns its rows."""
    ours, flags = split_flags(sys.argv[1:] if argv is None else argv)
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("kind", choices=sorted(_KINDS))
    made.add_argument("--setting", required=True, help=f"a flag of train.py, without its dashes; or {MODALITIES}")
    made.add_argument("--values", nargs="+", required=True)
    made.add_argument("--seeds", nargs="+", type=int, default=[0])
    made.add_argument("--metrics", nargs="+", default=["ndcg@10", "recall@10"], help="of towers")
    made.add_argument("--taken", nargs="*", default=[], help="modalities that are taken from products; of towers")
    made.add_argument("--shares", nargs="+", type=int, default=[50, 100], help="percent of products that lose them")
    made.add_argument("--markdown", action="store_true")
    options = made.parse_args(ours)
    start_log()
    rows: list[dict[str, str]] = []
    first: Optional[Found] = None
    for value in options.values:
        found = [measured(options, flags, value, seed) for seed in options.seeds]
        first = first or found[0]
        rows.append(row_of(value, found, first, metric=options.metrics[0]))
    titles = list(dict.fromkeys(title for row in rows for title in row))
    title = f"{options.setting}, {len(options.seeds)} seed(s): python train.py {shlex.join(flags)}"
    show_table(title, titles, [[row.get(t, "") for t in titles] for row in rows], markdown=options.markdown)
    return rows


if __name__ == "__main__":
    main()
