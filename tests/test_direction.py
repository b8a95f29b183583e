"""Data flows one way through the house, and only the owner of a third-party library imports it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tfmm"

ORDER = (
    *("ragged", "writing", "schema", "progress", "arguments", "relevance", "metrics", "confidence", "clicks"),
    *("closed_form", "canonical"),
    *("sources", "splits", "encoders", "records", "pipelines", "features", "fusion", "towers", "losses", "retrieval"),
    *("finetuning", "phrases", "content", "views", "alignment", "looking", "hearing", "asking", "tagging", "reading"),
    *(
        "index",
        "candidates",
        "reranking",
        "service",
        "trees",
        "ranker",
        "export",
        "serving",
        "reindexing",
        "evaluation",
        "audience",
    ),
    *("report", "presets", "config", "judging", "ranking", "stages", "gallery", "results", "zoo", "train", "measuring"),
    *("standings", "comparing", "studies", "tuning", "cli"),
)
"""A module, or a package as a whole, imports only what stands before it."""

WITH_TENSORFLOW = (
    *("schema", "encoders", "records", "pipelines", "fusion", "towers", "losses", "retrieval", "index", "candidates"),
    *("finetuning", "phrases", "content", "views", "alignment", "looking", "hearing", "tagging", "reading"),
    *("reranking", "service", "trees", "ranker", "ranking", "export", "serving", "reindexing", "evaluation", "stages"),
    *("zoo", "measuring"),
    "sources.movielens_download",
)
OWNERS = {
    "numpy": ORDER,
    "tensorflow": WITH_TENSORFLOW,
    "tensorflow_datasets": ("sources.movielens_download",),
    "tensorflow_ranking": ("pipelines", "reranking"),
    "tensorflow_recommenders": ("retrieval",),
    "tensorflow_text": ("encoders", "evaluation", "serving.servable"),
    "tensorflow_serving": ("serving", "records.lists"),
    "keras": ("encoders",),
    "google": ("serving",),
    "grpc": ("serving",),
    "grpc_health": ("serving.server",),
    "pandas": ("sources",),
    "pyarrow": ("sources",),
    "yaml": ("sources.mapping", "zoo.tuned"),
    "PIL": ("sources", "encoders.pictures", "report.gallery", "serving.catalogue"),
    "lightgbm": ("trees",),
    "scipy": ("closed_form", "canonical"),
    "sentencepiece": ("encoders.text",),
    "implicit": ("zoo.peers",),
    "cornac": ("zoo.peers",),
    "rectools": ("zoo.peers",),
    "optuna": ("studies",),
    "jsonargparse": ("arguments",),
    "rich": ("progress", "report.terminal", "serving.show", "train", "cli"),
    "jinja2": ("report.page", "serving.show"),
    "markupsafe": ("report.page",),
    "matplotlib": ("report.plots",),
    "cycler": ("report.plots",),
}
"""Library -> the modules that may import it. Moving to another Keras, say, touches these and no others."""


def modules() -> dict[str, Path]:
    """Returns dotted name (without the package's) -> file; a package is named as its `__init__`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]  # the package itself, which checks versions and imports nothing of ours
    return found


def imports(path: Path) -> set[str]:
    """Returns every dotted name that the file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports, got a relative one in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def owned(module: str, owners: tuple[str, ...]) -> bool:
    return any(module == owner or module.startswith(owner + ".") for owner in owners)


MODULES = modules()


def test_every_module_has_its_place_in_the_order():
    assert {name.split(".")[0] for name in MODULES} == set(ORDER)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_modules_before_it(name):
    own = name.split(".")[0]
    for imported in imports(MODULES[name]):
        first, *rest = imported.split(".")
        if first == "tfmm" and rest and rest[0] in ORDER and rest[0] != own:
            assert ORDER.index(rest[0]) < ORDER.index(own), f"tfmm.{name} imports {imported}, which stands after it"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_the_owner_of_a_library_imports_it(name):
    for library in {imported.split(".")[0] for imported in imports(MODULES[name])} - {"tfmm"}:
        if library in OWNERS:
            assert owned(name, OWNERS[library]), f"tfmm.{name} imports {library}, which is {OWNERS[library]}'s"
        else:
            origin = importlib.util.find_spec(library).origin or ""
            assert "site-packages" not in origin, f"tfmm.{name} imports {library}: name its owner in OWNERS"
