"""Training the towers: losses held to numpy, the shop's groups found again, and what a stopped run goes on with."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import shops
import tensorflow as tf

from tfmm import pipelines, records, retrieval, stages
from tfmm.encoders.attributes import learn_attributes
from tfmm.features import PRESENT, item_features
from tfmm.ragged import Ragged
from tfmm.retrieval import RetrievalConfig, Retriever, dense_queries, known_columns, score_queries
from tfmm.towers import TowerConfig

WINDOWS = [[4, 8, 4, 12], [1, 5, 9, 13, 5, 17], [2, 2, 2]]
KNOWN = [[4, 8, 12, 16], [1, 5, 9, 13, 17], [2]]


def batch() -> dict[str, tf.Tensor]:
    """Returns windows with repeats and padding, and known items that stand in no window."""
    items = Ragged.from_rows(WINDOWS, np.int32)
    times = Ragged(shops.START + 1000 * np.arange(len(items.values)), items.offsets)
    return {
        "items": tf.constant(items.to_dense()),
        "times": tf.constant(times.to_dense(fill=0), tf.int64),
        "events": tf.constant(Ragged(items.values % 2, items.offsets).to_dense(fill=0)),
        "context": tf.constant([["region=north"], [""], ["region=south"]]),
        "known": tf.constant(Ragged.from_rows(KNOWN, np.int32).to_dense()),
    }


def sampling(
    retriever: Retriever, *, uniform: int, frequency: np.ndarray | None = None, until: int | None = None
) -> Retriever:
    """Returns the same towers, trained on samples of the corpus, of what was launched until then."""
    config = dataclasses.replace(retriever.config, full_softmax_up_to=1, uniform_negatives=uniform)
    other = Retriever(
        retriever.towers.config,
        config,
        items=shops.features(),
        context=learn_attributes(shops.dataset().users.categorical, {}),
        num_events=2,
        frequency=np.ones(shops.ITEMS) * (until is None) if frequency is None else frequency,
        launched=None if until is None else shops.dataset().items.launched,
        until=until or 0,
    )
    other.set_weights(retriever.get_weights())
    return other


def positions() -> list[tuple[int, int]]:
    """Returns (window, place) of each item that the window has for the first time."""
    return [(w, p) for w, row in enumerate(WINDOWS) for p, item in enumerate(row) if item not in row[:p]]


@functools.cache
def naive_logits() -> list[tuple[int, int, np.ndarray]]:
    """Returns (window, right item, logits of all items) of every position, each asked alone with what came before."""
    retriever = shops.retriever()
    table, columns = retriever.corpus_vectors(), {name: column.numpy() for name, column in batch().items()}
    corpus = table.numpy() / np.linalg.norm(table.numpy(), axis=1, keepdims=True)
    found = []
    for window, place in positions():
        before = [tf.constant(columns[name][window : window + 1, :place]) for name in ("items", "times", "events")]
        context = tf.constant(columns["context"][window : window + 1])
        asked = tf.constant(columns["times"][window : window + 1, place])  # when the right item comes
        query = retriever.towers.embed_queries(table, *before, context, asked)
        logits = (corpus @ query.numpy()[0]).astype(np.float64) / retriever.config.temperature
        found.append((window, WINDOWS[window][place], logits))
    return found


def naive_loss(*, masked: bool, drawn: set | None = None, chance: object = 1.0) -> float:
    """Returns the mean over positions of -log softmax.

    Args:
        masked: whether the shopper's other known items leave the denominator.
        drawn: the items that are in it; None is all.
        chance: `[num_items]` to have been drawn, whose log is taken off the logits.
    """
    lost = []
    for window, right, logits in naive_logits():
        corrected = logits - np.log(chance)
        rivals = set(range(shops.ITEMS) if drawn is None else drawn) - set(KNOWN[window] if masked else [])
        lost.append(np.log(np.exp(corrected[sorted(rivals | {right})]).sum()) - corrected[right])
    return float(np.mean(lost))


def test_the_full_loss_is_the_softmax_over_all_items_on_sale_of_each_new_item_given_what_came_before():
    found = shops.retriever().compute_loss(batch())
    until = shops.shop().parts.train.time.max()  # what is launched later is nobody's negative
    on_sale = set(np.flatnonzero(shops.dataset().items.launched <= until))
    assert set(range(shops.ITEMS)) - on_sale == set(shops.COLD) - {58}  # of that one, the launch is not known
    np.testing.assert_allclose(found, naive_loss(masked=False, drawn=on_sale), rtol=1e-4)


def test_items_that_were_launched_later_are_never_drawn_as_negatives():
    sampled = sampling(shops.retriever(), uniform=3_000, until=shops.START)
    later = np.flatnonzero(shops.dataset().items.launched > shops.START)
    assert set(later) == set(shops.COLD) - {58}
    expected = naive_loss(masked=True, drawn=set(range(shops.ITEMS)) - set(later.tolist()))
    np.testing.assert_allclose(sampled.compute_loss(batch()), expected, rtol=1e-4)


def test_what_is_not_launched_when_a_query_is_asked_is_never_wanted():
    retriever, queries = shops.retriever(), shops.shop().parts.test
    for chunk, scores in score_queries(retriever, queries, shops.shop().context):
        late = shops.dataset().items.launched > chunk.time[:, np.newaxis]
        assert late.any() and np.all(np.isneginf(scores[late])) and np.all(np.isfinite(scores[~late]))


def test_the_sampled_loss_is_the_full_one_with_known_positives_masked_once_everything_is_sampled():
    sampled = sampling(shops.retriever(), uniform=3_000)  # 60 items: the chance that any is left out is below 1e-19
    assert sampled.sampled
    found, expected = sampled.compute_loss(batch()), naive_loss(masked=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert abs(expected - naive_loss(masked=False)) > 0.01  # the masks matter here


def test_a_small_sample_is_corrected_by_how_often_each_item_is_drawn():
    """One uniform draw: the loss is that of one of the 60 items it may have been, each computed in numpy."""
    frequency = np.arange(1.0, shops.ITEMS + 1)
    sampled = sampling(shops.retriever(), uniform=1, frequency=frequency)
    in_batch = [item for row in WINDOWS for item in row]
    chance = 1 - np.exp(-(len(in_batch) * frequency / frequency.sum() + 1 / shops.ITEMS))
    expected = [naive_loss(masked=True, drawn={*in_batch, row}, chance=chance) for row in range(shops.ITEMS)]
    found = float(sampled.compute_loss(batch()))
    assert np.abs(np.array(expected) - found).min() < 1e-4
    assert np.std(expected) > 0.01


def test_an_item_that_was_there_before_is_not_predicted():
    retriever, columns = shops.retriever(), batch()
    repeats = {name: column[2:, :3] if name != "context" else column[2:] for name, column in columns.items()}
    first = {**repeats, **{name: repeats[name][:, :1] for name in ("items", "times", "events")}}
    np.testing.assert_allclose(retriever.compute_loss(repeats), retriever.compute_loss(first), rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_known_columns_are_those_whose_item_the_shopper_knows(seed):
    rng = np.random.default_rng(seed)
    rows, known = rng.permutation(30)[:12], rng.integers(-1, 30, (4, 9))
    known[3] = -1
    found = known_columns(tf.constant(known, tf.int32), tf.constant(rows, tf.int32)).numpy()
    assert found.tolist() == [[row in window for row in rows.tolist()] for window in known.tolist()]


def test_the_gradient_of_a_sampled_id_table_is_sparse_and_moves_only_what_was_drawn():
    towers = dataclasses.replace(shops.CONFIG.towers, id_dropout=0.0)
    retriever = dataclasses.replace(shops.CONFIG, towers=towers)
    retriever = stages.make_towers(retriever, shops.shop(), shops.features(), shops.shop().parts.train)
    retriever = sampling(retriever, uniform=3)
    retriever.compile(optimizer=tf.keras.optimizers.AdamW(0.01))
    table = retriever.towers.candidate.ids.embeddings
    with tf.GradientTape() as tape:
        loss = retriever.compute_loss(batch(), training=True)
    assert isinstance(tape.gradient(loss, table), tf.IndexedSlices)
    before = table.numpy()
    lost = retriever.train_step(batch())["loss"]
    moved = set(np.flatnonzero(np.any(table.numpy() != before, axis=1)).tolist())
    drawn = {item for row in WINDOWS for item in row}
    assert np.isfinite(lost)
    assert len(moved - drawn) <= 3
    assert len(moved & drawn) > len(drawn) / 2


def naive_ndcg(retriever: Retriever, queries, scores: np.ndarray, k: int) -> float:
    values = []
    for query in range(len(queries)):
        history, targets = set(queries.history[query].tolist()), set(queries.targets[query].tolist())
        ranked = [row for row in np.argsort(-scores[query]) if row not in history][:k]
        gained = sum(1 / np.log2(place + 2) for place, row in enumerate(ranked) if row in targets)
        values.append(gained / sum(1 / np.log2(place + 2) for place in range(min(k, len(targets)))))
    return float(np.mean(values))


def when_all_is_launched(queries):
    return dataclasses.replace(queries, time=np.full(len(queries), shops.START + 200 * shops.DAY))


def all_scores(retriever: Retriever, queries, **options) -> np.ndarray:
    return np.concatenate([scores for _, scores in score_queries(retriever, queries, shops.shop().context, **options)])


@pytest.mark.parametrize("k", [1, 10])
def test_ndcg_is_what_a_plain_loop_computes(k):
    retriever, queries = shops.retriever(), shops.shop().parts.validation
    found = retrieval.ndcg(retriever, queries, shops.shop().context, k=k)
    assert found == pytest.approx(naive_ndcg(retriever, queries, all_scores(retriever, queries), k), abs=1e-6)


def test_the_size_of_the_chunks_changes_no_score():
    retriever, queries = shops.retriever(), shops.shop().parts.test
    small = all_scores(retriever, queries, batch_size=7)
    np.testing.assert_allclose(small, all_scores(retriever, queries), rtol=1e-4, atol=1e-5)


def test_a_hidden_modality_is_one_that_no_item_has():
    retriever = shops.retriever()
    number = retriever.towers.candidate.modalities.index("image")
    columns = {name: column[:-1] for name, column in shops.features().columns.items()}
    columns[PRESENT] = columns[PRESENT].copy()
    columns[PRESENT][:, number] = False
    expected = retriever.towers.candidate({name: tf.constant(column) for name, column in columns.items()})
    np.testing.assert_allclose(retriever.corpus_vectors(hidden=("image",)), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(retriever.corpus_vectors() - expected).max() > 1e-2


def test_training_finds_the_groups_far_above_popularity():
    parts = shops.shop().parts
    popularity = np.bincount(parts.train.item, minlength=shops.ITEMS)
    popular = naive_ndcg(shops.retriever(), parts.test, np.tile(popularity, (len(parts.test), 1)), 10)
    assert retrieval.ndcg(shops.retriever(), parts.test, shops.shop().context) > 2 * popular
    scores = all_scores(shops.retriever(), when_all_is_launched(parts.test))
    own = shops.group_of(parts.test.user)[:, np.newaxis] == shops.group_of(np.arange(shops.ITEMS))
    assert scores[own].mean() > scores[~own].mean() + 0.5  # cosines


@pytest.mark.slow
@pytest.mark.parametrize("full_softmax_up_to", [1, 1000])
def test_traced_training_finds_the_groups_from_samples_of_the_corpus_as_from_all_of_it(full_softmax_up_to, tmp_path):
    negatives = {"full_softmax_up_to": full_softmax_up_to, "uniform_negatives": 20}
    settings = dataclasses.replace(shops.CONFIG.retrieval, epochs=8, **negatives)
    config = dataclasses.replace(shops.CONFIG, retrieval=settings)
    stages.set_seed(0)
    retriever, _ = stages.train_towers(config, shops.shop(), shops.features(), directory=tmp_path)
    parts = shops.shop().parts
    popularity = np.bincount(parts.train.item, minlength=shops.ITEMS)
    popular = naive_ndcg(retriever, parts.test, np.tile(popularity, (len(parts.test), 1)), 10)
    assert retrieval.ndcg(retriever, parts.test, shops.shop().context) > 2 * popular


def test_a_cold_item_is_ranked_above_other_groups_by_its_content():
    parts = shops.shop().parts
    scores = all_scores(shops.retriever(), when_all_is_launched(parts.test))
    group = shops.group_of(parts.test.user)
    cold = scores[np.arange(len(group)), shops.COLD[group]]
    others = np.where(shops.group_of(np.arange(shops.ITEMS)) != group[:, np.newaxis], scores, np.nan)
    above = cold[:, np.newaxis] > others
    assert above[np.isfinite(others)].mean() > 0.9


def test_the_curves_hold_one_value_an_epoch_and_the_best_epoch_was_kept():
    retriever, curves = shops.trained()
    assert len(curves["loss"]) == len(curves["validation ndcg@10"]) <= shops.CONFIG.retrieval.epochs
    assert curves["loss"][-1] < curves["loss"][0]
    found = retrieval.ndcg(retriever, shops.shop().parts.validation, shops.shop().context)
    assert found == pytest.approx(max(curves["validation ndcg@10"]), abs=1e-6)


# --- What a run remembers --------------------------------------------------------------------------------------------


def small_retriever(**config) -> Retriever:
    """Returns towers that learn within a second: ids alone, pooled."""
    parts, table = shops.shop().parts, shops.shop().table
    trained = np.isin(np.arange(shops.ITEMS), parts.train.item)
    return Retriever(
        TowerConfig(dim=8, encoder="pooling", max_length=8),
        RetrievalConfig(**{"epochs": 4, "patience": 4, "batch_size": 32, **config}),
        items=item_features(table, trained=trained, modalities=("id",)),
        context=learn_attributes({}, {}),
        num_events=2,
        frequency=np.ones(shops.ITEMS),
    )


@pytest.fixture(scope="module")
def data() -> tf.data.Dataset:
    events, shop = shops.shop().parts.train, shops.shop()
    names = {"items": "item", "times": "time", "events": "event"}
    grouped = {n: Ragged.from_groups(events.user, getattr(events, c), shops.USERS) for n, c in names.items()}
    sequences = records.Sequences(user_ids=shop.dataset.users.ids, context=shop.context, **grouped)
    records.write_sequences(
        sequences, shop.records, "small", item_ids=shop.dataset.items.ids, event_types=shops.EVENT_TYPES
    )
    return pipelines.sequence_batches(shop.records, "small", batch_size=128, max_length=8, shuffle=True, seed=0)


def weights_of(retriever: Retriever) -> list[np.ndarray]:
    return [variable.numpy() for variable in retriever.towers.trainable_variables]


@pytest.fixture
def eagerly():
    with shops.eagerly():
        yield


def fit(retriever: Retriever, data: tf.data.Dataset, directory, **options) -> dict[str, list[float]]:
    shop = shops.shop()
    return retrieval.fit(
        retriever,
        data,
        validation=shop.parts.validation,
        context=shop.context,
        directory=directory / "checkpoints",
        logs=directory / "logs",
        **options,
    )


def test_a_stopped_run_goes_on_after_its_last_whole_epoch(data, tmp_path, monkeypatch, eagerly):
    measure, values, weights = retrieval.ndcg, [], []

    def killed_in_the_third_epoch(retriever, *args, **options):
        if len(values) == 2:
            raise KeyboardInterrupt
        values.append(measure(retriever, *args, **options))
        weights[:] = weights_of(retriever)
        return values[-1]

    monkeypatch.setattr(retrieval, "ndcg", killed_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        fit(small_retriever(), data, tmp_path)
    monkeypatch.setattr(retrieval, "ndcg", measure)
    second = small_retriever()
    steps = []
    train = second.fit
    second.fit = lambda *args, **options: steps.append(weights_of(second)) or train(*args, **options)
    curves = fit(second, data, tmp_path, resume=True)
    assert len(curves["validation ndcg@10"]) == len(curves["loss"]) == 4
    np.testing.assert_allclose(curves["validation ndcg@10"][:2], values, rtol=1e-6)
    assert len(steps) == 2
    for found, expected in zip(steps[0], weights):
        np.testing.assert_array_equal(found, expected)
    assert second.optimizer.iterations.numpy() == 4 * len(list(data))


def test_training_stops_without_gain_and_returns_to_the_best_epoch(data, tmp_path, monkeypatch, eagerly):
    weights, values = [], iter([0.2, 0.5, 0.4, 0.3, 0.9])

    def scripted(retriever, *args, **options):
        weights.append(weights_of(retriever))
        return next(values)

    monkeypatch.setattr(retrieval, "ndcg", scripted)
    retriever = small_retriever(epochs=5, patience=2)
    curves = fit(retriever, data, tmp_path)
    assert curves["validation ndcg@10"] == [0.2, 0.5, 0.4, 0.3]
    for found, expected in zip(weights_of(retriever), weights[1]):
        np.testing.assert_array_equal(found, expected)


def test_without_resume_an_old_run_is_no_start(data, tmp_path, eagerly):
    fit(small_retriever(epochs=1), data, tmp_path)
    assert len(fit(small_retriever(epochs=1), data, tmp_path)["loss"]) == 1


def test_a_query_is_its_newest_events_as_dense_columns():
    queries = shops.shop().parts.test.take(np.array([0, 1]))
    items, times, events, context, asked = dense_queries(queries, shops.shop().context, max_length=3)
    assert asked.tolist() == queries.time.tolist()
    for row in range(2):
        assert items[row].tolist() == queries.history[row][-3:].tolist()
        assert times[row].tolist() == queries.times[row][-3:].tolist()
        assert events[row].tolist() == queries.events[row][-3:].tolist()
        assert [term for term in context[row] if term] == shops.shop().context[queries.user[row]].tolist()


@pytest.mark.parametrize("name", ["epochs", "patience", "batch_size", "learning_rate", "temperature"])
def test_settings_that_cannot_be_are_named(name):
    with pytest.raises(ValueError, match=f"retrieval.{name} > 0, got 0"):
        RetrievalConfig(**{name: 0})


def test_spectral_ids_answer_before_the_first_step(monkeypatch):
    """The shop's groups are found in who had what; of an item without events, the id stays what it was."""
    monkeypatch.setattr(stages.towers, "_fit_towers", lambda *_, **__: {})
    shop, found = shops.shop(), {}
    for start in ("random", "spectral"):
        config = dataclasses.replace(shops.CONFIG.retrieval, id_start=start)
        towers = dataclasses.replace(shops.CONFIG.towers, encoder="attention", id_dropout=0.0)
        tf.keras.utils.set_random_seed(0)
        config = dataclasses.replace(shops.CONFIG, towers=towers, retrieval=config)
        found[start], _ = stages.train_towers(config, shop, shops.features(), directory=None)
    ndcg = {name: retrieval.ndcg(one, shop.parts.validation, shop.context) for name, one in found.items()}
    assert ndcg["spectral"] > 1.3 * ndcg["random"]
    ids = {name: one.towers.candidate.ids.embeddings.numpy() for name, one in found.items()}
    never = np.bincount(shop.parts.train.item, minlength=shops.ITEMS + 1) == 0
    np.testing.assert_array_equal(ids["spectral"][never], ids["random"][never])
    np.testing.assert_allclose(np.linalg.norm(ids["spectral"][~never], axis=1), 1, atol=1e-5)


def test_towers_trained_anew_owe_nothing_to_those_before(tmp_path, monkeypatch):
    """With nothing trained, what is served is where training begins: anew, or where the early towers are."""
    monkeypatch.setattr(stages.towers.retrieval, "fit", lambda *_, **__: {"validation ndcg@10": [1.0]})
    monkeypatch.setattr(stages.towers.retrieval, "ndcg", lambda *_: 0.0)
    shop, items = shops.shop(), shops.features()
    early = shops.retriever()
    shop = dataclasses.replace(shop, records=tmp_path)
    records.write_items(shop.dataset, tmp_path, encoders={})
    reranking = dataclasses.replace(shops.CONFIG.reranking, vectors=False)
    for anew in (False, True):
        config = dataclasses.replace(shops.CONFIG, refit_anew=anew, reranking=reranking)
        served = stages.refit_towers(config, shop, early, items, directory=tmp_path)
        same = [np.array_equal(one, other) for one, other in zip(served.get_weights(), early.get_weights())]
        assert all(same) != anew
