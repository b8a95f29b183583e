"""WAV bytes -> waveforms at 16 kHz, inside the graph, by core ops that any TensorFlow server has.

A header is believed only as far as it can be checked: the bytes that are there decide how much is read,
`max_seconds` how much is decoded, and what no recording has (a rate of 0 or 10^9 Hz, 65535 channels) is refused before
memory is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

RATE = 16_000
"""Samples a second of every waveform that comes out."""

MIN_RATE, MAX_RATE = 1_000, 384_000
MAX_CHANNELS = 32
MAX_CHUNKS = 256  # looked at before the samples: a file may be nothing but empty chunks

MAX_BATCH_SECONDS = 960  # sounds times the longest of them, which is what a batch takes as an array

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SUBTYPE_TAIL = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"  # of the GUIDs that wrap a format tag
_FORMATS = ((_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64))
_GUARD = 20  # 1/20 s of silence at least between the end of a clip and its beginning, where an FFT joins them
_TAPER = 0.9  # of the lower Nyquist frequency: up to here nothing changes, at 1 nothing is left


class WavHeaders(NamedTuple):
    """What the headers of a batch say, each `[batch]` int64; meaningless where `problems` names one.

    Attributes:
        tag: 1 PCM, 3 float (of the inner format, where it is wrapped in WAVE_FORMAT_EXTENSIBLE).
        channels: samples in a frame.
        rate: frames a second.
        block: bytes in a frame, as the header claims.
        bits: of a sample.
        start: of the samples, in bytes; -1 = there are none.
        size: of the samples, in bytes, as far as they are there.
        format_size: bytes of the format's description; -1 = none came before the samples.
    """

    tag: tf.Tensor
    channels: tf.Tensor
    rate: tf.Tensor
    block: tf.Tensor
    bits: tf.Tensor
    start: tf.Tensor
    size: tf.Tensor
    format_size: tf.Tensor


def decode_wav(contents: tf.Tensor, *, max_seconds: float = 10.0) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns waveforms `[batch, time]` in -1..1 at 16 kHz, zero-padded, and their lengths `[batch]` int32 in samples.

    PCM of 8, 16, 24 or 32 bits, float of 32 or 64; up to 32 channels, which are averaged; 1 to 384 kHz, resampled below
    the lower of both Nyquist frequencies. Samples that are cut off are missing, no error; NaN and infinity are silence.

    Args:
        contents: string `[batch]`, WAV files; `""` and a file without samples have length 0.
        max_seconds: what comes later is not read.

    Raises:
        tf.errors.InvalidArgumentError: an example is no WAV file or not such a one; says which and why. Or the batch
            is longer than `MAX_BATCH_SECONDS`.
    """
    return _decode_wav(contents, tf.constant(max_seconds, tf.float64))


def wav_problems(contents: tf.Tensor) -> tf.Tensor:
    """Returns string `[batch]`: why `decode_wav` would refuse each, `""` where it would not (as it never does `""`)."""
    return _wav_problems(contents)


_CONTENTS = tf.TensorSpec([None], tf.string)


@tf.function(input_signature=[_CONTENTS], autograph=False)
def _wav_problems(contents: tf.Tensor) -> tf.Tensor:
    return _problems(contents, wav_headers(contents))


