"""Towers and a closed form -> candidates of both, and the scorer that orders them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfmm import (
    closed_form,
    evaluation,
    pipelines,
    records,
    reranking,
)
from tfmm.candidates import Behaviour, Candidates, behaviour, example_lists
from tfmm.config import Config
from tfmm.evaluation import Baseline
from tfmm.features import ItemFeatures
from tfmm.reranking import ListwiseScorer
from tfmm.retrieval import Retriever
from tfmm.sources.dataset import Interactions
from tfmm.splits import Queries
from tfmm.stages.opening import Shop, content_rows, matrix_of, with_events

_log = logging.getLogger(__name__)


ITEM_ITEM = ("ease", "transitions", "item_knn")
"""Closed forms that can stand beside the towers; "auto" takes the one that is best on validation."""


def baselines(config: Config, shop: Shop) -> dict[str, Baseline]:
    """Returns every baseline at the settings that validation chose."""
    return evaluation.fit_baselines(
        shop.parts.refit,
        shop.parts.validation,
        num_users=len(shop.dataset.users),
        num_items=len(shop.table),
        content=content_rows(config, shop),
        launched=shop.table.launched,
    )


class ItemItem(NamedTuple):
    """Item-item weights, and how much less each older item of a history counts."""

    weights: Any
    decay: float


def chosen_form(config: Config, baselines: Mapping[str, Baseline]) -> str:
    """Returns the closed form that stands beside the towers: the one that is wanted, or validation's choice."""
    if config.item_item != "auto":
        return config.item_item
    return max(ITEM_ITEM, key=lambda name: baselines[name].validation)


def item_item(config: Config, shop: Shop, events: Interactions, baselines: Mapping[str, Baseline]) -> ItemItem:
    """Returns item-item weights from the events, of the kind that is wanted, at the settings that validation chose."""
    count, kind = len(shop.table), chosen_form(config, baselines)
    chosen: Mapping[str, Any] = baselines[kind].settings
    if kind == "transitions":
        content = content_rows(config, shop) if chosen["content"] else None
        weights = evaluation.transitions(events, count, content, chosen)
        if isinstance(weights, np.ndarray):  # a sparse one has weights of what was had only
            had = with_events(shop, events)
            weights[~had] = weights[:, ~had] = 0  # as of products that are added later
        return ItemItem(weights, chosen["decay"])
    matrix = matrix_of(shop, events)
    if kind == "ease":
        return ItemItem(evaluation.ease(matrix, l2=chosen["l2"]), chosen["decay"])
    near = closed_form.item_knn(matrix, neighbours=config.candidates.neighbours, shrink=chosen["shrink"])
    return ItemItem(near, chosen["decay"])


def make_candidates(
    config: Config, shop: Shop, retriever: Retriever, items: ItemFeatures, events: Interactions, known: ItemItem
) -> Candidates:
    """Returns candidate generation with what `events` say of the items."""
    settings = config.candidates
    if settings.decay is None:
        settings = dataclasses.replace(settings, decay=known.decay)
    said: Behaviour = behaviour(events, shop.table.launched, item_item=known.weights, config=settings)
    dataset = shop.dataset
    ids, types = dataset.items.ids, dataset.event_types
    return Candidates(retriever, items, said, settings, ids=ids, event_types=types, index=config.index)


def train_reranker(
    config: Config, shop: Shop, candidates: Candidates, *, directory: Path
) -> tuple[ListwiseScorer, dict[str, list[float]]]:
    """Returns a scorer trained on lists of a period that the candidates' retriever has not seen, and its curves."""
    train = _lists(config, shop, candidates, shop.parts.rerank, name=_RERANK_TRAIN)
    validation = _lists(config, shop, candidates, shop.parts.validation.sample(), name="rerank_validation")
    scorer = ListwiseScorer(config.reranking)
    curves = reranking.fit(
        scorer,
        config.reranking,
        train=train,
        validation=validation,
        directory=directory / "checkpoints" / "reranker",
        logs=directory / "tensorboard" / "reranker",
    )
    return scorer, curves


_RERANK_TRAIN = "rerank_train"


_WEIGHED_ON = 1000  # validation queries, at most


def recalibrate_reranker(config: Config, shop: Shop, candidates: Candidates, scorer: ListwiseScorer) -> None:
    """Weighs the scorer's terms again for the candidates that are served, on validation."""
    chosen = np.random.default_rng(0).permutation(len(shop.parts.validation))[:_WEIGHED_ON]
    queries = shop.parts.validation.take(np.sort(chosen))
    reranking.recalibrate(scorer, _lists(config, shop, candidates, queries, name="served_validation"))


def _lists(config: Config, shop: Shop, candidates: Candidates, queries: Queries, *, name: str) -> tf.data.Dataset:
    """Returns what a scorer reads of the queries' candidates, and which are right, after the lists are written."""
    lists = example_lists(candidates, queries, shop.wire(queries), shop.dataset.items.ids)
    _log.info("%s: %d of %d lists hold a target", name, len(lists.items), len(queries))
    records.write_example_lists(lists, shop.records, name)
    batches = pipelines.example_list_batches(
        shop.records,
        name,
        batch_size=config.reranking.batch_size,
        list_size=candidates.size,
        shuffle=name == _RERANK_TRAIN,
        seed=config.seed,
    )
    return reranking.featurise(batches, candidates, vectors=config.reranking.vectors)
