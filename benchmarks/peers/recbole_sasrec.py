"""RecBole's SASRec: `python -m benchmarks.peers.recbole_sasrec FOLDER SEED EPOCHS`.

Cross-entropy over all items. Runs in the environment of `benchmarks/peers.sh`. RecBole makes one example of every
prefix of a sequence.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

from benchmarks.peers import exchange
from benchmarks.peers.exchange import Course, Shop

SETTINGS: dict[str, Any] = {
    "blocks": 2,
    "heads": 2,
    "width": 64,
    "length": 50,
    "dropout": 0.5,
    "learning_rate": 1e-3,
    "batch": 128,
}


def configured(folder: str, seed: int) -> Config:
    """Returns RecBole's defaults but for these."""
    return Config(
        model="SASRec",
        dataset="shop",
        config_dict={
            "data_path": folder,
            "checkpoint_dir": folder,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "n_layers": SETTINGS["blocks"],
            "n_heads": SETTINGS["heads"],
            "hidden_size": SETTINGS["width"],
            "hidden_dropout_prob": SETTINGS["dropout"],
            "attn_dropout_prob": SETTINGS["dropout"],
            "MAX_ITEM_LIST_LENGTH": SETTINGS["length"],
            "eval_args": {
                "order": "TO",
                "split": {"RS": [1, 0, 0]},
                "group_by": "none",
                "mode": "full",
            },  # all to train
            "loss_type": "CE",
            "train_neg_sample_args": None,
            "learning_rate": SETTINGS["learning_rate"],
            "train_batch_size": SETTINGS["batch"],
            "seed": seed,
            "use_gpu": False,
            "show_progress": False,
        },
    )


def write_events(folder: Path, shop: Shop) -> None:
    """Leaves the events as RecBole reads them."""
    (folder / "shop").mkdir()
    columns = {
        "user_id:token": shop.events.user,
        "item_id:token": shop.events.item,
        "timestamp:float": shop.events.place,
    }
    pd.DataFrame(columns).to_csv(folder / "shop" / "shop.inter", sep="\t", index=False)


@torch.no_grad()
def scores(model: SASRec, dataset: Any, shop: Shop, part: str) -> np.ndarray:
    """Returns `[queries, num_items]`, by RecBole's `full_sort_predict`."""
    model.eval()
    numbers = np.zeros(shop.num_items, np.int64)
    names = dataset.field2id_token["item_id"]  # the first is padding
    numbers[names[1:].astype(np.int64)] = np.arange(1, len(names))
    items = exchange.latest(shop.histories[part], numbers, SETTINGS["length"], right=False)
    lengths = np.maximum(1, np.count_nonzero(items, axis=1))
    asked = Interaction({model.ITEM_SEQ: torch.tensor(items), model.ITEM_SEQ_LEN: torch.tensor(lengths)})
    return exchange.of_catalogue(model.full_sort_predict(asked).numpy(), numbers)


def main(folder: str, seed: str, epochs: str) -> None:
    """Trains until the benchmark has enough, or for `epochs`."""
    given = {**SETTINGS, "loss": "softmax, all items", "trains on": "every prefix of up to 50", "knows": "ids, order"}
    course = Course(Path(folder), given)
    shop = exchange.read_shop(Path(folder))
    sys.argv[1:] = []  # RecBole reads the command line
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # it leaves logs where it stands
        write_events(Path(scratch), shop)
        config = configured(scratch, int(seed))
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config).build()[0]
        model = SASRec(config, dataset).to(config["device"])
        trainer = Trainer(config, model)
        batches = TrainDataLoader(config, dataset, None, shuffle=True)
        course.ready()
        with contextlib.suppress(exchange.Enough):
            for number in range(int(epochs)):
                trainer._train_epoch(batches, number)  # all that `Trainer.fit` does in an epoch but log it
                course.epoch(lambda part: scores(model, dataset, shop, part))


if __name__ == "__main__":
    main(*sys.argv[1:])
