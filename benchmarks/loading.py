"""Seconds to load a shop of one million interactions, against a plain `csv.DictReader` loop in the same run.

    python benchmarks/loading.py [--events 1000000] [--items 20000]

The loop does less (it cleans nothing, orders nothing and checks nothing): the ratio is a lower bound.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from tfmm import sources


def write_shop(folder: Path, *, events: int, items: int, seed: int = 0) -> None:
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


def seconds(run: Callable[[], object], *, repeats: int = 3) -> float:
    """Returns the fastest of several runs: the others waited for something else."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shop(folder, events=args.events, items=args.items)
        plain = seconds(lambda: read_plainly(folder))
        ours = seconds(lambda: sources.load("folder", data_dir=folder))
    print(f"{args.events:,} events: csv.DictReader {plain:.2f} s, tfmm.sources {ours:.2f} s, ratio {plain / ours:.2f}")


if __name__ == "__main__":
    main()
