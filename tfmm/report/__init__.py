"""Results in; `report.json` and a self-contained `index.html` with plots and a picture gallery, out.

`report.json` holds `schema_version`, `dataset`, `protocol`, `models`, `ablations` and `timings` (seconds), and where
there are any: `comparisons`, `attainable`, `by_k`, `curves`, `findings`, `configuration`, `reproduce`. A statistic is
`{"mean": x, "ci95": [low, high], "n": queries}` everywhere; `ci95` and `n` may be left out where they make no sense
(coverage).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfmm.report.contract import checked
from tfmm.report.gallery import Card, GalleryRow
from tfmm.report.page import render
from tfmm.writing import write_text

__all__ = ["Card", "GalleryRow", "write_report"]


def write_report(
    report: Mapping[str, Any], directory: Path, *, gallery: Sequence[GalleryRow] = ()
) -> tuple[Path, Path]:
    """Returns the paths of `report.json` and `index.html`, each written whole or not at all.

    Args:
        report: see above; numpy numbers are welcome, NaN is not.
        directory: made where it does not exist; what is there is replaced.
        gallery: real recommendations to look at.

    Raises:
        ValueError: where the report breaks its contract; nothing is written then.
    """
    plain = checked(report)
    page = render(plain, gallery)
    directory = Path(directory)
    as_json = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_text(directory / "report.json", as_json), write_text(directory / "index.html", page)
