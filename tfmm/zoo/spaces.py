"""What `tfmm tune` may choose of each system's settings, and settings by dotted names.

How long a system trains at most, and how patiently, is no choice: it is the same for all trials.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, Union

from tfmm.arguments import did_you_mean

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers between two.

    Attributes:
        low: the least.
        high: the greatest.
        log: whether factors count alike, not differences.
        told: of a setting that holds several values, of which validation chooses in each training: what the trained
            system calls the one that was chosen. A trial has one value.
    """

    low: float
    high: float
    log: bool = True
    told: str = ""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def including(self, value: Any) -> Range:
        """Returns the range, widened where a setting's value (or one of its values) is outside."""
        values = value if self.told else (value,)
        return dataclasses.replace(self, low=min(self.low, *values), high=max(self.high, *values))

    def setting(self, drawn: float) -> Any:
        """Returns the setting for a number that was drawn, in three digits: as a person would write it."""
        short = float(f"{drawn:.3g}")
        return (short,) if self.told else short


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few values."""

    options: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.options

    def including(self, value: Any) -> Choice:
        """Returns the choice, with the value among its options."""
        return self if value in self else Choice((*self.options, value))

    def setting(self, drawn: Any) -> Any:
        """Returns the setting for what was drawn."""
        return drawn


Space = Mapping[str, Union[Range, Choice]]
"""Dotted name of a setting -> what it may be."""

_DIM = Choice((16, 32, 64, 128))
_LEARNING: Space = {
    "training.learning_rate": Range(1e-3, 2e-1),
    "training.negatives": Choice((1, 2, 4, 8)),
    "training.optimizer": Choice(("adam", "adagrad")),
}
_FACTORS: Space = {"dim": _DIM, "l2": Range(1e-5, 1e-1), **_LEARNING}
_DROPOUT = Range(0.0, 0.6, log=False)
_ALS: Space = {"dim": _DIM, "alphas": Range(1.0, 100.0, told="alpha"), "l2": Range(0.01, 100.0, told="l2")}
_SGD: Space = {"dim": _DIM, "learning_rate": Range(5e-3, 0.2), "l2": Range(1e-4, 1e-1)}

SPACES: dict[str, Space] = {
    "ials": {
        "dim": _DIM,
        "alphas": Range(0.003, 3.0, told="alpha"),
        "l2": Range(3e-4, 0.3, told="l2"),
        "nu": Range(0.0, 1.0, log=False),
    },
    "bpr": _FACTORS,
    "vbpr": {**_FACTORS, "content_dim": _DIM},
    "mf_features": _FACTORS,
    "dfmf": {**_FACTORS, "dropout": _DROPOUT},
    "mtmf": {**_FACTORS, "dropout": _DROPOUT, "attribute_weight": Range(0.01, 1.0)},
    "gcn": {**_FACTORS, "layers": Choice((1, 2, 3))},
    "lightgcn": {**_FACTORS, "layers": Choice((1, 2, 3, 4))},
    "lightgcn_content": {**_FACTORS, "layers": Choice((1, 2, 3, 4)), "neighbours": Choice((5, 10, 20, 40))},
    "attention_fusion": {"dim": _DIM, "temperature": Range(0.05, 1.0), "dropout": _DROPOUT, **_LEARNING},
    "mmulcoonn": {**_FACTORS, "dropout": _DROPOUT},
    "mmfnet": {**_FACTORS, "attribute_weight": Range(0.01, 1.0)},
    "personalised_sorter": {"dim": _DIM, "length": Choice((10, 20, 50)), "dropout": _DROPOUT, **_LEARNING},
    "implicit_als": _ALS,
    "implicit_bpr": _SGD,
    "cornac_bpr": _SGD,
    "rectools_als_features": {**_ALS, "content_dim": _DIM},
}
"""System -> its space. Closed forms have none: in every training, validation already tries all of their grid."""

TOWERS = "towers"
TOWERS_SPACE: Space = {
    "towers.dim": Choice((32, 64, 128)),
    "towers.encoder": Choice(("pooling", "attention")),
    "towers.fusion": Choice(("attention", "sum", "gated", "late")),
    "towers.id_dropout": Range(0.0, 0.8, log=False),
    "towers.dropout": Range(0.0, 0.6, log=False),
    "towers.history_dropout": Range(0.0, 0.8, log=False),
    "retrieval.learning_rate": Range(5e-4, 2e-2),
    "retrieval.temperature": Range(0.03, 0.3),
    "retrieval.id_start": Choice(("random", "spectral")),
}
"""Our retriever alone, in names of `Config`."""


def replaced(config: T, settings: Mapping[str, Any]) -> T:
    """Returns the settings with some of them changed.

    Args:
        config: a frozen dataclass.
        settings: dotted names -> values.

    Raises:
        ValueError: a name is unknown (it gives the nearest), or a value is refused.
    """
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        first, _, rest = name.partition(".")
        known = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
        if first not in known or bool(rest) != dataclasses.is_dataclass(getattr(config, first)):
            names = dotted(config)
            raise ValueError(f"expected a setting of {', '.join(names)}, got {name!r}.{did_you_mean(name, names)}")
        now = changed.get(first, getattr(config, first))
        changed[first] = replaced(now, {rest: value}) if rest else _like(now, value, name)
    return dataclasses.replace(config, **changed)  # type: ignore[type-var]


def dotted(config: Any) -> dict[str, Any]:
    """Returns dotted name -> value of every setting."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inner = dotted(value) if dataclasses.is_dataclass(value) else {"": value}
        found.update({f"{field.name}.{name}".rstrip("."): one for name, one in inner.items()})
    return found


def _like(now: Any, value: Any, name: str) -> Any:
    """Returns the value as the setting's own type."""
    if isinstance(now, tuple):
        given = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_like(now[0], one, name) for one in given) if now else tuple(given)
    if isinstance(now, float) and type(value) is int:
        return float(value)
    if now is not None and (type(value) is not type(now) or value != value):  # NaN is no value
        raise ValueError(f"expected {name} to be a value like {now!r}, got {value!r}.")
    return value
