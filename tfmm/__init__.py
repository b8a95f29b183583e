"""tfmm: multimodal retrieval, reranking and search for shops, on TensorFlow."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import metadata

__version__ = "0.1.0"

_OLDEST, _NEWEST = (3, 9), (3, 11)
_STACK = {
    "tensorflow": "2.15.1",
    "keras": "2.15.0",
    "tensorflow-ranking": "0.5.5",
    "tensorflow-recommenders": "0.7.7",
    "tensorflow-text": "2.15.0",
}
"""As setup.cfg pins them. Other versions fail later, and without saying why."""


def _check_python(version: tuple[int, ...]) -> None:
    """Raises ImportError, naming the Pythons that serve and why, unless this is one of them."""
    if not _OLDEST <= version[:2] <= _NEWEST:
        raise ImportError(
            "tfmm needs Python 3.9, 3.10 or 3.11: TensorFlow Ranking 0.5.5, its last release, needs tensorflow<2.16, "
            f"which has no build for other Pythons. This is Python {'.'.join(map(str, version[:3]))}. "
            "Make an environment with: python3.11 -m venv .venv && .venv/bin/pip install -e ."
        )


def _check_stack(version_of: Callable[[str], str]) -> None:
    """Raises ImportError, naming all that differs and the remedy, unless the pinned packages are installed."""
    wrong = {}
    for package, wanted in _STACK.items():
        try:
            found = version_of(package)
        except metadata.PackageNotFoundError:
            found = "none"
        if found != wanted:
            wrong[f"{package}=={wanted}"] = found
    if wrong:
        found = ", ".join(f"{wanted} (found {found})" for wanted, found in wrong.items())
        raise ImportError(
            f"tfmm needs {found}. These versions work together and others do not; install them with: "
            f"{sys.executable} -m pip install {' '.join(wrong)}"
        )


_check_python(tuple(sys.version_info[:3]))
_check_stack(metadata.version)
# Read when tensorflow is imported. Below 3, TensorFlow 2.15 says at each start that it cannot register cuDNN, cuFFT and
# cuBLAS "factories", which is no error; its real errors are raised as exceptions whatever the level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
