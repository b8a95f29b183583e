"""The report: its contract, its page and its pictures."""

from __future__ import annotations

import base64
import copy
import doctest
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tfmm import report as report_package
from tfmm import writing
from tfmm.report import Card, GalleryRow, contract, gallery, plots, terminal, text, write_report

MODELS = ("popularity", "item_knn", "ease", "retrieval", "retrieval+reranker")
EVIL = "<script>alert('x')</script>"


def statistic(mean, n=200):
    return {"mean": mean, "ci95": [mean * 0.9, mean * 1.1], "n": n}


def example():
    """A report with every optional part."""
    means = dict(zip(MODELS, (0.04, 0.06, 0.09, 0.12, 0.15)))
    return {
        "schema_version": 1,
        "dataset": {"name": "demo", "items": 2000, "users": 4000, "modalities": {"image": 1800}},
        "protocol": {"split": "by time", "test_queries": 200},
        "models": {
            name: {
                "metrics": {"ndcg@10": statistic(mean), "recall@10": statistic(mean * 2), "coverage@10": {"mean": 0.3}},
                "slices": {"warm": {"ndcg@10": statistic(mean, 150)}, "cold": {"ndcg@10": statistic(mean / 2, 50)}},
            }
            for name, mean in means.items()
        },
        "ablations": {"trained with": {"all": {"ndcg@10": statistic(0.15)}, "id only": {"ndcg@10": statistic(0.1)}}},
        "timings": {"train": 61.2},
        "comparisons": [
            {
                "a": "retrieval+reranker",
                "b": "retrieval",
                "metric": "ndcg@10",
                "difference": 0.03,
                "ci95": [0.02, 0.04],
            },
            {"a": "ease", "b": "item_knn", "metric": "ndcg@10", "difference": 0.03, "ci95": [-0.01, 0.07], "p": 0.2},
        ],
        "attainable": {"ndcg@10": statistic(0.2), "share": 0.75},
        "curves": {"retrieval": {"loss": [3.0, 2.0, 1.5], "validation ndcg@10": [0.1, None, 0.12]}},
        "findings": [{"problem": "unknown item id", "action": "dropped", "count": 3, "example": f"a.csv {EVIL}"}],
        "configuration": {"retrieval": {"dim": 64}},
        "reproduce": ["python train.py --source demo"],
        "by_k": {name: {"ndcg": {"1": statistic(m / 2), "10": statistic(m)}} for name, m in means.items()},
        "tagging": {"colour from image": {"accuracy": statistic(0.8), "macro-f1": statistic(0.7)}},
        "robustness": {"image": {"0%": statistic(0.2), "50%": statistic(0.15), "100%": statistic(0.1)}},
    }


def without_plots():
    """The same without what is plotted, which takes most of the time."""
    report = {key: value for key, value in example().items() if key not in ("by_k", "curves")}
    report["ablations"] = {}
    for model in report["models"].values():
        del model["slices"]
    return report


def picture(size=(300, 200), mode="RGB", colour="red", kind="PNG"):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind)
    return out.getvalue()


