"""A raw file's rows as Arrow columns that know where in the file they stood."""

from __future__ import annotations

import codecs
import dataclasses
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmm.sources import dirt

BLOCK_BYTES = 1 << 24  # the longest record that can be read


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a file, as they came, and where they stood in it.

    Attributes:
        path: the file.
        columns: `[num_rows]` rows; CSV columns are strings unless `CsvFormat.types` says otherwise.
        rows: `[num_rows]` int64, row number in the file: 1-based, header and blank lines included (Parquet: no header).
        records: `[num_rows]` int64, 0-based number among all records of the file, those that were dropped included.
        num_records: how many records the file has, those that were dropped included.
    """

    path: Path
    columns: pa.Table
    rows: np.ndarray
    records: np.ndarray
    num_records: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        return self.columns[column]

    @property
    def names(self) -> list[str]:
        return self.columns.column_names

    def take(self, keep: np.ndarray) -> Table:
        """Returns the rows where `keep`, `[num_rows]` bool, is True."""
        columns = self.columns if keep.all() else self.columns.filter(pa.array(keep))
        return dataclasses.replace(self, columns=columns, rows=self.rows[keep], records=self.records[keep])

    def example(self, position: int, column: Optional[str] = None) -> str:
        """Returns file, row, column and value of one cell (of the first cell where no column is given)."""
        value = self.columns[column or self.names[0]][int(position)].as_py()
        return dirt.place(self.path.name, int(self.rows[position]), column, "" if value is None else value)

    def expect(self, names: Sequence[str], *, remedy: str) -> None:
        """Raises ValueError, saying `remedy`, unless all of the named columns are there."""
        for name in names:
            if name not in self.names:
                got, hint = ", ".join(self.names), dirt.nearest(name, self.names)
                raise ValueError(
                    f"{self.path} row 1: expected the columns {', '.join(names)}, got {got}: "
                    f"{name!r} is missing{hint}. {remedy}"
                )

    def note(self, findings: dirt.Findings, problem: str, wrong: np.ndarray, column: Optional[str] = None) -> None:
        """Adds a finding for the rows where `wrong`, `[num_rows]` bool, is True."""
        if wrong.any():
            dirt.note(findings, problem, int(wrong.sum()), self.example(int(wrong.argmax()), column))


def from_arrow(path: Path, columns: pa.Table, *, first_row: int) -> Table:
    """Returns a `Table` of columns whose first row is row `first_row` of the file."""
    number = np.arange(columns.num_rows)
    return checked(Table(path, columns, number + first_row, number, columns.num_rows))


def checked(table: Table) -> Table:
    """Returns the table without nameless columns (an index that pandas wrote); a name twice is an error."""
    twice = sorted({name for name in table.names if table.names.count(name) > 1 and name})
    if twice:
        raise ValueError(f"{table.path}: expected every column once, got {twice[0]!r} twice. Rename or remove one.")
    return dataclasses.replace(table, columns=table.columns.select([name for name in table.names if name]))


def read_utf8(path: Path, encoding: str) -> tuple[bytes, bool]:
    """Returns the file as valid UTF-8 and whether some bytes had to be replaced."""
    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        data = _gunzip(path, data)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    data = data[len(codecs.BOM_UTF8) :] if data.startswith(codecs.BOM_UTF8) else data
    if data.isascii():
        return data, False
    try:
        text = data.decode(encoding)
        return (data if codecs.lookup(encoding).name == "utf-8" else text.encode()), False
    except UnicodeDecodeError:
        return data.decode(encoding, errors="replace").encode(), True
    except LookupError as error:
        raise ValueError(f"{path}: expected the name of an encoding (utf-8, cp1252, ...), got {encoding!r}.") from error


def _gunzip(path: Path, data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, got a broken one ({error}). Copy it again.") from error


def note_replaced(table: Table, findings: dirt.Findings) -> None:
    """Notes cells (and column names) in which bytes were replaced."""
    for name in table.names:
        if "\ufffd" in name:
            example = dirt.place(table.path.name, 1, None, name)
            dirt.note(findings, "byte that cannot be decoded", 1, example)
        if pa.types.is_string(table[name].type):
            replaced = pc.match_substring(table[name], "\ufffd").fill_null(False)
            table.note(findings, "byte that cannot be decoded", np.asarray(replaced), name)
