"""The listwise scorer: what padding and order do, what it learns, and which weights it keeps."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import shops
import tensorflow as tf
import tensorflow_ranking as tfr

from tfmm import reranking
from tfmm.reranking import ListwiseScorer, RerankingConfig

LISTS, SIZE, FEATURES, DIM = 64, 8, 5, 6
CONFIG = RerankingConfig(width=16, heads=2, batch_size=16, learning_rate=1e-2)


def example_lists(seed: int = 0, count: int = LISTS) -> dict[str, np.ndarray]:
    """Returns what the scorer reads; the last places of some lists are padding."""
    rng = np.random.default_rng(seed)
    mask = np.arange(SIZE) < rng.integers(3, SIZE + 1, (count, 1))
    return {
        "example": rng.normal(size=(count, SIZE, FEATURES)).astype(np.float32) * mask[..., np.newaxis],
        "item": rng.normal(size=(count, SIZE, DIM)).astype(np.float32),
        "query": rng.normal(size=(count, DIM)).astype(np.float32),
        "mask": mask,
    }


def labels_by(features: dict[str, np.ndarray], column: int, sign: int = 1) -> np.ndarray:
    """Returns 1 for the one example of each list whose feature is the largest (or, by sign, smallest); -1 = padding."""
    values = np.where(features["mask"], sign * features["example"][..., column], -np.inf)
    best = np.eye(SIZE, dtype=np.float32)[values.argmax(axis=1)]
    return np.where(features["mask"], best, -1.0).astype(np.float32)


def batches(features: dict[str, np.ndarray], labels: np.ndarray, *, size: int = 64) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((features, labels)).batch(size)


def randomised() -> ListwiseScorer:
    """Returns a scorer whose every weight is random, as after training."""
    scorer = ListwiseScorer(CONFIG)
    scorer(example_lists())
    rng = np.random.default_rng(1)
    for weight in scorer.trainable_variables:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    return scorer


def test_untrained_it_adds_up_what_both_stages_say():
    features = example_lists()
    scores = ListwiseScorer(CONFIG)(features).numpy()
    np.testing.assert_array_equal(
        np.argsort(scores, axis=1), np.argsort(features["example"][..., :2].sum(axis=-1), axis=1)
    )


def test_what_stands_in_padding_never_changes_the_other_scores():
    scorer, features = randomised(), example_lists()
    before = scorer(features).numpy()
    outside = ~features["mask"][..., np.newaxis]
    other = {**features, "item": np.where(outside, 9.0, features["item"]).astype(np.float32)}
    other["example"] = np.where(outside, -7.0, features["example"]).astype(np.float32)
    np.testing.assert_allclose(scorer(other).numpy()[features["mask"]], before[features["mask"]], rtol=1e-4, atol=1e-5)


def test_without_vectors_the_space_of_the_towers_is_nothing_to_it():
    features, scores = example_lists(), {}
    turned = {**features, "item": -3 * features["item"], "query": features["query"][:, ::-1].copy()}
    for vectors in (True, False):
        scorer = ListwiseScorer(dataclasses.replace(CONFIG, vectors=vectors))
        scorer(features)
        for weight in scorer.trainable_variables:
            weight.assign(np.random.default_rng(1).normal(0, 0.3, weight.shape))
        scores[vectors] = scorer(features).numpy(), scorer(turned).numpy()
    np.testing.assert_array_equal(*scores[False])
    assert np.abs(scores[True][0] - scores[True][1]).max() > 0.1


def test_longer_padding_never_changes_the_scores():
    scorer, features = randomised(), example_lists()
    wider = {
        name: features[name]
        if name == "query"
        else np.pad(features[name], [(0, 0), (0, 4), (0, 0)][: features[name].ndim])
        for name in features
    }
    found = scorer(wider).numpy()[:, :SIZE]
    np.testing.assert_allclose(
        found[features["mask"]], scorer(features).numpy()[features["mask"]], rtol=1e-4, atol=1e-5
    )


def test_a_score_does_not_depend_on_the_order_of_the_list():
    scorer, features = randomised(), example_lists()
    order = np.random.default_rng(2).permutation(SIZE)
    shuffled = {name: column if name == "query" else column[:, order] for name, column in features.items()}
    np.testing.assert_allclose(scorer(shuffled), scorer(features).numpy()[:, order], rtol=1e-3, atol=1e-4)


def test_members_of_a_list_see_one_another_and_lists_do_not():
    scorer, features = randomised(), example_lists()
    other = {**features, "example": features["example"].copy()}
    other["example"][0, 0] += 1.0
    moved = np.abs(scorer(other).numpy() - scorer(features).numpy())
    assert moved[0, 1] > 1e-4
    assert moved[1:].max() < 1e-5


def test_a_list_of_padding_alone_gives_finite_scores():
    features = {**example_lists(), "mask": np.zeros((LISTS, SIZE), bool)}
    assert np.all(np.isfinite(randomised()(features).numpy()))


@pytest.fixture
def eagerly():
    with shops.eagerly():
        yield


def fit(scorer: ListwiseScorer, directory, *, config: RerankingConfig, train, validation) -> dict[str, list[float]]:
    return reranking.fit(
        scorer, config, train=train, validation=validation, directory=directory / "best", logs=directory / "logs"
    )


@pytest.mark.slow
def test_it_learns_the_feature_that_decides(tmp_path, eagerly):
    tf.keras.utils.set_random_seed(0)
    train, test = example_lists(1, count=512), example_lists(2)
    scorer = ListwiseScorer(CONFIG)
    config = dataclasses.replace(CONFIG, epochs=5, patience=5)
    validation = batches(test, labels_by(test, 3))
    curves = fit(scorer, tmp_path, config=config, train=batches(train, labels_by(train, 3)), validation=validation)
    assert curves["validation ndcg@10"][0] < 0.7  # the retrieval score has nothing to do with it
    scores = np.where(test["mask"], scorer(test).numpy(), -np.inf)
    assert np.mean(scores.argmax(axis=1) == labels_by(test, 3).argmax(axis=1)) > 0.7
    assert curves["loss"][-1] < curves["loss"][0]


def test_it_stays_the_retrieval_order_where_training_never_beats_that(tmp_path, eagerly):
    """What training teaches (the smallest retrieval score is right) is the reverse of what validation asks for."""
    train, test = example_lists(1), example_lists(2)
    scorer = ListwiseScorer(CONFIG)
    config = dataclasses.replace(CONFIG, epochs=4, patience=2)
    curves = fit(
        scorer,
        tmp_path,
        config=config,
        train=batches(train, labels_by(train, 0, sign=-1), size=16),
        validation=batches(test, labels_by(test, 0)),
    )
    assert curves["validation ndcg@10"][0] == pytest.approx(1.0)
    assert max(curves["validation ndcg@10"][1:]) < 0.99
    assert len(curves["loss"]) == 2  # patience
    np.testing.assert_allclose(scorer(test).numpy(), test["example"][..., 0], rtol=1e-5, atol=1e-5)


def test_the_best_epochs_weights_come_back(tmp_path, monkeypatch, eagerly):
    """Validation is scripted: epoch 2 of 4 is the best."""
    values, weights = iter([0.1, 0.2, 0.6, 0.3, 0.5]), []

    def scripted(self, *args, **options):
        weights.append(self.get_weights())
        return {"ndcg@10": next(values)}

    monkeypatch.setattr(ListwiseScorer, "evaluate", scripted)
    features, scorer = example_lists(), ListwiseScorer(CONFIG)
    scorer(features)
    lists = batches(features, labels_by(features, 1))
    fit(scorer, tmp_path, config=dataclasses.replace(CONFIG, epochs=4), train=lists, validation=lists)
    assert len(weights) == 5
    for found, expected in zip(scorer.get_weights(), weights[2]):
        np.testing.assert_array_equal(found, expected)
    assert any(np.any(found != last) for found, last in zip(scorer.get_weights(), weights[4]))


def test_before_training_the_closed_form_counts_as_much_as_validation_likes(tmp_path, eagerly):
    """What is right in validation is decided by the closed form, or by retrieval, alone."""
    lists = example_lists()
    for decides, expected in ((0, 0.0), (1, 8.0)):
        scorer, data = ListwiseScorer(CONFIG), batches(lists, labels_by(lists, decides))
        fit(scorer, tmp_path, config=dataclasses.replace(CONFIG, epochs=0), train=data, validation=data)
        np.testing.assert_allclose(scorer.trust, [1.0, expected, 1.0])


def test_a_trained_scorer_is_weighed_again_by_what_validation_of_the_served_candidates_likes():
    """What was learned is noise here, and one of the two stages decides."""
    lists = example_lists()
    for decides, expected in ((0, [1.0, 0.0, 0.0]), (1, [1.0, 8.0, 0.0])):
        scorer = randomised()
        scorer.trust.assign([1.0, 0.7, 1.0])
        reranking.recalibrate(scorer, batches(lists, labels_by(lists, decides)))
        np.testing.assert_allclose(scorer.trust, expected)


def test_a_scorer_that_is_right_already_is_left_as_it_is():
    lists, scorer = example_lists(), randomised()
    scorer.trust.assign([1.3, 0.7, 1.1])
    scores = np.where(lists["mask"], scorer(lists).numpy(), -np.inf)
    best = np.where(lists["mask"], np.eye(SIZE)[scores.argmax(axis=1)], -1.0).astype(np.float32)
    reranking.recalibrate(scorer, batches(lists, best))
    np.testing.assert_allclose(scorer.trust, [1.3, 0.7, 1.1])


@pytest.mark.parametrize("called_before", [False, True])
def test_numbers_are_standardised_by_the_examples_that_are_no_padding(called_before, tmp_path, eagerly):
    features = example_lists()
    features["example"] = features["example"] * 3 + 100 * features["mask"][..., np.newaxis].astype(np.float32)
    scorer = ListwiseScorer(CONFIG)
    if called_before:
        scorer(features)
    lists = batches(features, labels_by(features, 1))
    fit(scorer, tmp_path, config=dataclasses.replace(CONFIG, epochs=1), train=lists, validation=lists)
    real = features["example"][features["mask"]]
    np.testing.assert_allclose(np.ravel(scorer.normalise.mean), real.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(np.ravel(scorer.normalise.variance), real.var(axis=0), rtol=1e-2)


def test_what_is_kept_is_the_mean_of_the_steps_and_training_goes_on_from_the_last(tmp_path, eagerly):
    """Of a decay that TF cuts to (1 + steps) / (10 + steps), so that the first steps do not count for ever."""
    features = example_lists()
    lists = batches(features, labels_by(features, 1), size=32)  # two steps an epoch
    scorer = ListwiseScorer(CONFIG, terms=0)
    scorer(features)
    mean, seen = reranking._RunningMean(scorer, 0.99), []
    record = tf.keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_: seen.append(scorer.leave.kernel.numpy().copy())
    )
    scorer.compile(optimizer="adam", loss=reranking.loss_named("softmax_loss"))
    scorer.fit(lists, epochs=2, verbose=0, callbacks=[record, *mean.callbacks()])
    expected = seen[0]
    for number, step in enumerate(seen[1:], start=2):
        decay = (1 + number) / (10 + number)
        expected = decay * expected + (1 - decay) * step
    with mean.applied():
        np.testing.assert_allclose(scorer.leave.kernel.numpy(), expected, rtol=1e-4)
    np.testing.assert_array_equal(scorer.leave.kernel.numpy(), seen[-1])


PLAIN = sorted(set(tfr.keras.losses.RankingLossKey.all_keys()) - {"ordinal_loss"})
LOSSES = [*PLAIN, *(f"{name}+ndcg" for name in PLAIN if name in reranking.PAIRWISE)]
FAST = ["softmax_loss", "approx_ndcg_loss"]


@pytest.mark.parametrize(
    "loss", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in LOSSES]
)
def test_every_loss_of_tf_ranking_trains(loss, tmp_path, eagerly):
    features = example_lists()
    scorer, lists = ListwiseScorer(CONFIG), batches(features, labels_by(features, 2))
    scorer(features)
    before = scorer.get_weights()
    curves = fit(
        scorer, tmp_path, config=dataclasses.replace(CONFIG, loss=loss, epochs=1), train=lists, validation=lists
    )
    assert np.all(np.isfinite(curves["loss"]))
    assert np.all(np.isfinite(scorer(features).numpy()))
    assert len(before) == len(scorer.get_weights())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_scorer_that_knows_nothing_yet_has_something_to_learn_from_every_loss(loss):
    features = example_lists(count=16)
    config, labels = dataclasses.replace(CONFIG, loss=loss), labels_by(features, 2)
    tf.keras.utils.set_random_seed(0)
    scorer = ListwiseScorer(config, terms=0)
    with tf.GradientTape() as tape:
        value = reranking.loss_named(loss)(labels, scorer(features))
    gradient = tape.gradient(value, scorer.leave.kernel).numpy()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 1e-4


def test_pairs_by_ndcg_are_those_of_lambdaloss():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 3, (4, 6)).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    labels[:, 0] = 2
    labels[0, 4:] = -1  # padding
    total = 0.0
    for label, score in zip(labels, scores):
        label, score = label[label >= 0], score[label >= 0]
        rank = np.argsort(np.argsort(-score))
        gain, discount = 2**label - 1, 1 / np.log2(np.arange(len(label) + 1) + 2)
        ideal = np.sort(gain)[::-1] @ discount[: len(gain)]
        for i, j in zip(*np.nonzero(label[:, np.newaxis] > label)):
            apart = abs(rank[i] - rank[j])
            weight = (gain[i] - gain[j]) / ideal * (discount[apart - 1] - discount[apart])
            total += weight * np.log1p(np.exp(score[j] - score[i]))
    found = reranking.loss_named("pairwise_logistic_loss+ndcg")(labels, scores)
    assert float(found) == pytest.approx(total / len(labels), rel=1e-4)


@pytest.mark.parametrize("bad", ["mse", "ordinal_loss", "softmax_loss+ndcg"])
def test_a_loss_that_cannot_train_one_score_an_item_is_refused_before_training(bad):
    with pytest.raises(ValueError, match=f"approx_ndcg_loss.*got '{re.escape(bad)}'"):
        RerankingConfig(loss=bad)
