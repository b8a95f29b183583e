"""How judged lists are measured, and what the report says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfmm import confidence, metrics
from tfmm.config import Config
from tfmm.ragged import Ragged
from tfmm.ranker import LISTWISE, MIXTURE
from tfmm.sources.judged import JudgedLists, JudgedParts

BEST_FEATURE = "best_feature"
CUTS = (1, 3, 5, 10)
ANSWERABLE = "queries with a relevant document"

Values = dict[str, np.ndarray]
"""Metric name -> one value a query."""


def best_feature(validation: JudgedLists) -> tuple[int, int]:
    """Returns which feature (1-based) orders validation best alone, and 1 or -1: largest first or last."""
    choices = [(number, sign) for number in range(1, validation.features.shape[1] + 1) for sign in (1, -1)]
    return max(choices, key=lambda choice: mean_ndcg(validation, feature_scores(validation, *choice)))


def feature_scores(lists: JudgedLists, number: int, sign: int) -> np.ndarray:
    """Returns `[total documents]`: one feature; what is missing stands last."""
    column = sign * lists.features[:, number - 1]
    return np.where(np.isnan(column), np.finfo(np.float32).min, column)


def measure(lists: JudgedLists, scores: np.ndarray) -> Values:
    """Returns `ndcg@1` .. `ndcg@10`, `mrr@10` and `map@10`, one value a query; NaN where nothing is relevant.

    Of equal scores the less relevant comes first. NDCG's gains are 2^label - 1, its discounts 1 / log2(1 + place);
    mrr and map take labels of 1 or more for relevant.
    """
    order = np.lexsort((lists.labels, -scores, lists.documents.row_numbers))
    ranked = Ragged(lists.labels[order], lists.documents.offsets).to_dense(fill=0.0)
    ranked = np.pad(ranked, [(0, 0), (0, max(0, max(CUTS) - ranked.shape[1]))])
    relevant = ranked >= 1
    number = relevant.sum(axis=1)
    found = {f"ndcg@{k}": metrics.graded_ndcg(ranked, k=k) for k in CUTS}
    found["mrr@10"] = metrics.mrr(relevant, number, k=10)
    found["map@10"] = metrics.average_precision(relevant, number, k=10)
    return found


def with_zeros(values: Values) -> Values:
    """Returns the values with 0 for queries without a relevant document, as TF-Ranking counts them."""
    return {name: np.nan_to_num(column) for name, column in values.items()}


def mean_ndcg(lists: JudgedLists, scores: np.ndarray, *, k: int = 10) -> float:
    """Returns the mean NDCG@k; a query without a relevant document counts 0."""
    return float(with_zeros(measure(lists, scores))[f"ndcg@{k}"].mean())


def build_report(
    config: Config,
    parts: JudgedParts,
    scores: Mapping[str, np.ndarray],
    *,
    settings: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, Any],
    timings: Mapping[str, float],
    argv: list[str],
) -> dict[str, Any]:
    """Returns `report.json` as a value.

    Args:
        config: of the run.
        parts: of which the test is measured.
        scores: model -> `[total documents]` of the test.
        settings: model -> what validation chose, where it chose anything.
        curves: of training.
        timings: stage -> seconds.
        argv: what the run was started with.
    """
    values = {name: measure(parts.test, one) for name, one in scores.items()}
    entries = {name: _entry(found) for name, found in values.items()}
    for name, chosen in settings.items():
        entries[name]["settings"] = dict(chosen)
    by_k = {name: {str(k): entry["metrics"][f"ndcg@{k}"] for k in CUTS} for name, entry in entries.items()}
    return {
        "schema_version": 1,
        "dataset": describe(parts),
        "protocol": protocol_of(parts),
        "models": entries,
        "comparisons": compare_all(values),
        "ablations": {},
        "by_k": {name: {"ndcg": found} for name, found in by_k.items()},
        "curves": dict(curves),
        "timings": dict(timings),
        "findings": [],
        "configuration": config.to_dict(),
        "reproduce": ["python train.py " + " ".join(argv)],
    }


def _entry(values: Values) -> dict[str, Any]:
    """Returns a model's entry of `report.json`: both conventions for queries without a relevant document."""
    statistics = (
        {name: interval.to_dict() for name, interval in confidence.mean_intervals(kind).items()}
        for kind in (with_zeros(values), values)
    )
    counted, answerable = statistics
    return {"metrics": counted, "slices": {ANSWERABLE: answerable} if answerable else {}}


def compare_all(values: Mapping[str, Values]) -> list[dict[str, Any]]:
    """Returns the paired differences of ours from every other model, at each cut-off of NDCG."""
    ours = [name for name in (MIXTURE, LISTWISE) if name in values]
    pairs = [(a, b) for place, a in enumerate(ours) for b in values if b not in ours[: place + 1]]
    return [compare(values[a], values[b], names=(a, b), metric=f"ndcg@{k}") for a, b in pairs for k in reversed(CUTS)]


def compare(ours: Values, theirs: Values, *, names: tuple[str, str], metric: str) -> dict[str, Any]:
    """Returns the paired difference of two models on the same queries, as `report.json` holds it."""
    pair = [np.nan_to_num(values[metric]) for values in (ours, theirs)]
    return confidence.paired_difference(*pair).to_dict(names=names, metric=metric)


def describe(parts: JudgedParts) -> dict[str, Any]:
    """Returns what the data is and how much of it there is."""
    counts = {name: f"{len(one)} queries, {len(one.labels)} documents" for name, one in parts.parts().items()}
    files = {f"files of {name}": ", ".join(files) for name, files in parts.files.items()}
    missing = float(np.isnan(parts.train.features).mean())
    return {
        "name": parts.name,
        "fingerprint": parts.fingerprint(),
        **counts,
        **files,
        "features": parts.num_features,
        "missing numbers": missing,
    }


def protocol_of(parts: JudgedParts) -> dict[str, Any]:
    """Returns how models are measured, in words and numbers."""
    relevant = np.bincount(parts.test.documents.row_numbers, parts.test.labels >= 1, len(parts.test))
    return {
        "queries": len(parts.test),
        "queries without a relevant document": int((relevant == 0).sum()),
        "without a relevant document": "it counts 0, as in TF-Ranking; the slice of queries with one leaves it out",
        "ranking": "every document of a query's list; ties are broken against us",
        "ndcg": "gain 2^label - 1, discount 1 / log2(1 + place); mrr and map: labels of 1 or more are relevant",
        "intervals": "95% percentile bootstrap over queries",
    }
