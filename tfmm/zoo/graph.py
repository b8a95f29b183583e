"""Graphs of users, items and attributes as sparse matrices, and how vectors spread over them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfmm.closed_form import sp

_ROWS = 512  # items whose similarities to all others are held at once


def normalised_adjacency(a: np.ndarray, b: np.ndarray, *, nodes: int, self_loops: bool = False) -> sp.csr_matrix:
    """Returns D^-1/2 A D^-1/2 `[nodes, nodes]` float32 of an undirected graph; a node without edges has a row of 0.

    Args:
        a: `[edges]` one end of each.
        b: `[edges]` the other; an edge that is named twice counts once.
        nodes: how many.
        self_loops: whether A is A + I (Kipf & Welling 2017).
    """
    ones = np.ones(2 * len(a), np.float64)
    graph = sp.csr_matrix((ones, (np.concatenate([a, b]), np.concatenate([b, a]))), shape=(nodes, nodes))
    if self_loops:
        graph = graph + sp.identity(nodes, format="csr")
    graph.data[:] = 1.0
    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = sp.diags(np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0.0))
    return (scale @ graph @ scale).tocsr().astype(np.float32)


def nearest_items(features: np.ndarray, k: int) -> sp.csr_matrix:
    """Returns `[num_items, num_items]`, normalised: each item beside the k whose content is most like its own.

    Args:
        features: `[num_items, width]`; a row of 0 is an item without content, which has no neighbours.
        k: at most; only those whose inner product is above 0.
    """
    k, ends = min(k, len(features) - 1), []
    for start in range(0, len(features), _ROWS):
        alike = features[start : start + _ROWS] @ features.T
        rows = np.arange(len(alike))
        alike[rows, start + rows] = -np.inf
        found = np.argpartition(-alike, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(alike, found, axis=1) > 0
        ends.append(np.stack([np.repeat(start + rows, k)[near.ravel()], found[near]]))
    return normalised_adjacency(*np.concatenate(ends, axis=1), nodes=len(features))


def sparse_tensor(matrix: sp.csr_matrix) -> tf.SparseTensor:
    """Returns the matrix as TensorFlow multiplies it."""
    ordered = matrix.tocsr().sorted_indices().tocoo()
    places = np.stack([ordered.row, ordered.col], axis=1).astype(np.int64)
    return tf.SparseTensor(places, ordered.data.astype(np.float32), matrix.shape)


def spread(graph: tf.SparseTensor, vectors: tf.Tensor) -> tf.Tensor:
    """Returns graph @ vectors, `[nodes, dim]`."""
    return tf.sparse.sparse_dense_matmul(graph, vectors)
