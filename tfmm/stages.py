"""The stages of a run, each a function of the configuration and of what the stages before it made."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional, TypeVar, cast

import numpy as np
import tensorflow as tf

from tfmm import (
    alignment,
    closed_form,
    evaluation,
    finetuning,
    hearing,
    looking,
    pipelines,
    records,
    reranking,
    retrieval,
    schema,
    sources,
    tagging,
)
from tfmm.alignment import Aligner
from tfmm.asking import AskParts, Table, ask_parts, typed
from tfmm.candidates import Behaviour, Candidates, Wire, behaviour, example_lists, wire_queries
from tfmm.config import Config
from tfmm.content import ASKABLE, TEXT, content_of
from tfmm.encoders.attributes import AttributeVocabulary, learn_attributes
from tfmm.encoders.image import ImageEncoder
from tfmm.encoders.sentence import SentenceEncoder
from tfmm.encoders.timbre import TimbreEncoder
from tfmm.evaluation import Baseline
from tfmm.export import EXAMPLES
from tfmm.features import ItemFeatures, Reduction, item_features
from tfmm.hearing import Hearing
from tfmm.phrases import phrases_of
from tfmm.progress import counter
from tfmm.ragged import Ragged
from tfmm.reading import RawEncoders
from tfmm.records import ExampleLists, ItemTable, Sequences
from tfmm.reranking import ListwiseScorer
from tfmm.retrieval import Retriever
from tfmm.service import Search
from tfmm.serving.queries import Query, build_example, build_request
from tfmm.sources.dataset import Dataset, Interactions
from tfmm.sources.spoken import SpokenQueries, load_spoken
from tfmm.splits import Queries, Split, split

_log = logging.getLogger(__name__)
ITEM_ITEM = ("ease", "transitions", "item_knn")
"""Closed forms that can stand beside the towers; "auto" takes the one that is best on validation."""
_TUNED = Path("checkpoints") / "finetune"


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The products as every later stage sees them.

    Attributes:
        dataset: as it was read.
        table: the items with their encoded vectors.
        encoders: which made them.
        records: where the TFRecords stand.
        asking: which products search may learn from.
    """

    dataset: Dataset
    table: ItemTable
    encoders: RawEncoders
    records: Path
    asking: AskParts


@dataclasses.dataclass(frozen=True)
class Shop(Catalogue):
    """Products and shoppers.

    Attributes:
        parts: who may see what.
        context: "field=value" of every user.
        reductions: of modalities whose reduction is settled: towers were trained on it.
    """

    parts: Split
    context: Ragged
    reductions: Mapping[str, Reduction] = dataclasses.field(default_factory=dict)

    def wire(self, queries: Queries) -> Wire:
        """Returns the queries as they go over the wire."""
        return wire_queries(queries, self.dataset.items.ids, self.dataset.event_types, self.context)


def load(config: Config) -> Dataset:
    """Returns the data that the configuration names."""
    return sources.load(
        config.source, data_dir=config.data_dir, subset=config.subset, size=config.size, seed=config.seed
    )


def encode(config: Config, dataset: Dataset, directory: Path) -> tuple[ItemTable, RawEncoders]:
    """Returns the items with vectors of all their modalities; what was encoded before is read from the records."""
    items = dataset.items
    image = ImageEncoder(config.image) if config.image_encoder == "pretrained" and items.images.present.any() else None
    text = SentenceEncoder() if config.text_encoder == "pretrained" and (items.text != "").any() else None
    sound = TimbreEncoder(config.sound) if config.sound_encoder == "timbre" and items.sounds.present.any() else None
    made = (("image", image), ("text", text), ("sound", sound))
    encoders = {name: encoder for name, encoder in made if encoder is not None}
    with counter("encoding items", total=len(items)) as advance:
        done = [0]

        def progress(now: int, _: int) -> None:
            advance(now - done[0])
            done[0] = now

        table = records.write_items(dataset, directory, encoders=encoders, progress=progress)
    return table, RawEncoders(image, text, sound)


def open_catalogue(config: Config, dataset: Dataset, directory: Path) -> Catalogue:
    """Returns the products, encoded; records stand in `directory`. What could not be read joins the findings."""
    table, encoders = encode(config, dataset, directory)
    dataset = dataclasses.replace(dataset, findings=dataset.findings + records.findings(table, dataset.items))
    return Catalogue(dataset, table, encoders, directory, ask_parts(dataset, seed=config.seed))


