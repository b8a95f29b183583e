"""Opens the picture network, and has everything see what it sees then."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from tfmm import (
    finetuning,
    records,
)
from tfmm.config import Config
from tfmm.encoders.image import ImageEncoder
from tfmm.features import ItemFeatures
from tfmm.retrieval import Retriever
from tfmm.stages.opening import Catalogue, Shop, features_of
from tfmm.stages.towers import go_on, make_towers

TUNED = Path("checkpoints") / "finetune"


Kind = TypeVar("Kind", bound=Catalogue)


def finetune(
    config: Config, shop: Shop, items: ItemFeatures, retriever: Retriever, *, directory: Path
) -> tuple[Shop, ItemFeatures, Retriever, dict[str, list[float]]]:
    """Returns the shop as the tuned image network sees it, the towers trained on with it, and the network's curves.

    Where tuning brings nothing on the validation queries, the shop and the towers stay what they were.

    Raises:
        ValueError: the model does not look at pictures.
    """
    encoder = openable(shop)
    untuned = encoder.fingerprint
    curves = finetuning.finetune(
        encoder,
        retriever,
        items,
        finetuning.Lessons(shop.dataset.items.images, shop.parts.train, shop.parts.validation, shop.context),
        config.finetune,
        directory=directory / TUNED,
        logs=directory / "tensorboard" / "finetune",
        seed=config.seed,
        resume=config.resume,
    )
    if encoder.fingerprint == untuned:
        return shop, items, retriever, curves
    shop = _reduced_as(seen_anew(shop, encoder, directory=directory), items)
    items = features_of(config, shop)
    tuned = make_towers(config, shop, items, shop.parts.train)
    tuned.set_weights(retriever.get_weights())
    epochs = config.finetune.tower_epochs
    go_on(config, shop, tuned, shop.parts.train, epochs=epochs, name="finetuned", directory=directory)
    return shop, items, tuned, curves


def openable(shop: Catalogue) -> ImageEncoder:
    """Returns the picture network, whose blocks may be opened.

    Raises:
        ValueError: there is none.
    """
    if shop.encoders.image is None:
        raise ValueError(
            "Expected pictures, and --image_encoder pretrained, to open blocks of the image network, got none; leave "
            "--finetune.blocks at 0."
        )
    return shop.encoders.image


def finetuned(config: Config, shop: Kind, *, directory: Path) -> Kind:
    """Returns the shop as the image network of a finished run sees it: tuned, if the run did that.

    Raises:
        FileNotFoundError: the run's checkpoints are gone.
    """
    encoder = shop.encoders.image
    if not config.finetune.blocks or encoder is None:
        return shop
    items = features_of(config, shop) if isinstance(shop, Shop) else None
    untuned = encoder.fingerprint
    finetuning.restore(encoder, directory / TUNED)
    if encoder.fingerprint == untuned:
        return shop
    seen = seen_anew(shop, encoder, directory=directory)
    return seen if items is None else cast(Kind, _reduced_as(cast(Shop, seen), items))


def _reduced_as(shop: Shop, items: ItemFeatures) -> Shop:
    """Returns the shop whose pictures are reduced as they were: towers were trained on it."""
    return dataclasses.replace(shop, reductions={finetuning.IMAGE: items.reductions[finetuning.IMAGE]})


def seen_anew(shop: Kind, encoder: ImageEncoder, *, directory: Path) -> Kind:
    """Returns the products with pictures encoded by the tuned network; the run keeps these records.

    The frozen network's stay where they are, for other runs.
    """
    table, modality = shop.table, finetuning.IMAGE
    vectors = {
        name: np.where(table.present[name][:, np.newaxis], column.astype(np.float32), np.nan)
        for name, column in table.vectors.items()
        if name != modality
    }
    products = dataclasses.replace(shop.dataset.items, vectors=vectors)
    again = dataclasses.replace(shop.dataset, items=products)
    table = records.write_items(again, directory / "records", encoders={modality: encoder})
    return dataclasses.replace(shop, table=table)
