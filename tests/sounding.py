"""A small shop whose products have pictures, titles, numbers and sounds of two kinds, and a model that trained on it.

Everything is drawn from seeds. Item row r is a bell where r is even, a drum where it is odd.
"""

from __future__ import annotations

import functools
import io
import tempfile
import wave
from pathlib import Path

import numpy as np
from PIL import Image

from tfmm import train

ITEMS, MUTE = 80, 8
KINDS = ("bell", "drum")
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 160, 30), "grey": (90, 90, 90)}
BROKEN = ("p3", "p5")  # have a file in sounds/ that is none


def wav(samples: np.ndarray, *, rate: int = 16_000) -> bytes:
    """Returns a WAV file of 16 bits, one channel, of samples in -1..1."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1), writer.setsampwidth(2), writer.setframerate(rate)
        writer.writeframes((np.clip(samples, -1, 1) * 32_000).astype("<i2").tobytes())
    return file.getvalue()


def sound_of(kind: str, seed: int, *, rate: int = 16_000) -> bytes:
    """Returns half a second of a bell (three steady partials) or of a drum (bursts of noise), none like another."""
    rng = np.random.default_rng(seed)
    times = np.arange(rate // 2) / rate
    if kind == "bell":
        pitch = rng.uniform(500, 900)
        samples = sum(np.sin(2 * np.pi * pitch * partial * times) / partial for partial in (1, 2.0, 2.99))
    else:
        samples = rng.normal(size=len(times)) * np.exp(-((times * rng.uniform(6, 10)) % 1) * 5)
    return wav(rng.uniform(0.1, 0.4) * samples / np.abs(samples).max(), rate=rate)


def picture_of(colour: str, seed: int) -> bytes:
    """Returns a PNG of 48 x 48 pixels in a colour, none like another."""
    noise = np.random.default_rng(seed).integers(-20, 20, (48, 48, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(noise + COLOURS[colour], 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def kind_of(item_id: str) -> str:
    """Returns whether `p<row>` is a bell or a drum."""
    return KINDS[int(item_id[1:]) % 2]


def write_shop(home: Path) -> Path:
    """Returns the folder, after products stand in it, most with a sound, and shoppers who stay with a kind."""
    rng = np.random.default_rng(0)
    ids = [f"p{row}" for row in range(ITEMS)]
    for folder in ("sounds", "images"):
        (home / folder).mkdir(parents=True)
    for row, name in enumerate(ids[:-MUTE]):
        (home / "sounds" / f"{name}.wav").write_bytes(sound_of(kind_of(name), row))
    (home / "sounds" / "p3.wav").write_bytes(sound_of("drum", 3)[:20] + b"\xff" * 400)  # a header, and then nothing
    (home / "sounds" / "p5.wav").write_bytes(b"OggS" + bytes(400))
    lines = ["id,title,category,colour,price"]
    for row, name in enumerate(ids):
        colour = [*COLOURS][row // 2 % 4]
        title = f"{('Arla', 'Bohm', 'Cato')[row % 3]} {kind_of(name)} {row}" if row % 5 else ""
        lines.append(f"{name},{title},{kind_of(name)},{colour},{rng.uniform(5, 50):.2f}")
        if row % 3:
            (home / "images" / f"{name}.png").write_bytes(picture_of(colour, row))
    (home / "items.csv").write_text("\n".join(lines))
    events = [
        f"u{user},{ids[item]},{1_600_000_000 + 86_400 * step + user}"
        for user in range(60)
        for step, item in enumerate(rng.permutation(np.arange(user % 2, len(ids), 2))[:8])
    ]
    (home / "interactions.csv").write_text("\n".join(["user,item,time", *events]))
    return home


FLAGS = (
    *("--source", "folder", "--size", "tiny", "--sound.mels", "32", "--evaluation.ablations", "none"),
    *("--retrieval.epochs", "1", "--reranking.epochs", "1", "--refit_epochs", "0", "--tagging.epochs", "0"),
    *("--alignment.epochs", "16"),
)


@functools.cache
def trained() -> Path:
    """Returns the directory of the shop and of a run on it: shop/, saved_models/, runs/, records/."""
    home = Path(tempfile.mkdtemp(prefix="sounding-"))
    shop = write_shop(home / "shop")
    where = [f"--{name}={home / name}" for name in ("saved_models", "runs", "records")]
    assert train.main([*FLAGS, "--data_dir", str(shop), *where]) == 0
    return home
