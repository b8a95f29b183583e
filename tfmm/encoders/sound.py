"""Sound -> `[batch, dim]` by small networks trained with the shop's own towers, from WAV bytes or kept log-mel spectra.

    bytes --decode_wav--> waveform --log_mel--> [frames, mels] --convolutions--> [frames / 4, width] --network--> [dim]

Nothing left of `[frames, mels]` is trained: `keep_log_mel` computes it once for a whole catalogue. Products' own sounds
go through the same code up to there (`timbre`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Callable, Union

import numpy as np
import tensorflow as tf

from tfmm.encoders.spectra import blanked, log_mel, warped
from tfmm.encoders.transformer import Block, positions
from tfmm.encoders.waves import decode_wav, wav_problems

Progress = Callable[[int, int], None]
"""Called with (items done, items in all)."""

SoundInputs = Union[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]
"""WAV bytes string `[batch]`, or (features `[batch, frames, mels]`, mask `[batch, frames]` bool)."""

_BATCH = 16
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SoundConfig:
    """Which trainable network hears the sounds, and how training varies them.

    Variations pay where the voices that ask are unlike those that taught: of spoken queries in four new voices, taught
    by three, type and colour were both right in .862 without them, .902 with these, .864 with up to twice as much (500
    clips, one seed). Six voices teach a similar seventh at least as well without.

    Attributes:
        kind: "lstm" (convolutions, then both directions of an LSTM) or "transformer" (convolutions, then attention).
        max_seconds: what is heard of a sound.
        mels: bands of the spectrum.
        width: of the hidden layers; a multiple of 4.
        layers: of the LSTM or the transformer.
        dropout: in training, before and after the network.
        tempo: in training, sounds are up to this share faster or slower.
        pitch: in training, voices are up to this share higher or lower.
        noise: in training, deviation of what is added to the normalised features.
        blank_bands: in training, bands at most in each of two blanked stripes.
        blank_frames: in training, frames (10 ms) at most in each of two blanked spans.
    """

    kind: str = "lstm"
    max_seconds: float = 10.0
    mels: int = 64
    width: int = 96
    layers: int = 1
    dropout: float = 0.1
    tempo: float = 0.1
    pitch: float = 0.1
    noise: float = 0.1
    blank_bands: int = 6
    blank_frames: int = 8

    def __post_init__(self) -> None:
        if self.kind not in _NETWORKS:
            raise ValueError(f"Expected sound.kind to be one of {', '.join(_NETWORKS)}, got {self.kind!r}.")
        if not 0.1 <= self.max_seconds <= 60:
            raise ValueError(f"Expected sound.max_seconds between 0.1 and 60, got {self.max_seconds}.")
        if not 8 <= self.mels <= 128:
            raise ValueError(f"Expected sound.mels between 8 and 128, got {self.mels}.")
        if self.width < 4 or self.width % 4:
            raise ValueError(f"Expected sound.width to be a positive multiple of 4, got {self.width}.")
        if self.layers < 1:
            raise ValueError(f"Expected sound.layers to be at least 1, got {self.layers}.")
        for name in ("dropout", "tempo", "pitch"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Expected sound.{name} in [0, 1), got {getattr(self, name)}.")
        for name in ("noise", "blank_bands", "blank_frames"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Expected sound.{name} to be 0 or more, got {getattr(self, name)}.")


class SoundEncoder(tf.keras.layers.Layer):
    """Hears sounds; how much padding follows changes nothing."""

    def __init__(self, config: SoundConfig, *, dim: int) -> None:
        super().__init__(name=f"sound_{config.kind}")
        self.config = config
        self._front = _Convolutions(config)
        self._network = _NETWORKS[config.kind](config)
        self._dropout = tf.keras.layers.Dropout(config.dropout)
        self._output = tf.keras.layers.Dense(dim, name="output")

    def features(self, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns log-mel `[batch, frames, mels]` and mask `[batch, frames]` bool of WAV bytes, string `[batch]`.

        Raises:
            tf.errors.InvalidArgumentError: an example is neither `""` nor a WAV file that can be read.
        """
        waves, lengths = decode_wav(contents, max_seconds=self.config.max_seconds)
        return log_mel(waves, lengths, mels=self.config.mels)

    def call(self, inputs: SoundInputs, training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns vectors `[batch, dim]`, zero where there is no sound, and present `[batch]` bool.

        Args:
            inputs: WAV bytes, string `[batch]`, `""` = none; or what `features` or `keep_log_mel` gave.
            training: whether sounds are varied, and dropout drops.
        """
        features, mask = inputs if isinstance(inputs, (tuple, list)) else self.features(inputs)
        features = tf.cast(features, self.compute_dtype)
        if training:
            features, mask = varied(features, mask, self.config)
        present = tf.reduce_any(mask, axis=1)
        heard, mask = self._front(features, mask)
        summary = self._network(self._dropout(heard, training=training), mask, training=training)
        vectors = self._output(self._dropout(summary, training=training))
        return tf.where(present[:, tf.newaxis], vectors, tf.zeros_like(vectors)), present


def varied(features: tf.Tensor, mask: tf.Tensor, config: SoundConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns features and mask as another voice might have said it, in noise and with gaps."""
    if config.tempo or config.pitch:
        features, mask = warped(features, mask, tempo=config.tempo, pitch=config.pitch)
    if config.noise:
        loudness = tf.random.uniform([tf.shape(features)[0], 1, 1], 0.0, config.noise)
        features += loudness * tf.random.normal(tf.shape(features))
    for _ in range(2):
        features = blanked(features, axis=2, widest=config.blank_bands)
        features = blanked(features, axis=1, widest=config.blank_frames)
    return tf.where(mask[..., tf.newaxis], features, 0.0), mask


class _Convolutions(tf.keras.layers.Layer):
    """Two convolutions over time, each of which leaves every second frame; bands are channels."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__(name="convolutions")
        self._convolutions = [
            tf.keras.layers.Conv1D(config.width, 2 * _REACH + 1, strides=2, use_bias=False, name=f"convolution{layer}")
            for layer in range(2)
        ]
        self._norms = [tf.keras.layers.LayerNormalization(epsilon=1e-6, name=f"norm{layer}") for layer in range(2)]

    def call(self, x: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `[batch, frames / 4, width]` and its mask, of `[batch, frames, mels]`."""
        for convolution, norm in zip(self._convolutions, self._norms):
            x *= tf.cast(mask, x.dtype)[..., tf.newaxis]
            # Padding "same" with a stride would begin at another frame where the number of frames is odd.
            x = tf.nn.relu(norm(convolution(tf.pad(x, [[0, 0], [_REACH, _REACH], [0, 0]]))))
            mask = mask[:, ::2]
        return x, mask


_REACH = 2
"""Frames that a convolution sees before and after each."""


class _Recurrent(tf.keras.layers.Layer):
    """Both directions of an LSTM, summed up by attention."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__(name="lstm")
        self._layers = [
            tf.keras.layers.Bidirectional(
                # Not `LSTM`: its graph has a copy for each kind of machine, and takes thrice as long to export.
                tf.keras.layers.RNN(tf.keras.layers.LSTMCell(config.width // 2), return_sequences=True)
            )
            for _ in range(config.layers)
        ]
        self._pool = _AttentionPool()

    def call(self, x: tf.Tensor, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        for layer in self._layers:
            x = layer(x, mask=mask, training=training)
        return self._pool(x, mask)


class _Transformer(tf.keras.layers.Layer):
    """Pre-norm self-attention with sinusoidal positions, summed up by attention."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__(name="transformer")
        self._blocks = [
            Block(config.width, dropout=config.dropout, name=f"block{layer}") for layer in range(config.layers)
        ]
        self._norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)
        self._pool = _AttentionPool()

    def call(self, x: tf.Tensor, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x += positions(tf.shape(x)[1], x.shape[2])
        for block in self._blocks:
            x = block(x, mask, training=training)
        return self._pool(self._norm(x), mask)


class _AttentionPool(tf.keras.layers.Layer):
    """A mean over frames whose weights are learned."""

    def __init__(self) -> None:
        super().__init__(name="pool")
        self._score = tf.keras.layers.Dense(1, use_bias=False, name="score")

    def call(self, x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, width]`, finite where nothing is valid."""
        logits = tf.where(mask[..., tf.newaxis], self._score(x), x.dtype.min / 2)
        return tf.reduce_sum(tf.nn.softmax(logits, axis=1) * x, axis=1)


_NETWORKS: dict[str, Callable[[SoundConfig], tf.keras.layers.Layer]] = {
    "lstm": _Recurrent,
    "transformer": _Transformer,
}


def keep_log_mel(
    contents: Sequence[bytes], config: SoundConfig, *, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features `[n, frames, mels]` float16 and mask `[n, frames]` bool of a whole catalogue; nothing stops it.

    What cannot be read or is no WAV file is left out with a warning, and is as absent as `b""`. `frames` is what the
    longest has.

    Args:
        contents: WAV files, `b""` where missing; read by position, once.
        config: of the encoder that will hear them.
        progress: called after each batch.
    """
    spectra: list[np.ndarray] = []
    for start in range(0, len(contents), _BATCH):
        batch = readable(contents, range(start, min(start + _BATCH, len(contents))))
        waves, lengths = decode_wav(batch, max_seconds=config.max_seconds)
        features, mask = log_mel(waves, lengths, mels=config.mels)
        spectra.extend(rows[valid].astype(np.float16) for rows, valid in zip(features.numpy(), mask.numpy()))
        if progress is not None:
            progress(len(spectra), len(contents))
    return _stacked(spectra, mels=config.mels)


def readable(contents: Sequence[bytes], rows: range) -> tf.Tensor:
    """Returns string `[len(rows)]`, `""` where the content cannot be had or decoded, which a warning tells."""
    batch = []
    for row in rows:
        try:
            batch.append(contents[row])
        except OSError as error:
            _LOG.warning("Sound %d is left out: %s", row, error)
            batch.append(b"")
    problems = wav_problems(tf.constant(batch, tf.string))
    for row, problem in zip(rows, problems.numpy()):
        if problem:
            _LOG.warning("Sound %d is left out. %s", row, problem.decode())
    return tf.where(problems == "", batch, "")


def _stacked(spectra: Sequence[np.ndarray], *, mels: int) -> tuple[np.ndarray, np.ndarray]:
    counts = np.array([len(rows) for rows in spectra], np.int64)
    mask = np.arange(counts.max(initial=1)) < counts[:, np.newaxis]
    features = np.zeros((*mask.shape, mels), np.float16)
    if spectra:
        features[mask] = np.concatenate(spectra)
    return features, mask
