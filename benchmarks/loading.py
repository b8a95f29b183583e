"""Loading a shop of one million interactions: ours against a plain `csv.DictReader` loop.

    python -m benchmarks.loading [--events 1000000] [--items 20000]

The loop does less (it cleans nothing, orders nothing and checks nothing): the ratio is a lower bound.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import pandas as pd

from benchmarks.common import Comparison, compare_rates, parser, positive, show, start_log
from tfmm import sources


def write_shop(folder: Path, *, events: int, items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.array([f"sku-{row:06d}" for row in range(items)])
    pd.DataFrame({"id": ids, "title": [f"Product {row}" for row in range(items)]}).to_csv(
        folder / "items.csv", index=False
    )
    frame = {
        "user": [f"user-{row}" for row in rng.integers(0, events // 20 + 1, events)],
        "item": ids[rng.integers(0, items, events)],
        "time": rng.integers(1_600_000_000, 1_700_000_000, events),
        "event": rng.choice(["view", "cart", "purchase"], events, p=[0.8, 0.15, 0.05]),
        "value": rng.integers(1, 4, events),
    }
    pd.DataFrame(frame).to_csv(folder / "interactions.csv", index=False)


def read_plainly(folder: Path) -> int:
    with (folder / "items.csv").open(newline="") as file:
        items = {row["id"]: number for number, row in enumerate(csv.DictReader(file))}
    users: dict[str, int] = {}
    events = []
    with (folder / "interactions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            user = users.setdefault(row["user"], len(users))
            events.append((user, items[row["item"]], int(row["time"]), row["event"], float(row["value"])))
    return len(events)


def main(argv: Optional[Sequence[str]] = None) -> list[Comparison]:
    """Prints the table; returns its rows."""
    made = parser(__doc__)
    made.add_argument("--events", type=positive, default=1_000_000)
    made.add_argument("--items", type=positive, default=20_000)
    options = made.parse_args(argv)
    start_log()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shop(folder, events=options.events, items=options.items, seed=options.seed)
        loaders = {
            "tfmm.sources.load": lambda: sources.load("folder", data_dir=folder),
            "csv.DictReader, row by row": lambda: read_plainly(folder),
        }
        rows = compare_rates("loading CSV", "events", loaders, count=options.events, rounds=options.rounds)
    show(f"Loading {options.events:,} events of {options.items:,} items", rows)
    return rows


if __name__ == "__main__":
    main()
