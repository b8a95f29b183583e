"""Suggested attributes: what they are told from, how right they are, and that nothing is filled in."""

from __future__ import annotations

import csv
import functools

import numpy as np
import pytest
import shops
import tensorflow as tf
from sklearn.metrics import accuracy_score, f1_score

from tfmm import tagging
from tfmm.ragged import Ragged
from tfmm.tagging import TaggingConfig

CONFIG = TaggingConfig(epochs=40, batch_size=16, learning_rate=1e-2, width=16, dropout=0.0, least=3)


@functools.cache
def groups() -> dict[str, Ragged]:
    """A field that picture and title tell, unknown of every seventh product, and one with several values."""
    names = [[] if row % 7 == 2 else [f"group{shops.group_of(row)}"] for row in range(shops.ITEMS)]
    return {"group": Ragged.from_rows(names, object), "many": Ragged.from_rows([["a", "b"]] * shops.ITEMS, object)}


@functools.cache
def tagger() -> tagging.Tagger:
    tf.keras.utils.set_random_seed(0)
    return tagging.fit(CONFIG, shops.aligner(), groups(), rows=shops.shop().asking.train, seed=0)


def test_a_field_is_told_from_all_and_from_each_modality_alone_and_one_with_several_values_is_not():
    parts = shops.shop().asking
    held = np.concatenate([parts.validation, parts.test])
    table = tagging.tag_table(tagger(), shops.aligner(), groups(), rows=held)
    assert set(table) == {"group from image and text", "group from image", "group from text"}
    assert all(found["accuracy"]["mean"] >= 0.75 for found in table.values())  # by chance .25


def test_gaps_get_suggestions_in_a_file_and_what_is_known_does_not(tmp_path):
    path, ids = tmp_path / "suggested.csv", shops.dataset().items.ids
    count = tagging.write_suggestions(path, tagger(), shops.aligner(), groups(), ids=ids)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    gaps = [row for row in range(shops.ITEMS) if row % 7 == 2]
    assert count == len(rows) and {row["id"] for row in rows} <= {f"i{row}" for row in gaps}
    right = [row["suggested"] == f"group{shops.group_of(int(row['id'][1:]))}" for row in rows]
    assert np.mean(right) > 0.75 and all(0 < float(row["probability"]) <= 1 for row in rows)
    assert sorted(path.parent.iterdir()) == [path]


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    right = rng.choice(["a", "b", "c", "d"], 200, p=[0.6, 0.2, 0.15, 0.05])
    guessed = np.where(rng.random(200) < 0.6, right, rng.choice(["a", "b", "e"], 200))
    found = tagging.scores(right, guessed)
    assert found["accuracy"]["mean"] == pytest.approx(accuracy_score(right, guessed))
    assert found["macro-f1"]["mean"] == pytest.approx(f1_score(right, guessed, average="macro"))
    for statistic in found.values():
        assert statistic["ci95"][0] < statistic["mean"] < statistic["ci95"][1]


@pytest.mark.parametrize("wrong", [{"epochs": -1}, {"hide": 1.0}, {"least": 0}])
def test_a_training_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="Expected tagging"):
        TaggingConfig(**wrong)
