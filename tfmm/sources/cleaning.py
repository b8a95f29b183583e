"""Tables of any source -> clean ids, events, users and queries, by the rules of `dirt`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfmm.ragged import NO_ITEM, Ragged
from tfmm.sources import columns, dirt
from tfmm.sources.dataset import Interactions, KnownQueries
from tfmm.sources.mapping import InteractionColumns, QueryColumns
from tfmm.sources.tables import Table

MAX_EVENT_TYPES = 64


def unique_rows(
    table: Table, column: str, findings: dirt.Findings, *, nameless: str, twice: str, differs: Optional[str] = None
) -> tuple[Table, np.ndarray]:
    """Returns the first row of every id, and the ids, `[num_rows]` str (object).

    Args:
        table: items, users or overviews.
        column: of the ids.
        findings: gets what was dropped.
        nameless: the problem of rows without an id.
        twice: the problem of rows that repeat an id.
        differs: the problem of those among them that say something else than the first; None = not told apart.
    """
    row_codes, ids = columns.codes(table[column])
    table.note(findings, "space around an id", columns.has_spaces(table[column]) & (row_codes >= 0), column)
    table.note(findings, nameless, row_codes < 0, column)
    named = row_codes >= 0
    positions = np.flatnonzero(named)
    first = np.full(len(ids), -1, dtype=np.int64)
    first[row_codes[named][::-1]] = positions[::-1]  # of several writers the last one wins: the first row
    keep = np.zeros(len(table), dtype=bool)
    keep[first[first >= 0]] = True
    again = np.flatnonzero(named & ~keep)
    changed = np.zeros(len(table), dtype=bool)
    if differs and len(again):
        changed[again] = _differ(table, again, first[row_codes[again]])
        table.note(findings, differs, changed, column)
    table.note(findings, twice, named & ~keep & ~changed, column)
    return table.take(keep), ids[row_codes[keep]]


def _differ(table: Table, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns `[len(rows)]` bool: whether a row says something else than its counterpart in `others`."""
    changed = np.zeros(len(rows), dtype=bool)
    for column in table.columns.columns:
        if not pa.types.is_nested(column.type) or columns.is_list(column):
            one, other = (columns.strings(column.take(pa.array(at))) for at in (rows, others))
            changed |= np.asarray(pc.not_equal(one, other))
    return changed


def events(
    table: Table, roles: InteractionColumns, item_ids: np.ndarray, findings: dirt.Findings, *, order: Sequence[str] = ()
) -> tuple[Interactions, np.ndarray, tuple[str, ...]]:
    """Returns the clean events, the user ids and the event types, weakest first.

    Args:
        table: the interactions file.
        roles: its columns; `user` and `item` are there. Without `time` the order of the rows is the time.
        item_ids: `[num_items]` str (object), the catalogue.
        findings: gets what was dropped and repaired.
        order: event types, weakest first; where none are given, the more frequent is the weaker.
    """
    frame, users, types = _frame(table, roles, item_ids, findings)
    frame = _drop(frame, frame.user < 0, "event without a user id", table, roles.user, findings)
    frame = _drop(frame, frame.item == _EMPTY, "event without an item id", table, roles.item, findings)
    frame = _drop(frame, frame.item == NO_ITEM, "unknown item id", table, roles.item, findings)
    frame = _drop(frame, frame.late, "time that cannot be read", table, roles.time, findings)
    frame = _drop(frame, frame.time < 0, "negative time", table, roles.time, findings)
    frame, event_types = _order_types(frame, types, order, table, roles.event, findings)
    fields = ["user", "item", "time", "event", "value"]
    frame = _drop(frame, frame[fields].duplicated(), "exact duplicate event", table, roles.item, findings)
    if frame.empty:
        raise dirt.nothing_left("event", str(table.path), findings)
    _note_disorder(frame, table, roles.time, findings)
    user, seen = pd.factorize(frame.user.to_numpy())
    columns_of = {name: frame[name].to_numpy() for name in fields[1:]}
    return Interactions.ordered(user=user, **columns_of), users[seen], event_types


_EMPTY = NO_ITEM - 1


