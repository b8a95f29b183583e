"""The linear start: canonical correlations against scikit-learn's, and what views make of what is known."""

from __future__ import annotations

import numpy as np
import pytest
import shops
import tensorflow as tf
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge

from tfmm import stages
from tfmm.canonical import canonical_pair, ridge_regression
from tfmm.content import TEXT
from tfmm.encoders.colours import WIDTH, colour_statistics
from tfmm.features import ATTRIBUTES


def two_views(rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Two signals that both views carry, the second weaker, among noise."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(rows, 2))
    first = np.concatenate([shared[:, :1], shared[:, 1:] + rng.normal(size=(rows, 1)), rng.normal(size=(rows, 3))], 1)
    second = np.concatenate([rng.normal(size=(rows, 2)), shared + 0.3 * rng.normal(size=(rows, 2))], 1)
    return first @ rng.normal(size=(5, 5)), second @ rng.normal(size=(4, 4))


def test_directions_are_those_of_canonical_correlation_analysis():
    first, second = two_views()
    found = canonical_pair(first, [second], [1.0], ridge=0.0, most=2)
    theirs = CCA(n_components=2, max_iter=5000, tol=1e-10).fit(first, second).transform(first, second)
    for place in range(2):
        ours = first @ found.first[:, place], second @ found.second[:, place]
        assert abs(np.corrcoef(ours[0], theirs[0][:, place])[0, 1]) > 0.999
        assert np.corrcoef(*ours)[0, 1] == pytest.approx(found.correlations[place], abs=1e-4)


def test_ways_of_saying_the_same_count_by_their_shares():
    first, second = two_views()
    alone = canonical_pair(first, [second], [1.0], ridge=0.1, most=2).correlations
    twice = canonical_pair(first, [second, second], [0.7, 0.3], ridge=0.1, most=2).correlations
    noise = np.random.default_rng(1).normal(size=second.shape)
    np.testing.assert_allclose(twice, alone, rtol=1e-6)
    assert (canonical_pair(first, [second, noise], [0.7, 0.3], ridge=0.1, most=2).correlations < alone).all()


def test_regression_is_ridge_regression():
    inputs, targets = two_views()
    variance = np.trace(np.cov(inputs, rowvar=False, bias=True)) / inputs.shape[1]
    theirs = Ridge(alpha=0.5 * variance * len(inputs)).fit(inputs, targets).coef_.T
    np.testing.assert_allclose(ridge_regression(inputs, targets, ridge=0.5), theirs, rtol=1e-3, atol=1e-5)


def test_every_modality_gets_directions_of_variance_one_and_the_strongest_gain_is_one():
    aligner = shops.aligner()
    for name in aligner.modalities:
        taught = shops.shop().asking.train[aligner.content.has(name)[shops.shop().asking.train]]
        table = aligner.columns[name].numpy()[taught]
        gains = aligner.views.gains[name]
        assert gains.shape == table.shape[1:] and gains.max() == pytest.approx(1)
        strong = gains > 0.1
        assert ((table.std(axis=0) > 0.5) & (table.std(axis=0) < 2))[strong].all()


def test_the_start_knows_already_which_pictures_belong_to_which_words():
    tf.keras.utils.set_random_seed(1)
    aligner = stages.make_aligner(shops.CONFIG, shops.shop(), shops.features().vocabulary)
    held = np.concatenate([shops.shop().asking.validation, shops.shop().asking.test])
    held = held[aligner.content.has(TEXT)[held] & aligner.content.has("image")[held]]
    typed, pictures = (aligner.embed_rows(held, only=(name,)) for name in (TEXT, "image"))
    right = shops.group_of(held)[np.argmax(typed @ pictures.T, axis=1)] == shops.group_of(held)
    assert right.mean() > 0.6  # by chance 0.25


def test_a_bag_counts_a_token_once_and_passes_over_what_is_rare_or_unknown():
    aligner = shops.aligner()
    tokens = aligner.content.columns[ATTRIBUTES]
    row = int(np.flatnonzero((tokens > 0).any(axis=(1, 2)))[0])
    once = tokens[row : row + 1]
    numeric = aligner.content.columns["numeric"][row : row + 1]
    twice = np.concatenate([once, once], axis=2)
    seen = [
        aligner.views.wide(ATTRIBUTES, {ATTRIBUTES: tf.constant(t), "numeric": numeric}).numpy() for t in (once, twice)
    ]
    np.testing.assert_allclose(*seen, rtol=1e-6)


# --- Colours ---------------------------------------------------------------------------------------------------------


def on_white(colour: tuple[int, int, int], *, box: tuple[slice, slice] = (slice(16, 48), slice(16, 48))) -> np.ndarray:
    picture = np.full((64, 64, 3), 255.0, np.float32)
    picture[box] = colour
    return picture


def test_the_ground_does_not_count_and_the_histogram_is_of_the_product():
    small, large = on_white((200, 20, 20)), on_white((200, 20, 20), box=(slice(4, 60), slice(4, 60)))
    blue = on_white((20, 20, 200))
    found = colour_statistics(tf.constant(np.stack([small, large, blue]))).numpy()
    assert found.shape == (3, WIDTH) and np.isfinite(found).all()
    whole = found[:, :76] ** 2
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(whole[0] @ whole[1], 1, atol=0.2)  # edges are blended
    assert whole[0] @ whole[2] < 0.05
    np.testing.assert_allclose(found[0, 76:79], np.array([200, 20, 20]) / 255, atol=0.05)


def test_upper_and_lower_halves_are_told_apart_and_an_empty_picture_has_no_colour():
    upper = on_white((20, 160, 20), box=(slice(0, 32), slice(0, 64)))
    found = colour_statistics(tf.constant(np.stack([upper, on_white((255, 255, 255))]))).numpy()
    halves = found[0, 2 * 82 : 2 * 82 + 76].sum(), found[0, 3 * 82 : 3 * 82 + 76].sum()
    assert halves[0] > 0.9 and halves[1] < 1e-6
    np.testing.assert_array_equal(found[1], 0)
