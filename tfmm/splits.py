"""`Dataset` -> what the retriever, the reranker, model selection and the final test each may see.

Time runs one way: the retriever trains on the oldest events, the reranker on what came next, settings are chosen on
the validation period, and the test period is read once. Items that a shopper already had are no answers, so targets
are always *new* items of that shopper. Where a source comes divided and without times, its own division is kept.
"""

from __future__ import annotations

import dataclasses
import logging
import zlib
from collections.abc import Mapping
from typing import Optional

import numpy as np

from tfmm.ragged import Ragged
from tfmm.sources.dataset import TEST, TRAIN, VALIDATION, Dataset, Interactions

_log = logging.getLogger(__name__)

KINDS = ("global_time", "leave_last_out", "published")
TARGETS = ("period", "next")


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """How the timeline is cut.

    Attributes:
        kind: "global_time" (everybody's last period is the test), "leave_last_out" (everybody's last new item is) or
            "published" (the parts into which the source comes divided).
        targets: of "global_time": "period" (one query a shopper, asked as the period begins, answered by all new items
            in it) or "next" (a query for each new item, asked just before it, with all that the shopper did until
            then; also for shoppers who first came in that period).
        test_share: share of all events in the test period ("global_time").
        validation_share: likewise, the period before it.
        rerank_share: share of events (unless "global_time": of each shopper's) that the reranker alone learns from.
        max_lists: queries a shopper at most: for the reranker of "leave_last_out", and for each period of "next".
    """

    kind: str = "global_time"
    targets: str = "period"
    test_share: float = 0.1
    validation_share: float = 0.1
    rerank_share: float = 0.1
    max_lists: int = 10

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Expected splits.kind to be one of {', '.join(KINDS)}, got {self.kind!r}.")
        if self.targets not in TARGETS:
            raise ValueError(f"Expected splits.targets to be one of {', '.join(TARGETS)}, got {self.targets!r}.")
        shares = (self.test_share, self.validation_share, self.rerank_share)
        if min(shares) <= 0 or sum(shares) >= 0.8:
            raise ValueError(f"Expected positive split shares that sum to less than 0.8, got {shares}.")


@dataclasses.dataclass(frozen=True)
class Queries:
    """Questions with known answers: what a shopper had done, and which new items came then.

    Attributes:
        user: `[num_queries]` int32 rows of `Users`.
        history: item rows, oldest first; never empty.
        times: int64 seconds, alike.
        events: int32 event types, alike.
        targets: distinct item rows, none of them in the history; never empty.
        time: `[num_queries]` int64: when the question is asked (of the first target).
    """

    user: np.ndarray
    history: Ragged
    times: Ragged
    events: Ragged
    targets: Ragged
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def before_launch(self, launched: np.ndarray) -> np.ndarray:
        """Returns `[num_queries, num_items]` bool: what is not there yet when each is asked, as far as both are known.

        Args:
            launched: `[num_items]` int64 seconds, 0 = unknown.
        """
        asked = self.time[:, np.newaxis]
        return (launched > asked) & (asked > 0)

    def take(self, rows: np.ndarray) -> Queries:
        """Returns the given queries, in the given order."""
        ragged = (self.history.take(rows), self.times.take(rows), self.events.take(rows), self.targets.take(rows))
        return Queries(self.user[rows], *ragged, self.time[rows])

    def sample(self, most: int = 5_000) -> Queries:
        """Returns all queries, or where there are more, `most` of them, evenly drawn: enough to choose a setting by."""
        count = len(self)
        return self if count <= most else self.take(np.linspace(0, count - 1, most).astype(int))


