"""Closed-form models against arithmetic, plain loops and per-column least squares."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from tfmm import closed_form
from tfmm.ragged import NO_ITEM, Ragged


def ragged(*rows):
    return Ragged.from_rows(rows, np.int64)


def random_matrix(seed=0, users=60, items=25, density=0.2):
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((users, items)) < density, rng.uniform(0.2, 1.0, (users, items)), 0.0)
    return sp.csr_matrix(dense.astype(np.float32)), dense.astype(np.float32).astype(np.float64)


def two_tastes():
    """Users 0-9 took some of items 0-4, users 10-19 some of items 5-9; each left out one of them: the right answer."""
    seen = np.zeros((20, 10))
    for user in range(20):
        first = 0 if user < 10 else 5
        seen[user, first : first + 5] = 1
        seen[user, first + user % 5] = 0
    return sp.csr_matrix(seen), np.array([(0 if user < 10 else 5) + user % 5 for user in range(20)])


@pytest.mark.parametrize(
    "fit",
    [lambda matrix: closed_form.item_knn(matrix, neighbours=5), lambda matrix: closed_form.ease(matrix, l2=1.0)],
    ids=["item_knn", "ease"],
)
def test_the_one_item_of_a_taste_that_was_not_seen_comes_first(fit):
    seen, answers = two_tastes()
    scores = closed_form.score(seen, fit(seen))
    scores[seen.toarray() > 0] = -np.inf
    np.testing.assert_array_equal(scores.argmax(axis=1), answers)


@pytest.mark.parametrize("weighted", [False, True])
def test_ease_is_the_ridge_regression_of_each_item_on_all_others(weighted):
    matrix, dense = random_matrix()
    user_weights = np.random.default_rng(1).uniform(0.5, 2, len(dense)) if weighted else None
    found = closed_form.ease(matrix, l2=3.0, user_weights=user_weights)
    rows = np.sqrt(user_weights)[:, np.newaxis] if weighted else 1.0
    for item in range(dense.shape[1]):
        others = np.delete(np.arange(dense.shape[1]), item)
        # Ridge as ordinary least squares on rows that pull each weight to 0.
        left = np.vstack([(dense * rows)[:, others], np.sqrt(3.0) * np.eye(len(others))])
        right = np.concatenate([(dense * rows)[:, item], np.zeros(len(others))])
        np.testing.assert_allclose(found[others, item], np.linalg.lstsq(left, right, rcond=None)[0], atol=1e-6)
        assert found[item, item] == 0


def test_transitions_are_the_ridge_regression_of_the_next_new_item_on_the_decayed_history(monkeypatch):
    monkeypatch.setattr(closed_form, "_HISTORIES", 3)
    sequences, count = ragged([0, 1, 2, 1], [3, 0], [4], [1, 2, 3, 0, 4]), 5
    new = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1], bool)  # the second 1 of the first shopper is no new item
    factors = np.random.default_rng(0).normal(size=(count, 2))
    found = closed_form.transitions(
        sequences, new, num_items=count, decay=0.5, l2=2.0, content=np.sqrt(3) * factors, window=2
    )
    rows = [({0: 1}, 1), ({1: 1, 0: 0.5}, 2), ({3: 1}, 0)]
    rows += [({1: 1}, 2), ({2: 1, 1: 0.5}, 3), ({3: 1, 2: 0.5}, 0), ({0: 1, 3: 0.5}, 4)]
    x, y = np.zeros((len(rows), count)), np.zeros((len(rows), count))
    for row, (history, following) in enumerate(rows):
        x[row, list(history)] = list(history.values())
        y[row, following] = 1
    # Ridge as ordinary least squares on rows that pull each weight to 0; content is two more histories.
    alike = np.sqrt(3) * factors.T
    left, right = np.vstack([x, alike, np.sqrt(2) * np.eye(count)]), np.vstack([y, alike, np.zeros((count, count))])
    np.testing.assert_allclose(found, np.linalg.lstsq(left, right, rcond=None)[0], atol=1e-5)


def test_transitions_know_which_way_a_sequence_runs():
    sequences = ragged(*[[0, 1, 2]] * 5)
    weights = closed_form.transitions(sequences, np.ones(15, bool), num_items=3, decay=0.5, l2=1.0)
    assert weights[0].argmax() == 1 and weights[1].argmax() == 2


def test_steps_back_count_as_much_as_they_are_told_to():
    """With l2 far above everything, the inverse is nothing but a scale, and weights are the steps themselves."""
    sequences, far = ragged(*[[0, 1, 2]] * 5), 1e6
    weights = far * closed_form.transitions(sequences, np.ones(15, bool), num_items=3, decay=0.5, l2=far, back=0.25)
    np.testing.assert_allclose(weights, [[0, 5, 2.5], [1.25, 0, 5], [0.625, 1.25, 0]], rtol=1e-4, atol=1e-3)


def test_spectral_vectors_are_near_as_a_dense_decomposition_says():
    """Signs and rotations are free, so what is compared is every pair's product."""
    matrix, dense = random_matrix()
    dense[:, 3] = 0  # nobody had it
    dense[5] = 0  # had nothing
    matrix = closed_form.sp.csr_matrix(dense.astype(np.float32))
    users, items, width = dense.sum(axis=1), dense.sum(axis=0), 4
    scaled = dense / np.sqrt(np.maximum(users, 1e-12))[:, np.newaxis] / np.sqrt(items + 5.0)
    _, values, found = np.linalg.svd(scaled, full_matrices=False)
    expected = (found[:width] * values[:width, np.newaxis]).T
    expected[items > 0] /= np.linalg.norm(expected[items > 0], axis=1, keepdims=True)
    expected[3] = 0
    vectors = closed_form.spectral_vectors(matrix, dim=width)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=0.02)
    assert not vectors[3].any()


