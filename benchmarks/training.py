"""Training the retriever: ours against the plain loop of the TFRS tutorials, on the same events.

    python -m benchmarks.training [--data_dir MOVIELENS_FOLDER] [--budget 25] [--seeds 1]

Both sides know ids and order alone, and are as wide. Contenders: `tfmm.retrieval.Retriever` on windows of sequences,
where every position predicts the next item; the TFRS tutorial with a user-id tower, and with user id and the mean of
the history, one example an event (`benchmarks/tfrs_tutorial.py`); our own towers and loss with one example a prefix.

First the rate, in transitions (events predicted from what came before) a second of `model.fit`. A transition is not
the same work everywhere: ours is held against the whole catalogue, the tutorial's against its batch. So then what
counts: each trains for `--budget` seconds (tracing counted, evaluation not) and is measured by one exact validation
NDCG@10: the best that it reaches, and how soon ours reaches the other's best. Without `--data_dir` a shop is drawn.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, Protocol

import numpy as np
import tensorflow as tf

from benchmarks import tfrs_tutorial
from benchmarks.common import LESS, Comparison, in_turn, parser, positive, rates, seconds, show, start_log
from benchmarks.shops import Shop, id_features, make_shop, no_context
from tfmm import losses, pipelines, records, retrieval
from tfmm.encoders.attributes import learn_attributes
from tfmm.retrieval import RetrievalConfig, Retriever
from tfmm.towers import TowerConfig, look_up, unit

_log = logging.getLogger("benchmarks.training")
OURS = "Retriever, every position predicts the next"
PREFIXES = "Retriever, one example a prefix"
BY_USER = "TFRS tutorial, user id"
BY_HISTORY = "TFRS tutorial, user id and mean of history"
_EVALUATIONS = 20
"""How often a budget is interrupted to measure."""

Course = list[tuple[float, float]]
"""(seconds of training, validation NDCG@10), as training went on."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long epochs take.

    Attributes:
        first: seconds of the first, in which graphs are traced.
        later: seconds of any later one.
    """

    first: float
    later: float

    def epochs_within(self, budget: float) -> int:
        """Returns how many epochs end within the budget; at least one."""
        return 1 + max(0, int((budget - self.first) / self.later))


class Contender(Protocol):
    """Something that can be trained.

    Attributes:
        transitions: events that one `epoch` predicts from what came before them.
    """

    transitions: int

    def epoch(self) -> object:
        """Trains with one `model.fit`."""

    def course(self, budget: float, pace: Pace) -> Course:
        """Returns how NDCG went while it trained, from scratch, for about `budget` seconds."""


class TimedRetriever(Retriever):
    """Remembers how long each of its `fit` took."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.taken: list[float] = []

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the history, as `tf.keras.Model.fit` does."""
        started = time.perf_counter()
        history = super().fit(*args, **kwargs)
        self.taken.append(time.perf_counter() - started)
        return history


class PrefixRetriever(TimedRetriever):
    """The same towers and loss, where only the last item of a window is predicted."""

    def compute_loss(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Returns the mean loss over the windows; `batch` has a `target` beside the history."""
        items, corpus = batch["items"], self.corpus_vectors(training=training)
        context = self.towers.context_ids(batch["context"])
        vectors = look_up(corpus, items)
        times = batch["times"]
        asked = tf.concat([times, tf.zeros_like(times[:, :1])], axis=1)  # the target's own time is not in a prefix
        queries = self.towers.query(vectors, items >= 0, times, batch["events"], context, asked, training=training)
        length = tf.reduce_sum(tf.cast(items >= 0, tf.int32), axis=1)
        last = tf.gather(queries, length, batch_dims=1)  # [batch, dim]
        logits = tf.matmul(unit(last) / self.config.temperature, unit(corpus), transpose_b=True)
        return tf.reduce_mean(losses.softmax_loss(logits, batch["target"]))


@dataclasses.dataclass
class Ours:
    """Our retriever, trained as `train.py` trains it."""

    kind: type[TimedRetriever]
    shop: Shop
    batches: tf.data.Dataset
    transitions: int
    towers: TowerConfig

    def __post_init__(self) -> None:
        trained = np.bincount(self.shop.events.item, minlength=len(self.shop.item_ids))
        self.model = self.kind(
            self.towers,
            RetrievalConfig(),
            items=id_features(self.shop.item_ids, trained=trained > 0),
            context=learn_attributes({}, {}),
            num_events=1,
            frequency=trained,
        )
        config = self.model.config
        self.model.compile(tf.keras.optimizers.AdamW(config.learning_rate, config.weight_decay, clipnorm=1.0))

    def epoch(self) -> object:
        return self.model.fit(self.batches, verbose=0)

    def course(self, budget: float, pace: Pace) -> Course:
        """Returns how NDCG went; the schedule of the learning rate is as long as the budget."""
        epochs = pace.epochs_within(0.95 * budget)
        self.model.config = dataclasses.replace(RetrievalConfig(), epochs=epochs, patience=epochs)
        with tempfile.TemporaryDirectory() as folder:
            curves = retrieval.fit(
                self.model,
                self.batches,
                validation=self.shop.validation,
                context=no_context(len(self.shop.user_ids)),
                directory=Path(folder) / "checkpoints",
                logs=Path(folder) / "logs",
            )
        return list(zip(np.cumsum(list(self.model.taken)).tolist(), curves["validation ndcg@10"]))


