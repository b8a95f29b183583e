"""Opens the last blocks of the image network, and trains them on what shoppers wanted next.

Elsewhere pictures are vectors, made once. Here each step decodes the pictures of a batch of items, and the gradient of
the retrieval loss goes through the candidate tower into the network's opened blocks.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfmm import losses
from tfmm.encoders import pictures
from tfmm.encoders.image import ImageEncoder
from tfmm.features import ID, PRESENT, ItemFeatures
from tfmm.progress import counter
from tfmm.ragged import Ragged
from tfmm.retrieval import Retriever, dense_queries, known_columns, log_scalars, ndcg
from tfmm.sources.dataset import Interactions, Media
from tfmm.splits import Queries
from tfmm.towers import unit

IMAGE = "image"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """How the image network is tuned.

    Attributes:
        blocks: the network's last blocks that are opened; 0 = none, it stays as it was pretrained.
        epochs: times that each picture is looked at.
        batch_size: pictures a step; each item of a batch is a negative of the others.
        learning_rate: of Adam, for the opened blocks and the picture's way into the shared space.
        id_dropout: how often an item's id is hidden, so that its content has to answer.
        tower_epochs: how long the towers then train on with the tuned pictures.
    """

    blocks: int = 0
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 1e-4
    id_dropout: float = 0.5
    tower_epochs: int = 4

    def __post_init__(self) -> None:
        for name, least in (("blocks", 0), ("epochs", 1), ("batch_size", 2), ("tower_epochs", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"Expected finetune.{name} >= {least}, got {getattr(self, name)}.")
        if self.learning_rate <= 0:
            raise ValueError(f"Expected finetune.learning_rate > 0, got {self.learning_rate}.")
        if not 0 <= self.id_dropout <= 1:
            raise ValueError(f"Expected finetune.id_dropout between 0 and 1, got {self.id_dropout}.")


@dataclasses.dataclass(frozen=True)
class Lessons:
    """What the network learns from, and what it is chosen by.

    Attributes:
        images: the items' pictures.
        events: that the towers were trained on.
        validation: queries that choose the epoch, by NDCG@10.
        context: "field=value" of every user, one row a user.
    """

    images: Media
    events: Interactions
    validation: Queries
    context: Ragged


def finetune(
    encoder: ImageEncoder,
    retriever: Retriever,
    items: ItemFeatures,
    lessons: Lessons,
    config: FinetuneConfig,
    *,
    directory: Path,
    logs: Path,
    seed: int = 0,
    resume: bool = False,
) -> dict[str, list[float]]:
    """Returns the curves, after `encoder` and `retriever` hold the weights of the best validation epoch.

    The untuned network is epoch 0, so that validation never ends lower than it began. Of the towers, only the picture's
    projection is trained. Every epoch leaves a checkpoint, so that `resume` goes on after the last whole one.

    Args:
        encoder: to be tuned in place.
        retriever: its towers, trained on the frozen network's vectors; on return it sees the items as `encoder` does.
        items: the columns that they were trained on; pictures stay reduced as `items.reductions` says.
        lessons: what is learned from.
        config: how.
        directory: of the checkpoints.
        logs: of TensorBoard.
        seed: of the order of pictures, and of the choice of queries.
        resume: whether to go on from the checkpoints; otherwise they are overwritten.

    Raises:
        ValueError: no picture belongs to an item that anybody went on to.
    """
    pictured = np.flatnonzero(items.columns[PRESENT][:-1, items.modalities.index(IMAGE)])
    asked = _askable(lessons.events, pictured, num_items=items.num_items)
    optimizer = tf.keras.optimizers.Adam(config.learning_rate, clipnorm=1.0)
    encoder.trainable_blocks(config.blocks)
    step = train_step(encoder, retriever, items, lessons.events, config, optimizer)
    state = Epochs(encoder, optimizer, directory, resume=resume, towers=retriever.towers)
    if 1 < len(state.values) <= config.epochs:
        _see(retriever, items, encoder, lessons.images, pictured)

    def value() -> float:
        sound = not state.values or _see(retriever, items, encoder, lessons.images, pictured)
        return ndcg(retriever, lessons.validation, lessons.context) if sound else 0.0

    def epoch(rng: np.random.Generator) -> float:
        return _epoch(step, encoder, retriever, lessons, asked, config, rng=rng)

    curves = state.run(config.epochs, epoch, value, metric="validation ndcg@10", logs=logs, seed=seed)
    restore(encoder, directory, towers=retriever.towers)
    retriever.read(items)
    if state.best > 0:
        _see(retriever, items, encoder, lessons.images, pictured)
    encoder.trainable_blocks(0)
    return curves


def restore(encoder: ImageEncoder, directory: Path, **beside: tf.Module) -> None:
    """Gives the encoder, and what was trained beside it, the weights of the best epoch in the checkpoints.

    Raises:
        FileNotFoundError: there are none.
    """
    path = tf.train.latest_checkpoint(str(directory / "best"))
    if path is None:
        raise FileNotFoundError(f"Expected the tuned image network in {directory / 'best'}, found no checkpoint there.")
    tf.train.Checkpoint(encoder=encoder, **beside).restore(path).expect_partial()


Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""(pixels `[batch, size, size, 3]`, item rows `[batch]`, user rows `[batch]`, queries `[batch, dim]`) -> loss."""


