"""Fusion: presence masks, and what each kind computes by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfmm.fusion import KINDS, fusion

BATCH, MODALITIES, DIM = 5, 3, 4


def randomised(kind: str) -> tf.keras.layers.Layer:
    """Returns a built layer whose every weight is random, as after training."""
    layer = fusion(kind)
    layer(tf.zeros([1, MODALITIES, DIM]), tf.ones([1, MODALITIES], tf.bool))
    rng = np.random.default_rng(3)
    layer.set_weights([rng.normal(size=weight.shape).astype(np.float32) for weight in layer.weights])
    return layer


def inputs() -> tuple[np.ndarray, np.ndarray]:
    vectors = np.random.default_rng(4).normal(size=(BATCH, MODALITIES, DIM)).astype(np.float32)
    present = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]], bool)
    return vectors, present


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rubbish", [0.0, 1e6, np.inf, np.nan])
def test_what_stands_in_absent_modalities_never_matters(kind, rubbish):
    layer, (vectors, present) = randomised(kind), inputs()
    other = np.where(present[..., np.newaxis], vectors, np.float32(rubbish))
    np.testing.assert_array_equal(layer(vectors, present), layer(other, present))


@pytest.mark.parametrize("kind", KINDS)
def test_rubbish_in_absent_modalities_never_reaches_a_gradient(kind):
    layer, (vectors, present) = randomised(kind), inputs()
    filled = tf.Variable(np.where(present[..., np.newaxis], vectors, np.float32(1e6)))
    with tf.GradientTape() as tape:
        out = tf.reduce_sum(tf.square(layer(filled, present)))
    gradients = tape.gradient(out, [filled, *layer.trainable_weights])
    assert all(np.all(np.isfinite(gradient.numpy())) for gradient in gradients)
    np.testing.assert_array_equal(gradients[0].numpy()[~present], 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_present_modality_does_matter(kind):
    layer, (vectors, present) = randomised(kind), inputs()
    for row, modality in zip(*np.nonzero(present)):
        other = vectors.copy()
        other[row, modality] *= -1.0
        assert np.abs(layer(vectors, present)[row] - layer(other, present)[row]).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_presence_itself_matters(kind):
    layer, (vectors, present) = randomised(kind), inputs()
    zeros = np.where(present[..., np.newaxis], vectors, 0.0).astype(np.float32)
    outcome, all_there = layer(zeros, present).numpy(), layer(zeros, np.ones_like(present)).numpy()
    assert np.all(np.abs(outcome[1:] - all_there[1:]).max(axis=1) > 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_with_nothing_present_the_vector_is_finite_and_always_the_same(kind):
    layer, (vectors, _) = randomised(kind), inputs()
    outcome = layer(vectors, np.zeros([BATCH, MODALITIES], bool)).numpy()
    assert outcome.shape == (BATCH, DIM)
    assert np.all(np.isfinite(outcome))
    np.testing.assert_array_equal(outcome, np.tile(outcome[:1], (BATCH, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_at_a_time_gives_the_same(kind):
    layer, (vectors, present) = randomised(kind), inputs()
    single = [layer(vectors[row : row + 1], present[row : row + 1]).numpy()[0] for row in range(BATCH)]
    np.testing.assert_allclose(layer(vectors, present), single, rtol=1e-5, atol=1e-6)


def test_attention_weights_sum_to_1_over_the_present_and_are_0_elsewhere():
    layer, (vectors, present) = randomised("attention"), inputs()
    weights = layer.weights_of(tf.constant(vectors), tf.constant(present)).numpy()
    np.testing.assert_array_equal(weights[~present], 0.0)
    np.testing.assert_allclose(weights.sum(axis=1), [1, 1, 1, 1, 0], rtol=1e-6)
    assert weights[0].std() > 0.01  # random weights tell the modalities apart


def test_attention_starts_as_the_sum_of_what_is_present():
    vectors, present = inputs()
    found = fusion("attention")(vectors, present).numpy()
    np.testing.assert_allclose(found, (vectors * present[..., np.newaxis]).sum(axis=1), rtol=1e-5, atol=1e-6)


def test_the_sum_adds_the_absent_ones_stand_ins():
    layer, (vectors, present) = randomised("sum"), inputs()
    absent = layer.get_weights()[0]
    for row in range(BATCH):
        expected = sum(vectors[row, m] if present[row, m] else absent[m] for m in range(MODALITIES))
        np.testing.assert_allclose(layer(vectors, present)[row], expected, rtol=1e-5, atol=1e-5)


def test_the_gates_are_sigmoids_of_all_vectors():
    layer, (vectors, present) = randomised("gated"), inputs()
    absent, kernel, bias = (layer.absent.numpy(), layer.gate.kernel.numpy(), layer.gate.bias.numpy())
    for row in range(BATCH):
        filled = np.array([vectors[row, m] if present[row, m] else absent[m] for m in range(MODALITIES)])
        gates = 1 / (1 + np.exp(-(filled.ravel() @ kernel + bias)))
        np.testing.assert_allclose(layer(vectors, present)[row], gates @ filled, rtol=1e-4, atol=1e-4)


def filled_by_hand(layer: tf.keras.layers.Layer, row: int) -> np.ndarray:
    vectors, present = inputs()
    absent = layer.absent.numpy()
    return np.array([vectors[row, m] if present[row, m] else absent[m] for m in range(MODALITIES)])


def test_the_other_linear_kinds_are_what_their_equations_say():
    for row in range(BATCH):
        weighted, concat, late = (randomised(kind) for kind in ("weighted", "concat", "late"))
        expected = weighted.weight.numpy() @ filled_by_hand(weighted, row)
        np.testing.assert_allclose(weighted(*inputs())[row], expected, rtol=1e-4, atol=1e-5)
        expected = filled_by_hand(concat, row).ravel() @ concat.mix.numpy().reshape(MODALITIES * DIM, DIM)
        np.testing.assert_allclose(concat(*inputs())[row], expected, rtol=1e-4, atol=1e-4)
        blocks = [[0, 1], [2], [3]]  # of 4 dimensions for 3 modalities
        found = late(*inputs())[row].numpy()
        for modality, block in enumerate(blocks):
            part = filled_by_hand(late, row)[modality, block]
            expected = late.weight.numpy()[modality] * part / np.linalg.norm(part)
            np.testing.assert_allclose(found[block], expected, rtol=1e-4, atol=1e-5)


def test_cross_attention_adds_what_the_modalities_ask_of_each_other_and_starts_as_the_sum():
    layer, (vectors, present) = randomised("cross"), inputs()
    ask, answer, value = (dense.kernel.numpy() for dense in (layer.ask, layer.answer, layer.value))
    for row in range(BATCH - 1):
        there = vectors[row][present[row]]
        logits = (there @ ask) @ (there @ answer).T / np.sqrt(DIM)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        expected = (there + weights @ (there @ value)).sum(axis=0) + layer.absent.numpy()[~present[row]].sum(axis=0)
        np.testing.assert_allclose(layer(vectors, present)[row], expected, rtol=1e-4, atol=1e-4)
    start = fusion("cross")(vectors, present).numpy()
    np.testing.assert_allclose(start, (vectors * present[..., np.newaxis]).sum(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_absent_modalities_do_not_depend_on_their_vectors_and_all_parts_make_the_whole(kind):
    layer, (vectors, present) = randomised(kind), inputs()
    parts = layer.parts(tf.constant(vectors), tf.constant(present)).numpy()
    np.testing.assert_allclose(parts.sum(axis=1), layer(vectors, present), rtol=1e-5, atol=1e-5)
    other = np.where(present[..., np.newaxis], vectors, 7.0).astype(np.float32)
    np.testing.assert_array_equal(layer.parts(tf.constant(other), tf.constant(present)).numpy(), parts)


def test_an_unknown_kind_is_named_with_what_there_is():
    with pytest.raises(ValueError, match="attention, sum, weighted, gated, concat, cross, late, got 'mean'"):
        fusion("mean")
