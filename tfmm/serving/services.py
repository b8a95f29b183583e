"""The RPCs of TF Serving, answered from a `Manager`."""

from __future__ import annotations

import logging
from typing import Any, Callable, NoReturn, Optional

import grpc
from google.protobuf import any_pb2  # type: ignore[import-untyped]
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfmm.serving.errors import ServingError, invalid_argument
from tfmm.serving.manager import Manager
from tfmm.serving.servable import DEFAULT_SIGNATURE, Servable, predict
from tfmm.serving.tensors import from_proto, to_proto

_METADATA_FIELD = "signature_def"
_log = logging.getLogger(__name__)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """`tensorflow.serving.PredictionService`."""

    def __init__(self, manager: Manager, *, max_rows: Optional[int] = None) -> None:
        self._manager, self._max_rows = manager, max_rows

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:  # noqa: N802
        return answered(context, lambda: _predict(self._manager, request, max_rows=self._max_rows))

    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        return answered(context, lambda: _metadata(self._manager, request))

    def Classify(self, request: object, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        _unimplemented(context, "Classify")

    def Regress(self, request: object, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        _unimplemented(context, "Regress")

    def MultiInference(self, request: object, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        _unimplemented(context, "MultiInference")


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """`tensorflow.serving.ModelService`."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return answered(context, lambda: _status(self._manager, request))

    def HandleReloadConfigRequest(self, request: object, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "This server serves one model and finds new versions by itself; write the next version directory instead.",
        )
        raise AssertionError("abort() raises")


def answered(context: grpc.ServicerContext, answer: Callable[[], Any]) -> Any:
    """Returns `answer()`, or ends the call with the code and text of what went wrong."""
    if not context.is_active():  # the client gave up while this request waited for a thread
        context.abort(grpc.StatusCode.CANCELLED, "The client stopped waiting before work began.")
    try:
        return answer()
    except ServingError as error:
        _log.info("refused: %s", error)
        code, details = error.code, error.details
    except Exception as error:
        _log.exception("a request failed")
        code, details = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    context.abort(code, details)
    raise AssertionError("abort() raises")


def _predict(
    manager: Manager, request: predict_pb2.PredictRequest, *, max_rows: Optional[int]
) -> predict_pb2.PredictResponse:
    servable = _find(manager, request)
    signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
    inputs = {name: from_proto(name, proto) for name, proto in request.inputs.items()}
    for name, array in inputs.items():
        if max_rows is not None and array.ndim and len(array) > max_rows:
            raise invalid_argument(
                f"Input {name!r}: expected at most {max_rows} rows in a request, got {len(array)}. "
                "Send them in several requests, or serve with a larger --max_rows."
            )
    outputs = predict(servable, signature, inputs, output_filter=list(request.output_filter))
    response = predict_pb2.PredictResponse(outputs={name: to_proto(array) for name, array in outputs.items()})
    response.model_spec.CopyFrom(_spec(manager, servable))
    response.model_spec.signature_name = signature
    return response


def _metadata(
    manager: Manager, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != _METADATA_FIELD:
            raise invalid_argument(f"Metadata field {field} is not supported")
    servable = _find(manager, request)
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
    packed = any_pb2.Any()
    packed.Pack(signatures)
    return get_model_metadata_pb2.GetModelMetadataResponse(
        model_spec=_spec(manager, servable), metadata={_METADATA_FIELD: packed}
    )


def _status(
    manager: Manager, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    statuses = manager.statuses() if spec.name == manager.name else {}
    if spec.HasField("version"):
        wanted = spec.version.value
        if wanted not in statuses:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find version {wanted} of model {spec.name}")
        statuses = {wanted: statuses[wanted]}
    if not statuses:
        raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, status in statuses.items():
        added = response.model_version_status.add(version=version, state=status.state)
        added.status.error_code = grpc.StatusCode.UNKNOWN.value[0] if status.error else 0
        added.status.error_message = status.error
    return response


def _find(manager: Manager, request: Any) -> Servable:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    return manager.find(spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label)


def _spec(manager: Manager, servable: Servable) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=manager.name)
    spec.version.value = servable.version
    return spec


def _unimplemented(context: grpc.ServicerContext, method: str) -> NoReturn:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"{method} is not offered: the model answers Predict; signature recommend_examples takes tf.Example.",
    )
    raise AssertionError("abort() raises")
