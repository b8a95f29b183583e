"""RecTools' SASRec: `python -m benchmarks.peers.rectools_sasrec FOLDER SEED EPOCHS [windows]`.

Softmax over all items. Runs in the environment of `benchmarks/peers.sh`. RecTools trains on the newest events of each
user alone, one sequence a user; with `windows`, older ones come as users of their own, so that it trains on every
event, as the others do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from benchmarks.peers import exchange
from benchmarks.peers.exchange import Course, Shop

SETTINGS: dict[str, Any] = {
    "blocks": 2,
    "heads": 2,
    "width": 64,
    "length": 50,
    "dropout": 0.2,
    "learning_rate": 1e-3,
    "batch": 128,
}


class Reports(Callback):
    """Tells of every epoch."""

    def __init__(self, course: Course, shop: Shop) -> None:
        self.course, self.shop = course, shop

    def __deepcopy__(self, memo: object) -> Reports:
        return self  # RecTools copies its trainer

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.course.ready()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        try:
            self.course.epoch(lambda part: scores(module, self.shop, part))
        except exchange.Enough:
            trainer.should_stop = True
        module.train()


@torch.no_grad()
def scores(module: LightningModule, shop: Shop, part: str) -> np.ndarray:
    """Returns `[queries, num_items]`, computed as RecTools' own `recommend` computes them."""
    module.eval()
    numbers = np.zeros(shop.num_items, np.int64)
    known = module.data_preparator.get_known_item_ids().astype(np.int64)
    numbers[known] = module.data_preparator.item_id_map.convert_to_internal(known)
    x = exchange.latest(shop.histories[part], numbers, SETTINGS["length"], right=True)
    net = module.torch_model
    table = net.item_model.get_all_embeddings()
    queries = net.similarity_module.session_tower_forward(net.encode_sessions({"x": torch.tensor(x)}, table)[:, -1])
    return exchange.of_catalogue((queries @ net.similarity_module.item_tower_forward(table).T).numpy(), numbers)


def main(folder: str, seed: str, epochs: str, windows: str = "") -> None:
    """Trains until the benchmark has enough, or for `epochs`."""
    on = "every event, in windows" if windows else "each user's newest 51 events"
    course = Course(Path(folder), {**SETTINGS, "loss": "softmax, all items", "trains on": on, "knows": "ids, order"})
    shop = exchange.read_shop(Path(folder))
    events = shop.events.windows(SETTINGS["length"] + 1) if windows else shop.events
    seed_everything(int(seed))
    made = Trainer(
        max_epochs=int(epochs),
        callbacks=[Reports(course, shop)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = SASRecModel(
        n_blocks=SETTINGS["blocks"],
        n_heads=SETTINGS["heads"],
        n_factors=SETTINGS["width"],
        session_max_len=SETTINGS["length"],
        dropout_rate=SETTINGS["dropout"],
        lr=SETTINGS["learning_rate"],
        batch_size=SETTINGS["batch"],
        loss="softmax",
        get_trainer_func=lambda: made,
    )
    columns = {
        Columns.User: events.user,
        Columns.Item: events.item,
        Columns.Weight: 1.0,
        Columns.Datetime: pd.Timestamp(2000, 1, 1) + pd.to_timedelta(events.place, unit="s"),
    }
    model.fit(Dataset.construct(pd.DataFrame(columns)))


if __name__ == "__main__":
    main(*sys.argv[1:])
