"""Questions in, answers out: building requests, the catalogue, the page, the table, the load test."""

import html.parser
import io
import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from tfmm import schema
from tfmm.serving.catalogue import Catalogue, read_catalogue, write_catalogue
from tfmm.serving.errors import ServingError
from tfmm.serving.load import Load, LoadOptions, load_test, measure
from tfmm.serving.queries import (
    Query,
    Reason,
    build_example,
    build_request,
    explain_request,
    read_answers,
    read_reasons,
)
from tfmm.serving.servable import _op_message
from tfmm.serving.show import page, table, write_page
from tfmm.serving.tensors import from_proto, to_proto


def picture(size=(40, 30), kind="PNG", noise=False):
    pixels = np.random.default_rng(0).integers(0, 255, [*size[::-1], 3], np.uint8) if noise else None
    image = Image.fromarray(pixels) if noise else Image.new("RGB", size, "red")
    encoded = io.BytesIO()
    image.save(encoded, kind)
    return encoded.getvalue()


def test_an_empty_query_fits_the_signature_and_is_empty_everywhere():
    request = build_request([Query(), Query()])
    assert list(request) == list(schema.query_signature())
    for name, spec in schema.query_signature().items():
        assert tf.as_dtype(request[name].dtype) == spec.dtype
        assert request[name].shape == ((2,) if spec.shape.rank == 1 else (2, 0))
        assert not request[name].any()


ids = st.lists(st.text(max_size=4).filter(lambda text: "\ud800" not in text), max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(ids, ids, st.text(max_size=3), st.binary(max_size=5), st.integers(0, 2**40)), min_size=1, max_size=3
    )
)
def test_a_request_holds_each_query_and_padding_and_survives_the_wire(rows):
    queries = [Query(history=h, exclude=e, text=t, image=i, time=s, times=[s] * len(h)) for h, e, t, i, s in rows]
    request = {name: from_proto(name, to_proto(array)) for name, array in build_request(queries).items()}
    width = max(len(query.history) for query in queries)
    for row, query in enumerate(queries):
        padding = width - len(query.history)
        assert request["history"][row].tolist() == [one.encode() for one in query.history] + [b""] * padding
        assert request["history_times"][row].tolist() == [query.time] * len(query.history) + [0] * padding
        assert request["query_text"][row] == query.text.encode()
        assert request["query_image"][row] == query.image  # trailing zeros included
        assert request["query_time"][row] == query.time


def test_an_example_parses_by_the_schema_to_what_the_dense_request_holds():
    query = Query(history=["a", "b"], times=[5, 6], events=["view", ""], text="鞋", image=b"\x00\x00", filters=["c=d"])
    parsed = tf.io.parse_example([build_example(query)], schema.query_spec())
    dense = {name: v.to_tensor() if isinstance(v, tf.RaggedTensor) else v for name, v in parsed.items()}
    for name, array in build_request([query]).items():
        assert dense[name].numpy().tolist() == array.tolist(), name


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"history": "abc"}, TypeError, "['abc']"),
        ({"history": ["a"], "times": [1, 2]}, ValueError, "1 times"),
        ({"history": ["a"], "events": []}, ValueError, "1 events"),
        ({"filters": ["brand"]}, ValueError, "field=value"),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(fields, error, words):
    with pytest.raises(error) as caught:
        Query(**fields)
    assert words in str(caught.value)


def test_padding_is_not_an_answer():
    outputs = {
        "item_ids": np.array([[b"a", "é".encode(), b""], [b"", b"", b""]], object),
        "scores": np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], np.float32),
    }
    assert read_answers(outputs) == [[("a", 2.0), ("é", 1.0)], []]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [[], [0], [3], [2, 0], [2, 3]])
def test_protos_decode_in_tensorflow_to_the_same_array(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    proto = to_proto(array)
    assert not proto.tensor_content or dtype == np.float16
    decoded = tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(dtype)).numpy()
    assert decoded.dtype == dtype and decoded.shape == tuple(shape)
    np.testing.assert_array_equal(decoded, array)
    np.testing.assert_array_equal(from_proto("x", proto), array)


@pytest.mark.parametrize(
    "message",
    [
        "{{function_node __inference_f_12}} Input is broken.\n\t [[{{node cond/Decode}}]] [Op:__inference_g_1]",
        "Graph execution error:\n\nDetected at node cond/Decode defined at (most recent call last):\n"
        '  File "a.py", line 3, in f\n\n  File "b.py", line 4, in g\n\nInput is broken.\n\t [[{{node cond/Decode}}]]',
        "2 root error(s) found.\n  (0) INVALID_ARGUMENT:  Input is broken.\n\t [[{{node a}}]]\n\t [[b/_7]]\n"
        "  (1) INVALID_ARGUMENT:  Input is broken.\n\t [[{{node a}}]]\n0 successful operations.",
    ],
)
def test_an_op_error_is_told_without_nodes_and_stack_traces(message):
    assert _op_message(tf.errors.InvalidArgumentError(None, None, message)) == "Input is broken."


