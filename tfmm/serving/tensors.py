"""Numpy arrays to and from the messages of TF Serving."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow_serving.apis import predict_pb2

from tfmm.serving.errors import invalid_argument

MAX_ELEMENTS, MAX_REPEATED = 1 << 26, 1 << 20
"""A proto may say "this one value, n times"; beyond this many that is an attack or a mistake (64M, 0.5 GB of numbers;
1M of a string, which takes as much work as a million)."""

# The repeated field of each dtype. Clients of TF Serving read `outputs["scores"].float_val` without decoding, so
# answers are written into these fields and never as `tensor_content`.
_FIELDS = {
    tf.string: "string_val",
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int64: "int64_val",
    tf.int32: "int_val",
    tf.int16: "int_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.uint16: "int_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
}


def to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Returns the array as a proto whose typed field (`float_val`, `string_val`, ...) is filled."""
    dtype = tf.as_dtype(array.dtype)
    if dtype not in _FIELDS:
        return tf.make_tensor_proto(array)
    dimensions = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in array.shape]
    shape = tensor_shape_pb2.TensorShapeProto(dim=dimensions)
    values = array.ravel().tolist()
    if dtype == tf.string:
        values = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    return tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, tensor_shape=shape, **{_FIELDS[dtype]: values})


def from_proto(name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Returns the array that input `name` holds; strings come as `bytes` in an object array.

    Raises:
        ServingError: INVALID_ARGUMENT where the shape and the values disagree, or the shape is absurd.
    """
    sizes = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in sizes):
        raise invalid_argument(f"Input {name!r}: expected a fully known shape, got {sizes or 'an unknown rank'}.")
    elements = 1
    for size in sizes:  # Python integers: no overflow
        elements *= size
    if elements > MAX_ELEMENTS:
        raise invalid_argument(f"Input {name!r}: shape {sizes} holds more than {MAX_ELEMENTS} values.")
    if len(proto.string_val) < elements and proto.dtype == tf.string.as_datatype_enum and elements > MAX_REPEATED:
        raise invalid_argument(f"Input {name!r}: shape {sizes} repeats a string more than {MAX_REPEATED} times.")
    try:
        return tf.make_ndarray(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise invalid_argument(
            f"Input {name!r}: the values do not fill a {_dtype_name(proto.dtype)} of shape {sizes}: {error}"
        ) from error


def predict_request(
    signature: str, inputs: Mapping[str, np.ndarray], *, name: str = "tfmm"
) -> predict_pb2.PredictRequest:
    """Returns the request that asks model `name` for `signature`."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for key, array in inputs.items():
        request.inputs[key].CopyFrom(to_proto(np.asarray(array)))
    return request


def _dtype_name(number: int) -> str:
    try:
        return tf.as_dtype(number).name
    except TypeError:
        return f"dtype {number}"
