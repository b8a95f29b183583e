"""Opens a finished run: measures its export again on the same test, and asks it which shoppers want a product."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from tfmm import gallery, records, results, stages
from tfmm.alignment import Aligner
from tfmm.arguments import did_you_mean
from tfmm.audience import everybody, likelihood
from tfmm.candidates import wire_queries
from tfmm.config import Config, restored
from tfmm.encoders.attributes import AttributeVocabulary, learn_attributes
from tfmm.features import ItemFeatures
from tfmm.hearing import Hearing, distinct
from tfmm.report import GalleryRow, write_report
from tfmm.retrieval import Retriever
from tfmm.serving.catalogue import Catalogue as Wares
from tfmm.serving.catalogue import read_catalogue
from tfmm.serving.local import load_model
from tfmm.serving.show import Shopper
from tfmm.serving.versions import newest_version, version_directories
from tfmm.sources.dataset import Dataset
from tfmm.sources.spoken import load_spoken
from tfmm.stages import Catalogue, Ears, Shop
from tfmm.train import MODEL

_log = logging.getLogger(__name__)


def measure(
    run: Path, *, saved_models: Optional[Path] = None, version: Optional[int] = None
) -> tuple[dict[str, Any], Path]:
    """Returns the report and its page, after both stand in the run's directory again.

    Nothing is trained: the towers are those of the export. What only training knows (curves, how long each stage took)
    is taken over from the report that was there.

    Args:
        run: directory of a run, with its `run.json`.
        saved_models: where the exported versions are; None = where the run put them.
        version: which to measure; None = the newest.

    Raises:
        ValueError: where the data or the version are not those of the run.
        FileNotFoundError: where there is no such run or version.
    """
    config, fingerprint = _settings(run)
    directory = find_version((saved_models or config.saved_models) / MODEL, version)
    stages.set_seed(config.seed)
    known = load_catalogue(config, fingerprint=fingerprint)
    check_catalogue(directory, known)
    before = read_json(run / "report.json") if (run / "report.json").is_file() else {}
    measured = _measure_shop if len(known.dataset.interactions) else _measure_search
    report, rows = measured(config, known, directory, run, before)
    again = f"tfmm evaluate --run {run} --saved_models {directory.parent.parent} --version {directory.name}"
    report["tagging"] = before.get("tagging", {})  # its head is not exported
    report["reproduce"] = [command for command in before.get("reproduce", []) if command != again] + [again]
    _, page = write_report(report, run, gallery=rows)
    return report, page


def _measure_shop(
    config: Config, known: Catalogue, directory: Path, run: Path, before: Mapping[str, Any]
) -> tuple[dict[str, Any], list[GalleryRow]]:
    shop = stages.finetuned(config, stages.open_shop(config, known), directory=run)
    started = time.monotonic()
    items = stages.features_of(config, shop).with_ids(~shop.parts.cold_items(len(shop.table)))
    baselines = stages.baselines(config, shop)
    systems = results.recommend_all(config, shop, directory, baselines)
    aligner = exported_aligner(config, shop, items.vocabulary, directory)
    report = results.build_report(
        config,
        shop,
        systems,
        baselines=baselines,
        retriever=exported_retriever(config, shop, items, directory),
        asked=results.ask_all(config, shop, directory, aligner, exported_ears(config, aligner, directory)),
        curves=before.get("curves", {}),
        timings={**before.get("timings", {}), "evaluate": time.monotonic() - started},
        directory=run,
        argv=[],
    )
    report["audience"] = results.audience(config, shop, directory)
    return report, gallery.of_shoppers(config, shop, directory, systems[results.OURS])


def _measure_search(
    config: Config, known: Catalogue, directory: Path, run: Path, before: Mapping[str, Any]
) -> tuple[dict[str, Any], list[GalleryRow]]:
    known = stages.finetuned(config, known, directory=run)
    started = time.monotonic()
    vocabulary = learn_attributes(known.table.categorical, known.table.numeric, rows=known.asking.train)
    aligner = exported_aligner(config, known, vocabulary, directory)
    if aligner is None:
        raise ValueError(f"Expected {run} to be a run that searches, got one with --alignment.epochs 0.")
    report = results.search_report(
        config,
        known,
        aligner,
        ears=exported_ears(config, aligner, directory),
        curves=before.get("curves", {}),
        timings={**before.get("timings", {}), "evaluate": time.monotonic() - started},
        argv=[],
    )
    return report, gallery.of_searches(config, known, aligner)


def audience_of(run: Path, item: str, *, saved_models: Optional[Path] = None) -> tuple[list[Shopper], Wares]:
    """Returns the run's shoppers who have not had a product, likeliest to want it first, and titles to show them with.

    Args:
        run: directory of a run, with its `run.json`.
        item: id of a product of the newest exported version.
        saved_models: where the exported versions are; None = where the run put them.

    Raises:
        ValueError: no shoppers, no such product, or other data than the run's.
        FileNotFoundError: where there is no such run or version.
    """
    config, fingerprint = _settings(run)
    directory = newest_version((saved_models or config.saved_models) / MODEL)
    wares = read_catalogue(directory)
    if wares.titles and item not in wares.titles:
        raise ValueError(f"Expected a product of {directory}, got {item!r}.{did_you_mean(item, wares.titles)}")
    dataset = _load_data(config, fingerprint=fingerprint)
    if not len(dataset.interactions):
        raise ValueError(f"Expected shoppers in the data of {run}, got a catalogue alone.")
    shoppers, ids = everybody(dataset), dataset.items.ids
    wire = wire_queries(shoppers, ids, dataset.event_types, records.context_terms(dataset.users))
    likely = likelihood(
        functools.partial(load_model(directory).predict, signature="audience"), wire, np.array([item], object)
    )[:, 0]
    order = [row for row in np.argsort(-likely, kind="stable") if likely[row] > _HAD]
    return [
        Shopper(
            str(dataset.users.ids[shoppers.user[row]]),
            float(np.exp(likely[row])),
            [str(ids[one]) for one in shoppers.history[row][:-4:-1]],
        )
        for row in order
    ], wares


_HAD = -1e8  # log-likelihoods below it are of what a shopper has had already


def _settings(run: Path) -> tuple[Config, str]:
    """Returns a run's configuration, and the fingerprint of the data that it began with."""
    said = read_json(run / "run.json")
    return restored(said["configuration"], place=str(run / "run.json")), said["data"]


