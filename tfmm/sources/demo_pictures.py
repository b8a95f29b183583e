"""Draws the demo shop's product pictures: shape = category, fill = colour, texture = style."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tfmm.sources import demo_outlines as outlines
from tfmm.sources.demo_shapes import SHAPES

SIZE = 112
MAKES = 4
"""How many makes (proportions, details) of each category there are."""
_CANVAS = 2 * SIZE  # products are composed at twice the size and reduced at the end
_SUPERSAMPLING = 3
_TILE = 2 * _CANVAS

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "black": (44, 44, 50),
        "white": (240, 239, 234),
        "grey": (140, 144, 150),
        "red": (204, 42, 46),
        "orange": (236, 128, 36),
        "yellow": (242, 200, 52),
        "green": (58, 142, 72),
        "teal": (32, 150, 156),
        "blue": (48, 104, 206),
        "purple": (124, 70, 168),
        "pink": (238, 142, 172),
        "brown": (128, 84, 52),
    }
)
_MATERIALS = {
    outlines.METAL: (168, 172, 180),
    outlines.WOOD: (122, 82, 50),
    outlines.DARK: (52, 50, 54),
    outlines.CREAM: (246, 243, 236),
    outlines.GOLD: (214, 172, 84),
    outlines.GLOW: (255, 240, 190),
}
_BACKDROPS = ((238, 236, 232), (228, 234, 240), (240, 232, 226), (230, 238, 230), (238, 230, 238), (244, 242, 230))


def _stripes(draw: ImageDraw.ImageDraw) -> None:
    for x in range(-4, _TILE + 20, 20):
        draw.rectangle((x, 0, x + 8, _TILE), fill=255)


def _dots(draw: ImageDraw.ImageDraw) -> None:
    for row, y in enumerate(range(0, _TILE + 12, 18)):
        for x in range(-(row % 2) * 11, _TILE + 22, 22):
            draw.ellipse((x - 5.5, y - 5.5, x + 5.5, y + 5.5), fill=255)


def _checks(draw: ImageDraw.ImageDraw) -> None:
    for row, y in enumerate(range(0, _TILE, 15)):
        for x in range((row % 2) * 15, _TILE, 30):
            draw.rectangle((x, y, x + 14, y + 14), fill=255)


def _zigzag(draw: ImageDraw.ImageDraw) -> None:
    for y in range(-20, _TILE + 20, 22):
        points = [(x, y + (14 if step % 2 else 0)) for step, x in enumerate(range(-14, _TILE + 28, 14))]
        draw.line(points, fill=255, width=7)


def _floral(draw: ImageDraw.ImageDraw) -> None:
    for row, y in enumerate(range(0, _TILE + 30, 31)):
        for x in range(-(row % 2) * 18, _TILE + 36, 36):
            for petal in np.arange(5) * 2 * np.pi / 5 + 0.4 * row:
                px, py = x + 7.5 * np.cos(petal), y + 7.5 * np.sin(petal)
                draw.ellipse((px - 5.4, py - 5.4, px + 5.4, py + 5.4), fill=255)
            draw.ellipse((x - 3.6, y - 3.6, x + 3.6, y + 3.6), fill=0)


def _argyle(draw: ImageDraw.ImageDraw) -> None:
    for row, y in enumerate(range(-24, _TILE + 24, 24)):
        for x in range(-(row % 2) * 15, _TILE + 30, 30):
            draw.polygon([(x, y - 21), (x + 13, y), (x, y + 21), (x - 13, y)], fill=210 if row % 2 else 110)


def _camouflage(draw: ImageDraw.ImageDraw) -> None:
    rng = np.random.default_rng(11)
    for level in (120, 230):
        for x, y in rng.uniform(0, _TILE, (190, 2)):
            angle = np.arange(9) * 2 * np.pi / 9
            radius = rng.uniform(4, 20, 9)
            outline = outlines.rounded(
                np.stack([x + 1.5 * radius * np.cos(angle), y + radius * np.sin(angle)], 1).tolist()
            )
            draw.polygon([tuple(point) for point in outline.tolist()], fill=level)


STYLES: Mapping[str, Callable[[ImageDraw.ImageDraw], None]] = MappingProxyType(
    {
        "plain": lambda draw: None,
        "stripes": _stripes,
        "dots": _dots,
        "checks": _checks,
        "zigzag": _zigzag,
        "floral": _floral,
        "argyle": _argyle,
        "camouflage": _camouflage,
    }
)
"""Style -> what draws its texture on a tile."""


@dataclasses.dataclass(frozen=True)
class _Make:
    """What one make of a product always has, at canvas size.

    Attributes:
        trim: `L`, where the darker shade of the colour goes.
        overlay: `RGB`, fixed materials, seams and highlights.
        overlay_mask: `L`, how opaque the overlay is.
        shading: `RGB`, what to multiply the paint by; nearly black around the product, for its shadow.
        alpha: `L`, of the product and its shadow.
    """

    trim: Image.Image
    overlay: Image.Image
    overlay_mask: Image.Image
    shading: Image.Image
    alpha: Image.Image


def draw_picture(*, category: str, colour: str, style: str, make: int, rng: np.random.Generator) -> bytes:
    """Returns the JPEG, 112 by 112, of one product in a random pose and light on a soft backdrop.

    Args:
        category: a key of `demo_shapes.SHAPES`.
        colour: a key of `COLOURS`.
        style: a key of `STYLES`.
        make: which of the category's `MAKES`.
        rng: of pose, light, shade of the colour and backdrop; tells nothing of the product.
    """
    product = _compose(_make_of(category, make), _shade_of(COLOURS[colour], rng), style, rng)
    posed = product.transform((SIZE, SIZE), Image.Transform.AFFINE, _pose(rng), Image.Resampling.BILINEAR)
    picture = _backdrop(rng)
    picture.paste(posed, mask=posed.getchannel("A"))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _compose(make: _Make, colour: tuple[int, ...], style: str, rng: np.random.Generator) -> Image.Image:
    """Returns the product as `RGBA`, upright, its shadow included."""
    painted = Image.new("RGB", (_CANVAS, _CANVAS), colour)
    painted.paste(_accent(colour, rng), mask=_texture(style, rng))
    painted.paste(_mixed(colour, (0, 0, 0) if sum(colour) > 240 else (255, 255, 255), 0.28), mask=make.trim)
    painted.paste(make.overlay, mask=make.overlay_mask)
    product = ImageChops.multiply(painted, make.shading)
    product.putalpha(make.alpha)
    return product


def _pose(rng: np.random.Generator) -> tuple[float, ...]:
    """Returns the affine map from the picture's pixels to the canvas's: a little turned, scaled, moved, mirrored."""
    angle, scale, flip = np.radians(rng.normal(0, 4)), rng.uniform(0.98, 1.18), rng.choice([-1, 1])
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.array([[flip * cos, flip * sin], [-sin, cos]])
    shift = _CANVAS / 2 - turn @ np.full(2, _CANVAS / 2) + rng.normal(0, 3, 2)
    turn *= _CANVAS / SIZE
    return (*turn[0], shift[0], *turn[1], shift[1])


def _shade_of(colour: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, ...]:
    jitter = rng.normal(0, 7, 3) + rng.normal(0, 9)
    return tuple(np.clip(np.array(colour) + jitter, 14, 250).astype(int).tolist())


def _mixed(colour: tuple[int, ...], other: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round((1 - share) * a + share * b) for a, b in zip(colour, other))


def _accent(colour: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """Returns the second colour of a texture: much lighter, or much darker."""
    brightness = sum(colour) / 3
    lighter = rng.random() < np.clip((215 - brightness) / 100, 0, 1)
    return _mixed(colour, (252, 250, 244) if lighter else (22, 20, 34), rng.uniform(0.68, 0.85) if lighter else 0.62)


def _texture(style: str, rng: np.random.Generator) -> Image.Image:
    tile = _tile(style, int(rng.integers(3)))
    x, y = (int(corner) for corner in rng.integers(0, tile.width - _CANVAS, 2))
    return tile.crop((x, y, x + _CANVAS, y + _CANVAS))


def _backdrop(rng: np.random.Generator) -> Image.Image:
    """Returns a wall that darkens a little downwards, `RGB`."""
    top = np.array(_BACKDROPS[rng.integers(len(_BACKDROPS))]) + rng.normal(0, 5)
    rows = top * np.linspace(1.02, rng.uniform(0.86, 0.95), SIZE)[:, np.newaxis]
    column = Image.fromarray(np.clip(rows, 0, 255).astype(np.uint8)[:, np.newaxis, :])
    return column.resize((SIZE, SIZE))


@functools.cache
def _tile(style: str, turn: int) -> Image.Image:
    """Returns a texture's mask at one of three slants, `L`, larger than a product."""
    tile = Image.new("L", (_TILE, _TILE))
    STYLES[style](ImageDraw.Draw(tile))
    slanted = tile.rotate((-9, 0, 9)[turn], Image.Resampling.BICUBIC)
    margin = _TILE // 8
    return slanted.crop((margin, margin, _TILE - margin, _TILE - margin))