def open_shop(config: Config, known: Catalogue) -> Shop:
    """Returns the products, and the shoppers' events, cut into periods."""
    columns = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)}
    dataset = known.dataset
    return Shop(**columns, parts=split(dataset, config.splits), context=records.context_terms(dataset.users))


def features_of(config: Config, shop: Shop, modalities: Optional[tuple[str, ...]] = None) -> ItemFeatures:
    """Returns what the towers read; only items with a training event teach vocabularies, and only they have ids."""
    text = config.text if config.text_encoder == "trained" else None
    trained = _with_events(shop, shop.parts.train)
    return item_features(
        shop.table,
        trained=trained,
        modalities=modalities,
        text=text,
        reduce_to=config.content_dim,
        reductions=shop.reductions,
        neighbours=_wanted_beside(shop) if config.missing == "neighbours" else None,
    )


def _wanted_beside(shop: Shop) -> closed_form.sp.csr_matrix:
    """Returns `[num_items, num_items]`: what the same shoppers wanted, as the retriever's events say."""
    return closed_form.item_knn(_matrix(shop, shop.parts.train), neighbours=20, shrink=10.0)


def _with_events(shop: Shop, events: Interactions) -> np.ndarray:
    return _mask(events.item, len(shop.table))


def _mask(rows: np.ndarray, count: int) -> np.ndarray:
    found = np.zeros(count, dtype=bool)
    found[rows] = True
    return found


def train_towers(
    config: Config, shop: Shop, items: ItemFeatures, *, directory: Path
) -> tuple[Retriever, dict[str, list[float]]]:
    """Returns the towers trained on the retriever's period, and the training curves."""
    retriever = begin_towers(config, shop, items, shop.parts.train)
    return retriever, _fit_towers(config, shop, retriever, shop.parts.train, name="train", directory=directory)


def refit_towers(config: Config, shop: Shop, early: Retriever, items: ItemFeatures, *, directory: Path) -> Retriever:
    """Returns the towers that are served: trained with the reranker's period added.

    By default they are `early`, trained a little further: they stay close to those that the reranker's lists came from.
    Where validation finds them no better, they stay those. With `refit_anew` they are trained from the start.
    """
    if config.refit_anew:
        retriever = begin_towers(config, shop, items, shop.parts.refit)
        _fit_towers(config, shop, retriever, shop.parts.refit, name="refit", directory=directory)
        return retriever
    retriever = make_towers(config, shop, items, shop.parts.refit)
    retriever.set_weights(early.get_weights())
    _go_on(config, shop, retriever, shop.parts.refit, epochs=config.refit_epochs, name="refit", directory=directory)
    return retriever


def _go_on(
    config: Config,
    shop: Shop,
    retriever: Retriever,
    events: Interactions,
    *,
    epochs: int,
    name: str,
    directory: Path,
) -> None:
    """Trains towers gently from the weights they have, and puts those back where validation finds none better."""
    weights = retriever.get_weights()
    before = retrieval.ndcg(retriever, shop.parts.validation.sample(), shop.context)
    if epochs:
        retriever.config = dataclasses.replace(
            config.retrieval, epochs=epochs, learning_rate=config.retrieval.learning_rate / 4
        )
        curves = _fit_towers(config, shop, retriever, events, name=name, directory=directory)
        after = max(curves["validation ndcg@10"])
        _log.info("%s: validation ndcg@10 %.4f -> %.4f", name, before, after)
        if after < before:
            retriever.set_weights(weights)


def finetune(
    config: Config, shop: Shop, items: ItemFeatures, retriever: Retriever, *, directory: Path
) -> tuple[Shop, ItemFeatures, Retriever, dict[str, list[float]]]:
    """Returns the shop as the tuned image network sees it, the towers trained on with it, and the network's curves.

    Where tuning brings nothing on the validation queries, the shop and the towers stay what they were.

    Raises:
        ValueError: the model does not look at pictures.
    """
    encoder = _openable(shop)
    untuned = encoder.fingerprint
    curves = finetuning.finetune(
        encoder,
        retriever,
        items,
        finetuning.Lessons(shop.dataset.items.images, shop.parts.train, shop.parts.validation, shop.context),
        config.finetune,
        directory=directory / _TUNED,
        logs=directory / "tensorboard" / "finetune",
        seed=config.seed,
        resume=config.resume,
    )
    if encoder.fingerprint == untuned:
        return shop, items, retriever, curves
    shop = _reduced_as(_seen_anew(shop, encoder, directory=directory), items)
    items = features_of(config, shop)
    tuned = make_towers(config, shop, items, shop.parts.train)
    tuned.set_weights(retriever.get_weights())
    epochs = config.finetune.tower_epochs
    _go_on(config, shop, tuned, shop.parts.train, epochs=epochs, name="finetuned", directory=directory)
    return shop, items, tuned, curves


