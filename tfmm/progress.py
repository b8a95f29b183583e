"""Progress bars with time left; the one owner of rich's progress display."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Callable, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True)
if not console.is_terminal:
    console.width = 140  # a log file has no width of its own
_log = logging.getLogger(__name__)


def track(values: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Yields `values` while a bar shows how many are done and how long the rest will take."""
    with _bar() as bar:
        yield from bar.track(values, total=total, description=description)


class counter:  # noqa: N801  (used as a function)
    """A context whose value is called with the number of things just done."""

    def __init__(self, description: str, *, total: int) -> None:
        self._bar = _bar()
        self._description, self._total = description, total

    def __enter__(self) -> Callable[[int], None]:
        self._bar.start()
        task = self._bar.add_task(self._description, total=self._total)
        return lambda done: self._bar.advance(task, done)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _bar() -> Progress:
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = TextColumn("left")
    return Progress(*columns, TimeRemainingColumn(), left, console=console, transient=not console.is_terminal)
