"""What the learned systems have in common: users and items as vectors, content as vectors, losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm import losses
from tfmm.encoders.attributes import AttributeEncoder
from tfmm.encoders.text import TextConfig, make_text_encoder
from tfmm.features import ATTRIBUTES, NUMERIC
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Factors

TEXT = "text"
_CHUNK = 2_048  # items that a network encodes at once when it is asked


class Content(tf.keras.layers.Layer):
    """Item rows -> the vectors of their modalities: trained layers over what the frozen encoders give."""

    def __init__(self, data: Data, *, dim: int, text: str = "vectors", without: tuple[str, ...] = ()) -> None:
        """Makes the layers.

        Args:
            data: its items.
            dim: of the vectors.
            text: "vectors" (frozen sentences, or subwords where the shop has none), or a kind of `TextConfig` that
                reads the subwords.
            without: modalities to leave out.

        Raises:
            ValueError: the catalogue has nothing but ids.
        """
        super().__init__(name="content")
        words = data.tokens.any() and (text != "vectors" or TEXT not in data.items.content)
        vectors = [name for name in data.items.content if not (words and name == TEXT)]
        known = [*vectors, *([TEXT] if words else []), *([ATTRIBUTES] if ATTRIBUTES in data.items.modalities else [])]
        self.names = tuple(name for name in known if name not in without)
        if not self.names:
            raise ValueError("Expected products with content (pictures, texts, attributes, vectors), got ids alone.")
        present = {TEXT: data.tokens.any(axis=1)} if words else {}
        present.update({name: data.present(name) for name in self.names if name not in present})
        self._present = tf.constant(np.stack([present[name] for name in self.names], axis=1))
        self._tables = {name: tf.constant(data.vectors(name)) for name in vectors}
        self._layers = {name: tf.keras.layers.Dense(dim, name=name) for name in vectors}
        if TEXT in self.names and words:
            kind = TextConfig(kind="pooled" if text == "vectors" else text)
            self._tables[TEXT] = tf.constant(data.tokens)
            self._layers[TEXT] = make_text_encoder(kind, vocabulary_size=data.vocabulary_size, dim=dim)
        if ATTRIBUTES in self.names:
            self._attributes = [tf.constant(data.items.columns[name][:-1]) for name in (ATTRIBUTES, NUMERIC)]
            self._layers[ATTRIBUTES] = AttributeEncoder(data.items.vocabulary, dim)
        self._dim = dim

    def build(self, shape: tf.TensorShape) -> None:
        self.absent = self.add_weight(name="absent", shape=[len(self.names), self._dim], initializer="zeros")
        super().build(shape)

    def call(
        self, rows: tf.Tensor, training: bool = False, hidden: Optional[tf.Tensor] = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `[batch, modalities, dim]`, a learned vector where one is absent, and present `[batch, modalities]`.

        Args:
            rows: `[batch]` int32.
            training: whether dropout is on.
            hidden: `[batch, modalities]` bool: what to take for absent.
        """
        vectors = tf.stack([self._one(name, rows, training) for name in self.names], axis=1)
        present = tf.gather(self._present, rows)
        if hidden is not None:
            present &= ~hidden
        return tf.where(present[..., tf.newaxis], vectors, self.absent), present

    def side_by_side(self, rows: tf.Tensor, *, training: bool, hidden: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Returns `[batch, modalities * dim]`."""
        vectors, _ = self(rows, training=training, hidden=hidden)
        return tf.reshape(vectors, [-1, len(self.names) * self._dim])

    def _one(self, name: str, rows: tf.Tensor, training: bool) -> tf.Tensor:
        if name == ATTRIBUTES:
            return self._layers[name](*(tf.gather(table, rows) for table in self._attributes))[0]
        found = self._layers[name](tf.gather(self._tables[name], rows), training=training)
        return found[0] if isinstance(found, tuple) else found


class FactorNetwork(tf.keras.Model):
    """score(u, i) = p_u . q_i + b_i, trained pairwise; a system says what q_i is, and perhaps what p_u is."""

    def __init__(self, data: Data, *, dim: int, l2: float) -> None:
        super().__init__()
        self._data, self._l2 = data, l2
        self.users = embedding(data.num_users, dim, "users")
        self.bias = self.add_weight(name="bias", shape=[data.num_items], initializer="zeros")

    def item_vectors(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        """Returns q `[batch, dim]` of item rows `[batch]`."""
        raise NotImplementedError

    def biases(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns b `[batch]` of item rows `[batch]`."""
        return tf.gather(self.bias, rows)

    def represent(self, users: tf.Tensor, rows: tf.Tensor, *, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns p `[users, dim]` and q `[items, dim]`."""
        return self.users(users), self.item_vectors(rows, training=training)

    def loss(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the mean loss of the batch's events, with l2 (|p|^2 + |q|^2) of what stands in it."""
        users, rows, vectors, places = self.encoded(batch)
        items = tf.gather(vectors, places)  # [batch, 1 + negatives, dim]
        logits = tf.einsum("bd,bnd->bn", users, items) + tf.gather(self.biases(rows), places)
        size = tf.reduce_sum(users**2, axis=-1) + tf.reduce_mean(tf.reduce_sum(items**2, axis=-1), axis=-1)
        return tf.reduce_mean(self.interaction_loss(logits) + self._l2 * size)

    def encoded(self, batch: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns users `[batch, dim]`, distinct items' rows and vectors, and where the batch's stand among them.

        The places are `[batch, 1 + negatives]`, the positive first.
        """
        asked = tf.concat([batch["positive"][:, tf.newaxis], batch["negative"]], axis=1)
        rows, places = tf.unique(tf.reshape(asked, [-1]))
        users, vectors = self.represent(batch["user"], rows, training=True)
        return users, rows, vectors, tf.reshape(places, tf.shape(asked))

    def interaction_loss(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns `[batch]` of logits `[batch, 1 + negatives]`, the positive first."""
        return pairwise(logits)

    def scorer(self) -> Factors:
        """Returns the vectors as they are now."""
        data, vectors = self._data, []
        everybody = tf.range(data.num_users)
        for start in range(0, data.num_items, _CHUNK):
            rows = tf.range(start, min(start + _CHUNK, data.num_items))
            users, some = self.represent(everybody, rows)
            vectors.append(some.numpy())
        known = data.known_users()
        bias = self.biases(tf.range(data.num_items)).numpy()
        return Factors(users.numpy(), np.concatenate(vectors), bias, known)


def embedding(rows: int, dim: int, name: str) -> tf.keras.layers.Embedding:
    """Returns a table of small random vectors; one initialiser each, for Keras draws the same twice from a shared."""
    small = tf.keras.initializers.RandomNormal(stddev=0.05)
    layer = tf.keras.layers.Embedding(rows, dim, embeddings_initializer=small, name=name)
    layer.build(None)
    return layer


def pairwise(logits: tf.Tensor) -> tf.Tensor:
    """Returns `[batch]`: the mean over negatives of -log sigmoid(positive - negative) (BPR, Rendle et al. 2009)."""
    return losses.bpr_loss(logits, tf.zeros(tf.shape(logits)[0], tf.int32))


def pointwise(logits: tf.Tensor) -> tf.Tensor:
    """Returns `[batch]`: -log sigmoid(positive) - mean log(1 - sigmoid(negative))."""
    return tf.nn.softplus(-logits[:, 0]) + tf.reduce_mean(tf.nn.softplus(logits[:, 1:]), axis=1)
