"""How well what is typed, shown or said finds products: kinds of query x metrics, with intervals.

Each kind is answered by an index from which what would give the answer away is hidden: a title looks for the picture of
its product, of which nothing but the picture is known. No tested product's text was trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Optional

import numpy as np

from tfmm import confidence
from tfmm.alignment import Aligner, own_ranks
from tfmm.content import ASKABLE, IMAGE, SOUND, TEXT
from tfmm.phrases import TWO_FIELDS
from tfmm.ragged import Ragged
from tfmm.sources.dataset import Dataset, KnownQueries
from tfmm.sources.spoken import SpokenQueries
from tfmm.splits import Queries

Table = dict[str, dict[str, dict[str, Any]]]
"""Kind of query -> metric -> `{"mean": ..., "ci95": ..., "n": ...}`."""
LEAST = 10  # products that an attribute value must have to be asked for


@dataclasses.dataclass(frozen=True)
class AskParts:
    """Products by what may be learned from them, as rows of the catalogue.

    Attributes:
        train: any of their content is trained on.
        validation: choose the epoch; nothing of them is trained on.
        test: likewise, read once. Those that a known query asks for, where the shop has such queries.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def ask_parts(dataset: Dataset, *, seed: int = 0, share: float = 0.1, most: int = 1000) -> AskParts:
    """Returns the products in three parts that share no product and no text.

    Args:
        dataset: with or without known queries.
        seed: of the draw.
        share: of the products that are held out for validation, and for test where there are no known queries; those
            with picture and text first.
        most: held out at most, each time.
    """
    text = dataset.items.text.astype(str)
    size = min(most, int(share * len(text)))
    order = np.random.default_rng(seed).permutation(len(text))
    order = order[np.argsort(~(dataset.items.images.present & (text != ""))[order], kind="stable")]
    if dataset.queries is None:
        test, order = order[:size], order[size:]
    else:
        asked = set(dataset.queries.texts) - {""}
        tested = np.isin(np.arange(len(text)), dataset.queries.relevant.values)
        test = np.flatnonzero(tested | np.array([title in asked for title in text]))
        order = order[~np.isin(order, test)]
    validation, train = order[:size], order[size:]
    held = set(text[test]) | set(text[validation])
    same = np.array([title != "" and title in held for title in text])
    return AskParts(train[~same[train]], validation, np.sort(test))


def ask_tables(aligner: Aligner, dataset: Dataset, parts: AskParts, *, fields: tuple[str, ...]) -> Table:
    """Returns every kind of query that this catalogue allows, measured on its test products.

    Args:
        aligner: trained on `parts.train`.
        dataset: whose catalogue it is.
        parts: of `ask_parts`.
        fields: one or two categorical fields, such as type and colour, by which what is found is judged.
    """
    found: Table = {}
    for kind, index in aligner.pairs:
        corpus, asked = aligner.embed_all(only=(index,)), aligner.embed_all(only=(kind,))
        rows = parts.test[_known(asked)[parts.test] & _known(corpus)[parts.test]]
        if len(rows):
            found[f"{kind} -> its product's {index}"] = rank_metrics(own_ranks(asked[rows], _ranked(corpus), rows))
    if dataset.queries is not None and IMAGE in aligner.modalities:
        corpus = _ranked(aligner.embed_all(only=(IMAGE,)))
        found.update(_known_queries(aligner, dataset.queries, corpus))
    labels = [_labels(dataset, fields[: count + 1]) for count in range(len(fields))]
    for names, label in zip(("one word", "two words"), labels):
        for index in (name for name in ASKABLE if {name, TEXT} <= set(aligner.modalities)):
            corpus = aligner.embed_all(only=(index,))
            words, relevant = _askable_words(label, _known(corpus))
            if len(words):
                asked = aligner.embed_texts(words)
                found[f"{names} -> {index}"] = _precision(asked, corpus, relevant, words)
    for kind, name in (("picture", IMAGE), ("sound", SOUND)):
        if labels and name in aligner.modalities:
            found[f"{kind} -> alike"] = _alike(aligner, name, labels[-1], parts)
    return found


def spoken_tables(aligner: Aligner, dataset: Dataset, spoken: SpokenQueries, heard: np.ndarray) -> Table:
    """Returns how well recordings find products of the colour and type that they ask for, and beside it typed words.

    Args:
        aligner: of the catalogue.
        dataset: whose fields are named as those of the recordings; nothing is measured where they are not.
        spoken: recordings that were not learned from.
        heard: `[recordings, dim]`: where they stand.
    """
    wanted = {"articleType": spoken.article_types, "baseColour": spoken.base_colours}
    if not set(wanted) <= set(dataset.items.categorical):
        return {}
    labels = {name: _labels(dataset, (name,)) for name in wanted}
    fits = np.ones((len(spoken), len(dataset.items)), bool)
    for name, values in wanted.items():
        fits &= (values[:, np.newaxis] == "") | (values[:, np.newaxis] == labels[name])
    typed, found = aligner.embed_texts(spoken.texts), {}
    for index in (name for name in (IMAGE, TEXT) if name in aligner.modalities):
        corpus = aligner.embed_all(only=(index,))
        rows = np.flatnonzero((fits & _known(corpus)).sum(axis=1) >= LEAST)
        for kind, asked in (("spoken", heard), ("the same words, typed", typed)):
            if len(rows):
                hits = np.take_along_axis(fits[rows], best_rows(asked[rows], corpus), axis=1).mean(axis=1)
                found[f"{kind} -> {index}"] = {"precision@10": confidence.mean_interval(hits).to_dict()}
    return found


