"""Nothing leaks: what knows nothing scores chance, what knows the future is seen to, and no record holds the test."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
import shops
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from tfmm import closed_form, evaluation, schema, stages
from tfmm.evaluation import Baseline
from tfmm.ragged import Ragged
from tfmm.sources.dataset import Interactions
from tfmm.splits import Queries, Split, SplitConfig, split

K = 10
GAIN = float(np.sum(1 / np.log2(np.arange(2, K + 2))))


def ease(user: np.ndarray, item: np.ndarray) -> Baseline:
    matrix = closed_form.interaction_matrix(user, item, num_users=int(user.max()) + 1, num_items=shops.ITEMS)
    return Baseline("ease", {}, weights=closed_form.ease(matrix, l2=10.0))


def ndcg(system: Baseline, queries: Queries) -> np.ndarray:
    """Returns `[queries]`: what the report would say of each."""
    return evaluation.measure(system.lists(queries), queries.targets)[f"ndcg@{K}"]


def one_target(queries: Queries) -> Queries:
    """Returns the queries with the first of their targets only."""
    first = queries.targets.values[queries.targets.offsets[:-1]]
    return dataclasses.replace(queries, targets=Ragged(first, np.arange(len(queries) + 1)))


def chance(queries: Queries) -> float:
    """Returns the mean NDCG@10 of random orders: a target takes each place of those left with the same chance."""
    left = [shops.ITEMS - len(set(history.tolist())) for history in queries.history]
    return float(np.mean([GAIN / count for count in left]))


# --- Shuffled labels -------------------------------------------------------------------------------------------------


def test_shuffled_answers_give_chance_and_the_true_ones_do_not():
    """The target of each query is another item that the shopper never had, whatever it is."""
    parts, rng = shops.shop().parts, np.random.default_rng(0)
    queries, system = one_target(parts.test), ease(parts.refit.user, parts.refit.item)
    scored = Baseline("ease", {}, weights=system.weights + rng.normal(0, 1e-6, (shops.ITEMS, shops.ITEMS)))  # no ties
    values = []
    for _ in range(60):
        drawn = [rng.choice(np.setdiff1d(np.arange(shops.ITEMS), history)) for history in queries.history]
        shuffled = dataclasses.replace(queries, targets=Ragged(np.array(drawn), queries.targets.offsets))
        values.append(ndcg(scored, shuffled).mean())
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - chance(queries)) < 4 * error
    assert error < 0.1 * chance(queries)
    assert ndcg(system, queries).mean() > 2 * chance(queries)


def test_training_on_shuffled_labels_gives_chance():
    """Every training event has a random item, so that no item is told apart from another but by chance."""
    parts, values = shops.shop().parts, []
    queries = one_target(parts.test)
    for seed in range(60):
        item = np.random.default_rng(seed).integers(0, shops.ITEMS, len(parts.refit.item))
        values.append(ndcg(ease(parts.refit.user, item), queries).mean())
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - chance(queries)) < 4 * error
    assert error < 0.1 * chance(queries)


# --- A future item in the history ------------------------------------------------------------------------------------


def pairs_of_items() -> Split:
    """Returns the split of a shop where items 2j and 2j + 1 are always bought one after the other.

    Which pair comes next is random, so that the history says nothing of it.
    """
    rng, rows = np.random.default_rng(0), []
    for user in range(150):
        for place, pair in enumerate(rng.permutation(shops.ITEMS // 2)[:8]):
            rows += [(user, 2 * pair, 100 * place), (user, 2 * pair + 1, 100 * place + 1)]
    user, item, time = np.array(rows).T
    events = Interactions.ordered(
        user=user, item=item, time=time + shops.START, event=np.zeros(len(rows)), value=np.ones(len(rows))
    )
    ids = np.array([f"u{row}" for row in range(150)], object)
    users = dataclasses.replace(shops.dataset().users, ids=ids, categorical={})
    shop = dataclasses.replace(shops.dataset(), interactions=events, users=users)
    return split(shop, SplitConfig(test_share=0.125, validation_share=0.125, rerank_share=0.125))


def test_a_future_item_in_the_history_lifts_the_figure_from_chance_to_nearly_1():
    parts = pairs_of_items()
    system = ease(parts.refit.user, parts.refit.item)
    assert (parts.test.targets.lengths == 2).all()  # both of the last pair
    earlier, later = parts.test.targets.values.reshape(-1, 2).T
    assert (later == earlier + 1).all()
    honest = dataclasses.replace(parts.test, targets=Ragged(later, np.arange(len(later) + 1)))
    planted = dataclasses.replace(honest, history=with_last(honest.history, earlier))
    values, leaked = ndcg(system, honest), ndcg(system, planted)
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - chance(honest)) < 5 * spread + 0.02
    assert leaked.mean() > 0.95 > 3 * values.mean()


def with_last(rows: Ragged, values: np.ndarray) -> Ragged:
    return Ragged.from_rows([[*row.tolist(), value] for row, value in zip(rows, values.tolist())], np.int64)


# --- What stands in the records --------------------------------------------------------------------------------------

KINDS = ("global_time", "leave_last_out")


def mark(user: object, item: object, time: object) -> str:
    """Returns the hash of an event."""
    return hashlib.sha256(f"{user}\t{item}\t{time}".encode()).hexdigest()


@functools.cache
def written(kind: str) -> tuple[stages.Shop, Path]:
    """Returns a shop, and where its stages wrote all that a run trains on; nothing is trained."""
    config = dataclasses.replace(shops.CONFIG, splits=SplitConfig(kind))
    directory = Path(tempfile.mkdtemp(prefix="leaks-"))
    shop = stages.open_shop(config, stages.open_catalogue(config, shops.dataset(), directory))
    with pytest.MonkeyPatch.context() as patch, shops.eagerly():
        patch.setattr(stages.towers.retrieval, "fit", lambda *_, **__: {"validation ndcg@10": [1.0]})
        patch.setattr(stages.towers.retrieval, "ndcg", lambda *_: 0.0)
        patch.setattr(stages.mixture.reranking, "fit", lambda *_, **__: {})
        patch.setattr(stages.mixture.reranking, "recalibrate", lambda *_: None)
        items = stages.features_of(config, shop)
        early, _ = stages.train_towers(config, shop, items, directory=directory)
        weights = stages.ItemItem(ease(shop.parts.train.user, shop.parts.train.item).weights, 0.9)
        candidates = stages.make_candidates(config, shop, early, items, shop.parts.train, weights)
        scorer, _ = stages.train_reranker(config, shop, candidates, directory=directory)
        stages.refit_towers(config, shop, early, items, directory=directory)
        stages.recalibrate_reranker(config, shop, candidates, scorer)
    return shop, directory


def records_of(directory: Path, name: str) -> list[bytes]:
    paths = sorted(str(path) for path in directory.glob(f"{name}-[0-9]*"))
    assert paths, (name, list(directory.iterdir()))
    return [record.numpy() for record in tf.data.TFRecordDataset(paths)]


def events_of_sequences(shop: stages.Shop, directory: Path, name: str) -> set[str]:
    """Returns the hashes of all events in a group of sequences."""
    found = set()
    for record in records_of(directory, name):
        features = tf.train.Example.FromString(record).features.feature
        (user,) = features[schema.USER_ID].bytes_list.value
        columns = (features[column].int64_list.value for column in (schema.SEQUENCE_ITEMS, schema.SEQUENCE_TIMES))
        found |= {mark(user.decode(), shop.dataset.items.ids[item], time) for item, time in zip(*columns)}
    return found


def events_of_lists(directory: Path, name: str, owners: dict[tuple[str, int], str]) -> set[str]:
    """Returns the hashes of all events in a group of lists: their histories, and the answers when they were asked for.

    Lists do not say whose they are: `owners` tells by a history's first event.
    """
    found = set()
    for record in records_of(directory, name):
        message = input_pb2.ExampleListWithContext.FromString(record)
        context = message.context.features.feature
        items = [item.decode() for item in context[schema.HISTORY].bytes_list.value]
        times = list(context[schema.HISTORY_TIMES].int64_list.value)
        user = owners[items[0], times[0]]
        found |= {mark(user, item, time) for item, time in zip(items, times)}
        (asked,) = context[schema.QUERY_TIME].int64_list.value
        for example in message.examples:
            features = example.features.feature
            if features[schema.LABEL].float_list.value[0] > 0:
                (item,) = features[schema.ITEM_ID].bytes_list.value
                found.add(mark(user, item.decode(), f"from {asked}"))
    return found


def events_of_targets(shop: stages.Shop, queries: Queries) -> set[str]:
    """Returns the hashes of the events that answer queries, by their own time and by the query's."""
    events, dataset, found = shop.dataset.interactions, shop.dataset, set()
    for user, targets, asked in zip(queries.user, queries.targets, queries.time):
        for item in targets:
            names = dataset.users.ids[user], dataset.items.ids[item]
            found.add(mark(*names, f"from {asked}"))
            times = events.time[(events.user == user) & (events.item == item) & (events.time >= asked)]
            assert len(times)
            found |= {mark(*names, time) for time in times}
    return found


