"""A small shop whose right answers are known by construction: its shoppers never leave their group of items.

Item row r is of group r % 4, shopper row u of group u % 4. The last item of each group is cold: it is launched at the
end, and only some shoppers' last event has it. Everything that content says of an item is its group and a little noise.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfmm import stages
from tfmm.alignment import Aligner, AlignmentConfig
from tfmm.candidates import Candidates, CandidatesConfig
from tfmm.config import Config
from tfmm.content import ContentConfig
from tfmm.encoders.text import TextConfig
from tfmm.export import export
from tfmm.features import ItemFeatures
from tfmm.ragged import Ragged
from tfmm.reading import RawEncoders
from tfmm.reranking import ListwiseScorer, RerankingConfig
from tfmm.retrieval import RetrievalConfig, Retriever
from tfmm.service import Service
from tfmm.serving.queries import Query, build_request
from tfmm.sources.dataset import Dataset, Interactions, Items, Media, Users
from tfmm.towers import TowerConfig

GROUPS, ITEMS, USERS = 4, 60, 80
COLD = np.arange(ITEMS - GROUPS, ITEMS)  # one of each group
START, DAY = 1_600_000_000, 86_400
WORDS = ("garden lamp", "running shoe", "silk scarf", "steel kettle")
EVENT_TYPES = ("view", "purchase")


def group_of(rows: np.ndarray) -> np.ndarray:
    """Returns the group of item rows, or of user rows."""
    return np.asarray(rows) % GROUPS


def items() -> Items:
    """Returns the catalogue; each column is missing in some rows, and no row lacks all."""
    rng = np.random.default_rng(0)
    rows = np.arange(ITEMS)
    ids = np.array([f"i{row}" for row in rows], object)
    image = np.eye(GROUPS, 8, dtype=np.float32)[group_of(rows)] + rng.normal(0, 0.1, (ITEMS, 8)).astype(np.float32)
    image[rows % 10 == 3] = np.nan
    text = np.array([f"{WORDS[group_of(row)]} {row}" if row % 10 != 7 else "" for row in rows], object)
    price = np.where(rows % 8 == 5, np.nan, np.exp(rng.normal(3, 1.5, ITEMS))).astype(np.float32)
    colours = [["red", "blue", "green"][row % 3 :][: row % 3] for row in rows]  # none, one or one of the others
    brands = [[f"brand{group_of(row)}{row // 4 % 2}"] if row % 11 else [] for row in rows]
    return Items(
        ids=ids,
        text=text,
        titles=np.where(text == "", ids, text),
        images=Media.missing(ITEMS),
        sounds=Media.missing(ITEMS),
        launched=np.where(rows % 9 == 4, 0, np.where(rows >= COLD[0], START + 95 * DAY, START - rows * DAY)),
        categorical={"brand": Ragged.from_rows(brands, object), "colour": Ragged.from_rows(colours, object)},
        numeric={"price": price},
        vectors={"image": image},
    )


def interactions() -> Interactions:
    """Returns 12 events a shopper over 100 days, one of them a repeat; the last of each fifth's is the cold item."""
    rng = np.random.default_rng(1)
    columns: dict[str, list[int]] = {"user": [], "item": [], "time": [], "event": [], "value": []}
    for user in range(USERS):
        warm = rng.permutation(np.arange(group_of(user), COLD[0], GROUPS))[:11]
        bought = [*warm[:6], warm[2], *warm[6:]]
        times = START + np.sort(rng.integers(0, 94 * DAY, 12))
        if user // GROUPS % 5 == 0:
            bought[-1], times[-1] = COLD[group_of(user)], START + 97 * DAY
        columns["user"] += [user] * 12
        columns["item"] += bought
        columns["time"] += times.tolist()
        columns["event"] += rng.integers(0, 2, 12).tolist()
        columns["value"] += [1] * 12
    return Interactions.ordered(**{name: np.array(column) for name, column in columns.items()})


