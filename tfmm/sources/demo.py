"""The demo shop: products, shoppers and a year of events drawn from a seed, so that the right answer is known.

A shopper chooses by taste for all that a product is (`demo_truth.FACTORS`), by what everybody likes, and by what
today's session is about. Tastes drift over the year. What is launched late is cold in the last tenth of the events.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tfmm.ragged import Ragged
from tfmm.sources.dataset import Dataset, Interactions, Users
from tfmm.sources.demo_catalogue import NAMES, PRICE_LEVELS, Catalogue, draw_catalogue, show
from tfmm.sources.demo_truth import FACTORS, Truth, utility_of

EVENT_TYPES = ("view", "cart", "purchase")
_START, _DAY, _DAYS = 1_704_067_200, 86_400, 365  # 2024-01-01
_LATE_SHARE = 0.15  # of products: launched when training is over, so that they are cold at test
_NEW_SHARE = 0.4  # of products: launched at some time of the year before, as shops do
_LATE_DAYS = (0.948, 0.975)  # shares of the year between which they come; the last tenth of events begins before
_DRIFT = 0.3  # how far tastes move in a year, as a share of their strength
_FOCUS = 1.0  # log-propensity that today's category gains
_COUNTRIES = ("CN", "DE", "FR", "US")
_MOST_VIEWS = 6  # in a session
_CHUNK = 500  # shoppers simulated at once


@dataclasses.dataclass(frozen=True)
class DemoSize:
    """How large the shop is.

    Attributes:
        items: products.
        shoppers: who visit it.
        sessions: a shopper's visits, at most; each has one to six views.
    """

    items: int
    shoppers: int
    sessions: int


SIZES = {"tiny": DemoSize(240, 400, 8), "small": DemoSize(2_400, 4_000, 12), "full": DemoSize(10_000, 30_000, 12)}


def draw(*, size: str = "small", seed: int = 0) -> Dataset:
    """Returns the shop of that size and seed.

    Raises:
        ValueError: no such size.
    """
    return draw_with_truth(size=size, seed=seed)[0]


def draw_with_truth(*, size: str = "small", seed: int = 0) -> tuple[Dataset, Truth]:
    """Returns the shop, and what truly moves its shoppers."""
    if size not in SIZES:
        raise ValueError(f"Expected a demo shop of size {', '.join(SIZES)}, got {size!r}.")
    shape, rng = SIZES[size], np.random.default_rng([seed, 0])
    catalogue = draw_catalogue(shape.items, rng)
    launched = _launches(shape.items, rng)
    early, late = _tastes(shape.shoppers, rng)
    truth = Truth(catalogue.levels, late, catalogue.popularity)
    dataset = Dataset(
        name="demo" if size == "small" else f"demo-{size}",
        items=show(catalogue, launched=launched, seed=seed),
        users=_users(late, shape.shoppers, rng),
        interactions=_events(catalogue, launched, early, late, shape, rng),
        event_types=EVENT_TYPES,
        true_utility=truth.utility(np.arange(shape.shoppers)).astype(np.float16),
    )
    return dataset, truth


def _launches(num_items: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `[num_items]` int64 seconds: before the data begin, through the year, or near its end."""
    days = -rng.integers(30, 730, size=num_items).astype(np.float64)
    late, new, _ = np.split(
        rng.permutation(num_items), np.cumsum([round(_LATE_SHARE * num_items), round(_NEW_SHARE * num_items)])
    )
    days[late] = _DAYS * rng.uniform(*_LATE_DAYS, size=len(late))
    days[new] = _DAYS * rng.uniform(0, _LATE_DAYS[0], size=len(new))
    return _START + (days * _DAY).astype(np.int64)