def owners_of(shop: stages.Shop) -> dict[tuple[str, int], str]:
    """Returns (item, time) -> whose event it is, where a single shopper did that at that second."""
    events, dataset = shop.dataset.interactions, shop.dataset
    found: dict[tuple[str, int], set[str]] = {}
    for user, item, time in zip(events.user, events.item, events.time):
        found.setdefault((dataset.items.ids[item], int(time)), set()).add(dataset.users.ids[user])
    return {event: users.pop() for event, users in found.items() if len(users) == 1}


def test_this_test_would_see_a_leak():
    """The same hashes find the events that should be there: each group's own."""
    shop, directory = written("global_time")
    events, dataset = shop.parts.train, shop.dataset
    columns = zip(events.user, events.item, events.time)
    expected = {mark(dataset.users.ids[user], dataset.items.ids[item], time) for user, item, time in columns}
    assert events_of_sequences(shop, directory, "train") == expected
    answers = events_of_lists(directory, "rerank_train", owners_of(shop)) & events_of_targets(shop, shop.parts.rerank)
    assert len(answers) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_no_event_of_the_test_stands_in_any_record_that_something_is_trained_on(kind):
    shop, directory = written(kind)
    test, owners = events_of_targets(shop, shop.parts.test), owners_of(shop)
    assert len(test) >= 2 * len(shop.parts.test)
    for name in ("train", "refit"):
        assert not test & events_of_sequences(shop, directory, name), name
    for name in ("rerank_train", "rerank_validation", "served_validation"):
        assert not test & events_of_lists(directory, name, owners), name


@pytest.mark.parametrize("kind", KINDS)
def test_no_event_of_the_validation_stands_in_what_retriever_and_reranker_learn_from(kind):
    shop, directory = written(kind)
    validation = events_of_targets(shop, shop.parts.validation)
    for name in ("train", "refit"):
        assert not validation & events_of_sequences(shop, directory, name), name
    assert not validation & events_of_lists(directory, "rerank_train", owners_of(shop))


@pytest.mark.parametrize("kind", KINDS)
def test_no_event_of_the_reranker_stands_in_what_its_retriever_learns_from(kind):
    shop, directory = written(kind)
    assert not events_of_targets(shop, shop.parts.rerank) & events_of_sequences(shop, directory, "train")
