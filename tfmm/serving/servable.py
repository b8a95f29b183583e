"""A loaded SavedModel that answers requests by signature: what the server, the local model and warm-up all run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that the graph may use)
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.saved_model.loader_impl import parse_saved_model

from tfmm.serving.errors import ServingError, code_of, invalid_argument

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
_MARKS = re.compile(r"\{\{(?:function_)?node [^}]*\}\}\s*|\s*\[Op:[^\]]*\]")
_NOISE = re.compile(r"\s|\[\[|Graph execution error|Detected at node|node: |<stack traces unavailable>|Traceback")
_ASSERTION = re.compile(r"assertion failed: \[(.*?)\](?: \[Condition .*)?$")
_PICTURE = re.compile(r"(?i)unknown image file format|(?:jpeg|png|gif|bmp)\S* .*fail|invalid (?:jpeg|png|gif|bmp)")
_MESSAGE = re.compile(r"Could not parse example|Failed (?:skipping|to parse|reading)|Error parsing")
_NUMBER = re.compile(r"StringToNumberOp could not correctly convert string: (.*)$")


@dataclasses.dataclass(frozen=True)
class Servable:
    """One version of a model in memory; threads may share it.

    Attributes:
        version: its number; 0 where the directory is not named by one.
        path: where it was read.
        signatures: signature name -> what goes in and out.
        functions: signature name -> the graph.
        model: keeps the variables and tables alive for as long as any request holds this value.
    """

    version: int
    path: Path
    signatures: Mapping[str, meta_graph_pb2.SignatureDef]
    functions: Mapping[str, Callable[..., Mapping[str, tf.Tensor]]]
    model: object = dataclasses.field(repr=False)


def load_servable(path: Path) -> Servable:
    """Returns the SavedModel in directory `path`, loaded.

    Raises:
        OSError, ValueError, tf.errors.OpError: whatever TensorFlow says of a directory that it cannot read.
    """
    graph = parse_saved_model(str(path)).meta_graphs[0]
    signatures = {name: signature for name, signature in graph.signature_def.items() if not name.startswith("__")}
    model = tf.saved_model.load(str(path))
    missing = sorted(set(signatures) - set(model.signatures))
    if not signatures or missing:
        raise ValueError(
            f"Expected a SavedModel with callable signatures in {path}, missing {missing or 'all of them'}."
        )
    version = int(path.name) if path.name.isdecimal() else 0
    return Servable(version, path, signatures, dict(model.signatures), model)


def predict(
    servable: Servable, signature: str, inputs: Mapping[str, np.ndarray], *, output_filter: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Returns output name -> array; strings come as `bytes` in an object array.

    Args:
        servable: what answers.
        signature: its name; "" means "serving_default".
        inputs: input name -> array, of the dtypes and ranks that the signature names.
        output_filter: names of the outputs wanted; none = all.

    Raises:
        ServingError: with the code and text that TF Serving gives.
    """
    name = signature or DEFAULT_SIGNATURE
    definition = _definition(servable, name)
    _check_names(definition, inputs)
    wanted = _wanted_outputs(definition, output_filter)
    tensors = {key: _checked(key, inputs[key], definition.inputs[key]) for key in inputs}
    _check_rows(definition, inputs)
    for key, default in definition.defaults.items():
        tensors.setdefault(key, tf.constant(tf.make_ndarray(default)))
    try:
        outputs = servable.functions[name](**tensors)
    except tf.errors.DataLossError as error:  # what the parser of lists says of bytes that are none
        raise invalid_argument(_op_message(error)) from error
    except tf.errors.OpError as error:
        raise ServingError(code_of(error.error_code), _op_message(error)) from error
    except UnicodeDecodeError as error:  # TensorFlow quotes what it could not read, and cannot tell of it then
        raise invalid_argument(_cleaned(bytes(error.object).decode("ascii", "backslashreplace"))) from error
    return {key: outputs[key].numpy() for key in wanted}


def _definition(servable: Servable, name: str) -> meta_graph_pb2.SignatureDef:
    if name not in servable.signatures:
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION,  # not INVALID_ARGUMENT: this is what TF Serving answers
            f'Serving signature key "{name}" not found. Version {servable.version} has {_braces(servable.signatures)}.',
        )
    return servable.signatures[name]


