"""Who sees what, held to a plain loop over each shopper's events."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import pytest
import shops

from tfmm.sources.dataset import Dataset, Interactions, Users
from tfmm.splits import Queries, SplitConfig, assert_no_leak, first_occurrences, split


def random_dataset(seed: int, *, users: int = 30, events: int = 600, distinct_times: int = 200) -> Dataset:
    """Returns shoppers with few items each, so that many are repeated, and times with many ties."""
    rng = np.random.default_rng(seed)
    drawn = Interactions.ordered(
        user=rng.integers(0, users, events),
        item=rng.integers(0, 60, events),
        time=1_000 + rng.integers(0, distinct_times, events),
        event=rng.integers(0, 2, events),
        value=np.ones(events),
    )
    ids = np.array([f"u{user}" for user in range(users)], object)
    return Dataset("random", shops.items(), Users(ids), drawn, shops.EVENT_TYPES)


def events_by_user(events: Interactions) -> dict[int, list[tuple[int, int, int]]]:
    """Returns (item, time, event) of each user, in order."""
    found = defaultdict(list)
    for row in range(len(events)):
        found[int(events.user[row])].append((int(events.item[row]), int(events.time[row]), int(events.event[row])))
    return found


def as_tuples(queries: Queries) -> list[tuple]:
    return [
        (
            int(queries.user[q]),
            list(zip(queries.history[q].tolist(), queries.times[q].tolist(), queries.events[q].tolist())),
            queries.targets[q].tolist(),
            int(queries.time[q]),
        )
        for q in range(len(queries))
    ]


def naive_query(user: int, before: list, after: list) -> list[tuple]:
    """Returns the query of one user in a list, or none: `after` are the events of the period that is asked for."""
    had, targets, asked = {item for item, _, _ in before}, [], None
    for item, time, _ in after:
        if item not in had:
            asked = time if asked is None else asked
            targets.append(item)
            had.add(item)
    return [(user, before, targets, asked)] if before and targets else []


def naive_time_split(dataset: Dataset, shares: tuple[float, float, float]) -> dict[str, list]:
    times = sorted(dataset.interactions.time.tolist())
    total = len(times)
    cuts = [times[int((1 - sum(shares[i:])) * total + 1e-9)] for i in range(3)]
    found = defaultdict(list)
    for user, events in sorted(events_by_user(dataset.interactions).items()):
        for name, begin, end in zip(("rerank", "validation", "test"), cuts, [*cuts[1:], np.inf]):
            before, after = [e for e in events if e[1] < begin], [e for e in events if begin <= e[1] < end]
            found[name] += naive_query(user, before, after)
        found["train"] += [(user, *event) for event in events if event[1] < cuts[0]]
        found["refit"] += [(user, *event) for event in events if event[1] < cuts[1]]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_split_by_time_is_what_a_plain_loop_finds(seed):
    dataset = random_dataset(seed)
    parts = split(dataset, SplitConfig())
    expected = naive_time_split(dataset, (0.1, 0.1, 0.1))
    for name in ("rerank", "validation", "test"):
        assert as_tuples(getattr(parts, name)) == expected[name], name
    for name in ("train", "refit"):
        assert rows_of(getattr(parts, name)) == expected[name], name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("at_most", [2, 10])
def test_the_next_items_of_a_period_are_what_a_plain_loop_finds(seed, at_most):
    dataset = random_dataset(seed)
    parts = split(dataset, SplitConfig(targets="next", max_lists=at_most))
    expected = naive_next_split(dataset, (0.1, 0.1, 0.1))
    for name in ("rerank", "validation", "test"):
        found = as_tuples(getattr(parts, name))
        of_user = {user: [query for query in expected[name] if query[0] == user] for user, *_ in expected[name]}
        for user, queries in of_user.items():
            kept = [query for query in found if query[0] == user]
            assert len(kept) == min(len(queries), at_most)
            assert all(query in queries for query in kept)
            assert queries[0] in kept
            assert queries[-1] in kept
        assert len(found) == sum(min(len(queries), at_most) for queries in of_user.values())


def naive_next_split(dataset: Dataset, shares: tuple[float, float, float]) -> dict[str, list]:
    times = sorted(dataset.interactions.time.tolist())
    cuts = [times[int((1 - sum(shares[i:])) * len(times) + 1e-9)] for i in range(3)]
    found = defaultdict(list)
    for user, events in sorted(events_by_user(dataset.interactions).items()):
        for name, begin, end in zip(("rerank", "validation", "test"), cuts, [*cuts[1:], np.inf]):
            for place, (item, time, _) in enumerate(events):
                if begin <= time < end and place and item not in {e[0] for e in events[:place]}:
                    found[name].append((user, events[:place], [item], time))
    return found


def rows_of(events: Interactions) -> list[tuple[int, ...]]:
    columns = (events.user, events.item, events.time, events.event)
    return [tuple(int(value) for value in row) for row in zip(*columns)]


def naive_last_out(dataset: Dataset, *, share: float, at_most: int) -> dict[str, list]:
    found = defaultdict(list)
    for user, events in sorted(events_by_user(dataset.interactions).items()):
        new = [place for place, event in enumerate(events) if event[0] not in {e[0] for e in events[:place]}]
        if len(new) < 4:
            found["train"] += [(user, *event) for event in events]
            found["refit"] += [(user, *event) for event in events]
            continue
        wanted = int(np.ceil(share * len(new)))
        lists = min(max(wanted, 1), at_most, len(new) - 3)
        places = {"rerank": new[-2 - lists : -2], "validation": new[-2:-1], "test": new[-1:]}
        for name, chosen in places.items():
            found[name] += [(user, events[:p], [events[p][0]], events[p][1]) for p in chosen]
        found["train"] += [(user, *event) for event in events[: places["rerank"][0]]]
        found["refit"] += [(user, *event) for event in events[: places["validation"][0]]]
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("share", "at_most"), [(0.1, 10), (0.5, 3)])
def test_leave_last_out_is_what_a_plain_loop_finds(seed, share, at_most):
    dataset = random_dataset(seed, events=250)  # few enough that some users have fewer than 4 new items
    config = SplitConfig("leave_last_out", rerank_share=share, max_lists=at_most)
    parts = split(dataset, config)
    expected = naive_last_out(dataset, share=share, at_most=at_most)
    for name in ("rerank", "validation", "test"):
        assert as_tuples(getattr(parts, name)) == expected[name], name
    for name in ("train", "refit"):
        assert rows_of(getattr(parts, name)) == expected[name], name


KINDS = [{"kind": "global_time"}, {"kind": "global_time", "targets": "next"}, {"kind": "leave_last_out"}]


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_that_the_shopper_had_is_never_a_target(kind):
    parts = split(random_dataset(7), SplitConfig(**kind))
    for name in ("rerank", "validation", "test"):
        queries = getattr(parts, name)
        for history, targets in zip(queries.history, queries.targets):
            assert len(history)
            assert len(set(targets.tolist())) == len(targets) > 0
            assert not set(targets.tolist()) & set(history.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_history_is_later_than_the_question(kind):
    parts = split(random_dataset(8), SplitConfig(**kind))
    for name in ("rerank", "validation", "test"):
        queries = getattr(parts, name)
        assert all(times.max() <= asked for times, asked in zip(queries.times, queries.time))


@pytest.mark.parametrize("kind", KINDS)
def test_the_protocol_says_that_validation_stands_in_the_test_history_and_so_it_does(kind):
    parts = split(random_dataset(9), SplitConfig(**kind))
    assert "validation" in parts.protocol["history"]
    wanted = {user: set(row.tolist()) for user, row in zip(parts.validation.user, parts.validation.targets)}
    both = [
        (wanted[user], set(row.tolist())) for user, row in zip(parts.test.user, parts.test.history) if user in wanted
    ]
    assert both and all(targets <= history for targets, history in both)


def test_first_occurrences_of_a_hand_made_case():
    events = Interactions(*(np.array(c) for c in ([0, 0, 0, 1, 1], [5, 6, 5, 5, 5], [1, 2, 3, 1, 2], [0] * 5, [1] * 5)))
    assert first_occurrences(events).tolist() == [True, True, False, True, False]


def test_the_cold_items_of_the_shop_are_found():
    assert np.flatnonzero(shops.shop().parts.cold_items(shops.ITEMS)).tolist() == shops.COLD.tolist()


def test_take_gives_the_named_queries():
    queries = shops.shop().parts.test
    taken = as_tuples(queries.take(np.array([3, 0])))
    assert taken == [as_tuples(queries)[3], as_tuples(queries)[0]]


def test_a_target_in_its_own_history_is_a_leak():
    parts = shops.shop().parts
    planted = dataclasses.replace(parts.test, targets=parts.test.history)
    with pytest.raises(ValueError, match="test queries stand in their own history"):
        assert_no_leak(dataclasses.replace(parts, test=planted))


@pytest.mark.parametrize(("trained", "asked"), [("train", "rerank"), ("refit", "validation"), ("refit", "test")])
def test_a_target_in_what_was_trained_is_a_leak(trained, asked):
    parts = shops.shop().parts
    queries, events = getattr(parts, asked), getattr(parts, trained)
    item = changed_last(events.item, queries.targets.values[0])
    user = changed_last(events.user, queries.user[0])
    planted = dataclasses.replace(events, item=item, user=user)
    assert_no_leak(parts)
    with pytest.raises(ValueError, match=f"{asked} queries stand in the events trained before"):
        assert_no_leak(dataclasses.replace(parts, **{trained: planted}))


def changed_last(column: np.ndarray, value: int) -> np.ndarray:
    column = column.copy()
    column[-1] = value
    return column


def test_another_shoppers_event_with_the_target_is_no_leak():
    parts = shops.shop().parts
    other = (parts.test.user[0] + 1) % shops.USERS
    planted = dataclasses.replace(
        parts.train,
        item=changed_last(parts.train.item, parts.test.targets.values[0]),
        user=changed_last(parts.train.user, other),
    )
    had = {(q, t) for q, u in enumerate(parts.rerank.user) for t in parts.rerank.targets[q] if u == other}
    assert parts.test.targets.values[0] not in {t for _, t in had}
    assert_no_leak(dataclasses.replace(parts, train=planted))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [1, 3])
def test_too_little_data_is_an_error_that_says_so(kind, kept):
    events = shops.dataset().interactions
    few = Interactions(*(getattr(events, field.name)[:kept] for field in dataclasses.fields(events)))
    with pytest.raises(ValueError, match=f"at least one .* query .* {kept} events"):
        split(dataclasses.replace(shops.dataset(), interactions=few), SplitConfig(**kind))


@pytest.mark.parametrize("kind", KINDS)
def test_no_events_at_all_are_an_error_that_says_so(kind):
    events = shops.dataset().interactions
    none = Interactions(*(getattr(events, field.name)[:0] for field in dataclasses.fields(events)))
    with pytest.raises(ValueError, match="Expected interactions to split, got none"):
        split(dataclasses.replace(shops.dataset(), interactions=none), SplitConfig(**kind))


def test_events_all_at_once_cannot_be_cut_by_time():
    events = dataclasses.replace(shops.dataset().interactions, time=np.full(960, 5, np.int64))
    with pytest.raises(ValueError, match="at least one"):
        split(dataclasses.replace(shops.dataset(), interactions=events), SplitConfig())


@pytest.mark.parametrize(
    "bad", [{"kind": "random"}, {"targets": "all"}, {"test_share": 0.0}, {"test_share": 0.7}, {"rerank_share": -0.1}]
)
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="Expected"):
        SplitConfig(**bad)


# --- Published parts -------------------------------------------------------------------------------------------------


def divided(seed: int, *, with_test: bool = True, times: bool = False) -> Dataset:
    """Returns shoppers whose events, repeated items among them, come in random parts; some have no training event."""
    drawn = random_dataset(seed, users=40, events=500)
    rng = np.random.default_rng(seed)
    parts = rng.choice(3 if with_test else 2, len(drawn.interactions), p=[0.8, 0.1, 0.1] if with_test else [0.9, 0.1])
    parts[drawn.interactions.user < 3] = 1
    events = drawn.interactions
    events = events if times else dataclasses.replace(events, time=np.zeros_like(events.time))
    return dataclasses.replace(drawn, interactions=events, published_split=parts.astype(np.int8))


def pairs_of(dataset: Dataset, part: int) -> dict[int, list[int]]:
    """Returns the items of each user's events in one part, in order, repeated ones included."""
    found = defaultdict(list)
    events = dataset.interactions
    for user, item, of in zip(events.user, events.item, dataset.published_split):
        if of == part:
            found[int(user)].append(int(item))
    return found


