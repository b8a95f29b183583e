"""Encoded pictures -> pixels, the same way inside a graph and for a whole catalogue.

What a picture becomes: RGB, transparency laid on white (as a shop's page does), 16 bits cut to 8, the first frame of an
animation, and a plain antialiased resize to a square. The aspect is not kept: padding would let the average pooling mix
in bars that say nothing of the product, and cropping would cut shoes and sleeves. EXIF rotation is not applied.

A header that announces more than `MAX_PIXELS` is refused before anything is decoded.
"""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from PIL import Image

MAX_PIXELS = 64_000_000
"""Pixels that one picture may have (192 MB as RGB); 8000 x 8000."""

_HEAD = 32  # bytes: as far as widths and heights stand

VERSION = 1
"""Goes into fingerprints; raise it with any change that alters pixels."""


class UnreadablePicture(ValueError):
    """Bytes that are no picture, a broken one, or one too large to decode."""


def decode_pictures(contents: tf.Tensor, *, size: int) -> tf.Tensor:
    """Returns float32 0..255 `[batch, size, size, 3]` by core ops; `""` gives zeros, which the caller masks.

    Args:
        contents: string `[batch]`, JPEG, PNG, GIF or BMP.
        size: pixels a side.

    Raises:
        tf.errors.InvalidArgumentError: when run, on a picture that is broken or too large.
    """
    return tf.map_fn(
        lambda content: tf.cond(
            tf.equal(content, ""),
            lambda: tf.zeros([size, size, 3]),
            lambda: resize_pixels(_decode_picture(content), size=size),
        ),
        contents,
        fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
    )


