"""The stages of a run, each a function of the configuration and of what the stages before it made."""

from tfmm.stages.mixture import (
    ItemItem,
    baselines,
    chosen_form,
    item_item,
    make_candidates,
    recalibrate_reranker,
    train_reranker,
)
from tfmm.stages.opening import Catalogue, Shop, encode, features_of, load, open_catalogue, open_shop, set_seed
from tfmm.stages.pictures import finetune, finetuned
from tfmm.stages.searching import (
    Ears,
    align,
    align_catalogue,
    choose_history_weight,
    hear,
    make_aligner,
    make_search,
    tag,
)
from tfmm.stages.towers import begin_towers, make_towers, refit_towers, train_ablated, train_towers
from tfmm.stages.warming import warmup_requests

__all__ = [
    "Catalogue",
    "Ears",
    "ItemItem",
    "Shop",
    "align",
    "align_catalogue",
    "baselines",
    "begin_towers",
    "choose_history_weight",
    "chosen_form",
    "encode",
    "features_of",
    "finetune",
    "finetuned",
    "hear",
    "item_item",
    "load",
    "make_aligner",
    "make_candidates",
    "make_search",
    "make_towers",
    "open_catalogue",
    "open_shop",
    "recalibrate_reranker",
    "refit_towers",
    "set_seed",
    "tag",
    "train_ablated",
    "train_reranker",
    "train_towers",
    "warmup_requests",
]