@functools.cache
def _make_of(category: str, make: int) -> _Make:
    rng = np.random.default_rng([sorted(SHAPES).index(category), make])
    layers, fixed = _painted(SHAPES[category](rng))
    outline = np.minimum(1, 2 * np.maximum(np.maximum(layers["body"], layers["trim"]), layers["fixed"]))
    overlay, overlay_mask = _overlay(layers, fixed)
    return _Make(
        trim=_grey(layers["trim"]),
        overlay=Image.fromarray(overlay.round().astype(np.uint8)),
        overlay_mask=_grey(overlay_mask),
        shading=_grey(_shading(outline)).convert("RGB"),
        alpha=_grey(np.maximum(outline, _shadow(outline))),
    )


def _painted(parts: list[outlines.Part]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns masks by layer, 0 to 1, and fixed materials as RGB; what is painted later covers what was there."""
    side = _CANVAS * _SUPERSAMPLING
    layers = {name: Image.new("L", (side, side)) for name in ("body", "trim", "fixed", "line", "light")}
    fixed = Image.new("RGB", (side, side), _MATERIALS[outlines.DARK])
    for part in parts:
        layer = part.paint if part.paint in layers else "fixed"
        if layer not in ("line", "light"):
            for mask in layers.values():
                _fill(mask, part, 0)
        _fill(layers[layer], part, 255)
        if layer == "fixed":
            _fill(fixed, part, _MATERIALS[part.paint])
    masks = {name: np.asarray(mask.reduce(_SUPERSAMPLING), np.float32) / 255 for name, mask in layers.items()}
    return masks, np.asarray(fixed.reduce(_SUPERSAMPLING), np.float32)


def _fill(image: Image.Image, part: outlines.Part, value: int | tuple[int, ...]) -> None:
    pen = ImageDraw.Draw(image)
    points = [tuple(point) for point in (part.outline * (image.width / 100)).tolist()]
    if not part.width:
        pen.polygon(points, fill=value)
        return
    width = part.width * image.width / 100
    pen.line(points, fill=value, width=round(width), joint="curve")
    for x, y in (points[0], points[-1]):
        pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=value)


def _overlay(layers: Mapping[str, np.ndarray], fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[side, side, 3]` and its opacity: materials, then seams, then highlights, each over the one before."""
    colour, opacity = fixed, layers["fixed"]
    for tint, mask in ((20.0, 0.42 * layers["line"]), (255.0, 0.35 * _blurred(layers["light"], 1.5))):
        above = opacity * (1 - mask)
        opacity = above + mask
        share = (mask / np.maximum(opacity, 1e-6))[..., np.newaxis]
        colour = (1 - share) * colour + share * tint
    return colour, opacity


def _shading(outline: np.ndarray) -> np.ndarray:
    """Returns what to multiply the product by: light from the upper left, edges a little darker."""
    soft, shift = _blurred(outline, _CANVAS / 22), _CANVAS // 28
    relief = np.roll(soft, (-shift, -shift), (0, 1)) - np.roll(soft, (shift, shift), (0, 1))
    fall = np.linspace(1.03, 0.9, _CANVAS)[:, np.newaxis]
    light = np.clip(fall * (0.74 + 0.26 * soft) + 0.2 * relief, 0.45, 1.0)
    return outline * light + (1 - outline) * 0.12


def _shadow(outline: np.ndarray) -> np.ndarray:
    """Returns the opacity of a soft shadow, down and to the right of the product."""
    right, down = _CANVAS // 36, _CANVAS // 26
    moved = np.zeros_like(outline)
    moved[down:, right:] = outline[:-down, :-right]
    return 0.3 * _blurred(moved, _CANVAS / 30)


def _blurred(mask: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(_grey(mask).filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray((255 * values).round().astype(np.uint8))
