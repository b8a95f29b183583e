"""Numbers in, inline SVG out, by matplotlib; the only module that imports it.

Colours in the figures stand for CSS variables, so that one SVG serves light and dark pages; text stays text and takes
the page's font, so that Chinese shows and readers can select it.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfmm.report import text
from tfmm.report.contract import MODELS

_WIDTH = 5.2  # inches of 72 units: near the width of a phone, so that text is never scaled down much
_INK, _MUTED, _GRID = "#010001", "#010002", "#010003"  # stand for the CSS variables --ink, --muted, --line
_VARIABLES = {_INK: "var(--ink)", _MUTED: "var(--muted)", _GRID: "var(--line)"}
_MARKERS = "osD^vP*X"
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=[_INK]),  # what no call colours
}


def series(models: Iterable[str]) -> dict[str, int]:
    """Returns which of the 8 colours and markers each model has: the same in every plot for those of every report."""
    own = {name: number for number, name in enumerate(reversed(MODELS))}
    others = itertools.cycle(range(len(own), 8))
    return {name: own[name] if name in own else next(others) for name in models}


def by_k(values: Mapping[str, Mapping[str, Any]], *, metric: str) -> str:
    """Returns a line plot of one metric over the length of the list, one line a model.

    Args:
        values: model -> `{"1": statistic, "5": statistic, ...}`.
        metric: its name without the k.
    """
    ks = sorted({k for by_length in values.values() for k in by_length}, key=int)
    description = f"{metric} by length of the list for {', '.join(values)}"
    look = series(values)
    return _lines(values, ks, look=look, xlabel="k, length of the list", ylabel=f"{metric}@k", description=description)


def robustness(values: Mapping[str, Mapping[str, Any]], *, metric: str) -> str:
    """Returns a line plot of one metric over the share of items that lack a modality, one line a modality.

    Args:
        values: modality -> `{"0%": statistic, "25%": statistic, ...}`.
        metric: e.g. "ndcg@10".
    """
    shares = sorted({share for by_share in values.values() for share in by_share}, key=lambda share: float(share[:-1]))
    description = f"{metric} by share of items that lack {', '.join(values)}"
    look = {name: number % 8 for number, name in enumerate(values)}
    return _lines(values, shares, look=look, xlabel="items without it", ylabel=metric, description=description)


def _lines(
    values: Mapping[str, Mapping[str, Any]],
    ticks: Sequence[str],
    *,
    look: Mapping[str, int],
    xlabel: str,
    ylabel: str,
    description: str,
) -> str:
    """Returns one line with error bars a name, over ticks that stand equally far apart."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(3.5)
        for number, (name, by_tick) in enumerate(values.items()):
            places = [place for place, tick in enumerate(ticks) if tick in by_tick]
            means, errors = _bars([by_tick[ticks[place]] for place in places])
            shift = 0.06 * (number - (len(values) - 1) / 2)  # keeps error bars from hiding each other
            axes.errorbar(
                np.array(places) + shift, means, errors, label=name, capsize=2, lw=1.8, **_look(look[name], 5)
            )
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside lower center", ncols=2)
        return _svg(figure, description)


def slices(models: Mapping[str, Mapping[str, Any]], *, metric: str) -> str:
    """Returns grouped bars with error bars: one group a slice of the queries, one bar a model.

    Args:
        models: model -> slice -> statistic of this metric.
        metric: e.g. "ndcg@10".
    """
    names = list(dict.fromkeys(name for values in models.values() for name in values))
    height, look = 0.8 / len(models), series(models)
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(1.0 + 0.14 * len(names) * (len(models) + 1.2))
        for number, (model, values) in enumerate(models.items()):
            places = np.array([place for place, name in enumerate(names) if name in values])
            means, errors = _bars([values[name] for name in names if name in values])
            offset = height * (number - (len(models) - 1) / 2)
            axes.barh(
                places + offset,
                means,
                height * 0.9,
                xerr=errors,
                label=model,
                color=_colour(look[model]),
                error_kw=_error_bars(),
            )
        counts = [next((v[name].get("n") for v in models.values() if name in v), None) for name in names]
        _name_rows(axes, [name if n is None else f"{name}\nn = {n:,}" for name, n in zip(names, counts)])
        axes.set(xlabel=metric)
        figure.legend(loc="outside lower center", ncols=2)
        return _svg(figure, f"{metric} by slice of the queries for {', '.join(models)}")


