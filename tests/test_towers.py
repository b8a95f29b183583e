"""The towers: what may look at what, what padding does, and what an unknown item or shopper gives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import shops
import tensorflow as tf

from tfmm.encoders.attributes import learn_attributes
from tfmm.features import ATTRIBUTES, ID, NUMERIC, PRESENT, SUBWORDS
from tfmm.towers import QueryTower, TowerConfig, Towers, look_up, unit

DIM, LENGTH = 16, 6
KINDS = ["attention", "pooling"]


def config(encoder: str = "attention", **others) -> TowerConfig:
    return TowerConfig(dim=DIM, encoder=encoder, blocks=2, max_length=LENGTH, **others)


def randomise(layer: tf.Module) -> None:
    """Gives every weight random values, as after training; moderate ones, so that no softmax is saturated."""
    rng = np.random.default_rng(5)
    for weight in layer.trainable_variables:
        weight.assign(rng.normal(0, 0.2, weight.shape))


def histories(length: int = LENGTH, batch: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    times = shops.START + np.cumsum(rng.integers(1, 10**6, (batch, length + 1)), axis=1)
    return {
        "vectors": rng.normal(size=(batch, length, DIM)).astype(np.float32),
        "mask": np.ones((batch, length), bool),
        "times": times[:, :-1],
        "asked": times,  # each position is asked when the next item comes
        "events": rng.integers(0, 2, (batch, length)).astype(np.int32),
        "context": rng.integers(0, 3, (batch, 2)).astype(np.int32),
    }


def query_tower(encoder: str) -> QueryTower:
    tower = QueryTower(config(encoder), num_events=2, num_context=3)
    tower(**histories())
    randomise(tower)
    return tower


def as_tensors(batch: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(column) for name, column in batch.items()}


def ask(tower: QueryTower, **batch: np.ndarray) -> np.ndarray:
    return tower(**as_tensors(batch)).numpy()


@pytest.mark.parametrize("encoder", KINDS)
@pytest.mark.parametrize("place", [0, 3, LENGTH - 1])
def test_a_later_item_never_changes_an_earlier_query(encoder, place):
    tower, batch = query_tower(encoder), histories()
    before = ask(tower, **batch)
    batch["vectors"][:, place:] *= -3
    batch["times"] = batch["times"] - 10**7 * (np.arange(LENGTH) >= place)
    batch["events"][:, place:] = 1 - batch["events"][:, place:]
    after = ask(tower, **batch)
    np.testing.assert_allclose(after[:, : place + 1], before[:, : place + 1], rtol=1e-5, atol=1e-5)
    assert np.all(np.abs(after[:, place + 1 :] - before[:, place + 1 :]).max(axis=-1) > 1e-3)


@pytest.mark.parametrize("encoder", KINDS)
@pytest.mark.parametrize("place", [1, LENGTH])
def test_when_a_query_is_asked_never_changes_an_earlier_one(encoder, place):
    tower, batch = query_tower(encoder), histories()
    before = ask(tower, **batch)
    after = ask(tower, **{**batch, "asked": batch["asked"] + 10**7 * (np.arange(LENGTH + 1) >= place)})
    np.testing.assert_allclose(after[:, :place], before[:, :place], rtol=1e-5, atol=1e-5)
    assert np.all(np.abs(after[:, place:] - before[:, place:]).max(axis=-1) > 1e-4)


@pytest.mark.parametrize("encoder", KINDS)
def test_padding_never_changes_the_queries(encoder):
    tower, batch = query_tower(encoder), histories(length=4)
    rubbish = histories(length=7, batch=3)
    padded = {
        name: np.concatenate([column, rubbish[name][:, column.shape[1] :]], axis=1)
        for name, column in batch.items()
        if name != "context"
    }
    padded["mask"][:, 4:] = False
    padded["times"][:, 4:] = 0
    found = ask(tower, **padded, context=np.pad(batch["context"], [(0, 0), (0, 3)]))
    np.testing.assert_allclose(found[:, :5], ask(tower, **batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", KINDS)
def test_a_history_longer_than_max_length_is_answered(encoder):
    found = ask(query_tower(encoder), **histories(length=3 * LENGTH))
    assert found.shape == (3, 3 * LENGTH + 1, DIM)
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize("encoder", KINDS)
def test_an_empty_history_gives_what_the_shopper_alone_says(encoder):
    tower, batch = query_tower(encoder), histories()
    empty = {name: column[:, :0] for name, column in batch.items() if name not in ("context", "asked")}
    empty["asked"] = batch["asked"][:, :1]
    context = np.array([[0, 0], [1, 0], [0, 1]], np.int32)
    found = ask(tower, **empty, context=context)
    assert found.shape == (3, 1, DIM)
    np.testing.assert_allclose(found[:, 0], ask(tower, **{**batch, "context": context})[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], found[2], rtol=1e-6)  # where a term stands among the paddings is no matter
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("encoder", KINDS)
@pytest.mark.parametrize("column", ["vectors", "times", "events", "context", "asked"])
def test_everything_that_is_known_of_a_history_counts(encoder, column):
    tower, batch = query_tower(encoder), histories()
    change = {"vectors": -3 * batch["vectors"], "times": -(10**7), "events": 1 - 2 * batch["events"], "asked": 10**7}
    changed = batch[column] + change[column] if column in change else (batch[column] + 1) % 3
    found = ask(tower, **{**batch, column: changed.astype(batch[column].dtype)})
    assert np.all(np.abs(found - ask(tower, **batch))[:, -1].max(axis=-1) > 1e-4)


def gaps(times: list[int], asked: list[int]) -> list[int]:
    """Returns the buckets of the gaps as the tower takes them: the index of the embedding that it adds."""
    tower = QueryTower(config(), num_events=2, num_context=3)
    batch = {**histories(len(times), 1), "times": np.array([times]), "asked": np.array([[0, *asked]])}
    tower(**as_tensors(batch))
    seen = []
    lookup = tower.gaps.call
    tower.gaps.call = lambda indices: seen.append(np.array(indices)) or lookup(indices)
    tower(**as_tensors(batch))
    return seen[0][0].tolist()


def test_gaps_until_the_query_are_bucketed_by_powers_of_two_of_seconds():
    # log2(1 + gap): 0 s -> 0, 1 s -> 1, 3 s -> 2, 1000 s -> 9.97, 86,400 s -> 16.4; plus 1 for "known".
    start = 1_000_000
    assert gaps([start] * 5, [start + gap for gap in (0, 1, 3, 1000, 86_400)]) == [1, 2, 3, 10, 17]


def test_unknown_times_and_times_out_of_order_are_harmless():
    assert gaps([0, 5, 0], [5, 0, 7]) == [0, 0, 0]
    assert gaps([100, 1], [50, 10**12]) == [1, 23]


@pytest.fixture(scope="module")
def towers() -> Towers:
    made = Towers(config(dropout=0.3), shops.features(), context=learn_attributes({}, {}), num_events=2)
    made.candidate({name: column[:2] for name, column in columns().items()})
    rows = tf.zeros([1, 1], tf.int32)
    none = tf.zeros([1], tf.int64)
    made.embed_queries(tf.zeros([2, DIM]), rows, tf.cast(rows, tf.int64), rows, tf.constant([[""]]), none)
    randomise(made)
    return made


def columns(rows: object = slice(None)) -> dict[str, tf.Tensor]:
    return {name: tf.constant(column[rows]) for name, column in shops.features().columns.items()}


def test_an_items_vector_does_not_depend_on_the_others_of_its_batch(towers):
    together = towers.candidate(columns()).numpy()
    alone = np.concatenate([towers.candidate(columns([row])).numpy() for row in range(0, 60, 7)])
    np.testing.assert_allclose(together[0:60:7], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("modality", [ID, "image", SUBWORDS, ATTRIBUTES])
def test_each_modality_counts_where_it_is_present_and_never_where_it_is_absent(towers, modality):
    batch, number = columns(), towers.candidate.modalities.index(modality)
    before = towers.candidate(batch).numpy()
    other = {**batch, modality: tf.roll(batch[modality], 1, axis=0)}
    present = batch[PRESENT].numpy()[:, number]
    if modality == ATTRIBUTES:
        other[NUMERIC] = tf.roll(batch[NUMERIC], 1, axis=0)
    changed = np.abs(towers.candidate(other).numpy() - before).max(axis=1) > 1e-4
    assert not changed[~present].any()
    assert changed[present].mean() > 0.8
    assert (~present).any()


def test_an_unknown_item_is_its_content_alone(towers):
    batch = columns([3, 8])
    hidden = {**batch, PRESENT: batch[PRESENT] & [False, True, True, True]}
    unknown = {**hidden, ID: tf.fill([2], shops.ITEMS)}
    np.testing.assert_array_equal(towers.candidate(unknown), towers.candidate(hidden))
    assert np.abs(towers.candidate(unknown).numpy() - towers.candidate(batch).numpy()).max() > 1e-2


def test_an_item_without_anything_has_a_finite_vector(towers):
    assert np.all(np.isfinite(towers.candidate(columns([shops.ITEMS])).numpy()))


def test_nothing_is_dropped_outside_training(towers):
    batch = columns()
    np.testing.assert_array_equal(towers.candidate(batch), towers.candidate(batch))
    assert np.abs((towers.candidate(batch, training=True) - towers.candidate(batch, training=True)).numpy()).max() > 0.1
    history = as_tensors({**histories(), "context": np.zeros((3, 0), np.int32)})
    np.testing.assert_array_equal(towers.query(**history), towers.query(**history))
    assert np.abs((towers.query(**history, training=True) - towers.query(**history, training=True)).numpy()).max() > 0.1


def test_ids_are_hidden_as_often_as_the_configuration_says():
    settings = config(id_dropout=0.3, modality_dropout=0.1)
    tower = Towers(settings, shops.features(), context=learn_attributes({}, {}), num_events=1).candidate
    kept = tower._kept(tf.constant(20_000)).numpy().mean(axis=0)
    np.testing.assert_allclose(kept, [0.7, 0.9, 0.9, 0.9], atol=0.015)


def queries(towers: Towers, items: list[list[int]], *, asked: int = 0) -> np.ndarray:
    table = tf.constant(np.random.default_rng(7).normal(size=(60, DIM)), tf.float32)
    rows = np.array(items, np.int32)
    times = np.where(rows >= 0, 1000 + 100 * np.arange(rows.shape[1]), 0)
    return towers.embed_queries(
        table,
        tf.constant(rows),
        tf.constant(times, tf.int64),
        tf.zeros_like(rows),
        tf.fill([len(rows), 0], ""),
        tf.fill([len(rows)], tf.constant(asked, tf.int64)),
    ).numpy()


def test_queries_have_length_1(towers):
    found = queries(towers, [[1, 2, 3], [4, -1, -1], [-1, -1, -1]])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("asked", [0, 5000])
def test_a_short_history_in_a_wide_batch_is_answered_as_alone(towers, asked):
    wide = queries(towers, [[1, 2, 3, 9, 8, 7], [4, -1, -1, -1, -1, -1], [5, 6, -1, -1, -1, -1], [-1] * 6], asked=asked)
    for row, alone in enumerate(([[1, 2, 3, 9, 8, 7]], [[4]], [[5, 6]], [[-1]])):
        np.testing.assert_allclose(wide[row], queries(towers, alone, asked=asked)[0], rtol=1e-4, atol=1e-5)


def test_when_it_is_asked_counts_where_there_is_a_history(towers):
    histories_of_two = [[1, 2], [-1, -1]]
    moved = np.abs(queries(towers, histories_of_two, asked=1200) - queries(towers, histories_of_two, asked=10**8))
    assert moved[0].max() > 1e-4
    assert moved[1].max() < 1e-6


def test_looking_up_nothing_gives_zeros():
    table = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    assert look_up(table, tf.constant([[1, -1, 0]])).numpy().tolist() == [[[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]]


def test_unit_keeps_zero_and_the_direction():
    np.testing.assert_allclose(unit(tf.constant([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


@pytest.mark.parametrize("bad", [{"encoder": "gru"}, {"dim": 15, "heads": 2}, {"fusion": "mean"}])
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="Expected"):
        dataclasses.replace(TowerConfig(), **bad)


def test_a_transformer_begins_as_the_newest_item():
    tower, batch = QueryTower(config("attention"), num_events=2, num_context=3), histories()
    found = ask(tower, **batch)[:, 1:]
    vectors = batch["vectors"]
    deviation = np.sqrt(vectors.var(axis=-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(found, (vectors - vectors.mean(axis=-1, keepdims=True)) / deviation, atol=1e-4)
