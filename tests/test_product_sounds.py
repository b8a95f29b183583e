"""Products that sound: WAV files of a folder -> vectors, and what is played finds what sounds like it."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sounding
import tensorflow as tf
from sounding import KINDS, kind_of, sound_of, wav
from test_export import call

from tfmm import cli, reindexing
from tfmm.encoders.sound import SoundConfig
from tfmm.encoders.timbre import TimbreEncoder, statistics
from tfmm.serving.catalogue import read_catalogue
from tfmm.serving.client import Client
from tfmm.serving.errors import ServingError
from tfmm.serving.queries import Query, build_request, read_answers
from tfmm.serving.servable import load_servable
from tfmm.serving.server import ServerOptions, serve
from tfmm.serving.warmup import read_warmup

ENCODER = TimbreEncoder(SoundConfig(mels=32, max_seconds=2))


# --- Statistics ------------------------------------------------------------------------------------------------------


def test_statistics_are_means_and_deviations_over_the_valid_frames():
    energies = np.random.default_rng(0).normal(size=(3, 9, 4)).astype(np.float32)
    lengths = [9, 5, 0]
    found = statistics(tf.constant(energies), tf.sequence_mask(lengths, 9)).numpy()
    for row, length in enumerate(lengths[:2]):
        valid = energies[row, :length].astype(np.float64)
        expected = np.concatenate([valid.mean(axis=0), valid.std(axis=0), np.diff(valid, axis=0).std(axis=0)])
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)
    assert not found[2].any()


def test_the_company_of_a_sound_never_changes_its_vector():
    contents = [sound_of("bell", 0), b"", sound_of("drum", 1)[:6_001], wav(np.zeros(50)), wav(np.zeros(0))]
    vectors, present = ENCODER(tf.constant(contents))
    assert present.numpy().tolist() == [True, False, True, True, False]
    assert np.isfinite(vectors).all() and not vectors.numpy()[[1, 4]].any()
    for row, content in enumerate(contents):
        np.testing.assert_allclose(ENCODER(tf.constant([content]))[0][0], vectors[row], rtol=1e-4, atol=1e-3)


def test_a_catalogue_is_encoded_as_the_graph_does_and_nothing_in_it_stops_the_run(caplog):
    contents = [sound_of(KINDS[seed % 2], seed) for seed in range(20)] + [b"no sound", b""]
    progress = []
    vectors, present = ENCODER.encode(contents, progress=lambda *done: progress.append(done))
    assert present.tolist() == [True] * 20 + [False] * 2 and progress[-1] == (22, 22)
    np.testing.assert_allclose(vectors[:20], ENCODER(tf.constant(contents[:20]))[0], rtol=1e-4, atol=1e-3)
    assert "Sound 20 is left out" in caplog.text or "got 8 bytes" in caplog.text
    assert ENCODER.encode([])[0].shape == (0, ENCODER.dim)


def test_loudness_and_rate_hardly_tell_and_the_kind_of_sound_does():
    kinds, seeds = np.repeat(KINDS, 12), np.arange(24)
    vectors = ENCODER.encode([sound_of(kind, seed) for kind, seed in zip(kinds, seeds)])[0]
    centred = vectors - vectors.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    near = np.argsort(-(centred @ centred.T), axis=1)[:, 1:6]
    assert (kinds[near] == kinds[:, np.newaxis]).mean() == 1
    apart = np.linalg.norm(vectors[:12].mean(axis=0) - vectors[12:].mean(axis=0))
    noise = np.random.default_rng(0).normal(size=8_000)
    loud, soft = (ENCODER(tf.constant([wav(share * noise)]))[0][0].numpy() for share in (0.2, 0.05))
    assert np.linalg.norm(loud - soft) < 0.02 * apart
    played = ENCODER(tf.constant([sound_of("bell", 0), sound_of("bell", 0, rate=44_100)]))[0].numpy()
    assert np.linalg.norm(played[0] - played[1]) < 0.2 * apart


def test_the_fingerprint_follows_what_changes_vectors_and_nothing_else():
    marks = {TimbreEncoder(SoundConfig(**given)).fingerprint for given in ({}, {"mels": 32}, {"max_seconds": 3})}
    assert len(marks) == 3 and TimbreEncoder(SoundConfig(kind="transformer", width=8)).fingerprint in marks


# --- A shop ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home() -> Path:
    return sounding.trained()


@pytest.fixture(scope="module")
def version(home) -> Path:
    return home / "saved_models" / "tfmm" / "1"


@pytest.fixture(scope="module")
def signatures(version):
    return tf.saved_model.load(str(version)).signatures


@functools.cache
def unheard(kind: str) -> list[bytes]:
    """Returns sounds of a kind that no product has, each at another rate."""
    return [
        sound_of(kind, 1_000 + seed, rate=rate) for seed, rate in enumerate((8_000, 16_000, 22_050, 44_100, 48_000))
    ]


def kinds_of(answer: list[tuple[str, float]], *, k: int = 10) -> list[str]:
    return [kind_of(item) for item, _ in answer[:k]]


@pytest.mark.slow
def test_what_is_played_finds_products_that_sound_like_it(signatures):
    for kind in KINDS:
        answers = read_answers(call(signatures, "recommend", **build_request([Query(audio=a) for a in unheard(kind)])))
        for answer in answers:
            assert kinds_of(answer).count(kind) >= 9  # chance is 5
    empty, silent = read_answers(
        call(signatures, "recommend", **build_request([Query(), Query(audio=wav(np.zeros(0)))]))
    )
    assert [item for item, _ in empty] == [item for item, _ in silent]  # a file without samples says nothing


@pytest.mark.slow
def test_broken_sounds_are_counted_by_name_and_their_products_stay_without_a_sound(home):
    report = json.loads(next((home / "runs").glob("*/report.json")).read_text())
    found = {finding["problem"]: finding for finding in report["findings"]}
    for problem, name in (("sound that is not a WAV file", "p5.wav"), ("sound cannot be decoded", "p3.wav")):
        assert found[problem]["count"] == 1 and name in found[problem]["example"]
    assert report["dataset"]["items with sound"] == sounding.ITEMS - sounding.MUTE - len(sounding.BROKEN)


@pytest.mark.slow
def test_a_new_products_sound_places_it_beside_those_that_sound_alike(signatures, version):
    assert "sound" in load_servable(version).signatures["embed_item"].inputs
    assert ("embed_item", [b""]) in [(name, list(given.get("sound", ()))) for name, given in read_warmup(version)]
    sounds = np.array([*unheard("bell"), *unheard("drum"), b""], object)
    nothing = np.full(len(sounds), b"", object)
    given = {"text": nothing, "image": nothing, "attributes": np.zeros([len(sounds), 0], object), "sound": sounds}
    vectors = call(signatures, "embed_item", **given)["embedding"]
    likeness = vectors[:10] @ vectors[:10].T
    same = np.equal.outer(np.arange(10) // 5, np.arange(10) // 5)
    assert likeness[same].mean() > likeness[~same].mean() + 0.2 and np.isfinite(vectors[10]).all()


@pytest.mark.slow
def test_over_grpc_a_sound_is_answered_alike_and_a_broken_one_is_refused_alone(home, signatures):
    running = serve(home / "saved_models", port=0, options=ServerOptions(poll_seconds=3600))
    try:
        with Client(f"127.0.0.1:{running.port}", timeout=60) as client:
            asked = Query(audio=unheard("drum")[0], filters=["colour=red"])
            answer = client.recommend_batch([asked])[0]
            here = read_answers(call(signatures, "recommend", **build_request([asked])))[0]
            assert [item for item, _ in answer] == [item for item, _ in here] and kinds_of(answer, k=5) == ["drum"] * 5
            for broken in (b"RIFF", b"no sound at all", sound_of("bell", 0)[:30]):
                with pytest.raises(ServingError, match="INVALID_ARGUMENT.*Sound 0 of the batch: Expected"):
                    client.recommend(audio=broken)
            assert client.recommend_batch([asked])[0] == answer
    finally:
        running.stop(0)


@pytest.mark.slow
def test_products_that_come_later_are_found_by_their_sound_and_a_broken_one_is_told(home, tmp_path, capsys):
    (tmp_path / "wavs").mkdir()
    for name, content in (("n1", unheard("bell")[2]), ("n2", unheard("drum")[2]), ("n3", sound_of("bell", 1)[:30])):
        (tmp_path / "wavs" / f"{name}.wav").write_bytes(content)
    (tmp_path / "new.csv").write_text("id,category,colour\nn1,,\nn2,,\nn3,,red\n")
    add = ["--add", str(tmp_path / "new.csv"), "--sounds", str(tmp_path / "wavs")]
    models = tmp_path / "saved_models"
    shutil.copytree(home / "saved_models", models)
    assert cli.main(["index", "--saved_models", str(models), *add]) == 0
    assert "3 added" in capsys.readouterr().out
    second = models / "tfmm" / "2"
    assert {"n1", "n2", "n3", "p0"} <= set(read_catalogue(second).titles)
    found = tf.saved_model.load(str(second)).signatures
    for name, kind in (("n1", "bell"), ("n2", "drum")):
        (answer,) = read_answers(call(found, "recommend", **build_request([Query(audio=unheard(kind)[2])])))
        assert name in [item for item, _ in answer[:3]]
    assert reindexing.open_version(second).hears
