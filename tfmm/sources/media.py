"""Paths of pictures and sounds -> the ones that exist and open; a header and an end are read, no pixels decoded."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Optional, Union

import numpy as np
from PIL import Image

from tfmm.sources import dirt
from tfmm.sources.dataset import Media
from tfmm.sources.tables import Table

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 89_478_485  # Pillow's own limit for what it calls a decompression bomb
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL_BYTES = 64  # what follows a whole picture is a few bytes, if any

Source = Union[bytes, Path]
NOT_FOUND = "{} file not found"
BROKEN = "image that cannot be decoded"
TOO_LARGE = "image with too many pixels"
NO_WAV = "sound that is not a WAV file"


def by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Returns file name without its suffix -> path, for a folder's files of the given kinds; {} where it is none."""
    if not folder.is_dir():
        return {}
    entries = sorted(entry.name for entry in os.scandir(folder))
    split = [(name, *os.path.splitext(name)) for name in entries]
    return {stem: folder / name for name, stem, suffix in reversed(split) if suffix.lower() in suffixes}


def resolve(
    named: np.ndarray,
    ids: np.ndarray,
    *,
    kind: str,
    folder: Path,
    suffixes: Sequence[str],
    home: Optional[Path] = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each row's file, and a mask of rows that name one which is not there.

    Args:
        named: `[num_rows]` str (object): absolute, or relative to `folder` or to its images/ or sounds/; "" = none.
        ids: `[num_rows]` str (object): where no file is named, `folder/images/<id>.<suffix>` is taken.
        kind: "image" or "sound".
        folder: the shop's folder.
        suffixes: of the files that ids stand for.
        home: in place of the folder's images/ or sounds/.
    """
    home = home or folder / f"{kind}s"
    known = by_stem(home, suffixes)
    sources = np.full(len(ids), None, dtype=object)
    for row, (name, item_id) in enumerate(zip(named, ids)):
        candidates = [folder / name, home / name] if name else []
        found = next((path for path in candidates if os.path.isfile(path)), None)
        sources[row] = found or known.get(item_id)
    return sources, (named != "") & np.array([source is None for source in sources], dtype=bool)


def of_ids(home: Path, ids: np.ndarray, findings: dirt.Findings, *, table: Table) -> Media:
    """Returns the pictures `home/<id>.jpg` (.jpeg, .png, .webp) that open; row i of `table` is the item `ids[i]`."""
    known = by_stem(home, IMAGE_SUFFIXES)
    sources = np.array([known.get(item_id) for item_id in ids] + [None], dtype=object)[:-1]

    def where(row: int) -> str:
        return dirt.place(table.path.name, int(table.rows[row]), None, f"{home.name}/{sources[row].name}")

    return checked(sources, image_problem, findings, where)


def checked(
    sources: np.ndarray,
    problem: Callable[[Source], Optional[str]],
    findings: dirt.Findings,
    where: Callable[[int], str],
) -> Media:
    """Returns the media without those that have a problem.

    Args:
        sources: `[num_rows]` object: `bytes`, `Path` or None.
        problem: what is wrong with one of them: `image_problem` or `sound_problem`.
        findings: gets what was dropped.
        where: row -> the file, row and column that named it.
    """
    rows = [row for row, source in enumerate(sources) if source is not None]
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of large pictures, which are dropped below
        problems = pool.map(problem, [sources[row] for row in rows], chunksize=64)
        wrong: Mapping[int, str] = {row: found for row, found in zip(rows, problems) if found}
    kept = sources.copy()
    for row, found in wrong.items():
        dirt.note(findings, found, 1, where(row))
        kept[row] = None
    return Media(kept)


def image_problem(source: Source) -> Optional[str]:
    """Returns what is wrong with a picture, None where nothing is.

    The header, the number of pixels and the last bytes are looked at; only a picture whose end is odd is decoded whole.
    """
    try:
        with _opened(source) as file, Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return TOO_LARGE
            if not _ends_well(file, image.format or ""):
                image.load()
    except Image.DecompressionBombError:
        return TOO_LARGE
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError):  # what Pillow raises for broken bytes
        return BROKEN
    return None


def _opened(source: Source) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _ends_well(file: BinaryIO, kind: str) -> bool:
    """Returns whether the last bytes are those that a whole file of this kind ends with; leaves the position alone."""
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    file.seek(0)
    head = file.read(8)
    file.seek(position)
    if kind == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    if kind == "GIF":
        return tail.rstrip(b"\0\r\n ").endswith(b";")
    return kind in _ENDS and _ENDS[kind] in tail


def sound_problem(source: Source) -> Optional[str]:
    """Returns what is wrong with a sound, None where its header is a WAV file's."""
    with _opened(source) as file:
        head = file.read(12)
    return None if head[:4] == b"RIFF" and head[8:12] == b"WAVE" else NO_WAV
