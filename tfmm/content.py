"""What is known of products, and what is typed, shown or said -> one space, where content alone decides.

A query is read as a product of which only some modalities are known: both go through the same tower, so that what was
typed is compared with titles, pictures, sounds and attributes alike, whichever of them a product has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfmm.encoders.attributes import AttributeVocabulary
from tfmm.encoders.text import learn_subwords
from tfmm.features import ATTRIBUTES, NUMERIC, SUBWORDS
from tfmm.fusion import fusion
from tfmm.phrases import cut, make_cutter
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
        directions: of each modality that its head reads, at most: those in which it agrees with the others.
        ridge: of those directions, in units of a view's mean variance; large, as a catalogue is small for its width.
        width: of each modality's hidden layer.
        dropout: behind the hidden layer.
        fusion: how modalities become one vector (`fusion.KINDS`).
        subwords: learned from the catalogue at most, for words (brands) that a pretrained encoder does not know.
    """

    dim: int = 256
    directions: int = 384
    ridge: float = 5.0
    width: int = 512
    dropout: float = 0.2
    fusion: str = "attention"
    subwords: int = 8000

    def __post_init__(self) -> None:
        for name in ("dim", "directions", "width", "subwords"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected content.{name} >= 1, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Expected content.dropout in [0, 1), got {self.dropout}.")
        if self.ridge < 0:
            raise ValueError(f"Expected content.ridge >= 0, got {self.ridge}.")
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
        num_subwords: ids that it gives, padding and unknown included.
    """

    columns: Mapping[str, np.ndarray]
    present: np.ndarray
    modalities: tuple[str, ...]
    vocabulary: AttributeVocabulary
    subwords: bytes
    num_subwords: int

    def __len__(self) -> int:
        return len(self.present)

    def has(self, modality: str) -> np.ndarray:
        """Returns `[rows]` bool; all False for a modality that nothing here has."""
        if modality not in self.modalities:
            return np.zeros(len(self), bool)
        return self.present[:, self.modalities.index(modality)]

    @property
    def askable(self) -> np.ndarray:
        """`[rows]` int: how many modalities each product has that can be asked with."""
        counts: np.ndarray = self.present[:, [name in ASKABLE for name in self.modalities]].sum(axis=1)
        return counts

    @property
    def widths(self) -> Mapping[str, int]:
        """The modalities that come as vectors, and how wide they are."""
        return {name: self.columns[name].shape[1] for name in self.modalities if name != ATTRIBUTES}


def content_of(
    table: ItemTable, *, vocabulary: AttributeVocabulary, trained: np.ndarray, config: ContentConfig
) -> Content:
    """Returns the content of a catalogue.

    Args:
        table: the items with their encoded vectors.
        vocabulary: of the attributes.
        trained: `[num_items]` bool: the items that teach subwords.
        config: of the tower that will read it.
    """
    columns: dict[str, np.ndarray] = {name: np.asarray(column) for name, column in sorted(table.vectors.items())}
    present = {name: table.present[name] for name in columns}
    model = learn_subwords([text for text in table.text[trained] if text], vocabulary_size=config.subwords)
    if (table.text != "").any():
        columns[SUBWORDS] = cut(model, list(table.text))
        present[TEXT] = table.text != ""
        columns.setdefault(TEXT, np.zeros((len(table), 0), np.float16))
    if vocabulary.fields or vocabulary.numeric:
        columns[ATTRIBUTES] = vocabulary.token_table(table.categorical, num_rows=len(table))
        columns[NUMERIC] = vocabulary.numeric_table(table.numeric, num_rows=len(table))
        present[ATTRIBUTES] = (columns[ATTRIBUTES] > 0).any(axis=(1, 2)) | np.isfinite(columns[NUMERIC]).any(axis=1)
    modalities = tuple(present)
    stacked = (
        np.stack([present[name] for name in modalities], axis=1) if modalities else np.zeros((len(table), 0), bool)
    )
    return Content(columns, stacked, modalities, vocabulary, model, make_cutter(model).vocabulary_size)


class ContentTower(tf.keras.layers.Layer):
    """Directions of each modality, and which modalities are there -> `[batch, dim]` of length 1."""

    def __init__(self, config: ContentConfig, gains: Mapping[str, np.ndarray]) -> None:
        """Makes heads that begin where the closed form ended: `gains` weigh each modality's directions."""
        super().__init__(name="content_tower")
        self.config, self.modalities = config, tuple(gains)
        self.heads = {name: _Head(config, told, name=name) for name, told in gains.items()}
        self.fusion = fusion(config.fusion)

    def project(self, features: Mapping[str, tf.Tensor], *, training: bool = False) -> tf.Tensor:
        """Returns each modality alone, `[batch, modalities, dim]` of length 1, whether it is there or not."""
        return tf.stack([unit(self.heads[name](features[name], training=training)) for name in self.modalities], axis=1)

    def fuse(self, vectors: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dim]` of length 1; zero where nothing is present."""
        some = tf.reduce_any(present, axis=1, keepdims=True)
        return tf.where(some, unit(self.fusion(vectors, present)), 0.0)

    def call(self, features: Mapping[str, tf.Tensor], present: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[batch, dim]` of length 1.

        Args:
            features: modality -> `[batch, directions]` of `views.Views`.
            present: `[batch, modalities]` bool.
            training: whether dropout is on.
        """
        return self.fuse(self.project(features, training=training), present)


class _Head(tf.keras.layers.Layer):
    """The directions by their gains, plus what a hidden layer learns to add, which is nothing at first."""

    def __init__(self, config: ContentConfig, gains: np.ndarray, *, name: str) -> None:
        super().__init__(name=f"head_{name}")
        start = np.eye(len(gains), config.dim, dtype=np.float32) * gains[:, np.newaxis]
        self.past = self.add_weight("past", start.shape, initializer=tf.keras.initializers.Constant(start))
        self.hidden = tf.keras.layers.Dense(config.width, activation="gelu")
        self.drop = tf.keras.layers.Dropout(config.dropout)
        self.out = tf.keras.layers.Dense(config.dim, kernel_initializer="zeros")

    def call(self, directions: tf.Tensor, training: bool = False) -> tf.Tensor:
        added = self.out(self.drop(self.hidden(directions), training=training))
        return tf.matmul(directions, self.past) + added
