"""Top-k, exclusions and neighbour scores, held to numpy's sort and matrix product."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfmm import closed_form
from tfmm import index as indexing
from tfmm.index import Index, IndexConfig, ItemIds, forbid, id_columns, retrieve, scatter_neighbours, top_k
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


def test_many_ids_find_their_rows_and_no_other_id_does():
    names = np.array([f"item-{number}" for number in np.random.default_rng(0).permutation(5000)], object)
    ids = ItemIds(names)
    assert ids.rows(tf.constant(names)).numpy().tolist() == list(range(5000))
    assert (ids.rows(tf.constant([f"item-{number}" for number in range(5000, 6000)])).numpy() == -1).all()
    assert ids.rows(tf.zeros([3, 0], tf.string)).shape == (3, 0)


def test_another_catalogue_fits_into_the_same_graph():
    ids = ItemIds(np.array(["a", "b"], object))
    asked = tf.function(ids.rows, input_signature=[tf.TensorSpec([None], tf.string)])
    assert asked(tf.constant(["c", "b", ""])).numpy().tolist() == [-1, 1, -1]
    for name, column in id_columns(np.array(["b", "c", "d", "a"], object)).items():
        ids.columns[name].assign(column)
    assert asked(tf.constant(["c", "b", ""])).numpy().tolist() == [1, 0, -1]


@pytest.mark.parametrize(("ids", "match"), [(["a", "b", "a"], "'a' twice"), (["a", ""], "1 empty"), ([], "got 0")])
def test_ids_that_cannot_be_told_apart_are_refused(ids, match):
    with pytest.raises(ValueError, match=match):
        id_columns(np.array(ids, object))


def test_two_ids_of_one_fingerprint_are_refused(monkeypatch):
    monkeypatch.setattr(indexing, "_BUCKETS", 3)  # of four ids two must share one
    with pytest.raises(ValueError, match="the same fingerprint"):
        id_columns(np.array(["a", "b", "c", "d"], object))


# --- ivf -------------------------------------------------------------------------------------------------------------


def clustered(count: int, dim: int = 16, *, centres: int = 60, seed: int = 0) -> np.ndarray:
    """Returns `[count, dim]` of length 1, scattered around centres of unequal size."""
    rng = np.random.default_rng(seed)
    popular = rng.exponential(size=centres)
    near = rng.normal(size=(centres, dim))[rng.choice(centres, count, p=popular / popular.sum())]
    vectors = near + rng.normal(0, 0.5, (count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def corpus() -> np.ndarray:
    return clustered(6000)


@pytest.fixture(scope="module")
def ivf(corpus) -> Index:
    return Index(tf.constant(corpus), IndexConfig(kind="ivf"))


NONE = np.zeros((200, 0), np.int32)  # excluded


def test_ivf_finds_what_exact_search_finds(corpus, ivf):
    queries = corpus[:200] + np.random.default_rng(1).normal(0, 0.1, (200, 16)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    best = np.argsort(-(queries @ corpus.T), axis=1)[:, :50].tolist()
    recalls = []
    for probes in (1, ivf.config.probes):
        other = Index(tf.constant(corpus), IndexConfig(kind="ivf", probes=probes))
        rows = retrieve(other, tf.constant(queries), 50, tf.constant(NONE))[1].numpy().tolist()
        recalls.append(np.mean([len(set(found) & set(wanted)) / 50 for found, wanted in zip(rows, best)]))
    assert recalls[1] >= 0.95 > recalls[0]
    assert ivf.config.probes / len(ivf.clusters[0].numpy()) < 0.15  # so much of the catalogue it looks at


def test_every_item_stands_in_the_cluster_nearest_to_it_once(corpus, ivf):
    centroids, members = (part.numpy() for part in ivf.clusters)
    assert sorted(members[members >= 0].tolist()) == list(range(len(corpus)))
    nearest = (corpus @ centroids.T).argmax(axis=1)
    for cluster, rows in enumerate(members):
        assert (nearest[rows[rows >= 0]] == cluster).all()
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)


def test_all_probes_are_exact_search_exclusions_included(corpus):
    some = corpus[:300]
    exact = Index(tf.constant(some), IndexConfig(kind="exact"))
    ivf = Index(tf.constant(some), IndexConfig(kind="ivf", clusters=17, probes=17))
    queries, rng = tf.constant(clustered(5, seed=1)), np.random.default_rng(0)
    excluded = tf.constant(rng.integers(-1, 300, (5, 90)).astype(np.int32))
    for k in (1, 20, 299):
        scores, rows = retrieve(ivf, queries, k, excluded)
        expected, wanted = retrieve(exact, queries, k, excluded)
        assert rows.numpy().tolist() == wanted.numpy().tolist()
        np.testing.assert_allclose(scores[rows >= 0], expected[wanted >= 0], rtol=1e-5, atol=1e-6)


def test_a_filter_finds_all_that_it_leaves_wherever_that_stands(corpus, ivf):
    allowed = np.zeros((2, len(corpus)), bool)
    left = np.random.default_rng(0).choice(len(corpus), 30, replace=False)
    allowed[0, left], allowed[1] = True, True
    _, rows = retrieve(ivf, tf.constant(corpus[:2]), 40, tf.constant([[-1], [-1]]), allowed=tf.constant(allowed))
    assert set(rows.numpy()[0].tolist()) == {*left.tolist(), -1}
    assert (rows.numpy()[1] >= 0).all()


def test_vectors_that_are_all_the_same_can_be_searched():
    same = tf.constant(np.tile([[0.6, 0.8]], (50, 1)).astype(np.float32))
    _, rows = retrieve(Index(same, IndexConfig(kind="ivf")), same[:1], 50, tf.constant([[3]]))
    assert set(rows.numpy()[0].tolist()) == set(range(50)) - {3} | {-1}


def test_clusters_are_the_same_for_the_same_seed(corpus):
    one, other = (Index(tf.constant(corpus[:500]), IndexConfig(kind="ivf"), seed=3).clusters for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize(("kind", "count", "clustered"), [("auto", 50, False), ("exact", 50, False), ("ivf", 50, True)])
def test_the_kind_decides_and_auto_is_exact_for_a_small_catalogue(kind, count, clustered):
    assert (Index(tf.eye(count), IndexConfig(kind=kind)).clusters is not None) == clustered


def test_auto_clusters_a_large_catalogue(monkeypatch):
    monkeypatch.setattr(indexing, "_EXACT_UP_TO", 40)
    assert Index(tf.eye(41)).clusters is not None
    assert Index(tf.eye(40)).clusters is None


@pytest.mark.parametrize("wrong", [{"kind": "scann"}, {"clusters": -1}, {"probes": 0}])
def test_settings_that_make_no_index_are_refused(wrong):
    with pytest.raises(ValueError, match=f"Expected index.{next(iter(wrong))}|index.probes"):
        IndexConfig(**wrong)
