"""Example lists and queries: tensors against what protobuf reads from the same bytes."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import input_pb2

from tfmm import pipelines, records, schema
from tfmm.ragged import Ragged


def objects(values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def example_lists(seed=0, count=40, *, num_features=0, longest=9):
    rng = np.random.default_rng(seed)

    def ids():
        return [[f"i{n}" for n in rng.integers(0, 99, rng.integers(0, longest))] for _ in range(count)]

    items, history = Ragged.from_rows(ids(), object), Ragged.from_rows(ids(), object)
    total = len(items.values)
    return records.ExampleLists(
        items=items,
        labels=rng.integers(0, 4, total).astype(np.float32),
        query={
            schema.HISTORY: history,
            schema.HISTORY_TIMES: Ragged(np.arange(len(history.values)), history.offsets),
            schema.QUERY_TIME: rng.integers(1, 10**9, count),
            schema.QUERY_TEXT: objects([f"find {n} 鞋" for n in range(count)]),
            schema.CONTEXT: Ragged.from_rows([["gender=F"]] * count, object),
        },
        features=rng.normal(size=[total, num_features]).astype(np.float32) if num_features else None,
    )


def serialised(directory, name="rank"):
    manifest = records.read_manifest(directory, name, kind="example lists")
    paths = records.verified_paths(directory, manifest)
    return list(tf.data.TFRecordDataset(paths).as_numpy_iterator())


def dense(rows, width, fill):
    padded = [[*row[:width], *[fill] * (width - len(row))] for row in rows]
    return np.array(padded, dtype=object).reshape(len(rows), width)


def protobuf_query(features, name):
    value = features.feature[name]
    return list(getattr(value, value.WhichOneof("kind")).value) if value.WhichOneof("kind") else []


def assert_equal(tensor, rows, width, fill):
    np.testing.assert_array_equal(tensor.numpy().astype(object), dense(rows, width, fill))


@pytest.mark.parametrize("list_size", [None, 3, 20])
def test_parsed_lists_are_what_protobuf_reads(tmp_path, list_size):
    records.write_example_lists(example_lists(num_features=2), tmp_path, "rank", per_shard=11)
    raw = serialised(tmp_path)
    assert raw == list(records.serialise_lists(example_lists(num_features=2)))
    features, mask = pipelines.parse_example_lists(tf.constant(raw), list_size=list_size, num_features=2)
    messages = [input_pb2.ExampleListWithContext.FromString(record) for record in raw]
    ids = [[e.features.feature["item_id"].bytes_list.value[0] for e in m.examples] for m in messages]
    numbers = [[list(e.features.feature["features"].float_list.value) for e in m.examples] for m in messages]
    width = list_size or max(len(row) for row in ids)
    assert_equal(features["item_id"], ids, width, b"")
    assert_equal(mask, [[True] * len(row) for row in ids], width, False)
    for row, expected in enumerate(numbers):
        kept = min(len(expected), width)
        np.testing.assert_array_equal(features["features"][row, :kept], np.reshape(expected[:kept], [kept, 2]))
        assert not features["features"][row, kept:].numpy().any()
    for name, fill in ((schema.HISTORY, b""), (schema.HISTORY_TIMES, 0), (schema.CONTEXT, b"")):
        rows = [protobuf_query(m.context.features, name) for m in messages]
        assert_equal(features[name], rows, max(len(row) for row in rows), fill)
    assert features[schema.HISTORY_EVENTS].shape == features[schema.HISTORY].shape
    times = [protobuf_query(m.context.features, schema.QUERY_TIME)[0] for m in messages]
    assert features[schema.QUERY_TIME].numpy().tolist() == times


@pytest.mark.parametrize("list_size", [None, 4])
def test_batches_hold_every_list_with_its_labels(tmp_path, list_size):
    lists = example_lists(count=300, num_features=3)
    records.write_example_lists(lists, tmp_path, "rank", per_shard=70)
    got = {}
    batches = pipelines.example_list_batches(tmp_path, "rank", batch_size=32, list_size=list_size, shuffle=True, seed=1)
    assert len(batches) == 10
    for features, labels in batches:
        mask = features["mask"].numpy()
        np.testing.assert_array_equal(labels.numpy() >= 0, mask)
        assert (labels.numpy()[~mask] == -1).all()
        for row, text in enumerate(features[schema.QUERY_TEXT].numpy()):
            got[text.decode()] = (
                [name.decode() for name in features["item_id"].numpy()[row][mask[row]]],
                labels.numpy()[row][mask[row]].tolist(),
                features["features"].numpy()[row][mask[row]].tolist(),
            )
    labels, numbers = Ragged(lists.labels, lists.items.offsets), Ragged(lists.features, lists.items.offsets)
    assert got == {
        text: tuple(column[row][:list_size].tolist() for column in (lists.items, labels, numbers))
        for row, text in enumerate(lists.query[schema.QUERY_TEXT])
    }


def test_the_same_seed_gives_the_same_epochs_and_each_epoch_another_order(tmp_path):
    records.write_example_lists(example_lists(), tmp_path, "rank")

    def epochs(seed, shuffle=True):
        batches = pipelines.example_list_batches(
            tmp_path, "rank", batch_size=8, list_size=5, shuffle=shuffle, seed=seed
        )
        return [np.concatenate([f[schema.QUERY_TEXT].numpy() for f, _ in batches]).tolist() for _ in range(2)]

    first = epochs(1)
    assert first == epochs(1)
    assert first[0] != first[1]
    assert first[0] != epochs(2)[0]
    plain = epochs(1, shuffle=False)
    assert plain[0] == plain[1] == [f"find {n} 鞋".encode() for n in range(40)]


def elwc(history=(), ids=(), *, context=True):
    message = input_pb2.ExampleListWithContext()
    if context:
        message.context.features.feature["history"].bytes_list.value.extend(history)
    for name in ids:
        message.examples.add().features.feature["item_id"].bytes_list.value.append(name)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("batch", "ids"),
    [
        ([b""], [[]]),
        ([b"", elwc()], [[], []]),
        ([elwc(context=False, ids=[b"a"])], [[b"a"]]),
        ([elwc(context=False), elwc([b"x"], [b"a", b"b"])], [[], [b"a", b"b"]]),
    ],
)
def test_whatever_a_client_leaves_out_is_empty_not_an_error(batch, ids):
    features, mask = pipelines.parse_example_lists(tf.constant(batch))
    assert mask.shape == features["item_id"].shape
    assert [row[keep].tolist() for row, keep in zip(features["item_id"].numpy(), mask.numpy())] == ids
    assert features[schema.QUERY_TIME].numpy().tolist() == [0] * len(batch)
    assert features[schema.HISTORY].shape[0] == len(batch)


# --- Queries ---------------------------------------------------------------------------------------------------------

STRINGS = (schema.HISTORY, schema.HISTORY_EVENTS, schema.CONTEXT, schema.EXCLUDE, schema.FILTERS)
QUERY = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.lists(st.binary(min_size=1, max_size=3), max_size=3) for name in STRINGS},
        schema.HISTORY_TIMES: st.lists(st.integers(1, 9), max_size=3),
        schema.QUERY_TIME: st.lists(st.integers(1, 9), min_size=1, max_size=1),
        schema.QUERY_TEXT: st.lists(st.binary(max_size=3), min_size=1, max_size=1),
    },
)


@settings(max_examples=40, deadline=None)
@given(queries=st.lists(QUERY, min_size=1, max_size=4))
def test_parsed_queries_fit_the_signature_and_are_what_was_asked(queries):
    messages = []
    for query in queries:
        example = tf.train.Example()
        for name, values in query.items():
            feature = example.features.feature[name]
            (feature.bytes_list if values and isinstance(values[0], bytes) else feature.int64_list).value.extend(values)
            if not values:
                del example.features.feature[name]
        messages.append(example.SerializeToString())
    parsed = pipelines.parse_queries(tf.constant(messages))
    width = max(len(query.get(schema.HISTORY, [])) for query in queries)
    for name, spec in schema.query_signature().items():
        assert parsed[name].dtype == spec.dtype
        assert spec.shape.is_compatible_with(parsed[name].shape)
        rows = [query.get(name, []) for query in queries]
        fill = 0 if spec.dtype == tf.int64 else b""
        if spec.shape.rank == 1:
            assert parsed[name].numpy().tolist() == [row[0] if row else fill for row in rows]
        else:
            alike = name in (schema.HISTORY_TIMES, schema.HISTORY_EVENTS)
            assert_equal(parsed[name], rows, width if alike else max(len(row) for row in rows), fill)


def test_parsing_is_exported_with_ops_that_plain_tensorflow_has(tmp_path):
    module = tf.Module()
    signature = [tf.TensorSpec([None], tf.string)]
    module.queries = tf.function(pipelines.parse_queries, input_signature=signature)
    module.lists = tf.function(
        lambda serialized: pipelines.parse_example_lists(serialized, num_features=2), input_signature=signature
    )
    tf.saved_model.save(module, str(tmp_path / "model"))
    records.write_example_lists(example_lists(count=3, num_features=2), tmp_path, "rank")
    raw = serialised(tmp_path)
    (tmp_path / "request").write_bytes(raw[0])
    script = """
        import sys
        import tensorflow as tf
        model = tf.saved_model.load(sys.argv[1] + "/model")
        features, mask = model.lists(tf.constant([open(sys.argv[1] + "/request", "rb").read()]))
        assert model.queries(tf.constant(["", ""]))["history"].shape == [2, 0]
        assert not {"tensorflow_ranking", "tensorflow_text", "tfmm"} & set(sys.modules)
        print(*(name.decode() for name in features["item_id"].numpy()[mask.numpy()]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == example_lists(count=3, num_features=2).items[0].tolist()


# --- Errors ----------------------------------------------------------------------------------------------------------


def lists_of(query):
    rows = Ragged.from_rows([["a"], ["b"]], object)
    return records.ExampleLists(rows, np.zeros(2, np.float32), query)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"histroy": Ragged.from_rows([[], []], object)}, "'histroy'"),
        ({schema.HISTORY: Ragged.from_rows([[1], [2]], np.int64)}, "string in history, got a Ragged of int64"),
        ({schema.HISTORY: objects(["a", "b"])}, "Ragged of string in history, got a ndarray"),
        ({schema.QUERY_TIME: np.zeros(3, np.int64)}, "2 rows .* in query_time, got 3"),
        ({schema.QUERY_TIME: np.zeros(2)}, "int64 in query_time, got a ndarray of float64"),
    ],
)
def test_query_features_that_the_schema_does_not_know_are_refused(query, message):
    with pytest.raises(ValueError, match=message):
        lists_of(query)


@pytest.mark.parametrize("label", [-1.0, np.nan])
def test_labels_that_would_read_as_padding_are_refused(label):
    with pytest.raises(ValueError, match="labels of 0 or more"):
        records.ExampleLists(Ragged.from_rows([["a"]], object), np.array([label]))


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="2 rows .* in labels, got 1"):
        records.ExampleLists(Ragged.from_rows([["a", "b"]], object), np.zeros(1))
    with pytest.raises(ValueError, match="1 rows .* in features, got 2"):
        records.ExampleLists(Ragged.from_rows([["a"]], object), np.zeros(1), features=np.zeros([2, 3]))
