"""The console script `tfmm`. Each verb imports what it needs, so that `tfmm --help` answers at once."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from rich.console import Console
from rich.logging import RichHandler

import tfmm
from tfmm.arguments import build, did_you_mean, parser_of, read
from tfmm.progress import console as messages

if TYPE_CHECKING:
    from tfmm.serving.catalogue import Catalogue
    from tfmm.serving.queries import Answer, Query, Reason

_log = logging.getLogger(__name__)
MODEL = "tfmm"


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """What is measured again.

    Attributes:
        run: the run's directory, such as runs/demo-1a2b3c4d-seed0; its report is written again.
        saved_models: where the exported versions are; by default where the run put them.
        version: which one; by default the newest.
    """

    run: Path
    saved_models: Optional[Path] = None
    version: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class RecommendOptions:
    """A question. Lists are separated by commas; a value that holds one goes into quotes: '"a,b",c'.

    Attributes:
        history: item ids, oldest first.
        events: event types, one per item of the history, such as "view,purchase".
        context: what is known of the shopper, such as "gender=F".
        text: what was typed.
        image: a picture file (JPEG, PNG, GIF or BMP): find what looks like it.
        audio: a WAV file: find what sounds like it, or was said; for a model that was trained with sound.
        exclude: item ids never to show.
        filters: "field=value" that every answer must have.
        k: how many, at most 100.
        html: write a page with pictures here, instead of a table.
        target: "host:port" of a running server; by default the model is loaded here.
        saved_models: where the exported versions are, and the titles and pictures to show.
    """

    history: str = ""
    events: str = ""
    context: str = ""
    text: str = ""
    image: Optional[Path] = None
    audio: Optional[Path] = None
    exclude: str = ""
    filters: str = ""
    k: int = 10
    html: Optional[Path] = None
    target: Optional[str] = None
    saved_models: Path = Path("saved_models")

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 100:
            raise ValueError(f"Expected k between 1 and 100, got {self.k}.")


@dataclasses.dataclass(frozen=True)
class IndexOptions:
    """Which products come and go. The newest version stays; the next one is written beside it.

    Attributes:
        saved_models: where the exported versions are.
        add: products to add: a CSV, JSONL or Parquet file such as a shop's items file, its columns recognised alike.
        images: their pictures, named <id>.jpg; by default images/ beside that file.
        sounds: what they sound like, named <id>.wav, for a model whose products have sounds; by default sounds/.
        remove: ids to remove, separated by commas, or a file of them with a column of ids.
        replace: let products that are there already have the content that --add gives them.
    """

    saved_models: Path = Path("saved_models")
    add: Optional[Path] = None
    images: Optional[Path] = None
    sounds: Optional[Path] = None
    remove: str = ""
    replace: bool = False

    def __post_init__(self) -> None:
        if self.add is None and not self.remove:
            raise ValueError("Expected --add items.csv, --remove ids, or both, got neither.")


@dataclasses.dataclass(frozen=True)
class AudienceOptions:
    """Whom to look for, and among whom.

    Attributes:
        item: id of the product; one that `tfmm index --add` brought is as good as any.
        run: the run's directory: its data say who has done what.
        saved_models: where the exported versions are; by default where the run put them.
        k: how many shoppers.
        csv: write all shoppers here, likeliest first: user, probability.
    """

    item: str
    run: Path
    saved_models: Optional[Path] = None
    k: int = 20
    csv: Optional[Path] = None


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """Where to serve from, and on what address.

    Attributes:
        saved_models: where the exported versions are; the newest is served, and a newer one as soon as it is there.
        port: 0 takes any free one and says which.
        host: 0.0.0.0 lets other machines in, with neither encryption nor login.
        name: of the model.
    """

    saved_models: Path = Path("saved_models")
    port: int = 8500
    host: str = "127.0.0.1"
    name: str = MODEL


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Which report.

    Attributes:
        run: a run's directory; by default that of the newest report.
        runs: where the runs are.
    """

    run: Optional[Path] = None
    runs: Path = Path("runs")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs a verb; returns 0, or 2 after a sentence about what is wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help", "help"):
        Console(soft_wrap=True, highlight=False).print(_usage(), markup=False)
        return 0
    if verb == "--version":
        Console().print(f"tfmm {tfmm.__version__}", highlight=False)
        return 0
    if verb not in _VERBS:
        expected = f"expected one of {', '.join(_VERBS)}, got {verb!r}."
        messages.print(f"tfmm: {expected}{did_you_mean(verb, _VERBS)}", markup=False, highlight=False, soft_wrap=True)
        return 2
    try:
        return _VERBS[verb][1](words[1:])
    except (ValueError, OSError, RuntimeError) as error:
        _log.debug("where it happened", exc_info=True)
        messages.print(f"tfmm {verb}: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2


def _usage() -> str:
    lines = [f"  {verb:<11}{summary}" for verb, (summary, _) in _VERBS.items()]
    return "\n".join(
        ["usage: tfmm VERB [options]", "", *lines, "", "Options of a verb: tfmm VERB --help. Version: tfmm --version."]
    )


def _train(argv: Sequence[str]) -> int:
    from tfmm.train import main as train

    return train(list(argv))


def _evaluate(argv: Sequence[str]) -> int:
    options = read(EvaluateOptions, argv, prog="tfmm evaluate", description=_VERBS["evaluate"][0])
    _show_log()
    from tfmm.measuring import measure
    from tfmm.report.terminal import headline

    report, page = measure(options.run, saved_models=options.saved_models, version=options.version)
    headline(report, _out())
    Console(soft_wrap=True).print(f"report   {page}", highlight=False)
    return 0


def _compare(argv: Sequence[str]) -> int:
    from tfmm.comparing import compare, parse
    from tfmm.report.terminal import comparison

    config, options = parse(list(argv))
    _show_log()
    return _show(comparison, *compare(config, options))


def _tune(argv: Sequence[str]) -> int:
    from tfmm.report.terminal import tuning
    from tfmm.tuning import parse, tune

    config, options = parse(list(argv))
    _show_log()
    return _show(tuning, *tune(config, options))


def _show(table: Callable[[dict[str, Any], Console], None], found: dict[str, Any], paths: Sequence[Path]) -> int:
    """Prints the table of what was found, and where it stands; returns 0."""
    table(found, _out())
    for path in paths:
        Console(soft_wrap=True).print(f"wrote    {path}", highlight=False)
    return 0


def _out() -> Console:
    """Returns where tables go; a file or a pipe has no width of its own, so that 140 columns are written to it."""
    out = Console()
    if not out.is_terminal:
        out.width = 140
    return out


def _recommend(argv: Sequence[str]) -> int:
    options = read(RecommendOptions, argv, prog="tfmm recommend", description=_VERBS["recommend"][0])
    from tfmm.serving.queries import Query
    from tfmm.serving.show import table, write_page

    query = Query(
        history=split_list(options.history),
        events=split_list(options.events) if options.events else None,
        context=split_list(options.context),
        text=options.text,
        image=_contents(options.image, "--image"),
        audio=_contents(options.audio, "--audio"),
        exclude=split_list(options.exclude),
        filters=split_list(options.filters),
    )
    with _model(options) as (model, catalogue):
        for sentence in _unknown(model, query, catalogue):
            messages.print(sentence, markup=False, highlight=False, soft_wrap=True)
        answer = model.recommend_batch([query])[0][: options.k]
        reasons = _reasons(model, query, answer) if options.html else {}
    if options.html is None:
        _out().print(table(answer, catalogue))
    else:
        path = write_page(options.html, query, answer, catalogue, reasons)
        Console(soft_wrap=True).print(f"wrote {path}", highlight=False)
    return 0


def _reasons(model: Any, query: Query, answer: Answer) -> dict[str, Reason]:
    """Returns why each item suits the shopper; nothing without a history, or from a model that cannot say."""
    from tfmm.serving.errors import ServingError
    from tfmm.serving.queries import explain_request, read_reasons

    items = [item for item, _ in answer]
    if not items or not query.history:
        return {}
    try:
        outputs = model.predict(explain_request(query, items), signature="explain")
    except ServingError as error:
        _log.info("no reasons are shown: %s", error)
        return {}
    return dict(zip(items, read_reasons(query.history, outputs)))


def _audience(argv: Sequence[str]) -> int:
    options = read(AudienceOptions, argv, prog="tfmm audience", description=_VERBS["audience"][0])
    from tfmm.measuring import audience_of
    from tfmm.serving.show import audience, write_audience

    found, catalogue = audience_of(options.run, options.item, saved_models=options.saved_models)
    _out().print(audience(found[: options.k], catalogue, catalogue.title(options.item) or options.item))
    if options.csv is not None:
        Console(soft_wrap=True).print(f"wrote {write_audience(options.csv, found)}", highlight=False)
    return 0


def _index(argv: Sequence[str]) -> int:
    options = read(IndexOptions, argv, prog="tfmm index", description=_VERBS["index"][0])
    _show_log()
    from tfmm.reindexing import open_version, reindex
    from tfmm.serving.versions import newest_version
    from tfmm.sources.folder import load_ids, load_items

    remove = load_ids(Path(options.remove)) if Path(options.remove).is_file() else split_list(options.remove)
    old = open_version(newest_version(options.saved_models / MODEL))
    add, fields = None, {"categorical": old.vocabulary.fields, "numeric": [s.field for s in old.vocabulary.numeric]}
    if options.add is not None:
        add, findings = load_items(options.add, images=options.images, sounds=options.sounds, **fields)
        for finding in findings:
            _log.warning("%s", finding)
    changed = reindex(old, add=add, remove=remove, replace=options.replace)
    for finding in changed.findings:
        _log.warning("%s", finding)
    counts = f"{changed.added} added, {changed.replaced} replaced, {changed.removed} removed"
    Console(soft_wrap=True).print(f"wrote {changed.path}: {changed.items} items ({counts})", highlight=False)
    return 0


def _serve(argv: Sequence[str]) -> int:
    from tfmm.serving.server import ServerOptions, run

    parser = parser_of(ServeOptions, ServerOptions, prog="tfmm serve", description=_VERBS["serve"][0])
    values = parser.parse_args(list(argv))
    where, how = build(ServeOptions, parser, values), build(ServerOptions, parser, values)
    _show_log()
    run(where.saved_models, name=where.name, host=where.host, port=where.port, options=how)
    return 0


def _report(argv: Sequence[str]) -> int:
    options = read(ReportOptions, argv, prog="tfmm report", description=_VERBS["report"][0])
    from tfmm.report.terminal import headline

    path = newest_report(options.runs) if options.run is None else options.run / "report.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected {path}, found no such file. Train first: tfmm train.")
    headline(json.loads(path.read_text(encoding="utf-8")), _out())
    for name, file in (("report", path.with_name("index.html")), ("numbers", path)):
        Console(soft_wrap=True).print(f"{name:<8} {file}", highlight=False)
    return 0


