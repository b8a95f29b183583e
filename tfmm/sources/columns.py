"""An Arrow column of any type -> ids, numbers, times, texts or lists, in bulk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfmm.ragged import Ragged

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_NO_NUMBER = pa.array(["", "na", "n/a", "nan", "null", "none", "\\n"])  # what exports write where a number is missing
_UNITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (np.inf, 1_000_000_000))  # below: so many a second
_LIST_MARK = "|"


def is_list(column: Any) -> bool:
    """Returns whether every row holds several values."""
    return pa.types.is_list(column.type) or pa.types.is_large_list(column.type)


def is_number(column: Any) -> bool:
    """Returns whether the file itself says that these are numbers."""
    kind = column.type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_time(column: Any) -> bool:
    """Returns whether the file itself says that these are dates or times."""
    return pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)


def strings(column: Any) -> Any:
    """Returns the column as stripped strings, "" where it is null; whole numbers without a decimal point."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        column = column.cast(pa.int64(), safe=False) if _is_whole(column) else column
    if pa.types.is_boolean(column.type):
        column = pc.if_else(column, "True", "False")  # as pandas writes them to CSV
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if is_list(column):
        column = pc.binary_join(column.cast(pa.list_(pa.string())), _LIST_MARK)
    text = column.cast(pa.string())
    return pc.fill_null(pc.utf8_trim_whitespace(text), "")


def _is_whole(column: Any) -> bool:
    finite = pc.is_finite(column)
    whole = pc.equal(pc.floor(column), column)
    return bool(pc.all(pc.and_(finite, whole)).as_py()) and pc.max(pc.abs(column)).as_py() is not None


def texts(column: Any) -> np.ndarray:
    """Returns `[num_rows]` str (object), stripped, "" where there is none."""
    return np.asarray(strings(column)).astype(object)


def codes(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns each row's position in the distinct values, -1 where it is empty, and the values as they first appear.

    Returns:
        `[num_rows]` int64 and `[num_values]` str (object). Values are stripped; "7.0" is "7" where all are whole.
    """
    chunked = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    if len(chunked) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=object)
    encoded = chunked if pa.types.is_dictionary(chunked.type) else chunked.dictionary_encode()
    merged = encoded.unify_dictionaries().combine_chunks()
    names = strings(merged.dictionary)
    if len(names) and pc.all(pc.match_substring_regex(names, r"^(|[0-9]+\.0)$")).as_py():
        names = pc.replace_substring(names, ".0", "", max_replacements=1)
    distinct, values = pd.factorize(np.array([name or None for name in names.to_pylist()], dtype=object))
    at = np.asarray(pc.fill_null(merged.indices, -1)).astype(np.int64)
    padded = np.append(distinct, -1)  # the last one is what a null (-1) finds
    return padded[at], np.asarray(values, dtype=object)


def has_spaces(column: Any) -> np.ndarray:
    """Returns `[num_rows]` bool: strings that stripping changes."""
    if not pa.types.is_string(column.type):
        return np.zeros(len(column), dtype=bool)
    return np.asarray(pc.fill_null(pc.not_equal(column, pc.utf8_trim_whitespace(column)), False))


def numbers(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[num_rows]` float64, NaN where there is none, and a mask of what is there but is no number."""
    if is_number(column):
        values = np.asarray(column.cast(pa.float64(), safe=False))
        return np.where(np.isfinite(values), values, np.nan), np.isinf(values)
    text = strings(column)
    matches = pc.match_substring_regex(text, _NUMBER)
    missing = pc.is_in(pc.utf8_lower(text), _NO_NUMBER)
    parsed = pc.if_else(matches, text, None).cast(pa.float64())
    values = np.asarray(parsed, dtype=np.float64)
    infinite = np.isinf(values)
    return np.where(infinite, np.nan, values), ~np.asarray(pc.or_(matches, missing)) | infinite


def times(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[num_rows]` int64 seconds since the epoch, and a mask of what is no time (an empty one, too).

    Understood are Arrow's own dates and timestamps, numbers (epoch seconds; milli-, micro- or nanoseconds where half
    of them are too large for seconds; dates such as 20240131 where all are), and ISO 8601 strings. What names no time
    zone is UTC.
    """
    if is_time(column):
        zone = getattr(column.type, "tz", None)
        seconds = column.cast(pa.timestamp("s", tz=zone), safe=False).cast(pa.int64())
        return _filled(seconds), np.asarray(column.is_null())
    values, _ = numbers(column)
    known = ~np.isnan(values)
    seconds, known[known] = np.zeros(len(values), dtype=np.int64), True
    if known.any():
        seconds[known] = _epoch_seconds(values[known])
    if not known.all():
        seconds[~known], wrong = _iso_seconds(texts(column)[~known])
        known[~known] = ~wrong
    return seconds, ~known


def _filled(seconds: Any) -> np.ndarray:
    return np.asarray(pc.fill_null(seconds, 0), dtype=np.int64)


def _epoch_seconds(values: np.ndarray) -> np.ndarray:
    if values.min() >= 19000101 and values.max() <= 21001231:
        days = pd.to_datetime(values.astype(np.int64).astype(str).astype(object), format="%Y%m%d", errors="coerce")
        if not days.isna().any():
            return np.asarray(days.as_unit("s").asi8)
    typical = np.median(np.abs(values))
    divisor = next(divisor for limit, divisor in _UNITS if typical < limit)
    return np.floor(values / divisor).astype(np.int64)


def _iso_seconds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parsed = pd.to_datetime(values, format="ISO8601", utc=True, errors="coerce")
    wrong = np.asarray(parsed.isna())
    return np.where(wrong, 0, parsed.as_unit("s").asi8), wrong


def lists(column: Any) -> Ragged:
    """Returns each row's values: a list's own, or a string's split at `|`; stripped, empty ones left out."""
    if not is_list(column):
        column = pc.split_pattern(strings(column), _LIST_MARK)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0), dtype=np.int64)
    values = texts(pc.list_flatten(column))
    filled = values != ""
    rows = np.repeat(np.arange(len(column)), lengths)[filled]
    counts = np.bincount(rows, minlength=len(column))
    return Ragged(values[filled], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
