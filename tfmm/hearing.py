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

from tfmm.encoders.sound import SoundConfig, SoundEncoder, SoundInputs, keep_log_mel
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
    """

    data_dir: Optional[Path] = None
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    temperature: float = 0.05

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected speech.{name} >= 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected speech.{name} > 0, got {getattr(self, name)}.")


class Hearing(tf.keras.Model):
    """WAV bytes -> where in the content space what is said stands: among words that it was taught.

    What is heard is a mixture of those words, by how likely each is, so that it is as good a query as they are.
    """

    def __init__(self, sound: SoundConfig, words: np.ndarray, *, temperature: float) -> None:
        """Makes ears, untrained.

        Args:
            sound: of the encoder.
            words: `[words, dim]` of length 1: where all that recordings say stands when it is typed.
            temperature: cosines are divided by it.
        """
        super().__init__(name="hearing")
        self.encoder, self.temperature = SoundEncoder(sound, dim=words.shape[1]), temperature
        self.words = tf.Variable(words, trainable=False, dtype=tf.float32, name="words")

    def likeness(self, sounds: SoundInputs, *, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns logits of the words `[batch, words]`, and present `[batch]` bool; the arguments of `call`."""
        vectors, present = self.encoder(sounds, training=training)
        return tf.matmul(unit(vectors) / self.temperature, self.words, transpose_b=True), present

    def call(self, sounds: SoundInputs, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `[batch, dim]` of length 1, zero where there is no sound, and present `[batch]` bool.

        Args:
            sounds: WAV bytes, string `[batch]`, "" = none; or (log-mel, mask) of `keep_log_mel`.
            training: whether sounds are varied.

        Raises:
            tf.errors.InvalidArgumentError: bytes that are no WAV file.
        """
        logits, present = self.likeness(sounds, training=training)
        heard = unit(tf.matmul(tf.nn.softmax(logits), self.words))
        return tf.where(present[:, tf.newaxis], heard, 0.0), present


class _Lesson(tf.keras.Model):
    """Each recording has to find its own words among all that are ever said."""

    def __init__(self, hearing: Hearing) -> None:
        super().__init__()
        self.hearing = hearing

    def call(self, sounds: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> tf.Tensor:
        return self.hearing.likeness(sounds, training=training)[0]


def distinct(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the distinct texts, the first row of each, and which of them each row says."""
    said, first, word = np.unique(texts.astype(str), return_index=True, return_inverse=True)
    return said, first, word


def listen(sounds: Media, config: SoundConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns log-mel and mask of recordings; nothing of one that cannot be read."""
    return keep_log_mel([sounds.read(row) for row in range(len(sounds.present))], config)


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
    _, first, word = distinct(texts)
    features, mask = listen(sounds, sound)
    hearing = Hearing(sound, vectors[first].astype(np.float32), temperature=config.temperature)
    lesson = _Lesson(hearing)
    data = tf.data.Dataset.from_tensor_slices(((features, mask), word.astype(np.int32)))
    data = data.shuffle(len(texts), seed=seed).batch(config.batch_size)
    optimizer = adamw(config, steps_per_epoch=len(data), floor=0.02)
    lesson.compile(optimizer=optimizer, loss=lambda labels, logits: softmax_loss(logits, tf.reshape(labels, [-1])))
    curves: dict[str, list[float]] = {"loss": []}
    with counter("learning to hear", total=config.epochs) as advance:
        for epoch in range(1, config.epochs + 1):
            loss = float(lesson.fit(data, epochs=1, verbose=0).history["loss"][-1])
            curves["loss"].append(loss)
            log_scalars(logs, {"loss": loss}, epoch=epoch)
            advance(1)
    _log.info("%d recordings of %d phrases heard, loss %.4f", len(texts), len(first), curves["loss"][-1])
    return hearing, curves
