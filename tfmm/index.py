"""Candidate embeddings -> top-k inside the graph, with exclusions and filters, out of core TF ops only.

Everything that has a row an item is a variable whose first dimension is open, ids included, so that an exported model
takes another catalogue by another checkpoint, its graph untouched (`tfmm.reindexing`).
"""

from __future__ import annotations

import dataclasses
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm.ragged import NO_ITEM, Ragged

NEVER = -1e9
"""The score of what may not be returned; finite, so that sorting and softmax stay well-behaved."""
KINDS = ("auto", "exact", "ivf")
Columns = dict[str, tf.Variable]
_EXACT_UP_TO = 200_000
_BUCKETS = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How the nearest items are found.

    Attributes:
        kind: "exact" (every item is scored), "ivf" (those of the nearest clusters are) or "auto": exact up to 200,000
            items, ivf above.
        clusters: of ivf; 0 = four times the square root of the number of items.
        probes: clusters that a query looks into: more find more, and take longer. 32 of the default number of clusters
            hold about 8 / sqrt(items) of the catalogue.
    """

    kind: str = "auto"
    clusters: int = 0
    probes: int = 32

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Expected index.kind to be one of {', '.join(KINDS)}, got {self.kind!r}.")
        if self.clusters < 0 or self.probes < 1:
            raise ValueError(
                f"Expected index.clusters >= 0 and index.probes >= 1, got {self.clusters} and {self.probes}."
            )


class ItemIds(tf.Module):
    """Item ids on the wire <-> rows of one model: a binary search among the ids' sorted 63-bit fingerprints."""

    def __init__(self, ids: np.ndarray) -> None:
        super().__init__(name="item_ids")
        columns = id_columns(ids)
        self.ids = held(columns["ids"], "ids")
        self.fingerprints = held(columns["fingerprints"], "fingerprints")
        self.places = held(columns["places"], "places")

    @property
    def columns(self) -> Columns:
        """What has a row an item."""
        return {"ids": self.ids, "fingerprints": self.fingerprints, "places": self.places}

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns int32 rows of string ids of any shape; -1 for "" and for what the catalogue does not have."""
        wanted = tf.strings.to_hash_bucket_fast(tf.reshape(ids, [1, -1]), _BUCKETS)
        place = tf.raw_ops.LowerBound(sorted_inputs=self.fingerprints[tf.newaxis], values=wanted)
        row = tf.gather(self.places, tf.minimum(tf.reshape(place, tf.shape(ids)), tf.shape(self.places)[0] - 1))
        return tf.where(tf.gather(self.ids, row) == ids, row, NO_ITEM)

    def names(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns string ids of int32 rows of any shape; "" for -1."""
        return tf.where(rows >= 0, tf.gather(self.ids, tf.maximum(rows, 0)), "")


