"""The best settings that `tfmm tune` found, in a small YAML file a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]

from tfmm.arguments import did_you_mean
from tfmm.writing import write_text
from tfmm.zoo.spaces import TOWERS, replaced

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Such a file.

    Attributes:
        path: where it is.
        dataset: name of the data set that the settings were chosen on.
        data: its fingerprint.
        splits: how it was cut: settings of `SplitConfig`.
        systems: name -> block: `settings` (dotted name -> value), `validation`, `trials`, `seconds`.
    """

    path: Path
    dataset: str
    data: str
    splits: Mapping[str, Any]
    systems: Mapping[str, Mapping[str, Any]]

    def config(self, name: str, default: T) -> T:
        """Returns a system's settings: those of its block, if it has one, and the default of all others.

        Raises:
            ValueError: the block names a setting that the system has not, or a value that it refuses.
        """
        if name not in self.systems:
            return default
        try:
            return replaced(default, self.systems[name]["settings"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: systems.{name}.settings: {error}") from error

    def refuse_other_splits(self, data: str, splits: Mapping[str, Any]) -> None:
        """Raises where these data were cut otherwise: then what settings were chosen on may be what is asked here.

        Raises:
            ValueError: it names what differs.
        """
        other = sorted(name for name in {*splits, *self.splits} if splits.get(name) != self.splits.get(name))
        if data == self.data and other:
            raise ValueError(
                f"{self.path}: expected settings chosen on this split, got one with other values of "
                f"splits.{', splits.'.join(other)}, whose validation may hold this test's events: tune on this split "
                f"(tfmm tune --out DIR), or give the splits.* flags that were tuned on."
            )


def read_tuned(path: Path, systems: Mapping[str, Any]) -> Tuned:
    """Returns the file.

    Args:
        path: of the file.
        systems: name -> default settings, of all that are known; every block's settings must be among its system's.

    Raises:
        ValueError: it is no such file; the error says where it is wrong.
        FileNotFoundError: it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected a file of tuned settings, found none at {path}: tfmm tune writes it.")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, got something else: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("systems"), dict):
        raise ValueError(f"{path}: expected 'systems:' with a block for each system, as tfmm tune writes it, got none.")
    splits = content.get("splits")
    found = Tuned(
        path=path,
        dataset=str(content.get("dataset", "")),
        data=str(content.get("data", "")),
        splits=splits if isinstance(splits, dict) else {},
        systems=content["systems"],
    )
    for name, block in found.systems.items():
        if name not in systems and name != TOWERS:
            known = [*systems, TOWERS]
            raise ValueError(
                f"{path}: systems: expected {', '.join(known)}, got {name!r}.{did_you_mean(str(name), known)}"
            )
        if not isinstance(block, dict) or not isinstance(block.get("settings"), dict):
            raise ValueError(f"{path}: systems.{name}: expected 'settings:' with a value for each name, got {block!r}.")
        if name in systems:
            found.config(name, systems[name])
    return found


def write_tuned(found: Tuned) -> list[Path]:
    """Returns the file, written, and where our towers are in it a second one beside it: what `--config` reads."""
    top = {"dataset": found.dataset, "data": found.data, "splits": dict(found.splits)}
    blocks = {name: {**block, "settings": _plain(block["settings"])} for name, block in found.systems.items()}
    said = "# Settings that tfmm tune chose on validation. tfmm compare --tuned FILE takes them.\n"
    paths = [write_text(found.path, said + _dump({**top, "systems": blocks}))]
    if TOWERS in blocks:
        said = "# What tfmm tune chose for the towers on validation: train.py --config FILE, with the data's flags.\n"
        path = found.path.with_name(f"{found.path.stem}-{TOWERS}.yaml")
        paths.append(write_text(path, said + _dump(_nested(blocks[TOWERS]["settings"]))))
    return paths


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `{"a": {"b": 1}}` of `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        *parts, last = name.split(".")
        place = found
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def _dump(value: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return text
