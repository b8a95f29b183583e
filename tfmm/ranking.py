"""The stages of a run on judged lists (source `letor`): records -> scorers and trees -> one ranker -> report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from tfmm import confidence, evaluation, metrics, pipelines, records, reranking, schema, trees
from tfmm.config import Config
from tfmm.progress import track
from tfmm.ragged import Ragged
from tfmm.ranker import LISTWISE, MIXTURE, TREES, ListNumbers, Ranker
from tfmm.records import ExampleLists
from tfmm.reranking import ListwiseScorer
from tfmm.sources.letor import JudgedLists, JudgedParts
from tfmm.trees import Forest, Part, Trees

_log = logging.getLogger(__name__)

BEST_FEATURE = "best_feature"
CUTS = (1, 3, 5, 10)
ANSWERABLE = "queries with a relevant document"
_TREES_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
_READ_AT_ONCE = 64
_LENGTHS = (11, 21, 41, 81, 161, 321)  # lists of like length share a batch: less padding

Values = dict[str, np.ndarray]
"""Metric name -> one value a query."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What was trained, and how.

    Attributes:
        ranker: to be exported.
        forest: beside it, or None.
        curves: one a member.
    """

    ranker: Ranker
    forest: Optional[Forest]
    curves: Mapping[str, dict[str, list[float]]]


def write(parts: JudgedParts, directory: Path) -> None:
    """Leaves the lists as TFRecords of ExampleListWithContext in `directory`; what stands there is used again."""
    for name in ("train", "validation"):
        try:
            records.read_manifest(directory, name, kind="example lists")
        except FileNotFoundError:
            records.write_example_lists(example_lists(parts.parts()[name]), directory, name)


def example_lists(lists: JudgedLists, *, labels: Optional[np.ndarray] = None) -> ExampleLists:
    """Returns the lists as records hold them; `labels` may stand in the place of what was judged."""
    return ExampleLists(
        items=lists.documents,
        labels=lists.labels if labels is None else labels,
        features=lists.features,
        weights=lists.weights,
    )


def read(directory: Path, name: str, numbers: ListNumbers, *, batch_size: int, shuffle: bool, seed: int) -> tf.data.Dataset:
    """Returns batches of (what a scorer reads, labels `[batch, list_size]`), and weights alike where there are any.

    What a scorer reads is computed once and kept in memory; batches are drawn anew in every epoch.
    """
    columns, lengths = _columns(directory, name, numbers)
    ends = np.cumsum(lengths)
    spans = tf.data.Dataset.from_tensor_slices((ends - lengths, ends))
    spans = spans.shuffle(len(lengths), seed=seed, reshuffle_each_iteration=True) if shuffle else spans
    batches = spans.map(lambda start, end: {name: column[start:end] for name, column in columns.items()})
    batches = batches.bucket_by_sequence_length(
        lambda row: tf.shape(row[schema.LABEL])[0],
        bucket_boundaries=list(_LENGTHS),
        bucket_batch_sizes=[batch_size] * (len(_LENGTHS) + 1),
        padding_values={name: pipelines.PADDED_LABEL if name == schema.LABEL else 0.0 for name in columns},
    )

    def parted(row: dict[str, tf.Tensor]) -> tuple[Any, ...]:
        labels = row[schema.LABEL]
        inputs = {"example": row[records.FEATURES], "mask": labels >= 0}
        return (inputs, labels, row[records.WEIGHT]) if records.WEIGHT in row else (inputs, labels)

    return batches.map(parted).prefetch(2)


def _columns(directory: Path, name: str, numbers: ListNumbers) -> tuple[dict[str, tf.Tensor], np.ndarray]:
    """Returns column -> `[total documents, ...]` of all lists in order, and the lists' lengths."""
    parts: dict[str, list[np.ndarray]] = {}
    lengths = []
    lists = pipelines.example_list_batches(directory, name, batch_size=_READ_AT_ONCE, list_size=None, shuffle=False, seed=0)
    for features, labels in lists:
        mask = features[pipelines.MASK]
        read = {records.FEATURES: numbers(features[records.FEATURES], mask), schema.LABEL: labels}
        if records.WEIGHT in features:
            read[records.WEIGHT] = features[records.WEIGHT]
        for column, values in read.items():
            parts.setdefault(column, []).append(values.numpy()[mask.numpy()])
        lengths.append(mask.numpy().sum(axis=1))
    return {column: tf.constant(np.concatenate(values)) for column, values in parts.items()}, np.concatenate(lengths)


