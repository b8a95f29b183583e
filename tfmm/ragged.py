"""Rows of unequal length as two flat arrays: the numpy counterpart of `tf.RaggedTensor`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

NO_ITEM = -1
"""The row number that stands for "no item here" (padding, or an id that the catalogue does not know)."""


@dataclasses.dataclass(frozen=True)
class Ragged:
    """`values[offsets[i]:offsets[i + 1]]` is row i.

    Attributes:
        values: `[total]`, any dtype.
        offsets: `[num_rows + 1]` int64, ascending, from 0 to `total`.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise ValueError(
                f"Ragged offsets must run from 0 to the number of values ({len(self.values)}), "
                f"got {self.offsets[:1]}..{self.offsets[-1:]}."
            )
        if np.any(np.diff(self.offsets) < 0):
            raise ValueError("Ragged offsets must not descend.")

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence], dtype: np.dtype | type | None = None) -> Ragged:
        """Returns the rows packed; `dtype` is needed where all rows may be empty."""
        rows = list(rows)
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
        flat = [value for row in rows for value in row]
        return cls(np.array(flat, dtype=dtype), offsets)

    @classmethod
    def from_groups(cls, groups: np.ndarray, values: np.ndarray, num_rows: int) -> Ragged:
        """Returns `values` gathered by their row number, in their given order within a row.

        Args:
            groups: `[total]` int, the row of each value, in any order.
            values: `[total]`.
            num_rows: how many rows there are, empty ones included.
        """
        order = np.argsort(groups, kind="stable")
        counts = np.bincount(groups, minlength=num_rows)
        return cls(values[order], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """`[num_rows]` int64."""
        return np.diff(self.offsets)

    @property
    def row_numbers(self) -> np.ndarray:
        """`[total]` int64: the row that each value belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: np.ndarray) -> Ragged:
        """Returns the given rows, in the given order."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.values[np.repeat(self.offsets[:-1][rows], lengths) + within], offsets)

    def where(self, mask: np.ndarray) -> Ragged:
        """Returns the rows with just those of their values where `mask`, `[total]` bool, is True."""
        return Ragged.from_groups(self.row_numbers[mask], self.values[mask], len(self))

    def to_dense(self, width: int | None = None, fill: object = NO_ITEM) -> np.ndarray:
        """Returns `[num_rows, width]`: the last `width` values of each row, left-aligned, then `fill`."""
        width = int(self.lengths.max(initial=0)) if width is None else width
        dense = np.full((len(self), width), fill, dtype=self.values.dtype)
        kept = np.minimum(self.lengths, width)
        columns = np.arange(width)[np.newaxis, :]
        mask = columns < kept[:, np.newaxis]
        source = (self.offsets[1:] - kept)[:, np.newaxis] + columns
        dense[mask] = self.values[source[mask]]
        return dense


def in_chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Returns the rows in pieces of at most `size`, alike in length, in order; one empty piece where there are none."""
    return np.array_split(rows, max(1, -(-len(rows) // size)))