@functools.cache
def dataset() -> Dataset:
    """Returns the shop; a shopper's true utility is 1 for the items of the group."""
    regions = [["north"] if user % 3 == 0 else ["south"] if user % 3 == 1 else [] for user in range(USERS)]
    users = Users(
        np.array([f"u{user}" for user in range(USERS)], object), {"region": Ragged.from_rows(regions, object)}
    )
    utility = group_of(np.arange(USERS))[:, np.newaxis] == group_of(np.arange(ITEMS))
    return Dataset("groups", items(), users, interactions(), EVENT_TYPES, true_utility=utility.astype(np.float16))


CONFIG = Config(
    towers=TowerConfig(dim=16, max_length=8, encoder="attention", id_dropout=0.2),
    retrieval=RetrievalConfig(epochs=4, batch_size=32, learning_rate=1e-2),
    candidates=CandidatesConfig(retrieved=12, co_visited=6, neighbours=20, decay=0.8),
    reranking=RerankingConfig(epochs=2, width=16, batch_size=16),
    content=ContentConfig(dim=16, width=32, dropout=0.0, subwords=100),
    alignment=AlignmentConfig(epochs=12, patience=12, batch_size=24, learning_rate=1e-2, temperature=0.2),
    text_encoder="trained",
    text=TextConfig(vocabulary_size=100, max_length=8),
)


@functools.cache
def shop() -> stages.Shop:
    """Returns the shop after its records are written."""
    directory = Path(tempfile.mkdtemp(prefix="shop-"))
    return stages.open_shop(CONFIG, stages.open_catalogue(CONFIG, dataset(), directory))


@functools.cache
def features() -> ItemFeatures:
    """Returns what the towers read, with trained subwords."""
    return stages.features_of(CONFIG, shop())


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Lets a few steps run without the seconds that tracing takes."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@functools.cache
def retriever() -> Retriever:
    """Returns trained towers."""
    return trained()[0]


@functools.cache
def trained() -> tuple[Retriever, dict[str, list[float]]]:
    """Returns towers trained for some seconds, and their curves."""
    stages.set_seed(0)
    with eagerly():
        return stages.train_towers(CONFIG, shop(), features(), directory=shop().records / "towers")


@functools.cache
def candidates() -> Candidates:
    """Returns candidate generation over the trained towers."""
    baselines = stages.baselines(CONFIG, shop())
    events = shop().parts.train
    weights = stages.item_item(CONFIG, shop(), events, baselines)
    return stages.make_candidates(CONFIG, shop(), retriever(), features(), events, weights)


def picture(vector: np.ndarray) -> bytes:
    """Returns the bytes that this shop takes for a picture: its image vector itself."""
    return np.nan_to_num(vector).astype("<f4").tobytes()


def see(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the vectors and presence of such pictures, in place of an image encoder."""
    return tf.io.decode_raw(contents, tf.float32, fixed_length=32), tf.not_equal(contents, "")


@functools.cache
def scorer() -> ListwiseScorer:
    """Returns a scorer with random weights, which orders candidates otherwise than retrieval does."""
    made, rng = ListwiseScorer(CONFIG.reranking), np.random.default_rng(2)
    query = {name: tf.constant(column) for name, column in build_request([Query(history=["i1"])]).items()}
    made(candidates().features(candidates().encode_query(query), tf.constant([[2, 3]])))
    for weight in made.trainable_variables:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return made


@functools.cache
def aligner() -> Aligner:
    """Returns a trained content tower."""
    stages.set_seed(0)
    found, _ = stages.align(CONFIG, shop(), features().vocabulary, directory=shop().records / "aligned")
    assert found is not None
    return found


@functools.cache
def service() -> Service:
    """Returns everything that answers requests, with a stand-in for the image encoder and trained subwords."""
    search = stages.make_search(aligner(), history_weight=0.5)
    return Service(candidates(), scorer(), features(), RawEncoders(see, None), search=search)


@functools.cache
def version() -> Path:
    """Returns the service as an exported version."""
    return export(service(), shop().records / "saved_models" / "tfmm")
