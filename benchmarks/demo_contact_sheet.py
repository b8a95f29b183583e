"""Writes a contact sheet of the demo shop's products: a row per category, a column per style.

python benchmarks/demo_contact_sheet.py sheet.png
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tfmm.sources.demo_pictures import COLOURS, MAKES, SIZE, STYLES, draw_picture
from tfmm.sources.demo_shapes import SHAPES

GAP, LEFT, TOP = 6, 80, 20


def contact_sheet(*, seed: int = 0) -> Image.Image:
    """Returns the sheet; colours and makes go round so that each is seen."""
    cell = SIZE + GAP
    sheet = Image.new("RGB", (LEFT + cell * len(STYLES), TOP + cell * len(SHAPES)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    rng, colours = np.random.default_rng(seed), list(COLOURS)
    for row, category in enumerate(SHAPES):
        pen.text((4, TOP + cell * row + cell // 2), category, fill=(0, 0, 0))
        for column, style in enumerate(STYLES):
            pen.text((LEFT + cell * column + 4, 4), style, fill=(0, 0, 0))
            colour = colours[(5 * row + 3 * column + column // 4) % len(colours)]
            picture = draw_picture(category=category, colour=colour, style=style, make=(row + column) % MAKES, rng=rng)
            sheet.paste(Image.open(io.BytesIO(picture)), (LEFT + cell * column, TOP + cell * row))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the PNG to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    contact_sheet(seed=options.seed).save(options.path)


if __name__ == "__main__":
    main()
