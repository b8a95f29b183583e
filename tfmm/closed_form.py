"""Interactions in; popularity, item neighbourhoods, EASE and transitions out, in closed form: nothing is trained.

Scores are `score(history_matrix(history, ...), weights)`, `[queries, num_items]`, whatever made the weights. History
weights `decay**age` (age 0 = newest) enter both the rows that are fitted and the rows that are scored: fit on
`history_matrix(sequences, decay=d)`, and score with the same d.
"""

from __future__ import annotations

from typing import Optional, Union

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg

from tfmm.ragged import NO_ITEM, Ragged, in_chunks

_SECONDS_A_DAY = 86_400
_ROWS = 512  # rows of an item-by-item matrix that are dense at once


def popularity(items: np.ndarray, *, num_items: int) -> np.ndarray:
    """Returns `[num_items]` float32: how often each item stands in the events.

    Args:
        items: `[events]` int item rows; `NO_ITEM` is ignored.
        num_items: size of the catalogue.
    """
    return np.bincount(items[items != NO_ITEM], minlength=num_items).astype(np.float32)


def recent_popularity(
    items: np.ndarray, times: np.ndarray, *, now: int, half_life_days: float, num_items: int
) -> np.ndarray:
    """Returns `[num_items]` float32: events per item, each counting half as much for every half-life of its age.

    Args:
        items: `[events]` int item rows; `NO_ITEM` is ignored.
        times: `[events]` int seconds since the epoch.
        now: the moment of asking, in the same seconds.
        half_life_days: the age at which an event counts one half.
        num_items: size of the catalogue.

    Raises:
        ValueError: where an event is later than `now` (it would leak the future), or the half-life is not positive.
    """
    if half_life_days <= 0:
        raise ValueError(f"Expected half_life_days > 0, got {half_life_days}.")
    if len(times) and times.max() > now:
        raise ValueError(
            f"Expected events no later than now ({now}), got one at {times.max()} (event {times.argmax()}); "
            f"popularity from the future leaks: select the training events first."
        )
    known = items != NO_ITEM
    ages = (now - times[known]) / (half_life_days * _SECONDS_A_DAY)
    return np.bincount(items[known], weights=0.5**ages, minlength=num_items).astype(np.float32)


def interaction_matrix(
    user: np.ndarray, item: np.ndarray, *, num_users: int, num_items: int, weights: Optional[np.ndarray] = None
) -> sp.csr_matrix:
    """Returns `[num_users, num_items]` float32; of repeated events of a user with an item, the largest weight counts.

    Args:
        user: `[events]` int user rows.
        item: `[events]` int item rows; `NO_ITEM` is ignored.
        num_users: rows of the matrix.
        num_items: columns of the matrix.
        weights: `[events]` positive; 1 where None.
    """
    values = np.ones(len(item), np.float32) if weights is None else np.asarray(weights, np.float32)
    order = np.lexsort((-values, item, user))  # the largest of each (user, item) comes first, and stays
    order = order[item[order] != NO_ITEM]
    user, item, values = user[order], item[order], values[order]
    first = np.ones(len(item), bool)
    first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    return sp.csr_matrix((values[first], (user[first], item[first])), shape=(num_users, num_items))