PUBLISHED = SplitConfig("published", rerank_share=0.2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("times", [True, False])
def test_published_parts_are_asked_with_the_training_items_alone(seed, times):
    dataset = divided(seed, times=times)
    parts, train = split(dataset, PUBLISHED), pairs_of(dataset, 0)
    for name, part in (("validation", 1), ("test", 2)):
        queries, expected = getattr(parts, name), {}
        for user, items in sorted(pairs_of(dataset, part).items()):
            new = [item for item in dict.fromkeys(items) if item not in train[user]]
            if new and train[user]:
                expected[user] = (train[user], new)
        found = zip(queries.user.tolist(), queries.history, queries.targets)
        assert {user: (history.tolist(), targets.tolist()) for user, history, targets in found} == expected
    events = rows_of(parts.refit)
    assert [row[:2] for row in events] == [(user, item) for user in sorted(train) for item in train[user]]


@pytest.mark.parametrize("seed", range(3))
def test_what_the_reranker_learns_from_published_parts_the_retriever_never_saw(seed):
    dataset = divided(seed)
    parts, train = split(dataset, PUBLISHED), pairs_of(dataset, 0)
    kept = defaultdict(list)
    for user, item, *_ in rows_of(parts.train):
        kept[user].append(item)
    held = {int(user): targets.tolist() for user, targets in zip(parts.rerank.user, parts.rerank.targets)}
    for user, items in train.items():
        assert kept[user]  # never all of a shopper's items
        assert not set(kept[user]) & set(held.get(user, []))
        assert kept[user] == [item for item in items if item not in held.get(user, [])]
    for user, history in zip(parts.rerank.user, parts.rerank.history):
        assert history.tolist() == kept[int(user)]


def test_a_share_of_the_published_training_items_is_held_out_on_average():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 12, 3_000)
    user, item = np.repeat(np.arange(3_000), sizes), np.concatenate([rng.permutation(60)[:n] for n in sizes])
    user, item = np.append(user, 0), np.append(item, 59 if 59 not in item[: sizes[0]] else 58)
    nothing = np.zeros(len(user))
    events = Interactions.ordered(user=user, item=item, time=nothing, event=nothing, value=nothing)
    parts = np.zeros(len(user), np.int8)
    parts[np.flatnonzero(events.user == 0)[-1]] = 1
    users = Users(np.array([f"u{row}" for row in range(3_000)], object))
    dataset = Dataset("many", shops.items(), users, events, published_split=parts)
    held = len(split(dataset, SplitConfig("published", rerank_share=0.1)).rerank.targets.values)
    expected = 0.1 * sizes[sizes > 1].sum()  # one item alone is never held out
    assert abs(held - expected) < 4 * np.sqrt(0.25 * 3_000)  # four deviations of rounding up or down at random