def fit(config: Config, parts: JudgedParts, where: Path, *, directory: Path) -> Fitted:
    """Returns the ranker: scorers of several seeds and losses, and trees where they are wanted and can be had.

    Args:
        config: `letor` and `reranking` say how.
        parts: validation chooses each scorer's epoch, the trees' settings, and how much the trees count.
        where: of the records.
        directory: of the run: checkpoints and logs go there.
    """
    numbers = ListNumbers(parts.train.features)
    members, curves = [], {}
    for number in range(config.letor.members):
        loss = config.letor.loss_names[number % len(config.letor.loss_names)]
        name = f"scorer {number + 1}: {loss}"
        place = f"scorer_{number + 1}"
        members.append(ListwiseScorer(dataclasses.replace(config.reranking, loss=loss), terms=0))
        curves[name] = _fit_member(config, members[-1], loss, numbers, where, directory, place, config.seed + number)
    forest = _grow(config, parts)
    ranker = Ranker(numbers, members, trees=None if forest is None else Trees(forest))
    if forest is not None:
        _choose_trees_weight(ranker, parts.validation)
    return Fitted(ranker, forest, curves)


def _fit_member(
    config: Config,
    scorer: ListwiseScorer,
    loss: str,
    numbers: ListNumbers,
    where: Path,
    directory: Path,
    place: str,
    seed: int,
) -> dict[str, list[float]]:
    tf.keras.utils.set_random_seed(seed)
    size = config.reranking.batch_size
    return reranking.fit(
        scorer,
        dataclasses.replace(config.reranking, loss=loss),
        train=read(where, "train", numbers, batch_size=size, shuffle=True, seed=seed),
        validation=read(where, "validation", numbers, batch_size=256, shuffle=False, seed=seed),
        directory=directory / "checkpoints" / place,
        logs=directory / "tensorboard" / place,
    )


def _grow(config: Config, parts: JudgedParts) -> Optional[Forest]:
    if config.letor.trees == "none":
        return None
    if config.letor.trees == "auto" and not trees.available():
        _log.info("LightGBM is not installed: there is neither its row nor the mixture (pip install 'tfmm[bench]').")
        return None
    return grow(parts, seed=config.seed)


def grow(parts: JudgedParts, *, seed: int) -> Forest:
    """Returns LightGBM's lambdarank, tuned on validation by NDCG@10 as it is reported here."""
    train, validation = (Part(one.features, one.labels, one.documents.lengths) for one in (parts.train, parts.validation))

    def quality(scores: np.ndarray) -> float:
        return mean_ndcg(parts.validation, scores)

    return trees.fit(train, validation, quality=quality, seed=seed)


def _choose_trees_weight(ranker: Ranker, validation: JudgedLists) -> None:
    """Sets how much the trees count beside the members: what validation likes best, by NDCG@10."""
    found = {part: in_memory(ranker, validation, part=part) for part in (LISTWISE, TREES)}
    quality = {
        weight: mean_ndcg(validation, found[LISTWISE] + weight * found[TREES]) for weight in _TREES_WEIGHTS
    }
    best = max(quality, key=lambda weight: quality[weight])
    ranker.trees_weight.assign(best)
    _log.info("the trees count %.2f beside the scorers: validation ndcg@10 %.4f", best, quality[best])


