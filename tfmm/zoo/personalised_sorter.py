"""The personalised sorter: an LSTM over what a user had, beside an item, and one score for the pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfmm.ragged import NO_ITEM, Ragged
from tfmm.splits import Queries, first_occurrences
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted
from tfmm.zoo.network import Content, embedding, pointwise
from tfmm.zoo.training import TrainingConfig, train

_QUERIES = 16  # of which all pairs with all items are held at once
_ITEMS = 2_048


@dataclasses.dataclass(frozen=True)
class SorterConfig:
    """Settings.

    Attributes:
        dim: of the vectors.
        length: items of a history that are read, the newest.
        dropout: on the content.
        training: of the loop.
    """

    dim: int = 64
    length: int = 20
    dropout: float = 0.1
    training: TrainingConfig = dataclasses.field(default_factory=lambda: TrainingConfig(epochs=12, patience=2))


def fit(data: Data, config: SorterConfig) -> Fitted:
    """Returns the personalised sorter: score = w . ReLU(W [LSTM(x of the history); x_i] + b), with log loss.

    x_i = E_i + V [CNN(picture); text; attributes] is an item's own vector and a map of its content. Every event with
    an item that is new to its user is an example, whose history is what came before.
    """

    def make() -> _Sorter:
        return _Sorter(data, config)

    return train(make, data, config.training, name="personalised_sorter", examples=examples(data, config.length))


def examples(data: Data, length: int) -> dict[str, np.ndarray]:
    """Returns `user` and `positive` `[n]`, and `history` `[n, length]`, oldest first, left-aligned, -1 = nothing."""
    events = data.events
    first = np.searchsorted(events.user, events.user)  # each event's user's first
    chosen = np.flatnonzero(first_occurrences(events) & (np.arange(len(events)) > first))
    starts = np.maximum(first[chosen], chosen - length)
    lengths = chosen - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    history = Ragged(events.item[places].astype(np.int32), offsets).to_dense(length)
    return {"user": events.user[chosen], "positive": events.item[chosen], "history": history}


class _Sorter(tf.keras.Model):
    def __init__(self, data: Data, config: SorterConfig) -> None:
        super().__init__()
        self._data, self._config = data, config
        self.items = embedding(data.num_items, config.dim, "items")
        self.content = Content(data, dim=config.dim)
        self.map = tf.keras.Sequential(
            [tf.keras.layers.Dropout(config.dropout), tf.keras.layers.Dense(config.dim, name="map")]
        )
        self.lstm = tf.keras.layers.LSTM(config.dim, name="history")
        self.inner = tf.keras.layers.Dense(config.dim, activation="relu", name="inner")
        self.outer = tf.keras.layers.Dense(1, name="outer")

    def item_vectors(self, rows: tf.Tensor, *, training: bool) -> tf.Tensor:
        """Returns x `[batch, dim]`."""
        return self.items(rows) + self.map(self.content.side_by_side(rows, training=training), training=training)

    def loss(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the mean log loss of the batch's events and their negatives."""
        history, asked = batch["history"], tf.concat([batch["positive"][:, tf.newaxis], batch["negative"]], axis=1)
        flat = tf.concat([tf.reshape(asked, [-1]), tf.reshape(tf.maximum(history, 0), [-1])], axis=0)
        rows, places = tf.unique(flat)
        vectors = tf.gather(self.item_vectors(rows, training=True), places)
        count = tf.size(asked)
        items = tf.reshape(vectors[:count], [tf.shape(asked)[0], -1, self._config.dim])
        past = tf.reshape(vectors[count:], [tf.shape(asked)[0], -1, self._config.dim])
        users = self.lstm(past, mask=history != NO_ITEM)[:, tf.newaxis]
        both = tf.concat([tf.broadcast_to(users, tf.shape(items)), items], axis=-1)
        return tf.reduce_mean(pointwise(self.outer(self.inner(both))[..., 0]))

    def scorer(self) -> Sorter:
        """Returns the weights as they are now."""
        starts = range(0, self._data.num_items, _ITEMS)
        rows = [tf.range(start, min(start + _ITEMS, self._data.num_items)) for start in starts]
        items = np.concatenate([self.item_vectors(some, training=False).numpy() for some in rows])
        weights = [weight.copy() for layer in (self.lstm, self.inner, self.outer) for weight in layer.get_weights()]
        return Sorter(items, tuple(weights), self._config.length)


@dataclasses.dataclass(frozen=True)
class Sorter:
    """A trained sorter in numpy.

    Attributes:
        items: x `[num_items, dim]`.
        weights: of the LSTM (kernel, recurrent, bias), of W, b, w, and of the last bias.
        length: items of a history that are read.
    """

    items: np.ndarray
    weights: tuple[np.ndarray, ...]
    length: int

    def scores(self, queries: Queries) -> np.ndarray:
        """Returns `[queries, num_items]` float32."""
        inner, bias, outer, last = self.weights[3:]
        dim = self.items.shape[1]
        users = self.users(queries.history) @ inner[:dim] + bias
        items = self.items @ inner[dim:]
        found = [
            np.maximum(users[start : start + _QUERIES, np.newaxis] + items, 0) @ outer[:, 0]
            for start in range(0, len(users), _QUERIES)
        ]
        return (np.concatenate(found) + last).astype(np.float32)

    def users(self, history: Ragged) -> np.ndarray:
        """Returns `[queries, dim]`: the LSTM's last state (Hochreiter & Schmidhuber 1997), in Keras' order of gates."""
        kernel, recurrent, bias = self.weights[:3]
        rows = history.to_dense(self.length)
        state = cell = np.zeros((len(rows), self.items.shape[1]), np.float32)
        for column in rows.T:
            here = (column != NO_ITEM)[:, np.newaxis]
            i, f, c, o = np.split(self.items[column] @ kernel + state @ recurrent + bias, 4, axis=1)
            new_cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(c)
            state, cell = np.where(here, _sigmoid(o) * np.tanh(new_cell), state), np.where(here, new_cell, cell)
        return state


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))