def train_step(
    encoder: ImageEncoder,
    retriever: Retriever,
    items: ItemFeatures,
    events: Interactions,
    config: FinetuneConfig,
    optimizer: tf.keras.optimizers.Optimizer,
) -> Step:
    """Returns a compiled step that moves what `encoder.trainable_blocks` opened, and the picture's projection.

    Items are drawn evenly, whereas the towers score log p(item | query). Given one query of each item, the chance that
    query q is item i's is proportional to p(q | i), and that to p(i | q) / p(i): so log p(i) is taken off the logits,
    which is the logQ correction. Other items that the query's shopper is known to have are no negatives.
    """
    projection = retriever.towers.candidate.projections[IMAGE]
    variables = [*encoder.network.trainable_variables, *projection.trainable_variables]
    optimizer.build(variables)
    users = int(events.user.max()) + 1
    by_user = Ragged.from_groups(events.user, events.item, users)
    known = tf.RaggedTensor.from_row_splits(tf.constant(by_user.values, tf.int32), by_user.offsets)
    counts = np.bincount(events.item, minlength=items.num_items)
    log_share = tf.constant(np.log(np.maximum(counts, 1) / max(counts.sum(), 1)), tf.float32)

    @tf.function(reduce_retracing=True)
    def step(pixels: tf.Tensor, rows: tf.Tensor, users: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            vectors = item_vectors(encoder, retriever, items, pixels, rows, id_dropout=config.id_dropout)
            logits = tf.matmul(queries / retriever.config.temperature, unit(vectors), transpose_b=True)
            logits -= tf.gather(log_share, rows)
            negative = ~known_columns(tf.gather(known, users).to_tensor(-1), rows)
            loss = tf.reduce_mean(losses.softmax_loss(logits, tf.range(tf.size(rows)), where=negative))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    return step


def item_vectors(
    encoder: ImageEncoder,
    retriever: Retriever,
    items: ItemFeatures,
    pixels: tf.Tensor,
    rows: tf.Tensor,
    *,
    id_dropout: float = 0.0,
) -> tf.Tensor:
    """Returns the candidate tower's `[batch, dim]` of items as their pixels look now, not of length 1.

    Batch normalisation and dropout are as in serving.

    Args:
        encoder: the network.
        retriever: the tower, and the items' other columns.
        items: how pictures are reduced.
        pixels: float32 0..255 `[batch, size, size, 3]`.
        rows: `[batch]` int32 item rows, all with a picture.
        id_dropout: how often an id is hidden.
    """
    features = {name: tf.gather(column, rows) for name, column in retriever.columns.items()}
    reduction = items.reductions[IMAGE]
    raw = encoder.network(pixels, training=False)
    features[IMAGE] = tf.matmul(raw - reduction.mean, tf.constant(reduction.components))
    is_id = tf.constant([name == ID for name in items.modalities])
    hidden = tf.random.uniform([tf.size(rows), 1]) < id_dropout
    features[PRESENT] &= ~(hidden & is_id)
    vectors: tf.Tensor = retriever.towers.candidate(features, training=False)
    return vectors


def pixel_batches(
    encoder: ImageEncoder, images: Media, examples: Sequence[np.ndarray], *, batch_size: int
) -> tf.data.Dataset:
    """Returns batches of (pixels, *examples), decoded in parallel while the last one trains.

    A picture that the graph cannot decode is left out, with a warning.

    Args:
        encoder: whose size and decoding.
        images: of all items.
        examples: item rows `[n]`, and whatever else goes with each, in the order wanted.
        batch_size: at most.
    """

    def read() -> Iterator[tuple[Any, ...]]:
        for row, *others in zip(*examples):
            try:
                yield pictures.for_graph(images.read(row)), row, *others
            except (OSError, pictures.UnreadablePicture) as error:
                _log.warning("The picture of item row %d is left out: %s", row, error)

    columns = [tf.TensorSpec(column.shape[1:], column.dtype) for column in examples]
    signature = (tf.TensorSpec([], tf.string), *columns)
    data = tf.data.Dataset.from_generator(read, output_signature=signature)
    data = data.map(
        lambda content, *others: (encoder.decode(content[tf.newaxis])[0], *others), num_parallel_calls=tf.data.AUTOTUNE
    )
    return data.ignore_errors(log_warning=True).batch(batch_size).prefetch(2)


def _epoch(
    step: Step,
    encoder: ImageEncoder,
    retriever: Retriever,
    lessons: Lessons,
    asked: Ragged,
    config: FinetuneConfig,
    *,
    rng: np.random.Generator,
) -> float:
    """Returns the mean loss of one look at every picture, each asked for by a shopper drawn at random."""
    rows = rng.permutation(np.flatnonzero(asked.lengths)).astype(np.int32)
    drawn = rng.integers(0, asked.lengths[rows])
    queries = queries_before(lessons.events, asked.values[asked.offsets[rows] + drawn], retriever)
    examples = (rows, queries.user.astype(np.int32), _query_vectors(retriever, queries, lessons.context))
    seen = [
        float(step(*batch)) * len(batch[1])
        for batch in pixel_batches(encoder, lessons.images, examples, batch_size=config.batch_size)
    ]
    return sum(seen) / len(rows)


def _askable(events: Interactions, pictured: np.ndarray, *, num_items: int) -> Ragged:
    """Returns, for each item, the events at which a shopper with a history first had it; none without a picture.

    Raises:
        ValueError: there is no such event.
    """
    at = np.arange(len(events))
    _, first = np.unique(np.stack([events.user, events.item]), axis=1, return_index=True)
    is_new = np.isin(at, first) & (at > np.searchsorted(events.user, events.user))
    at = at[is_new & np.isin(events.item, pictured)]
    if not len(at):
        raise ValueError(
            "Expected training events after which a shopper went on to an item with a picture, got none; leave "
            "--finetune.blocks at 0."
        )
    return Ragged.from_groups(events.item[at], at, num_items)


def queries_before(events: Interactions, at: np.ndarray, retriever: Retriever) -> Queries:
    """Returns, for each of the events `at`, the query of its shopper just before it, answered by its item."""
    start = np.maximum(np.searchsorted(events.user, events.user[at]), at - retriever.towers.config.max_length)
    offsets = np.concatenate([[0], np.cumsum(at - start)])
    before = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], at - start)
    history, times, kinds = (Ragged(column[before], offsets) for column in (events.item, events.time, events.event))
    targets = Ragged(events.item[at], np.arange(len(at) + 1))
    return Queries(events.user[at], history, times, kinds, targets, events.time[at])


