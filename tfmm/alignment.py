"""Contrastive alignment within the shop: what is typed, shown or said finds products by whatever they have.

Training begins where a closed form ends (`views`). Each step looks at a batch of products twice: as queries (one or
several of text, picture, sound; the text is the title or words for some attributes) and as products of which what was
asked with is often hidden. Each query has to find its product among the others of the batch, and each product its
query (CLIP, Radford et al. 2021); products that the words fit as well are as right. So do modalities alone, each that
can be asked with against each other one (ImageBind, Girdhar et al. 2023).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Optional, Union

import numpy as np
import tensorflow as tf

from tfmm import losses
from tfmm.content import ASKABLE, TEXT, Content, ContentConfig, ContentTower
from tfmm.encoders.sentence import SentenceEncoder
from tfmm.features import SUBWORDS
from tfmm.phrases import ROW, TITLE, Phrases, cut
from tfmm.progress import counter
from tfmm.ragged import in_chunks
from tfmm.retrieval import adamw, log_scalars
from tfmm.views import Views

_log = logging.getLogger(__name__)
_EMBEDDED = 2048  # products at a time
_RANKED = 10_000  # products among which validation looks, at most
_COLDEST = 0.01  # temperature


def _by_own(loss: Callable[..., tf.Tensor]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns a loss of one right candidate as one of several: its own is right, the others are no negatives."""
    return lambda logits, right: loss(logits, tf.range(tf.shape(logits)[0]), where=~right)


LOSSES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "softmax": losses.shared_softmax_loss,
    "triplet": _by_own(losses.triplet_loss),
    "contrastive": _by_own(losses.contrastive_loss),
    "bpr": _by_own(losses.bpr_loss),
}
"""Logits `[batch, batch]` and which products fit each query -> `[batch]`."""