def test_the_catalogue_returns_what_was_written_and_small_pictures(tmp_path):
    small, large = picture(), picture((900, 600), noise=True)
    images = [small, b"", large, b"broken"]
    write_catalogue(tmp_path / "assets.extra", ["a", "b", "c", "d"], ["Red", "", "大", "D"], iter(images))
    catalogue = read_catalogue(tmp_path)  # found in assets.extra
    assert [catalogue.title(item) for item in "abcdx"] == ["Red", "", "大", "D", ""]
    assert [catalogue.image(item) for item in "abdx"] == [small, b"", b"", b""]
    shrunk = Image.open(io.BytesIO(catalogue.image("c")))
    assert shrunk.size == (256, 171) and len(catalogue.image("c")) < len(large) / 10
    first = json.loads((tmp_path / "assets.extra" / "catalogue.jsonl").read_text().splitlines()[0])
    assert first == {"item_id": "a", "title": "Red", "image": [0, len(small)]}


def test_no_catalogue_is_an_empty_one_and_a_damaged_one_names_the_line(tmp_path):
    assert read_catalogue(tmp_path) == Catalogue()
    (tmp_path / "catalogue.jsonl").write_text('{"item_id": "a", "title": "A", "image": null}\n{"item_id": "b"}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_catalogue(tmp_path)
    with pytest.raises(ValueError, match="2 ids, got 1"):
        write_catalogue(tmp_path, ["a", "b"], ["A", "B"], [b""])


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data.strip())


def test_the_page_holds_all_it_shows_and_never_runs_what_a_shop_wrote(tmp_path):
    evil = "<script>alert(1)</script>"
    write_catalogue(tmp_path, ["a", "b"], [evil, "B"], [picture(), b""])
    query = Query(history=["a"], events=["cart"], text=evil, image=picture(kind="JPEG"), filters=["brand=Ö"])
    path = write_page(tmp_path / "out" / "page.html", query, [("b", 0.5), ("a", 0.25)], read_catalogue(tmp_path))
    shown = _Page()
    shown.feed(path.read_text(encoding="utf-8"))
    assert "script" not in shown.tags and shown.words.count(evil) == 3  # typed, history, recommended
    assert len(shown.links) == 3 and all(link.startswith("data:image/") for link in shown.links)
    positions = [shown.words.index(word) for word in ("brand=Ö", "B", "0.500", "0.250")]
    assert positions == sorted(positions)


def test_a_page_without_question_or_answer_says_so():
    assert "new here" in page(Query(), [], Catalogue()) and "Nothing:" in page(Query(), [], Catalogue())


def test_the_table_shows_titles_as_written():
    console = Console(file=io.StringIO(), width=80)
    console.print(table([("x", 1.5), ("y", 1.25)], Catalogue(titles={"x": "[bold]Big[/bold] [shoe]"})))
    text = console.file.getvalue()
    assert "[bold]Big[/bold] [shoe]" in text and text.index("1.500") < text.index("1.250")


def test_percentiles_are_latencies_that_were_seen():
    load = Load(np.arange(1.0, 101.0), 2.0, {})
    assert [load.percentile(rank) for rank in (50, 90, 99, 100)] == [50.0, 90.0, 99.0, 100.0]
    assert load.per_second == 50.0


def test_a_load_test_ends_at_its_bounds_and_counts_what_failed():
    seen = []

    def call(number):
        seen.append(number)
        if number % 5 == 0:
            raise ServingError(grpc.StatusCode.UNAVAILABLE, "away")

    load = measure(call, LoadOptions(concurrency=3, requests=50, seconds=30, warm_up=0))
    assert sorted(seen) == list(range(50))
    assert len(load.milliseconds) == 40 and load.errors == {"UNAVAILABLE": 10}
    assert measure(lambda _: None, LoadOptions(requests=10**9, seconds=0.05, warm_up=0)).seconds < 5


@pytest.mark.parametrize("target", ["192.0.2.1:8500", "[2001:db8::1]:8500"])
def test_a_load_test_stays_on_this_machine_unless_told_otherwise(target):
    with pytest.raises(PermissionError, match="allow_remote"):
        load_test(target, [{}])


def test_reasons_are_shares_of_what_speaks_for_an_item_and_what_it_leans_on_most():
    query = Query(history=["a", "b", "a"])
    outputs = {
        "modalities": np.array([[b"id", b"image", b"text"]], object),
        "modality_shares": np.array([[[1.0, -0.5, 3.0], [0.0, 0.0, 0.0]]]),
        "history_shares": np.array([[[0.1, 0.4, 0.3], [-0.1, -0.2, 0.0]]]),
    }
    first, second = read_reasons(query.history, outputs)
    assert first == Reason({"text": 0.75, "id": 0.25}, ["b", "a"]) and second == Reason({}, [])
    assert list(first.modalities) == ["text", "id"]
    assert first.sentence({"b": "Red shoe"}) == "text 75%, for Red shoe" and second.sentence({}) == ""
    shown = page(query, [("x", 1.0), ("y", 0.5)], Catalogue({"b": "<Red> shoe"}), {"x": first, "y": second})
    assert "text 75%, behaviour 25%; like &lt;Red&gt; shoe and a" in shown
    assert shown.count('class="why"') == 1
    assert explain_request(query, ["x", "y"])["item_ids"].tolist() == [[b"x", b"y"]]
