"""Attributes of products and shoppers -> ids and standardised numbers -> `[batch, dim]`.

A categorical value is a term "field=value". What training never saw is not lost: it gets the id "other" of its field. A
missing number stays NaN until the encoder puts a learned vector in its place.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm.ragged import Ragged

NOTHING = 0
"""The id of "no value here"."""

UNSEEN = -1
"""What `AttributeLookup.exact` gives for a term that has no id of its own."""

_SKEWED = 2.0
_LARGEST = 8.0


@dataclasses.dataclass(frozen=True)
class NumericStatistics:
    """How one numeric field is standardised: (squash(x) - mean) / deviation, kept within +-8.

    Attributes:
        field: its name.
        skewed: whether sign(x) * log(1 + |x|) comes first; it does where the skewness of the training rows is above 2
            either way (prices, counts), so that a few large values do not crush all others.
        mean: of the squashed training rows.
        deviation: likewise; 1 where all are the same.
    """

    field: str
    skewed: bool
    mean: float
    deviation: float


@dataclasses.dataclass(frozen=True)
class AttributeVocabulary:
    """What training rows taught: ids 1..F are "other" of each field, then one for each term.

    Attributes:
        fields: categorical fields, sorted.
        terms: "field=value", sorted by field, then by value; term i has id 1 + F + i.
        numeric: statistics of the numeric fields, sorted by name.
    """

    fields: tuple[str, ...]
    terms: tuple[str, ...]
    numeric: tuple[NumericStatistics, ...]

    def __post_init__(self) -> None:
        for field in self.fields:
            if "=" in field or not field:
                raise ValueError(f'Expected the name of a field to be non-empty and without "=", got {field!r}.')
        unknown = {term.split("=", 1)[0] for term in self.terms} - set(self.fields)
        if unknown:
            raise ValueError(f"Expected terms of the fields {self.fields}, got terms of {sorted(unknown)}.")

    def __len__(self) -> int:
        """Returns the number of ids, `NOTHING` and the "other" ids included."""
        return 1 + len(self.fields) + len(self.terms)

    @property
    def field_of_id(self) -> np.ndarray:
        """`[len(self)]` int32: the field that each id belongs to; -1 for `NOTHING`."""
        numbers = {field: number for number, field in enumerate(self.fields)}
        of_terms = [numbers[term.split("=", 1)[0]] for term in self.terms]
        return np.array([-1, *range(len(self.fields)), *of_terms], np.int32)

    def to_json(self) -> str:
        """Returns a text that `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> AttributeVocabulary:
        """Returns what `to_json` wrote."""
        raw = json.loads(text)
        numeric = tuple(NumericStatistics(**statistics) for statistics in raw["numeric"])
        return cls(tuple(raw["fields"]), tuple(raw["terms"]), numeric)

    def token_table(
        self, categorical: Mapping[str, Ragged], *, max_values: Optional[int] = None, num_rows: Optional[int] = None
    ) -> np.ndarray:
        """Returns int32 `[num_rows, num_fields, max_values]`, 0 where there is nothing.

        Args:
            categorical: field -> values of each row; fields that training did not have are passed over, fields that
                are not here have no values.
            max_values: kept of each field and row; by default the most that any has.
            num_rows: needed where `categorical` may be empty.
        """
        rows = _num_rows(categorical) if num_rows is None else num_rows
        ids = self._ids()
        columns = {field: self._tokens(field, categorical[field], ids) for field in self.fields if field in categorical}
        widest = max((int(tokens.lengths.max(initial=0)) for tokens in columns.values()), default=0)
        table = np.zeros((rows, len(self.fields), max(1, widest if max_values is None else max_values)), np.int32)
        for number, field in enumerate(self.fields):
            if field in columns:
                table[:, number] = columns[field].to_dense(table.shape[2], fill=NOTHING)
        return table

    def numeric_table(self, numeric: Mapping[str, np.ndarray], *, num_rows: Optional[int] = None) -> np.ndarray:
        """Returns float32 `[num_rows, num_numeric]`, standardised; NaN where missing, or where the field is not here.

        Args:
            numeric: field -> `[num_rows]`; infinite numbers count as missing.
            num_rows: needed where `numeric` may be empty.
        """
        if num_rows is None:
            num_rows = max((len(column) for column in numeric.values()), default=0)
        table = np.full((num_rows, len(self.numeric)), np.nan, np.float32)
        for column, statistics in enumerate(self.numeric):
            if statistics.field in numeric:
                raw = _finite_or_nan(numeric[statistics.field])
                squashed = _squash(raw) if statistics.skewed else raw
                standard = (squashed - statistics.mean) / statistics.deviation
                table[:, column] = np.clip(standard, -_LARGEST, _LARGEST)  # keeps NaN
        return table

    def _ids(self) -> dict[str, int]:
        return {term: 1 + len(self.fields) + number for number, term in enumerate(self.terms)}

    def _tokens(self, field: str, values: Ragged, ids: Mapping[str, int]) -> Ragged:
        other = 1 + self.fields.index(field)
        unique, inverse = np.unique(values.values.astype(str), return_inverse=True)
        unique_ids = np.array([ids.get(f"{field}={value}", other) if value else NOTHING for value in unique], np.int32)
        return Ragged(unique_ids[inverse] if len(unique) else np.zeros(0, np.int32), values.offsets)


def learn_attributes(
    categorical: Mapping[str, Ragged],
    numeric: Mapping[str, np.ndarray],
    *,
    rows: Optional[np.ndarray] = None,
    min_count: int = 1,
) -> AttributeVocabulary:
    """Returns the vocabulary and statistics of the given rows, and of no other.

    Args:
        categorical: field -> values of each row of the catalogue.
        numeric: field -> `[num_rows]`, NaN is missing.
        rows: `[num_training_rows]` int, the rows that training may see; None is all.
        min_count: a value in fewer rows than this has no id of its own, and is "other".
    """
    terms = []
    for field in sorted(categorical):
        values = categorical[field] if rows is None else categorical[field].take(rows)
        terms += [f"{field}={value}" for value in _frequent_values(values, min_count)]
    statistics = []
    for field in sorted(numeric):
        column = np.asarray(numeric[field]) if rows is None else np.asarray(numeric[field])[rows]
        statistics.append(_learn_statistics(field, column))
    return AttributeVocabulary(tuple(sorted(categorical)), tuple(terms), tuple(statistics))


class AttributeLookup(tf.Module):
    """The vocabulary inside a graph: for filters, for shoppers' context and for products never seen."""

    def __init__(self, vocabulary: AttributeVocabulary) -> None:
        super().__init__(name="attribute_lookup")
        ids = vocabulary._ids()
        self._terms = _table(list(ids), list(ids.values()), UNSEEN)
        self._others = _table(list(vocabulary.fields), list(range(1, 1 + len(vocabulary.fields))), NOTHING)
        self._field_of_id = vocabulary.field_of_id.tolist()
        self._num_fields = len(vocabulary.fields)
        self._numeric = [(s.skewed, s.mean, s.deviation) for s in vocabulary.numeric]

    def __call__(self, terms: tf.Tensor) -> tf.Tensor:
        """Returns int32 ids of string "field=value" of any shape: "other" for a new value, 0 for "" or a new field."""
        ids = self._terms.lookup(terms)
        field = tf.strings.regex_replace(terms, r"(?s)=.*", "")
        has_value = tf.strings.regex_full_match(terms, r"(?s)[^=]+=.+")
        other = tf.where(has_value, self._others.lookup(field), NOTHING)
        return tf.cast(tf.where(ids == UNSEEN, other, ids), tf.int32)

    def exact(self, terms: tf.Tensor) -> tf.Tensor:
        """Returns int32 ids as a filter needs them: `UNSEEN` for what has no id of its own, 0 for ""."""
        ids = tf.cast(self._terms.lookup(terms), tf.int32)
        return tf.where(tf.equal(terms, ""), NOTHING, ids)

    def by_field(self, terms: tf.Tensor) -> tf.Tensor:
        """Returns int32 `[batch, fields, n]`, as `AttributeEncoder` takes them, of string `[batch, n]` in any order."""
        ids = self(terms)
        fields = tf.gather(tf.constant(self._field_of_id, tf.int32), ids)  # [batch, n]
        wanted = tf.range(self._num_fields)[tf.newaxis, :, tf.newaxis]
        return tf.where(fields[:, tf.newaxis, :] == wanted, ids[:, tf.newaxis, :], NOTHING)

    def standardise(self, numeric: tf.Tensor) -> tf.Tensor:
        """Returns float32 `[batch, num_numeric]` as `numeric_table` does, of raw numbers; NaN stays NaN."""
        if not self._numeric:
            return tf.zeros_like(numeric)
        skewed, mean, deviation = (tf.constant(part) for part in zip(*self._numeric))
        raw = tf.where(tf.math.is_finite(numeric), numeric, float("nan"))
        squashed = tf.where(skewed, tf.sign(raw) * tf.math.log1p(tf.abs(raw)), raw)
        standard = tf.clip_by_value((squashed - mean) / deviation, -_LARGEST, _LARGEST)
        return tf.where(tf.math.is_nan(raw), raw, standard)


class AttributeEncoder(tf.keras.layers.Layer):
    """Mean over the fields (each the mean of its values' embeddings), plus a small network for how fields interact."""

    def __init__(self, vocabulary: AttributeVocabulary, dim: int) -> None:
        super().__init__(name="attributes")
        self._sizes = (len(vocabulary), len(vocabulary.fields), len(vocabulary.numeric))
        self._dim = dim
        if not vocabulary.fields and not vocabulary.numeric:
            raise ValueError("Expected at least one attribute, categorical or numeric, to encode; got none.")

    def build(self, input_shape: object) -> None:
        """Makes every weight, always in this order."""
        num_ids, num_fields, num_numeric = self._sizes

        def add(name: str, shape: Sequence[int], initializer: Optional[str] = None) -> tf.Variable:
            # One initializer each: Keras draws the same numbers twice from one that is shared.
            small = tf.keras.initializers.RandomNormal(stddev=0.05)
            return self.add_weight(name, shape, initializer=initializer or small)

        self._values = add("values", [num_ids, self._dim])
        self._absent_fields = add("absent_fields", [num_fields, self._dim])
        self._slopes = add("slopes", [num_numeric, self._dim])
        self._offsets = add("offsets", [num_numeric, self._dim])
        self._absent_numeric = add("absent_numeric", [num_numeric, self._dim])
        self._inner = add("inner", [self._dim, 2 * self._dim], "glorot_uniform")
        self._inner_bias = add("inner_bias", [2 * self._dim], "zeros")
        self._outer = add("outer", [2 * self._dim, self._dim], "glorot_uniform")
        super().build(input_shape)

    def call(self, tokens: tf.Tensor, numeric: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns vectors `[batch, dim]`, and present `[batch]` bool: whether any attribute is known.

        Args:
            tokens: int32 `[batch, fields, values]`, 0 where there is nothing.
            numeric: `[batch, num_numeric]`, standardised, NaN where missing.
        """
        valid = tf.not_equal(tokens, NOTHING)
        known = tf.math.is_finite(numeric)
        slots = tf.concat([self._encode_fields(tokens, valid), self._encode_numeric(numeric, known)], 1)
        mean = tf.reduce_mean(slots, axis=1)
        hidden = tf.nn.gelu(mean @ self._inner + self._inner_bias)
        present = tf.reduce_any(valid, axis=[1, 2]) | tf.reduce_any(known, axis=1)
        return mean + hidden @ self._outer, present

    def _encode_fields(self, tokens: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, fields, dim]`; only real values are looked up, padding costs nothing."""
        shape = tf.shape(tokens)
        count = tf.reduce_sum(tf.cast(valid, tf.float32), axis=2)  # [batch, fields]
        places = tf.cast(tf.where(valid), tf.int32)
        slot = places[:, 0] * shape[1] + places[:, 1]
        vectors = tf.gather(self._values, tf.gather_nd(tokens, places))
        total = tf.reshape(tf.math.unsorted_segment_sum(vectors, slot, shape[0] * shape[1]), [shape[0], -1, self._dim])
        count = count[..., tf.newaxis]
        return tf.where(count > 0, total / tf.maximum(count, 1.0), self._absent_fields)

    def _encode_numeric(self, numeric: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, num_numeric, dim]`."""
        number = tf.where(known, numeric, 0.0)[..., tf.newaxis]  # before the product: NaN would reach the gradient
        return tf.where(known[..., tf.newaxis], number * self._slopes + self._offsets, self._absent_numeric)