def ablations(values: Mapping[str, Any], *, metric: str) -> str:
    """Returns one bar with its error a variant, and its value beside it.

    Args:
        values: variant -> statistic of this metric.
        metric: e.g. "ndcg@10".
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(0.8 + 0.34 * len(values))
        means, errors = _bars(list(values.values()))
        axes.barh(range(len(values)), means, 0.62, xerr=errors, color=_colour(0), error_kw=_error_bars())
        places = text.decimals(means)
        for place, (mean, error) in enumerate(zip(means, errors[1])):
            label = text.number(mean, places)
            axes.annotate(label, (mean + error, place), (5, 0), textcoords="offset points", va="center", color=_INK)
        _name_rows(axes, list(values))
        axes.margins(x=0.16)
        axes.set(xlabel=metric)
        return _svg(figure, f"{metric} of the variants {', '.join(values)}")


def curves(lines: Mapping[str, Sequence[float | None]], *, stage: str) -> str:
    """Returns one panel a series over the epochs, its best epoch marked (lowest for losses, else highest)."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.5 + 1.45 * len(lines)), layout="constrained")
        panels = figure.subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(panels, lines.items()):
            _curve(axes, name, np.array(values, dtype=float))
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure, f"training of {stage}: {', '.join(lines)} by epoch")


def _curve(axes: Axes, name: str, values: np.ndarray) -> None:
    epochs = np.arange(1, len(values) + 1)
    axes.plot(epochs, values, lw=1.8, **_look(0, 3))
    axes.set_title(name, loc="left", fontsize=10.5)
    if not np.isnan(values).all():
        best = int(np.nanargmin(values) if "loss" in name else np.nanargmax(values))
        axes.plot(epochs[best], values[best], "o", color=_INK, ms=8, mfc="none", mew=1.4)
        label = f"best {text.number(values[best], text.decimals(values[~np.isnan(values)]))} in epoch {best + 1}"
        axes.set_title(label, loc="right", fontsize=9.5, color=_MUTED)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _colour(number: int) -> str:
    """Returns what stands for the CSS variable `--series-<number>`."""
    return f"#0101{number:02d}"


def _look(number: int, size: float) -> dict[str, Any]:
    return {"color": _colour(number), "marker": _MARKERS[number % len(_MARKERS)], "markersize": size}


def _error_bars() -> dict[str, Any]:
    return {"ecolor": _INK, "elinewidth": 1.0, "capsize": 2}


def _bars(statistics: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[n]` means, and `[2, n]` how far the interval reaches below and above (0 where there is none)."""
    means = np.array([statistic["mean"] for statistic in statistics], dtype=float)
    ends = [statistic.get("ci95") or (statistic["mean"],) * 2 for statistic in statistics]
    reach = np.abs(np.array(ends, dtype=float).reshape(-1, 2).T - means)
    return means, reach


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _svg(figure: Figure, description: str) -> str:
    """Returns the figure as an `<svg>` element that fits its container, with a description for who cannot see it."""
    out = io.BytesIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": description}):
        warnings.filterwarnings("ignore", message="Glyph")  # measured in another font; the browser has its own
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    referenced = set(re.findall(r'href="#([^"]+)|url\(#([^)]+)', svg))
    kept = {name for pair in referenced for name in pair}
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in kept else "", svg)  # figures share names
    svg = re.sub(r'font-family: [^;"]*;?', "", re.sub(r'font: ([\d.]+px)[^;"]*', r"font-size: \1", svg))
    svg = re.sub(r"#0101(\d\d)", lambda found: f"var(--series-{int(found[1])})", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    opening = f'<svg role="img" aria-label={quoteattr(description)} viewBox="{_view_box(svg)}">'
    return re.sub(r"\s*\n\s*", "\n", opening + svg[svg.index(">") + 1 :])


def _view_box(svg: str) -> str:
    found = re.search(r'viewBox="([^"]+)"', svg)
    if found is None:
        raise ValueError(f"Expected matplotlib to write a viewBox, got {svg[:200]!r}.")
    return found[1]
