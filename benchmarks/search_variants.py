"""Which loss, fusion or dropout search learns best with: the same products and pairs, one content tower a value.

    python -m benchmarks.search_variants --setting alignment.loss --values softmax triplet contrastive bpr \\
        -- --source fashion --data_dir DIR

What stands after `--` goes where train.py's flags go. Each value is trained for the same epochs with every seed. The
epoch is validation's choice; every kind of query that the data allows is then measured on products that were not
trained on. Row by row: mean over seeds, and the 95% bootstrap interval over queries of the first seed.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from benchmarks.common import start_log
from benchmarks.seeds import mean_of, show_table, split_flags
from tfmm import results, sources, stages
from tfmm.asking import Table
from tfmm.config import parse
from tfmm.encoders.attributes import learn_attributes

_log = logging.getLogger("benchmarks.search_variants")
_SHOWN = ("known queries -> image", "text -> its product's image", "one word -> image", "picture -> alike")


def measured(flags: Sequence[str], setting: str, value: str, seed: int) -> tuple[float, Table]:
    """Returns the best validation MRR and the table of one content tower."""
    config = parse([*flags, f"--{setting}", value, "--seed", str(seed)])
    stages.set_seed(seed)
    dataset = sources.load(
        config.source, data_dir=config.data_dir, subset=config.subset, size=config.size, seed=config.seed
    )
    shop = stages.open_catalogue(config, dataset, config.records / f"{dataset.name}-{dataset.fingerprint()[:8]}")
    vocabulary = learn_attributes(shop.table.categorical, shop.table.numeric, rows=shop.asking.train)
    with tempfile.TemporaryDirectory() as scratch:
        aligner, curves = stages.align(config, shop, vocabulary, directory=Path(scratch))
    if aligner is None:
        raise SystemExit("Expected products with texts or pictures to search in, got neither.")
    return max(curves["validation mrr"]), results.asking_tables(config, shop, aligner, None)


def rows_of(value: str, found: Sequence[tuple[float, Table]]) -> list[str]:
    """Returns a line of the table: validation, then the first metric of each kind of query that is shown."""
    line = [value, mean_of([best for best, _ in found])]
    for kind in _SHOWN:
        statistics = [next(iter(table[kind].values())) for _, table in found if kind in table]
        interval = "[{:.3f}, {:.3f}]".format(*statistics[0]["ci95"]) if statistics else ""
        line.append(f"{mean_of([one['mean'] for one in statistics])} {interval}".strip())
    return line


def main(argv: Optional[Sequence[str]] = None) -> list[list[str]]:
    """Prints the table; returns its rows."""
    ours, flags = split_flags(sys.argv[1:] if argv is None else argv)
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--setting", default="alignment.loss", help="a flag of train.py, without its dashes")
    made.add_argument("--values", nargs="+", default=["softmax", "triplet", "contrastive", "bpr"])
    made.add_argument("--seeds", nargs="+", type=int, default=[0])
    made.add_argument("--markdown", action="store_true")
    options: Any = made.parse_args(ours)
    start_log()
    rows = []
    for value in options.values:
        _log.info("%s %s", options.setting, value)
        rows.append(rows_of(value, [measured(flags, options.setting, value, seed) for seed in options.seeds]))
    title = f"{options.setting}, {len(options.seeds)} seed(s): python train.py {shlex.join(flags)}"
    columns = [options.setting, "validation mrr", *(f"{kind}, mrr or p@10" for kind in _SHOWN)]
    show_table(title, columns, rows, markdown=options.markdown)
    return rows


if __name__ == "__main__":
    main()
