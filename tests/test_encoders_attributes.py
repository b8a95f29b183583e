"""Attributes: what training did not see is "other", what is missing is learned, and the graph agrees with numpy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmm.encoders.attributes import (
    NOTHING,
    UNSEEN,
    AttributeEncoder,
    AttributeLookup,
    AttributeVocabulary,
    learn_attributes,
)
from tfmm.ragged import Ragged

BRANDS = [["Acme"], ["Bolt"], [], ["Acme"], ["Zeta"]]
COLOURS = [["红", "blue"], ["blue"], ["blue", "blue"], [""], ["green"]]
CATEGORICAL = {"colour": Ragged.from_rows(COLOURS, object), "brand": Ragged.from_rows(BRANDS, object)}
NUMERIC = {"price": np.array([10.0, 20.0, np.nan, 30.0, 1e9]), "age": np.array([1.0, 1.0, 1.0, 1.0, 1.0])}
TRAINING = np.array([0, 1, 2, 3])


@pytest.fixture(scope="module")
def vocabulary() -> AttributeVocabulary:
    return learn_attributes(CATEGORICAL, NUMERIC, rows=TRAINING)


def test_ids_come_from_training_rows_only_and_in_a_fixed_order(vocabulary: AttributeVocabulary) -> None:
    assert vocabulary.fields == ("brand", "colour")
    assert vocabulary.terms == ("brand=Acme", "brand=Bolt", "colour=blue", "colour=红")
    assert len(vocabulary) == 1 + 2 + 4
    assert vocabulary.field_of_id.tolist() == [-1, 0, 1, 0, 0, 1, 1]


def test_tokens_are_ids_and_unseen_values_are_the_other_of_their_field(vocabulary: AttributeVocabulary) -> None:
    expected = [
        [[3, 0], [6, 5]],
        [[4, 0], [5, 0]],
        [[0, 0], [5, 5]],
        [[3, 0], [0, 0]],  # "" is no value
        [[1, 0], [2, 0]],  # row 4 was not in training
    ]
    np.testing.assert_array_equal(vocabulary.token_table(CATEGORICAL), expected)
    assert vocabulary.token_table(CATEGORICAL).dtype == np.int32
    only_brand = {"brand": CATEGORICAL["brand"], "new field": CATEGORICAL["colour"]}
    np.testing.assert_array_equal(vocabulary.token_table(only_brand)[:, 1], 0)
    assert vocabulary.token_table({}, num_rows=3).shape == (3, 2, 1)


def test_a_rare_value_is_other() -> None:
    vocabulary = learn_attributes(CATEGORICAL, {}, rows=TRAINING, min_count=2)
    assert vocabulary.terms == ("brand=Acme", "colour=blue")


def test_a_value_said_twice_of_one_product_counts_once() -> None:
    twice = {"colour": Ragged.from_rows([["blue", "blue"], ["red"], ["red"]], object)}
    assert learn_attributes(twice, {}, min_count=2).terms == ("colour=red",)


def test_numbers_are_standardised_by_training_rows(vocabulary: AttributeVocabulary) -> None:
    table = vocabulary.numeric_table(NUMERIC)
    deviation = math.sqrt(200 / 3)  # of 10, 20, 30
    np.testing.assert_allclose(table[:, 0], 0)  # age: all the same
    np.testing.assert_allclose(table[[0, 1, 3], 1], [-10 / deviation, 0, 10 / deviation], atol=1e-6)
    assert np.isnan(table[2, 1]) and table[4, 1] == 8  # missing; far outside
    assert np.isnan(vocabulary.numeric_table({"price": NUMERIC["price"]})[:, 0]).all()


def test_skewed_numbers_are_squashed_first() -> None:
    prices = np.array([1.0] * 30 + [2.0] * 30 + [1e6])
    statistics = learn_attributes({}, {"price": prices}).numeric[0]
    assert statistics.skewed
    logs = np.log1p(prices)
    table = learn_attributes({}, {"price": prices}).numeric_table({"price": prices})
    np.testing.assert_allclose(table[:, 0], np.clip((logs - logs.mean()) / logs.std(), -8, 8), rtol=1e-5)


def test_infinite_and_absent_numbers_are_missing() -> None:
    vocabulary = learn_attributes({}, {"price": np.array([np.inf, np.nan, -np.inf])})
    assert np.isnan(vocabulary.numeric_table({"price": np.array([np.inf, 1.0])})[:, 0]).tolist() == [True, False]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=5))))
def test_the_graph_gives_every_value_the_id_that_numpy_gives(rows: list[list[str]]) -> None:
    values = {"f": Ragged.from_rows(rows, object)}
    half = learn_attributes(values, {}, rows=np.arange(0, len(rows), 2))
    lookup = AttributeLookup(half)
    for row, tokens in zip(rows, half.token_table(values)):
        terms = [f"f={value}" if value else "" for value in row]
        assert lookup(tf.constant(terms, tf.string)).numpy().tolist() == tokens[0, : len(row)].tolist()


def test_lookup_of_terms_of_any_shape(vocabulary: AttributeVocabulary) -> None:
    lookup = AttributeLookup(vocabulary)
    terms = tf.constant([["brand=Acme", "brand=new", "colour=a=b"], ["", "size=XL", "brand="]])
    np.testing.assert_array_equal(lookup(terms), [[3, 1, 2], [NOTHING, NOTHING, NOTHING]])
    np.testing.assert_array_equal(lookup.exact(terms), [[3, UNSEEN, UNSEEN], [NOTHING, UNSEEN, UNSEEN]])
    expected = [[[3, 1, 0], [0, 0, 2]], [[0, 0, 0], [0, 0, 0]]]
    np.testing.assert_array_equal(lookup.by_field(terms), expected)


def test_the_graph_standardises_as_numpy_does() -> None:
    numeric = {
        "a": np.array([1.0, 2.0, 4.0, np.nan]),
        "b": np.array([-1.0] * 20 + [5e4]),
        "c": np.array([np.nan]),
    }  # c was never seen
    vocabulary = learn_attributes({}, numeric)
    raw = np.array([[1.5, -7.0, 1.0], [np.nan, 1e4, np.inf], [1e9, np.nan, 0.0]], np.float32)
    expected = vocabulary.numeric_table(dict(zip("abc", raw.T)))
    np.testing.assert_allclose(AttributeLookup(vocabulary).standardise(tf.constant(raw)), expected, rtol=1e-5)


def test_the_vocabulary_survives_json(vocabulary: AttributeVocabulary) -> None:
    assert AttributeVocabulary.from_json(vocabulary.to_json()) == vocabulary


def test_a_field_name_with_an_equals_sign_is_refused() -> None:
    with pytest.raises(ValueError, match="'a=b'"):
        learn_attributes({"a=b": Ragged.from_rows([["x"]])}, {})


# --- The layer --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(vocabulary: AttributeVocabulary) -> AttributeEncoder:
    return AttributeEncoder(vocabulary, 4)


def test_the_order_and_number_of_padded_values_change_nothing(encoder: AttributeEncoder) -> None:
    numeric = tf.constant([[0.5, -1.0]])
    vectors = [
        encoder(tf.constant([[[3, 0], [5, 6]]]), numeric)[0],
        encoder(tf.constant([[[0, 3, 0], [6, 0, 5]]]), numeric)[0],
    ]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_no_two_weights_start_alike(encoder: AttributeEncoder) -> None:
    weights = {weight.name: weight.numpy() for weight in encoder.weights if "bias" not in weight.name}
    for name, weight in weights.items():
        same = [
            other for other in weights if weights[other].shape == weight.shape and np.allclose(weights[other], weight)
        ]
        assert same == [name]


def test_the_vector_is_the_mean_of_slots_and_what_a_network_adds(encoder: AttributeEncoder) -> None:
    tokens, numeric = np.array([[[3, 0], [5, 6]]]), np.array([[0.5, np.nan]], np.float32)
    vector, _ = encoder(tf.constant(tokens), tf.constant(numeric))
    weights = {weight.name.split("/")[-1].split(":")[0]: weight.numpy() for weight in encoder.weights}
    slots = [
        weights["values"][3],
        (weights["values"][5] + weights["values"][6]) / 2,
        0.5 * weights["slopes"][0] + weights["offsets"][0],
        weights["absent_numeric"][1],
    ]
    mean = np.mean(slots, axis=0)
    hidden = tf.nn.gelu(mean @ weights["inner"] + weights["inner_bias"]).numpy()
    np.testing.assert_allclose(vector[0], mean + hidden @ weights["outer"], atol=1e-5)


def test_an_item_is_present_if_any_attribute_is_known(encoder: AttributeEncoder) -> None:
    nothing, nan = [[0], [0]], [np.nan, np.nan]
    tokens = tf.constant([nothing, [[3], [0]], nothing])
    vectors, present = encoder(tokens, tf.constant([nan, nan, [np.nan, 0.0]], tf.float32))
    assert present.numpy().tolist() == [False, True, True]
    assert np.isfinite(vectors).all()


def test_every_weight_learns_also_beside_missing_numbers(encoder: AttributeEncoder) -> None:
    tokens = tf.constant([[[3], [0]], [[0], [5]]])
    with tf.GradientTape() as tape:
        vectors, _ = encoder(tokens, tf.constant([[np.nan, 1.0], [0.5, np.nan]]))
        loss = tf.reduce_sum(vectors**2)
    for weight, gradient in zip(encoder.weights, tape.gradient(loss, encoder.trainable_weights)):
        dense = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(dense).all() and np.any(dense), weight.name


@pytest.mark.parametrize("which", ["both", "categorical", "numeric"])
def test_lookup_and_encoder_are_exported_together(which: str, tmp_path: Path) -> None:
    categorical = {} if which == "numeric" else CATEGORICAL
    numeric = {} if which == "categorical" else NUMERIC
    vocabulary = learn_attributes(categorical, numeric)
    module = tf.Module()
    module.lookup, module.encoder = AttributeLookup(vocabulary), AttributeEncoder(vocabulary, 4)
    width = len(vocabulary.numeric)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string), tf.TensorSpec([None, width], tf.float32)])
    def embed(terms: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        return module.encoder(module.lookup.by_field(terms), module.lookup.standardise(numbers))[0]

    arguments = (tf.constant([["brand=Acme", "colour=blue"], ["", ""]]), tf.fill([2, width], 3.0))
    expected = embed(*arguments)
    module.embed = embed
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(loaded.embed(*arguments), expected, atol=1e-6)
