"""A shop's folder becomes one Dataset, whatever the files' kind; dirt is counted and treated by its rule."""

from __future__ import annotations

import io
import json
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tfmm import sources
from tfmm.sources import attributes, dirt, media

ITEMS = "id,title\n1,Red shoe\n2,Blue bag\n"
EVENTS = "user,item,time\nu,1,100\nu,2,200\n"


def shop(folder: Path, items: str = ITEMS, events: str = EVENTS, **others: str | bytes) -> Path:
    """Writes a shop's files; `others` are named with `__` for a dot and `_in_` for a slash."""
    files = {"items.csv": items, "interactions.csv": events}
    files.update({name.replace("__", ".").replace("_in_", "/"): content for name, content in others.items()})
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
    return folder


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(out, kind)
    return out.getvalue()


def bomb() -> bytes:
    """A small PNG whose header promises 60,000 x 60,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


# --- Round trips ---------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")) | st.sampled_from('\n",;|'), max_size=12)
ID = TEXT.map(str.strip).filter(bool)
ITEM = st.fixed_dictionaries(
    {
        "title": TEXT,
        "description": TEXT,
        "colour": st.lists(st.sampled_from(["red", "blue", "紅", "gr ün"]), max_size=3),
        "price": st.none() | st.floats(-1e6, 1e6, width=32),
        "launched": st.none() | st.dates().map(str),
    }
)


def write(folder: Path, kind: str, tables: dict[str, pd.DataFrame]) -> Path:
    folder.mkdir()
    for name, frame in tables.items():
        if kind == "parquet":
            frame.to_parquet(folder / f"{name}.parquet")
        elif kind == "jsonl":
            rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
            (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        else:
            flat = frame.assign(colour=frame.colour.map("|".join)) if "colour" in frame else frame
            flat.to_csv(folder / f"{name}.csv", index=False)
    return folder


@settings(deadline=None, max_examples=40)
@given(catalogue=st.dictionaries(ID, ITEM, min_size=1, max_size=6), data=st.data())
def test_csv_jsonl_and_parquet_of_one_shop_are_one_dataset(tmp_path_factory, catalogue, data):
    ids = list(catalogue)
    event = st.tuples(ID, st.sampled_from(ids), st.integers(1, 2**31), st.sampled_from(["view", "buy"]))
    events = data.draw(st.lists(event, min_size=1, max_size=8))
    tables = {
        "items": pd.DataFrame([{"item_id": item, **row} for item, row in catalogue.items()]),
        "interactions": pd.DataFrame(events, columns=["user_id", "item_id", "time", "event"]),
    }
    home = tmp_path_factory.mktemp("shop")
    read = [sources.load("folder", data_dir=write(home / kind, kind, tables)) for kind in ("csv", "jsonl", "parquet")]
    assert len({dataset.fingerprint() for dataset in read}) == 1
    assert len({dataset.event_types for dataset in read}) == 1
    assert [dataset.items.launched.tolist() for dataset in read] == [read[0].items.launched.tolist()] * 3
    dataset = read[0]
    assert dataset.items.ids.tolist() == ids
    expected = [
        ". ".join(filter(None, (row["title"].strip(), row["description"].strip()))) for row in catalogue.values()
    ]
    assert dataset.items.text.tolist() == expected
    rows = zip(dataset.interactions.user, dataset.interactions.item, dataset.interactions.time)
    got = {(dataset.users.ids[user], dataset.items.ids[item], time) for user, item, time in rows}
    assert got == {(user.strip(), item, time) for user, item, time, _ in events}


def test_columns_are_recognised_by_name_and_type_and_that_is_logged(tmp_path, caplog):
    review = "a long and quite different sentence that says what number {} is good for at length"
    rows = [
        f"{i},Thing {i},{'red|blue' if i % 2 else 'green'},{i}.5,2020-01-0{i % 9 + 1},{review.format(i)},X-{i:05d}"
        for i in range(60)
    ]
    items = "\n".join(["Product ID,Name,Colour,Price,Release Date,Advice,EAN", *rows])
    events = "customer_id,Product_ID,timestamp,rating\nu,1,1577836800000,4.5\n"
    with caplog.at_level(logging.INFO):
        dataset = sources.load("folder", data_dir=shop(tmp_path, items, events))
    assert dataset.items.ids[1] == "1" and dataset.items.text[1] == f"Thing 1. {review.format(1)}"
    assert dataset.items.categorical["Colour"][1].tolist() == ["red", "blue"] and list(dataset.items.categorical) == [
        "Colour"
    ]
    assert dataset.items.numeric["Price"][1] == 1.5 and list(dataset.items.numeric) == ["Price"]
    assert dataset.items.launched[1] == 1577923200
    assert dataset.interactions.time.tolist() == [1577836800] and dataset.interactions.value.tolist() == [4.5]
    for said in (
        "id = Product ID",
        "launched = Release Date",
        "categorical = Colour",
        "ignored = EAN",
        "text = Advice",
    ):
        assert said in caplog.text


def test_event_types_are_ordered_by_frequency_or_as_given(tmp_path):
    events = "user,item,time,event\nu,1,1,view\nu,1,2,view\nu,2,3,buy\nu,2,4,cart\nu,2,5,buy\nu,1,6,view\n"
    by_frequency = sources.load("folder", data_dir=shop(tmp_path / "a", events=events))
    assert by_frequency.event_types == ("view", "buy", "cart")
    given_order = sources.load(
        "folder", data_dir=shop(tmp_path / "b", events=events, dataset__yaml="event_types: [cart, buy]")
    )
    assert given_order.event_types == ("cart", "buy")
    assert given_order.interactions.event.tolist() == [1, 0, 1]
    assert [(found.problem, found.count) for found in given_order.findings] == [
        ("event type that dataset.yaml leaves out", 3)
    ]


def test_dataset_yaml_maps_columns_that_no_name_tells(tmp_path):
    said = """
