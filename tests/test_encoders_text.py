"""Subwords are learned alike each time, and padding never changes what a text encoder says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfmm.encoders.text import SubwordTokenizer, TextConfig, learn_subwords, make_text_encoder

sentencepiece = pytest.importorskip("sentencepiece")
KINDS = ["pooled", "cnn", "gru", "lstm", "transformer"]
CATALOGUE = [
    f"{colour} {what} no {n}" for n in range(20) for colour in ("red", "blue", "红色") for what in ("dress", "鞋子")
]


@pytest.fixture(scope="module")
def model() -> bytes:
    return learn_subwords(CATALOGUE, vocabulary_size=60)


def ids_and_padded(extra: int = 9) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.RandomState(0).randint(1, 40, (5, 7)).astype(np.int32)
    ids[1, 1:], ids[2, 4:], ids[3] = 0, 0, 0
    return ids, np.pad(ids, [[0, 0], [0, extra]])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_never_changes_the_outcome(kind: str) -> None:
    encoder = make_text_encoder(TextConfig(kind, width=16, layers=2), vocabulary_size=40, dim=8)
    ids, padded = ids_and_padded()
    vectors, present = encoder(ids)
    np.testing.assert_allclose(encoder(padded)[0], vectors, atol=1e-5)
    np.testing.assert_allclose(encoder(ids[2:3, :4])[0], vectors[2:3], atol=1e-5)
    np.testing.assert_array_equal(vectors[3], 0)
    assert present.numpy().tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns_and_nothing_is_nan_beside_an_empty_text(kind: str) -> None:
    encoder = make_text_encoder(TextConfig(kind, width=16, dropout=0.0), vocabulary_size=40, dim=8)
    ids, _ = ids_and_padded()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(ids, training=True)[0] ** 3)
    for weight, gradient in zip(encoder.trainable_weights, tape.gradient(loss, encoder.trainable_weights)):
        assert np.isfinite(tf.convert_to_tensor(gradient)).all(), weight.name
        # The bias of attention keys moves all logits of a query alike: its gradient is zero by arithmetic.
        assert "key/bias" in weight.name or np.any(tf.convert_to_tensor(gradient)), weight.name


@pytest.mark.parametrize("kind", ["cnn", "gru", "lstm", "transformer"])
def test_word_order_matters_to_all_but_the_pooled(kind: str) -> None:
    ids = np.array([[3, 4, 5, 6]], np.int32)

    def moved(kind: str) -> float:
        encoder = make_text_encoder(TextConfig(kind, width=16), vocabulary_size=40, dim=8)
        return float(np.abs(encoder(ids)[0] - encoder(ids[:, ::-1])[0]).max())

    assert moved("pooled") < 1e-6 < 1e-4 < moved(kind)


def test_ids_are_those_of_sentencepiece(model: bytes) -> None:
    texts = ["red dress", "红色鞋子 no 7", "blue 鞋子", "unseen Ω word"]
    ids = SubwordTokenizer(model, max_length=32)(tf.constant(texts)).numpy()
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    for row, text in zip(ids, texts):
        expected = reference.encode(text)
        assert row.tolist() == expected + [0] * (len(row) - len(expected))


def test_a_long_text_is_cut_and_an_empty_batch_keeps_its_shape(model: bytes) -> None:
    tokenizer = SubwordTokenizer(model, max_length=5)
    assert tokenizer(tf.constant(["red dress " * 1_000_000, ""])).shape == (2, 5)
    np.testing.assert_array_equal(tokenizer(tf.constant(["", ""])), [[0], [0]])
    assert tokenizer(tf.constant([], tf.string)).shape == (0, 1)
    np.testing.assert_array_equal(tokenizer(tf.constant([b"red\xff dress"])), tokenizer(tf.constant(["red dress"])))


def test_the_same_catalogue_gives_the_same_subwords(model: bytes) -> None:
    assert learn_subwords(CATALOGUE, vocabulary_size=60) == model
    assert SubwordTokenizer(model, max_length=5).vocabulary_size <= 60


@pytest.mark.parametrize(
    ("texts", "size"),
    [
        ([], 100),
        (["", "  "], 100),
        (["a"], 8000),
        (["x\0y", "\ud800", "\u2581"], 100),
        (["one text of more than a thousand characters " * 100], 200),
        ([chr(0x4E00 + i) * (1 + i % 7) for i in range(3000)], 300),  # more characters than the vocabulary holds
    ],
)
def test_any_catalogue_gets_a_vocabulary_that_fits(texts: list[str], size: int) -> None:
    tokenizer = SubwordTokenizer(learn_subwords(texts, vocabulary_size=size), max_length=8)
    ids = tokenizer(tf.constant(["any text 红"])).numpy()
    assert 1 < tokenizer.vocabulary_size <= size
    assert 0 < ids.max() < tokenizer.vocabulary_size


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("gru", "lstm") else ()) for kind in KINDS]
)
def test_text_in_an_export_gives_the_same_vectors(kind: str, model: bytes, tmp_path: Path) -> None:
    module = tf.Module()
    module.tokenizer = SubwordTokenizer(model, max_length=16)
    config = TextConfig(kind, width=16)
    module.encoder = make_text_encoder(config, vocabulary_size=module.tokenizer.vocabulary_size, dim=8)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def embed(texts: tf.Tensor) -> tf.Tensor:
        return module.encoder(module.tokenizer(texts))[0]

    texts = tf.constant(["red dress", "", "红色鞋子 no 7"])
    expected = embed(texts)
    module.embed = embed
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(loaded.embed(texts), expected, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"kind": "bert"}, {"width": 6}, {"dropout": 1.0}, {"max_length": 0}])
def test_a_wrong_configuration_says_what_came(wrong: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        TextConfig(**wrong)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    with pytest.raises(ImportError, match="pip install sentencepiece"):
        learn_subwords(["a"], vocabulary_size=10)


class _TwoTokenizers(tf.Module):
    def __init__(self, *texts: str) -> None:
        super().__init__()
        models = [learn_subwords([text] * 20, vocabulary_size=40) for text in texts]
        self.tokenizers = [SubwordTokenizer(model, max_length=9) for model in models]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def cut(self, texts: tf.Tensor) -> list[tf.Tensor]:
        return [tokenizer(texts) for tokenizer in self.tokenizers]


def test_exported_vocabularies_do_not_take_each_others_place_in_one_model_or_in_two_versions(tmp_path):
    asked = tf.constant(["red silk lamp"])
    modules = [_TwoTokenizers("red lamp", "silk kettle"), _TwoTokenizers("lamp of silk", "a red lamp")]
    for number, module in enumerate(modules):
        tf.saved_model.save(module, str(tmp_path / str(number)))
    loaded = [tf.saved_model.load(str(tmp_path / str(number))) for number in range(2)]
    cut = [[ids.numpy().tolist() for ids in module.cut(asked)] for module in modules]
    assert len({str(ids) for pair in cut for ids in pair}) == 4  # else nothing could take another's place
    assert [[ids.numpy().tolist() for ids in module.cut(asked)] for module in loaded] == cut
