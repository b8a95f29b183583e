"""The headline table as a person reads it when a run ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tfmm.report.text import conditions, verdict

_SHOWN = ("ndcg@10", "recall@10", "mrr@10", "coverage@10", "diversity@10")
_TUNED = " (tuned)"
_SHOWN_OF_LISTS = ("ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10", "mrr@10", "map@10")


def headline(report: Mapping[str, Any], console: Console) -> None:
    """Prints every system with its metrics, the best in bold, what is attainable, and what was compared."""
    if report["models"]:
        _show_models(report, console)
    if report.get("asking"):
        title = "typed, shown or said, where what gives the answer away is hidden"
        _show_kinds(report["asking"], console, title=title, first="query -> index", unit="queries")
    if report.get("tagging"):
        _show_kinds(report["tagging"], console, title="attributes told", first="field", unit="products")


def comparison(found: Mapping[str, Any], console: Console) -> None:
    """Prints every system that was compared, the best first, and how far each is from the reference."""
    protocol, reference = found["protocol"], found["reference"]
    table = Table(
        title=f"{protocol['queries']} test queries of {protocol['shoppers']} shoppers, whole catalogue ranked",
        caption=f"{escape(conditions(protocol))}\nA difference below what could be detected is no win. "
        "Epochs and settings were chosen on validation."
        + (f" {_TUNED[1:]}: with settings that tfmm tune chose there." if _any_tuned(found) else ""),
    )
    table.add_column("system", no_wrap=True)
    for name in ("ndcg@10", "recall@10", f"above {reference}", "p", "detectable", "seconds"):
        table.add_column(name, justify="right")
    against = {row["a"]: row for row in found["comparisons"]}
    systems = sorted(found["systems"].items(), key=lambda pair: -pair[1]["metrics"]["ndcg@10"]["mean"])
    for name, entry in systems:
        cells = [_cell(entry["metrics"][metric]) for metric in ("ndcg@10", "recall@10")]
        took = f"{entry['seconds']:.0f}" if "seconds" in entry else ""
        shown = name + _TUNED * ("tuned" in entry)
        table.add_row(shown, *cells, *_difference(against.get(name)), took, style="bold" if name == reference else "")
    console.print(table)


def _any_tuned(found: Mapping[str, Any]) -> bool:
    return any("tuned" in entry for entry in found["systems"].values())


def tuning(found: Mapping[str, Any], console: Console) -> None:
    """Prints what tuning gained each system on validation, and the settings that it found."""
    table = Table(
        title=f"ndcg@10 of {found['queries']} validation queries of {found['dataset']}",
        caption="Validation figures, the best of many on the same queries, and so optimistic. The test was not read: "
        "tfmm compare --tuned FILE measures on it.",
    )
    table.add_column("system", no_wrap=True)
    for name in ("default", "tuned", "gain", "trials", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("best settings")
    for name, study in found["systems"].items():
        figures = (f"{study.default:.4f}", f"{study.best:.4f}", f"{study.best - study.default:+.4f}")
        trials = f"{study.trials}" + (f" ({study.failed} failed)" if study.failed else "")
        settings = ", ".join(f"{setting} {_short(value)}" for setting, value in study.settings.items())
        table.add_row(name, *figures, trials, f"{study.seconds:.0f}", settings)
    console.print(table)


def _short(value: Any) -> str:
    return ", ".join(map(_short, value)) if isinstance(value, tuple) else f"{value}"


def _difference(row: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if row is None:
        return "", "", ""
    low, high = row["ci95"]
    ends = rf"{row['difference']:+.4f} \[{low:+.4f}, {high:+.4f}]"
    return ends, f"{row['p']:.4f}", f"{row['minimum_detectable_effect']:.4f}"


def _show_kinds(kinds: Mapping[str, Any], console: Console, *, title: str, first: str, unit: str) -> None:
    """Prints one row a kind of question."""
    metrics = list(dict.fromkeys(name for found in kinds.values() for name in found))
    table = Table(title=title)
    table.add_column(first, no_wrap=True)
    for name in (*metrics, unit):
        table.add_column(name, justify="right")
    for kind, found in kinds.items():
        cells = (_cell(found[name]) if name in found else "" for name in metrics)
        table.add_row(kind, *cells, str(next(iter(found.values()))["n"]))
    console.print(table)


def _show_models(report: Mapping[str, Any], console: Console) -> None:
    protocol = report["protocol"]
    lists = "shoppers" not in protocol
    asked = "lists of documents" if lists else f"of {protocol['shoppers']} shoppers, whole catalogue ranked"
    table = Table(title=f"{protocol['queries']} test queries {asked}", caption=escape(conditions(protocol)))
    table.add_column("system", no_wrap=True)
    shown = _SHOWN_OF_LISTS if lists else _SHOWN
    for name in shown:
        table.add_column(name, justify="right")
    best = {name: max(model["metrics"][name]["mean"] for model in report["models"].values()) for name in shown}
    for system, model in report["models"].items():
        cells = (_cell(model["metrics"][name], best=best[name]) for name in shown)
        table.add_row(system, *cells)
    attainable = report.get("attainable")
    if attainable:
        cells = (_cell(attainable[name]) if name in attainable else "" for name in _SHOWN)
        table.add_row("attainable", *cells, style="dim")
    console.print(table)
    if attainable:
        console.print(f"retrieval+reranker reaches {attainable['share']:.0%} of the attainable ndcg@10")
    for row in report.get("comparisons", ()):
        if row["a"] != "retrieval" and row["metric"] == "ndcg@10":
            console.print(verdict(row)[1], markup=False)


def _cell(statistic: Mapping[str, Any], *, best: float | None = None) -> str:
    """Returns "mean [low, high]", in bold where the mean is the best."""
    text = f"{statistic['mean']:.4f}"
    low, high = statistic.get("ci95", (None, None))
    if low is not None and low != high:
        text += f" [{low:.3f}, {high:.3f}]"
    text = text.replace("[", r"\[")
    return f"[bold]{text}[/]" if statistic["mean"] == best else text
