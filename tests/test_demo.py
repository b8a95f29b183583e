"""Claims about the demo shop: what it lacks, that it repeats itself, and that its truth is the truth."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import pytest

from tfmm.sources.dataset import Dataset
from tfmm.sources.demo import draw, draw_with_truth
from tfmm.sources.demo_catalogue import MISSING, NO_PICTURE, NO_TEXT
from tfmm.sources.demo_truth import FACTORS, Truth, factors_by_carrier, oracle_ndcg, signal_by_modality


@functools.lru_cache(maxsize=1)
def _shop() -> tuple[Dataset, Truth]:
    return draw_with_truth(size="tiny", seed=3)


def _within(count: int, total: int, share: float) -> bool:
    return abs(count - share * total) <= 4 * np.sqrt(total * share * (1 - share)) + 1


def _naive_ndcg(dataset: Dataset, scores: np.ndarray) -> float:
    """NDCG@10 on the last tenth of the events, shopper by shopper, item by item."""
    events, values = dataset.interactions, []
    cut = np.quantile(events.time, 0.9)
    for shopper in range(len(dataset.users)):
        mine = events.user == shopper
        seen = set(events.item[mine & (events.time <= cut)].tolist())
        new = set(events.item[mine & (events.time > cut)].tolist()) - seen
        if not new:
            continue
        ranked = sorted((i for i in range(len(dataset.items)) if i not in seen), key=lambda i: -scores[shopper, i])
        gained = sum(1 / np.log2(rank + 2) for rank, item in enumerate(ranked[:10]) if item in new)
        values.append(gained / sum(1 / np.log2(rank + 2) for rank in range(min(10, len(new)))))
    return float(np.mean(values))


def test_another_process_draws_the_same_shop() -> None:
    code = "from tfmm.sources.demo import draw; print(draw(size='tiny', seed=3).fingerprint())"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == _shop()[0].fingerprint()


def test_another_seed_draws_another_shop() -> None:
    assert draw(size="tiny", seed=4).fingerprint() != _shop()[0].fingerprint()


def test_an_unknown_size_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="tiny, small, full, got 'smal'"):
        draw(size="smal")


def test_the_shares_of_what_is_missing_are_those_said() -> None:
    items = _shop()[0].items
    assert _within(int((~items.images.present).sum()), len(items), NO_PICTURE)
    assert _within(int((items.text == "").sum()), len(items), NO_TEXT)
    for name, share in MISSING.items():
        column = items.numeric.get(name)
        missing = np.isnan(column) if column is not None else items.categorical[name].lengths == 0
        assert _within(int(missing.sum()), len(items), share), name


def test_nothing_is_met_before_its_launch() -> None:
    dataset = _shop()[0]
    events = dataset.interactions
    assert np.all(events.time >= dataset.items.launched[events.item])


def test_products_that_are_cold_at_test_are_met_there() -> None:
    dataset = _shop()[0]
    events = dataset.interactions
    cut = np.quantile(events.time, 0.9)
    cold = dataset.items.launched > cut
    assert cold.any() and not cold[events.item[events.time <= cut]].any()
    assert cold[events.item[events.time > cut]].sum() > 20


def test_the_oracle_equals_a_plain_loop_and_is_far_above_popularity() -> None:
    dataset, truth = _shop()
    events = dataset.interactions
    utility = truth.utility(np.arange(len(dataset.users)))
    oracle = _naive_ndcg(dataset, utility)
    counts = np.bincount(events.item[events.time <= np.quantile(events.time, 0.9)], minlength=len(dataset.items))
    assert oracle_ndcg(dataset, truth) == pytest.approx(oracle, abs=1e-9)
    assert oracle > 2.5 * _naive_ndcg(dataset, np.broadcast_to(counts, utility.shape))


def test_the_utility_that_evaluation_reads_ranks_as_the_truth_does() -> None:
    dataset, truth = _shop()
    assert dataset.true_utility is not None and dataset.true_utility.dtype == np.float16
    assert _naive_ndcg(dataset, dataset.true_utility.astype(np.float64)) == pytest.approx(
        oracle_ndcg(dataset, truth), abs=0.005
    )


def test_every_modality_carries_signal() -> None:
    dataset, truth = _shop()
    signal = signal_by_modality(dataset, truth)
    assert sorted(signal) == ["attributes", "image", "shared", "text"]
    assert min(signal.values()) > 0.1 * oracle_ndcg(dataset, truth)


def test_leaving_a_factor_out_takes_exactly_its_tastes_away() -> None:
    dataset, truth = _shop()
    shoppers = np.array([0, 7])
    for name in FACTORS:
        difference = truth.utility(shoppers) - truth.utility(shoppers, without=(name,))
        expected = [[truth.tastes[name][s][level] for level in truth.levels[name]] for s in shoppers]
        np.testing.assert_allclose(difference, expected, atol=1e-9)
    assert sorted(sum(factors_by_carrier().values(), ())) == sorted(FACTORS)
