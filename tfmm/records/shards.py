"""Sharded TFRecord files with a manifest: written atomically, verified when they are read.

A group of shards is `<name>-<number>-<hash>.tfrecord` files and `<name>.json`, which is written last and names all of
them. The hash in a shard's name is of its content, so that a new run never writes over what an older manifest names.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
import tensorflow as tf

SCHEMA_VERSION = 1
ITEMS = "items"
SEQUENCES = "sequences"
EXAMPLE_LISTS = "example lists"

PathLike = Union[str, "os.PathLike[str]"]

_NAME = re.compile(r"[A-Za-z0-9_]+")
_WRITERS = 2
_REMEDY = "Delete the directory and run again to write it anew."
_log = logging.getLogger(__name__)


class CorruptRecords(ValueError):
    """What stands on the disk is not what the manifest promises."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file: its name, how many records, its size in bytes and the SHA-256 of its content."""

    name: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a group of shards holds.

    Attributes:
        name: of the group: "items", "train", ...
        kind: `ITEMS`, `SEQUENCES` or `EXAMPLE_LISTS`.
        count: records in all.
        shards: in order.
        items_sha256: of the ordered ids of the item table that row numbers refer to; "" where there are none.
        categorical: field names (items).
        numeric: field names (items).
        vectors: modality -> dim (items).
        encoders: modality -> fingerprint of what made its vectors (items).
        event_types: names that event numbers index (sequences).
        lengths: length -> how many sequences or lists have it.
        num_features: width of the dense features of an example (example lists).
        weighted: whether examples have weights (example lists).
    """

    name: str
    kind: str
    count: int
    shards: tuple[Shard, ...]
    items_sha256: str = ""
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    vectors: Mapping[str, int] = dataclasses.field(default_factory=dict)
    encoders: Mapping[str, str] = dataclasses.field(default_factory=dict)
    event_types: tuple[str, ...] = ()
    lengths: Mapping[int, int] = dataclasses.field(default_factory=dict)
    num_features: int = 0
    weighted: bool = False
    schema_version: int = SCHEMA_VERSION


def ids_sha256(ids: Iterable[str]) -> str:
    """Returns the SHA-256 of ids in their order, which is what row numbers depend on."""
    return hashlib.sha256(json.dumps([str(name) for name in ids]).encode()).hexdigest()


def length_counts(lengths: np.ndarray) -> dict[int, int]:
    """Returns length -> how often it occurs."""
    values, counts = np.unique(lengths, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist()))


def write_shard(directory: Path, name: str, number: int, records: Sequence[bytes]) -> Shard:
    """Returns the shard that now stands in `directory`, whole and on the disk."""
    temporary = directory / f"{name}-{number:05d}.tmp"
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        for record in records:
            writer.write(record)
    content = temporary.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    shard = Shard(f"{name}-{number:05d}-{digest[:16]}.tfrecord", len(records), len(content), digest)
    _install(temporary, directory / shard.name)
    return shard


def write_shards(directory: Path, name: str, records: Iterable[bytes], *, per_shard: int) -> tuple[Shard, ...]:
    """Returns the shards written, in the order of `records`.

    Messages are built by the caller's thread alone: protobuf holds the interpreter's lock, and two threads were
    measured three times as slow as one (83 against 26 us a user of 50 events), while a new process costs seconds of
    importing TensorFlow. Framing, checksums and syncing to the disk release the lock and run beside it.
    """
    check_name(name)
    directory.mkdir(parents=True, exist_ok=True)
    shards: list[Shard] = []
    with concurrent.futures.ThreadPoolExecutor(_WRITERS) as pool:
        pending: list[concurrent.futures.Future[Shard]] = []
        for number, chunk in enumerate(_chunks(records, per_shard)):
            pending.append(pool.submit(write_shard, directory, name, number, chunk))
            if len(pending) > _WRITERS:
                shards.append(pending.pop(0).result())
        shards.extend(future.result() for future in pending)
    return tuple(shards)


def publish(directory: Path, manifest: Manifest) -> Manifest:
    """Returns the manifest after it is in place; shards of the group that it does not name are removed then."""
    temporary = directory / f"{manifest.name}.json.tmp"
    temporary.write_text(json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False), encoding="utf-8")
    _install(temporary, directory / f"{manifest.name}.json")
    kept = {shard.name for shard in manifest.shards}
    for path in [*group_shards(directory, manifest.name), *directory.glob(f"{manifest.name}-*.tmp")]:
        if path.name not in kept:
            path.unlink()
    _log.info("%s: %d records in %d shards in %s", manifest.name, manifest.count, len(manifest.shards), directory)
    return manifest


def read_manifest(directory: PathLike, name: str, *, kind: str) -> Manifest:
    """Returns the manifest of a group.

    Raises:
        FileNotFoundError: there is none: the group was never written, or not to its end.
        CorruptRecords: it cannot be read, or is of another kind or schema version.
    """
    path = Path(directory) / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the manifest {path} of the {kind} records {name!r}, found none: they were not written, or "
            f"writing did not end. Write them first; what a run that stopped had done is used again."
        )
    try:
        manifest = _from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptRecords(
            f"Expected a manifest of schema version {SCHEMA_VERSION} in {path}, got: {error}. {_REMEDY}"
        ) from error
    if (manifest.kind, manifest.name) != (kind, name):
        raise CorruptRecords(
            f"Expected {kind} named {name!r} in {path}, got {manifest.kind} named {manifest.name!r}. {_REMEDY}"
        )
    return manifest


def verified_paths(directory: PathLike, manifest: Manifest) -> list[str]:
    """Returns the paths of all shards, in order, once each has the size, content and count that the manifest promises.

    Raises:
        CorruptRecords: a shard is missing, truncated or changed, or counts disagree.
    """
    paths = [Path(directory) / shard.name for shard in manifest.shards]
    with concurrent.futures.ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(_verify, paths, manifest.shards))
    total = sum(shard.records for shard in manifest.shards)
    if total != manifest.count:
        where = Path(directory) / f"{manifest.name}.json"
        raise CorruptRecords(f"Expected {manifest.count} records in all in {where}, its shards have {total}. {_REMEDY}")
    return [str(path) for path in paths]


def group_shards(directory: Path, name: str) -> list[Path]:
    """Returns the shards of a group that are in the directory, whether a manifest names them or not."""
    pattern = re.compile(rf"{re.escape(name)}-\d{{5}}-[0-9a-f]{{16}}\.tfrecord")
    return sorted(path for path in directory.glob("*.tfrecord") if pattern.fullmatch(path.name))


def intact(path: Path) -> bool:
    """Returns whether a shard's content is that which its name promises."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] == path.stem.rpartition("-")[2]


