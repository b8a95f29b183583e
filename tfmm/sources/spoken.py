"""Spoken shopping queries -> what was said, by whom, and the product types and colours that it means.

    train.csv        path, text, baseColour, articleType, voice
    validation.csv   the same, of voices that train.csv does not have
    <path>           WAV files, relative to the folder

`baseColour` and `articleType` are named as the fields of the fashion catalogue; either may be empty.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from tfmm.sources import columns, delimited, dirt, files, media
from tfmm.sources.dataset import Finding, Media
from tfmm.sources.tables import Table

_log = logging.getLogger(__name__)

_COLUMNS = ("path", "text", "baseColour", "articleType", "voice")
_REMEDY = f"Give the folder that holds train.csv and validation.csv, each with the columns {', '.join(_COLUMNS)}."


@dataclasses.dataclass(frozen=True)
class SpokenQueries:
    """Recorded queries; row i of every array is the same recording.

    Attributes:
        sounds: WAV files, one in every row, read when needed.
        texts: `[num_queries]` str (object): what is said.
        base_colours: `[num_queries]` str (object): the `baseColour` it asks for; "" = any.
        article_types: `[num_queries]` str (object): the `articleType` it asks for; "" = any.
        voices: `[num_queries]` str (object): who speaks.
        findings: what was dropped.
    """

    sounds: Media
    texts: np.ndarray
    base_colours: np.ndarray
    article_types: np.ndarray
    voices: np.ndarray
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)


def load_spoken(directory: Path) -> tuple[SpokenQueries, SpokenQueries]:
    """Returns the training recordings and those for validation.

    Raises:
        ValueError: where a file or a column is missing, or no recording is left.
    """
    train, validation = (_read(Path(directory), f"{name}.csv") for name in ("train", "validation"))
    _log.info("spoken queries: %d to train on, %d to validate with", len(train), len(validation))
    return train, validation


def _read(home: Path, name: str) -> SpokenQueries:
    findings: dirt.Findings = []
    table = delimited.read_csv(files.required(home, name, remedy=_REMEDY), findings)
    table.expect(_COLUMNS, remedy=_REMEDY)
    sounds = _sounds(home, table, findings)
    texts = columns.texts(table["text"])
    table.note(findings, "spoken query without a sound", ~sounds.present, "path")
    table.note(findings, "query without text", sounds.present & (texts == ""), "text")
    kept = sounds.present & (texts != "")
    if not kept.any():
        raise dirt.nothing_left("spoken query", str(table.path), findings)
    colours, types, voices = (columns.texts(table[column])[kept] for column in _COLUMNS[2:])
    return SpokenQueries(Media(sounds.sources[kept]), texts[kept], colours, types, voices, tuple(findings))


def _sounds(home: Path, table: Table, findings: dirt.Findings) -> Media:
    named = columns.texts(table["path"])
    paths = [home / name if name and (home / name).is_file() else None for name in named]
    absent = (named != "") & np.array([path is None for path in paths], dtype=bool)
    table.note(findings, media.NOT_FOUND.format("sound"), absent, "path")
    sources = np.array([*paths, None], dtype=object)[:-1]
    return media.checked(sources, media.sound_problem, findings, lambda row: table.example(row, "path"))
