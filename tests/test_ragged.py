"""Rows of unequal length, held to plain lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmm.ragged import Ragged

ROWS = st.lists(st.lists(st.integers(-5, 99), max_size=6), max_size=8)


def as_lists(ragged: Ragged) -> list[list]:
    return [row.tolist() for row in ragged]


@given(ROWS)
def test_rows_come_back_as_they_went_in(rows):
    ragged = Ragged.from_rows(rows, np.int64)
    assert as_lists(ragged) == rows
    assert len(ragged) == len(rows)
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.row_numbers.tolist() == [number for number, row in enumerate(rows) for _ in row]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 99)), max_size=30))
def test_groups_keep_the_order_in_which_their_values_came(pairs):
    groups, values = np.array([g for g, _ in pairs], np.int64), np.array([v for _, v in pairs], np.int64)
    expected = [[v for g, v in pairs if g == group] for group in range(5)]
    assert as_lists(Ragged.from_groups(groups, values, 5)) == expected


@given(ROWS, st.data())
def test_take_is_list_indexing(rows, data):
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10)) if rows else []
    taken = Ragged.from_rows(rows, np.int64).take(np.array(wanted, np.int64))
    assert as_lists(taken) == [rows[row] for row in wanted]


@given(ROWS, st.integers(0, 8))
def test_dense_holds_the_newest_values_left_aligned(rows, width):
    dense = Ragged.from_rows(rows, np.int64).to_dense(width, fill=-7)
    kept = [row[len(row) - width :] if len(row) > width else row for row in rows]
    assert dense.shape == (len(rows), width)
    assert dense.tolist() == [row + [-7] * (width - len(row)) for row in kept]


def test_dense_is_as_wide_as_the_longest_row_unless_told_otherwise():
    assert Ragged.from_rows([[1], [2, 3, 4], []], np.int64).to_dense().tolist() == [[1, -1, -1], [2, 3, 4], [-1] * 3]
    assert Ragged.from_rows([], np.int64).to_dense().shape == (0, 0)


def test_strings_stay_whole():
    ragged = Ragged.from_rows([["围巾", ""], []], object)
    assert ragged.to_dense(fill="").tolist() == [["围巾", ""]] + [["", ""]]
    assert ragged.values.dtype == object


@pytest.mark.parametrize("offsets", [[], [1, 3], [0, 2], [0, 4], [0, 2, 1, 3]])
def test_offsets_that_do_not_cut_the_values_are_refused(offsets):
    with pytest.raises(ValueError, match="offsets"):
        Ragged(np.arange(3), np.array(offsets, np.int64))


def test_where_keeps_rows_that_lose_all_their_values():
    rows = Ragged.from_rows([[4, 5], [], [6]], np.int64)
    assert as_lists(rows.where(np.array([False, True, False]))) == [[5], [], []]
