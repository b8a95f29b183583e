"""`Dataset` -> sharded TFRecords and back: items once, one example a shopper, example lists as ELWC."""

from __future__ import annotations

from tfmm.records.items import ItemTable, findings, read_items, write_items
from tfmm.records.lists import FEATURES, WEIGHT, ExampleLists, serialise_lists, write_example_lists
from tfmm.records.sequences import Sequences, context_terms, write_sequences
from tfmm.records.shards import CorruptRecords, Manifest, Shard, ids_sha256, read_manifest, verified_paths
from tfmm.records.vectors import Encoder

__all__ = [
    "FEATURES",
    "WEIGHT",
    "CorruptRecords",
    "Encoder",
    "ExampleLists",
    "ItemTable",
    "Manifest",
    "Sequences",
    "Shard",
    "context_terms",
    "findings",
    "ids_sha256",
    "read_items",
    "read_manifest",
    "serialise_lists",
    "verified_paths",
    "write_example_lists",
    "write_items",
    "write_sequences",
]
