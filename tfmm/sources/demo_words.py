"""The words of the demo shop: categories, uses and titles in English and Chinese, brands, materials."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np


@dataclasses.dataclass(frozen=True)
class CategoryWords:
    """How a category is called, what it is made of, and its typical price."""

    english: tuple[str, ...]
    chinese: tuple[str, ...]
    materials: tuple[str, ...]
    price: float


CATEGORIES: Mapping[str, CategoryWords] = MappingProxyType(
    {
        "mug": CategoryWords(
            ("mug", "coffee mug", "cup"), ("马克杯", "咖啡杯", "杯子"), ("ceramic", "glass", "metal"), 14
        ),
        "sneaker": CategoryWords(
            ("sneakers", "trainers", "shoes"), ("运动鞋", "板鞋", "鞋子"), ("leather", "canvas", "polyester"), 75
        ),
        "shirt": CategoryWords(("shirt", "tee", "top"), ("衬衫", "上衣", "T恤"), ("cotton", "linen", "polyester"), 28),
        "dress": CategoryWords(("dress", "frock"), ("连衣裙", "裙子"), ("cotton", "silk", "linen"), 60),
        "trousers": CategoryWords(("trousers", "pants"), ("裤子", "长裤"), ("cotton", "wool", "linen"), 52),
        "handbag": CategoryWords(("handbag", "bag", "purse"), ("手提包", "女包"), ("leather", "canvas", "silk"), 95),
        "backpack": CategoryWords(("backpack", "rucksack"), ("双肩包", "背包"), ("nylon", "canvas", "leather"), 65),
        "hat": CategoryWords(("hat", "fedora"), ("帽子", "礼帽"), ("wool", "straw", "cotton"), 32),
        "lamp": CategoryWords(("table lamp", "lamp"), ("台灯", "灯具"), ("linen", "silk", "glass"), 58),
        "armchair": CategoryWords(("armchair", "chair"), ("扶手椅", "单人沙发"), ("wool", "leather", "linen"), 340),
        "umbrella": CategoryWords(("umbrella",), ("雨伞", "伞"), ("nylon", "polyester", "canvas"), 26),
        "suitcase": CategoryWords(
            ("suitcase", "trolley case"), ("行李箱", "拉杆箱"), ("nylon", "polyester", "metal"), 130
        ),
    }
)
MATERIALS = tuple(sorted({material for words in CATEGORIES.values() for material in words.materials}))


@dataclasses.dataclass(frozen=True)
class UseWords:
    """What a product is for, as it goes before and after the product's name."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    chinese: tuple[str, ...]


USES: Mapping[str, UseWords] = MappingProxyType(
    {
        "office": UseWords(
            ("office", "business", "work"),
            ("for the office", "for work", "for your workday", "for business meetings"),
            ("办公室", "上班", "职场", "商务"),
        ),
        "hiking": UseWords(
            ("hiking", "trail", "trekking"),
            ("for hiking", "for the trail", "for mountain treks", "for long hikes"),
            ("徒步", "登山", "远足", "山野徒步"),
        ),
        "party": UseWords(
            ("party", "night-out", "celebration"),
            ("for parties", "for a night out", "for your next party", "for celebrations"),
            ("派对", "聚会", "晚宴", "庆祝派对"),
        ),
        "travel": UseWords(
            ("travel", "travelling", "journey"),
            ("for travel", "for the road", "for long journeys", "for your next trip"),
            ("旅行", "旅途", "出游", "长途旅行"),
        ),
        "gift": UseWords(
            ("gift", "birthday-present", "present"),
            ("as a gift", "as a birthday present", "in a gift box", "to give to someone you love"),
            ("送礼", "礼物", "生日礼物", "礼盒装"),
        ),
        "winter": UseWords(
            ("winter", "cold-weather", "snow-day"),
            ("for winter", "for cold days", "for snowy weather", "for the cold season"),
            ("冬季", "冬天", "雪天", "寒冷天气"),
        ),
        "beach": UseWords(
            ("beach", "seaside", "summer"),
            ("for the beach", "for the seaside", "for summer days by the sea", "for sunny sand"),
            ("海边", "沙滩", "夏日海滩", "海滨"),
        ),
        "gym": UseWords(
            ("gym", "workout", "fitness"),
            ("for the gym", "for workouts", "for training sessions", "for fitness classes"),
            ("健身", "健身房", "锻炼", "运动训练"),
        ),
    }
)

BRANDS = (
    *("Arvola", "Birkhaven", "Calder & Moss", "Dunmora", "Elsewhere", "Fennick", "Galloway Lane", "Halvard", "Ivorine"),
    *("Juniper Row", "Kestrel", "Lumeo", "Marlowe", "Nordhus", "Oakmere", "Pellatt", "Quillon", "Rosendal", "Sabline"),
    *("Tamsin", "Ullric", "Verano", "Westmark", "Xanto", "Yarrow", "Zephyrine", "Bluemont", "Corvette Bay", "Delphi"),
    "Evermoor",
)
_ADJECTIVES = ("Classic", "Compact", "Comfortable", "Modern", "Simple", "Premium", "Handy", "Well-made", "Favourite")
_ADJECTIVES_CHINESE = ("经典", "简约", "舒适", "时尚", "精致", "百搭", "实用", "高品质")
_DESCRIPTIONS = (
    "Easy to clean and made to last.",
    "A favourite with our customers.",
    "Ships within two days.",
    "Designed with care, down to the details.",
)
_DESCRIPTIONS_CHINESE = ("做工细致，经久耐用。", "深受顾客喜爱。", "两天内发货。", "设计用心，注重细节。")


def describe(*, category: str, use: str, chinese: bool, rng: np.random.Generator) -> tuple[str, str]:
    """Returns a title that names the use, and the title with (often) a sentence of description that does not."""
    title = (_chinese_title if chinese else _english_title)(CATEGORIES[category], USES[use], rng)
    if rng.random() > 0.4:
        return title, title
    sentence = _one(_DESCRIPTIONS_CHINESE if chinese else _DESCRIPTIONS, rng)
    return title, f"{title}。{sentence}" if chinese else f"{title}. {sentence}"


def _english_title(category: CategoryWords, use: UseWords, rng: np.random.Generator) -> str:
    name, adjective = _one(category.english, rng), _one(_ADJECTIVES, rng)
    if rng.random() < 0.4:
        return f"{adjective} {_one(use.before, rng)} {name}"
    if rng.random() < 0.3:
        return f"{name.capitalize()} {_one(use.after, rng)}, {adjective.lower()}"
    return f"{adjective} {name} {_one(use.after, rng)}"


def _chinese_title(category: CategoryWords, use: UseWords, rng: np.random.Generator) -> str:
    name, adjective, purpose = _one(category.chinese, rng), _one(_ADJECTIVES_CHINESE, rng), _one(use.chinese, rng)
    forms = (f"{purpose}{adjective}{name}", f"{adjective}{name} {purpose}专用", f"{adjective}{name}，适合{purpose}")
    return _one(forms, rng)


def _one(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]
