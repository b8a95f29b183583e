"""Spoken queries: tones stand for words, and a service that has learned them answers as if they were typed."""

from __future__ import annotations

import dataclasses
import functools
import io
import wave

import numpy as np
import pytest
import shops
import tensorflow as tf

from tfmm import asking, hearing, results, stages
from tfmm.encoders.sound import SoundConfig
from tfmm.hearing import SpeechConfig
from tfmm.reading import RawEncoders
from tfmm.service import ContentService
from tfmm.serving.queries import Query, build_request, read_answers
from tfmm.sources.dataset import Media
from tfmm.sources.spoken import SpokenQueries

SOUND = SoundConfig(kind="transformer", max_seconds=0.5, mels=16, width=16, dropout=0.0, tempo=0, pitch=0, noise=0)
TONES = dict(zip(shops.WORDS, ((300, 3000), (3000, 300), (300, 1000), (1000, 3000))))


def tone(pitches: tuple[int, int], *, loudness: float) -> bytes:
    """Two tones, one after the other: a single one would be taken for the colour of the microphone."""
    pitch, times = np.repeat(pitches, 2_400), np.arange(4_800) / 16_000
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1), writer.setsampwidth(2), writer.setframerate(16_000)
        rng = np.random.default_rng(int(1e4 * loudness))
        sound = loudness * np.sin(2 * np.pi * pitch * times) + 0.01 * rng.normal(size=len(times))
        writer.writeframes((sound * 32_000).astype("<i2").tobytes())
    return file.getvalue()


def spoken(*, loudness: tuple[float, ...]) -> SpokenQueries:
    said = [(word, tone(pitches, loudness=each)) for word, pitches in TONES.items() for each in loudness]
    texts = np.array([word for word, _ in said], object)
    nobody = np.full(len(said), "", object)
    sounds = Media(np.array([content for _, content in said], object))
    return SpokenQueries(sounds, texts, nobody, texts, nobody)


@functools.cache
def ears() -> stages.Ears:
    taught = spoken(loudness=(0.2, 0.3, 0.4, 0.5))
    config = SpeechConfig(epochs=25, batch_size=8, learning_rate=1e-2)
    vectors = shops.aligner().embed_texts(taught.texts)
    tf.keras.utils.set_random_seed(0)
    found, curves = hearing.fit(
        taught.sounds, taught.texts, vectors, config=config, sound=SOUND, seed=0, logs=shops.shop().records / "ears"
    )
    return stages.Ears(found, spoken(loudness=(0.35,)), curves)


@pytest.mark.slow
def test_what_is_heard_stands_where_the_words_stand_when_typed():
    heard = results.spoken_vectors(ears().hearing, ears().unseen, SOUND)
    typed = shops.aligner().embed_texts(ears().unseen.texts)
    assert np.argmax(heard @ typed.T, axis=1).tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(np.linalg.norm(heard, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_a_spoken_query_finds_what_its_words_find_and_silence_nothing():
    aligner = shops.aligner()
    search = stages.make_search(aligner, ears=ears())
    service = ContentService(search, aligner.content, RawEncoders(shops.see, None), ids=shops.dataset().items.ids)
    asked = [Query(audio=tone(TONES["silk scarf"], loudness=0.35)), Query(text="silk scarf"), Query(history=["i1"])]
    query = {name: tf.constant(value) for name, value in build_request(asked).items()}
    answers = read_answers({name: value.numpy() for name, value in service.recommend(**query).items()})
    first, second, third = ({item for item, _ in answer[:10]} for answer in answers)
    assert len(first & second) >= 5 and first & second != third
    with pytest.raises(tf.errors.InvalidArgumentError, match="WAV"):
        service.recommend(**{**query, "query_audio": tf.constant([b"", b"no sound", b""])})


def test_recordings_are_measured_by_the_type_and_colour_that_they_ask_for_beside_the_same_words_typed(monkeypatch):
    monkeypatch.setattr(asking, "LEAST", 5)
    dataset = shops.dataset()
    fields = dict(dataset.items.categorical)
    name = next(iter(fields))
    renamed = {"articleType": fields[name], "baseColour": fields[name]}
    catalogue = dataclasses.replace(dataset, items=dataclasses.replace(dataset.items, categorical=renamed))
    values = fields[name].to_dense(1, fill="")[:, 0].astype(str)
    words = np.array(sorted({value for value in values if value})[:2], object)
    nobody = np.full(len(words), "", object)
    asked = SpokenQueries(Media.missing(len(words)), words, nobody, words, nobody)
    aligner = shops.aligner()
    perfect = np.stack([aligner.embed_all(only=("image",))[values == word].mean(axis=0) for word in words])
    table = asking.spoken_tables(aligner, catalogue, asked, perfect)
    assert {"spoken -> image", "the same words, typed -> image"} <= set(table)
    known = aligner.content.has("image")
    best = asking.best_rows(perfect, aligner.embed_all(only=("image",)))
    expected = np.mean([(values[rows] == word).mean() for rows, word in zip(best, words)])
    assert table["spoken -> image"]["precision@10"]["mean"] == pytest.approx(expected)
    assert min((values[known] == word).sum() for word in words) >= asking.LEAST
    assert asking.spoken_tables(aligner, dataset, asked, perfect) == {}


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"temperature": 0.0}, {"batch_size": 0}])
def test_a_training_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="Expected speech"):
        SpeechConfig(**wrong)
