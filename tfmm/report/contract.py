"""Checks `report.json`: what must be in it, that every number is finite, and that it is plain JSON."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

SCHEMA_VERSION = 1
REQUIRED = ("schema_version", "dataset", "protocol", "models", "ablations", "timings")
OPTIONAL = (
    "comparisons",
    "attainable",
    "curves",
    "findings",
    "configuration",
    "reproduce",
    "by_k",
    "asking",
    *("robustness", "tagging", "audience"),
)
MODELS = ("popularity", "item_knn", "ease", "retrieval", "retrieval+reranker")
"""What every report on shoppers compares, in the order of its table; one on a catalogue without any has no models."""

LIST_MODELS = ("best_feature", "listwise")
"""What every report on judged lists compares instead."""

_log = logging.getLogger(__name__)


def checked(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the report as plain JSON values (numpy numbers and tuples converted).

    Raises:
        ValueError: where a key or model is missing, a statistic is malformed, or a number is NaN or infinite.
        TypeError: where a value has no JSON form.
    """
    plain = _plain(report, "report")
    _check_keys(plain)
    for path, statistic in _statistics(plain):
        _check_statistic(path, statistic)
    return plain


def is_statistic(value: object) -> bool:
    """Returns whether this is `{"mean": ..., "ci95": ..., "n": ...}` rather than a level of names above it."""
    return isinstance(value, Mapping) and "mean" in value


def ablation_groups(ablations: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns `{group: {name: {metric: statistic}}}` from any of the shapes that `ablations` may have.

    These are `{name: {metric: statistic}}`, `{name: {"metrics": {metric: statistic}}}`, and either of them one level
    deeper, under the names of groups ("trained with", "dropped at test time").
    """
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name, value in ablations.items():
        metrics = _metrics_of(value)
        if metrics is not None:
            groups.setdefault("", {})[name] = metrics
            continue
        for inner, inner_value in value.items():
            inner_metrics = _metrics_of(inner_value)
            if inner_metrics is None:
                raise ValueError(
                    f"Expected ablations[{name!r}][{inner!r}] to be {{metric: {{'mean': ...}}}}, got {inner_value!r}."
                )
            groups.setdefault(name, {})[inner] = inner_metrics
    return groups


def _metrics_of(value: object) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        raise ValueError(f"Expected an ablation to be {{metric: {{'mean': ...}}}}, got {value!r}.")
    inner = value.get("metrics", value)
    return dict(inner) if inner and all(is_statistic(statistic) for statistic in inner.values()) else None


def _plain(value: Any, path: str) -> Any:
    """Returns `value` in JSON's own types; `path` says in errors where it stands."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"Expected names (str) as keys of {path}, got {key!r}.")
        return {key: _plain(inner, f"{path}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), path)
    if isinstance(value, (list, tuple)):
        return [_plain(inner, f"{path}[{number}]") for number, inner in enumerate(value)]
    if isinstance(value, np.generic):
        return _plain(value.item(), path)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"Expected a finite number at {path}, got {value}; leave out what could not be measured.")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(
        f"Expected plain values (str, number, bool, None, list, dict) at {path}, got {type(value).__name__}."
    )


def _check_keys(report: Mapping[str, Any]) -> None:
    missing = [key for key in REQUIRED if key not in report]
    if missing:
        raise ValueError(f"Expected the keys {', '.join(REQUIRED)} in a report, missing: {', '.join(missing)}.")
    if report["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"Expected schema_version {SCHEMA_VERSION}, got {report['schema_version']!r}.")
    for key in report:
        if key not in REQUIRED + OPTIONAL:
            near = difflib.get_close_matches(key, REQUIRED + OPTIONAL, n=1)
            _log.warning("report key %r is kept, but no part of the page shows it%s", key, _perhaps(near))
    wanted = LIST_MODELS if LIST_MODELS[-1] in report["models"] else MODELS
    missing = [name for name in wanted if name not in report["models"]]
    if missing and (report["models"] or not report.get("asking")):
        raise ValueError(
            f"Expected the models {', '.join(wanted)} in a report, missing: {', '.join(missing)} "
            f"(there are: {', '.join(report['models']) or 'none'})."
        )


def _perhaps(near: Sequence[str]) -> str:
    return f" (perhaps {near[0]!r} was meant)" if near else ""


def _statistics(report: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields every statistic of the report with the path to it."""
    for model, values in report["models"].items():
        if not isinstance(values, Mapping) or "metrics" not in values:
            raise ValueError(f"Expected models[{model!r}] to hold 'metrics', got {values!r}.")
        yield from _under(values["metrics"], f"models[{model!r}]['metrics']")
        for name, metrics in values.get("slices", {}).items():
            yield from _under(metrics, f"models[{model!r}]['slices'][{name!r}]")
    for group, members in ablation_groups(report["ablations"]).items():
        for name, metrics in members.items():
            yield from _under(metrics, f"ablations[{group!r}][{name!r}]")
    for model, metrics in report.get("by_k", {}).items():
        for metric, by_k in metrics.items():
            yield from _under(by_k, f"by_k[{model!r}][{metric!r}]")
    for kind, metrics in report.get("asking", {}).items():
        yield from _under(metrics, f"asking[{kind!r}]")
    for field, metrics in report.get("tagging", {}).items():
        yield from _under(metrics, f"tagging[{field!r}]")
    for system, metrics in report.get("audience", {}).items():
        yield from _under(metrics, f"audience[{system!r}]")
    for modality, shares in report.get("robustness", {}).items():
        yield from _under(shares, f"robustness[{modality!r}]")
    attainable = {name: value for name, value in report.get("attainable", {}).items() if name != "share"}
    yield from _under(attainable, "attainable")


def _under(metrics: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, statistic in metrics.items():
        yield f"{path}[{name!r}]", statistic


def _check_statistic(path: str, statistic: Any) -> None:
    if not is_statistic(statistic) or not isinstance(statistic["mean"], (int, float)):
        raise ValueError(
            f"Expected {path} to be {{'mean': number, 'ci95': [low, high], 'n': count}}, got {statistic!r}."
        )
    interval = statistic.get("ci95")
    if interval is not None and not (len(interval) == 2 and interval[0] <= interval[1]):
        raise ValueError(f"Expected {path}['ci95'] to be [low, high] with low <= high, got {interval!r}.")
