"""Spoken queries: a sound encoder learns to put what is said where the same words stand when they are typed.

The content space stays as it is: what is heard is compared with titles, pictures and attributes as typed words are, and
a recording needs no product, only its transcript.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm.encoders.sound import SoundConfig, SoundEncoder, keep_log_mel
from tfmm.losses import softmax_loss
from tfmm.progress import counter
from tfmm.retrieval import adamw, log_scalars
from tfmm.sources.dataset import Media
from tfmm.towers import unit

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SpeechConfig:
    """Whose recordings teach a model to hear, and how.

    Attributes:
        data_dir: folder of recorded queries (`sources.spoken`); None = the model is deaf.
        epochs: over the recordings. All are run: the voices of validation.csv are measured, not chosen by.
        batch_size: recordings a step.
        learning_rate: of AdamW, after a warm-up over the first epoch.
        weight_decay: of AdamW.
        temperature: cosines are divided by it.
        nearness: weight of the distance to the words, beside telling them from others.
    """

    data_dir: Optional[Path] = None
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    temperature: float = 0.05
    nearness: float = 5.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected speech.{name} >= 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected speech.{name} > 0, got {getattr(self, name)}.")
        if self.nearness < 0:
            raise ValueError(f"Expected speech.nearness >= 0, got {self.nearness}.")


class Hearing(tf.keras.Model):
    """WAV bytes -> where in the content space what is said stands."""

    def __init__(self, config: SoundConfig, *, dim: int) -> None:
        super().__init__(name="hearing")
        self.encoder = SoundEncoder(config, dim=dim)

    def call(self, sounds: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `[batch, dim]` of length 1, zero where there is no sound, and present `[batch]` bool.

        Args:
            sounds: WAV bytes, string `[batch]`, "" = none; or (log-mel, mask) of `keep_log_mel`.
            training: whether sounds are varied.

        Raises:
            tf.errors.InvalidArgumentError: bytes that are no WAV file.
        """
        vectors, present = self.encoder(sounds, training=training)
        return unit(vectors), present


class _Lesson(tf.keras.Model):
    """Each recording has to find its own words among all that are ever said, and to stand where they stand.

    The first alone would be content with being nearer to them than to any others.
    """

    def __init__(self, hearing: Hearing, words: np.ndarray, *, temperature: float) -> None:
        super().__init__()
        self.hearing, self.temperature = hearing, temperature
        self.words = tf.constant(words)

    def call(self, sounds: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> tf.Tensor:
        vectors, _ = self.hearing(sounds, training=training)
        return tf.matmul(vectors / self.temperature, self.words, transpose_b=True)


def fit(
    sounds: Media,
    texts: np.ndarray,
    vectors: np.ndarray,
    *,
    config: SpeechConfig,
    sound: SoundConfig,
    seed: int,
    logs: Path,
) -> tuple[Hearing, dict[str, list[float]]]:
    """Returns ears, and the curves of their training.

    Args:
        sounds: recordings.
        texts: `[recordings]` str (object): what is said in each.
        vectors: `[recordings, dim]` of length 1: where those words stand when they are typed.
        config: of the training.
        sound: of the encoder.
        seed: of the order.
        logs: of TensorBoard.
    """
    _, first, word = np.unique(texts.astype(str), return_index=True, return_inverse=True)
    features, mask = keep_log_mel([sounds.read(row) for row in range(len(texts))], sound)
    hearing = Hearing(sound, dim=vectors.shape[1])
    lesson = _Lesson(hearing, vectors[first].astype(np.float32), temperature=config.temperature)
    data = tf.data.Dataset.from_tensor_slices(((features, mask), word.astype(np.int32)))
    data = data.shuffle(len(texts), seed=seed).batch(config.batch_size)
    optimizer = adamw(
        config.learning_rate,
        weight_decay=config.weight_decay,
        epochs=config.epochs,
        steps_per_epoch=len(data),
        floor=0.02,
    )

    def lesson_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        right = tf.reshape(labels, [-1])
        cosines = tf.gather(logits, right, batch_dims=1) * config.temperature
        return softmax_loss(logits, right) + config.nearness * (1.0 - cosines)

    lesson.compile(optimizer=optimizer, loss=lesson_loss)
    curves: dict[str, list[float]] = {"loss": []}
    with counter("learning to hear", total=config.epochs) as advance:
        for epoch in range(1, config.epochs + 1):
            loss = float(lesson.fit(data, epochs=1, verbose=0).history["loss"][-1])
            curves["loss"].append(loss)
            log_scalars(logs, {"loss": loss}, epoch=epoch)
            advance(1)
    _log.info("%d recordings of %d phrases heard, loss %.4f", len(texts), len(first), curves["loss"][-1])
    return hearing, curves
