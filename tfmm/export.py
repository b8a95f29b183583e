"""A service -> one SavedModel version, written whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import tensorflow as tf

EXAMPLES = "examples"


class Service(Protocol):
    """A `tf.Module` that answers."""

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Returns signature name -> the traced graph."""


def export(service: Service, model_dir: Path, *, beside: Callable[[Path], object] = lambda _: None) -> Path:
    """Returns the directory of the new version, `model_dir/<newest + 1>`.

    Args:
        service: what answers.
        model_dir: e.g. `saved_models/tfmm`.
        beside: writes what else belongs to the version (warm-up, catalogue) into the directory that it is given.
    """
    with new_version(model_dir) as (writing, final):
        with _quiet():
            tf.saved_model.save(service, str(writing), signatures=service.signatures())
        beside(writing)
    return final


@contextlib.contextmanager
def new_version(model_dir: Path) -> Iterator[tuple[Path, Path]]:
    """Yields a name to write under, that no server loads, and the version that it becomes once it is whole."""
    model_dir.mkdir(parents=True, exist_ok=True)
    for left in model_dir.glob(".writing-*"):
        shutil.rmtree(left)  # of a run that was killed
    versions = [int(path.name) for path in model_dir.iterdir() if path.name.isdigit()]
    final = model_dir / str(max(versions, default=0) + 1)
    writing = model_dir / f".writing-{final.name}-{os.getpid()}"
    yield writing, final
    os.rename(writing, final)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides Keras' warnings that layers cannot be loaded back as Keras objects: a server loads signatures."""
    loggers = {logger: logger.level for logger in (tf.get_logger(), logging.getLogger("absl"))}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