def in_memory(ranker: Ranker, lists: JudgedLists, *, part: str = LISTWISE) -> np.ndarray:
    """Returns `[total documents]` scores by the ranker that stands in memory."""
    score = {LISTWISE: ranker.listwise, TREES: ranker.by_trees, MIXTURE: ranker.mixture}[part]
    scores = []
    for rows in np.array_split(np.arange(len(lists)), max(1, -(-len(lists) // _READ_AT_ONCE))):
        some = lists.take(rows)
        places = Ragged(np.arange(len(some.labels)), some.documents.offsets).to_dense()
        mask = places >= 0
        dense = np.where(mask[..., np.newaxis], some.features[places], 0.0).astype(np.float32)
        scores.append(score(tf.constant(dense), tf.constant(mask)).numpy()[mask])
    return np.concatenate(scores)


def exported_scores(version: Path, lists: JudgedLists, *, signature: str) -> np.ndarray:
    """Returns `[total documents]` scores as a signature of the SavedModel answers; it is not told the labels."""
    blank = dataclasses.replace(lists, weights=None)
    messages = np.array(list(records.serialise_lists(example_lists(blank, labels=np.zeros_like(lists.labels)))), object)
    scores = []
    for start in track(range(0, len(messages), _READ_AT_ONCE), f"asking the export: {signature}"):
        asked = {"examples": messages[start : start + _READ_AT_ONCE]}
        answer = evaluation.ask(version, asked, signature=signature)[schema.SCORES]
        lengths = lists.documents.lengths[start : start + _READ_AT_ONCE]
        scores.append(answer[np.arange(answer.shape[1]) < lengths[:, np.newaxis]])
    return np.concatenate(scores)


def best_feature(validation: JudgedLists) -> tuple[int, int]:
    """Returns the number (1-based) of the feature that orders validation best alone, and 1 or -1: largest first or last."""
    choices = [(number, sign) for number in range(1, validation.features.shape[1] + 1) for sign in (1, -1)]
    return max(choices, key=lambda choice: mean_ndcg(validation, feature_scores(validation, *choice)))


def feature_scores(lists: JudgedLists, number: int, sign: int) -> np.ndarray:
    """Returns `[total documents]`: one feature; what is missing stands last."""
    column = sign * lists.features[:, number - 1]
    return np.where(np.isnan(column), np.finfo(np.float32).min, column)


def measure(lists: JudgedLists, scores: np.ndarray) -> Values:
    """Returns `ndcg@1` .. `ndcg@10`, `mrr@10` and `map@10`, one value a query; NaN where nothing is relevant.

    Of equal scores the less relevant comes first. NDCG's gains are 2^label - 1, its discounts 1 / log2(1 + place);
    mrr and map take labels of 1 or more for relevant.
    """
    order = np.lexsort((lists.labels, -scores, lists.documents.row_numbers))
    ranked = Ragged(lists.labels[order], lists.documents.offsets).to_dense(fill=0.0)
    ranked = np.pad(ranked, [(0, 0), (0, max(0, max(CUTS) - ranked.shape[1]))])
    relevant = ranked >= 1
    number = relevant.sum(axis=1)
    found = {f"ndcg@{k}": metrics.graded_ndcg(ranked, k=k) for k in CUTS}
    found["mrr@10"] = metrics.mrr(relevant, number, k=10)
    found["map@10"] = metrics.average_precision(relevant, number, k=10)
    return found


def with_zeros(values: Values) -> Values:
    """Returns the values with 0 for queries without a relevant document, as TF-Ranking counts them."""
    return {name: np.nan_to_num(column) for name, column in values.items()}


def mean_ndcg(lists: JudgedLists, scores: np.ndarray, *, k: int = 10) -> float:
    """Returns the mean NDCG@k; a query without a relevant document counts 0."""
    return float(with_zeros(measure(lists, scores))[f"ndcg@{k}"].mean())


def score_all(version: Path, parts: JudgedParts, *, has_trees: bool) -> dict[str, np.ndarray]:
    """Returns model -> scores of the test's documents; all but the single feature by the exported model."""
    found = {BEST_FEATURE: feature_scores(parts.test, *best_feature(parts.validation))}
    found[LISTWISE] = exported_scores(version, parts.test, signature=f"rank_{LISTWISE}")
    if has_trees:
        found[TREES] = exported_scores(version, parts.test, signature=f"rank_{TREES}")
        found[MIXTURE] = exported_scores(version, parts.test, signature="rank")
    return {name: found[name] for name in (BEST_FEATURE, TREES, LISTWISE, MIXTURE) if name in found}


def build_report(
    config: Config,
    parts: JudgedParts,
    fitted: Fitted,
    version: Path,
    *,
    timings: Mapping[str, float],
    argv: list[str],
) -> dict[str, Any]:
    """Returns `report.json` as a value."""
    values = {
        name: measure(parts.test, scores)
        for name, scores in score_all(version, parts, has_trees=fitted.forest is not None).items()
    }
    entries = {name: _entry(found) for name, found in values.items()}
    number, sign = best_feature(parts.validation)
    entries[BEST_FEATURE]["settings"] = {"feature": number, "first": "largest" if sign > 0 else "smallest"}
    if fitted.forest is not None:
        entries[TREES]["settings"] = dict(fitted.forest.settings)
        entries[MIXTURE]["settings"] = {"trees count": float(fitted.ranker.trees_weight.numpy())}
    return {
        "schema_version": 1,
        "dataset": describe(parts),
        "protocol": protocol_of(parts),
        "models": entries,
        "comparisons": compare_all(values),
        "ablations": {},
        "by_k": {name: {"ndcg": {str(k): entry["metrics"][f"ndcg@{k}"] for k in CUTS}} for name, entry in entries.items()},
        "curves": dict(fitted.curves),
        "timings": dict(timings),
        "findings": [],
        "configuration": config.to_dict(),
        "reproduce": ["python train.py " + " ".join(argv)],
    }


def _entry(values: Values) -> dict[str, Any]:
    """Returns a model's entry of `report.json`: both conventions for queries without a relevant document."""
    statistics = (
        {name: interval.to_dict() for name, interval in confidence.mean_intervals(kind).items()}
        for kind in (with_zeros(values), values)
    )
    counted, answerable = statistics
    return {"metrics": counted, "slices": {ANSWERABLE: answerable} if answerable else {}}


def compare_all(values: Mapping[str, Values]) -> list[dict[str, Any]]:
    """Returns the paired differences of ours from every other model, at each cut-off of NDCG."""
    ours = [name for name in (MIXTURE, LISTWISE) if name in values]
    pairs = [(a, b) for place, a in enumerate(ours) for b in values if b not in ours[: place + 1]]
    return [compare(values[a], values[b], names=(a, b), metric=f"ndcg@{k}") for a, b in pairs for k in reversed(CUTS)]


def compare(ours: Values, theirs: Values, *, names: tuple[str, str], metric: str) -> dict[str, Any]:
    """Returns the paired difference of two models on the same queries, as `report.json` holds it."""
    found = confidence.paired_difference(*(np.nan_to_num(values[metric]) for values in (ours, theirs)))
    return {
        "a": names[0],
        "b": names[1],
        "metric": metric,
        "difference": found.difference,
        "ci95": [found.low, found.high],
        "p": found.p,
        "minimum_detectable_effect": found.detectable,
    }


def describe(parts: JudgedParts) -> dict[str, Any]:
    """Returns what the data is and how much of it there is."""
    counts = {name: f"{len(one)} queries, {len(one.labels)} documents" for name, one in parts.parts().items()}
    files = {f"files of {name}": ", ".join(files) for name, files in parts.files.items()}
    missing = float(np.isnan(parts.train.features).mean())
    return {
        "name": parts.name,
        "fingerprint": parts.fingerprint(),
        **counts,
        **files,
        "features": parts.num_features,
        "missing numbers": missing,
    }


def protocol_of(parts: JudgedParts) -> dict[str, Any]:
    """Returns how models are measured, in words and numbers."""
    relevant = np.bincount(parts.test.documents.row_numbers, parts.test.labels >= 1, len(parts.test))
    return {
        "queries": len(parts.test),
        "queries without a relevant document": int((relevant == 0).sum()),
        "without a relevant document": "a query counts 0 (as in TF-Ranking); the slice of queries with one leaves it out",
        "ranking": "every document of a query's list; ties are broken against us",
        "ndcg": "gain 2^label - 1, discount 1 / log2(1 + place); mrr and map: labels of 1 or more are relevant",
        "intervals": "95% percentile bootstrap over queries",
    }


def warmup_examples(parts: JudgedParts) -> np.ndarray:
    """Returns two serialised lists, as `rank` reads them."""
    some = parts.test.take(np.arange(min(2, len(parts.test))))
    return np.array(list(records.serialise_lists(example_lists(dataclasses.replace(some, weights=None)))), dtype=object)