@dataclasses.dataclass(frozen=True)
class Split:
    """Who sees what.

    Attributes:
        train: events that the retriever trains on.
        refit: `train` and the reranker's period: what the retriever that is served trains on.
        rerank: the reranker's training queries, none of whose targets is in `train`; later, where times are known.
        validation: for every choice.
        test: read once.
        protocol: how it was cut, in words and numbers.
    """

    train: Interactions
    refit: Interactions
    rerank: Queries
    validation: Queries
    test: Queries
    protocol: Mapping[str, str]

    def cold_items(self, num_items: int) -> np.ndarray:
        """Returns `[num_items]` bool: True where no event before validation has the item."""
        cold = np.ones(num_items, dtype=bool)
        cold[self.refit.item] = False
        return cold


def split(dataset: Dataset, config: SplitConfig) -> Split:
    """Returns the dataset cut by `config.kind`.

    Raises:
        ValueError: a period came out empty, something leaks, or the data has no times or no parts to cut by.
    """
    events = dataset.interactions
    if not len(events):
        raise ValueError(f"Expected interactions to split, got none of {len(dataset.users)} users; give some.")
    parts = _parts(dataset, config)
    for name in ("rerank", "validation", "test"):
        if not len(getattr(parts, name)):
            raise ValueError(
                f"Expected at least one {name} query from splits.kind={config.kind!r}, got none from {len(events)} "
                f"events of {len(dataset.users)} users; give more data or other splits.* shares."
            )
    assert_no_leak(parts)
    return parts


def _parts(dataset: Dataset, config: SplitConfig) -> Split:
    events, published = dataset.interactions, dataset.published_split
    if config.kind == "published":
        if published is None:
            raise ValueError(
                f"Expected data that comes divided for splits.kind='published', got {dataset.name!r} in one piece; "
                f"choose {' or '.join(KINDS[:2])}."
            )
        return _as_published(events, published, config.rerank_share)
    if not events.time.any():
        raise ValueError(
            f"Expected times of events for splits.kind={config.kind!r}, got none of {len(events)} in {dataset.name!r}"
            f"{'; choose --splits.kind published' if published is not None else '; give them a column of times'}."
        )
    new = first_occurrences(events)
    return _by_time(events, new, config) if config.kind == "global_time" else _by_user(events, new, config)


def first_occurrences(
    events: Interactions, wanted: Optional[np.ndarray] = None, known: Optional[np.ndarray] = None
) -> np.ndarray:
    """Returns `[num_events]` bool: each shopper's first event with an item.

    Args:
        events: in their order.
        wanted: `[num_events]` bool, the events to look at; None is all.
        known: `[num_events]` bool, events whose items are not new to their shopper; None is none.
    """
    pairs = _pairs(events.user, events.item)
    looked_at = np.ones(len(events), dtype=bool) if wanted is None else wanted.copy()
    if known is not None:
        looked_at &= ~np.isin(pairs, pairs[known])
    positions = np.flatnonzero(looked_at)
    result = np.zeros(len(events), dtype=bool)
    result[positions[np.unique(pairs[positions], return_index=True)[1]]] = True
    return result


def assert_no_leak(parts: Split) -> None:
    """Raises ValueError if an answer stands in its own question or in what was trained before it."""
    for name, trained in (("rerank", parts.train), ("validation", parts.refit), ("test", parts.refit)):
        queries: Queries = getattr(parts, name)
        rows, users = queries.targets.row_numbers, queries.user[queries.targets.row_numbers]
        own = _pairs(queries.history.row_numbers, queries.history.values)
        if len(np.intersect1d(_pairs(rows, queries.targets.values), own)):
            raise ValueError(f"Targets of the {name} queries stand in their own history.")
        if len(np.intersect1d(_pairs(users, queries.targets.values), _pairs(trained.user, trained.item))):
            raise ValueError(f"Targets of the {name} queries stand in the events trained before them.")


