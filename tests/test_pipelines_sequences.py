"""Sequences: written as records, read as windows, against plain loops."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf

from tfmm import pipelines, records
from tfmm.ragged import Ragged
from tfmm.sources.dataset import Interactions, Users

NUM_ITEMS = 50
EVENT_TYPES = ("view", "cart", "purchase")


def objects(values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


ITEM_IDS = objects([f"i{n}" for n in range(NUM_ITEMS)])


def sequences_of(rows, context=None):
    """Every event's time is unique over all users, so that it tells which event it is."""
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    total = int(offsets[-1])
    return records.Sequences(
        user_ids=objects([f"u{n}" for n in range(len(rows))]),
        items=Ragged.from_rows(rows, np.int32),
        times=Ragged(np.arange(total, dtype=np.int64) + 1, offsets),
        events=Ragged(np.arange(total, dtype=np.int32) % 3, offsets),
        context=Ragged.from_rows(context or [[]] * len(rows), object),
    )


def random_sequences(seed=0, users=60, longest=40):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, NUM_ITEMS, rng.integers(0, longest)).tolist() for _ in range(users)]
    return sequences_of(rows, [[f"user={n}"] + ["vip=yes"] * (n % 3 == 0) for n in range(users)])


def write(sequences, directory, name="train", **options):
    options = {"item_ids": ITEM_IDS, "event_types": EVENT_TYPES, "per_shard": 7, **options}
    return records.write_sequences(sequences, directory, name, **options)


def read(directory, name="train", **options):
    options = {"batch_size": 8, "max_length": 6, "shuffle": False, "seed": 0, "item_ids": ITEM_IDS, **options}
    return pipelines.sequence_batches(directory, name, **options)


def windows_of(batches):
    """Every window as {feature: list}, padding removed."""
    for batch in batches:
        batch = {name: value.numpy() for name, value in batch.items()}
        for row in range(len(batch["items"])):
            length = int((batch["items"][row] >= 0).sum())
            assert (batch["items"][row, length:] == -1).all()  # left-aligned
            assert (batch["times"][row, length:] == 0).all()
            yield {
                **{name: batch[name][row, :length].tolist() for name in ("items", "times", "events")},
                "context": [term.decode() for term in batch["context"][row] if term],
                "known": batch["known"][row][batch["known"][row] >= 0].tolist(),
            }


def naive_windows(sequences, max_length):
    """From the newest event backwards; the next window ends where this one begins."""
    for user in range(len(sequences)):
        end = len(sequences.items[user])
        while end >= 2:
            start = max(0, end - max_length)
            columns = {
                name: getattr(sequences, name)[user][start:end].tolist() for name in ("items", "times", "events")
            }
            known = sorted(set(sequences.items[user].tolist()))
            yield {**columns, "context": sequences.context[user].tolist(), "known": known}
            end = start + 1 if start else 0


def by_time(windows):
    return sorted(windows, key=lambda window: window["times"])


@pytest.mark.parametrize("max_length", [2, 3, 6, 100])
def test_windows_are_those_of_a_plain_loop(tmp_path, max_length):
    sequences = random_sequences()
    write(sequences, tmp_path)
    got = list(windows_of(read(tmp_path, max_length=max_length)))
    assert by_time(got) == by_time(naive_windows(sequences, max_length))


def test_more_users_than_are_parsed_at_once_change_nothing(tmp_path):
    sequences = random_sequences(users=700, longest=9)
    write(sequences, tmp_path, per_shard=150)
    got = list(windows_of(read(tmp_path, max_length=4, batch_size=64)))
    assert by_time(got) == by_time(naive_windows(sequences, 4))


@pytest.mark.parametrize("max_length", [2, 5])
def test_every_transition_is_trained_exactly_once(tmp_path, max_length):
    sequences = sequences_of([list(range(length)) for length in range(25)])
    write(sequences, tmp_path)
    windows = list(windows_of(read(tmp_path, max_length=max_length)))
    steps = collections.Counter(step for window in windows for step in zip(window["times"], window["times"][1:]))
    times = [row.tolist() for row in sequences.times]
    assert steps == collections.Counter(step for row in times for step in zip(row, row[1:]))
    assert all(2 <= len(window["items"]) <= max_length for window in windows)


def test_dtypes_are_those_promised(tmp_path):
    write(random_sequences(), tmp_path)
    spec = read(tmp_path).element_spec
    assert {name: value.dtype.name for name, value in spec.items()} == {
        "items": "int32",
        "times": "int64",
        "events": "int32",
        "context": "string",
        "known": "int32",
    }
    assert all(value.shape.as_list() == [None, None] for value in spec.values())


def test_the_number_of_batches_is_known_beforehand(tmp_path):
    sequences = random_sequences()
    write(sequences, tmp_path)
    batches = read(tmp_path)
    assert len(batches) == len(list(batches)) == -(-len(list(naive_windows(sequences, 6))) // 8)


def test_the_same_seed_gives_the_same_epochs_and_each_epoch_another_order(tmp_path):
    write(random_sequences(), tmp_path)

    def two_epochs(seed):
        batches = read(tmp_path, shuffle=True, seed=seed)
        return [list(windows_of(batches)) for _ in range(2)]

    first, again, other = two_epochs(3), two_epochs(3), two_epochs(4)
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]
    plain = by_time(windows_of(read(tmp_path)))
    assert all(by_time(epoch) == plain for epoch in (*first, *other))