def _frame(
    table: Table, roles: InteractionColumns, item_ids: np.ndarray, findings: dirt.Findings
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Returns every row as numbers (the index is its position in the table), the user ids and the event types."""
    num_rows = len(table)
    user, users = columns.codes(table[str(roles.user)])
    item = item_rows(table[str(roles.item)], item_ids)
    for name, filled in ((str(roles.user), user >= 0), (str(roles.item), item != _EMPTY)):
        table.note(findings, "space around an id", columns.has_spaces(table[name]) & filled, name)
    time, late = np.arange(num_rows), np.zeros(num_rows, dtype=bool)
    if roles.time:
        time, late = columns.times(table[roles.time])
    event, types = np.zeros(num_rows, dtype=np.int64), np.array(["interaction"], dtype=object)
    if roles.event:
        event, types = columns.codes(table[roles.event])
    value = np.ones(num_rows)
    if roles.value:
        value, wrong = columns.numbers(table[roles.value])
        table.note(findings, "value that is not a number", wrong, roles.value)
        value = np.where(np.isnan(value), 1, value)
    frame = {"user": user, "item": item, "time": time, "late": late, "event": event, "value": value.astype(np.float32)}
    return pd.DataFrame(frame), users, types


def item_rows(column: object, item_ids: np.ndarray) -> np.ndarray:
    """Returns `[num_rows]` int64: the row of each id in the catalogue, -1 where unknown, -2 where empty."""
    codes, names = columns.codes(column)
    index = {item_id: row for row, item_id in enumerate(item_ids)}
    rows = np.array([index.get(name, NO_ITEM) for name in names] + [_EMPTY], dtype=np.int64)
    return rows[codes]


def _drop(
    frame: pd.DataFrame, wrong: pd.Series, problem: str, table: Table, column: Optional[str], findings: dirt.Findings
) -> pd.DataFrame:
    count = int(wrong.sum())
    if count == 0:
        return frame
    dirt.note(findings, problem, count, table.example(int(frame.index[wrong.to_numpy().argmax()]), column))
    return frame[~wrong]


def _order_types(
    frame: pd.DataFrame,
    types: np.ndarray,
    order: Sequence[str],
    table: Table,
    column: Optional[str],
    findings: dirt.Findings,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Returns the events numbered by strength, and the types, weakest first."""
    counts = np.bincount(frame.event[frame.event >= 0], minlength=len(types))
    used = [row for row in range(len(types)) if counts[row]]
    if len(used) > MAX_EVENT_TYPES:
        raise ValueError(
            f"{table.path} row 1 column {column}: expected at most {MAX_EVENT_TYPES} types of event, got {len(used)} "
            f"({types[used[0]]!r}, {types[used[1]]!r}, ...). Name the right column, or none, in dataset.yaml: "
            f"interactions: {{event: none}}"
        )
    by_frequency = sorted(used, key=lambda row: (-counts[row], types[row]))
    names = tuple(order) if order and column else tuple(types[row] for row in by_frequency) or ("interaction",)
    strength = {name: rank for rank, name in enumerate(names)}
    ranks = np.array([strength.get(name, -1) for name in types] + [0], dtype=np.int64)  # the last one: no type
    at = frame.event.to_numpy()
    if (at < 0).any():
        dirt.note(findings, "event without a type", int((at < 0).sum()), _first(table, frame, at < 0, column))
    frame = frame.assign(event=ranks[at])
    problem = "event type that dataset.yaml leaves out"
    return _drop(frame, frame.event < 0, problem, table, column, findings), names


def _first(table: Table, frame: pd.DataFrame, wrong: np.ndarray, column: Optional[str]) -> str:
    return table.example(int(frame.index[wrong.argmax()]), column)


def _note_disorder(frame: pd.DataFrame, table: Table, column: Optional[str], findings: dirt.Findings) -> None:
    order = np.argsort(frame.user.to_numpy(), kind="stable")
    user, time = frame.user.to_numpy()[order], frame.time.to_numpy()[order]
    early = np.zeros(len(frame), dtype=bool)
    early[order[1:]] = (user[1:] == user[:-1]) & (time[1:] < time[:-1])
    if early.any():
        problem = "event earlier than the one above it"
        dirt.note(findings, problem, int(early.sum()), _first(table, frame, early, column))


def queries(table: Table, roles: QueryColumns, item_ids: np.ndarray, findings: dirt.Findings) -> Optional[KnownQueries]:
    """Returns the distinct queries, in the order of the file, each with its distinct items; None where none is left."""
    at, names = columns.codes(table[str(roles.text)])
    rows = item_rows(table[str(roles.item)], item_ids)
    table.note(findings, "query without text", at < 0, roles.text)
    table.note(findings, "unknown item id", (at >= 0) & (rows < 0), roles.item)
    pairs = pd.DataFrame({"query": at, "item": rows})[(at >= 0) & (rows >= 0)].drop_duplicates()
    if pairs.empty:
        return None
    groups, seen = pd.factorize(pairs["query"].to_numpy())
    relevant = Ragged.from_groups(groups, pairs["item"].to_numpy(np.int32), len(seen))
    return KnownQueries.typed(names[seen], relevant)
