"""LETOR's text: what is read of a line, which part is which, and what is refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from tfmm import sources
from tfmm.sources import letor

LINES = """\
2 qid:10 1:0.5 3:-4 #docid = GX1 inc = 1 prob = 0.4
0 qid:10 1:NULL 2:7 3:1e3 #docid = GX2 weight = 2.5

# a line of comment
1 qid:11 2:1 # nothing known
"""


def write(path: Path, text: str = LINES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def part(qid: int) -> str:
    return f"1 qid:{qid} 1:{qid} 2:NULL\n0 qid:{qid} 1:0 2:3\n"


def numbered(home: Path, count: int = 4, suffix: str = ".txt") -> Path:
    for number in range(1, count + 1):
        write(home / f"A{number}{suffix}", part(number))
    return home


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_line_is_a_label_a_query_numbers_and_a_document(tmp_path, name):
    lists = letor.read_lists(write(tmp_path / name))
    assert lists.queries.tolist() == ["10", "11"]
    assert [row.tolist() for row in lists.documents] == [["GX1", "GX2"], ["11/5"]]
    assert lists.labels.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(lists.features, np.array([[0.5, 0, -4], [np.nan, 7, 1000], [0, 1, 0]], np.float32))
    assert lists.weights.tolist() == [1, 2.5, 1]


def test_labels_that_count_alike_have_no_weights(tmp_path):
    assert letor.read_lists(write(tmp_path / "a.txt", part(1))).weights is None


def test_documents_of_a_query_need_not_stand_together(tmp_path):
    lists = letor.read_lists(write(tmp_path / "a.txt", "1 qid:a 1:1\n0 qid:b 1:2\n2 qid:a 1:3\n"))
    assert lists.queries.tolist() == ["a", "b"]
    assert lists.labels.tolist() == [1, 2, 0]
    assert lists.features[:, 0].tolist() == [1, 3, 2]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x qid:1 1:2", "a label of 0 or more first, got 'x'"),
        ("-1 qid:1 1:2", "a label of 0 or more first, got '-1'"),
        ("nan qid:1 1:2", "a label of 0 or more first, got 'nan'"),
        ("1 1:2", "a label and then qid:<query>, got '1 1:2'"),
        ("1 qid: 1:2", "a label and then qid:<query>, got '1 qid:'"),
        ("1 qid:1 2", "<feature>:<value> with a feature number from 1 to 10000, got '2'"),
        ("1 qid:1 0:2", "<feature>:<value> with a feature number from 1 to 10000, got '0:2'"),
        ("1 qid:1 99999999:2", "<feature>:<value> with a feature number from 1 to 10000, got '99999999:2'"),
        ("1 qid:1 1:two", "a number or NULL in feature 1, got 'two'"),
        ("1 qid:1 1:inf", "a number or NULL in feature 1, got 'inf'"),
        ("1 qid:1 1:2 1:3", "every feature once, got 'feature 1 again: 1:3'"),
        ("1 qid:1 1:2 # weight = -1", "a weight of 0 or more, got '-1'"),
    ],
)
def test_a_bad_line_is_named_with_file_line_what_was_expected_and_what_came(tmp_path, line, expected):
    path = write(tmp_path / "a.txt", f"1 qid:1 1:1\n\n{line}\n")
    with pytest.raises(ValueError, match="line 3") as error:
        letor.read_lists(path)
    assert str(path) in str(error.value)
    assert expected in str(error.value)


def test_a_file_without_a_line_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got none"):
        letor.read_lists(write(tmp_path / "a.txt", "# nothing\n"))


@pytest.mark.parametrize(
    ("subset", "train", "validation", "test"),
    [
        ("A1", ["2", "3"], ["4"], ["1"]),
        ("A2", ["3", "4"], ["1"], ["2"]),
        ("A3", ["4", "1"], ["2"], ["3"]),
        ("A4", ["1", "2"], ["3"], ["4"]),
        (None, ["1", "2"], ["3"], ["4"]),
    ],
)
def test_each_rotation_tests_one_part_and_validates_on_the_one_before(tmp_path, subset, train, validation, test):
    parts = letor.load(numbered(tmp_path), subset=subset)
    found = (parts.train, parts.validation, parts.test)
    assert [one.queries.tolist() for one in found] == [train, validation, test]


def test_parts_are_ordered_by_their_numbers(tmp_path):
    assert list(letor.rotations(numbered(tmp_path, count=11))) == [f"A{number}" for number in range(1, 12)]


def test_a_rotation_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(ValueError, match="A1, A2, A3, A4") as error:
        letor.load(numbered(tmp_path), subset="A5")
    assert "A4: trains on A1 and A2, validates on A3" in str(error.value)


@pytest.mark.parametrize(("vali", "suffix"), [("vali", ".txt"), ("valid", ".txt.gz"), ("validation", ".txt")])
def test_three_files_are_the_three_parts(tmp_path, vali, suffix):
    for number, stem in enumerate(("train", vali, "test")):
        write(tmp_path / f"{stem}{suffix}", part(number))
    parts = letor.load(tmp_path)
    assert [one.queries.tolist() for one in parts.parts().values()] == [["0"], ["1"], ["2"]]


def test_folds_are_chosen_by_name(tmp_path):
    for fold in ("Fold1", "Fold2"):
        for number, stem in enumerate(("train", "vali", "test")):
            write(tmp_path / fold / f"{stem}.txt", part(number + 10 * (fold == "Fold2")))
    assert letor.load(tmp_path, subset="Fold2").test.queries.tolist() == ["12"]
    for subset in (None, "Fold3"):
        with pytest.raises(ValueError, match="Fold1, Fold2"):
            letor.load(tmp_path, subset=subset)


def test_another_folder_is_told_what_is_read(tmp_path):
    write(tmp_path / "items.csv", "id\n")
    with pytest.raises(ValueError, match="train.txt, vali.txt and test.txt.*got items.csv"):
        letor.load(tmp_path)


def test_features_that_only_one_part_names_are_0_in_the_others(tmp_path):
    for stem, text in (("train", "1 qid:1 1:1\n"), ("vali", "1 qid:2 1:1\n"), ("test", "1 qid:3 1:1 4:2\n")):
        write(tmp_path / f"{stem}.txt", text)
    parts = letor.load(tmp_path)
    assert parts.num_features == 4
    assert parts.train.features.tolist() == [[1, 0, 0, 0]]


def test_a_test_query_that_is_trained_on_is_refused(tmp_path):
    for stem, number in (("train", 1), ("vali", 2), ("test", 1)):
        write(tmp_path / f"{stem}.txt", part(number))
    with pytest.raises(ValueError, match="qid:1 with the same documents in train and test"):
        letor.load(tmp_path)


def test_a_fingerprint_tells_labels_and_numbers_apart(tmp_path):
    first = letor.load(numbered(tmp_path / "a")).fingerprint()
    assert first == letor.load(numbered(tmp_path / "b")).fingerprint()
    path = tmp_path / "b" / "A2.txt"
    path.write_text(path.read_text().replace("0 qid", "1 qid"))
    assert first != letor.load(tmp_path / "b").fingerprint()


def test_it_is_no_shop(tmp_path):
    with pytest.raises(ValueError, match="expected a shop, got lists of judged documents"):
        sources.load("letor", data_dir=tmp_path)


@pytest.mark.data
def test_mq2007_agg_is_read_whole():
    root = Path(os.environ.get("TFMM_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
    home = root / "mq2007-agg"
    if not home.is_dir():
        pytest.skip(f"needs {home}: set TFMM_DATA to the folder that holds the real data sets")
    parts = letor.load(home, subset="A4")
    assert [len(one) for one in parts.parts().values()] == [678, 339, 339]
    text = (home / "A4.txt").read_text()
    assert len(parts.test.labels) == text.count("qid:")
    assert np.isnan(parts.test.features).sum() == text.count("NULL")
    assert parts.test.labels.sum() == sum(int(line[0]) for line in text.splitlines())
