"""Amazon's products and who reviewed what -> `Dataset`, from sequences of numbers or from the reviews themselves.

    <name>.txt                     S3-Rec's format: a line a user, the user then the items in order of time
    <name>_item2attributes.json    optional: {item: [attribute, ...]}, becomes the categorical field "attribute"

    <name>.json|jsonl[.gz]         Amazon Reviews 2018 or 2023: see `amazon_reviews`
    meta_<name>.json|jsonl[.gz]    optional: what is known of the products

(Zhou et al., S3-Rec, 2020; Ni et al., 2019; Hou et al., 2024.) Sequences say in which order, not when: an event's time
is its place in the user's line, from 1, and says nothing across users. They name no title and no picture.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Optional

import numpy as np

from tfmm.ragged import Ragged
from tfmm.sources import amazon_reviews, dirt, files, tables
from tfmm.sources.dataset import Dataset, Interactions, Items, Media, Users

_log = logging.getLogger(__name__)

_ATTRIBUTES = "_item2attributes.json"
_EXPECTED = "<name>.txt (S3-Rec's sequences) or <name>.json or .jsonl, also .gz (Amazon Reviews 2018 or 2023)"


def load(data_dir: Path, *, subset: Optional[str] = None) -> Dataset:
    """Returns one set of those in `data_dir`.

    Args:
        data_dir: holds the files.
        subset: names the set, `Beauty` or `Beauty.txt`; needed where there are several.

    Raises:
        ValueError: where there is no such set, or several and no subset; it names those that there are.
    """
    path = locate(Path(data_dir), subset)
    return _sequences(path) if path.suffix == ".txt" else amazon_reviews.load(path)


def locate(home: Path, subset: Optional[str]) -> Path:
    """Returns the file of interactions that `subset` names, or the only one."""
    if not home.is_dir():
        raise ValueError(f"data_dir: expected a folder with {_EXPECTED}, got {str(home)!r}.")
    names = sorted(path.name for path in home.iterdir() if path.is_file())
    paths = [home / name for name in names if _is_set(home / name)]
    if not paths:
        raise ValueError(f"{home}: expected {_EXPECTED}; got {', '.join(names[:10]) or 'an empty folder'}.")
    named = [path for path in paths if subset in (None, path.name, amazon_reviews.set_name(path))]
    if not named:
        known = list(dict.fromkeys(amazon_reviews.set_name(path) for path in paths))
        raise dirt.unknown("subset", subset, known, where=str(home))
    if len(named) > 1:
        distinct = list(dict.fromkeys(amazon_reviews.set_name(path) for path in named))
        choices = distinct if len(distinct) == len(named) else [path.name for path in named]
        raise ValueError(f"{home}: expected one set, got {', '.join(choices)}. Choose one: --subset {choices[0]}")
    return named[0]


def _is_set(path: Path) -> bool:
    """Returns whether a file holds interactions: of a text file, its first line is numbers."""
    if path.name.endswith(_ATTRIBUTES) or path.name.startswith(amazon_reviews.META):
        return False
    if path.suffix == ".txt":
        with path.open("rb") as file:
            words = file.readline().split()
        return len(words) > 1 and all(word.isdigit() for word in words)
    return path.name.endswith(amazon_reviews.SUFFIXES)


def _sequences(path: Path) -> Dataset:
    findings: dirt.Findings = []
    users, lines = _lines(path, findings)
    if not users:
        raise dirt.nothing_left("sequence", str(path), findings)
    ids = np.array(sorted({item for line in lines for item in line}, key=lambda item: (len(item), item)), dtype=object)
    row_of = {item: row for row, item in enumerate(ids)}
    packed = Ragged.from_rows([[row_of[item] for item in line] for line in lines], np.int64)
    places = np.arange(len(packed.values)) - np.repeat(packed.offsets[:-1], packed.lengths) + 1
    events = Interactions.ordered(
        user=packed.row_numbers,
        item=packed.values,
        time=places,
        event=np.zeros(len(places)),
        value=np.ones(len(places)),
    )
    _log.info("amazon %s: %d users, %d items, %d events", path.stem, len(users), len(ids), len(events))
    return Dataset(
        name=f"amazon-{path.stem}",
        items=_items(ids, path.with_name(path.stem + _ATTRIBUTES), findings),
        users=Users(np.array(users, dtype=object)),
        interactions=events,
        event_types=("review",),
        findings=tuple(findings),
    )


def _lines(path: Path, findings: dirt.Findings) -> tuple[list[str], list[list[str]]]:
    """Returns the distinct users and the items of each, as the file has them."""
    text = tables.read_utf8(path, "utf-8")[0].decode()
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        user, *items = line.split() or [""]
        if user and not items:
            dirt.note(findings, "line that is not a user and items", 1, dirt.place(path.name, number, None, line))
        elif user in found:
            dirt.note(findings, "duplicate user id", 1, dirt.place(path.name, number, "user", user))
        elif user:
            found[user] = items
    return list(found), list(found.values())


def _items(ids: np.ndarray, attributes: Path, findings: dirt.Findings) -> Items:
    return Items(
        ids=ids,
        text=np.full(len(ids), "", dtype=object),
        titles=ids,
        images=Media.missing(len(ids)),
        sounds=Media.missing(len(ids)),
        launched=np.zeros(len(ids), dtype=np.int64),
        categorical={"attribute": _attributes(ids, attributes, findings)} if attributes.is_file() else {},
    )


def _attributes(ids: np.ndarray, path: Path, findings: dirt.Findings) -> Ragged:
    """Returns each item's distinct attributes, str (object)."""
    held = _checked(path, files.read_json(path, expected="{item: [attribute, ...]}"))
    known = set(ids)
    strange = [(number, item) for number, item in enumerate(held, start=1) if item not in known]
    if strange:
        dirt.note(findings, "unknown item id", len(strange), dirt.place(path.name, strange[0][0], None, strange[0][1]))
    return Ragged.from_rows([list(dict.fromkeys(map(str, held.get(item, ())))) for item in ids], object)


def _checked(path: Path, held: Any) -> dict[str, list[Any]]:
    if not isinstance(held, dict):
        raise ValueError(f"{path}: expected {{item: [attribute, ...]}}, got {dirt.shown(held)}. Export it again.")
    for item, values in held.items():
        if not isinstance(values, list):
            raise ValueError(f"{path}: expected a list of attributes for item {item!r}, got {dirt.shown(values)}.")
    return held