_VERBS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "train": ("Train, export and measure on a shop's data: the same as python train.py.", _train),
    "evaluate": ("Measure an exported version again, on the same test, and write its report again.", _evaluate),
    "compare": ("Train the field's systems on the same data, and show them beside a run's own figures.", _compare),
    "tune": ("Find each system's best settings on validation, within the same number of trainings.", _tune),
    "recommend": ("Ask for recommendations: a table, or a page with pictures.", _recommend),
    "audience": ("List the shoppers who are likeliest to want a product next.", _audience),
    "index": ("Add products to the newest version, or remove some, without training: writes the next one.", _index),
    "serve": ("Answer gRPC requests as TF Serving does, from the newest exported version.", _serve),
    "report": ("Show the newest run's headline table and where its report is.", _report),
}


def split_list(text: str) -> list[str]:
    """Returns the values of a comma-separated list, without the spaces around them; [] for "".

    Raises:
        ValueError: where a quotation mark is not closed.
    """
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"expected values separated by commas, got {text!r} ({error}).") from error
    return [value.strip() for row in rows for value in row if value.strip()]


def newest_report(runs: Path) -> Path:
    """Returns the `report.json` that was written last.

    Raises:
        FileNotFoundError: where no run has one yet.
    """
    found = sorted(runs.glob("*/report.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"expected {runs}/<run>/report.json, found none. Train first: tfmm train.")
    return found[-1]


@contextlib.contextmanager
def _model(options: RecommendOptions) -> Iterator[tuple[Any, Catalogue]]:
    """Yields what answers, a server or the newest version loaded here, and the catalogue to show answers with."""
    from tfmm.serving.catalogue import Catalogue, read_catalogue
    from tfmm.serving.versions import newest_version, version_directories

    if options.target is None:
        from tfmm.serving.local import load_model

        directory = newest_version(options.saved_models / MODEL)
        yield load_model(directory), read_catalogue(directory)
        return
    from tfmm.serving.client import Client

    versions = version_directories(options.saved_models / MODEL)
    with Client(options.target, name=MODEL, timeout=60.0) as client:
        yield client, read_catalogue(versions[max(versions)]) if versions else Catalogue()


def _unknown(model: Any, query: Query, catalogue: Catalogue) -> Iterator[str]:
    """Yields a sentence about each id that the model does not know: nothing is similar to it."""
    import numpy as np

    for name, ids in (("history", query.history), ("exclude", query.exclude)):
        if not ids:
            continue
        asked = np.array([item.encode() for item in ids], dtype=object)
        similar = model.predict({"item_ids": asked}, signature="similar_items")["item_ids"]
        for item, near in zip(ids, similar):
            if not any(near):
                hint = did_you_mean(item, catalogue.titles)
                yield f"--{name}: the catalogue has no item {item!r}, so it counts for nothing.{hint}"


def _contents(path: Optional[Path], flag: str) -> bytes:
    if path is None:
        return b""
    if not path.is_file():
        raise FileNotFoundError(f"{flag}: expected a file, found none at {path}.")
    return path.read_bytes()


def _show_log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=messages)])
