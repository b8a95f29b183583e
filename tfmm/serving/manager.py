"""Keeps the newest loadable version of a model in memory, and tells what became of every version it saw."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2

from tfmm.serving.errors import ServingError
from tfmm.serving.servable import Servable, load_servable
from tfmm.serving.versions import fingerprint, newest_version, version_directories
from tfmm.serving.warmup import replay

State = get_model_status_pb2.ModelVersionStatus
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """What `GetModelStatus` says of one version.

    Attributes:
        state: one of `ModelVersionStatus.State`: LOADING, AVAILABLE, END.
        error: why it failed to load; "" where it did not.
        fingerprint: of the files that failed, so that they are tried again only when they have changed.
    """

    state: int
    error: str = ""
    fingerprint: str = ""


class Manager:
    """Watches `saved_models/<name>`; `servable` is always whole and warm, and changes between two requests.

    A request keeps the version that it began with: the old one leaves memory when its last request is done.
    """

    def __init__(self, saved_models: Path, *, name: str) -> None:
        self.name, self.directory = name, Path(saved_models) / name
        self._current: Servable | None = None
        self._statuses: dict[int, VersionStatus] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, *, poll_seconds: float) -> None:
        """Loads the newest version that can be loaded, then looks for others every `poll_seconds`.

        Raises:
            FileNotFoundError: where there is no complete version.
            RuntimeError: where none of them can be loaded, with the reason of each.
        """
        newest_version(self.directory)
        self.refresh()
        if self._current is None:
            reasons = "; ".join(f"version {version}: {status.error}" for version, status in self.statuses().items())
            raise RuntimeError(f"No version in {self.directory} could be loaded. {reasons}")
        self._thread = threading.Thread(target=self._watch, args=[poll_seconds], name="tfmm-versions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops looking for new versions; waits for one that is being loaded."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def refresh(self) -> None:
        """Moves to the newest complete version that has not failed with its present files.

        Deleting the newest version thus moves back to the one before; deleting all keeps the current one.
        """
        for version, path in reversed(version_directories(self.directory).items()):
            if self._current is not None and version == self._current.version:
                return
            status = self._statuses.get(version)
            if status is not None and status.error and status.fingerprint == fingerprint(path):
                continue
            if self._load(version, path):
                return

    def find(self, name: str, version: int | None, label: str = "") -> Servable:
        """Returns the version that a request asks for.

        Raises:
            ServingError: NOT_FOUND or INVALID_ARGUMENT, worded as by TF Serving.
        """
        if not name:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        if label:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        current = self._current
        if current is None or name != self.name or version not in (None, current.version):
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            serving = f"{self.name!r} version {current.version}" if current else "nothing yet"
            raise ServingError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}. This server has {serving}."
            )
        return current

    def statuses(self) -> dict[int, VersionStatus]:
        """Returns version -> what became of it, newest first."""
        return dict(sorted(self._statuses.copy().items(), reverse=True))

    def _watch(self, poll_seconds: float) -> None:
        while not self._stopped.wait(poll_seconds):
            try:
                self.refresh()
            except OSError as error:  # the disk may come back; the current version needs it no more
                _log.error("cannot look for versions in %s: %s", self.directory, error)

    def _load(self, version: int, path: Path) -> bool:
        mark, started = fingerprint(path), time.monotonic()
        self._statuses[version] = VersionStatus(State.LOADING)
        try:
            servable = load_servable(path)
            replay(servable)
        except Exception as error:  # noqa: BLE001  whatever is wrong with a version must not end the server
            reason = f"{type(error).__name__}: {_first_line(error)}"
            _log.error("version %d in %s is not served: %s", version, path, reason)
            self._statuses[version] = VersionStatus(State.END, reason, mark)
            return False
        self._swap(servable)
        _log.info("serving %s version %d (loaded in %.1f s)", self.name, version, time.monotonic() - started)
        return True

    def _swap(self, servable: Servable) -> None:
        previous, self._current = self._current, servable
        self._statuses[servable.version] = VersionStatus(State.AVAILABLE)
        if previous is not None:
            self._statuses[previous.version] = VersionStatus(State.END)


def _first_line(error: Exception) -> str:
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return str(text).strip().split("\n")[0]
