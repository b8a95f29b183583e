"""Amazon Reviews as published in 2018 and 2023 -> `Dataset`: every review is an event, at the time it was written.

    <name>.json|jsonl[.gz]         2018: reviewerID, asin, unixReviewTime, overall
                                   2023: user_id, parent_asin, timestamp (ms), rating
    meta_<name>.json|jsonl[.gz]    optional. 2018: asin, title, description, feature, brand, price, category
                                   2023: parent_asin, title, description, features, store, price, categories
    images/<item>.jpg              optional: the addresses in the metadata are not downloaded

(Ni et al., https://nijianmo.github.io/amazon/; Hou et al., https://amazon-reviews-2023.github.io/.) `<name>_5` and
`reviews_<name>` have the metadata of `<name>`. The catalogue is what was reviewed.
"""

from __future__ import annotations

import dataclasses
import html
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmm.ragged import Ragged
from tfmm.sources import cleaning, columns, dirt, files, folder, media, tables
from tfmm.sources.dataset import Dataset, Items, Media, Users
from tfmm.sources.mapping import InteractionColumns
from tfmm.sources.tables import Table

_log = logging.getLogger(__name__)

SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
META = "meta_"
"""What the name of a file with products begins with."""

_ROLES = {
    "2018": InteractionColumns(user="reviewerID", item="asin", time="unixReviewTime", value="overall"),
    "2023": InteractionColumns(user="user_id", item="parent_asin", time="timestamp", value="rating"),
}
_STRING, _STRINGS = pa.string(), pa.list_(pa.string())
_REVIEWS = pa.schema(
    [
        *(("reviewerID", _STRING), ("asin", _STRING), ("unixReviewTime", pa.int64()), ("overall", pa.float64())),
        *(("user_id", _STRING), ("parent_asin", _STRING), ("timestamp", pa.int64()), ("rating", pa.float64())),
    ]
)
_PRODUCTS = [
    pa.schema(
        [
            *(("asin", _STRING), ("parent_asin", _STRING), ("title", _STRING), ("price", price)),
            *(("description", _STRINGS), ("feature", _STRINGS), ("features", _STRINGS), ("brand", _STRING)),
            *(("store", _STRING), ("category", _STRINGS), ("categories", _STRINGS)),
        ]
    )
    for price in (pa.string(), pa.float64())  # 2018 writes "$12.50", 2023 writes 12.5
]
_BLOCKS = (
    r"(?i)</?(?:br|p|div|li|ul|ol|table|tr|td|h[1-6])\b[^<>]*>"  # markup that parts words; the rest only dresses them
)
_SCRIPT = "getTime()"  # from a page's own program, which 2018 has in place of some titles
_LONGEST = 60  # characters of a category or a price: what is longer is a page's markup
_NO_PRICE = ("", "-", "–", "—", "None", "null")
_PRICE = r"^(?:from\s*)?[$£€]?\s*(?P<price>[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"


def set_name(path: Path) -> str:
    """Returns the set that a file is of: "Beauty" of Beauty.txt, Beauty_5.json.gz and reviews_Beauty_5.json.gz."""
    name = path.name[: -len(path.suffix)] if path.suffix != ".gz" else path.stem.rsplit(".", 1)[0]
    name = name[len("reviews_") :] if name.startswith("reviews_") else name
    return name[: -len("_5")] if name.endswith("_5") else name


def load(path: Path) -> Dataset:
    """Returns the reviews in one file, and what the metadata beside it say of the products.

    Raises:
        ValueError: where the file is neither of 2018 nor of 2023, or nothing is left.
    """
    findings: dirt.Findings = []
    name = set_name(path)
    reviews = files.read_jsonl(path, findings, schemas=[_REVIEWS])
    roles = _roles(reviews)
    ids = columns.codes(reviews[str(roles.item)])[1]
    events, user_ids, _ = cleaning.events(reviews, roles, ids, findings)
    items = _items(path.parent, name, roles, ids, findings)
    _log.info("amazon %s: %d users, %d items, %d reviews", name, len(user_ids), len(ids), len(events))
    return Dataset(
        name=f"amazon-{name}",
        items=items,
        users=Users(user_ids),
        interactions=events,
        event_types=("review",),
        findings=tuple(findings),
    )


def _roles(reviews: Table) -> InteractionColumns:
    """Returns the columns of the year whose names the file has."""
    for roles in _ROLES.values():
        if all(reviews[str(name)].null_count < len(reviews) for name in (roles.user, roles.item, roles.time)):
            return roles
    wanted = " or ".join(f"{roles.user}, {roles.item}, {roles.time} ({year})" for year, roles in _ROLES.items())
    raise ValueError(f"{reviews.path}: expected {wanted} in its objects, got none of both. Give a file of reviews.")


