"""Trains the two towers, and answers with them in memory."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfmm import losses, metrics, relevance
from tfmm.encoders.attributes import AttributeVocabulary
from tfmm.features import ItemFeatures
from tfmm.progress import counter
from tfmm.ragged import Ragged
from tfmm.splits import Queries
from tfmm.towers import TowerConfig, Towers, look_up, unit

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """How the towers are trained.

    Attributes:
        epochs: at most.
        patience: epochs without a better validation NDCG@10 before training stops.
        batch_size: windows of shoppers' sequences a step.
        learning_rate: of AdamW, after a warm-up over the first epoch.
        weight_decay: of AdamW.
        temperature: logits are cosines divided by it.
        full_softmax_up_to: a corpus of up to this many items is its own set of negatives; above it they are sampled.
        uniform_negatives: drawn a step beside the in-batch ones, when sampling.
        id_start: what ids begin from: "random", or "spectral" (near what the same shoppers had), which a transformer
            over a sparse shop reaches only after many epochs.
    """

    epochs: int = 12
    patience: int = 3
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    temperature: float = 0.1
    full_softmax_up_to: int = 20_000
    uniform_negatives: int = 2_048
    id_start: str = "random"

    def __post_init__(self) -> None:
        if self.id_start not in ("random", "spectral"):
            raise ValueError(f"Expected retrieval.id_start to be random or spectral, got {self.id_start!r}.")
        for name in ("epochs", "patience", "batch_size", "learning_rate", "temperature", "uniform_negatives"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected retrieval.{name} > 0, got {getattr(self, name)}.")


class Retriever(tfrs.Model):
    """Both towers over one catalogue; the training model, of which only the towers are exported."""

    def __init__(
        self,
        towers: TowerConfig,
        config: RetrievalConfig,
        *,
        items: ItemFeatures,
        context: AttributeVocabulary,
        num_events: int,
        frequency: np.ndarray,
        launched: Optional[np.ndarray] = None,
        until: int = 0,
    ) -> None:
        """Makes the towers, untrained.

        Args:
            towers: their shape.
            config: their training.
            items: the catalogue.
            context: vocabulary of the shoppers' context.
            num_events: how many kinds of event there are.
            frequency: `[num_items]`, how often each is a target in training: what logQ corrects for when sampling.
            launched: `[num_items]` int64 seconds, 0 = unknown; before it, nobody can want an item. None = all unknown.
            until: the time of the newest training event.
        """
        super().__init__()
        self.config, self.num_items = config, items.num_items
        self.read(items)
        self.towers = Towers(towers, items, context=context, num_events=num_events)
        self.probability = tf.constant(frequency / max(frequency.sum(), 1), tf.float32)
        self.launched = np.zeros(items.num_items, np.int64) if launched is None else launched
        on_sale = np.flatnonzero((self.launched <= until) | (frequency > 0))
        self.on_sale = tf.constant(on_sale, tf.int32)  # what could be had: the negatives
        places = np.full(items.num_items, -1, np.int32)
        places[on_sale] = np.arange(len(on_sale))
        self.place_of = tf.constant(places)
        self.mean_loss = tf.keras.metrics.Mean(name="loss")
        self.sparse_optimizer = tf.keras.optimizers.Adagrad(config.learning_rate * 10)
        self._build()

    def _build(self) -> None:
        """Makes every weight, so that checkpoints can be read before the first step."""
        table = self.item_vectors(tf.constant([0, self.num_items]))
        rows = tf.zeros([1, 1], tf.int32)
        self.towers.embed_queries(
            table, rows, tf.cast(rows, tf.int64), rows, tf.constant([[""]]), tf.constant([0], tf.int64)
        )

    def read(self, items: ItemFeatures) -> None:
        """Has the towers see the catalogue as these features, of the same shapes, say it is."""
        self.items, self.columns = items, _tensors(items)

    def item_vectors(self, rows: tf.Tensor, *, training: bool = False) -> tf.Tensor:
        """Returns `[batch, dim]` for item rows, not of length 1; row `num_items` is an item without anything."""
        batch = {name: tf.gather(column, rows) for name, column in self.columns.items()}
        return self.towers.candidate(batch, training=training)

    def corpus_vectors(
        self, *, training: bool = False, hidden: tuple[str, ...] = (), of: Optional[np.ndarray] = None
    ) -> tf.Tensor:
        """Returns `[num_items, dim]`, as if the `hidden` modalities were missing.

        Args:
            training: whether dropout is on.
            hidden: modalities.
            of: `[num_items]` bool: the items that lack them; None = all.
        """
        columns = _tensors(self.items.without(hidden, of)) if hidden else self.columns
        return self.towers.candidate({name: column[:-1] for name, column in columns.items()}, training=training)

    def compute_loss(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Returns the mean loss over every position of every window that has a new item to predict.

        Negatives are items that could be had. Those that were launched later would be pushed away from everybody, with
        their content, and stay cold. Against all of them, a shopper's other positives stay in the denominator; sampled
        negatives are corrected by logQ, and the shopper's known positives are masked.

        Args:
            batch: as `pipelines.sequence_batches` gives it.
            training: whether dropout is on.
        """
        if self.sampled:
            return self._sampled_loss(batch, training)
        corpus, items = self.item_vectors(self.on_sale, training=training), batch["items"]
        places = tf.where(items >= 0, tf.gather(self.place_of, tf.maximum(items, 0)), -1)
        queries, targets, _ = self._positions(batch, look_up(corpus, places), training, answers=places)
        return losses.corpus_softmax_loss(unit(queries) / self.config.temperature, unit(corpus), targets)

    @property
    def sampled(self) -> bool:
        """Whether the corpus is too large to be its own set of negatives."""
        return self.num_items > self.config.full_softmax_up_to

    def _sampled_loss(self, batch: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Returns the loss against in-batch and uniform negatives, each once, corrected by logQ."""
        items = batch["items"]
        places = tf.where(items >= 0)
        in_batch = tf.gather_nd(items, places)
        drawn = tf.random.uniform([self.config.uniform_negatives], 0, tf.size(self.on_sale), tf.int32)
        uniform = tf.gather(self.on_sale, drawn)
        rows, index = tf.unique(tf.concat([in_batch, uniform], axis=0))
        vectors = self.item_vectors(rows, training=training)
        columns = tf.tensor_scatter_nd_update(tf.fill(tf.shape(items), -1), places, index[: tf.size(in_batch)])
        queries, targets, window = self._positions(batch, look_up(vectors, columns), training, answers=columns)
        logits = tf.matmul(unit(queries) / self.config.temperature, unit(vectors), transpose_b=True)
        logits -= losses.log_inclusion(
            tf.gather(self.probability, rows),
            num_sampled=tf.size(in_batch),
            num_uniform=self.config.uniform_negatives,
            num_items=self.on_sale.shape[0],
        )
        negative = ~tf.gather(known_columns(batch["known"], rows), window)
        return tf.reduce_mean(losses.softmax_loss(logits, targets, where=negative))

    def _positions(
        self, batch: Mapping[str, tf.Tensor], vectors: tf.Tensor, training: bool, *, answers: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns queries `[n, dim]`, answers `[n]` and windows `[n]` of all positions that predict a new item."""
        items = batch["items"]
        context = self.towers.context_ids(batch["context"])
        times = batch["times"]
        asked = tf.concat([times, tf.zeros_like(times[:, :1])], axis=1)  # each item is asked for when it comes
        queries = self.towers.query(vectors, items >= 0, times, batch["events"], context, asked, training=training)
        where = tf.where((items >= 0) & ~_seen_before(items))
        return tf.gather_nd(queries, where), tf.gather_nd(items if answers is None else answers, where), where[:, 0]

    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the epoch's mean loss so far; a sampled id table is updated sparsely."""
        with tf.GradientTape() as tape:
            loss = self.compute_loss(batch, training=True)
        variables = self.trainable_variables
        pairs = list(zip(tape.gradient(loss, variables), variables))
        table = self.towers.candidate.ids.embeddings if self.sampled else None
        self.optimizer.apply_gradients([(g, v) for g, v in pairs if v is not table])
        if table is not None:
            self.sparse_optimizer.apply_gradients([(g, v) for g, v in pairs if v is table])
        self.mean_loss.update_state(loss)
        return {"loss": self.mean_loss.result()}

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """What Keras resets as each epoch begins."""
        return [self.mean_loss]


def _tensors(items: ItemFeatures) -> dict[str, tf.Tensor]:
    return {name: tf.constant(column) for name, column in items.seen().items()}


def score_queries(
    retriever: Retriever,
    queries: Queries,
    context: Ragged,
    *,
    hidden: tuple[str, ...] = (),
    of: Optional[np.ndarray] = None,
    batch_size: int = 256,
) -> Iterator[tuple[Queries, np.ndarray]]:
    """Yields chunks of the queries with their scores of the whole corpus, `[chunk, num_items]`.

    What was not launched when a query was asked has -inf.

    Args:
        retriever: trained.
        queries: whom to answer.
        context: "field=value" of every user, one row a user.
        hidden: modalities to take away.
        of: `[num_items]` bool: from these items; None = from all.
        batch_size: queries a chunk.
    """
    table = retriever.corpus_vectors(hidden=hidden, of=of)
    corpus = unit(table)
    for start in range(0, len(queries), batch_size):
        chunk = queries.take(np.arange(start, min(start + batch_size, len(queries))))
        dense = dense_queries(chunk, context, max_length=retriever.towers.config.max_length)
        vectors = retriever.towers.embed_queries(table, *(tf.constant(column) for column in dense))
        scores = tf.matmul(vectors, corpus, transpose_b=True).numpy()
        scores[chunk.before_launch(retriever.launched)] = -np.inf
        yield chunk, scores


def dense_queries(queries: Queries, context: Ragged, *, max_length: int) -> tuple[np.ndarray, ...]:
    """Returns items, times, events, context terms, padded, of each query's newest `max_length` events, and its time."""
    terms = context.take(queries.user)
    return (
        queries.history.to_dense(max_length).astype(np.int32),
        queries.times.to_dense(max_length, fill=0),
        queries.events.to_dense(max_length, fill=0).astype(np.int32),
        terms.to_dense(fill="").astype(object) if len(terms.values) else np.full((len(queries), 0), "", object),
        queries.time,
    )


def ndcg(
    retriever: Retriever, queries: Queries, context: Ragged, *, k: int = 10, hidden: tuple[str, ...] = ()
) -> float:
    """Returns the exact mean NDCG@k over the queries, items of the history excluded."""
    values = []
    for chunk, scores in score_queries(retriever, queries, context, hidden=hidden):
        ranks = relevance.pessimistic_ranks(scores, chunk.targets, excluded=chunk.history)
        found = relevance.relevance_from_ranks(ranks, k=k)
        values.append(metrics.ndcg(found, chunk.targets.lengths, k=k))
    return float(np.nanmean(np.concatenate(values)))


def fit(
    retriever: Retriever,
    data: tf.data.Dataset,
    *,
    validation: Queries,
    context: Ragged,
    directory: Path,
    logs: Path,
    resume: bool = False,
) -> dict[str, list[float]]:
    """Returns the training curves, after `retriever` holds the weights of its best validation epoch.

    Every epoch leaves a checkpoint, so that `resume` goes on after the last whole one.

    Args:
        retriever: to be trained in place.
        data: of `pipelines.sequence_batches`.
        validation: queries that choose the epoch, by NDCG@10.
        context: "field=value" of every user, one row a user.
        directory: of the checkpoints.
        logs: of TensorBoard.
        resume: whether to go on from them; otherwise they are overwritten.
    """
    config = retriever.config
    batches = data.apply(tf.data.experimental.assert_cardinality(sum(1 for _ in data)))
    retriever.compile(optimizer=adamw(config, steps_per_epoch=len(batches), floor=0.1))
    state = _Training(retriever, directory, resume=resume)
    with counter("training the retriever", total=config.epochs) as advance:
        advance(len(state.curves["loss"]))
        while len(state.curves["loss"]) < config.epochs and state.epochs_without_gain < config.patience:
            loss = retriever.fit(batches, epochs=1, verbose=0).history["loss"][-1]
            value = ndcg(retriever, validation, context)
            state.record(loss, value)
            log_scalars(logs, {"loss": loss, "validation ndcg@10": value}, epoch=len(state.curves["loss"]))
            advance(1)
    state.restore_best()
    return state.curves


def log_scalars(directory: Path, values: Mapping[str, float], *, epoch: int) -> None:
    """Adds the values to TensorBoard's logs in `directory`."""
    writer = tf.summary.create_file_writer(str(directory))
    with writer.as_default(step=epoch):
        for name, value in values.items():
            tf.summary.scalar(name, value)
    writer.close()


class _Training:
    """What a training run remembers between epochs, on disk."""

    def __init__(self, retriever: Retriever, directory: Path, *, resume: bool) -> None:
        self.curves: dict[str, list[float]] = {"loss": [], "validation ndcg@10": []}
        self._losses = tf.Variable([0.0] * 0, shape=[None], dtype=tf.float32, trainable=False)
        self._values = tf.Variable([0.0] * 0, shape=[None], dtype=tf.float32, trainable=False)
        weights = {"towers": retriever.towers}
        optimizers = {"optimizer": retriever.optimizer, "sparse": retriever.sparse_optimizer}
        curves = {"losses": self._losses, "values": self._values}
        last = tf.train.Checkpoint(**weights, **optimizers, **curves)
        self._last = tf.train.CheckpointManager(last, str(directory / "last"), max_to_keep=1)
        self._best = tf.train.CheckpointManager(tf.train.Checkpoint(**weights), str(directory / "best"), max_to_keep=1)
        if resume and self._last.latest_checkpoint:
            last.restore(self._last.latest_checkpoint).expect_partial()
            self.curves = {"loss": self._losses.numpy().tolist(), "validation ndcg@10": self._values.numpy().tolist()}
            _log.info("Going on after epoch %d from %s.", len(self.curves["loss"]), self._last.latest_checkpoint)

    @property
    def epochs_without_gain(self) -> int:
        values = self.curves["validation ndcg@10"]
        return len(values) - 1 - int(np.argmax(values)) if values else 0

    def record(self, loss: float, value: float) -> None:
        """Keeps the epoch's weights, and as the best where it is."""
        self.curves["loss"].append(float(loss))
        self.curves["validation ndcg@10"].append(value)
        if self.epochs_without_gain == 0:
            self._best.save()
        self._losses.assign(self.curves["loss"])
        self._values.assign(self.curves["validation ndcg@10"])
        self._last.save()
        _log.info("epoch %d: loss %.4f, validation ndcg@10 %.4f", len(self.curves["loss"]), loss, value)

    def restore_best(self) -> None:
        """Puts the best epoch's weights back."""
        self._best.checkpoint.restore(self._best.latest_checkpoint).expect_partial()


class Schedule(Protocol):
    """The part of a training's settings that an optimizer reads."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def weight_decay(self) -> float: ...

    @property
    def epochs(self) -> int: ...


def adamw(config: Schedule, *, steps_per_epoch: int, floor: float) -> tf.keras.optimizers.Optimizer:
    """Returns AdamW whose rate rises over the first epoch, then falls by a cosine to `floor` times its highest."""
    schedule = tf.keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=max(1, (config.epochs - 1) * steps_per_epoch),
        alpha=floor,
        warmup_target=config.learning_rate,
        warmup_steps=steps_per_epoch,
    )
    return tf.keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, clipnorm=1.0)


def _seen_before(items: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, length]` bool: True where the same item stands earlier in the window."""
    same = items[:, :, tf.newaxis] == items[:, tf.newaxis, :]
    position = tf.range(tf.shape(items)[1])
    return tf.reduce_any(same & (position[:, tf.newaxis] > position), axis=-1)


def known_columns(known: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, candidates]` bool: whether `known` `[batch, n]` (-1 = padding) has the item of each column.

    Its cost does not grow with the catalogue.

    Args:
        known: int32 item rows of each window.
        rows: `[candidates]` int32, distinct item rows.
    """
    order = tf.argsort(rows)
    ordered = tf.gather(rows, order)
    places = tf.where(known >= 0)
    item = tf.gather_nd(known, places)
    at = tf.minimum(tf.searchsorted(ordered, item), tf.size(rows) - 1)
    hit = tf.gather(ordered, at) == item
    window = tf.cast(tf.boolean_mask(places[:, 0], hit), tf.int32)
    indices = tf.stack([window, tf.gather(order, tf.boolean_mask(at, hit))], axis=1)
    shape = tf.stack([tf.shape(known)[0], tf.size(rows)])
    return tf.scatter_nd(indices, tf.ones(tf.shape(indices)[:1], tf.int32), shape) > 0
