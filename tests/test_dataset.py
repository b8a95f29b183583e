"""What a `Dataset` refuses, and what its fingerprint covers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import shops

from tfmm.ragged import Ragged
from tfmm.sources.dataset import Dataset, Finding, Interactions, Media, Users


def small(**changes) -> Dataset:
    return dataclasses.replace(shops.dataset(), **changes)


def with_items(**changes) -> Dataset:
    return small(items=dataclasses.replace(shops.dataset().items, **changes))


def with_events(**changes) -> Dataset:
    return small(interactions=dataclasses.replace(shops.dataset().interactions, **changes))


def changed(column: np.ndarray, row: int, value: object) -> np.ndarray:
    column = column.copy()
    column[row] = value
    return column


def test_events_are_ordered_by_user_then_time_then_file():
    columns = {"user": [1, 0, 1, 0], "item": [0, 1, 2, 3], "time": [5, 9, 5, 2]}
    events = Interactions.ordered(
        **{name: np.array(column) for name, column in columns.items()}, event=np.zeros(4), value=np.arange(4)
    )
    assert events.user.tolist() == [0, 0, 1, 1]
    assert events.item.tolist() == [3, 1, 0, 2]
    assert events.time.tolist() == [2, 9, 5, 5]
    assert events.value.tolist() == [3, 1, 0, 2]


def test_a_repeated_id_is_named():
    ids = shops.dataset().items.ids
    with pytest.raises(ValueError, match="unique item ids.*i3"):
        with_items(ids=changed(ids, 0, "i3"))
    with pytest.raises(ValueError, match="unique user ids.*u9"):
        small(users=Users(changed(shops.dataset().users.ids, 0, "u9")))


def test_an_empty_id_is_refused():
    with pytest.raises(ValueError, match="every item to have an id"):
        with_items(ids=changed(shops.dataset().items.ids, 5, ""))


@pytest.mark.parametrize("column", ["text", "titles", "launched"])
def test_a_short_column_is_named(column):
    with pytest.raises(ValueError, match=rf"Expected 60 rows in items\.{column}.*got 59"):
        with_items(**{column: getattr(shops.dataset().items, column)[:-1]})


def test_a_short_field_is_named():
    items = shops.dataset().items
    with pytest.raises(ValueError, match="items.price"):
        with_items(numeric={"price": items.numeric["price"][:5]})
    with pytest.raises(ValueError, match="items.brand"):
        with_items(categorical={"brand": items.categorical["brand"].take(np.arange(5))})
    with pytest.raises(ValueError, match="items.image"):
        with_items(vectors={"image": items.vectors["image"][:5]})


@pytest.mark.parametrize(("column", "value"), [("item", 60), ("item", -1), ("user", 80), ("event", 2)])
def test_events_of_what_does_not_exist_are_refused(column, value):
    rows = getattr(shops.dataset().interactions, column)
    with pytest.raises(ValueError, match=rf"interactions\.{column} within 0\.\."):
        with_events(**{column: changed(rows, len(rows) - 1, value)})


def test_events_out_of_order_are_refused():
    events = shops.dataset().interactions
    for order in (np.arange(len(events))[::-1], np.r_[1, 0, 2 : len(events)]):
        shuffled = Interactions(*(getattr(events, field.name)[order] for field in dataclasses.fields(events)))
        with pytest.raises(ValueError, match="ordered by user and time"):
            small(interactions=shuffled)


def test_the_fingerprint_repeats():
    assert small().fingerprint() == shops.dataset().fingerprint()
    assert len(small().fingerprint()) == 16


@pytest.mark.parametrize(
    "other",
    [
        lambda d: with_items(text=changed(d.items.text, 0, "x")),
        lambda d: with_items(titles=changed(d.items.titles, 0, "x")),
        lambda d: with_items(launched=d.items.launched + 1),
        lambda d: with_items(numeric={"cost": d.items.numeric["price"]}),
        lambda d: with_items(numeric={"price": d.items.numeric["price"] + 1}),
        lambda d: with_items(vectors={"image": -d.items.vectors["image"]}),
        lambda d: with_items(categorical={**d.items.categorical, "brand": Ragged.from_rows([["x"]] * 60, object)}),
        lambda d: with_items(images=Media(changed(d.items.images.sources, 7, b"picture"))),
        lambda d: with_items(sounds=Media(changed(d.items.sounds.sources, 7, b"sound"))),
        lambda d: with_events(value=d.interactions.value * 2),
        lambda d: with_events(event=1 - d.interactions.event),
        lambda d: with_events(time=d.interactions.time + 1),
        lambda d: small(users=Users(d.users.ids)),
        lambda d: small(event_types=("view", "cart")),
    ],
)
def test_the_fingerprint_changes_with_whatever_training_reads(other):
    assert other(shops.dataset()).fingerprint() != shops.dataset().fingerprint()


def test_a_value_that_moves_to_the_next_row_changes_the_fingerprint():
    rows = [["a"], ["b"]] + [[]] * 58
    moved = [["a", "b"], []] + [[]] * 58
    marks = [with_items(categorical={"x": Ragged.from_rows(r, object)}).fingerprint() for r in (rows, moved)]
    assert marks[0] != marks[1]


def test_media_are_bytes_files_or_nothing(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"from a file")
    media = Media(np.array([b"held", tmp_path / "a.jpg", None], object))
    assert media.present.tolist() == [True, True, False]
    assert [media.read(row) for row in range(3)] == [b"held", b"from a file", b""]
    assert Media.missing(2).present.tolist() == [False, False]


def test_a_finding_reads_as_a_sentence():
    assert str(Finding("unknown item id", "dropped", 3, "a.csv:7")) == "unknown item id: 3 dropped, e.g. a.csv:7"