def _openable(shop: Catalogue) -> ImageEncoder:
    if shop.encoders.image is None:
        raise ValueError(
            "Expected pictures, and --image_encoder pretrained, to open blocks of the image network, got none; leave "
            "--finetune.blocks at 0."
        )
    return shop.encoders.image


_Kind = TypeVar("_Kind", bound=Catalogue)


def finetuned(config: Config, shop: _Kind, *, directory: Path) -> _Kind:
    """Returns the shop as the image network of a finished run sees it: tuned, if the run did that.

    Raises:
        FileNotFoundError: the run's checkpoints are gone.
    """
    encoder = shop.encoders.image
    if not config.finetune.blocks or encoder is None:
        return shop
    items = features_of(config, shop) if isinstance(shop, Shop) else None
    untuned = encoder.fingerprint
    finetuning.restore(encoder, directory / _TUNED)
    if encoder.fingerprint == untuned:
        return shop
    seen = _seen_anew(shop, encoder, directory=directory)
    return seen if items is None else cast(_Kind, _reduced_as(cast(Shop, seen), items))


def _reduced_as(shop: Shop, items: ItemFeatures) -> Shop:
    """Returns the shop whose pictures are reduced as they were: towers were trained on it."""
    return dataclasses.replace(shop, reductions={finetuning.IMAGE: items.reductions[finetuning.IMAGE]})


def _seen_anew(shop: _Kind, encoder: ImageEncoder, *, directory: Path) -> _Kind:
    """Returns the products with pictures encoded by the tuned network; the run keeps these records.

    The frozen network's stay where they are, for other runs.
    """
    table, modality = shop.table, finetuning.IMAGE
    vectors = {
        name: np.where(table.present[name][:, np.newaxis], column.astype(np.float32), np.nan)
        for name, column in table.vectors.items()
        if name != modality
    }
    products = dataclasses.replace(shop.dataset.items, vectors=vectors)
    again = dataclasses.replace(shop.dataset, items=products)
    table = records.write_items(again, directory / "records", encoders={modality: encoder})
    return dataclasses.replace(shop, table=table)


def train_ablated(config: Config, shop: Shop, modalities: tuple[str, ...], *, directory: Path) -> Retriever:
    """Returns towers that know nothing of the items but these modalities, trained as long as those that are served."""
    items = features_of(config, shop, modalities).with_ids(_with_events(shop, shop.parts.refit))
    retriever = begin_towers(config, shop, items, shop.parts.refit)
    name = "only-" + "-".join(modalities)
    _fit_towers(config, shop, retriever, shop.parts.refit, name=name, directory=directory)
    return retriever


def make_towers(config: Config, shop: Shop, items: ItemFeatures, events: Interactions) -> Retriever:
    """Returns untrained towers."""
    users = shop.dataset.users
    return Retriever(
        config.towers,
        config.retrieval,
        items=items,
        context=learn_attributes(users.categorical, {}, rows=np.unique(events.user)),
        num_events=len(shop.dataset.event_types),
        frequency=np.bincount(events.item, minlength=items.num_items),
        launched=shop.table.launched,
        until=int(events.time.max(initial=0)),
    )


def begin_towers(config: Config, shop: Shop, items: ItemFeatures, events: Interactions) -> Retriever:
    """Returns towers that are not trained, but may know from the events which items are near one another."""
    retriever = make_towers(config, shop, items, events)
    if config.retrieval.id_start == "spectral":
        vectors = closed_form.spectral_vectors(_matrix(shop, events), dim=config.towers.dim)
        retriever.towers.candidate.begin_from(vectors)
    return retriever


def _matrix(shop: Shop, events: Interactions) -> closed_form.sp.csr_matrix:
    """Returns `[num_users, num_items]`: who had what."""
    return closed_form.interaction_matrix(
        events.user, events.item, num_users=len(shop.dataset.users), num_items=len(shop.table)
    )


