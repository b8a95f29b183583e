"""An exported version, products to add and to remove -> the next version, without training.

All that an exported model has of its items are variables of open length (`Storefront.columns`), and it encodes
products itself (`Storefront.describe`). So the next version is the same graph, byte for byte, beside other variables.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from tfmm import schema
from tfmm.encoders import pictures
from tfmm.encoders.attributes import NOTHING, AttributeVocabulary
from tfmm.encoders.waves import wav_problems
from tfmm.export import new_version
from tfmm.index import id_columns, member_rows
from tfmm.progress import counter
from tfmm.ragged import NO_ITEM, Ragged
from tfmm.serving.catalogue import DIRECTORY, LINES, PICTURES, extend_catalogue
from tfmm.serving.servable import load_servable
from tfmm.serving.variables import VARIABLES, write_variables
from tfmm.sources.dataset import Finding, Items, Media

Columns = dict[str, np.ndarray]
_LOOKUP = ("fingerprints", "places")
_BEHAVIOUR = ("neighbours", "neighbour_weights", "counts")
_CLUSTERS = ("centroids", "members")
_BATCH = 16  # of sounds, too, that may be a minute long: see `waves.MAX_BATCH_SECONDS`


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported version that products can be added to and removed from; see `open_version`.

    Attributes:
        path: its directory.
        model: it, loaded.
        columns: what of it changes with the catalogue.
        vocabulary: of the attributes.
        hears: whether its products may have sounds.
    """

    path: Path
    model: Any
    columns: Columns
    vocabulary: AttributeVocabulary
    hears: bool = False

    @property
    def ids(self) -> np.ndarray:
        """`[num_items]` str (object)."""
        return np.array([name.decode() for name in self.columns["ids"]], object)


@dataclasses.dataclass(frozen=True)
class Changed:
    """What became of a catalogue.

    Attributes:
        path: the new version's directory.
        items: how many it has.
        added: how many of them are new.
        replaced: how many have new content.
        removed: how many are gone.
        findings: what the model could not make use of.
    """

    path: Path
    items: int
    added: int
    replaced: int
    removed: int
    findings: tuple[Finding, ...]


def open_version(path: Path) -> Exported:
    """Returns the exported version in directory `path`.

    Raises:
        ValueError: where it was exported before products could be added.
    """
    servable = load_servable(path)
    model: Any = servable.model
    if not hasattr(model, "columns") or not hasattr(model, "describe"):
        raise ValueError(
            f"{path}: expected a version whose catalogue can change, got one of an older release. Train once more."
        )
    columns = {name: variable.numpy() for name, variable in model.columns.items()}
    vocabulary = AttributeVocabulary.from_json(model.reader.vocabulary.numpy().decode())
    inputs = servable.signatures["embed_item"].inputs
    return Exported(path, model, columns, vocabulary, hears=schema.SOUND in inputs)


def reindex(
    old: Exported,
    *,
    add: Optional[Items] = None,
    remove: Collection[str] = (),
    replace: bool = False,
    now: Optional[int] = None,
) -> Changed:
    """Returns what became of the catalogue; the next version is written beside the old one, whole or not at all.

    A new product is what a product without an event was in training: known by its content, without neighbours,
    launched now where it does not say when. One that is replaced keeps what shoppers' events say of it (neighbours,
    popularity) and its launch, and stands where its new content puts it; what its id learned belonged to the old one.

    Args:
        old: the version to begin from.
        add: the products.
        remove: ids.
        replace: whether an added product may have an id that the catalogue has.
        now: seconds since the epoch; None is the clock's.

    Raises:
        ValueError: where an id to remove is not there, one to add is, or nothing would change or be left.
    """
    ids = old.ids
    new = np.zeros(0, object) if add is None else add.ids
    _check(ids, new, remove, replace=replace)
    kept = np.flatnonzero(~np.isin(ids, list(remove)))
    findings: tuple[Finding, ...] = ()
    columns = _taken(old.columns, kept)
    if add is not None:
        described, findings = describe(old, add)
        launched = np.where(add.launched > 0, add.launched, int(time.time()) if now is None else now)
        columns = _merged(columns, described, new, launched=launched, stated=add.launched > 0)
    columns = _indexed(columns)
    with new_version(old.path.parent) as (writing, final):
        _write(old, writing, columns, add, remove)
    replaced = int(np.isin(new, ids).sum())
    return Changed(final, len(columns["ids"]), len(new) - replaced, replaced, len(ids) - len(kept), findings)


