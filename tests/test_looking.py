"""The picture network learns from what products say of themselves: which weights move, by which loss, what is kept."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_finetuning import picture

from tfmm import finetuning, looking, stages
from tfmm.alignment import Aligner, AlignmentConfig
from tfmm.config import Config
from tfmm.content import IMAGE, TEXT, ContentConfig
from tfmm.encoders.efficientnet import block_names
from tfmm.encoders.image import ImageConfig, ImageEncoder
from tfmm.finetuning import FinetuneConfig
from tfmm.sources.dataset import Dataset, Interactions, Items, Media, Users
from tfmm.stages import Catalogue

pytestmark = pytest.mark.slow
PRODUCTS, MARKS = 96, ("flat", "upright", "falling", "rising")
CONFIG = Config(
    image=ImageConfig(size=64, weights="random"),
    text_encoder="none",
    content=ContentConfig(dim=16, width=16, directions=8),
    alignment=AlignmentConfig(epochs=3, batch_size=32),
    finetune=FinetuneConfig(blocks=2, epochs=4, batch_size=16, learning_rate=3e-3),
)
ROWS = np.array([10, 11, 12, 14], np.int32)  # marks 2, 3, 0, 2


def dataset() -> Dataset:
    """Returns a catalogue whose pictures show what its titles say: which way the marks lie."""
    ids = np.array([f"i{row}" for row in range(PRODUCTS)], object)
    titles = np.array([f"{MARKS[row % 4]} marks {chr(0x4E00 + row)}" for row in range(PRODUCTS)], object)
    pictures = Media(np.array([picture(row) for row in range(PRODUCTS)], object))
    launched = np.zeros(PRODUCTS, np.int64)
    items = Items(ids, titles, titles, pictures, Media.missing(PRODUCTS), launched)
    return Dataset("marks", items, Users(np.zeros(0, object)), Interactions.none())


@functools.cache
def frozen() -> tuple[Catalogue, Aligner]:
    """Returns the catalogue as the untuned network sees it, and a content tower; nobody tunes this network."""
    stages.set_seed(0)
    shop = stages.open_catalogue(CONFIG, dataset(), Path(tempfile.mkdtemp(prefix="marks-")))
    still = dataclasses.replace(CONFIG, finetune=FinetuneConfig())
    shop, aligner, _ = stages.align_catalogue(still, shop, directory=shop.records / "run")
    return shop, aligner


def batch():
    shop, _ = frozen()
    found = finetuning.pixel_batches(shop.encoders.image, shop.dataset.items.images, (ROWS,), batch_size=len(ROWS))
    return next(iter(found))


def test_the_loss_is_the_share_of_its_own_title_among_all_that_are_learned_from():
    shop, aligner = frozen()
    encoder, said = shop.encoders.image, aligner.embed_all(only=(TEXT,))
    learned = np.arange(8, 40)
    encoder.trainable_blocks(1)
    step = looking.train_step(encoder, aligner, said, learned, tf.keras.optimizers.SGD(0.0))
    seen = aligner.embed_rows(ROWS, only=(IMAGE,))
    logits = seen @ said[learned].T / aligner.temperature
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -logits[np.arange(len(ROWS)), ROWS - 8].mean()
    assert float(step(*batch())) == pytest.approx(expected, abs=0.02)  # the table that `seen` comes from is float16
    encoder.trainable_blocks(0)


def test_a_step_moves_the_opened_blocks_and_nothing_else():
    shop, aligner = frozen()
    encoder = ImageEncoder(CONFIG.image)
    encoder.trainable_blocks(1)
    last = block_names(encoder.network)[-1]
    before = {weight.name: weight.numpy() for weight in encoder.network.weights}
    tower = [weight.numpy() for weight in aligner.tower.weights]
    said = aligner.embed_all(only=(TEXT,))
    looking.train_step(encoder, aligner, said, np.arange(40), tf.keras.optimizers.Adam(1e-2))(*batch())
    moved = {w.name for w in encoder.network.weights if not np.array_equal(w.numpy(), before[w.name])}
    assert moved and all(name.startswith((last, "top_")) for name in moved)
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(tower, aligner.tower.weights))


def test_the_network_that_validation_likes_best_is_kept_and_a_finished_run_sees_as_it_does(tmp_path, monkeypatch):
    ranks = iter(range(9, 0, -1))  # each epoch is better than the one before it
    monkeypatch.setattr(looking, "own_ranks", lambda said, seen, rows: np.full(len(rows), next(ranks)))
    stages.set_seed(0)
    shop = stages.open_catalogue(CONFIG, dataset(), tmp_path / "records")
    run = tmp_path / "run"
    untuned = shop.table.vectors[IMAGE].copy()
    tuned, _, curves = stages.align_catalogue(CONFIG, shop, directory=run)
    losses = curves["finetuning"]["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert curves["finetuning"]["validation mrr"] == pytest.approx([1 / 8, 1 / 7, 1 / 6, 1 / 5])
    assert not np.array_equal(tuned.table.vectors[IMAGE], untuned)
    again = stages.finetuned(CONFIG, stages.open_catalogue(CONFIG, dataset(), tmp_path / "records"), directory=run)
    np.testing.assert_array_equal(again.table.vectors[IMAGE], tuned.table.vectors[IMAGE])
    vectors, _ = again.encoders.image.encode([picture(3)])
    np.testing.assert_allclose(vectors[0], tuned.table.vectors[IMAGE][3], rtol=0.01, atol=0.01)


def test_a_catalogue_without_pictures_cannot_be_tuned():
    bare = dataclasses.replace(dataset().items, images=Media.missing(PRODUCTS))
    catalogue = dataclasses.replace(dataset(), items=bare)
    shop = stages.open_catalogue(CONFIG, catalogue, Path(tempfile.mkdtemp(prefix="bare-")))
    with pytest.raises(ValueError, match=r"leave --finetune\.blocks at 0"):
        stages.align_catalogue(CONFIG, shop, directory=shop.records / "run")
