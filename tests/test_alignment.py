"""Search: the content tower, its alignment, and how what it finds is measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import shops
import tensorflow as tf

from tfmm import asking, stages
from tfmm.alignment import Aligner, AlignmentConfig, own_ranks, validation_mrr
from tfmm.content import ASKABLE, TEXT, ContentConfig
from tfmm.phrases import phrases_of
from tfmm.ragged import Ragged
from tfmm.reading import RawEncoders
from tfmm.service import ContentService
from tfmm.serving.queries import Query, build_request, read_answers
from tfmm.sources.dataset import KnownQueries


def untrained() -> Aligner:
    tf.keras.utils.set_random_seed(1)
    found = stages.make_aligner(shops.CONFIG, shops.shop(), shops.features().vocabulary)
    assert found is not None
    return found


# --- The tower -------------------------------------------------------------------------------------------------------


def test_what_stands_in_an_absent_modality_never_matters_and_nothing_at_all_is_zero():
    aligner = shops.aligner()
    rows, modalities = tf.range(10), aligner.modalities
    features = {name: tf.gather(column, rows) for name, column in aligner.columns.items()}
    present = np.array([[name == "image" for name in modalities]] * 9 + [[False] * len(modalities)])
    before = aligner.tower(features, tf.constant(present)).numpy()
    other = {name: column if name == "image" else tf.reverse(column, [0]) for name, column in features.items()}
    np.testing.assert_array_equal(aligner.tower(other, tf.constant(present)), before)
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), [1] * 9 + [0], atol=1e-5)


def test_a_typed_title_stands_where_the_title_of_the_product_stands():
    aligner = shops.aligner()
    titled = np.flatnonzero(shops.dataset().items.text != "")[:5]
    typed = aligner.embed_texts(shops.dataset().items.text[titled])
    np.testing.assert_allclose(typed, aligner.embed_all(only=(TEXT,))[titled], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"dropout": 1.0}, {"fusion": "magic"}])
def test_a_tower_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="Expected"):
        ContentConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"loss": "magic"}, {"temperature": 0.0}, {"hide_share": 1.5}, {"batch_size": 1}])
def test_a_training_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="Expected"):
        AlignmentConfig(**wrong)


# --- Its training ----------------------------------------------------------------------------------------------------


def test_queries_ask_with_what_a_product_has_and_the_product_keeps_something_else_where_it_can():
    aligner = untrained()
    present, askable = aligner.present.numpy(), np.array([name in ASKABLE for name in aligner.modalities])
    for _ in range(20):
        asked, kept = (view.numpy() for view in aligner.parts(tf.range(shops.ITEMS)))
        assert not (asked & ~(present & askable)).any() and not (kept & ~present).any()
        np.testing.assert_array_equal(asked.any(axis=1), (present & askable).any(axis=1))
        np.testing.assert_array_equal(kept.any(axis=1), present.any(axis=1))
        alone = ~(present & ~asked).any(axis=1)
        assert ((kept & ~asked).any(axis=1) | alone).all()


def test_training_hides_what_was_asked_with_as_often_as_it_says():
    aligner = untrained()
    shown, whole = 0, 0
    for _ in range(50):
        asked, kept = (view.numpy() for view in aligner.parts(tf.range(shops.ITEMS)))
        others = (aligner.present.numpy() & ~asked).any(axis=1) & asked.any(axis=1)
        shown, whole = shown + (asked & kept).any(axis=1)[others].sum(), whole + others.sum()
    assert abs(shown / whole - (1 - aligner.config.hide_share)) < 0.03


class _Fixed:
    """A tower that says what it was told: queries first, then products; the whole is the first modality."""

    def __init__(self, queries, items):
        self.said = [queries, items]

    def project(self, features, training):
        return tf.constant(self.said.pop(0))

    def fuse(self, vectors, present):
        return vectors[:, 0]


def infonce(queries, items, right, temperature):
    """Symmetric cross-entropy against uniform shares over the right ones, in plain numpy."""
    found = []
    for logits, fits in ((queries @ items.T / temperature, right), (items @ queries.T / temperature, right.T)):
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        found.append(-(logs * fits).sum(axis=1) / fits.sum(axis=1))
    return np.mean(found)


def test_the_loss_is_infonce_of_the_whole_and_of_each_pair_where_products_that_the_words_fit_are_right(monkeypatch):
    aligner, rows = untrained(), tf.constant([0, 1, 2, 4])
    count, rng = len(aligner.modalities), np.random.default_rng(0)
    drawn = rng.normal(size=(2, 4, count, 3)).astype(np.float32)
    queries, items = drawn / np.linalg.norm(drawn, axis=3, keepdims=True)
    everything = tf.constant([[True] * count] * 4)
    codes = np.zeros((shops.ITEMS, 3), np.int32)
    codes[:, 0], codes[:, 1] = np.arange(shops.ITEMS), np.arange(shops.ITEMS)
    codes[2, 1] = codes[1, 1]  # rows 1 and 2 have one title
    pins = np.array([[False, True, False]] * 4)
    monkeypatch.setattr(aligner, "codes", tf.constant(codes))
    monkeypatch.setattr(aligner, "present", tf.constant(np.ones((shops.ITEMS, count), bool)))
    monkeypatch.setattr(aligner, "parts", lambda _: (everything, everything))
    monkeypatch.setattr(aligner, "_typed", lambda _, features: (features, tf.constant(pins)))
    monkeypatch.setattr(aligner, "tower", _Fixed(queries, items))
    titles = np.eye(4, dtype=bool)
    titles[1, 2] = titles[2, 1] = True
    right = {name: titles if name == TEXT else np.eye(4, dtype=bool) for name in aligner.modalities}
    alone = [
        infonce(queries[:, a], items[:, b], right[kind], aligner.temperature)
        for a, kind in enumerate(aligner.modalities)
        for b in range(count)
        if a != b and kind in ASKABLE
    ]
    whole = infonce(queries[:, 0], items[:, 0], np.eye(4, dtype=bool), aligner.temperature)
    np.testing.assert_allclose(aligner.compute_loss(rows), whole + np.mean(alone), rtol=1e-4)


def test_alignment_learns_that_words_and_pictures_of_a_group_belong_together():
    parts, trained = shops.shop().asking, shops.aligner()
    held = np.concatenate([parts.validation, parts.test])
    held = held[trained.content.has(TEXT)[held] & trained.content.has("image")[held]]
    best = asking.best_rows(trained.embed_all(only=(TEXT,))[held], trained.embed_all(only=("image",)), k=5)
    same = (shops.group_of(best) == shops.group_of(held)[:, np.newaxis]).mean()
    assert same > 0.8  # by chance 0.25
    assert validation_mrr(trained, held) > validation_mrr(untrained(), held)


def test_phrases_are_values_of_the_item_one_holds_them_all_and_each_fits_what_has_the_same_values():
    items = shops.dataset().items
    model = shops.aligner().content.subwords
    found = phrases_of(items.categorical, items.text, subwords=model, encoder=None, seed=3)
    fields = list(items.categorical.values())
    for row in range(shops.ITEMS):
        values = [" ".join(field[row][:2]) for field in fields]
        said = [str(found.texts[number]) for number in found.of_item[row]]
        assert said[0] == " ".join(filter(None, reversed(values)))
        assert bool(any(values)) == all(said)
        for phrase, pinned in zip(said, found.pinned[row]):
            chosen = [value for value, pin in zip(values, pinned[2:]) if pin]
            assert phrase == " ".join(reversed(chosen)) and not pinned[:2].any()
            fits = (~pinned | (found.codes == found.codes[row])).all(axis=1)
            same = [
                all(
                    " ".join(field[other][:2]) == " ".join(field[row][:2])
                    for field, pin in zip(fields, pinned[2:])
                    if pin
                )
                for other in range(shops.ITEMS)
            ]
            assert fits.tolist() == same


# --- How it is measured ----------------------------------------------------------------------------------------------


def test_what_is_tested_shares_no_product_and_no_text_with_what_is_trained_on():
    items = shops.dataset().items
    text = items.text.copy()
    text[10], text[20] = text[0], "a known query"
    twins = dataclasses.replace(items, text=text)
    queries = KnownQueries.typed(
        np.array(["a known query", "other"], object), Ragged.from_rows([[0], [3, 5]], np.int32)
    )
    dataset = dataclasses.replace(shops.dataset(), items=twins, queries=queries)
    parts = asking.ask_parts(dataset, seed=2)
    assert {0, 3, 5, 20} <= set(parts.test) and 10 not in parts.train
    assert not set(parts.test) & set(parts.train) and not set(parts.validation) & {*parts.train, *parts.test}
    held = {text[row] for row in (*parts.test, *parts.validation)} - {""}
    assert not held & {text[row] for row in parts.train}


def test_ranks_count_ties_against_us():
    corpus = np.array([[1.0, 0], [1, 0], [0, 1], [0.5, 0.5]])
    queries = np.array([[1.0, 0], [0, 1]])
    assert own_ranks(queries, corpus, np.array([0, 2])).tolist() == [2, 1]
    relevant = Ragged.from_rows([[0, 3], [3]], np.int32)
    assert asking.first_ranks(queries, corpus, relevant).tolist() == [2, 2]


def test_products_that_the_index_does_not_hold_are_never_found_and_never_in_the_way():
    corpus = np.array([[1.0, 0], [np.nan, np.nan], [0, 1]])
    relevant = Ragged.from_rows([[1], [1, 2]], np.int32)
    assert asking.first_ranks(np.eye(2), corpus, relevant).tolist() == [np.inf, 1]
    best = asking.best_rows(np.eye(2), np.array([[1.0, 0], [0, 0], [0, 1], [-1, -1]]), k=3)
    assert best.tolist() == [[0, 2, 3], [2, 0, 3]]


def test_every_kind_of_query_is_measured_against_what_the_query_is_not():
    table = asking.ask_tables(shops.aligner(), shops.dataset(), shops.shop().asking, fields=("brand",))
    assert {"text -> its product's image", "image -> its product's text"} <= set(table)
    for found in table.values():
        for statistic in found.values():
            low, high = statistic["ci95"]
            assert 0 <= low <= statistic["mean"] <= high <= 1


# --- A catalogue without shoppers ------------------------------------------------------------------------------------


def test_without_shoppers_a_history_asks_for_what_is_alike_on_average():
    aligner = shops.aligner()
    search = stages.make_search(aligner)
    service = ContentService(search, aligner.content, RawEncoders(shops.see, None), ids=shops.dataset().items.ids)
    query = {name: tf.constant(value) for name, value in build_request([Query(history=["i1", "i5", "no"])]).items()}
    answer = read_answers({name: value.numpy() for name, value in service.recommend(**query).items()})[0]
    corpus = aligner.embed_all()
    scores = corpus @ (corpus[1] + corpus[5])
    expected = [f"i{row}" for row in np.argsort(-scores, kind="stable") if row not in (1, 5)]
    assert [item for item, _ in answer][:10] == expected[:10]
