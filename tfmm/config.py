"""One frozen value that says everything a run depends on; the command line is made from it by jsonargparse."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, TypeVar

from tfmm.alignment import AlignmentConfig
from tfmm.arguments import Parser, build, parser_of
from tfmm.candidates import CandidatesConfig
from tfmm.content import ContentConfig
from tfmm.encoders.image import ImageConfig
from tfmm.encoders.sound import SoundConfig
from tfmm.encoders.text import TextConfig
from tfmm.evaluation import EvaluationConfig
from tfmm.finetuning import FinetuneConfig
from tfmm.hearing import SpeechConfig
from tfmm.index import IndexConfig
from tfmm.presets import presets
from tfmm.ranker import LetorConfig
from tfmm.reranking import RerankingConfig
from tfmm.retrieval import RetrievalConfig
from tfmm.splits import SplitConfig
from tfmm.tagging import TaggingConfig
from tfmm.towers import TowerConfig

SIZES = ("tiny", "small", "full")
TEXT_ENCODERS = ("pretrained", "trained", "none")
IMAGE_ENCODERS = ("pretrained", "none")
SOUND_ENCODERS = ("timbre", "none")


@dataclasses.dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
        source: where the data comes from: demo, folder, movielens, fashion, tiktok, amazon or letor (judged lists).
        data_dir: folder of the source's files.
        subset: which set, where a folder or a public source holds several.
        size: "tiny" ends within a minute (a smoke run), "small" is the default, "full" takes its time.
        seed: of everything random.
        saved_models: exported versions go to `<saved_models>/tfmm/<version>`.
        runs: each run's report, checkpoints and logs go to `<runs>/<name>`.
        run: the run's name; by default the source, the data's fingerprint and the seed.
        records: TFRecords and cached encodings go to `<records>/<data set>`.
        resume: go on with a run that was stopped, instead of beginning anew.
        text_encoder: "pretrained" (frozen sentence vectors), "trained" (subwords, see `text`) or "none".
        image_encoder: "pretrained" (see `image`) or "none".
        sound_encoder: of products' sounds: "timbre" (what `sound.mels` bands are like over time) or "none".
        content_dim: dimensions that are kept of each frozen encoder's vectors.
        missing: what stands for a picture, text or sound that a product lacks: "absent" (a learned vector) or
            "neighbours" (the mean of what the products have that the same shoppers wanted).
        item_item: the closed form beside the towers: "ease" (what is had together), "transitions" (what is had next,
            and what is like it), "item_knn", or "auto" (the one that is best on validation).
        refit_epochs: how long the retriever that is served trains on, with the reranker's period added; 0 = never.
        refit_anew: train that retriever from the start instead, as long as the first: better where the period is much
            of what is known. Its space is another, so that `reranking.vectors` must be off.
    """

    source: str = "demo"
    data_dir: Optional[Path] = None
    subset: Optional[str] = None
    size: str = "small"
    seed: int = 0
    saved_models: Path = Path("saved_models")
    runs: Path = Path("runs")
    run: Optional[str] = None
    records: Path = Path("data")
    resume: bool = False
    text_encoder: str = "pretrained"
    image_encoder: str = "pretrained"
    sound_encoder: str = "timbre"
    content_dim: int = 128
    missing: str = "absent"
    item_item: str = "auto"
    refit_epochs: int = 1
    refit_anew: bool = False
    splits: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    image: ImageConfig = dataclasses.field(default_factory=ImageConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    towers: TowerConfig = dataclasses.field(default_factory=TowerConfig)
    retrieval: RetrievalConfig = dataclasses.field(default_factory=RetrievalConfig)
    finetune: FinetuneConfig = dataclasses.field(default_factory=FinetuneConfig)
    content: ContentConfig = dataclasses.field(default_factory=ContentConfig)
    alignment: AlignmentConfig = dataclasses.field(default_factory=AlignmentConfig)
    speech: SpeechConfig = dataclasses.field(default_factory=SpeechConfig)
    sound: SoundConfig = dataclasses.field(default_factory=SoundConfig)
    tagging: TaggingConfig = dataclasses.field(default_factory=TaggingConfig)
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)
    candidates: CandidatesConfig = dataclasses.field(default_factory=CandidatesConfig)
    reranking: RerankingConfig = dataclasses.field(default_factory=RerankingConfig)
    letor: LetorConfig = dataclasses.field(default_factory=LetorConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        choices = {
            "size": SIZES,
            "text_encoder": TEXT_ENCODERS,
            "image_encoder": IMAGE_ENCODERS,
            "sound_encoder": SOUND_ENCODERS,
            "missing": ("absent", "neighbours"),
            "item_item": ("auto", "ease", "transitions", "item_knn"),
        }
        for name, options in choices.items():
            if getattr(self, name) not in options:
                raise ValueError(f"Expected {name} to be one of {', '.join(options)}, got {getattr(self, name)!r}.")

        if self.refit_anew and self.reranking.vectors:
            raise ValueError(
                "Expected --reranking.vectors false with --refit_anew true, got true: the scorer would read vectors of "
                "another space than it learned from."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, as `run.json` and `--config` hold them."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, Path) else value


def parse(argv: Optional[Sequence[str]] = None) -> Config:
    """Returns the configuration of a command line: presets of source and size, then `--config`, then the flags.

    Exits with a sentence that names the nearest right flag where one is unknown.
    """
    return parse_with(_Nothing, argv, prog="train.py")[0]


T = TypeVar("T")


def parse_with(options: type[T], argv: Optional[Sequence[str]] = None, *, prog: str) -> tuple[Config, T]:
    """Returns the configuration, and the options of a verb that takes them beside it."""
    parser = _parser(prog, options)
    chosen = parser.parse_args(argv)  # once for source and size, wherever they stand: they decide what is default
    parser.set_defaults(presets(chosen.source, chosen.size))
    values = parser.parse_args(argv)
    return build(Config, parser, values), build(options, parser, values)


@dataclasses.dataclass(frozen=True)
class _Nothing:
    """No options beside the configuration."""


def restored(settings: Mapping[str, Any], *, place: str = "run.json") -> Config:
    """Returns the configuration that `run.json` holds; `place` names it in errors.

    Exits with a sentence that names what does not fit, where another release wrote it.
    """
    parser = _parser(place)
    parser.remedy = "It holds other settings than this release knows: train again, or use the release that wrote it."
    return build(Config, parser, parser.parse_object(dict(settings)))


def _parser(prog: str, *others: type) -> Parser:
    parser = parser_of(
        Config, *others, prog=prog, description="Train, export and measure a recommender on a shop's data."
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below")
    return parser