def test_buckets_hold_windows_of_like_length_and_lose_none(tmp_path):
    write(random_sequences(), tmp_path)
    batches = list(read(tmp_path, max_length=20, bucket_boundaries=(5, 12)))
    for batch in batches:
        lengths = (batch["items"].numpy() >= 0).sum(axis=1)
        assert len(set(np.searchsorted([5, 12], lengths, side="right"))) == 1
    assert by_time(windows_of(batches)) == by_time(windows_of(read(tmp_path, max_length=20)))


def test_sequences_without_a_transition_give_an_empty_epoch(tmp_path):
    write(sequences_of([[], [3]]), tmp_path)
    assert list(read(tmp_path, shuffle=True)) == []


def test_sequences_of_interactions_hold_each_active_users_events_in_order():
    events = Interactions.ordered(
        user=np.array([2, 0, 2, 2]),
        item=np.array([5, 6, 7, 8]),
        time=np.array([30, 10, 20, 25]),
        event=np.array([0, 1, 2, 0]),
        value=np.ones(4),
    )
    gender = Ragged.from_rows([["F"], ["M"], ["F"]], object)
    tags = Ragged.from_rows([[], ["x"], ["a", "b"]], object)
    users = Users(objects(["ann", "bob", "cy"]), {"gender": gender, "tag": tags})
    sequences = records.Sequences.of(events, users)
    assert sequences.user_ids.tolist() == ["ann", "cy"]
    assert [row.tolist() for row in sequences.items] == [[6], [7, 8, 5]]
    assert [row.tolist() for row in sequences.times] == [[10], [20, 25, 30]]
    assert [row.tolist() for row in sequences.events] == [[1], [2, 0, 0]]
    assert [row.tolist() for row in sequences.context] == [["gender=F"], ["gender=F", "tag=a", "tag=b"]]


def test_users_without_fields_have_no_context():
    assert [row.tolist() for row in records.context_terms(Users(objects(["a", "b"])))] == [[], []]


def test_shards_hold_the_users_in_order(tmp_path):
    sequences = random_sequences()
    manifest = write(sequences, tmp_path)
    assert [shard.records for shard in manifest.shards] == [7] * 8 + [4]
    raw = tf.data.TFRecordDataset(records.verified_paths(tmp_path, manifest)).as_numpy_iterator()
    examples = [tf.train.Example.FromString(record).features.feature for record in raw]
    assert [e["user_id"].bytes_list.value[0].decode() for e in examples] == sequences.user_ids.tolist()
    assert [list(e["items"].int64_list.value) for e in examples] == [row.tolist() for row in sequences.items]


def test_groups_whose_names_begin_alike_do_not_remove_each_others_shards(tmp_path):
    write(random_sequences(1), tmp_path, "train")
    write(random_sequences(2), tmp_path, "train_more")
    write(random_sequences(3), tmp_path, "train")
    for name in ("train", "train_more"):
        assert len(list(read(tmp_path, name))) > 0


# --- Errors ----------------------------------------------------------------------------------------------------------


def test_reading_against_another_item_table_is_an_error(tmp_path):
    write(random_sequences(), tmp_path)
    with pytest.raises(records.CorruptRecords, match="'train'.*reordered"):
        read(tmp_path, item_ids=ITEM_IDS[::-1])


def test_the_directorys_own_item_table_is_what_rows_refer_to_by_default(tmp_path):
    from test_records_items import shop

    write(random_sequences(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"items\.json"):
        read(tmp_path, item_ids=None)
    records.write_items(shop(list(ITEM_IDS)), tmp_path, encoders={})
    assert len(list(read(tmp_path, item_ids=None))) > 0
    records.write_items(shop([*ITEM_IDS[1:], ITEM_IDS[0]]), tmp_path, encoders={})
    with pytest.raises(records.CorruptRecords, match="reordered"):
        read(tmp_path, item_ids=None)


def test_a_changed_shard_is_an_error_before_the_first_batch(tmp_path):
    manifest = write(random_sequences(), tmp_path)
    path = tmp_path / manifest.shards[3].name
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x00")
    with pytest.raises(records.CorruptRecords, match=rf"{path.name}"):
        read(tmp_path)


def test_item_rows_and_events_that_do_not_exist_are_errors_that_name_the_user(tmp_path):
    with pytest.raises(ValueError, match="item row within 0..49, got 50 of user 'u1'"):
        write(sequences_of([[1, 2], [3, NUM_ITEMS]]), tmp_path)
    with pytest.raises(ValueError, match="event type within 0..1, got 2 of user 'u1'"):
        write(sequences_of([[1, 2], [3]]), tmp_path, event_types=("a", "b"))


def test_columns_of_other_lengths_are_refused():
    rows = Ragged.from_rows([[1, 2]], np.int64)
    with pytest.raises(ValueError, match="one of times"):
        records.Sequences(objects(["u"]), rows, Ragged.from_rows([[1]], np.int64), rows, rows)


@pytest.mark.parametrize("name", ["items", "a-b", "", "a/b"])
def test_names_that_would_mix_groups_up_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="Expected .*record name"):
        write(random_sequences(), tmp_path, name)


def test_windows_of_one_event_are_refused(tmp_path):
    write(random_sequences(), tmp_path)
    with pytest.raises(ValueError, match="max_length of 2 or more"):
        read(tmp_path, max_length=1)
