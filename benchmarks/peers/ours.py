"""Our two towers, as `train.py` makes them: `python -m benchmarks.peers.ours FOLDER SEED EPOCHS all|id FLAGS...`.

They read the source itself, not the events that peers are given, and encode pictures and texts anew: that is part of
the time until everything is prepared. With `id` they know of products what peers know, and encode nothing. The epochs
are those of the flags of train.py, over which the learning rate falls.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import exchange
from benchmarks.peers.exchange import Course
from tfmm import pipelines, records, retrieval, stages
from tfmm.config import Config, parse
from tfmm.features import ID
from tfmm.retrieval import Retriever
from tfmm.splits import Queries
from tfmm.stages import Shop


def given(config: Config, *, content: bool) -> dict[str, Any]:
    """Returns the settings that the table shows."""
    towers = config.towers
    attention = towers.encoder == "attention"
    return {
        "blocks": towers.blocks if attention else towers.encoder,
        "heads": towers.heads if attention else "",
        "width": towers.dim,
        "length": towers.max_length,
        "dropout": towers.dropout,
        "learning_rate": config.retrieval.learning_rate,
        "batch": config.retrieval.batch_size,
        "loss": "softmax, all items",
        "trains on": "every event, in windows",
        "knows": "ids, order, times" + (", content" if content else ""),
    }


def open_shop(config: Config) -> Shop:
    """Returns the shop, of which everything before validation is for training."""
    dataset = stages.load(config)
    shop = stages.open_shop(config, stages.open_catalogue(config, dataset, config.records))
    return dataclasses.replace(shop, parts=dataclasses.replace(shop.parts, train=shop.parts.refit))


def scores(retriever: Retriever, queries: Queries, shop: Shop) -> np.ndarray:
    """Returns `[queries, num_items]`."""
    return np.concatenate([chunk for _, chunk in retrieval.score_queries(retriever, queries, shop.context)])


def told(retriever: Retriever, shop: Shop, course: Course) -> None:
    """Has the retriever tell of each of its epochs, of which `retrieval.fit` makes a `fit` each."""
    asked = {part: getattr(shop.parts, part) for part in exchange.PARTS}
    fit, clock = retriever.fit, itertools.chain([lambda: None], itertools.repeat(course.go))  # at first it runs already

    def fit_and_tell(*args: Any, **kwargs: Any) -> Any:
        next(clock)()
        history = fit(*args, **kwargs)
        course.epoch(lambda part: scores(retriever, asked[part], shop))
        return history

    retriever.fit = fit_and_tell


def batches_of(config: Config, shop: Shop) -> Any:
    """Returns one pass over windows of the sequences, as `stages.train_towers` makes it."""
    ids, types = shop.dataset.items.ids, shop.dataset.event_types
    sequences = records.Sequences.of(shop.parts.train, shop.dataset.users)
    records.write_sequences(sequences, shop.records, "train", item_ids=ids, event_types=types)
    return pipelines.sequence_batches(
        shop.records,
        "train",
        batch_size=config.retrieval.batch_size,
        max_length=config.towers.max_length,
        shuffle=True,
        seed=config.seed,
        item_ids=ids,
    )


def main(folder: str, seed: str, _: str, what: str, *flags: str) -> None:
    """Trains until validation has not risen for so long as `--retrieval.patience` says."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(exchange.Enough):
        only = () if what == "all" else ("--image_encoder", "none", "--text_encoder", "none", "--sound_encoder", "none")
        config = parse([*flags, *only, "--seed", seed, "--records", str(Path(scratch) / "records")])
        course = Course(Path(folder), given(config, content=what == "all"))
        shop = open_shop(config)
        stages.set_seed(config.seed)
        items = stages.features_of(config, shop, None if what == "all" else (ID,))
        course.ready()
        retriever = stages.begin_towers(config, shop, items, shop.parts.train)
        told(retriever, shop, course)
        retrieval.fit(
            retriever,
            batches_of(config, shop),
            validation=shop.parts.validation,
            context=shop.context,
            directory=Path(scratch) / "checkpoints",
            logs=Path(scratch) / "tensorboard",
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