def test_more_dimensions_than_the_data_fill_are_zeros():
    matrix, dense = random_matrix()
    vectors = closed_form.spectral_vectors(matrix, dim=3 * dense.shape[1])
    assert vectors.shape == (dense.shape[1], 3 * dense.shape[1]) and np.isfinite(vectors).all()
    assert not vectors[:, dense.shape[1] - 1 :].any()


def test_ease_works_in_blocks_as_in_one_piece(monkeypatch):
    matrix, _ = random_matrix()
    whole = closed_form.ease(matrix, l2=2.0)
    monkeypatch.setattr(closed_form, "_ROWS", 4)
    np.testing.assert_allclose(closed_form.ease(matrix, l2=2.0), whole, atol=1e-7)


def test_single_precision_ease_stays_near_double():
    matrix, _ = random_matrix(users=400)
    single = closed_form.ease(matrix, l2=50.0, dtype=np.float32)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, closed_form.ease(matrix, l2=50.0), atol=1e-5)


def test_an_item_that_nobody_took_has_no_weights():
    matrix = sp.csr_matrix(np.array([[1, 1, 0], [1, 0, 0]], np.float32))
    for weights in (closed_form.ease(matrix, l2=1.0), closed_form.item_knn(matrix, neighbours=2).toarray()):
        assert not weights[2].any()
        assert not weights[:, 2].any()
        assert weights[0, 1] > 0


@pytest.mark.parametrize("shrink", [0.0, 2.5])
@pytest.mark.parametrize("rows", [3, 512])
def test_item_knn_is_the_shrunk_cosine_of_the_nearest(shrink, rows, monkeypatch):
    monkeypatch.setattr(closed_form, "_ROWS", rows)
    matrix, dense = random_matrix()
    found = closed_form.item_knn(matrix, neighbours=4, shrink=shrink).toarray()
    for item in range(dense.shape[1]):
        own = dense[:, item]
        cosine = [
            0.0 if other == item else own @ column / (np.linalg.norm(own) * np.linalg.norm(column) + shrink)
            for other, column in enumerate(dense.T)
        ]
        nearest = sorted(range(len(cosine)), key=lambda other: -cosine[other])[:4]
        expected = np.zeros(len(cosine))
        expected[nearest] = np.array(cosine)[nearest]
        np.testing.assert_allclose(found[item], expected, atol=1e-6)


def test_more_neighbours_than_items_keeps_all_but_itself():
    matrix = sp.csr_matrix(np.ones((4, 3), np.float32))
    np.testing.assert_allclose(closed_form.item_knn(matrix, neighbours=50).toarray(), 1 - np.eye(3), atol=1e-6)


def test_history_weights_fall_by_decay_a_step_from_the_newest():
    matrix = closed_form.history_matrix(ragged([4, 0, 2], [], [1]), num_items=5, decay=0.8).toarray()
    np.testing.assert_allclose(matrix, [[0.8, 0, 1, 0, 0.64], [0] * 5, [0, 1, 0, 0, 0]], rtol=1e-6)


def test_a_repeated_item_has_the_age_of_its_newest_event():
    matrix = closed_form.history_matrix(ragged([1, 0, 1, 0, 0]), num_items=2, decay=0.5).toarray()
    np.testing.assert_allclose(matrix, [[1.0, 0.25]])


