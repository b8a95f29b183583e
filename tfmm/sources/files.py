"""A raw file -> `Table`, by what its name says it is: CSV, JSONL (either also gzipped) or Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
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


def required(folder: Path, name: str, *, remedy: str) -> Path:
    """Returns `folder/name`.

    Raises:
        ValueError: where it is not there; it says what is, and `remedy`.
    """
    path = folder / name
    if not path.is_file():
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        got = ", ".join(names[:10]) or ("an empty folder" if folder.is_dir() else "no such folder")
        raise ValueError(f"{folder}: expected {name}, got {got}{dirt.nearest(name, names)}. {remedy}")
    return path


def read_vectors(path: Path, findings: dirt.Findings, *, num_rows: int, of: str) -> np.ndarray:
    """Returns `[num_rows, dim]` float32, NaN in rows that are missing or not finite.

    Args:
        path: what numpy.save wrote.
        findings: gets the rows that are not finite.
        num_rows: how many there must be.
        of: the file whose rows these are.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: expected an array that numpy.save wrote, got something else ({error}).") from error
    if vectors.ndim != 2 or vectors.shape[0] != num_rows or not np.issubdtype(vectors.dtype, np.number):
        raise ValueError(
            f"{path}: expected numbers [{num_rows}, dim], a row for each of the {num_rows} rows of {of} (those that "
            f"are dropped included), got {vectors.dtype} {list(vectors.shape)}. Compute it again from this {of}."
        )
    vectors = vectors.astype(np.float32)
    wrong = np.isinf(vectors).any(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        example = dirt.place(path.name, row + 1, None, vectors[row].tolist())
        dirt.note(findings, "vector that is not finite", int(wrong.sum()), example)
        vectors[wrong] = np.nan
    return vectors


def read_json(path: Path, *, expected: str) -> Any:
    """Returns what a JSON file holds; where it holds none, the error says what was `expected`."""
    try:
        return json.loads(tables.read_utf8(path, "utf-8")[0])
    except ValueError as error:
        raise ValueError(f"{path}: expected {expected}, got something else ({error}). Export it again.") from error


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


def read_jsonl(
    path: Path, findings: dirt.Findings, *, encoding: str = "utf-8", schemas: Sequence[pa.Schema] = ()
) -> tables.Table:
    """Returns the objects of a file that has one a line; lines that are none are dropped and noted.

    Args:
        path: may be gzipped, where its name ends so.
        findings: gets what was dropped and repaired.
        encoding: of the bytes.
        schemas: of the same columns, the only ones that are read, with their types: the first that fits the values.
            Where none does, types are taken from the values; without any, all columns are read.
    """
    data, repaired = tables.read_utf8(path, encoding)
    if not data.strip():
        raise ValueError(f"{path}: expected one JSON object a line, got an empty file. Export it again.")
    columns = _arrow_jsonl(data, schemas)
    if columns is not None and columns.num_rows == data.count(b"\n") + (not data.endswith(b"\n")):
        table = tables.from_arrow(path, columns, first_row=1)
    else:
        table = _good_jsonl(path, data, findings, schemas)
    if repaired:
        tables.note_replaced(table, findings)
    return table


def _arrow_jsonl(data: bytes, schemas: Sequence[pa.Schema] = ()) -> Optional[pa.Table]:
    """Returns the columns where pyarrow can read the objects, else None."""
    for schema in schemas:
        columns = _arrow_columns(data, schema)
        if columns is not None:
            return columns
    return None if schemas else _arrow_inferred(data)


def _arrow_columns(data: bytes, schema: pa.Schema) -> Optional[pa.Table]:
    reading = pyarrow.json.ReadOptions(block_size=min(tables.BLOCK_BYTES, len(data)))
    parsing = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        return pyarrow.json.read_json(pa.BufferReader(data), read_options=reading, parse_options=parsing)
    except pa.ArrowInvalid:
        return None


def _arrow_inferred(data: bytes) -> Optional[pa.Table]:
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


def _good_jsonl(path: Path, data: bytes, findings: dirt.Findings, schemas: Sequence[pa.Schema]) -> tables.Table:
    """Returns the table of the lines that are objects, for files with bad lines, blank lines or mixed types."""
    lines = data.split(b"\n")
    filled = np.array([bool(line.strip()) for line in lines])
    good = np.concatenate([_are_objects(lines[at : at + _LINES], schemas) for at in range(0, len(lines), _LINES)])
    bad = np.flatnonzero(filled & ~good)
    if len(bad):
        example = dirt.place(path.name, int(bad[0]) + 1, None, lines[bad[0]].decode())
        dirt.note(findings, "line that is not a JSON object", len(bad), example)
    kept = [lines[at] for at in np.flatnonzero(good)]
    columns = _arrow_jsonl(b"\n".join(kept), schemas) if kept else None
    if columns is None or columns.num_rows != len(kept):
        columns = _mixed_jsonl(kept, schemas)
    records = np.cumsum(filled)[good] - 1
    return tables.checked(tables.Table(path, columns, np.flatnonzero(good) + 1, records, int(filled.sum())))


def _are_objects(lines: list[bytes], schemas: Sequence[pa.Schema]) -> np.ndarray:
    """Returns `[num_lines]` bool; one by one only where pyarrow cannot read them together."""
    columns = _arrow_jsonl(b"\n".join(lines), schemas) if any(lines) else None
    if columns is not None and columns.num_rows == len(lines):
        return np.ones(len(lines), dtype=bool)
    return np.array([_json_object(line) is not None for line in lines])


def _mixed_jsonl(lines: list[bytes], schemas: Sequence[pa.Schema]) -> pa.Table:
    """Returns the columns of objects whose values of one name are of several types."""
    rows = [json.loads(line) for line in lines]
    names = schemas[0].names if schemas else list(dict.fromkeys(name for row in rows for name in row))
    values = {name: [row.get(name) for row in rows] for name in names}
    for field in schemas[0] if schemas else ():
        if pa.types.is_list(field.type):  # one value alone stands for a list of it
            values[field.name] = [
                value if isinstance(value, list) or value is None else [value] for value in values[field.name]
            ]
    return pa.table({name: _json_column(column) for name, column in values.items()})


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
