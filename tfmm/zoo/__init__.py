"""The field's other systems, on the same data, splits and metrics as ours: `fit(data, config) -> Fitted`.

Each is one file of about a hundred lines, with its equation and its source. All read the same frozen encoders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tfmm.arguments import did_you_mean
from tfmm.zoo import (
    attention_fusion,
    bpr,
    dfmf,
    ease,
    gcn,
    ials,
    lightgcn,
    mmfnet,
    mmulcoonn,
    mtmf,
    peers,
    personalised_sorter,
    vbpr,
)
from tfmm.zoo.classics import ClassicConfig, classic
from tfmm.zoo.data import Data, data_of
from tfmm.zoo.fitted import Fitted, recommend
from tfmm.zoo.peers import absent, installed

__all__ = ["BASELINES", "SYSTEMS", "Data", "Fitted", "System", "chosen", "data_of", "installed", "recommend"]


class System(NamedTuple):
    """How to fit it, its settings, whether it needs products with content, and whose package it is ("" = ours)."""

    fit: Callable[[Data, Any], Fitted]
    config: Any
    content: bool = False
    package: str = ""


BASELINES = ("popularity", "recent_popularity", "item_knn", "ease", "transitions")
"""Those that stand in every report anyway."""

SYSTEMS: dict[str, System] = {
    **{name: System(classic(name), ClassicConfig()) for name in BASELINES},
    "ease_plain": System(ease.fit, ease.EaseConfig()),
    "ease_content": System(ease.fit, ease.WITH_CONTENT, content=True),
    "ials": System(ials.fit, ials.IalsConfig()),
    "bpr": System(bpr.fit, bpr.BprConfig()),
    "vbpr": System(vbpr.fit, vbpr.VbprConfig(), content=True),
    "mf_features": System(vbpr.fit_features, vbpr.VbprConfig(), content=True),
    "dfmf": System(dfmf.fit, dfmf.DfmfConfig(), content=True),
    "mtmf": System(mtmf.fit, mtmf.MtmfConfig(), content=True),
    "gcn": System(gcn.fit, gcn.GcnConfig()),
    "lightgcn": System(lightgcn.fit, lightgcn.LightGcnConfig(neighbours=0)),
    "lightgcn_content": System(lightgcn.fit, lightgcn.LightGcnConfig(), content=True),
    "attention_fusion": System(attention_fusion.fit, attention_fusion.AttentionFusionConfig(), content=True),
    "mmulcoonn": System(mmulcoonn.fit, mmulcoonn.MmulcoonnConfig(), content=True),
    "mmfnet": System(mmfnet.fit, mmfnet.MmfnetConfig(), content=True),
    "personalised_sorter": System(personalised_sorter.fit, personalised_sorter.SorterConfig(), content=True),
    "implicit_als": System(peers.fit_als, peers.AlsConfig(), package="implicit"),
    "implicit_bpr": System(peers.fit_bpr, peers.BprConfig(), package="implicit"),
    "cornac_bpr": System(peers.fit_cornac_bpr, peers.BprConfig(), package="cornac"),
    "rectools_als_features": System(peers.fit_als_features, peers.AlsConfig(), content=True, package="rectools"),
}


def chosen(names: str) -> list[str]:
    """Returns the systems of a comma-separated list, or all, in the order of the table.

    Raises:
        ValueError: one is unknown (it names the nearest right one), or its package is absent.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in SYSTEMS and name != "all":
            expected = f"all, {', '.join(SYSTEMS)}"
            raise ValueError(f"Expected systems of {expected}, got {name!r}.{did_you_mean(name, SYSTEMS)}")
        if name in SYSTEMS and not installed(SYSTEMS[name].package):
            raise ValueError(absent(SYSTEMS[name].package))
    if not wanted:
        raise ValueError(f"Expected --systems all, or some of {', '.join(SYSTEMS)}, got none.")
    return [name for name in SYSTEMS if name in wanted or "all" in wanted]
