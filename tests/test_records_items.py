"""Items as TFRecords: what goes in comes out, each content is encoded once, damage is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmm import records, schema
from tfmm.ragged import Ragged
from tfmm.sources.dataset import Dataset, Interactions, Items, Media, Users

NOTHING = np.zeros(0, np.int64)


def objects(values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def shop(ids, *, text=None, images=None, categorical=None, numeric=None, vectors=None, launched=None):
    empty = Ragged.from_rows([[]] * len(ids), object)
    items = Items(
        ids=objects(ids),
        text=objects(text or [""] * len(ids)),
        titles=objects([f"title of {name}" for name in ids]),
        images=Media(objects(images)) if images else Media.missing(len(ids)),
        sounds=Media.missing(len(ids)),
        launched=np.zeros(len(ids), np.int64) if launched is None else np.array(launched, np.int64),
        categorical={"brand": empty} if categorical is None else categorical,
        numeric=numeric or {},
        vectors=vectors or {},
    )
    events = Interactions.ordered(user=NOTHING, item=NOTHING, time=NOTHING, event=NOTHING, value=NOTHING)
    return Dataset("test", items, Users(objects([])), events)


class CountingEncoder:
    """Gives [length, first byte] of a content; cannot read what starts with "broken"; fails after `limit` contents."""

    dim = 2

    def __init__(self, fingerprint="counting", limit=10**9):
        self.fingerprint = fingerprint
        self.limit = limit
        self.seen = []

    def encode(self, contents, *, progress=None):
        self.seen.extend(contents)
        if len(self.seen) > self.limit:
            raise KeyboardInterrupt
        raw = [content if isinstance(content, bytes) else content.encode() for content in contents]
        vectors = np.array([[len(content), content[0]] for content in raw], np.float32)
        return vectors, np.array([not content.startswith(b"broken") for content in raw])


def pictures(*numbers):
    return [b"picture %d" % number for number in numbers]


def write(dataset, directory, encoder, **options):
    return records.write_items(dataset, directory, encoders={"image": encoder}, chunk=4, **options)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "red.jpg"
    path.write_bytes(b"a red shoe")
    dataset = shop(
        ["a", "b", "ü中"],
        text=["warm", "", "鞋"],
        images=[path, None, b"broken picture"],
        categorical={"brand": Ragged.from_rows([["x", "y"], [], ["é"]], object)},
        numeric={"price": np.array([1.5, np.nan, -2.0])},
        vectors={"pitch": np.array([[1, 2, 3], [4, np.nan, 6], [0, 0, 0]], np.float32)},
        launched=[7, 0, 1_700_000_000],
    )
    encoders = {"image": CountingEncoder("i"), "text": CountingEncoder("t")}
    table = records.write_items(dataset, tmp_path / "records", encoders=encoders)
    again = records.read_items(tmp_path / "records")
    for read in (table, again):
        assert read.ids.tolist() == ["a", "b", "ü中"]
        assert read.text.tolist() == ["warm", "", "鞋"]
        assert read.titles.tolist() == ["title of a", "title of b", "title of ü中"]
        assert read.launched.tolist() == [7, 0, 1_700_000_000]
        assert [row.tolist() for row in read.categorical["brand"]] == [["x", "y"], [], ["é"]]
        np.testing.assert_array_equal(read.numeric["price"], np.array([1.5, np.nan, -2.0], np.float32))
        assert read.vectors["image"].tolist() == [[10, ord("a")], [0, 0], [0, 0]]
        assert read.vectors["text"].tolist() == [[4, ord("w")], [0, 0], [3, "鞋".encode()[0]]]
        assert read.vectors["pitch"].tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0]]
        assert read.vectors["pitch"].dtype == np.float16
        assert read.present["image"].tolist() == [True, False, False]
        assert read.present["text"].tolist() == [True, False, True]
        assert read.present["pitch"].tolist() == [True, False, True]  # a vector of zeros is a vector
        assert read.failed["image"].tolist() == [False, False, True]
        assert not read.failed["pitch"].any()


WORD = st.text(max_size=6)
ID = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=6)
ROW = st.tuples(
    ID,
    WORD,
    st.lists(WORD, max_size=3),
    st.floats(width=32),
    st.tuples(*[st.just(np.nan) | st.floats(-65504, 65504, width=16)] * 3),
    st.integers(0, 2**62),
)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(ROW, max_size=9, unique_by=lambda row: row[0]))
def test_any_catalogue_survives_the_round_trip(tmp_path_factory, rows):
    ids, text, brands, prices, vectors, launched = zip(*rows) if rows else [()] * 6
    prices, vectors = np.array(prices, np.float32), np.array(vectors, np.float16).reshape(-1, 3)
    dataset = shop(
        ids,
        text=text,
        categorical={"brand": Ragged.from_rows(brands, object)},
        numeric={"price": prices},
        vectors={"given": vectors},
        launched=launched,
    )
    table = records.write_items(dataset, tmp_path_factory.mktemp("records"), encoders={}, chunk=4)
    missing = np.isnan(vectors).any(axis=1)
    assert tuple(table.ids) == ids
    assert tuple(table.text) == text
    assert [row.tolist() for row in table.categorical["brand"]] == list(brands)
    np.testing.assert_array_equal(table.numeric["price"], prices)
    assert tuple(table.launched) == launched
    np.testing.assert_array_equal(table.present["given"], ~missing)
    np.testing.assert_array_equal(table.vectors["given"], np.where(missing[:, None], 0, vectors))


def test_a_record_is_an_example_that_protobuf_reads(tmp_path):
    write(shop(["a"], images=[b"picture"]), tmp_path, CountingEncoder())
    (path,) = tmp_path.glob("*.tfrecord")
    (raw,) = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    features = tf.train.Example.FromString(raw).features.feature
    assert features["item_id"].bytes_list.value[:] == [b"a"]
    (vector,) = features[schema.VECTOR + "image"].bytes_list.value
    assert np.frombuffer(vector, np.float16).tolist() == [7, ord("p")]


def test_a_second_run_encodes_nothing(tmp_path):
    dataset = shop([f"i{n}" for n in range(10)], images=[*pictures(*range(8)), b"broken", None])
    first, second = CountingEncoder(), CountingEncoder()
    once = write(dataset, tmp_path, first)
    twice = write(dataset, tmp_path, second)
    assert (len(first.seen), second.seen) == (9, [])
    np.testing.assert_array_equal(once.vectors["image"], twice.vectors["image"])
    assert twice.failed["image"].tolist() == [False] * 8 + [True, False]


def test_only_new_content_is_encoded_when_items_come_go_and_move(tmp_path):
    write(shop([f"i{n}" for n in range(10)], images=pictures(*range(10))), tmp_path, CountingEncoder())
    encoder = CountingEncoder()
    numbers = [10, 9, 3, 11, 0, 5]
    table = write(shop([f"j{n}" for n in numbers], images=pictures(*numbers)), tmp_path, encoder)
    assert encoder.seen == pictures(10, 11)
    assert table.vectors["image"][:, 0].tolist() == [len(content) for content in pictures(*numbers)]
    assert records.read_items(tmp_path).ids.tolist() == [f"j{n}" for n in numbers]


def test_the_same_content_twice_is_encoded_once(tmp_path):
    encoder = CountingEncoder()
    table = write(shop(list("abcdef"), images=pictures(1, 1, 2, 2, 1, 2)), tmp_path, encoder)
    assert encoder.seen == pictures(1, 2)
    assert table.present["image"].all()


def test_another_encoder_encodes_anew(tmp_path):
    dataset = shop(list("ab"), images=pictures(1, 2))
    write(dataset, tmp_path, CountingEncoder("one"))
    encoder = CountingEncoder("two")
    write(dataset, tmp_path, encoder)
    assert encoder.seen == pictures(1, 2)


def test_a_run_that_fails_midway_loses_one_chunk_at_most(tmp_path):
    dataset = shop([f"i{n}" for n in range(20)], images=pictures(*range(20)))
    with pytest.raises(KeyboardInterrupt):
        write(dataset, tmp_path, CountingEncoder(limit=11))
    with pytest.raises(FileNotFoundError, match=r"items\.json"):
        records.read_items(tmp_path)
    encoder = CountingEncoder()
    table = write(dataset, tmp_path, encoder)
    assert encoder.seen == pictures(*range(8, 20))
    assert table.present["image"].all()


def test_a_rewrite_that_fails_midway_leaves_the_old_table(tmp_path):
    write(shop(list("abcdef"), images=pictures(*range(6))), tmp_path, CountingEncoder())
    with pytest.raises(KeyboardInterrupt):
        write(shop(list("uvwxyz"), images=pictures(*range(10, 16))), tmp_path, CountingEncoder(limit=4))
    assert records.read_items(tmp_path).ids.tolist() == list("abcdef")


def test_sigkill_in_the_middle_loses_one_chunk_at_most(tmp_path):
    script = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[2])
        from test_records_items import CountingEncoder, pictures, shop, write
        class Killed(CountingEncoder):
            def encode(self, contents, *, progress=None):
                if len(self.seen) >= 8:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().encode(contents)
        write(shop([f"i{n}" for n in range(20)], images=pictures(*range(20))), sys.argv[1], Killed())
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), str(Path(__file__).parent)]
    killed = subprocess.run(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    encoder = CountingEncoder()
    write(shop([f"i{n}" for n in range(20)], images=pictures(*range(20))), tmp_path, encoder)
    assert encoder.seen == pictures(*range(8, 20))


def test_shards_that_the_new_manifest_does_not_name_are_removed(tmp_path):
    write(shop([f"i{n}" for n in range(20)], images=pictures(*range(20))), tmp_path, CountingEncoder())
    (tmp_path / "items-00007.tmp").write_bytes(b"left by a run that was killed")
    (tmp_path / "notes.txt").write_text("not ours")
    write(shop(list("ab"), images=pictures(1, 2)), tmp_path, CountingEncoder())
    manifest = json.loads((tmp_path / "items.json").read_text())
    assert len(manifest["shards"]) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"items.json", "notes.txt", manifest["shards"][0]["name"]}


def test_old_shards_stay_until_the_new_manifest_is_in_place(tmp_path, monkeypatch):
    write(shop(list("abcdef"), images=pictures(*range(6))), tmp_path, CountingEncoder())
    replace = os.replace

    def power_cut(source, target):
        if str(target).endswith(".json"):
            raise OSError("power cut")
        replace(source, target)

    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write(shop(list("uvwxyz"), images=pictures(*range(10, 16))), tmp_path, CountingEncoder())
    assert records.read_items(tmp_path).ids.tolist() == list("abcdef")


def test_progress_counts_items(tmp_path):
    seen = []
    dataset = shop([f"i{n}" for n in range(10)], images=pictures(*range(10)))
    write(dataset, tmp_path, CountingEncoder(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_what_cannot_be_decoded_becomes_a_finding_that_names_it(tmp_path):
    path = tmp_path / "torn.jpg"
    path.write_bytes(b"broken jpeg")
    dataset = shop(["a", "b", "c"], images=[b"fine", path, b"broken too"])
    table = write(dataset, tmp_path / "records", CountingEncoder())
    (finding,) = records.findings(table, dataset.items)
    assert (finding.count, finding.action) == (2, "dropped")
    assert "torn.jpg" in finding.example
    assert "'b'" in finding.example


def test_a_vector_that_float16_cannot_hold_is_refused(tmp_path):
    dataset = shop(["a", "b"], vectors={"loud": np.array([[1, 2], [3, 70_000]], np.float32)})
    with pytest.raises(ValueError, match=r"loud.*65504.*70000.*row 1, column 1"):
        records.write_items(dataset, tmp_path, encoders={})


def test_an_unknown_modality_is_an_error_with_the_nearest_right_name(tmp_path):
    with pytest.raises(ValueError, match="'imgae'.*'image'"):
        records.write_items(shop(["a"]), tmp_path, encoders={"imgae": CountingEncoder()})


def test_two_sources_of_one_modality_are_an_error(tmp_path):
    dataset = shop(["a"], vectors={"image": np.ones([1, 2], np.float32)})
    with pytest.raises(ValueError, match="precomputed"):
        records.write_items(dataset, tmp_path, encoders={"image": CountingEncoder()})


# --- Damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    write(shop([f"i{n}" for n in range(10)], images=pictures(*range(10))), tmp_path, CountingEncoder())
    return tmp_path, sorted(tmp_path.glob("*.tfrecord"))[1]


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("position", [0, 40, -1])
def test_a_changed_byte_is_an_error_that_names_the_file_and_the_remedy(written, position):
    directory, shard = written
    flip(shard, position)
    with pytest.raises(records.CorruptRecords, match=rf"{shard.name}.*SHA-256.*got.*run again"):
        records.read_items(directory)


def test_a_missing_shard_is_an_error_that_names_it(written):
    directory, shard = written
    shard.unlink()
    with pytest.raises(records.CorruptRecords, match=rf"{shard.name} with 4 records.*run again"):
        records.read_items(directory)


def test_a_truncated_shard_is_an_error_that_names_both_sizes(written):
    directory, shard = written
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(records.CorruptRecords, match=rf"{size} bytes in .*{shard.name}, got {size - 5}"):
        records.read_items(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["shards"][0].update(records=5), "Expected 5 records in .*, got 4"),
        (lambda m: m.update(count=11), "Expected 11 records in all"),
        (lambda m: m.update(schema_version=99), "schema version 1 .*got: schema version 99"),
        (lambda m: m.update(kind="sequences"), "got sequences"),
        (lambda m: m.pop("shards"), "shards"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m.update(items_sha256="0" * 64), "item ids with the SHA-256 0000"),
    ],
)
def test_a_manifest_that_does_not_fit_is_an_error(written, change, message):
    directory, _ = written
    manifest = json.loads((directory / "items.json").read_text())
    change(manifest)
    (directory / "items.json").write_text(json.dumps(manifest))
    with pytest.raises(records.CorruptRecords, match=message):
        records.read_items(directory)


def test_a_torn_manifest_is_an_error(written):
    directory, _ = written
    (directory / "items.json").write_text((directory / "items.json").read_text()[:100])
    with pytest.raises(records.CorruptRecords, match=r"items\.json"):
        records.read_items(directory)


def test_a_damaged_shard_is_encoded_again_and_healed(written, caplog):
    directory, shard = written
    flip(shard, 60)
    encoder = CountingEncoder()
    write(shop([f"i{n}" for n in range(10)], images=pictures(*range(10))), directory, encoder)
    assert encoder.seen == pictures(4, 5, 6, 7)
    assert shard.name in caplog.text
    assert records.read_items(directory).present["image"].all()
