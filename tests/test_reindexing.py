"""Products come and go without training: what the next version answers, held to the version before and to content."""

from __future__ import annotations

import csv
import dataclasses
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import shops
import tensorflow as tf
from test_export import NOW, QUERIES, as_lists, ask, call, having, ids

from tfmm import cli, records, reindexing
from tfmm.export import EXAMPLES
from tfmm.ragged import Ragged
from tfmm.service import Service
from tfmm.serving.catalogue import read_catalogue, write_catalogue
from tfmm.serving.queries import Query, read_answers
from tfmm.sources.dataset import Items, Media

pytestmark = pytest.mark.slow  # versions of a whole model are written and loaded
NEW = ("new0", "new1", "new2")


def products(**columns: object) -> Items:
    """Returns `new0`, a copy of item i8 (group 0), `new1`, a picture of group 2, and `new2`, words of group 1."""
    shop, count = shops.dataset().items, len(NEW)
    pictures = np.array([shops.picture(shop.vectors["image"][8]), picture(), None], object)
    given = {
        "ids": np.array(NEW, object),
        "text": np.array([shop.text[8], "", "running shoe 61"], object),
        "titles": np.array(["A new lamp", "new1", "running shoe 61"], object),
        "images": Media(pictures),
        "sounds": Media.missing(count),
        "launched": np.array([NOW - 5, 0, 0]),
        "categorical": {"brand": Ragged.from_rows([["brand00"], [], []], object)},
        "numeric": {"price": np.array([shop.numeric["price"][8], np.nan, np.nan], np.float32)},
    }
    return Items(**{**given, **columns})


def picture() -> bytes:
    return shops.picture(shops.dataset().items.vectors["image"][22] * 1.01)


def renamed(first: str) -> Items:
    return products(ids=np.array([first, *NEW[1:]], object))


@pytest.fixture(scope="module")
def service() -> Service:
    return shops.service()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    """Returns a model directory whose version 1 is the small shop's, with a catalogue and another file beside it."""
    directory = tmp_path_factory.mktemp("saved_models") / "tfmm"
    shutil.copytree(shops.version(), directory / "1")
    (directory / "1" / "assets.extra").mkdir(exist_ok=True)
    items = shops.dataset().items
    write_catalogue(directory / "1" / "assets.extra", list(items.ids), list(items.titles), [b""] * shops.ITEMS)
    (directory / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"as it was")
    return directory


@pytest.fixture(scope="module")
def first(model_dir) -> reindexing.Exported:
    return reindexing.open_version(model_dir / "1")


@pytest.fixture(scope="module")
def added(first) -> reindexing.Changed:
    return reindexing.reindex(first, add=products(), now=NOW)


@pytest.fixture(scope="module")
def second(added) -> reindexing.Exported:
    return reindexing.open_version(added.path)


@pytest.fixture(scope="module")
def before(model_dir):
    return tf.saved_model.load(str(model_dir / "1")).signatures


@pytest.fixture(scope="module")
def after(added):
    return tf.saved_model.load(str(added.path)).signatures


def everything(signatures, queries: list[Query]) -> list[object]:
    """Returns the answers of every signature."""
    items = np.array([f"i{row}" for row in range(0, 60, 7)], object)
    lists = np.array(list(records.serialise_lists(as_lists(queries, [["i9", "i1", "i33"]] * len(queries)))), object)
    return [
        *(ask(signatures, queries, name) for name in ("serving_default", "recommend", "retrieve")),
        read_answers(call(signatures, "similar_items", item_ids=items)),
        call(signatures, "rank", **{EXAMPLES: lists})["scores"].tolist(),
    ]


def test_a_new_version_is_the_same_graph_and_answers_alike_once_what_came_is_gone(model_dir, added, second, before):
    assert added.path.name == "2"
    assert (added.items, added.added, added.replaced, added.removed) == (shops.ITEMS + 3, 3, 0, 0)
    back = reindexing.reindex(second, remove=NEW)
    for path in (added.path, back.path):
        assert (path / "saved_model.pb").read_bytes() == (model_dir / "1" / "saved_model.pb").read_bytes()
    assert everything(tf.saved_model.load(str(back.path)).signatures, QUERIES) == everything(before, QUERIES)


