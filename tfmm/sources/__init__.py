"""Raw files -> one frozen, validated `Dataset`: `load` is the only door."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from tfmm.sources import dirt
from tfmm.sources.dataset import Dataset

SOURCES = ("demo", "folder", "movielens", "fashion", "tiktok", "amazon")
"""What `load` knows."""

LETOR = "letor"
"""The source of judged lists, which are no shop: `tfmm.sources.letor.load` reads them."""

_EXPECTED = {
    "folder": "items.* and interactions.*",
    "fashion": "Kaggle's styles.csv and images/",
    "tiktok": "train.csv, validation.csv and image_feat.npy",
    "amazon": "<name>.txt, or reviews as <name>.json or .jsonl",
}


def load(
    source: str, *, data_dir: Optional[Path] = None, subset: Optional[str] = None, size: str = "small", seed: int = 0
) -> Dataset:
    """Returns the data of one source.

    Args:
        source: one of `SOURCES`.
        data_dir: where its files are; `demo` has none, `movielens` does without where there is a network.
        subset: names one set where `data_dir` holds several: a folder in it, of `amazon` a file; without `data_dir`,
            the published one.
        size: of the demo shop: "tiny", "small" or "full".
        seed: of the demo shop.

    Raises:
        ValueError: on an unknown source, or files that cannot be used; it says what was expected and what to do.
    """
    if source == LETOR:
        raise ValueError("letor: expected a shop, got lists of judged documents; only train.py reads them.")
    if source not in SOURCES:
        raise dirt.unknown("source", source, (*SOURCES, LETOR))
    if source == "demo":
        return _demo(data_dir, subset, size=size, seed=seed)
    if source == "movielens":
        from tfmm.sources import movielens  # only the source that is asked for is imported

        return movielens.load(data_dir, subset=subset)
    if data_dir is None:
        raise ValueError(f"data_dir: expected a folder with {_EXPECTED[source]}, got none. Give --data_dir DIR.")
    if source == "amazon":
        from tfmm.sources import amazon

        return amazon.load(Path(data_dir), subset=subset)
    return _of_folder(source, _inner(Path(data_dir), subset))


def _inner(data_dir: Path, subset: Optional[str]) -> Path:
    """Returns the folder that `subset` names in `data_dir`."""
    if subset is None or (data_dir / subset).is_dir():
        return data_dir / (subset or "")
    names = sorted(path.name for path in data_dir.iterdir() if path.is_dir()) if data_dir.is_dir() else []
    raise dirt.unknown("subset", subset, names or ["(no folder)"], where=str(data_dir))


def _of_folder(source: str, home: Path) -> Dataset:
    if source == "fashion":
        from tfmm.sources import fashion

        return fashion.load(home)
    if source == "tiktok":
        from tfmm.sources import tiktok

        return tiktok.load(home)
    from tfmm.sources import folder

    return folder.load(home)


def _demo(data_dir: Optional[Path], subset: Optional[str], *, size: str, seed: int) -> Dataset:
    if data_dir is not None or subset is not None:
        raise ValueError(
            f"demo: expected no data_dir and no subset, since it draws its own data; got data_dir={data_dir}, "
            f"subset={subset}. Give --source folder (or movielens) to read files."
        )
    from tfmm.sources import demo

    return demo.draw(size=size, seed=seed)
