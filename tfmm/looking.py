"""Opens the picture network's last blocks for search: pixels -> where the words of their products stand.

`finetuning` learns from shoppers; this learns from the catalogue alone. The content tower, trained on the frozen
network's vectors, says where each product's text stands; the network learns to put its picture there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfmm.alignment import Aligner, own_ranks
from tfmm.content import IMAGE, TEXT
from tfmm.encoders.image import ImageEncoder
from tfmm.finetuning import Epochs, FinetuneConfig, Pictures, pixel_batches, restore
from tfmm.losses import shared_softmax_loss
from tfmm.phrases import TITLE
from tfmm.sources.dataset import Media

METRIC = "validation mrr"


def tune(
    encoder: ImageEncoder,
    aligner: Aligner,
    images: Media,
    config: FinetuneConfig,
    *,
    train: np.ndarray,
    validation: np.ndarray,
    directory: Path,
    logs: Path,
    seed: int = 0,
    resume: bool = False,
) -> dict[str, list[float]]:
    """Returns the curves, after `encoder` holds the weights of the best validation epoch; the untuned one is epoch 0.

    Args:
        encoder: to be tuned in place.
        aligner: trained on the vectors that the encoder made so far; it stays as it is.
        images: the products' pictures.
        config: how.
        train: rows that may be learned from.
        validation: rows that choose the epoch: each text has to find its picture among the others'.
        directory: of the checkpoints.
        logs: of TensorBoard.
        seed: of the order of pictures.
        resume: whether to go on from the checkpoints; otherwise they are overwritten.

    Raises:
        ValueError: no product has both a picture and a text.
    """
    has = aligner.content.has(IMAGE) & aligner.content.has(TEXT)
    learned, asked = train[has[train]], validation[has[validation]]
    if not len(learned) or not len(asked):
        raise ValueError(
            "Expected products with a picture and a text, to learn from and to validate with, got "
            f"{len(learned)} and {len(asked)}; leave --finetune.blocks at 0."
        )
    encoder.trainable_blocks(config.blocks)
    optimizer = tf.keras.optimizers.Adam(config.learning_rate, clipnorm=1.0)
    said = aligner.embed_all(only=(TEXT,))
    step = train_step(encoder, aligner, said, learned, optimizer)
    state = Epochs(encoder, optimizer, directory, resume=resume)

    def epoch(rng: np.random.Generator) -> float:
        rows = rng.permutation(learned).astype(np.int32)
        batches = pixel_batches(encoder, images, (rows,), batch_size=config.batch_size)
        return float(np.mean([float(step(*batch)) for batch in batches]))

    def value() -> float:
        raw, present = encoder.encode(Pictures(images, asked))
        seen = _embed(aligner, tf.constant(raw[present])).numpy()
        return float(np.mean(1 / own_ranks(said[asked[present]], seen, np.arange(len(seen)))))

    curves = state.run(config.epochs, epoch, value, metric=METRIC, logs=logs, seed=seed)
    restore(encoder, directory)
    encoder.trainable_blocks(0)
    return curves


def train_step(
    encoder: ImageEncoder,
    aligner: Aligner,
    said: np.ndarray,
    learned: np.ndarray,
    optimizer: tf.keras.optimizers.Optimizer,
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns a compiled step (pixels, rows) -> loss that moves the opened blocks alone.

    Each picture looks for its text among those of all that is learned from; those of the same title are right too.

    Args:
        encoder: with blocks opened.
        aligner: trained.
        said: `[num_items, dim]` of length 1, where texts stand.
        learned: rows.
        optimizer: of the blocks.
    """
    variables = encoder.network.trainable_variables
    optimizer.build(variables)
    titles, texts = tf.constant(aligner.phrases.codes[:, TITLE]), tf.constant(said[learned])
    their_titles, temperature = tf.gather(titles, learned), aligner.temperature

    @tf.function(reduce_retracing=True)
    def step(pixels: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            seen = _embed(aligner, encoder.network(pixels, training=False))
            logits = tf.matmul(seen / temperature, texts, transpose_b=True)
            right = tf.gather(titles, rows)[:, tf.newaxis] == their_titles
            loss = tf.reduce_mean(shared_softmax_loss(logits, right))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    return step


def _embed(aligner: Aligner, raw: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, dim]` of length 1 of pictures, given the network's vectors of them."""
    batch = tf.shape(raw)[0]
    features = {name: tf.zeros([batch, column.shape[1]]) for name, column in aligner.columns.items()}
    features[IMAGE] = aligner.views(IMAGE, {IMAGE: raw})
    present = tf.tile(tf.constant([[name == IMAGE for name in aligner.modalities]]), [batch, 1])
    return aligner.tower(features, present)
