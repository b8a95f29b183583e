"""Lists of documents with labels, in three parts: what a source of judged lists returns."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Optional

import numpy as np

from tfmm.ragged import Ragged


@dataclasses.dataclass(frozen=True)
class JudgedLists:
    """Queries with judged documents, column by column.

    Attributes:
        queries: `[num_queries]` str (object), each once.
        documents: str (object), ids, one row a query, in the order of the file.
        labels: `[total documents]` float32, aligned with `documents.values`; higher is more relevant, never negative.
        features: `[total documents, num_features]` float32; NaN = missing.
        weights: `[total documents]` float32, how much each label counts, or None: all alike.
    """

    queries: np.ndarray
    documents: Ragged
    labels: np.ndarray
    features: np.ndarray
    weights: Optional[np.ndarray] = None

    def __post_init__(self) -> None:
        total = len(self.documents.values)
        if len(self.queries) != len(self.documents) or len(set(self.queries.tolist())) != len(self.queries):
            raise ValueError(
                f"Expected {len(self.documents)} different queries, got {len(self.queries)}, or one twice."
            )
        for name, column in (("labels", self.labels), ("features", self.features), ("weights", self.weights)):
            if column is not None and len(column) != total:
                raise ValueError(f"Expected {total} rows (one a document) in {name}, got {len(column)}.")
        if np.isinf(self.features).any() or not (self.labels >= 0).all():
            raise ValueError("Expected finite or missing (NaN) features and labels of 0 or more.")

    def __len__(self) -> int:
        return len(self.queries)

    def take(self, rows: np.ndarray) -> JudgedLists:
        """Returns the queries of the given rows, in the given order."""
        places = Ragged(np.arange(len(self.labels)), self.documents.offsets).take(rows).values
        return JudgedLists(
            self.queries[rows],
            self.documents.take(rows),
            self.labels[places],
            self.features[places],
            None if self.weights is None else self.weights[places],
        )


@dataclasses.dataclass(frozen=True)
class JudgedParts:
    """What is trained on, what chooses, and what is read once.

    Attributes:
        name: of the data, for directories: "mq2007-agg-A4".
        train: lists.
        validation: lists.
        test: lists.
        files: part -> the names of its files.
    """

    name: str
    train: JudgedLists
    validation: JudgedLists
    test: JudgedLists
    files: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        widths = {name: part.features.shape[1] for name, part in self.parts().items()}
        if len(set(widths.values())) != 1:
            raise ValueError(f"Expected as many features in every part, got {widths}.")
        _check_apart(self.parts())

    @property
    def num_features(self) -> int:
        """How many numbers describe a document."""
        return int(self.train.features.shape[1])

    def parts(self) -> dict[str, JudgedLists]:
        """Returns part -> its lists."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def fingerprint(self) -> str:
        """Returns the SHA-256 of everything in it."""
        digest = hashlib.sha256()
        for part in self.parts().values():
            digest.update("\n".join([*part.queries, *part.documents.values]).encode())
            for column in (part.documents.offsets, part.labels, part.features, part.weights):
                digest.update(b"-" if column is None else np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


def _check_apart(parts: Mapping[str, JudgedLists]) -> None:
    """Raises ValueError where a query stands in two parts with the very same documents: the test would be known."""
    seen: dict[tuple[str, bytes], str] = {}
    for name, lists in parts.items():
        for row, query in enumerate(lists.queries):
            span = slice(lists.documents.offsets[row], lists.documents.offsets[row + 1])
            key = (query, hashlib.sha256(lists.features[span].tobytes()).digest())
            if key in seen:
                raise ValueError(
                    f"Expected each query in one part, got qid:{query} with the same documents in {seen[key]} and "
                    f"{name}. Remove it from one of them: what is trained on must not be tested."
                )
            seen[key] = name
