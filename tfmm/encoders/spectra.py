"""Waveforms -> log-mel spectra, and the ways in which training varies them."""

from __future__ import annotations

import tensorflow as tf

from tfmm.encoders.waves import RATE

FRAME, STEP, FFT = 400, 160, 512
"""Samples of a frame (25 ms), from one frame to the next (10 ms), and of its transform."""

VERSION = "1"
"""Of what `log_mel` returns; features that were kept under another are stale."""

_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7_600.0
_FLOOR = 1e-6  # added to each band's energy: some 100 dB below a full-scale tone
_LEAST_DEVIATION = 0.1  # of log energies: silence stays flat, and is not blown up to noise


def log_mel(waves: tf.Tensor, lengths: tf.Tensor, *, mels: int = 64) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns log-mel energies `[batch, frames, mels]`, 0 where there is no frame, and a mask `[batch, frames]` bool.

    Of each sound, each band's mean is taken off and the rest divided by one deviation, so that neither loudness nor the
    microphone's colour tells in it. The arguments are those of `mel_energies`.
    """
    energies, mask = mel_energies(waves, lengths, mels=mels)
    return _normalised(energies, mask), mask


def mel_energies(waves: tf.Tensor, lengths: tf.Tensor, *, mels: int = 64) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns logarithms of mel bands' energies `[batch, frames, mels]`, and a mask `[batch, frames]` bool.

    Frames of 25 ms, 10 ms apart. A sound shorter than a frame has one frame; one of length 0 has none.

    Args:
        waves: `[batch, time]` at 16 kHz; what lies beyond `lengths` does not count.
        lengths: `[batch]` int, samples.
        mels: bands from 60 to 7600 Hz.
    """
    waves = tf.where(tf.sequence_mask(lengths, tf.shape(waves)[1]), waves, 0.0)
    waves = tf.pad(waves, [[0, 0], [0, tf.maximum(FRAME - tf.shape(waves)[1], 0)]])
    spectra = tf.abs(tf.signal.stft(waves, FRAME, STEP, FFT))  # [batch, frames, FFT / 2 + 1]
    weights = tf.signal.linear_to_mel_weight_matrix(mels, FFT // 2 + 1, RATE, _LOWEST_HZ, _HIGHEST_HZ)
    energies = tf.math.log(tf.square(spectra) @ weights + _FLOOR)
    counts = tf.where(lengths > 0, 1 + tf.maximum(lengths - FRAME, 0) // STEP, 0)
    return energies, tf.sequence_mask(counts, tf.shape(energies)[1])


def _normalised(energies: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    valid = tf.cast(mask, energies.dtype)[..., tf.newaxis]  # [batch, frames, 1]
    count = tf.maximum(tf.reduce_sum(valid, axis=1, keepdims=True), 1.0)
    centred = (energies - tf.reduce_sum(energies * valid, axis=1, keepdims=True) / count) * valid
    variance = tf.reduce_mean(tf.reduce_sum(tf.square(centred), axis=1, keepdims=True) / count, axis=2, keepdims=True)
    return centred / tf.maximum(tf.sqrt(variance), _LEAST_DEVIATION)


def warped(features: tf.Tensor, mask: tf.Tensor, *, tempo: float, pitch: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns features and mask `[batch, other_frames, ...]`, each sound at another speed and of another voice.

    Time is stretched, and bands are moved as a longer or shorter vocal tract would move them (Jaitly and Hinton, 2013);
    with both alike it is speed perturbation (Ko et al., 2015), here on kept features instead of on waveforms.

    Args:
        features: `[batch, frames, mels]`, as `log_mel` returns them.
        mask: `[batch, frames]` bool, valid frames first.
        tempo: speeds are drawn from 1 - tempo to 1 + tempo.
        pitch: bands are read at 1 - pitch to 1 + pitch times their place.
    """
    batch, mels = tf.shape(features)[0], tf.shape(features)[2]
    counts = tf.reduce_sum(tf.cast(mask, tf.float32), axis=1)
    speeds = tf.random.uniform([batch], 1 - tempo, 1 + tempo)
    scales = tf.random.uniform([batch, 1], 1 - pitch, 1 + pitch)
    new_counts = tf.where(counts > 0, tf.maximum(tf.round(counts / speeds), 1), 0)
    new_mask = tf.sequence_mask(
        tf.cast(new_counts, tf.int32), tf.maximum(tf.cast(tf.reduce_max(new_counts), tf.int32), 1)
    )
    frames_at = tf.range(tf.shape(new_mask)[1], dtype=tf.float32) * speeds[:, tf.newaxis]
    moved = _read_at(features, tf.minimum(frames_at, tf.maximum(counts - 1, 0)[:, tf.newaxis]), axis=1)
    bands_at = tf.range(mels, dtype=tf.float32) * scales
    moved = _read_at(moved, tf.minimum(bands_at, tf.cast(mels - 1, tf.float32)), axis=2)
    return tf.where(new_mask[..., tf.newaxis], moved, 0.0), new_mask


def _read_at(features: tf.Tensor, places: tf.Tensor, *, axis: int) -> tf.Tensor:
    """Returns the features at places `[batch, n]` between the frames (axis 1) or bands (axis 2), interpolated."""
    low = tf.floor(places)
    last = tf.shape(features)[axis] - 1
    below = tf.cast(low, tf.int32)
    share = tf.expand_dims(places - low, 3 - axis)
    first = tf.gather(features, below, axis=axis, batch_dims=1)
    second = tf.gather(features, tf.minimum(below + 1, last), axis=axis, batch_dims=1)
    return first + (second - first) * share


def blanked(features: tf.Tensor, *, axis: int, widest: int) -> tf.Tensor:
    """Returns the features with one random stripe of each sound set to 0, the mean (Park et al., 2019, SpecAugment).

    Args:
        features: `[batch, frames, mels]`.
        axis: 1 blanks a span of time, 2 blanks bands.
        widest: its width is drawn from 0 to this.
    """
    batch, size = tf.shape(features)[0], tf.shape(features)[axis]
    widths = tf.random.uniform([batch, 1], 0, widest + 1, tf.int32)
    starts = tf.random.uniform([batch, 1]) * tf.cast(tf.maximum(size - widths + 1, 1), tf.float32)
    places = tf.range(size) - tf.cast(starts, tf.int32)  # [batch, size]
    blank = (places >= 0) & (places < widths)
    return tf.where(tf.expand_dims(blank, 3 - axis), 0.0, features)
