"""What stands around the package: versions, entry points, what is in a built distribution, and the set-up of `make`."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import tfmm
from tfmm import cli, sources
from tfmm.config import parse

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def requirements() -> dict[str, Requirement]:
    lines = SETUP["options"]["install_requires"].splitlines()
    return {parsed.name: parsed for parsed in (Requirement(line) for line in lines if line and line[0] != "#")}


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 12, 0), (3, 13, 1), (2, 7, 18), (4, 0, 0)])
def test_another_python_is_refused_with_those_that_serve_and_why(version):
    with pytest.raises(ImportError) as refused:
        tfmm._check_python(version)
    said = str(refused.value)
    assert "3.9, 3.10 or 3.11" in said and "TensorFlow Ranking" in said and "python3.11 -m venv" in said
    assert ".".join(map(str, version)) in said


def test_pip_and_the_import_agree_on_which_pythons_serve():
    allowed = SpecifierSet(SETUP["options"]["python_requires"])
    for minor in range(6, 16):
        try:
            tfmm._check_python((3, minor, 4))
            accepted = True
        except ImportError:
            accepted = False
        assert accepted == (f"3.{minor}.4" in allowed)
        assert accepted == (f"Programming Language :: Python :: 3.{minor}" in SETUP["metadata"]["classifiers"])


def test_another_tensorflow_is_refused_with_the_command_that_mends_it():
    def version_of(package):
        if package == "tensorflow-text":
            raise metadata.PackageNotFoundError(package)
        return "2.16.1" if package == "tensorflow" else metadata.version(package)

    with pytest.raises(ImportError) as refused:
        tfmm._check_stack(version_of)
    said = str(refused.value)
    assert "tensorflow==2.15.1 (found 2.16.1)" in said and "tensorflow-text==2.15.0 (found none)" in said
    assert said.endswith(f"{sys.executable} -m pip install tensorflow==2.15.1 tensorflow-text==2.15.0")
    assert "keras" not in said


def test_a_process_with_another_tensorflow_ends_before_tensorflow_is_imported(tmp_path):
    fake = tmp_path / "tensorflow-2.17.0.dist-info"
    fake.mkdir()
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorflow\nVersion: 2.17.0\n")
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", "import tfmm.schema"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 1 and "tensorflow==2.15.1 (found 2.17.0)" in ran.stderr.splitlines()[-1]


def test_the_versions_checked_at_import_are_those_that_setup_cfg_pins():
    pinned = requirements()
    for package, version in tfmm._STACK.items():
        assert str(pinned[package].specifier) == f"=={version}"


def test_what_is_installed_here_is_what_setup_cfg_asks_for():
    for name, wanted in requirements().items():
        assert wanted.specifier.contains(metadata.version(name)), f"{name} {metadata.version(name)} is not {wanted}"


def test_the_console_script_names_a_function():
    scripts = [line.split("=") for line in SETUP["options.entry_points"]["console_scripts"].split("\n") if line]
    assert [name.strip() for name, _ in scripts] == ["tfmm"]
    module, function = scripts[0][1].strip().split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_changelog_has_an_entry_for_this_version():
    assert f"## [{tfmm.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_file_of_the_package_is_in_a_wheel(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT / "tfmm", tmp_path / "source" / "tfmm", ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    # What `pip wheel` packs is what this puts into build/lib; it needs no network.
    build = "from setuptools import setup; setup()"
    command = [sys.executable, "-c", build, "-q", "build_py", "--build-lib", str(tmp_path / "built")]
    subprocess.run(command, cwd=tmp_path / "source", check=True, capture_output=True, text=True)
    tops = (tmp_path / "source" / "tfmm", tmp_path / "built" / "tfmm")
    there, built = ({file.relative_to(top) for file in top.rglob("*") if file.is_file()} for top in tops)
    assert {path.suffix for path in there} > {".py", ".html", ".css"} and Path("py.typed") in there
    assert built == there


# --- .ci/environment: what `make run` and `make test` set up ---------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the set-up reads, and a stand-in for Python whose venvs and pip cost nothing and are counted."""
    (tmp_path / ".ci").mkdir()
    for name in (".ci/environment", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / "python"
    python.write_text(_PYTHON)
    python.chmod(0o755)
    return tmp_path


_PYTHON = """#!/bin/sh
case "$*" in
  -c*) echo "${VERSION:-3.11.7}" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo venv >>calls ;;
  *"--editable "*) echo "pip ${FAIL:-}" >>calls; [ -z "${FAIL:-}" ] || exit 1; touch .venv/package ;;
esac
"""


def set_up(checkout: Path, wanted: str = "run", **environment: str) -> subprocess.CompletedProcess:
    command = ["sh", ".ci/environment", ".venv", wanted, "./python"]
    return subprocess.run(
        command, cwd=checkout, env={**os.environ, **environment}, capture_output=True, text=True, timeout=20
    )


def calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().split() if (checkout / "calls").exists() else []


def test_a_second_set_up_installs_nothing(checkout):
    assert set_up(checkout).returncode == 0
    assert calls(checkout) == ["venv", "pip"]
    again = set_up(checkout)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert calls(checkout) == ["venv", "pip"]


def test_the_environment_for_tests_serves_the_main_job_too_but_not_the_other_way_round(checkout):
    set_up(checkout, "run")
    set_up(checkout, "test")
    assert calls(checkout) == ["venv", "pip", "pip"]
    set_up(checkout, "run")
    assert calls(checkout) == ["venv", "pip", "pip"]


def test_another_setup_cfg_is_installed_into_the_same_environment(checkout):
    set_up(checkout)
    with (checkout / "setup.cfg").open("a") as file:
        file.write("# changed\n")
    set_up(checkout)
    assert calls(checkout) == ["venv", "pip", "pip"]


def test_an_install_that_did_not_end_is_never_taken_for_whole(checkout):
    assert set_up(checkout, FAIL="yes").returncode != 0
    (checkout / ".venv" / "half").touch()
    assert set_up(checkout).returncode == 0
    assert calls(checkout) == ["venv", "pip", "yes", "venv", "pip"]
    assert not (checkout / ".venv" / "half").exists()
    assert set_up(checkout, "test", FAIL="yes").returncode != 0  # an upgrade that did not end, likewise
    assert set_up(checkout, "run").returncode == 0
    assert calls(checkout)[5:] == ["pip", "yes", "venv", "pip"]


def test_an_environment_that_somebody_else_made_is_left_alone(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "precious").write_text("mine")
    refused = set_up(checkout)
    assert refused.returncode == 1 and "VENV=DIR" in refused.stderr
    assert (checkout / ".venv" / "precious").read_text() == "mine" and calls(checkout) == []


def test_set_up_on_another_python_says_which_serve_and_why(checkout):
    refused = set_up(checkout, VERSION="3.12.1")
    assert refused.returncode == 1 and calls(checkout) == []
    assert "3.9, 3.10 or 3.11" in refused.stderr and "TensorFlow Ranking" in refused.stderr
    assert "./python is 3.12.1" in refused.stderr and not (checkout / ".venv").exists()


# --- README ----------------------------------------------------------------------------------------------------------


def test_the_readme_has_a_line_for_every_module_and_for_no_other():
    tree = re.search(r"^tfmm/\n(.*?)^deploy/", README, re.MULTILINE | re.DOTALL).group(1)
    named, folder = set(), ""
    for indent, name in re.findall(r"^( {2,4})([\w/]+(?:\.py)?) ", tree, re.MULTILINE):
        folder = name if name.endswith("/") else folder if len(indent) == 4 else ""
        if not name.endswith("/"):
            named.add(folder + name)
    there = {str(path.relative_to(ROOT / "tfmm")) for path in (ROOT / "tfmm").rglob("*.py") if path.stat().st_size}
    assert named == {path for path in there if not path.endswith("__init__.py")}


def test_every_module_that_the_readme_says_to_open_is_there():
    table = README[README.index("| to change") : README.index("## Benchmarks")]
    for name in re.findall(r"`([\w/]+\.(?:py|html))`", table):
        assert (ROOT / "tfmm" / name).is_file(), name


def test_every_flag_and_verb_in_the_readme_is_known():
    for line in re.findall(r"^    python train\.py (.*?)(?: +#.*)?$", README, re.MULTILINE):
        parse(shlex.split(line))
    assert set(re.findall(r"\btfmm (\w+) --", README)) <= set(cli._VERBS)
    assert set(re.findall(r"\bmake (\w+)  ", README)) == {"run", "test"}


def test_every_page_that_is_linked_and_every_benchmark_that_is_named_is_there():
    pages = {page: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *ROOT.glob("benchmarks/*.md"))}
    for page, text in pages.items():
        for name in re.findall(r"python -m benchmarks\.([a-z_]+)", text):
            assert (ROOT / "benchmarks" / f"{name}.py").is_file(), name
        for path, anchor in re.findall(r"\]\((?!http)([^)#]*)(#[^)]*)?\)", text):
            linked = page.parent / path if path else page
            assert linked.exists(), path
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            assert not anchor or anchor[1:] in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in titles}


