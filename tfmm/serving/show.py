"""Answers as a person reads them: a table in the terminal, or one HTML page that opens from disk."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from rich.table import Table
from rich.text import Text

from tfmm.serving.catalogue import Catalogue
from tfmm.serving.queries import Answer, Query, Reason
from tfmm.writing import write_csv, write_text

_MIME = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"RIFF": "image/webp",
}


@dataclasses.dataclass(frozen=True)
class _Card:
    item_id: str
    title: str
    picture: str
    note: str = ""
    shares: Sequence[tuple[str, int]] = ()
    because: str = ""


def table(answer: Answer, catalogue: Catalogue) -> Table:
    """Returns a rich table: rank, score, id and title of each recommended item."""
    shown = Table("#", "score", "item", "title", title="recommended", title_justify="left")
    for column in (0, 1):
        shown.columns[column].justify = "right"
    for rank, (item_id, score) in enumerate(answer, start=1):
        shown.add_row(str(rank), f"{score:.3f}", Text(item_id), Text(catalogue.title(item_id)))
    if not answer:
        shown.caption = "nothing: every item is excluded or filtered out"
    return shown


@dataclasses.dataclass(frozen=True)
class Shopper:
    """Somebody who may want a product.

    Attributes:
        user_id: as the shop writes it.
        probability: that it is the next thing that they want, of all that could be had.
        newest: ids of what they did last, newest first.
    """

    user_id: str
    probability: float
    newest: Sequence[str]


def audience(found: Sequence[Shopper], catalogue: Catalogue, title: str) -> Table:
    """Returns a rich table: rank, probability, id and newest doings of each shopper."""
    shown = Table("#", "probability", "shopper", "newest", title=f"who may want {title}", title_justify="left")
    for column in (0, 1):
        shown.columns[column].justify = "right"
    for rank, one in enumerate(found, start=1):
        newest = ", ".join(catalogue.title(item) or item for item in one.newest)
        shown.add_row(str(rank), f"{one.probability:.2%}", Text(one.user_id), Text(newest))
    if not found:
        shown.caption = "nobody: every shopper has had it"
    return shown


def write_audience(path: Path, found: Sequence[Shopper]) -> Path:
    """Returns `path`, where a CSV file of user and probability now stands."""
    return write_csv(path, ("user", "probability"), [(one.user_id, f"{one.probability:.6g}") for one in found])


def page(query: Query, answer: Answer, catalogue: Catalogue, reasons: Mapping[str, Reason] | None = None) -> str:
    """Returns HTML with everything inside it: what was asked on the left, what came back as a grid of pictures.

    Args:
        query: what was asked.
        answer: what came back.
        catalogue: titles and pictures.
        reasons: item id -> why it suits the shopper, of those for which that is known.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfmm.serving", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    events = query.events or [""] * len(query.history)
    return environment.get_template("page.html").render(
        history=[_card(item, catalogue, event) for item, event in zip(query.history, events)][::-1],  # newest first
        text=query.text,
        picture_query=picture_uri(query.image),
        audio=f"data:audio/wav;base64,{base64.b64encode(query.audio).decode()}" if query.audio else "",
        facts=_facts(query),
        recommended=[_explained(_card(item, catalogue, f"{score:.3f}"), reasons, catalogue) for item, score in answer],
        explained=bool(reasons),
        bars=_bar_widths(answer),
    )


def write_page(
    path: Path, query: Query, answer: Answer, catalogue: Catalogue, reasons: Mapping[str, Reason] | None = None
) -> Path:
    """Returns `path`, where `page` now stands."""
    return write_text(Path(path), page(query, answer, catalogue, reasons))


def picture_uri(image: bytes) -> str:
    """Returns the picture as a data URI, "" where there is none or its kind is unknown."""
    mime = next((mime for magic, mime in _MIME.items() if image.startswith(magic)), "")
    return f"data:{mime};base64,{base64.b64encode(image).decode()}" if mime else ""


def _card(item_id: str, catalogue: Catalogue, note: str) -> _Card:
    return _Card(item_id, catalogue.title(item_id) or item_id, picture_uri(catalogue.image(item_id)), note)


def _explained(card: _Card, reasons: Mapping[str, Reason] | None, catalogue: Catalogue) -> _Card:
    reason = (reasons or {}).get(card.item_id)
    if reason is None:
        return card
    titles = " and ".join(catalogue.title(item) or item for item in reason.because)
    return dataclasses.replace(card, shares=reason.shares, because=titles)


def _facts(query: Query) -> list[tuple[str, str]]:
    named: list[tuple[str, Sequence[str]]] = [
        ("must have", query.filters),
        ("about you", query.context),
        ("never show", query.exclude),
    ]
    return [(label, ", ".join(values)) for label, values in named if values]


def _bar_widths(answer: Answer) -> list[int]:
    """Returns percent of the best score above the worst, at least 4, for a bar below each item."""
    scores = [score for _, score in answer]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [100 if high == low else round(4 + 96 * (score - low) / (high - low)) for score in scores]
