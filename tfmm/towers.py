"""The two towers: what a query becomes, and what an item becomes, in one space.

The candidate tower fuses an item's id with its content; the query tower reads a history of candidate vectors and, in
the same breath, whatever was typed or shown. Both return vectors of length 1, so that a score is a cosine over a
temperature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfmm.encoders.attributes import AttributeEncoder, AttributeLookup, AttributeVocabulary
from tfmm.encoders.text import make_text_encoder
from tfmm.features import ATTRIBUTES, ID, NUMERIC, PRESENT, SUBWORDS, ItemFeatures
from tfmm.fusion import fusion


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """The shape of both towers.

    Attributes:
        dim: width of the shared space.
        id_dropout: how often an item's id is hidden in training, so that cold items are ranked by content alone.
        modality_dropout: likewise for each other modality.
        dropout: inside the sequence encoder, and on content vectors.
        history_dropout: on what the sequence encoder reads; where shoppers are many and events few, it needs much.
        fusion: how modalities become one vector (`fusion.KINDS`).
        encoder: "pooling" (causal mean, weighted by age and by item) or "attention" (causal transformer).
        blocks: of the transformer.
        heads: of each block.
        max_length: history items that are read, the newest.
    """

    dim: int = 64
    id_dropout: float = 0.4
    modality_dropout: float = 0.1
    dropout: float = 0.2
    history_dropout: float = 0.0
    fusion: str = "attention"
    encoder: str = "pooling"
    blocks: int = 1
    heads: int = 2
    max_length: int = 50

    def __post_init__(self) -> None:
        if self.encoder not in ("attention", "pooling"):
            raise ValueError(f"Expected towers.encoder to be attention or pooling, got {self.encoder!r}.")
        if self.dim % self.heads:
            raise ValueError(f"Expected towers.dim ({self.dim}) to be a multiple of towers.heads ({self.heads}).")
        fusion(self.fusion)


class CandidateTower(tf.keras.layers.Layer):
    """Items -> `[batch, dim]`. Takes a batch of rows of `ItemFeatures.columns`; the unknown id is `num_items`."""

    def __init__(self, config: TowerConfig, items: ItemFeatures) -> None:
        super().__init__(name="candidate_tower")
        self.config = config
        self.modalities, self.content = items.modalities, items.content
        self.ids = tf.keras.layers.Embedding(
            items.num_items + 1, config.dim, embeddings_initializer=_small(), name="id"
        )
        self.projections = {name: _projection(config, name) for name in self.content}
        if SUBWORDS in self.modalities and items.text is not None:
            text = items.text[0]
            self.text = make_text_encoder(text, vocabulary_size=text.vocabulary_size, dim=config.dim)
        if ATTRIBUTES in self.modalities:
            self.attributes = AttributeEncoder(items.vocabulary, config.dim)
        self.fusion = fusion(config.fusion)

    def begin_from(self, vectors: np.ndarray) -> None:
        """Has ids begin from these vectors `[num_items, dim]`; where one is zero, from what they are."""
        table = self.ids.embeddings
        known = np.flatnonzero(vectors.any(axis=1))
        table.assign(tf.tensor_scatter_nd_update(table, known[:, np.newaxis], vectors[known]))

    def project(self, features: Mapping[str, tf.Tensor], *, training: bool = False) -> tf.Tensor:
        """Returns each modality in the shared space, `[batch, modalities, dim]`, before they are fused."""
        vectors = [self._one(name, features, training) for name in self.modalities]
        return tf.stack(vectors, axis=1)

    def _one(self, name: str, features: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        if name == ID:
            return self.ids(features[ID])
        if name == SUBWORDS:
            return self.text(features[SUBWORDS], training=training)[0]
        if name == ATTRIBUTES:
            return self.attributes(features[ATTRIBUTES], features[NUMERIC])[0]
        return self.projections[name](tf.cast(features[name], tf.float32), training=training)

    def call(self, features: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Returns `[batch, dim]`, not yet of length 1."""
        present = features[PRESENT]
        if training:
            present &= self._kept(tf.shape(present)[0])
        return self.fusion(self.project(features, training=training), present)

    def _kept(self, batch: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, modalities]` bool, False where training hides a modality."""
        rates = [self.config.id_dropout] + [self.config.modality_dropout] * (len(self.modalities) - 1)
        return tf.random.uniform([batch, len(rates)]) >= tf.constant(rates)


class QueryTower(tf.keras.layers.Layer):
    """A history of item vectors -> `[batch, length, dim]`: at each position, the query for what comes next.

    Causal: position p reads the first p items. Each comes with the kind of its event and the time from it to the next,
    or to the query: what is wanted a minute later is not what is wanted a month later.
    """

    def __init__(self, config: TowerConfig, *, num_events: int, num_context: int) -> None:
        super().__init__(name="query_tower")
        self.config = config
        self.events = tf.keras.layers.Embedding(num_events, config.dim, embeddings_initializer="zeros", name="events")
        self.gaps = tf.keras.layers.Embedding(_NUM_GAPS, config.dim, embeddings_initializer="zeros", name="gaps")
        self.context = tf.keras.layers.Embedding(
            num_context, config.dim, embeddings_initializer="zeros", name="context"
        )
        make: type[_Block] | type[_Pooling] = _Pooling if config.encoder == "pooling" else _Block
        self.blocks = [make(config, name=f"block_{i}") for i in range(config.blocks)]
        self.norm = tf.keras.layers.LayerNormalization()
        self.drop = tf.keras.layers.Dropout(config.history_dropout)

    def build(self, shape: tf.TensorShape) -> None:
        self.start = self.add_weight(name="start", shape=[self.config.dim], initializer="zeros")
        super().build(shape)

    def call(
        self,
        vectors: tf.Tensor,
        mask: tf.Tensor,
        times: tf.Tensor,
        events: tf.Tensor,
        context: tf.Tensor,
        asked: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """Returns `[batch, length + 1, dim]`: position 0 has read nothing, position p the first p items.

        Args:
            vectors: `[batch, length, dim]`, left-aligned, oldest first.
            mask: `[batch, length]` bool.
            times: `[batch, length]` int64 seconds; 0 = unknown.
            events: `[batch, length]` int32.
            context: `[batch, terms]` int32, 0 = none.
            asked: `[batch, length + 1]` int64 seconds: when each position's query is asked; 0 = unknown.
            training: whether dropout is on.
        """
        about = tf.cast(context > 0, tf.float32)[..., tf.newaxis] * self.context(context)
        shopper = self.start + tf.reduce_sum(about, axis=1)  # [batch, dim]
        if training:  # so that a query without a time has been seen
            asked *= tf.cast(tf.random.uniform([tf.shape(asked)[0], 1]) >= self.config.modality_dropout, asked.dtype)
        x = vectors + self.events(events) + self.gaps(_gap_buckets(times, asked[:, 1:]))
        x = tf.concat([tf.zeros_like(shopper)[:, tf.newaxis], x], axis=1) + shopper[:, tf.newaxis]
        x = self.drop(x, training=training)
        mask = tf.concat([tf.fill([tf.shape(mask)[0], 1], True), mask], axis=1)
        for block in self.blocks:
            x = block(x, mask, training=training)
        return self.norm(x)


class Towers(tf.Module):
    """Both towers and the vocabulary of the shoppers' context: all of the training model that is exported."""

    def __init__(
        self, config: TowerConfig, items: ItemFeatures, *, context: AttributeVocabulary, num_events: int
    ) -> None:
        super().__init__(name="towers")
        self.config = config
        self.candidate = CandidateTower(config, items)
        self.query = QueryTower(config, num_events=num_events, num_context=len(context))
        self.context_ids = AttributeLookup(context)

    def embed_queries(
        self,
        table: tf.Tensor,
        items: tf.Tensor,
        times: tf.Tensor,
        events: tf.Tensor,
        context: tf.Tensor,
        asked: tf.Tensor,
    ) -> tf.Tensor:
        """Returns `[batch, dim]` of length 1: what each shopper asks for now.

        Args:
            table: `[num_items, dim]`, the items' vectors, not of length 1.
            items: `[batch, length]` int32 rows, left-aligned, oldest first, -1 = nothing.
            times: `[batch, length]` int64 seconds.
            events: `[batch, length]` int32.
            context: `[batch, terms]` string "field=value".
            asked: `[batch]` int64 seconds: now; 0 = unknown.
        """
        mask = items >= 0
        last = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
        following = tf.concat([times[:, 1:], tf.zeros_like(asked)[:, tf.newaxis]], axis=1)[:, : tf.shape(times)[1]]
        newest = tf.range(tf.shape(items)[1])[tf.newaxis] == last[:, tf.newaxis] - 1
        following = tf.where(newest, asked[:, tf.newaxis], following)
        following = tf.concat([tf.zeros_like(asked)[:, tf.newaxis], following], axis=1)
        queries = self.query(look_up(table, items), mask, times, events, self.context_ids(context), following)
        return unit(tf.gather(queries, last, batch_dims=1))


def look_up(table: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns `table[rows]`, zeros where a row is -1."""
    return tf.gather(table, tf.maximum(rows, 0)) * tf.cast(rows >= 0, table.dtype)[..., tf.newaxis]


def unit(vectors: tf.Tensor) -> tf.Tensor:
    """Returns the vectors at length 1 along the last axis; zero stays zero."""
    return tf.math.l2_normalize(vectors, axis=-1)


class _Block(tf.keras.layers.Layer):
    """Pre-norm causal self-attention with a learned bias for how long ago, then a feed-forward layer.

    Both add nothing at first: training starts from the vector of the newest item, whose neighbours are a good answer.
    """

    def __init__(self, config: TowerConfig, *, name: str) -> None:
        super().__init__(name=name)
        self.heads, self.dim, self.span = config.heads, config.dim, config.max_length + 1
        self.norms = [tf.keras.layers.LayerNormalization() for _ in range(2)]
        self.qkv = tf.keras.layers.Dense(3 * config.dim, use_bias=False)
        self.mix = tf.keras.layers.Dense(config.dim, kernel_initializer="zeros")
        self.up = tf.keras.layers.Dense(2 * config.dim, activation="gelu")
        self.down = tf.keras.layers.Dense(config.dim, kernel_initializer="zeros")
        self.drop = tf.keras.layers.Dropout(config.dropout)

    def build(self, shape: tf.TensorShape) -> None:
        self.age_bias = self.add_weight(name="age_bias", shape=[self.heads, self.span], initializer="zeros")
        super().build(shape)

    def call(self, x: tf.Tensor, mask: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[batch, length, dim]`."""
        x += self.drop(self._attend(self.norms[0](x), mask), training=training)
        return x + self.drop(self.down(self.up(self.norms[1](x))), training=training)

    def _attend(self, x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        length = tf.shape(x)[1]
        width = self.dim // self.heads
        parts = tf.reshape(self.qkv(x), [-1, length, 3, self.heads, width])
        query, key, value = tf.unstack(parts, axis=2)
        logits = tf.einsum("bqhw,bkhw->bhqk", query, key) * width**-0.5 + _age_logits(self.age_bias, length)
        allowed = mask[:, tf.newaxis, tf.newaxis, :] & _causal(length)
        weights = tf.nn.softmax(tf.where(allowed, logits, tf.float32.min), axis=-1)
        heads = tf.einsum("bhqk,bkhw->bqhw", weights, value)
        return self.mix(tf.reshape(heads, [-1, length, self.dim]))


class _Pooling(tf.keras.layers.Layer):
    """A causal mean weighted by how long ago and by the item itself, then a feed-forward layer."""

    def __init__(self, config: TowerConfig, *, name: str) -> None:
        super().__init__(name=name)
        self.span = config.max_length + 1
        self.importance = tf.keras.layers.Dense(1)
        self.up = tf.keras.layers.Dense(2 * config.dim, activation="gelu")
        self.down = tf.keras.layers.Dense(config.dim)
        self.drop = tf.keras.layers.Dropout(config.dropout)

    def build(self, shape: tf.TensorShape) -> None:
        self.age_bias = self.add_weight(name="age_bias", shape=[1, self.span], initializer="zeros")
        super().build(shape)

    def call(self, x: tf.Tensor, mask: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[batch, length, dim]`."""
        length = tf.shape(x)[1]
        logits = tf.transpose(self.importance(x), [0, 2, 1]) + _age_logits(self.age_bias, length)
        allowed = mask[:, tf.newaxis, :] & _causal(length)
        weights = tf.nn.softmax(tf.where(allowed, logits, tf.float32.min), axis=-1)
        pooled = tf.matmul(weights, x)
        return pooled + self.drop(self.down(self.up(pooled)), training=training)