def _fit_towers(
    config: Config, shop: Shop, retriever: Retriever, events: Interactions, *, name: str, directory: Path
) -> dict[str, list[float]]:
    ids, types = shop.dataset.items.ids, shop.dataset.event_types
    records.write_sequences(_sequences(shop, events), shop.records, name, item_ids=ids, event_types=types)
    batches = pipelines.sequence_batches(
        shop.records,
        name,
        batch_size=config.retrieval.batch_size,
        max_length=config.towers.max_length,
        shuffle=True,
        seed=config.seed,
    )
    return retrieval.fit(
        retriever,
        batches,
        validation=shop.parts.validation.sample(),
        context=shop.context,
        directory=directory / "checkpoints" / name,
        logs=directory / "tensorboard" / name,
        resume=config.resume,
    )


def _sequences(shop: Shop, events: Interactions) -> Sequences:
    users = shop.dataset.users
    grouped = {
        name: Ragged.from_groups(events.user, getattr(events, column), len(users))
        for name, column in (("items", "item"), ("times", "time"), ("events", "event"))
    }
    active = np.flatnonzero(grouped["items"].lengths > 1)
    taken = {name: column.take(active) for name, column in grouped.items()}
    return Sequences(user_ids=users.ids[active], context=shop.context.take(active), **taken)


class ItemItem(NamedTuple):
    """Item-item weights, and how much less each older item of a history counts."""

    weights: Any
    decay: float


def chosen_form(config: Config, baselines: Mapping[str, Baseline]) -> str:
    """Returns the closed form that stands beside the towers: the one that is wanted, or validation's choice."""
    if config.item_item != "auto":
        return config.item_item
    return max(ITEM_ITEM, key=lambda name: baselines[name].validation)


def item_item(config: Config, shop: Shop, events: Interactions, baselines: Mapping[str, Baseline]) -> ItemItem:
    """Returns item-item weights from the events, of the kind that is wanted, at the settings that validation chose."""
    count, kind = len(shop.table), chosen_form(config, baselines)
    chosen: Mapping[str, Any] = baselines[kind].settings
    if kind == "transitions":
        content = _content_rows(config, shop) if chosen["content"] else None
        weights = evaluation.transitions(events, count, content, chosen)
        if isinstance(weights, np.ndarray):  # a sparse one has weights of what was had only
            had = _with_events(shop, events)
            weights[~had] = weights[:, ~had] = 0  # as of products that are added later
        return ItemItem(weights, chosen["decay"])
    matrix = _matrix(shop, events)
    if kind == "ease":
        return ItemItem(evaluation.ease(matrix, l2=chosen["l2"]), chosen["decay"])
    near = closed_form.item_knn(matrix, neighbours=config.candidates.neighbours, shrink=chosen["shrink"])
    return ItemItem(near, chosen["decay"])


def make_candidates(
    config: Config, shop: Shop, retriever: Retriever, items: ItemFeatures, events: Interactions, known: ItemItem
) -> Candidates:
    """Returns candidate generation with what `events` say of the items."""
    settings = config.candidates
    if settings.decay is None:
        settings = dataclasses.replace(settings, decay=known.decay)
    said: Behaviour = behaviour(events, shop.table.launched, item_item=known.weights, config=settings)
    dataset = shop.dataset
    ids, types = dataset.items.ids, dataset.event_types
    return Candidates(retriever, items, said, settings, ids=ids, event_types=types, index=config.index)


def train_reranker(
    config: Config, shop: Shop, candidates: Candidates, *, directory: Path
) -> tuple[ListwiseScorer, dict[str, list[float]]]:
    """Returns a scorer trained on lists of a period that the candidates' retriever has not seen, and its curves."""
    train = _lists(config, shop, candidates, shop.parts.rerank, name=_RERANK_TRAIN)
    validation = _lists(config, shop, candidates, shop.parts.validation.sample(), name="rerank_validation")
    scorer = ListwiseScorer(config.reranking)
    curves = reranking.fit(
        scorer,
        config.reranking,
        train=train,
        validation=validation,
        directory=directory / "checkpoints" / "reranker",
        logs=directory / "tensorboard" / "reranker",
    )
    return scorer, curves


_RERANK_TRAIN = "rerank_train"
_WEIGHED_ON = 1000  # validation queries, at most


def recalibrate_reranker(config: Config, shop: Shop, candidates: Candidates, scorer: ListwiseScorer) -> None:
    """Weighs the scorer's terms again for the candidates that are served, on validation."""
    chosen = np.random.default_rng(0).permutation(len(shop.parts.validation))[:_WEIGHED_ON]
    queries = shop.parts.validation.take(np.sort(chosen))
    reranking.recalibrate(scorer, _lists(config, shop, candidates, queries, name="served_validation"))


