"""Text -> `[batch, dim]` by encoders trained with the shop's own towers, over subwords learned from its catalogue.

Subwords (SentencePiece, unigram model; Kudo, 2018) need no word boundaries, so that Chinese works as English does. They
are learned once (`learn_subwords`), cut inside the graph by TF Text (`SubwordTokenizer`), and encoded by one of five
networks behind one interface (`make_text_encoder`): ids `[batch, length]` int32, 0 = padding, -> `[batch, dim]`.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Callable

import tensorflow as tf

from tfmm.encoders.sentence import clean_text, sentencepiece_tokenizer
from tfmm.encoders.transformer import Block, positions

PADDING = 0
_SAMPLE = 100_000  # texts that subwords are learned from
_LONGEST = 1_000  # characters of each


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Which trainable network reads the text.

    Attributes:
        kind: "pooled" (mean of embeddings), "cnn" (Kim, 2014), "gru", "lstm" (both directions) or "transformer".
        vocabulary_size: subwords at most; a small catalogue gets fewer.
        max_length: subwords that are read of a text.
        width: of the embeddings and hidden layers; a multiple of 4.
        layers: of the transformer.
        dropout: in training, on the embeddings.
    """

    kind: str = "pooled"
    vocabulary_size: int = 8000
    max_length: int = 64
    width: int = 64
    layers: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in _NETWORKS:
            raise ValueError(f"Expected text.kind to be one of {', '.join(_NETWORKS)}, got {self.kind!r}.")
        for name in ("vocabulary_size", "max_length", "width", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected text.{name} to be at least 1, got {getattr(self, name)}.")
        if self.width % 4:
            raise ValueError(f"Expected text.width to be a multiple of 4 (heads, directions), got {self.width}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Expected text.dropout in [0, 1), got {self.dropout}.")


def learn_subwords(texts: Sequence[str], *, vocabulary_size: int) -> bytes:
    """Returns a SentencePiece model of at most `vocabulary_size` subwords: id 0 = padding, id 1 = unknown.

    The same texts in the same order give the same model. Of a large catalogue an even sample is read.

    Args:
        texts: of training items; empty ones are passed over.
        vocabulary_size: at least 8. A catalogue with fewer different subwords gets fewer; in one with more different
            characters than this, the rarest become "unknown".

    Raises:
        ImportError: the package `sentencepiece` is not installed.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError("Learning subwords needs a package: pip install sentencepiece") from error
    size = max(vocabulary_size, 8)
    sample = list(_sample(texts)) or ["?"]  # a catalogue without any text still gets a tokenizer
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_without_rare_characters(sample, room=size - 4)),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=0.9998,
        pad_id=PADDING,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


class SubwordTokenizer(tf.Module):
    """Cuts texts into subwords inside the graph.

    Attributes:
        vocabulary_size: number of ids, padding and unknown included.
    """

    def __init__(self, model: bytes, *, max_length: int) -> None:
        super().__init__(name="subword_tokenizer")
        self._tokenizer = sentencepiece_tokenizer(model, out_type=tf.int32)
        self._max_length = max_length
        self.vocabulary_size = int(self._tokenizer.vocab_size())

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        """Returns int32 `[batch, length]`, 1 <= length <= `max_length`, of string `[batch]`; 0 is padding."""
        # A subword is seldom longer than 16 bytes; the limit bounds what a huge text costs.
        tokens = self._tokenizer.tokenize(clean_text(texts, max_bytes=16 * self._max_length))
        ids = tokens[:, : self._max_length].to_tensor(PADDING)
        return tf.pad(ids, [[0, 0], [0, tf.maximum(1 - tf.shape(ids)[1], 0)]])


def make_text_encoder(config: TextConfig, *, vocabulary_size: int, dim: int) -> TextEncoder:
    """Returns a new encoder, ids `[batch, length]` int32 -> (`[batch, dim]`, present `[batch]` bool)."""
    return TextEncoder(config, vocabulary_size=vocabulary_size, dim=dim)


class TextEncoder(tf.keras.layers.Layer):
    """Embeds subwords and sums a text up in one vector; how much padding follows changes nothing."""

    def __init__(self, config: TextConfig, *, vocabulary_size: int, dim: int) -> None:
        super().__init__(name=f"text_{config.kind}")
        self._embedding = tf.keras.layers.Embedding(vocabulary_size, config.width, name="subwords")
        self._dropout = tf.keras.layers.Dropout(config.dropout)
        self._network = _NETWORKS[config.kind](config)
        self._output = tf.keras.layers.Dense(dim, name="output")

    def call(self, ids: tf.Tensor, training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns vectors `[batch, dim]`, zero where there is no text, and present `[batch]` bool."""
        mask = tf.not_equal(ids, PADDING)
        present = tf.reduce_any(mask, axis=1)
        embedded = self._dropout(self._embedding(ids), training=training)
        embedded *= tf.cast(mask, embedded.dtype)[..., tf.newaxis]
        vectors = self._output(self._network(embedded, mask, training=training))
        return tf.where(present[:, tf.newaxis], vectors, tf.zeros_like(vectors)), present


class _Pooled(tf.keras.layers.Layer):
    """Mean over the words."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(name="pooled")

    def call(self, embedded: tf.Tensor, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return _masked_mean(embedded, mask)


class _Convolutional(tf.keras.layers.Layer):
    """Windows of 2, 3 and 4 words, the strongest answer of each filter (Kim, 2014)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(name="cnn")
        self._convolutions = [
            tf.keras.layers.Conv1D(config.width, size, padding="same", activation="relu", name=f"window{size}")
            for size in (2, 3, 4)
        ]

    def call(self, embedded: tf.Tensor, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        answers = tf.concat([convolution(embedded) for convolution in self._convolutions], -1)
        return tf.reduce_max(answers * tf.cast(mask, answers.dtype)[..., tf.newaxis], axis=1)  # relu: none below 0


class _Recurrent(tf.keras.layers.Layer):
    """Both directions of a recurrent network, their last states side by side."""

    def __init__(self, config: TextConfig, cell: type) -> None:
        super().__init__(name=cell.__name__.lower())
        self._directions = tf.keras.layers.Bidirectional(cell(config.width // 2))

    def call(self, embedded: tf.Tensor, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self._directions(embedded, mask=mask, training=training)


class _Transformer(tf.keras.layers.Layer):
    """Pre-norm self-attention with sinusoidal positions, then the mean."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(name="transformer")
        self._width = config.width
        self._blocks = [
            Block(config.width, dropout=config.dropout, name=f"block{layer}") for layer in range(config.layers)
        ]
        self._norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)

    def call(self, embedded: tf.Tensor, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = embedded * self._width**0.5 + positions(tf.shape(embedded)[1], self._width)
        for block in self._blocks:
            x = block(x, mask, training=training)
        return _masked_mean(self._norm(x), mask)


_NETWORKS: dict[str, Callable[[TextConfig], tf.keras.layers.Layer]] = {
    "pooled": _Pooled,
    "cnn": _Convolutional,
    "gru": lambda config: _Recurrent(config, tf.keras.layers.GRU),
    "lstm": lambda config: _Recurrent(config, tf.keras.layers.LSTM),
    "transformer": _Transformer,
}


def _masked_mean(x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, width]` of `[batch, length, width]`, zero where nothing is valid."""
    weights = tf.cast(mask, x.dtype)[..., tf.newaxis]
    return tf.reduce_sum(x * weights, axis=1) / tf.maximum(tf.reduce_sum(weights, axis=1), 1.0)


def _sample(texts: Sequence[str]) -> Iterator[str]:
    step = max(1, -(-len(texts) // _SAMPLE))
    for text in texts[::step]:
        line = " ".join(text[:_LONGEST].replace("\0", " ").encode("utf-8", "ignore").decode().split())
        if line:
            yield line


def _without_rare_characters(sample: Sequence[str], *, room: int) -> list[str]:
    """Returns the texts with only the `room` commonest characters left: SentencePiece demands that all fit."""
    normal = [unicodedata.normalize("NFKC", text) for text in sample]
    counts = collections.Counter(itertools.chain.from_iterable(normal))
    del counts[" "]
    rare = [character for character, _ in counts.most_common()[room:]]
    table = str.maketrans(dict.fromkeys(rare, " "))
    return [text.translate(table) for text in normal] if rare else list(sample)