def _table(keys: Sequence[str], ids: Sequence[int], default: int) -> tf.lookup.StaticHashTable:
    keys, ids = ["", *keys], [default, *ids]  # TensorFlow refuses a table without any key
    initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(ids, tf.int64))
    return tf.lookup.StaticHashTable(initializer, default)


def _num_rows(categorical: Mapping[str, Ragged]) -> int:
    lengths = {field: len(values) for field, values in categorical.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Expected the same number of rows in every field, got {lengths}.")
    return next(iter(lengths.values()), 0)


def _frequent_values(values: Ragged, min_count: int) -> list[str]:
    """Returns the non-empty values that stand in at least `min_count` rows, sorted."""
    unique, inverse = np.unique(values.values.astype(str), return_inverse=True)
    pairs = np.unique(np.stack([inverse, values.row_numbers]), axis=1)  # a value counts once a row
    counts = np.bincount(pairs[0], minlength=len(unique))
    return [str(value) for value, count in zip(unique, counts) if value and count >= min_count]


def _learn_statistics(field: str, column: np.ndarray) -> NumericStatistics:
    known = _finite_or_nan(column)
    known = known[~np.isnan(known)]
    skewed = _is_skewed(known)
    values = _squash(known) if skewed else known
    deviation = float(values.std()) if len(values) else 0.0
    mean = float(values.mean()) if len(values) else 0.0
    return NumericStatistics(field, skewed, mean, deviation if deviation > 1e-6 * max(1.0, abs(mean)) else 1.0)


def _is_skewed(values: np.ndarray) -> bool:
    if len(values) < 3 or values.std() == 0:
        return False
    return bool(abs(np.mean(((values - values.mean()) / values.std()) ** 3)) > _SKEWED)


def _squash(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values))


def _finite_or_nan(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values, np.nan)
