"""One exported version of the small shop: its signatures, held to the Keras objects and to the catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import shops
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfmm import records, schema
from tfmm.export import EXAMPLES, export
from tfmm.features import ATTRIBUTES, ID, PRESENT
from tfmm.ragged import Ragged
from tfmm.service import ATTRIBUTE_TERMS
from tfmm.serving.queries import Query, build_example, build_request, explain_request, read_answers

NOW = shops.START + 99 * shops.DAY
QUERIES = [
    Query(history=["i4", "i8", "i4", "i12"], times=[NOW - 900, NOW - 800, NOW - 700, NOW - 10], time=NOW),
    Query(history=["i1", "unknown", "i5"], events=["view", "", "purchase"], context=["region=north"]),
    Query(),
    Query(history=["i2"], exclude=["i6", "i10", "nobody"], time=NOW),
    Query(text="running shoe"),
    Query(history=["i0", "i4"], image=shops.picture(np.eye(4, 8)[2]), time=NOW),
    Query(history=["i3"], filters=["brand=brand30"]),
]


@pytest.fixture(scope="module")
def signatures():
    return tf.saved_model.load(str(shops.version())).signatures


def call(signatures, name: str, **inputs: object) -> dict[str, np.ndarray]:
    answer = signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
    return {key: value.numpy() for key, value in answer.items()}


def ask(signatures, queries: list[Query], name: str = "recommend") -> list[list[tuple[str, float]]]:
    return read_answers(call(signatures, name, **build_request(queries)))


def ids(answer: list[tuple[str, float]]) -> list[str]:
    return [item for item, _ in answer]


def groups(answer: list[tuple[str, float]]) -> np.ndarray:
    return shops.group_of(np.array([int(item[1:]) for item in ids(answer)]))


def test_every_signature_of_the_contract_is_there(signatures):
    queries = {"serving_default", "recommend", "retrieve", "embed_query"}
    assert set(signatures) == queries | {
        "recommend_examples",
        "rank",
        "embed_item",
        "similar_items",
        "explain",
        "audience",
    }
    for name in queries:
        found = {
            key: (spec.dtype, spec.shape.rank) for key, spec in signatures[name].structured_input_signature[1].items()
        }
        assert found == {key: (spec.dtype, spec.shape.rank) for key, spec in schema.query_signature().items()}


def test_recommend_is_what_the_keras_objects_say(signatures):
    queries = QUERIES[:4]
    candidates = shops.candidates()
    encoded = candidates.encode_query({name: tf.constant(c) for name, c in build_request(queries).items()})
    rows = candidates.pool(encoded)
    scores = shops.scorer()(candidates.features(encoded, rows)).numpy()
    for query, answer in enumerate(ask(signatures, queries)):
        pairs = [(f"i{row}", score) for row, score in zip(rows.numpy()[query], scores[query]) if row >= 0]
        pairs.sort(key=lambda pair: -pair[1])
        assert ids(answer) == [item for item, _ in pairs]
        np.testing.assert_allclose([s for _, s in answer], [s for _, s in pairs], rtol=1e-3, atol=1e-3)


def test_retrieve_is_the_cosine_to_every_item_that_is_not_seen(signatures):
    for query, answer in zip(QUERIES[:4], ask(signatures, QUERIES[:4], "retrieve")):
        vector = call(signatures, "embed_query", **build_request([query]))["embedding"][0, : shops.CONFIG.towers.dim]
        scores = shops.candidates().corpus.numpy() @ vector / shops.CONFIG.retrieval.temperature
        free = [row for row in range(shops.ITEMS) if f"i{row}" not in {*query.history, *query.exclude}]
        expected = sorted(free, key=lambda row: -scores[row])
        assert ids(answer) == [f"i{row}" for row in expected]
        np.testing.assert_allclose([score for _, score in answer], scores[expected], rtol=1e-3, atol=1e-3)


def test_what_a_score_is_made_of_sums_to_it_and_the_history_counts_by_what_is_lost_without(signatures):
    query = Query(history=["i1", "i2", "no", "i5"], events=["view", "purchase", "view", ""], time=shops.START)
    near = dict(ask(signatures, [query], "retrieve")[0])
    items = [*near, "nobody"]
    found = call(signatures, "explain", **explain_request(query, items))
    assert [name.decode() for name in found["modalities"][0]] == list(shops.features().modalities)
    shares = found["modality_shares"][0]
    np.testing.assert_allclose(shares.sum(axis=1)[:-1], list(near.values()), rtol=1e-3, atol=1e-3)
    assert not shares[-1].any() and not found["history_shares"][0][-1].any()
    for place in range(4):
        history, events = ([v for p, v in enumerate(given) if p != place] for given in (query.history, query.events))
        without = dict(ask(signatures, [Query(history=history, events=events, time=shops.START)], "retrieve")[0])
        for number, item in enumerate(items):
            if item in without:
                fall = near[item] - without[item]
                np.testing.assert_allclose(found["history_shares"][0][number, place], fall, rtol=1e-2, atol=2e-3)


def test_an_audience_is_the_softmax_over_what_each_shopper_can_have(signatures):
    queries = [Query(history=["i1", "i2"]), Query(history=["i5"], exclude=["i7"], filters=["colour=red"]), Query()]
    items = np.array([["i1", "i7", "i9", "nobody"]] * 3, object)
    found = call(signatures, "audience", **build_request(queries), item_ids=items)["scores"]
    for query, scores in zip(queries, found):
        answers = dict(ask(signatures, [query], "retrieve")[0])  # all that the shopper can have, with its logit
        total = np.logaddexp.reduce(list(answers.values()))
        for item, score in zip(items[0], scores):
            expected = answers[item] - total if item in answers else np.finfo(np.float32).min
            np.testing.assert_allclose(score, expected, rtol=1e-3, atol=1e-3)


def test_a_modality_that_a_product_lacks_can_only_count_by_its_absence(signatures):
    bare = [row for row in range(shops.ITEMS) if row % 10 == 3]  # no picture
    query = Query(history=["i1"])
    found = call(signatures, "explain", **explain_request(query, [f"i{row}" for row in bare]))
    names = list(shops.features().modalities)
    fusion = shops.retriever().towers.candidate.fusion
    vector = call(signatures, "embed_query", **build_request([query]))["embedding"][0, : shops.CONFIG.towers.dim]
    absent = fusion.absent.numpy()[names.index("image")] @ vector / shops.CONFIG.retrieval.temperature
    table = shops.retriever().corpus_vectors().numpy()[bare]
    expected = absent / np.linalg.norm(table, axis=1)
    np.testing.assert_allclose(found["modality_shares"][0][:, names.index("image")], expected, rtol=1e-2, atol=1e-3)


def test_the_default_signature_is_recommend(signatures):
    assert ask(signatures, QUERIES, "serving_default") == ask(signatures, QUERIES, "recommend")


@pytest.mark.parametrize("name", ["recommend", "retrieve"])
def test_what_was_seen_or_is_excluded_never_comes_back(signatures, name):
    rng = np.random.default_rng(0)
    queries = [
        Query(
            history=[f"i{row}" for row in rng.integers(0, 60, 12)],
            exclude=[f"i{row}" for row in rng.integers(0, 60, 9)],
            text=["", "silk scarf"][number % 2],
        )
        for number in range(6)
    ]
    for query, answer in zip(queries, ask(signatures, queries, name)):
        assert answer
        assert not set(ids(answer)) & {*query.history, *query.exclude}
        assert len(set(ids(answer))) == len(answer)


def test_everything_seen_leaves_nothing(signatures):
    every = [f"i{row}" for row in range(shops.ITEMS)]
    assert ask(signatures, [Query(history=every[:30], exclude=every[30:])]) == [[]]


def having(*terms: str) -> set[str]:
    """Returns the ids of the items that have every "field=value"."""
    items = shops.dataset().items
    found = set(items.ids)
    for term in terms:
        field, value = term.split("=")
        found &= {items.ids[row] for row in range(shops.ITEMS) if value in items.categorical[field][row]}
    return found


@pytest.mark.parametrize(
    "filters", [["brand=brand00"], ["colour=blue"], ["brand=brand11", "colour=green"], ["colour=green", "colour=blue"]]
)
def test_filters_return_the_items_that_have_all_of_them(signatures, filters):
    query = Query(history=["i3"], filters=filters)
    assert set(ids(ask(signatures, [query], "retrieve")[0])) == having(*filters) - {"i3"}
    recommended = set(ids(ask(signatures, [query])[0]))
    assert recommended <= having(*filters) - {"i3"}
    assert bool(recommended) == bool(having(*filters) - {"i3"})


@pytest.mark.parametrize("unknown", ["brand=nobody", "material=steel", "nonsense", "brand="])
def test_an_unknown_filter_returns_nothing(signatures, unknown):
    assert ask(signatures, [Query(history=["i3"])])[0]
    request = build_request([Query(history=["i3"])])
    request[schema.FILTERS] = np.array([[unknown.encode(), b"colour=blue"]], object)
    assert read_answers(call(signatures, "recommend", **request)) == [[]]


def test_one_queries_filters_and_exclusions_are_not_anothers(signatures):
    free, bound = ask(signatures, [QUERIES[0], Query(history=["i4"], filters=["brand=brand30"], exclude=["i3"])])
    assert ids(free) == ids(ask(signatures, [QUERIES[0]])[0])
    assert set(ids(bound)) <= having("brand=brand30")


@pytest.mark.parametrize("name", ["recommend", "retrieve", "embed_query"])
def test_every_input_may_be_empty(signatures, name):
    request = build_request([Query()])
    for key, spec in schema.query_signature().items():
        if spec.shape.rank == 2:
            assert request[key].shape == (1, 0)
    answer = call(signatures, name, **request)
    assert all(np.all(np.isfinite(value)) for value in answer.values() if value.dtype == np.float32)
    if name != "embed_query":
        least = shops.ITEMS if name == "retrieve" else shops.CONFIG.candidates.retrieved  # nothing was co-visited
        assert len(read_answers(answer)[0]) == least


@pytest.mark.parametrize("key", [schema.HISTORY_TIMES, schema.HISTORY_EVENTS, schema.CONTEXT, schema.FILTERS])
def test_a_column_that_is_left_out_is_a_column_of_nothing(signatures, key):
    request = build_request([QUERIES[0]])
    left_out = {**request, key: request[key][:, :0]}
    empty = {**request, key: np.full([1, 4], 0 if key == schema.HISTORY_TIMES else b"", request[key].dtype)}
    answers = [read_answers(call(signatures, "recommend", **asked)) for asked in (left_out, empty)]
    assert ids(answers[0][0]) == ids(answers[1][0])


def test_a_batch_of_mixed_queries_is_answered_as_one_by_one(signatures):
    for name in ("recommend", "retrieve"):
        for query, together in zip(QUERIES, ask(signatures, QUERIES, name)):
            alone = ask(signatures, [query], name)[0]
            assert ids(together) == ids(alone), query
            np.testing.assert_allclose([s for _, s in together], [s for _, s in alone], rtol=1e-3, atol=1e-3)


def test_serialised_queries_are_answered_as_dense_ones(signatures):
    examples = np.array([build_example(query) for query in QUERIES], object)
    found = read_answers(call(signatures, "recommend_examples", **{EXAMPLES: examples}))
    for one, other in zip(found, ask(signatures, QUERIES)):
        assert ids(one) == ids(other)
        np.testing.assert_allclose([s for _, s in one], [s for _, s in other], rtol=1e-3, atol=1e-3)


def test_sound_is_refused_with_a_sentence(signatures):
    with pytest.raises(tf.errors.InvalidArgumentError, match="query_audio must be empty"):
        ask(signatures, [Query(history=["i1"], audio=b"RIFF")])


# --- Typed and shown queries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", range(shops.GROUPS))
def test_a_typed_or_shown_query_finds_its_group(signatures, group):
    shown = shops.dataset().items.vectors["image"][group + 4]
    for query in (Query(text=shops.WORDS[group]), Query(image=shops.picture(shown))):
        best = groups(ask(signatures, [query])[0][:8])
        assert (best == group).mean() >= 0.75


def test_a_search_is_answered_in_the_order_of_the_towers(signatures):
    for query in (QUERIES[4], QUERIES[5]):
        recommended, retrieved = ask(signatures, [query])[0], ask(signatures, [query], "retrieve")[0]
        assert ids(recommended) == ids(retrieved)[: len(recommended)]


def test_a_query_of_words_alone_stands_where_the_content_of_an_item_of_these_words_stands(signatures):
    dim = shops.CONFIG.towers.dim
    query = call(signatures, "embed_query", **build_request([Query(text="silk scarf 9")]))["embedding"]
    assert not query[:, :dim].any()  # without a history there is no taste
    content = embed(signatures, text="silk scarf 9")[:, dim:]
    np.testing.assert_allclose(query[:, dim:], content * np.sqrt(2), rtol=1e-3, atol=1e-4)


def test_a_search_with_a_history_adds_the_weighted_logits_of_the_taste(signatures):
    query = Query(text="silk scarf", history=["i0", "i4"])
    encoded = {name: tf.constant(column) for name, column in build_request([query]).items()}
    taste = shops.candidates().encode_query(encoded)["vector"].numpy()[0] @ shops.candidates().corpus.numpy().T
    asked = shops.aligner().embed_texts(["silk scarf"])[0] @ shops.aligner().embed_all().T
    scores = asked / shops.aligner().temperature + 0.5 * taste / shops.CONFIG.retrieval.temperature
    found = dict(ask(signatures, [query], "retrieve")[0])
    assert len(found) == shops.ITEMS - 2
    for item, score in found.items():
        np.testing.assert_allclose(score, scores[int(item[1:])], rtol=1e-2, atol=1e-2)


def test_a_history_sways_a_search_and_does_not_rule_it(signatures):
    vectors = [
        call(signatures, "embed_query", **build_request([query]))["embedding"][0]
        for query in (
            Query(text="silk scarf"),
            Query(text="silk scarf", history=["i0", "i4"]),
            Query(history=["i0", "i4"]),
        )
    ]
    words, both, history = vectors
    assert words @ both > 0.8
    assert history @ both > history @ words


# --- rank, embed_item, similar_items ---------------------------------------------------------------------------------


def test_rank_scores_the_given_items_in_the_given_order(signatures):
    lists = [["i9", "i1", "nobody", "i33", "i2"], ["i7"], ["i3", "i50"]]
    queries = QUERIES[:2] + [Query()]
    examples = np.array(list(records.serialise_lists(as_lists(queries, lists))), object)
    answer = call(signatures, "rank", **{EXAMPLES: examples})
    width = max(map(len, lists))
    assert answer["item_ids"].astype(str).tolist() == [row + [""] * (width - len(row)) for row in lists]
    candidates = shops.candidates()
    encoded = candidates.encode_query({name: tf.constant(c) for name, c in build_request(queries).items()})
    rows = Ragged.from_rows([[-1 if i == "nobody" else int(i[1:]) for i in row] for row in lists], np.int32).to_dense()
    expected = shops.scorer()(candidates.features(encoded, tf.constant(rows))).numpy()
    np.testing.assert_allclose(answer["scores"][rows >= 0], expected[rows >= 0], rtol=1e-3, atol=1e-3)
    assert answer["scores"][rows < 0].max() < answer["scores"][rows >= 0].min()


def as_lists(queries: list[Query], lists: list[list[str]]) -> records.ExampleLists:
    features = [query.features() for query in queries]
    columns = {
        name: Ragged.from_rows([f[name] for f in features], object if spec.dtype == tf.string else np.int64)
        for name, spec in schema.query_spec().items()
        if isinstance(spec, tf.io.RaggedFeature)
    }
    columns[schema.QUERY_TIME] = np.array([query.time for query in queries], np.int64)
    return records.ExampleLists(Ragged.from_rows(lists, object), np.zeros(sum(map(len, lists)), np.float32), columns)


def embed(signatures, *, text: str = "", image: bytes = b"", attributes: tuple[str, ...] = ()) -> np.ndarray:
    terms = np.array([[term.encode() for term in attributes]], object).reshape(1, len(attributes))
    inputs = {"text": np.array([text.encode()], object), "image": np.array([image], object), ATTRIBUTE_TERMS: terms}
    return call(signatures, "embed_item", **inputs)["embedding"]


def test_a_products_content_stands_where_the_candidate_tower_puts_it_without_its_id(signatures):
    items, table = shops.dataset().items, shops.shop().table
    columns = {name: tf.constant(column[:-1]) for name, column in shops.features().columns.items()}
    tower = shops.retriever().towers.candidate
    columns[PRESENT] &= [name != ID for name in tower.modalities]
    expected = tower(columns).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for row in [0, 3, 5, 7, 11, 13, 22, 33, 37, *shops.COLD]:  # each modality is missing from some
        terms = [f"{field}={value}" for field, values in items.categorical.items() for value in values[row]]
        price = table.numeric["price"][row]
        terms += [] if np.isnan(price) else [f"price={price!r}"]
        image = shops.picture(table.vectors["image"][row]) if table.present["image"][row] else b""
        found = embed(signatures, text=items.text[row], image=image, attributes=tuple(terms[::-1]))
        found = found[0, : tower.config.dim] * np.sqrt(2)  # the other half is where search looks for it
        np.testing.assert_allclose(found, expected[row], rtol=1e-3, atol=1e-3, err_msg=str(row))


def test_numbers_and_values_in_attributes_reach_the_tower(signatures):
    vectors = [embed(signatures, attributes=terms) for terms in (("price=2.5",), ("price=1e3",), ("brand=brand00",))]
    assert min(np.abs(vectors[a] - vectors[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-3
    np.testing.assert_array_equal(embed(signatures, attributes=("price=2.5", "")), vectors[0])
    np.testing.assert_array_equal(embed(signatures, attributes=("price=2.5", "weight=3")), vectors[0])


@pytest.mark.parametrize("bad", ["price=cheap", "price=12,50"])
def test_what_should_be_a_number_and_is_none_is_refused(signatures, bad):
    with pytest.raises(tf.errors.InvalidArgumentError, match=bad.split("=")[1]):
        embed(signatures, attributes=(bad,))


def test_a_product_without_anything_has_a_finite_vector(signatures):
    assert np.all(np.isfinite(embed(signatures)))


def test_similar_items_are_the_nearest_and_never_the_item_itself(signatures):
    corpus = shops.candidates().corpus.numpy()
    asked = ["i5", "nobody", "i0", ""]
    answers = read_answers(call(signatures, "similar_items", item_ids=np.array(asked, object)))
    assert answers[1] == answers[3] == []
    for answer, row in ((answers[0], 5), (answers[2], 0)):
        scores = corpus @ corpus[row]
        expected = [other for other in np.argsort(-scores) if other != row]
        assert ids(answer) == [f"i{other}" for other in expected]
        np.testing.assert_allclose([score for _, score in answer], scores[expected], rtol=1e-3, atol=1e-4)


def test_an_items_nearest_are_of_its_group(signatures):
    answers = read_answers(call(signatures, "similar_items", item_ids=np.array([f"i{r}" for r in range(60)], object)))
    same = [(groups(answer[:5]) == row % shops.GROUPS).mean() for row, answer in enumerate(answers)]
    assert np.mean(same) > 0.8


# --- What is written -------------------------------------------------------------------------------------------------


def test_only_ops_that_a_stock_server_has_are_in_the_graph():
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((shops.version() / "saved_model.pb").read_bytes())
    graph = model.meta_graphs[0].graph_def
    ops = {node.op for function in graph.library.function for node in function.node_def}
    assert "MatMul" in ops
    assert not {op for op in ops if "PyFunc" in op or "Scann" in op or "Xla" in op}
    text = {op for op in ops if "entencepiece" in op}
    assert text <= {"SentencepieceOp", "SentencepieceTokenizeOp", "SentencepieceDetokenizeOp"}


def test_what_only_training_needs_is_not_exported():
    names = [name for name, _ in tf.train.list_variables(str(shops.version() / "variables" / "variables"))]
    assert names
    assert not [name for name in names if "optimizer" in name.lower() or "adam" in name.lower() or "_m/" in name]


class Small(tf.Module):
    """The least that can be exported."""

    def signatures(self) -> dict:
        spec = tf.TensorSpec([None], tf.float32)
        return {"serving_default": tf.function(lambda x: {"y": x + 1}).get_concrete_function(spec)}


def versions(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_versions_count_up_from_the_newest(tmp_path):
    assert export(Small(), tmp_path / "tfmm") == tmp_path / "tfmm" / "1"
    (tmp_path / "tfmm" / "9").mkdir()
    (tmp_path / "tfmm" / "notes").mkdir()
    assert export(Small(), tmp_path / "tfmm") == tmp_path / "tfmm" / "10"
    assert versions(tmp_path / "tfmm") == ["1", "10", "9", "notes"]


def test_what_a_kill_left_behind_is_cleaned_and_is_no_version(tmp_path):
    left = tmp_path / ".writing-7-4242"
    left.mkdir()
    (left / "saved_model.pb").write_bytes(b"half")
    assert export(Small(), tmp_path).name == "1"
    assert versions(tmp_path) == ["1"]


def test_a_failure_beside_the_graph_leaves_no_version(tmp_path):
    def full_disk(path) -> None:
        assert (path / "saved_model.pb").is_file()
        assert not path.name.isdigit()
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        export(Small(), tmp_path, beside=full_disk)
    assert not [name for name in versions(tmp_path) if name.isdigit()]
    assert export(Small(), tmp_path).name == "1"
    assert versions(tmp_path) == ["1"]


def test_what_belongs_beside_the_graph_is_there_when_the_version_is(tmp_path):
    version = export(Small(), tmp_path, beside=lambda path: (path / "catalogue.txt").write_text("i0"))
    assert (version / "catalogue.txt").read_text() == "i0"


def test_attributes_of_a_cold_item_are_filterable_where_training_knew_the_value(signatures):
    cold = {f"i{row}" for row in shops.COLD}
    found = set(ids(ask(signatures, [Query(filters=["brand=brand00"])], "retrieve")[0]))
    assert found & cold == having("brand=brand00") & cold
    assert ATTRIBUTES in shops.features().modalities
