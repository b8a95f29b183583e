"""Columns that play no named role -> numeric, categorical or text, told apart by their values."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfmm.ragged import Ragged
from tfmm.sources import columns

NUMERIC, CATEGORICAL, TEXT, IGNORED = "numeric", "categorical", "text", "ignored"
_MIN_SHARE_OF_NUMBERS = 0.9
_FEW_VALUES = 20  # so many are few in any shop
_MAX_SHARE_OF_VALUES = 0.5  # of the filled rows; more distinct values say nothing that another product shares
_LONG = 40  # characters, on average
_WORDS = r"\S\s+\S|[^\x00-\x7f]{4,}"  # a space between words, or a script that writes none
_QUANTILES = 5
_MAX_LABELS = 10


def kind(column: Any) -> str:
    """Returns what a column is: "numeric", "categorical", "text" or "ignored".

    Numeric: numbers, or strings of which 9 in 10 are numbers. Categorical: values that several rows share (at most 20
    distinct ones, or half as many as there are filled rows) and that are short (40 characters on average). Text: the
    other ones, where most hold several words. Ignored: the rest (codes, addresses, nested objects).
    """
    if columns.is_number(column):
        return NUMERIC if column.null_count < len(column) else IGNORED
    if pa.types.is_nested(column.type) and not columns.is_list(column) or pa.types.is_binary(column.type):
        return IGNORED
    return _kind_of_list(column) if columns.is_list(column) else _kind_of_strings(column)


def _kind_of_list(column: Any) -> str:
    values = columns.lists(column)
    return CATEGORICAL if _is_shared(values, len(column)) else IGNORED


def _kind_of_strings(column: Any) -> str:
    text = columns.strings(column)
    filled = text.filter(pc.not_equal(text, ""))
    if len(filled) == 0:
        return IGNORED
    values, wrong = columns.numbers(filled)
    if not np.isnan(values).all() and wrong.mean() <= 1 - _MIN_SHARE_OF_NUMBERS:
        return NUMERIC
    if _is_shared(columns.lists(filled), len(filled)):
        return CATEGORICAL
    return TEXT if _mostly_words(filled) else IGNORED


def is_text(column: Any) -> bool:
    """Returns whether most of what is filled holds several words; unlike `kind`, whether or not rows share it."""
    if columns.is_number(column) or pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return False
    text = columns.strings(column)
    filled = text.filter(pc.not_equal(text, ""))
    return len(filled) > 0 and _mostly_words(filled)


def _mostly_words(filled: Any) -> bool:
    return bool(pc.mean(pc.match_substring_regex(filled, _WORDS)).as_py() >= 0.5)


def _is_shared(values: Ragged, num_rows: int) -> bool:
    distinct = pd.unique(values.values)
    total_length = sum(len(value) for value in distinct)
    few = len(distinct) <= max(_FEW_VALUES, _MAX_SHARE_OF_VALUES * num_rows)
    return bool(len(distinct)) and few and total_length <= _LONG * len(distinct)


def sort_out(table: pa.Table, *, taken: Collection[str], given: dict[str, Collection[str]]) -> dict[str, list[str]]:
    """Returns kind -> columns.

    Args:
        table: the columns.
        taken: columns that play a named role.
        given: kind -> columns, what dataset.yaml says; the others are told by their values.
    """
    said = {name: which for which, names in given.items() for name in names}
    kinds: dict[str, list[str]] = {NUMERIC: [], CATEGORICAL: [], TEXT: [], IGNORED: []}
    for name in table.column_names:
        if name not in taken:
            kinds[said.get(name) or kind(table[name])].append(name)
    return kinds


def binned(column: Any) -> Ragged:
    """Returns numbers as labels: the numbers themselves where they are at most 10, else the fifth they fall into."""
    values, _ = columns.numbers(column)
    known = ~np.isnan(values)
    distinct = np.unique(values[known])
    if len(distinct) <= _MAX_LABELS:
        labels = np.array([f"{value:g}" for value in values[known]], dtype=object)
    else:
        edges = np.unique(np.quantile(values[known], np.linspace(0, 1, _QUANTILES + 1)))
        names = np.array([f"{low:g}..{high:g}" for low, high in zip(edges[:-1], edges[1:])], dtype=object)
        labels = names[np.clip(np.searchsorted(edges, values[known], side="right") - 1, 0, len(names) - 1)]
    return Ragged(labels, np.concatenate([[0], np.cumsum(known)]).astype(np.int64))
