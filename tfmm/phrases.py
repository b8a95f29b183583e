"""Words that a shopper might type for a product: values of some of its attributes, "red dress"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np

from tfmm.encoders.sentence import SentenceEncoder
from tfmm.encoders.text import SubwordTokenizer
from tfmm.ragged import Ragged

FIELDS = 5
VARIANTS = 4
"""All of the first `FIELDS` fields that are known; the first two; the first; two at random."""
TWO_FIELDS = 1
"""The variant of the first two."""
ROW, TITLE = 0, 1
"""Columns of `Phrases.codes`; those of the fields follow."""


MAX_SUBWORDS = 32


def make_cutter(model: bytes) -> SubwordTokenizer:
    """Returns what cuts titles and typed words alike, string `[batch]` -> int32 `[batch, length]`, 0 = padding."""
    return SubwordTokenizer(model, max_length=MAX_SUBWORDS)


def cut(model: bytes, texts: Sequence[str]) -> np.ndarray:
    """Returns int32 `[rows, MAX_SUBWORDS]`, padded with 0."""
    ids = make_cutter(model)(list(texts)).numpy()
    return np.pad(ids, [(0, 0), (0, MAX_SUBWORDS - ids.shape[1])])


@dataclasses.dataclass(frozen=True)
class Phrases:
    """What may be typed for each product, and for which other products it fits as well.

    Attributes:
        texts: `[phrases]` str (object), distinct; the first is "".
        vectors: `[phrases, width]` of the sentence encoder; width 0 without one.
        subwords: `[phrases, length]` int32.
        of_item: `[num_items, VARIANTS]` int32 phrases of each item; 0 where it has no attributes.
        codes: `[num_items, 2 + fields]` int32: its row, its title, its values; equal numbers = equal content.
        pinned: `[num_items, VARIANTS, 2 + fields]` bool: the codes that a product must share for the phrase to fit it.
    """

    texts: np.ndarray
    vectors: np.ndarray
    subwords: np.ndarray
    of_item: np.ndarray
    codes: np.ndarray
    pinned: np.ndarray


def phrases_of(
    categorical: Mapping[str, Ragged],
    titles: np.ndarray,
    *,
    subwords: bytes,
    encoder: Optional[SentenceEncoder],
    seed: int,
) -> Phrases:
    """Returns the phrases of a catalogue.

    Args:
        categorical: field -> values of each item, the most telling field first; of a field with several values the
            first two are said.
        titles: `[num_items]` str (object), "" is missing.
        subwords: the SentencePiece model.
        encoder: of texts; None = subwords alone.
        seed: of the fields that are drawn.
    """
    count, fields = len(titles), list(categorical.values())[:FIELDS]
    columns = [values.to_dense(2, fill="").astype(str) for values in fields]
    words = np.array([[" ".join(filter(None, row)) for row in column] for column in columns], object)
    words = words.reshape(len(fields), count).T
    generator = np.random.default_rng(seed)
    lines = np.full((count, VARIANTS), "", object)
    pinned = np.zeros((count, VARIANTS, 2 + len(fields)), bool)
    for row, values in enumerate(words):
        known = np.flatnonzero(values != "")
        for variant, chosen in enumerate((known, known[:2], known[:1], np.sort(generator.permutation(known)[:2]))):
            lines[row, variant] = " ".join(values[chosen[::-1]])
            pinned[row, variant, 2 + chosen] = True
    texts, of_item = np.unique(np.append(lines.ravel().astype(str), ""), return_inverse=True)
    equal = [np.unique(column.astype(str), return_inverse=True)[1] for column in (titles, *words.T)]
    return Phrases(
        texts=texts.astype(object),
        vectors=(encoder.encode(list(texts))[0] if encoder else np.zeros((len(texts), 0))).astype(np.float16),
        subwords=cut(subwords, list(texts)),
        of_item=of_item[:-1].reshape(lines.shape).astype(np.int32),
        codes=np.stack([np.arange(count), *equal], axis=1).astype(np.int32),
        pinned=pinned,
    )
