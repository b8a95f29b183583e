"""The stages in order: a shop's files -> records -> towers -> reranker -> SavedModel -> report."""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Optional

from rich.logging import RichHandler

from tfmm import gallery, judging, ranker, ranking, results, sources, stages
from tfmm.config import Config, parse
from tfmm.export import export
from tfmm.progress import console
from tfmm.report import GalleryRow, write_report
from tfmm.report.terminal import headline
from tfmm.service import ContentService, Service, Storefront
from tfmm.serving.catalogue import write_catalogue
from tfmm.serving.models_config import write_models_config
from tfmm.serving.warmup import write_warmup
from tfmm.sources import letor
from tfmm.stages import Catalogue
from tfmm.writing import write_text

_log = logging.getLogger(__name__)
MODEL = "tfmm"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs every stage; returns 0, or 2 after a sentence about what is wrong with the input."""
    config = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console)])
    try:
        run(config, argv=list(sys.argv[1:] if argv is None else argv))
    except (ValueError, FileNotFoundError) as error:
        _log.debug("where it happened", exc_info=True)
        console.print(f"[bold red]error:[/] {error}", highlight=False)
        return 2
    return 0


def run(config: Config, *, argv: list[str]) -> Path:
    """Returns the exported version, after the report stands in the run's directory."""
    clock = _Clock()
    stages.set_seed(config.seed)
    if config.source == sources.LETOR:
        return _rank_only(config, clock, argv)
    with clock("load"):
        dataset = stages.load(config)
    mark = dataset.fingerprint()
    directory = config.runs / (config.run or f"{dataset.name}-{mark[:8]}-seed{config.seed}")
    _start(config, directory, fingerprint=mark)
    with clock("encode"):
        where = config.records / f"{dataset.name}-{mark[:8]}"
        known = stages.open_catalogue(config, dataset, where)
    _show_findings(known)
    if not len(dataset.interactions):
        return _search_only(config, known, clock, directory, argv)
    shop = stages.open_shop(config, known)
    parts, table = shop.parts, shop.table

    with clock("baselines"):
        baselines = stages.baselines(config, shop)
    with clock("train retriever"):
        items = stages.features_of(config, shop)
        early, curves = stages.train_towers(config, shop, items, directory=directory)
    tuning: dict[str, list[float]] = {}
    if config.finetune.blocks:
        with clock("finetune"):
            shop, items, early, tuning = stages.finetune(config, shop, items, early, directory=directory)
    with clock("train reranker"):
        weights = stages.item_item(config, shop, parts.train, baselines)
        candidates = stages.make_candidates(config, shop, early, items, parts.train, weights)
        scorer, rerank_curves = stages.train_reranker(config, shop, candidates, directory=directory)
    with clock("refit retriever"):
        items = items.with_ids(~parts.cold_items(len(table)))
        retriever = stages.refit_towers(config, shop, early, items, directory=directory)
        weights = stages.item_item(config, shop, parts.refit, baselines)
        candidates = stages.make_candidates(config, shop, retriever, items, parts.refit, weights)
        stages.recalibrate_reranker(config, shop, candidates, scorer)
    with clock("align"):
        aligner, align_curves = stages.align(config, shop, items.vocabulary, directory=directory)
        weight = stages.choose_history_weight(shop, aligner, retriever) if aligner else 1.0
        ears = stages.hear(config, aligner, directory=directory)
        search = stages.make_search(aligner, ears=ears, history_weight=weight) if aligner else None
    with clock("tag"):
        tags = stages.tag(config, shop, aligner, directory=directory)
    with clock("export"):
        service = Service(candidates, scorer, items, shop.encoders, search=search)
        version = _export(config, service, shop)
    with clock("evaluate"):
        systems = results.recommend_all(config, shop, version, baselines)
        report = results.build_report(
            config,
            shop,
            systems,
            baselines=baselines,
            retriever=retriever,
            asked=results.ask_all(config, shop, version, aligner, ears),
            curves={
                "retrieval": curves,
                "finetuning": tuning,
                "reranking": rerank_curves,
                "alignment": align_curves,
                "hearing": ears.curves if ears else {},
            },
            timings=clock.seconds,
            directory=directory,
            argv=argv,
        )
        report["tagging"] = tags
        report["audience"] = results.audience(config, shop, version)
        rows = gallery.of_shoppers(config, shop, version, systems[results.OURS])
    return _finish(report, directory, version, rows)


