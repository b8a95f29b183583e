"""TikTok micro-videos, as multimodal recommenders publish them, -> `Dataset`: vectors, shoppers, and a division.

    train.csv        user_id, item_id                  or train.json: {user: [item, ...]}
    validation.csv   likewise (also val.csv, val.json)
    test.csv         optional, likewise
    image_feat.npy   [items, dim], row = item_id: the vectors of modality "image"
    audio_feat.npy   likewise, of "sound"
    text_feat.npy    likewise, of "text"; at least one of the three is there

(Layouts of MMSSL, Wei et al. 2023, and DiffMM, Jiang et al. 2024, whose published parts are kept in
`Dataset.published_split`.) Nothing says when an event was: every time is 0, unknown, and a shopper's events stand in
the order of the file, which means nothing.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Optional

import numpy as np
import pandas as pd
import pyarrow as pa

from tfmm.sources import cleaning, columns, delimited, dirt, files
from tfmm.sources.dataset import TEST, TRAIN, VALIDATION, Dataset, Interactions, Items, Media, Users, event_order
from tfmm.sources.mapping import InteractionColumns
from tfmm.sources.tables import Table, from_arrow

_log = logging.getLogger(__name__)

VECTORS = {"image": "image_feat.npy", "sound": "audio_feat.npy", "text": "text_feat.npy"}
"""Modality -> its file."""

_STEMS = {TRAIN: ("train",), VALIDATION: ("validation", "val"), TEST: ("test",)}
_COLUMNS = ("user_id", "item_id")
_ROLES = InteractionColumns(user="user_id", item="item_id", time="time")
_REMEDY = "Give the folder that holds train.csv and validation.csv (user_id, item_id) and the vectors."


def load(data_dir: Path) -> Dataset:
    """Returns the videos in `data_dir` and who liked them, divided as published.

    Raises:
        ValueError: where the training or validation part or all vectors are missing, or do not fit.
    """
    home = Path(data_dir)
    findings: dirt.Findings = []
    items = _items(home, findings)
    tables = {part: _table(home, part, findings) for part in _STEMS}
    cleaned = {part: _events(table, items.ids, findings) for part, table in tables.items() if table is not None}
    frame = pd.concat([_frame(part, *rest) for part, rest in cleaned.items()], ignore_index=True)
    _note_known(frame, tables, findings)
    user, names = pd.factorize(frame.user.to_numpy())
    order = event_order(user, frame.time.to_numpy())
    fields = {name: frame[name].to_numpy() for name in ("item", "time", "event", "value")}
    _log.info("tiktok: %d users, %d items, %d events", len(names), len(items), len(frame))
    return Dataset(
        name="tiktok",
        items=items,
        users=Users(np.asarray(names, dtype=object)),
        interactions=Interactions.ordered(user=user, **fields),
        event_types=("like",),
        published_split=frame.part.to_numpy(np.int8)[order],
        findings=tuple(findings),
    )


def _items(home: Path, findings: dirt.Findings) -> Items:
    paths = {modality: home / name for modality, name in VECTORS.items() if (home / name).is_file()}
    if not paths:
        files.required(home, "image_feat.npy", remedy=_REMEDY)  # raises, and says what is there
    first = next(iter(paths.values()))
    num_items = _num_rows(first)
    ids = np.array([str(row) for row in range(num_items)], dtype=object)
    return Items(
        ids=ids,
        text=np.full(num_items, "", dtype=object),
        titles=ids,
        images=Media.missing(num_items),
        sounds=Media.missing(num_items),
        launched=np.zeros(num_items, dtype=np.int64),
        vectors={
            modality: files.read_vectors(path, findings, num_rows=num_items, of=first.name)
            for modality, path in paths.items()
        },
    )


def _num_rows(path: Path) -> int:
    """Returns how many rows an array has, 0 where it is none (`read_vectors` will say so)."""
    try:
        return int(np.load(path, mmap_mode="r", allow_pickle=False).shape[0])
    except (ValueError, EOFError, OSError, IndexError):
        return 0


def _table(home: Path, part: int, findings: dirt.Findings) -> Optional[Table]:
    """Returns user_id and item_id of one part; None where there is no test part."""
    names = [stem + suffix for stem in _STEMS[part] for suffix in (".csv", ".json")]
    found = [home / name for name in names if (home / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{home}: expected one of {', '.join(names)}, got {found[0].name} and {found[1].name}.")
    if not found and part == TEST:
        return None
    path = found[0] if found else files.required(home, names[0], remedy=_REMEDY)
    table = _read_json(path) if path.suffix == ".json" else delimited.read_csv(path, findings)
    table.expect(_COLUMNS, remedy=_REMEDY)
    return table


def _read_json(path: Path) -> Table:
    """Returns the pairs of {user: [item, ...]}; row 1 is the first pair."""
    expected = "{user: [item, ...]}"
    held = files.read_json(path, expected=expected)
    if not isinstance(held, dict) or not all(isinstance(items, list) for items in held.values()):
        raise ValueError(f"{path}: expected {expected}, got {dirt.shown(held)}. Export it again.")
    users = [user for user, items in held.items() for _ in items]
    listed = [str(item) for items in held.values() for item in items]
    return from_arrow(path, pa.table({"user_id": pa.array(users, pa.string()), "item_id": listed}), first_row=1)


def _events(table: Table, ids: np.ndarray, findings: dirt.Findings) -> tuple[Interactions, np.ndarray]:
    """Returns the clean events of one part, at time 0 in the order of the file, and its user ids."""
    unknown = pa.array(np.zeros(len(table), dtype=np.int64))
    timed = dataclasses.replace(table, columns=table.columns.select(_COLUMNS).append_column("time", unknown))
    events, user_ids, _ = cleaning.events(timed, _ROLES, ids, findings)
    return events, user_ids


def _frame(part: int, events: Interactions, user_ids: np.ndarray) -> pd.DataFrame:
    fields = {name: getattr(events, name) for name in ("item", "time", "event", "value")}
    return pd.DataFrame({"part": part, "user": user_ids[events.user], **fields})


def _note_known(frame: pd.DataFrame, tables: dict[int, Optional[Table]], findings: dirt.Findings) -> None:
    """Notes events of a part that an earlier part has, too."""
    again = frame.duplicated(["user", "item"]).to_numpy()
    for part, table in tables.items():
        rows = np.flatnonzero(again & (frame.part == part).to_numpy())
        if table is not None and len(rows):
            user, item = str(frame.user[rows[0]]), str(frame.item[rows[0]])
            dirt.note(findings, "event that an earlier part has", len(rows), _place(table, user, item))


def _place(table: Table, user: str, item: str) -> str:
    """Returns where a pair stands in its file; an item's id is its row."""
    pairs = list(zip(*(_ids(table, name) for name in _COLUMNS)))
    return table.example(pairs.index((user, item)), "item_id")


def _ids(table: Table, column: str) -> list[str]:
    codes, names = columns.codes(table[column])
    return ["" if code < 0 else str(names[code]) for code in codes]
