"""Retrieval losses, held to arithmetic written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tfmm import losses

LOGITS = tf.constant([[1.0, 2.0, -1.0, 0.5], [0.0, 3.0, 3.0, -2.0]])
LABELS = tf.constant([1, 0])
ALL = [losses.softmax_loss, losses.triplet_loss, losses.contrastive_loss, losses.bpr_loss]


def test_softmax_is_minus_the_log_of_the_right_ones_share():
    expected = [
        -math.log(math.exp(2.0) / (math.exp(1.0) + math.exp(2.0) + math.exp(-1.0) + math.exp(0.5))),
        -math.log(math.exp(0.0) / (math.exp(0.0) + math.exp(3.0) + math.exp(3.0) + math.exp(-2.0))),
    ]
    np.testing.assert_allclose(losses.softmax_loss(LOGITS, LABELS), expected, rtol=1e-6)


def test_masked_columns_leave_the_denominator_but_the_right_one_never_does():
    where = tf.constant([[True, False, False, True], [False, True, False, True]])
    expected = [
        -math.log(math.exp(2.0) / (math.exp(1.0) + math.exp(2.0) + math.exp(0.5))),
        -math.log(math.exp(0.0) / (math.exp(0.0) + math.exp(3.0) + math.exp(-2.0))),
    ]
    np.testing.assert_allclose(losses.softmax_loss(LOGITS, LABELS, where=where), expected, rtol=1e-6)


def test_triplet_takes_the_hardest_of_those_less_similar_than_the_right_one():
    # Row 0: right 2.0, semi-hard rival 1.0. Row 1: right 0.0, rival -2.0 (both 3.0s are more similar: not semi-hard).
    expected = [max(0.0, 1.5 - 2.0 + 1.0), max(0.0, 1.5 - 0.0 - 2.0)]
    np.testing.assert_allclose(losses.triplet_loss(LOGITS, LABELS, margin=1.5), expected, rtol=1e-6)


def test_triplet_takes_the_least_similar_where_all_are_more_similar_than_the_right_one():
    similarity = tf.constant([[0.1, 0.9, 0.4]])
    np.testing.assert_allclose(losses.triplet_loss(similarity, tf.constant([0]), margin=0.2), [0.2 - 0.1 + 0.4], 1e-6)


def test_triplet_passes_masked_negatives_over():
    similarity = tf.constant([[0.5, 0.4, 0.3]])
    where = tf.constant([[True, False, True]])
    found = losses.triplet_loss(similarity, tf.constant([0]), margin=0.25, where=where)
    np.testing.assert_allclose(found, [0.25 - 0.5 + 0.3], rtol=1e-5)


def test_contrastive_pulls_the_right_one_to_1_and_pushes_others_below_the_margin():
    similarity = tf.constant([[0.8, 0.7, 0.2]])
    expected = (1 - 0.8) ** 2 + ((0.7 - 0.5) ** 2 + 0.0) / 2
    np.testing.assert_allclose(losses.contrastive_loss(similarity, tf.constant([0])), [expected], rtol=1e-5)
    masked = losses.contrastive_loss(similarity, tf.constant([0]), where=tf.constant([[True, True, False]]))
    np.testing.assert_allclose(masked, [(1 - 0.8) ** 2 + (0.7 - 0.5) ** 2], rtol=1e-5)


def test_bpr_is_the_mean_over_negatives_of_a_logistic_loss():
    def lost(right: float, wrong: float) -> float:
        return -math.log(1 / (1 + math.exp(-(right - wrong))))

    expected = [
        (lost(2.0, 1.0) + lost(2.0, -1.0) + lost(2.0, 0.5)) / 3,
        (lost(0.0, 3.0) + lost(0.0, 3.0) + lost(0.0, -2.0)) / 3,
    ]
    np.testing.assert_allclose(losses.bpr_loss(LOGITS, LABELS), expected, rtol=1e-5)
    where = tf.constant([[True, True, False, False], [True, False, True, True]])
    expected = [lost(2.0, 1.0), (lost(0.0, 3.0) + lost(0.0, -2.0)) / 2]
    np.testing.assert_allclose(losses.bpr_loss(LOGITS, LABELS, where=where), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", ALL)
def test_what_a_masked_negative_scores_never_matters(loss):
    where = tf.constant([[True, True, False, True], [True, False, True, True]])
    other = tf.where(where, LOGITS, 50.0)
    np.testing.assert_array_equal(loss(LOGITS, LABELS, where=where), loss(other, LABELS, where=where))


@pytest.mark.parametrize("loss", [losses.triplet_loss, losses.contrastive_loss, losses.bpr_loss, losses.softmax_loss])
def test_without_any_negative_the_loss_and_its_gradient_are_finite(loss):
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        lost = loss(logits, LABELS, where=tf.zeros_like(LOGITS, tf.bool))
    assert np.all(np.isfinite(lost.numpy()))
    assert np.all(np.isfinite(tape.gradient(lost, logits).numpy()))


def test_the_triplet_loss_without_any_negative_is_zero():
    where = tf.zeros_like(LOGITS, tf.bool)
    np.testing.assert_array_equal(losses.triplet_loss(LOGITS, LABELS, where=where), [0.0, 0.0])


@pytest.mark.parametrize("loss", ALL)
def test_logits_of_ten_thousand_stay_finite(loss):
    logits = tf.Variable([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]])
    where = tf.constant([[True, True, True], [True, True, False]])
    with tf.GradientTape() as tape:
        lost = loss(logits, tf.constant([0, 1]), where=where)
    assert np.all(np.isfinite(lost.numpy()))
    assert np.all(np.isfinite(tape.gradient(lost, logits).numpy()))


def test_softmax_of_extreme_logits_is_their_difference():
    logits = tf.constant([[1e4, -1e4, 0.0]] * 3)
    np.testing.assert_allclose(losses.softmax_loss(logits, tf.constant([0, 1, 2])), [0.0, 2e4, 1e4], rtol=1e-6)


def test_log_q_is_the_chance_to_be_among_the_unique_draws():
    """The oracle is the share of 20,000 simulated steps in which each item is drawn at all."""
    rng = np.random.default_rng(0)
    probability = np.array([0.08, 0.04, 0.02] + [0.86 / 97] * 97)
    steps, sampled, uniform = 20_000, 30, 5
    found = np.zeros(100)
    for _ in range(steps):
        drawn = np.searchsorted(np.cumsum(probability), rng.random(sampled), side="right").clip(0, 99)
        found[np.unique(np.concatenate([drawn, rng.integers(0, 100, uniform)]))] += 1
    logq = losses.log_inclusion(
        tf.constant(probability, tf.float32), num_sampled=tf.constant(sampled), num_uniform=uniform, num_items=100
    ).numpy()
    np.testing.assert_allclose(np.exp(logq[:3]), (found / steps)[:3], rtol=0.03)
    np.testing.assert_allclose(np.exp(logq[3:]).mean(), (found / steps)[3:].mean(), rtol=0.02)


def test_log_q_has_no_floor_that_flattens_rare_items():
    logq = losses.log_inclusion(tf.constant([1e-9, 1e-7]), num_sampled=100, num_uniform=1, num_items=10**9).numpy()
    np.testing.assert_allclose(logq, [math.log(1e-7 + 1e-9), math.log(1e-5 + 1e-9)], rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 255, 256, 700])
def test_the_corpus_loss_and_its_gradients_are_those_of_all_logits_at_once(batch):
    generator = np.random.default_rng(0)
    queries = tf.constant(generator.normal(size=[batch, 8]), tf.float32)
    corpus = tf.constant(generator.normal(size=[50, 8]), tf.float32)
    labels = tf.constant(generator.integers(0, 50, batch))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([queries, corpus])
        value = 3.0 * losses.corpus_softmax_loss(queries, corpus, labels)
        logits = tf.matmul(queries, corpus, transpose_b=True)
        expected = 3.0 * tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(labels, logits, True))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for variable in (queries, corpus):
        np.testing.assert_allclose(
            tape.gradient(value, variable), tape.gradient(expected, variable), rtol=1e-4, atol=1e-6
        )


def test_the_corpus_loss_of_a_hopeless_answer_is_finite_and_still_teaches():
    queries, corpus = tf.constant([[1000.0, 0.0]]), tf.constant([[1.0, 0.0], [-1.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(queries)
        value = losses.corpus_softmax_loss(queries, corpus, tf.constant([1]))
    assert np.isfinite(value)
    np.testing.assert_allclose(tape.gradient(value, queries), [[2.0, 0.0]], rtol=1e-6)
