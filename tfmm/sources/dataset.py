"""The one validated value that every source returns and everything downstream reads."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sized
from pathlib import Path

import numpy as np

from tfmm.ragged import Ragged


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of dirt in the raw files, what was done about it, and where it was first seen.

    Attributes:
        problem: what was wrong, in a shop's words: "unknown item id", "image cannot be decoded".
        action: "dropped", "repaired" or "kept".
        count: how many rows or cells.
        example: the first one: file, row (1-based, header included), column and value.
    """

    problem: str
    action: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.count} {self.action}, e.g. {self.example}"


@dataclasses.dataclass(frozen=True)
class Media:
    """Pictures or sounds, one per row, each held as bytes, as a path read when needed, or not at all.

    Attributes:
        sources: `[num_items]` object: `bytes`, `pathlib.Path` or None (missing).
    """

    sources: np.ndarray

    @classmethod
    def missing(cls, num_rows: int) -> Media:
        """Returns a value with nothing in any row."""
        return cls(np.full(num_rows, None, dtype=object))

    @property
    def present(self) -> np.ndarray:
        """`[num_items]` bool."""
        return np.array([source is not None for source in self.sources], dtype=bool)

    def read(self, row: int) -> bytes:
        """Returns the raw bytes of one row, `b""` where it is missing."""
        source = self.sources[row]
        if source is None:
            return b""
        return source.read_bytes() if isinstance(source, Path) else source


@dataclasses.dataclass(frozen=True)
class Items:
    """The catalogue; row i of every array is the same product.

    Attributes:
        ids: `[num_items]` str (object), unique, never empty.
        text: `[num_items]` str (object); "" is missing. Title and description in one string.
        titles: `[num_items]` str (object): what a person reads; falls back on the id.
        images: encoded pictures (JPEG, PNG, ...).
        sounds: WAV files.
        categorical: field -> `Ragged` of str (object), none, one or many values an item.
        numeric: field -> `[num_items]`, NaN is missing.
        vectors: modality -> `[num_items, dim]`, precomputed; a row with a NaN is missing.
        launched: `[num_items]` int64, seconds since the epoch; 0 where unknown.
    """

    ids: np.ndarray
    text: np.ndarray
    titles: np.ndarray
    images: Media
    sounds: Media
    launched: np.ndarray
    categorical: Mapping[str, Ragged] = dataclasses.field(default_factory=dict)
    numeric: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    vectors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Users:
    """Who acted; context features are categorical (bin numbers before they come here).

    Attributes:
        ids: `[num_users]` str (object), unique.
        categorical: field -> `Ragged` of str (object).
    """

    ids: np.ndarray
    categorical: Mapping[str, Ragged] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Events, ordered by user, then time, then their order in the file.

    Attributes:
        user: `[num_events]` int32, row in `Users`.
        item: `[num_events]` int32, row in `Items`.
        time: `[num_events]` int64, seconds since the epoch; 0 where unknown (then the order is that of the file).
        event: `[num_events]` int32, index into `Dataset.event_types`.
        value: `[num_events]`: rating, quantity; 1 where there is none.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    event: np.ndarray
    value: np.ndarray

    @classmethod
    def ordered(
        cls, *, user: np.ndarray, item: np.ndarray, time: np.ndarray, event: np.ndarray, value: np.ndarray
    ) -> Interactions:
        """Returns the events in the order that the class promises."""
        order = event_order(user, time)
        return cls(
            user=np.asarray(user, np.int32)[order],
            item=np.asarray(item, np.int32)[order],
            time=np.asarray(time, np.int64)[order],
            event=np.asarray(event, np.int32)[order],
            value=np.asarray(value, np.float32)[order],
        )

    @classmethod
    def none(cls) -> Interactions:
        """Returns no event at all: a catalogue alone."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls.ordered(user=nothing, item=nothing, time=nothing, event=nothing, value=nothing)

    def __len__(self) -> int:
        return len(self.user)


def event_order(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Returns `[num_events]` int64: positions by user, then time, then as they stand."""
    return np.lexsort((np.arange(len(user)), time, user))


TRAIN, VALIDATION, TEST = 0, 1, 2
"""What `Dataset.published_split` says of an event."""


