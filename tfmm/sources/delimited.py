"""CSV and its relatives -> `Table`, read in bulk by pyarrow; rows that do not fit are dropped and noted."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tfmm.sources import dirt, tables

_SEPARATOR = "\x1f"  # stands for a delimiter of several characters


@dataclasses.dataclass(frozen=True)
class CsvFormat:
    """How a delimited file is written.

    Attributes:
        encoding: of the bytes; a byte order mark of UTF-8 or UTF-16 wins.
        delimiter: one or more characters; None = the most frequent of `,`, `;` and tab in the header.
        names: column names of a file without a header.
        quotes: whether `"` quotes a cell.
        types: column -> Arrow type; falls back on strings where a value does not fit.
        open_end: whether the last column may hold the delimiter without quotes.
    """

    encoding: str = "utf-8"
    delimiter: Optional[str] = None
    names: Optional[Sequence[str]] = None
    quotes: bool = True
    types: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    open_end: bool = False


def read_csv(path: Path, findings: dirt.Findings, *, layout: Optional[CsvFormat] = None) -> tables.Table:
    """Returns the rows of a delimited file; rows with a wrong number of fields are dropped and noted."""
    layout = layout or CsvFormat()
    data, repaired = tables.read_utf8(path, layout.encoding)
    stripped = data.lstrip(b"\r\n")
    skipped = data[: len(data) - len(stripped)].count(b"\n")
    if not stripped.strip():
        raise ValueError(f"{path}: expected a header and rows, got an empty file. Export it again.")
    delimiter = layout.delimiter or _sniff(stripped)
    if len(delimiter) > 1:
        stripped, delimiter = stripped.replace(delimiter.encode(), _SEPARATOR.encode()), _SEPARATOR
    header = list(layout.names) if layout.names else _header(path, stripped, delimiter)
    mended: list[int] = []
    if layout.open_end:
        stripped, mended = _quote_ends(stripped, delimiter, len(header))
    table, bad = _parse(path, stripped, header, dataclasses.replace(layout, delimiter=delimiter))
    table = _place_rows(table, bad, skipped=skipped, has_header=layout.names is None)
    for row in bad[:1]:
        came = f"expected {row.expected_columns} fields, got {row.actual_columns}: {dirt.shown(row.text)}"
        example = f"{path.name} row {row.number + skipped}: {came}"
        dirt.note(findings, "row with a wrong number of fields", len(bad), example)
    if mended:
        example = dirt.place(path.name, mended[0] + skipped + 1, header[-1], stripped.split(b"\n")[mended[0]].decode())
        dirt.note(findings, "delimiter that no quotes protect", len(mended), example)
    if repaired:
        tables.note_replaced(table, findings)
    _note_swallowed(table, delimiter, findings)
    return table


def _quote_ends(data: bytes, delimiter: str, num_columns: int) -> tuple[bytes, list[int]]:
    """Returns the data, its last cells quoted in lines with too many delimiters and no quotes, and those lines."""
    mark, most = delimiter.encode(), num_columns - 1
    lines = data.split(b"\n")
    mended = [at for at, line in enumerate(lines) if line.count(mark) > most and b'"' not in line]
    for at in mended:
        *cells, end = lines[at].rstrip(b"\r").split(mark, most)
        lines[at] = mark.join([*cells, b'"' + end + b'"'])
    return b"\n".join(lines), mended


def _parse(path: Path, data: bytes, header: list[str], layout: CsvFormat) -> tuple[tables.Table, list[Any]]:
    """Returns the well-formed rows and, numbered, those with a wrong number of fields."""
    typed = {name: layout.types.get(name, pa.string()) for name in header}
    try:
        columns, bad = _arrow_csv(data, header, layout, typed, threads=True)
        if bad:  # rows are numbered only by one thread
            columns, bad = _arrow_csv(data, header, layout, typed, threads=False)
    except pa.ArrowInvalid as error:
        if any(kind != pa.string() for kind in typed.values()):
            return _parse(path, data, header, dataclasses.replace(layout, types={}))
        raise ValueError(
            f"{path}: expected delimited rows of at most {tables.BLOCK_BYTES >> 20} MB, got something else ({error}). "
            f'Look for a quote (") that is never closed.'
        ) from error
    columns = columns.rename_columns([name.strip() for name in header])
    return tables.from_arrow(path, columns, first_row=2), bad


def _arrow_csv(
    data: bytes, header: list[str], layout: CsvFormat, types: Mapping[str, Any], *, threads: bool
) -> tuple[pa.Table, list[Any]]:
    bad: list[Any] = []

    def skip(row: Any) -> str:
        bad.append(row)
        return "skip"

    columns = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=threads,
            block_size=min(tables.BLOCK_BYTES, len(data)),
            column_names=header if layout.names else None,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char='"' if layout.quotes else False,
            newlines_in_values=layout.quotes,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=False),
    )
    return columns, bad


def _place_rows(table: tables.Table, bad: list[Any], *, skipped: int, has_header: bool) -> tables.Table:
    """Returns the table with its real row numbers, without blank lines and counting dropped rows as records."""
    total = len(table) + len(bad)
    good = np.ones(total, dtype=bool)
    good[[row.number - 1 - has_header for row in bad]] = False
    rows = np.flatnonzero(good) + 1 + skipped + has_header
    blank = _blank(table.columns)
    filled = np.ones(total, dtype=bool)
    filled[np.flatnonzero(good)[blank]] = False
    records = np.cumsum(filled)[good] - 1
    return dataclasses.replace(table, rows=rows, records=records, num_records=int(filled.sum())).take(~blank)


def _blank(columns: pa.Table) -> np.ndarray:
    """Returns `[num_rows]` bool: rows of which every cell is empty."""
    blank = np.ones(columns.num_rows, dtype=bool)
    for column in columns.columns:
        if not blank.any():
            break
        empty = pc.equal(column, "") if pa.types.is_string(column.type) else column.is_null()
        blank &= np.asarray(empty)
    return blank


def _first_line(data: bytes) -> str:
    return data[: 1 << 20].decode(errors="ignore").splitlines()[0]


def _sniff(data: bytes) -> str:
    header = _first_line(data)
    return max(",;\t", key=header.count)


def _header(path: Path, data: bytes, delimiter: str) -> list[str]:
    """Returns the column names as they stand in the file."""
    names = next(csv.reader(io.StringIO(data[: 1 << 20].decode(errors="ignore"), newline=""), delimiter=delimiter))
    if not any(name.strip() for name in names):
        raise ValueError(f"{path}: expected column names in the first row, got {names}. Add a header.")
    return names


def _note_swallowed(table: tables.Table, delimiter: str, findings: dirt.Findings) -> None:
    """Notes cells one line of which is a whole row: what a quote that is never closed does, in silence."""
    delimiters = len(table.columns.column_names) - 1
    for name in table.names:
        if delimiters < 2 or not pa.types.is_string(table[name].type):
            continue
        several = np.flatnonzero(np.asarray(pc.match_substring(table[name], "\n")))
        cells = table[name].take(pa.array(several)).to_pylist()
        wrong = np.zeros(len(table), dtype=bool)
        wrong[several] = [any(line.count(delimiter) == delimiters for line in cell.split("\n")) for cell in cells]
        table.note(findings, "cell that holds whole rows", wrong, name)
