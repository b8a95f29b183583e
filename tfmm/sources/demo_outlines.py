"""The strokes and outlines that the demo shop's pictures are made of, in a square of 100 by 100 (y points down)."""

from __future__ import annotations

import dataclasses

import numpy as np

BODY, TRIM, LINE, LIGHT = "body", "trim", "line", "light"
METAL, WOOD, DARK, CREAM, GOLD, GLOW = "metal", "wood", "dark", "cream", "gold", "glow"


@dataclasses.dataclass(frozen=True)
class Part:
    """One painted area; later parts cover earlier ones.

    Attributes:
        paint: `body` (colour and texture of the product), `trim` (a darker shade of it), `line` and `light` (seams
            and highlights), or the name of a fixed material.
        outline: `[num_points, 2]`.
        width: of the stroke along an open outline; 0 fills a closed one.
    """

    paint: str
    outline: np.ndarray
    width: float = 0.0


def rounded(points: list, *, rounds: int = 4) -> np.ndarray:
    """Returns a closed outline with its corners cut round (Chaikin, 1974); a point given twice stays a corner."""
    outline = np.asarray(points, np.float64)
    for _ in range(rounds):
        following = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], 1).reshape(-1, 2)
    return outline


def curve(points: list, *, rounds: int = 4) -> np.ndarray:
    """Returns an open outline from the first to the last point, smooth in between."""
    outline = np.asarray(points, np.float64)
    for _ in range(rounds):
        cut = np.stack([0.75 * outline[:-1] + 0.25 * outline[1:], 0.25 * outline[:-1] + 0.75 * outline[1:]], 1)
        outline = np.concatenate([outline[:1], cut.reshape(-1, 2), outline[-1:]])
    return outline


def ellipse(x: float, y: float, rx: float, ry: float, *, start: float = 0.0, end: float = 360.0) -> np.ndarray:
    """Returns points on an ellipse between two angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, end, 60))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def mirrored(half: list) -> list:
    """Returns an outline symmetric about x = 50, from its right half (top to bottom)."""
    return [*half, *[(100.0 - x, y) for x, y in reversed(half)]]


def corner(x: float, y: float) -> list:
    """Returns a point that `rounded` keeps sharp."""
    return [(x, y), (x, y)]