def describe(old: Exported, items: Items) -> tuple[Columns, tuple[Finding, ...]]:
    """Returns those columns of the products that the model computes from their content, and what it did not know."""
    terms, findings = attribute_terms(old.vocabulary, items)
    sounds, unheard = _heard(old, items)
    parts: list[Mapping[str, np.ndarray]] = []
    unseen = np.zeros(len(items), bool)
    with counter("encoding products", total=len(items)) as advance:
        for start in range(0, len(items), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(items)))
            images = np.array([_for_graph(items.images.read(row)) for row in rows], object)
            heard = np.array([sounds.read(row) for row in rows], object)
            others = terms.take(rows).to_dense(fill=""), heard
            try:
                parts.append(_encoded(old, items.text[rows], images, *others))
            except tf.errors.InvalidArgumentError:
                images = _without_broken(old, images)
                parts.append(_encoded(old, items.text[rows], images, *others))
            unseen[rows] = items.images.present[rows] & (images == b"")
            advance(len(rows))
    tokens = Ragged.from_rows([row[row != NOTHING] for part in parts for row in part["tokens"]], np.int32)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "tokens"}
    columns["tokens"] = tokens.to_dense(max(1, int(tokens.lengths.max(initial=0))), fill=NOTHING)
    return columns, findings + _dropped("picture cannot be decoded", items, unseen) + unheard


def _encoded(old: Exported, *columns: np.ndarray) -> Mapping[str, np.ndarray]:
    """Returns what the model makes of texts, pictures, terms and sounds, a row a product."""
    heard = columns if old.hears else columns[:-1]
    found = old.model.describe(*(tf.constant(column, tf.string, shape=column.shape) for column in heard))
    return {name: column.numpy() for name, column in found.items()}


def _without_broken(old: Exported, images: np.ndarray) -> np.ndarray:
    """Returns the pictures, `b""` for each that the model cannot decode."""
    nothing, no_terms = np.array([b""], object), np.zeros([1, 0], object)
    seen = images.copy()
    for row in range(len(images)):
        try:
            _encoded(old, nothing, images[row : row + 1], no_terms, nothing)
        except tf.errors.InvalidArgumentError:
            seen[row] = b""
    return seen


def _for_graph(content: bytes) -> bytes:
    try:
        return pictures.for_graph(content) if content else content
    except pictures.UnreadablePicture:
        return content  # whether the model can make something of it, it says itself


def _heard(old: Exported, items: Items) -> tuple[Media, tuple[Finding, ...]]:
    """Returns the sounds that the model can hear, and a finding for those that it cannot."""
    if not old.hears:
        unknown = _finding("sound, of which the model knows nothing", items, items.sounds.present)
        return Media.missing(len(items)), (unknown,) if unknown.count else ()
    problems = [wav_problems(tf.constant([items.sounds.read(row)]))[0].numpy() for row in range(len(items))]
    wrong = np.array(problems, object) != b""
    sources = items.sounds.sources.copy()
    sources[wrong] = None
    return Media(sources), _dropped("sound cannot be decoded", items, wrong)


def _dropped(problem: str, items: Items, wrong: np.ndarray) -> tuple[Finding, ...]:
    return (dataclasses.replace(_finding(problem, items, wrong), action="dropped"),) if wrong.any() else ()


def attribute_terms(vocabulary: AttributeVocabulary, items: Items) -> tuple[Ragged, tuple[Finding, ...]]:
    """Returns "field=value" of each product, numbers alike, and a finding for each field or value without a meaning."""
    known, findings = set(vocabulary.terms), []
    numeric = [statistics.field for statistics in vocabulary.numeric]
    rows: list[list[str]] = [[] for _ in range(len(items))]
    for field, values in items.categorical.items():
        if field not in vocabulary.fields:
            findings.append(_finding(f"field that the model does not have: {field}", items, values.lengths > 0))
            continue
        terms = np.array([f"{field}={value}" if value else "" for value in values.values], object)
        for row, term in zip(values.row_numbers, terms):
            rows[row] += [term] if term else []
        new = np.array([bool(term) and term not in known for term in terms], bool)
        unseen = np.isin(np.arange(len(items)), values.row_numbers[new])
        example = terms[new][0] if new.any() else ""
        findings.append(_finding(f"value of {field} that training never saw, taken as other", items, unseen, example))
    for field, numbers in items.numeric.items():
        if field not in numeric:
            findings.append(_finding(f"field that the model does not have: {field}", items, np.isfinite(numbers)))
            continue
        for row in np.flatnonzero(np.isfinite(numbers)):
            rows[row].append(f"{field}={float(numbers[row])!r}")
    return Ragged.from_rows(rows, object), tuple(finding for finding in findings if finding.count)


def _finding(problem: str, items: Items, wrong: np.ndarray, value: str = "") -> Finding:
    row = int(wrong.argmax())
    return Finding(problem, "kept", int(wrong.sum()), f"item {items.ids[row]!r}" + (f": {value!r}" if value else ""))