@dataclasses.dataclass
class Tutorial:
    """The loop of the TFRS tutorials."""

    shop: Shop
    dim: int
    history: bool

    def __post_init__(self) -> None:
        columns = tfrs_tutorial.examples(self.shop, history=self.history)
        self.transitions = len(columns["item"])
        self.batches = tfrs_tutorial.training_data(columns)
        self.model = tfrs_tutorial.make_model(self.shop, dim=self.dim, history=self.history)

    def epoch(self) -> object:
        return self.model.fit(self.batches, verbose=0)

    def course(self, budget: float, pace: Pace) -> Course:
        """Returns how NDCG went, measured at the end of an epoch, about 20 times in all."""
        spent, measured, points = 0.0, 0.0, []
        while spent < budget:
            spent += seconds(self.epoch)
            if spent - measured >= budget / _EVALUATIONS or spent >= budget:
                points.append((spent, tfrs_tutorial.ndcg(self.model, self.shop)))
                measured = spent
        return points


def main(argv: Optional[Sequence[str]] = None) -> list[Comparison]:
    """Prints the table; returns its rows."""
    options = _flags(argv)
    start_log()
    shop = make_shop(
        options.data_dir, users=options.users, items=options.items, events=options.events, seed=options.seed
    )
    with tempfile.TemporaryDirectory() as folder:
        makers = contenders(shop, Path(folder), options)
        rows, paces = compare_epochs(makers, rounds=options.rounds, seed=options.seed)
        found: dict[str, list[Course]] = {name: [] for name in makers}
        for seed in range(options.seed, options.seed + options.seeds):
            for name, make in makers.items():
                tf.keras.utils.set_random_seed(seed)
                course = within(make().course(options.budget, paces[name]), options.budget)
                _log.info("seed %d, %s: %s", seed, name, " ".join(f"{s:.0f}s:{value:.4f}" for s, value in course))
                found[name].append(course)
    rows += compare_courses(found, budget=options.budget, target=options.target)
    size = f"{len(shop.events):,} events, {len(shop.user_ids):,} users, {len(shop.item_ids):,} items"
    show(
        f"Training on {shop.name}: {size}",
        rows,
        notes=["rates: --rounds; budgets: --seeds", *overruns(found, options.budget)],
    )
    return rows


def contenders(shop: Shop, folder: Path, options: Any) -> dict[str, Callable[[], Contender]]:
    """Returns name -> makes the contender anew, untrained; ours first."""
    towers = TowerConfig(dim=options.dim, max_length=options.length)
    windows = window_batches(shop, folder, length=options.length, seed=options.seed)
    prefixes = prefix_batches(
        shop, length=options.length, batch_size=options.prefixes, steps=options.prefix_steps, seed=options.seed
    )
    few = min(options.prefixes * options.prefix_steps, shop.num_transitions)
    return {
        OURS: lambda: Ours(TimedRetriever, shop, windows, shop.num_transitions, towers),
        BY_USER: lambda: Tutorial(shop, options.dim, history=False),
        BY_HISTORY: lambda: Tutorial(shop, options.dim, history=True),
        PREFIXES: lambda: Ours(PrefixRetriever, shop, prefixes, few, towers),
    }


def window_batches(shop: Shop, folder: Path, *, length: int, seed: int) -> tf.data.Dataset:
    """Returns one pass over windows of the sequences, through records as in `train.py`."""
    sequences = records.Sequences.of(shop.events, shop.users)
    types = [str(number) for number in range(1 + int(shop.events.event.max()))]
    records.write_sequences(sequences, folder, "train", item_ids=shop.item_ids, event_types=types)
    return pipelines.sequence_batches(
        folder,
        "train",
        batch_size=RetrievalConfig().batch_size,
        max_length=length,
        shuffle=True,
        seed=seed,
        item_ids=shop.item_ids,
    )


