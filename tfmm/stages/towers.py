"""Products and shoppers -> trained towers."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from tfmm import (
    closed_form,
    pipelines,
    records,
    retrieval,
)
from tfmm.config import Config
from tfmm.encoders.attributes import learn_attributes
from tfmm.features import ItemFeatures
from tfmm.ragged import Ragged
from tfmm.records import Sequences
from tfmm.retrieval import Retriever
from tfmm.sources.dataset import Interactions
from tfmm.stages.opening import Shop, features_of, matrix_of, with_events

_log = logging.getLogger(__name__)


def train_towers(
    config: Config, shop: Shop, items: ItemFeatures, *, directory: Path
) -> tuple[Retriever, dict[str, list[float]]]:
    """Returns the towers trained on the retriever's period, and the training curves."""
    retriever = begin_towers(config, shop, items, shop.parts.train)
    return retriever, _fit_towers(config, shop, retriever, shop.parts.train, name="train", directory=directory)


def refit_towers(config: Config, shop: Shop, early: Retriever, items: ItemFeatures, *, directory: Path) -> Retriever:
    """Returns the towers that are served: trained with the reranker's period added.

    By default they are `early`, trained a little further: they stay close to those that the reranker's lists came from.
    Where validation finds them no better, they stay those. With `refit_anew` they are trained from the start.
    """
    if config.refit_anew:
        retriever = begin_towers(config, shop, items, shop.parts.refit)
        _fit_towers(config, shop, retriever, shop.parts.refit, name="refit", directory=directory)
        return retriever
    retriever = make_towers(config, shop, items, shop.parts.refit)
    retriever.set_weights(early.get_weights())
    go_on(config, shop, retriever, shop.parts.refit, epochs=config.refit_epochs, name="refit", directory=directory)
    return retriever


def go_on(
    config: Config,
    shop: Shop,
    retriever: Retriever,
    events: Interactions,
    *,
    epochs: int,
    name: str,
    directory: Path,
) -> None:
    """Trains towers gently from the weights they have, and puts those back where validation finds none better."""
    weights = retriever.get_weights()
    before = retrieval.ndcg(retriever, shop.parts.validation.sample(), shop.context)
    if epochs:
        retriever.config = dataclasses.replace(
            config.retrieval, epochs=epochs, learning_rate=config.retrieval.learning_rate / 4
        )
        curves = _fit_towers(config, shop, retriever, events, name=name, directory=directory)
        after = max(curves["validation ndcg@10"])
        _log.info("%s: validation ndcg@10 %.4f -> %.4f", name, before, after)
        if after < before:
            retriever.set_weights(weights)


def train_ablated(config: Config, shop: Shop, modalities: tuple[str, ...], *, directory: Path) -> Retriever:
    """Returns towers that know nothing of the items but these modalities, trained as long as those that are served."""
    items = features_of(config, shop, modalities).with_ids(with_events(shop, shop.parts.refit))
    retriever = begin_towers(config, shop, items, shop.parts.refit)
    name = "only-" + "-".join(modalities)
    _fit_towers(config, shop, retriever, shop.parts.refit, name=name, directory=directory)
    return retriever


def make_towers(config: Config, shop: Shop, items: ItemFeatures, events: Interactions) -> Retriever:
    """Returns untrained towers."""
    users = shop.dataset.users
    return Retriever(
        config.towers,
        config.retrieval,
        items=items,
        context=learn_attributes(users.categorical, {}, rows=np.unique(events.user)),
        num_events=len(shop.dataset.event_types),
        frequency=np.bincount(events.item, minlength=items.num_items),
        launched=shop.table.launched,
        until=int(events.time.max(initial=0)),
    )


def begin_towers(config: Config, shop: Shop, items: ItemFeatures, events: Interactions) -> Retriever:
    """Returns towers that are not trained, but may know from the events which items are near one another."""
    retriever = make_towers(config, shop, items, events)
    if config.retrieval.id_start == "spectral":
        vectors = closed_form.spectral_vectors(matrix_of(shop, events), dim=config.towers.dim)
        retriever.towers.candidate.begin_from(vectors)
    return retriever


def _fit_towers(
    config: Config, shop: Shop, retriever: Retriever, events: Interactions, *, name: str, directory: Path
) -> dict[str, list[float]]:
    ids, types = shop.dataset.items.ids, shop.dataset.event_types
    records.write_sequences(_sequences(shop, events), shop.records, name, item_ids=ids, event_types=types)
    batches = pipelines.sequence_batches(
        shop.records,
        name,
        batch_size=config.retrieval.batch_size,
        max_length=config.towers.max_length,
        shuffle=True,
        seed=config.seed,
    )
    return retrieval.fit(
        retriever,
        batches,
        validation=shop.parts.validation.sample(),
        context=shop.context,
        directory=directory / "checkpoints" / name,
        logs=directory / "tensorboard" / name,
        resume=config.resume,
    )


def _sequences(shop: Shop, events: Interactions) -> Sequences:
    users = shop.dataset.users
    grouped = {
        name: Ragged.from_groups(events.user, getattr(events, column), len(users))
        for name, column in (("items", "item"), ("times", "time"), ("events", "event"))
    }
    active = np.flatnonzero(grouped["items"].lengths > 1)
    taken = {name: column.take(active) for name, column in grouped.items()}
    return Sequences(user_ids=users.ids[active], context=shop.context.take(active), **taken)