def _search_only(config: Config, shop: Catalogue, clock: _Clock, directory: Path, argv: list[str]) -> Path:
    """Returns the exported version of a catalogue that nobody has shopped in yet: it is searched by its content."""
    with clock("align"):
        shop, aligner, curves = stages.align_catalogue(config, shop, directory=directory)
    with clock("hear"):
        ears = stages.hear(config, aligner, directory=directory)
    with clock("tag"):
        tags = stages.tag(config, shop, aligner, directory=directory)
    with clock("export"):
        search = stages.make_search(aligner, ears=ears)
        service = ContentService(search, aligner.content, shop.encoders, ids=shop.dataset.items.ids)
        version = _export(config, service, shop)
    with clock("evaluate"):
        shown = {**curves, "hearing": ears.curves if ears else {}}
        report = results.search_report(config, shop, aligner, ears=ears, curves=shown, timings=clock.seconds, argv=argv)
        report["tagging"] = tags
    return _finish(report, directory, version, gallery.of_searches(config, shop, aligner))


def _rank_only(config: Config, clock: _Clock, argv: list[str]) -> Path:
    """Returns the exported version of a ranker of lists that somebody else retrieves and has judged."""
    if config.data_dir is None:
        raise ValueError("data_dir: expected a folder of LETOR files, got none. Give --data_dir DIR.")
    with clock("load"):
        parts = letor.load(config.data_dir, subset=config.subset)
        mark = parts.fingerprint()
        directory = config.runs / (config.run or f"{parts.name}-{mark[:8]}-seed{config.seed}")
        _start(config, directory, fingerprint=mark)
        where = config.records / f"{parts.name}-{mark[:8]}"
        ranking.write(parts, where)
    with clock("train ranker"):
        fitted = ranking.fit(config, parts, where, directory=directory)
    with clock("export"):
        requests = ranker.warmup_requests(fitted.ranker, ranking.warmup_examples(parts))
        version = export(
            fitted.ranker,
            config.saved_models / MODEL,
            beside=lambda path: write_warmup(path, requests, name=MODEL),
        )
        write_models_config(config.saved_models)
    with clock("evaluate"):
        report = judging.build_report(
            config,
            parts,
            ranking.score_all(version, parts, has_trees=fitted.forest is not None),
            settings=ranking.chosen_settings(fitted, parts.validation),
            curves=fitted.curves,
            timings=clock.seconds,
            argv=argv,
        )
    return _finish(report, directory, version, [])


def _export(config: Config, service: Storefront, shop: Catalogue) -> Path:
    version = export(service, config.saved_models / MODEL, beside=lambda path: _beside(path, shop))
    write_models_config(config.saved_models)
    return version


def _finish(report: dict[str, Any], directory: Path, version: Path, rows: list[GalleryRow]) -> Path:
    """Returns the version, after the report is written and its headline and all paths are shown."""
    paths = write_report(report, directory, gallery=rows)
    headline(report, console)
    for name, path in (("model", version), ("report", paths[1]), ("numbers", paths[0])):
        console.print(f"{name:<8} {path}", highlight=False, soft_wrap=True)
    return version


def _show_findings(shop: Catalogue) -> None:
    for finding in shop.dataset.findings:
        _log.warning("%s", finding)


def _start(config: Config, directory: Path, *, fingerprint: str) -> None:
    """Writes `run.json`; a run that is resumed must be the same run.

    Raises:
        ValueError: `--resume` with other settings than the run began with.
    """
    path = directory / "run.json"
    settings = {name: value for name, value in config.to_dict().items() if name != "resume"}
    settings = json.loads(json.dumps(settings, default=str))
    if config.resume and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))["configuration"]
        other = sorted(name for name in settings if settings[name] != before.get(name))
        if other:
            raise ValueError(
                f"Expected --resume with the settings of {path}, got other values of {', '.join(other)}; leave "
                f"--resume out to begin anew, or name another --run."
            )
    packages = ("tensorflow", "keras", "tensorflow-recommenders", "tensorflow-ranking", "numpy")
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
    content = {"configuration": settings, "seed": config.seed, "versions": versions, "data": fingerprint}
    write_text(path, json.dumps(content, indent=2) + "\n")


def _beside(path: Path, shop: Catalogue) -> None:
    """Writes into a version what a server and a person need beside the graph: warm-up requests and a catalogue."""
    items = shop.dataset.items
    pictures = (items.images.read(row) for row in range(len(items)))
    write_catalogue(path / "assets.extra", list(items.ids), list(items.titles), pictures)
    write_warmup(path, stages.warmup_requests(shop), name=MODEL)


class _Clock:
    """Names stages as they begin, and remembers how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        _log.info("[%d] %s", len(self.seconds) + 1, stage)
        started = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - started
