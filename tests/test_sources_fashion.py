"""Kaggle's fashion catalogue and the queries asked of it come out as they were published; dirt is counted."""

from __future__ import annotations

import csv
import io
import json
import os
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfmm import sources
from tfmm.sources.spoken import load_spoken
from tfmm.splits import SplitConfig, split

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
ROWS = [
    "15,Men,Apparel,Topwear,Shirts,Navy Blue,Fall,2011,Casual,Turtle Check Men Navy Blue Shirt",
    "39,Women,Apparel,Bottomwear,Jeans,NA,,2012,NA,Blue Jeans",
    '7,Women,Apparel,Bottomwear,Shorts,Pink,Summer,,Sports,"Nike EM 3.5"" Pink Short"',
]


def catalogue(home: Path, rows: list[str] = ROWS, gold: object = None, newline: str = "\n") -> Path:
    (home / "images").mkdir(parents=True)
    (home / "styles.csv").write_bytes((newline.join([HEADER, *rows]) + newline).encode())
    if gold is not None:
        (home / "relevance").mkdir()
        (home / "relevance" / "title_to_image.json").write_text(gold if isinstance(gold, str) else json.dumps(gold))
    return home


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 6, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


def test_the_catalogue_says_what_the_file_says(tmp_path):
    home = catalogue(tmp_path)
    (home / "images" / "39.jpg").write_bytes(jpeg())
    dataset = sources.load("fashion", data_dir=home)
    items = dataset.items
    assert items.ids.tolist() == ["15", "39", "7"]
    titles = ["Turtle Check Men Navy Blue Shirt", "Blue Jeans", 'Nike EM 3.5" Pink Short']
    assert items.text.tolist() == items.titles.tolist() == titles
    fields = {name: [row.tolist() for row in values] for name, values in items.categorical.items()}
    assert set(fields) == set(HEADER.split(",")) - {"id", "year", "productDisplayName"}
    assert fields["baseColour"] == [["Navy Blue"], [], ["Pink"]]
    assert fields["season"] == [["Fall"], [], ["Summer"]]
    assert fields["usage"] == [["Casual"], [], ["Sports"]]
    np.testing.assert_array_equal(items.numeric["year"], [2011, 2012, np.nan])
    assert items.images.present.tolist() == [False, True, False]
    assert items.images.read(1) == jpeg()
    assert (len(dataset.users), len(dataset.interactions), dataset.queries, dataset.findings) == (0, 0, None, ())


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_commas_that_no_quotes_protect_belong_to_the_title(tmp_path, newline):
    row = "8,Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,Shirt, red, long"
    dataset = sources.load("fashion", data_dir=catalogue(tmp_path, [*ROWS, row, ROWS[0]], newline=newline))
    assert dataset.items.text.tolist()[3] == "Shirt, red, long"
    assert dataset.items.titles.tolist()[2] == 'Nike EM 3.5" Pink Short'
    findings = {finding.problem: finding for finding in dataset.findings}
    mended = findings.pop("delimiter that no quotes protect")
    assert (mended.count, mended.action) == (1, "repaired")
    assert mended.example.startswith("styles.csv row 5 column productDisplayName: '8,Men,")
    assert set(findings) == {"duplicate item id"}


def test_dirt_of_a_catalogue_is_counted_with_its_place(tmp_path):
    rows = [
        *ROWS,
        ",Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,Nameless",
        "7,Women,Apparel,Bottomwear,Shorts,Pink,Summer,,Sports,Another",
        "9,Men,Apparel,Topwear,Shirts,Red,Fall,soon,Casual,",
        "10,Men,Apparel",
    ]
    home = catalogue(tmp_path, rows)
    (home / "images" / "9.jpg").write_bytes(jpeg()[:40])
    dataset = sources.load("fashion", data_dir=home)
    assert {f.problem: (f.count, f.example) for f in dataset.findings} == {
        "row with a wrong number of fields": (
            1,
            "styles.csv row 8: expected 10 fields, got 3: '10,Men,Apparel'",
        ),
        "item without an id": (1, "styles.csv row 5 column id: ''"),
        "duplicate item id with other content": (1, "styles.csv row 6 column id: '7'"),
        "item without text": (1, "styles.csv row 7 column productDisplayName: ''"),
        "attribute that is not a number": (1, "styles.csv row 7 column year: 'soon'"),
        "image that cannot be decoded": (1, "styles.csv row 7: 'images/9.jpg'"),
    }
    assert dataset.items.titles.tolist()[-1] == "9"
    assert not dataset.items.images.present.any()


def test_title_queries_mean_the_products_that_the_file_grades(tmp_path):
    gold = {"pink short": {"7": 2, "15": 1, "39": 0}, "gone": {"404": 1}, " ": {"7": 1}, "jeans": {"39": 0.5, "405": 1}}
    dataset = sources.load("fashion", data_dir=catalogue(tmp_path, gold=gold))
    queries = dataset.queries
    assert queries.texts.tolist() == ["pink short", "jeans"]
    assert [dataset.items.ids[row].tolist() for row in queries.relevant] == [["7", "15"], ["39"]]
    assert [row.tolist() for row in queries.grades] == [[2, 1], [0.5]]
    assert {f.problem: (f.count, f.example) for f in dataset.findings} == {
        "unknown item id": (2, "title_to_image.json row 2 column gone: '404'"),
        "query without a relevant item": (1, "title_to_image.json row 2: 'gone'"),
        "query without text": (1, "title_to_image.json row 3: ' '"),
    }


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        ("{", r"expected \{title: \{product id: grade\}\}, got something else"),
        (["a"], r"expected \{title: .*got .*'a'"),
        ({"a": ["7"]}, r"for the title 'a', got .*7"),
        ({"a": {"7": "high"}}, "with numbers for the title 'a'"),
    ],
)
def test_gold_that_is_not_in_its_form_is_refused(tmp_path, gold, said):
    with pytest.raises(ValueError, match=said):
        sources.load("fashion", data_dir=catalogue(tmp_path, gold=gold))