def _lists(config: Config, shop: Shop, candidates: Candidates, queries: Queries, *, name: str) -> tf.data.Dataset:
    """Returns what a scorer reads of the queries' candidates, and which are right, after the lists are written."""
    lists = example_lists(candidates, queries, shop.wire(queries), shop.dataset.items.ids)
    _log.info("%s: %d of %d lists hold a target", name, len(lists.items), len(queries))
    records.write_example_lists(lists, shop.records, name)
    batches = pipelines.example_list_batches(
        shop.records,
        name,
        batch_size=config.reranking.batch_size,
        list_size=candidates.size,
        shuffle=name == _RERANK_TRAIN,
        seed=config.seed,
    )
    return reranking.featurise(batches, candidates, vectors=config.reranking.vectors)


def make_aligner(config: Config, shop: Catalogue, vocabulary: AttributeVocabulary) -> Optional[Aligner]:
    """Returns the content tower, untrained; None where nothing could be asked for, or shall be."""
    if not config.alignment.epochs:
        return None
    trained = _mask(shop.asking.train, len(shop.table))
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
    encoder = _openable(shop)
    untuned = encoder.fingerprint
    tuning = looking.tune(
        encoder,
        aligner,
        shop.dataset.items.images,
        config.finetune,
        train=shop.asking.train,
        validation=shop.asking.validation,
        directory=directory / _TUNED,
        logs=directory / "tensorboard" / "finetune",
        seed=config.seed,
        resume=config.resume,
    )
    if encoder.fingerprint != untuned:
        shop = _seen_anew(shop, encoder, directory=directory)
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


def baselines(config: Config, shop: Shop) -> dict[str, Baseline]:
    """Returns every baseline at the settings that validation chose."""
    return evaluation.fit_baselines(
        shop.parts.refit,
        shop.parts.validation,
        num_users=len(shop.dataset.users),
        num_items=len(shop.table),
        content=_content_rows(config, shop),
        launched=shop.table.launched,
    )


def _content_rows(config: Config, shop: Shop) -> np.ndarray:
    """Returns `[num_items, features]`: what items are like, as frozen encoders and their attributes say."""
    trained = _with_events(shop, shop.parts.refit)
    items = item_features(shop.table, trained=trained, reduce_to=config.content_dim, reductions=shop.reductions)
    return items.content_rows()


def set_seed(seed: int) -> None:
    """Makes what follows repeatable, as far as threads allow."""
    tf.keras.utils.set_random_seed(seed)


def warmup_requests(shop: Catalogue) -> dict[str, dict[str, np.ndarray]]:
    """Returns one request for each signature: two histories, a typed query where one can be, and an item."""
    ids = shop.dataset.items.ids
    if isinstance(shop, Shop):
        wire = shop.wire(shop.parts.test.take(np.arange(min(2, len(shop.parts.test)))))
    else:
        wire = {schema.HISTORY: Ragged.from_rows([[ids[0]], [ids[-1]]], object), schema.QUERY_TIME: np.zeros(2, int)}
    asked = [Query(history=[str(item) for item in history]) for history in wire[schema.HISTORY]]
    dense, typed = build_request(asked), build_request([Query(text="a")])
    lists = ExampleLists(
        items=Ragged.from_rows([ids[:5].tolist()] * len(asked), object),
        labels=np.zeros(min(5, len(ids)) * len(asked), np.float32),
        query=wire,
    )
    text, nothing = np.array([str(shop.table.titles[0])], dtype=object), np.array([b""], object)
    sound = {schema.SOUND: nothing} if shop.encoders.sound else {}
    about = np.array([ids[:2]] * len(asked), dtype=object)
    return {
        "serving_default": typed if shop.encoders.text else dense,
        **{name: dense for name in ("recommend", "retrieve", "embed_query")},
        "recommend_examples": {EXAMPLES: np.array([build_example(query) for query in asked], dtype=object)},
        "rank": {EXAMPLES: np.array(list(records.serialise_lists(lists)), dtype=object)},
        "embed_item": {"text": text, "image": nothing, "attributes": np.zeros([1, 0], object), **sound},
        "similar_items": {"item_ids": ids[:1].astype(object)},
        **{name: {**dense, "item_ids": about} for name in ("explain", "audience")},
    }
