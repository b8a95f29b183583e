"""Retrieval losses: plain functions of (logits or similarities, which candidate is right) -> one value an example.

All take float32 logits `[batch, candidates]`, mask with `where` (True = counts as a negative), and return `[batch]`.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

_CHUNK = 256  # queries that `corpus_softmax_loss` scores at a time
_TINY = 1e-37

_NEVER = -1e9
"""Added to masked logits: small enough to vanish in a float32 softmax, large enough never to make a NaN."""


def softmax_loss(logits: tf.Tensor, labels: tf.Tensor, *, where: tf.Tensor | None = None) -> tf.Tensor:
    """Returns -log softmax(logits)[label].

    Args:
        logits: `[batch, candidates]`.
        labels: `[batch]` int, the column of the right candidate.
        where: `[batch, candidates]` bool; False columns leave the denominator (the label's column never does).
    """
    if where is not None:
        columns = tf.stack([tf.range(tf.shape(labels)[0]), tf.cast(labels, tf.int32)], axis=1)
        where = tf.tensor_scatter_nd_update(where, columns, tf.ones_like(labels, tf.bool))
        logits = tf.where(where, logits, _NEVER)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def shared_softmax_loss(logits: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Returns -sum_j p_j log softmax(logits)_j with p uniform over the right candidates (Khosla et al. 2020).

    Args:
        logits: `[batch, candidates]`.
        right: `[batch, candidates]` bool, at least one in each row.
    """
    share = tf.cast(right, tf.float32)
    share /= tf.reduce_sum(share, axis=1, keepdims=True)
    return tf.nn.softmax_cross_entropy_with_logits(share, logits)


def corpus_softmax_loss(queries: tf.Tensor, corpus: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns the mean of `softmax_loss(queries @ corpus^T, labels)`, a scalar, without ever holding all the logits.

    A few queries at a time are scored, and their gradient taken in the same pass: where the logits would be tens of
    megabytes, they stay in the processor's cache.

    Args:
        queries: `[batch, dim]`, over the temperature.
        corpus: `[num_items, dim]`.
        labels: `[batch]` int, the row of the right item.
    """

    @tf.custom_gradient
    def loss(queries: tf.Tensor, corpus: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        batch, columns = tf.shape(queries)[0], tf.transpose(corpus)
        mean = 1.0 / tf.cast(batch, tf.float32)

        def chunk(start: tf.Tensor, total: tf.Tensor, to_queries: tf.TensorArray, to_corpus: tf.Tensor) -> tuple:
            some, right = queries[start : start + _CHUNK], labels[start : start + _CHUNK]
            share = tf.nn.softmax(tf.matmul(some, columns))  # [chunk, num_items]
            total -= tf.reduce_sum(tf.math.log(tf.gather(share, right, batch_dims=1) + _TINY))
            to_queries = to_queries.write(start // _CHUNK, tf.matmul(share, corpus))
            return start + _CHUNK, total, to_queries, to_corpus + tf.matmul(share, some, transpose_a=True)

        array = tf.TensorArray(tf.float32, size=-(-batch // _CHUNK), infer_shape=False, element_shape=[None, None])
        begin = (tf.constant(0), tf.constant(0.0), array, tf.zeros_like(corpus))
        _, total, array, to_corpus = tf.while_loop(lambda start, *_: start < batch, chunk, begin)
        to_queries = array.concat() - tf.gather(corpus, labels)
        to_corpus = tf.tensor_scatter_nd_sub(to_corpus, labels[:, tf.newaxis], queries)
        return total * mean, lambda upstream: (to_queries * upstream * mean, to_corpus * upstream * mean)

    value: tf.Tensor = loss(queries, corpus)
    return value


def log_inclusion(
    probability: tf.Tensor, *, num_sampled: tf.Tensor | int, num_uniform: int, num_items: int
) -> tf.Tensor:
    """Returns logQ: the log of the chance that an item is among the step's negatives, each of which counts once.

    Mixed negative sampling (Yang et al. 2020): `num_sampled` draws from `probability` and `num_uniform` from the
    uniform distribution over `num_items`. There is no floor but the uniform part itself, so rare items stay rare.
    """
    expected = tf.cast(num_sampled, tf.float32) * probability + num_uniform / num_items
    return tf.math.log(-tf.math.expm1(-expected))


def triplet_loss(
    similarity: tf.Tensor, labels: tf.Tensor, *, margin: float = 0.2, where: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns max(0, margin - s(right) + s(hardest semi-hard negative)) (FaceNet, Schroff et al. 2015).

    Semi-hard: the most similar negative that is still less similar than the right one; where there is none, the
    least similar negative, and without any negative 0.
    """
    right = tf.gather(similarity, labels, batch_dims=1)
    negative = _negatives(similarity, labels, where)
    semi_hard = negative & (similarity < right[:, tf.newaxis])
    hardest = tf.reduce_max(tf.where(semi_hard, similarity, _NEVER), axis=-1)
    easiest = tf.reduce_min(tf.where(negative, similarity, -_NEVER), axis=-1)
    rival = tf.where(tf.reduce_any(semi_hard, axis=-1), hardest, easiest)
    return tf.where(tf.reduce_any(negative, axis=-1), tf.maximum(0.0, margin - right + rival), 0.0)


def contrastive_loss(
    similarity: tf.Tensor, labels: tf.Tensor, *, margin: float = 0.5, where: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns (1 - s(right))^2 + mean over negatives of max(0, s - margin)^2 (Siamese, Hadsell et al. 2006)."""
    right = tf.gather(similarity, labels, batch_dims=1)
    negative = tf.cast(_negatives(similarity, labels, where), tf.float32)
    push = tf.reduce_sum(negative * tf.square(tf.maximum(0.0, similarity - margin)), axis=-1)
    return tf.square(1.0 - right) + tf.math.divide_no_nan(push, tf.reduce_sum(negative, axis=-1))


def bpr_loss(logits: tf.Tensor, labels: tf.Tensor, *, where: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the mean over negatives of -log sigmoid(right - negative) (Rendle et al. 2009)."""
    right = tf.gather(logits, labels, batch_dims=1)
    negative = tf.cast(_negatives(logits, labels, where), tf.float32)
    lost = tf.reduce_sum(negative * tf.nn.softplus(logits - right[:, tf.newaxis]), axis=-1)
    return tf.math.divide_no_nan(lost, tf.reduce_sum(negative, axis=-1))


def _negatives(logits: tf.Tensor, labels: tf.Tensor, where: tf.Tensor | None) -> tf.Tensor:
    """Returns `[batch, candidates]` bool: every column that is not the right one and not masked."""
    other = tf.range(tf.shape(logits)[1])[tf.newaxis, :] != tf.cast(labels, tf.int32)[:, tf.newaxis]
    return other if where is None else other & where
