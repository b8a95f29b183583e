"""A checked report in, the page's HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from tfmm.report import plots, text
from tfmm.report.contract import MODELS, OPTIONAL, ablation_groups
from tfmm.report.gallery import GalleryRow, thumbnail

OURS = "retrieval+reranker"
_PRIMARY = "ndcg@10"
_BASELINES = ("popularity", "recent_popularity", "item_knn", "ease", "transitions")
_STAGES = tuple(name for name in MODELS if name not in _BASELINES)
_FOLDER = Path(__file__).parent
_ELSEWHERE = ("hit_rate", "precision", "serendipity")  # in the table of all metrics: this one must fit the page
_SHOWN = 12  # items of a history


def render(report: Mapping[str, Any], gallery: Sequence[GalleryRow]) -> str:
    """Returns `index.html`, everything in it: styles, plots and pictures."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(plain=text.plain, label=_label, breakable=_breakable, thumbnail=thumbnail)
    models = in_order(report["models"])
    return environment.get_template("page.html").render(
        report={**dict.fromkeys(OPTIONAL), **report},
        style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
        figures=key_figures(report),
        conditions=text.conditions(report["protocol"]),
        verdicts=[_verdict(comparison) for comparison in report.get("comparisons", [])],
        primary=_PRIMARY,
        headline=headline(report, models),
        everything=table(models, sorted({name for model in models.values() for name in model["metrics"]}, key=_place)),
        glossary=text.GLOSSARY,
        by_k=_by_k_plots(report.get("by_k", {})),
        slices=_slice_plots(models),
        slice_table=_slice_table(models),
        asking=_kinds_table(report.get("asking", {})),
        tagging=_kinds_table(report.get("tagging", {})),
        audience=_kinds_table(report.get("audience", {})),
        ablations=_ablation_plots(report["ablations"]),
        robustness=_robustness_plot(report.get("robustness", {})),
        curves=[
            Markup(plots.curves(series, stage=name)) for name, series in report.get("curves", {}).items() if series
        ],
        stages=[name for name, series in report.get("curves", {}).items() if series],
        gallery=gallery,
        shown=_SHOWN,
    )


