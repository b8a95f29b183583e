"""MovieLens' published layouts say the same thing, and what is in them comes out of them."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfmm import sources

MOVIES = [
    (1, "Toy Story (1995)", ["Animation", "Comedy"]),
    (2, "Café, Le (1994)", ["Drama"]),
    (3, "unknown", []),
    (10, "Se7en: The (Old) One (2001)", ["Crime", "Thriller"]),
]
RATINGS = [(1, 1, 4, 300), (1, 2, 3, 200), (2, 1, 5, 100), (2, 10, 1, 400), (3, 2, 2, 50)]
PEOPLE = {1: ("F", 24, "writer"), 2: ("M", 53, "scientist"), 3: ("M", 17, "K-12 student")}
GENRES = ["unknown", "Animation", "Comedy", "Crime", "Drama", "Thriller"]


def write_csv(home: Path) -> Path:
    home.mkdir(parents=True)
    movies = [f'{movie},"{title}",{"|".join(genres) or "(no genres listed)"}' for movie, title, genres in MOVIES]
    (home / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]), "utf-8")
    ratings = [",".join(map(str, row)) for row in RATINGS]
    (home / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *ratings]))
    (home / "links.csv").write_text("movieId,imdbId,tmdbId\n")
    return home


def write_1m(home: Path) -> Path:
    home.mkdir(parents=True)
    movies = [f"{movie}::{title}::{'|'.join(genres) or 'Unknown'}\n" for movie, title, genres in MOVIES]
    (home / "movies.dat").write_text("".join(movies), "latin-1")
    (home / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in RATINGS))
    bands, jobs = {24: 18, 53: 50, 17: 1}, {"writer": 20, "scientist": 15, "K-12 student": 10}  # codes of its README
    people = [f"{user}::{gender}::{bands[age]}::{jobs[job]}::0\n" for user, (gender, age, job) in PEOPLE.items()]
    (home / "users.dat").write_text("".join(people))
    return home


def write_100k(home: Path) -> Path:
    home.mkdir(parents=True)
    flags = [["1" if genre in (genres or ["unknown"]) else "0" for genre in GENRES] for _, _, genres in MOVIES]
    movies = [
        f"{movie}|{title}|01-Jan-1995||http://x|{'|'.join(row)}\n" for (movie, title, _), row in zip(MOVIES, flags)
    ]
    (home / "u.item").write_text("".join(movies), "latin-1")
    (home / "u.genre").write_text("".join(f"{genre}|{row}\n" for row, genre in enumerate(GENRES)) + "\n")
    (home / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
    people = [f"{user}|{age}|{gender}|{job}|0\n" for user, (gender, age, job) in PEOPLE.items()]
    (home / "u.user").write_text("".join(people))
    return home


@pytest.mark.parametrize("write", [write_csv, write_1m, write_100k])
def test_every_layout_says_the_same(tmp_path, write):
    dataset = sources.load("movielens", data_dir=write(tmp_path / "set"))
    items, events = dataset.items, dataset.interactions
    assert items.ids.tolist() == ["1", "2", "3", "10"]
    assert items.text.tolist() == ["Toy Story", "Café, Le", "unknown", "Se7en: The (Old) One"]
    assert items.titles.tolist() == [title for _, title, _ in MOVIES]
    assert [row.tolist() for row in items.categorical["genres"]] == [genres for _, _, genres in MOVIES]
    assert [row.tolist() for row in items.categorical["decade"]] == [["1990s"], ["1990s"], [], ["2000s"]]
    np.testing.assert_array_equal(items.numeric["year"], [1995, 1994, np.nan, 2001])
    assert items.launched.tolist() == [0] * 4 and dataset.event_types == ("rating",)
    names = zip(dataset.users.ids[events.user], items.ids[events.item], events.value, events.time)
    assert sorted(names) == sorted((str(user), str(item), value, time) for user, item, value, time in RATINGS)
    found = {finding.problem: finding.count for finding in dataset.findings}
    assert found == {
        "movie without a year": 1,
        "movie without genres": 1,
        "event earlier than the one above it": 1,
    }


@pytest.mark.parametrize("write", [write_1m, write_100k])
def test_who_rated_becomes_context_under_the_same_names(tmp_path, write):
    users = sources.load("movielens", data_dir=write(tmp_path / "set")).users
    told = {user: tuple(users.categorical[f][row][0] for f in users.categorical) for row, user in enumerate(users.ids)}
    assert list(users.categorical) == ["gender", "age", "occupation"]
    assert told["1"] == ("F", "18-24", "writer") and told["2"] == ("M", "50-55", "scientist")
    assert told["3"] == ("M", "Under 18", "K-12 student")


def test_overviews_and_posters_join_by_movie(tmp_path):
    home = write_csv(tmp_path / "set")
    (home / "overviews.csv").write_text('movieId,overview\n10,"Dark, rainy"\n1,Toys\n1,More toys\n77,Nothing\n')
    (home / "posters").mkdir()
    out = io.BytesIO()
    Image.new("RGB", (6, 9)).save(out, "JPEG")
    (home / "posters" / "2.jpg").write_bytes(out.getvalue())
    (home / "posters" / "10.jpg").write_bytes(out.getvalue()[:-60])
    dataset = sources.load("movielens", data_dir=home)
    assert dataset.items.text.tolist() == [
        "Toy Story. Toys",
        "Café, Le",
        "unknown",
        "Se7en: The (Old) One. Dark, rainy",
    ]
    assert dataset.items.images.present.tolist() == [False, True, False, False]
    assert dataset.items.images.read(1) == out.getvalue()
    found = {finding.problem: finding.example for finding in dataset.findings}
    assert found["duplicate overview"] == "overviews.csv row 4 column movieId: '1'"
    assert found["unknown item id"] == "overviews.csv row 5 column movieId: '77'"
    assert found["image that cannot be decoded"] == "movies.csv row 5: 'posters/10.jpg'"


def test_the_set_is_found_one_folder_down_and_chosen_by_subset(tmp_path):
    write_csv(tmp_path / "ml-latest-small")
    assert len(sources.load("movielens", data_dir=tmp_path).users) == 3
    write_100k(tmp_path / "ml-100k")
    assert "gender" in sources.load("movielens", data_dir=tmp_path, subset="100k").users.categorical
    with pytest.raises(ValueError, match="got ml-100k, ml-latest-small. Choose one with --subset"):
        sources.load("movielens", data_dir=tmp_path)
    with pytest.raises(ValueError, match="'ml-100'; the nearest is 'ml-100k'"):
        sources.load("movielens", data_dir=tmp_path, subset="ml-100")


def test_a_folder_that_is_no_movielens_is_refused(tmp_path):
    (tmp_path / "rating.csv").write_text("")
    with pytest.raises(ValueError, match="expected ratings.csv and movies.csv, or u.data and u.item.*got rating.csv"):
        sources.load("movielens", data_dir=tmp_path)
    home = write_csv(tmp_path / "set")
    (home / "ratings.csv").write_text("userId,movieId,rating,timestmp\n1,1,1,1\n")
    with pytest.raises(ValueError, match="ratings.csv row 1.*'timestamp' is missing; the nearest is 'timestmp'"):
        sources.load("movielens", data_dir=home)
    (write_100k(tmp_path / "old") / "u.user").unlink()
    with pytest.raises(ValueError, match="u.user: expected this file beside the other ones"):
        sources.load("movielens", data_dir=tmp_path / "old")


# --- Through tensorflow-datasets ------------------------------------------------------------------------------------


@pytest.fixture
def offline_tfds(tmp_path, monkeypatch):
    """tensorflow-datasets' real builders, whose download finds the published files in a folder of this test."""
    import tensorflow_datasets as tfds

    from tfmm.sources import movielens_download

    builder, raw = tfds.builder, tmp_path / "raw"
    monkeypatch.setattr(tfds, "builder", lambda name: builder(name, data_dir=tmp_path / "prepared"))
    fetch = tfds.download.DownloadManager
    monkeypatch.setattr(fetch, "download_and_extract", lambda self, url: raw)
    monkeypatch.setattr(movielens_download.urllib.request, "urlopen", lambda *_, **__: io.BytesIO())
    return raw


