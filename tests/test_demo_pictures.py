"""Claims about the demo shop's pictures and what each modality shows."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.stats import chi2_contingency

from tfmm.sources.dataset import Items
from tfmm.sources.demo_catalogue import Catalogue, draw_catalogue, show
from tfmm.sources.demo_pictures import COLOURS, SIZE, STYLES, draw_picture
from tfmm.sources.demo_shapes import SHAPES
from tfmm.sources.demo_words import BRANDS, MATERIALS, USES


def _picture(category: str, colour: str, style: str, seed: int, make: int = 0) -> bytes:
    return draw_picture(category=category, colour=colour, style=style, make=make, rng=np.random.default_rng(seed))


def _pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), np.float32)


def _catalogue(num_items: int = 60) -> Catalogue:
    return draw_catalogue(num_items, np.random.default_rng(5))


def _shown(catalogue: Catalogue) -> Items:
    return show(catalogue, launched=np.zeros(len(catalogue.price), np.int64), seed=5)


def _with_other(catalogue: Catalogue, factor: str, num_levels: int) -> Catalogue:
    return dataclasses.replace(
        catalogue, levels={**catalogue.levels, factor: (catalogue.levels[factor] + 1) % num_levels}
    )


def _attributes(items: Items) -> list:
    return [[list(row) for row in ragged] for _, ragged in sorted(items.categorical.items())]


@pytest.mark.parametrize("category", list(SHAPES))
def test_pillow_and_tensorflow_decode_the_same_picture(category: str) -> None:
    picture = _picture(category, "red", "dots", seed=1)
    decoded = tf.io.decode_jpeg(picture, channels=3, dct_method="INTEGER_ACCURATE").numpy().astype(np.float32)
    assert decoded.shape == (SIZE, SIZE, 3)
    assert np.abs(decoded - _pixels(picture)).mean() < 3


def test_the_colour_stands_in_the_picture() -> None:
    middle = slice(SIZE // 2 - 6, SIZE // 2 + 6)
    for colour, expected in COLOURS.items():
        seen = _pixels(_picture("armchair", colour, "plain", seed=2))[30:44, middle].mean(axis=(0, 1))
        distances = {name: np.abs(seen - np.array(rgb)).sum() for name, rgb in COLOURS.items()}
        assert sorted(distances, key=lambda name: distances[name]).index(colour) < 3, (colour, expected, seen)


def test_a_picture_tells_its_style_whatever_its_colour_and_kind() -> None:
    """Nearest mean spectrum, learned on other makes, colours and poses: chance would be one in eight."""

    def spectrum(style: str, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        category, colour = str(rng.choice(["armchair", "suitcase", "shirt"])), str(rng.choice(list(COLOURS)))
        grey = _pixels(_picture(category, colour, style, seed, make=seed % 4)).mean(axis=2)[40:88, 32:80]
        energy = np.log(1 + np.abs(np.fft.rfft2((grey - grey.mean()) * np.hanning(48)[:, None] * np.hanning(48))))
        return np.concatenate([energy[:20, :20], energy[:-20:-1, :20]]).ravel()

    means = {style: np.mean([spectrum(style, seed) for seed in range(18)], axis=0) for style in STYLES}
    right = [
        style == min(means, key=lambda name: float(np.sum((means[name] - spectrum(style, seed)) ** 2)))
        for style in STYLES
        for seed in range(100, 108)
    ]
    assert np.mean(right) > 0.6


def test_another_style_changes_pictures_and_nothing_else() -> None:
    catalogue = _catalogue()
    items, other = _shown(catalogue), _shown(_with_other(catalogue, "style", len(STYLES)))
    assert items.text.tolist() == other.text.tolist() and items.titles.tolist() == other.titles.tolist()
    assert _attributes(items) == _attributes(other)
    np.testing.assert_array_equal(items.numeric["price"], other.numeric["price"])
    differ = np.array([items.images.read(row) != other.images.read(row) for row in range(len(items))])
    np.testing.assert_array_equal(differ, items.images.present)


def test_another_use_changes_text_and_nothing_else() -> None:
    catalogue = _catalogue()
    items, other = _shown(catalogue), _shown(_with_other(catalogue, "use", len(USES)))
    assert _attributes(items) == _attributes(other)
    np.testing.assert_array_equal(items.numeric["price"], other.numeric["price"])
    assert [items.images.read(row) for row in range(60)] == [other.images.read(row) for row in range(60)]
    np.testing.assert_array_equal(items.text != other.text, items.text != "")


@pytest.mark.parametrize("first, second", [("style", "use"), ("style", "category"), ("use", "brand"), ("use", "price")])
def test_hidden_levels_are_independent_of_others(first: str, second: str) -> None:
    levels = draw_catalogue(4_000, np.random.default_rng(0)).levels
    table = np.zeros((levels[first].max() + 1, levels[second].max() + 1))
    np.add.at(table, (levels[first], levels[second]), 1)
    assert chi2_contingency(table).pvalue > 0.001


def test_no_brand_colour_material_or_style_is_named_in_a_title() -> None:
    words = set(" ".join(_shown(_catalogue(200)).text.tolist()).lower().replace(",", " ").split())
    assert not {word.lower() for word in (*BRANDS, *MATERIALS, *COLOURS, *STYLES)} & words


def test_titles_without_text_fall_back_on_the_id() -> None:
    items = _shown(_catalogue())
    silent = items.text == ""
    assert silent.any()
    assert items.titles[silent].tolist() == items.ids[silent].tolist()
