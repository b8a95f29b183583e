"""Attributes told from pictures, texts and sounds: what a product without them probably has, as a suggestion.

A light head reads the directions of each modality (`views`) and says each field's value. One modality after another is
hidden in training, so that it answers from any of them. What it says goes into a file for a person to look at, and
nowhere else: nothing is ever filled in silently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm import confidence
from tfmm.alignment import Aligner
from tfmm.asking import Table, one_value
from tfmm.content import ASKABLE
from tfmm.progress import counter
from tfmm.ragged import Ragged, in_chunks
from tfmm.retrieval import adamw
from tfmm.writing import write_csv

_UNKNOWN = -1
_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class TaggingConfig:
    """The head that suggests attributes.

    Attributes:
        epochs: over the products that may be learned from; 0 = nothing is suggested.
        batch_size: products a step.
        learning_rate: of AdamW, after a warm-up over the first epoch.
        weight_decay: of AdamW.
        width: of the hidden layer.
        dropout: before and behind it.
        hide: how often a modality is hidden, where a product has another.
        least: products that must have a value, for it to be told.
    """

    epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    width: int = 384
    dropout: float = 0.3
    hide: float = 0.3
    least: int = 5

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1), ("width", 1), ("least", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"Expected tagging.{name} >= {least}, got {getattr(self, name)}.")
        for name in ("dropout", "hide"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Expected tagging.{name} in [0, 1), got {getattr(self, name)}.")


class Tagger(tf.keras.Model):
    """What is known of products by other than their attributes -> the value of each field."""

    def __init__(self, config: TaggingConfig, aligner: Aligner, values: Mapping[str, np.ndarray]) -> None:
        """Makes the head, untrained.

        Args:
            config: its shape and training.
            aligner: whose views it reads.
            values: field -> `[values]` str (object), those that it may say.
        """
        super().__init__(name="tagger")
        self.config, self.values = config, dict(values)
        self.modalities = tuple(name for name in aligner.modalities if name in ASKABLE)
        self.columns = [aligner.columns[name] for name in self.modalities]
        places = [aligner.modalities.index(name) for name in self.modalities]
        self.present = tf.gather(aligner.present, places, axis=1)
        self.drop = tf.keras.layers.Dropout(config.dropout)
        self.hidden = tf.keras.layers.Dense(config.width, activation="gelu")
        self.heads = {field: tf.keras.layers.Dense(len(told)) for field, told in values.items()}

    def call(self, rows: tf.Tensor, training: bool = False, only: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns field -> logits `[batch, values]`.

        Args:
            rows: `[batch]` int32, of the catalogue.
            training: whether modalities are hidden, and dropout drops.
            only: `[modalities]` bool: those that are looked at; None = all.
        """
        present = tf.gather(self.present, rows)
        if only is not None:
            present &= only
        if training:
            kept = present & (tf.random.uniform(tf.shape(present)) >= self.config.hide)
            present = tf.where(tf.reduce_any(kept, axis=1, keepdims=True), kept, present)
        there = tf.cast(present, tf.float32)
        read = [tf.gather(column, rows) * there[:, i : i + 1] for i, column in enumerate(self.columns)]
        x = self.drop(tf.concat([*read, there], axis=1), training=training)
        x = self.drop(self.hidden(x), training=training)
        return {field: head(x) for field, head in self.heads.items()}

    def probabilities(self, rows: np.ndarray, *, only: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
        """Returns field -> `[rows, values]`, by all modalities or by some."""
        mask = tf.constant([only is None or name in only for name in self.modalities])
        chunks = in_chunks(rows.astype(np.int32), _CHUNK)
        said = [{f: tf.nn.softmax(v).numpy() for f, v in self(tf.constant(c), only=mask).items()} for c in chunks]
        return {field: np.concatenate([part[field] for part in said]) for field in self.values}


def fit(
    config: TaggingConfig, aligner: Aligner, categorical: Mapping[str, Ragged], *, rows: np.ndarray, seed: int
) -> Optional[Tagger]:
    """Returns a trained tagger of the fields that have one value a product; None where no field has two to tell apart.

    Args:
        config: of the head.
        aligner: whose views it reads.
        categorical: field -> values of each item.
        rows: products that may be learned from.
        seed: of the order.
    """
    rows = rows[aligner.content.askable[rows] > 0]
    single = {field: one_value(values) for field, values in categorical.items() if values.lengths.max(initial=0) <= 1}
    values = {field: _told(column[rows], config.least) for field, column in single.items()}
    values = {field: told for field, told in values.items() if len(told) > 1}
    if not values:
        return None
    tagger = Tagger(config, aligner, values)
    targets = np.stack([_indices(single[field], told) for field, told in values.items()], axis=1)[rows]
    data = tf.data.Dataset.from_tensor_slices((rows.astype(np.int32), targets))
    data = data.shuffle(len(rows), seed=seed).batch(config.batch_size)
    optimizer = adamw(config, steps_per_epoch=len(data), floor=0.02)

    @tf.function
    def step(batch: tf.Tensor, right: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = tagger(batch, training=True)
            loss = tf.add_n([_loss(logits[field], right[:, i]) for i, field in enumerate(values)])
        optimizer.minimize(loss, tagger.trainable_variables, tape=tape)

    with counter("learning attributes", total=config.epochs) as advance:
        for _ in range(config.epochs):
            for batch, right in data:
                step(batch, right)
            advance(1)
    return tagger


def _loss(logits: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Returns the mean cross-entropy over the products whose value is known."""
    known = right != _UNKNOWN
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(right, 0), logits)
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(known, losses, 0.0)), tf.reduce_sum(tf.cast(known, tf.float32)))


def _told(column: np.ndarray, least: int) -> np.ndarray:
    found, counts = np.unique(column, return_counts=True)
    return found[(counts >= least) & (found != "")].astype(object)


def _indices(column: np.ndarray, told: np.ndarray) -> np.ndarray:
    numbers = {value: number for number, value in enumerate(told)}
    return np.array([numbers.get(value, _UNKNOWN) for value in column], np.int32)


# --- How right it is -------------------------------------------------------------------------------------------------


def tag_table(tagger: Tagger, aligner: Aligner, categorical: Mapping[str, Ragged], *, rows: np.ndarray) -> Table:
    """Returns field and what it was told from -> accuracy and macro-F1, on products that were not learned from.

    All are asked of the same products, those that have every modality; a value that is never told counts as wrong.
    """
    rows = rows[np.all([aligner.content.has(name)[rows] for name in tagger.modalities], axis=0)]
    alone: list[tuple[str, ...]] = [(name,) for name in tagger.modalities]
    ways = [tagger.modalities, *alone] if len(alone) > 1 else alone
    right = {field: one_value(categorical[field])[rows] for field in tagger.values}
    table: Table = {}
    for way in ways:
        said = tagger.probabilities(rows, only=way)
        for field, told in tagger.values.items():
            known = right[field] != ""
            if known.any():
                guessed = told[said[field].argmax(axis=1)].astype(str)
                table[f"{field} from {' and '.join(way)}"] = scores(right[field][known], guessed[known])
    return table


def scores(right: np.ndarray, guessed: np.ndarray, *, resamples: int = 500) -> dict[str, dict]:
    """Returns accuracy, and macro-F1 over the values that occur or are guessed, with 95% bootstrap intervals."""
    accuracy = confidence.mean_interval((right == guessed).astype(np.float64)).to_dict()
    values, flat = np.unique(np.concatenate([right, guessed]), return_inverse=True)
    truth, guess = flat[: len(right)], flat[len(right) :]
    drawn = np.random.default_rng(0).integers(0, len(right), (resamples, len(right)))
    low, high = np.percentile([_macro_f1(truth[rows], guess[rows], len(values)) for rows in drawn], (2.5, 97.5))
    mean = _macro_f1(truth, guess, len(values))
    return {"accuracy": accuracy, "macro-f1": {"mean": mean, "ci95": [float(low), float(high)], "n": len(right)}}


def _macro_f1(truth: np.ndarray, guess: np.ndarray, count: int) -> float:
    hits = np.bincount(truth[truth == guess], minlength=count)
    both = np.bincount(truth, minlength=count) + np.bincount(guess, minlength=count)
    return float((2 * hits[both > 0] / both[both > 0]).mean())


# --- What it suggests ------------------------------------------------------------------------------------------------


def write_suggestions(
    path: Path, tagger: Tagger, aligner: Aligner, categorical: Mapping[str, Ragged], *, ids: np.ndarray
) -> int:
    """Returns how many gaps it has a suggestion for, after they stand in a CSV file: id, field, value, probability."""
    known = aligner.content.askable > 0
    found = []
    for field, told in tagger.values.items():
        rows = np.flatnonzero((one_value(categorical[field]) == "") & known)
        if len(rows):
            said = tagger.probabilities(rows)[field]
            best = said.argmax(axis=1)
            sure = said[np.arange(len(rows)), best]
            found += [(ids[row], field, told[b], f"{p:.3f}") for row, b, p in zip(rows, best, sure)]
    write_csv(path, ("id", "field", "suggested", "probability"), found)
    return len(found)
