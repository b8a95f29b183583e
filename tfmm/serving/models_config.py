"""Writes `models.config`, the list of models that the official server reads (`--model_config_file`)."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tensorflow_serving.config import model_server_config_pb2

from tfmm.writing import write_text

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
    return write_text(saved_models / FILE, text_format.MessageToString(config))


def _model_names(saved_models: Path) -> list[str]:
    return sorted({path.parent.parent.name for path in saved_models.glob("*/[0-9]*/saved_model.pb")})
