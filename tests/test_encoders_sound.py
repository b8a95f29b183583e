"""A WAV file of any kind gives the samples that other readers find, and an encoder never hears padding."""

from __future__ import annotations

import csv
import io
import logging
import os
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy.io import wavfile

from tfmm.encoders.sound import SoundConfig, SoundEncoder, keep_log_mel
from tfmm.encoders.spectra import blanked, log_mel, warped
from tfmm.encoders.waves import decode_wav, wav_problems

RNG = np.random.default_rng(0)
TAIL = bytes.fromhex("000000001000800000aa00389b71")
PLAIN = SoundConfig(width=16, dropout=0.0, tempo=0, pitch=0, noise=0, blank_bands=0, blank_frames=0)
KINDS = ["lstm", "transformer"]


def chunk(name: bytes, content: bytes, *, size: int | None = None) -> bytes:
    claimed = len(content) if size is None else size
    return name + struct.pack("<I", claimed) + content + b"\0" * (len(content) % 2)


def form(tag: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16, block: int | None = None) -> bytes:
    block = channels * bits // 8 if block is None else block
    return struct.pack("<HHIIHH", tag, channels, rate, rate * block % 2**32, block % 2**16, bits)


def wav(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WAVE" + b"".join(chunks)


def pcm16(samples: np.ndarray, *, rate: int = 16_000, channels: int = 1) -> bytes:
    content = np.round(samples * 32767).astype("<i2").tobytes()
    return wav(chunk(b"fmt ", form(rate=rate, channels=channels)), chunk(b"data", content))


def tone(hertz: float, *, seconds: float = 0.5, rate: int = 16_000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def decoded(*contents: bytes, **options: float) -> tuple[np.ndarray, list[int]]:
    waves, lengths = decode_wav(tf.constant(contents, tf.string), **options)
    return waves.numpy(), lengths.numpy().tolist()


# --- WAV bytes -> waveforms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_samples_are_those_that_scipy_wrote(dtype: type) -> None:
    whole = RNG.uniform(-1, 1, 999)
    scales = {np.uint8: (127, 128), np.int16: (2**15 - 1, 0), np.int32: (2**31 - 1, 0)}
    scale, offset = scales.get(dtype, (1, 0))
    file = io.BytesIO()
    wavfile.write(file, 16_000, (whole * scale + offset).astype(dtype))
    waves, lengths = decoded(file.getvalue())
    assert lengths == [999]
    np.testing.assert_allclose(waves[0], whole, atol=1.02 / 64 if dtype is np.uint8 else 1.02 / 2**14)


def test_extremes_of_24_bits_are_minus_one_zero_and_one() -> None:
    levels = [-(2**23), -1, 0, 1, 2**23 - 1]
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 3, 16_000, 0, "NONE", ""))
        writer.writeframes(b"".join(level.to_bytes(3, "little", signed=True) for level in levels))
    np.testing.assert_array_equal(decoded(file.getvalue())[0][0], np.array(levels, np.float32) / 2**23)


@pytest.mark.parametrize("channels", [2, 3, 32])
def test_channels_are_averaged(channels: int) -> None:
    frames = RNG.uniform(-1, 1, (50, channels))
    waves, lengths = decoded(pcm16(frames, channels=channels))
    assert lengths == [50]
    np.testing.assert_allclose(waves[0], frames.mean(axis=1), atol=1e-4)


@pytest.mark.parametrize(("tag", "bits", "dtype"), [(1, 16, "<i2"), (3, 32, "<f4")])
def test_an_extensible_header_among_other_chunks_reads_as_the_plain_one(tag: int, bits: int, dtype: str) -> None:
    samples = (RNG.uniform(-1, 1, 70) * (30_000 if tag == 1 else 1)).astype(dtype).tobytes()
    plain = wav(chunk(b"fmt ", form(tag, bits=bits)), chunk(b"data", samples))
    wrapped = form(0xFFFE, bits=bits) + struct.pack("<HHIH", 22, bits, 4, tag) + TAIL
    others = chunk(b"LIST", b"odd"), chunk(b"fact", b"\0" * 4), chunk(b"bext", b"")
    full = wav(others[0], chunk(b"fmt ", wrapped), *others, chunk(b"data", samples), chunk(b"LIST", b"later"))
    waves, lengths = decoded(plain, full)
    assert lengths == [70, 70]
    np.testing.assert_array_equal(waves[0], waves[1])


