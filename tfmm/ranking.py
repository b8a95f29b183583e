"""The stages of a run on judged lists (source `letor`): records -> scorers and trees -> one ranker."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from tfmm import evaluation, judging, pipelines, records, reranking, schema, trees
from tfmm.config import Config
from tfmm.progress import track
from tfmm.ragged import Ragged
from tfmm.ranker import LISTWISE, MIXTURE, TREES, ListNumbers, Ranker
from tfmm.records import ExampleLists
from tfmm.reranking import ListwiseScorer, RerankingConfig
from tfmm.sources.judged import JudgedLists, JudgedParts
from tfmm.trees import Forest, Part, Trees

_log = logging.getLogger(__name__)

_TREES_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
_READ_AT_ONCE, _VALIDATED_AT_ONCE = 64, 256
_LENGTHS = (41, 81, 161, 321)  # lists of like length share a batch: less padding; few batches of few lists


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


def read(
    directory: Path, name: str, numbers: ListNumbers, *, batch_size: int, shuffle: bool, seed: int
) -> tf.data.Dataset:
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
    lists = pipelines.example_list_batches(
        directory, name, batch_size=_READ_AT_ONCE, list_size=None, shuffle=False, seed=0
    )
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
    members, curves = _fit_members(config, numbers, where, directory=directory)
    forest = _grow(config, parts)
    ranker = Ranker(numbers, members, trees=None if forest is None else Trees(forest))
    if forest is not None:
        _choose_trees_weight(ranker, parts.validation)
    return Fitted(ranker, forest, curves)


def _fit_members(
    config: Config, numbers: ListNumbers, where: Path, *, directory: Path
) -> tuple[list[ListwiseScorer], dict[str, dict[str, list[float]]]]:
    """Returns the members and their curves; one scorer a loss trains all of its members, as tracing takes longer."""
    size, members, curves = config.reranking.batch_size, [], {}
    validation = read(where, "validation", numbers, batch_size=_VALIDATED_AT_ONCE, shuffle=False, seed=0)
    train = read(where, "train", numbers, batch_size=size, shuffle=True, seed=config.seed)
    some = next(iter(validation))[0]
    trainees: dict[str, ListwiseScorer] = {}
    for number in range(config.letor.members):
        loss = config.letor.loss_names[number % len(config.letor.loss_names)]
        settings = dataclasses.replace(config.reranking, loss=loss)
        tf.keras.utils.set_random_seed(config.seed + number)
        member = _new_scorer(settings, some)
        trainee = trainees.setdefault(loss, _new_scorer(settings, some))
        for target, source in zip(trainee.trainable_variables, member.trainable_variables):
            target.assign(source)
        place = f"scorer_{number + 1}"
        curves[f"scorer {number + 1}, {loss}"] = reranking.fit(
            trainee,
            settings,
            train=train,
            validation=validation,
            directory=directory / "checkpoints" / place,
            logs=directory / "tensorboard" / place,
        )
        member.set_weights(trainee.get_weights())
        member.normalise.finalize_state()  # its mean and variance are weights, but what it reads are copies
        members.append(member)
    return members, curves


def _new_scorer(settings: RerankingConfig, features: dict[str, tf.Tensor]) -> ListwiseScorer:
    scorer = ListwiseScorer(settings, terms=0)
    scorer(features)  # makes the weights
    return scorer


def _grow(config: Config, parts: JudgedParts) -> Optional[Forest]:
    """Returns the forest where it is wanted and can be had."""
    if config.letor.trees == "none":
        return None
    whole = all((one.labels == one.labels.round()).all() for one in (parts.train, parts.validation))
    if config.letor.trees == "auto" and not (trees.available() and whole):
        why = "labels are no whole numbers" if trees.available() else "pip install 'tfmm[bench]'"
        _log.info("There is neither LightGBM's row nor the mixture: %s.", why)
        return None
    return grow(parts, seed=config.seed)


def grow(parts: JudgedParts, *, seed: int) -> Forest:
    """Returns LightGBM's lambdarank, tuned on validation by NDCG@10 as it is reported here."""
    train, validation = (
        Part(one.features, one.labels, one.documents.lengths, one.weights) for one in (parts.train, parts.validation)
    )

    def quality(scores: np.ndarray) -> float:
        return judging.mean_ndcg(parts.validation, scores)

    return trees.fit(train, validation, quality=quality, seed=seed)


def _choose_trees_weight(ranker: Ranker, validation: JudgedLists) -> None:
    """Sets how much the trees count beside the members: what validation likes best, by NDCG@10."""
    found = {part: in_memory(ranker, validation, part=part) for part in (LISTWISE, TREES)}
    quality = {
        weight: judging.mean_ndcg(validation, found[LISTWISE] + weight * found[TREES]) for weight in _TREES_WEIGHTS
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


def score_all(version: Path, parts: JudgedParts, *, has_trees: bool) -> dict[str, np.ndarray]:
    """Returns model -> scores of the test's documents; all but the single feature by the exported model."""
    found = {judging.BEST_FEATURE: judging.feature_scores(parts.test, *judging.best_feature(parts.validation))}
    found[LISTWISE] = exported_scores(version, parts.test, signature=f"rank_{LISTWISE}")
    if has_trees:
        found[TREES] = exported_scores(version, parts.test, signature=f"rank_{TREES}")
        found[MIXTURE] = exported_scores(version, parts.test, signature="rank")
    return {name: found[name] for name in (judging.BEST_FEATURE, TREES, LISTWISE, MIXTURE) if name in found}


def chosen_settings(fitted: Fitted, validation: JudgedLists) -> dict[str, dict[str, Any]]:
    """Returns model -> what validation chose."""
    number, sign = judging.best_feature(validation)
    chosen: dict[str, dict[str, Any]] = {
        judging.BEST_FEATURE: {"feature": number, "first": "largest" if sign > 0 else "smallest"}
    }
    if fitted.forest is not None:
        chosen[TREES] = dict(fitted.forest.settings)
        chosen[MIXTURE] = {"trees count": float(fitted.ranker.trees_weight.numpy())}
    return chosen


def warmup_examples(parts: JudgedParts) -> np.ndarray:
    """Returns two serialised lists, as `rank` reads them."""
    some = parts.test.take(np.arange(min(2, len(parts.test))))
    return np.array(list(records.serialise_lists(example_lists(dataclasses.replace(some, weights=None)))), dtype=object)