def check_name(name: str) -> None:
    """Raises ValueError unless `name` can name a group (a hyphen would mix it up with another one's shards)."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"Expected a record name of letters, digits and underscores, got {name!r}.")


def _chunks(records: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    iterator = iter(records)
    return iter(lambda: list(itertools.islice(iterator, size)), [])


def _install(temporary: Path, path: Path) -> None:
    """Renames a finished file into place so that a power cut leaves the old one or the new one, never a part."""
    _sync(temporary, os.O_RDWR)
    os.replace(temporary, path)
    _sync(path.parent, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verify(path: Path, shard: Shard) -> None:
    if not path.is_file():
        raise CorruptRecords(f"Expected the shard {path} with {shard.records} records, found no such file. {_REMEDY}")
    content = path.read_bytes()
    if len(content) != shard.bytes:
        raise CorruptRecords(f"Expected {shard.bytes} bytes in {path}, got {len(content)}. {_REMEDY}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != shard.sha256:
        raise CorruptRecords(f"Expected {path} to have the SHA-256 {shard.sha256}, got {digest}. {_REMEDY}")
    records = _count_records(content)
    if records != shard.records:
        raise CorruptRecords(f"Expected {shard.records} records in {path}, got {records}. {_REMEDY}")


def _count_records(content: bytes) -> int:
    """Returns how many records a TFRecord file has: each is a length (8 bytes), a CRC (4), the data and a CRC (4)."""
    position, count = 0, 0
    while position < len(content):
        position += 16 + struct.unpack_from("<Q", content, position)[0]
        count += 1
    return count


def _from_json(raw: dict[str, Any]) -> Manifest:
    if raw["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {raw['schema_version']}")
    shards = tuple(Shard(**shard) for shard in raw.pop("shards"))
    lengths = {int(length): count for length, count in raw.pop("lengths").items()}
    raw = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return Manifest(shards=shards, lengths=lengths, **raw)
