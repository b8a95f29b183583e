"""What a gallery row holds, and small pictures as data URIs."""

from __future__ import annotations

import base64
import dataclasses
import io
import logging

from PIL import Image, ImageOps

_EDGE = 112  # px, the longer edge of a thumbnail
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Card:
    """One product as a person sees it.

    Attributes:
        item_id: as the shop writes it.
        title: what a person reads.
        image: encoded picture (JPEG, PNG, ...); b"" = none.
        caption: a short line below the title ("score 0.83", "bought 3 days ago"); "" = none.
        hit: whether this recommendation was right.
    """

    item_id: str
    title: str
    image: bytes = b""
    caption: str = ""
    hit: bool = False


@dataclasses.dataclass(frozen=True)
class GalleryRow:
    """One shopper: what they did, oldest first, and what was recommended, best first."""

    user_id: str
    history: tuple[Card, ...]
    recommended: tuple[Card, ...]


def thumbnail(image: bytes) -> str:
    """Returns the picture as a JPEG data URI of at most 112 px, "" where there is none or it cannot be read.

    Transparency is laid on white, since that is what shops photograph on.
    """
    if not image:
        return ""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.draft("RGB", (2 * _EDGE, 2 * _EDGE))  # lets the JPEG decoder skip what is thrown away
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        _log.warning("a gallery picture of %d bytes cannot be read and is shown as its title: %s", len(image), error)
        return ""
    picture.thumbnail((_EDGE, _EDGE))
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.getchannel("A"))
    encoded = io.BytesIO()
    flat.save(encoded, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