def _items(home: Path, name: str, roles: InteractionColumns, ids: np.ndarray, findings: dirt.Findings) -> Items:
    known = _products(home, name, str(roles.item), ids, findings)
    titles = _titles(known, findings)
    text = folder.joined([titles, *(_told(known, column) for column in ("description", "feature", "features"))])
    known.note(findings, "item without text", (text == "") & (known.rows > 0), "title")
    prices = _prices(known, findings)
    fields = {"brand": ("brand", "store"), "category": ("category", "categories")}
    labels = {field: _labels(known, pair) for field, pair in fields.items()}
    return Items(
        ids=ids,
        text=text,
        titles=np.where(titles == "", ids, titles),
        images=media.of_ids(home / "images", ids, findings, table=known),
        sounds=Media.missing(len(ids)),
        launched=np.zeros(len(ids), dtype=np.int64),
        categorical={field: ragged for field, ragged in labels.items() if len(ragged.values)},
        numeric={} if np.isnan(prices).all() else {"price": prices},
    )


def _products(home: Path, name: str, key: str, ids: np.ndarray, findings: dirt.Findings) -> Table:
    """Returns what the metadata say of each item, row by row as `ids`; where they do not have it, null and row 0."""
    path = next((home / (META + name + end) for end in SUFFIXES if (home / (META + name + end)).is_file()), None)
    if path is None:
        _log.warning("amazon: no %s%s%s beside the reviews; nothing is known of the products", META, name, SUFFIXES[-1])
        nothing = tables.from_arrow(home / (META + name), _PRODUCTS[0].empty_table(), first_row=1)
        return _rows_of(nothing, np.full(len(ids), -1))
    table = files.read_jsonl(path, findings, schemas=_PRODUCTS)
    problems = {
        "nameless": "item without an id",
        "twice": "duplicate item id",
        "differs": "duplicate item id with other content",
    }
    table, names = cleaning.unique_rows(table, key, findings, **problems)
    table.note(findings, "product without a review", cleaning.item_rows(table[key], ids) < 0, key)
    row_of = {product: row for row, product in enumerate(names)}
    rows = np.array([row_of.get(item, -1) for item in ids], dtype=np.int64)
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        example = f"{path.name} has no {key} {ids[unknown[0]]!r}"
        dirt.note(findings, "item without metadata", len(unknown), example)
    return _rows_of(table, rows)


def _rows_of(table: Table, rows: np.ndarray) -> Table:
    """Returns the given rows; -1 becomes null values in row 0."""
    taken = table.columns.take(pa.array(rows, mask=rows < 0))
    places, records = (np.append(numbers, 0)[rows] for numbers in (table.rows, table.records))  # -1 is the last: 0
    return dataclasses.replace(table, columns=taken, rows=places, records=records)


def _titles(known: Table, findings: dirt.Findings) -> np.ndarray:
    titles = _told(known, "title")
    script = np.array([_SCRIPT in title for title in titles], dtype=bool)
    known.note(findings, "title that is a script", script, "title")
    return np.where(script, "", titles)


def _told(known: Table, column: str) -> np.ndarray:
    """Returns `[num_items]` str (object): a text or a list of texts as one, without markup."""
    values = known[column]
    if columns.is_list(values):
        values = pc.binary_join(pc.fill_null(values.cast(_STRINGS), []), " ")
    spaced = pc.replace_substring_regex(columns.strings(values), _BLOCKS, " ")
    plain = pc.replace_substring_regex(spaced, r"</?[A-Za-z][^<>]*>", "")
    return np.array([" ".join(html.unescape(text).split()) for text in plain.to_pylist()], dtype=object)


def _prices(known: Table, findings: dirt.Findings) -> np.ndarray:
    """Returns `[num_items]` float32 in the currency of the site, NaN where unknown; the lower end of a range."""
    text = columns.strings(known["price"])
    found = pc.struct_field(pc.extract_regex(text, _PRICE), "price")
    short = pc.less_equal(pc.utf8_length(text), _LONGEST)
    prices, _ = columns.numbers(pc.replace_substring(pc.if_else(short, found, None), ",", ""))
    said = ~np.isin(np.asarray(text).astype(str), _NO_PRICE)
    known.note(findings, "price that is not a number", np.isnan(prices) & said, "price")
    return prices.astype(np.float32)


def _labels(known: Table, pair: tuple[str, str]) -> Ragged:
    """Returns the distinct labels of each item in either column, without markup that 2018 has among them."""
    rows: list[list[str]] = [[] for _ in range(len(known))]
    for column in pair:
        for row, value in zip(rows, known[column].to_pylist()):
            row.extend(value if isinstance(value, list) else [value or ""])
    clean = [[html.unescape(str(label)).strip() for label in row if label] for row in rows]
    return Ragged.from_rows(
        [list(dict.fromkeys(x for x in row if x and "<" not in x and len(x) <= _LONGEST)) for row in clean], object
    )
