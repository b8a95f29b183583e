"""Raw content of a query or of a new product -> what the towers read, inside the graph."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Callable, Optional

import tensorflow as tf

from tfmm.encoders.attributes import AttributeLookup, AttributeVocabulary
from tfmm.encoders.image import ImageEncoder
from tfmm.encoders.sentence import SentenceEncoder
from tfmm.encoders.timbre import TimbreEncoder
from tfmm.features import ATTRIBUTES, NUMERIC

Encoder = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
IMAGE, TEXT, SOUND = "image", "text", "sound"


@dataclasses.dataclass(frozen=True)
class RawEncoders:
    """What turns the raw content of a query or of a new item into vectors; None where the model does not use it."""

    image: Optional[ImageEncoder]
    text: Optional[SentenceEncoder]
    sound: Optional[TimbreEncoder] = None

    @property
    def by_modality(self) -> Mapping[str, Encoder]:
        """The encoders that there are."""
        made = ((IMAGE, self.image), (TEXT, self.text), (SOUND, self.sound))
        return {name: one for name, one in made if one is not None}


class Reader(tf.Module):
    """Texts, pictures, sounds and "field=value" terms -> vectors of the frozen encoders, attribute ids and numbers."""

    def __init__(self, encoders: RawEncoders, vocabulary: AttributeVocabulary, *, widths: Mapping[str, int]) -> None:
        """Takes what there is.

        Args:
            encoders: of raw content.
            vocabulary: of the attributes.
            widths: of every modality that comes as vectors; one without an encoder was made elsewhere, and is absent.
        """
        super().__init__(name="reader")
        self._encoders, self._widths = dict(encoders.by_modality), dict(widths)
        self.lookup = AttributeLookup(vocabulary)
        self.vocabulary = tf.Variable(vocabulary.to_json(), trainable=False, name="vocabulary")
        self._numeric_fields = [statistics.field for statistics in vocabulary.numeric]

    @property
    def hears(self) -> bool:
        """Whether products have sounds, and this model can encode others."""
        return SOUND in self._widths and SOUND in self._encoders

    def __call__(
        self, text: tf.Tensor, image: tf.Tensor, attributes: tf.Tensor, sound: Optional[tf.Tensor] = None
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Returns features, and modality -> `[batch]` bool: whether it is there.

        An encoder runs only where some of the batch has such content.

        Args:
            text: string `[batch]`, "" = none.
            image: string `[batch]` of picture bytes, "" = none.
            attributes: string `[batch, n]` "field=value", numbers alike.
            sound: string `[batch]` of WAV bytes, "" = none; None = nowhere any.
        """
        features: dict[str, tf.Tensor] = {}
        present: dict[str, tf.Tensor] = {}
        nothing = tf.fill(tf.shape(text), "")
        contents = {TEXT: text, IMAGE: image, SOUND: nothing if sound is None else sound}
        for name, width in self._widths.items():
            features[name], present[name] = _where_any(contents.get(name, nothing), self._encoders.get(name), width)
        features[ATTRIBUTES] = self.lookup.by_field(attributes)
        features[NUMERIC] = self.lookup.standardise(self._numbers(attributes))
        known = tf.reduce_any(features[ATTRIBUTES] > 0, axis=[1, 2])
        present[ATTRIBUTES] = known | tf.reduce_any(tf.math.is_finite(features[NUMERIC]), axis=1)
        return features, present

    def _numbers(self, attributes: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, numbers]`: the numeric fields of "field=value" terms, NaN where there is none."""
        columns = [tf.zeros([tf.shape(attributes)[0], 0])]
        for field in self._numeric_fields:
            given = tf.strings.regex_full_match(attributes, re.escape(field) + "=.+")
            values = tf.strings.regex_replace(attributes, "^[^=]*=", "", replace_global=False)
            numbers = tf.strings.to_number(tf.where(given, values, "-inf"))
            number = tf.reduce_max(numbers, axis=1, keepdims=True)
            columns.append(tf.where(tf.math.is_finite(number), number, float("nan")))
        return tf.concat(columns, axis=1)


def _where_any(contents: tf.Tensor, encoder: Optional[Encoder], width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns vectors and presence of the contents; without an encoder, or where all are empty, at no cost."""
    empty = tf.zeros([tf.shape(contents)[0], width]), tf.fill([tf.shape(contents)[0]], False)
    if encoder is None:
        return empty
    found: tuple[tf.Tensor, tf.Tensor] = tf.cond(
        tf.reduce_all(contents == ""), lambda: empty, lambda: encoder(contents)
    )
    return found
