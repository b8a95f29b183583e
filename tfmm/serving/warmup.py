"""Writes, reads and replays `assets.extra/tf_serving_warmup_requests`, which TF Serving runs before it serves."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfmm.serving.servable import Servable, predict
from tfmm.serving.tensors import from_proto, predict_request
from tfmm.writing import whole

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000  # TF Serving refuses a version with more
_log = logging.getLogger(__name__)


def write_warmup(version_dir: Path, requests: Mapping[str, Mapping[str, np.ndarray]], *, name: str = "tfmm") -> Path:
    """Returns the file written: one `PredictionLog` per signature of `requests` (signature -> inputs)."""
    path = version_dir / WARMUP_FILE
    with whole(path) as partial, tf.io.TFRecordWriter(str(partial)) as writer:
        for signature, inputs in requests.items():
            request = predict_request(signature, inputs, name=name)
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
    return path


def read_warmup(version_dir: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields (signature, inputs) of each record; nothing where the version has no warm-up file.

    Raises:
        ValueError: where a record is no `PredictionLog` of a predict request, or there are more than 1000.
    """
    path = version_dir / WARMUP_FILE
    if not path.is_file():
        return
    for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
        if number >= MAX_RECORDS:
            raise ValueError(f"Expected at most {MAX_RECORDS} warm-up records in {path}: TF Serving takes no more.")
        request = _request(path, number, record)
        yield request.model_spec.signature_name, {key: from_proto(key, value) for key, value in request.inputs.items()}


def replay(servable: Servable) -> int:
    """Returns how many warm-up requests of its own `servable` answered.

    Raises:
        ServingError, ValueError: where it fails one of them: such a version must not be served.
    """
    count, started = 0, time.monotonic()
    for signature, inputs in read_warmup(servable.path):
        predict(servable, signature, inputs)
        count += 1
    _log.info("version %d answered %d warm-up requests in %.2f s", servable.version, count, time.monotonic() - started)
    return count


def _request(path: Path, number: int, record: bytes) -> predict_pb2.PredictRequest:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError as error:
        raise ValueError(
            f"Expected a PredictionLog in record {number} of {path}, got {len(record)} other bytes."
        ) from error
    if log.WhichOneof("log_type") != "predict_log":
        raise ValueError(
            f"Expected a predict_log in record {number} of {path}, got {log.WhichOneof('log_type') or 'nothing'}."
        )
    return log.predict_log.request