name: my-shop
items: {id: a, title: b, categorical: [n], text: [c], ignore: [d], numeric: [e]}
interactions: {user: p, item: q, time: none}
"""
    items = "a,b,n,c,d,e\n1,One,38,x,z,1\n2,Two,39,y,z,2\n"
    dataset = sources.load("folder", data_dir=shop(tmp_path, items, "p,q\nu,2\nu,1\n", dataset__yaml=said))
    assert dataset.name == "my-shop" and dataset.items.text.tolist() == ["One. x", "Two. y"]
    assert list(dataset.items.categorical) == ["n"] and dataset.items.categorical["n"].values.tolist() == ["38", "39"]
    assert list(dataset.items.numeric) == ["e"]
    assert dataset.interactions.item.tolist() == [1, 0] and dataset.interactions.time.tolist() == [0, 1]


def test_users_get_context_and_numbers_become_quantiles(tmp_path):
    people = [f"u{i},{i},{'DE' if i < 30 else ''}" for i in range(60)]
    events = "user,item,time\n" + "".join(f"u{i},1,{i}\n" for i in range(59, -1, -1)) + "stranger,1,5\n"
    users = "\n".join(["user_id,age,country", *people])
    dataset = sources.load("folder", data_dir=shop(tmp_path, events=events, users__csv=users))
    context = {
        name: dict(zip(dataset.users.ids, map(list, field))) for name, field in dataset.users.categorical.items()
    }
    assert context["country"]["u3"] == ["DE"] and context["country"]["u45"] == [] == context["country"]["stranger"]
    sizes = pd.Series([context["age"][f"u{i}"][0] for i in range(60)]).value_counts()
    assert len(sizes) == 5 and sizes.tolist() == [12] * 5
    assert context["age"]["u0"] == ["0..11.8"] and context["age"]["stranger"] == []


def test_queries_are_grouped_with_their_distinct_items(tmp_path):
    queries = "query,item_id\nshoe,1\nbag,2\nshoe,2\nshoe,1\n"
    dataset = sources.load("folder", data_dir=shop(tmp_path, queries__csv=queries))
    assert dataset.queries.texts.tolist() == ["shoe", "bag"]
    assert [row.tolist() for row in dataset.queries.relevant] == [[0, 1], [1]]


def test_pictures_and_sounds_are_found_by_column_and_by_id(tmp_path):
    items = "id,title,image\n1,a,photos/x.png\n2,b,\n3,c,named.png\n4,d,\n"
    wav = b"RIFF\x24\0\0\0WAVEfmt "
    files = {
        "photos/x.png": picture(),
        "images/2.JPG": picture("JPEG"),
        "images/named.png": picture(),
        "sounds/4.wav": wav,
    }
    others = {name.replace("/", "_in_").replace(".", "__"): content for name, content in files.items()}
    dataset = sources.load("folder", data_dir=shop(tmp_path, items, **others))
    names = [source and source.name for source in dataset.items.images.sources]
    assert names == ["x.png", "2.JPG", "named.png", None]
    assert dataset.items.sounds.present.tolist() == [False, False, False, True] and dataset.items.sounds.read(3) == wav
    assert dataset.findings == ()


def test_vectors_follow_the_items_that_are_kept(tmp_path):
    items = "id,title\n1,a\n2,b,too many\n1,again\n\n,nobody\n3,c\n"  # rows of the file: 1, bad, 1 again, nameless, 3
    folder = shop(tmp_path, items, "user,item,time\nu,3,1\n")
    np.save(folder / "clip.npy", np.arange(10, dtype=np.float16).reshape(5, 2))
    dataset = sources.load("folder", data_dir=folder)
    assert dataset.items.ids.tolist() == ["1", "3"]
    np.testing.assert_array_equal(dataset.items.vectors["clip"], [[0, 1], [8, 9]])
    np.save(folder / "clip.npy", np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"clip.npy: expected numbers \[5, dim\].*got float64 \[2, 2\]"):
        sources.load("folder", data_dir=folder)


# --- Dirt ------------------------------------------------------------------------------------------------------------

HEAD = "user,item,time,event,value\n"
CLEAN = "u,1,100,view,1\nv,2,100,view,1\n"
NUMBERS = "id,title,price\n" + "".join(f"{i},t,{i}\n" for i in range(1, 20))

CASES = {
    "row with a wrong number of fields": (
        1,
        "items.csv row 4: expected 2 fields, got 3: '3,x,y'",
        {"items": ITEMS + "3,x,y\n"},
    ),
    "line that is not a JSON object": (
        1,
        "queries.jsonl row 1: 'oops'",
        {"queries__jsonl": 'oops\n{"query": "a", "item": 1}'},
    ),
    "byte that cannot be decoded": (
        1,
        "items.csv row 4 column title: 'sh\ufffdoe'",
        {"items": ITEMS + "3,sh\udcffoe\n"},
    ),
    "cell that holds whole rows": (
        1,
        "items.csv row 2 column title: 'open,9\\n2,b,9'",
        {"items": 'id,title,size\n1,"open,9\n2,b,9",9\n3,c,9\n', "events": "user,item,time\nu,1,1\n"},
    ),
    "space around an id": (1, "items.csv row 4 column id: ' 3'", {"items": ITEMS + " 3,x\n"}),
    "item without an id": (2, "items.csv row 4 column id: ''", {"items": ITEMS + ",x\n ,y\n"}),
    "duplicate item id": (1, "items.csv row 4 column id: '1'", {"items": ITEMS + "1,Red shoe\n"}),
    "duplicate item id with other content": (1, "items.csv row 4 column id: '1'", {"items": ITEMS + "1,Green\n"}),
    "item without text": (2, "items.csv row 4 column title: ''", {"items": ITEMS + "3,\n4, \n"}),
    "image file not found": (
        1,
        "items.csv row 2 column image: 'no.png'",
        {"items": "id,title,image\n1,a,no.png\n2,b,\n"},
    ),
    "image that cannot be decoded": (
        1,
        "items.csv row 2: '1.jpg'",
        {"images_in_1__jpg": b"<html>", "images_in_2__png": picture()},
    ),
    "image with too many pixels": (1, "items.csv row 3: '2.png'", {"images_in_2__png": bomb()}),
    "sound file not found": (
        1,
        "items.csv row 2 column sound: 'no.wav'",
        {"items": "id,title,sound\n1,a,no.wav\n2,b,\n"},
    ),
    "sound that is not a WAV file": (1, "items.csv row 3: '2.wav'", {"sounds_in_2__wav": b"ID3 mp3"}),
    "attribute that is not a number": (
        1,
        "items.csv row 21 column price: 'cheap'",
        {"items": NUMBERS + "99,t,cheap\n"},
    ),
    "launch date that cannot be read": (
        2,
        "items.csv row 3 column launched: 'soon'",
        {"items": "id,title,launched\n1,a,2020-01-01\n2,b,soon\n3,c,1960-01-01\n4,d,\n"},
    ),
    "user without an id": (1, "users.csv row 2 column id: ''", {"users__csv": "id,country\n,DE\nu,DE\n"}),
    "duplicate user id": (1, "users.csv row 3 column id: 'u'", {"users__csv": "id,country\nu,DE\nu,FR\n"}),
    "event without a user id": (
        1,
        "interactions.csv row 4 column user: ''",
        {"events": HEAD + CLEAN + ",1,3,view,1\n"},
    ),
    "event without an item id": (
        1,
        "interactions.csv row 4 column item: ''",
        {"events": HEAD + CLEAN + "u,,300,view,1\n"},
    ),
    "unknown item id": (1, "interactions.csv row 4 column item: '9'", {"events": HEAD + CLEAN + "u,9,300,view,1\n"}),
    "time that cannot be read": (
        2,
        "interactions.csv row 4 column time: 'x'",
        {"events": HEAD + CLEAN + "u,1,x,view,1\nu,1,,view,1\n"},
    ),
    "negative time": (1, "interactions.csv row 4 column time: '-5'", {"events": HEAD + CLEAN + "w,1,-5,view,1\n"}),
    "value that is not a number": (
        1,
        "interactions.csv row 4 column value: 'x'",
        {"events": HEAD + CLEAN + "w,1,5,view,x\nx,1,5,view,\n"},
    ),
    "event without a type": (1, "interactions.csv row 4 column event: ''", {"events": HEAD + CLEAN + "w,1,5,,1\n"}),
    "event type that dataset.yaml leaves out": (
        1,
        "interactions.csv row 4 column event: 'ping'",
        {"events": HEAD + CLEAN + "w,1,5,ping,1\n", "dataset__yaml": "event_types: [view]"},
    ),
    "exact duplicate event": (
        1,
        "interactions.csv row 4 column item: '1'",
        {"events": HEAD + CLEAN + "u,1,100,view,1\n"},
    ),
    "event earlier than the one above it": (
        1,
        "interactions.csv row 4 column time: '99'",
        {"events": HEAD + CLEAN + "u,1,99,view,1\n"},
    ),
    "query without text": (1, "queries.csv row 3 column query: ''", {"queries__csv": "query,item\nshoe,1\n,2\n"}),
}


@pytest.mark.parametrize("problem", CASES)
def test_dirt_is_counted_with_its_place_and_nothing_else_is_found(tmp_path, problem):
    count, where, files = CASES[problem]
    dataset = sources.load("folder", data_dir=shop(tmp_path, **files))
    assert [(found.problem, found.count, found.example) for found in dataset.findings] == [(problem, count, where)]
    assert dataset.findings[0].action == dirt.RULES[problem]


def test_vectors_with_infinite_values_are_missing(tmp_path):
    folder = shop(tmp_path)
    np.save(folder / "clip.npy", np.array([[1, 2], [np.inf, 0]]))
    dataset = sources.load("folder", data_dir=folder)
    assert np.isnan(dataset.items.vectors["clip"][1]).all() and dataset.items.vectors["clip"][0].tolist() == [1, 2]
    assert str(dataset.findings[0]) == "vector that is not finite: 1 repaired, e.g. clip.npy row 2: '[inf, 0.0]'"


def test_every_documented_rule_is_tested():
    elsewhere = {"vector that is not finite", "movie without a year", "movie without genres", "duplicate overview"}
    elsewhere |= {"delimiter that no quotes protect", "query without a relevant item", "spoken query without a sound"}
    elsewhere |= {"event that an earlier part has", "line that is not a user and items", "product without a review"}
    elsewhere |= {"item without metadata", "title that is a script", "price that is not a number"}
    assert set(CASES) | elsewhere == set(dirt.RULES)
    assert set(dirt.RULES.values()) == {"dropped", "repaired", "kept"}


def test_what_is_repaired_reads_as_the_rule_says(tmp_path):
    events = HEAD + "u ,1,300,view,x\nu,2,100,,2\nu,2,100,,2\n v,2,100,view,\nv,9,1,view,1\n"
    dataset = sources.load("folder", data_dir=shop(tmp_path, "id,title\n 1,a\n2,b\n1,c\n", events))
    assert dataset.items.ids.tolist() == ["1", "2"] and dataset.items.text.tolist() == ["a", "b"]
    events_read = dataset.interactions
    assert dataset.users.ids.tolist() == ["u", "v"] and dataset.event_types == ("view",)
    assert events_read.time.tolist() == [100, 300, 100] and events_read.item.tolist() == [1, 0, 1]
    assert events_read.value.tolist() == [2, 1, 1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_whole_pictures_pass_and_cut_ones_do_not(kind):
    whole = picture(kind, (64, 64))
    assert media.image_problem(whole) is None
    assert media.image_problem(whole + b"\n") is None  # some cameras and servers append bytes
    assert media.image_problem(whole[: len(whole) // 2]) == "image that cannot be decoded"
    assert media.image_problem(whole[:10]) == "image that cannot be decoded"


def test_a_decompression_bomb_is_never_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were decoded"))
    assert media.image_problem(bomb()) == "image with too many pixels"


@settings(deadline=None, max_examples=100)
@given(
    st.binary(max_size=40), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF"])
)
@example(b"\x00" * 40, b"BM")
def test_no_bytes_make_the_picture_check_fail(noise, head):
    assert media.image_problem(head + noise) in (None, "image that cannot be decoded", "image with too many pixels")


# --- Refusals --------------------------------------------------------------------------------------------------------

REFUSED = {
    "no items": (
        {"items.txt": ITEMS, "interactions.csv": EVENTS},
        ["expected one of items.csv", "items.txt", "the nearest is 'items.txt'"],
    ),
    "no events": ({"items.csv": ITEMS}, ["expected one of interactions.csv", "got items.csv"]),
    "no item column": (
        {"items.csv": ITEMS, "interactions.csv": "user,itme_id,time\nu,1,1\n"},
        ["interactions.csv row 1", "'item'", "nearest is 'itme_id'", "interactions: {item: itme_id}"],
    ),
    "no time column": (
        {"items.csv": ITEMS, "interactions.csv": "user,item\nu,1\n"},
        ["expected a column for 'time'", "dataset.yaml"],
    ),
    "unknown key": ({"dataset.yaml": "item: {}\n"}, ["dataset.yaml", "'item'", "the nearest is 'items'"]),
    "unknown inner key": ({"dataset.yaml": "items: {titel: x}\n"}, ["dataset.yaml: items", "the nearest is 'title'"]),
    "unknown column": (
        {"items.csv": ITEMS, "dataset.yaml": "items: {title: tilte}\n"},
        ["items.csv", "items.title of dataset.yaml", "'tilte'", "the nearest is 'title'"],
    ),
    "no list": ({"dataset.yaml": "event_types: view\n"}, ["event_types: expected a list", "'view'"]),
    "no yaml": ({"dataset.yaml": "a: [\n"}, ["dataset.yaml: expected YAML"]),
    "no encoding": (
        {"items.csv": "id\né\n", "dataset.yaml": "encoding: utf-88\n"},
        ["items.csv", "encoding", "'utf-88'"],
    ),
    "no event left": (
        {"items.csv": ITEMS, "interactions.csv": "user,item,time\nu,9,1\nu,1,01/02/2020\n"},
        ["interactions.csv", "at least one event", "unknown item id: 1", "row 3 column time: '01/02/2020'"],
    ),
    "no item left": (
        {"items.csv": "id,title\n,a\n"},
        ["items.csv", "at least one item", "item without an id: 1 dropped"],
    ),
    "too many types": (
        {"items.csv": ITEMS, "interactions.csv": "user,item,time,type\n" + "".join(f"u,1,1,t{i}\n" for i in range(65))},
        ["interactions.csv row 1 column type", "at most 64", "got 65", "event: none"],
    ),
    "no array": ({"items.csv": ITEMS, "clip.npy": "zz"}, ["clip.npy: expected an array that numpy.save wrote"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_place_value_and_remedy(tmp_path, case):
    files, said = REFUSED[case]
    for name, content in files.items():
        (tmp_path / name).write_text(content, "utf-8" if case != "no encoding" else "latin-1")
    with pytest.raises(ValueError) as error:
        sources.load("folder", data_dir=tmp_path)
    for words in said:
        assert words in str(error.value)


def test_unknown_sources_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one of demo, .*amazon, letor; got 'movielense'; the nearest is 'movielens'"):
        sources.load("movielense")
    with pytest.raises(ValueError, match="Give --data_dir"):
        sources.load("folder")
    with pytest.raises(ValueError, match="got '.*nowhere'"):
        sources.load("folder", data_dir=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Give --source folder"):
        sources.load("demo", data_dir=tmp_path)


@pytest.mark.parametrize(
    "values, kind",
    [
        (["red", "blue"] * 30, attributes.CATEGORICAL),
        ([f"{i}" for i in range(60)], attributes.NUMERIC),
        ([f"{i}" for i in range(57)] + ["x", "y", "z"], attributes.NUMERIC),
        ([f"{i}" for i in range(40)] + ["x"] * 20, attributes.IGNORED),
        ([f"words about thing {i} and more" for i in range(60)], attributes.TEXT),
        ([f"关于产品{i}的说明文字" for i in range(60)], attributes.TEXT),
        ([f"https://shop.example/{i}.jpg" for i in range(60)], attributes.IGNORED),
        ([""] * 60, attributes.IGNORED),
        (["a|b", "b|c", "c"] * 20, attributes.CATEGORICAL),
        ([[f"tag{i % 5}", "new"] for i in range(60)], attributes.CATEGORICAL),
        ([{"a": i} for i in range(60)], attributes.IGNORED),
        ([True, False] * 30, attributes.CATEGORICAL),
    ],
)
def test_the_kind_of_a_column_is_told_by_its_values(values, kind):
    import pyarrow as pa

    assert attributes.kind(pa.chunked_array([values])) == kind
