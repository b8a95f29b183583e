"""tfmm: multimodal retrieval, reranking and search for shops, on TensorFlow."""

from __future__ import annotations

import os
import sys
from importlib import metadata

__version__ = "0.1.0"

_STACK = {"tensorflow": "2.15.", "keras": "2.15.", "tensorflow-ranking": "0.5.5", "tensorflow-recommenders": "0.7."}


def _check_stack() -> None:
    """Raises ImportError, naming the remedy, unless Python and the pinned packages are the ones that work together."""
    if not (3, 9) <= sys.version_info[:2] <= (3, 11):
        raise ImportError(
            f"tfmm needs Python 3.9, 3.10 or 3.11 (TensorFlow Ranking pins tensorflow<2.16, which has no build for "
            f"others); this is Python {sys.version.split()[0]}. Make the environment with: python3.11 -m venv .venv"
        )
    for package, wanted in _STACK.items():
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            found = "not installed"
        if not found.startswith(wanted):
            raise ImportError(
                f"tfmm needs {package} {wanted}*, found {found}. Install the set that works together with: "
                f"pip install tfmm (or, in a checkout, pip install -e .)"
            )


_check_stack()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when tensorflow is imported: hides its start-up chatter
