"""Amazon's sequences and reviews become one kind of Dataset, in the published protocol; dirt is counted."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfmm import sources
from tfmm.config import parse
from tfmm.splits import split

LINES = ["1 1 2 3 4 5", "2 6 4 10 1 2", "3 5 1 6 2 4 3"]
ATTRIBUTES = {"1": [7, 8], "10": [8], "6": []}


def sequences(home: Path, name: str = "Toys", lines: list[str] = LINES, attributes: object = ATTRIBUTES) -> Path:
    home.mkdir(exist_ok=True)
    (home / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (home / f"{name}_item2attributes.json").write_text(json.dumps(attributes))
    return home


def histories(dataset) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for user, item in zip(dataset.interactions.user, dataset.interactions.item):
        found.setdefault(dataset.users.ids[user], []).append(dataset.items.ids[item])
    return found


# --- Sequences -------------------------------------------------------------------------------------------------------


def test_sequences_keep_their_order_and_items_their_attributes(tmp_path):
    dataset = sources.load("amazon", data_dir=sequences(tmp_path))
    assert histories(dataset) == {line.split()[0]: line.split()[1:] for line in LINES}
    assert dataset.interactions.time.tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6]
    assert dataset.items.ids.tolist() == ["1", "2", "3", "4", "5", "6", "10"]
    assert [row.tolist() for row in dataset.items.categorical["attribute"]] == [["7", "8"], [], [], [], [], [], ["8"]]
    assert (dataset.name, dataset.findings, dataset.event_types) == ("amazon-Toys", (), ("review",))


def test_the_last_item_is_the_test_the_one_before_validation_and_in_the_tests_history(tmp_path):
    dataset = sources.load("amazon", data_dir=sequences(tmp_path))
    config = parse(["--source", "amazon", "--data_dir", str(tmp_path)])
    parts = split(dataset, config.splits)

    def ids(rows) -> list[str]:
        return dataset.items.ids[rows].tolist()

    lines = [line.split()[1:] for line in LINES]
    assert [ids(row) for row in parts.test.targets] == [line[-1:] for line in lines]
    assert [ids(row) for row in parts.test.history] == [line[:-1] for line in lines]
    assert [ids(row) for row in parts.validation.targets] == [line[-2:-1] for line in lines]
    assert [ids(row) for row in parts.validation.history] == [line[:-2] for line in lines]
    assert ids(parts.refit.item) == [item for line in lines for item in line[:-2]]


def test_dirt_of_sequences_is_counted_with_its_place(tmp_path):
    home = sequences(tmp_path, lines=[*LINES[:1], "", "9", "1 6 6", *LINES[1:]], attributes={"1": [7, 7], "77": [1]})
    dataset = sources.load("amazon", data_dir=home)
    assert {f.problem: (f.count, f.action, f.example) for f in dataset.findings} == {
        "line that is not a user and items": (1, "dropped", "Toys.txt row 3: '9'"),
        "duplicate user id": (1, "dropped", "Toys.txt row 4 column user: '1'"),
        "unknown item id": (1, "dropped", "Toys_item2attributes.json row 2: '77'"),
    }
    assert histories(dataset) == {line.split()[0]: line.split()[1:] for line in LINES}
    assert dataset.items.categorical["attribute"][0].tolist() == ["7"]


def test_sequences_need_no_attributes(tmp_path):
    home = sequences(tmp_path)
    (home / "Toys_item2attributes.json").unlink()
    assert sources.load("amazon", data_dir=home).items.categorical == {}


@pytest.mark.parametrize(
    ("held", "said"), [([1], r"\{item: \[attribute"), ({"1": 7}, "list of attributes for item '1', got '7'")]
)
def test_attributes_that_are_no_lists_are_refused(tmp_path, held, said):
    with pytest.raises(ValueError, match=said):
        sources.load("amazon", data_dir=sequences(tmp_path, attributes=held))


def test_a_subset_is_needed_where_there_are_several_and_the_nearest_is_named(tmp_path):
    sequences(sequences(tmp_path), "Sports")
    (tmp_path / "README.txt").write_text("Two sets.\n")
    with pytest.raises(ValueError, match="expected one set, got Sports, Toys. Choose one: --subset Sports"):
        sources.load("amazon", data_dir=tmp_path)
    with pytest.raises(ValueError, match="one of Sports, Toys; got 'Toy'; the nearest is 'Toys'"):
        sources.load("amazon", data_dir=tmp_path, subset="Toy")
    assert sources.load("amazon", data_dir=tmp_path, subset="Sports").name == "amazon-Sports"
    (tmp_path / "Toys_5.json").write_text("{}")
    with pytest.raises(ValueError, match="expected one set, got Toys.txt, Toys_5.json"):
        sources.load("amazon", data_dir=tmp_path, subset="Toys")
    assert sources.load("amazon", data_dir=tmp_path, subset="Toys.txt").name == "amazon-Toys"


def test_a_folder_without_any_set_says_what_is_expected(tmp_path):
    (tmp_path / "README.txt").write_text("Nothing.\n")
    with pytest.raises(ValueError, match="S3-Rec's sequences.*got README.txt"):
        sources.load("amazon", data_dir=tmp_path)
    with pytest.raises(ValueError, match="expected a folder"):
        sources.load("amazon", data_dir=tmp_path / "none")
    with pytest.raises(ValueError, match="Give --data_dir"):
        sources.load("amazon")


# --- Reviews ---------------------------------------------------------------------------------------------------------

OF_2018 = [
    {"reviewerID": "A1", "asin": "B2", "unixReviewTime": 1500000000, "overall": 5.0, "reviewText": "x", "vote": "2"},
    {"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1400000000, "overall": 2.0, "style": {"Size:": "L"}},
    {"reviewerID": "A2", "asin": "B1", "unixReviewTime": 1400000100, "overall": 4.0, "verified": True},
    {"reviewerID": "A2", "asin": "B3", "unixReviewTime": 1400000200, "overall": 1.0},
]
META_2018 = [
    {
        "asin": "B1",
        "title": "Soap &amp; Towel",
        "description": ["Washes<br />\n<b>well</b>.", "Smells."],
        "feature": ["100 g"],
        "brand": "Clean",
        "price": "$1,012.50 - $2,000.00",
        "category": ["Beauty", "Soap &amp; Co", '<span class="x">'],
        "imageURL": ["http://x/1.jpg"],
        "rank": ">#1,000",
    },
    {"asin": "B9", "title": "Nobody's", "price": "$1.00"},
    {
        "asin": "B2",
        "title": "var start = (new Date()).getTime();",
        "price": ".a-box{color: red}",
        "brand": "",
    },
]
OF_2023 = [
    {
        "user_id": row["reviewerID"],
        "parent_asin": row["asin"],
        "asin": "C" + row["asin"],
        "timestamp": row["unixReviewTime"] * 1000 + 7,
        "rating": row["overall"],
        "images": [{"small": "http://x"}],
    }
    for row in OF_2018
]
META_2023 = [
    {
        "parent_asin": "B1",
        "title": "Soap & Towel",
        "description": ["Washes well.", "Smells."],
        "features": ["100 g"],
        "store": "Clean",
        "price": 1012.5,
        "categories": ["Beauty", "Soap & Co"],
        "details": {"Weight": "100 g"},
        "images": [{"large": "http://x"}],
    },
    {"parent_asin": "B9", "title": "Nobody's", "price": None},
    {"parent_asin": "B2", "title": "", "price": None, "store": None, "details": {"Colour": "red", "Weight": 3}},
]


def reviews(home: Path, name: str, rows: list, meta: list | None = None, *, end: str = ".json") -> Path:
    for stem, content in ((name, rows), ("meta_" + name.replace("_5", "").replace("reviews_", ""), meta)):
        if content is not None:
            text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in content) + "\n"
            data = gzip.compress(text.encode()) if end.endswith(".gz") else text.encode()
            (home / (stem + end)).write_bytes(data)
    return home


PUBLISHED = {
    "2018": ("Beauty_5", OF_2018, META_2018, ".json.gz"),
    "2018 unpacked": ("reviews_Beauty_5", OF_2018, META_2018, ".json"),
    "2023": ("Beauty", OF_2023, META_2023, ".jsonl"),
}


@pytest.mark.parametrize("published", PUBLISHED)
def test_reviews_of_every_year_say_the_same(tmp_path, published):
    name, rows, meta, end = PUBLISHED[published]
    dataset = sources.load("amazon", data_dir=reviews(tmp_path, name, rows, meta, end=end), subset="Beauty")
    assert (dataset.name, dataset.users.ids.tolist()) == ("amazon-Beauty", ["A1", "A2"])
    assert dataset.items.ids.tolist() == ["B2", "B1", "B3"]
    assert histories(dataset) == {"A1": ["B1", "B2"], "A2": ["B1", "B3"]}
    assert dataset.interactions.time.tolist() == [1400000000, 1500000000, 1400000100, 1400000200]
    assert dataset.interactions.value.tolist() == [2, 5, 4, 1]
    assert dataset.items.titles.tolist() == ["B2", "Soap & Towel", "B3"]
    assert dataset.items.text.tolist() == ["", "Soap & Towel. Washes well. Smells.. 100 g", ""]
    fields = {field: [row.tolist() for row in values] for field, values in dataset.items.categorical.items()}
    assert fields == {"brand": [[], ["Clean"], []], "category": [[], ["Beauty", "Soap & Co"], []]}
    np.testing.assert_array_equal(dataset.items.numeric["price"], np.float32([np.nan, 1012.5, np.nan]))


def test_dirt_of_reviews_is_counted_with_its_place(tmp_path):
    rows = [*OF_2018, "{'reviewerID': 'A3'}", {**OF_2018[0], "reviewerID": None}, OF_2018[0]]
    dataset = sources.load("amazon", data_dir=reviews(tmp_path, "Beauty", rows, META_2018))
    assert {f.problem: (f.count, f.action, f.example) for f in dataset.findings} == {
        "line that is not a JSON object": (1, "dropped", "Beauty.json row 5: \"{'reviewerID': 'A3'}\""),
        "event without a user id": (1, "dropped", "Beauty.json row 6 column reviewerID: ''"),
        "exact duplicate event": (1, "dropped", "Beauty.json row 7 column asin: 'B2'"),
        "event earlier than the one above it": (1, "repaired", "Beauty.json row 2 column unixReviewTime: '1400000000'"),
        "product without a review": (1, "dropped", "meta_Beauty.json row 2 column asin: 'B9'"),
        "item without metadata": (1, "kept", "meta_Beauty.json has no asin 'B3'"),
        "title that is a script": (
            1,
            "repaired",
            "meta_Beauty.json row 3 column title: 'var start = (new Date()).getTime();'",
        ),
        "item without text": (
            1,
            "kept",
            "meta_Beauty.json row 3 column title: 'var start = (new Date()).getTime();'",
        ),
        "price that is not a number": (
            1,
            "repaired",
            "meta_Beauty.json row 3 column price: '.a-box{color: red}'",
        ),
    }


@pytest.mark.parametrize(
    ("price", "number"),
    [("$12.99", 12.99), ("from 3.50", 3.5), (12.99, 12.99), ("—", None), (None, None), ("$.50", 0.5), ("x", None)],
)
def test_a_price_is_its_number(tmp_path, price, number):
    meta = [{"asin": "B1", "price": price}, {"asin": "B2", "price": 7}]  # of several types, as 2023 has them
    dataset = sources.load("amazon", data_dir=reviews(tmp_path, "Beauty", OF_2018, meta))
    expected = [7, np.nan if number is None else number, np.nan]
    np.testing.assert_array_equal(dataset.items.numeric["price"], np.array(expected, np.float32))


def test_values_of_mixed_types_are_read_as_lists_are(tmp_path):
    meta = [{"asin": "B1", "title": "Soap", "description": "One text", "price": 1}, {**META_2018[0], "asin": "B2"}]
    dataset = sources.load("amazon", data_dir=reviews(tmp_path, "Beauty", OF_2018, meta))
    assert dataset.items.text.tolist()[1] == "Soap. One text"
    assert dataset.items.categorical["category"][0].tolist() == ["Beauty", "Soap & Co"]


def test_reviews_without_metadata_are_events_of_bare_items(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = sources.load("amazon", data_dir=reviews(tmp_path, "Beauty", OF_2018))
    assert (dataset.items.categorical, dataset.items.numeric, dataset.findings[1:]) == ({}, {}, ())
    assert dataset.items.titles.tolist() == ["B2", "B1", "B3"]
    assert "no meta_Beauty" in caplog.text


def test_pictures_beside_the_reviews_are_the_items(tmp_path):
    home = reviews(tmp_path, "Beauty", OF_2018, META_2018)
    (home / "images").mkdir()
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    (home / "images" / "B1.jpg").write_bytes(out.getvalue())
    (home / "images" / "B2.jpg").write_bytes(b"no picture")
    dataset = sources.load("amazon", data_dir=home)
    assert dataset.items.images.present.tolist() == [False, True, False]
    broken = [str(finding) for finding in dataset.findings if "decoded" in finding.problem]
    assert broken == ["image that cannot be decoded: 1 dropped, e.g. meta_Beauty.json row 3: 'images/B2.jpg'"]


def test_objects_that_are_no_reviews_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected reviewerID, asin, unixReviewTime \(2018\) or user_id, .*\(2023\)"):
        sources.load("amazon", data_dir=reviews(tmp_path, "Beauty", [{"user": 1, "item": 2}]))


# --- Shared data -----------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "counts"),
    [("Beauty", (22_363, 12_101, 198_502, 637)), ("Sports_and_Outdoors", (35_598, 18_357, 296_337, 2_277))],
)
def test_the_real_sequences_have_the_published_counts_and_protocol(name, counts):
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    home = Path(os.environ.get("TFMM_DATA", default)) / "amazon"
    if not home.is_dir():
        pytest.skip("needs amazon in $TFMM_DATA (default ../shared/data)")
    dataset = sources.load("amazon", data_dir=home, subset=name)
    attributes = dataset.items.categorical["attribute"]
    found = (len(dataset.users), len(dataset.items), len(dataset.interactions), len(set(attributes.values)))
    assert (found, dataset.findings) == (counts, ())
    lines = [line.split()[1:] for line in (home / f"{name}.txt").read_text().splitlines()]
    assert list(histories(dataset).values()) == lines
    parts = split(dataset, parse(["--source", "amazon", "--subset", name]).splits)
    for queries, back in ((parts.test, 1), (parts.validation, 2)):
        assert dataset.items.ids[queries.targets.values].tolist() == [line[-back] for line in lines]
        assert dataset.items.ids[queries.history.values].tolist() == [item for line in lines for item in line[:-back]]