def typed(aligner: Aligner, queries: Queries) -> tuple[Queries, np.ndarray]:
    """Returns the queries narrowed to their first target, and two words that their shoppers type for it.

    Queries whose target has no attributes to name are left out, and all where nothing has a text to compare with. The
    words are `[queries]` str (object).
    """
    phrases = aligner.phrases
    first = queries.targets.values[queries.targets.offsets[:-1]]
    words = phrases.texts[phrases.of_item[first, TWO_FIELDS]]
    rows = np.flatnonzero((words != "") & (TEXT in aligner.modalities))
    narrowed = dataclasses.replace(queries.take(rows), targets=Ragged(first[rows], np.arange(len(rows) + 1)))
    return narrowed, words[rows]


def _known(vectors: np.ndarray) -> np.ndarray:
    return np.abs(vectors).any(axis=1)


def _ranked(corpus: np.ndarray) -> np.ndarray:
    """Returns the corpus where products that have no vector are never found."""
    return np.where(_known(corpus)[:, np.newaxis], corpus, np.nan)


def one_value(values: Ragged) -> np.ndarray:
    """Returns `[rows]` str: the one value of each row, "" where there is none."""
    return values.to_dense(1, fill="")[:, 0].astype(str)


def _labels(dataset: Dataset, fields: tuple[str, ...]) -> np.ndarray:
    """Returns `[num_items]` str: the product's values of these fields, "red dress", the last first; "" if one lacks."""
    columns = [one_value(dataset.items.categorical[field]) for field in fields]
    whole = np.all([column != "" for column in columns], axis=0)
    return np.where(whole, [" ".join(values[::-1]) for values in zip(*columns)], "").astype(object)


def _askable_words(labels: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns words that at least `LEAST` known products have, and for each which products those are."""
    words, counts = np.unique(labels[known].astype(str), return_counts=True)
    kept = words[(counts >= LEAST) & (words != "")].astype(object)
    return kept, {word: (labels == word) & known for word in kept}


def _precision(asked: np.ndarray, corpus: np.ndarray, relevant: Mapping[str, np.ndarray], words: np.ndarray) -> dict:
    best = best_rows(asked, corpus)
    hits = np.array([relevant[word][rows].mean() for word, rows in zip(words, best)])
    return {"precision@10": confidence.mean_interval(hits).to_dict()}


def best_rows(
    asked: np.ndarray, corpus: np.ndarray, *, k: int = 10, without: Optional[np.ndarray] = None
) -> np.ndarray:
    """Returns the rows of the k nearest known products, `[queries, k]`; `without` is one a query, left out."""
    scores = np.where(_known(corpus), asked @ corpus.T, -np.inf)
    if without is not None:
        scores[np.arange(len(asked)), without] = -np.inf
    near = np.argpartition(-scores, k, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")
    return np.take_along_axis(near, order, axis=1)


def _alike(aligner: Aligner, modality: str, labels: np.ndarray, parts: AskParts) -> dict:
    """Returns how many of the ten pictures (or sounds) nearest to a test product's are of products of its words."""
    corpus = aligner.embed_all(only=(modality,))
    known = _known(corpus)
    _, relevant = _askable_words(labels, known)
    rows = np.array([row for row in parts.test if known[row] and labels[row] in relevant], int)
    if not len(rows):
        return {"precision@10": {"mean": 0.0, "ci95": [0.0, 0.0], "n": 0}}
    best = best_rows(corpus[rows], corpus, without=rows)
    hits = (labels[best] == labels[rows][:, np.newaxis]).mean(axis=1)
    return {"precision@10": confidence.mean_interval(hits).to_dict()}


def _known_queries(aligner: Aligner, queries: KnownQueries, corpus: np.ndarray) -> Iterator[tuple[str, dict]]:
    """Yields the known typed queries against pictures: the rank of the first right product."""
    typed = np.flatnonzero((queries.texts != "") & (queries.relevant.lengths > 0))
    if len(typed):
        asked = aligner.embed_texts(queries.texts[typed])
        yield "known queries -> image", rank_metrics(first_ranks(asked, corpus, queries.relevant.take(typed)))


def first_ranks(asked: np.ndarray, corpus: np.ndarray, relevant: Ragged) -> np.ndarray:
    """Returns `[queries]`: the 1-based rank of the best of each query's right rows; inf where the index has none.

    Ties count against us; a row of NaN is never found, and is in nobody's way.
    """
    scores = asked @ corpus.T
    ranks = np.full(len(asked), np.inf)
    for query in range(len(asked)):
        own = scores[query, relevant[query]]
        if len(own) and not np.isnan(own).all():
            wrong = np.ones(scores.shape[1], bool)
            wrong[relevant[query]] = False
            ranks[query] = 1 + (scores[query, wrong] >= np.nanmax(own)).sum()
    return ranks


def rank_metrics(ranks: np.ndarray) -> dict[str, dict[str, Any]]:
    """Returns MRR and recall of one right answer a query, from its 1-based rank."""
    values = {"mrr": 1 / ranks, "recall@1": ranks <= 1, "recall@10": ranks <= 10}
    return {name: confidence.mean_interval(np.asarray(v, np.float64)).to_dict() for name, v in values.items()}
