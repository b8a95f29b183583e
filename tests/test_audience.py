"""Which shoppers want a product: counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import shops

from tfmm import schema
from tfmm.audience import audience_table, everybody, likelihood
from tfmm.candidates import wire_queries
from tfmm.ragged import Ragged
from tfmm.splits import Queries

IDS = np.array([f"i{row}" for row in range(4)], object)
CONTEXT = Ragged.from_rows([[]] * 3, object)


def queries(history: list[list[int]], targets: list[list[int]]) -> Queries:
    past = Ragged.from_rows(history, np.int32)
    nothing = Ragged(np.zeros(len(past.values), np.int64), past.offsets)
    users = np.arange(len(history), dtype=np.int32)
    return Queries(users, past, nothing, nothing, Ragged.from_rows(targets, np.int32), np.zeros(len(users), np.int64))


def told(likely: np.ndarray, asked: list):
    """Returns a model that says `[shoppers, 4]` of whoever has this history, by its newest item."""

    def predict(inputs):
        asked.append(len(inputs[schema.QUERY_TIME]))
        rows = [[item for item in row if item] for row in inputs[schema.HISTORY].tolist()]
        places = [[int(item[1:]) for item in items] for items in inputs[schema.ITEM_IDS]]
        return {schema.SCORES: np.array([likely[int(row[-1][1:]), place] for row, place in zip(rows, places)])}

    return predict


def test_a_product_finds_the_shopper_who_wants_it_among_those_who_have_not_had_it():
    asked = queries([[0], [0, 1], [2, 3]], targets=[[3], [2], [1]])
    likely = np.zeros((4, 4))
    likely[0] = [0, 0, -5, -1]  # whoever came from item 0: wants 3, and more than anybody else who has not had it
    likely[1] = [0, 0, -1, -2]
    likely[3] = [-3, -4, 0, 0]  # of item 1, had by the second shopper, the first is likelier than who takes it
    wire = wire_queries(asked, IDS, ("view",), CONTEXT)
    table = audience_table(told(likely, []), wire, asked, IDS, seed=0)
    found = table["the towers"]["ndcg@10"]
    assert found["n"] == 3
    assert found["mean"] == pytest.approx((1 + 1 + 1 / np.log2(3)) / 3)
    active = table["the most active first"]["ndcg@10"][
        "mean"
    ]  # of item 3 the busier of two, of 2 the only one, of 1 too
    assert active == pytest.approx((1 / np.log2(3) + 1 + 1) / 3)


def test_shoppers_are_asked_in_batches_and_come_back_in_order():
    asked = queries([[0], [1], [2]], targets=[[3], [3], [3]])
    sizes: list[int] = []
    likely = np.arange(16.0).reshape(4, 4)
    wire = wire_queries(asked, IDS, ("view",), CONTEXT)
    found = likelihood(told(likely, sizes), wire, IDS[[1, 3]], batch_size=2)
    np.testing.assert_array_equal(found, likely[:3][:, [1, 3]])
    assert sizes == [2, 1]


def test_everybody_brings_all_that_was_ever_done_and_asks_when_the_data_ends():
    dataset = shops.dataset()
    events, found = dataset.interactions, everybody(shops.dataset())
    assert found.user.tolist() == sorted(set(events.user.tolist()))
    assert set(found.time.tolist()) == {int(events.time.max())}
    for place, user in enumerate(found.user[:5]):
        assert found.history[place].tolist() == events.item[events.user == user].tolist()
    assert not found.targets.lengths.any()
