"""What differs from the defaults for a source's kind of data, and for a size; `--config` and flags go before it."""

from __future__ import annotations

from typing import Any

SOURCES: dict[str, dict[str, Any]] = {
    "demo": {
        "image.size": 128,
        "retrieval.batch_size": 32,
        "retrieval.learning_rate": 4e-3,
        "retrieval.epochs": 8,
        "reranking.epochs": 5,
        "alignment.epochs": 5,
    },
    "movielens": {
        "splits.kind": "leave_last_out",
        "splits.targets": "next",
        "towers.fusion": "sum",
        "towers.id_dropout": 0.2,
        "retrieval.batch_size": 32,
        "retrieval.learning_rate": 4e-3,
        "retrieval.epochs": 18,
        "retrieval.patience": 5,
        "reranking.epochs": 20,
        "reranking.patience": 4,
        "refit_epochs": 4,
    },
    "fashion": {
        "image.features": "all",
    },
    "amazon": {
        "splits.kind": "leave_last_out",
        "towers.encoder": "attention",
        "towers.heads": 1,
        "towers.dim": 128,
        "towers.fusion": "sum",
        "towers.id_dropout": 0.1,
        "towers.dropout": 0.3,
        "towers.history_dropout": 0.5,
        "towers.max_length": 30,
        "retrieval.batch_size": 512,
        "retrieval.learning_rate": 2e-3,
        "retrieval.id_start": "spectral",
        "retrieval.epochs": 6,
        "refit_anew": True,
        "reranking.vectors": False,
        "reranking.epochs": 6,
    },
    "tiktok": {
        "splits.kind": "published",
        "towers.fusion": "gated",
    },
    "letor": {
        "letor.members": 6,
        "letor.losses": "softmax_loss,pairwise_logistic_loss+ndcg",
        "reranking.epochs": 30,
        "reranking.patience": 6,
        "reranking.batch_size": 32,
        "reranking.width": 512,
        "reranking.layers": 0,
        "reranking.dropout": 0.0,
        "reranking.noise": 0.3,
        "reranking.averaging": 0.99,
    },
}

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "image.size": 64,
        "towers.dim": 32,
        "retrieval.epochs": 4,
        "reranking.epochs": 3,
        "letor.members": 2,
        "refit_epochs": 1,
        "alignment.epochs": 4,
        "candidates.retrieved": 40,
        "candidates.co_visited": 20,
    },
}


def presets(source: str, size: str) -> dict[str, Any]:
    """Returns the settings, by their dotted names; those of a size go before those of a source."""
    return {**SOURCES.get(source, {}), **SIZES.get(size, {})}
