"""Tuning the picture network: which weights move, by which loss, and what is kept.

In this shop pictures alone say of which group an item is, by how the marks on a ground of any colour lie; shoppers
never leave their group. The network's weights are random, so that what it sees untuned is mostly the ground.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import shops
import tensorflow as tf
from PIL import Image

from tfmm import finetuning, retrieval, stages
from tfmm.config import Config, parse
from tfmm.encoders.efficientnet import block_names
from tfmm.encoders.image import ImageConfig, ImageEncoder
from tfmm.evaluation import Baseline
from tfmm.features import ID
from tfmm.finetuning import FinetuneConfig, Lessons
from tfmm.reranking import ListwiseScorer
from tfmm.retrieval import RetrievalConfig
from tfmm.service import Service
from tfmm.sources.dataset import Dataset, Interactions, Items, Media, Users
from tfmm.stages import Shop
from tfmm.towers import TowerConfig

GROUPS, ITEMS, USERS, SIDE = 4, 32, 60, 64
BARE = 5  # the one item without a picture
FORMATS = {6: "WEBP", 7: "GIF", 8: "BMP"}  # the others are PNG
CONFIG = Config(
    towers=TowerConfig(dim=16, max_length=6),
    retrieval=RetrievalConfig(epochs=3, batch_size=16),
    finetune=FinetuneConfig(blocks=2, epochs=8, batch_size=8, learning_rate=1e-3, tower_epochs=1),
    image=ImageConfig(size=SIDE, weights="random"),
    text_encoder="none",
)


def picture(row: int) -> bytes:
    """Returns a picture whose marks are flat, upright, falling or rising, as the item's group is."""
    rng = np.random.default_rng(row)
    falling = np.eye(8, dtype=bool) | np.eye(8, k=1, dtype=bool)
    flat = np.zeros((8, 8), bool)
    flat[3:5] = True
    mark = (flat, flat.T, falling, falling[::-1])[row % GROUPS]
    pixels = np.tile(rng.integers(60, 196, 3), (SIDE, SIDE, 1))
    pixels[np.tile(mark, (8, 8))] += 60 * rng.choice([-1, 1])
    file, kind = io.BytesIO(), FORMATS.get(row, "PNG")
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    ids = np.array([f"i{row}" for row in range(ITEMS)], object)
    sources = np.array([None if row == BARE else picture(row) for row in range(ITEMS)], object)
    blank = np.full(ITEMS, "", object)
    items = Items(ids, blank, ids, Media(sources), Media.missing(ITEMS), np.zeros(ITEMS, np.int64))
    bought = np.concatenate([rng.permutation(np.arange(user % GROUPS, ITEMS, GROUPS))[:7] for user in range(USERS)])
    events = Interactions.ordered(
        user=np.repeat(np.arange(USERS), 7),
        item=bought,
        time=shops.START + rng.integers(0, 90 * shops.DAY, 7 * USERS),
        event=np.zeros(7 * USERS),
        value=np.ones(7 * USERS),
    )
    return Dataset("marks", items, Users(np.array([f"u{user}" for user in range(USERS)], object)), events)


@functools.cache
def frozen() -> Shop:
    """Returns the shop as the untuned network sees it; nobody tunes this network."""
    directory = Path(tempfile.mkdtemp(prefix="marks-"))
    return stages.open_shop(CONFIG, stages.open_catalogue(CONFIG, dataset(), directory))


@functools.cache
def features():
    return stages.features_of(CONFIG, frozen())


@functools.cache
def weights() -> list[np.ndarray]:
    stages.set_seed(0)
    with shops.eagerly():
        return stages.train_towers(CONFIG, frozen(), features(), directory=frozen().records / "towers")[0].get_weights()


def towers():
    """Returns towers trained on the frozen vectors, to be tuned."""
    made = stages.make_towers(CONFIG, frozen(), features(), frozen().parts.train)
    made.set_weights(weights())
    return made


def lessons() -> Lessons:
    shop = frozen()
    return Lessons(shop.dataset.items.images, shop.parts.train, shop.parts.validation, shop.context)


