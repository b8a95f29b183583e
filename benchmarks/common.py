"""What all benchmarks share: flags, timing in turn, and one table."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Callable, Optional

from rich.console import Console
from rich.table import Table

MORE = "more is better"
LESS = "less is better"
_WIDTH = 120


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One thing measured for us and for a named alternative, in the same rounds.

    Attributes:
        what: was measured.
        unit: of the values.
        ours: what of ours was measured.
        alternative: what it was measured against.
        our_values: one a round.
        alternative_values: one a round.
        better: `MORE` or `LESS`: which values are good.
    """

    what: str
    unit: str
    ours: str
    alternative: str
    our_values: Sequence[float]
    alternative_values: Sequence[float]
    better: str = MORE

    def __post_init__(self) -> None:
        if len(self.our_values) != len(self.alternative_values) or not len(self.our_values):
            raise ValueError(
                f"Expected as many values of ours as of {self.alternative} and at least one, "
                f"got {len(self.our_values)} and {len(self.alternative_values)}."
            )
        if self.better not in (MORE, LESS):
            raise ValueError(f"Expected better to be {MORE!r} or {LESS!r}, got {self.better!r}.")

    @property
    def ratios(self) -> list[float]:
        """One a round, ascending; above 1 = ours is better."""
        pairs = list(zip(self.our_values, self.alternative_values))
        return sorted(_divide(a, b) if self.better == MORE else _divide(b, a) for a, b in pairs)


def parser(doc: Optional[str], *, rounds: int = 3) -> argparse.ArgumentParser:
    """Returns the flags that every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=positive, default=rounds, help=f"measured rounds, in turn (default {rounds})")
    made.add_argument("--seed", type=int, default=0, help="of everything drawn (default 0)")
    return made


def positive(text: str) -> int:
    """Returns the number that a flag holds, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def start_log() -> None:
    """Shows what a long benchmark is doing."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def seconds(run: Callable[[], object]) -> float:
    """Returns how long one call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def in_turn(runs: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Returns name -> seconds of each round.

    All run once to warm up (unless they have been), then in turn, beginning with another one each round, so that
    whatever else the machine does falls on all alike.
    """
    names = list(runs)
    for name in names if warm_up else ():
        runs[name]()
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        gc.collect()
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken[name].append(seconds(runs[name]))
    return taken


def rates(taken: Sequence[float], count: float) -> list[float]:
    """Returns things a second of each round, where `count` things took `taken` seconds."""
    return [count / value for value in taken]


def compare_rates(
    what: str, unit: str, runs: Mapping[str, Callable[[], object]], *, count: float, rounds: int
) -> list[Comparison]:
    """Returns how fast the first of `runs` does `count` things, compared with each of the others.

    Args:
        what: is measured.
        unit: of the things; "/s" is added.
        runs: name -> does all things once; ours first.
        count: of the things.
        rounds: measured.
    """
    taken = {name: rates(values, count) for name, values in in_turn(runs, rounds=rounds).items()}
    ours, *others = runs
    return [Comparison(what, f"{unit}/s", ours, other, taken[ours], taken[other]) for other in others]


def show(title: str, comparisons: Sequence[Comparison], *, notes: Sequence[str] = ()) -> None:
    """Prints the table: what, ours, the alternative (medians over the rounds), and the ratio's spread."""
    table = Table(title=title, title_justify="left", caption_justify="left", show_lines=True)
    for name in ("what", "ours", "alternative"):
        table.add_column(name, overflow="fold")
    for name in ("ratio", "min", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in comparisons:
        ratios = one.ratios
        table.add_row(
            f"{one.what}\n{one.unit}, {one.better}",
            f"{_number(statistics.median(one.our_values))}\n{one.ours}",
            f"{_number(statistics.median(one.alternative_values))}\n{one.alternative}",
            *(f"{_number(value)} x" for value in (statistics.median(ratios), ratios[0], ratios[-1])),
        )
    rounds = max(len(one.our_values) for one in comparisons)
    spread = f"ratio: median, min and max over up to {rounds} round(s); above 1 = ours is better"
    table.caption = "\n".join([spread, *notes])
    console().print(table)


def show_values(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a plain table, for what is no ratio."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_number(cell) if isinstance(cell, float) else str(cell) for cell in row))
    console().print(table)


def console() -> Console:
    """Returns where tables go: standard output, as it is now."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_WIDTH)


def _divide(a: float, b: float) -> float:
    return a / b if b else (math.nan if not a else math.inf)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return {math.inf: "inf"}.get(value, "-")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
