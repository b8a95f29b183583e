"""What is known of products, and what is typed, shown or said -> one space, where content alone decides.

A query is read as a product of which only some modalities are known: both go through the same tower, so that what was
typed is compared with titles, pictures, sounds and attributes alike, whichever of them a product has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm.encoders.attributes import AttributeEncoder, AttributeVocabulary
from tfmm.encoders.sentence import SentenceEncoder
from tfmm.encoders.text import SubwordTokenizer, TextConfig, learn_subwords, make_text_encoder
from tfmm.features import ATTRIBUTES, NUMERIC, SUBWORDS
from tfmm.fusion import fusion
from tfmm.ragged import Ragged
from tfmm.records import ItemTable
from tfmm.towers import unit

TEXT, IMAGE, SOUND = "text", "image", "sound"
ASKABLE = (TEXT, IMAGE, SOUND)
"""Modalities that a query may have."""


@dataclasses.dataclass(frozen=True)
class ContentConfig:
    """The shape of the content tower.

    Attributes:
        dim: width of the space.
        width: of each modality's hidden layer.
        dropout: on what each modality's network reads.
        fusion: how modalities become one vector (`fusion.KINDS`).
        subwords: learned from the catalogue at most, for words (brands) that a pretrained encoder does not know.
        subword_width: of their embeddings.
    """

    dim: int = 256
    width: int = 512
    dropout: float = 0.2
    fusion: str = "attention"
    subwords: int = 8000
    subword_width: int = 128

    def __post_init__(self) -> None:
        for name in ("dim", "width", "subwords", "subword_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected content.{name} >= 1, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Expected content.dropout in [0, 1), got {self.dropout}.")
        fusion(self.fusion)


@dataclasses.dataclass(frozen=True)
class Content:
    """What the content tower reads of products, one row each.

    Attributes:
        columns: `<modality>` `[rows, width]`, as frozen encoders made them; `subwords` `[rows, length]` int32;
            `attributes` `[rows, fields, values]` int32; `numeric` `[rows, numbers]`, NaN is missing.
        present: `[rows, modalities]` bool.
        modalities: the order of `present`.
        vocabulary: of the attributes.
        subwords: the SentencePiece model.
        statistics: modality -> mean and deviation `[width]` of its vectors over training rows.
    """

    columns: Mapping[str, np.ndarray]
    present: np.ndarray
    modalities: tuple[str, ...]
    vocabulary: AttributeVocabulary
    subwords: bytes
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def __len__(self) -> int:
        return len(self.present)

    def has(self, modality: str) -> np.ndarray:
        """Returns `[rows]` bool; all False for a modality that nothing here has."""
        if modality not in self.modalities:
            return np.zeros(len(self), bool)
        return self.present[:, self.modalities.index(modality)]


def content_of(
    table: ItemTable, *, vocabulary: AttributeVocabulary, trained: np.ndarray, config: ContentConfig
) -> Content:
    """Returns the content of a catalogue.

    Args:
        table: the items with their encoded vectors.
        vocabulary: of the attributes.
        trained: `[num_items]` bool: the items that teach subwords and statistics.
        config: of the tower that will read it.
    """
    columns: dict[str, np.ndarray] = {name: np.asarray(column) for name, column in sorted(table.vectors.items())}
    present = {name: table.present[name] for name in columns}
    statistics = {name: _moments(columns[name][trained & present[name]]) for name in columns}
    model = learn_subwords([text for text in table.text[trained] if text], vocabulary_size=config.subwords)
    if (table.text != "").any():
        columns[SUBWORDS] = cut(model, list(table.text))
        present[TEXT] = table.text != ""
        columns.setdefault(TEXT, np.zeros((len(table), 0), np.float16))
        statistics.setdefault(TEXT, _moments(columns[TEXT]))
    if vocabulary.fields or vocabulary.numeric:
        columns[ATTRIBUTES] = vocabulary.token_table(table.categorical, num_rows=len(table))
        columns[NUMERIC] = vocabulary.numeric_table(table.numeric, num_rows=len(table))
        present[ATTRIBUTES] = (columns[ATTRIBUTES] > 0).any(axis=(1, 2)) | np.isfinite(columns[NUMERIC]).any(axis=1)
    modalities = tuple(present)
    stacked = (
        np.stack([present[name] for name in modalities], axis=1) if modalities else np.zeros((len(table), 0), bool)
    )
    return Content(columns, stacked, modalities, vocabulary, model, statistics)


MAX_SUBWORDS = 32


def make_cutter(model: bytes) -> SubwordTokenizer:
    """Returns what cuts titles and typed words alike, string `[batch]` -> int32 `[batch, length]`, 0 = padding."""
    return SubwordTokenizer(model, max_length=MAX_SUBWORDS)


def cut(model: bytes, texts: Sequence[str]) -> np.ndarray:
    """Returns int32 `[rows, MAX_SUBWORDS]`, padded with 0."""
    ids = make_cutter(model)(list(texts)).numpy()
    return np.pad(ids, [(0, 0), (0, MAX_SUBWORDS - ids.shape[1])])


def _moments(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wide = vectors.astype(np.float32)
    if len(wide) < 2:
        return np.zeros(wide.shape[1], np.float32), np.ones(wide.shape[1], np.float32)
    return wide.mean(axis=0), np.maximum(wide.std(axis=0), 1e-3)


class ContentTower(tf.keras.layers.Layer):
    """Modalities and which of them are there -> `[batch, dim]` of length 1."""

    def __init__(self, config: ContentConfig, content: Content) -> None:
        super().__init__(name="content_tower")
        self.config, self.modalities = config, content.modalities
        self.heads = {name: _Head(config, content.statistics.get(name), name=name) for name in self.modalities}
        if TEXT in self.modalities:
            words = TextConfig(width=config.subword_width, dropout=0.0)
            size = SubwordTokenizer(content.subwords, max_length=1).vocabulary_size
            self.words = make_text_encoder(words, vocabulary_size=size, dim=config.subword_width)
        if ATTRIBUTES in self.modalities:
            self.attributes = AttributeEncoder(content.vocabulary, config.subword_width)
        self.fusion = fusion(config.fusion)

    def project(self, features: Mapping[str, tf.Tensor], *, training: bool = False) -> tf.Tensor:
        """Returns each modality alone, `[batch, modalities, dim]` of length 1, whether it is there or not."""
        return tf.stack([unit(self._one(name, features, training)) for name in self.modalities], axis=1)

    def _one(self, name: str, features: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        if name == ATTRIBUTES:
            return self.heads[name](self.attributes(features[ATTRIBUTES], features[NUMERIC])[0], training=training)
        vectors = tf.cast(features[name], tf.float32)
        if name != TEXT:
            return self.heads[name](vectors, training=training)
        return self.heads[name](vectors, self.words(features[SUBWORDS], training=training)[0], training=training)

    def fuse(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dim]` of length 1; zero where nothing is present."""
        some = tf.reduce_any(present, axis=1, keepdims=True)
        return tf.where(some, unit(self.fusion(vectors, present)), 0.0)

    def call(self, features: Mapping[str, tf.Tensor], present: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[batch, dim]` of length 1.

        Args:
            features: rows of `Content.columns`.
            present: `[batch, modalities]` bool.
            training: whether dropout is on.
        """
        return self.fuse(self.project(features, training=training), present)


class _Head(tf.keras.layers.Layer):
    """Standardise, drop out, one hidden layer; a linear way past it."""

    def __init__(
        self, config: ContentConfig, statistics: Optional[tuple[np.ndarray, np.ndarray]], *, name: str
    ) -> None:
        super().__init__(name=f"head_{name}")
        self.statistics = statistics
        self.drop = tf.keras.layers.Dropout(config.dropout)
        self.hidden = tf.keras.layers.Dense(config.width, activation="gelu")
        self.out = tf.keras.layers.Dense(config.dim)
        self.past = tf.keras.layers.Dense(config.dim, use_bias=False)

    def call(self, vectors: tf.Tensor, beside: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        if self.statistics is not None:
            mean, deviation = self.statistics
            vectors = (vectors - mean) / deviation
        if beside is not None:
            vectors = tf.concat([vectors, beside], axis=-1)
        vectors = self.drop(vectors, training=training)
        return self.out(self.hidden(vectors)) + self.past(vectors)


@dataclasses.dataclass(frozen=True)
class Phrases:
    """Words that a shopper might type for products: values of some of their attributes, "red dress".

    Attributes:
        texts: `[phrases]` str (object), distinct; the first is "".
        vectors: `[phrases, width]` of the sentence encoder; width 0 without one.
        subwords: `[phrases, MAX_SUBWORDS]` int32.
        of_item: `[num_items, variants]` int32 phrases of each item; 0 where it has no attributes.
    """

    texts: np.ndarray
    vectors: np.ndarray
    subwords: np.ndarray
    of_item: np.ndarray


VARIANTS = 4


def phrases_of(
    categorical: Mapping[str, Ragged], *, num_items: int, subwords: bytes, encoder: Optional[SentenceEncoder], seed: int
) -> Phrases:
    """Returns for each item a phrase of all its fields, two of two fields, and one of one, drawn by the seed.

    Args:
        categorical: field -> values of each item; of a field with several the first two are used.
        num_items: rows.
        subwords: the SentencePiece model.
        encoder: of texts; None = subwords alone.
        seed: of the fields that are drawn.
    """
    fields = [Ragged.to_dense(values, 2, fill="") for values in categorical.values()]
    words = np.array([[" ".join(filter(None, row)) for row in column.astype(str)] for column in fields], object).T
    words = words.reshape(num_items, len(fields))
    generator = np.random.default_rng(seed)
    lines = np.full((num_items, VARIANTS), "", object)
    for row, values in enumerate(words):
        known = np.flatnonzero(values != "")
        for variant, size in enumerate((len(known), 2, 2, 1)):
            chosen = np.sort(generator.permutation(known)[:size])
            lines[row, variant] = " ".join(values[chosen])
    texts, of_item = np.unique(np.append(lines.ravel().astype(str), ""), return_inverse=True)
    vectors = encoder.encode(list(texts))[0] if encoder else np.zeros((len(texts), 0), np.float32)
    return Phrases(
        texts.astype(object),
        vectors.astype(np.float16),
        cut(subwords, list(texts)),
        of_item[:-1].reshape(lines.shape).astype(np.int32),
    )