def test_what_was_there_keeps_its_scores_when_products_come(before, after):
    assert set(before) == set(after)
    for name in ("retrieve", "serving_default"):
        for query, old, new in zip(QUERIES, ask(before, QUERIES, name), ask(after, QUERIES, name)):
            scores = dict(old)
            stayed = [(item, score) for item, score in new if item in scores]
            assert len(stayed) >= min(len(old), len(new)) - 3, query
            if name == "retrieve":  # a score of the reranker depends on what else is in the list
                np.testing.assert_allclose([s for _, s in stayed], [scores[i] for i, _ in stayed], rtol=1e-5)


def test_a_new_product_is_found_by_text_by_picture_and_by_history(after):
    assert ids(ask(after, [Query(text="running shoe 61")])[0])[0] == "new2"
    assert ids(ask(after, [Query(image=picture())])[0])[0] == "new1"
    for name, group in zip(NEW[:2], (0, 2)):
        found = ids(ask(after, [Query(history=[f"i{group + 4 * n}" for n in (1, 3, 5)], time=NOW)], "retrieve")[0])
        assert found.index(name) < 20


def test_a_copy_stands_beside_what_it_copies(after):
    near = read_answers(call(after, "similar_items", item_ids=np.array(["i8", *NEW], object)))
    assert "new0" in ids(near[0])[:5]
    for answer, group in zip(near[1:3], (0, 2)):
        best = shops.group_of(np.array([int(item[1:]) for item in ids(answer)[:5] if item[0] == "i"]))
        assert (best == group).mean() >= 0.75


def test_a_new_product_stands_where_embed_item_says(after, second):
    shop = shops.dataset().items
    terms = np.array([["brand=brand00", f"price={float(shop.numeric['price'][8])!r}"]], object)
    image = np.array([shops.picture(shop.vectors["image"][8])], object)
    vector = call(after, "embed_item", text=shop.text[8:9], image=image, attributes=terms)["embedding"][0]
    corpus = second.columns["corpus"][shops.ITEMS]
    np.testing.assert_allclose(corpus, vector[: len(corpus)] / np.linalg.norm(vector[: len(corpus)]), atol=1e-5)


def test_filters_exclusions_histories_and_rank_know_a_new_product(after):
    found = set(ids(ask(after, [Query(history=["i3"], filters=["brand=brand00"])], "retrieve")[0]))
    assert found == having("brand=brand00") | {"new0"}
    assert "new0" not in ids(ask(after, [Query(filters=["brand=brand00"], exclude=["new0"])], "retrieve")[0])
    assert "new0" not in ids(ask(after, [Query(history=["new0"])], "retrieve")[0])
    examples = list(records.serialise_lists(as_lists([Query(history=["i4"])], [["new0", "i9", "nobody"]])))
    scores = call(after, "rank", **{EXAMPLES: np.array(examples, object)})["scores"][0]
    assert scores[0] > scores[2]


def test_a_new_product_has_what_a_product_without_events_has(first, second):
    columns, cold = second.columns, first.columns
    row = int(shops.COLD[-1])
    assert not columns["counts"][-3:].any()
    assert not columns["neighbour_weights"][-3:].any()
    assert (columns["neighbours"][-3:] == -1).all()
    assert columns["launched"][-3:].tolist() == [NOW - 5, NOW, NOW]
    assert {name: column.dtype for name, column in columns.items()} == {n: c.dtype for n, c in cold.items()}
    assert cold["counts"][row].shape == columns["counts"][-1].shape


