"""Everything that answers a request: the signatures of the contract, in core ops and TF Text's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

import numpy as np
import tensorflow as tf

from tfmm import schema
from tfmm.candidates import Candidates, Tensors, never_to_return
from tfmm.content import TEXT, Content, ContentTower
from tfmm.encoders.attributes import NOTHING
from tfmm.encoders.text import SubwordTokenizer
from tfmm.features import ATTRIBUTES, ID, PRESENT, SUBWORDS, ItemFeatures
from tfmm.index import NEVER, ItemIds, forbid, forbid_all, top_k
from tfmm.phrases import make_cutter
from tfmm.pipelines import parse_example_lists, parse_queries
from tfmm.reading import RawEncoders, Reader
from tfmm.reranking import ListwiseScorer
from tfmm.towers import unit
from tfmm.views import Views

ATTRIBUTE_TERMS = "attributes"  # of `embed_item`: "field=value", numbers alike ("price=12.5")
MAX_RESULTS = 100
MAX_FILTERS, MAX_LIST, MAX_CELLS = 100, 1000, 1 << 24  # of a query; examples that `rank` takes; numbers of `explain`


class Search(tf.Module):
    """What was typed, shown or said, against the content of every product."""

    def __init__(
        self,
        tower: ContentTower,
        views: Views,
        content: Content,
        corpus: np.ndarray,
        *,
        temperature: float,
        history_weight: float,
        speech: Optional[tf.keras.layers.Layer] = None,
    ) -> None:
        """Takes what alignment trained.

        Args:
            tower: trained.
            views: that it reads.
            content: of the catalogue that it trained on.
            corpus: `[num_items, dim]` of length 1, zero where nothing of a product is known.
            temperature: cosines are divided by it.
            history_weight: of the shopper's own taste beside what was asked, chosen on validation.
            speech: WAV bytes -> (`[batch, dim]` in the tower's space, `[batch]` bool); None = no query may be spoken.
        """
        super().__init__(name="search")
        self.tower, self.views = tower, views
        self.temperature, self.history_weight = temperature, history_weight
        self.corpus = tf.Variable(corpus, trainable=False, name="corpus", shape=[None, corpus.shape[1]])
        self.speech = speech
        self._cut = make_cutter(content.subwords)
        self._modalities = content.modalities

    def embed(self, text: tf.Tensor, features: Tensors, present: Tensors) -> tf.Tensor:
        """Returns `[batch, dim]` of length 1 of content that `Reader` has read; zero where there is none."""
        batch = tf.shape(text)[0]
        there = {**present, TEXT: tf.not_equal(text, "")}
        if TEXT not in features:
            features = {**features, TEXT: tf.zeros([batch, 0])}
        mask = tf.stack([there[name] for name in self._modalities], axis=1)
        features = {**features, SUBWORDS: self._cut(text)}
        return self.tower({name: self.views(name, features) for name in self._modalities}, mask)

    def ask(
        self, text: tf.Tensor, audio: tf.Tensor, features: Tensors, present: Tensors
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `[batch, dim]` of length 1, and `[batch]` bool: whether anything was typed, shown or said."""
        vectors = self.embed(text, features, {**present, ATTRIBUTES: tf.fill(tf.shape(text), False)})
        if self.speech is not None:
            heard = tf.zeros_like(vectors), tf.fill(tf.shape(text), False)
            spoken, _ = tf.cond(tf.reduce_all(audio == ""), lambda: heard, lambda: self.speech(audio))
            vectors = unit(vectors + tf.ensure_shape(spoken, vectors.shape))
        return vectors, tf.reduce_any(tf.not_equal(vectors, 0.0), axis=1)

    def scores(self, asked: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, num_items]`."""
        return tf.matmul(asked / self.temperature, self.corpus, transpose_b=True)


class Storefront(tf.Module):
    """What every kind of model has in common: ids, filters, content, and search in it.

    A kind of model says how a shopper's history becomes a taste (`tastes`, `taste_scores`) and what it recommends to a
    taste alone (`near`, `best`).
    """

    def __init__(
        self, *, item_ids: ItemIds, reader: Reader, tokens: np.ndarray, search: Optional[Search] = None
    ) -> None:
        super().__init__(name="tfmm")
        self.item_ids, self.reader, self.search = item_ids, reader, search
        flat = tokens.reshape(len(tokens), -1)
        self._tokens = tf.Variable(flat, trainable=False, name="tokens", shape=[None, None])
        self.columns = {**item_ids.columns, "tokens": self._tokens}  # what changes with the catalogue: see `reindexing`
        if search is not None:
            self.columns["search"] = search.corpus
        content = list(_content_signature(sound=reader.hears).values())
        self.read = tf.function(lambda *raw: reader(*raw), input_signature=content)  # traced once for all signatures
        self.describe = tf.function(self._describe, input_signature=content)

    def _describe(self, text: tf.Tensor, image: tf.Tensor, attributes: tf.Tensor, *sound: tf.Tensor) -> Tensors:
        """Returns those of `columns` that content decides, for products never seen; the arguments of `embed_item`."""
        features, present = self.read(text, image, attributes, *sound)
        rows = {"tokens": tf.reshape(features[ATTRIBUTES], [tf.shape(text)[0], -1])}
        if self.search is not None:
            rows["search"] = self.search.embed(text, features, present)
        return {**rows, **self.rows_of(text, features, present)}

    def rows_of(self, text: tf.Tensor, features: Tensors, present: Tensors) -> Tensors:
        """Returns those of a kind of model's own `columns` that content decides."""
        return {}

    def tastes(self, query: Tensors) -> Tensors:
        """Returns the query with `rows` of its history, `seen` and a `vector` `[batch, dim]` of length 1."""
        raise NotImplementedError

    def taste_scores(self, query: Tensors) -> tf.Tensor:
        """Returns `[batch, num_items]` logits of the taste alone."""
        raise NotImplementedError

    def near(self, query: Tensors, allowed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and rows `[batch, MAX_RESULTS]` for the taste alone, -1 = padding: the first stage."""
        raise NotImplementedError

    def best(self, query: Tensors, allowed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and rows `[batch, MAX_RESULTS]` for the taste alone, -1 = padding: all stages."""
        raise NotImplementedError

    def rank_rows(self, query: Tensors, rows: tf.Tensor) -> tf.Tensor:
        """Returns scores `[batch, list_size]` of the given rows."""
        raise NotImplementedError

    def embed(self, text: tf.Tensor, features: Tensors, present: Tensors) -> tf.Tensor:
        """Returns `[batch, dim]` of length 1 of a product that was never seen, where tastes look for products."""
        raise NotImplementedError

    @property
    def modalities(self) -> tuple[str, ...]:
        """What a product's vector is made of."""
        raise NotImplementedError

    def shares(self, query: Tensors, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the taste's scores of rows `[batch, n]` are made of: `[.., modalities]` and `[.., length]`."""
        raise NotImplementedError

    def corpus(self) -> tf.Tensor:
        """Returns `[num_items, dim]` of length 1."""
        raise NotImplementedError

    def recommend(self, **query: tf.Tensor) -> Tensors:
        """Returns the best items for a query: retrieved, those already seen left out, reranked."""
        encoded, allowed = self._encode(query)
        return self._answer(*self._or_search(encoded, allowed, self.best))

    def retrieve(self, **query: tf.Tensor) -> Tensors:
        """Returns the nearest items by the towers alone."""
        encoded, allowed = self._encode(query)
        return self._answer(*self._or_search(encoded, allowed, self.near))

    def rank(self, examples: tf.Tensor) -> Tensors:
        """Returns the score of each example of serialised ExampleListWithContext, in the order given.

        Items that the catalogue does not have score lowest; so does padding, whose id is "".
        """
        features, mask = parse_example_lists(examples)
        with tf.control_dependencies([_at_most(tf.shape(mask)[1], MAX_LIST, "examples in a list")]):
            mask = tf.identity(mask)
        encoded, _ = self._encode({name: features[name] for name in schema.query_signature()})
        rows = tf.where(mask, self.item_ids.rows(features[schema.ITEM_ID]), -1)
        scores = self.rank_rows(encoded, rows)
        if self.search is not None:
            mixed = tf.gather(self._mixed(encoded), tf.maximum(rows, 0), batch_dims=1)
            scores = tf.where(encoded["said"][:, tf.newaxis], mixed, scores)
        scores = tf.where(rows >= 0, scores, tf.float32.min)
        return {schema.ITEM_IDS: features[schema.ITEM_ID], schema.SCORES: scores}

    def embed_query(self, **query: tf.Tensor) -> Tensors:
        """Returns where the query stands, `[batch, dim]` of length 1: its taste, and beside it what was asked."""
        encoded, _ = self._encode(query)
        if self.search is None:
            return {schema.EMBEDDING: encoded["vector"]}
        said = encoded["said"][:, tf.newaxis]
        taste = tf.where(said, encoded["taste"] * self.search.history_weight, encoded["vector"])
        return {schema.EMBEDDING: unit(tf.concat([taste, encoded["asked"]], axis=1))}

    def embed_item(self, text: tf.Tensor, image: tf.Tensor, attributes: tf.Tensor, **sound: tf.Tensor) -> Tensors:
        """Returns where a product that was never seen stands, by its content alone, `[batch, dim]` of length 1.

        Args:
            text: string `[batch]`, "" = none.
            image: string `[batch]` of picture bytes, "" = none.
            attributes: string `[batch, n]` "field=value", numbers alike.
            sound: where products have sounds, `sound` string `[batch]` of WAV bytes, "" = none.
        """
        features, present = self.read(text, image, attributes, *sound.values())
        vectors = self.embed(text, features, present)
        if self.search is not None:
            vectors = unit(tf.concat([vectors, self.search.embed(text, features, present)], axis=1))
        return {schema.EMBEDDING: vectors}

    def similar_items(self, item_ids: tf.Tensor) -> Tensors:
        """Returns the items nearest to each given one, itself left out; none for an id that is not in the catalogue."""
        rows = self.item_ids.rows(item_ids)
        corpus = self.corpus()
        vectors = tf.gather(corpus, tf.maximum(rows, 0))
        scores = forbid(tf.matmul(vectors, corpus, transpose_b=True), rows[:, tf.newaxis])
        scores, near = top_k(scores, MAX_RESULTS)
        return self._answer(scores, tf.where(rows[:, tf.newaxis] >= 0, near, -1))

    def explain(self, item_ids: tf.Tensor, **query: tf.Tensor) -> Tensors:
        """Returns why items suit a shopper: what the taste's score of each, `[batch, n]`, is made of.

        Args:
            item_ids: string `[batch, n]`, usually of an answer; one that the catalogue does not have has no shares.
            query: as that of `recommend`.

        Returns:
            `modalities` string `[batch, modalities]`, their names; `modality_shares` `[batch, n, modalities]`, summing
            to the score; `history_shares` `[batch, n, length]`: by how much it would fall without each item.
        """
        cells = tf.shape(item_ids, tf.int64)[1] * tf.shape(query[schema.HISTORY], tf.int64)[1]
        with tf.control_dependencies([_at_most(cells, MAX_CELLS, "items times length of the history")]):
            encoded, _ = self._encode(query)
        of_modalities, of_history = self.shares(encoded, self.item_ids.rows(item_ids))
        return {
            schema.MODALITIES: tf.tile(tf.constant([self.modalities]), [tf.shape(item_ids)[0], 1]),
            schema.MODALITY_SHARES: of_modalities,
            schema.HISTORY_SHARES: of_history,
        }

    def audience(self, item_ids: tf.Tensor, **query: tf.Tensor) -> Tensors:
        """Returns how likely shoppers are to want items next: log of the taste's softmax over all that can be had.

        What a shopper has had, and what the catalogue does not have, scores lowest. Unlike scores, the answers for one
        item can be compared between shoppers.

        Args:
            item_ids: string `[batch, n]`.
            query: as that of `recommend`; nothing that is typed, shown or said counts.
        """
        encoded, allowed = self._encode(query)
        rows = self.item_ids.rows(item_ids)
        logits = self.forbidden(self.taste_scores(encoded), encoded, allowed)
        likely = tf.gather(tf.nn.log_softmax(logits), tf.maximum(rows, 0), batch_dims=1)
        barred = (rows < 0) | (tf.gather(logits, tf.maximum(rows, 0), batch_dims=1) <= NEVER)
        return {schema.ITEM_IDS: item_ids, schema.SCORES: tf.where(barred, tf.float32.min, likely)}

    def _or_search(self, query: Tensors, allowed: tf.Tensor, plain: Callable) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and rows: by what was asked where anything was, and by `plain` elsewhere."""
        if self.search is None:
            found: tuple[tf.Tensor, tf.Tensor] = plain(query, allowed)
            return found

        others, other_rows = plain(query, allowed)

        def searched() -> tuple[tf.Tensor, tf.Tensor]:
            scores, rows = top_k(self.forbidden(self._mixed(query), query, allowed), MAX_RESULTS)
            said = query["said"][:, tf.newaxis]
            return tf.where(said, scores, others), tf.where(said, rows, other_rows)

        found = tf.cond(tf.reduce_any(query["said"]), searched, lambda: (others, other_rows))
        return tf.ensure_shape(found[0], [None, MAX_RESULTS]), tf.ensure_shape(found[1], [None, MAX_RESULTS])

    def _mixed(self, query: Tensors) -> tf.Tensor:
        """Returns `[batch, num_items]`: what was asked, and the taste where there is a history (late fusion)."""
        assert self.search is not None
        some = tf.cast(tf.reduce_any(query["rows"] >= 0, axis=1, keepdims=True), tf.float32)
        return self.search.scores(query["asked"]) + self.search.history_weight * some * self.taste_scores(query)

    def forbidden(self, scores: tf.Tensor, query: Tensors, allowed: tf.Tensor) -> tf.Tensor:
        """Returns the scores with what the shopper has had, or wants excluded or filtered out, below all others."""
        return forbid_all(scores, never_to_return(self.item_ids, query), allowed)

    def _answer(self, scores: tf.Tensor, rows: tf.Tensor) -> Tensors:
        scores = tf.where(rows >= 0, scores, tf.float32.min)
        return {schema.ITEM_IDS: self.item_ids.names(rows), schema.SCORES: scores}

    def _encode(self, query: Tensors) -> tuple[Tensors, tf.Tensor]:
        """Returns the query with its taste, what it asks and whether it does, and which items it allows."""
        with tf.control_dependencies(self._unanswerable(query)):
            encoded = self.tastes(query)
        if self.search is not None:
            text, image = tf.strings.strip(query[schema.QUERY_TEXT]), query[schema.QUERY_IMAGE]  # spaces say nothing
            audio = query[schema.QUERY_AUDIO]
            content = text, image, tf.fill([tf.shape(text)[0], 0], "")
            features, present = self.read(*content, audio) if self.reader.hears else self.read(*content)
            asked, said = self.search.ask(text, audio, features, present)
            encoded |= {"asked": asked, "said": said}
        return encoded, self._allowed(query[schema.FILTERS]) & self.on_sale(query)

    def on_sale(self, query: Tensors) -> tf.Tensor:
        """Returns bool that broadcasts to `[batch, num_items]`: which items can be had when the query is asked."""
        return tf.constant([[True]])

    def _unanswerable(self, query: Tensors) -> list[tf.Operation]:
        """Returns assertions that a query asks with nothing that this model was not trained with."""
        deaf = self.search is None or (self.search.speech is None and not self.reader.hears)
        missing = {schema.QUERY_AUDIO: "sound"} if deaf else {}
        if self.search is None:
            missing |= {schema.QUERY_TEXT: "text or pictures to search in", schema.QUERY_IMAGE: "pictures to search in"}
        return [
            tf.debugging.assert_equal(query[name], "", f"{name} must be empty: this model was trained without {what}.")
            for name, what in missing.items()
        ]

    def _allowed(self, filters: tf.Tensor) -> tf.Tensor:
        """Returns `[batch, num_items]` bool: True where an item has every wanted "field=value"."""
        with tf.control_dependencies([_at_most(tf.shape(filters)[1], MAX_FILTERS, "filters of a query")]):
            wanted = tf.transpose(self.reader.lookup.exact(filters))[..., tf.newaxis, tf.newaxis]

        def narrowed(allowed: tf.Tensor, one: tf.Tensor) -> tf.Tensor:  # one by one: together they would need memory
            return allowed & (tf.reduce_any(self._tokens == one, axis=-1) | (one[..., 0] == NOTHING))

        everything = tf.fill([tf.shape(filters)[0], tf.shape(self._tokens)[0]], True)
        return tf.foldl(narrowed, wanted, everything)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Returns every signature of the contract, traced."""
        query, strings = schema.query_signature(), tf.TensorSpec([None], tf.string)
        items = tf.TensorSpec([None, None], tf.string, schema.ITEM_IDS)
        recommend = tf.function(self.recommend).get_concrete_function(**query)
        return {
            "serving_default": recommend,
            "recommend": recommend,
            # Serialised tf.Example, as `schema.query_spec()` parses them; what is traced already is not traced again.
            "recommend_examples": tf.function(
                lambda examples: recommend(**parse_queries(examples))
            ).get_concrete_function(strings),
            "retrieve": tf.function(self.retrieve).get_concrete_function(**query),
            "rank": tf.function(self.rank).get_concrete_function(strings),
            "embed_query": tf.function(self.embed_query).get_concrete_function(**query),
            "embed_item": tf.function(self.embed_item).get_concrete_function(
                **_content_signature(sound=self.reader.hears)
            ),
            "similar_items": tf.function(self.similar_items).get_concrete_function(strings),
            "explain": tf.function(self.explain).get_concrete_function(items, **query),
            "audience": tf.function(self.audience).get_concrete_function(items, **query),
        }


def _at_most(count: tf.Tensor, limit: int, what: str) -> tf.Operation:
    """Returns the op that fails where there are more."""
    problem = tf.strings.join([f"Expected at most {limit} {what}, got ", tf.strings.as_string(count), ". Send fewer."])
    return tf.debugging.Assert(count <= limit, [problem])


def _content_signature(*, sound: bool) -> dict[str, tf.TensorSpec]:
    """Returns the inputs of `embed_item`; `sound` comes last, and only where products have sounds."""
    signature = {
        schema.TEXT: tf.TensorSpec([None], tf.string, schema.TEXT),
        schema.IMAGE: tf.TensorSpec([None], tf.string, schema.IMAGE),
        ATTRIBUTE_TERMS: tf.TensorSpec([None, None], tf.string, ATTRIBUTE_TERMS),
    }
    return {**signature, schema.SOUND: tf.TensorSpec([None], tf.string, schema.SOUND)} if sound else signature


class Service(Storefront):
    """A model of shoppers: two towers, a listwise scorer, and search in the content."""

    def __init__(
        self,
        candidates: Candidates,
        scorer: ListwiseScorer,
        items: ItemFeatures,
        encoders: RawEncoders,
        *,
        search: Optional[Search] = None,
    ) -> None:
        widths = {name: len(reduction.mean) for name, reduction in items.reductions.items()}
        super().__init__(
            item_ids=candidates.item_ids,
            reader=Reader(encoders, items.vocabulary, widths=widths),
            tokens=items.columns[ATTRIBUTES][:-1],
            search=search,
        )
        self.candidates, self.scorer = candidates, scorer
        self.columns = {**self.columns, **candidates.columns}
        self._tower = candidates.towers.candidate
        self._nobody = items.num_items
        self._subwords = SubwordTokenizer(items.text[1], max_length=items.text[0].max_length) if items.text else None
        self._reductions = {
            name: (tf.Variable(r.mean, trainable=False), tf.Variable(r.components, trainable=False))
            for name, r in items.reductions.items()
        }

    def tastes(self, query: Tensors) -> Tensors:
        """Returns the query with what the query tower makes of its history."""
        encoded = self.candidates.encode_query(query)
        some = tf.reduce_any(encoded["rows"] >= 0, axis=1, keepdims=True)
        return {**encoded, "taste": tf.where(some, encoded["vector"], 0.0)}

    def on_sale(self, query: Tensors) -> tf.Tensor:
        """Returns what was launched by then."""
        return self.candidates.on_sale(query)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of the candidate tower."""
        return tuple(self._tower.modalities)

    def shares(self, query: Tensors, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the towers' logits are made of; the reranker's part is not told apart."""
        return self.candidates.shares(query, rows)

    def taste_scores(self, query: Tensors) -> tf.Tensor:
        """Returns the towers' logits."""
        return tf.matmul(query["vector"], self.candidates.corpus, transpose_b=True) / self.candidates.temperature

    def near(self, query: Tensors, allowed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the towers retrieve."""
        return self.candidates.retrieve(query, k=MAX_RESULTS, allowed=allowed)

    def best(self, query: Tensors, allowed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the pool of candidates, reranked."""
        rows = self.candidates.pool(query, allowed=allowed)
        scores = tf.where(rows >= 0, self.rank_rows(query, rows), NEVER)
        missing = max(0, MAX_RESULTS - self.candidates.size)
        scores = tf.pad(scores, [[0, 0], [0, missing]], constant_values=NEVER)
        scores, order = tf.math.top_k(scores, k=MAX_RESULTS)
        return scores, tf.gather(tf.pad(rows, [[0, 0], [0, missing]], constant_values=-1), order, batch_dims=1)

    def rank_rows(self, query: Tensors, rows: tf.Tensor) -> tf.Tensor:
        """Returns the scorer's scores."""
        return self.scorer(self.candidates.features(query, rows), training=False)

    def corpus(self) -> tf.Tensor:
        """Returns the candidate tower's vectors."""
        return self.candidates.corpus

    def embed(self, text: tf.Tensor, features: Tensors, present: Tensors) -> tf.Tensor:
        """Returns what the candidate tower makes of content without an id."""
        return unit(self._tower(self._tower_features(text, features, present), training=False))

    def rows_of(self, text: tf.Tensor, features: Tensors, present: Tensors) -> Tensors:
        """Returns what the candidate tower and the scorer know of products without an event."""
        return self.candidates.describe(self._tower_features(text, features, present))

    def _tower_features(self, text: tf.Tensor, features: Tensors, present: Tensors) -> Tensors:
        """Returns what the candidate tower reads."""
        features, present, batch = dict(features), dict(present), tf.shape(text)[0]
        features[ID], present[ID] = tf.fill([batch], self._nobody), tf.fill([batch], False)
        for name, (mean, components) in self._reductions.items():
            reduced = tf.matmul(features[name] - mean, components)
            features[name] = reduced * tf.cast(present[name], tf.float32)[:, tf.newaxis]
        if self._subwords is not None:
            features[SUBWORDS], present[SUBWORDS] = self._subwords(text), tf.not_equal(text, "")
        features[PRESENT] = tf.stack([present[name] for name in self._tower.modalities], axis=1)
        return features


class ContentService(Storefront):
    """A model of a catalogue without shoppers: a taste is the mean of what stands in the history."""

    def __init__(self, search: Search, content: Content, encoders: RawEncoders, *, ids: np.ndarray) -> None:
        tokens = content.columns.get(ATTRIBUTES, np.zeros((len(ids), 0), np.int32))
        reader = Reader(encoders, content.vocabulary, widths=content.widths)
        super().__init__(item_ids=ItemIds(ids), reader=reader, tokens=tokens, search=search)
        self._search = search

    def tastes(self, query: Tensors) -> Tensors:
        """Returns the query with the mean of its history's content."""
        rows = self.item_ids.rows(query[schema.HISTORY])
        known = tf.cast(rows >= 0, tf.float32)[..., tf.newaxis]
        vector = unit(tf.reduce_sum(tf.gather(self._search.corpus, tf.maximum(rows, 0)) * known, axis=1))
        return {**query, "rows": rows, "seen": rows, "vector": vector, "taste": vector}

    modalities = ("content",)

    def shares(self, query: Tensors, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the whole score, and by how much it would fall without each item of the history."""
        items = tf.gather(self._search.corpus, tf.maximum(rows, 0)) / self._search.temperature
        items *= tf.cast(rows >= 0, tf.float32)[..., tf.newaxis]
        history = query["rows"]
        known = tf.cast(history >= 0, tf.float32)[..., tf.newaxis]
        vectors = tf.gather(self._search.corpus, tf.maximum(history, 0)) * known  # [batch, length, dim]
        without = unit(tf.reduce_sum(vectors, axis=1, keepdims=True) - vectors)
        scores = tf.einsum("bd,bnd->bn", query["vector"], items)
        changes = tf.einsum("bld,bnd->bnl", query["vector"][:, tf.newaxis] - without, items)
        return scores[..., tf.newaxis], changes

    def taste_scores(self, query: Tensors) -> tf.Tensor:
        """Returns cosines over the temperature."""
        return self._search.scores(query["vector"])

    def near(self, query: Tensors, allowed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the most similar products."""
        return top_k(self.forbidden(self.taste_scores(query), query, allowed), MAX_RESULTS)

    def best(self, query: Tensors, allowed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the same: there is nothing to rerank by."""
        return self.near(query, allowed)

    def rank_rows(self, query: Tensors, rows: tf.Tensor) -> tf.Tensor:
        """Returns the same scores, of the given rows."""
        return tf.gather(self.taste_scores(query), tf.maximum(rows, 0), batch_dims=1)

    def corpus(self) -> tf.Tensor:
        """Returns the content tower's vectors."""
        return self._search.corpus

    def embed(self, text: tf.Tensor, features: Tensors, present: Tensors) -> tf.Tensor:
        """Returns what the content tower makes of it."""
        return self._search.embed(text, features, present)
