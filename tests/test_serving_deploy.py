"""What lies in deploy/ works as it stands there."""

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
import support_model
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfmm.serving.models_config import write_models_config
from tfmm.serving.server import ServerOptions, serve

DEPLOY = Path(__file__).parent.parent / "deploy"


def test_the_plain_client_gets_item_ids_and_never_sees_this_package(tmp_path):
    client = DEPLOY / "plain_client.py"
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(client.read_text()))
        for name in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert "tfmm" not in imported and "tensorflow_serving" in imported
    support_model.write_model(tmp_path / "tfmm", 2)
    server = serve(tmp_path, port=0, options=ServerOptions(poll_seconds=3600))
    hide = "import sys, runpy; sys.modules['tfmm'] = None; del sys.argv[0]; "  # importing tfmm raises from here on
    hide += "runpy.run_path(sys.argv[0], run_name='__main__')"
    try:
        asked = ["--target", f"127.0.0.1:{server.port}", "--history", "item4", "--exclude", "item0", "--text", "item1"]
        ran = subprocess.run(
            [sys.executable, "-c", hide, str(client), *asked], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
    finally:
        server.stop(0)
    assert ran.returncode == 0, ran.stderr
    rows = [line.split() for line in ran.stdout.splitlines()]
    assert [item for _, item in rows] == ["item1", "item3", "item2"]
    assert [float(score) for score, _ in rows] == pytest.approx([11.2, 3.2, 2.2])


def test_models_config_parses_as_the_official_servers_message_and_names_only_models(tmp_path):
    for path in ("tfmm/3", "tfmm/12", "other/1", "empty/.partial-1"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "saved_model.pb").touch()
    path = write_models_config(tmp_path, mounted_at="/models/")
    config = text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig())
    models = config.model_config_list.config
    assert [(model.name, model.base_path) for model in models] == [
        ("other", "/models/other"),
        ("tfmm", "/models/tfmm"),
    ]
    assert {model.model_platform for model in models} == {"tensorflow"}
    assert {model.model_version_policy.latest.num_versions for model in models} == {1}
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["models.config"]


def test_batching_never_pads_since_tf_serving_would_repeat_the_first_item():
    lines = [line for line in (DEPLOY / "batching.config").read_text().splitlines() if not line.startswith("#")]
    assert "pad_variable_length_inputs: false" in lines


def test_the_unit_and_the_compose_file_name_options_and_files_that_exist():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(DEPLOY / "tfmm.service")
    assert re.fullmatch(
        r"\S+/tfmm serve --saved_models \S+ --host 127\.0\.0\.1 --port 8500", unit["Service"]["ExecStart"]
    )
    compose = (DEPLOY / "docker-compose.yml").read_text()
    for file in re.findall(r"=/deploy/(\w+\.\w+)", compose + (DEPLOY / "README.md").read_text()):
        assert (DEPLOY / file).is_file()
    assert "tensorflow/serving:2.15.1" in compose and not re.search(r'- "\d+:\d+"', compose)  # loopback only