def in_order(models: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the models as they are read: baselines, others, then ours, each stage after the one it builds on."""
    others = [name for name in models if name not in _BASELINES + _STAGES]
    names = [*_BASELINES, *others, *_STAGES]
    return {name: models[name] for name in names if name in models}


def table(models: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """Returns columns and rows of means with intervals; the best of each column that judges is marked."""
    places = {metric: text.decimals(_means(models, metric)) for metric in metrics}
    best = {metric: max(_means(models, metric), default=None) for metric in metrics if not _describes(metric)}
    rows = []
    for name, model in models.items():
        cells = [_cell(model["metrics"].get(metric), places[metric], best.get(metric)) for metric in metrics]
        rows.append({"name": name, "ours": name == OURS, "ceiling": False, "cells": cells})
    return {"columns": list(metrics), "rows": rows}


def headline(report: Mapping[str, Any], models: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the table of the metrics at the main k, with the attainable as its last row where it is known."""
    cut = _PRIMARY[_PRIMARY.index("@") :]
    known = {name for model in models.values() for name in model["metrics"]}
    main = [name for name in known if name.endswith(cut) and name.split("@")[0] not in _ELSEWHERE]
    metrics = sorted(main, key=_place)
    shown = table(models, metrics)
    attainable = {name: value for name, value in report.get("attainable", {}).items() if name != "share"}
    if attainable:
        cells = [_cell(attainable.get(metric), text.decimals(_means(models, metric)), None) for metric in metrics]
        shown["rows"].append({"name": "attainable", "ours": False, "ceiling": True, "cells": cells})
    return shown


def key_figures(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the few numbers that somebody in a hurry reads."""
    ours = report["models"].get(OURS, {}).get("metrics", {}).get(_PRIMARY)
    if ours is None:
        return []
    places = text.decimals([ours["mean"]])
    first = _figure(text.number(ours["mean"], places), f"{_PRIMARY} of {OURS}", text.interval(ours.get("ci95"), places))
    figures = [first, *_share_figure(report.get("attainable", {})), *_ratio_figure(report["models"], ours["mean"])]
    if ours.get("n"):
        figures.append(_figure(f"{ours['n']:,}", "test queries", "intervals are 95%, over queries"))
    return figures


def _share_figure(attainable: Mapping[str, Any]) -> list[dict[str, str]]:
    if attainable.get("share") is None:
        return []
    ceiling = attainable.get(_PRIMARY, {}).get("mean")
    note = (
        "" if ceiling is None else f"the best possible ranking reaches {text.number(ceiling, text.decimals([ceiling]))}"
    )
    return [_figure(f"{attainable['share']:.0%}", f"of the attainable {_PRIMARY}", note)]


def _ratio_figure(models: Mapping[str, Any], ours: float) -> list[dict[str, str]]:
    means = {name: models[name]["metrics"].get(_PRIMARY, {}).get("mean", 0.0) for name in _BASELINES if name in models}
    name = max(means, key=lambda baseline: means[baseline])
    if means[name] <= 0:
        return []
    note = f"{name} has {text.number(means[name], text.decimals([means[name]]))}"
    return [_figure(f"{ours / means[name]:.2f}×", "the best baseline", note)]


def _figure(value: str, name: str, note: str) -> dict[str, str]:
    return {"value": value, "name": name, "note": note}


def _cell(statistic: Mapping[str, Any] | None, places: int, best: float | None) -> dict[str, Any]:
    if statistic is None:
        return {"mean": "–", "interval": "", "best": False}
    ends = text.interval(statistic.get("ci95"), places)
    return {"mean": text.number(statistic["mean"], places), "interval": ends, "best": statistic["mean"] == best}


def _means(models: Mapping[str, Any], metric: str) -> list[float]:
    return [model["metrics"][metric]["mean"] for model in models.values() if metric in model["metrics"]]


def _describes(metric: str) -> bool:
    return metric.split("@")[0] in text.OF_THE_CATALOGUE


def _place(metric: str) -> tuple[int, str, int]:
    """Returns the sorting key of a metric's column: the glossary's order, then by name, then by k."""
    name, _, k = metric.partition("@")
    known = list(text.GLOSSARY)
    return (known.index(name) if name in known else len(known), name, int(k) if k.isdigit() else 0)


def _verdict(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sentence, its sign, and whether it is good, bad or no news for what this report is about."""
    side, sentence = text.verdict(comparison)
    tone = {"above": "good", "below": "bad"}.get(side, "") if comparison["a"] in _STAGES else ""
    return {"side": side, "sentence": sentence, "tone": tone, "metric": comparison["metric"]}


def _label(name: str) -> str:
    return name.replace("_", " ")


def _breakable(name: str) -> Markup:
    """Returns a model's name that a narrow column may break after "+" and "_"."""
    return escape(name).replace("+", Markup("+<wbr>")).replace("_", Markup("_<wbr>"))


def _by_k_plots(by_k: Mapping[str, Any]) -> list[Markup]:
    ordered = in_order(by_k)
    metrics = list(dict.fromkeys(metric for values in ordered.values() for metric in values))
    shown = ({model: values[metric] for model, values in ordered.items() if metric in values} for metric in metrics)
    return [Markup(plots.by_k(values, metric=metric)) for metric, values in zip(metrics, shown)]


def _slices_of(models: Mapping[str, Any], metric: str) -> dict[str, dict[str, Any]]:
    """Returns model -> slice -> statistic, of the models that have any."""
    found = {
        name: {part: metrics[metric] for part, metrics in model.get("slices", {}).items() if metric in metrics}
        for name, model in models.items()
    }
    return {name: parts for name, parts in found.items() if parts}


def _slice_plots(models: Mapping[str, Any]) -> list[Markup]:
    shown = ((metric, _slices_of(models, metric)) for metric in (_PRIMARY, "recall@10"))
    return [Markup(plots.slices(parts, metric=metric)) for metric, parts in shown if parts]


def _slice_table(models: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers behind the first slice plot: one row a slice, one column a model."""
    found = _slices_of(models, _PRIMARY)
    names = list(dict.fromkeys(part for parts in found.values() for part in parts))
    places = text.decimals([statistic["mean"] for parts in found.values() for statistic in parts.values()])
    rows = []
    for name in names:
        means = [parts[name]["mean"] for parts in found.values() if name in parts]
        cells = [_cell(parts.get(name), places, max(means)) for parts in found.values()]
        rows.append({"name": name, "ours": False, "ceiling": False, "cells": cells})
    return {"columns": list(found), "rows": rows}


def _kinds_table(kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Returns one row a kind of question; kinds are no rivals, so that no cell is the best."""
    metrics = sorted({name for found in kinds.values() for name in found}, key=_place)
    rows = [
        {
            "name": kind,
            "ours": False,
            "ceiling": False,
            "cells": [_cell(found.get(metric), 3, None) for metric in metrics],
        }
        for kind, found in kinds.items()
    ]
    return {"columns": metrics, "rows": rows}


def _robustness_plot(curves: Mapping[str, Any]) -> Markup | None:
    return Markup(plots.robustness(curves, metric=_PRIMARY)) if curves else None


def _ablation_plots(ablations: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    plotted = []
    for group, variants in ablation_groups(ablations).items():
        shown = {name: metrics[_PRIMARY] for name, metrics in variants.items() if _PRIMARY in metrics}
        if shown:
            plotted.append((group, Markup(plots.ablations(shown, metric=_PRIMARY))))
    return plotted