@dataclasses.dataclass(frozen=True)
class KnownQueries:
    """Queries with known answers: typed, spoken, shown, or any of these at once.

    Attributes:
        texts: `[num_queries]` str (object); "" where nothing was typed.
        sounds: WAV files.
        images: encoded pictures.
        relevant: item rows, one row of distinct ones a query; empty where the answer is known only in words.
        grades: float32, row by row as `relevant`: how relevant; 1 where the source does not grade.
    """

    texts: np.ndarray
    sounds: Media
    images: Media
    relevant: Ragged
    grades: Ragged

    def __post_init__(self) -> None:
        columns: dict[str, Sized] = {"sounds": self.sounds.sources, "images": self.images.sources}
        columns["relevant"] = self.relevant
        for name, column in columns.items():
            if len(column) != len(self.texts):
                raise ValueError(f"Expected {len(self.texts)} rows in queries.{name} (one a text), got {len(column)}.")
        if not np.array_equal(self.grades.offsets, self.relevant.offsets):
            raise ValueError("Expected a grade for each relevant item of each query; give both the same offsets.")
        if not np.all(self.grades.values > 0):
            raise ValueError(f"Expected grades above 0, got {self.grades.values.min()}; leave such items out.")
        silent = (self.texts == "") & ~self.sounds.present & ~self.images.present
        if silent.any():
            raise ValueError(f"Expected a text, a sound or an image in every query, got none in row {silent.argmax()}.")

    @classmethod
    def typed(cls, texts: np.ndarray, relevant: Ragged, grades: Ragged | None = None) -> KnownQueries:
        """Returns queries that have a text and nothing else; without `grades` every answer is as good."""
        nothing = Media.missing(len(texts))
        equal = Ragged(np.ones(len(relevant.values), np.float32), relevant.offsets)
        return cls(texts, nothing, nothing, relevant, equal if grades is None else grades)

    def __len__(self) -> int:
        return len(self.texts)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Everything that a shop handed over, clean. There may be no users and no events: a catalogue alone.

    Attributes:
        name: the source and, where there is one, the subset: "demo", "movielens".
        event_types: names that `Interactions.event` indexes, weakest first: ("view", "cart", "purchase").
        findings: what was dropped, repaired or kept though odd.
        queries: queries with known answers, where the shop has any.
        published_split: `[num_events]` int8, aligned with the events: `TRAIN`, `VALIDATION` or `TEST`, where the
            source comes divided.
        true_utility: `[num_users, num_items]` float16, known for a simulated shop only: by how much each shopper
            truly prefers each item at the end of the data. Only evaluation may read it.
    """

    name: str
    items: Items
    users: Users
    interactions: Interactions
    event_types: tuple[str, ...] = ("interaction",)
    findings: tuple[Finding, ...] = ()
    queries: KnownQueries | None = None
    published_split: np.ndarray | None = None
    true_utility: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_unique("item", self.items.ids)
        _check_unique("user", self.users.ids)
        _check_lengths(self.items)
        _check_events(self)
        if self.queries is not None:
            _check_within("queries.relevant", self.queries.relevant.values, len(self.items))

    def fingerprint(self) -> str:
        """Returns 16 hex digits that change with anything that training reads; of a picture's file, name and size.

        Queries with known answers are no part of it: nothing trains on them.
        """
        digest = hashlib.sha256()
        for array in (self.items.ids, self.items.text, self.items.titles, self.users.ids, self.event_types):
            digest.update("\x00".join(array).encode())
        for column in (*dataclasses.astuple(self.interactions), self.items.launched):
            digest.update(np.ascontiguousarray(column).tobytes())
        for field, ragged in (*sorted(self.items.categorical.items()), *sorted(self.users.categorical.items())):
            digest.update("\x00".join([field, *ragged.values]).encode() + ragged.offsets.tobytes())
        for field, numbers in sorted({**self.items.numeric, **self.items.vectors}.items()):
            digest.update(field.encode() + np.ascontiguousarray(numbers).tobytes())
        for media in (self.items.images, self.items.sounds):
            for source in media.sources:
                digest.update(_media_mark(source))
        if self.published_split is not None:
            digest.update(b"published" + np.ascontiguousarray(self.published_split).tobytes())
        return digest.hexdigest()[:16]


def _media_mark(source: bytes | Path | None) -> bytes:
    if isinstance(source, Path):
        return f"{source.name}:{source.stat().st_size}".encode()
    return b"" if source is None else hashlib.sha256(source).digest()


def _check_unique(kind: str, ids: np.ndarray) -> None:
    unique, counts = np.unique(ids.astype(str), return_counts=True)
    if len(unique) != len(ids):
        raise ValueError(f"Expected unique {kind} ids, got {unique[counts > 1][:3].tolist()} more than once.")
    if len(unique) and unique[0] == "":
        raise ValueError(f"Expected every {kind} to have an id, got an empty one.")


def _check_lengths(items: Items) -> None:
    columns: dict[str, Sized] = {
        "text": items.text,
        "titles": items.titles,
        "images": items.images.sources,
        "sounds": items.sounds.sources,
        "launched": items.launched,
        **items.categorical,
        **items.numeric,
        **items.vectors,
    }
    for name, column in columns.items():
        if len(column) != len(items):
            raise ValueError(f"Expected {len(items)} rows in items.{name} (one per item id), got {len(column)}.")


def _check_events(dataset: Dataset) -> None:
    events, parts = dataset.interactions, dataset.published_split
    _check_within("interactions.user", events.user, len(dataset.users))
    _check_within("interactions.item", events.item, len(dataset.items))
    _check_within("interactions.event", events.event, len(dataset.event_types))
    same_user = events.user[1:] == events.user[:-1]
    if np.any(events.user[1:] < events.user[:-1]) or np.any(same_user & (np.diff(events.time) < 0)):
        raise ValueError("Expected interactions ordered by user and time; build them with Interactions.ordered.")
    if parts is not None:
        if (parts.shape, parts.dtype) != ((len(events),), np.int8):
            raise ValueError(
                f"Expected published_split int8 [{len(events)}] (one an event), got {parts.dtype} {list(parts.shape)}."
            )
        _check_within("published_split", parts, TEST + 1)


def _check_within(name: str, rows: np.ndarray, limit: int) -> None:
    if len(rows) and (rows.min() < 0 or rows.max() >= limit):
        raise ValueError(f"Expected {name} within 0..{limit - 1}, got {rows.min()}..{rows.max()}.")
