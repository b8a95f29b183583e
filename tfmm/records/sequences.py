"""What each shopper did, as TFRecords: one example a shopper."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfmm import schema
from tfmm.ragged import Ragged
from tfmm.records import shards
from tfmm.records.columns import put, put_string
from tfmm.sources.dataset import Interactions, Users

_PER_SHARD = 4096


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Shoppers' events; row i of every column is the same shopper.

    Attributes:
        user_ids: `[num_users]` str (object).
        items: item rows, oldest first.
        times: int64 seconds since the epoch, alike.
        events: int event types, alike.
        context: str, "field=value" of the shopper.
    """

    user_ids: np.ndarray
    items: Ragged
    times: Ragged
    events: Ragged
    context: Ragged

    def __post_init__(self) -> None:
        for name in ("items", "times", "events", "context"):
            rows = len(getattr(self, name))
            if rows != len(self.user_ids):
                raise ValueError(f"Expected {len(self.user_ids)} rows (one a user id) in {name}, got {rows}.")
        for name in ("times", "events"):
            if not np.array_equal(getattr(self, name).offsets, self.items.offsets):
                raise ValueError(f"Expected one of {name} for each of items, got rows of other lengths.")

    @classmethod
    def of(cls, events: Interactions, users: Users) -> Sequences:
        """Returns the sequences of all users that have an event."""
        rows, starts = np.unique(events.user, return_index=True)
        offsets = np.append(starts, len(events)).astype(np.int64)
        items, times, types = (Ragged(column, offsets) for column in (events.item, events.time, events.event))
        return cls(users.ids[rows], items, times, types, context_terms(users).take(rows))

    def __len__(self) -> int:
        return len(self.user_ids)


def context_terms(users: Users) -> Ragged:
    """Returns "field=value" of each user, as `schema.CONTEXT` holds them."""
    terms = [np.array([f"{name}={v}" for v in column.values], object) for name, column in users.categorical.items()]
    rows = [column.row_numbers for column in users.categorical.values()]
    empty = np.zeros(0, object)
    return Ragged.from_groups(
        np.concatenate([empty, *rows]).astype(np.int64), np.concatenate([empty, *terms]), len(users)
    )


def write_sequences(
    sequences: Sequences,
    directory: shards.PathLike,
    name: str,
    *,
    item_ids: np.ndarray,
    event_types: Sequence[str],
    per_shard: int = _PER_SHARD,
) -> shards.Manifest:
    """Returns the manifest of the sequences after they stand in `directory`.

    Args:
        sequences: of the item table's rows.
        directory: of the records.
        name: of this group, e.g. "train".
        item_ids: `[num_items]`, the ids of the item table, in order.
        event_types: what event numbers index.
        per_shard: sequences in a file.

    Raises:
        ValueError: an item row or event number that does not exist.
    """
    _check_name(name)
    _check_range("item row", sequences.items, len(item_ids), sequences.user_ids)
    _check_range("event type", sequences.events, len(event_types), sequences.user_ids)
    written = shards.write_shards(Path(directory), name, _serialised(sequences), per_shard=per_shard)
    manifest = shards.Manifest(
        name=name,
        kind=shards.SEQUENCES,
        count=len(sequences),
        shards=written,
        items_sha256=shards.ids_sha256(item_ids),
        event_types=tuple(event_types),
        lengths=shards.length_counts(sequences.items.lengths),
    )
    return shards.publish(Path(directory), manifest)


def _serialised(sequences: Sequences) -> Iterator[bytes]:
    for row, user_id in enumerate(sequences.user_ids):
        example = tf.train.Example()
        features = example.features
        put_string(features, schema.USER_ID, user_id)
        put(features, schema.SEQUENCE_ITEMS, sequences.items[row])
        put(features, schema.SEQUENCE_TIMES, sequences.times[row])
        put(features, schema.SEQUENCE_EVENTS, sequences.events[row])
        put(features, schema.SEQUENCE_CONTEXT, sequences.context[row])
        yield example.SerializeToString(deterministic=True)


def _check_name(name: str) -> None:
    shards.check_name(name)
    if name == shards.ITEMS:
        raise ValueError(f"Expected another record name than {name!r}, which is the item table's.")


def _check_range(what: str, numbers: Ragged, limit: int, user_ids: np.ndarray) -> None:
    bad = np.flatnonzero((numbers.values < 0) | (numbers.values >= limit))
    if len(bad):
        user = user_ids[np.searchsorted(numbers.offsets, bad[0], side="right") - 1]
        raise ValueError(f"Expected every {what} within 0..{limit - 1}, got {numbers.values[bad[0]]} of user {user!r}.")