def resize_pixels(pixels: tf.Tensor, *, size: int) -> tf.Tensor:
    """Returns float32 `[size, size, 3]` of uint8 `[height, width, channels]`, channels = L, LA, RGB or RGBA."""
    sides = tf.shape(pixels)[:2]
    # A picture eight times too large is thinned first: antialiasing needs all of it as floats, four times the memory.
    step = tf.maximum(tf.reduce_min(sides) // (4 * size), 1)
    # So is the long side of a strip, that would need gigabytes otherwise.
    steps = tf.maximum(sides // (32 * size), step)
    small = tf.cast(pixels[:: steps[0], :: steps[1]], tf.float32)
    resized = tf.image.resize(_on_white(small), [size, size], antialias=True)
    return tf.clip_by_value(tf.ensure_shape(resized, [size, size, 3]), 0.0, 255.0)


def read_with_pillow(content: bytes) -> np.ndarray:
    """Returns uint8 `[height, width, channels]` of whatever Pillow reads (WebP, TIFF, the first frame of a GIF).

    Raises:
        UnreadablePicture: no picture, a broken one, or one of more than `MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UnreadablePicture(
                    f"Expected at most {MAX_PIXELS} pixels, got {picture.width} x {picture.height}."
                )
            if picture.mode.startswith("I;16"):  # Pillow would clip 16 bits, not scale them.
                return (np.asarray(picture) >> 8).astype(np.uint8)[..., np.newaxis]
            return np.asarray(picture.convert("RGBA"))
    except UnreadablePicture:
        raise
    except Exception as error:  # Pillow's plug-ins raise anything from SyntaxError to struct.error on broken files.
        raise UnreadablePicture(
            f"Expected a picture, got {len(content)} bytes that Pillow cannot read: {error}"
        ) from error


def for_graph(content: bytes) -> bytes:
    """Returns the picture in a format that `decode_pictures` reads: itself, or as PNG what only Pillow reads.

    Raises:
        UnreadablePicture: as `read_with_pillow`.
    """
    if content.startswith((b"\xff\xd8\xff", b"\x89PNG", b"BM")):
        return content
    pixels, file = read_with_pillow(content), io.BytesIO()
    Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _decode_picture(content: tf.Tensor) -> tf.Tensor:
    is_gif = tf.strings.regex_full_match(
        tf.strings.substr(content, 0, tf.minimum(4, tf.strings.length(content))), "GIF8"
    )
    content, of_frame = tf.cond(is_gif, lambda: _first_frame(content), lambda: (content, tf.constant(0, tf.int64)))
    pixels = tf.maximum(_announced_pixels(content), of_frame)
    got = tf.strings.as_string(pixels)
    problem = tf.strings.join([f"Expected a picture of at most {MAX_PIXELS} pixels, got ", got, ". Make it smaller."])
    with tf.control_dependencies([tf.debugging.Assert(pixels <= MAX_PIXELS, [problem])]):
        # channels=0: what the file has, so that transparency is seen; grey stays one channel.
        picture = tf.io.decode_image(tf.identity(content), channels=0, expand_animations=False)
    return tf.ensure_shape(picture, [None, None, None])


def _announced_pixels(content: tf.Tensor) -> tf.Tensor:
    """Returns width x height, int64, from the header of a JPEG, PNG, GIF or BMP; 0 for anything else."""
    head = tf.strings.join([tf.strings.substr(content, 0, tf.minimum(_HEAD, tf.strings.length(content))), bytes(_HEAD)])

    def sides(start: int, dtype: tf.DType, *, little_endian: bool) -> tf.Tensor:
        field = tf.strings.substr(head, start, 2 * dtype.size)
        return tf.abs(tf.cast(tf.io.decode_raw(field, dtype, little_endian=little_endian), tf.int64))

    def starts_with(signature: bytes) -> tf.Tensor:
        length = tf.minimum(len(signature), tf.strings.length(content))
        return tf.equal(tf.strings.substr(content, 0, length), signature)

    readers = [
        (starts_with(b"\xff\xd8\xff"), lambda: tf.cast(tf.io.extract_jpeg_shape(content)[:2], tf.int64)),
        (starts_with(b"\x89PNG"), lambda: sides(16, tf.int32, little_endian=False)),
        (starts_with(b"GIF8"), lambda: sides(6, tf.uint16, little_endian=True)),
        (starts_with(b"BM"), lambda: sides(18, tf.int32, little_endian=True)),
    ]
    return tf.reduce_prod(tf.case(readers, default=lambda: tf.zeros([2], tf.int64)))


def _first_frame(content: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a GIF up to the end of its first frame, and that frame's pixels, int64.

    TensorFlow unpacks a whole animation, each frame as large as it says of itself, before it takes the first.
    """
    size = tf.strings.length(content)
    data = tf.io.decode_raw(content, tf.uint8)

    def byte(place: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[tf.minimum(place, size - 1)], tf.int32)

    def table(flags: tf.Tensor) -> tf.Tensor:  # bytes of a colour table, if these flags announce one
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)

    def step(place: tf.Tensor, frame: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        value = byte(place)
        inside, image = state > _BLOCK, value == ord(",")
        known = image | (value == ord("!"))  # an image, or an extension; anything else ends the walk
        begun = tf.where(image, place + 11 + table(byte(place + 9)), place + 2)
        new = tf.where(image, _OF_IMAGE, tf.where(known, _OF_EXTENSION, _DONE))
        ended = tf.where(state == _OF_IMAGE, _DONE, _BLOCK)
        return (
            tf.where(inside, place + 1 + value, tf.where(known, begun, place)),
            tf.where(~inside & image, place, frame),
            tf.where(inside, tf.where(value == 0, ended, state), new),
        )

    start = tf.minimum(13 + table(byte(tf.constant(10))), size)
    end, frame, _ = tf.while_loop(
        lambda place, frame, state: (state != _DONE) & (place < size),
        step,
        (start, tf.constant(-1), tf.constant(_BLOCK)),
    )
    width, height = (byte(frame + low) + 256 * byte(frame + low + 1) for low in (5, 7))
    pixels = tf.where(frame >= 0, tf.cast(width, tf.int64) * tf.cast(height, tf.int64), 0)
    return tf.strings.join([tf.strings.substr(content, 0, tf.minimum(end, size)), ";"]), pixels


_DONE, _BLOCK, _OF_EXTENSION, _OF_IMAGE = range(4)
"""Where a walk through a GIF stands: at its end, where a block begins, within an extension or an image."""


def _on_white(pixels: tf.Tensor) -> tf.Tensor:
    """Returns RGB `[height, width, 3]` of L, LA, RGB or RGBA, transparency laid on white."""
    channels = tf.shape(pixels)[2]
    has_alpha = tf.equal(channels % 2, 0)
    colour = pixels[..., : channels - tf.cast(has_alpha, tf.int32)]
    alpha = pixels[..., channels - 1 :] / 255.0
    # 32-bit BMPs leave the fourth byte unused, all zero: that means opaque.
    alpha = tf.where(has_alpha & (tf.reduce_max(alpha) > 0), alpha, tf.ones_like(alpha))
    colour = colour * alpha + 255.0 * (1.0 - alpha)
    rgb = tf.broadcast_to(colour, tf.concat([tf.shape(pixels)[:2], [3]], 0))
    return tf.ensure_shape(rgb, [None, None, 3])
