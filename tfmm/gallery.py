"""Some test shoppers and queries with pictures: what they asked, what they got, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tfmm import evaluation, schema
from tfmm.alignment import Aligner
from tfmm.asking import best_rows
from tfmm.candidates import dense_wire
from tfmm.config import Config
from tfmm.content import IMAGE, TEXT
from tfmm.evaluation import Lists
from tfmm.report import Card, GalleryRow
from tfmm.serving.queries import read_reasons
from tfmm.splits import Queries
from tfmm.stages import Catalogue, Shop


def of_shoppers(config: Config, shop: Shop, version: Path, lists: Lists, *, shown: int = 8) -> list[GalleryRow]:
    """Returns some test shoppers with what they had, what they are recommended and why, hits marked."""
    queries = shop.parts.test
    chosen = np.random.default_rng(config.seed).permutation(len(queries))[: config.evaluation.gallery]
    rows = []
    for query in chosen:
        history = [_card(shop, row) for row in queries.history[query][-shown:]]
        right = set(queries.targets[query].tolist())
        best = lists.rows[query][:shown]
        best = best[best >= 0]
        reasons = _reasons(shop, version, queries.take(np.array([query])), best)
        recommended = [_card(shop, row, why, hit=int(row) in right) for row, why in zip(best, reasons)]
        rows.append(GalleryRow(str(shop.dataset.users.ids[queries.user[query]]), tuple(history), tuple(recommended)))
    return rows


def of_searches(config: Config, shop: Catalogue, aligner: Aligner, *, shown: int = 8) -> list[GalleryRow]:
    """Returns some typed queries with the pictures that they find: known queries, or titles of test products."""
    if TEXT not in aligner.modalities:
        return []
    rng, known = np.random.default_rng(config.seed), shop.dataset.queries
    if known is not None:
        chosen = rng.permutation(len(known.texts))[: config.evaluation.gallery]
        texts, right = known.texts[chosen], [set(known.relevant[row].tolist()) for row in chosen]
    else:
        chosen = rng.permutation(shop.asking.test)[: config.evaluation.gallery]
        texts, right = shop.dataset.items.titles[chosen], [{int(row)} for row in chosen]
    corpus = aligner.embed_all(only=(IMAGE,) if IMAGE in aligner.modalities else None)
    best = best_rows(aligner.embed_texts(texts), corpus, k=shown)
    cards = ((_card(shop, row, hit=int(row) in wanted) for row in rows) for rows, wanted in zip(best, right))
    return [GalleryRow(f'"{text}"', (), tuple(row)) for text, row in zip(texts, cards)]


def _reasons(shop: Shop, version: Path, query: Queries, rows: np.ndarray) -> list[str]:
    """Returns a line an item: what most of the towers' score is made of, and what it leans on most."""
    if not len(rows):
        return []
    ids, titles = shop.dataset.items.ids, shop.dataset.items.titles
    asked = {**dense_wire(shop.wire(query), slice(0, 1)), schema.ITEM_IDS: ids[rows][np.newaxis].astype(object)}
    told = evaluation.ask(version, asked, signature="explain")
    reasons = read_reasons([str(item) for item in ids[query.history[0]]], told, most=1)
    title_of = dict(zip(ids[query.history[0]], titles[query.history[0]]))
    return [reason.sentence(title_of) for reason in reasons]


def _card(shop: Catalogue, row: int, caption: str = "", *, hit: bool = False) -> Card:
    items = shop.dataset.items
    return Card(str(items.ids[row]), str(items.titles[row]), items.images.read(int(row)), caption, hit=hit)
