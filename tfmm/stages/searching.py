"""Products -> search in their content: typed, shown or said; and attributes told from the rest."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from tfmm import (
    alignment,
    evaluation,
    hearing,
    looking,
    retrieval,
    tagging,
)
from tfmm.alignment import Aligner
from tfmm.asking import Table, typed
from tfmm.config import Config
from tfmm.content import ASKABLE, TEXT, content_of
from tfmm.encoders.attributes import AttributeVocabulary, learn_attributes
from tfmm.hearing import Hearing
from tfmm.phrases import phrases_of
from tfmm.retrieval import Retriever
from tfmm.service import Search
from tfmm.sources.spoken import SpokenQueries, load_spoken
from tfmm.stages.opening import Catalogue, Shop, mask_of
from tfmm.stages.pictures import TUNED, openable, seen_anew

_log = logging.getLogger(__name__)


def make_aligner(config: Config, shop: Catalogue, vocabulary: AttributeVocabulary) -> Optional[Aligner]:
    """Returns the content tower, untrained; None where nothing could be asked for, or shall be."""
    if not config.alignment.epochs:
        return None
    trained = mask_of(shop.asking.train, len(shop.table))
    content = content_of(shop.table, vocabulary=vocabulary, trained=trained, config=config.content)
    if not set(content.modalities) & set(ASKABLE):
        return None
    table, text = shop.table, shop.encoders.text
    phrases = phrases_of(table.categorical, table.text, subwords=content.subwords, encoder=text, seed=config.seed)
    return Aligner(
        content, phrases, rows=shop.asking.train, tower=config.content, config=config.alignment, encoder=text
    )


def align(
    config: Config, shop: Catalogue, vocabulary: AttributeVocabulary, *, directory: Path
) -> tuple[Optional[Aligner], dict[str, list[float]]]:
    """Returns the content tower, trained, if there is one, and its curves."""
    aligner = make_aligner(config, shop, vocabulary)
    if aligner is None:
        return None, {}
    curves = alignment.fit(
        aligner,
        shop.asking.train,
        validation=shop.asking.validation,
        seed=config.seed,
        directory=directory / "checkpoints" / "alignment",
        logs=directory / "tensorboard" / "alignment",
    )
    return aligner, curves


def align_catalogue(
    config: Config, shop: Catalogue, *, directory: Path
) -> tuple[Catalogue, Aligner, dict[str, dict[str, list[float]]]]:
    """Returns the products, the content tower of a catalogue that is searched and nothing else, and all curves.

    With `finetune.blocks`, the image network then learns from the products' texts, and the tower learns anew from what
    it sees. Where tuning brings nothing on validation, the products stay what they were.

    Raises:
        ValueError: there is nothing to search in, or no picture to tune for.
    """

    def aligned() -> tuple[Aligner, dict[str, list[float]]]:
        vocabulary = learn_attributes(shop.table.categorical, shop.table.numeric, rows=shop.asking.train)
        aligner, curves = align(config, shop, vocabulary, directory=directory)
        if aligner is None:
            raise ValueError("Expected interactions, or texts or pictures to search in, got neither; give some.")
        return aligner, curves

    aligner, curves = aligned()
    if not config.finetune.blocks:
        return shop, aligner, {"alignment": curves}
    encoder = openable(shop)
    untuned = encoder.fingerprint
    tuning = looking.tune(
        encoder,
        aligner,
        shop.dataset.items.images,
        config.finetune,
        train=shop.asking.train,
        validation=shop.asking.validation,
        directory=directory / TUNED,
        logs=directory / "tensorboard" / "finetune",
        seed=config.seed,
        resume=config.resume,
    )
    if encoder.fingerprint != untuned:
        shop = seen_anew(shop, encoder, directory=directory)
        aligner, curves = aligned()
    return shop, aligner, {"finetuning": tuning, "alignment": curves}


def tag(config: Config, shop: Catalogue, aligner: Optional[Aligner], *, directory: Path) -> Table:
    """Returns how well attributes are told from the rest, after suggestions for the gaps stand in `suggested.csv`."""
    categorical = shop.dataset.items.categorical
    if aligner is None or not config.tagging.epochs or not categorical:
        return {}
    tagger = tagging.fit(config.tagging, aligner, categorical, rows=shop.asking.train, seed=config.seed)
    if tagger is None:
        return {}
    path = directory / "suggested.csv"
    count = tagging.write_suggestions(path, tagger, aligner, categorical, ids=shop.dataset.items.ids)
    _log.info("%d missing attributes have a suggestion in %s", count, path)
    return tagging.tag_table(tagger, aligner, categorical, rows=shop.asking.test)


class Ears(NamedTuple):
    """What hears spoken queries, those that measure it, and the curves of its training."""

    hearing: Hearing
    unseen: SpokenQueries
    curves: dict[str, list[float]]


def hear(config: Config, aligner: Optional[Aligner], *, directory: Path) -> Optional[Ears]:
    """Returns ears that recordings have taught, if the run names any.

    Raises:
        ValueError: the model cannot be asked with text.
    """
    if config.speech.data_dir is None:
        return None
    if aligner is None or TEXT not in aligner.modalities:
        raise ValueError(
            "Expected products with texts, and --alignment.epochs above 0, to learn what spoken words mean, got "
            "none; leave --speech.data_dir out."
        )
    taught, unseen = load_spoken(config.speech.data_dir)
    found, curves = hearing.fit(
        taught.sounds,
        taught.texts,
        aligner.embed_texts(taught.texts),
        config=config.speech,
        sound=config.sound,
        seed=config.seed,
        logs=directory / "tensorboard" / "speech",
    )
    return Ears(found, unseen, curves)


def make_search(aligner: Aligner, *, ears: Optional[Ears] = None, history_weight: float = 1.0) -> Search:
    """Returns search in the content of the whole catalogue."""
    return Search(
        aligner.tower,
        aligner.views,
        aligner.content,
        aligner.embed_all(),
        temperature=aligner.temperature,
        history_weight=history_weight,
        speech=ears.hearing if ears else None,
    )


_HISTORY_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)


def choose_history_weight(shop: Shop, aligner: Aligner, retriever: Retriever, *, most: int = 1000) -> float:
    """Returns how much a shopper's taste counts beside what was typed: what is best on validation.

    The shopper of each query types two words for the first of the targets; its NDCG@10 decides.
    """
    chosen = np.random.default_rng(0).permutation(len(shop.parts.validation))[:most]
    queries, texts = typed(aligner, shop.parts.validation.take(np.sort(chosen)))
    if not len(queries):
        return 1.0
    corpus = aligner.embed_all()
    asked = aligner.embed_texts(texts) @ corpus.T / aligner.temperature
    taste = np.concatenate([scores for _, scores in retrieval.score_queries(retriever, queries, shop.context)])
    taste = taste / retriever.config.temperature

    def quality(weight: float) -> float:
        mixed = np.where(np.isfinite(taste), asked + weight * np.nan_to_num(taste), -np.inf)
        return evaluation.mean_ndcg(evaluation.lists_of_scores(mixed, queries.history), queries)

    return max(_HISTORY_WEIGHTS, key=quality)