def prefix_batches(shop: Shop, *, length: int, batch_size: int, steps: int, seed: int) -> tf.data.Dataset:
    """Returns some batches of prefixes, others in each pass: a history of up to `length` - 1 events and its target."""
    events = shop.events
    starts = np.searchsorted(events.user, events.user)
    targets = np.flatnonzero(np.arange(len(events)) > starts)
    items = tf.constant(events.item)

    def window(end: tf.Tensor) -> dict[str, tf.Tensor]:
        places = tf.ragged.range(tf.maximum(tf.gather(starts, end), end - (length - 1)), end)
        return {
            "items": tf.gather(items, places).to_tensor(-1),
            "times": tf.gather(tf.constant(events.time), places).to_tensor(0),
            "events": tf.gather(tf.constant(events.event), places).to_tensor(0),
            "context": tf.zeros([tf.size(end), 0], tf.string),
            "target": tf.gather(items, end),
        }

    drawn = tf.data.Dataset.from_tensor_slices(targets).shuffle(len(targets), seed=seed).batch(batch_size)
    return drawn.take(steps).map(window, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def compare_epochs(
    makers: dict[str, Callable[[], Contender]], *, rounds: int, seed: int
) -> tuple[list[Comparison], dict[str, Pace]]:
    """Returns transitions a second of ours against each other, and how long epochs took."""
    tf.keras.utils.set_random_seed(seed)
    made = {name: make() for name, make in makers.items()}
    _log.info("measuring epochs of %s", ", ".join(made))
    epochs = {name: contender.epoch for name, contender in made.items()}
    first = {name: seconds(epoch) for name, epoch in epochs.items()}
    taken = in_turn(epochs, rounds=rounds, warm_up=False)
    speed = {name: rates(taken[name], made[name].transitions) for name in made}
    ours, *others = made
    rows = [Comparison("training rate", "transitions/s", ours, other, speed[ours], speed[other]) for other in others]
    return rows, {name: Pace(first[name], statistics.median(values)) for name, values in taken.items()}


def within(course: Course, budget: float) -> Course:
    """Returns the points that were reached within the budget; the first in any case."""
    return course[:1] + [point for point in course[1:] if point[0] <= budget]


def compare_courses(found: dict[str, list[Course]], *, budget: float, target: Optional[float]) -> list[Comparison]:
    """Returns, for each other contender, the best NDCG@10 within the budget and the time to the other's best."""
    ours, *others = found
    rows = []
    for other in others:
        bests = {name: [max(value for _, value in course) for course in found[name]] for name in (ours, other)}
        what = f"best validation NDCG@10 in {budget:g} s"
        rows.append(Comparison(what, "NDCG@10", ours, other, bests[ours], bests[other]))
        targets = bests[other] if target is None else [target] * len(bests[other])
        times = {n: [seconds_to(course, goal) for course, goal in zip(found[n], targets)] for n in (ours, other)}
        what = "time to the other's best NDCG@10" if target is None else f"time to NDCG@10 of {target:g}"
        rows.append(Comparison(what, "s", ours, other, times[ours], times[other], LESS))
    return rows


def seconds_to(course: Course, target: float) -> float:
    """Returns after how many seconds of training NDCG was `target` or more; infinity where it never was."""
    return next((spent for spent, value in course if value >= target), float("inf"))


def overruns(found: dict[str, list[Course]], budget: float) -> list[str]:
    """Returns a sentence on each contender whose first measurement came after the budget: its figures are of more."""
    late = {name: max(course[0][0] for course in courses) for name, courses in found.items()}
    return [
        f"over budget: {name} was first measured after {spent:.0f} s, at the end of an epoch; give a larger --budget"
        for name, spent in late.items()
        if spent > budget
    ]


def _flags(argv: Optional[Sequence[str]]) -> Any:
    made = parser(__doc__)
    made.add_argument("--data_dir", type=Path, help="folder of MovieLens (any published layout)")
    made.add_argument("--users", type=positive, default=2_000, help="of the drawn shop")
    made.add_argument("--items", type=positive, default=2_000, help="of the drawn shop")
    made.add_argument("--events", type=positive, default=40, help="of each user of the drawn shop")
    made.add_argument("--dim", type=positive, default=64, help="width of all towers")
    made.add_argument("--length", type=positive, default=50, help="events of a window of ours")
    made.add_argument("--prefixes", type=positive, default=256, help="examples of a step, one example a prefix")
    made.add_argument("--prefix_steps", type=positive, default=8, help="steps between two measurements, likewise")
    made.add_argument("--budget", type=float, default=25.0, help="seconds of training of each contender and seed")
    made.add_argument("--target", type=float, help="NDCG@10 to be reached; the other's best where left out")
    made.add_argument("--seeds", type=positive, default=1, help="runs of the budget")
    return made.parse_args(argv)


if __name__ == "__main__":
    main()
