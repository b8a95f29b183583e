"""Contrastive alignment within the shop: what is typed, shown or said finds products by whatever they have.

Each step looks at a batch of products twice: once as a query (one or several of text, picture, sound; the text is the
title or words for some attributes), once as a product of which what was asked with is often hidden. Each query has to
find its own product among the others of the batch, and each product its query (CLIP, Radford et al. 2021).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf

from tfmm import losses
from tfmm.content import ASKABLE, SUBWORDS, TEXT, Content, ContentConfig, ContentTower, Phrases, cut
from tfmm.encoders.sentence import SentenceEncoder
from tfmm.progress import counter
from tfmm.retrieval import adamw, log_scalars

_log = logging.getLogger(__name__)
_EMBEDDED = 2048  # products at a time
LOSSES: dict[str, Any] = {
    "softmax": losses.softmax_loss,
    "triplet": losses.triplet_loss,
    "contrastive": losses.contrastive_loss,
    "bpr": losses.bpr_loss,
}


@dataclasses.dataclass(frozen=True)
class AlignmentConfig:
    """How the content tower is trained.

    Attributes:
        epochs: over the products; 0 = not at all.
        patience: epochs without a better validation MRR before training stops.
        batch_size: products a step; each is a negative of the others.
        learning_rate: of AdamW, after a warm-up over the first epoch.
        weight_decay: of AdamW.
        loss: "softmax" (InfoNCE), "triplet" (semi-hard), "contrastive" (Siamese) or "bpr".
        temperature: cosines are divided by it ("softmax" and "bpr").
        phrase_share: how often a text is replaced by words for the product's attributes.
        mixed_share: how often a query has all that can be asked with, instead of one kind.
        hide_share: how often what was asked with is hidden from the product.
        modality_dropout: how often another modality of a product is hidden.
    """

    epochs: int = 15
    patience: int = 5
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    loss: str = "softmax"
    temperature: float = 0.05
    phrase_share: float = 0.3
    mixed_share: float = 0.2
    hide_share: float = 0.8
    modality_dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"Expected alignment.loss to be one of {', '.join(LOSSES)}, got {self.loss!r}.")
        for name, least in (("epochs", 0), ("patience", 1), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"Expected alignment.{name} >= {least}, got {getattr(self, name)}.")
        for name in ("phrase_share", "mixed_share", "hide_share", "modality_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected alignment.{name} between 0 and 1, got {getattr(self, name)}.")
        if self.temperature <= 0 or self.learning_rate <= 0:
            raise ValueError("Expected alignment.temperature and alignment.learning_rate > 0.")


class Aligner(tf.keras.Model):
    """The content tower, and how it is trained."""

    def __init__(
        self,
        content: Content,
        phrases: Phrases,
        *,
        tower: ContentConfig,
        config: AlignmentConfig,
        encoder: Optional[SentenceEncoder] = None,
    ) -> None:
        """Makes the tower, untrained.

        Args:
            content: of the catalogue.
            phrases: that stand for what shoppers type.
            tower: its shape.
            config: its training.
            encoder: of texts, that made their vectors; None = subwords alone.
        """
        super().__init__()
        self.config, self.modalities, self.content = config, content.modalities, content
        self.encoder, self.phrases_of_items = encoder, phrases
        self.tower = ContentTower(tower, content)
        self.columns = {name: tf.constant(column) for name, column in content.columns.items()}
        self.present = tf.constant(content.present)
        self.phrases = {
            TEXT: tf.constant(phrases.vectors),
            SUBWORDS: tf.constant(phrases.subwords),
            "of_item": tf.constant(phrases.of_item),
        }
        self.askable = tf.constant([name in ASKABLE for name in self.modalities])
        self.mean_loss = tf.keras.metrics.Mean(name="loss")
        self.embed(tf.constant([0]), tf.constant([True] * len(self.modalities)))

    def get_config(self) -> dict[str, object]:
        """Returns what Keras writes beside the weights."""
        return dataclasses.asdict(self.config)

    @tf.function(reduce_retracing=True)
    def embed(self, rows: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, dim]` of products, as if they had no other modalities than `kept`, `[modalities]` bool."""
        return self.tower(self._features(rows), tf.gather(self.present, rows) & kept)

    def embed_all(self, *, only: tuple[str, ...] | None = None) -> np.ndarray:
        """Returns `[num_items, dim]`, zero where nothing of a product is there; of the modalities `only`, if given."""
        return self.embed_rows(np.arange(len(self.present)), only=only)

    def embed_rows(self, rows: np.ndarray, *, only: tuple[str, ...] | None = None) -> np.ndarray:
        """Returns the same of some products, `[rows, dim]`."""
        kept = tf.constant([only is None or name in only for name in self.modalities])
        parts = np.array_split(rows.astype(np.int32), max(1, -(-len(rows) // _EMBEDDED)))
        return np.concatenate([self.embed(tf.constant(part), kept).numpy() for part in parts])

    def embed_texts(self, texts: Union[Sequence[str], np.ndarray]) -> np.ndarray:
        """Returns `[n, dim]` of texts, as if they were typed."""
        features = {name: tf.zeros([len(texts), *c.shape[1:]], c.dtype) for name, c in self.columns.items()}
        if self.encoder is not None:
            features[TEXT] = tf.constant(self.encoder.encode(list(texts))[0])
        features[SUBWORDS] = tf.constant(cut(self.content.subwords, list(texts)))
        present = tf.constant([[name == TEXT for name in self.modalities]] * len(texts))
        return self.tower(features, present).numpy()

    def _features(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: tf.gather(column, rows) for name, column in self.columns.items()}

    def train_step(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the epoch's mean loss so far."""
        with tf.GradientTape() as tape:
            loss = self.compute_loss(rows)
        variables = self.trainable_variables
        self.optimizer.minimize(loss, variables, tape=tape)
        self.mean_loss.update_state(loss)
        return {"loss": self.mean_loss.result()}

    def compute_loss(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the mean loss of queries that look for their products, and of products that look for their queries.

        Two queries of the same words are no negatives of each other's product.
        """
        asked, kept = self.views(rows)
        queries, said = self._ask(rows, asked)
        items = self.tower(self._features(rows), kept, training=True)
        valid = tf.reduce_any(asked, axis=1) & tf.reduce_any(kept, axis=1)
        queries, items, said = (tf.boolean_mask(column, valid) for column in (queries, items, said))
        scale = self.config.temperature if self.config.loss in ("softmax", "bpr") else 1.0
        logits = tf.matmul(queries / scale, items, transpose_b=True)
        other = (said[:, tf.newaxis] != said) | (said == 0)
        labels = tf.range(tf.shape(queries)[0])
        loss = LOSSES[self.config.loss]
        both = loss(logits, labels, where=other) + loss(tf.transpose(logits), labels, where=tf.transpose(other))
        return tf.math.divide_no_nan(tf.reduce_sum(both), 2.0 * tf.cast(tf.size(labels), tf.float32))

    def views(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns which modalities are asked with, and which the product keeps, `[batch, modalities]` bool, at random.

        A query is one of the kinds that the product has, or all of them; the product keeps at least one modality that
        was not asked with, where it has another.
        """
        present = tf.gather(self.present, rows)
        askable = present & self.askable
        asked = _one_of(askable) | (askable & self._chance(tf.shape(rows)[:1], self.config.mixed_share)[:, tf.newaxis])
        others = present & ~asked
        others = _one_of(others) | (others & ~self._chance(tf.shape(present), self.config.modality_dropout))
        alone = ~tf.reduce_any(others, axis=1, keepdims=True)
        shown = asked & (alone | ~self._chance(tf.shape(rows)[:1], self.config.hide_share)[:, tf.newaxis])
        return asked, others | shown

    def _ask(self, rows: tf.Tensor, asked: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the queries' vectors, and the number of the phrase that stands for each one's text, 0 = its own."""
        features = self._features(rows)
        said = tf.zeros_like(rows)
        if TEXT in self.modalities:
            variants = tf.gather(self.phrases["of_item"], rows)
            variant = tf.random.uniform(tf.shape(rows), 0, variants.shape[1], tf.int32)
            said = tf.gather(variants, variant, batch_dims=1)
            typed = asked[:, self.modalities.index(TEXT)]
            said = tf.where(typed & self._chance(tf.shape(rows), self.config.phrase_share), said, 0)
            for name in (TEXT, SUBWORDS):
                spoken = tf.gather(self.phrases[name], said)
                features[name] = tf.where((said > 0)[:, tf.newaxis], spoken, features[name])
        return self.tower(features, asked, training=True), said

    def _chance(self, shape: tf.Tensor, rate: float) -> tf.Tensor:
        return tf.random.uniform(shape) < rate

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """What Keras resets as each epoch begins."""
        return [self.mean_loss]


def _one_of(mask: tf.Tensor) -> tf.Tensor:
    """Returns a mask with one of each row's True values, at random."""
    drawn = tf.where(mask, tf.random.uniform(tf.shape(mask)), -1.0)
    return mask & (drawn == tf.reduce_max(drawn, axis=1, keepdims=True))


def fit(
    aligner: Aligner, rows: np.ndarray, *, validation: np.ndarray, seed: int, directory: Path, logs: Path
) -> dict[str, list[float]]:
    """Returns the curves, after `aligner` holds the weights of its best validation epoch.

    Args:
        aligner: trained in place.
        rows: products that it may learn from.
        validation: products, none of them among `rows`, whose own query has to find them in the whole catalogue.
        seed: of the order.
        directory: of the best weights.
        logs: of TensorBoard.
    """
    config = aligner.config
    size = min(config.batch_size, len(rows))
    data = tf.data.Dataset.from_tensor_slices(rows.astype(np.int32))
    data = data.shuffle(len(rows), seed=seed).batch(size, drop_remainder=True)
    rate, decay = config.learning_rate, config.weight_decay
    optimizer = adamw(rate, weight_decay=decay, epochs=config.epochs, steps_per_epoch=len(data), floor=0.02)
    aligner.compile(optimizer=optimizer)
    best = directory / "best.weights.h5"
    directory.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[float]] = {"loss": [], "validation mrr": []}
    with counter("aligning modalities", total=config.epochs) as advance:
        for epoch in range(1, config.epochs + 1):
            loss = aligner.fit(data, epochs=1, verbose=0).history["loss"][-1]
            value = validation_mrr(aligner, validation)
            curves["loss"].append(float(loss))
            curves["validation mrr"].append(value)
            log_scalars(logs, {"loss": loss, "validation mrr": value}, epoch=epoch)
            _log.info("epoch %d: loss %.4f, validation mrr %.4f", epoch, loss, value)
            advance(1)
            gain = curves["validation mrr"]
            if max(gain) == gain[-1]:
                aligner.save_weights(best)
            elif len(gain) - 1 - gain.index(max(gain)) >= config.patience:
                break
    if config.epochs:
        aligner.load_weights(best)
    return curves


def validation_mrr(aligner: Aligner, rows: np.ndarray) -> float:
    """Returns the mean, over kinds of query, of 1 / the rank of the product, with that modality hidden from all."""
    values = []
    for kind in (name for name in aligner.modalities if name in ASKABLE):
        corpus = aligner.embed_all(only=tuple(name for name in aligner.modalities if name != kind))
        asked = aligner.embed_rows(rows, only=(kind,))
        known = np.abs(asked).any(axis=1) & np.abs(corpus[rows]).any(axis=1)
        if known.any():
            values.append(float(np.mean(1 / own_ranks(asked[known], corpus, rows[known]))))
    return float(np.mean(values)) if values else 0.0


def own_ranks(queries: np.ndarray, corpus: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns `[queries]`: the 1-based rank of each query's own row of the corpus; ties count against us."""
    scores = queries @ corpus.T
    own = scores[np.arange(len(rows)), rows]
    return (scores >= own[:, np.newaxis]).sum(axis=1)
