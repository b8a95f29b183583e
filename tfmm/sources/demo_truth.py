"""What truly moves the demo shop's shoppers, and how much of it each modality carries."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np

from tfmm.sources.dataset import Dataset, Interactions


@dataclasses.dataclass(frozen=True)
class Factor:
    """One property of products that shoppers have a taste for.

    Attributes:
        carrier: the modality that alone shows it: "image", "text" or "attributes"; "shared" where several do.
        strength: standard deviation of the taste over shoppers and levels, as log-propensity.
    """

    carrier: str
    strength: float


FACTORS: Mapping[str, Factor] = MappingProxyType(
    {
        "category": Factor("shared", 1.5),  # in the picture, the title and the attributes
        "colour": Factor("shared", 1.0),  # in the picture and the attributes
        "style": Factor("image", 1.4),
        "use": Factor("text", 1.4),
        "brand": Factor("attributes", 1.0),
        "material": Factor("attributes", 0.8),
        "price": Factor("attributes", 1.0),
    }
)


@dataclasses.dataclass(frozen=True)
class Truth:
    """The generator's own knowledge of products and shoppers.

    Attributes:
        levels: factor -> `[num_items]` int, which level of it each product has.
        tastes: factor -> `[num_shoppers, num_levels]`, log-propensities at the end of the data, drift included.
        popularity: `[num_items]`, the log-propensity that all shoppers share.
    """

    levels: Mapping[str, np.ndarray]
    tastes: Mapping[str, np.ndarray]
    popularity: np.ndarray

    def utility(self, shoppers: np.ndarray, *, without: Collection[str] = ()) -> np.ndarray:
        """Returns `[len(shoppers), num_items]`: log-propensities, leaving out the factors named in `without`."""
        tastes = {name: taste[shoppers] for name, taste in self.tastes.items() if name not in without}
        return utility_of(tastes, self.levels, self.popularity)


def utility_of(
    tastes: Mapping[str, np.ndarray], levels: Mapping[str, np.ndarray], popularity: np.ndarray
) -> np.ndarray:
    """Returns `[num_shoppers, num_items]`: popularity plus each shopper's taste for each product's levels."""
    rows = max((len(taste) for taste in tastes.values()), default=1)
    utility = np.repeat(popularity[np.newaxis, :], rows, axis=0)
    for name, taste in tastes.items():
        # No matrix product: its rounding would depend on the number of threads.
        utility += np.take(taste, levels[name], axis=1)
    return utility


def oracle_ndcg(
    dataset: Dataset, truth: Truth, *, without: Collection[str] = (), k: int = 10, test_share: float = 0.1
) -> float:
    """Returns the mean NDCG@k of ranking by true utility the products that a shopper had not met before the test.

    The test is the last `test_share` of all events by time; what a shopper meets in it for the first time is
    relevant. It is the most that a recommender can reach that does not know today's session.

    Args:
        dataset: of `demo.draw_with_truth`, with the truth that came with it.
        truth: what the shoppers like.
        without: factors that the oracle may not see.
        k: how many ranks count.
        test_share: of events.
    """
    values = []
    for shoppers, seen, relevant in _test_chunks(dataset.interactions, len(dataset.items), test_share):
        utility = truth.utility(shoppers, without=without)
        utility[seen] = -np.inf
        values.append(_ndcg(utility, relevant, k))
    return float(np.concatenate(values).mean())


def signal_by_modality(dataset: Dataset, truth: Truth, *, k: int = 10, test_share: float = 0.1) -> dict[str, float]:
    """Returns by how much the oracle's NDCG@k falls without what each modality alone shows: 0.02 = two points.

    Keys: "image" (style), "text" (use), "attributes" (brand, material, price), "shared" (category, colour).
    """
    ceiling = oracle_ndcg(dataset, truth, k=k, test_share=test_share)
    return {
        carrier: ceiling - oracle_ndcg(dataset, truth, without=names, k=k, test_share=test_share)
        for carrier, names in factors_by_carrier().items()
    }


def factors_by_carrier() -> dict[str, tuple[str, ...]]:
    """Returns carrier -> names of the factors that it alone shows."""
    carriers = sorted({factor.carrier for factor in FACTORS.values()})
    return {
        carrier: tuple(name for name, factor in FACTORS.items() if factor.carrier == carrier) for carrier in carriers
    }


def _test_chunks(
    events: Interactions, num_items: int, test_share: float, chunk: int = 500
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields shoppers `[chunk]`, products met before the test and products newly met in it `[chunk, num_items]`."""
    in_test = events.time > np.quantile(events.time, 1 - test_share)
    for shoppers in _chunks(np.unique(events.user[in_test]), chunk):
        seen, met = (_met(events, when, shoppers, num_items) for when in (~in_test, in_test))
        relevant = met & ~seen
        some = relevant.any(axis=1)
        yield shoppers[some], seen[some], relevant[some]


def _chunks(rows: np.ndarray, size: int) -> Iterable[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _met(events: Interactions, when: np.ndarray, shoppers: np.ndarray, num_items: int) -> np.ndarray:
    chosen = when & np.isin(events.user, shoppers)
    met = np.zeros((len(shoppers), num_items), dtype=bool)
    met[np.searchsorted(shoppers, events.user[chosen]), events.item[chosen]] = True
    return met


def _ndcg(scores: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    discount = 1 / np.log2(np.arange(2, k + 2))
    gained = (np.take_along_axis(relevant, top, axis=1) * discount).sum(axis=1)
    ideal = np.cumsum(discount)[np.minimum(relevant.sum(axis=1), k) - 1]
    return gained / ideal