_NUM_GAPS = 24


def _gap_buckets(times: tf.Tensor, asked: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, length]` int32: log2 of the seconds from each event until the query; 0 where unknown."""
    gap = tf.cast(tf.maximum(asked - times, 0), tf.float32)
    bucket = 1 + tf.cast(tf.math.log1p(gap) / tf.math.log(2.0), tf.int32)
    return tf.where((times > 0) & (asked > 0), tf.minimum(bucket, _NUM_GAPS - 1), 0)


def _age_logits(bias: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Returns `[heads, length, length]`: `bias[head, age]` at (query, key), age counted in positions."""
    age = tf.range(length)[:, tf.newaxis] - tf.range(length)[tf.newaxis, :]
    return tf.gather(bias, tf.clip_by_value(age, 0, bias.shape[1] - 1), axis=1)


def _causal(length: tf.Tensor) -> tf.Tensor:
    """Returns `[length, length]` bool: key not after query."""
    return tf.range(length)[:, tf.newaxis] >= tf.range(length)[tf.newaxis, :]


def _small() -> tf.keras.initializers.Initializer:
    return tf.keras.initializers.RandomNormal(stddev=0.05)


def _projection(config: TowerConfig, name: str) -> tf.keras.Sequential:
    """Returns a modality's way into the shared space: dropout, then one dense layer that starts small."""
    small = tf.keras.initializers.VarianceScaling(0.1)
    layers = [tf.keras.layers.Dropout(config.dropout), tf.keras.layers.Dense(config.dim, kernel_initializer=small)]
    return tf.keras.Sequential(layers, name=f"project_{name}")
