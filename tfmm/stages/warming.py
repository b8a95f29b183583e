"""Requests that warm an exported model up."""

from __future__ import annotations

import numpy as np

from tfmm import (
    records,
    schema,
)
from tfmm.export import EXAMPLES
from tfmm.ragged import Ragged
from tfmm.records import ExampleLists
from tfmm.serving.queries import Query, build_example, build_request
from tfmm.stages.opening import Catalogue, Shop


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
