"""Kaggle's "Fashion Product Images" as published -> `Dataset`: a catalogue with queries, and nobody who bought.

    styles.csv                         id, gender, masterCategory, subCategory, articleType, baseColour, season, year,
                                       usage, productDisplayName; commas in the last one are not quoted in some rows
    images/<id>.jpg                    of any size, the small version of the data or the large one; some lack theirs
    relevance/title_to_image.json      optional: {title: {id: grade}}, titles as queries and the products they mean

(P. Aggarwal, https://www.kaggle.com/datasets/paramaggarwal/fashion-product-images-dataset.) The text of a product is
its title, and a query of `title_to_image.json` is somebody's title too: whoever measures with it hides the titles.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pyarrow as pa

from tfmm.ragged import Ragged
from tfmm.sources import cleaning, columns, delimited, dirt, files, media
from tfmm.sources.dataset import Dataset, Interactions, Items, KnownQueries, Media, Users
from tfmm.sources.delimited import CsvFormat
from tfmm.sources.tables import Table

_log = logging.getLogger(__name__)

CATEGORICAL = ("articleType", "baseColour", "gender", "season", "usage", "subCategory", "masterCategory")
"""Fields with one value a product, or none, the most telling first: what a shopper types."""

_REMEDY = "Unpack Kaggle's Fashion Product Images (the small one will do) and give the folder that holds styles.csv."
_NO_VALUE = ("", "na", "nan", "null")  # what the file has where nothing is known


def load(data_dir: Path) -> Dataset:
    """Returns the catalogue in `data_dir`, with its title queries where it has them; no users and no events.

    Raises:
        ValueError: where styles.csv or one of its columns is missing, or nothing is left of it.
    """
    home = Path(data_dir)
    findings: dirt.Findings = []
    path = files.required(home, "styles.csv", remedy=_REMEDY)
    table = delimited.read_csv(path, findings, layout=CsvFormat(delimiter=",", open_end=True))
    table.expect(("id", *CATEGORICAL, "year", "productDisplayName"), remedy=_REMEDY)
    items = _items(home, table, findings)
    queries = _queries(home / "relevance" / "title_to_image.json", items.ids, findings)
    _log.info("fashion: %d products, %d of them with a picture", len(items), items.images.present.sum())
    return Dataset(
        name="fashion",
        items=items,
        users=Users(np.zeros(0, dtype=object)),
        interactions=Interactions.none(),
        queries=queries,
        findings=tuple(findings),
    )


def _items(home: Path, table: Table, findings: dirt.Findings) -> Items:
    problems = {
        "nameless": "item without an id",
        "twice": "duplicate item id",
        "differs": "duplicate item id with other content",
    }
    table, ids = cleaning.unique_rows(table, "id", findings, **problems)
    if len(table) == 0:
        raise dirt.nothing_left("item", str(table.path), findings)
    titles = columns.texts(table["productDisplayName"])
    table.note(findings, "item without text", titles == "", "productDisplayName")
    years, wrong = columns.numbers(table["year"])
    table.note(findings, "attribute that is not a number", wrong, "year")
    return Items(
        ids=ids,
        text=titles,
        titles=np.where(titles == "", ids, titles),
        images=media.of_ids(home / "images", ids, findings, table=table),
        sounds=Media.missing(len(ids)),
        launched=np.zeros(len(ids), dtype=np.int64),
        categorical={name: _labels(table[name]) for name in CATEGORICAL},
        numeric={"year": years.astype(np.float32)},
    )


def _labels(column: pa.ChunkedArray) -> Ragged:
    """Returns the one value of each row, or none."""
    values = columns.texts(column)
    known = np.array([value.lower() not in _NO_VALUE for value in values], dtype=bool)
    return Ragged(values[known], np.concatenate([[0], np.cumsum(known)]).astype(np.int64))


def _queries(path: Path, ids: np.ndarray, findings: dirt.Findings) -> Optional[KnownQueries]:
    """Returns the titles that are asked, in the order of the file, or None where there is no file or none is left."""
    if not path.is_file():
        return None
    gold = files.read_json(path, expected="{title: {product id: grade}}")
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    texts, rows, grades = [], [], []
    for number, (title, graded) in enumerate(_checked(path, gold).items(), start=1):
        known = {row_of[item.strip()]: grade for item, grade in graded.items() if item.strip() in row_of and grade > 0}
        strange = [item for item in graded if item.strip() not in row_of]
        if strange:
            dirt.note(findings, "unknown item id", len(strange), dirt.place(path.name, number, title, strange[0]))
        if not title.strip() or not known:
            problem = "query without a relevant item" if title.strip() else "query without text"
            dirt.note(findings, problem, 1, dirt.place(path.name, number, None, title))
            continue
        texts.append(title.strip())
        rows.append(list(known))
        grades.append(list(known.values()))
    if not texts:
        return None
    relevant, graded_as = Ragged.from_rows(rows, np.int32), Ragged.from_rows(grades, np.float32)
    return KnownQueries.typed(np.array(texts, dtype=object), relevant, graded_as)


def _checked(path: Path, gold: Any) -> dict[str, dict[str, float]]:
    if not isinstance(gold, dict):
        raise ValueError(f"{path}: expected {{title: {{product id: grade}}}}, got {dirt.shown(gold)}. Export it again.")
    for title, graded in gold.items():
        if not isinstance(graded, dict) or not all(isinstance(grade, (int, float)) for grade in graded.values()):
            raise ValueError(
                f"{path}: expected {{product id: grade}} with numbers for the title {dirt.shown(title)}, "
                f"got {dirt.shown(graded)}. Export it again."
            )
    return gold