def _check(ids: np.ndarray, new: np.ndarray, remove: Collection[str], *, replace: bool) -> None:
    known, gone = set(ids.tolist()), set(remove)
    missing = sorted(gone - known)
    if missing:
        raise ValueError(f"remove: expected ids of the catalogue's {len(ids)} items, got {_some(missing)}.")
    both = sorted(gone & set(new.tolist()))
    if both:
        raise ValueError(
            f"expected an id to be added or removed, got {_some(both)} for both. --replace gives it new content."
        )
    there = [name for name in new.tolist() if name in known]
    if there and not replace:
        raise ValueError(
            f"add: expected ids that the catalogue does not have, got {_some(there)}, which it has. "
            "Pass --replace to give them the new content."
        )
    if not len(new) and not gone:
        raise ValueError("expected items to add or to remove, got neither.")
    if not len(new) and len(gone) == len(ids):
        raise ValueError(f"remove: expected to leave one item or more, got all {len(ids)} to remove.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


def _taken(columns: Columns, kept: np.ndarray) -> Columns:
    """Returns the columns of some rows; neighbours that are gone leave their places empty."""
    count = len(columns["ids"])
    taken = {name: column if name in _CLUSTERS else column[kept] for name, column in columns.items()}
    if "neighbours" not in columns:  # a model without shoppers
        return taken
    moved = np.full(count + 1, NO_ITEM, np.int32)  # the last one is for -1
    moved[kept] = np.arange(len(kept), dtype=np.int32)
    taken["neighbours"] = moved[taken["neighbours"]]
    taken["neighbour_weights"] = np.where(taken["neighbours"] == NO_ITEM, 0, taken["neighbour_weights"])
    return taken


def _merged(old: Columns, described: Columns, new: np.ndarray, *, launched: np.ndarray, stated: np.ndarray) -> Columns:
    """Returns the columns with the products' rows: where an id is known in place of the old ones, else at the end."""
    rows = {name.decode(): row for row, name in enumerate(old["ids"])}
    at = np.array([rows.get(name, NO_ITEM) for name in new], np.int64)
    fresh = np.flatnonzero(at == NO_ITEM)
    at[fresh] = len(old["ids"]) + np.arange(len(fresh))
    total, known = len(old["ids"]) + len(fresh), at < len(old["ids"])
    names = np.array([name.encode() for name in new], object)
    given = {**described, "ids": names, "launched": launched}
    merged = {}
    for name, column in old.items():
        if name in (*_CLUSTERS, *_LOOKUP):
            merged[name] = column  # made anew by `_indexed`
            continue
        fill = NO_ITEM if name == "neighbours" else 0
        merged[name] = _longer(column, total, given[name].shape[1:] if name in given else (), fill)
        chosen = ~known | stated if name == "launched" else np.ones(len(new), bool)
        if name in given:
            _put(merged[name], at[chosen], given[name][chosen])
        elif name not in _BEHAVIOUR:
            raise ValueError(f"expected the model to describe {name!r} of a new product, got no such column.")
    return merged


def _longer(column: np.ndarray, total: int, shape: tuple[int, ...], fill: int) -> np.ndarray:
    """Returns a copy with `total` rows, and as wide as a row of `shape` where that is wider."""
    width = column.shape[1:] if not shape else tuple(max(pair) for pair in zip(column.shape[1:], shape))
    longer = np.full((total, *width), b"" if column.dtype == object else fill, column.dtype)
    longer[(slice(len(column)), *(slice(size) for size in column.shape[1:]))] = column
    return longer


def _put(column: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
    column[rows] = 0 if column.dtype != object else b""
    column[(rows, *(slice(size) for size in values.shape[1:]))] = values


def _indexed(columns: Columns) -> Columns:
    """Returns the columns with ids that can be looked up and clusters that hold the items that there are."""
    made = {**columns, **id_columns(np.array([name.decode() for name in columns["ids"]], object))}
    if "centroids" in columns:
        made["members"] = member_rows(columns["corpus"], columns["centroids"])
    return made


def _write(old: Exported, directory: Path, columns: Columns, add: Optional[Items], remove: Collection[str]) -> None:
    """Writes the version: all of the old one's files, other variables, and a catalogue of the items that it has."""
    beside = old.path / DIRECTORY
    shown = (LINES, PICTURES) if (beside / LINES).is_file() else ()
    left = shutil.ignore_patterns("variables", "fingerprint.pb", *shown)  # that print is of the old variables, too
    shutil.copytree(old.path, directory, ignore=left)
    (directory / VARIABLES).parent.mkdir()
    write_variables(old.path / VARIABLES, directory / VARIABLES, columns)
    if not shown:
        return
    if add is None:
        extend_catalogue(beside, directory / DIRECTORY, without=remove)
        return
    images = (add.images.read(row) for row in range(len(add)))
    extend_catalogue(
        beside, directory / DIRECTORY, without=remove, ids=list(add.ids), titles=list(add.titles), images=images
    )
