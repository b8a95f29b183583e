"""Progress bars with time left; the one owner of rich's progress display."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Callable, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
console = Console(stderr=True)
if not console.is_terminal:
    console.width = 140  # a log file has no width of its own
_log = logging.getLogger(__name__)


_shown: list[Progress] = []  # the bars that are on the screen now: another one joins them as a further row


def track(values: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Yields `values` while a bar shows how many are done and how long the rest will take."""
    with _rows() as bar:
        task = bar.add_task(description, total=total)
        try:
            yield from bar.track(values, total=total, task_id=task)
        finally:
            _end(bar, task)


class counter:  # noqa: N801  (used as a function)
    """A context whose value is called with the number of things just done."""

    def __init__(self, description: str, *, total: int) -> None:
        self._description, self._total = description, total
        self._rows = _rows()

    def __enter__(self) -> Callable[[int], None]:
        self._bar = self._rows.__enter__()
        self._task = self._bar.add_task(self._description, total=self._total)
        return lambda done: self._bar.advance(self._task, done)

    def __exit__(self, *_: object) -> None:
        _end(self._bar, self._task)
        self._rows.__exit__(None, None, None)


@contextlib.contextmanager
def _rows() -> Iterator[Progress]:
    """Yields the bars that are shown: new ones, or within another bar's work that one's (rich allows but one)."""
    if _shown:
        yield _shown[-1]
        return
    with _bar() as bar:
        _shown.append(bar)
        try:
            yield bar
        finally:
            _shown.remove(bar)


def _end(bar: Progress, task: TaskID) -> None:
    """Takes a row away that stands below others; the last one is left to be seen."""
    if len(bar.tasks) > 1:
        bar.remove_task(task)


def _bar() -> Progress:
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = TextColumn("left")
    return Progress(*columns, TimeRemainingColumn(), left, console=console, transient=not console.is_terminal)
