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
IDS = [f"p{row}".encode() for row in range(100_000)]  # of which the catalogue has the first
HEALTHY = Query(text="Arla bell", history=["p0", "p2"], exclude=["p4"])
Request = tuple[dict[str, np.ndarray], str]
"""Inputs, and the signature that they are for."""


class Running(NamedTuple):
    """A server's process, a client of it, and what it answers as long as it is well."""

    pid: int
    client: Client
    idle: int
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
            expected, *_ = (client.recommend_batch([query])[0] for query in seen)
            running = Running(process.pid, client, 0, expected)
            yield running._replace(idle=running.megabytes("VmRSS"))
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
    return (
        b"RIFF"
        + struct.pack("<I", claims)
        + b"WAVEfmt \x10\0\0\0"
        + form
        + b"data"
        + struct.pack("<I", claims)
        + samples
    )


def animation(count: int, side: int) -> bytes:
    """Returns a small GIF that is `count * side * side` bytes when it is unpacked."""
    frames, file = [Image.new("P", (side, side), number % 2) for number in range(count)], io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], optimize=False)
    return file.getvalue()


REFUSED = {
    "half a JPEG": (lambda: query(image=noise("JPEG")[:9_000]), ["whole JPEG, PNG, GIF or BMP", "anew"]),
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
        lambda: (build_request([Query(audio=sounding.wav(np.zeros(10_000), rate=1_000))] * 500), "recommend"),
        ["at most 960 s of sound in a batch", "got 5000 s", "Send fewer"],
    ),
    "whys": (
        lambda: ({**build_request([Query(history=IDS)]), "item_ids": np.array([IDS[:1000]], object)}, "explain"),
        ["at most 16777216 items times length of the history, got 100000000"],
    ),
}  # fmt: skip


def changed(**inputs: np.ndarray) -> Request:
    return {**build_request([HEALTHY]), **inputs}, "recommend"


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_answered_is_refused_with_a_sentence_and_the_server_goes_on(ask, kind):
    make, words = REFUSED[kind]
    with pytest.raises(ServingError) as caught:
        ask(make())
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details
    for word in words:
        assert word in caught.value.details
    for talk in ("assertion failed", "{{", "Condition x", "Traceback", "node "):  # TensorFlow's own
        assert talk not in caught.value.details


def test_a_bad_row_refuses_its_request_and_no_other(ask, server):
    together = build_request([HEALTHY, Query(audio=b"RIFF"), HEALTHY])
    refused: list[Exception] = []

    def send() -> None:
        with pytest.raises(ServingError, match="Sound 1 of the batch") as caught:
            ask((together, "recommend"))
        refused.append(caught.value)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(8):  # in between, on the same server
        server.is_well()
    for thread in threads:
        thread.join()
    assert len(refused) == 4


# --- What is odd, and has an answer ----------------------------------------------------------------------------------

LONG = 10_000_000
ANSWERED = {
    "10 MB of text": lambda: query(text="bell " * (LONG // 5)),
    "a word of 10 MB": lambda: query(text="b" * LONG),
    "spaces": lambda: query(text=" \t\n"),
    "emoji": lambda: query(text="🎉👩‍👩‍👧👟" * 100),
    "a zero byte": lambda: query(text="be\0ll"),
    "no UTF-8": lambda: changed(query_text=texts(b"\xff\xfe bell \xc3")),
    "100 long texts": lambda: (build_request([Query(text="a b c d " * 512)] * 100), "embed_query"),
    "a history of 100,000": lambda: changed(history=np.array([IDS], object)),
    "100,000 exclusions": lambda: changed(exclude=np.array([IDS], object)),
    "100,000 words of context": lambda: changed(context=np.array([[b"a=" + name for name in IDS]], object)),
    "why, after 100,000": lambda: (
        {**build_request([Query(history=[f"p{n}" for n in range(100_000)])]), "item_ids": np.array([IDS[:3]], object)},
        "explain",
    ),
    "the ends of time": lambda: query(history=["p0", "p1", "p2"], times=[-(2**63), 2**63 - 1, 0], time=2**63 - 1),
    "before time": lambda: query(history=["p0", "p1"], times=[2**63 - 1, -(2**63)], time=-(2**63)),
    "an animation of 1 GB": lambda: query(image=animation(120, 3_000)),
    "the largest picture": lambda: query(image=picture("PNG", (8_000, 8_000))),
    "a strip": lambda: query(image=picture("PNG", (640_000, 100))),
    "one pixel": lambda: query(image=picture("BMP", (1, 1))),
    "a GIF": lambda: query(image=picture("GIF")),
    "NaN": lambda: item(attributes=texts(b"price=nan").reshape(1, 1)),
    "infinity": lambda: item(attributes=texts(b"price=-inf").reshape(1, 1)),
    "beyond float32": lambda: item(attributes=texts(b"price=1e400").reshape(1, 1)),
    "100,000 attributes": lambda: item(attributes=np.array([[b"colour=" + name for name in IDS]], object)),
    "no query at all": lambda: ({name: rows[:0] for name, rows in build_request([HEALTHY]).items()}, "recommend"),
    "an empty example": lambda: ({"examples": texts(b"")}, "recommend_examples"),
    "an empty list": lambda: ({"examples": texts(b"")}, "rank"),
}


@pytest.mark.parametrize("kind", ANSWERED)
def test_what_is_odd_is_answered_with_finite_numbers_in_bounded_memory(ask, kind):
    inputs, signature = ANSWERED[kind]()
    answer = ask((inputs, signature))
    rows = len(next(iter(inputs.values())))
    for name, values in answer.items():
        assert len(values) == rows, name
        if values.dtype != object:
            assert np.isfinite(values).all(), name


def items_of(ask: Callable, request: Request) -> list[str]:
    (answer,) = read_answers(ask(request))
    return [item for item, _ in answer]


def test_odd_queries_mean_what_is_left_of_them(ask):
    alone = items_of(ask, changed())
    for nothing in (texts(b""), texts(b" \n")):
        assert items_of(ask, changed(query_text=nothing)) == items_of(ask, changed(query_text=texts(b"")))
    assert items_of(ask, changed(query_text=texts(b"\xffArla \xc3bell"))) == alone  # what is not UTF-8 is left out
    assert items_of(ask, query(text="Arla bell" + " " * LONG)) == items_of(ask, query(text="Arla bell"))
    known = [name.decode() for name in IDS[:4]]
    others = [f"unknown{n}" for n in range(50_000)]
    assert items_of(ask, query(history=[*others, *known])) == items_of(ask, query(history=known))
    everything = items_of(ask, changed(exclude=np.array([IDS], object)))
    assert everything == []


def test_a_wav_file_is_heard_as_far_as_its_samples_are_there(ask):
    whole = header()
    lies = header(claims=2**32 - 1)
    assert items_of(ask, query(audio=lies)) == items_of(ask, query(audio=whole))
    bell = sound_of("bell", 77)
    cut = items_of(ask, query(audio=bell[: len(bell) * 2 // 3]))
    assert [kind_of(name) for name in cut[:10]].count("bell") >= 8
    assert items_of(ask, query(audio=bell[:44])) == items_of(ask, query())  # a header alone says nothing


def test_a_message_over_the_limit_never_reaches_the_model(ask):
    with pytest.raises(ServingError) as caught:
        ask(query(image=bytes(65 << 20)))
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_after_all_of_this_the_server_holds_about_what_it_held(server):
    """Runs last: the requests above were its own warm-up."""
    server.is_well()
    assert server.megabytes("VmRSS") - server.idle < KEPT_MB
