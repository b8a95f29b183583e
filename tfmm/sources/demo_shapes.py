"""The demo shop's twelve kinds of products as painted parts, later ones over earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.random import Generator

from tfmm.sources.demo_outlines import (
    BODY,
    CREAM,
    DARK,
    GLOW,
    GOLD,
    LIGHT,
    LINE,
    METAL,
    TRIM,
    WOOD,
    Part,
    corner,
    curve,
    ellipse,
    mirrored,
    rounded,
)


def _mug(rng: Generator) -> list[Part]:
    half, low, taper = rng.uniform(22, 27), rng.uniform(80, 88), rng.uniform(0, 5)
    top, x = rng.uniform(20, 30), 45
    body = [(x - half, top), (x - half, top), (x + half, top), (x + half, top)]
    body += [(x + half - taper, low), (x + half - taper - 3, low + 2), (x - half + taper + 3, low + 2)]
    body += [(x - half + taper, low)]
    handle = ellipse(x + half - 2, (top + low) / 2, 17, 0.28 * (low - top), start=-90, end=90)
    return [
        Part(TRIM, handle, 6.5),
        Part(BODY, rounded(body, rounds=3)),
        Part(TRIM, ellipse(x, top, half, 6)),
        Part(CREAM, ellipse(x, top, half - 1.6, 4.8)),
        Part(WOOD, ellipse(x, top + 1.2, half - 4, 3.2)),
        Part(LIGHT, np.array([(x - half + 7, top + 12), (x - half + 8 + taper / 2, low - 10)]), 2.5),
    ]


def _sneaker(rng: Generator) -> list[Part]:
    rise, toe = rng.uniform(-8, 3), rng.uniform(0, 4)
    upper = [*corner(9, 70), (8, 58), (11, 42 + rise), (17, 34 + rise), (26, 42 + rise), (34, 42 + rise)]
    upper += [(41, 33 + rise), (47, 28 + rise), (54, 37), (66, 49), (82, 55), (93, 61 + toe), *corner(94, 71)]
    laces = [
        Part(CREAM, np.array([(44 + 6 * i, 38.5 + rise * (1 - i / 3) + 5.2 * i), (53 + 5.6 * i, 34 + 5.8 * i)]), 2.2)
        for i in range(4)
    ]
    return [
        Part(BODY, rounded(upper)),
        Part(TRIM, rounded([*corner(73, 71), (75, 59), (83, 56), (94, 62 + toe), *corner(95, 71)])),
        Part(TRIM, rounded([*corner(8.5, 71), (8, 56), (11, 45 + rise), (20, 46 + rise), (24, 58), *corner(24, 71)])),
        Part(LINE, curve([(36, 71), (42, 60), (60, 54), (66, 50)]), 1.2),
        *laces,
        Part(CREAM, rounded([(6, 68), (50, 70), (95, 69), (97, 77), (92, 81), (50, 79), (9, 81), (5, 77)], rounds=3)),
        Part(LINE, np.array([(7, 76), (95, 76)]), 1.0),
    ]


def _shirt(rng: Generator) -> list[Part]:
    hem, wide = rng.uniform(84, 92), rng.uniform(21, 25)
    sleeve = rng.choice([0.0, 0.0, 30.0])  # short twice as often as long
    cuff = [(50 + wide + 22 - 0.28 * sleeve, 45 + sleeve), (50 + wide + 10 - 0.3 * sleeve, 52 + sleeve)]
    side = [*corner(50 + 9, 14), (50 + wide - 3, 17), *corner(*cuff[0]), *corner(*cuff[1])]
    side += [*corner(50 + wide - 1, 41), *corner(50 + wide, hem)]
    neck = [*corner(41, 14), (44, 23), (56, 23), *corner(59, 14)]
    parts = [
        Part(BODY, rounded(mirrored(side))),
        Part(DARK, rounded([*corner(42, 13.5), (46, 17), (54, 17), *corner(58, 13.5), (55, 12), (45, 12)])),
        Part(TRIM, curve(neck), 3.2),
        Part(LINE, np.array([cuff[0], cuff[1]]) + np.array([-1.2, -2.6]), 1.0),
        Part(LINE, np.array([(100 - x, y) for x, y in cuff]) + np.array([1.2, -2.6]), 1.0),
        Part(LINE, np.array([(50 - wide, hem - 3), (50 + wide, hem - 3)]), 1.0),
        Part(LINE, curve([(50 + wide - 1, 41), (50 + wide - 4, 30), (50 + wide - 3, 20)]), 1.0),
        Part(LINE, curve([(51 - wide, 41), (54 - wide, 30), (53 - wide, 20)]), 1.0),
    ]
    if rng.random() < 0.5:
        parts += [Part(TRIM, np.array([(50, 22), (50, 42)]), 4)]
        parts += [Part(CREAM, ellipse(50, y, 1.3, 1.3)) for y in (26, 32, 38)]
    return parts


def _dress(rng: Generator) -> list[Part]:
    flare, waist, hem = rng.uniform(24, 36), rng.uniform(38, 46), rng.uniform(86, 94)
    top = [*corner(50 + 8, 8), *corner(50 + 13, 8), (50 + 13, 20), (50 + 17, 24), *corner(50 + 11, waist)]
    skirt = [*corner(50 + 11, waist + 2), (50 + 15, waist + 10), *corner(50 + flare, hem - 3)]
    skirt += [(50 + flare / 2, hem), (50, hem + 1.5)]
    neck = rng.uniform(20, 28)
    folds = [
        Part(LINE, curve([(50 + 6 * s, waist + 6), (50 + 8 * s, waist + 20), (50 + 0.6 * flare * s, hem - 2)]), 0.9)
        for s in (-1, -0.3, 0.4, 1)
    ]
    return [
        Part(BODY, rounded(mirrored([*corner(50, neck), *top]))),
        Part(BODY, rounded(mirrored(skirt))),
        *folds,
        Part(TRIM, np.array([(38.8, waist), (61.2, waist)]), 4.5),
        Part(LINE, curve([(42, 9), (46, neck - 4), (50, neck), (54, neck - 4), (58, 9)]), 1.0),
    ]


def _trousers(rng: Generator) -> list[Part]:
    hem = rng.choice([94.0, 94.0, 68.0])  # shorts are wide
    leg = 20.0 if hem < 70 else rng.uniform(12, 21)
    wide = 24.0 if hem < 70 else 16 + leg / 2
    side = [*corner(50 + 16, 10), (50 + 20, 26), *corner(50 + wide, hem), *corner(50 + wide - leg, hem)]
    outline = [*side, *corner(50, 38), *[(100 - x, y) for x, y in reversed(side)]]
    inner, outer = 50 + wide - leg, 50 + wide
    return [
        Part(BODY, rounded(outline)),
        Part(TRIM, rounded([*corner(34, 8), *corner(66, 8), *corner(66.6, 14), *corner(33.4, 14)])),
        Part(GOLD, ellipse(50, 11, 1.6, 1.6)),
        Part(LINE, curve([(50, 14), (50, 26), (50, 38)]), 1.2),
        Part(LINE, curve([(54, 14), (54, 24), (50, 30)]), 0.9),
        Part(LINE, curve([(60, 14), (62, 22), (69, 23)]), 1.2),
        Part(LINE, curve([(40, 14), (38, 22), (31, 23)]), 1.2),
        Part(LINE, np.array([(inner, hem - 4), (outer, hem - 4)]), 1.0),
        Part(LINE, np.array([(100 - inner, hem - 4), (100 - outer, hem - 4)]), 1.0),
    ]


def _handbag(rng: Generator) -> list[Part]:
    top, flare, grip = rng.uniform(40, 48), rng.uniform(2, 9), rng.uniform(13, 20)
    body = mirrored([(50 + 34, top), (50 + 34, top), (50 + 34 + flare, 88), (50 + 32, 90)])
    flap = mirrored([*corner(50 + 34, top - 0.5), (50 + 32, top + 19), (50 + 12, top + 22)])
    handle = curve([(50 - grip, top + 4), (50 - grip, 8), (50, 4), (50 + grip, 8), (50 + grip, top + 4)])
    closed = rng.random() < 0.5
    return [
        Part(TRIM, handle, 4.5),
        Part(BODY, rounded(body, rounds=3)),
        *([Part(TRIM, rounded(flap))] if closed else [Part(TRIM, np.array([(15, top + 3), (85, top + 3)]), 6)]),
        Part(GOLD, ellipse(50, top + (20 if closed else 7), 4, 4)),
        Part(GOLD, ellipse(50 - grip, top + 4, 2.6, 2.6)),
        Part(GOLD, ellipse(50 + grip, top + 4, 2.6, 2.6)),
        Part(LINE, curve([(50 - 32 - flare, 84), (50, 86), (50 + 32 + flare, 84)]), 1.0),
    ]


def _backpack(rng: Generator) -> list[Part]:
    half, top, pocket = rng.uniform(25, 30), rng.uniform(14, 20), rng.uniform(54, 62)
    side = [(50 + half - 4, top), (50 + half, top + 10), (50 + half + 2, 84), (50 + half - 4, 92)]
    front = [(50 + half - 8, pocket), (50 + half - 6, pocket), (50 + half - 5, 86), (50 + half - 9, 87)]
    return [
        Part(TRIM, curve([(42, top + 4), (42, top - 10), (58, top - 10), (58, top + 4)]), 3.6),
        Part(DARK, curve([(50 - half + 3, 30), (50 - half - 10, 42), (50 - half - 7, 84)]), 5),
        Part(DARK, curve([(50 + half - 3, 30), (50 + half + 10, 42), (50 + half + 7, 84)]), 5),
        Part(BODY, rounded(mirrored(side), rounds=3)),
        Part(LINE, curve([(51 - half, 42), (50, 36), (49 + half, 42)]), 1.8),
        Part(TRIM, rounded(mirrored(front), rounds=3)),
        Part(LINE, np.array([(50 - half + 9, pocket + 8), (50 + half - 9, pocket + 8)]), 1.6),
        Part(GOLD, np.array([(50 + half - 14, pocket + 8), (50 + half - 14, pocket + 13)]), 1.8),
        Part(GOLD, np.array([(50 + half - 8, 40.5), (50 + half - 8, 46)]), 1.8),
    ]


def _hat(rng: Generator) -> list[Part]:
    high, wide, brim = rng.uniform(18, 30), rng.uniform(23, 28), rng.uniform(40, 46)
    dent = rng.uniform(0, 8)
    crown = [*corner(50 + wide, 66), (50 + wide - 1, 50), (50 + wide - 4, high), (50 + 8, high - 2), (50, high + dent)]
    return [
        Part(TRIM, ellipse(50, 69, brim, 13)),
        Part(BODY, ellipse(50, 66, brim, 12)),
        Part(LINE, ellipse(50, 67, brim - 5, 9.5, start=10, end=170), 1.0),
        Part(BODY, rounded(mirrored(crown[::-1]))),
        Part(BODY, ellipse(50, 66, wide, 6, start=0, end=180)),
        Part(
            TRIM,
            np.concatenate([ellipse(50, 57, wide, 6, start=0, end=180), ellipse(50, 66, wide, 6, start=180, end=0)]),
        ),
        Part(LINE, curve([(50, high + dent + 1), (49, 40), (50, 46)]), 1.0),
    ]


def _lamp(rng: Generator) -> list[Part]:
    top, low, rim = rng.uniform(12, 22), rng.uniform(28, 36), rng.uniform(50, 58)
    shade = [*corner(50 - top, 10), *corner(50 + top, 10), *corner(50 + low, rim), *corner(50 - low, rim)]
    foot = rng.uniform(14, 19)
    paint = str(rng.choice([WOOD, METAL, GOLD]))
    bulge = rng.uniform(3, 10)
    stem = mirrored([*corner(53, rim - 2), (50 + bulge, 70), (50 + bulge, 76), *corner(53, 90)])
    return [
        Part(paint, rounded(stem)),
        Part(
            paint,
            rounded([(50 - foot, 92), (50 - 6, 86), (50 + 6, 86), (50 + foot, 92), (50 + foot, 94), (50 - foot, 94)]),
        ),
        Part(GLOW, ellipse(50, rim, low, 3.6)),
        Part(BODY, rounded(shade)),
        Part(TRIM, np.array([(50 - low, rim - 1), (50 + low, rim - 1)]), 2.6),
        Part(TRIM, np.array([(50 - top, 10.8), (50 + top, 10.8)]), 2.2),
        Part(LIGHT, np.array([(50 - top / 2, 15), (50 - low / 2, rim - 5)]), 5),
    ]


def _armchair(rng: Generator) -> list[Part]:
    top, arm, seat = rng.uniform(10, 20), rng.uniform(44, 52), rng.uniform(54, 60)
    back = mirrored([(50 + 22, top), (50 + 31, top + 5), *corner(50 + 29, 76)])
    cushion = mirrored([(50 + 23, seat), (50 + 24, seat), (50 + 24, seat + 13), (50 + 22, seat + 13)])
    rest = [(70, arm + 5), (73, arm - 2), (86, arm - 2), (89, arm + 5), *corner(86, 86), *corner(72, 86)]
    legs = [np.array([(50 + s * 30, 84), (50 + s * 33, 95)]) for s in (-1, 1)]
    return [
        *[Part(WOOD, leg, 5) for leg in legs],
        Part(BODY, rounded(back)),
        *[Part(GOLD, ellipse(x, top + 18, 1.3, 1.3)) for x in (38, 50, 62)],
        Part(TRIM, rounded([*corner(26, seat + 10), *corner(74, seat + 10), *corner(74, 86), *corner(26, 86)])),
        Part(BODY, rounded(cushion, rounds=3)),
        Part(LINE, curve([(26, seat + 13), (50, seat + 14), (74, seat + 13)]), 1.4),
        Part(LINE, curve([(26, seat), (50, seat - 1), (74, seat)]), 1.4),
        Part(BODY, rounded(rest)),
        Part(BODY, rounded([(100 - x, y) for x, y in rest])),
        Part(LINE, curve([(72, 86), (70, 64), (70, arm + 8), (74, arm)]), 1.4),
        Part(LINE, curve([(28, 86), (30, 64), (30, arm + 8), (26, arm)]), 1.4),
    ]


def _umbrella(rng: Generator) -> list[Part]:
    top, half, edge = rng.uniform(10, 18), rng.uniform(40, 45), rng.uniform(50, 56)
    dome = ellipse(50, edge, half, edge - top, start=180, end=360)
    tips = np.linspace(50 + half, 50 - half, 5)
    scallops = [ellipse((a + b) / 2, edge, (a - b) / 2, 5, start=0, end=-180) for a, b in zip(tips[:-1], tips[1:])]
    ribs = [Part(LINE, curve([(50, top), (50 + 0.75 * (x - 50), top + 8), (x, edge)]), 1.3) for x in tips[1:-1]]
    paint = str(rng.choice([WOOD, METAL, DARK]))
    return [
        Part(METAL, np.array([(50, top - 6), (50, 84)]), 2.6),
        Part(paint, curve([(50, 78), (50, 94), (55, 97), (61, 94), (61, 87)]), 4.6),
        Part(BODY, np.concatenate([dome, *scallops])),
        *ribs,
    ]


def _suitcase(rng: Generator) -> list[Part]:
    half, top, low = rng.uniform(23, 31), rng.uniform(24, 32), 88
    side = [(50 + half - 2, top), (50 + half, top + 2), (50 + half, low - 2), (50 + half - 2, low)]
    grip = half - 12
    return [
        Part(METAL, np.array([(50 - grip, top + 4), (50 - grip, 9), (50 + grip, 9), (50 + grip, top + 4)]), 3),
        Part(DARK, np.array([(50 - grip - 1.5, 9), (50 + grip + 1.5, 9)]), 4.6),
        Part(DARK, ellipse(50 - half + 7, low + 3, 5, 5)),
        Part(DARK, ellipse(50 + half - 7, low + 3, 5, 5)),
        Part(BODY, rounded(mirrored(side), rounds=3)),
        Part(DARK, curve([(43, top + 1), (43, top - 4), (57, top - 4), (57, top + 1)]), 2.6),
        Part(
            TRIM, np.array([(50 - half + 0.6, 0.55 * top + 0.45 * low), (50 + half - 0.6, 0.55 * top + 0.45 * low)]), 4
        ),
        Part(GOLD, np.array([(46, 0.55 * top + 0.45 * low), (54, 0.55 * top + 0.45 * low)]), 5),
        *[
            Part(TRIM, rounded([*corner(50 + s * half, y), (50 + s * (half - 11), y), *corner(50 + s * half, y + d)]))
            for s in (-1, 1)
            for y, d in ((top + 1, 13), (low - 1, -13))
        ],
    ]


SHAPES: Mapping[str, Callable[[Generator], list[Part]]] = MappingProxyType(
    {
        "mug": _mug,
        "sneaker": _sneaker,
        "shirt": _shirt,
        "dress": _dress,
        "trousers": _trousers,
        "handbag": _handbag,
        "backpack": _backpack,
        "hat": _hat,
        "lamp": _lamp,
        "armchair": _armchair,
        "umbrella": _umbrella,
        "suitcase": _suitcase,
    }
)
"""Category -> its parts, for one random make of it."""
