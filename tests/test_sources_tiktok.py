"""Micro-videos come with their vectors and keep their published parts, whatever the layout; dirt is counted."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from tfmm import sources
from tfmm.splits import SplitConfig, split

TRAIN = [("b", 3), ("a", 1), ("b", 0), ("a", 2)]
VALIDATION = [("a", 4), ("c", 1)]
TEST = [("b", 4), ("b", 1)]
VECTORS = np.arange(15, dtype=np.float16).reshape(5, 3)


def pairs_csv(pairs: list[tuple[str, object]]) -> str:
    return "\n".join(["user_id,item_id", *(f"{user},{item}" for user, item in pairs)]) + "\n"


def micro_videos(home: Path, **files: str) -> Path:
    """Writes the three parts as CSV, image and sound vectors; `files` are named with `__` for a dot."""
    home.mkdir(exist_ok=True)
    parts = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    texts = {f"{name}__csv": pairs_csv(pairs) for name, pairs in parts.items()}
    for name, text in {**texts, **files}.items():
        (home / name.replace("__", ".")).write_text(text)
    np.save(home / "image_feat.npy", VECTORS)
    np.save(home / "audio_feat.npy", -VECTORS[:, :2])
    return home


def events_of(dataset, part: int) -> dict[str, list[str]]:
    found = defaultdict(list)
    events = dataset.interactions
    for user, item, of in zip(events.user, events.item, dataset.published_split):
        if of == part:
            found[dataset.users.ids[user]].append(dataset.items.ids[item])
    return dict(found)


def test_videos_have_their_vectors_and_shoppers_their_parts(tmp_path):
    dataset = sources.load("tiktok", data_dir=micro_videos(tmp_path))
    assert dataset.items.ids.tolist() == ["0", "1", "2", "3", "4"]
    assert set(dataset.items.vectors) == {"image", "sound"}
    np.testing.assert_array_equal(dataset.items.vectors["image"], VECTORS.astype(np.float32))
    np.testing.assert_array_equal(dataset.items.vectors["sound"], -VECTORS[:, :2].astype(np.float32))
    assert events_of(dataset, 0) == {"a": ["1", "2"], "b": ["3", "0"]}
    assert events_of(dataset, 1) == {"a": ["4"], "c": ["1"]}
    assert events_of(dataset, 2) == {"b": ["4", "1"]}
    assert not dataset.interactions.time.any()
    assert (dataset.findings, dataset.event_types) == ((), ("like",))


def test_the_published_test_is_asked_where_there_is_one_and_else_validation(tmp_path):
    home = micro_videos(tmp_path)
    config = SplitConfig("published", rerank_share=0.4)
    with_test = split(sources.load("tiktok", data_dir=home), config)
    assert [sorted(row.tolist()) for row in with_test.test.targets] == [[1, 4]]
    (home / "test.csv").unlink()
    dataset = sources.load("tiktok", data_dir=home)
    without = split(dataset, config)
    assert [row.tolist() for row in without.test.targets] == [[4]]
    assert "no test part is published" in without.protocol["test"]
    assert without.protocol["not asked"].startswith("1 shopper")  # c has no training item


def test_json_parts_say_what_csv_parts_say(tmp_path):
    plain = sources.load("tiktok", data_dir=micro_videos(tmp_path / "csv"))
    home = micro_videos(tmp_path / "json")
    for name, stem, pairs in (("train", "train", TRAIN), ("validation", "val", VALIDATION), ("test", "test", TEST)):
        (home / f"{name}.csv").unlink()
        lists: dict[str, list[int]] = {}
        for user, item in pairs:
            lists.setdefault(user, []).append(item)
        (home / f"{stem}.json").write_text(json.dumps(lists))
    assert sources.load("tiktok", data_dir=home).fingerprint() == plain.fingerprint()


def test_dirt_of_the_parts_is_counted_with_its_place(tmp_path):
    train = pairs_csv([*TRAIN, ("a", 1), ("a", 5), ("", 1), ("d", "")])
    validation = pairs_csv([("a", 2), ("a", 4), ("b", 0)])
    home = micro_videos(tmp_path, train__csv=train, validation__csv=validation)
    vectors = VECTORS.copy()
    vectors[2, 1] = np.inf
    np.save(home / "text_feat.npy", vectors)
    dataset = sources.load("tiktok", data_dir=home)
    assert {f.problem: (f.count, f.action, f.example) for f in dataset.findings} == {
        "vector that is not finite": (1, "repaired", "text_feat.npy row 3: '[6.0, inf, 8.0]'"),
        "exact duplicate event": (1, "dropped", "train.csv row 6 column item_id: '1'"),
        "unknown item id": (1, "dropped", "train.csv row 7 column item_id: '5'"),
        "event without a user id": (1, "dropped", "train.csv row 8 column user_id: ''"),
        "event without an item id": (1, "dropped", "train.csv row 9 column item_id: ''"),
        "event that an earlier part has": (2, "kept", "validation.csv row 2 column item_id: '2'"),
    }
    assert np.isnan(dataset.items.vectors["text"]).all(axis=1).tolist() == [False, False, True, False, False]
    targets = split(dataset, SplitConfig("published", rerank_share=0.4)).validation.targets
    assert [row.tolist() for row in targets] == [[4]]


def test_vectors_of_different_catalogues_are_refused(tmp_path):
    home = micro_videos(tmp_path)
    np.save(home / "audio_feat.npy", VECTORS[:4])
    with pytest.raises(ValueError, match=r"audio_feat.npy: expected numbers \[5, dim\].*image_feat.npy.*\[4, 3\]"):
        sources.load("tiktok", data_dir=home)
    np.save(home / "image_feat.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="image_feat.npy: expected an array that numpy.save wrote"):
        sources.load("tiktok", data_dir=home)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["validation.csv"], "expected validation.csv, got .*train.csv"),
        (["train.csv"], "expected train.csv, got .*validation.csv"),
        (["image_feat.npy", "audio_feat.npy"], "expected image_feat.npy, got "),
    ],
)
def test_a_part_that_is_missing_is_named(tmp_path, gone, said):
    home = micro_videos(tmp_path)
    for name in gone:
        (home / name).unlink()
    with pytest.raises(ValueError, match=said):
        sources.load("tiktok", data_dir=home)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("train__json", "{}", "expected one of train.csv, train.json, got train.csv and train.json"),
        ("test__json", "{}", "got test.csv and test.json"),
        ("val__json", "[]", "got validation.csv and val.json"),
        ("train__csv", "user,item\na,1\n", "'user_id' is missing"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(tmp_path, name, text, said):
    with pytest.raises(ValueError, match=said):
        sources.load("tiktok", data_dir=micro_videos(tmp_path, **{name: text}))


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}', "{"])
def test_json_that_is_no_lists_of_items_is_refused(tmp_path, text):
    home = micro_videos(tmp_path, train__json=text)
    (home / "train.csv").unlink()
    with pytest.raises(ValueError, match=r"train.json: expected \{user: \[item, ...\]\}, got"):
        sources.load("tiktok", data_dir=home)


def test_an_unknown_subset_names_the_nearest_folder(tmp_path):
    micro_videos(tmp_path / "tiktok")
    assert len(sources.load("tiktok", data_dir=tmp_path, subset="tiktok").items) == 5
    with pytest.raises(ValueError, match="one of tiktok; got 'tictok'; the nearest is 'tiktok'"):
        sources.load("tiktok", data_dir=tmp_path, subset="tictok")


@pytest.mark.data
def test_the_real_parts_have_the_published_counts():
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    home = Path(os.environ.get("TFMM_DATA", default)) / "tiktok"
    if not home.is_dir():
        pytest.skip("needs tiktok in $TFMM_DATA (default ../shared/data)")
    dataset = sources.load("tiktok", data_dir=home)
    assert (len(dataset.items), dataset.findings) == (6_710, ())
    assert {name: vectors.shape for name, vectors in dataset.items.vectors.items()} == {
        "image": (6_710, 128),
        "sound": (6_710, 128),
    }
    for part, name in ((0, "train"), (1, "validation")):
        expected = defaultdict(list)
        for line in (home / f"{name}.csv").read_text().splitlines()[1:]:
            user, item = line.split(",")
            expected[user].append(item)
        assert events_of(dataset, part) == expected
    parts = split(dataset, SplitConfig("published"))
    assert len(parts.refit) == 59_541
    asked = len(set(events_of(dataset, 1)) & set(events_of(dataset, 0)))
    assert len(parts.validation) == len(parts.test) == asked
