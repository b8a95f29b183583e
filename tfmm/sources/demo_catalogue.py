"""Draws the demo shop's products: what they truly are, then what a shop shows of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfmm.ragged import Ragged
from tfmm.sources.dataset import Items, Media
from tfmm.sources.demo_pictures import COLOURS, MAKES, STYLES, draw_picture
from tfmm.sources.demo_words import BRANDS, CATEGORIES, MATERIALS, USES, describe

NO_PICTURE, NO_TEXT, CHINESE = 0.1, 0.1, 1 / 3
MISSING: Mapping[str, float] = {"category": 0.02, "colour": 0.03, "brand": 0.03, "material": 0.04, "price": 0.05}
"""Share of products that lack each attribute."""
PRICE_LEVELS = 8
SECOND_MATERIAL = 0.2
_ZIPF = 0.75

NAMES: Mapping[str, tuple[str, ...]] = {
    "category": tuple(CATEGORIES),
    "colour": tuple(COLOURS),
    "style": tuple(STYLES),
    "use": tuple(USES),
    "brand": BRANDS,
    "material": MATERIALS,
}
"""Factor -> what its levels are called."""


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Products as they truly are.

    Attributes:
        levels: factor -> `[num_items]` int, an index into `NAMES` (of "price": how dear for its category, 0 to 7).
        price: `[num_items]`.
        popularity: `[num_items]`, log-propensity, Zipf.
    """

    levels: Mapping[str, np.ndarray]
    price: np.ndarray
    popularity: np.ndarray


def draw_catalogue(num_items: int, rng: np.random.Generator) -> Catalogue:
    """Returns products whose style and use are independent of everything else."""
    levels = {name: rng.integers(len(NAMES[name]), size=num_items) for name in ("category", "colour", "style", "use")}
    weights = 1 / np.arange(1, len(BRANDS) + 1) ** 0.8
    levels["brand"] = rng.choice(len(BRANDS), size=num_items, p=weights / weights.sum())
    materials = np.array([[MATERIALS.index(m) for m in words.materials] for words in CATEGORIES.values()])
    levels["material"] = materials[levels["category"], rng.integers(materials.shape[1], size=num_items)]
    dearness = rng.normal(size=num_items)
    levels["price"] = np.clip(np.floor(dearness / 0.5) + PRICE_LEVELS / 2, 0, PRICE_LEVELS - 1).astype(int)
    typical = np.array([words.price for words in CATEGORIES.values()])[levels["category"]]
    popularity = -_ZIPF * np.log(1 + rng.permutation(num_items))
    return Catalogue(levels, np.round(typical * np.exp(0.45 * dearness), 2), popularity - popularity.mean())


def show(catalogue: Catalogue, *, launched: np.ndarray, seed: int) -> Items:
    """Returns what the shop shows of its products: pictures, titles, attributes, each missing here and there.

    Args:
        catalogue: `num_items` products.
        launched: `[num_items]` int64, seconds since the epoch.
        seed: of words, poses and of what is missing.
    """
    rng = np.random.default_rng([seed, 1])
    num_items = len(catalogue.price)
    ids = np.array([f"P{row + 1:05d}" for row in range(num_items)], dtype=object)
    titles, text = _words(catalogue, ids, rng)
    absent = {name: rng.random(num_items) < share for name, share in MISSING.items()}
    columns = {name: _single(catalogue, name, absent[name]) for name in ("category", "brand", "colour")}
    pictured = rng.random(num_items) >= NO_PICTURE
    return Items(
        ids=ids,
        text=text,
        titles=titles,
        images=_pictures(catalogue, pictured, seed),
        sounds=Media.missing(num_items),
        launched=launched,
        categorical={**columns, "material": _materials(catalogue, absent["material"], rng)},
        numeric={"price": np.where(absent["price"], np.nan, catalogue.price).astype(np.float32)},
    )


def _name(catalogue: Catalogue, factor: str, row: int) -> str:
    return NAMES[factor][catalogue.levels[factor][row]]


def _words(catalogue: Catalogue, ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    titles, text = ids.copy(), np.full(len(ids), "", dtype=object)
    silent, chinese = rng.random(len(ids)) < NO_TEXT, rng.random(len(ids)) < CHINESE
    for row in np.flatnonzero(~silent):
        category, use = _name(catalogue, "category", row), _name(catalogue, "use", row)
        titles[row], text[row] = describe(category=category, use=use, chinese=bool(chinese[row]), rng=rng)
    return titles, text


def _single(catalogue: Catalogue, factor: str, absent: np.ndarray) -> Ragged:
    names = np.array(NAMES[factor], dtype=object)[catalogue.levels[factor]]
    return Ragged.from_groups(np.flatnonzero(~absent), names[~absent], len(names))


def _materials(catalogue: Catalogue, absent: np.ndarray, rng: np.random.Generator) -> Ragged:
    """Returns one material, sometimes a second that shoppers do not mind."""
    rows = []
    for row in range(len(absent)):
        first = _name(catalogue, "material", row)
        others = [other for other in CATEGORIES[_name(catalogue, "category", row)].materials if other != first]
        second = [others[rng.integers(len(others))]] if rng.random() < SECOND_MATERIAL else []
        rows.append([] if absent[row] else [first, *second])
    return Ragged.from_rows(rows, dtype=object)


def _pictures(catalogue: Catalogue, pictured: np.ndarray, seed: int) -> Media:
    sources = np.full(len(pictured), None, dtype=object)
    for row in np.flatnonzero(pictured):
        rng = np.random.default_rng([seed, 2, row])
        sources[row] = draw_picture(
            category=_name(catalogue, "category", row),
            colour=_name(catalogue, "colour", row),
            style=_name(catalogue, "style", row),
            make=int(rng.integers(MAKES)),
            rng=rng,
        )
    return Media(sources)