def _check_names(definition: meta_graph_pb2.SignatureDef, inputs: Mapping[str, np.ndarray]) -> None:
    known, came = set(definition.inputs), set(inputs)
    missing = known - came - set(definition.defaults)
    if missing or came - known:
        raise invalid_argument(
            f"input size does not match signature: {len(came)}!={len(known)} len({_braces(came)}) != "
            f"len({_braces(known)}). Sent extra: {_braces(came - known)}. Missing but required: {_braces(missing)}. "
            'Leave an optional input out by giving it empty: "" or 0 per row, or [batch, 0].'
        )


def _check_rows(definition: meta_graph_pb2.SignatureDef, inputs: Mapping[str, np.ndarray]) -> None:
    """Checks that inputs whose number of rows is free have as many of them as each other."""
    shapes = {key: tf.TensorShape(definition.inputs[key].tensor_shape) for key in sorted(inputs)}
    free = [key for key, shape in shapes.items() if shape.rank and shape[0] is None]
    for key in free:
        if len(inputs[key]) != len(inputs[free[0]]):
            raise invalid_argument(
                f"Input {key!r}: expected as many rows as {free[0]!r} has ({len(inputs[free[0]])}), got "
                f"{len(inputs[key])}. Give every input one row a query."
            )


def _wanted_outputs(definition: meta_graph_pb2.SignatureDef, output_filter: Sequence[str]) -> list[str]:
    for position, alias in enumerate(output_filter):
        if alias not in definition.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braces(definition.outputs)}."
            )
        if alias in output_filter[:position]:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
    return list(output_filter) or sorted(definition.outputs)


def _checked(name: str, array: np.ndarray, info: meta_graph_pb2.TensorInfo) -> tf.Tensor:
    expected, shape = tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape)
    came = _dtype(name, array)
    if came != expected:
        raise invalid_argument(f"Input {name!r}: expected {expected.name} of shape {shape}, got {came.name}.")
    if not shape.is_compatible_with(array.shape):
        raise invalid_argument(f"Input {name!r}: expected {expected.name} of shape {shape}, got {list(array.shape)}.")
    try:
        return tf.constant(array, expected)
    except (TypeError, ValueError) as error:  # an object array that holds something else than strings
        raise invalid_argument(f"Input {name!r}: expected {expected.name}: {error}") from error


def _dtype(name: str, array: np.ndarray) -> tf.DType:
    try:
        return tf.as_dtype(array.dtype)
    except TypeError as error:
        raise invalid_argument(f"Input {name!r}: TensorFlow has no dtype like {array.dtype}.") from error


def _op_message(error: tf.errors.OpError) -> str:
    """Returns the op's own sentence, without the graph's nodes and stack traces around it."""
    return _cleaned(str(error.message)) or type(error).__name__


def _cleaned(text: str) -> str:
    first = re.search(r"^\s*\(0\) [A-Z_]+:\s*(.*)$", text, re.MULTILINE)  # "2 root error(s) found. (0) CODE: ..."
    lines = [first.group(1)] if first else [line for line in text.splitlines() if not _NOISE.match(line)]
    cleaned = (_MARKS.sub("", line).strip() for line in lines)
    return _sentence(" ".join(line for line in cleaned if line))


def _sentence(text: str) -> str:
    """Returns what an op says, and what to do about it where the op does not tell."""
    text = _ASSERTION.sub(r"\1", text)
    number = _NUMBER.search(text)
    if number:
        return (
            f"Expected a number in a numeric attribute (field=12.5), got {number.group(1)!r}. Leave it out if unknown."
        )
    if _PICTURE.search(text):
        return f"Expected a whole JPEG, PNG, GIF or BMP, got another: {text[:200]} Save the picture anew, or send none."
    if _MESSAGE.search(text):
        return (
            f"Expected serialised messages of the signature's kind, got other bytes: {text[:200]} Serialise them anew."
        )
    return text


def _braces(names: object) -> str:
    return "{" + ",".join(sorted(names)) + "}"  # type: ignore[call-overload]
