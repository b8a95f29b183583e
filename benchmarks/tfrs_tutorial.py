"""The training loop of the TFRS tutorials, as plain as they have it: what ours is measured against.

Strings through `StringLookup` into `Embedding`, one example an event, `tfrs.tasks.Retrieval` with its in-batch softmax,
Adagrad at 0.1, batches of 4096, `shuffle(100_000).batch(4096).cache()`, `model.fit`. Metrics over the corpus stay out
of the training step, as the later tutorials advise (`compute_metrics=False`); embeddings are as wide as ours.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from benchmarks.shops import Shop
from tfmm import metrics, relevance
from tfmm.ragged import Ragged
from tfmm.splits import Queries

BATCH = 4096
_SHUFFLED = 100_000
_CONTEXT = 10
"""Items of history: the sequential tutorial's context length."""

Columns = dict[str, np.ndarray]


class TutorialModel(tfrs.Model):
    """Two towers of embeddings: the user's id, with the mean of the history or without, against the item's id."""

    def __init__(self, shop: Shop, *, dim: int, history: bool) -> None:
        super().__init__()
        self.users = _embedding(shop.user_ids, dim)
        self.items = _embedding(shop.item_ids, dim)
        self.read = _embedding(shop.item_ids, dim) if history else None
        self.task = tfrs.tasks.Retrieval()

    def queries(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns `[batch, dim]`."""
        user = self.users(features["user"])
        if self.read is None:
            return user
        valid = tf.cast(features["history"] != "", tf.float32)  # [batch, context]
        vectors = self.read(features["history"])
        return user + tf.reduce_sum(vectors * valid[..., tf.newaxis], axis=1) / tf.reduce_sum(valid, 1, keepdims=True)

    def compute_loss(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Returns the task's loss, without metrics."""
        return self.task(self.queries(features), self.items(features["item"]), compute_metrics=False)


def make_model(shop: Shop, *, dim: int, history: bool) -> TutorialModel:
    """Returns the model, untrained, compiled as in the tutorials."""
    model = TutorialModel(shop, dim=dim, history=history)
    model.compile(optimizer=tf.keras.optimizers.Adagrad(learning_rate=0.1))
    return model


def examples(shop: Shop, *, history: bool) -> Columns:
    """Returns one example an event; with history only those that have any."""
    items, users = shop.item_ids[shop.events.item], shop.user_ids[shop.events.user]
    if not history:
        return {"user": users.astype(str), "item": items.astype(str)}
    position = np.arange(len(items))
    starts = np.searchsorted(shop.events.user, shop.events.user)
    kept = np.flatnonzero(position > starts)
    first = np.maximum(starts[kept], kept - _CONTEXT)
    places = first[:, np.newaxis] + np.arange(_CONTEXT)
    before = np.where(places < kept[:, np.newaxis], items[np.minimum(places, len(items) - 1)], "")
    return {"user": users[kept].astype(str), "item": items[kept].astype(str), "history": before.astype(str)}


def training_data(columns: Columns) -> tf.data.Dataset:
    """Returns the tutorials' `cached_train`."""
    return tf.data.Dataset.from_tensor_slices(columns).shuffle(_SHUFFLED).batch(BATCH).cache()


def ndcg(model: TutorialModel, shop: Shop, *, k: int = 10, chunk: int = 256) -> float:
    """Returns the exact mean NDCG@k, by the same code as `tfmm.retrieval.ndcg`: items of the history excluded."""
    corpus = model.items(tf.constant(shop.item_ids.astype(str)))
    values = []
    for start in range(0, len(shop.validation), chunk):
        asked = shop.validation.take(np.arange(start, min(start + chunk, len(shop.validation))))
        scores = tf.matmul(model.queries(_query_features(shop, asked)), corpus, transpose_b=True).numpy()
        ranks = relevance.pessimistic_ranks(scores, asked.targets, excluded=asked.history)
        found = relevance.relevance_from_ranks(ranks, k=k)
        values.append(metrics.ndcg(found, asked.targets.lengths, k=k))
    return float(np.nanmean(np.concatenate(values)))


def _query_features(shop: Shop, asked: Queries) -> dict[str, tf.Tensor]:
    history = Ragged(shop.item_ids[asked.history.values].astype(object), asked.history.offsets)
    dense = history.to_dense(_CONTEXT, fill="").astype(str)
    return {"user": tf.constant(shop.user_ids[asked.user].astype(str)), "history": tf.constant(dense)}


def _embedding(ids: np.ndarray, dim: int) -> tf.keras.Sequential:
    lookup = tf.keras.layers.StringLookup(vocabulary=ids.astype(str), mask_token=None)
    return tf.keras.Sequential([lookup, tf.keras.layers.Embedding(len(ids) + 1, dim)])
