"""The item table -> the columns that the candidate tower reads, and what was learned to make them.

Everything learned here (vocabularies, statistics, subwords) is learned from the rows that training may see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np

from tfmm.closed_form import sp
from tfmm.encoders.attributes import AttributeVocabulary, learn_attributes
from tfmm.encoders.text import SubwordTokenizer, TextConfig, learn_subwords
from tfmm.records import ItemTable

ID = "id"
ATTRIBUTES = "attributes"
NUMERIC = "numeric"
PRESENT = "present"
SUBWORDS = "subwords"


@dataclasses.dataclass(frozen=True)
class Reduction:
    """Principal components of a frozen encoder's vectors, damped whitening included: (x - mean) @ components.

    A thousand correlated dimensions cost ten times as much in each training step as the hundred that matter, and one
    learning rate does not fit their unequal variances.

    Attributes:
        mean: `[width]` over training rows.
        components: `[width, dim]`.
    """

    mean: np.ndarray
    components: np.ndarray

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Returns `[n, dim]` float32 of `[n, width]`."""
        return (vectors.astype(np.float32) - self.mean) @ self.components


@dataclasses.dataclass(frozen=True)
class ItemFeatures:
    """One row an item, and a last row, `num_items`, for an item of which nothing is known.

    Attributes:
        columns: `id` `[rows]` int32; `<modality>` `[rows, dim]`, reduced; `subwords` `[rows, length]` int32 where the
            text encoder is trained; `attributes` `[rows, fields, values]` int32; `numeric` `[rows, numbers]`, NaN is
            missing; `present` `[rows, modalities]` bool.
        modalities: the order of `present`: id, the vectors, subwords, attributes; those that the catalogue has.
        reductions: modality -> how its raw vectors were reduced, and those of new items and queries are.
        vocabulary: of the attributes.
        text: the trained text encoder's configuration, and its SentencePiece model.
        neighbours: `[num_items, num_items]` sparse, what shoppers had beside each item: their vectors stand for those
            that it lacks. None = a learned vector stands for what is absent.
    """

    columns: Mapping[str, np.ndarray]
    modalities: tuple[str, ...]
    reductions: Mapping[str, Reduction]
    vocabulary: AttributeVocabulary
    text: Optional[tuple[TextConfig, bytes]] = None
    neighbours: Optional[sp.csr_matrix] = None

    @property
    def num_items(self) -> int:
        """How many real items there are."""
        return len(self.columns[ID]) - 1

    def with_ids(self, trained: np.ndarray) -> ItemFeatures:
        """Returns the same features where the ids of just these items, `[num_items]` bool, are used."""
        if ID not in self.modalities:
            return self
        present = self.columns[PRESENT].copy()
        present[:-1, self.modalities.index(ID)] = trained
        return dataclasses.replace(self, columns={**self.columns, PRESENT: present})

    def without(self, hidden: Sequence[str], of: Optional[np.ndarray] = None) -> ItemFeatures:
        """Returns the same features as if items, `[num_items]` bool, None = all, lacked the `hidden` modalities."""
        gone = np.isin(self.modalities, list(hidden))
        present = self.columns[PRESENT].copy()
        present[:-1] &= ~(gone if of is None else of[:, np.newaxis] & gone)
        return dataclasses.replace(self, columns={**self.columns, PRESENT: present})

    def seen(self) -> Mapping[str, np.ndarray]:
        """Returns the columns as the towers read them: a vector that an item lacks is its neighbours' mean, if any."""
        if self.neighbours is None:
            return self.columns
        columns, present = dict(self.columns), self.columns[PRESENT].copy()
        for name in self.content:
            place = self.modalities.index(name)
            weights = self.neighbours.multiply(present[np.newaxis, :-1, place]).tocsr()  # of those that have it
            total = np.asarray(weights.sum(axis=1)).ravel()
            told = np.flatnonzero(~present[:-1, place] & (total > 0))
            columns[name] = self.columns[name].copy()
            columns[name][told] = weights[told] @ self.columns[name][:-1] / total[told, np.newaxis]
            present[told, place] = True
        return {**columns, PRESENT: present}

    @property
    def content(self) -> tuple[str, ...]:
        """The modalities that come as vectors."""
        return tuple(name for name in self.modalities if name not in (ID, SUBWORDS, ATTRIBUTES))

    def attribute_table(self) -> np.ndarray:
        """Returns `[num_items, values]` bool: which values of the vocabulary an item has."""
        tokens = self.columns[ATTRIBUTES][:-1].reshape(self.num_items, -1)
        item, slot = np.nonzero(tokens)
        has = np.zeros((self.num_items, len(self.vocabulary)), bool)
        has[item, tokens[item, slot]] = True
        return has

    def content_rows(self) -> np.ndarray:
        """Returns F `[num_items, features]`: each modality's vector and the idf-weighted attributes, each of length 1.

        What an item lacks is 0, so that F F' is the sum of the modalities' cosines. Without content, F is empty.
        """
        parts = [np.zeros((self.num_items, 0), np.float32)]
        parts += [self.columns[name][:-1].astype(np.float32) for name in self.content]
        if ATTRIBUTES in self.modalities:
            parts.append(self.attribute_rows())
        lengths = [np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in parts]
        return np.concatenate([part / length for part, length in zip(parts, lengths)], axis=1)

    def attribute_rows(self) -> np.ndarray:
        """Returns `[num_items, values]` float32: log(items / items with the value) where an item has it."""
        has = self.attribute_table()
        return (has * np.log(self.num_items / np.maximum(has.sum(axis=0), 1))).astype(np.float32)


