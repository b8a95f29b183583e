"""What every system of the zoo learns from, as one value: the same for all."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfmm import closed_form
from tfmm.config import Config
from tfmm.encoders.text import SubwordTokenizer, TextConfig, learn_subwords
from tfmm.features import PRESENT, ItemFeatures, item_features
from tfmm.sources.dataset import Interactions
from tfmm.splits import Queries
from tfmm.stages import Shop


@dataclasses.dataclass(frozen=True)
class Data:
    """A shop as a system may see it before the test.

    Attributes:
        events: before the validation period: what the served retriever trains on. Ordered by user, then by time.
        validation: queries that choose epochs and settings.
        items: content: vectors of frozen encoders, attributes, and which of them each item has. Vocabularies and
            statistics were learned from items with an event.
        tokens: `[num_items, length]` int32 subwords of the texts, 0 = padding.
        vocabulary_size: of the subwords.
        launched: `[num_items]` int64 seconds, 0 = unknown: before it, an item is no candidate.
        num_users: of the dataset.
        seed: of everything random.
    """

    events: Interactions
    validation: Queries
    items: ItemFeatures
    tokens: np.ndarray
    vocabulary_size: int
    launched: np.ndarray
    num_users: int
    seed: int = 0

    @property
    def num_items(self) -> int:
        """The size of the catalogue."""
        return self.items.num_items

    def vectors(self, modality: str) -> np.ndarray:
        """Returns `[num_items, dim]` float32, zeros where missing."""
        return self.items.columns[modality][:-1].astype(np.float32)

    def present(self, modality: str) -> np.ndarray:
        """Returns `[num_items]` bool."""
        return self.items.columns[PRESENT][:-1, self.items.modalities.index(modality)]

    def content_rows(self) -> np.ndarray:
        """Returns `[num_items, features]`: see `ItemFeatures.content_rows`.

        Raises:
            ValueError: there is no content.
        """
        rows = self.items.content_rows()
        if not rows.shape[1]:
            raise ValueError("Expected products with content (pictures, texts, attributes, vectors), got ids alone.")
        return rows

    def matrix(self) -> closed_form.sp.csr_matrix:
        """Returns `[num_users, num_items]` float32: 1 where a user had an item."""
        events = self.events
        return closed_form.interaction_matrix(
            events.user, events.item, num_users=self.num_users, num_items=self.num_items
        )

    def known_users(self) -> np.ndarray:
        """Returns `[num_users]` bool: who has an event."""
        return np.bincount(self.events.user, minlength=self.num_users) > 0

    def on_sale(self) -> np.ndarray:
        """Returns the rows of items that could be had in training: what may be drawn as a negative."""
        had = np.bincount(self.events.item, minlength=self.num_items) > 0
        return np.flatnonzero(had | (self.launched <= self.events.time.max(initial=0)))


def data_of(config: Config, shop: Shop) -> Data:
    """Returns what the systems learn from; no event of the validation or test period is in it but as history."""
    table, events = shop.table, shop.parts.refit
    trained = np.bincount(events.item, minlength=len(table)) > 0
    items = item_features(table, trained=trained, reduce_to=config.content_dim, reductions=shop.reductions)
    tokens, size = _tokens(table.text, trained, config.text)
    return Data(
        events=events,
        validation=shop.parts.validation,
        items=items,
        tokens=tokens,
        vocabulary_size=size,
        launched=table.launched,
        num_users=len(shop.dataset.users),
        seed=config.seed,
    )


def _tokens(text: np.ndarray, trained: np.ndarray, config: TextConfig) -> tuple[np.ndarray, int]:
    """Returns the texts cut into subwords that the trained items' texts teach, and how many there are."""
    if not (text != "").any():
        return np.zeros((len(text), 1), np.int32), 1
    model = learn_subwords([t for t in text[trained] if t], vocabulary_size=config.vocabulary_size)
    tokenizer = SubwordTokenizer(model, max_length=config.max_length)
    return tokenizer(list(text)).numpy(), tokenizer.vocabulary_size
