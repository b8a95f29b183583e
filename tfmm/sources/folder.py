"""A shop's own folder -> `Dataset`: items, interactions and, where there are, users, queries, pictures and vectors.

    items.csv|jsonl|parquet          id, title, description, image, sound, launched, and any attributes
    interactions.csv|jsonl|parquet   user, item, time, event, value
    users.csv|jsonl|parquet          optional: id, and attributes that become the query's context
    queries.csv|jsonl|parquet        optional: query, item
    images/<id>.jpg                  optional: .jpg, .jpeg, .png or .webp, where no column names a file
    sounds/<id>.wav                  optional
    <modality>.npy                   optional: precomputed vectors [rows of the items file, dim]
    dataset.yaml                     optional: see `mapping`

Columns are recognised by name (`mapping.SYNONYMS`) and type (`attributes.kind`), and what was recognised is logged.
Lists are Parquet or JSON lists, or strings with `|` between the values. Dirt is treated by the rules of `dirt`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

import numpy as np
import pyarrow as pa

from tfmm.ragged import Ragged
from tfmm.sources import attributes, cleaning, columns, dirt, files, mapping, media
from tfmm.sources.dataset import Dataset, Finding, Items, KnownQueries, Media, Users
from tfmm.sources.tables import Table

_log = logging.getLogger(__name__)


def load(data_dir: Path) -> Dataset:
    """Returns the shop in `data_dir`, cleaned, with what was dropped or repaired in its `findings`.

    Raises:
        ValueError: where a file or a column is missing, or nothing is left; it names the file and the remedy.
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        raise ValueError(f"data_dir: expected a folder with items.* and interactions.*, got {str(folder)!r}.")
    findings: dirt.Findings = []
    said = mapping.read(folder)
    items = _items(folder, said, findings)
    table = _required(folder, "interactions", said, findings)
    wanted = ["user", "item"] + ["time"] * (said.interactions.time != mapping.NONE)
    roles = mapping.resolve(table, "interactions", said.interactions, required=wanted)
    _log_roles(table, roles)
    events, user_ids, event_types = cleaning.events(table, roles, items.ids, findings, order=said.event_types)
    return Dataset(
        name=said.name or folder.resolve().name,
        items=items,
        users=_users(folder, said, user_ids, findings),
        interactions=events,
        event_types=event_types,
        queries=_queries(folder, said, items.ids, findings),
        findings=tuple(findings),
    )


def _optional(folder: Path, stem: str, said: mapping.Mapping, findings: dirt.Findings) -> Optional[Table]:
    path = files.find(folder, stem)
    return None if path is None else files.read(path, findings, encoding=said.encoding)


def _required(folder: Path, stem: str, said: mapping.Mapping, findings: dirt.Findings) -> Table:
    table = _optional(folder, stem, said, findings)
    if table is None:
        names = sorted(path.name for path in folder.iterdir())
        expected = ", ".join(stem + suffix for suffix in files.SUFFIXES)
        raise ValueError(
            f"{folder}: expected one of {expected}; got {', '.join(names[:10]) or 'an empty folder'}"
            f"{dirt.nearest(stem + '.csv', names)}. Export the shop's {stem} under that name."
        )
    return table


def _log_roles(table: Table, roles: object) -> None:
    named = dataclasses.asdict(roles).items()  # type: ignore[call-overload]
    said = ", ".join(f"{role} = {column}" for role, column in named if isinstance(column, str))
    _log.info("%s: %d rows, %s", table.path.name, len(table), said)


