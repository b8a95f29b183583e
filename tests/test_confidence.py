"""Intervals against scipy, the t-interval and full enumeration."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest
import scipy.stats

from tfmm import confidence


def continuous(n, seed=0):
    return np.random.default_rng(seed).random(n)


def few_values(n, seed=0):
    """As ndcg of one target: mostly 0, else one of ten values."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.8, 0.0, 1 / np.log2(rng.integers(2, 12, n)))


@pytest.mark.parametrize("values", [continuous(400), few_values(400)], ids=["continuous", "few values"])
def test_the_interval_is_that_of_scipy_bootstrap(values):
    ours = confidence.mean_interval(values, resamples=20_000)
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, random_state=1)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


def test_about_95_of_100_intervals_hold_the_truth():
    held = 0
    for seed in range(300):
        interval = confidence.mean_interval(continuous(60, seed), resamples=400, seed=seed)
        held += interval.low <= 0.5 <= interval.high
    assert 0.90 <= held / 300 <= 0.98


def test_four_times_the_queries_halve_the_interval():
    widths = [interval.high - interval.low for interval in map(confidence.mean_interval, map(few_values, (2000, 8000)))]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)


def test_queries_that_do_not_count_change_nothing():
    values = few_values(500)
    assert confidence.mean_interval(np.append(values, [np.nan] * 99)) == confidence.mean_interval(values)


def test_metrics_that_no_query_counts_for_are_left_out():
    found = confidence.mean_intervals({"a": np.array([1.0, np.nan]), "b": np.array([np.nan, np.nan])})
    assert found == {"a": confidence.Interval(1.0, 1.0, 1.0, 1)}


def test_the_report_gets_plain_json_values():
    assert confidence.Interval(0.5, 0.25, 0.75, 8).to_dict() == {"mean": 0.5, "ci95": [0.25, 0.75], "n": 8}


@pytest.mark.parametrize("values", [continuous, few_values])
def test_the_seed_fixes_the_interval(values):
    first, again, other = (confidence.mean_interval(values(300), seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    "differences",
    [[0.3, -0.1, 0.5, 0.2, 0.7, -0.05, 0.11], [0.5, 0.5, -0.5, 0.5, 0.5, 0.5, 0.5]],
    ids=["all", "one size"],
)
def test_p_is_the_share_of_all_sign_flips_that_reach_the_observed_sum(differences):
    observed = abs(sum(differences)) - 1e-12
    flips = list(itertools.product([-1, 1], repeat=len(differences)))
    exact = sum(abs(np.dot(signs, differences)) >= observed for signs in flips) / len(flips)
    found = confidence.paired_difference(np.array(differences), np.zeros(len(differences)), resamples=40_000)
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact / 40_000))


def test_equal_systems_differ_by_nothing_with_p_of_one():
    found = confidence.paired_difference(few_values(300), few_values(300))
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_p_is_uniform_where_there_is_no_difference():
    ps = [
        confidence.paired_difference(continuous(80, 2 * i), continuous(80, 2 * i + 1), resamples=400, seed=i).p
        for i in range(200)
    ]
    assert scipy.stats.kstest(ps, "uniform").pvalue > 0.001


def test_a_paired_difference_sees_what_two_intervals_hide():
    noise = continuous(500)
    first, second = noise + 0.01, noise + np.random.default_rng(1).normal(0, 0.01, 500)
    assert confidence.mean_interval(second).high > confidence.mean_interval(first).low
    found = confidence.paired_difference(first, second)
    assert found.low > 0
    assert found.p < 0.001


def test_the_detectable_effect_is_detected_four_times_of_five():
    detectable = confidence.minimum_detectable_effect(np.random.default_rng(0).normal(0, 1, 100_000)[:400])
    rng = np.random.default_rng(1)
    trials = rng.normal(detectable, 1, (2000, 400))
    t = trials.mean(axis=1) / (trials.std(axis=1, ddof=1) / 20)
    assert np.mean(np.abs(t) > 1.96) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("values", [[], [np.nan]])
def test_no_counted_query_is_an_error(values):
    with pytest.raises(ValueError, match="at least one query"):
        confidence.mean_interval(np.array(values))


def test_systems_measured_on_different_queries_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        confidence.paired_difference(np.zeros(3), np.zeros(4))


def test_the_examples_in_the_documentation_hold():
    outcome = doctest.testmod(confidence)
    assert outcome.attempted > 3
    assert outcome.failed == 0