def _query_vectors(retriever: Retriever, queries: Queries, context: Ragged, *, batch_size: int = 256) -> np.ndarray:
    """Returns `[num_queries, dim]` of length 1, by the towers as they are: no gradient goes this way."""
    table = retriever.corpus_vectors()
    found = []
    for start in range(0, len(queries), batch_size):
        chunk = queries.take(np.arange(start, min(start + batch_size, len(queries))))
        dense = dense_queries(chunk, context, max_length=retriever.towers.config.max_length)
        found.append(retriever.towers.embed_queries(table, *(tf.constant(column) for column in dense)).numpy())
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True)
class Pictures(Sequence):
    """Pictures of some rows, read one by one when asked for."""

    images: Media
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> bytes:
        return self.images.read(self.rows[index])


def _see(retriever: Retriever, items: ItemFeatures, encoder: ImageEncoder, images: Media, pictured: np.ndarray) -> bool:
    """Gives the retriever the pictures' vectors as the network makes them now, and as the records will hold them.

    Returns whether there are any such: a network that has diverged makes vectors that float16 cannot hold.
    """
    vectors, present = encoder.encode(Pictures(images, pictured))
    with np.errstate(over="ignore"):
        halves = vectors[present].astype(np.float16)
    column = items.columns[IMAGE].copy()
    column[pictured[present]] = items.reductions[IMAGE](halves)
    retriever.read(dataclasses.replace(items, columns={**items.columns, IMAGE: column}))
    if not np.isfinite(retriever.corpus_vectors()).all():
        _log.warning("The network has diverged; lower --finetune.learning_rate.")
        return False
    return True


