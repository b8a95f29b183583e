"""What a server gets that is broken, absurd or meant to harm: that request is refused, or has a defined answer.

A model with pictures, texts, numbers and sounds answers behind `tfmm serve`, in a process of its own, so that what it
takes of memory can be seen: at most `PEAK_MB` more than idle during any one request, and `KEPT_MB` after all.
"""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest
import sounding
from PIL import Image
from sounding import kind_of, picture_of, sound_of

from tfmm.serving.client import Client
from tfmm.serving.errors import ServingError
from tfmm.serving.queries import Query, build_example, build_request, read_answers

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
PEAK_MB, KEPT_MB = 1500, 1000
HEALTHY = Query(text="Arla bell", history=["p0", "p2"], exclude=["p4"])
Request = tuple[dict[str, np.ndarray], str]
"""Inputs, and the signature that they are for."""


class Running(NamedTuple):
    """A server's process, a client of it, and what it answers as long as it is well."""

    pid: int
    client: Client
    expected: list[tuple[str, float]]

    def megabytes(self, field: str) -> int:
        """Returns `VmRSS`, what the process holds, or `VmHWM`, the most that it held since `forget_the_most`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", status).group(1)) // 1024

    def forget_the_most(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def is_well(self) -> None:
        """Asserts that the next request is answered as ever."""
        answer = self.client.recommend_batch([HEALTHY])[0]
        assert [item for item, _ in answer] == [item for item, _ in self.expected]
        np.testing.assert_allclose([s for _, s in answer], [s for _, s in self.expected], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    code = "import sys; from tfmm.cli import main; sys.exit(main())"
    where = ["--port", "0", "--saved_models", str(sounding.trained() / "saved_models")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *where],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        target = next(found.group(1) for found in map(_LISTENING.search, process.stderr) if found)
        threading.Thread(target=process.stderr.read, daemon=True).start()  # else the pipe would fill
        with Client(target, timeout=600) as client:
            seen = [HEALTHY, Query(image=picture_of("red", 1)), Query(audio=sound_of("bell", 1))]
            yield Running(process.pid, client, [client.recommend_batch([query])[0] for query in seen][0])
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()


_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")


@pytest.fixture
def ask(server) -> Iterator[Callable[[Request], dict[str, np.ndarray]]]:
    """Sends a request; afterwards the server has to be well, and to have kept within its memory."""
    before = server.megabytes("VmRSS")
    server.forget_the_most()
    yield lambda request: server.client.predict(request[0], signature=request[1])
    assert server.megabytes("VmHWM") - before < PEAK_MB
    server.is_well()


# --- Files that are none, or not what they say -----------------------------------------------------------------------


def query(**fields: object) -> Request:
    return build_request([Query(**fields)]), "recommend"


def item(**columns: object) -> Request:
    """Returns a product without anything but the columns."""
    nothing = {name: np.array([b""], object) for name in ("text", "image", "sound")}
    return {**nothing, "attributes": np.zeros([1, 0], object), **columns}, "embed_item"


def texts(*values: bytes) -> np.ndarray:
    return np.array(values, object)


def picture(kind: str, size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return file.getvalue()


def noise(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def png_bomb() -> bytes:
    """Returns 150 bytes that announce 50,000 x 50,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def gif_bomb() -> bytes:
    """Returns a GIF of 64 x 48 pixels whose only frame says that it has 50,000 x 50,000."""
    gif = picture("GIF")
    place = gif.index(b",\0\0\0\0")
    return gif[: place + 5] + struct.pack("<HH", 50_000, 50_000) + gif[place + 9 :]


def header(*, rate: int = 16_000, channels: int = 1, bits: int = 16, claims: int = 6_400, tag: int = 1) -> bytes:
    """Returns a WAV file of .2 s of noise whose header may lie."""
    samples = (np.random.default_rng(0).normal(size=3_200) * 3_000).astype("<i2").tobytes()
    frame = channels * bits // 8 % 65536
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * frame % 2**32, frame, bits)
    return b"RIFF" + struct.pack("<I", claims) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", claims) + samples


def animation(count: int, side: int) -> bytes:
    """Returns a small GIF that is `count * side * side` bytes when it is unpacked."""
    frames, file = [Image.new("P", (side, side), number % 2) for number in range(count)], io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], optimize=False)
    return file.getvalue()


