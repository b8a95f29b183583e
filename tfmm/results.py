"""What the report says: every system measured on the test queries, put together by the contract of `report.json`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from tfmm import evaluation, schema, stages
from tfmm.alignment import Aligner
from tfmm.asking import Table, ask_tables, spoken_tables, typed
from tfmm.audience import audience_table
from tfmm.config import Config
from tfmm.encoders.sound import SoundConfig
from tfmm.evaluation import KS, Baseline, Lists
from tfmm.hearing import Hearing, listen
from tfmm.ragged import Ragged
from tfmm.retrieval import Retriever
from tfmm.sources.spoken import SpokenQueries
from tfmm.splits import Queries
from tfmm.stages import Catalogue, Ears, Shop

OURS = "retrieval+reranker"
RETRIEVAL = "retrieval"


def recommend_all(config: Config, shop: Shop, version: Path, baselines: Mapping[str, Baseline]) -> dict[str, Lists]:
    """Returns what each system recommends to the test queries: the baselines, and both stages of the export."""
    queries = shop.parts.test
    systems = {name: baseline.lists(queries) for name, baseline in baselines.items()}
    for name, signature in ((RETRIEVAL, "retrieve"), (OURS, "recommend")):
        systems[name] = evaluation.exported_lists(
            version,
            shop.wire(queries),
            shop.dataset.items.ids,
            signature=signature,
            batch_size=config.evaluation.batch_size,
        )
    return systems


def audience(config: Config, shop: Shop, version: Path) -> Table:
    """Returns how well products find the test shoppers who want them next."""
    queries, ids = shop.parts.test, shop.dataset.items.ids
    predict = functools.partial(evaluation.ask, version, signature="audience")
    return audience_table(predict, shop.wire(queries), queries, ids, seed=config.seed)


class Asked(NamedTuple):
    """How well search finds: kinds of query x metrics, and what a history changes."""

    table: Table
    comparisons: list[dict]


def ask_all(
    config: Config, shop: Shop, version: Path, aligner: Optional[Aligner], ears: Optional[Ears]
) -> Optional[Asked]:
    """Returns how well search finds what test shoppers ask for, if anything can be asked.

    Beside the kinds of query: each shopper types two words for the first target. The export is asked with the words,
    with the history, and with both; what the shopper has had is never an answer.
    """
    if aligner is None:
        return None
    table = asking_tables(config, shop, aligner, ears)
    queries, words = typed(aligner, shop.parts.test)
    if not len(queries):
        return Asked(table, [])
    whole = {**shop.wire(queries), schema.QUERY_TEXT: words}
    nothing = Ragged.from_rows([[]] * len(queries), object)
    unknown = {schema.HISTORY: nothing, schema.HISTORY_TIMES: nothing, schema.HISTORY_EVENTS: nothing}
    wires = {
        "two words typed": {**whole, **unknown, schema.EXCLUDE: whole[schema.HISTORY]},
        "the history": {name: column for name, column in whole.items() if name != schema.QUERY_TEXT},
        "two words and the history": whole,
    }
    size, ids, found = config.evaluation.batch_size, shop.dataset.items.ids, {}
    for name, wire in wires.items():
        found[name] = evaluation.exported_lists(version, wire, ids, signature="recommend", batch_size=size)
        table[f"{name} -> the next item"] = _brief(found[name], queries)
    both, others = "two words and the history", ("two words typed", "the history")
    pairs = [evaluation.compare(found[both], found[name], queries, names=(both, name)) for name in others]
    return Asked(table, pairs)


def build_report(
    config: Config,
    shop: Shop,
    systems: Mapping[str, Lists],
    *,
    baselines: Mapping[str, Baseline],
    retriever: Retriever,
    asked: Optional[Asked],
    curves: Mapping[str, Any],
    timings: Mapping[str, float],
    directory: Path,
    argv: list[str],
) -> dict[str, Any]:
    """Returns `report.json` as a value."""
    queries, dataset = shop.parts.test, shop.dataset
    parts = evaluation.slices(
        queries, shop.parts.refit, num_items=len(shop.table), tail_share=config.evaluation.tail_share
    )
    popularity = np.bincount(shop.parts.refit.item, minlength=len(shop.table)).astype(np.float32)
    vectors = retriever.corpus_vectors().numpy()
    entries = {
        name: evaluation.summary(lists, queries, parts, vectors=vectors, popularity=popularity)
        for name, lists in systems.items()
    }
    for name, baseline in baselines.items():
        entries[name]["settings"] = dict(baseline.settings)
    report: dict[str, Any] = {
        "schema_version": 1,
        "dataset": describe(shop),
        "protocol": protocol_of(shop),
        "models": entries,
        "comparisons": _comparisons(systems, queries),
        "ablations": _ablations(config, shop, retriever, directory),
        "robustness": _robustness(config, shop, retriever),
        "by_k": {name: _by_k(entry["metrics"]) for name, entry in entries.items()},
        "curves": dict(curves),
        "timings": dict(timings),
        "findings": [dataclasses.asdict(finding) for finding in dataset.findings],
        "configuration": config.to_dict(),
        "reproduce": ["python train.py " + " ".join(argv)],
    }
    if asked is not None:
        report["asking"] = asked.table
        report["comparisons"] += asked.comparisons
    if dataset.true_utility is not None:
        report["attainable"] = _attainable(shop, entries[OURS]["metrics"])
    return report


def protocol_of(shop: Shop) -> dict[str, Any]:
    """Returns how the shop was cut and systems are measured, in words and numbers."""
    queries = shop.parts.test
    return {
        **shop.parts.protocol,
        "queries": len(queries),
        "shoppers": len(np.unique(queries.user)),
        "ranking": "the whole catalogue; items of the history are excluded; ties are broken against us",
        "intervals": "95% percentile bootstrap over shoppers",
    }


def search_report(
    config: Config,
    shop: Catalogue,
    aligner: Aligner,
    *,
    ears: Optional[Ears],
    curves: Mapping[str, Any],
    timings: Mapping[str, float],
    argv: list[str],
) -> dict[str, Any]:
    """Returns `report.json`, as a value, of a catalogue without shoppers."""
    asking = shop.asking
    return {
        "schema_version": 1,
        "dataset": describe(shop),
        "protocol": {
            "products trained on": len(asking.train),
            "products of validation": len(asking.validation),
            "products of test": len(asking.test),
            "ranking": "every product that has what the index holds; ties are broken against us",
            "intervals": "95% percentile bootstrap over queries",
        },
        "models": {},
        "asking": asking_tables(config, shop, aligner, ears),
        "ablations": {},
        "curves": dict(curves),
        "timings": dict(timings),
        "findings": [dataclasses.asdict(finding) for finding in shop.dataset.findings],
        "configuration": config.to_dict(),
        "reproduce": ["python train.py " + " ".join(argv)],
    }


def asking_tables(config: Config, shop: Catalogue, aligner: Aligner, ears: Optional[Ears]) -> Table:
    """Returns every kind of query x metrics, on products whose content was not trained on."""
    fields = tuple(config.evaluation.fields.split(",")) if config.evaluation.fields else ()
    fields = fields or tuple(shop.dataset.items.categorical)[:2]
    table = ask_tables(aligner, shop.dataset, shop.asking, fields=fields)
    if ears is not None:
        heard = spoken_vectors(ears.hearing, ears.unseen, config.sound)
        table.update(spoken_tables(aligner, shop.dataset, ears.unseen, heard))
    return table


def spoken_vectors(hearing: Hearing, spoken: SpokenQueries, config: SoundConfig) -> np.ndarray:
    """Returns `[queries, dim]` of recordings, zero where one cannot be read."""
    vectors, _ = hearing(listen(spoken.sounds, config))
    return vectors.numpy()


def describe(shop: Catalogue) -> dict[str, Any]:
    """Returns what the data is and how much of it there is."""
    dataset, table = shop.dataset, shop.table
    cold = {"cold items": int(shop.parts.cold_items(len(table)).sum())} if isinstance(shop, Shop) else {}
    present = {f"items with {name}": int(mask.sum()) for name, mask in table.present.items()}
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "items": len(dataset.items),
        "users": len(dataset.users),
        "interactions": len(dataset.interactions),
        **cold,
        **present,
    }


def _comparisons(systems: Mapping[str, Lists], queries: Any) -> list[dict[str, Any]]:
    against = [(OURS, name) for name in systems if name != OURS]
    against += [(RETRIEVAL, name) for name in systems if name not in (OURS, RETRIEVAL)]
    return [evaluation.compare(systems[a], systems[b], queries, names=(a, b)) for a, b in against]


def _by_k(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {str(k): metrics[f"{name}@{k}"] for k in KS} for name in ("ndcg", "recall")}


def _ablations(config: Config, shop: Shop, retriever: Retriever, directory: Path) -> dict[str, Any]:
    """Returns what retrieval alone loses without each modality, and what each does alone if that was asked for."""
    wanted, queries = config.evaluation.ablations, shop.parts.test
    if wanted == "none":
        return {}
    hidden = evaluation.hidden_modalities(retriever, queries, shop.context)
    groups = {"taken away at test time": {name: _brief(lists, shop.parts.test) for name, lists in hidden.items()}}
    if wanted == "retrain":
        modalities = retriever.towers.candidate.modalities
        alone = groups["trained on these alone"] = {}
        for chosen in (modalities, *((name,) for name in modalities)):
            ablated = stages.train_ablated(config, shop, chosen, directory=directory)
            lists = evaluation.retrieval_lists(ablated, queries, shop.context)
            alone["all" if chosen == modalities else chosen[0]] = _brief(lists, shop.parts.test)
    return groups


_ASKED_WITHOUT = 1000  # queries that the curve of missing modalities is measured on, at most


def _robustness(config: Config, shop: Shop, retriever: Retriever) -> dict[str, Any]:
    """Returns, for each modality, what retrieval alone is worth when a share of the items lacks it."""
    if config.evaluation.ablations == "none":
        return {}
    chosen = np.random.default_rng(config.seed).permutation(len(shop.parts.test))[:_ASKED_WITHOUT]
    queries = shop.parts.test.take(np.sort(chosen))
    curves: dict[str, Any] = {}
    for name, share, lists in evaluation.robustness(retriever, queries, shop.context, seed=config.seed):
        curves.setdefault(name, {})[f"{share:.0%}"] = _brief(lists, queries)["ndcg@10"]
    return curves


def _brief(lists: Lists, queries: Queries) -> dict[str, Any]:
    found = evaluation.measure(lists, queries.targets)
    return {name: evaluation.interval(found[name], queries.user) for name in ("ndcg@10", "recall@10")}


def _attainable(shop: Shop, ours: Mapping[str, Any]) -> dict[str, Any]:
    utility: np.ndarray = shop.dataset.true_utility  # type: ignore[assignment]
    lists = evaluation.attainable_lists(shop.parts.test, utility, shop.table.launched)
    best = _brief(lists, shop.parts.test)
    return {**best, "share": ours["ndcg@10"]["mean"] / max(best["ndcg@10"]["mean"], 1e-12)}