def test_what_is_not_finite_is_silence_and_what_is_too_loud_is_clipped() -> None:
    samples = np.array([np.nan, np.inf, -np.inf, 1e38, -7, 0.25], "<f4").tobytes()
    waves, _ = decoded(wav(chunk(b"fmt ", form(3, bits=32)), chunk(b"data", samples)))
    np.testing.assert_array_equal(waves[0], [0, 0, 0, 1, -1, 0.25])


def test_samples_that_are_cut_off_are_missing_and_the_rest_is_read() -> None:
    whole = pcm16(tone(300))
    waves, lengths = decoded(whole, whole[:-1001], whole[:44], whole[:45])
    assert lengths == [8000, 7499, 0, 0]  # the half sample is lost too
    np.testing.assert_array_equal(waves[1, :7499], waves[0, :7499])
    np.testing.assert_array_equal(waves[1:, 7499:], 0)


def test_a_promise_of_four_gigabytes_is_read_as_far_as_it_goes() -> None:
    promised = wav(chunk(b"fmt ", form()), chunk(b"data", b"\0\x40" * 10, size=2**32 - 1))
    waves, lengths = decoded(promised)
    assert lengths == [10]
    np.testing.assert_array_equal(waves[0], 0.5)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_no_more_than_max_seconds_is_decoded(rate: int) -> None:
    waves, lengths = decoded(pcm16(tone(300, seconds=3, rate=rate), rate=rate), b"", max_seconds=0.25)
    assert lengths == [4000, 0]
    assert waves.shape == (2, 4000)


def test_nothing_and_no_samples_have_length_zero() -> None:
    waves, lengths = decoded(b"", pcm16(np.zeros(0)), pcm16(np.zeros(3)))
    assert lengths == [0, 0, 3]
    np.testing.assert_array_equal(waves, np.zeros((3, 3)))
    assert decoded()[0].shape == (0, 0)


