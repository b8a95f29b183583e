"""What a shop asks, as plain Python values -> the dense tensors of the contract, and answers back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Optional, Union

import numpy as np
import tensorflow as tf

from tfmm import schema

RECOMMEND = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
Answer = list[tuple[str, float]]
"""Item ids and scores, best first."""


@dataclasses.dataclass(frozen=True)
class Query:
    """One question; whatever is not given is empty, and no field is required.

    Attributes:
        history: item ids, oldest first.
        times: seconds since the epoch, one per history item.
        events: event type names, one per history item; "" = the weakest.
        time: when it is asked, seconds since the epoch; 0 = unknown.
        context: "field=value" of the user, e.g. "gender=F".
        text: what was typed.
        image: bytes of a JPEG, PNG, GIF or BMP.
        audio: bytes of a WAV.
        exclude: item ids never to return.
        filters: "field=value"; an item comes back only if it has all of them.
    """

    history: Sequence[str] = ()
    times: Optional[Sequence[int]] = None
    events: Optional[Sequence[str]] = None
    time: int = 0
    context: Sequence[str] = ()
    text: str = ""
    image: bytes = b""
    audio: bytes = b""
    exclude: Sequence[str] = ()
    filters: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("history", "context", "exclude", "filters"):
            value = getattr(self, name)
            if isinstance(value, (str, bytes)):
                raise TypeError(f"Expected a list of strings in {name}, got one string: {value!r}. Write [{value!r}].")
        for name in ("times", "events"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.history):
                raise ValueError(f"Expected {len(self.history)} {name} (one per history item), got {len(value)}.")
        for name in ("context", "filters"):
            for value in getattr(self, name):
                if "=" not in value:
                    raise ValueError(f'Expected "field=value" in {name}, got {value!r}.')

    def features(self) -> dict[str, Union[Sequence, str, bytes, int]]:
        """Returns the values under their names in `tfmm.schema`."""
        empty = len(self.history)
        return {
            schema.HISTORY: self.history,
            schema.HISTORY_TIMES: [0] * empty if self.times is None else self.times,
            schema.HISTORY_EVENTS: [""] * empty if self.events is None else self.events,
            schema.QUERY_TIME: self.time,
            schema.CONTEXT: self.context,
            schema.QUERY_TEXT: self.text,
            schema.QUERY_IMAGE: self.image,
            schema.QUERY_AUDIO: self.audio,
            schema.EXCLUDE: self.exclude,
            schema.FILTERS: self.filters,
        }


def build_request(queries: Sequence[Query]) -> dict[str, np.ndarray]:
    """Returns the inputs of `recommend`, `retrieve` and `embed_query`: `[batch]` or `[batch, width]` each.

    Rows are padded on the right with "" and 0 to the longest of the batch; strings are `bytes` in object arrays,
    since numpy's own byte strings would lose trailing zeros of a picture.
    """
    rows = [query.features() for query in queries]
    return {name: _column(name, [row[name] for row in rows], spec) for name, spec in schema.query_signature().items()}


def build_example(query: Query) -> bytes:
    """Returns one serialised tf.Example for `recommend_examples`; what is empty is left out."""
    features = {name: _feature(value) for name, value in query.features().items() if value}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def read_answers(outputs: Mapping[str, np.ndarray]) -> list[Answer]:
    """Returns one list of (item id, score) per query from `item_ids` and `scores`, without the padding."""
    ids, scores = outputs[schema.ITEM_IDS], outputs[schema.SCORES]
    return [
        [(item.decode(), float(score)) for item, score in zip(*row) if item]
        for row in zip(ids.tolist(), scores.tolist())
    ]


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why an item suits a shopper.

    Attributes:
        modalities: name -> share of the score, the largest first; what speaks against the item is left out.
        because: items of the history without which the score would fall most, the first most of all.
    """

    modalities: Mapping[str, float]
    because: Sequence[str]

    @property
    def shares(self) -> list[tuple[str, int]]:
        """What the score is made of, in words that a person knows, and percents; what rounds to none is left out."""
        told = [(_SAID.get(name, name), round(100 * share)) for name, share in self.modalities.items()]
        return [pair for pair in told if pair[1]]

    def sentence(self, titles: Mapping[str, str]) -> str:
        """Returns the largest share and what is leaned on most: "behaviour 61%, for Red mug"."""
        parts = [f"{name} {percent}%" for name, percent in self.shares[:1]]
        return ", ".join(parts + [f"for {titles.get(item) or item}" for item in self.because[:1]])


_SAID = {"id": "behaviour"}  # what an id embedding holds


def explain_request(query: Query, items: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the inputs of `explain` for the items of one answer."""
    ids = np.array([[item.encode() for item in items]], dtype=object).reshape(1, len(items))
    return {**build_request([query]), schema.ITEM_IDS: ids}


def read_reasons(history: Sequence[str], outputs: Mapping[str, np.ndarray], *, most: int = 2) -> list[Reason]:
    """Returns one reason an item, in the order asked; at most `most` items of the history each."""
    names = [name.decode() for name in outputs[schema.MODALITIES][0]]
    reasons = []
    for shares, falls in zip(outputs[schema.MODALITY_SHARES][0], outputs[schema.HISTORY_SHARES][0]):
        positive = np.maximum(shares, 0.0)
        order = [place for place in np.argsort(-positive, kind="stable") if positive[place] > 0]
        told = {names[place]: float(positive[place] / positive.sum()) for place in order}
        leaned = [place for place in np.argsort(-falls, kind="stable")[:most] if falls[place] > 0]
        reasons.append(Reason(told, list(dict.fromkeys(history[place] for place in leaned))))
    return reasons


def _column(name: str, values: list, spec: tf.TensorSpec) -> np.ndarray:
    text = spec.dtype == tf.string
    if spec.shape.rank == 1:
        return _typed([_encoded(name, value) for value in values] if text else values, len(values), text)
    width = max((len(value) for value in values), default=0)
    column = np.full([len(values), width], b"" if text else 0, dtype=object if text else np.int64)
    for row, value in enumerate(values):
        column[row, : len(value)] = [_encoded(name, one) for one in value] if text else value
    return column


def _typed(values: list, size: int, text: bool) -> np.ndarray:
    column = np.empty([size], dtype=object if text else np.int64)
    column[:] = values
    return column


def _encoded(name: str, value: object) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"Expected str or bytes in {name}, got {type(value).__name__}: {value!r}.")


def _feature(value: Union[Sequence, str, bytes, int]) -> tf.train.Feature:
    values = [value] if isinstance(value, (str, bytes, int)) else list(value)
    if all(isinstance(one, (int, np.integer)) for one in values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    encoded = [_encoded("feature", one) for one in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