def test_what_is_removed_never_comes_back_and_leaves_no_neighbour_behind(first, before):
    gone = ["i4", "i0", "i59"]
    changed = reindexing.reindex(first, remove=gone)
    assert (changed.items, changed.removed) == (shops.ITEMS - 3, 3)
    signatures = tf.saved_model.load(str(changed.path)).signatures
    for name in ("recommend", "retrieve"):
        assert not {item for answer in ask(signatures, QUERIES, name) for item in ids(answer)} & set(gone)
    query = [Query(history=["i8", "i12"], time=NOW)]
    kept = [pair for pair in ask(before, query, "retrieve")[0] if pair[0] not in gone]
    found = ask(signatures, query, "retrieve")[0]
    assert ids(found) == ids(kept)
    np.testing.assert_allclose([s for _, s in found], [s for _, s in kept], rtol=1e-5)
    old, new = first, reindexing.open_version(changed.path)
    at = {name: row for row, name in enumerate(old.ids)}
    for row, name in enumerate(new.ids):
        was = {
            old.ids[other]: weight
            for other, weight in zip(old.columns["neighbours"][at[name]], old.columns["neighbour_weights"][at[name]])
            if other >= 0 and old.ids[other] not in gone
        }
        now = {
            new.ids[other]: weight
            for other, weight in zip(new.columns["neighbours"][row], new.columns["neighbour_weights"][row])
            if other >= 0
        }
        assert now == was
    assert all(name not in read_catalogue(changed.path).titles for name in gone)


def test_a_replaced_product_has_new_content_and_keeps_what_events_say_of_it(first):
    old = first
    moved = renamed("i9")
    with pytest.raises(ValueError, match="'i9', which it has"):
        reindexing.reindex(old, add=moved)
    changed = reindexing.reindex(old, add=moved, replace=True, now=NOW)
    assert (changed.items, changed.added, changed.replaced) == (shops.ITEMS + 2, 2, 1)
    new = reindexing.open_version(changed.path)
    for name in ("neighbours", "neighbour_weights", "counts"):
        np.testing.assert_array_equal(new.columns[name][9], old.columns[name][9])
    now, was, copied = new.columns["corpus"][9], old.columns["corpus"][9], old.columns["corpus"][8]
    assert now @ copied > max(0.7, now @ was)
    unstated = reindexing.reindex(
        old, add=dataclasses.replace(moved, launched=np.zeros(3, np.int64)), replace=True, now=NOW
    )
    launched = reindexing.open_version(unstated.path).columns["launched"]
    assert launched[9] == old.columns["launched"][9]
    assert launched[-1] == NOW


def test_the_catalogue_goes_along_and_so_does_all_else_beside_the_graph(added):
    catalogue = read_catalogue(added.path)
    assert len(catalogue.titles) == shops.ITEMS + 3
    assert catalogue.title("new0") == "A new lamp"
    assert catalogue.title("i8") == shops.dataset().items.titles[8]
    assert (added.path / "assets.extra" / "tf_serving_warmup_requests").read_bytes() == b"as it was"


def test_a_picture_that_the_model_cannot_decode_is_left_out_alone_and_reported(first):
    def strict(text, image, terms):  # as a graph with a real decoder; this shop's pictures are 32 bytes
        if any(len(content) not in (0, 32) for content in image.numpy()):
            raise tf.errors.InvalidArgumentError(None, None, "no picture")
        return first.model.describe(text, image, terms)

    whole = products()
    sources = whole.images.sources
    broken = dataclasses.replace(whole, images=Media(np.array([sources[0], b"no picture", None], object)))
    without = dataclasses.replace(whole, images=Media(np.array([sources[0], None, None], object)))
    model = types.SimpleNamespace(describe=strict)
    columns, findings = reindexing.describe(dataclasses.replace(first, model=model), broken)
    expected, _ = reindexing.describe(first, without)
    assert [(found.problem, found.action, found.count) for found in findings] == [
        ("picture cannot be decoded", "dropped", 1)
    ]
    assert "new1" in findings[0].example
    np.testing.assert_array_equal(columns["table"], expected["table"])


