"""One suite that every system of the zoo passes, on a shop whose right answers are known by construction."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import shops

from tfmm import evaluation, zoo
from tfmm.features import ATTRIBUTES, NUMERIC, PRESENT
from tfmm.ragged import Ragged
from tfmm.sources.dataset import Interactions
from tfmm.splits import Queries, split
from tfmm.zoo.training import TrainingConfig

BARE = int(shops.COLD[-1])  # neither content nor events: see `data`
STRANGER = shops.USERS  # a user row without any event
UNPERSONAL = ("popularity", "recent_popularity")
FAST = ("popularity", "recent_popularity", "item_knn", "ease", "ease_plain", "ease_content", "ials", "bpr", "lightgcn")
PACKAGES = {name: system.package for name, system in zoo.SYSTEMS.items() if system.package}


def marks(name: str) -> list:
    """Returns why a system may not be tested here: it takes long, or its package is absent."""
    if name in PACKAGES:
        reason = f"pip install tfmm[bench] for {PACKAGES[name]}"
        return [pytest.mark.skipif(not zoo.installed(PACKAGES[name]), reason=reason)]
    return [] if name in FAST else [pytest.mark.slow]


NAMES = [pytest.param(name, marks=marks(name)) for name in zoo.SYSTEMS]
TRAINING = TrainingConfig(epochs=14, patience=4, batch_size=256, negatives=3, learning_rate=1e-2)


@functools.cache
def data() -> zoo.Data:
    """Returns the shop of groups, with an item of which nothing is known, and a user who did nothing."""
    found = zoo.data_of(shops.CONFIG, shops.shop())
    columns = {name: column.copy() for name, column in found.items.columns.items()}
    for name in (*found.items.content, ATTRIBUTES, PRESENT):
        columns[name][BARE] = 0
    columns[NUMERIC][BARE] = np.nan
    tokens = found.tokens.copy()
    tokens[BARE] = 0
    items = dataclasses.replace(found.items, columns=columns)
    return dataclasses.replace(found, items=items, tokens=tokens, num_users=shops.USERS + 1)


def small(config: object) -> object:
    """Returns the settings with little to train."""
    known = {field.name for field in dataclasses.fields(config)}
    wanted = {"dim": 16, "content_dim": 8, "training": TRAINING, "alphas": (0.3,), "l2": (0.1,), "epochs": 4}
    if not known & {"dim", "alphas"}:  # a closed form
        return config
    if "alphas" not in known:
        del wanted["l2"]
    return dataclasses.replace(config, **{name: value for name, value in wanted.items() if name in known})


def fit(name: str) -> zoo.Fitted:
    system = zoo.SYSTEMS[name]
    return system.fit(data(), small(system.config))


fitted = functools.cache(fit)


def test_queries() -> Queries:
    return shops.shop().parts.test


test_queries.__test__ = False  # type: ignore[attr-defined]


def strangers() -> Queries:
    """Returns a query of each group, by somebody whom training did not see."""
    history = Ragged.from_rows([[group, group + 4, group + 8] for group in range(shops.GROUPS)], np.int32)
    zeros = Ragged(np.zeros(len(history.values), np.int64), history.offsets)
    targets = Ragged.from_rows([[group + 12] for group in range(shops.GROUPS)], np.int32)
    late = np.full(shops.GROUPS, shops.START + 100 * shops.DAY)
    return Queries(np.full(shops.GROUPS, STRANGER, np.int32), history, zeros, zeros, targets, late)


@pytest.mark.parametrize("name", NAMES)
def test_it_finds_what_popularity_cannot(name):
    def quality(system: str) -> float:
        lists = zoo.recommend(fitted(system), test_queries(), data().launched)
        return evaluation.mean_ndcg(lists, test_queries())

    if name in UNPERSONAL:
        assert 0 < quality(name) < 0.2
    else:
        assert quality(name) > 2 * quality("popularity")


@pytest.mark.parametrize("name", NAMES)
def test_every_item_has_a_finite_score_whatever_it_lacks(name):
    for queries in (test_queries(), strangers()):
        scores = fitted(name).scores(queries)
        assert scores.shape == (len(queries), shops.ITEMS) and scores.dtype == np.float32
        assert np.isfinite(scores).all()
    assert data().present("image")[BARE] == data().tokens[BARE].any() == False  # noqa: E712
    assert BARE not in data().events.item


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_scores(name):
    np.testing.assert_allclose(fit(name).scores(test_queries()), fitted(name).scores(test_queries()), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_depends_on_the_user_and_the_history_and_not_on_answers_or_on_who_else_asks(name):
    queries = test_queries()
    shuffled = dataclasses.replace(queries, targets=queries.targets.take(np.arange(len(queries))[::-1]))
    whole = fitted(name).scores(queries)
    np.testing.assert_array_equal(fitted(name).scores(shuffled), whole)
    for row in (0, len(queries) - 1):
        np.testing.assert_allclose(fitted(name).scores(queries.take(np.array([row])))[0], whole[row], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_stranger_is_answered_by_the_history(name):
    lists = zoo.recommend(fitted(name), strangers(), data().launched)
    right = shops.group_of(lists.rows[:, :3]) == np.arange(shops.GROUPS)[:, np.newaxis]
    if name in UNPERSONAL:
        assert right.mean() < 0.5
    else:
        assert right.mean() > 0.7


def test_what_is_had_or_not_launched_yet_is_never_recommended():
    class Latest:
        def scores(self, queries: Queries) -> np.ndarray:
            return np.tile(np.arange(shops.ITEMS, dtype=np.float32), (len(queries), 1))

    after = strangers()
    before = dataclasses.replace(after, time=np.full(shops.GROUPS, shops.START + 90 * shops.DAY))
    late = set(np.flatnonzero(data().launched > shops.START + 90 * shops.DAY).tolist())
    assert 0 < len(late) < shops.GROUPS + 1 and late <= set(shops.COLD.tolist())
    for asked, closed in ((after, set()), (before, late)):
        lists = zoo.recommend(Latest(), asked, data().launched)
        for row, past in zip(lists.rows, asked.history):
            expected = [item for item in range(shops.ITEMS - 1, -1, -1) if item not in closed | set(past.tolist())]
            assert [item for item in row.tolist() if item >= 0] == expected


def test_no_event_after_training_is_in_what_systems_learn_from():
    shop = shops.shop()
    events = shop.dataset.interactions
    last = shop.parts.refit.time.max()
    rng = np.random.default_rng(0)
    later = events.time > max(last, shop.parts.validation.time.max())
    columns = {field.name: getattr(events, field.name).copy() for field in dataclasses.fields(events)}
    columns["item"][later] = rng.integers(0, shops.COLD[0], int(later.sum()))
    changed = dataclasses.replace(shop.dataset, interactions=Interactions(**columns))
    other = dataclasses.replace(shop, dataset=changed, parts=split(changed, shops.CONFIG.splits))
    assert later.sum() > 20 and other.parts.test.targets.values.tolist() != shop.parts.test.targets.values.tolist()
    one, two = zoo.data_of(shops.CONFIG, shop), zoo.data_of(shops.CONFIG, other)
    for field in dataclasses.fields(Interactions):
        np.testing.assert_array_equal(getattr(one.events, field.name), getattr(two.events, field.name))
    for name, column in one.items.columns.items():
        np.testing.assert_array_equal(column, two.items.columns[name])
    np.testing.assert_array_equal(one.tokens, two.tokens)


def test_an_unknown_system_names_the_nearest():
    with pytest.raises(ValueError, match="got 'lightgnc'. Did you mean lightgcn?"):
        zoo.chosen("popularity,lightgnc")
    with pytest.raises(ValueError, match="got none"):
        zoo.chosen(" , ")


def test_systems_come_in_the_order_of_the_table_each_once():
    assert zoo.chosen("vbpr, popularity,vbpr") == ["popularity", "vbpr"]
    assert zoo.chosen("all") == list(zoo.SYSTEMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=marks(n)) for n, s in zoo.SYSTEMS.items() if s.content])
@pytest.mark.parametrize("kept", ["image", ATTRIBUTES])
def test_a_shop_with_one_kind_of_content_is_enough(name, kept):
    """As of videos that are vectors alone, or of products that are attributes alone."""
    items = data().items
    columns = {**items.columns, PRESENT: items.columns[PRESENT][:, [0, items.modalities.index(kept)]]}
    items = dataclasses.replace(items, columns=columns, modalities=("id", kept))
    poor = dataclasses.replace(data(), items=items, tokens=np.zeros_like(data().tokens), vocabulary_size=1)
    config = small(zoo.SYSTEMS[name].config)
    if hasattr(config, "training"):
        config = dataclasses.replace(config, training=dataclasses.replace(TRAINING, epochs=1))
    with shops.eagerly():
        scores = zoo.SYSTEMS[name].fit(poor, config).scores(test_queries())
    assert np.isfinite(scores).all() and np.ptp(scores) > 0
