"""MovieLens through tensorflow-datasets, which downloads it once: for those who have a network and no files yet."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_datasets as tfds

from tfmm.ragged import Ragged
from tfmm.sources import dirt, movielens
from tfmm.sources.tables import Table, from_arrow

SUBSETS = ("latest-small", "100k", "1m", "20m", "25m")
"""What tensorflow-datasets has; the other published sets are read from their files."""

_TIMEOUT_SECONDS = 5
_BATCH = 1 << 16


def read(subset: str) -> movielens.Published:
    """Returns one published set, downloaded unless it was before.

    Raises:
        ValueError: where tensorflow-datasets has no such set.
        ConnectionError: where it must be downloaded and there is no network.
    """
    if subset not in SUBSETS:
        raise dirt.unknown("subset", subset, SUBSETS, where="movielens without --data_dir")
    movies, ratings = (_prepared(f"movielens/{subset}-{part}") for part in ("movies", "ratings"))
    rated = _columns(ratings)
    return movielens.Published(
        movies=_movies(subset, movies),
        ratings=_ratings(subset, rated),
        users=_users(subset, rated) if "user_gender" in rated else None,
    )


def _prepared(name: str) -> Any:
    """Returns the builder of a set that is on this machine."""
    builder = tfds.builder(name)
    if "train" not in builder.info.splits:
        _require_network(builder.builder_config.download_url)
        builder.download_and_prepare()
    return builder


def _require_network(url: str) -> None:
    """Raises ConnectionError, naming the files to get by other means, where the site does not answer."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # somebody answered: what is wrong, the download will say
    except OSError as error:
        name = url.rsplit("/", 1)[-1]
        raise ConnectionError(
            f"movielens without --data_dir is downloaded from {url}, which cannot be reached from here ({error}). "
            f"Get {name} where there is a network, unpack it, and give its folder: "
            f"--source movielens --data_dir {name.rsplit('.', 1)[0]}"
        ) from error


def _columns(builder: Any) -> dict[str, np.ndarray]:
    """Returns the features that are one value a row, `[num_rows]` each, ordered by user and time."""
    data = builder.as_dataset(split="train").map(lambda row: {k: v for k, v in row.items() if v.shape.rank == 0})
    batches = list(tfds.as_numpy(data.batch(_BATCH)))
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    keys = [columns[name] for name in ("movie_id", "timestamp", "user_id") if name in columns]
    order = np.lexsort(keys)
    return {name: column[order] for name, column in columns.items()}


def _movies(subset: str, builder: Any) -> Table:
    """Returns movieId, title and genres (lists of names)."""
    data = builder.as_dataset(split="train").ragged_batch(_BATCH)
    batches = list(data)
    names = np.array(builder.info.features["movie_genres"].feature.names, dtype=object)
    genres = tf.concat([batch["movie_genres"] for batch in batches], axis=0)
    packed = Ragged(names[genres.values.numpy()], genres.row_splits.numpy())
    lists = pa.ListArray.from_arrays(pa.array(packed.offsets, pa.int32()), pa.array(packed.values, pa.string()))
    told = {
        "movieId": _strings(np.concatenate([batch["movie_id"].numpy() for batch in batches])),
        "title": _strings(np.concatenate([batch["movie_title"].numpy() for batch in batches])),
        "genres": lists,
    }
    table = pa.table(told)
    numbers = [int(movie) for movie in table["movieId"].to_pylist()]
    return _table(f"{subset}-movies", table.take(pa.array(np.argsort(numbers))))


def _ratings(subset: str, rated: dict[str, np.ndarray]) -> Table:
    told = {
        "userId": _strings(rated["user_id"]),
        "movieId": _strings(rated["movie_id"]),
        "rating": pa.array(rated["user_rating"]),
        "timestamp": pa.array(rated["timestamp"]),
    }
    return _table(f"{subset}-ratings", pa.table(told))


def _users(subset: str, rated: dict[str, np.ndarray]) -> Table:
    """Returns userId, gender, age and occupation of everybody who rated."""
    ids, first = np.unique(rated["user_id"], return_index=True)
    ages = [movielens.AGE_BANDS[int(age)] for age in rated["bucketized_user_age"][first]]
    told = {
        "userId": _strings(ids),
        "gender": pa.array(np.where(rated["user_gender"][first], "M", "F")),
        "age": pa.array(ages),
        "occupation": _strings(rated["user_occupation_text"][first]),
    }
    return _table(f"{subset}-users", pa.table(told))


def _strings(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.binary()).cast(pa.string())


def _table(name: str, columns: pa.Table) -> Table:
    return from_arrow(Path(name), columns, first_row=1)