def load_items(
    path: Path,
    *,
    images: Optional[Path] = None,
    sounds: Optional[Path] = None,
    categorical: Iterable[str] = (),
    numeric: Iterable[str] = (),
) -> tuple[Items, tuple[Finding, ...]]:
    """Returns the products of one file, read as a shop's items file is, and what was dropped or repaired.

    A handful of products does not tell what its columns are, so that the fields that a model knows are said; another
    column of several words is text. A `dataset.yaml` beside the file is heard; `.npy` files are not.

    Args:
        path: CSV, JSONL or Parquet.
        images: folder of pictures named by id, or to which the file's paths are relative; None = `images/` beside it.
        sounds: likewise of WAV files; None = `sounds/`.
        categorical: fields that are categories, where the file has them.
        numeric: likewise numbers.

    Raises:
        ValueError: as `load`.
    """
    if not path.is_file() or not path.name.lower().endswith(files.SUFFIXES):
        raise ValueError(f"{path}: expected a file whose name ends in {', '.join(files.SUFFIXES)}, found none.")
    for home, kind in ((images, "pictures"), (sounds, "sounds")):
        if home is not None and not home.is_dir():
            raise ValueError(f"{home}: expected a folder of {kind}, found none.")
    findings: dirt.Findings = []
    said = mapping.read(path.parent)
    table = files.read(path, findings, encoding=said.encoding)
    roles = mapping.resolve(table, "items", said.items, required=["id"])
    taken = {value for value in dataclasses.astuple(roles) if isinstance(value, str)} | {*roles.text, *roles.ignore}
    free = [name for name in table.names if name not in taken]
    known = {*categorical, *numeric, *roles.categorical, *roles.numeric}
    text = [name for name in free if name not in known and attributes.is_text(table[name])]
    roles = dataclasses.replace(
        roles,
        categorical=(*roles.categorical, *(name for name in categorical if name in free)),
        numeric=(*roles.numeric, *(name for name in numeric if name in free)),
        text=(*roles.text, *text),
    )
    items = _items_of(table, roles, path.parent, findings, images=images, sounds=sounds, vectors=False)
    return items, tuple(findings)


def load_ids(path: Path) -> list[str]:
    """Returns the ids of a file of products, of which other columns are not read."""
    table = files.read(path, [], encoding=mapping.read(path.parent).encoding)
    column = mapping.resolve(table, "items", mapping.ItemColumns(), required=["id"]).id
    codes, ids = columns.codes(table[str(column)])
    return [str(name) for name in ids[np.unique(codes[codes >= 0])]]


def _items(folder: Path, said: mapping.Mapping, findings: dirt.Findings) -> Items:
    table = _required(folder, "items", said, findings)
    roles = mapping.resolve(table, "items", said.items, required=["id"])
    return _items_of(table, roles, folder, findings)


def _items_of(
    table: Table,
    roles: mapping.ItemColumns,
    folder: Path,
    findings: dirt.Findings,
    *,
    images: Optional[Path] = None,
    sounds: Optional[Path] = None,
    vectors: bool = True,
) -> Items:
    _log_roles(table, roles)
    table, ids = cleaning.unique_rows(
        table,
        str(roles.id),
        findings,
        nameless="item without an id",
        twice="duplicate item id",
        differs="duplicate item id with other content",
    )
    if len(table) == 0:
        raise dirt.nothing_left("item", str(table.path), findings)
    kinds = _kinds(table, roles)
    titles = _texts(table, roles.title)
    text = joined([titles, _texts(table, roles.description), *(_texts(table, name) for name in kinds[attributes.TEXT])])
    table.note(findings, "item without text", text == "", roles.title)
    return Items(
        ids=ids,
        text=text,
        titles=np.where(titles == "", ids, titles),
        images=_media(table, roles.image, ids, folder, "image", findings, home=images),
        sounds=_media(table, roles.sound, ids, folder, "sound", findings, home=sounds),
        launched=_launched(table, roles.launched, findings),
        categorical={name: columns.lists(table[name]) for name in kinds[attributes.CATEGORICAL]},
        numeric={name: _numeric(table, name, findings) for name in kinds[attributes.NUMERIC]},
        vectors=_vectors(folder, table, findings) if vectors else {},
    )


def _kinds(table: Table, roles: mapping.ItemColumns | mapping.UserColumns) -> dict[str, list[str]]:
    """Returns kind -> columns that play no named role, and logs them."""
    taken = {value for value in dataclasses.astuple(roles) if isinstance(value, str)}
    given = {
        attributes.CATEGORICAL: roles.categorical,
        attributes.NUMERIC: roles.numeric,
        attributes.TEXT: getattr(roles, "text", ()),
        attributes.IGNORED: roles.ignore,
    }
    kinds = attributes.sort_out(table.columns, taken=taken, given=given)
    for kind, names in kinds.items():
        if names:
            _log.info("%s: %s = %s", table.path.name, kind, ", ".join(names))
    return kinds


def joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Returns row-wise texts, `[num_rows]` str (object), with ". " between those that are not empty."""
    rows = (". ".join(part for part in row if part) for row in zip(*parts))
    return np.array(list(rows), dtype=object)


def _texts(table: Table, column: Optional[str]) -> np.ndarray:
    return columns.texts(table[column]) if column else np.full(len(table), "", dtype=object)


def _numeric(table: Table, column: str, findings: dirt.Findings) -> np.ndarray:
    values, wrong = columns.numbers(table[column])
    table.note(findings, "attribute that is not a number", wrong, column)
    return values.astype(np.float32)


def _launched(table: Table, column: Optional[str], findings: dirt.Findings) -> np.ndarray:
    """Returns `[num_rows]` int64 seconds since the epoch, 0 where unknown."""
    if column is None:
        return np.zeros(len(table), dtype=np.int64)
    seconds, wrong = columns.times(table[column])
    wrong |= seconds < 0
    table.note(findings, "launch date that cannot be read", wrong & (_texts(table, column) != ""), column)
    return np.where(wrong, 0, seconds)


def _media(
    table: Table,
    column: Optional[str],
    ids: np.ndarray,
    folder: Path,
    kind: str,
    findings: dirt.Findings,
    *,
    home: Optional[Path] = None,
) -> Media:
    """Returns the pictures or sounds that the column names, that hold the id in their file name, or as bytes."""
    problem = media.image_problem if kind == "image" else media.sound_problem
    if column and (pa.types.is_binary(table[column].type) or pa.types.is_large_binary(table[column].type)):
        sources = np.array([value or None for value in table[column].to_pylist()] + [None], dtype=object)[:-1]
    else:
        suffixes = media.IMAGE_SUFFIXES if kind == "image" else (".wav",)
        named = _texts(table, column)
        sources, absent = media.resolve(named, ids, kind=kind, folder=folder, suffixes=suffixes, home=home)
        table.note(findings, media.NOT_FOUND.format(kind), absent, column)

    def where(row: int) -> str:
        source = sources[row]
        name = source.name if isinstance(source, Path) else f"{len(source)} bytes"
        return dirt.place(table.path.name, int(table.rows[row]), column, name)

    return media.checked(sources, problem, findings, where)


def _vectors(folder: Path, table: Table, findings: dirt.Findings) -> dict[str, np.ndarray]:
    """Returns modality -> `[num_items, dim]`, the rows of the file that belong to the items that were kept."""
    return {path.stem: _vectors_of(path, table, findings) for path in sorted(folder.glob("*.npy"))}


def _vectors_of(path: Path, table: Table, findings: dirt.Findings) -> np.ndarray:
    vectors = files.read_vectors(path, findings, num_rows=table.num_records, of=table.path.name)
    return vectors[table.records]


def _users(folder: Path, said: mapping.Mapping, user_ids: np.ndarray, findings: dirt.Findings) -> Users:
    """Returns who acted, with what the users file says of them; who is not in it has no context."""
    table = _optional(folder, "users", said, findings)
    if table is None:
        return Users(user_ids)
    roles = mapping.resolve(table, "users", said.users, required=["id"])
    _log_roles(table, roles)
    problems = {"nameless": "user without an id", "twice": "duplicate user id"}
    table, known = cleaning.unique_rows(table, str(roles.id), findings, **problems)
    return Users(user_ids, context(table, known, user_ids, _kinds(table, roles)))


def context(table: Table, known: np.ndarray, user_ids: np.ndarray, kinds: dict[str, list[str]]) -> dict[str, Ragged]:
    """Returns field -> values of each user, in the order of `user_ids`; numbers become labels of their quantiles.

    Args:
        table: `[num_known]` rows, one a user.
        known: `[num_known]` their ids.
        user_ids: `[num_users]` str (object), those who acted.
        kinds: kind -> columns.
    """
    row_of = {user_id: row for row, user_id in enumerate(known)}
    rows = np.array([row_of.get(user_id, len(known)) for user_id in user_ids], dtype=np.int64)
    fields = {name: columns.lists(table[name]) for name in kinds[attributes.CATEGORICAL]}
    fields.update({name: attributes.binned(table[name]) for name in kinds[attributes.NUMERIC]})
    nobody = {
        name: Ragged(ragged.values, np.append(ragged.offsets, ragged.offsets[-1])) for name, ragged in fields.items()
    }
    return {name: ragged.take(rows) for name, ragged in nobody.items()}


def _queries(
    folder: Path, said: mapping.Mapping, item_ids: np.ndarray, findings: dirt.Findings
) -> Optional[KnownQueries]:
    table = _optional(folder, "queries", said, findings)
    if table is None:
        return None
    roles = mapping.resolve(table, "queries", said.queries, required=["text", "item"])
    _log_roles(table, roles)
    return cleaning.queries(table, roles, item_ids, findings)
