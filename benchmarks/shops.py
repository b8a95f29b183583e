"""What training benchmarks train on: a folder of MovieLens, or a drawn shop; ids alone, cut in time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Optional

import numpy as np

from tfmm import sources
from tfmm.features import ID, ItemFeatures, item_features
from tfmm.ragged import Ragged
from tfmm.records import ItemTable
from tfmm.sources.dataset import Dataset, Interactions, Items, Media, Users
from tfmm.splits import Queries, SplitConfig, split

_GROUP = 20
"""Items of a group in the drawn shop."""


@dataclasses.dataclass(frozen=True)
class Shop:
    """Events to train on, and questions that choose.

    Attributes:
        name: of the data.
        item_ids: `[num_items]` str (object).
        user_ids: `[num_users]` str (object).
        users: of the data set.
        events: each item at most once a user.
        validation: the item that each user took next; one question a user.
    """

    name: str
    item_ids: np.ndarray
    user_ids: np.ndarray
    users: Users
    events: Interactions
    validation: Queries

    @property
    def num_transitions(self) -> int:
        """How many events have one of the same user before them."""
        return len(self.events) - len(np.unique(self.events.user))


def make_shop(data_dir: Optional[Path], *, users: int, items: int, events: int, seed: int) -> Shop:
    """Returns MovieLens from its folder, or a drawn shop of that size where there is no folder."""
    if data_dir is not None:
        return of_dataset(sources.load("movielens", data_dir=data_dir))
    return of_dataset(draw_dataset(users=users, items=items, events=events, seed=seed))


def of_dataset(dataset: Dataset) -> Shop:
    """Returns the data cut so that each user's item before the last is the answer; the last stays unread."""
    parts = split(dataset, SplitConfig(kind="leave_last_out"))
    return Shop(
        dataset.name, dataset.items.ids, dataset.users.ids, dataset.users, _first_of_each(parts.refit), parts.validation
    )


def _first_of_each(events: Interactions) -> Interactions:
    """Returns the events without any that repeats an item of its user."""
    pairs = events.user.astype(np.int64) << 32 | events.item
    first = np.sort(np.unique(pairs, return_index=True)[1])
    columns = {field.name: getattr(events, field.name)[first] for field in dataclasses.fields(events)}
    return Interactions(**columns)


def draw_dataset(*, users: int, items: int, events: int, seed: int) -> Dataset:
    """Returns a shop with something to learn: users have favourite groups, and items their usual successors.

    Of a user's events half follow the item before (by one fixed step within all items, give or take a few), four in
    ten come from one of three favourite groups, and the rest from anywhere by popularity (Zipf).
    """
    rng = np.random.default_rng(seed)
    popular = rng.permutation(items)
    successor = rng.permutation(items)
    favourites = rng.integers(0, max(1, items // _GROUP), (users, 3))
    taken = np.zeros((users, events), np.int64)
    for step in range(events):
        anywhere = popular[(np.power(float(items), rng.random(users)) - 1).astype(np.int64)]
        group = favourites[np.arange(users), rng.integers(0, 3, users)]
        favourite = (group * _GROUP + rng.integers(0, _GROUP, users)) % items
        following = (successor[taken[:, step - 1]] + rng.integers(0, 3, users)) % items
        drawn = rng.random(users)
        other = np.where(drawn < 0.9, favourite, anywhere)
        taken[:, step] = np.where((drawn < 0.5) & (step > 0), following, other)
    times = 1_600_000_000 + np.cumsum(rng.integers(60, 100_000, taken.shape), axis=1)
    count = users * events
    interactions = Interactions.ordered(
        user=np.repeat(np.arange(users), events),
        item=taken.ravel(),
        time=times.ravel(),
        event=np.zeros(count, np.int32),
        value=np.ones(count, np.float32),
    )
    return Dataset("drawn", _bare_items(items), Users(_names("user", users)), _first_of_each(interactions))


def id_features(ids: np.ndarray, *, trained: np.ndarray) -> ItemFeatures:
    """Returns a catalogue of which nothing is known but the ids, for the candidate tower."""
    empty = np.full(len(ids), "", object)
    table = ItemTable(ids, empty, ids, np.zeros(len(ids), np.int64), {}, {}, {}, {}, {})
    return item_features(table, trained=trained, modalities=(ID,))


def no_context(num_users: int) -> Ragged:
    """Returns context terms of users of whom nothing is known."""
    return Ragged(np.zeros(0, object), np.zeros(num_users + 1, np.int64))


def _bare_items(count: int) -> Items:
    ids, empty = _names("item", count), np.full(count, "", object)
    nothing = Media.missing(count)
    return Items(ids, empty, ids, nothing, nothing, np.zeros(count, np.int64))


def _names(kind: str, count: int) -> np.ndarray:
    return np.array([f"{kind}{row}" for row in range(count)], dtype=object)
