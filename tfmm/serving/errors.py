"""The one error of serving: a gRPC code and a sentence, the same whether the model is local or behind a server."""

from __future__ import annotations

import grpc


class ServingError(RuntimeError):
    """A request that was refused or failed.

    Attributes:
        code: the gRPC status code, also where no network was involved.
        details: what was expected, what came, and what to do.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


def invalid_argument(details: str) -> ServingError:
    """Returns the error for a request that the model can never answer."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, details)


def code_of(number: int) -> grpc.StatusCode:
    """Returns the gRPC code of a TensorFlow error code; both count as google.rpc.Code does."""
    by_number = {code.value[0]: code for code in grpc.StatusCode}
    return by_number.get(number, grpc.StatusCode.UNKNOWN)