def example_gallery():
    red, nothing = picture(), b""
    history = tuple(Card(f"H{number}", f"bought {number}", red) for number in range(15))
    recommended = (
        Card("A", EVIL, red, EVIL, hit=True),
        Card("B", "蓝色登山背包", nothing),
        Card("C", "cup", b"broken"),
    )
    return [GalleryRow(f"user {EVIL}", history, recommended)]


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and text."""

    void = {"meta", "link", "img", "wbr", "br", "input", "hr"}

    def __init__(self, source):
        super().__init__()
        self.elements, self.words, self.open, self.unbalanced = [], [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "wbr":  # may break there, but is one word
            self.words[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_report(example(), tmp_path_factory.mktemp("run") / "deeper", gallery=example_gallery())


@pytest.fixture(scope="module")
def page(written):
    return Page(written[1].read_text(encoding="utf-8"))


def test_the_json_holds_what_was_given(written):
    assert json.loads(written[0].read_text(encoding="utf-8")) == example()


def test_numpy_numbers_and_tuples_become_plain_json(tmp_path):
    report = without_plots()
    report["protocol"]["queries"] = np.int64(7)
    report["models"]["ease"]["metrics"]["ndcg@10"] = {"mean": np.float32(0.5), "ci95": (np.float64(0.25), 0.75), "n": 8}
    as_json = json.loads(write_report(report, tmp_path)[0].read_text(encoding="utf-8"))
    assert as_json["protocol"]["queries"] == 7
    assert as_json["models"]["ease"]["metrics"]["ndcg@10"] == {"mean": 0.5, "ci95": [0.25, 0.75], "n": 8}


def test_the_page_is_well_formed(page):
    assert page.unbalanced == []
    assert page.open == []


def test_what_comes_from_data_is_never_markup(page):
    assert not page.of("script")
    assert page.text.count(EVIL) >= 4  # user, title, caption, finding: as text


@pytest.mark.parametrize("place", ["dataset", "model", "slice", "ablation", "curve"])
def test_names_are_never_markup_in_tables_or_plots(place, tmp_path):
    report, evil = without_plots(), f"$x^{EVIL}"
    if place == "dataset":
        report["dataset"]["name"] = evil
    elif place == "model":
        report["models"][evil] = report["models"]["ease"]
        report["by_k"] = {evil: example()["by_k"]["ease"]}
    elif place == "slice":
        report["models"]["ease"]["slices"] = {evil: {"ndcg@10": statistic(0.1)}}
    elif place == "ablation":
        report["ablations"] = {"trained with": {evil: {"ndcg@10": statistic(0.1)}}}
    else:
        report["curves"] = {evil: {evil: [1.0, 2.0]}}
    found = Page(write_report(report, tmp_path)[1].read_text(encoding="utf-8"))
    assert not found.of("script")
    assert evil in found.text
    assert found.unbalanced == []


def test_the_page_needs_no_network(page):
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")), (tag, name, target[:50])
    assert not page.of("iframe")


def test_styles_fetch_nothing(written):
    source = written[1].read_text(encoding="utf-8")
    assert "@import" not in source
    assert {found for found in re.findall(r"url\(([^)]*)\)", source) if not found.startswith("#")} == set()


def test_ids_in_the_page_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert sorted(ids) == sorted(set(ids))


def test_every_reference_inside_the_plots_and_the_page_leads_somewhere(written, page):
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    source = written[1].read_text(encoding="utf-8")
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', source)) <= ids


def test_every_picture_says_what_it_shows(page):
    assert page.of("img")
    assert all(attributes["alt"] for attributes in page.of("img"))
    assert len(page.of("svg")) == 5  # slices, by k, ablation, robustness, curves
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in page.of("svg"))


def test_a_missing_or_broken_picture_shows_the_title(page):
    blanks = [attributes["aria-label"] for attributes in page.of("span") if attributes.get("class") == "blank"]
    assert blanks == ["no picture of 蓝色登山背包", "no picture of cup"]


def test_hits_are_marked_in_words_too(page):
    assert page.text.count("✓ right") == 1
    assert "1 of 3 right" in page.text


def test_a_long_history_shows_its_newest_and_counts_the_rest(page):
    assert "bought 14" in page.text
    assert "bought 2 " not in page.text
    assert "and 3 earlier" in page.text


def test_every_model_and_the_attainable_stand_in_the_table_with_ours_last(page):
    rows = re.findall(r"popularity .*?attainable", page.text)[0]
    places = [rows.index(name) for name in ("item_knn", "ease", "retrieval ", "retrieval+reranker", "attainable")]
    assert places == sorted(places)


def test_the_best_of_a_column_is_marked_and_catalogue_metrics_have_none(page):
    assert re.search(r"\.150 \(best\)", page.text)
    assert re.search(r"\.300 \(best\)", page.text)  # recall@10 of ours; coverage is .300 for all and has none
    headline = page.text[page.text.index("Test queries;") : page.text.index("What the metrics mean")]
    assert headline.count("(best)") == 2


def test_key_figures_are_the_arithmetic_of_the_report(page):
    assert "75% of the attainable ndcg@10" in page.text
    assert "1.67× the best baseline ease has .0900" in page.text  # .15 / .09


def test_a_difference_whose_interval_holds_zero_is_not_called_a_win(page):
    assert "retrieval+reranker is above retrieval by .030 [.020, .040] in ndcg@10." in page.text
    assert (
        "ease and item_knn cannot be told apart in ndcg@10: the difference is +.030 [−.010, .070] (p = .200)."
        in page.text
    )


def test_a_loss_is_said_with_its_size():
    loss = {"a": "x", "b": "y", "metric": "mrr@10", "difference": -0.05, "ci95": [-0.08, -0.02], "p": 0.0001}
    assert text.verdict(loss) == ("below", "x is below y by .050 [.020, .080] in mrr@10 (p\xa0<\xa0.001).")


def test_a_difference_below_what_could_be_detected_is_not_called_a_win():
    seen = {"a": "x", "b": "y", "metric": "ndcg@10", "difference": 0.03, "ci95": [0.005, 0.055]}
    for least, side in ((0.02, "above"), (0.04, "same")):
        found, sentence = text.verdict({**seen, "minimum_detectable_effect": least})
        assert found == side and ("no win" in sentence) == (side == "same") and "[.005, .055]" in sentence


def test_the_table_says_what_a_history_holds_what_is_left_out_and_who_pays_for_ties(tmp_path):
    said = {"history": "with the validation item", "ranking": "all of it; ties are broken against us"}
    report = {**without_plots(), "protocol": {"queries": 7, "shoppers": 5, **said}}
    shown = Console(record=True, width=100, file=io.StringIO())
    for model in report["models"].values():
        model["metrics"] |= {name: statistic(0.1) for name in ("mrr@10", "diversity@10")}
    terminal.headline(report, shown)
    page = Page(write_report(report, tmp_path)[1].read_text(encoding="utf-8"))
    for told, end in ((shown.export_text(), "is above"), (page.text, "What the metrics mean")):
        table = " ".join(told[told.index("est queries") : told.rindex(end)].split())
        assert all(f"{name}: {value}" in table for name, value in said.items())


@pytest.mark.parametrize("optional", contract.OPTIONAL)
def test_every_optional_part_may_be_absent(optional, tmp_path):
    report = without_plots()
    report.pop(optional, None)
    assert Page(write_report(report, tmp_path)[1].read_text(encoding="utf-8")).unbalanced == []


def test_the_least_report_makes_a_page(tmp_path):
    report = {key: example()[key] for key in contract.REQUIRED}
    report["models"] = {name: {"metrics": {"ndcg@10": {"mean": 0.0}}} for name in MODELS}
    report.update(dataset={}, protocol={}, ablations={}, timings={})
    found = Page(write_report(report, tmp_path)[1].read_text(encoding="utf-8"))
    assert found.unbalanced == []
    assert not found.of("svg")


def change(path, value):
    """Returns a function that sets (or, with None, removes) what stands at `path`."""

    def apply(report):
        *above, last = path
        for key in above:
            report = report[key]
        if value is None:
            del report[last]
        else:
            report[last] = value

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(["protocol"], None), "missing: protocol"),
        (change(["models", "ease"], None), "missing: ease"),
        (change(["schema_version"], 2), "schema_version 1, got 2"),
        (change(["timings", "train"], float("nan")), r"report\['timings'\]\['train'\], got nan"),
        (change(["models", "ease", "metrics", "x"], {"mean": np.float32("inf")}), r"\['x'\]\['mean'\], got inf"),
        (change(["models", "ease", "metrics", "x"], 0.5), r"models\['ease'\]\['metrics'\]\['x'\] to be"),
        (change(["models", "ease", "metrics", "x"], {"mean": 0.5, "ci95": [0.6, 0.4]}), "low <= high"),
        (change(["models", "ease"], {"ndcg@10": statistic(0.1)}), "to hold 'metrics'"),
        (change(["ablations", "odd"], {"ndcg@10": 0.5}), r"ablations\['odd'\]\['ndcg@10'\]|to be \{metric"),
    ],
)
def test_a_broken_report_is_refused_and_nothing_is_written(edit, message, tmp_path):
    report = example()
    edit(report)
    with pytest.raises(ValueError, match=message):
        write_report(report, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_has_no_json_form_is_refused_by_its_place(tmp_path):
    report = example()
    report["configuration"]["folder"] = Path("x")
    with pytest.raises(TypeError, match=r"report\['configuration'\]\['folder'\].*Path"):
        write_report(report, tmp_path)


def test_a_key_that_nothing_shows_is_kept_with_a_warning(tmp_path, caplog):
    report = {**without_plots(), "comparision": []}
    as_json = json.loads(write_report(report, tmp_path)[0].read_text(encoding="utf-8"))
    assert as_json["comparision"] == []
    assert "perhaps 'comparisons' was meant" in caplog.text


def test_the_given_report_is_left_as_it_was(tmp_path):
    report = without_plots()
    before = copy.deepcopy(report)
    write_report(report, tmp_path)
    assert report == before


def test_a_failed_write_leaves_the_old_page_and_no_rubbish(tmp_path, monkeypatch):
    write_report(without_plots(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(writing.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report({**without_plots(), "timings": {"train": 1.0}}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_ablations_may_be_flat_or_grouped_with_or_without_metrics():
    number = {"ndcg@10": statistic(0.1)}
    expected = {"a": number, "b": number}
    assert contract.ablation_groups({"a": number, "b": {"metrics": number}}) == {"": expected}
    assert contract.ablation_groups({"kind": {"a": {"metrics": number}, "b": number}}) == {"kind": expected}


def decoded(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (picture((300, 200)), (112, 75)),
        (picture((50, 40)), (50, 40)),
        (picture((2000, 4000), kind="JPEG"), (56, 112)),
        (picture((224, 224), mode="CMYK", colour=(0, 0, 0, 0), kind="JPEG"), (112, 112)),
        (picture((224, 224), mode="P", colour=0, kind="GIF"), (112, 112)),
        (picture((224, 224), mode="I;16", colour=0), (112, 112)),
    ],
)
def test_thumbnails_of_any_kind_are_small_jpegs_of_the_same_shape(image, size):
    assert decoded(gallery.thumbnail(image)).size == size


def test_transparency_becomes_white():
    clear = picture((20, 20), mode="RGBA", colour=(255, 0, 0, 0))
    assert decoded(gallery.thumbnail(clear)).getpixel((10, 10)) == (255, 255, 255)


@pytest.mark.parametrize("image", [b"", b"not a picture", picture()[:80]])
def test_what_is_no_picture_has_no_thumbnail(image):
    assert gallery.thumbnail(image) == ""


def test_bars_of_a_plot_are_as_long_as_their_means():
    svg = plots.ablations({"one": {"mean": 1.0}, "three": {"mean": 3.0}}, metric="ndcg@10")
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+\s+L ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: var', svg)
    lengths = [float(right) - float(left) for left, right in bars]
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=1e-3)


def test_plots_speak_in_the_font_of_the_page(written):
    plotted = "".join(re.findall(r"<svg.*?</svg>", written[1].read_text(encoding="utf-8"), flags=re.DOTALL))
    assert "<text" in plotted
    assert "font-size:" in plotted
    assert "DejaVu" not in plotted


def test_a_model_has_the_same_colour_in_every_plot():
    everyone = plots.series([*MODELS, "sasrec"])
    assert plots.series(["ease", "retrieval"]) == {name: everyone[name] for name in ("ease", "retrieval")}
    assert len(set(everyone.values())) == len(everyone)


def test_all_colours_of_plots_follow_light_and_dark(written):
    plotted = "".join(re.findall(r"<svg.*?</svg>", written[1].read_text(encoding="utf-8"), flags=re.DOTALL))
    used = set(re.findall(r"#[0-9a-f]{6}\b", plotted))
    assert used <= {"#000000", "#ffffff"}, used  # what matplotlib writes where nothing is drawn
    styles = (Path(report_package.__file__).parent / "style.css").read_text(encoding="utf-8")
    for variable in set(re.findall(r"var\((--[\w-]+)\)", plotted)):
        assert styles.count(f"{variable}:") == 2, variable  # light and dark


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme):
    styles = (Path(report_package.__file__).parent / "style.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", styles, flags=re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    pairs = [(front, back) for front in ("ink", "muted", "accent") for back in ("page", "panel", "soft")]
    pairs += [
        ("good", "good-soft"),
        ("bad", "bad-soft"),
        ("ink", "good-soft"),
        ("ink", "bad-soft"),
        ("ink", "accent-soft"),
    ]
    pairs += [("muted", "accent-soft"), ("muted", "good-soft")]
    for front, back in pairs:
        lighter, darker = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (front, back)
    for number in range(8):
        lighter, darker = sorted((luminance(colours[f"series-{number}"]), luminance(colours["panel"])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 2.5, number


def test_the_examples_in_the_documentation_hold():
    outcome = doctest.testmod(text)
    assert outcome.attempted >= 5
    assert outcome.failed == 0