@tf.function(input_signature=[_CONTENTS, tf.TensorSpec([], tf.float64)], autograph=False)
def _decode_wav(contents: tf.Tensor, max_seconds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    headers = wav_headers(contents)
    check = _assert_none(_problems(contents, headers))
    with tf.control_dependencies([check]):  # nothing below runs on a header that was refused
        contents = tf.identity(contents)
    codes = tf.argmax(_format_matches(headers), axis=-1, output_type=tf.int32)
    frame_bytes = tf.maximum(headers.channels * headers.bits // 8, 1)
    longest = tf.cast(tf.cast(headers.rate, tf.float64) * max_seconds, tf.int64)
    frames = tf.minimum(tf.maximum(headers.size, 0) // frame_bytes, longest)
    with tf.control_dependencies([_assert_small(frames, headers.rate)]):
        frames = tf.identity(frames)
    waves = tf.map_fn(
        _decode_one,
        (contents, codes, tf.maximum(headers.start, 0), frames, frames * frame_bytes, headers.channels, headers.rate),
        fn_output_signature=tf.RaggedTensorSpec([None], tf.float32, ragged_rank=0),
        parallel_iterations=4,
    )
    return waves.to_tensor(), tf.cast(waves.row_lengths(), tf.int32)


def wav_headers(contents: tf.Tensor) -> WavHeaders:
    """Returns what the headers of string `[batch]` say."""
    lengths = _length(contents)
    found = _find_chunks(contents, lengths)
    words = {name: _unsigned(contents, found["fmt"] + at, size) for name, (at, size) in _FIELDS.items()}
    wrapped = (words["tag"] == _EXTENSIBLE) & (found["fmt_size"] >= 40)
    wrapped &= _text(contents, found["fmt"] + 26, len(_SUBTYPE_TAIL)) == _SUBTYPE_TAIL
    return WavHeaders(
        tag=tf.where(wrapped, words["subtype"], words["tag"]),
        channels=words["channels"],
        rate=words["rate"],
        block=words["block"],
        bits=words["bits"],
        start=found["data"],
        size=tf.minimum(found["data_size"], lengths - found["data"]),
        format_size=tf.where(found["fmt"] + found["fmt_size"] <= lengths, found["fmt_size"], -1),
    )


_FIELDS = {"tag": (0, 2), "channels": (2, 2), "rate": (4, 4), "block": (12, 2), "bits": (14, 2), "subtype": (24, 2)}
"""Name -> where it stands in the description of the format, and its bytes."""


def _problems(contents: tf.Tensor, headers: WavHeaders) -> tf.Tensor:
    length = _length(contents)
    named = (_text(contents, tf.zeros_like(length), 4) == b"RIFF") & (_text(contents, 8 + 0 * length, 4) == b"WAVE")
    join = tf.strings.join
    number = tf.strings.as_string
    problems = [
        (~named, join(["the bytes of a WAV file (RIFF....WAVE), got ", number(length), " bytes that begin otherwise"])),
        (
            headers.format_size < 16,
            join(
                [
                    "a chunk that describes the format (fmt) before the samples, got ",
                    number(length),
                    " bytes without it",
                ]
            ),
        ),
        (
            ~tf.reduce_any(_format_matches(headers), -1),
            join(
                [
                    "PCM (1) of 8, 16, 24 or 32 bits or float (3) of 32 or 64, got format ",
                    *(number(headers.tag), " of ", number(headers.bits), " bits"),
                ]
            ),
        ),
        (
            (headers.channels < 1) | (headers.channels > MAX_CHANNELS),
            join([f"1 to {MAX_CHANNELS} channels, got ", number(headers.channels)]),
        ),
        (
            (headers.rate < MIN_RATE) | (headers.rate > MAX_RATE),
            join([f"{MIN_RATE} to {MAX_RATE} samples a second, got ", number(headers.rate)]),
        ),
        (
            headers.block * 8 != headers.channels * headers.bits,
            join(["a frame of channels * bits / 8 bytes, got ", number(headers.block)]),
        ),
        (
            headers.start < 0,
            join([f"samples (data) among the first {MAX_CHUNKS} chunks, got ", number(length), " bytes without it"]),
        ),
    ]
    return tf.where(length == 0, "", _first(problems))


def _first(problems: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """Returns the text of the first condition that holds, `""` where none does."""
    text = tf.zeros_like(problems[0][1])
    for wrong, description in reversed(problems):
        text = tf.where(wrong, tf.strings.join(["Expected ", description, "."]), text)
    return text


def _assert_none(problems: tf.Tensor) -> tf.Operation:
    """Returns the op that fails with the first problem of a batch, and the number of its example."""
    wrong = problems != ""
    example = tf.strings.as_string(tf.range(tf.size(problems)))
    advice = " Save it as 16-bit PCM (ffmpeg -i FILE -c:a pcm_s16le OUT.wav), or send nothing."
    messages = tf.strings.join(["Sound ", example, " of the batch: ", problems, advice])
    return tf.debugging.Assert(~tf.reduce_any(wrong), [tf.boolean_mask(messages, wrong)[:1]])


def _assert_small(frames: tf.Tensor, rates: tf.Tensor) -> tf.Operation:
    """Returns the op that fails where a batch is longer than `MAX_BATCH_SECONDS`."""
    longest = tf.reduce_max(tf.math.divide_no_nan(tf.cast(frames, tf.float64), tf.cast(rates, tf.float64)))
    seconds = tf.where(tf.size(frames) > 0, longest * tf.cast(tf.size(frames), tf.float64), 0.0)
    parts = [
        f"Expected at most {MAX_BATCH_SECONDS} s of sound in a batch (sounds times the longest), got ",
        *(tf.strings.as_string(seconds, precision=0), " s. Send fewer at a time."),
    ]
    return tf.debugging.Assert(seconds <= MAX_BATCH_SECONDS, [tf.strings.join(parts)])


def _find_chunks(contents: tf.Tensor, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns where the contents of "fmt " and "data" begin, -1 where they do not, and the sizes that they claim."""
    nowhere = -tf.ones_like(lengths)
    start = {"position": 12 + 0 * lengths, "fmt": nowhere, "fmt_size": nowhere, "data": nowhere, "data_size": nowhere}

    def is_walking(count: tf.Tensor, state: dict[str, tf.Tensor]) -> tf.Tensor:
        return (count < MAX_CHUNKS) & tf.reduce_any((state["data"] < 0) & (state["position"] + 8 <= lengths))

    def walk(count: tf.Tensor, state: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        at = state["position"]
        walking = (state["data"] < 0) & (at + 8 <= lengths)
        name, size = _text(contents, at, 4), _unsigned(contents, at + 4, 4)
        new = {"position": tf.where(walking, at + 8 + size + size % 2, at)}  # chunks begin at even places
        for chunk, key in ((b"fmt ", "fmt"), (b"data", "data")):
            here = walking & (name == chunk) & (state[key] < 0)
            new[key] = tf.where(here, at + 8, state[key])
            new[key + "_size"] = tf.where(here, size, state[key + "_size"])
        return count + 1, new

    return tf.while_loop(is_walking, walk, (tf.constant(0), start))[1]


def _length(contents: tf.Tensor) -> tf.Tensor:
    """Returns int64 `[batch]`, bytes."""
    return tf.cast(tf.strings.length(contents), tf.int64)


def _text(contents: tf.Tensor, position: tf.Tensor, size: int) -> tf.Tensor:
    """Returns up to `size` bytes of each from a place that may be outside, string `[batch]`."""
    start = tf.clip_by_value(position, 0, _length(contents))
    return tf.strings.substr(contents, start, size + 0 * start)


def _unsigned(contents: tf.Tensor, position: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the little-endian number of `size` bytes that stands there, int64 `[batch]`; 0 beyond the end."""
    digits = tf.io.decode_raw(_text(contents, position, size), tf.uint8, fixed_length=size)
    return tf.reduce_sum(tf.cast(digits, tf.int64) * [256**power for power in range(size)], axis=-1)


def _format_matches(headers: WavHeaders) -> tf.Tensor:
    """Returns bool `[batch, len(_FORMATS)]`."""
    return tf.stack([(headers.tag == tag) & (headers.bits == bits) for tag, bits in _FORMATS], axis=-1)


def _decode_one(wav: tuple[tf.Tensor, ...]) -> tf.Tensor:
    """Returns float32 `[time]` of scalars: content, format, first byte, frames, bytes, channels, rate."""
    content, code, start, frames, size, channels, rate = wav
    samples = tf.switch_case(
        code, [lambda read=read: read(tf.strings.substr(content, start, size)) for read in _READERS]
    )
    mono = tf.reduce_mean(tf.reshape(samples, [frames, tf.maximum(channels, 1)]), axis=1)
    resampled = tf.cond((rate == RATE) | (frames == 0), lambda: mono, lambda: resample(mono, rate))
    return tf.ensure_shape(resampled, [None])


def _read_24_bits(raw: tf.Tensor) -> tf.Tensor:
    low, middle, high = tf.unstack(tf.cast(tf.reshape(tf.io.decode_raw(raw, tf.uint8), [-1, 3]), tf.int32), axis=-1)
    unsigned = low + 256 * middle + 65536 * high
    return tf.cast(unsigned - tf.where(high >= 128, 1 << 24, 0), tf.float32) / float(1 << 23)


def _read_float(raw: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    samples = tf.io.decode_raw(raw, dtype)
    known = tf.where(tf.math.is_finite(samples), samples, tf.zeros_like(samples))
    return tf.cast(tf.clip_by_value(known, -1.0, 1.0), tf.float32)


_READERS = (
    lambda raw: (tf.cast(tf.io.decode_raw(raw, tf.uint8), tf.float32) - 128) / 128,
    lambda raw: tf.cast(tf.io.decode_raw(raw, tf.int16), tf.float32) / float(1 << 15),
    _read_24_bits,
    lambda raw: tf.cast(tf.io.decode_raw(raw, tf.int32), tf.float32) / float(1 << 31),
    lambda raw: _read_float(raw, tf.float32),
    lambda raw: _read_float(raw, tf.float64),
)
"""Bytes -> samples in -1..1, one for each of `_FORMATS`."""


def resample(wave: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
    """Returns the wave at 16 kHz, `[ceil(time * 16000 / rate)]`, without what lies above either Nyquist frequency.

    The spectrum of whole seconds has one bin each 1/seconds Hz at any rate: it is cut or padded, and transformed back.
    From .9 of the lower Nyquist frequency on it fades, so that it rings little.

    Args:
        wave: `[time]`.
        rate: int64 scalar, samples a second.
    """
    time = tf.size(wave, out_type=tf.int64)
    seconds = -(-(time * _GUARD + rate) // (rate * _GUARD))
    lower = tf.minimum(rate, RATE)
    spectrum = tf.signal.rfft(wave, [tf.cast(seconds * rate, tf.int32)])[: seconds * lower // 2 + 1]
    nyquist = tf.cast(seconds * lower, tf.float32) / 2
    bins = tf.range(tf.cast(tf.size(spectrum), tf.float32))
    fade = tf.clip_by_value((bins / nyquist - _TAPER) / (1 - _TAPER), 0.0, 1.0)
    gain = 0.5 * (1 + tf.cos(3.141592653589793 * fade)) * (RATE / tf.cast(rate, tf.float32))
    missing = seconds * RATE // 2 + 1 - tf.size(spectrum, out_type=tf.int64)
    whole = tf.pad(spectrum * tf.cast(gain, tf.complex64), [[0, missing]])
    return tf.signal.irfft(whole, [tf.cast(seconds * RATE, tf.int32)])[: -(-time * RATE // rate)]