def id_columns(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Returns `ids` `[num_items]`, `fingerprints` int64, ascending, and `places` int32: the row of each fingerprint.

    Raises:
        ValueError: where there is no id, an empty one, one twice, or two with one fingerprint (no catalogue of a
            million is likely to have that: 1 in 10 million).
    """
    names = np.array([str(name) for name in ids], object)
    if not len(names) or (names == "").any():
        raise ValueError(f"Expected one item or more, each with an id, got {len(names)}, {(names == '').sum()} empty.")
    prints = tf.strings.to_hash_bucket_fast(tf.constant(names, tf.string), _BUCKETS).numpy()
    places = np.argsort(prints, kind="stable").astype(np.int32)
    ordered = prints[places]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(same):
        one, other = names[places[same[0]]], names[places[same[0] + 1]]
        problem = "twice" if one == other else f"and {other!r}, which have the same fingerprint"
        raise ValueError(f"Expected ids that can be told apart, got {one!r} {problem}. Rename one of them.")
    return {"ids": names, "fingerprints": ordered, "places": places}


class Index(tf.Module):
    """Vectors of length 1, and for ivf the clusters that they stand in; `retrieve` asks it."""

    def __init__(self, vectors: tf.Tensor, config: Optional[IndexConfig] = None, *, seed: int = 0) -> None:
        """Clusters the vectors where the configuration says so.

        Args:
            vectors: `[num_items, dim]`.
            config: which kind; None is `IndexConfig()`.
            seed: of the clustering.
        """
        super().__init__(name="index")
        self.config, self.vectors = config or IndexConfig(), held(vectors, "corpus")
        self.clusters: Optional[tuple[tf.Variable, tf.Variable]] = None
        count = int(tf.shape(vectors)[0])
        if self.config.kind == "ivf" or (self.config.kind == "auto" and count > _EXACT_UP_TO):
            corpus = np.asarray(vectors)
            number = min(count, self.config.clusters or max(1, round(4 * count**0.5)))
            centroids = find_centroids(corpus, number, seed=seed)
            members = member_rows(corpus, centroids)
            self.clusters = (
                held(centroids, "centroids"),
                tf.Variable(members, trainable=False, shape=[None, None], name="members"),
            )

    @property
    def columns(self) -> Columns:
        """What changes with the catalogue: `corpus` and, of ivf, `centroids` and `members`."""
        if self.clusters is None:
            return {"corpus": self.vectors}
        return {"corpus": self.vectors, "centroids": self.clusters[0], "members": self.clusters[1]}


def retrieve(
    index: Index, queries: tf.Tensor, k: int, excluded: tf.Tensor, *, allowed: Optional[tf.Tensor] = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns cosines and rows `[batch, k]`, best first, -1 where fewer are found.

    Where `allowed` leaves anything out, all items are scored: those that are left may stand in any cluster.

    Args:
        index: exact or ivf.
        queries: `[batch, dim]` of length 1.
        k: how many.
        excluded: `[batch, n]` int32 rows never to return, -1 = none.
        allowed: `[batch, num_items]` bool; None is all.
    """
    if index.clusters is None:
        return _exact(index, queries, k, excluded, allowed)
    if allowed is None:
        return _probed(index, queries, k, excluded)
    values, rows = tf.cond(
        tf.reduce_all(allowed),
        lambda: _probed(index, queries, k, excluded),
        lambda: _exact(index, queries, k, excluded, allowed),
    )
    return values, rows


def _exact(
    index: Index, queries: tf.Tensor, k: int, excluded: tf.Tensor, allowed: Optional[tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    return top_k(forbid_all(tf.matmul(queries, index.vectors, transpose_b=True), excluded, allowed), k)


def _probed(index: Index, queries: tf.Tensor, k: int, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the best of the clusters nearest to each query; inside them, scores are exact."""
    centroids, members = index.clusters  # type: ignore[misc]
    probes = tf.minimum(index.config.probes, tf.shape(centroids)[0])
    _, near = tf.math.top_k(tf.matmul(queries, centroids, transpose_b=True), k=probes)
    rows = tf.reshape(tf.gather(members, near), [tf.shape(queries)[0], -1])  # [batch, probes * width]
    scores = tf.map_fn(  # one query at a time: together, the vectors that they look at would be a gigabyte
        lambda one: tf.linalg.matvec(tf.gather(index.vectors, tf.maximum(one[1], 0)), one[0]),
        (queries, rows),
        fn_output_signature=tf.TensorSpec([None]),
    )
    values, places = top_k(tf.where((rows >= 0) & ~_among(rows, excluded), scores, NEVER), k)
    return values, tf.where(places >= 0, tf.gather(rows, tf.maximum(places, 0), batch_dims=1), NO_ITEM)


def _among(rows: tf.Tensor, some: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, m]` bool: whether each row of a line is one of the line's `some` `[batch, n]`."""
    known = tf.sort(tf.pad(some, [[0, 0], [0, 1]], constant_values=NO_ITEM), axis=1)
    place = tf.raw_ops.LowerBound(sorted_inputs=known, values=rows)
    return tf.gather(known, tf.minimum(place, tf.shape(known)[1] - 1), batch_dims=1) == rows


def find_centroids(
    vectors: np.ndarray, clusters: int, *, seed: int = 0, rounds: int = 12, per_cluster: int = 64
) -> np.ndarray:
    """Returns `[clusters, dim]` of length 1: spherical k-means, each round on a fresh sample of the vectors.

    A cluster that has nearly nothing begins again amid a crowded one, so that the largest does not make all wide.

    Args:
        vectors: `[n, dim]` of length 1.
        clusters: how many, at most n.
        seed: of the samples.
        rounds: of assigning and averaging.
        per_cluster: vectors of a round's sample, for each cluster.
    """
    rng = np.random.default_rng(seed)
    centroids = vectors[rng.choice(len(vectors), clusters, replace=False)].astype(np.float32)
    for number in range(rounds):
        size = min(len(vectors), clusters * per_cluster)
        sample = vectors[rng.choice(len(vectors), size, replace=False)]
        nearest = assign(sample, centroids)
        counts = np.bincount(nearest, minlength=clusters)
        filled = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts)])[filled]
        sums = np.add.reduceat(sample[np.argsort(nearest, kind="stable")], starts, axis=0)
        centroids[filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        small, crowded = counts < counts.mean() / 8, np.flatnonzero(counts[nearest] > 2 * counts.mean())
        if number < rounds - 2 and len(crowded):
            centroids[small] = sample[rng.choice(crowded, int(small.sum()))]
    return centroids


def assign(vectors: np.ndarray, centroids: np.ndarray, *, chunk: int = 4096) -> np.ndarray:
    """Returns `[n]` int64: the nearest centroid of each vector `[n, dim]`."""
    parts = [(vectors[at : at + chunk] @ centroids.T).argmax(axis=1) for at in range(0, len(vectors), chunk)]
    return np.concatenate(parts)


def member_rows(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Returns `[clusters, width]` int32: the rows of the vectors nearest to each centroid, ascending, -1 = padding."""
    nearest = assign(vectors, centroids)
    grouped = Ragged.from_groups(nearest, np.arange(len(vectors), dtype=np.int32), len(centroids))
    return grouped.to_dense(max(1, int(grouped.lengths.max(initial=0))), fill=NO_ITEM)


def held(value: object, name: str) -> tf.Variable:
    """Returns a variable with a row an item, of which another checkpoint may hold more or fewer."""
    tensor = tf.convert_to_tensor(value)
    return tf.Variable(tensor, trainable=False, shape=[None, *tensor.shape[1:]], name=name)


def forbid(scores: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns the scores `[batch, num_items]` with `NEVER` at each row of `rows` `[batch, n]` that is not -1."""
    places = tf.where(rows >= 0)
    indices = tf.stack([places[:, 0], tf.cast(tf.gather_nd(rows, places), tf.int64)], axis=1)
    return tf.tensor_scatter_nd_update(scores, indices, tf.fill(tf.shape(indices)[:1], NEVER))


def forbid_all(scores: tf.Tensor, excluded: tf.Tensor, allowed: Optional[tf.Tensor]) -> tf.Tensor:
    """Returns the scores with `NEVER` at the excluded rows, and wherever `allowed` `[batch, num_items]` is False."""
    scores = forbid(scores, excluded)
    return scores if allowed is None else tf.where(allowed, scores, NEVER)


def top_k(scores: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the k largest scores `[batch, k]`, and their rows, -1 where fewer than k items may be returned.

    Args:
        scores: `[batch, num_items]`.
        k: at most `num_items` of them are real; the rest is padding.
    """
    values, rows = tf.math.top_k(scores, k=tf.minimum(k, tf.shape(scores)[1]))
    missing = [[0, 0], [0, tf.maximum(0, k - tf.shape(scores)[1])]]
    values = tf.pad(values, missing, constant_values=NEVER)
    rows = tf.pad(rows, missing, constant_values=NO_ITEM)
    values, rows = tf.ensure_shape(values, [None, k]), tf.ensure_shape(rows, [None, k])
    return values, tf.where(values > NEVER / 2, rows, NO_ITEM)


def scatter_neighbours(neighbours: tf.Tensor, weights: tf.Tensor, items: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, num_items]`: for each item, the sum over a history of importance times the weight towards it.

    Args:
        neighbours: `[num_items, k]` int32 rows, -1 = padding (`closed_form.top_neighbours`).
        weights: `[num_items, k]`.
        items: `[batch, length]` int32 rows of the history, -1 = padding.
        importance: `[batch, length]` of each history item.
    """
    num_items = tf.shape(neighbours)[0]
    safe = tf.maximum(items, 0)
    targets = tf.gather(neighbours, safe)  # [batch, length, k]
    importance = tf.where(items >= 0, importance, 0.0)
    values = tf.gather(weights, safe) * importance[..., tf.newaxis]
    batch = tf.range(tf.shape(items)[0])[:, tf.newaxis, tf.newaxis]
    flat = batch * num_items + tf.maximum(targets, 0)  # padding has weight 0
    total = tf.math.unsorted_segment_sum(
        tf.reshape(values, [-1]), tf.reshape(flat, [-1]), tf.shape(items)[0] * num_items
    )
    return tf.reshape(total, [-1, num_items])
