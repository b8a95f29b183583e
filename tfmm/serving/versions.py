"""Which versions of a model lie on disk, and whether they are whole."""

from __future__ import annotations

import hashlib
from pathlib import Path


def version_directories(model: Path) -> dict[int, Path]:
    """Returns version -> directory of the complete versions under `saved_models/<name>`, ascending.

    A version is a directory named by an integer that holds `saved_model.pb`. Anything else (".tmp-7", "7.partial",
    a directory that is still being written elsewhere) is passed over, as TF Serving does.
    """
    if not model.is_dir():
        return {}
    found = {int(path.name): path for path in model.iterdir() if path.name.isdecimal() and path.name.isascii()}
    return {version: path for version, path in sorted(found.items()) if (path / "saved_model.pb").is_file()}


def newest_version(model: Path) -> Path:
    """Returns the directory of the newest complete version.

    Raises:
        FileNotFoundError: where there is none, saying where it was looked for.
    """
    found = version_directories(model)
    if not found:
        raise FileNotFoundError(
            f"Expected {model}/<version>/saved_model.pb, found {_contents(model)}. "
            "Train a model (python train.py) or point --saved_models at the directory that holds one."
        )
    return found[max(found)]


def fingerprint(directory: Path) -> str:
    """Returns a digest of the names, sizes and times of all files below: it changes when any of them is written."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        try:
            stat = path.stat()
        except FileNotFoundError:  # deleted while we look: that is a change, too
            continue
        digest.update(f"{path.relative_to(directory)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _contents(model: Path) -> str:
    if not model.is_dir():
        return "no such directory"
    names = sorted(path.name for path in model.iterdir())
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "an empty directory"