def _pairs(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    return user.astype(np.int64) << 32 | item.astype(np.int64)


def _select(events: Interactions, mask: np.ndarray) -> Interactions:
    return Interactions(*(getattr(events, f.name)[mask] for f in dataclasses.fields(events)))


def _by_time(events: Interactions, new: np.ndarray, config: SplitConfig) -> Split:
    shares = np.array([config.rerank_share, config.validation_share, config.test_share])
    positions = (1 - np.cumsum(shares[::-1])[::-1]) * len(events)
    cuts = np.sort(events.time)[positions.astype(np.int64)]
    periods = np.searchsorted(cuts, events.time, side="right")  # 0 train, 1 rerank, 2 validation, 3 test
    num_users = int(events.user.max(initial=-1)) + 1
    if config.targets == "next":
        parts = [_next_targets(events, new & (periods == p), config.max_lists) for p in (1, 2, 3)]
        queries = [_prefix_queries(events, targets) for targets in parts]
    else:
        queries = [_period_queries(events, new & (periods == p), periods < p, num_users) for p in (1, 2, 3)]
    dates = [str(np.datetime64(int(cut), "s")) for cut in cuts]
    protocol = {
        "kind": config.kind,
        "train": f"events before {dates[0]}",
        "rerank": f"from {dates[0]}",
        "validation": f"from {dates[1]}",
        "test": f"from {dates[2]}",
        "targets": _TARGETS_IN_WORDS[config.targets].format(config.max_lists),
        "history": _HISTORY_IN_WORDS[config.targets],
    }
    rerank, validation, test = queries
    return Split(_select(events, periods == 0), _select(events, periods <= 1), rerank, validation, test, protocol)


_HISTORY_IN_WORDS = {
    "period": "all events of the shopper before the period (so those of validation are in the test history)",
    "next": "all events of the shopper before the target (so those of validation, and earlier ones of the test, too)",
}
_TARGETS_IN_WORDS = {
    "period": "all new items of the shopper in the period, asked for with all that was done before it",
    "next": "the next new item, asked for with all that was done until then; up to {} a shopper, evenly chosen",
}


def _next_targets(events: Interactions, wanted: np.ndarray, most: int) -> np.ndarray:
    """Returns event positions: up to `most` of each user's wanted events that have an event before them."""
    first = np.searchsorted(events.user, events.user)  # each event's user's first event
    positions = np.flatnonzero(wanted & (np.arange(len(events)) > first))
    users = Ragged.from_groups(events.user[positions], positions, int(events.user.max(initial=-1)) + 1)
    return np.concatenate(
        [row[np.unique(np.linspace(0, len(row) - 1, most).astype(int))] if len(row) else row for row in users]
    )


def _period_queries(events: Interactions, targets: np.ndarray, known: np.ndarray, num_users: int) -> Queries:
    """Returns one query for each user with both a known event and a target."""
    history = Ragged.from_groups(events.user[known], np.flatnonzero(known), num_users)
    answers = Ragged.from_groups(events.user[targets], np.flatnonzero(targets), num_users)
    users = np.flatnonzero((history.lengths > 0) & (answers.lengths > 0))
    return _queries(events, users, history.take(users), answers.take(users))


def _by_user(events: Interactions, new: np.ndarray, config: SplitConfig) -> Split:
    num_users = int(events.user.max(initial=-1)) + 1
    news = Ragged.from_groups(events.user[new], np.flatnonzero(new), num_users)  # event positions, oldest first
    users = np.flatnonzero(news.lengths >= 4)
    starts, ends = news.offsets[:-1][users], news.offsets[1:][users]
    test, validation = news.values[ends - 1], news.values[ends - 2]
    wanted = np.ceil(config.rerank_share * (ends - starts)).astype(np.int64)
    lists = np.clip(wanted, 1, np.minimum(config.max_lists, ends - starts - 3))
    rerank = np.concatenate([news.values[end - 2 - n : end - 2] for end, n in zip(ends, lists)] or [np.array([], int)])
    position = np.arange(len(events))
    first_rerank = np.full(num_users, len(events))
    first_rerank[users] = news.values[ends - 2 - lists]
    first_validation = np.full(num_users, len(events))
    first_validation[users] = validation
    protocol = {
        "kind": config.kind,
        "train": "each shopper's events before the reranker's",
        "rerank": f"up to {config.max_lists} new items before validation, each with the history before it",
        "validation": "the new item before the last",
        "test": "the last new item",
        "history": "all events of the shopper before the target (so the validation item is in the test history)",
    }
    return Split(
        _select(events, position < first_rerank[events.user]),
        _select(events, position < first_validation[events.user]),
        _prefix_queries(events, rerank),
        _prefix_queries(events, validation),
        _prefix_queries(events, test),
        protocol,
    )


def _as_published(events: Interactions, parts: np.ndarray, rerank_share: float) -> Split:
    train = parts == TRAIN
    held = _held_out(events, first_occurrences(events, train), rerank_share)
    pairs = _pairs(events.user, events.item)
    rest = train & ~np.isin(pairs, pairs[held])  # of an item that is held out, no event is left
    num_users = int(events.user.max(initial=-1)) + 1
    asked = TEST if (parts == TEST).any() else VALIDATION
    unasked = np.setdiff1d(events.user[parts == asked], events.user[train])
    protocol = {
        "kind": "published",
        "train": "the published training part, without the reranker's events",
        "rerank": f"a random {rerank_share:.0%} of each shopper's training items, drawn alike for the same data",
        "validation": "the published validation part",
        "test": "the published test part" if asked == TEST else _NO_TEST,
        "history": "all training items of the shopper" + ("" if events.time.any() else _NO_ORDER),
        "not asked": f"{len(unasked)} shoppers without a training item",
    }
    if asked == VALIDATION:
        _log.warning("splits: test figures are %s", _NO_TEST)
    rerank = _period_queries(events, held, rest, num_users)
    new = [first_occurrences(events, parts == part, train) for part in (VALIDATION, asked)]
    validation, test = (_period_queries(events, targets, train, num_users) for targets in new)
    return Split(_select(events, rest), _select(events, train), rerank, validation, test, protocol)


_NO_TEST = "those of the validation part, on which everything was chosen, too: no test part is published here"
_NO_ORDER = ", in the order of the file, which says nothing of time: none is published"


def _held_out(events: Interactions, candidates: np.ndarray, share: float) -> np.ndarray:
    """Returns `[num_events]` bool: of each user's candidates a random share on average, and never all of them."""
    rng = np.random.default_rng(zlib.crc32(_pairs(events.user, events.item).tobytes()))
    shuffled = rng.permutation(np.flatnonzero(candidates))
    rows = Ragged.from_groups(events.user[shuffled], shuffled, int(events.user.max(initial=-1)) + 1)
    drawn = np.floor(share * rows.lengths + rng.random(len(rows)))  # as often rounded up as makes the share right
    counts = np.minimum(drawn, np.maximum(rows.lengths - 1, 0))
    within = np.arange(len(shuffled)) - np.repeat(rows.offsets[:-1], rows.lengths)
    held = np.zeros(len(events), dtype=bool)
    held[rows.values[within < np.repeat(counts, rows.lengths)]] = True
    return held


def _prefix_queries(events: Interactions, targets: np.ndarray) -> Queries:
    """Returns one query per target event, whose history is all that its user did before."""
    starts = np.searchsorted(events.user, events.user[targets])
    history = Ragged.from_rows([range(a, b) for a, b in zip(starts, targets)], np.int64)
    return _queries(events, events.user[targets], history, Ragged(targets, np.arange(len(targets) + 1)))


def _queries(events: Interactions, users: np.ndarray, history: Ragged, answers: Ragged) -> Queries:
    """Returns queries from ragged event positions."""
    return Queries(
        user=users.astype(np.int32),
        history=Ragged(events.item[history.values], history.offsets),
        times=Ragged(events.time[history.values], history.offsets),
        events=Ragged(events.event[history.values], history.offsets),
        targets=Ragged(events.item[answers.values], answers.offsets),
        time=events.time[answers.values[answers.offsets[:-1]]] if len(users) else np.zeros(0, np.int64),
    )