def _tastes(shoppers: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns each factor's tastes `[shoppers, levels]` as the year begins and as it ends."""
    early, late = {}, {}
    for name, factor in FACTORS.items():
        first, second = (_taste(name, shoppers, rng) for _ in range(2))
        early[name] = factor.strength * first
        late[name] = factor.strength * ((1 - _DRIFT) * first + _DRIFT * second) / np.hypot(1 - _DRIFT, _DRIFT)
    return early, late


def _taste(name: str, shoppers: int, rng: np.random.Generator) -> np.ndarray:
    """Returns standard normal tastes; of price, for a level and the levels around it."""
    if name != "price":
        return rng.normal(size=(shoppers, len(NAMES[name])))
    likes = rng.uniform(0, PRICE_LEVELS - 1, size=(shoppers, 1))
    distance = np.abs(np.arange(PRICE_LEVELS) - likes)
    return (distance.mean(axis=1, keepdims=True) - distance) / distance.std()


def _users(tastes: dict[str, np.ndarray], shoppers: int, rng: np.random.Generator) -> Users:
    """Returns shoppers with a country, and a segment that mostly tells the category they like best."""
    best = tastes["category"].argmax(axis=1) // 3
    segment = np.where(rng.random(shoppers) < 0.7, best, rng.integers(4, size=shoppers))
    rows = np.arange(shoppers)
    categorical = {
        "segment": Ragged.from_groups(rows, np.array([f"s{s}" for s in segment], dtype=object), shoppers),
        "country": Ragged.from_groups(rows, rng.choice(np.array(_COUNTRIES, dtype=object), shoppers), shoppers),
    }
    return Users(np.array([f"U{row + 1:05d}" for row in range(shoppers)], dtype=object), categorical)


def _events(
    catalogue: Catalogue,
    launched: np.ndarray,
    early: dict[str, np.ndarray],
    late: dict[str, np.ndarray],
    shape: DemoSize,
    rng: np.random.Generator,
) -> Interactions:
    parts = []
    for start in range(0, shape.shoppers, _CHUNK):
        shoppers = np.arange(start, min(start + _CHUNK, shape.shoppers))
        first, last = ({name: taste[shoppers] for name, taste in tastes.items()} for tastes in (early, late))
        liked = [
            utility_of(tastes, catalogue.levels, catalogue.popularity).astype(np.float32) for tastes in (first, last)
        ]
        parts += _visits(shoppers, liked, catalogue, launched, shape.sessions, rng)
    user, item, time, event = (np.concatenate(column) for column in zip(*parts))
    return Interactions.ordered(user=user, item=item, time=time, event=event, value=np.ones(len(user)))


def _visits(
    shoppers: np.ndarray,
    liked: list[np.ndarray],
    catalogue: Catalogue,
    launched: np.ndarray,
    sessions: int,
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, ...]]:
    """Returns (user, item, time, event) of the shoppers' sessions, one after another.

    Every shopper views, in each session, the winners of a Gumbel race over what they like then (a draw without
    replacement from the softmax), of what is launched and they have not met before.
    """
    count = len(shoppers)
    active = rng.integers(max(2, sessions // 2), sessions + 1, size=count)  # visits of each
    days = np.sort(rng.beta(1.3, 1.0, size=(count, sessions)), axis=1) * (_DAYS - 1)
    met = np.zeros((count, len(launched)), dtype=bool)
    parts: list[tuple[np.ndarray, ...]] = []
    for visit in range(sessions):
        began = _START + (days[:, visit] * _DAY).astype(np.int64)
        share = (days[:, visit] / _DAYS)[:, np.newaxis].astype(np.float32)
        utility = (1 - share) * liked[0] + share * liked[1]
        focus = rng.integers(len(NAMES["category"]), size=count)
        utility += np.float32(_FOCUS) * (catalogue.levels["category"][np.newaxis] == focus[:, np.newaxis])
        closed = met | (launched[np.newaxis] > began[:, np.newaxis])
        race = np.where(
            closed, -np.inf, utility - np.log(rng.standard_exponential(utility.shape, np.float32) + np.float32(1e-30))
        )
        here = visit >= sessions - active
        views = np.where(here, rng.integers(1, _MOST_VIEWS + 1, size=count), 0)
        best = _winners(race, _MOST_VIEWS)
        parts += _session(shoppers, best, views, began, utility, rng)
        shown = np.arange(_MOST_VIEWS) < views[:, np.newaxis]
        met[np.repeat(np.arange(count), views), best[shown]] = True
    return parts


def _winners(race: np.ndarray, count: int) -> np.ndarray:
    """Returns the columns of the `count` largest of each row, largest first."""
    some = np.argpartition(-race, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(race, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def _session(
    shoppers: np.ndarray,
    best: np.ndarray,
    views: np.ndarray,
    began: np.ndarray,
    utility: np.ndarray,
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, ...]]:
    """Returns the views of one session of each shopper, and the carts and purchases that follow them.

    The more a product is liked beside the others of the session, the likelier it is put in the cart and bought.
    """
    shown = np.arange(best.shape[1]) < views[:, np.newaxis]
    minutes = np.cumsum(rng.integers(1, 9, size=best.shape), axis=1)
    liked = np.take_along_axis(utility, best, axis=1)
    liked = (liked - liked.mean(axis=1, keepdims=True)) / (liked.std(axis=1, keepdims=True) + 1e-9)
    chance = rng.random(best.shape)
    carted = shown & (chance < 0.25 / (1 + np.exp(-1.5 * liked)))
    bought = carted & (rng.random(best.shape) < 1 / (1 + np.exp(-2.0 * liked)))
    parts: list[tuple[np.ndarray, ...]] = []
    for event, (chosen, after) in enumerate(((shown, 0), (carted, 20), (bought, 45))):
        row, column = np.nonzero(chosen)
        time = began[row] + 60 * minutes[row, column] + after
        parts.append((shoppers[row], best[row, column], time, np.full(len(row), event)))
    return parts