def item_features(
    table: ItemTable,
    *,
    trained: np.ndarray,
    modalities: Optional[Sequence[str]] = None,
    text: Optional[TextConfig] = None,
    reduce_to: int = 128,
    reductions: Optional[Mapping[str, Reduction]] = None,
    neighbours: Optional[sp.csr_matrix] = None,
) -> ItemFeatures:
    """Returns the candidate tower's columns.

    Args:
        table: the catalogue.
        trained: `[num_items]` bool: the items that the training events have; only they teach vocabularies and
            statistics, and only their ids are used (a cold item is ranked by its content).
        modalities: which to use (of id, the table's vectors, attributes); None is all.
        text: a text encoder to train; its subwords then take the place of frozen text vectors.
        reduce_to: dimensions that are kept of each modality's vectors, at most.
        reductions: of modalities whose reduction is not learned again.
        neighbours: see `ItemFeatures`.
    """
    vectors = {name: column for name, column in sorted(table.vectors.items()) if not (text and name == "text")}
    vocabulary = learn_attributes(table.categorical, table.numeric, rows=np.flatnonzero(trained))
    columns: dict[str, np.ndarray] = {ID: np.arange(len(table) + 1, dtype=np.int32)}
    present = {ID: trained}
    reductions = {name: reduction for name, reduction in (reductions or {}).items() if name in vectors}
    for name, column in vectors.items():
        present[name] = table.present[name]
        if name not in reductions:
            reductions[name] = _reduction(column[trained & present[name]], reduce_to)
        columns[name] = _with_nothing(reductions[name](column) * present[name][:, np.newaxis])
    learned = None
    if text is not None:
        model = learn_subwords([t for t in table.text[trained] if t], vocabulary_size=text.vocabulary_size)
        tokens = SubwordTokenizer(model, max_length=text.max_length)(list(table.text)).numpy()
        columns[SUBWORDS], present[SUBWORDS] = _with_nothing(tokens), table.text != ""
        learned = (text, model)
    columns[ATTRIBUTES] = _with_nothing(vocabulary.token_table(table.categorical, num_rows=len(table)))
    columns[NUMERIC] = _with_nothing(vocabulary.numeric_table(table.numeric, num_rows=len(table)), np.nan)
    if vocabulary.fields or vocabulary.numeric:
        known = np.isfinite(columns[NUMERIC]).any(axis=1) | (columns[ATTRIBUTES] > 0).any(axis=(1, 2))
        present[ATTRIBUTES] = known[:-1]
    wanted = tuple(name for name in present if modalities is None or name in modalities)
    columns[PRESENT] = _with_nothing(np.stack([present[name] for name in wanted], axis=1))
    return ItemFeatures(columns, wanted, reductions, vocabulary, learned, neighbours)


def _with_nothing(column: np.ndarray, fill: float = 0) -> np.ndarray:
    """Returns the column with one more row, of `fill`."""
    return np.concatenate([column, np.full_like(column[:1], fill, shape=(1, *column.shape[1:]))])


def _reduction(vectors: np.ndarray, dim: int) -> Reduction:
    """Returns the reduction that the vectors `[n, width]` teach; with fewer than two of them, it only cuts."""
    width = vectors.shape[1]
    if len(vectors) < 2:
        return Reduction(np.zeros(width, np.float32), np.eye(width, min(dim, width), dtype=np.float32))
    wide = vectors.astype(np.float64)
    mean = wide.mean(axis=0)
    covariance = np.cov(wide - mean, rowvar=False).reshape(width, width)
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = np.maximum(variances[::-1][:dim], 0), axes[:, ::-1][:, :dim]
    scale = 1 / np.sqrt(np.maximum(variances + _DAMPING * variances.mean() + 1e-12, _LEAST_VARIANCE))
    return Reduction(mean.astype(np.float32), (axes * scale).astype(np.float32))


_DAMPING = 0.1  # of the mean variance: keeps components that are mostly noise from being blown up
_LEAST_VARIANCE = 1e-8  # where all training vectors are alike, one that differs must not become huge
