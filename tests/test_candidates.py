"""Which items are handed to the reranker and what it reads of each, held to numpy loops over one query at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import shops
import tensorflow as tf

from tfmm import closed_form, schema
from tfmm.candidates import dense_wire, example_lists
from tfmm.ragged import Ragged
from tfmm.serving.queries import Query, build_request

NOW = shops.START + 99 * shops.DAY
DECAY = shops.CONFIG.candidates.decay
QUERIES = [
    Query(history=["i4", "i8", "i4", "i12"], times=[NOW - 900, NOW - 800, NOW - 700, NOW - 10], time=NOW),
    Query(history=[f"i{row}" for row in range(1, 48, 4)], time=NOW, context=["region=north"]),  # longer than is read
    Query(history=["i3"], events=["purchase"]),
    Query(),
    Query(history=["i2", "i5"], time=NOW, exclude=["i6", "i10", "nobody", "i9"]),
]


def encode(queries: list[Query]) -> dict[str, tf.Tensor]:
    return shops.candidates().encode_query({name: tf.constant(c) for name, c in build_request(queries).items()})


def rows_of(ids: list[str]) -> list[int]:
    return [int(item[1:]) for item in ids]


def test_unknown_ids_and_empty_ones_are_passed_over_wherever_they_stand():
    times = [NOW - 500, NOW - 400, NOW - 300, NOW - 200, NOW - 100]
    events = ["view", "purchase", "view", "no such event", "purchase"]
    dirty = encode([Query(history=["nobody", "i4", "", "i8", "i12"], times=times, events=events)])
    clean = encode(
        [Query(history=["i4", "i8", "i12"], times=[times[1], times[3], times[4]], events=["purchase", "", "purchase"])]
    )
    assert dirty["rows"].numpy().tolist()[0][:3] == [4, 8, 12]
    assert all(row == -1 for row in dirty["rows"].numpy()[0][3:])
    np.testing.assert_allclose(dirty["vector"], clean["vector"], rtol=1e-5, atol=1e-6)


def test_the_newest_events_are_read_but_all_are_seen():
    encoded = encode([QUERIES[1]])
    history = list(range(1, 48, 4))
    assert encoded["rows"].numpy()[0].tolist() == history[-shops.CONFIG.towers.max_length :]
    newest = encode([Query(history=[f"i{row}" for row in history[-8:]], time=NOW, context=["region=north"])])
    np.testing.assert_allclose(encoded["vector"], newest["vector"], rtol=1e-5, atol=1e-6)
    assert not set(shops.candidates().pool(encoded).numpy()[0].tolist()) & set(history)


def test_a_batch_of_mixed_queries_is_answered_as_one_by_one():
    together = encode(QUERIES)
    pools = shops.candidates().pool(together).numpy()
    for number, query in enumerate(QUERIES):
        alone = encode([query])
        np.testing.assert_allclose(together["vector"][number], alone["vector"][0], rtol=1e-3, atol=1e-4)
        assert pools[number].tolist() == shops.candidates().pool(alone).numpy()[0].tolist()


def naive_pool(query: Query, vector: np.ndarray) -> list[int]:
    """Returns the retrieved by cosine, then the others by co-visits, of what is neither seen nor excluded."""
    candidates, config = shops.candidates(), shops.CONFIG.candidates
    banned = {f"i{row}" for row in range(shops.ITEMS)} & {*query.history, *query.exclude}
    free = [row for row in range(shops.ITEMS) if f"i{row}" not in banned]
    cosine = candidates.corpus.numpy() @ vector
    near = sorted(free, key=lambda row: -cosine[row])[: config.retrieved]
    scores = naive_co_visits(rows_of(query.history)[-8:])
    further = sorted((row for row in free if row not in near and scores[row] > 0), key=lambda row: -scores[row])
    return near + further[: config.co_visited]


def naive_co_visits(history: list[int], *, newest: int = 99) -> np.ndarray:
    """Returns `[num_items]`: item-item weights towards each item, summed over the newest items of the history."""
    neighbours, weights = (part.numpy() for part in shops.candidates().neighbours)
    scores = np.zeros(shops.ITEMS)
    for age, row in enumerate(reversed(history)):
        if age < newest:
            for other, weight in zip(neighbours[row], weights[row]):
                scores[other] += DECAY**age * weight if other >= 0 else 0
    return scores


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_the_pool_is_the_nearest_then_the_co_visited(number):
    encoded = encode([QUERIES[number]])
    pool = shops.candidates().pool(encoded).numpy()[0].tolist()
    expected = naive_pool(QUERIES[number], encoded["vector"].numpy()[0])
    assert len(pool) == shops.candidates().size
    assert pool == expected + [-1] * (len(pool) - len(expected))
    assert len(set(expected)) == len(expected)


def test_only_what_is_allowed_comes_into_the_pool_and_padding_stands_right():
    allowed = np.isin(np.arange(shops.ITEMS), [0, 7, 20, 33])
    encoded = encode([QUERIES[0]])
    pool = shops.candidates().pool(encoded, allowed=tf.constant(allowed[np.newaxis])).numpy()[0].tolist()
    assert set(pool[:4]) == {0, 7, 20, 33}
    assert set(pool[4:]) == {-1}
    _, rows = shops.candidates().retrieve(encoded, k=3, allowed=tf.zeros([1, shops.ITEMS], tf.bool))
    assert rows.numpy().tolist() == [[-1, -1, -1]]


# --- What the scorer reads -------------------------------------------------------------------------------------------

LIST = [5, 56, 13, 48, 0, 31]


def features_of(query: Query, rows: list[int]) -> dict[str, np.ndarray]:
    """Returns feature name -> `[list_size]`."""
    read = shops.candidates().features(encode([query]), tf.constant([rows]))
    assert read["example"].shape[-1] == len(shops.candidates().feature_names)
    return dict(zip(shops.candidates().feature_names, read["example"].numpy()[0].T))


def modal_vectors() -> dict[str, np.ndarray]:
    """Returns modality -> `[num_items, dim]` of length 1, zeros where the item lacks it."""
    features, tower = shops.features(), shops.retriever().towers.candidate
    columns = {name: tf.constant(column[:-1]) for name, column in features.columns.items()}
    vectors = tower.project(columns).numpy().astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    present = features.columns["present"][:-1]
    return {name: vectors[:, i] * present[:, i : i + 1] for i, name in enumerate(tower.modalities)}


def likeness(vectors: np.ndarray, history: list[int], weights: list[float]) -> list[float]:
    mean = sum((weight * vectors[row] for row, weight in zip(history, weights)), np.zeros(vectors.shape[1]))
    length = np.linalg.norm(mean)
    return [float(vectors[row] @ mean / length) if length else 0.0 for row in LIST]


def naive_features(query: Query) -> dict[str, np.ndarray]:
    candidates, events = shops.candidates(), shops.shop().parts.train
    history = rows_of(query.history)[-shops.CONFIG.towers.max_length :]
    weights = [DECAY**age for age in reversed(range(len(history)))]
    near = candidates.corpus.numpy()[LIST] @ encode([query])["vector"].numpy()[0] / shops.CONFIG.retrieval.temperature
    told = naive_co_visits(history)[LIST]
    launched = shops.dataset().items.launched[LIST]
    days = np.maximum(query.time - launched, 0) / 86_400
    price = np.log1p(shops.dataset().items.numeric["price"])
    seen = np.isin(np.arange(shops.ITEMS), events.item)
    standard = (price - np.nanmean(price[seen])) / np.nanstd(price[seen])
    known = seen[LIST]  # of a new item, co-visits say nothing: it is taken for average
    age = (events.time.max() - events.time) / 86_400 / shops.CONFIG.candidates.half_life_days
    expected = {
        "retrieval": near,
        "co_visited_in_list": np.where(known, (told - told[known].mean()) / (told[known].std() or 1.0), 0.0),
        "retrieval_in_list": (near - near.mean()) / near.std(),
        "co_visited": told,
        "co_visited_last": naive_co_visits(history, newest=1)[LIST],
        "age_of_launch": np.where((launched > 0) & (query.time > 0), np.log1p(days), 0.0),
        "history_length": np.full(len(LIST), np.log1p(len(history))),
        "popularity": np.log1p([np.sum(events.item == row) for row in LIST]),
        "recent_popularity": np.log1p([np.sum(0.5 ** age[events.item == row]) for row in LIST]),
        "price": np.nan_to_num(standard[LIST]),
    }
    for name, vectors in modal_vectors().items():
        if name != "id":
            expected[f"{name}_like_history"] = np.array(likeness(vectors, history, weights))
            expected[f"{name}_like_last"] = np.array(likeness(vectors, history[-1:], [1.0]))
    return expected


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_each_feature_is_what_a_plain_loop_computes(number):
    found, expected = features_of(QUERIES[number], LIST), naive_features(QUERIES[number])
    missing = set(found) - set(expected)
    assert not missing, f"write an oracle for {missing}"
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=2e-3, atol=2e-3, err_msg=name)


def test_the_oracle_does_not_pass_by_features_that_are_always_zero():
    for name, values in features_of(QUERIES[0], LIST).items():
        assert np.abs(values).max() > 1e-3, name


def test_a_candidates_features_do_not_depend_on_the_others_but_for_its_place_among_them():
    whole = features_of(QUERIES[0], LIST)
    for place, row in enumerate(LIST):
        for name, values in features_of(QUERIES[0], [row]).items():
            if not name.endswith("_in_list"):
                np.testing.assert_allclose(values[0], whole[name][place], rtol=1e-4, atol=1e-5, err_msg=name)


def test_padding_changes_no_feature_and_has_none():
    padded = features_of(QUERIES[0], [*LIST, -1, -1])
    for name, values in features_of(QUERIES[0], LIST).items():
        np.testing.assert_allclose(padded[name][: len(LIST)], values, rtol=1e-4, atol=1e-5, err_msg=name)
        assert not padded[name][len(LIST) :].any()
    read = shops.candidates().features(encode([QUERIES[0]]), tf.constant([[3, -1]]))
    assert read["mask"].numpy().tolist() == [[True, False]]


def test_a_list_of_equal_scores_has_finite_features():
    assert all(np.all(np.isfinite(values)) for values in features_of(QUERIES[3], [7]).values())
    assert all(np.all(values == 0) for values in features_of(QUERIES[3], [-1, -1]).values())


# --- Example lists ---------------------------------------------------------------------------------------------------


def test_lists_are_labelled_pools_and_those_without_a_target_are_left_out():
    queries, shop = shops.shop().parts.rerank, shops.shop()
    wire = shop.wire(queries)
    lists = example_lists(shops.candidates(), queries, wire, shop.dataset.items.ids, batch_size=25)
    asked = {name: tf.constant(column) for name, column in dense_wire(wire, slice(None)).items()}
    pools, kept = shops.candidates().pool(shops.candidates().encode_query(asked)).numpy(), 0
    for query in range(len(queries)):
        pool = [row for row in pools[query].tolist() if row >= 0]
        targets = set(queries.targets[query].tolist())
        if not targets & set(pool):
            continue
        assert rows_of(lists.items[kept].tolist()) == pool
        start, stop = lists.items.offsets[kept : kept + 2]
        assert lists.labels[start:stop].tolist() == [float(row in targets) for row in pool]
        assert rows_of(lists.query[schema.HISTORY][kept].tolist()) == queries.history[query].tolist()
        assert lists.query[schema.QUERY_TIME][kept] == queries.time[query]
        kept += 1
    assert len(lists) == kept > len(queries) / 2


def test_queries_without_any_target_in_reach_give_no_lists():
    queries, shop = shops.shop().parts.test.take(np.arange(2)), shops.shop()
    seen = Ragged.from_rows([history[:1] for history in queries.history], np.int32)  # never in a pool
    lists = example_lists(
        shops.candidates(), dataclasses.replace(queries, targets=seen), shop.wire(queries), shop.dataset.items.ids
    )
    assert len(lists) == len(lists.labels) == 0


def test_the_wire_has_every_input_and_what_is_not_known_is_empty():
    queries = shops.shop().parts.test
    wire = dense_wire(shops.shop().wire(queries), slice(2, 5))
    for name, spec in schema.query_signature().items():
        assert wire[name].shape[0] == 3, name
        assert wire[name].ndim == spec.shape.rank, name
        assert tf.constant(wire[name]).dtype == spec.dtype, name
    assert wire[schema.EXCLUDE].shape == wire[schema.FILTERS].shape == (3, 0)
    assert wire[schema.QUERY_TEXT].tolist() == [""] * 3
    for row in range(3):
        known = [item for item in wire[schema.HISTORY][row] if item]
        assert rows_of(known) == queries.history[row + 2].tolist()
        names = [shops.EVENT_TYPES[event] for event in queries.events[row + 2]]
        assert wire[schema.HISTORY_EVENTS][row].tolist()[: len(names)] == names
        assert wire[schema.HISTORY_TIMES][row].tolist()[: len(names)] == queries.times[row + 2].tolist()


def test_what_is_known_of_items_comes_from_the_given_events_alone():
    events = shops.shop().parts.train
    expected = closed_form.popularity(events.item, num_items=shops.ITEMS)
    place = shops.candidates().feature_names.index("popularity")
    for row in (0, 17, int(shops.COLD[0])):
        read = shops.candidates().features(encode([QUERIES[0]]), tf.constant([[row]]))
        assert read["example"].numpy()[0, 0, place] == pytest.approx(np.log1p(expected[row]), rel=1e-5)