def test_a_catalogue_that_is_not_there_names_what_is(tmp_path):
    (tmp_path / "style.csv").write_text("id\n")
    with pytest.raises(ValueError, match=r"expected styles.csv, got style.csv; the nearest is 'style.csv'"):
        sources.load("fashion", data_dir=tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        sources.load("fashion", data_dir=tmp_path / "none")
    with pytest.raises(ValueError, match="Kaggle's styles.csv.*Give --data_dir"):
        sources.load("fashion")
    (tmp_path / "styles.csv").write_text("id,gender,title\n1,Men,x\n")
    with pytest.raises(ValueError, match="'articleType' is missing"):
        sources.load("fashion", data_dir=tmp_path)


def test_a_catalogue_alone_is_nothing_to_split(tmp_path):
    dataset = sources.load("fashion", data_dir=catalogue(tmp_path))
    with pytest.raises(ValueError, match="Expected interactions to split, got none"):
        split(dataset, SplitConfig())


# --- Spoken queries --------------------------------------------------------------------------------------------------


def spoken(home: Path, rows: list[str]) -> Path:
    (home / "train").mkdir(parents=True)
    for name in ("one", "two"):
        with wave.open(str(home / "train" / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.arange(160, dtype="<i2").tobytes())
    (home / "train" / "no.wav").write_bytes(b"OggS")
    for name in ("train", "validation"):
        (home / f"{name}.csv").write_text("\n".join(["path,text,baseColour,articleType,voice", *rows]) + "\n")
    return home


def test_spoken_queries_keep_what_was_said_and_lose_what_cannot_be_heard(tmp_path):
    rows = [
        "train/one.wav,red shoes,Red,Shoes,ann",
        "train/two.wav,shoes,,Shoes,bob",
        "train/none.wav,hats,,Hats,ann",
        "train/no.wav,caps,,Caps,ann",
        "train/one.wav,,,Caps,ann",
    ]
    train, validation = load_spoken(spoken(tmp_path, rows))
    assert train.texts.tolist() == validation.texts.tolist() == ["red shoes", "shoes"]
    assert (train.base_colours.tolist(), train.article_types.tolist()) == (["Red", ""], ["Shoes", "Shoes"])
    assert train.voices.tolist() == ["ann", "bob"]
    assert len(train.sounds.read(1)) == 44 + 320  # a WAV header, and 160 samples of two bytes
    assert {f.problem: (f.count, f.example) for f in train.findings} == {
        "sound file not found": (1, "train.csv row 4 column path: 'train/none.wav'"),
        "sound that is not a WAV file": (1, "train.csv row 5 column path: 'train/no.wav'"),
        "spoken query without a sound": (2, "train.csv row 4 column path: 'train/none.wav'"),
        "query without text": (1, "train.csv row 6 column text: ''"),
    }


def test_spoken_queries_without_any_sound_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one spoken query after cleaning"):
        load_spoken(spoken(tmp_path, ["train/none.wav,hats,,Hats,ann"]))
    (tmp_path / "validation.csv").unlink()
    (tmp_path / "train.csv").write_text("path,text\ntrain/one.wav,hat\n")
    with pytest.raises(ValueError, match="'baseColour' is missing"):
        load_spoken(tmp_path)


# --- Shared data -----------------------------------------------------------------------------------------------------


def shared(name: str) -> Path:
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    home = Path(os.environ.get("TFMM_DATA", default)) / name
    if not home.is_dir():
        pytest.skip(f"needs {name} in $TFMM_DATA (default ../shared/data)")
    return home


@pytest.mark.data
def test_the_real_catalogue_has_the_published_counts():
    home = shared("fashion")
    dataset = sources.load("fashion", data_dir=home)
    assert (len(dataset.items), int(dataset.items.images.present.sum())) == (44_446, 9_583)
    with (home / "styles.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert dataset.items.text.tolist() == [row["productDisplayName"].strip() for row in rows]
    for name, values in dataset.items.categorical.items():
        assert ["".join(row) for row in values] == [row[name] if row[name] != "NA" else "" for row in rows], name
    gold = json.loads((home / "relevance" / "title_to_image.json").read_text())
    found = zip(dataset.queries.texts, dataset.queries.relevant, dataset.queries.grades)
    read = {text: dict(zip(dataset.items.ids[rows], map(float, grades))) for text, rows, grades in found}
    assert read == gold
    assert dataset.items.images.present[dataset.queries.relevant.values].all()
    assert dataset.findings == ()


@pytest.mark.data
def test_the_real_spoken_queries_are_of_the_real_catalogue():
    train, validation = load_spoken(shared("spoken-queries"))
    assert (len(train), len(validation)) == (750, 125)
    assert not set(train.voices) & set(validation.voices)
    with (shared("fashion") / "styles.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(train.article_types) | set(validation.article_types) <= {row["articleType"] for row in rows} | {""}
    assert set(train.base_colours) | set(validation.base_colours) <= {row["baseColour"] for row in rows} | {""}
    assert train.findings == validation.findings == ()