def history_matrix(history: Ragged, *, num_items: int, decay: float = 1.0) -> sp.csr_matrix:
    """Returns `[queries, num_items]` float32: decay**age of each item of a history, by its newest event.

    Args:
        history: item rows, oldest first, one row a query; an unknown item (`NO_ITEM`) has an age but no column.
        num_items: size of the catalogue.
        decay: within (0, 1]; 1 = all ages weigh the same.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"Expected decay within (0, 1], got {decay}.")
    ages = np.repeat(history.offsets[1:], history.lengths) - 1 - np.arange(len(history.values))
    weights = np.maximum(np.float64(decay) ** ages, np.finfo(np.float32).tiny)  # ancient events stay, however light
    return interaction_matrix(
        history.row_numbers, history.values, num_users=len(history), num_items=num_items, weights=weights
    )


def score(history: sp.csr_matrix, weights: Union[np.ndarray, sp.csr_matrix]) -> np.ndarray:
    """Returns `[queries, num_items]` float32: history @ weights, dense."""
    scores = history @ weights
    return np.asarray(scores.toarray() if sp.issparse(scores) else scores, dtype=np.float32)


def item_knn(matrix: sp.csr_matrix, *, neighbours: int, shrink: float = 0.0) -> sp.csr_matrix:
    """Returns `[num_items, num_items]` float32: each row holds an item's most similar others by shrunk cosine.

    similarity(i, j) = x_i . x_j / (|x_i| |x_j| + shrink), x_i being the item's column of interactions; shrinkage lowers
    what rests on few users. Nothing is similar to itself. Equal similarities are taken in no particular order.

    Args:
        matrix: `[users, num_items]` interactions.
        neighbours: how many others a row keeps at most.
        shrink: 0 or more.
    """
    columns = matrix.tocsc().astype(np.float64)
    norms = np.sqrt(np.asarray(columns.multiply(columns).sum(axis=0)).ravel())
    parts = []
    for start in range(0, columns.shape[1], _ROWS):
        block = (columns[:, start : start + _ROWS].T @ columns).toarray()
        below = np.outer(norms[start : start + _ROWS], norms) + shrink
        block /= np.where(below > 0, below, 1.0)
        block[np.arange(len(block)), start + np.arange(len(block))] = 0.0
        parts.append(_sparse_rows(*_largest(block, neighbours), columns.shape[1]))
    return sp.vstack(parts, format="csr")


def ease(
    matrix: sp.csr_matrix,
    *,
    l2: float,
    user_weights: Optional[np.ndarray] = None,
    content: Optional[np.ndarray] = None,
    dtype: type = np.float64,
) -> np.ndarray:
    """Returns `[num_items, num_items]` float32, zero on the diagonal: EASE (Steck 2019, equation 8).

    The B that minimises |X - X B|^2 + l2 |B|^2 with a zero diagonal is I - P / diag(P), where P = (X'X + l2 I)^-1.

    The inverse is made in place: 8 bytes (float64) or 4 (float32) by num_items^2, and with float64 another 4 for what
    is returned: 1.2 GB for 10,000 items. float32 halves the time, and costs digits where l2 is small.

    Args:
        matrix: `[users, num_items]` interactions; weights within a row (recency) are fitted as they are.
        l2: greater than 0; grows with the number of users: 100-1000 for tens of thousands.
        user_weights: `[users]`, how much each user counts in X'X; 1 where None.
        content: `[num_items, num_items]`, positive semidefinite: added to X'X, as further users' rows would be.
        dtype: of the inverse: np.float64 or np.float32.
    """
    if l2 <= 0:
        raise ValueError(f"Expected l2 > 0 (without it X'X may have no inverse), got {l2}.")
    gram = _gram(matrix.astype(dtype), user_weights, dtype)
    if content is not None:
        gram += content
    gram[np.diag_indices_from(gram)] += l2
    weights = _inverse(gram).astype(np.float32, copy=False)
    weights /= -np.diag(weights).copy()[np.newaxis, :]
    np.fill_diagonal(weights, 0.0)
    return weights


def transitions(
    sequences: Ragged,
    new: np.ndarray,
    *,
    num_items: int,
    decay: float,
    l2: float,
    content: Optional[np.ndarray] = None,
    back: float = 0.0,
    window: int = 50,
) -> np.ndarray:
    """Returns `[num_items, num_items]` float32: what follows a history, by ridge regression (Choi et al. 2021, SLIT).

    The B that minimises |Y - X B|^2 + l2 |B|^2, a row of X being a history weighted by decay**age, and the row of Y the
    one new item that came next: B = (X'X + l2 I)^-1 X'Y. Where EASE says what is had together, this says what is had
    after. Its diagonal is not zero. The inverse and B share `num_items`^2 numbers of 4 bytes.

    Args:
        sequences: item rows, oldest first, one row a user.
        new: `[events]` bool: which events of the sequences are to be predicted, from what came before them.
        num_items: size of the catalogue.
        decay: within (0, 1]; score histories with the same.
        l2: greater than 0.
        content: F `[num_items, features]`: F F' is added to X'X and to X'Y, as if each column of F were a history that
            predicts itself, so that what is alike follows one another.
        back: how much a step also counts the other way round: back * Y'X is added to X'Y.
        window: items of a history that are read, the newest.
    """
    if l2 <= 0:
        raise ValueError(f"Expected l2 > 0 (without it X'X may have no inverse), got {l2}.")
    gram = np.zeros((num_items, num_items), np.float32, order="F")
    forth = sp.csr_matrix((num_items, num_items), dtype=np.float32)
    events = np.flatnonzero(new & (_places(sequences) > 0))
    for some in in_chunks(events, _HISTORIES):
        history = history_matrix(_before(sequences, some, window), num_items=num_items, decay=decay)
        entries = (np.ones(len(some), np.float32), (np.arange(len(some)), sequences.values[some]))
        gram += _gram(history, None, np.float32)
        forth += history.T @ sp.csr_matrix(entries, shape=history.shape)
    alike = None if content is None else content.astype(np.float32, copy=False)
    if alike is not None:
        gram += alike @ alike.T
    gram[np.diag_indices_from(gram)] += l2
    weights, answers = _inverse(gram), (forth + back * forth.T).tocsc()
    for start in range(0, num_items, _ROWS):  # a row of B needs no other row of the inverse
        row = weights[start : start + _ROWS]
        about_content = 0.0 if alike is None else (row @ alike) @ alike.T
        weights[start : start + _ROWS] = row @ answers + about_content
    return weights


def spectral_vectors(matrix: sp.csr_matrix, *, dim: int, shrink: float = 5.0) -> np.ndarray:
    """Returns `[num_items, dim]` float32 of length 1, in which items that the same users had are near (PureSVD).

    The right singular vectors of D^-1/2 X (D' + shrink)^-1/2 by their singular values (Cremonesi et al. 2010, on the
    normalised matrix), D and D' being users' and items' sums. Items that nobody had are zeros, as are dimensions that
    the data do not fill.

    Args:
        matrix: `[users, num_items]` interactions, not negative.
        dim: width.
        shrink: lowers what rests on few users.
    """
    users, items = (np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0))
    known = np.flatnonzero(users)
    scaled = sp.diags(users[known] ** -0.5) @ matrix[known] @ sp.diags((items + shrink) ** -0.5)
    most = min(dim, min(scaled.shape) - 1)
    vectors = np.zeros((matrix.shape[1], dim), np.float32)
    if most > 0:
        start = np.ones(min(scaled.shape), np.float32)
        _, values, found = scipy.sparse.linalg.svds(scaled.astype(np.float32), k=most, tol=1e-2, v0=start)
        vectors[:, :most] = (found * values[:, np.newaxis])[::-1].T
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where((lengths > 0) & (items > 0)[:, np.newaxis], vectors / np.maximum(lengths, 1e-12), 0.0)


_HISTORIES = 200_000  # that are regressed on at once


def _places(rows: Ragged) -> np.ndarray:
    """Returns `[total]`: where in its row each value stands, from 0."""
    return np.arange(len(rows.values)) - np.repeat(rows.offsets[:-1], rows.lengths)


def _before(rows: Ragged, at: np.ndarray, window: int) -> Ragged:
    """Returns the up to `window` values that stand before each of the given values in its row."""
    lengths = np.minimum(_places(rows)[at], window)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Ragged(rows.values[np.repeat(at - lengths, lengths) + within], offsets)


def top_neighbours(weights: Union[np.ndarray, sp.csr_matrix], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each row's k largest weights by absolute value, as a serving graph gathers them.

    Args:
        weights: `[num_items, num_items]` of `ease` or `item_knn`.
        k: how many to keep; of all choices of k a row, the largest change the scores least.

    Returns:
        `[num_items, k]` int32 item rows, largest first, `NO_ITEM` where a row has fewer than k weights, and
        `[num_items, k]` float32 weights, signed, 0 at the padding.
    """
    if k < 1:
        raise ValueError(f"Expected k of at least 1, got {k}.")
    rows = np.full((weights.shape[0], k), NO_ITEM, np.int32)
    values = np.zeros((weights.shape[0], k), np.float32)
    for start in range(0, weights.shape[0], _ROWS):
        block = weights[start : start + _ROWS]
        found, kept = _largest(block if isinstance(block, np.ndarray) else block.toarray(), k)
        rows[start : start + _ROWS, : found.shape[1]] = np.where(kept != 0, found, NO_ITEM)
        values[start : start + _ROWS, : found.shape[1]] = kept
    return rows, values


def _largest(block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[rows, min(k, n)]` columns and values of the largest by absolute value, largest first."""
    k = min(k, block.shape[1])
    size = -np.abs(block)
    columns = np.argpartition(size, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(size, columns, axis=1), axis=1, kind="stable")
    columns = np.take_along_axis(columns, order, axis=1)
    return columns, np.take_along_axis(block, columns, axis=1)


def _sparse_rows(columns: np.ndarray, values: np.ndarray, width: int) -> sp.csr_matrix:
    rows = np.repeat(np.arange(len(columns)), columns.shape[1])
    kept = values.ravel() != 0
    entries = values.ravel()[kept].astype(np.float32), (rows[kept], columns.ravel()[kept])
    return sp.csr_matrix(entries, shape=(len(columns), width))


def _gram(matrix: sp.csr_matrix, user_weights: Optional[np.ndarray], dtype: type) -> np.ndarray:
    """Returns X' diag(weights) X, dense, column-major; by blocks, for the sparse product takes thrice the memory."""
    columns = matrix.tocsc()
    weighted = columns if user_weights is None else sp.diags(user_weights.astype(dtype)) @ columns
    gram: np.ndarray = np.empty((matrix.shape[1],) * 2, dtype=dtype, order="F")
    for start in range(0, matrix.shape[1], _ROWS):
        gram[:, start : start + _ROWS] = (columns.T @ weighted[:, start : start + _ROWS]).toarray()
    return gram


def _inverse(gram: np.ndarray) -> np.ndarray:
    """Returns the inverse of a positive definite matrix, in its own memory, by Cholesky (LAPACK potrf and potri)."""
    potrf, potri = scipy.linalg.get_lapack_funcs(("potrf", "potri"), (gram,))
    factor, failed = potrf(gram, lower=True, overwrite_a=True, clean=False)
    if failed == 0:
        inverse, failed = potri(factor, lower=True, overwrite_c=True)
    if failed:
        raise ValueError(f"Expected a positive definite X'X + l2 I, LAPACK failed at row {failed}; raise l2.")
    for start in range(0, len(inverse), _ROWS):  # potri fills the lower triangle only
        stop = start + _ROWS
        inverse[:start, start:stop] = inverse[start:stop, :start].T
        corner = inverse[start:stop, start:stop]
        inverse[start:stop, start:stop] = np.tril(corner) + np.tril(corner, -1).T
    return inverse.T  # the same numbers, row-major