DATA = chunk(b"data", b"\0" * 64)
BROKEN = {
    "JPEG": (b"\xff\xd8\xff\xe0" + b"\0" * 40, "WAV file .* got 44 bytes"),
    "a text": ("红色的鞋子".encode(), "WAV file .* got 15 bytes"),
    "one byte": (b"R", "WAV file .* got 1 bytes"),
    "big-endian": (b"RIFX" + wav(chunk(b"fmt ", form()), DATA)[4:], "WAV file"),
    "only a beginning": (wav(), r"format \(fmt\) before"),
    "format cut short": (wav(chunk(b"fmt ", form()))[:30], r"format \(fmt\) before"),
    "format too small": (wav(chunk(b"fmt ", form()[:15]), DATA), r"format \(fmt\) before"),
    "samples before format": (wav(DATA, chunk(b"fmt ", form())), r"format \(fmt\) before"),
    "no samples": (wav(chunk(b"fmt ", form())), r"samples \(data\) .* got 36 bytes"),
    "A-law": (wav(chunk(b"fmt ", form(6, bits=8)), DATA), "got format 6 of 8 bits"),
    "12 bits": (wav(chunk(b"fmt ", form(bits=12, block=2)), DATA), "got format 1 of 12 bits"),
    "0 bits": (wav(chunk(b"fmt ", form(bits=0)), DATA), "got format 1 of 0 bits"),
    "half floats": (wav(chunk(b"fmt ", form(3)), DATA), "got format 3 of 16 bits"),
    "unknown extension": (wav(chunk(b"fmt ", form(0xFFFE) + b"\1" * 24), DATA), "got format 65534"),
    "no channels": (wav(chunk(b"fmt ", form(channels=0)), DATA), "1 to 32 channels, got 0"),
    "65535 channels": (wav(chunk(b"fmt ", form(channels=65535)), DATA), "1 to 32 channels, got 65535"),
    "rate 0": (wav(chunk(b"fmt ", form(rate=0)), DATA), "samples a second, got 0"),
    "rate 10^9": (wav(chunk(b"fmt ", form(rate=10**9)), DATA), "samples a second, got 1000000000"),
    "frames of 7 bytes": (wav(chunk(b"fmt ", form(block=7)), DATA), "bits / 8 bytes, got 7"),
    "empty chunks": (wav(chunk(b"fmt ", form()), chunk(b"junk", b"") * 100_000, DATA), "among the first 256"),
    "a chunk of 4 GB": (wav(chunk(b"fmt ", form()), chunk(b"LIST", b"", size=2**32 - 1), DATA), r"samples \(data\)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sound_is_an_error_that_says_which_and_why(name: str) -> None:
    content, expected = BROKEN[name]
    good = pcm16(tone(300))
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"Sound 2 of the batch: Expected .*{expected}"):
        decoded(good, b"", content, good)
    assert (wav_problems(tf.constant([good, b"", content])).numpy() != b"").tolist() == [False, False, True]


def test_any_damage_ends_in_a_waveform_of_bounded_length_or_in_our_error() -> None:
    whole = pcm16(tone(300, seconds=0.05))
    damaged = []
    for _ in range(300):
        content = bytearray(whole)
        for place in RNG.integers(0, 48, RNG.integers(1, 6)):
            content[place] = RNG.choice([0, 1, 255, RNG.integers(256)])
        damaged.append(bytes(content[: RNG.integers(1, len(content) + 1)]))
    problems = wav_problems(tf.constant(damaged)).numpy()
    fine = [content for content, problem in zip(damaged, problems) if not problem]
    assert 20 < len(fine) < 280
    waves, lengths = decoded(*fine, max_seconds=1)
    assert max(lengths) <= 16_000 and np.abs(waves).max() < 3
    for content, problem in list(zip(damaged, problems))[:40]:
        if problem:
            with pytest.raises(tf.errors.InvalidArgumentError, match="Sound 0 of the batch: Expected"):
                decoded(content)


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_100, 44_101, 48_000, 384_000])
def test_a_tone_keeps_its_frequency_at_any_rate(rate: int) -> None:
    waves, lengths = decoded(pcm16(tone(440, seconds=1.3, rate=rate), rate=rate))
    assert abs(lengths[0] - 1.3 * 16_000) <= 1
    expected = tone(440, seconds=lengths[0] / 16_000)
    np.testing.assert_allclose(waves[0, 1000:-1000], expected[1000:-1000], atol=1e-3)
    np.testing.assert_allclose(waves[0], expected, atol=0.2)  # where it begins and ends, it rings


@pytest.mark.parametrize("rate", [22_050, 44_100, 96_000])
def test_a_tone_above_the_new_nyquist_frequency_vanishes(rate: int) -> None:
    faded = tone(9_000, seconds=1, rate=rate) * np.hanning(rate)  # an abrupt beginning would be heard below, too
    assert np.abs(decoded(pcm16(faded, rate=rate))[0]).max() < 1e-3


# --- waveforms -> log-mel -------------------------------------------------------------------------------------------


