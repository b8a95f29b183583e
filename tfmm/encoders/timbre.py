"""Sounds -> `[batch, dim]` without training: how each band of the log-mel spectrum behaves over time.

No pretrained network of sounds comes as a package; these statistics are what a product's trained heads read instead.
They tell what a thing sounds like (its colour, how steady it is, how it flickers), not what is said, nor in what order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

import numpy as np
import tensorflow as tf

from tfmm.encoders import spectra
from tfmm.encoders.sound import SoundConfig, readable
from tfmm.encoders.waves import decode_wav

Progress = Callable[[int, int], None]
"""Called with (items done, items in all)."""

VERSION = "1"
"""Goes into fingerprints; raise it with any change that alters vectors."""

_BATCH = 16
_QUIETEST = 1e-4  # root mean square; what is quieter is not made as loud as the rest
_FAINTEST = -4.0  # log energy, some 60 dB below a tone as loud as the sound: below, there is but the recording's noise


class TimbreEncoder:
    """Hears what products sound like; frozen, so that each sound is encoded once."""

    def __init__(self, config: SoundConfig) -> None:
        self.config = config
        self.dim: int = 3 * config.mels

    @property
    def fingerprint(self) -> str:
        """Changes with everything that changes a vector."""
        return f"timbre:{VERSION}:{spectra.VERSION}:{self.config.mels}:{self.config.max_seconds}"

    def __call__(self, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns vectors `[batch, dim]`, zero where there is no sound, and present `[batch]` bool.

        Args:
            contents: string `[batch]`, WAV files; "" = none. One without samples is none, either.

        Raises:
            tf.errors.InvalidArgumentError: bytes that are no WAV file.
        """
        waves, lengths = decode_wav(contents, max_seconds=self.config.max_seconds)
        energies, mask = spectra.mel_energies(_as_loud(waves, lengths), lengths, mels=self.config.mels)
        found = statistics(tf.maximum(energies, _FAINTEST), mask)
        return tf.ensure_shape(found, [None, self.dim]), lengths > 0

    def encode(
        self, contents: Sequence[bytes], *, progress: Optional[Progress] = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns vectors `[n, dim]` float32 and present `[n]` bool of a whole catalogue; nothing in it stops the run.

        Args:
            contents: WAV files, `b""` where missing; read by position, once. What cannot be read is not present.
            progress: called after each batch.
        """
        vectors, present = np.zeros([len(contents), self.dim], np.float32), np.zeros(len(contents), bool)
        for start in range(0, len(contents), _BATCH):
            rows = range(start, min(start + _BATCH, len(contents)))
            found, there = self(readable(contents, rows))
            vectors[rows.start : rows.stop], present[rows.start : rows.stop] = found.numpy(), there.numpy()
            if progress is not None:
                progress(rows.stop, len(contents))
        return vectors, present


def statistics(energies: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, 3 * mels]`: each band's mean, its deviation, and that of its steps from frame to frame.

    Args:
        energies: `[batch, frames, mels]`.
        mask: `[batch, frames]` bool, valid frames first; where there is none, all is 0.
    """
    mean, deviation = _moments(energies, mask)
    _, steps = _moments(energies[:, 1:] - energies[:, :-1], mask[:, 1:])
    return tf.concat([mean, deviation, steps], axis=1)


def _moments(values: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and standard deviation over the valid frames, `[batch, mels]` each, 0 where there is none."""
    valid = tf.cast(mask, values.dtype)[..., tf.newaxis]  # [batch, frames, 1]
    count = tf.maximum(tf.reduce_sum(valid, axis=1), 1.0)
    mean = tf.reduce_sum(values * valid, axis=1) / count
    spread = tf.reduce_sum(tf.square(values - mean[:, tf.newaxis]) * valid, axis=1) / count
    return mean, tf.sqrt(spread)


def _as_loud(waves: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Returns the waves at one loudness: how loud a recording is says more of the microphone than of the product."""
    count = tf.maximum(tf.cast(lengths, tf.float32), 1.0)
    power = tf.sqrt(tf.reduce_sum(tf.square(waves), axis=1) / count)  # waves are 0 beyond their lengths
    return waves / tf.maximum(power, _QUIETEST)[:, tf.newaxis]