def test_a_value_that_training_never_saw_is_other_and_is_reported(first):
    old = first
    strange = products(
        categorical={
            "brand": Ragged.from_rows([["nobody"], [], []], object),
            "shape": Ragged.from_rows([["x"], [], ["y"]], object),
        }
    )
    columns, findings = reindexing.describe(old, strange)
    assert columns["tokens"][0, 0] == 1 + old.vocabulary.fields.index("brand")
    assert [finding.count for finding in findings] == [1, 2]
    assert "brand that training never saw" in findings[0].problem
    assert "brand=nobody" in findings[0].example
    assert "does not have: shape" in findings[1].problem


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"remove": ["nobody", "i3"]}, "'nobody'"),
        ({}, "got neither"),
        ({"remove": [f"i{row}" for row in range(shops.ITEMS)]}, "to leave one item or more"),
        ({"remove": ["i3"], "add": "i3"}, "for both"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_no_version(model_dir, first, options, match):
    versions = sorted(path.name for path in model_dir.iterdir())
    if "add" in options:
        options = {**options, "add": renamed(options["add"])}
    with pytest.raises(ValueError, match=match):
        reindexing.reindex(first, **options)
    assert sorted(path.name for path in model_dir.iterdir()) == versions


def test_every_variable_with_a_row_an_item_can_change(service):
    open_ended = [variable for variable in service.variables if variable.shape.rank and variable.shape[0] is None]
    assert {id(variable) for variable in open_ended} == {id(variable) for variable in service.columns.values()}
    fixed = [variable for variable in service.variables if variable.shape.rank and variable.shape[0] == shops.ITEMS]
    assert not fixed


def test_the_command_reads_a_file_as_a_shops_and_writes_the_next_version(model_dir, tmp_path, capsys, caplog):
    columns = ["product_id", "name", "brand", "colour", "price", "washing"]
    rows = [["w1", "silk scarf 77", "brand20", "red|blue", "12.50", "wash by hand"], ["w2", "", "nobody", "", "x", ""]]
    path = tmp_path / "new.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    models = tmp_path / "saved_models"
    shutil.copytree(model_dir / "1", models / "tfmm" / "1")
    assert cli.main(["index", "--saved_models", str(models), "--add", str(path), "--remove", "i5,i6"]) == 0
    assert "60 items (2 added, 0 replaced, 2 removed)" in capsys.readouterr().out
    assert "brand=nobody" in caplog.text
    assert "attribute that is not a number: 1 repaired" in caplog.text
    version = models / "tfmm" / "2"
    signatures = tf.saved_model.load(str(version)).signatures
    query = Query(history=["i1"], filters=["brand=brand20", "colour=blue"])
    assert "w1" in ids(ask(signatures, [query], "retrieve")[0])
    assert read_catalogue(version).title("w1") == "silk scarf 77"
    new = reindexing.open_version(version)
    assert new.columns["launched"][-1] > NOW
    (tmp_path / "gone.csv").write_text("id,why\nw1,sold out\nw2,\n", encoding="utf-8")
    assert cli.main(["index", "--saved_models", str(models), "--remove", str(tmp_path / "gone.csv")]) == 0
    assert cli.main(["index", "--saved_models", str(models), "--remove", "w1"]) == 2
    assert "'w1'" in capsys.readouterr().err
    assert sorted(path.name for path in (models / "tfmm").iterdir()) == ["1", "2", "3"]


def test_clusters_hold_the_items_that_there_are():
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 1, 2, 3, 3]]
    old = {"ids": np.array([b"a", b"b", b"c", b"d", b"e", b"f"], object), "corpus": vectors, "centroids": np.eye(4)}
    columns = reindexing._indexed({**old, "members": np.zeros((4, 9), np.int32)})
    assert columns["members"].tolist() == [[0, -1], [1, 2], [3, -1], [4, 5]]
    assert sorted(columns["places"].tolist()) == list(range(6))