def test_an_unknown_item_keeps_its_place_in_time_and_has_no_column():
    matrix = closed_form.history_matrix(ragged([3, NO_ITEM]), num_items=4, decay=0.5).toarray()
    np.testing.assert_allclose(matrix, [[0, 0, 0, 0.5]])


def test_a_very_long_history_loses_no_item():
    matrix = closed_form.history_matrix(ragged(np.arange(3000)), num_items=3000, decay=0.8)
    assert matrix.nnz == 3000
    assert matrix.data.min() > 0


def test_repeated_events_count_by_their_largest_weight():
    user, item = np.array([0, 0, 1, 0]), np.array([2, 2, 0, NO_ITEM])
    weighted = closed_form.interaction_matrix(
        user, item, num_users=3, num_items=3, weights=np.array([1.0, 5.0, 2.0, 9.0])
    )
    np.testing.assert_array_equal(weighted.toarray(), [[0, 0, 5], [2, 0, 0], [0, 0, 0]])
    binary = closed_form.interaction_matrix(user, item, num_users=3, num_items=3)
    np.testing.assert_array_equal(binary.toarray(), [[0, 0, 1], [1, 0, 0], [0, 0, 0]])


def test_popularity_counts_events():
    counts = closed_form.popularity(np.array([2, 0, 2, NO_ITEM]), num_items=4)
    assert counts.tolist() == [1, 0, 2, 0]


def test_recent_popularity_halves_with_each_half_life():
    day = 86_400
    found = closed_form.recent_popularity(
        np.array([0, 1, 1, 2, NO_ITEM]),
        np.array([100 * day, 93 * day, 86 * day, 79 * day, 100 * day]),
        now=100 * day,
        half_life_days=7,
        num_items=4,
    )
    np.testing.assert_allclose(found, [1, 1 / 2 + 1 / 4, 1 / 8, 0])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("k", [3, 30])
def test_top_neighbours_are_the_largest_by_absolute_value(sparse, k):
    dense = np.random.default_rng(0).standard_normal((12, 12)).astype(np.float32)
    dense[np.abs(dense) < 1.0] = 0
    rows, values = closed_form.top_neighbours(sp.csr_matrix(dense) if sparse else dense, k)
    assert (rows.dtype, values.dtype, rows.shape, values.shape) == (np.int32, np.float32, (12, k), (12, k))
    for item in range(12):
        expected = sorted((weight for weight in dense[item] if weight), key=abs, reverse=True)[:k]
        np.testing.assert_array_equal(values[item], expected + [0] * (k - len(expected)))
        kept = rows[item] != NO_ITEM
        assert kept.sum() == len(expected)
        np.testing.assert_array_equal(dense[item, rows[item][kept]], values[item][kept])


def test_all_neighbours_give_the_scores_of_the_full_matrix():
    matrix, _ = random_matrix()
    weights = closed_form.ease(matrix, l2=1.0)
    rows, values = closed_form.top_neighbours(weights, 24)  # all but the item itself
    rebuilt = np.zeros_like(weights)
    np.put_along_axis(rebuilt, rows.astype(np.int64), values, axis=1)
    np.testing.assert_allclose(closed_form.score(matrix, rebuilt), closed_form.score(matrix, weights), atol=1e-5)


def test_sparse_and_dense_weights_give_the_same_scores():
    matrix, _ = random_matrix()
    weights = closed_form.item_knn(matrix, neighbours=3)
    sparse, dense = closed_form.score(matrix, weights), closed_form.score(matrix, weights.toarray())
    assert sparse.dtype == dense.dtype == np.float32
    np.testing.assert_allclose(sparse, dense, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: closed_form.ease(sp.eye(3, format="csr"), l2=0.0), "l2 > 0"),
        (lambda: closed_form.history_matrix(ragged([0]), num_items=1, decay=1.5), "within \\(0, 1\\], got 1.5"),
        (lambda: closed_form.top_neighbours(np.eye(3), 0), "at least 1"),
        (
            lambda: closed_form.recent_popularity(np.array([0]), np.array([9]), now=8, half_life_days=1, num_items=1),
            "the future leaks",
        ),
        (
            lambda: closed_form.recent_popularity(np.array([0]), np.array([9]), now=9, half_life_days=0, num_items=1),
            "half_life_days > 0",
        ),
    ],
)
def test_what_cannot_be_fitted_is_an_error_that_says_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()