def test_the_readmes_folder_is_read_as_it_says(tmp_path):
    shown = re.search(r"^    my_shop/\n(.*?)\n\n", README, re.MULTILINE | re.DOTALL).group(1).splitlines()
    rows: dict[str, list[str]] = {}
    for line in shown:
        name, content = line[:27].strip() or list(rows)[-1], line[27:]
        rows.setdefault(name, []).append(content)
    for name in ("items.csv", "interactions.csv"):
        (tmp_path / name).write_text("\n".join(rows[name]) + "\n")
    dataset = sources.load("folder", data_dir=tmp_path)
    assert (list(dataset.items.ids), list(dataset.items.titles)) == (["a1"], ["Red mug"])
    assert {"category", "colour"} <= set(dataset.items.categorical) | set(dataset.items.numeric)
    assert dataset.items.launched[0] > 0 and dataset.event_types == ("view",) and not dataset.findings


def test_no_line_of_the_project_says_where_it_was_made():
    for path in [*ROOT.glob("*.*"), *ROOT.glob("tfmm/**/*.py"), *ROOT.glob("deploy/*"), ROOT / ".ci" / "run"]:
        if path.is_file():
            assert not re.search(r"(?<![\w.])/(?:work|root|home)/", path.read_text(encoding="utf-8")), path
