"""Top-k, exclusions and neighbour scores, held to numpy's sort and matrix product."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfmm import closed_form
from tfmm.index import ItemIds, forbid, scatter_neighbours, top_k
from tfmm.ragged import Ragged


def naive_top(scores: np.ndarray, banned: list[set], k: int) -> list[list[int]]:
    return [
        [int(row) for row in np.argsort(-line, kind="stable") if int(row) not in gone][:k]
        for line, gone in zip(scores, banned)
    ]


@pytest.mark.parametrize("k", [1, 7, 30])
def test_top_k_without_the_banned_is_numpys_sort(k):
    rng = np.random.default_rng(k)
    scores = rng.normal(size=(6, 20)).astype(np.float32)
    banned = rng.integers(-1, 20, (6, 8)).astype(np.int32)
    values, rows = top_k(forbid(tf.constant(scores), tf.constant(banned)), k)
    expected = naive_top(scores, [set(row.tolist()) for row in banned], k)
    assert rows.shape == values.shape == (6, k)
    for query, best in enumerate(expected):
        assert rows.numpy()[query].tolist() == best + [-1] * (k - len(best))
        np.testing.assert_array_equal(values.numpy()[query, : len(best)], scores[query, best])


def test_everything_banned_gives_padding_alone():
    banned = tf.constant([[0, 1, 2], [0, -1, -1]])
    _, rows = top_k(forbid(tf.zeros([2, 3]), banned), 2)
    assert rows.numpy().tolist() == [[-1, -1], [1, 2]]


def test_banning_nothing_or_twice_is_harmless():
    scores = tf.constant([[1.0, 2.0]])
    np.testing.assert_array_equal(forbid(scores, tf.zeros([1, 0], tf.int32)), scores)
    np.testing.assert_array_equal(forbid(scores, tf.constant([[-1, -1]])), scores)
    assert forbid(scores, tf.constant([[1, 1]])).numpy()[0, 0] == 1.0


def test_a_graph_knows_how_long_the_list_is():
    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def ask(scores: tf.Tensor) -> tf.Tensor:
        return top_k(scores, 5)[1]

    assert ask.get_concrete_function().output_shapes == tf.TensorShape([None, 5])
    assert ask(tf.constant([[1.0, 3.0]])).numpy().tolist() == [[1, 0, -1, -1, -1]]


@pytest.mark.parametrize("kept", [30, 4])
def test_scattered_neighbours_are_the_history_times_the_weights(kept):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(12, 12)).astype(np.float32) * (rng.random((12, 12)) < 0.6)
    np.fill_diagonal(weights, 0)
    neighbours, values = closed_form.top_neighbours(weights, min(kept, 12))
    dense = np.zeros_like(weights)
    for row, (columns, numbers) in enumerate(zip(neighbours, values)):
        dense[row, columns[columns >= 0]] = numbers[columns >= 0]
    if kept == 30:
        np.testing.assert_array_equal(dense, weights)
    history = [[3, 5, 3], [0], [], [11, 2, 1, 0]]
    importance = rng.random((4, 4)).astype(np.float32)
    items = Ragged.from_rows(history, np.int32).to_dense(4)
    found = scatter_neighbours(neighbours, values, tf.constant(items), tf.constant(importance)).numpy()
    for query, rows in enumerate(history):
        expected = sum((importance[query, place] * dense[row] for place, row in enumerate(rows)), np.zeros(12))
        np.testing.assert_allclose(found[query], expected, rtol=1e-5, atol=1e-6)


def test_ids_become_rows_and_rows_become_ids():
    ids = ItemIds(np.array(["a", "围巾", "7"], object))
    rows = ids.rows(tf.constant([["7", "unknown", "a"], ["", "围巾", "A"]]))
    assert rows.dtype == tf.int32
    assert rows.numpy().tolist() == [[2, -1, 0], [-1, 1, -1]]
    names = ids.names(rows).numpy().astype(object)
    assert [[name.decode() for name in line] for line in names] == [["7", "", "a"], ["", "围巾", ""]]