def load_catalogue(config: Config, *, fingerprint: str) -> Catalogue:
    """Returns the data as a run saw it, its encodings read from the records.

    Raises:
        ValueError: where the data has another fingerprint than the run began with.
    """
    dataset = _load_data(config, fingerprint=fingerprint)
    return stages.open_catalogue(config, dataset, config.records / f"{dataset.name}-{fingerprint[:8]}")


def _load_data(config: Config, *, fingerprint: str) -> Dataset:
    dataset = stages.load(config)
    mark = dataset.fingerprint()
    if mark != fingerprint:
        raise ValueError(
            f"Expected the data that the run was made on (fingerprint {fingerprint[:8]}), got other data "
            f"({mark[:8]}) from --source {config.source} --data_dir {config.data_dir}. "
            "Put the files back, or train again."
        )
    return dataset


def exported_retriever(config: Config, shop: Shop, items: ItemFeatures, directory: Path) -> Retriever:
    """Returns the towers with the weights that stand in the export.

    Raises:
        ValueError: where the export has not these towers' shapes.
    """
    retriever = stages.make_towers(config, shop, items, shop.parts.refit)
    _read_weights(directory, tf.train.Checkpoint(candidates=tf.train.Checkpoint(towers=retriever.towers)))
    return retriever


def exported_aligner(
    config: Config, shop: Catalogue, vocabulary: AttributeVocabulary, directory: Path
) -> Optional[Aligner]:
    """Returns the content tower with the weights that stand in the export, if it has one.

    Raises:
        ValueError: where the export has not this tower's shape.
    """
    aligner = stages.make_aligner(config, shop, vocabulary)
    if aligner is not None:
        held = tf.train.Checkpoint(tower=aligner.tower, views=aligner.views)
        _read_weights(directory, tf.train.Checkpoint(search=held))
        aligner.look()
    return aligner


def exported_ears(config: Config, aligner: Optional[Aligner], directory: Path) -> Optional[Ears]:
    """Returns the ears with the weights that stand in the export, if it has any.

    Raises:
        ValueError: where the export has not this encoder's shape, or the recordings are gone.
    """
    if config.speech.data_dir is None or aligner is None:
        return None
    taught, unseen = load_spoken(config.speech.data_dir)
    words = np.zeros((len(distinct(taught.texts)[0]), aligner.tower.config.dim), np.float32)
    hearing = Hearing(config.sound, words, temperature=config.speech.temperature)
    hearing((tf.zeros([1, 8, config.sound.mels]), tf.fill([1, 8], True)))
    _read_weights(directory, tf.train.Checkpoint(search=tf.train.Checkpoint(speech=hearing)))
    return Ears(hearing, unseen, {})


def _read_weights(directory: Path, exported: tf.train.Checkpoint) -> None:
    try:
        status = exported.read(str(directory / "variables" / "variables")).expect_partial()
        status.assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise ValueError(f"{directory} holds other towers than the run's settings describe: {error}") from error


def find_version(model: Path, version: Optional[int]) -> Path:
    """Returns the directory of one version, or of the newest.

    Raises:
        FileNotFoundError: where there is none; it names those there are.
    """
    if version is None:
        return newest_version(model)
    found = version_directories(model)
    if version not in found:
        raise FileNotFoundError(f"Expected version {version} in {model}, found {', '.join(map(str, found)) or 'none'}.")
    return found[version]


def check_catalogue(directory: Path, shop: Catalogue) -> None:
    """Raises ValueError where an exported version knows other items than the shop has."""
    exported, ids = read_catalogue(directory).titles, shop.dataset.items.ids
    if exported and list(exported) != list(ids):
        raise ValueError(
            f"Expected {directory} to know the run's {len(ids)} items, got a model of {len(exported)} others. "
            f"Name the run's own --version."
        )


def read_json(path: Path) -> Mapping[str, Any]:
    """Returns what a file of a run holds."""
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected {path}, found no such file. Name the directory of a run, such as runs/<run>."
        )
    return json.loads(path.read_text(encoding="utf-8"))
