"""Numbers and comparisons as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

GLOSSARY = {
    "ndcg": "how near the top the right items stand; 1 = all of them first",
    "recall": "share of the right items that are in the list",
    "hit_rate": "share of queries with at least one right item in the list",
    "precision": "share of the list that is right",
    "mrr": "1 / place of the first right item",
    "map": "mean precision at the places of the right items",
    "coverage": "share of the catalogue that anybody is shown",
    "diversity": "how unlike each other the items of one list are (1 - cosine)",
    "novelty": "how rare what is shown is, in bits; higher = less of the best sellers",
    "serendipity": "how much earlier than by popularity the right items stand; higher = fewer best sellers among them",
    "gini": "how unevenly the catalogue is shown: 0 = evenly, 1 = one item only",
}
"""Metric -> what it means; its order is the order of columns."""

OF_THE_CATALOGUE = ("coverage", "diversity", "novelty", "gini")
"""Metrics that describe rather than judge: no row is the best at them."""


def decimals(values: Iterable[float]) -> int:
    """Returns how many places after the point show a column of such values well.

    Example::

        >>> decimals([.0312, .0518]), decimals([.132, .041]), decimals([11.2, 9.7])
        (4, 3, 2)
    """
    largest = max((abs(value) for value in values), default=0.0)
    return 2 if largest >= 2 else 3 if largest >= 0.1 else 4


def number(value: float, places: int, *, sign: bool = False) -> str:
    """Returns a number without the 0 before its point, and with a true minus.

    Example::

        >>> number(.0312, 3), number(-.5, 2), number(12, 1), number(.04, 2, sign=True)
        ('.031', '−.50', '12.0', '+.04')
    """
    digits = f"{abs(value):.{places}f}"
    digits = digits[1:] if digits.startswith("0.") else digits
    mark = "−" if value < 0 and float(f"{value:.{places}f}") != 0 else "+" if sign else ""
    return mark + digits


def interval(ends: Iterable[float] | None, places: int) -> str:
    """Returns "[low, high]", "" where there is none."""
    return "" if ends is None else f"[{', '.join(number(end, places) for end in ends)}]"


def p_value(p: float) -> str:
    """Returns "p < .001" or "p = .034", with spaces that do not break."""
    return "p\u00a0<\u00a0.001" if p < 0.001 else f"p\u00a0=\u00a0{number(p, 3)}"


def conditions(protocol: Mapping[str, Any]) -> str:
    """Returns what a figure of a table depends on: what a history holds, what is left out, how ties are broken.

    Example::

        >>> conditions({"kind": "k", "history": "all before it", "ranking": "the whole catalogue"})
        'history: all before it. ranking: the whole catalogue'
    """
    return ". ".join(f"{name}: {protocol[name]}" for name in ("history", "ranking") if name in protocol)


def verdict(comparison: Mapping[str, Any]) -> tuple[str, str]:
    """Returns "above", "below" or "same", and the sentence.

    Nobody wins where the interval holds 0, nor by less than what so many queries would show four times of five: such a
    difference is as likely luck as skill of the one that was looked at.

    Example::

        >>> verdict({"a": "x", "b": "y", "metric": "ndcg@10", "difference": .0121, "ci95": [.0082, .0159]})
        ('above', 'x is above y by .012 [.008, .016] in ndcg@10.')
        >>> verdict({"a": "x", "b": "y", "metric": "mrr@10", "difference": -.1, "ci95": [-.3, .1]})[1]
        'x and y cannot be told apart in mrr@10: the difference is −.100 [−.300, .100].'
        >>> verdict({"a": "x", "b": "y", "metric": "ndcg@10", "difference": .03, "ci95": [.01, .05],
        ...          "minimum_detectable_effect": .04})[1]
        'x is above y by .030 [.010, .050] in ndcg@10, less than the .040 that this test can detect: no win.'
    """
    low, high = comparison["ci95"]
    first, second, metric = comparison["a"], comparison["b"], comparison["metric"]
    difference = comparison["difference"]
    places = 3 if abs(difference) >= 0.01 else 4
    chance = f" ({p_value(comparison['p'])})" if comparison.get("p") is not None else ""
    if low <= 0 <= high:
        ends = f"{number(difference, places, sign=difference > 0)} {interval((low, high), places)}"
        return "same", f"{first} and {second} cannot be told apart in {metric}: the difference is {ends}{chance}."
    side, reach = ("above", (low, high)) if low > 0 else ("below", (-high, -low))
    size = f"{number(abs(difference), places)} {interval(reach, places)}"
    sentence = f"{first} is {side} {second} by {size} in {metric}{chance}"
    least = comparison.get("minimum_detectable_effect", 0.0)
    if abs(difference) < least:
        return "same", f"{sentence}, less than the {number(least, places)} that this test can detect: no win."
    return side, f"{sentence}."


def plain(value: Any) -> str:
    """Returns one setting or count as text: thousands separated, short floats, lists joined.

    Example::

        >>> plain(1234567), plain(.05), plain([1, 2]), plain(None), plain(True)
        ('1,234,567', '0.05', '1, 2', '–', 'yes')
    """
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "–"
    return str(value)
