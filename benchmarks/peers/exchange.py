"""What `benchmarks.time_to_quality` and a system that it trains tell each other. Numpy alone: peers have no tfmm.

The benchmark leaves `shop.npz` in a folder: who had what, in order, and the histories that are asked about; never an
answer. The system tells on its standard output, in lines of JSON, first what it was given, then of every epoch how
long it trained; beside each it leaves its scores, `validation.npy` and `test.npy`. A line on its standard input says
whether to go on: one rule decides for everybody, by scores that one code measures.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np

PARTS = ("validation", "test")
GO_ON, STOP = "go on", "stop"
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
CLOCK = "BENCHMARK_CLOCK"
"""The environment's variable that names one of them; "wall" where it is not set."""


class Enough(Exception):
    """The benchmark wants no further epoch."""


class Events(NamedTuple):
    """Events that are trained on, each user's in order, users one after the other.

    Attributes:
        user: `[events]` int64.
        item: `[events]` int64 rows of the catalogue.
    """

    user: np.ndarray
    item: np.ndarray

    @property
    def place(self) -> np.ndarray:
        """`[events]` int64: how many events of the same user stand before each; stands for its time."""
        return np.arange(len(self.user)) - np.searchsorted(self.user, self.user)

    def windows(self, length: int) -> Events:
        """Returns the same events in windows of up to `length`, each as if it were a user's.

        Consecutive windows share one event, so that every step from an event to the next stands in one window. The
        newest window is full.
        """
        after = np.searchsorted(self.user, self.user, side="right") - 1 - np.arange(len(self.user))
        shared = np.flatnonzero((after % (length - 1) == 0) & (after > 0) & (self.place > 0))
        order = np.sort(np.concatenate([np.arange(len(self.user)), shared]), kind="stable")
        again = np.append(False, order[1:] == order[:-1])
        first = np.append(True, self.user[order][1:] != self.user[order][:-1])
        return Events(np.cumsum(first | again) - 1, self.item[order])


class Shop(NamedTuple):
    """What a system may know.

    Attributes:
        num_items: of the catalogue.
        events: to train on.
        histories: part -> one array of item rows a query, oldest first.
    """

    num_items: int
    events: Events
    histories: Mapping[str, list[np.ndarray]]


def write_shop(
    path: Path, num_items: int, events: Events, histories: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """Leaves `shop.npz`.

    Args:
        path: folder.
        num_items: of the catalogue.
        events: to train on.
        histories: part -> item rows of all queries, and `[queries + 1]` offsets.
    """
    columns = {
        f"{part}_{name}": column for part in PARTS for name, column in zip(("items", "offsets"), histories[part])
    }
    np.savez(path / "shop.npz", num_items=num_items, user=events.user, item=events.item, **columns)


def read_shop(path: Path) -> Shop:
    """Returns what `write_shop` left."""
    with np.load(path / "shop.npz") as columns:
        histories = {part: np.split(columns[f"{part}_items"], columns[f"{part}_offsets"][1:-1]) for part in PARTS}
        return Shop(int(columns["num_items"]), Events(columns["user"], columns["item"]), histories)


def latest(histories: list[np.ndarray], numbers: np.ndarray, length: int, *, right: bool) -> np.ndarray:
    """Returns `[queries, length]` int64: the newest events of each history that a system knows, 0 = padding.

    Args:
        histories: item rows, oldest first.
        numbers: `[num_items]`: the system's own number of each item, 0 = it does not know it.
        length: how many it reads.
        right: whether padding stands before the events, so that the newest is last.
    """
    dense = np.zeros((len(histories), length), np.int64)
    for row, history in zip(dense, histories):
        known = numbers[history]
        known = known[known > 0][-length:]
        row[slice(length - len(known), None) if right else slice(len(known))] = known
    return dense


def of_catalogue(scores: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns `[queries, num_items]` float32 from scores by a system's own numbers; what it does not know has -inf."""
    return np.where(numbers > 0, scores[:, numbers], -np.inf).astype(np.float32)


class Course:
    """A training: its clock, and what is told of it."""

    def __init__(self, folder: Path, given: Mapping[str, Any]) -> None:
        """Tells what the system was given; whatever else is printed goes to the error stream from here on.

        Args:
            folder: for scores.
            given: name of a setting -> value.
        """
        self._folder = folder
        self._told = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._clock = os.environ.get(CLOCK, "wall")
        self._spent = self._started = 0.0
        self._tell(given=dict(given))

    def _tell(self, **columns: Any) -> None:
        print(json.dumps(columns), file=self._told, flush=True)

    def go(self) -> None:
        """Starts the clock, or goes on with it."""
        self._started = CLOCKS[self._clock]()

    def ready(self) -> None:
        """Tells that everything is prepared and the first step comes now; starts the clock."""
        self._tell(**({"ready": time.time()} if self._clock == "wall" else {"set_up": time.process_time()}))
        self.go()

    def epoch(self, scores: Callable[[str], np.ndarray]) -> None:
        """Tells of an epoch, with the clock stopped, and starts it again.

        Args:
            scores: part -> `[queries, num_items]`, -inf = not known.

        Raises:
            Enough: the benchmark says so.
        """
        self._spent += CLOCKS[self._clock]() - self._started
        for part in PARTS:
            np.save(self._folder / f"{part}.npy", scores(part))
        self._tell(seconds=self._spent)
        if sys.stdin.readline().strip() != GO_ON:
            raise Enough
        self.go()