def as_sets(dataset) -> tuple:
    items, events, users = dataset.items, dataset.interactions, dataset.users
    movies = {
        item: (items.text[row], items.titles[row], tuple(items.categorical["genres"][row]), items.numeric["year"][row])
        for row, item in enumerate(items.ids)
        if not np.isnan(items.numeric["year"][row])
    }
    rated = set(zip(users.ids[events.user], items.ids[events.item], events.value.tolist(), events.time.tolist()))
    people = {user: [list(field[row]) for field in users.categorical.values()] for row, user in enumerate(users.ids)}
    return movies, rated, people


@pytest.mark.parametrize("write, subset", [(write_csv, "latest-small"), (write_1m, "1m")])
def test_tensorflow_datasets_gives_what_the_files_give(offline_tfds, write, subset):
    home = write(offline_tfds / f"ml-{subset}")
    downloaded = sources.load("movielens", subset=subset)
    assert as_sets(downloaded) == as_sets(sources.load("movielens", data_dir=home))
    assert downloaded.items.ids.tolist() == ["1", "2", "3", "10"]


def test_without_a_network_the_error_says_so_at_once_and_names_the_file(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    from tfmm.sources import movielens_download

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    builder = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name: builder(name, data_dir=tmp_path))
    monkeypatch.setattr(movielens_download.urllib.request, "urlopen", refuse)
    with pytest.raises(ConnectionError) as error:
        sources.load("movielens")
    for words in ("ml-latest-small.zip", "no route to host", "--source movielens --data_dir ml-latest-small"):
        assert words in str(error.value)


def test_a_set_that_tensorflow_datasets_lacks_is_refused():
    with pytest.raises(ValueError, match="without --data_dir: expected subset to be one of .*the nearest is '100k'"):
        sources.load("movielens", subset="100K")


# --- The real files -------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_the_real_latest_small_has_the_published_counts():
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    home = Path(os.environ.get("TFMM_DATA", default)) / "movielens-small"
    if not home.is_dir():
        pytest.skip(f"needs {home.name} in $TFMM_DATA (default ../shared/data)")
    dataset = sources.load("movielens", data_dir=home)
    items = dataset.items
    assert (len(dataset.users), len(items), len(dataset.interactions)) == (610, 9742, 100836)
    assert items.images.present.sum() == 2863
    with (home / "overviews.csv").open(encoding="utf-8", newline="") as file:
        overviews = {row["movieId"]: row["overview"].strip() for row in csv.DictReader(file)}
    assert len(overviews) == 9403
    assert all(text.endswith(overviews.get(item, "")) for item, text in zip(items.ids, items.text))
    found = {finding.problem: (finding.count, finding.action) for finding in dataset.findings}
    assert found == {
        "movie without a year": (12, "kept"),
        "movie without genres": (34, "kept"),
        "event earlier than the one above it": (49308, "repaired"),
    }
