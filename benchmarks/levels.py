"""How soon trainings reached what others did at their best, and what each was worth in the end: lines of tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.seeds import mean_of
from benchmarks.training import Course, seconds_to
from tfmm import confidence

OURS, OURS_BY_ID = "ours", "ours_by_id"
NEVER = "never"

Training = dict[str, Any]
"""`given` (setting -> value), `set_up` (seconds until the first step), `seconds` (of training, at the end of each
epoch), `validation` (NDCG@10 there), `test` (one NDCG@10 a shopper, of the epoch that is best on validation), and what
`ended` it."""


def course(training: Training, *, set_up: bool) -> Course:
    """Returns (seconds, validation NDCG@10) at the end of each epoch, counted from the first step or from the start."""
    before = training["set_up"] if set_up else 0.0
    return [(before + spent, value) for spent, value in zip(training["seconds"], training["validation"])]


def level_rows(
    found: Mapping[str, Sequence[Training]], shares: Sequence[float], *, set_up: bool
) -> list[tuple[str, ...]]:
    """Returns a line a level, a share of a peer's best of the same seed: seconds of each, and the peer's by ours."""
    rows = []
    for peer in (name for name in found if name not in (OURS, OURS_BY_ID)):
        for share in shares:
            goals = [share * max(training["validation"]) for training in found[peer]]
            times = {
                name: [seconds_to(course(one, set_up=set_up), goal) for one, goal in zip(all_of, goals)]
                for name, all_of in found.items()
            }
            ratio = ratio_of(times[OURS], times[peer])
            rows.append((f"{share:.0%} of {peer}'s best", mean_of(goals), *map(seconds_of, times.values()), ratio))
    return rows


def seconds_of(times: Sequence[float]) -> str:
    """Returns the median over seeds; how many never came so far is said."""
    reached = [spent for spent in times if math.isfinite(spent)]
    if not reached:
        return NEVER
    missed = f" ({NEVER} in {len(times) - len(reached)} of {len(times)})" if len(reached) < len(times) else ""
    return f"{statistics.median(reached):.1f}{missed}"


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Returns by how much ours was sooner: median, min and max over seeds; above 1 = ours is better.

    A seed in which ours never came so far counts as 0, one in which the other never did as infinitely much.
    """
    if not any(map(math.isfinite, ours)):
        return NEVER
    ratios = sorted(b / a if math.isfinite(a) else 0.0 for a, b in zip(ours, theirs))
    spread = f" [{ratios[0]:.3g}, {ratios[-1]:.3g}]" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.3g}{spread}"


def quality_rows(found: Mapping[str, Sequence[Training]]) -> list[tuple[str, ...]]:
    """Returns a line a system: what it reached, how long it took, and on the test what ours has more."""
    return [(name, *_reached(all_of), *_tested(all_of, found.get(OURS, all_of))) for name, all_of in found.items()]


def _reached(all_of: Sequence[Training]) -> tuple[str, ...]:
    epochs = [len(one["seconds"]) for one in all_of]
    return (
        mean_of([max(one["validation"]) for one in all_of]),
        " ".join(f"{1 + int(np.argmax(one['validation']))} of {count}" for one, count in zip(all_of, epochs)),
        seconds_of([one["set_up"] for one in all_of]),
        seconds_of([one["seconds"][0] for one in all_of]),
        seconds_of([one["seconds"][-1] / count for one, count in zip(all_of, epochs)]),
    )


def _tested(all_of: Sequence[Training], ours: Sequence[Training]) -> tuple[str, str]:
    """Returns the test's mean and how much more ours has; a shopper's value is the mean over seeds."""
    theirs, mine = (np.mean([one["test"] for one in group], axis=0) for group in (all_of, ours))
    one = confidence.mean_interval(theirs)
    if all_of is ours:
        return f"{one.mean:.4f} [{one.low:.4f}, {one.high:.4f}]", ""
    more = confidence.paired_difference(mine, theirs)
    difference = f"{more.difference:+.4f} [{more.low:+.4f}, {more.high:+.4f}]"
    return f"{one.mean:.4f} [{one.low:.4f}, {one.high:.4f}]", difference


def endings(found: Mapping[str, Sequence[Training]], seeds: Sequence[int]) -> list[str]:
    """Returns a sentence on each training that something else than patience ended: it might have become better."""
    return [
        f"{name}, seed {seed}: ended by {one['ended']} after {len(one['seconds'])} epochs, not by patience"
        for name, all_of in found.items()
        for seed, one in zip(seeds, all_of)
        if one["ended"] != "patience"
    ]
