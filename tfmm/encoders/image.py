"""Pictures -> `[batch, dim]` by EfficientNet: in a graph for serving, and for a whole catalogue at once."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import tensorflow as tf

from tfmm.encoders import pictures
from tfmm.encoders.colours import colour_statistics
from tfmm.encoders.efficientnet import (
    LITE_SCALES,
    PRETRAINED,
    RANDOM,
    SIZES,
    block_names,
    build_network,
    with_stages,
)

Progress = Callable[[int, int], None]
"""Called with (items done, items in all)."""

TOP, ALL = "top", "all"
_BATCH = 32
_LOG = logging.getLogger(__name__)

# Broken, too large, or of a format that Pillow may know. TensorFlow puts the picture's bytes into its message, which
# then may not be UTF-8.
_UNREADABLE_BY_TENSORFLOW = (tf.errors.OpError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """Which network sees the pictures.

    Attributes:
        kind: "lite0" (its ImageNet weights come with the installation), "lite1", "lite2", "b0".."b7", "v2-b0".."v2-b3",
            "v2-s", "v2-m" or "v2-l".
        size: pixels a side; None is what the ImageNet weights were trained for. 128 is three times as fast as 224.
        weights: "pretrained", "random", or the path of a Keras weights file.
        features: "top" is the network's pooled top; "all" has beside it the mean of every stage, and colour statistics.
            Words are found in pictures far better by all of them.
    """

    kind: str = "lite0"
    size: Optional[int] = None
    weights: str = PRETRAINED
    features: str = TOP

    def __post_init__(self) -> None:
        if self.kind not in SIZES:
            raise ValueError(f"Expected image.kind to be one of {', '.join(SIZES)}, got {self.kind!r}.")
        if self.features not in (TOP, ALL):
            raise ValueError(f"Expected image.features to be '{TOP}' or '{ALL}', got {self.features!r}.")
        if self.size is not None and not 32 <= self.size <= 1024:
            raise ValueError(f"Expected image.size between 32 and 1024 pixels, got {self.size}.")
        if self.weights not in (PRETRAINED, RANDOM) and not Path(self.weights).is_file():
            raise ValueError(
                f"Expected image.weights to be '{PRETRAINED}', '{RANDOM}' or an existing file, got {self.weights!r}."
            )


@dataclasses.dataclass(frozen=True)
class _Held:
    """The network and the functions that `encode` calls, in a plain object that TensorFlow does not look into.

    As attributes of a module, the functions would be in every export, and the network with a graph for each of its
    layers: ten seconds, and four times the size.
    """

    network: tf.keras.Model
    forward: Callable[[np.ndarray], tf.Tensor]
    decode: Callable[[bytes], tf.Tensor]
    resize: Callable[[np.ndarray], tf.Tensor]

    @classmethod
    def of(cls, network: tf.keras.Model, size: int) -> _Held:
        return cls(
            network,
            tf.function(
                lambda pixels: network(pixels, training=False),
                input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32)],
            ),
            tf.function(
                lambda content: pictures.decode_pictures(content[tf.newaxis], size=size)[0],
                input_signature=[tf.TensorSpec([], tf.string)],
            ),
            tf.function(
                lambda pixels: pictures.resize_pixels(pixels, size=size),
                input_signature=[tf.TensorSpec([None, None, None], tf.uint8)],
            ),
        )


class ImageEncoder(tf.Module):
    """EfficientNet without its classifier, and everything that stands before it.

    Attributes:
        size: pixels a side.
        dim: 1280 for Lite; 2420 for Lite0 with all features.
    """

    def __init__(self, config: Optional[ImageConfig] = None) -> None:
        super().__init__(name="image_encoder")
        config = config or ImageConfig()
        self.size: int = config.size or SIZES[config.kind]
        network = build_network(config.kind, size=self.size, weights=config.weights)
        self.kind = config.kind if config.features == TOP else f"{config.kind}-{config.features}"
        if config.features == ALL:
            network = with_stages(network)
            colours = tf.keras.layers.Lambda(colour_statistics, name="colours")(network.input)
            vectors = tf.keras.layers.Concatenate()([network.output, colours])
            network = tf.keras.Model(network.input, vectors, name=network.name)
        network.trainable = False
        self.dim: int = int(network.output_shape[-1])
        self._held = _Held.of(network, self.size)
        self._variables = list(network.variables)  # what an export or a checkpoint of this module stores

    @property
    def network(self) -> tf.keras.Model:
        """Keras model, float32 0..255 `[batch, size, size, 3]` -> `[batch, dim]`; frozen until `trainable_blocks`.

        A model that trains it holds it as an attribute of its own.
        """
        return self._held.network

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the kind, the weights, the size and the way pictures are prepared."""
        digest = hashlib.sha256(f"{self.kind}:{self.size}:{pictures.VERSION}".encode())
        for weight in self.network.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
        return digest.hexdigest()[:16]

    def decode(self, contents: tf.Tensor) -> tf.Tensor:
        """Returns float32 0..255 `[batch, size, size, 3]` of string `[batch]`, inside a graph; `""` gives zeros."""
        return pictures.decode_pictures(contents, size=self.size)

    def __call__(self, contents: tf.Tensor, *, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns vectors `[batch, dim]`, zero where there is no picture, and present `[batch]` bool.

        Args:
            contents: string `[batch]`, as `decode` takes it.
            training: whether gradients are wanted of what `trainable_blocks` opened.
        """
        present = tf.not_equal(contents, "")
        vectors = self.network(self.decode(contents), training=training)
        return tf.where(present[:, tf.newaxis], vectors, 0.0), present

    def encode(
        self, contents: Sequence[bytes], *, progress: Optional[Progress] = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns vectors `[n, dim]` float32 and present `[n]` bool of a whole catalogue; nothing in it stops the run.

        A picture that is missing, broken or too large is not present, and its vector is zero. Formats that only Pillow
        reads (WebP, TIFF) are accepted here, though not in a graph. GIFs go to Pillow as well, which reads one frame
        where TensorFlow would unpack the whole animation.

        Args:
            contents: encoded pictures, `b""` where missing; read by position once, a batch ahead of the network, so
                that it may read from the disk.
            progress: called after each batch.
        """
        vectors = np.zeros([len(contents), self.dim], np.float32)
        present = np.zeros(len(contents), bool)
        with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
            for start, futures in self._decoded_batches(contents, pool):
                decoded = [future.result() for future in futures]
                rows = [start + row for row, pixels in enumerate(decoded) if pixels is not None]
                if rows:
                    vectors[rows] = self._held.forward(np.stack([pixels for pixels in decoded if pixels is not None]))
                    present[rows] = True
                if progress is not None:
                    progress(start + len(decoded), len(contents))
        return vectors, present

    def trainable_blocks(self, count: int) -> None:
        """Opens the last `count` blocks and the convolution after them for training, and closes all others.

        Batch normalisation stays as it was trained (inference mode): batches of a shop's pictures are too small to
        estimate it anew.

        Raises:
            ValueError: the network has fewer blocks.
        """
        names = block_names(self.network)
        if not 0 <= count <= len(names):
            raise ValueError(f"Expected 0 to {len(names)} blocks of {self.kind} to train, got {count}.")
        opened = (*names[len(names) - count :], "top_") if count else ()
        self.network.trainable = bool(count)
        for layer in self.network.layers:
            normalises = isinstance(layer, tf.keras.layers.BatchNormalization)
            layer.trainable = layer.name.startswith(opened) and not normalises if opened else False

    def _decoded_batches(
        self, contents: Sequence[bytes], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, list[Future]]]:
        """Yields (first row, futures of pixels), the next batch already under way while this one is used."""
        ahead: Optional[tuple[int, list[Future]]] = None
        for start in range(0, len(contents), _BATCH):
            rows = range(start, min(start + _BATCH, len(contents)))
            batch = (start, [pool.submit(self._pixels, contents, row) for row in rows])
            if ahead is not None:
                yield ahead
            ahead = batch
        if ahead is not None:
            yield ahead

    def _pixels(self, contents: Sequence[bytes], row: int) -> Optional[np.ndarray]:
        """Returns `[size, size, 3]`, or None where there is no picture or none that can be read."""
        try:
            content = contents[row]
            if not content:
                return None
            if not content.startswith(b"GIF8"):
                with contextlib.suppress(*_UNREADABLE_BY_TENSORFLOW):
                    return self._held.decode(content).numpy()
            return self._held.resize(pictures.read_with_pillow(content)).numpy()
        except (pictures.UnreadablePicture, OSError) as error:
            _LOG.warning("Picture %d is left out: %s", row, error)
            return None


__all__ = ["LITE_SCALES", "ImageConfig", "ImageEncoder", "Progress"]
