"""A shop's data -> the products and shoppers that every later stage sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm import (
    closed_form,
    records,
    sources,
)
from tfmm.asking import AskParts, ask_parts
from tfmm.candidates import Wire, wire_queries
from tfmm.config import Config
from tfmm.encoders.image import ImageEncoder
from tfmm.encoders.sentence import SentenceEncoder
from tfmm.encoders.timbre import TimbreEncoder
from tfmm.features import ItemFeatures, Reduction, item_features
from tfmm.progress import counter
from tfmm.ragged import Ragged
from tfmm.reading import RawEncoders
from tfmm.records import ItemTable
from tfmm.sources.dataset import Dataset, Interactions
from tfmm.splits import Queries, Split, split


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The products as every later stage sees them.

    Attributes:
        dataset: as it was read.
        table: the items with their encoded vectors.
        encoders: which made them.
        records: where the TFRecords stand.
        asking: which products search may learn from.
    """

    dataset: Dataset
    table: ItemTable
    encoders: RawEncoders
    records: Path
    asking: AskParts


@dataclasses.dataclass(frozen=True)
class Shop(Catalogue):
    """Products and shoppers.

    Attributes:
        parts: who may see what.
        context: "field=value" of every user.
        reductions: of modalities whose reduction is settled: towers were trained on it.
    """

    parts: Split
    context: Ragged
    reductions: Mapping[str, Reduction] = dataclasses.field(default_factory=dict)

    def wire(self, queries: Queries) -> Wire:
        """Returns the queries as they go over the wire."""
        return wire_queries(queries, self.dataset.items.ids, self.dataset.event_types, self.context)


def load(config: Config) -> Dataset:
    """Returns the data that the configuration names."""
    return sources.load(
        config.source, data_dir=config.data_dir, subset=config.subset, size=config.size, seed=config.seed
    )


def encode(config: Config, dataset: Dataset, directory: Path) -> tuple[ItemTable, RawEncoders]:
    """Returns the items with vectors of all their modalities; what was encoded before is read from the records."""
    items = dataset.items
    image = ImageEncoder(config.image) if config.image_encoder == "pretrained" and items.images.present.any() else None
    text = SentenceEncoder() if config.text_encoder == "pretrained" and (items.text != "").any() else None
    sound = TimbreEncoder(config.sound) if config.sound_encoder == "timbre" and items.sounds.present.any() else None
    made = (("image", image), ("text", text), ("sound", sound))
    encoders = {name: encoder for name, encoder in made if encoder is not None}
    with counter("encoding items", total=len(items)) as advance:
        done = [0]

        def progress(now: int, _: int) -> None:
            advance(now - done[0])
            done[0] = now

        table = records.write_items(dataset, directory, encoders=encoders, progress=progress)
    return table, RawEncoders(image, text, sound)


def open_catalogue(config: Config, dataset: Dataset, directory: Path) -> Catalogue:
    """Returns the products, encoded; records stand in `directory`. What could not be read joins the findings."""
    table, encoders = encode(config, dataset, directory)
    dataset = dataclasses.replace(dataset, findings=dataset.findings + records.findings(table, dataset.items))
    return Catalogue(dataset, table, encoders, directory, ask_parts(dataset, seed=config.seed))


def open_shop(config: Config, known: Catalogue) -> Shop:
    """Returns the products, and the shoppers' events, cut into periods."""
    columns = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)}
    dataset = known.dataset
    return Shop(**columns, parts=split(dataset, config.splits), context=records.context_terms(dataset.users))


def features_of(config: Config, shop: Shop, modalities: Optional[tuple[str, ...]] = None) -> ItemFeatures:
    """Returns what the towers read; only items with a training event teach vocabularies, and only they have ids."""
    text = config.text if config.text_encoder == "trained" else None
    trained = with_events(shop, shop.parts.train)
    return item_features(
        shop.table,
        trained=trained,
        modalities=modalities,
        text=text,
        reduce_to=config.content_dim,
        reductions=shop.reductions,
        neighbours=_wanted_beside(shop) if config.missing == "neighbours" else None,
    )


def _wanted_beside(shop: Shop) -> closed_form.sp.csr_matrix:
    """Returns `[num_items, num_items]`: what the same shoppers wanted, as the retriever's events say."""
    return closed_form.item_knn(matrix_of(shop, shop.parts.train), neighbours=20, shrink=10.0)


def content_rows(config: Config, shop: Shop) -> np.ndarray:
    """Returns `[num_items, features]`: what items are like, as frozen encoders and their attributes say."""
    trained = with_events(shop, shop.parts.refit)
    items = item_features(shop.table, trained=trained, reduce_to=config.content_dim, reductions=shop.reductions)
    return items.content_rows()


def matrix_of(shop: Shop, events: Interactions) -> closed_form.sp.csr_matrix:
    """Returns `[num_users, num_items]`: who had what."""
    return closed_form.interaction_matrix(
        events.user, events.item, num_users=len(shop.dataset.users), num_items=len(shop.table)
    )


def with_events(shop: Shop, events: Interactions) -> np.ndarray:
    """Returns `[num_items]` bool: which items the events have."""
    return mask_of(events.item, len(shop.table))


def mask_of(rows: np.ndarray, count: int) -> np.ndarray:
    """Returns `[count]` bool, True at the rows."""
    found = np.zeros(count, dtype=bool)
    found[rows] = True
    return found


def set_seed(seed: int) -> None:
    """Makes what follows repeatable, as far as threads allow."""
    tf.keras.utils.set_random_seed(seed)
