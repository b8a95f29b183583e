"""Asks a server that speaks TF Serving's API: `tfmm serve` or the official one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from tfmm.serving.errors import ServingError
from tfmm.serving.queries import RECOMMEND, Answer, Query, build_request, read_answers
from tfmm.serving.tensors import from_proto, predict_request


class Client:
    """One connection; threads may share it. Every call raises `ServingError` where the server refuses or is away.

    Args:
        target: "host:port".
        name: the model's name on the server.
        timeout: seconds that one call may take.
    """

    def __init__(self, target: str, *, name: str = "tfmm", timeout: float = 10.0) -> None:
        self.target, self.name, self.timeout = target, name, timeout
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(target, options=unlimited)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def predict(self, inputs: Mapping[str, np.ndarray], *, signature: str = RECOMMEND) -> dict[str, np.ndarray]:
        """Returns output name -> array; strings come as `bytes` in an object array."""
        response = self._call(self._prediction.Predict, predict_request(signature, inputs, name=self.name))
        return {key: from_proto(key, proto) for key, proto in response.outputs.items()}

    def recommend(self, **query: Any) -> Answer:
        """Returns (item id, score), best first, for one query; the arguments are the fields of `Query`."""
        return self.recommend_batch([Query(**query)])[0]

    def recommend_batch(self, queries: Sequence[Query], *, signature: str = RECOMMEND) -> list[Answer]:
        """Returns one answer per query, in one request."""
        return read_answers(self.predict(build_request(queries), signature=signature)) if queries else []

    def metadata(self) -> dict[str, meta_graph_pb2.SignatureDef]:
        """Returns signature name -> what goes in and out."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self.name
        response = self._call(self._prediction.GetModelMetadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return dict(signatures.signature_def)

    def status(self) -> dict[int, tuple[str, str]]:
        """Returns version -> (state, error message): `{7: ("AVAILABLE", "")}`."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self.name
        response = self._call(self._model.GetModelStatus, request)
        state_name = get_model_status_pb2.ModelVersionStatus.State.Name
        return {
            status.version: (state_name(status.state), status.status.error_message)
            for status in response.model_version_status
        }

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise self._explained(error) from error

    def _explained(self, error: Any) -> ServingError:
        code, details = error.code(), error.details() or ""
        if code == grpc.StatusCode.UNAVAILABLE:
            details = f"no server answers at {self.target} ({details}). Start one with `tfmm serve`."
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            details = f"{self.target} did not answer within {self.timeout} s."
        return ServingError(code, details)
