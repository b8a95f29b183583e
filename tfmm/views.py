"""What is known of a product, one modality at a time, as numbers that linear maps can read; and a linear start.

A view is a modality as `[batch, width]`: vectors of a frozen encoder, standardised; what comes as tokens (subwords,
attribute values) as a bag with tf-idf weights; both side by side for text. `Views` maps each view to a few directions
in which it agrees with the others (`canonical`): that is where contrastive training begins, and what its heads read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm.canonical import Pair, canonical_pair, ridge_regression
from tfmm.content import ASKABLE, SUBWORDS, TEXT, Content
from tfmm.features import ATTRIBUTES, NUMERIC
from tfmm.phrases import VARIANTS, Phrases
from tfmm.ragged import in_chunks

_SAMPLE = 20_000  # rows that the closed forms see, at most
_LEAST_ROWS = 20  # products that have both, for two views to be a pair
_LEAST_COUNT = 5  # rows that have a token, for it to have a direction
_BAG_NORM = 512**0.5  # a bag weighs as much as 512 standardised numbers
_FARTHEST = 6.0  # deviations
_CHUNK = 2048


class Views(tf.Module):
    """Columns of `Content` -> `[batch, directions]` of each modality, each of variance 1 over what taught it.

    Attributes:
        gains: modality -> `[directions]`: how much each tells of the other modalities, the strongest about 1.
    """

    def __init__(
        self,
        content: Content,
        phrases: Phrases,
        *,
        rows: np.ndarray,
        phrase_share: float,
        directions: int,
        ridge: float,
    ) -> None:
        """Learns from some products.

        Args:
            content: of the catalogue.
            phrases: that stand for its titles now and then.
            rows: of the products that may be learned from.
            phrase_share: how often.
            directions: at most.
            ridge: of the closed forms, in units of the mean variance.
        """
        super().__init__(name="views")
        self._parts = {name: _parts_of(name, content, rows) for name in content.modalities}
        self._components: dict[str, tf.Variable] = {}
        self._offsets: dict[str, tf.Variable] = {}
        self.gains: dict[str, np.ndarray] = {}
        teachers = np.sort(np.random.default_rng(0).permutation(rows)[:_SAMPLE])
        first, second = _anchors(content, teachers)
        both = teachers[content.has(first)[teachers] & content.has(second)[teachers]]
        ways, shares = self._ways_of_saying(second, content, phrases, both, phrase_share=phrase_share)
        own = self.table(first, content.columns, both, wide=True)
        pair = canonical_pair(own, ways, shares, ridge=ridge, most=directions)
        spaces = {first: self._settle_anchor(first, own, pair.first, pair)}
        spaces[second] = self._settle_anchor(second, ways[0], pair.second, pair) if second != first else spaces[first]
        common = (spaces[first] + spaces[second]) / 2
        for name in content.modalities:
            if name not in spaces:
                known = content.has(name)[both]
                view = self.table(name, content.columns, both[known], wide=True)
                self._settle(name, view, ridge_regression(view, common[known], ridge=ridge) if known.any() else None)
        self.gains = {name: self.gains[name] for name in content.modalities}

    def __call__(self, name: str, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns `[batch, directions]` of one modality; of an absent one, something that nobody should read."""
        return tf.matmul(self.wide(name, features), self._components[name]) - self._offsets[name]

    def wide(self, name: str, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the view itself, centred, `[batch, width]`."""
        return tf.concat([part(features) for part in self._parts[name]], axis=1)

    def table(
        self, name: str, columns: Mapping[str, np.ndarray], rows: np.ndarray, *, wide: bool = False
    ) -> np.ndarray:
        """Returns float32 `[rows, directions]` of some rows of a catalogue's columns, or the view itself."""
        look = self.wide if wide else self.__call__
        read = {column for part in self._parts[name] for column in part.reads}
        parts = (
            look(name, {column: tf.constant(columns[column][chunk]) for column in read})
            for chunk in in_chunks(rows, _CHUNK)
        )
        return np.concatenate([part.numpy() for part in parts])

    def _ways_of_saying(
        self, name: str, content: Content, phrases: Phrases, rows: np.ndarray, *, phrase_share: float
    ) -> tuple[list[np.ndarray], list[float]]:
        """Returns a modality's view of some products, of text also with phrases for titles, and how often each is."""
        ways, shares = [self.table(name, content.columns, rows, wide=True)], [1.0]
        if name == TEXT:
            said = {**content.columns, TEXT: phrases.vectors, SUBWORDS: phrases.subwords}
            for variant in range(VARIANTS):
                ways.append(self.table(TEXT, said, phrases.of_item[rows, variant], wide=True))
            shares = [1 - phrase_share] + [phrase_share / VARIANTS] * VARIANTS
        return ways, shares

    def _settle_anchor(self, name: str, view: np.ndarray, components: np.ndarray, pair: Pair) -> np.ndarray:
        """Returns what the view says in the common space, `[rows, directions]`, after its map is settled."""
        weighted = components * pair.correlations / max(float(pair.correlations[0]), 1e-6)
        self._settle(name, view, weighted)
        return (view - view.mean(axis=0)) @ weighted

    def _settle(self, name: str, view: np.ndarray, components: Optional[np.ndarray]) -> None:
        """Keeps a view's map to the common space as directions of variance 1 and their gains."""
        if components is None:
            components = np.eye(view.shape[1], 1, dtype=np.float32)
        told = view @ components if len(view) else np.zeros((1, components.shape[1]), np.float32)
        spread = np.maximum(told.std(axis=0), 1e-6).astype(np.float32)
        self._components[name] = tf.Variable(components / spread, trainable=False, name=f"directions_{name}")
        self._offsets[name] = tf.Variable(told.mean(axis=0) / spread, trainable=False, name=f"offset_{name}")
        self.gains[name] = spread / spread.max()


class _Vectors(tf.Module):
    """Vectors of a frozen encoder, or numbers, standardised; a number that is missing is average."""

    def __init__(self, column: str, taught: np.ndarray) -> None:
        super().__init__(name=f"vectors_{column}")
        self.reads = (column,)
        wide = taught.astype(np.float32)
        some = len(wide) > 1
        with np.errstate(invalid="ignore"):
            mean = np.nan_to_num(np.nanmean(wide, axis=0)) if some else np.zeros(wide.shape[1])
            spread = np.nan_to_num(np.nanstd(wide, axis=0), nan=1.0) if some else np.ones(wide.shape[1])
        self.mean = tf.Variable(mean.astype(np.float32), trainable=False)
        self.deviation = tf.Variable(np.maximum(spread, 1e-3).astype(np.float32), trainable=False)

    def __call__(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        vectors = (tf.cast(features[self.reads[0]], tf.float32) - self.mean) / self.deviation
        return tf.clip_by_value(tf.where(tf.math.is_nan(vectors), 0.0, vectors), -_FARTHEST, _FARTHEST)


class _Bag(tf.Module):
    """Tokens -> which of them are there, weighted by how rare they are (tf-idf), of one length, centred."""

    def __init__(self, column: str, taught: np.ndarray, *, size: int) -> None:
        super().__init__(name=f"bag_{column}")
        self.reads = (column,)
        flat = np.sort(taught.reshape(len(taught), int(np.prod(taught.shape[1:]))), axis=1)
        new = np.diff(flat, axis=1, prepend=-1) > 0
        counts = np.bincount(flat[new & (flat > 0)], minlength=size)
        kept = np.flatnonzero(counts >= min(_LEAST_COUNT, max(1, len(taught) // 2)))
        slots = np.zeros(size, np.int32)
        slots[kept] = 1 + np.arange(len(kept))
        self._slots = tf.Variable(slots, trainable=False)
        rarity = np.log(max(len(taught), 1) / np.maximum(counts[kept], 1)) + 1e-3
        self._rarity = tf.Variable(rarity.astype(np.float32), trainable=False)
        self._size = len(kept)
        self.mean = tf.Variable(np.zeros(len(kept), np.float32), trainable=False)
        self.mean.assign(self._mean_of(taught))

    def _mean_of(self, taught: np.ndarray) -> np.ndarray:
        total = np.zeros(self._size, np.float64)
        for chunk in in_chunks(taught, _CHUNK):
            total += self({self.reads[0]: tf.constant(chunk)}).numpy().sum(axis=0)
        return (total / max(len(taught), 1)).astype(np.float32)

    def __call__(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        tokens = features[self.reads[0]]
        tokens = tf.reshape(tokens, [tf.shape(tokens)[0], -1])
        slots = tf.gather(self._slots, tf.maximum(tokens, 0))
        length = self._size + 1
        there = tf.math.bincount(slots, minlength=length, maxlength=length, axis=-1, binary_output=True)
        weighted = tf.cast(there[:, 1:], tf.float32) * self._rarity
        norm = tf.norm(weighted, axis=1, keepdims=True)
        return tf.math.divide_no_nan(weighted, norm) * _BAG_NORM - self.mean


def _parts_of(name: str, content: Content, rows: np.ndarray) -> list[tf.Module]:
    taught = rows[content.has(name)[rows]]
    if name == ATTRIBUTES:
        size = len(content.vocabulary)
        bag = _Bag(ATTRIBUTES, content.columns[ATTRIBUTES][taught], size=size)
        return [bag, _Vectors(NUMERIC, content.columns[NUMERIC][taught])]
    vectors = _Vectors(name, content.columns[name][taught])
    if name != TEXT:
        return [vectors]
    return [vectors, _Bag(SUBWORDS, content.columns[SUBWORDS][taught], size=content.num_subwords)]


def _anchors(content: Content, rows: np.ndarray) -> tuple[str, str]:
    """Returns the two views that most products have both of, text last, and of those that are asked with if they can.

    A view that stands alone is its own other: its directions are principal components.
    """
    names = [name for name in content.modalities if name in ASKABLE and name != TEXT]
    asked = names + [TEXT] * (TEXT in content.modalities)
    pairs = [(first, second) for place, first in enumerate(asked) for second in asked[place + 1 :]]
    pairs += [(name, second) for second in asked for name in content.modalities if name not in ASKABLE]
    for kind in (pairs[: len(asked) * (len(asked) - 1) // 2], pairs):
        counts = {pair: int((content.has(pair[0])[rows] & content.has(pair[1])[rows]).sum()) for pair in kind}
        if counts and max(counts.values()) >= _LEAST_ROWS:
            return max(counts, key=lambda pair: counts[pair])
    return asked[-1], asked[-1]