def examples(rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns item rows, a buyer of each, and queries of length 1."""
    events, rng = frozen().parts.train, np.random.default_rng(3)
    buyers = np.array([events.user[events.item == row][0] for row in rows], np.int32)
    queries = rng.normal(size=(len(rows), CONFIG.towers.dim)).astype(np.float32)
    return rows.astype(np.int32), buyers, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def batch(encoder: ImageEncoder, rows: np.ndarray) -> tuple[tf.Tensor, ...]:
    return next(iter(finetuning.pixel_batches(encoder, lessons().images, examples(rows), batch_size=len(rows))))


ROWS = np.array([0, 1, 4, 6, 7, 8, 9])  # several of one group, and every format


@pytest.mark.slow
def test_pixels_in_the_loop_give_the_vectors_that_the_frozen_network_gave():
    encoder, retriever = frozen().encoders.image, towers()
    pixels, rows, _, _ = batch(encoder, ROWS)
    found = finetuning.item_vectors(encoder, retriever, features(), pixels, rows)
    assert rows.numpy().tolist() == ROWS.tolist()
    np.testing.assert_allclose(found, retriever.corpus_vectors().numpy()[ROWS], atol=2e-3)  # the table is float16


@pytest.mark.slow
def test_a_hidden_id_leaves_the_content():
    encoder, retriever = frozen().encoders.image, towers()
    pixels, rows, _, _ = batch(encoder, ROWS)
    found = finetuning.item_vectors(encoder, retriever, features(), pixels, rows, id_dropout=1.0)
    np.testing.assert_allclose(found, retriever.corpus_vectors(hidden=(ID,)).numpy()[ROWS], atol=2e-3)


def test_the_loss_is_the_softmax_in_the_batch_with_popularity_taken_off_and_known_items_left_out():
    encoder, retriever, events = frozen().encoders.image, towers(), frozen().parts.train
    pixels, rows, users, queries = batch(encoder, ROWS)
    corpus = finetuning.item_vectors(encoder, retriever, features(), pixels, rows).numpy()
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    share = np.bincount(events.item, minlength=ITEMS)[ROWS] / len(events)
    logits = queries.numpy() @ corpus.T / CONFIG.retrieval.temperature - np.log(share)
    lost, masked = [], 0
    for place, user in enumerate(users.numpy()):
        known = set(events.item[events.user == user]) - {ROWS[place]}
        rivals = [column for column, row in enumerate(ROWS) if row not in known]
        masked += len(ROWS) - len(rivals)
        lost.append(np.log(np.exp(logits[place, rivals]).sum()) - logits[place, place])
    assert masked and np.ptp(share) > 0
    config = dataclasses.replace(CONFIG.finetune, id_dropout=0.0)
    with shops.eagerly():
        step = finetuning.train_step(encoder, retriever, features(), events, config, tf.keras.optimizers.SGD(0.0))
        np.testing.assert_allclose(step(pixels, rows, users, queries), np.mean(lost), rtol=1e-4)


def test_a_step_moves_the_opened_blocks_and_the_pictures_projection_and_nothing_else():
    encoder, retriever = ImageEncoder(CONFIG.image), towers()
    encoder.trainable_blocks(1)
    last = block_names(encoder.network)[-1]
    variables = [*encoder.network.variables, *retriever.towers.variables]
    before = [variable.numpy() for variable in variables]
    config = dataclasses.replace(CONFIG.finetune, id_dropout=1.0)
    with shops.eagerly():
        optimizer = tf.keras.optimizers.Adam(1e-3)
        step = finetuning.train_step(encoder, retriever, features(), frozen().parts.train, config, optimizer)
        step(*batch(encoder, ROWS))
    moved = {v.name for v, old in zip(variables, before) if not np.array_equal(v.numpy(), old)}
    opened = {
        weight.name
        for layer in encoder.network.layers
        if layer.name.startswith((last, "top_")) and not isinstance(layer, tf.keras.layers.BatchNormalization)
        for weight in layer.weights
    }
    projection = {v.name for v in retriever.towers.candidate.projections["image"].variables}
    assert len(opened) >= 4 and len(projection) == 2
    assert moved == opened | projection


def test_each_picture_is_asked_for_by_shoppers_who_came_to_it_from_something_else():
    events = frozen().parts.train
    pictured = np.setdiff1d(np.arange(ITEMS), [BARE])
    expected: dict[int, list[int]] = {row: [] for row in range(ITEMS)}
    for at, (user, item) in enumerate(zip(events.user, events.item)):
        before = [events.item[other] for other in range(at) if events.user[other] == user]
        if before and item not in before and item != BARE:
            expected[item].append(at)
    asked = finetuning._askable(events, pictured, num_items=ITEMS)
    assert [list(row) for row in asked] == list(expected.values())
    assert len(asked[BARE]) == 0 and len(asked.values) > ITEMS


def test_a_query_reads_what_its_shopper_did_before_and_no_more():
    events, retriever = frozen().parts.train, towers()
    at = np.arange(len(events))
    queries = finetuning.queries_before(events, at, retriever)
    for place in at:
        mine = [other for other in range(place) if events.user[other] == events.user[place]]
        mine = mine[-CONFIG.towers.max_length :]
        assert queries.history[place].tolist() == events.item[mine].tolist()
        assert queries.times[place].tolist() == events.time[mine].tolist()
    assert queries.targets.values.tolist() == events.item.tolist()
    assert queries.time.tolist() == events.time.tolist()


def test_without_a_picture_that_anybody_came_to_it_says_so():
    with pytest.raises(ValueError, match="finetune.blocks at 0"):
        finetuning._askable(frozen().parts.train, np.zeros(0, int), num_items=ITEMS)


def test_a_picture_that_breaks_is_left_out_and_the_others_are_not():
    images = Media(lessons().images.sources.copy())
    images.sources[1] = images.sources[1][:60]  # a PNG's beginning
    images.sources[4] = b"no picture"
    images.sources[6] = Path("gone.png")
    encoder = frozen().encoders.image
    found = [rows.numpy() for _, rows, _, _ in finetuning.pixel_batches(encoder, images, examples(ROWS), batch_size=2)]
    assert np.concatenate(found).tolist() == [0, 7, 8, 9]


@pytest.mark.parametrize("wrong", [{"blocks": -1}, {"learning_rate": 0}, {"id_dropout": 1.5}, {"batch_size": 1}])
def test_a_wrong_setting_is_named_with_its_value(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"finetune.{name}.*{value}"):
        FinetuneConfig(**wrong)


def test_by_default_the_network_stays_frozen():
    shop = frozen()
    before = shop.encoders.image.fingerprint
    config = parse(["--text_encoder", "none"])
    assert config.finetune.blocks == 0
    assert stages.finetuned(config, shop, directory=shop.records) is shop
    assert shop.encoders.image.fingerprint == before == ImageEncoder(CONFIG.image).fingerprint
    assert not shop.encoders.image.network.trainable_variables
    assert parse(["--finetune.blocks", "2"]).finetune.blocks == 2


def tune(encoder: ImageEncoder, retriever, directory: Path, *, resume: bool = False, **settings) -> dict:
    """Returns the curves of tuning with the shop's settings, or others."""
    config = dataclasses.replace(CONFIG.finetune, **settings)
    paths = {"directory": directory / "checkpoints", "logs": directory / "logs"}
    return finetuning.finetune(encoder, retriever, features(), lessons(), config, **paths, resume=resume)


@pytest.mark.slow
def test_epochs_that_make_it_worse_are_rolled_back(tmp_path):
    encoder, retriever = ImageEncoder(CONFIG.image), towers()
    before, columns = encoder.fingerprint, retriever.corpus_vectors().numpy()
    curves = tune(encoder, retriever, tmp_path, epochs=1, learning_rate=100.0)
    untuned = retrieval.ndcg(retriever, lessons().validation, lessons().context)
    assert curves["validation ndcg@10"][0] < untuned
    assert encoder.fingerprint == before
    np.testing.assert_array_equal(retriever.corpus_vectors(), columns)
    assert not encoder.network.trainable_variables


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Everything of a run that tuned: its directory, the shop, items, towers and curves."""
    directory = tmp_path_factory.mktemp("run")
    encoders = dataclasses.replace(frozen().encoders, image=ImageEncoder(CONFIG.image))
    shop = dataclasses.replace(frozen(), encoders=encoders)
    stages.set_seed(0)
    return directory, *stages.finetune(CONFIG, shop, features(), towers(), directory=directory)


@pytest.mark.slow
def test_the_network_learns_what_decides_and_validation_does_not_fall(tuned):
    directory, shop, _, retriever, curves = tuned
    assert curves["loss"][-1] < 0.8 * curves["loss"][0]
    untuned = retrieval.ndcg(towers(), lessons().validation, lessons().context)
    assert retrieval.ndcg(retriever, lessons().validation, lessons().context) >= untuned
    assert max(curves["validation ndcg@10"]) > untuned  # otherwise nothing below would be tested
    assert shop.encoders.image.fingerprint != frozen().encoders.image.fingerprint


@pytest.mark.slow
def test_the_tuned_vectors_stand_in_the_runs_records_and_the_frozen_ones_where_they_were(tuned):
    directory, shop, items, _, _ = tuned
    images = shop.dataset.items.images
    expected, _ = shop.encoders.image.encode([images.read(row) for row in range(ITEMS)])
    np.testing.assert_allclose(shop.table.vectors["image"], expected, rtol=1e-3, atol=1e-3)
    assert not np.allclose(shop.table.vectors["image"], frozen().table.vectors["image"], atol=1e-2)
    again, _ = stages.encode(CONFIG, frozen().dataset, frozen().records)
    np.testing.assert_array_equal(again.vectors["image"], frozen().table.vectors["image"])
    np.testing.assert_array_equal(items.reductions["image"].components, features().reductions["image"].components)


@pytest.mark.slow
def test_a_run_that_goes_on_or_is_measured_again_does_not_tune_twice(tuned, monkeypatch):
    directory, shop, items, _, curves = tuned
    encoder, retriever = ImageEncoder(CONFIG.image), towers()
    monkeypatch.setattr(finetuning, "_epoch", lambda *_, **__: pytest.fail("tuned again"))
    found = finetuning.finetune(
        encoder,
        retriever,
        features(),
        lessons(),
        CONFIG.finetune,
        directory=directory / "checkpoints" / "finetune",
        logs=directory / "logs",
        resume=True,
    )
    np.testing.assert_allclose(found["loss"], curves["loss"], rtol=1e-6)
    assert encoder.fingerprint == shop.encoders.image.fingerprint
    fresh = dataclasses.replace(frozen().encoders, image=ImageEncoder(CONFIG.image))
    measured = stages.finetuned(CONFIG, dataclasses.replace(frozen(), encoders=fresh), directory=directory)
    assert measured.encoders.image.fingerprint == shop.encoders.image.fingerprint
    np.testing.assert_array_equal(measured.table.vectors["image"], shop.table.vectors["image"])
    for name, column in stages.features_of(CONFIG, measured).columns.items():
        np.testing.assert_array_equal(column, items.columns[name], err_msg=name)


@pytest.mark.slow
def test_the_export_sees_pictures_as_the_tuned_network_does(tuned):
    _, shop, items, retriever, _ = tuned
    events = shop.parts.train
    chosen = {"item_knn": Baseline("item_knn", {"shrink": 10.0, "decay": 0.8})}
    associations = stages.item_item(dataclasses.replace(CONFIG, item_item="item_knn"), shop, events, chosen)
    candidates = stages.make_candidates(CONFIG, shop, retriever, items, events, associations)
    service = Service(candidates, ListwiseScorer(CONFIG.reranking), items, shop.encoders)
    contents = [shop.dataset.items.images.read(row) for row in (0, 1, 2, 3, 8)]
    nothing = tf.constant([""] * len(contents)), tf.fill([len(contents), 0], "")
    found = service.embed_item(nothing[0], tf.constant(contents), nothing[1])
    expected = retriever.corpus_vectors(hidden=(ID,)).numpy()[[0, 1, 2, 3, 8]]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found["embedding"], expected, atol=5e-3)  # the table is float16
