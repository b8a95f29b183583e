"""The exported SavedModel and the baselines x the test queries -> results with intervals and slices.

Every system is reduced to the same thing, ranked lists of 100 items, and measured by the same code. A shopper with
several queries counts once: the mean over the shopper's queries is one observation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that the exported text encoder needs)

from tfmm import closed_form, confidence, metrics, relevance, schema
from tfmm.candidates import Wire, dense_wire
from tfmm.progress import track
from tfmm.ragged import Ragged
from tfmm.retrieval import Retriever, score_queries
from tfmm.sources.dataset import Interactions
from tfmm.splits import Queries, first_occurrences

LIST_SIZE = 100
KS = (1, 5, 10, 20, 50)
METRICS = ("ndcg", "recall", "hit_rate", "mrr", "map", "precision")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is measured.

    Attributes:
        ablations: "none", "hide" (take each modality from every item at test time) or "retrain" (also train towers
            on the id alone and on each modality alone; as long again as training, several times over).
        gallery: shoppers in the report's gallery.
        batch_size: queries sent at a time.
        fields: one or two categorical fields, "type,colour", by which what search finds is judged; by default the first
            two.
        tail_share: the least popular items that together have this share of the training events are the tail.
    """

    ablations: str = "hide"
    gallery: int = 8
    batch_size: int = 64
    fields: str = ""
    tail_share: float = 0.2

    def __post_init__(self) -> None:
        if self.ablations not in ("none", "hide", "retrain"):
            raise ValueError(f"Expected evaluation.ablations to be none, hide or retrain, got {self.ablations!r}.")


@dataclasses.dataclass(frozen=True)
class Lists:
    """What a system recommends.

    Attributes:
        rows: `[queries, LIST_SIZE]` item rows, best first, -1 = padding.
        scores: `[queries, LIST_SIZE]`, descending.
    """

    rows: np.ndarray
    scores: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Lists]) -> Lists:
        """Returns the lists of all parts, in order."""
        return cls(np.concatenate([part.rows for part in parts]), np.concatenate([part.scores for part in parts]))


Weights = Union[np.ndarray, "closed_form.sp.csr_matrix"]
"""Item-item, `[num_items, num_items]`."""

Results = dict[str, np.ndarray]
"""Metric name -> one value a query, NaN where the query does not count."""


def lists_of_scores(scores: np.ndarray, excluded: Ragged) -> Lists:
    """Returns the best items of dense scores `[queries, num_items]`; those in `excluded` never."""
    scores = np.array(scores, dtype=np.float32)
    scores[excluded.row_numbers, excluded.values] = -np.inf
    size = min(LIST_SIZE, scores.shape[1])
    rows = np.argpartition(-scores, size - 1, axis=1)[:, :size]
    found = np.take_along_axis(scores, rows, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    rows, found = np.take_along_axis(rows, order, axis=1), np.take_along_axis(found, order, axis=1)
    return _padded(np.where(np.isfinite(found), rows, -1), np.where(np.isfinite(found), found, _WORST))


_WORST = np.finfo(np.float32).min


def recommend(
    scores: Callable[[Queries], np.ndarray],
    queries: Queries,
    launched: Optional[np.ndarray] = None,
    *,
    batch_size: int = 512,
) -> Lists:
    """Returns the best items; never what is in the history, or was not launched when the query was asked.

    Args:
        scores: queries -> `[queries, num_items]`.
        queries: what is asked.
        launched: `[num_items]` int64 seconds, 0 = unknown; None = all unknown.
        batch_size: queries scored at once.
    """
    parts = []
    for start in range(0, len(queries), batch_size):
        some = queries.take(np.arange(start, min(start + batch_size, len(queries))))
        found = scores(some)
        if launched is not None:
            found = np.where(some.before_launch(launched), -np.inf, found)
        parts.append(lists_of_scores(found, some.history))
    return Lists.joined(parts)


def _padded(rows: np.ndarray, scores: np.ndarray) -> Lists:
    """Returns lists of `LIST_SIZE`: a small catalogue, or few candidates, leave them shorter."""
    missing = [(0, 0), (0, LIST_SIZE - rows.shape[1])]
    return Lists(np.pad(rows, missing, constant_values=-1), np.pad(scores, missing, constant_values=_WORST))


@functools.lru_cache(maxsize=1)
def _loaded(version: Path) -> Any:
    """Returns the SavedModel; a version never changes once it is there, and loading takes seconds."""
    return tf.saved_model.load(str(version))


def ask(version: Path, inputs: Mapping[str, np.ndarray], *, signature: str) -> dict[str, np.ndarray]:
    """Returns output name -> array, as a signature of the SavedModel answers."""
    answer = _loaded(version).signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in answer.items()}


