"""The zoo's equations, held to dense numpy, to least squares and to arithmetic."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import shops
import tensorflow as tf
from test_zoo_systems import BARE, STRANGER, data, strangers

from tfmm import closed_form
from tfmm.closed_form import sp
from tfmm.features import ID
from tfmm.zoo import attention_fusion, bpr, ease, gcn, graph, ials, lightgcn, mmfnet, mtmf, network, vbpr
from tfmm.zoo import personalised_sorter as sorter
from tfmm.zoo.fitted import Factors
from tfmm.zoo.training import TrainingConfig, _Negatives, best_epoch, pairs, train


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def randomised(model: tf.keras.Model) -> None:
    """Gives every weight a size that shows."""
    rng = np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(0, 0.5, weight.shape))


# --- Graphs ----------------------------------------------------------------------------------------------------------


def test_a_path_of_three_is_normalised_by_hand():
    found = graph.normalised_adjacency(np.array([0, 1, 1]), np.array([1, 2, 0]), nodes=4).toarray()
    half = 1 / np.sqrt(2)  # degrees 1, 2, 1, 0; the edge 0-1 is named twice
    np.testing.assert_allclose(found, [[0, half, 0, 0], [half, 0, half, 0], [0, half, 0, 0], [0, 0, 0, 0]], rtol=1e-6)


def test_with_self_loops_each_node_is_its_own_neighbour():
    found = graph.normalised_adjacency(np.array([0, 1]), np.array([1, 2]), nodes=3, self_loops=True).toarray()
    a = 1 / np.sqrt(6)  # degrees 2, 3, 2
    np.testing.assert_allclose(found, [[1 / 2, a, 0], [a, 1 / 3, a], [0, a, 1 / 2]], rtol=1e-6)


def test_an_item_is_joined_to_those_whose_content_is_most_alike_and_one_without_content_to_none():
    features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0, 0], [-1, 0]], np.float32)
    found = graph.nearest_items(features, 1).toarray() > 0
    expected = np.zeros((5, 5), bool)
    expected[0, 1] = expected[1, 0] = True  # of each other
    expected[2, 1] = expected[1, 2] = True  # 2's nearest is 1
    np.testing.assert_array_equal(found, expected)


def test_lightgcn_spreads_as_dense_matrices_do():
    known = data()
    made = lightgcn._LightGcn(known, lightgcn.LightGcnConfig(dim=4, layers=3, neighbours=5))
    randomised(made)
    matrix = known.matrix().toarray()
    users, items = matrix.shape
    a = np.block([[np.zeros((users, users)), matrix], [matrix.T, np.zeros((items, items))]])
    degree = a.sum(axis=1)
    scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    a = scale[:, np.newaxis] * a * scale
    first = np.concatenate([made.users.embeddings.numpy(), made.items.embeddings.numpy()])
    mean = (first + a @ first + a @ a @ first + a @ a @ a @ first) / 4
    alike = graph.nearest_items(known.content_rows(), 5).toarray()
    found = [part.numpy() for part in made.everything()]
    np.testing.assert_allclose(found[0], mean[:users], atol=1e-5)
    np.testing.assert_allclose(found[1], mean[users:] + alike @ first[users:], atol=1e-5)


def test_without_neighbours_lightgcn_reads_no_content():
    bare = dataclasses.replace(data(), items=dataclasses.replace(data().items, modalities=(ID,)))
    assert lightgcn._LightGcn(bare, lightgcn.LightGcnConfig(dim=4, neighbours=0)).everything()[1].shape == (60, 4)


def test_a_gcn_layer_is_the_activation_of_the_normalised_graph_times_vectors_times_weights():
    known = data()
    made = gcn._Gcn(known, gcn.GcnConfig(dim=4, layers=2))
    made.represent(tf.constant([0]), tf.constant([0]))
    randomised(made)
    matrix, values = known.matrix().toarray(), known.items.attribute_table()
    users, items = matrix.shape
    nodes = users + items + values.shape[1]
    a = np.eye(nodes)
    a[:users, users : users + items] = matrix
    a[users : users + items, users + items :] = values
    a = np.maximum(a, a.T)
    scale = 1 / np.sqrt(a.sum(axis=1))
    a = scale[:, np.newaxis] * a * scale
    others = made.others.embeddings.numpy().copy()
    others[:items] += known.vectors("image") @ made.map.kernel.numpy()
    h = [np.concatenate([made.users.embeddings.numpy(), others])]
    for convolution in made.convolutions:
        h.append(leaky(a @ h[-1] @ convolution.kernel.numpy()))
    np.testing.assert_allclose(made.everything().numpy(), np.concatenate(h, axis=1), atol=1e-4)


# --- Closed forms ----------------------------------------------------------------------------------------------------


def test_ials_solves_what_least_squares_solves():
    rng = np.random.default_rng(0)
    others = rng.normal(size=(7, 3))
    matrix = sp.csr_matrix(np.array([[1, 0, 1, 0, 0, 0, 1], [0] * 7, [1] * 7], np.float32))
    found = ials.solve(matrix, others, alpha=0.3, l2=0.2, nu=0.5)
    for row, seen in enumerate(matrix.toarray() > 0):
        ridge = 0.2 * (seen.sum() + 0.3 * 7) ** 0.5
        left = np.concatenate([others[seen], np.sqrt(0.3) * others, np.sqrt(ridge) * np.eye(3)])
        right = np.concatenate([np.ones(seen.sum()), np.zeros(7 + 3)])
        np.testing.assert_allclose(found[row], np.linalg.lstsq(left, right, rcond=None)[0], atol=1e-5)


def test_each_half_step_of_ials_lowers_its_loss():
    matrix, rng = data().matrix(), np.random.default_rng(0)
    x, alpha, l2 = matrix.toarray(), 0.2, 0.05

    def loss(w: np.ndarray, h: np.ndarray) -> float:
        s = w @ h.T
        sizes = [(x.sum(1) + alpha * x.shape[1], w), (x.sum(0) + alpha * x.shape[0], h)]
        return (x * (1 - s) ** 2).sum() + alpha * (s**2).sum() + l2 * sum(n @ (v**2).sum(1) for n, v in sizes)

    w, h = (rng.normal(0, 0.1, (n, 4)) for n in x.shape)
    values = [loss(w, h)]
    for _ in range(3):
        w = ials.solve(matrix, h, alpha=alpha, l2=l2)
        values.append(loss(w, h))
        h = ials.solve(matrix.T.tocsr(), w, alpha=alpha, l2=l2)
        values.append(loss(w, h))
    assert np.all(np.diff(values) < 0)


def test_ease_without_content_is_ease():
    rng = np.random.default_rng(0)
    x = sp.csr_matrix((rng.random((30, 8)) < 0.3).astype(np.float32))
    plain = closed_form.ease(x, l2=5.0)
    np.testing.assert_array_equal(closed_form.ease(x, l2=5.0, content=np.zeros((8, 8))), plain)
    fitted = ease.fit(data(), ease.EaseConfig(l2=(50.0,), weights=(0.0,), decays=(1.0,)))
    np.testing.assert_array_equal(fitted.scorer.weights, closed_form.ease(data().matrix(), l2=50.0, dtype=np.float32))


def test_content_in_ease_is_further_rows_of_the_matrix():
    rng = np.random.default_rng(1)
    x, f = (rng.random((30, 8)) < 0.3).astype(np.float32), rng.normal(size=(8, 3))
    stacked = sp.csr_matrix(np.concatenate([x, np.sqrt(2.0) * f.T]))
    np.testing.assert_allclose(
        closed_form.ease(sp.csr_matrix(x), l2=5.0, content=2.0 * f @ f.T), closed_form.ease(stacked, l2=5.0), atol=1e-5
    )


def test_content_rows_have_a_length_of_one_for_each_modality_that_an_item_has():
    rows = data().content_rows()
    has = data().present("image").astype(int) + (np.linalg.norm(data().items.attribute_rows(), axis=1) > 0)
    np.testing.assert_allclose((rows**2).sum(axis=1), has, atol=1e-5)
    assert has[BARE] == 0 and set(has) == {0, 1, 2}


# --- Networks --------------------------------------------------------------------------------------------------------


def test_losses_are_arithmetic():
    logits = np.array([[1.0, 0.0, 3.0], [0.5, 0.5, -2.0]], np.float32)

    def log_sigmoid(x: float) -> float:
        return float(np.log(1 / (1 + np.exp(-x))))

    pair = [-(log_sigmoid(1.0) + log_sigmoid(-2.0)) / 2, -(log_sigmoid(0.0) + log_sigmoid(2.5)) / 2]
    point = [
        -log_sigmoid(1.0) - (log_sigmoid(0.0) + log_sigmoid(-3.0)) / 2,
        -log_sigmoid(0.5) - (log_sigmoid(-0.5) + log_sigmoid(2.0)) / 2,
    ]
    np.testing.assert_allclose(network.pairwise(tf.constant(logits)), pair, rtol=1e-5)
    np.testing.assert_allclose(network.pointwise(tf.constant(logits)), point, rtol=1e-5)


def test_the_attribute_loss_asks_only_those_with_values_and_shares_between_several():
    logits = np.array([[2.0, 0.0, 1.0], [9.0, -3.0, 4.0], [0.0, 0.0, 5.0]], np.float32)
    has = np.array([[True, False, True], [False] * 3, [False, True, False]])
    p = np.log(softmax(logits))
    expected = (-(p[0, 0] + p[0, 2]) / 2 - p[2, 1]) / 2
    np.testing.assert_allclose(mtmf.attribute_loss(tf.constant(logits), tf.constant(has)), expected, rtol=1e-5)
    assert mtmf.attribute_loss(tf.constant(logits), tf.zeros_like(has)) == 0.0


def test_factors_are_dot_products_and_a_stranger_is_the_mean_of_the_history():
    rng = np.random.default_rng(0)
    users, items, bias = rng.normal(size=(81, 3)), rng.normal(size=(60, 3)), rng.normal(size=60)
    known = np.arange(81) < 80
    queries = strangers()
    found = Factors(users, items, bias, known).scores(queries)
    np.testing.assert_allclose(found[1], items[[1, 5, 9]].mean(axis=0) @ items.T + bias, rtol=1e-5)
    acquainted = dataclasses.replace(queries, user=np.array([3, 5, 3, STRANGER], np.int32))
    np.testing.assert_allclose(
        Factors(users, items, bias, known).scores(acquainted)[1], users[5] @ items.T + bias, rtol=1e-5
    )


def test_vbpr_scores_by_its_equation():
    made = vbpr._Vbpr(data(), vbpr.VbprConfig(dim=3, content_dim=2))
    made.represent(tf.constant([0]), tf.constant([0]))
    randomised(made)
    f, factors = data().content_rows(), made.scorer()
    p, t = np.split(made.users.embeddings.numpy()[5], [3])
    expected = (
        made.bias.numpy()
        + made.items.embeddings.numpy() @ p
        + (f @ made.map.kernel.numpy()) @ t
        + f @ made.content_bias.numpy()
    )
    np.testing.assert_allclose(factors.users[5] @ factors.items.T + factors.bias, expected, atol=1e-4)


def test_attention_is_a_softmax_over_what_an_item_has():
    made = attention_fusion._Fusion(data(), attention_fusion.AttentionFusionConfig(dim=4))
    made.represent(tf.constant([0]), tf.constant([0]))
    randomised(made)
    rows = tf.range(shops.ITEMS)
    f, alpha = (part.numpy() for part in made.attended(rows, training=False))
    vectors, present = (part.numpy() for part in made.content(rows))
    behaviour = made.behaviour.embeddings.numpy()
    vectors = np.concatenate([vectors, behaviour[:, np.newaxis]], axis=1)
    present = np.concatenate([present, data().present(ID)[:, np.newaxis]], axis=1)
    hidden = np.tanh(vectors @ made.hidden.kernel.numpy() + made.hidden.bias.numpy())
    logits = (hidden @ made.score.kernel.numpy())[..., 0]
    some = present.any(axis=1)
    np.testing.assert_allclose(alpha[some], softmax(np.where(present, logits, -np.inf)[some]), atol=1e-5)
    assert np.all(alpha[some][~present[some]] == 0) and not some[BARE] and np.isfinite(f).all()
    np.testing.assert_allclose(f, np.einsum("nm,nmd->nd", alpha, vectors), atol=1e-5)
    lengths = np.linalg.norm(made.scorer().items, axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-4)  # the score is a cosine


def test_content_that_is_missing_or_hidden_is_the_learned_absent_vector():
    content = network.Content(data(), dim=4)
    content(tf.constant([0]))
    content.absent.assign(np.arange(content.absent.shape[0] * 4).reshape(-1, 4))
    vectors, present = content(tf.constant([BARE, 0]))
    np.testing.assert_array_equal(vectors[0], content.absent)
    assert not present[0].numpy().any() and present[1].numpy().any()
    hidden, gone = content(tf.constant([0]), hidden=tf.ones([1, len(content.names)], tf.bool))
    np.testing.assert_array_equal(hidden[0], content.absent)
    assert not gone.numpy().any()


def test_the_gate_of_mmfnet_weighs_each_number_and_keeps_their_mean():
    made = mmfnet._Mmfnet(data(), mmfnet.MmfnetConfig(dim=4))
    x = np.random.default_rng(0).normal(size=(5, 4 * len(made.content.names))).astype(np.float32)
    made.gated(tf.constant(x))
    randomised(made)
    gate = softmax(x @ made.gate.kernel.numpy() + made.gate.bias.numpy()) * x.shape[1]
    np.testing.assert_allclose(gate.mean(axis=1), 1.0, rtol=1e-5)
    first, second = made.connected.layers
    inner = np.maximum((gate * x) @ first.kernel.numpy() + first.bias.numpy(), 0)
    np.testing.assert_allclose(
        made.gated(tf.constant(x)), inner @ second.kernel.numpy() + second.bias.numpy(), atol=1e-3
    )


def test_the_sorter_in_numpy_is_the_network():
    made = sorter._Sorter(data(), sorter.SorterConfig(dim=4, length=5))
    queries = shops.shop().parts.test.take(np.arange(6))
    history = queries.history.to_dense(5)
    batch = {"positive": tf.zeros(6, tf.int32), "negative": tf.ones([6, 2], tf.int32), "history": tf.constant(history)}
    made.loss(batch)
    randomised(made)
    x = made.item_vectors(tf.range(shops.ITEMS), training=False)
    users = made.lstm(tf.gather(x, np.maximum(history, 0)), mask=tf.constant(history >= 0))
    np.testing.assert_allclose(made.scorer().users(queries.history), users, atol=1e-5)
    both = np.concatenate([np.repeat(users.numpy(), shops.ITEMS, 0), np.tile(x.numpy(), (6, 1))], axis=1)
    expected = made.outer(made.inner(both)).numpy().reshape(6, shops.ITEMS)
    np.testing.assert_allclose(made.scorer().scores(queries), expected, atol=1e-4)


def test_an_example_of_the_sorter_is_a_new_item_and_what_came_before_it():
    found, events = sorter.examples(data(), 3), data().events
    expected = []
    for user in range(shops.USERS):
        items = events.item[events.user == user].tolist()
        for place, item in enumerate(items):
            if place and item not in items[:place]:
                past = items[max(0, place - 3) : place]
                expected.append((user, item, past + [-1] * (3 - len(past))))
    columns = (found["user"].tolist(), found["positive"].tolist(), found["history"].tolist())
    assert list(zip(*columns)) == expected


# --- Training --------------------------------------------------------------------------------------------------------


def test_negatives_could_be_had_and_were_not():
    known, rng = data(), np.random.default_rng(0)
    users = np.arange(shops.USERS).repeat(5)
    drawn = _Negatives(known)(users, 8, rng)
    matrix = known.matrix().toarray()
    assert not matrix[users[:, np.newaxis], drawn].any()
    assert np.all(known.launched[drawn] <= known.events.time.max())
    free = (matrix == 0) & np.isin(np.arange(shops.ITEMS), known.on_sale())
    counts = np.bincount(drawn.ravel(), minlength=shops.ITEMS)
    assert np.all((counts > 0) == free.any(axis=0))  # every item that may be drawn is


def test_the_best_epoch_by_validation_is_kept_and_patience_ends_training():
    right = data().validation.targets
    quality = iter([0, 2, 1, 1, 3, 9])  # how many of the validation queries each epoch answers

    class Some:
        def __init__(self, number: int) -> None:
            self.number = number

        def scores(self, queries: object) -> np.ndarray:
            scores = np.tile(-np.arange(shops.ITEMS, dtype=np.float32), (len(queries), 1))
            for row in range(self.number):
                scores[row, right[row]] = 100.0
            return scores

    found = best_epoch(lambda: 1.0, lambda: Some(next(quality)), data(), epochs=9, patience=2, name="scripted")
    assert found.scorer.number == 2 and found.settings == {"epoch": 2}
    assert len(found.curves["validation ndcg@10"]) == 4  # two without gain, and the end; the better one never comes


ADAGRAD = (0.8 / (0.1 + 0.8**2) ** 0.5) / (0.2 / (0.1 + 0.2**2) ** 0.5)  # it begins with squares of .1


@pytest.mark.parametrize(("optimizer", "further"), [("adam", 1.0), ("adagrad", ADAGRAD)])
def test_adagrad_moves_what_is_seen_often_further_and_adam_all_alike(optimizer, further):
    class Biases:
        def __init__(self) -> None:
            self.bias = tf.Variable(tf.zeros(shops.ITEMS))
            self.trainable_variables = [self.bias]

        def loss(self, batch):
            return -tf.reduce_mean(tf.gather(self.bias, batch["positive"]))

        def scorer(self):
            bias = self.bias.numpy()
            return types.SimpleNamespace(bias=bias, scores=lambda queries: np.tile(bias, (len(queries), 1)))

    seen = {"user": np.zeros(10, np.int32), "positive": np.array([0] * 8 + [1] * 2, np.int32)}
    config = TrainingConfig(epochs=1, learning_rate=0.1, optimizer=optimizer)
    bias = train(Biases, data(), config, name="biases", examples=seen).scorer.bias
    assert bias[0] / bias[1] == pytest.approx(further, rel=1e-3)  # gradients .8 and .2


def test_an_optimizer_that_is_none_is_refused_by_name():
    with pytest.raises(ValueError, match="adam, adagrad, got 'sgd'"):
        TrainingConfig(optimizer="sgd")


def test_training_lowers_the_loss_and_reads_every_pair_once_an_epoch():
    config = TrainingConfig(epochs=4, patience=4, batch_size=300, negatives=2, learning_rate=2e-2)
    seen: list[int] = []

    class Counting(bpr._Mf):
        def loss(self, batch):
            tf.py_function(lambda users: seen.append(len(users)), [batch["user"]], [])
            return super().loss(batch)

    examples = pairs(data())
    made = train(lambda: Counting(data(), dim=8, l2=0.0), data(), config, name="counted", examples=examples)
    losses = made.curves["loss"]
    assert losses[-1] < losses[0] == pytest.approx(np.log(2), abs=0.05)  # at first nothing is known
    assert sum(seen) == 4 * len(examples["user"]) == 4 * data().matrix().nnz