class Epochs:
    """What tuning remembers between epochs, on disk; epoch 0 is the untuned network."""

    def __init__(
        self,
        encoder: ImageEncoder,
        optimizer: tf.keras.optimizers.Optimizer,
        directory: Path,
        *,
        resume: bool,
        **beside: tf.Module,
    ) -> None:
        self._held = [tf.Variable([0.0] * 0, shape=[None], dtype=tf.float32, trainable=False) for _ in range(2)]
        self.losses: list[float] = []
        self.values: list[float] = []
        weights = {"encoder": encoder, **beside}
        last = tf.train.Checkpoint(**weights, optimizer=optimizer, losses=self._held[0], values=self._held[1])
        self._last = tf.train.CheckpointManager(last, str(directory / "last"), max_to_keep=1)
        self._best = tf.train.CheckpointManager(tf.train.Checkpoint(**weights), str(directory / "best"), max_to_keep=1)
        if resume and self._last.latest_checkpoint:
            last.restore(self._last.latest_checkpoint).expect_partial()
            self.losses, self.values = (held.numpy().tolist() for held in self._held)
            _log.info("Going on after epoch %d from %s.", len(self.values) - 1, self._last.latest_checkpoint)

    def run(
        self,
        epochs: int,
        epoch: Callable[[np.random.Generator], float],
        value: Callable[[], float],
        *,
        metric: str,
        logs: Path,
        seed: int,
    ) -> dict[str, list[float]]:
        """Returns the curves, after as many epochs.

        Args:
            epochs: in all, those of a run before this one included.
            epoch: looks at every picture once; returns the mean loss.
            value: what validation says of the network as it is now.
            metric: its name.
            logs: of TensorBoard.
            seed: of the order of pictures.
        """
        if not self.values:
            self._record(float("nan"), value())
        with counter("fine-tuning pictures", total=epochs) as advance:
            advance(len(self.values) - 1)
            for number in range(len(self.values), epochs + 1):
                loss = epoch(np.random.default_rng([seed, number]))
                self._record(loss, value())
                log_scalars(logs, {"loss": loss, metric: self.values[-1]}, epoch=number)
                _log.info("epoch %d: loss %.4f, %s %.4f", number, loss, metric, self.values[-1])
                advance(1)
        _log.info("fine-tuning: %s %.4f -> %.4f", metric, self.values[0], self.values[self.best])
        return {"loss": self.losses[1:], metric: self.values[1:]}

    @property
    def best(self) -> int:
        """The epoch that validation likes best."""
        return int(np.argmax(self.values))

    def _record(self, loss: float, value: float) -> None:
        """Keeps the epoch's weights, and as the best where it is."""
        self.losses.append(loss)
        self.values.append(value)
        if self.best == len(self.values) - 1:
            self._best.save()
        for held, column in zip(self._held, (self.losses, self.values)):
            held.assign(column)
        self._last.save()
