"""Files are read in bulk, whatever is wrong in them, and every row knows where it stood."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmm.sources import columns, delimited, files
from tfmm.sources.delimited import CsvFormat

CELL = st.text(st.characters(blacklist_categories=("Cs", "Cc")) | st.sampled_from('\n",;'), max_size=8)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(CELL, CELL, CELL).filter(any), min_size=1, max_size=8))
def test_csv_cells_come_back_as_the_standard_library_wrote_them(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("a", "b", "c"), *rows])
    table = files.read(path, [])
    assert list(zip(*(table[name].to_pylist() for name in "abc"))) == rows


def test_row_numbers_are_those_a_spreadsheet_shows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'\n\na,b\n1,x\n\n2\n"3\n3",y\n4,5,6\n7,z\n')
    findings: list = []
    table = files.read(path, findings)
    sheet = list(csv.reader(io.StringIO(path.read_text())))  # blank lines are rows, a quoted line break is none
    for position, row in enumerate(table.rows):
        assert sheet[row - 1] == [table["a"][position].as_py(), table["b"][position].as_py()]
    assert table["a"].to_pylist() == ["1", "3\n3", "7"]
    assert table.records.tolist() == [0, 2, 4] and table.num_records == 5
    assert [(found.count, found.example) for found in findings] == [(2, "t.csv row 6: expected 2 fields, got 1: '2'")]


def test_row_numbers_without_a_header_start_at_the_first_row(tmp_path):
    path = tmp_path / "t.dat"
    path.write_text("1::x\n2\n3::y\n")
    table = delimited.read_csv(path, [], layout=CsvFormat(delimiter="::", names=("a", "b"), quotes=False))
    assert table.rows.tolist() == [1, 3] and table["b"].to_pylist() == ["x", "y"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_read_from_the_header(tmp_path, delimiter):
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,3\n".replace(",", delimiter))
    assert files.read(tmp_path / "t.csv", []).columns.to_pylist() == [{"a": "1", "b": "2", "c": "3"}]


def test_gzip_bom_and_utf16_make_no_difference(tmp_path):
    text = "id,title\n1,Größe 紅\n2,x\n"
    (tmp_path / "plain.csv").write_text(text, "utf-8")
    (tmp_path / "gz.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "bom.csv").write_text(text, "utf-8-sig")
    (tmp_path / "wide.csv").write_text(text, "utf-16")
    tables = [files.read(tmp_path / name, []) for name in ("plain.csv", "gz.csv.gz", "bom.csv", "wide.csv")]
    assert all(table.columns.equals(tables[0].columns) for table in tables)


def test_another_encoding_is_read_when_named_and_repaired_when_not(tmp_path):
    (tmp_path / "t.csv").write_text("id,title\n1,ok\n2,Größe\n", "cp1252")
    findings: list = []
    assert files.read(tmp_path / "t.csv", findings, encoding="cp1252")["title"].to_pylist() == ["ok", "Größe"]
    assert findings == []
    assert files.read(tmp_path / "t.csv", findings)["title"].to_pylist() == ["ok", "Gr\ufffd\ufffde"]
    assert str(findings[0]).startswith("byte that cannot be decoded: 1 repaired, e.g. t.csv row 3 column title: 'Gr")


def test_jsonl_with_bad_lines_reads_as_without_them(tmp_path):
    good = [{"id": "2020-01-01", "n": 1, "tags": ["a", "b"]}, {"id": "x", "n": None, "tags": []}, {"n": 2.5}]
    lines = [json.dumps(row) for row in good]
    (tmp_path / "clean.jsonl").write_text("\n".join(lines))
    (tmp_path / "dirty.jsonl").write_text("\n".join([lines[0], "", "{broken", lines[1], "[1]", lines[2], ""]))
    findings: list = []
    clean, dirty = (files.read(tmp_path / f"{name}.jsonl", findings) for name in ("clean", "dirty"))
    assert clean.columns.to_pylist() == dirty.columns.to_pylist()
    assert dirty.rows.tolist() == [1, 4, 6] and dirty.records.tolist() == [0, 2, 4] and dirty.num_records == 5
    assert [str(found) for found in findings] == [
        "line that is not a JSON object: 2 dropped, e.g. dirty.jsonl row 3: '{broken'"
    ]


def test_jsonl_dates_stay_what_was_written(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"t": "2020-01-02"}\n{"t": "2020-01-03"}\n')
    assert files.read(tmp_path / "t.jsonl", [])["t"].to_pylist() == ["2020-01-02", "2020-01-03"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", b"", "expected a header and rows, got an empty file"),
        ("t.csv", b"a,b,a\n1,2,3\n", "expected every column once, got 'a' twice"),
        ("t.csv", b'a,b\n1,"' + b"x,y\n" * (1 << 23), 'a quote (") that is never closed'),
        ("t.csv.gz", b"no gzip", "expected a whole gzip file"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-9], "expected a whole gzip file"),
        ("t.jsonl", b" \n", "expected one JSON object a line, got an empty file"),
        ("t.parquet", b"no parquet", "expected a Parquet file"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        files.read(tmp_path / name, [])
    assert message in str(error.value) and str(tmp_path / name) in str(error.value)


def test_two_files_of_one_kind_are_refused(tmp_path):
    for name in ("items.csv", "items.parquet"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="items.csv and items.parquet. Keep one"):
        files.find(tmp_path, "items")


def test_an_index_column_without_a_name_is_left_out(tmp_path):
    (tmp_path / "t.csv").write_text(",a\n0,x\n1,y\n")
    assert files.read(tmp_path / "t.csv", []).names == ["a"]


def test_a_typed_column_falls_back_on_strings_where_a_value_does_not_fit(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,x\n")
    table = delimited.read_csv(tmp_path / "t.csv", [], layout=CsvFormat(types={"a": pa.int64(), "b": pa.int64()}))
    assert table.columns.to_pylist() == [{"a": "1", "b": "2"}, {"a": "3", "b": "x"}]


JAN_2 = 1577923200  # 2020-01-02T00:00:00Z: 18,263 days after the epoch


@pytest.mark.parametrize(
    "written",
    [
        "1577923200",
        "1577923200.9",
        "1577923200000",
        "1577923200000000",
        "2020-01-02",
        "20200102",
        "2020-01-02T00:00:00",
        "2020-01-02 00:00:00.5",
        "2020-01-02T00:00:00Z",
        "2020-01-02T08:00:00+08:00",
        "2020-01-01T19:00:00-0500",
    ],
)
def test_every_way_to_write_a_time_is_the_same_second(written):
    assert JAN_2 == 18263 * 86400
    seconds, wrong = columns.times(pa.chunked_array([[written, None], [written]]))
    assert seconds[[0, 2]].tolist() == [JAN_2, JAN_2] and wrong.tolist() == [False, True, False]


def test_typed_times_agree_with_written_ones():
    naive = np.array(["2020-01-02"], "datetime64[s]")
    for kind in (pa.timestamp("ns"), pa.timestamp("ms", tz="UTC"), pa.timestamp("us", tz="Asia/Shanghai"), pa.date32()):
        seconds, wrong = columns.times(pa.array(naive).cast(kind))
        assert seconds.tolist() == [JAN_2] and not wrong.any(), kind


def test_ids_are_the_same_as_text_integer_and_float():
    as_text, as_integer = pa.array(["7", "12", "7"]), pa.array([7, 12, 7])
    for column in (as_text, as_integer, as_integer.cast(pa.float64()), pa.array(["7.0", "12.0", "7.0"])):
        positions, names = columns.codes(column)
        assert positions.tolist() == [0, 1, 0] and names.tolist() == ["7", "12"]
    assert columns.codes(pa.array(["007", "7"]))[1].tolist() == ["007", "7"]


def test_numbers_tell_missing_from_wrong():
    values, wrong = columns.numbers(pa.array([" 1.5 ", "-2e3", "", "NaN", "n/a", None, "12,50", "1e999"]))
    np.testing.assert_array_equal(values, [1.5, -2000] + [np.nan] * 6)
    assert wrong.tolist() == [False] * 6 + [True, True]


def test_lists_are_the_same_as_list_and_as_marked_string():
    as_list = pa.chunked_array([[["a", "b "], None], [[], ["c", ""]]])
    as_text = pa.chunked_array([["a| b", ""], [None, "c|"]])
    for column in (as_list, as_text):
        assert [row.tolist() for row in columns.lists(column)] == [["a", "b"], [], [], ["c"]]


def test_parquet_dictionary_columns_are_strings(tmp_path: Path):
    column = pa.array(["x", "y", "x"]).dictionary_encode()
    pyarrow.parquet.write_table(pa.table({"a": column}), tmp_path / "t.parquet")
    table = files.read(tmp_path / "t.parquet", [])
    assert columns.texts(table["a"]).tolist() == ["x", "y", "x"]
    assert columns.codes(table["a"])[1].tolist() == ["x", "y"]