def test_the_same_published_parts_are_held_out_alike_and_others_are_not():
    first, again, other = (split(divided(seed), PUBLISHED).rerank for seed in (0, 0, 1))
    assert as_tuples(first) == as_tuples(again)
    assert as_tuples(first) != as_tuples(other)


def test_without_a_published_test_the_validation_part_is_reported_and_the_protocol_says_so(caplog):
    parts = split(divided(4, with_test=False), PUBLISHED)
    assert as_tuples(parts.test) == as_tuples(parts.validation)
    assert "no test part is published" in parts.protocol["test"]
    assert "no test part is published" in caplog.text
    assert split(divided(4), PUBLISHED).protocol["test"] == "the published test part"


def test_a_history_without_times_is_said_to_have_no_order():
    assert "nothing of time" in split(divided(5), PUBLISHED).protocol["history"]
    assert "nothing of time" not in split(divided(5, times=True), PUBLISHED).protocol["history"]


def test_shoppers_that_cannot_be_asked_are_counted():
    dataset = divided(6)
    train, test = pairs_of(dataset, 0), pairs_of(dataset, 2)
    planted = dataset.published_split.copy()
    first = np.flatnonzero(dataset.interactions.user == 1)[0]
    planted[first] = 2  # shopper 1 has validation and test events only
    dataset = dataclasses.replace(dataset, published_split=planted)
    assert not (train[1] or test[1])
    assert split(dataset, PUBLISHED).protocol["not asked"].startswith("1 shopper")


def test_a_cut_that_the_data_cannot_have_names_another():
    with pytest.raises(ValueError, match="comes divided.*'random' in one piece; choose global_time or leave_last_out"):
        split(random_dataset(0), PUBLISHED)
    for kind in ("global_time", "leave_last_out"):
        with pytest.raises(ValueError, match=rf"times of events for splits.kind='{kind}'.*--splits.kind published"):
            split(divided(0), SplitConfig(kind))


def test_a_sample_of_queries_is_spread_evenly_and_of_few_it_is_all():
    queries = split(random_dataset(0), SplitConfig(kind="leave_last_out")).validation.take(np.arange(25))
    assert queries.sample(25) is queries
    assert as_tuples(queries.sample(5)) == [as_tuples(queries)[row] for row in (0, 6, 12, 18, 24)]