def exported_lists(version: Path, wire: Wire, ids: np.ndarray, *, signature: str, batch_size: int) -> Lists:
    """Returns what a signature of the SavedModel answers to each query.

    Args:
        version: directory of one exported version.
        wire: of `candidates.wire_queries`.
        ids: `[num_items]` item ids.
        signature: "recommend" or "retrieve".
        batch_size: queries a call.
    """
    row_of = {str(item): row for row, item in enumerate(ids)}
    row_of[""] = -1
    count = len(wire[schema.QUERY_TIME])
    rows, scores = [], []
    for start in track(range(0, count, batch_size), f"asking the export: {signature}"):
        answer = ask(version, dense_wire(wire, slice(start, start + batch_size)), signature=signature)
        names = answer[schema.ITEM_IDS].astype(str)
        rows.append(np.vectorize(row_of.__getitem__, otypes=[np.int64])(names)[:, :LIST_SIZE])
        scores.append(answer[schema.SCORES][:, :LIST_SIZE])
    return _padded(np.concatenate(rows), np.concatenate(scores))


def measure(lists: Lists, targets: Ragged) -> Results:
    """Returns `ndcg@1` .. `precision@50`, one value a query; ties are broken against us."""
    found = relevance.relevance_of_lists(lists.rows, targets, scores=lists.scores)
    return metrics.per_query(found, targets.lengths, ks=KS)


