"""What a `Dataset` refuses, and what its fingerprint covers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import shops

from tfmm.ragged import Ragged
from tfmm.sources.dataset import Dataset, Finding, Interactions, KnownQueries, Media, Users


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


def queries(**changes) -> KnownQueries:
    """Returns three queries: typed, spoken, and typed and spoken, answered by items 4 and 5, none, and item 0."""
    silent = Media.missing(3)
    given = {
        "texts": np.array(["a lamp", "", "a shoe"], object),
        "sounds": Media(np.array([None, b"RIFF", b"RIFF"], object)),
        "images": silent,
        "relevant": Ragged(np.array([4, 5, 0], np.int32), np.array([0, 2, 2, 3])),
        "grades": Ragged(np.array([2, 1, 1], np.float32), np.array([0, 2, 2, 3])),
    }
    return KnownQueries(**{**given, **changes})


def test_a_query_may_be_typed_spoken_or_both_and_its_answers_unknown():
    known = small(queries=queries()).queries
    assert [known.relevant[row].tolist() for row in range(len(known))] == [[4, 5], [], [0]]
    assert known.sounds.present.tolist() == [False, True, True]


def test_typed_queries_without_grades_have_equal_ones():
    relevant = queries().relevant
    typed = KnownQueries.typed(np.array(["a", "b", "c"], object), relevant)
    assert [row.tolist() for row in typed.grades] == [[1, 1], [], [1]]
    assert not typed.sounds.present.any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sounds": Media.missing(3)}, "none in row 1"),
        ({"images": Media.missing(2)}, r"3 rows in queries.images .*got 2"),
        ({"relevant": Ragged(np.array([4, 5, 0]), np.array([0, 1, 2, 3]))}, "a grade for each relevant item"),
        ({"grades": Ragged(np.array([2.0, 0.0, 1.0]), np.array([0, 2, 2, 3]))}, r"grades above 0, got 0\.0"),
    ],
)
def test_queries_that_do_not_fit_together_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        queries(**changes)


def test_a_relevant_item_outside_the_catalogue_is_refused():
    with pytest.raises(ValueError, match=rf"queries.relevant within 0..{shops.ITEMS - 1}, got 0..{shops.ITEMS}"):
        small(queries=queries(relevant=Ragged(np.array([shops.ITEMS, 5, 0]), np.array([0, 2, 2, 3]))))


def test_queries_leave_the_fingerprint_alone_and_a_published_split_does_not():
    plain = small()
    parts = np.zeros(len(plain.interactions), np.int8)
    assert small(queries=queries()).fingerprint() == plain.fingerprint()
    split = small(published_split=parts).fingerprint()
    assert split != plain.fingerprint()
    assert small(published_split=changed(parts, 3, 1)).fingerprint() != split


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (np.zeros(5, np.int8), r"int8 \[960\] \(one an event\), got int8 \[5\]"),
        (np.zeros(960, np.int64), "got int64"),
        (np.full(960, 3, np.int8), r"published_split within 0..2, got 3..3"),
    ],
)
def test_a_published_split_that_does_not_fit_is_refused(parts, said):
    with pytest.raises(ValueError, match=said):
        small(published_split=parts)


def test_a_catalogue_needs_no_users_and_no_events():
    alone = small(users=Users(np.zeros(0, object)), interactions=Interactions.none())
    assert (len(alone.users), len(alone.interactions), len(alone.items)) == (0, 0, shops.ITEMS)
    assert alone.fingerprint() != small().fingerprint()


def test_events_of_unknown_time_keep_the_order_of_the_file():
    user, item = np.array([1, 0, 1, 0, 1]), np.array([9, 3, 2, 1, 5])
    nothing = np.zeros(5)
    events = Interactions.ordered(user=user, item=item, time=nothing, event=nothing, value=nothing)
    assert events.item.tolist() == [3, 1, 9, 2, 5]