REFUSED = {
    "half a JPEG": (lambda: query(image=noise("JPEG")[:9_000]), ["whole JPEG, PNG, GIF or BMP", "Save the picture anew"]),
    "half a PNG": (lambda: query(image=noise("PNG")[:9_000]), ["whole JPEG, PNG, GIF or BMP"]),
    "a PNG's first bytes": (lambda: query(image=b"\x89PNG"), ["whole JPEG, PNG, GIF or BMP"]),
    "a GIF's first bytes": (lambda: query(image=b"GIF89a"), ["whole JPEG, PNG, GIF or BMP"]),
    "no picture": (lambda: query(image=b"no picture"), ["whole JPEG, PNG, GIF or BMP"]),
    "WebP": (lambda: query(image=picture("WEBP")), ["JPEG, PNG, GIF or BMP"]),
    "TIFF": (lambda: query(image=picture("TIFF")), ["JPEG, PNG, GIF or BMP"]),
    "PNG bomb": (lambda: query(image=png_bomb()), ["at most 64000000 pixels, got 2500000000", "smaller"]),
    "GIF bomb": (lambda: query(image=gif_bomb()), ["at most 64000000 pixels, got 2500000000", "smaller"]),
    "bomb in an example": (
        lambda: ({"examples": texts(build_example(Query(image=png_bomb())))}, "recommend_examples"),
        ["at most 64000000 pixels"],
    ),
    "a product's bomb": (lambda: item(image=texts(png_bomb())), ["at most 64000000 pixels"]),
    "RIFF alone": (lambda: query(audio=b"RIFF"), ["Sound 0 of the batch: Expected the bytes of a WAV", "Save it as"]),
    "Ogg": (lambda: query(audio=b"OggS" + bytes(999)), ["got 1003 bytes that begin otherwise"]),
    "no rate": (lambda: query(audio=header(rate=0)), ["1000 to 384000 samples a second, got 0"]),
    "4 GHz": (lambda: query(audio=header(rate=2**32 - 1)), ["1000 to 384000 samples a second, got 4294967295"]),
    "65535 channels": (lambda: query(audio=header(channels=65_535)), ["1 to 32 channels, got 65535"]),
    "12 bits": (lambda: query(audio=header(bits=12)), ["got format 1 of 12 bits"]),
    "MP3 in WAV": (lambda: query(audio=header(tag=85)), ["got format 85"]),
    "a product's broken sound": (lambda: item(sound=texts(b"RIFF")), ["Sound 0 of the batch"]),
    "no number": (lambda: item(attributes=texts(b"price=cheap").reshape(1, 1)), ["Expected a number", "'cheap'"]),
    "no lists": (lambda: ({"examples": texts(b"\xffjunk")}, "rank"), ["got other bytes", "Serialise them anew"]),
    "history of numbers": (lambda: changed(history=np.array([[7]])), ["'history'", "expected string", "got int64"]),
    "text of a number": (lambda: changed(query_text=np.array([1.5])), ["'query_text'", "expected string", "float64"]),
    "a text without a row": (lambda: changed(query_text=np.array(b"a", object)), ["'query_text'", "got []"]),
    "a history without rows": (lambda: changed(history=texts(b"p1")), ["'history'", "(None, None)", "got [1]"]),
    "unequal rows": (lambda: changed(exclude=np.full([3, 1], b"p1", object)), ["as many rows as", "got 3"]),
    "unknown input": (lambda: changed(colour=texts(b"red")), ["Sent extra: {colour}"]),
    "missing input": (lambda: ({"history": np.array([[b"p1"]], object)}, "recommend"), ["Missing but required"]),
    "filters": (lambda: query(filters=[f"category={n}" for n in range(100_000)]), ["at most 100 filters", "100000"]),
    "rows": (lambda: (build_request([HEALTHY] * 5_000), "recommend"), ["at most 1024 rows", "got 5000", "--max_rows"]),
    "ids": (lambda: ({"item_ids": np.array(IDS, object)}, "similar_items"), ["at most 1024 rows", "got 100000"]),
    "minutes of sound": (
        lambda: (build_request([Query(audio=sound_of("drum", 1, rate=8_000)[:44] + ten_seconds())] * 500), "recommend"),
        ["at most 960 s of sound"],
    ),
    "whys": (
        lambda: ({**build_request([Query(history=IDS)]), "item_ids": np.array([IDS[:1000]], object)}, "explain"),
        ["at most 16777216 items times the history's length, got 100000000"],
    ),
}  # fmt: skip


def changed(**inputs: np.ndarray) -> Request:
    return {**build_request([HEALTHY]), **inputs}, "recommend"
