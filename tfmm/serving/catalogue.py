"""What a person sees of an item, beside the model: `catalogue.jsonl` and `catalogue.pictures`.

A line of the first is `{"item_id": "a1", "title": "Red shoe", "image": [offset, length]}` (null without a picture),
which points into the second: small encoded pictures, one after the other. No server reads either.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from PIL import Image, ImageOps

DIRECTORY = "assets.extra"
LINES = "catalogue.jsonl"
PICTURES = "catalogue.pictures"
_SMALL = 24_576  # bytes; a larger picture is scaled down before it is stored
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Titles in memory, pictures on disk.

    Attributes:
        titles: item id -> title.
        spans: item id -> (offset, length) of its picture; an item without one is not in it.
        pictures: the file that the spans point into; None where there is no catalogue.
    """

    titles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    spans: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    pictures: Optional[Path] = None

    def title(self, item_id: str) -> str:
        """Returns what a person reads, "" for an item that the catalogue does not know."""
        return self.titles.get(item_id, "")

    def image(self, item_id: str) -> bytes:
        """Returns the encoded picture, b"" where there is none."""
        if self.pictures is None or item_id not in self.spans:
            return b""
        offset, length = self.spans[item_id]
        with self.pictures.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def write_catalogue(
    directory: Path, ids: Sequence[str], titles: Sequence[str], images: Iterable[bytes], *, edge: int = 256
) -> Path:
    """Returns the lines' file, written beside its pictures; at each moment the two on disk fit together.

    Args:
        directory: where to write, such as `<version>/assets.extra`; made where absent.
        ids: `[num_items]`.
        titles: `[num_items]`.
        images: `[num_items]` encoded pictures, b"" = none. Large ones are stored with `edge` px on the longer side.
        edge: px.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if len(ids) != len(titles):
        raise ValueError(f"Expected a title for each of {len(ids)} ids, got {len(titles)}.")
    lines, pictures = directory / LINES, directory / PICTURES
    with _partial(lines).open("w", encoding="utf-8") as text, _partial(pictures).open("wb") as binary:
        count = 0
        for item_id, title, image in zip(ids, titles, images):
            span = _append(binary, _thumbnail(item_id, image, edge))
            text.write(json.dumps({"item_id": item_id, "title": title, "image": span}, ensure_ascii=False) + "\n")
            count += 1
    if count != len(ids):
        raise ValueError(f"Expected an image (or b'') for each of {len(ids)} ids, got {count}.")
    lines.unlink(missing_ok=True)  # an old index must never meet new pictures
    os.replace(_partial(pictures), pictures)
    os.replace(_partial(lines), lines)
    return lines


def extend_catalogue(
    old: Path,
    directory: Path,
    *,
    without: Collection[str] = (),
    ids: Sequence[str] = (),
    titles: Sequence[str] = (),
    images: Iterable[bytes] = (),
    edge: int = 256,
) -> Path:
    """Returns the lines' file of a new catalogue: that of another directory, less some items, and more.

    Args:
        old: directory of the catalogue to begin from.
        directory: where to write; no other one's catalogue stands there.
        without: ids that are left out.
        ids: of the items that come; one that is there already takes the place of the other.
        titles: of the items that come.
        images: likewise, as `write_catalogue` takes them.
        edge: px.
    """
    gone = {*without, *ids}
    path = write_catalogue(directory, ids, titles, images, edge=edge)
    lines = path.read_text(encoding="utf-8").splitlines()
    with (old / PICTURES).open("rb") as source, (directory / PICTURES).open("ab") as binary:
        for row in _lines(old / LINES):
            if row["item_id"] not in gone:
                offset, length = row["image"] or (0, 0)
                source.seek(offset)
                row["image"] = _append(binary, source.read(length))
                lines.append(json.dumps(row, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_catalogue(directory: Path) -> Catalogue:
    """Returns the catalogue in `directory`, or in its `assets.extra`; an empty one where there is none.

    Raises:
        ValueError: where a line is not what `write_catalogue` writes.
    """
    found = next((path for path in (directory, directory / DIRECTORY) if (path / LINES).is_file()), None)
    if found is None:
        _log.warning("no %s in %s: items are shown by id alone", LINES, directory)
        return Catalogue()
    titles: dict[str, str] = {}
    spans: dict[str, tuple[int, int]] = {}
    for row in _lines(found / LINES):
        titles[row["item_id"]] = row["title"]
        if row["image"] is not None:
            offset, length = row["image"]
            spans[row["item_id"]] = (int(offset), int(length))
    return Catalogue(titles, spans, found / PICTURES)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields what each line says; a ValueError names the line that is none of ours."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                _, (_, _) = (row["item_id"], row["title"]), row["image"] or (0, 0)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error!r} in {line[:120]!r}.") from error
            yield row


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _append(binary: io.BufferedWriter, image: bytes) -> list[int] | None:
    offset = binary.tell()
    binary.write(image)
    return [offset, len(image)] if image else None


def _thumbnail(item_id: str, image: bytes, edge: int) -> bytes:
    if not image:
        return b""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            if len(image) <= _SMALL and opened.format in ("JPEG", "PNG", "GIF", "WEBP"):
                return image
            opened.draft("RGB", (2 * edge, 2 * edge))  # lets the JPEG decoder skip what is thrown away
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        _log.warning("the picture of %s cannot be read and is left out of the catalogue: %s", item_id, error)
        return b""
    picture.thumbnail((edge, edge))
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.getchannel("A"))
    encoded = io.BytesIO()
    flat.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()
