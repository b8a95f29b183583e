"""LETOR's text (also SVMlight's, with query ids) -> lists of documents with numbers and labels, in three parts.

    2 qid:10 1:0.03 2:NULL 5:117 #docid = GX000-24-1236 weight = 1.5

A label (0 or more), the query, and numbers by feature (1, 2, ...). `NULL` is missing; a feature that is left out is 0,
as SVMlight's sparse files mean it. Of the comment, `docid` names the document and `weight` says how much its label
counts (1 by default; inverse propensities of clicks, say: see `tfmm.clicks`); the rest is not read. (Qin & Liu 2013,
LETOR 4.0.)

Folders: `train.txt`, `vali.txt` and `test.txt`; or `Fold1/`, ... of such files; or parts such as `A1.txt` ... `A4.txt`,
of which one is the test, the one before it (in a circle) validates and the others train. Any file may be gzipped.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional

import numpy as np

from tfmm.ragged import Ragged
from tfmm.sources import dirt, tables
from tfmm.sources.judged import JudgedLists, JudgedParts

_log = logging.getLogger(__name__)

MAX_FEATURES = 10_000
_LARGEST = float(np.finfo(np.float32).max)
_STEMS = {"train": ("train",), "validation": ("vali", "valid", "validation"), "test": ("test",)}
_PART = re.compile(r"(.*?)(\d+)\.txt(?:\.gz)?", re.IGNORECASE)
_SUFFIXES = (".txt", ".txt.gz")
_COMMENT = re.compile(r"(\w+)\s*=\s*(\S+)")
_LAYOUTS = (
    "train.txt, vali.txt and test.txt; folders of these (Fold1, ...); or at least three parts (A1.txt, A2.txt, ...)"
)


def load(data_dir: Path, *, subset: Optional[str] = None) -> JudgedParts:
    """Returns the three parts.

    Args:
        data_dir: a folder of one of the layouts above.
        subset: a fold ("Fold1"), or of parts the one that is the test ("A4"; by default the last).

    Raises:
        ValueError: where the folder has another layout, or a line is not LETOR's; it says which.
    """
    home = Path(data_dir)
    paths, name = _paths(home, subset)
    read = {part: [read_lists(path) for path in files] for part, files in paths.items()}
    width = max(lists.features.shape[1] for several in read.values() for lists in several)
    joined = {part: _joined([_widened(lists, width) for lists in several]) for part, several in read.items()}
    files = {part: tuple(path.name for path in several) for part, several in paths.items()}
    _log.info(
        "letor: %s", "; ".join(f"{part} {', '.join(names)}: {len(joined[part])}" for part, names in files.items())
    )
    return JudgedParts(name=name, files=files, **joined)


def rotations(data_dir: Path) -> dict[str, dict[str, list[Path]]]:
    """Returns test part -> part -> its files, for a folder of numbered parts; empty where it has none."""
    numbered = [(found, path) for path in sorted(Path(data_dir).glob("*")) if (found := _PART.fullmatch(path.name))]
    ordered = [path for _, path in sorted(numbered, key=lambda pair: (pair[0][1], int(pair[0][2])))]
    count = len(ordered)
    chosen = {}
    for at in range(count if count >= len(_STEMS) else 0):
        others = [ordered[(at + step) % count] for step in range(1, count - 1)]
        chosen[_stem(ordered[at])] = {"train": others, "validation": [ordered[at - 1]], "test": [ordered[at]]}
    return chosen


def read_lists(path: Path) -> JudgedLists:
    """Returns the lists of one file; a query's documents need not stand together.

    Raises:
        ValueError: on a line that is not LETOR's: file, line, what was expected and what came.
    """
    rows = list(_rows(path))
    if not rows:
        raise ValueError(f"{path}: expected lines such as '2 qid:10 1:0.03 2:NULL #docid = GX0', got none.")
    number = {query: at for at, query in enumerate(dict.fromkeys(row.query for row in rows))}
    groups = np.array([number[row.query] for row in rows])
    order = np.argsort(groups, kind="stable")
    columns = np.array([key for row in rows for key in row.values], np.int64) - 1
    features = np.zeros([len(rows), columns.max(initial=0) + 1], np.float32)
    lengths = [len(row.values) for row in rows]
    features[np.repeat(np.arange(len(rows)), lengths), columns] = [one for row in rows for one in row.values.values()]
    weights = np.array([row.weight for row in rows], np.float32)
    return JudgedLists(
        queries=np.array(list(number), dtype=object),
        documents=Ragged.from_groups(groups, np.array([row.document for row in rows], dtype=object), len(number)),
        labels=np.array([row.label for row in rows], np.float32)[order],
        features=features[order],
        weights=None if (weights == 1).all() else weights[order],
    )


@dataclasses.dataclass(frozen=True)
class _Row:
    label: float
    query: str
    values: Mapping[int, float]
    document: str
    weight: float


def _rows(path: Path) -> Iterator[_Row]:
    data, _ = tables.read_utf8(path, "utf-8")
    for number, line in enumerate(data.decode("utf-8").splitlines(), start=1):
        body, _, comment = line.partition("#")
        cells = body.split()
        if not cells:
            continue
        if len(cells) < 2 or not cells[1].startswith("qid:") or len(cells[1]) == 4:
            raise _bad(path, number, "a label and then qid:<query>", " ".join(cells[:2]))
        told = dict(_COMMENT.findall(comment))
        yield _Row(
            label=_number(path, number, cells[0], "a label of 0 or more first", at_least_0=True),
            query=cells[1][4:],
            values=_values(path, number, cells[2:]),
            document=told.get("docid", f"{cells[1][4:]}/{number}"),
            weight=_number(path, number, told.get("weight", "1"), "a weight of 0 or more", at_least_0=True),
        )


def _values(path: Path, number: int, cells: list[str]) -> dict[int, float]:
    """Returns feature number -> value, NaN = missing."""
    values: dict[int, float] = {}
    for cell in cells:
        key, colon, value = cell.partition(":")
        if not colon or not key.isdecimal() or not 1 <= int(key) <= MAX_FEATURES:
            raise _bad(path, number, f"<feature>:<value> with a feature number from 1 to {MAX_FEATURES}", cell)
        if int(key) in values:
            raise _bad(path, number, "every feature once", f"feature {key} again: {cell}")
        missing = value.upper() in ("NULL", "NAN")
        values[int(key)] = math.nan if missing else _number(path, number, value, f"a number or NULL in feature {key}")
    return values


def _number(path: Path, number: int, text: str, expected: str, *, at_least_0: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST or (at_least_0 and value < 0):  # NaN is not either
        raise _bad(path, number, expected, text)
    return value


def _bad(path: Path, number: int, expected: str, got: str) -> ValueError:
    return ValueError(
        f"{path} line {number}: expected {expected}, got {dirt.shown(got)}. "
        f"Lines look like '2 qid:10 1:0.03 2:NULL #docid = GX0'; repair or remove this one."
    )


def _paths(home: Path, subset: Optional[str]) -> tuple[dict[str, list[Path]], str]:
    """Returns part -> its files, and a name for the data."""
    if not home.is_dir():
        raise ValueError(f"data_dir: expected a folder with {_LAYOUTS}; {home} is none.")
    folds = sorted(path.name for path in home.iterdir() if path.is_dir() and _triple(path))
    if folds and not (subset is None and _triple(home)):
        if subset not in folds:
            raise dirt.unknown("subset", subset, folds, where=f"{home} has several folds; give --subset. {home}")
        return _triple(home / subset), f"{home.resolve().name}-{subset}"
    if _triple(home):
        if subset is not None:
            raise ValueError(f"{home}: expected no subset where train.txt and test.txt stand directly, got {subset!r}.")
        return _triple(home), home.resolve().name
    return _rotation(home, subset)


def _rotation(home: Path, subset: Optional[str]) -> tuple[dict[str, list[Path]], str]:
    found = rotations(home)
    if not found:
        got = ", ".join(sorted(path.name for path in home.iterdir())[:10]) or "an empty folder"
        raise ValueError(f"{home}: expected {_LAYOUTS}; got {got}.")
    chosen = subset or list(found)[-1]
    if chosen not in found:
        options = "; ".join(f"{test}: {_how(paths)}" for test, paths in found.items())
        error = dirt.unknown("subset", subset, list(found), where=str(home))
        raise ValueError(f"{error} A subset names the part that is the test ({options}).")
    return found[chosen], f"{home.resolve().name}-{chosen}"


def _how(paths: Mapping[str, list[Path]]) -> str:
    """Returns "trains on A1 and A2, validates on A3"."""
    return f"trains on {' and '.join(map(_stem, paths['train']))}, validates on {_stem(paths['validation'][0])}"


def _triple(home: Path) -> dict[str, list[Path]]:
    """Returns part -> its one file where all three are there, else nothing."""
    found = {
        part: [path for stem in stems for suffix in _SUFFIXES if (path := home / (stem + suffix)).is_file()]
        for part, stems in _STEMS.items()
    }
    several = [" and ".join(path.name for path in paths) for paths in found.values() if len(paths) > 1]
    if several and all(found.values()):
        raise ValueError(f"{home}: expected one file a part, got {several[0]}. Keep one of them in the folder.")
    return found if all(found.values()) else {}


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _widened(lists: JudgedLists, width: int) -> JudgedLists:
    """Returns the lists with features that the file never names as 0."""
    missing = width - lists.features.shape[1]
    return dataclasses.replace(lists, features=np.pad(lists.features, [(0, 0), (0, missing)])) if missing else lists


def _joined(several: list[JudgedLists]) -> JudgedLists:
    names = [query for lists in several for query in lists.queries]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Expected each query in one file, got qid:{twice} in two. Rename or remove one of them.")
    lengths = np.concatenate([lists.documents.lengths for lists in several])
    weights = [np.ones(len(one.labels), np.float32) if one.weights is None else one.weights for one in several]
    return JudgedLists(
        queries=np.array(names, dtype=object),
        documents=Ragged(
            np.concatenate([lists.documents.values for lists in several]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ),
        labels=np.concatenate([lists.labels for lists in several]),
        features=np.concatenate([lists.features for lists in several]),
        weights=None if all(one.weights is None for one in several) else np.concatenate(weights),
    )
