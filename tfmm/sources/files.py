"""A raw file -> `Table`, by what its name says it is: CSV, JSONL (either also gzipped) or Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from tfmm.sources import delimited, dirt, tables

SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_LINES = 4096  # of a JSONL file with bad lines, read together: a bad one costs reading so many one by one


def find(folder: Path, stem: str) -> Optional[Path]:
    """Returns `folder/stem.csv`, `.jsonl` (either also gzipped) or `.parquet`, or None.

    Raises:
        ValueError: where there are several, since nobody can know which one is meant.
    """
    found = [folder / (stem + suffix) for suffix in SUFFIXES if (folder / (stem + suffix)).is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise ValueError(f"{folder}: expected one {stem} file, got {names}. Keep one of them in the folder.")
    return found[0] if found else None


def read(path: Path, findings: dirt.Findings, *, encoding: str = "utf-8") -> tables.Table:
    """Returns the rows of a CSV, JSONL or Parquet file, told apart by the file's name."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return read_parquet(path)
    if name.endswith((".jsonl", ".jsonl.gz")):
        return read_jsonl(path, findings, encoding=encoding)
    return delimited.read_csv(path, findings, layout=delimited.CsvFormat(encoding=encoding))


def read_parquet(path: Path) -> tables.Table:
    """Returns the rows of a Parquet file; row 1 is the first one."""
    try:
        columns = pyarrow.parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: expected a Parquet file, got something else ({error}). Write it again.") from error
    return tables.from_arrow(path, columns, first_row=1)


def read_jsonl(path: Path, findings: dirt.Findings, *, encoding: str = "utf-8") -> tables.Table:
    """Returns the objects of a file that has one a line; lines that are none are dropped and noted."""
    data, repaired = tables.read_utf8(path, encoding)
    if not data.strip():
        raise ValueError(f"{path}: expected one JSON object a line, got an empty file. Export it again.")
    columns = _arrow_jsonl(data)
    if columns is not None and columns.num_rows == data.count(b"\n") + (not data.endswith(b"\n")):
        table = tables.from_arrow(path, columns, first_row=1)
    else:
        table = _good_jsonl(path, data, findings)
    if repaired:
        tables.note_replaced(table, findings)
    return table


def _arrow_jsonl(data: bytes) -> Optional[pa.Table]:
    """Returns the columns where pyarrow can read the objects, else None."""
    reading = pyarrow.json.ReadOptions(block_size=min(tables.BLOCK_BYTES, len(data)))
    try:
        columns = pyarrow.json.read_json(pa.BufferReader(data), read_options=reading)
        dates = [field.name for field in columns.schema if pa.types.is_timestamp(field.type)]
        if dates:  # pyarrow turns every string that looks like a date into one: read them as they were written
            schema = pyarrow.json.ParseOptions(explicit_schema=pa.schema([(name, pa.string()) for name in dates]))
            names = columns.column_names
            columns = pyarrow.json.read_json(pa.BufferReader(data), read_options=reading, parse_options=schema)
            columns = columns.select(names)
    except pa.ArrowInvalid:
        return None
    return columns


def _good_jsonl(path: Path, data: bytes, findings: dirt.Findings) -> tables.Table:
    """Returns the table of the lines that are objects, for files with bad lines, blank lines or mixed types."""
    lines = data.split(b"\n")
    filled = np.array([bool(line.strip()) for line in lines])
    good = np.concatenate([_are_objects(lines[at : at + _LINES]) for at in range(0, len(lines), _LINES)])
    bad = np.flatnonzero(filled & ~good)
    if len(bad):
        example = dirt.place(path.name, int(bad[0]) + 1, None, lines[bad[0]].decode())
        dirt.note(findings, "line that is not a JSON object", len(bad), example)
    kept = [lines[at] for at in np.flatnonzero(good)]
    columns = _arrow_jsonl(b"\n".join(kept)) if kept else None
    if columns is None or columns.num_rows != len(kept):
        columns = _mixed_jsonl(kept)
    records = np.cumsum(filled)[good] - 1
    return tables.checked(tables.Table(path, columns, np.flatnonzero(good) + 1, records, int(filled.sum())))


def _are_objects(lines: list[bytes]) -> np.ndarray:
    """Returns `[num_lines]` bool; one by one only where pyarrow cannot read them together."""
    columns = _arrow_jsonl(b"\n".join(lines)) if any(lines) else None
    if columns is not None and columns.num_rows == len(lines):
        return np.ones(len(lines), dtype=bool)
    return np.array([_json_object(line) is not None for line in lines])


def _mixed_jsonl(lines: list[bytes]) -> pa.Table:
    """Returns the columns of objects whose values of one name are of several types."""
    rows = [json.loads(line) for line in lines]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _json_column([row.get(name) for row in rows]) for name in names})


def _json_object(line: bytes) -> Optional[dict[str, Any]]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _json_column(values: list[Any]) -> pa.Array:
    """Returns the values as one type; as the text of each, where they are of several."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])