def per_user(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Returns one value a user with any that counts: the mean over the user's queries."""
    counted = ~np.isnan(values)
    sums = np.bincount(users[counted], weights=values[counted])
    numbers = np.bincount(users[counted])
    return sums[numbers > 0] / numbers[numbers > 0]


@dataclasses.dataclass(frozen=True)
class Slices:
    """Parts of the test that a mean hides.

    Attributes:
        items: name -> `[num_items]` bool: queries are asked for these targets only.
        queries: name -> `[num_queries]` bool.
    """

    items: Mapping[str, np.ndarray]
    queries: Mapping[str, np.ndarray]


def slices(queries: Queries, events: Interactions, *, num_items: int, tail_share: float) -> Slices:
    """Returns warm, cold and tail items, and shoppers by how much they had done.

    Args:
        queries: the test.
        events: before the validation period.
        num_items: size of the catalogue.
        tail_share: see `EvaluationConfig`.
    """
    count = np.bincount(events.item, minlength=num_items)
    order = np.argsort(count, kind="stable")
    rare = np.zeros(num_items, dtype=bool)
    rare[order[np.cumsum(count[order]) <= tail_share * count.sum()]] = True
    length = queries.history.lengths
    low, high = np.quantile(length, [1 / 3, 2 / 3]).astype(int)
    return Slices(
        items={"warm items": count > 0, "cold items": count == 0, "tail items": rare & (count > 0)},
        queries={
            f"up to {low} events": length <= low,
            f"{low + 1} to {high} events": (length > low) & (length <= high),
            f"over {high} events": length > high,
        },
    )


def summary(
    lists: Lists, queries: Queries, parts: Slices, *, vectors: Optional[np.ndarray], popularity: np.ndarray
) -> dict:
    """Returns a system's entry of `report.json`: metrics and slices, with intervals.

    Args:
        lists: what the system recommends.
        queries: the test.
        parts: of `slices`.
        vectors: `[num_items, dim]`, in which lists are diverse or not; where None, diversity is left out.
        popularity: `[num_items]` training events, by which lists are novel or not.
    """
    results = measure(lists, queries.targets)
    shown = {name: values for name, values in results.items() if name.split("@")[0] in METRICS}
    num_items = len(popularity)
    if vectors is not None:
        shown["diversity@10"] = metrics.diversity(lists.rows, vectors, k=10)
    shown["novelty@10"] = metrics.novelty(lists.rows, popularity, k=10)
    ordered, found = relevance.pessimistic_lists(lists.rows, queries.targets, scores=lists.scores)
    shown["serendipity@10"] = metrics.serendipity(ordered, found, queries.targets.lengths, popularity, k=10)
    entry = {name: interval(values, queries.user) for name, values in shown.items()}
    entry["coverage@10"] = _exact(metrics.coverage(lists.rows, num_items=num_items, k=10), len(queries))
    entry["gini@10"] = _exact(metrics.gini(lists.rows, num_items=num_items, k=10), len(queries))
    return {"metrics": entry, "slices": _sliced(lists, queries, parts, results)}


def _sliced(lists: Lists, queries: Queries, parts: Slices, results: Results) -> dict:
    entries = {}
    for name, kept in parts.queries.items():
        values = {m: interval(results[m][kept], queries.user[kept]) for m in ("ndcg@10", "recall@10")}
        entries[name] = values
    for name, kept in parts.items.items():
        found = measure(lists, queries.targets.where(kept[queries.targets.values]))
        entries[name] = {m: interval(found[m], queries.user) for m in ("ndcg@10", "recall@10")}
    return {name: entry for name, entry in entries.items() if entry["ndcg@10"]["n"]}


def interval(values: np.ndarray, users: np.ndarray) -> dict:
    """Returns a metric as `report.json` holds it: mean over users, 95% interval, number of users."""
    observed = per_user(values, users)
    if not len(observed):
        return {"mean": 0.0, "ci95": [0.0, 0.0], "n": 0}
    return confidence.mean_interval(observed).to_dict()


def _exact(value: float, count: int) -> dict:
    return {"mean": float(value), "ci95": [float(value), float(value)], "n": count}


def compare(ours: Lists, theirs: Lists, queries: Queries, *, names: tuple[str, str], metric: str = "ndcg@10") -> dict:
    """Returns the paired difference of two systems on the same queries, as `report.json` holds it."""
    pair = [per_user(measure(lists, queries.targets)[metric], queries.user) for lists in (ours, theirs)]
    return confidence.paired_difference(*pair).to_dict(names=names, metric=metric)


# --- Baselines -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A closed form with the settings that validation chose.

    Attributes:
        name: in the report.
        settings: chosen.
        static: `[num_items]` scores that are the same for everybody, or None.
        weights: item-item weights, or None.
        decay: of the history.
        validation: NDCG@10 there, once it has been chosen.
        launched: `[num_items]` int64 seconds, 0 = unknown: before it, an item is not recommended. None = all unknown.
    """

    name: str
    settings: Mapping[str, object]
    static: Optional[np.ndarray] = None
    weights: Optional[Weights] = None
    decay: float = 1.0
    validation: float = float("nan")
    launched: Optional[np.ndarray] = None

    def lists(self, queries: Queries, *, batch_size: int = 512) -> Lists:
        """Returns what it recommends."""
        return recommend(self.scores, queries, self.launched, batch_size=batch_size)

    def scores(self, queries: Queries) -> np.ndarray:
        """Returns `[queries, num_items]`."""
        if self.static is not None:
            return np.tile(self.static, (len(queries), 1))
        if self.weights is None:
            raise ValueError(f"Expected item-item weights of {self.name}, got none.")
        num_items = self.weights.shape[0]
        history = closed_form.history_matrix(queries.history, num_items=num_items, decay=self.decay)
        return closed_form.score(history, self.weights)


def mean_ndcg(lists: Lists, queries: Queries, *, k: int = 10) -> float:
    """Returns the mean over users of NDCG@k."""
    return float(np.mean(per_user(measure(lists, queries.targets)[f"ndcg@{k}"], queries.user)))


def fit_baselines(
    events: Interactions,
    validation: Queries,
    *,
    num_users: int,
    num_items: int,
    content: Optional[np.ndarray] = None,
    launched: Optional[np.ndarray] = None,
) -> dict[str, Baseline]:
    """Returns each baseline at the settings that are best on validation NDCG@10.

    Args:
        events: before the validation period: what the served retriever trains on.
        validation: chooses.
        num_users: of the dataset.
        num_items: of the catalogue.
        content: `[num_items, features]`, of `ItemFeatures.content_rows`: what items are like; None = not known.
        launched: see `Baseline`.
    """
    choices = baseline_choices(events, num_users=num_users, num_items=num_items, content=content, launched=launched)
    return {name: best_choice(choices[name], validation) for name in track(choices, "fitting baselines")}


def best_choice(choices: Iterable[Baseline], validation: Queries) -> Baseline:
    """Returns the one with the highest NDCG@10 on validation, on a sample where there are very many queries."""
    some = validation.sample()
    known = (dataclasses.replace(one, validation=mean_ndcg(one.lists(some), some)) for one in choices)
    return max(known, key=lambda baseline: baseline.validation)


def baseline_choices(
    events: Interactions,
    *,
    num_users: int,
    num_items: int,
    content: Optional[np.ndarray] = None,
    launched: Optional[np.ndarray] = None,
) -> dict[str, Iterator[Baseline]]:
    """Returns name -> one baseline a setting to choose from, each fitted when it is asked for; see `fit_baselines`."""
    matrix = closed_form.interaction_matrix(events.user, events.item, num_users=num_users, num_items=num_items)
    found = {
        "popularity": _popular(events, num_items),
        "recent_popularity": _recent(events, int(events.time.max()), num_items),
        "item_knn": _neighbours(matrix),
        "ease": _ease(matrix),
        "transitions": _transitions(events, num_items, content),
    }
    return {name: (dataclasses.replace(one, launched=launched) for one in choices) for name, choices in found.items()}


def _popular(events: Interactions, num_items: int) -> Iterator[Baseline]:
    yield Baseline("popularity", {}, static=closed_form.popularity(events.item, num_items=num_items))


def _recent(events: Interactions, now: int, num_items: int) -> Iterator[Baseline]:
    for days in (7.0, 30.0, 120.0):
        static = closed_form.recent_popularity(
            events.item, events.time, now=now, half_life_days=days, num_items=num_items
        )
        yield Baseline("recent_popularity", {"half_life_days": days}, static=static)


_DECAYS = (1.0, 0.95, 0.9, 0.8, 0.6)
_NEIGHBOURS = 200


def _neighbours(matrix: object) -> Iterator[Baseline]:
    for shrink in (10.0, 100.0):
        weights = closed_form.item_knn(matrix, neighbours=_NEIGHBOURS, shrink=shrink)
        for decay in _DECAYS:
            yield Baseline(
                "item_knn", {"neighbours": _NEIGHBOURS, "shrink": shrink, "decay": decay}, None, weights, decay
            )


def _ease(matrix: closed_form.sp.csr_matrix) -> Iterator[Baseline]:
    for l2 in (100.0, 500.0):
        weights = ease(matrix, l2=l2)
        for decay in _DECAYS:
            yield Baseline("ease", {"l2": l2, "decay": decay}, None, weights, decay)


def _transitions(events: Interactions, num_items: int, content: Optional[np.ndarray]) -> Iterator[Baseline]:
    for weight in (0.0, 3.0) if content is not None and content.shape[1] else (0.0,):
        for decay in _TRANSITION_DECAYS:
            settings = {"l2": 100.0, "content": weight, "decay": decay, "back": 0.3}
            yield Baseline("transitions", settings, None, transitions(events, num_items, content, settings), decay)


_TRANSITION_DECAYS = (0.95, 0.8)


DENSE_UP_TO = 20_000
"""Items between all of which a closed form has weights (1.6 GB); of a larger catalogue those that most shoppers had."""


def ease(matrix: closed_form.sp.csr_matrix, *, l2: float) -> Weights:
    """Returns `closed_form.ease` of `[num_users, num_items]`."""
    chosen = _most_had(np.diff(matrix.tocsc().indptr))
    return _spread(closed_form.ease(matrix[:, chosen], l2=l2, dtype=np.float32), chosen, matrix.shape[1])


def transitions(
    events: Interactions, num_items: int, content: Optional[np.ndarray], settings: Mapping[str, float]
) -> Weights:
    """Returns `closed_form.transitions` of the events, at settings of the baseline of that name."""
    new = first_occurrences(events)
    chosen = _most_had(np.bincount(events.item[new], minlength=num_items))
    place = np.full(num_items, -1)
    place[chosen] = np.arange(len(chosen))
    kept = place[events.item] >= 0
    users, items = events.user[kept], place[events.item[kept]]
    weight, rows = settings["content"], None if content is None else content[chosen]
    weights = closed_form.transitions(
        Ragged.from_groups(users, items, int(users.max(initial=-1)) + 1),
        new[kept],
        num_items=len(chosen),
        decay=settings["decay"],
        l2=settings["l2"],
        content=np.sqrt(weight) * rows if rows is not None and weight else None,
        back=settings["back"],
    )
    return _spread(weights, chosen, num_items)


def _most_had(counts: np.ndarray) -> np.ndarray:
    """Returns the rows of all items, or where those are too many, of those that most shoppers had, in order."""
    if len(counts) <= DENSE_UP_TO:
        return np.arange(len(counts))
    most = np.argsort(-counts, kind="stable")[:DENSE_UP_TO]
    return np.sort(most[counts[most] > 0])


def _spread(weights: np.ndarray, chosen: np.ndarray, num_items: int) -> Weights:
    """Returns weights between chosen items as weights between all; sparse, each one's largest, where some are left."""
    if len(chosen) == num_items:
        return weights
    columns, values = closed_form.top_neighbours(weights, _NEIGHBOURS)
    row, column = np.nonzero(values)
    entries = (values[row, column], (chosen[row], chosen[columns[row, column]]))
    return closed_form.sp.csr_matrix(entries, shape=(num_items, num_items))


# --- Ablations and the attainable ------------------------------------------------------------------------------------


def hidden_modalities(retriever: Retriever, queries: Queries, context: Ragged) -> dict[str, Lists]:
    """Returns what retrieval alone recommends, whole and with each modality taken from every item."""
    options: dict[str, tuple[str, ...]] = {"all modalities": ()}
    options.update({f"without {name}": (name,) for name in retriever.towers.candidate.modalities})
    return {name: retrieval_lists(retriever, queries, context, hidden=hidden) for name, hidden in options.items()}


SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def robustness(
    retriever: Retriever, queries: Queries, context: Ragged, *, seed: int = 0
) -> Iterator[tuple[str, float, Lists]]:
    """Yields modality, share of the items that lack it, and what retrieval alone then recommends.

    The items are drawn at random; those of a smaller share are among those of a larger one.
    """
    order = np.random.default_rng(seed).permutation(retriever.num_items)
    for name in retriever.towers.candidate.modalities:
        for share in SHARES:
            of = order < round(share * len(order))
            yield name, share, retrieval_lists(retriever, queries, context, hidden=(name,), of=of)


def retrieval_lists(
    retriever: Retriever,
    queries: Queries,
    context: Ragged,
    *,
    hidden: tuple[str, ...] = (),
    of: Optional[np.ndarray] = None,
) -> Lists:
    """Returns what the towers in memory recommend."""
    parts = [
        lists_of_scores(scores, chunk.history)
        for chunk, scores in score_queries(retriever, queries, context, hidden=hidden, of=of)
    ]
    return Lists.joined(parts)


def attainable_lists(queries: Queries, true_utility: np.ndarray, launched: np.ndarray) -> Lists:
    """Returns what an oracle that knows every shopper's true utility would recommend of what is launched."""
    return recommend(lambda some: true_utility[some.user].astype(np.float32), queries, launched)
