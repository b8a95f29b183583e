"""The variables of a version on disk: the same ones with other values, for the same graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

VARIABLES = Path("variables") / "variables"
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"


def write_variables(source: Path, target: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes the SavedModel's variables `source` to `target`, with other values for the columns.

    Args:
        source: prefix of a checkpoint, such as `<version>/variables/variables`.
        target: likewise.
        columns: name in `Storefront.columns` -> values.
    """
    reader = tf.train.load_checkpoint(str(source))
    kinds, keys = reader.get_variable_to_dtype_map(), _checkpoint_keys(reader)
    changed = {keys[name]: column for name, column in columns.items()}
    names = sorted(kinds)
    whole = [""] * len(names)
    values = tf.raw_ops.RestoreV2(
        prefix=str(source), tensor_names=names, shape_and_slices=whole, dtypes=[kinds[name] for name in names]
    )
    values = [
        tf.constant(changed[name], value.dtype) if name in changed else value for name, value in zip(names, values)
    ]
    tf.raw_ops.SaveV2(prefix=str(target), tensor_names=names, shape_and_slices=whole, tensors=values)


def _checkpoint_keys(reader: Any) -> dict[str, str]:
    """Returns name in `Storefront.columns` -> the name of its values in the checkpoint."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_OBJECTS))

    def children(node: Any) -> dict[str, Any]:
        return {child.local_name: graph.nodes[child.node_id] for child in node.children}

    columns = children(children(graph.nodes[0])["columns"])
    return {name: node.attributes[0].checkpoint_key for name, node in columns.items()}
