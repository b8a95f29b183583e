"""MovieLens as published -> `Dataset`: every rating is an event; movies have text, genres, year, decade, maybe posters.

Layouts (GroupLens, https://grouplens.org/datasets/movielens/; Harper and Konstan, 2015):

    latest-small, latest, 20M, 25M, 32M   ratings.csv movies.csv (links.csv and tags.csv are not read)
                                          and, where there are, overviews.csv (movieId, overview) and
                                          posters/<movieId>.jpg
    100K                                  u.data u.item u.genre u.user
    1M, 10M                               ratings.dat movies.dat users.dat (10M has no users)

Gender, age band and occupation become the user's context. `launched` stays unknown: the year of a film's release says
little of when the site had it.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Optional

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmm.ragged import Ragged
from tfmm.sources import attributes, cleaning, columns, delimited, dirt, folder, media
from tfmm.sources.dataset import Dataset, Items, Media, Users
from tfmm.sources.delimited import CsvFormat
from tfmm.sources.mapping import InteractionColumns
from tfmm.sources.tables import Table

_log = logging.getLogger(__name__)

_YEAR = r"\((?P<year>[0-9]{4})(?:[-–][0-9]*)?\)\s*$"
_NO_GENRES = ("(no genres listed)", "unknown", "Unknown")
_NUMBERS = {"userId": pa.int64(), "movieId": pa.int64(), "rating": pa.float64(), "timestamp": pa.int64()}
_RATING_NAMES = ("userId", "movieId", "rating", "timestamp")
_REMEDY = "Unpack the published file again."
_ROLES = InteractionColumns(user="userId", item="movieId", time="timestamp", value="rating")

AGE_BANDS = {1: "Under 18", 18: "18-24", 25: "25-34", 35: "35-44", 45: "45-49", 50: "50-55", 56: "56+"}
"""Lower end -> band, from the README of MovieLens-1M."""

OCCUPATIONS = (
    "other/not specified|academic/educator|artist|clerical/admin|college/grad student|customer service|"
    "doctor/health care|executive/managerial|farmer|homemaker|K-12 student|lawyer|programmer|retired|"
    "sales/marketing|scientist|self-employed|technician/engineer|tradesman/craftsman|unemployed|writer"
).split("|")
"""Code -> occupation, from the README of MovieLens-1M."""


@dataclasses.dataclass(frozen=True)
class Published:
    """One published set as tables.

    Attributes:
        movies: movieId, title and genres (a list, or strings with `|` between them).
        ratings: userId, movieId, rating and timestamp.
        users: userId, gender, age (the band) and occupation, where there are.
        overviews: movieId and overview, where there are.
        posters: the folder of `<movieId>.jpg`, where there is one.
    """

    movies: Table
    ratings: Table
    users: Optional[Table] = None
    overviews: Optional[Table] = None
    posters: Optional[Path] = None


def load(data_dir: Optional[Path], *, subset: Optional[str] = None) -> Dataset:
    """Returns one MovieLens set, read from its published files, or through tensorflow-datasets without a folder.

    Raises:
        ValueError: where the folder holds none of the layouts.
        ConnectionError: where the set must be downloaded and cannot be.
    """
    findings: dirt.Findings = []
    if data_dir is None:
        from tfmm.sources import movielens_download  # imports TensorFlow

        return dataset(movielens_download.read(subset or "latest-small"), findings)
    home = locate(Path(data_dir), subset)
    return dataset(read(home, findings), findings)


def locate(data_dir: Path, subset: Optional[str]) -> Path:
    """Returns the folder that holds a layout: `data_dir`, its folder `subset`, or its only folder that holds one."""
    if not data_dir.is_dir():
        raise ValueError(f"data_dir: expected a folder with the files of MovieLens, got {str(data_dir)!r}.")
    inner = sorted(path for path in data_dir.iterdir() if path.is_dir() and _layout(path))
    if subset:
        named = [path for path in inner if path.name in (subset, f"ml-{subset}")]
        if not named:
            raise dirt.unknown("subset", subset, [path.name for path in inner] or ["(none)"], where=str(data_dir))
        return named[0]
    if _layout(data_dir) or len(inner) == 1:
        return data_dir if _layout(data_dir) else inner[0]
    if inner:
        raise ValueError(
            f"{data_dir}: expected one MovieLens set, got {', '.join(path.name for path in inner)}. "
            f"Choose one with --subset."
        )
    names = sorted(path.name for path in data_dir.iterdir())
    raise ValueError(
        f"{data_dir}: expected ratings.csv and movies.csv, or u.data and u.item, or ratings.dat and movies.dat; "
        f"got {', '.join(names[:10]) or 'an empty folder'}. Unpack a set from https://grouplens.org/datasets/movielens/."
    )


def _layout(home: Path) -> Optional[str]:
    pairs = {"csv": ("ratings.csv", "movies.csv"), "u": ("u.data", "u.item"), "dat": ("ratings.dat", "movies.dat")}
    return next((name for name, pair in pairs.items() if all((home / file).is_file() for file in pair)), None)


def read(home: Path, findings: dirt.Findings) -> Published:
    """Returns the tables of the layout that `home` holds."""
    readers = {"csv": _read_csv, "u": _read_100k, "dat": _read_dat}
    return readers[str(_layout(home))](home, findings)


def _read_csv(home: Path, findings: dirt.Findings) -> Published:
    overviews, posters = home / "overviews.csv", home / "posters"
    published = Published(
        movies=delimited.read_csv(home / "movies.csv", findings),
        ratings=delimited.read_csv(home / "ratings.csv", findings, layout=CsvFormat(types=_NUMBERS)),
        overviews=delimited.read_csv(overviews, findings) if overviews.is_file() else None,
        posters=posters if posters.is_dir() else None,
    )
    published.movies.expect(("movieId", "title", "genres"), remedy=_REMEDY)
    published.ratings.expect(_RATING_NAMES, remedy=_REMEDY)
    if published.overviews is not None:
        published.overviews.expect(("movieId", "overview"), remedy=_REMEDY)
    return published


def _read_dat(home: Path, findings: dirt.Findings) -> Published:
    users = home / "users.dat"
    return Published(
        movies=_plain(home / "movies.dat", ("movieId", "title", "genres"), findings),
        ratings=_plain(home / "ratings.dat", _RATING_NAMES, findings),
        users=_people(_plain(users, ("userId", "gender", "age", "occupation", "zip"), findings))
        if users.is_file()
        else None,
    )


def _read_100k(home: Path, findings: dirt.Findings) -> Published:
    genres = [name for name in (home / "u.genre").read_text("latin-1").split("\n") if name.strip()]
    flags = [name.split("|")[0] for name in genres]
    names = ("movieId", "title", "released", "video", "url", *flags)
    movies = _plain(home / "u.item", names, findings, delimiter="|")
    marked = np.stack([columns.texts(movies[flag]) == "1" for flag in flags], axis=1)
    joined = pa.array(["|".join(flag for flag, on in zip(flags, row) if on) for row in marked], pa.string())
    told = movies.columns.select(["movieId", "title"]).append_column("genres", joined)
    users = _plain(home / "u.user", ("userId", "age", "gender", "occupation", "zip"), findings, delimiter="|")
    return Published(
        movies=dataclasses.replace(movies, columns=told),
        ratings=_plain(home / "u.data", ("userId", "movieId", "rating", "timestamp"), findings, delimiter="\t"),
        users=_people(users),
    )


def _plain(path: Path, names: tuple[str, ...], findings: dirt.Findings, *, delimiter: str = "::") -> Table:
    """Returns a file without header and quotes: UTF-8 where it is that (10M), else Latin-1 (100K, 1M)."""
    if not path.is_file():
        raise ValueError(f"{path}: expected this file beside the other ones, got none. Unpack the published set again.")
    try:
        path.read_text("utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "latin-1"
    layout = CsvFormat(encoding=encoding, delimiter=delimiter, names=names, quotes=False, types=_NUMBERS)
    return delimited.read_csv(path, findings, layout=layout)


def _people(table: Table) -> Table:
    """Returns userId, gender, age and occupation, age as a band and occupation by its name."""
    ages, _ = columns.numbers(table["age"])
    lower = np.array(sorted(AGE_BANDS))
    bands = ["" if np.isnan(age) else AGE_BANDS[lower[max(0, (lower <= age).sum() - 1)]] for age in ages]
    codes = {str(code): name for code, name in enumerate(OCCUPATIONS)}
    jobs = [codes.get(job, job) for job in columns.texts(table["occupation"])]
    told = {"userId": table["userId"], "gender": table["gender"], "age": pa.array(bands), "occupation": pa.array(jobs)}
    return dataclasses.replace(table, columns=pa.table(told))


def dataset(published: Published, findings: dirt.Findings) -> Dataset:
    """Returns the published tables as clean items, users and events."""
    items = _items(published, findings)
    events, user_ids, _ = cleaning.events(published.ratings, _ROLES, items.ids, findings)
    users = _users(published.users, user_ids, findings)
    _log.info("movielens: %d users, %d movies, %d ratings", len(users), len(items), len(events))
    return Dataset("movielens", items, users, events, event_types=("rating",), findings=tuple(findings))


def _items(published: Published, findings: dirt.Findings) -> Items:
    problems = {
        "nameless": "item without an id",
        "twice": "duplicate item id",
        "differs": "duplicate item id with other content",
    }
    movies, ids = cleaning.unique_rows(published.movies, "movieId", findings, **problems)
    if len(movies) == 0:
        raise dirt.nothing_left("movie", str(movies.path), findings)
    titles = columns.texts(movies["title"])
    years = _years(movies)
    movies.note(findings, "movie without a year", np.isnan(years), "title")
    bare = columns.texts(pc.replace_substring_regex(columns.strings(movies["title"]), _YEAR, ""))
    text = folder.joined([bare, _overviews(published.overviews, ids, findings)])
    movies.note(findings, "item without text", text == "", "title")
    return Items(
        ids=ids,
        text=text,
        titles=np.where(titles == "", ids, titles),
        images=_posters(published, movies, ids, findings),
        sounds=Media.missing(len(ids)),
        launched=np.zeros(len(ids), dtype=np.int64),
        categorical={"genres": _genres(movies, findings), "decade": _decades(years)},
        numeric={"year": years.astype(np.float32)},
    )


def _years(movies: Table) -> np.ndarray:
    found = pc.struct_field(pc.extract_regex(columns.strings(movies["title"]), _YEAR), "year")
    return columns.numbers(found)[0]


def _decades(years: np.ndarray) -> Ragged:
    known = ~np.isnan(years)
    labels = np.array([f"{int(year) // 10 * 10}s" for year in years[known]], dtype=object)
    return Ragged(labels, np.concatenate([[0], np.cumsum(known)]).astype(np.int64))


def _genres(movies: Table, findings: dirt.Findings) -> Ragged:
    genres = columns.lists(movies["genres"])
    real = ~np.isin(genres.values.astype(str), _NO_GENRES)
    counts = np.bincount(genres.row_numbers[real], minlength=len(genres))
    movies.note(findings, "movie without genres", counts == 0, "genres")
    return Ragged(genres.values[real], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _overviews(table: Optional[Table], ids: np.ndarray, findings: dirt.Findings) -> np.ndarray:
    """Returns `[num_movies]` str (object), "" where there is none."""
    texts = np.full(len(ids), "", dtype=object)
    if table is None:
        return texts
    table, known = cleaning.unique_rows(
        table, "movieId", findings, nameless="item without an id", twice="duplicate overview"
    )
    rows = cleaning.item_rows(table["movieId"], ids)
    table.note(findings, "unknown item id", rows < 0, "movieId")
    texts[rows[rows >= 0]] = columns.texts(table["overview"])[rows >= 0]
    return texts


def _posters(published: Published, movies: Table, ids: np.ndarray, findings: dirt.Findings) -> Media:
    if published.posters is None:
        return Media.missing(len(ids))
    return media.of_ids(published.posters, ids, findings, table=movies)


def _users(table: Optional[Table], user_ids: np.ndarray, findings: dirt.Findings) -> Users:
    if table is None:
        return Users(user_ids)
    problems = {"nameless": "user without an id", "twice": "duplicate user id"}
    table, known = cleaning.unique_rows(table, "userId", findings, **problems)
    kinds = {attributes.CATEGORICAL: ["gender", "age", "occupation"], attributes.NUMERIC: []}
    return Users(user_ids, folder.context(table, known, user_ids, kinds))
