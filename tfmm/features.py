"""The item table -> the columns that the candidate tower reads, and what was learned to make them.

Everything learned here (vocabularies, statistics, subwords) is learned from the rows that training may see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np

from tfmm.encoders.attributes import AttributeVocabulary, learn_attributes
from tfmm.encoders.text import SubwordTokenizer, TextConfig, learn_subwords
from tfmm.records import ItemTable

ID = "id"
ATTRIBUTES = "attributes"
NUMERIC = "numeric"
PRESENT = "present"
SUBWORDS = "subwords"


@dataclasses.dataclass(frozen=True)
class ItemFeatures:
    """One row an item, and a last row, `num_items`, for an item of which nothing is known.

    Attributes:
        columns: `id` `[rows]` int32; `<modality>` `[rows, width]` float16; `subwords` `[rows, length]` int32 where the
            text encoder is trained; `attributes` `[rows, fields, values]` int32; `numeric` `[rows, numbers]`, NaN is
            missing; `present` `[rows, modalities]` bool.
        modalities: the order of `present`: id, the vectors, subwords, attributes; those that the catalogue has.
        statistics: modality -> (mean, standard deviation) `[width]` over training rows.
        vocabulary: of the attributes.
        text: the trained text encoder's configuration, and its SentencePiece model.
    """

    columns: Mapping[str, np.ndarray]
    modalities: tuple[str, ...]
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]
    vocabulary: AttributeVocabulary
    text: Optional[tuple[TextConfig, bytes]] = None

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

    @property
    def content(self) -> tuple[str, ...]:
        """The modalities that come as vectors."""
        return tuple(name for name in self.modalities if name not in (ID, SUBWORDS, ATTRIBUTES))


def item_features(
    table: ItemTable,
    *,
    trained: np.ndarray,
    modalities: Optional[Sequence[str]] = None,
    text: Optional[TextConfig] = None,
) -> ItemFeatures:
    """Returns the candidate tower's columns.

    Args:
        table: the catalogue.
        trained: `[num_items]` bool: the items that the training events have; only they teach vocabularies and
            statistics, and only their ids are used (a cold item is ranked by its content).
        modalities: which to use (of id, the table's vectors, attributes); None is all.
        text: a text encoder to train; its subwords then take the place of frozen text vectors.
    """
    vectors = {name: column for name, column in sorted(table.vectors.items()) if not (text and name == "text")}
    vocabulary = learn_attributes(table.categorical, table.numeric, rows=np.flatnonzero(trained))
    columns: dict[str, np.ndarray] = {ID: np.arange(len(table) + 1, dtype=np.int32)}
    present = {ID: trained}
    for name, column in vectors.items():
        columns[name], present[name] = _with_nothing(column), table.present[name]
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
    statistics = {name: _statistics(vectors[name][trained & present[name]]) for name in vectors}
    return ItemFeatures(columns, wanted, statistics, vocabulary, learned)


def _with_nothing(column: np.ndarray, fill: float = 0) -> np.ndarray:
    """Returns the column with one more row, of `fill`."""
    return np.concatenate([column, np.full_like(column[:1], fill, shape=(1, *column.shape[1:]))])


def _statistics(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation per dimension; 0 and 1 where there is too little to tell."""
    if len(vectors) < 2:
        return np.zeros(vectors.shape[1], np.float32), np.ones(vectors.shape[1], np.float32)
    wide = vectors.astype(np.float32)
    return wide.mean(axis=0), np.maximum(wide.std(axis=0), 1e-3)
