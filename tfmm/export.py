"""Towers, index and scorer -> one SavedModel version, written whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import tensorflow as tf

from tfmm import schema
from tfmm.candidates import Candidates, Tensors
from tfmm.encoders.attributes import NOTHING
from tfmm.encoders.text import SubwordTokenizer
from tfmm.features import ATTRIBUTES, ID, PRESENT, SUBWORDS, ItemFeatures
from tfmm.index import forbid, top_k
from tfmm.pipelines import parse_example_lists, parse_queries
from tfmm.reading import RawEncoders, Reader
from tfmm.reranking import ListwiseScorer
from tfmm.towers import unit

EXAMPLES = "examples"
ATTRIBUTE_TERMS = "attributes"  # of `embed_item`: "field=value", numbers alike ("price=12.5")
MAX_RESULTS = 100


class Service(tf.Module):
    """Everything that answers a request, in core ops and TF Text's."""

    def __init__(
        self, candidates: Candidates, scorer: ListwiseScorer, items: ItemFeatures, encoders: RawEncoders
    ) -> None:
        super().__init__(name="tfmm")
        self.candidates, self.scorer = candidates, scorer
        self._tower = candidates.towers.candidate
        self._nobody = items.num_items
        widths = {name: len(reduction.mean) for name, reduction in items.reductions.items()}
        self.reader = Reader(encoders, items.vocabulary, widths=widths)
        self._subwords = SubwordTokenizer(items.text[1], max_length=items.text[0].max_length) if items.text else None
        self._reductions = {
            name: (tf.Variable(r.mean, trainable=False), tf.Variable(r.components, trainable=False))
            for name, r in items.reductions.items()
        }
        tokens = items.columns[ATTRIBUTES][:-1]
        self._tokens = tf.Variable(tokens.reshape(len(tokens), -1), trainable=False, name="tokens")

    def recommend(self, **query: tf.Tensor) -> Tensors:
        """Returns the best items for a query: retrieved, those already seen left out, reranked."""
        query, allowed, searched = self._encode(query)
        near_scores, near = self.candidates.retrieve(query, k=self.candidates.size, allowed=allowed)
        rows = tf.where(searched, near, self.candidates.pool(query, allowed=allowed))
        scores = tf.where(searched, near_scores, self._rank_rows(query, rows))
        scores, order = tf.math.top_k(tf.where(rows >= 0, scores, tf.float32.min), k=min(MAX_RESULTS, rows.shape[1]))
        return self._answer(tf.gather(rows, order, batch_dims=1), scores)

    def recommend_examples(self, examples: tf.Tensor) -> Tensors:
        """Returns the same for serialised tf.Example, as `schema.query_spec()` parses them."""
        return self.recommend(**parse_queries(examples))

    def retrieve(self, **query: tf.Tensor) -> Tensors:
        """Returns the nearest items by the towers alone."""
        query, allowed, _ = self._encode(query)
        scores, rows = self.candidates.retrieve(query, k=MAX_RESULTS, allowed=allowed)
        return self._answer(rows, scores)

    def rank(self, examples: tf.Tensor) -> Tensors:
        """Returns the score of each example of serialised ExampleListWithContext, in the order given.

        Items that the catalogue does not have score lowest; so does padding, whose id is "".
        """
        features, mask = parse_example_lists(examples)
        query, _, _ = self._encode({name: features[name] for name in schema.query_signature()})
        rows = tf.where(mask, self.candidates.item_ids.rows(features[schema.ITEM_ID]), -1)
        scores = tf.where(rows >= 0, self._rank_rows(query, rows), tf.float32.min)
        return {schema.ITEM_IDS: features[schema.ITEM_ID], schema.SCORES: scores}

    def embed_query(self, **query: tf.Tensor) -> Tensors:
        """Returns where the query stands in the items' space, `[batch, dim]` of length 1."""
        return {schema.EMBEDDING: self._encode(query)[0]["vector"]}

    def embed_item(self, text: tf.Tensor, image: tf.Tensor, attributes: tf.Tensor) -> Tensors:
        """Returns where a product that was never seen stands, by its content alone, `[batch, dim]` of length 1.

        Args:
            text: string `[batch]`, "" = none.
            image: string `[batch]` of picture bytes, "" = none.
            attributes: string `[batch, n]` "field=value", numbers alike.
        """
        return {schema.EMBEDDING: unit(self._embed_content(text, image, attributes)[0])}

    def similar_items(self, item_ids: tf.Tensor) -> Tensors:
        """Returns the items nearest to each given one, itself left out; none for an id that is not in the catalogue."""
        rows = self.candidates.item_ids.rows(item_ids)
        vectors = tf.gather(self.candidates.corpus, tf.maximum(rows, 0))
        scores = forbid(tf.matmul(vectors, self.candidates.corpus, transpose_b=True), rows[:, tf.newaxis])
        scores, near = top_k(scores, MAX_RESULTS)
        return self._answer(tf.where(rows[:, tf.newaxis] >= 0, near, -1), scores)

    def _rank_rows(self, query: Tensors, rows: tf.Tensor) -> tf.Tensor:
        return self.scorer(self.candidates.features(query, rows), training=False)

    def _answer(self, rows: tf.Tensor, scores: tf.Tensor) -> Tensors:
        scores = tf.where(rows >= 0, scores, tf.float32.min)
        return {schema.ITEM_IDS: self.candidates.item_ids.names(rows), schema.SCORES: scores}

    def _encode(self, query: Tensors) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """Returns the query with its vector, which items it allows, and `[batch, 1]`: whether it typed or showed."""
        silent = tf.debugging.assert_equal(
            query[schema.QUERY_AUDIO], "", message="query_audio must be empty: this model was trained without sound."
        )
        with tf.control_dependencies([silent]):
            encoded = self.candidates.encode_query(query)
        no_attributes = tf.fill([tf.shape(query[schema.QUERY_TEXT])[0], 0], "")
        content, said = self._embed_content(query[schema.QUERY_TEXT], query[schema.QUERY_IMAGE], no_attributes)
        history = tf.where(tf.reduce_any(encoded["rows"] >= 0, axis=1, keepdims=True), encoded["vector"], 0.0)
        asked = unit(unit(content) + _HISTORY_SHARE * history)
        encoded["vector"] = tf.where(said[:, tf.newaxis], asked, encoded["vector"])
        return encoded, self._allowed(query[schema.FILTERS]), said[:, tf.newaxis]

    def _allowed(self, filters: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, num_items]` bool: True where an item has every wanted "field=value"."""
        wanted = self.reader.lookup.exact(filters)[:, :, tf.newaxis, tf.newaxis]
        found = tf.reduce_any(self._tokens == wanted, axis=-1)  # [batch, filters, num_items]
        return tf.reduce_all(found | (wanted[..., 0] == NOTHING), axis=1)

    def _embed_content(self, text: tf.Tensor, image: tf.Tensor, attributes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the candidate tower's vectors of raw content, and `[batch]`: whether there was any."""
        features, present = self.reader(text, image, attributes)
        batch = tf.shape(text)[0]
        features[ID], present[ID] = tf.fill([batch], self._nobody), tf.fill([batch], False)
        for name, (mean, components) in self._reductions.items():
            reduced = tf.matmul(features[name] - mean, components)
            features[name] = reduced * tf.cast(present[name], tf.float32)[:, tf.newaxis]
        if self._subwords is not None:
            features[SUBWORDS], present[SUBWORDS] = self._subwords(text), tf.not_equal(text, "")
        features[PRESENT] = tf.stack([present[name] for name in self._tower.modalities], axis=1)
        return self._tower(features, training=False), tf.reduce_any(features[PRESENT], axis=1)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Returns every signature of the contract, traced."""
        query, strings = schema.query_signature(), tf.TensorSpec([None], tf.string)
        content = {
            schema.TEXT: tf.TensorSpec([None], tf.string, schema.TEXT),
            schema.IMAGE: tf.TensorSpec([None], tf.string, schema.IMAGE),
            ATTRIBUTE_TERMS: tf.TensorSpec([None, None], tf.string, ATTRIBUTE_TERMS),
        }
        recommend = tf.function(self.recommend).get_concrete_function(**query)
        return {
            "serving_default": recommend,
            "recommend": recommend,
            "recommend_examples": tf.function(self.recommend_examples).get_concrete_function(strings),
            "retrieve": tf.function(self.retrieve).get_concrete_function(**query),
            "rank": tf.function(self.rank).get_concrete_function(strings),
            "embed_query": tf.function(self.embed_query).get_concrete_function(**query),
            "embed_item": tf.function(self.embed_item).get_concrete_function(**content),
            "similar_items": tf.function(self.similar_items).get_concrete_function(strings),
        }


_HISTORY_SHARE = 0.3
"""How much a shopper's history sways a typed or shown query."""


def export(service: Service, model_dir: Path, *, beside: Callable[[Path], None] = lambda _: None) -> Path:
    """Returns the directory of the new version, `model_dir/<newest + 1>`.

    It is written under a name that no server loads, and renamed when it is whole.

    Args:
        service: what answers.
        model_dir: e.g. `saved_models/tfmm`.
        beside: writes what else belongs to the version (warm-up, catalogue) into the directory that it is given.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    for left in model_dir.glob(".writing-*"):
        shutil.rmtree(left)  # of a run that was killed
    versions = [int(path.name) for path in model_dir.iterdir() if path.name.isdigit()]
    final = model_dir / str(max(versions, default=0) + 1)
    writing = model_dir / f".writing-{final.name}-{os.getpid()}"
    with _quiet():
        tf.saved_model.save(service, str(writing), signatures=service.signatures())
    beside(writing)
    os.rename(writing, final)
    return final


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides Keras' warnings that layers cannot be loaded back as Keras objects: a server loads signatures."""
    loggers = {logger: logger.level for logger in (tf.get_logger(), logging.getLogger("absl"))}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