def test_padding_never_changes_a_frame() -> None:
    waves = RNG.normal(size=(3, 5000)).astype(np.float32)
    lengths = np.array([5000, 3210, 100])
    features, mask = log_mel(waves, lengths)
    noisy, longer = log_mel(np.pad(waves, [[0, 0], [0, 3000]], constant_values=7.0), lengths)
    assert mask.numpy().sum(1).tolist() == [1 + 4600 // 160, 1 + 2810 // 160, 1]
    np.testing.assert_array_equal(longer[:, : mask.shape[1]], mask)
    np.testing.assert_allclose(noisy[:, : mask.shape[1]], features, atol=1e-4)
    np.testing.assert_array_equal(noisy[~longer.numpy()], 0)
    for row, length in enumerate(lengths):
        alone, valid = log_mel(waves[row : row + 1, :length], lengths[row : row + 1])
        np.testing.assert_allclose(alone[valid], features[row][mask[row]], atol=1e-4)


@pytest.mark.parametrize("hertz", [250.0, 1000.0, 4000.0])
def test_a_tone_sounds_in_the_band_of_its_frequency(hertz: float) -> None:
    half = np.concatenate([np.zeros(8000), tone(hertz)])[np.newaxis].astype(np.float32)
    features, _ = log_mel(half, np.array([16_000]))
    edges = 1127 * np.log1p(np.array([60.0, 7600.0, hertz]) / 700)  # HTK's mel
    expected = (edges[2] - edges[0]) / (edges[1] - edges[0]) * 65 - 1  # 64 bands have 66 edges
    assert abs(np.argmax(features[0, 70]) - expected) <= 1


def test_loudness_tells_nothing_and_silence_is_zero() -> None:
    speech = (RNG.normal(size=16_000) * np.hanning(16_000)).astype(np.float32)
    features, mask = log_mel(np.stack([speech, 0.3 * speech, 0 * speech]), np.full(3, 16_000))
    assert np.abs(features[0]).max() > 1
    np.testing.assert_allclose(features[0], features[1], atol=0.05)
    np.testing.assert_allclose(features[2], 0, atol=1e-3)
    assert mask.numpy().all()


def test_no_sound_has_no_frame() -> None:
    features, mask = log_mel(np.zeros((2, 0), np.float32), np.zeros(2, np.int32))
    assert features.shape == (2, 1, 64) and not mask.numpy().any() and not features.numpy().any()


def ramp(frames: int = 50, mels: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Returns features that tell their place, frame + 1000 * band, of which the last ten frames are padding."""
    mask = np.arange(frames)[np.newaxis] < frames - 10
    places = np.arange(frames)[:, np.newaxis] + 1000 * np.arange(mels)
    return np.where(mask[..., np.newaxis], places[np.newaxis], 0).astype(np.float32), mask


def test_no_warp_changes_nothing() -> None:
    features, mask = ramp()
    same, valid = warped(features, mask, tempo=0, pitch=0)
    np.testing.assert_array_equal(valid, mask[:, :40])
    np.testing.assert_array_equal(same, features[:, :40])


def test_a_warp_reads_time_and_bands_at_one_factor_each() -> None:
    features, mask = (np.repeat(part, 20, axis=0) for part in ramp())
    moved, valid = warped(features, mask, tempo=0.3, pitch=0.2)
    counts = valid.numpy().sum(1)
    assert counts.min() < 38 and counts.max() > 42
    for row, count in zip(moved.numpy(), counts):
        speed, scale = row[1, 0] - row[0, 0], (row[0, 1] - row[0, 0]) / 1000
        assert 0.7 <= speed <= 1.3 and 0.8 <= scale <= 1.2 and abs(count - 40 / speed) <= 0.51
        frames = np.minimum(np.arange(count) * speed, 39)[:, np.newaxis]
        np.testing.assert_allclose(row[:count], frames + 1000 * np.minimum(np.arange(64) * scale, 63), atol=0.1)
        np.testing.assert_array_equal(row[count:], 0)


@pytest.mark.parametrize("axis", [1, 2])
def test_one_stripe_is_blanked_and_no_wider_than_allowed(axis: int) -> None:
    blank = blanked(np.ones((200, 30, 20), np.float32), axis=axis, widest=6).numpy() == 0
    stripes = blank.any(axis=3 - axis)
    np.testing.assert_array_equal(stripes, blank.all(axis=3 - axis))
    assert set(stripes.sum(1)) == set(range(7))
    assert np.abs(np.diff(np.pad(stripes, [[0, 0], [1, 1]]).astype(int))).sum(1).max() == 2
    assert stripes.any(axis=0).all()  # every place has its turn


def test_a_batch_that_would_fill_the_memory_is_refused_before_it_is_decoded() -> None:
    clip = pcm16(np.zeros(10_000), rate=1_000)  # ten seconds in 20 kB
    assert decoded(*[clip] * 96)[0].shape == (96, 160_000)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 960 s of sound in a batch.*got 970 s"):
        decoded(*[clip] * 97)
    with pytest.raises(tf.errors.InvalidArgumentError, match="got 970 s"):
        decoded(clip, *[b""] * 96)  # padded, it is as large


# --- log-mel -> vectors ---------------------------------------------------------------------------------------------


def some_clips() -> list[bytes]:
    speech = RNG.normal(size=20_000) * np.hanning(20_000) / 4
    return [pcm16(speech), b"", pcm16(speech[:6_001]), pcm16(np.zeros(50)), pcm16(np.zeros(0))]


@pytest.mark.parametrize("kind", KINDS)
def test_the_company_of_a_sound_never_changes_its_vector(kind: str) -> None:
    encoder = SoundEncoder(SoundConfig(kind, width=16, layers=2), dim=8)
    contents = some_clips()
    vectors, present = encoder(tf.constant(contents))
    assert present.numpy().tolist() == [True, False, True, True, False]
    assert np.isfinite(vectors).all() and np.abs(vectors[0] - vectors[2]).max() > 1e-3
    np.testing.assert_array_equal(vectors.numpy()[[1, 4]], 0)
    for row, content in enumerate(contents):
        np.testing.assert_allclose(encoder(tf.constant([content]))[0][0], vectors[row], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_kept_features_give_the_vectors_of_the_bytes(kind: str) -> None:
    encoder = SoundEncoder(SoundConfig(kind, width=16), dim=8)
    contents = some_clips() * 10  # more than a batch
    features, mask = keep_log_mel(contents, encoder.config)
    expected, present = encoder(tf.constant(contents))
    vectors, kept = encoder((features, mask))
    np.testing.assert_array_equal(kept, present)
    np.testing.assert_allclose(vectors, expected, atol=5e-3)  # they are kept in float16


def test_what_cannot_be_heard_is_left_out_of_a_catalogue_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Files(list):
        def __getitem__(self, row: int) -> bytes:
            if row == 3:
                raise FileNotFoundError("gone.wav")
            return super().__getitem__(row)

    seen = []
    with caplog.at_level(logging.WARNING):
        _, mask = keep_log_mel(
            Files([pcm16(tone(300)), b"no sound", b"", b"gone"]), PLAIN, progress=lambda *done: seen.append(done)
        )
    assert mask.any(axis=1).tolist() == [True, False, False, False]
    assert [record.getMessage()[:7] for record in caplog.records] == ["Sound 3", "Sound 1"]
    assert "gone.wav" in caplog.text and "got 8 bytes" in caplog.text
    assert seen == [(4, 4)]
    assert keep_log_mel([], PLAIN)[0].shape == (0, 1, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns_and_nothing_is_nan_beside_an_absent_sound(kind: str) -> None:
    encoder = SoundEncoder(SoundConfig(kind, width=16), dim=8)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(tf.constant(some_clips()), training=True)[0] ** 3)
    for weight, gradient in zip(encoder.trainable_weights, tape.gradient(loss, encoder.trainable_weights)):
        assert np.isfinite(tf.convert_to_tensor(gradient)).all(), weight.name
        # The bias of attention keys moves all logits of a query alike: its gradient is zero by arithmetic.
        assert "key/bias" in weight.name or np.any(tf.convert_to_tensor(gradient)), weight.name


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_what_is_said_matters(kind: str) -> None:
    encoder = SoundEncoder(SoundConfig(kind, width=16), dim=8)
    features = RNG.normal(size=(1, 41, 64)).astype(np.float32)
    mask = np.ones((1, 41), bool)
    assert np.abs(encoder((features, mask))[0] - encoder((features[:, ::-1], mask))[0]).max() > 1e-2


def test_sounds_vary_in_training_only_and_not_at_all_where_nothing_is_set() -> None:
    inputs = keep_log_mel(some_clips(), PLAIN)
    for config, varies in ((PLAIN, False), (SoundConfig(width=16, dropout=0.0), True)):
        encoder = SoundEncoder(config, dim=8)
        calm = encoder(inputs)[0]
        np.testing.assert_array_equal(encoder(inputs)[0], calm)
        assert (np.abs(encoder(inputs, training=True)[0] - calm).max() > 1e-3) == varies


@pytest.mark.slow
def test_the_export_hears_bytes_with_core_ops_and_refuses_with_the_same_words(tmp_path: Path) -> None:
    encoder, clips = SoundEncoder(SoundConfig(width=16), dim=8), some_clips()
    expected = encoder(tf.constant(clips))
    module = tf.Module()
    module.weights = encoder.variables
    module.hear = tf.function(encoder.__call__, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path), signatures={"hear": module.hear.get_concrete_function()})
    loaded = tf.saved_model.load(str(tmp_path))
    vectors, present = loaded.hear(tf.constant(clips))
    np.testing.assert_allclose(vectors, expected[0], atol=1e-5)
    np.testing.assert_array_equal(present, expected[1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="Sound 1 of the batch: Expected .*WAV file"):
        loaded.hear(tf.constant([b"", b"no sound"]))
    graph = loaded.signatures["hear"].graph.as_graph_def()
    ops = {node.op for function in graph.library.function for node in function.node_def}
    assert "RFFT" in ops and not any("PyFunc" in op for op in ops)


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "gru"), ("max_seconds", 0), ("mels", 4), ("width", 30), ("layers", 0), ("tempo", 1.0), ("noise", -1)],
)
def test_a_wrong_setting_is_named_with_its_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"sound.{field}.*{value}"):
        SoundConfig(**{field: value})


# --- real data ------------------------------------------------------------------------------------------------------


def spoken(name: str) -> tuple[Path, list[dict[str, str]]]:
    home = Path(os.environ.get("TFMM_DATA", Path(__file__).parents[2] / "shared" / "data")) / "spoken-queries"
    if not home.is_dir():
        pytest.skip(f"needs the spoken queries in {home}")
    with (home / name).open(encoding="utf-8", newline="") as file:
        return home, list(csv.DictReader(file))


@pytest.mark.data
@pytest.mark.parametrize("name", ["train.csv", "validation.csv"])
def test_every_spoken_query_has_the_samples_that_pythons_wave_counts(name: str) -> None:
    home, rows = spoken(name)
    contents = [(home / row["path"]).read_bytes() for row in rows]
    counts = []
    for content in contents:
        with wave.open(io.BytesIO(content)) as reader:
            counts.append(reader.getnframes())
    lengths = [length for start in range(0, len(rows), 50) for length in decoded(*contents[start : start + 50])[1]]
    assert len(lengths) >= 125 and lengths == counts


@pytest.mark.slow
@pytest.mark.data
def test_six_voices_teach_it_to_understand_a_seventh() -> None:
    home, train = spoken("train.csv")
    _, unseen = spoken("validation.csv")
    tf.keras.utils.set_random_seed(0)
    config = SoundConfig(max_seconds=3)
    kinds, kind_of = np.unique([row["articleType"] for row in [*train, *unseen]], return_inverse=True)
    features, mask = keep_log_mel([(home / row["path"]).read_bytes() for row in [*train, *unseen]], config)
    model = Classifier(config, len(kinds))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(2e-3, clipnorm=1.0), loss, metrics=["accuracy"])
    seen = slice(len(train))
    model.fit((features[seen], mask[seen]), kind_of[seen], batch_size=32, epochs=20, verbose=0)
    known = model.evaluate((features[len(train) :], mask[len(train) :]), kind_of[len(train) :], verbose=0)[1]
    assert known > 0.8  # chance is .1, the commonest type


class Classifier(tf.keras.Model):
    def __init__(self, config: SoundConfig, classes: int) -> None:
        super().__init__()
        self._encoder = SoundEncoder(config, dim=64)
        self._classes = tf.keras.layers.Dense(classes)

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        return self._classes(tf.nn.relu(self._encoder(inputs, training=training)[0]))
