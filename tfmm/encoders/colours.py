"""What colours a picture has, and where: `[batch, WIDTH]` by core ops, beside what a convolutional network sees.

A network trained to tell objects apart learns to look past colour, and a shop's shoppers name colours. The statistics
are those of the foreground, as a product stands on a white or nearly white ground: histograms over hue, saturation and
value of all of it, of its centre, and of its upper and lower half (Swain and Ballard 1991, with soft masks), mean and
deviation of red, green and blue, and the silhouette.
"""

from __future__ import annotations

import math

import tensorflow as tf

_SIDE = 48  # pixels
_GREYS, _HUES = 4, 12
_SATURATIONS = (0.15, 0.4, 0.7)  # below the first a pixel is grey, and only its value counts
_VALUES = (0.25, 0.5, 0.75)
_BINS = _GREYS + len(_SATURATIONS) * _HUES * 2
_REGIONS = 4
_PROFILE = _SIDE // 4
WIDTH = _REGIONS * (_BINS + 6) + 4 + 2 * _PROFILE


def colour_statistics(pixels: tf.Tensor) -> tf.Tensor:
    """Returns float32 `[batch, WIDTH]`, each between 0 and 1, of pixels 0..255 `[batch, height, width, 3]`."""
    small = tf.image.resize(pixels, [_SIDE, _SIDE], method="area") / 255.0
    darkest, brightest = tf.reduce_min(small, axis=-1), tf.reduce_max(small, axis=-1)
    shown = tf.cast((darkest < 0.93) | (brightest - darkest > 0.06), tf.float32)  # [batch, side, side]
    bins = tf.one_hot(_bin_of(small), _BINS)
    rows, columns = tf.meshgrid(tf.range(_SIDE), tf.range(_SIDE), indexing="ij")
    half, quarter = _SIDE // 2, _SIDE // 4
    centre = (tf.abs(rows - half) < quarter) & (tf.abs(columns - half) < quarter)
    found = []
    for region in (tf.ones_like(centre), centre, rows < half, rows >= half):
        weights = shown * tf.cast(region, tf.float32)
        weights = tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=[1, 2], keepdims=True))
        mean = tf.einsum("bhw,bhwc->bc", weights, small)
        spread = tf.einsum("bhw,bhwc->bc", weights, tf.square(small - mean[:, tf.newaxis, tf.newaxis]))
        found += [tf.sqrt(tf.einsum("bhw,bhwn->bn", weights, bins)), mean, tf.sqrt(spread)]
    parts = (shown, shown[:, :half], shown[:, half:], shown[:, :, :half])
    found.append(tf.stack([tf.reduce_mean(part, axis=[1, 2]) for part in parts], axis=1))
    found += [tf.reduce_mean(shown, axis=axis)[:, :: _SIDE // _PROFILE] for axis in (1, 2)]
    return tf.concat(found, axis=1)


def _bin_of(rgb: tf.Tensor) -> tf.Tensor:
    """Returns int32 `[batch, height, width]`: greys by value, then saturation x hue x dark or bright."""
    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(rgb), axis=-1)
    of_hue = tf.minimum(tf.cast(tf.floor(hue * _HUES), tf.int32), _HUES - 1)
    level = _level(saturation, _SATURATIONS)
    coloured = _GREYS + ((level - 1) * _HUES + of_hue) * 2 + tf.cast(value > 0.5, tf.int32)
    return tf.where(level == 0, _level(value, _VALUES), coloured)


def _level(values: tf.Tensor, edges: tuple[float, ...]) -> tf.Tensor:
    """Returns how many of the edges each value reaches."""
    edges = (-math.inf, *edges)
    return tf.add_n([tf.cast(values >= edge, tf.int32) for edge in edges]) - 1
