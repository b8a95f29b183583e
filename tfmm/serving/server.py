"""A gRPC server that speaks TF Serving's own API, so that a client written for TF Serving works unchanged."""

from __future__ import annotations

import dataclasses
import logging
import signal
import threading
from concurrent import futures
from pathlib import Path
from typing import Optional

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from tfmm.serving.manager import Manager
from tfmm.serving.services import ModelService, PredictionService

_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """How the server spends the machine.

    Attributes:
        workers: requests computed at once; TensorFlow lets go of Python's lock while a graph runs.
        max_message_mb: a larger request is refused with RESOURCE_EXHAUSTED.
        max_rows: queries or products in one request; more are refused, since memory grows with them. None: no limit.
        max_waiting: requests that may wait or run at once; one more is refused with RESOURCE_EXHAUSTED. None: no limit.
        poll_seconds: how often to look for a newer version.
        grace_seconds: how long requests in flight may take to end after SIGTERM.
        op_threads: threads inside one operation (intra-op); None leaves it to TensorFlow, which takes every core. Many
            small requests at once are served best by 1, large pictures one at a time by all cores.
    """

    workers: int = 4
    max_message_mb: int = 64
    max_rows: Optional[int] = 1024
    max_waiting: Optional[int] = None
    poll_seconds: float = 2.0
    grace_seconds: float = 10.0
    op_threads: Optional[int] = None

    def __post_init__(self) -> None:
        for field in ("workers", "max_message_mb", "max_rows", "max_waiting", "poll_seconds", "op_threads"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise ValueError(f"Expected a positive number in {field}, got {value}.")
        if self.grace_seconds < 0:
            raise ValueError(f"Expected grace_seconds of at least 0, got {self.grace_seconds}.")


class Server:
    """A running server; `serve` makes it."""

    def __init__(self, manager: Manager, server: grpc.Server, checks: health.HealthServicer, port: int) -> None:
        self.manager, self.port = manager, port
        self._server, self._checks = server, checks

    def wait(self, timeout: float | None = None) -> bool:
        """Returns True once the server has ended, False where `timeout` seconds came first."""
        return not self._server.wait_for_termination(timeout)

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Reports NOT_SERVING, takes no new request, and gives those in flight `grace_seconds` to end."""
        self._checks.enter_graceful_shutdown()
        self._server.stop(grace_seconds).wait()
        self.manager.stop()


def serve(
    saved_models: Path,
    *,
    name: str = "tfmm",
    host: str = "127.0.0.1",
    port: int = 8500,
    options: ServerOptions = ServerOptions(),  # noqa: B008  frozen
) -> Server:
    """Returns a server that already answers from the newest version under `saved_models/name`.

    Args:
        saved_models: the directory that holds the models' directories.
        name: of the model: its directory, and what requests call it.
        host: the address to listen on; "0.0.0.0" lets other machines in, with no encryption: put a proxy before it.
        port: 0 takes any free one; read it from `Server.port`.
        options: threads, limits and times.

    Raises:
        FileNotFoundError: where there is no version to serve.
        RuntimeError: where none can be loaded.
        OSError: where the port is taken.
    """
    manager = Manager(saved_models, name=name)
    server = grpc.server(
        futures.ThreadPoolExecutor(options.workers, thread_name_prefix="tfmm-request"),
        options=[
            ("grpc.max_receive_message_length", options.max_message_mb << 20),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # else a second server on the port would silently take every other request
        ],
        maximum_concurrent_rpcs=options.max_waiting,
    )
    checks = health.HealthServicer()
    prediction = PredictionService(manager, max_rows=options.max_rows)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(manager), server)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    bound = _bind(server, host, port)
    try:
        manager.start(poll_seconds=options.poll_seconds)
    except Exception:
        server.stop(None)  # gives the port back
        raise
    for service in (*_SERVICES, name):
        checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    server.start()
    _log.info("listening on %s:%d", host, bound)
    return Server(manager, server, checks, bound)


def run(
    saved_models: Path,
    *,
    name: str = "tfmm",
    host: str = "127.0.0.1",
    port: int = 8500,
    options: ServerOptions = ServerOptions(),  # noqa: B008  frozen
) -> None:
    """Serves until SIGTERM or SIGINT, then lets requests in flight end. Must run in the main thread."""
    if options.op_threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(options.op_threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.workers)
    asked = threading.Event()
    previous = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server = serve(saved_models, name=name, host=host, port=port, options=options)
        asked.wait()
        _log.info("stopping: requests in flight have %.0f s to end", options.grace_seconds)
        server.stop(options.grace_seconds)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _bind(server: grpc.Server, host: str, port: int) -> int:
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise _taken(host, port) from error
    if bound == 0:
        raise _taken(host, port)
    return bound


def _taken(host: str, port: int) -> OSError:
    return OSError(
        f"Cannot listen on {host}:{port}: it is in use, or not an address of this machine. Try another --port."
    )
