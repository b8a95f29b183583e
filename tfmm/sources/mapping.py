"""`dataset.yaml` -> which column plays which role; roles that it leaves open are recognised by the columns' names.

All keys are optional. A role takes the name of a column, or `none` where no column shall play it:

    name: my-shop                  # what the report calls the data; default: the folder's name
    encoding: utf-8                # of CSV and JSONL files: cp1252, gb18030, ...
    event_types: [view, purchase]  # weakest first; events of other types are dropped
    items:
      id: sku
      title: name
      description: long_text
      image: photo                 # a path, absolute or relative to the folder or its images/
      sound: jingle                # a path of a WAV file, absolute or relative to the folder or its sounds/
      launched: on_sale_since
      text: [bullet_points]        # more columns of free text, appended to the description
      categorical: [size]          # otherwise decided by type and by the number of distinct values
      numeric: [price]
      ignore: [internal_note]
    interactions:
      user: customer
      item: sku
      time: at                     # `none`: the order of the rows is the time
      event: action
      value: quantity
    users:
      id: customer
      categorical: [country]
      numeric: [age]               # cut at its quantiles
      ignore: [email]
    queries:
      text: typed
      item: bought
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, TypeVar

import yaml  # type: ignore[import-untyped]

from tfmm.sources import dirt
from tfmm.sources.tables import Table

NONE = "none"
_ITEM_IDS = "item_id product_id article_id sku asin parent_asin goods_id movie_id book_id track_id video_id variant_id"
_USER_IDS = "user_id customer_id shopper_id visitor_id member_id client_id buyer_id reviewer_id profile_id session_id"

SYNONYMS: dict[str, dict[str, str]] = {
    "items": {
        "id": f"id {_ITEM_IDS} item product",
        "title": "title name product_name product_title product_display_name item_name item_title display_name",
        "description": "description product_description item_description desc detail_desc overview summary",
        "image": "image image_path image_file picture picture_path photo photo_path img img_path",
        "sound": "sound sound_path sound_file audio audio_path audio_file wav",
        "launched": "launched launch launch_date launched_at release_date released published_at publish_date "
        "created_at date_added added_at available_from date_first_available first_seen",
    },
    "interactions": {
        "user": f"{_USER_IDS} user customer shopper visitor member session uid",
        "item": f"{_ITEM_IDS} item product article movie",
        "time": "time timestamp event_time ts datetime date created_at unix_time unix_review_time order_date "
        "purchase_date t_dat viewed_at at",
        "event": "event event_type type action behavior behaviour behavior_type interaction interaction_type",
        "value": "value rating quantity qty score stars overall count weight",
    },
    "users": {"id": f"id {_USER_IDS} user customer shopper visitor member uid"},
    "queries": {
        "text": "query query_text text search search_term search_query keywords q phrase",
        "item": f"{_ITEM_IDS} item product article movie",
    },
}
"""File -> role -> names of columns that play it, the surest first; case, spaces, `_` and `-` do not matter."""


@dataclasses.dataclass(frozen=True)
class ItemColumns:
    """Columns of the items file; None = there is none."""

    id: Optional[str] = None
    title: Optional[str] = None
    description: Optional[str] = None
    image: Optional[str] = None
    sound: Optional[str] = None
    launched: Optional[str] = None
    text: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class InteractionColumns:
    """Columns of the interactions file; None = there is none."""

    user: Optional[str] = None
    item: Optional[str] = None
    time: Optional[str] = None
    event: Optional[str] = None
    value: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class UserColumns:
    """Columns of the users file; None = there is none."""

    id: Optional[str] = None
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class QueryColumns:
    """Columns of the queries file; None = there is none."""

    text: Optional[str] = None
    item: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Mapping:
    """What `dataset.yaml` says."""

    name: Optional[str] = None
    encoding: str = "utf-8"
    event_types: tuple[str, ...] = ()
    items: ItemColumns = ItemColumns()
    interactions: InteractionColumns = InteractionColumns()
    users: UserColumns = UserColumns()
    queries: QueryColumns = QueryColumns()


Columns = TypeVar("Columns", ItemColumns, InteractionColumns, UserColumns, QueryColumns)


def read(folder: Path) -> Mapping:
    """Returns what `folder/dataset.yaml` says; all of it open where there is no such file.

    Raises:
        ValueError: on a key that does not exist or a value of the wrong kind, naming the nearest right one.
    """
    path = folder / "dataset.yaml"
    if not path.is_file():
        return Mapping()
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML in UTF-8, got something else: {error}") from error
    return _parsed(content or {}, Mapping(), str(path))


def _parsed(content: Any, default: Any, where: str) -> Any:
    """Returns `default`, a mapping's dataclass, with the values of `content`."""
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected keys and values, got {dirt.shown(content)}.")
    names = [field.name for field in dataclasses.fields(default)]
    values = {}
    for key, value in content.items():
        if key not in names:
            raise dirt.unknown("a key", key, names, where=where)
        values[key] = _value(value, getattr(default, key), f"{where}: {key}")
    return dataclasses.replace(default, **values)


def _value(value: Any, default: Any, where: str) -> Any:
    if dataclasses.is_dataclass(default):
        return _parsed(value or {}, default, where)
    if isinstance(default, tuple):
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ValueError(f"{where}: expected a list of names, such as [a, b], got {dirt.shown(value)}.")
        return tuple(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: expected a name, got {dirt.shown(value)}. Put it in quotes.")
    return value


def resolve(table: Table, kind: str, given: Columns, *, required: Sequence[str]) -> Columns:
    """Returns the columns with every open role filled by name; one that stays open, or is `none`, is None.

    Args:
        table: the file.
        kind: "items", "interactions", "users" or "queries".
        given: what dataset.yaml says.
        required: roles without which the file is of no use.

    Raises:
        ValueError: where a column that dataset.yaml names, or a required one, is not there.
    """
    _check_named(table, kind, given)
    taken = {value for value in dataclasses.astuple(given) if isinstance(value, str)}
    taken |= {name for value in dataclasses.astuple(given) if isinstance(value, tuple) for name in value}
    roles: dict[str, Optional[str]] = {}
    for role, synonyms in SYNONYMS[kind].items():
        named = getattr(given, role)
        free = {_plain(name): name for name in reversed(table.names) if name not in taken}
        found = next((free[_plain(word)] for word in synonyms.split() if _plain(word) in free), None)
        roles[role] = (None if named == NONE else named) if named else found
        taken |= {roles[role] or ""}
        if role in required and not roles[role]:
            raise _missing(table, kind, role)
    return dataclasses.replace(given, **roles)  # type: ignore[arg-type]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _check_named(table: Table, kind: str, given: Any) -> None:
    for key, value in dataclasses.asdict(given).items():
        for name in [value] if isinstance(value, str) else value or ():
            if name not in table.names and name != NONE:
                raise dirt.unknown(f"{kind}.{key} of dataset.yaml", name, table.names, where=str(table.path))


def _missing(table: Table, kind: str, role: str) -> ValueError:
    synonyms = SYNONYMS[kind][role].split()
    near = max(((dirt.likeness(name, word), name) for name in table.names for word in synonyms), default=(0.0, ""))
    hint = f"; the nearest is {near[1]!r}" if near[0] >= 0.5 else ""
    example = near[1] if hint else "NAME"
    return ValueError(
        f"{table.path} row 1: expected a column for {role!r} ({', '.join(synonyms[:5])}, ...), got the columns "
        f"{', '.join(map(repr, table.names))}{hint}. Rename it, or write in dataset.yaml: {kind}: {{{role}: {example}}}"
    )