@dataclasses.dataclass(frozen=True)
class AlignmentConfig:
    """How the content tower is trained.

    Attributes:
        epochs: over the products; 0 = not at all.
        patience: epochs without a better validation MRR before training stops.
        batch_size: products a step; each is a negative of the others.
        learning_rate: of AdamW, after a warm-up over the first epoch; gentle, as the start is good.
        weight_decay: of AdamW.
        loss: "softmax" (InfoNCE), "triplet" (semi-hard), "contrastive" (Siamese) or "bpr".
        temperature: cosines are divided by it ("softmax" and "bpr"); it is learned, from here on.
        phrase_share: how often a text is replaced by words for the product's attributes.
        mixed_share: how often a query has all that can be asked with, instead of one kind.
        hide_share: how often what was asked with is hidden from the product.
        modality_dropout: how often another modality of a product is hidden.
    """

    epochs: int = 10
    patience: int = 3
    batch_size: int = 512
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
    loss: str = "softmax"
    temperature: float = 0.07
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
        rows: np.ndarray,
        tower: ContentConfig,
        config: AlignmentConfig,
        encoder: Optional[SentenceEncoder] = None,
    ) -> None:
        """Makes the tower, untrained.

        Args:
            content: of the catalogue.
            phrases: that stand for what shoppers type.
            rows: products that it may learn from.
            tower: its shape.
            config: its training.
            encoder: of texts, that made their vectors; None = subwords alone.
        """
        super().__init__()
        self.config, self.modalities, self.content = config, content.modalities, content
        self.encoder, self.phrases = encoder, phrases
        self.views = Views(
            content,
            phrases,
            rows=rows,
            phrase_share=config.phrase_share,
            directions=tower.directions,
            ridge=tower.ridge,
        )
        self.tower = ContentTower(tower, self.views.gains)
        self.present = tf.constant(content.present)
        self.askable = tf.constant([name in ASKABLE for name in self.modalities])
        self.codes, self.pinned = tf.constant(phrases.codes), tf.constant(phrases.pinned)
        self.of_item = tf.constant(phrases.of_item)
        self.log_scale = tf.Variable(-np.log(config.temperature), dtype=tf.float32, name="log_scale")
        self.mean_loss = tf.keras.metrics.Mean(name="loss")
        self.look()
        self.embed(tf.constant([0]), tf.constant([True] * len(self.modalities)))

    def look(self) -> None:
        """Reads the catalogue as the views are now: after they were made, or restored."""
        everything, content = np.arange(len(self.content)), self.content
        self.columns = {
            name: tf.constant(self.views.table(name, content.columns, everything)) for name in self.modalities
        }
        self.typed = tf.zeros([len(self.phrases.texts), 0])
        if TEXT in self.modalities:
            said = {TEXT: self.phrases.vectors, SUBWORDS: self.phrases.subwords}
            self.typed = tf.constant(self.views.table(TEXT, said, np.arange(len(self.phrases.texts))))

    @property
    def temperature(self) -> float:
        """What cosines are divided by, as learned so far."""
        return max(_COLDEST, float(np.exp(-self.log_scale.numpy())))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Kinds of query, and the modality of products that each looks in: those that can be asked with, if it can."""
        asked = [name for name in self.modalities if name in ASKABLE]
        return [
            (kind, index)
            for kind in asked
            for index in self.modalities
            if index != kind and (index in ASKABLE or len(asked) == 1)
        ]

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
        parts = in_chunks(rows.astype(np.int32), _EMBEDDED)
        return np.concatenate([self.embed(tf.constant(part), kept).numpy() for part in parts])

    def embed_texts(self, texts: Union[Sequence[str], np.ndarray]) -> np.ndarray:
        """Returns `[n, dim]` of texts, as if they were typed."""
        features = {name: tf.zeros([len(texts), column.shape[1]]) for name, column in self.columns.items()}
        vectors = self.encoder.encode(list(texts))[0] if self.encoder else np.zeros((len(texts), 0), np.float32)
        said = {TEXT: vectors, SUBWORDS: cut(self.content.subwords, list(texts))}
        features[TEXT] = tf.constant(self.views.table(TEXT, said, np.arange(len(texts))))
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
        """Returns the mean loss of whole queries and products, plus that of modalities alone, in both directions."""
        asked, kept = self.parts(rows)
        features = self._features(rows)
        pins = {name: self._own(rows) for name in self.modalities}
        said = features
        if TEXT in self.modalities:
            said, pins[TEXT] = self._typed(rows, features)
        queries = self.tower.project(said, training=True)
        items = self.tower.project(features, training=True)
        present, codes = tf.gather(self.present, rows), tf.gather(self.codes, rows)

        def loss(query: tf.Tensor, item: tf.Tensor, pinned: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
            right = tf.reduce_all(~pinned[:, tf.newaxis] | (codes[:, tf.newaxis] == codes), axis=-1)
            right = tf.boolean_mask(tf.boolean_mask(right, valid), valid, axis=1)
            return self._both_ways(tf.boolean_mask(query, valid), tf.boolean_mask(item, valid), right)

        alone = [
            loss(queries[:, a], items[:, b], pins[kind], present[:, a] & present[:, b])
            for a, kind in enumerate(self.modalities)
            for b in range(len(self.modalities))
            if kind in ASKABLE and a != b
        ]
        whole = self._own(rows)
        if TEXT in self.modalities:
            typed = asked & tf.constant([name == TEXT for name in self.modalities])
            whole = tf.where(tf.reduce_all(asked == typed, axis=1, keepdims=True), pins[TEXT], whole)
        both = tf.reduce_any(asked, axis=1) & tf.reduce_any(kept, axis=1)
        fused = loss(self.tower.fuse(queries, asked), self.tower.fuse(items, kept), whole, both)
        return fused + (tf.add_n(alone) / len(alone) if alone else 0.0)

    def _both_ways(self, queries: tf.Tensor, items: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Returns the mean loss of queries that look for their products, and of products for their queries."""
        logits = tf.matmul(queries, items, transpose_b=True)
        if self.config.loss in ("softmax", "bpr"):
            logits *= tf.minimum(tf.exp(self.log_scale), 1 / _COLDEST)
        loss = LOSSES[self.config.loss]
        total = tf.reduce_sum(loss(logits, right) + loss(tf.transpose(logits), tf.transpose(right)))
        return tf.math.divide_no_nan(total, 2.0 * tf.cast(tf.shape(queries)[0], tf.float32))

    def _own(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, codes]` bool: only the product itself is right."""
        return tf.tile(tf.range(self.codes.shape[1])[tf.newaxis] == ROW, [tf.shape(rows)[0], 1])

    def _typed(self, rows: tf.Tensor, features: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns the features with phrases for some titles, and which codes a product must share for it to fit."""
        variant = tf.random.uniform(tf.shape(rows), 0, self.of_item.shape[1], tf.int32)
        phrase = tf.gather(tf.gather(self.of_item, rows), variant, batch_dims=1)
        replaced = ((phrase > 0) & self._chance(tf.shape(rows), self.config.phrase_share))[:, tf.newaxis]
        text = tf.where(replaced, tf.gather(self.typed, phrase), features[TEXT])
        titles = tf.range(self.codes.shape[1])[tf.newaxis] == TITLE
        pinned = tf.where(replaced, tf.gather(tf.gather(self.pinned, rows), variant, batch_dims=1), titles)
        return {**features, TEXT: text}, pinned

    def parts(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
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
    order = _orders(aligner, rows, seed=seed)
    first = next(order)
    size = min(config.batch_size, len(first))
    steps = max(1, len(first) // max(size, 1))
    optimizer = adamw(config, steps_per_epoch=steps, floor=0.02)
    optimizer.exclude_from_weight_decay(var_names=["bias", "past", "absent", "score", "log_scale"])
    aligner.compile(optimizer=optimizer)
    best = directory / "best.weights.h5"
    directory.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[float]] = {"loss": [], "validation mrr": []}
    with counter("aligning modalities", total=config.epochs) as advance:
        for epoch, drawn in zip(range(1, config.epochs + 1), itertools.chain([first], order)):
            data = tf.data.Dataset.from_tensor_slices(drawn).batch(size, drop_remainder=True)
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


def _orders(aligner: Aligner, rows: np.ndarray, *, seed: int) -> Iterator[np.ndarray]:
    """Yields the products of each epoch, int32: those with several modalities to ask with, and as many others at most.

    Where few products have pictures, most batches would have next to nothing to tell pictures by.
    """
    generator = np.random.default_rng(seed)
    several = aligner.content.askable[rows] > 1
    while True:
        full, others = rows[several], generator.permutation(rows[~several])
        if len(full):
            others = others[: len(full)]
        yield generator.permutation(np.concatenate([full, others])).astype(np.int32)


def validation_mrr(aligner: Aligner, rows: np.ndarray) -> float:
    """Returns the mean, over kinds of query, of 1 / the rank of the product among others with the other modality."""
    values = []
    for kind, index in aligner.pairs:
        content = aligner.content
        asked = rows[content.has(kind)[rows] & content.has(index)[rows]]
        others = np.setdiff1d(np.flatnonzero(content.has(index)), asked)
        others = np.random.default_rng(0).permutation(others)[: max(0, _RANKED - len(asked))]
        if len(asked):
            corpus = aligner.embed_rows(np.concatenate([asked, others]), only=(index,))
            ranks = own_ranks(aligner.embed_rows(asked, only=(kind,)), corpus, np.arange(len(asked)))
            values.append(float(np.mean(1 / ranks)))
    return float(np.mean(values)) if values else 0.0


def own_ranks(queries: np.ndarray, corpus: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns `[queries]`: the 1-based rank of each query's own row of the corpus; ties count against us."""
    scores = queries @ corpus.T
    own = scores[np.arange(len(rows)), rows]
    return (scores >= own[:, np.newaxis]).sum(axis=1)
