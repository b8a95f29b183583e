"""What every transformer over text or sound is made of."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_HEADS = 4


class Block(tf.keras.layers.Layer):
    """Pre-norm self-attention and a feed-forward layer; padding is never attended to."""

    def __init__(self, width: int, *, dropout: float, name: str) -> None:
        super().__init__(name=name)
        self._attention = tf.keras.layers.MultiHeadAttention(_HEADS, width // _HEADS, dropout=dropout)
        self._wide = tf.keras.layers.Dense(4 * width, activation="gelu")
        self._narrow = tf.keras.layers.Dense(width)
        self._norms = [tf.keras.layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]

    def call(self, x: tf.Tensor, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns `[batch, length, width]`.

        Args:
            x: `[batch, length, width]`.
            mask: `[batch, length]` bool.
            training: whether dropout is on.
        """
        normal = self._norms[0](x)
        x += self._attention(normal, normal, attention_mask=mask[:, tf.newaxis, :], training=training)
        return x + self._narrow(self._wide(self._norms[1](x)))


def positions(length: tf.Tensor, width: int) -> tf.Tensor:
    """Returns `[length, width]`: sines and cosines of the position (Vaswani et al., 2017, section 3.5)."""
    rates = tf.constant(10_000.0 ** (-np.arange(0, width, 2) / width), tf.float32)
    angles = tf.cast(tf.range(length), tf.float32)[:, tf.newaxis] * rates
    return tf.concat([tf.sin(angles), tf.cos(angles)], -1)
