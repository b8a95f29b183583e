"""Writes `models.config`, the list of models that the official server reads (`--model_config_file`)."""

from __future__ import annotations

import os
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tensorflow_serving.config import model_server_config_pb2

FILE = "models.config"


def write_models_config(saved_models: Path, *, mounted_at: str = "/models") -> Path:
    """Returns `saved_models/models.config`, which names every model directory that holds a version, newest served.

    Args:
        saved_models: the directory that holds the models' directories.
        mounted_at: where the server's machine or container sees that directory.
    """
    config = model_server_config_pb2.ModelServerConfig()
    for name in _model_names(saved_models):
        model = config.model_config_list.config.add(
            name=name, base_path=f"{mounted_at.rstrip('/')}/{name}", model_platform="tensorflow"
        )
        model.model_version_policy.latest.num_versions = 1
    path = saved_models / FILE
    partial = path.with_name(f".{FILE}.{os.getpid()}")
    partial.write_text(text_format.MessageToString(config), encoding="utf-8")
    os.replace(partial, path)
    return path


def _model_names(saved_models: Path) -> list[str]:
    return sorted({path.parent.parent.name for path in saved_models.glob("*/[0-9]*/saved_model.pb")})
