"""Vectors of items: from a frozen encoder, once for each content, or precomputed.

Vectors are looked up by the hash of what was encoded and by what, in every item shard that the directory holds, so
that each picture and text goes through its encoder once, however often the run is stopped or the catalogue changes.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, Protocol, Union

import numpy as np
import tensorflow as tf

from tfmm import schema
from tfmm.records import columns, shards
from tfmm.sources.dataset import Items

Progress = Callable[[int, int], None]
"""Called with (items done, items in all)."""

IMAGE, TEXT, SOUND = "image", "text", "sound"
"""The raw modalities that an encoder may be given for; the names of precomputed ones are free."""

_PRECOMPUTED = "precomputed"
_log = logging.getLogger(__name__)


class Encoder(Protocol):
    """A frozen encoder: of bytes for images and sounds, of str for text."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same content would give another vector."""
        ...

    @property
    def dim(self) -> int:
        """Width of a vector."""
        ...

    def encode(self, contents: Sequence[Any], *, progress: Optional[Progress] = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns vectors `[n, dim]` float32 and `[n]` bool: True where the content could be read."""
        ...


@dataclasses.dataclass(frozen=True)
class _Rows(Sequence):
    """Contents of some rows, read one by one when asked for: big pictures never stand in memory all at once."""

    read: Callable[[int], Any]
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Rows(self.read, self.rows[index])
        return self.read(self.rows[index])


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A modality whose vectors an encoder makes of what `read(row)` returns."""

    modality: str
    fingerprint: str
    encoder: Encoder
    read: Callable[[int], Union[bytes, str]]

    @property
    def dim(self) -> int:
        return self.encoder.dim

    def vectors(self, rows: np.ndarray, known: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Returns (hash, float16 bytes) of each row; what had to be encoded is added to `known`."""
        hashes = [_hash(self.fingerprint, self.read(row)) for row in rows]
        new = {mark: row for mark, row in zip(hashes, rows) if mark and mark not in known}
        if new:
            contents: Sequence = _Rows(self.read, list(new.values()))
            vectors, readable = self.encoder.encode(list(contents) if self.modality == TEXT else contents)
            packed = _packed(self.modality, np.where(readable[:, np.newaxis], vectors, 0), list(new.values()))
            known.update({mark: packed[i] if readable[i] else b"" for i, mark in enumerate(new)})
        return [(mark, known[mark] if mark else b"") for mark in hashes]


@dataclasses.dataclass(frozen=True)
class Precomputed:
    """A modality whose vectors came with the data."""

    modality: str
    matrix: np.ndarray
    fingerprint: str = _PRECOMPUTED

    @property
    def dim(self) -> int:
        return self.matrix.shape[1]

    def vectors(self, rows: np.ndarray, known: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Returns (hash, float16 bytes) of each row, both empty where a number is missing."""
        del known  # Nothing is encoded.
        chunk = np.ascontiguousarray(self.matrix[rows])
        present = ~np.isnan(chunk).any(axis=1)
        packed = _packed(self.modality, np.where(present[:, np.newaxis], chunk, 0), rows)
        marks = [_hash(self.fingerprint, row.tobytes()) for row in chunk]
        return [(marks[i], packed[i]) if present[i] else (b"", b"") for i in range(len(rows))]


VectorSource = Union[Encoded, Precomputed]


def vector_sources(items: Items, encoders: Mapping[str, Encoder]) -> list[VectorSource]:
    """Returns where the vectors of each modality come from.

    Raises:
        ValueError: an encoder for an unknown modality, or for one whose vectors are given.
    """
    readers: dict[str, Callable[[int], Union[bytes, str]]] = {
        IMAGE: items.images.read,
        TEXT: lambda row: items.text[row],
        SOUND: items.sounds.read,
    }
    for modality in encoders:
        if modality not in readers:
            nearest = difflib.get_close_matches(modality, readers, n=1, cutoff=0)
            raise ValueError(
                f"Expected encoders for {', '.join(readers)}, got one for {modality!r}; did you mean {nearest[0]!r}?"
            )
        if modality in items.vectors:
            raise ValueError(
                f"Expected one source of {modality!r} vectors, got an encoder and precomputed ones; leave out the "
                f"encoder, or give the precomputed vectors another name."
            )
    encoded = [Encoded(name, encoder.fingerprint, encoder, readers[name]) for name, encoder in encoders.items()]
    return [*encoded, *(Precomputed(name, matrix) for name, matrix in items.vectors.items())]


def _hash(fingerprint: str, content: Union[bytes, str]) -> bytes:
    """Returns the SHA-256 of what was encoded and by what, b"" where there is nothing."""
    if not content:
        return b""
    content = content if isinstance(content, bytes) else content.encode()
    return hashlib.sha256(fingerprint.encode() + content).digest()


def _packed(modality: str, vectors: np.ndarray, rows: Union[Sequence[int], np.ndarray]) -> list[bytes]:
    with np.errstate(over="ignore"):
        halves = vectors.astype("<f2")
    bad = np.argwhere(~np.isfinite(halves))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"Expected finite {modality} vectors that float16 can hold (up to 65504), got {vectors[row, column]} in "
            f"item row {rows[row]}, column {column}; scale them, e.g. to length 1."
        )
    return [half.tobytes() for half in halves]


def earlier_vectors(directory: Path, modalities: tuple[str, ...]) -> dict[bytes, bytes]:
    """Returns hash -> float16 bytes of all that was ever encoded and still stands in the directory."""
    intact = []
    for path in shards.group_shards(directory, shards.ITEMS):
        if shards.intact(path):
            intact.append(str(path))
        else:
            _log.warning("%s is damaged: what it held is encoded again.", path)
    names = [prefix + modality for modality in modalities for prefix in (schema.HASH, schema.VECTOR)]
    if not names or not intact:
        return {}
    held = columns.read_columns(intact, {name: tf.io.FixedLenFeature([], tf.string, "") for name in names})
    known: dict[bytes, bytes] = {}
    for modality in modalities:
        known.update(zip(held[schema.HASH + modality], held[schema.VECTOR + modality]))
    return known


def matrix_of(modality: str, column: np.ndarray, dim: int) -> np.ndarray:
    """Returns `[num_items, dim]` float16 of float16 bytes, zeros where there are none."""
    sizes = np.array([len(value) for value in column], dtype=np.int64)
    wrong = np.flatnonzero((sizes != 0) & (sizes != 2 * dim))
    if len(wrong):
        raise shards.CorruptRecords(
            f"Expected {modality} vectors of {2 * dim} bytes (float16 [{dim}]), got {sizes[wrong[0]]} in item row "
            f"{wrong[0]}. Delete the item records and run again to write them anew."
        )
    matrix = np.zeros([len(column), dim], np.float16)
    matrix[sizes > 0] = np.frombuffer(b"".join(column), "<f2").reshape(-1, dim)
    return matrix
