"""The catalogue as TFRecords: every item once, with the vectors that frozen encoders give it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm import schema
from tfmm.ragged import Ragged
from tfmm.records import columns, shards
from tfmm.records.columns import put, put_string
from tfmm.records.vectors import (
    IMAGE,
    SOUND,
    Encoder,
    Progress,
    VectorSource,
    earlier_vectors,
    matrix_of,
    vector_sources,
)
from tfmm.sources.dataset import Dataset, Finding, Items

_CHUNK = 512


@dataclasses.dataclass(frozen=True)
class ItemTable:
    """The catalogue as training sees it; row i of every array is the same product, in the order of `Dataset.items`.

    Attributes:
        ids: `[num_items]` str (object).
        text: `[num_items]` str (object); "" is missing.
        titles: `[num_items]` str (object).
        launched: `[num_items]` int64, seconds since the epoch; 0 where unknown.
        categorical: field -> `Ragged` of str (object).
        numeric: field -> `[num_items]` float32, NaN is missing.
        vectors: modality -> `[num_items, dim]` float16, zeros where missing.
        present: modality -> `[num_items]` bool: True where there is a vector.
        failed: modality -> `[num_items]` bool: True where there was content that the encoder could not read.
    """

    ids: np.ndarray
    text: np.ndarray
    titles: np.ndarray
    launched: np.ndarray
    categorical: Mapping[str, Ragged]
    numeric: Mapping[str, np.ndarray]
    vectors: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]
    failed: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)


def write_items(
    dataset: Dataset,
    directory: shards.PathLike,
    *,
    encoders: Mapping[str, Encoder],
    progress: Optional[Progress] = None,
    chunk: int = _CHUNK,
) -> ItemTable:
    """Returns the item table after it stands in `directory`, as it is read back from there.

    Args:
        dataset: its `items.vectors` are written as they are, beside those of the encoders.
        directory: of the records; vectors in item shards that it already holds are used again.
        encoders: of the modalities `image`, `text` and `sound`, those wanted.
        progress: called after each chunk.
        chunk: items encoded at a time; each chunk is a shard, and a run that is stopped loses one at most.

    Raises:
        ValueError: an encoder for an unknown modality, or for one whose vectors are given; or a vector that float16
            cannot hold.
    """
    items, target = dataset.items, Path(directory)
    sources = vector_sources(items, encoders)
    target.mkdir(parents=True, exist_ok=True)
    known = earlier_vectors(target, tuple(encoders))
    written = []
    for number, start in enumerate(range(0, len(items), chunk)):
        rows = np.arange(start, min(start + chunk, len(items)))
        vectors = {source.modality: source.vectors(rows, known) for source in sources}
        written.append(shards.write_shard(target, shards.ITEMS, number, list(_serialised(items, rows, vectors))))
        if progress is not None:
            progress(int(rows[-1]) + 1, len(items))
    shards.publish(target, _manifest(items, sources, tuple(written)))
    return read_items(target)


def read_items(directory: shards.PathLike) -> ItemTable:
    """Returns the item table of a directory.

    Raises:
        FileNotFoundError: none was written there.
        CorruptRecords: what is there is not what was written.
    """
    manifest = shards.read_manifest(directory, shards.ITEMS, kind=shards.ITEMS)
    spec = schema.item_spec(manifest.categorical, manifest.numeric, tuple(manifest.vectors))
    held = columns.read_columns(shards.verified_paths(directory, manifest), spec)
    ids = columns.strings(held[schema.ITEM_ID])
    if shards.ids_sha256(ids) != manifest.items_sha256:
        raise shards.CorruptRecords(
            f"Expected item ids with the SHA-256 {manifest.items_sha256} in {directory}, got others. "
            f"Delete the item records and run again to write them anew."
        )
    vectors = {modality: held[schema.VECTOR + modality] for modality in manifest.vectors}
    present = {modality: column != b"" for modality, column in vectors.items()}
    return ItemTable(
        ids=ids,
        text=columns.strings(held[schema.TEXT]),
        titles=columns.strings(held[schema.TITLE]),
        launched=held[schema.LAUNCHED],
        categorical={field: columns.string_rows(held[schema.CATEGORICAL + field]) for field in manifest.categorical},
        numeric={field: held[schema.NUMERIC + field] for field in manifest.numeric},
        vectors={modality: matrix_of(modality, vectors[modality], dim) for modality, dim in manifest.vectors.items()},
        present=present,
        failed={m: ~present[m] & (held[schema.HASH + m] != b"") for m in manifest.vectors},
    )


def findings(table: ItemTable, items: Items) -> tuple[Finding, ...]:
    """Returns what the encoders could not read, for the run's summary."""
    media = {IMAGE: items.images, SOUND: items.sounds}
    found = []
    for modality, failed in table.failed.items():
        rows = np.flatnonzero(failed)
        if len(rows):
            source = media[modality].sources[rows[0]] if modality in media else None
            example = f"{source if isinstance(source, Path) else modality} of item {table.ids[rows[0]]!r}"
            found.append(Finding(f"{modality} cannot be decoded", "dropped", len(rows), example))
    return tuple(found)


def _serialised(items: Items, rows: np.ndarray, vectors: Mapping[str, list[tuple[bytes, bytes]]]) -> Iterator[bytes]:
    for position, row in enumerate(rows):
        example = tf.train.Example()
        features = example.features
        put_string(features, schema.ITEM_ID, items.ids[row])
        put_string(features, schema.TEXT, items.text[row])
        put_string(features, schema.TITLE, items.titles[row])
        put(features, schema.LAUNCHED, items.launched[row : row + 1])
        for field, values in items.categorical.items():
            put(features, schema.CATEGORICAL + field, values[row])
        for field, numbers in items.numeric.items():
            put(features, schema.NUMERIC + field, np.asarray(numbers[row : row + 1], np.float32))
        for modality, pairs in vectors.items():
            put_string(features, schema.HASH + modality, pairs[position][0])
            put_string(features, schema.VECTOR + modality, pairs[position][1])
        yield example.SerializeToString(deterministic=True)


def _manifest(items: Items, sources: Sequence[VectorSource], written: tuple[shards.Shard, ...]) -> shards.Manifest:
    return shards.Manifest(
        name=shards.ITEMS,
        kind=shards.ITEMS,
        count=len(items),
        shards=written,
        items_sha256=shards.ids_sha256(items.ids),
        categorical=tuple(items.categorical),
        numeric=tuple(items.numeric),
        vectors={source.modality: source.dim for source in sources},
        encoders={source.modality: source.fingerprint for source in sources},
    )
