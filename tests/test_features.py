"""What the candidate tower reads of each item, and from which rows it was learned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import shops

from tfmm.encoders.text import TextConfig
from tfmm.features import ATTRIBUTES, ID, NUMERIC, PRESENT, SUBWORDS, item_features

TRAINED = np.arange(shops.ITEMS) < shops.COLD[0]
TEXT = TextConfig(vocabulary_size=100, max_length=8)


@pytest.fixture(scope="module")
def table():
    return shops.shop().table


def present_of(features, modality: str) -> np.ndarray:
    return features.columns[PRESENT][:, features.modalities.index(modality)]


def test_presence_is_what_the_catalogue_has(table):
    features, rows = item_features(table, trained=TRAINED, text=TEXT), np.arange(shops.ITEMS)
    assert features.modalities == (ID, "image", SUBWORDS, ATTRIBUTES)
    assert features.num_items == shops.ITEMS
    expected = {ID: TRAINED, "image": rows % 10 != 3, SUBWORDS: rows % 10 != 7}
    for name, mask in expected.items():
        assert present_of(features, name).tolist() == [*mask.tolist(), False], name


def test_the_last_row_is_an_item_of_which_nothing_is_known(table):
    features = item_features(table, trained=TRAINED, text=TEXT)
    last = {name: column[-1] for name, column in features.columns.items()}
    assert all(len(column) == shops.ITEMS + 1 for column in features.columns.values())
    assert not last[PRESENT].any()
    assert last[ID] == shops.ITEMS
    assert not last["image"].any()
    assert not last[SUBWORDS].any()
    assert not last[ATTRIBUTES].any()
    assert np.isnan(last[NUMERIC]).all()


@pytest.mark.parametrize("kept", [8, 3])
def test_vectors_are_reduced_to_their_damped_whitened_components(table, kept):
    """The oracle is the singular value decomposition; products of pairs do not depend on the components' signs."""
    seen = TRAINED & table.present["image"]
    vectors = table.vectors["image"].astype(np.float64)
    centred = vectors - vectors[seen].mean(axis=0)
    _, singular, axes = np.linalg.svd(centred[seen], full_matrices=False)
    variances = singular[:kept] ** 2 / (seen.sum() - 1)
    expected = centred @ axes[:kept].T / np.sqrt(variances + 0.1 * variances.mean())
    found = item_features(table, trained=TRAINED, reduce_to=kept).columns["image"][:-1]
    assert found.shape == (shops.ITEMS, kept)
    present = table.present["image"]
    np.testing.assert_allclose(found[present] @ found[present].T, expected[present] @ expected[present].T, atol=0.01)
    assert not found[~present].any()


def test_reducing_a_raw_vector_again_gives_the_column(table):
    features = item_features(table, trained=TRAINED)
    again = features.reductions["image"](table.vectors["image"])[table.present["image"]]
    np.testing.assert_allclose(features.columns["image"][:-1][table.present["image"]], again, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seen", [0, 1])
def test_too_few_vectors_to_tell_are_left_as_they_are(table, seen):
    features = item_features(table, trained=np.arange(shops.ITEMS) < seen, reduce_to=3)
    np.testing.assert_allclose(features.columns["image"][:-1], table.vectors["image"][:, :3], atol=1e-3)


def test_vocabularies_and_statistics_know_nothing_of_items_outside_training(table):
    trained = np.arange(shops.ITEMS) % 4 == 0  # one group alone
    features = item_features(table, trained=trained, text=TEXT)
    assert {term for term in features.vocabulary.terms if term.startswith("brand")} == {
        "brand=brand00",
        "brand=brand01",
    }
    changed = dataclasses.replace(
        table,
        text=np.where(trained, table.text, "entirely different words"),
        numeric={"price": np.where(trained, table.numeric["price"], 1e6)},
        vectors={"image": np.where(trained[:, np.newaxis], table.vectors["image"], 9).astype(np.float16)},
    )
    other = item_features(changed, trained=trained, text=TEXT)
    assert other.vocabulary == features.vocabulary
    assert other.text == features.text
    for part in ("mean", "components"):
        np.testing.assert_array_equal(
            getattr(other.reductions["image"], part), getattr(features.reductions["image"], part)
        )


def test_only_the_wanted_modalities_are_read(table):
    for wanted in (("id",), ("image",), ("id", "attributes"), ("attributes", "image")):
        features = item_features(table, trained=TRAINED, modalities=wanted)
        assert set(features.modalities) == set(wanted)
        assert features.columns[PRESENT].shape == (shops.ITEMS + 1, len(wanted))
        assert features.content == tuple(name for name in features.modalities if name == "image")


def test_ids_can_be_opened_to_more_items(table):
    features = item_features(table, trained=TRAINED)
    opened = features.with_ids(np.ones(shops.ITEMS, bool))
    assert present_of(opened, ID).tolist() == [True] * shops.ITEMS + [False]
    assert present_of(features, ID).tolist() == [*TRAINED.tolist(), False]
    np.testing.assert_array_equal(present_of(opened, "image"), present_of(features, "image"))
    without = item_features(table, trained=TRAINED, modalities=("image",))
    assert without.with_ids(np.ones(shops.ITEMS, bool)) is without


def test_a_trained_text_encoder_takes_the_place_of_frozen_text_vectors(table):
    vectors = {**table.vectors, "text": np.ones((shops.ITEMS, 3), np.float16)}
    both = dataclasses.replace(table, vectors=vectors, present={**table.present, "text": np.ones(shops.ITEMS, bool)})
    assert "text" in item_features(both, trained=TRAINED).modalities
    trained = item_features(both, trained=TRAINED, text=TEXT)
    assert "text" not in trained.modalities
    assert SUBWORDS in trained.modalities


def test_a_catalogue_without_attributes_has_no_such_modality(table):
    bare = dataclasses.replace(table, categorical={}, numeric={})
    features = item_features(bare, trained=TRAINED)
    assert ATTRIBUTES not in features.modalities
    assert features.columns[ATTRIBUTES].shape[0] == features.columns[NUMERIC].shape[0] == shops.ITEMS + 1


# --- What stands for what is missing ---------------------------------------------------------------------------------


def test_what_an_item_lacks_is_the_weighted_mean_of_what_its_neighbours_have(table):
    weights = sp.lil_matrix((shops.ITEMS, shops.ITEMS), dtype=np.float32)
    weights[3, 4], weights[3, 5], weights[3, 13] = 1.0, 3.0, 9.0  # 3 and 13 have no picture
    weights[4, 5] = 1.0
    plain = item_features(table, trained=TRAINED)
    seen = dataclasses.replace(plain, neighbours=weights.tocsr()).seen()
    own = plain.columns["image"]
    np.testing.assert_allclose(seen["image"][3], (own[4] + 3 * own[5]) / 4, rtol=1e-5)
    image = plain.modalities.index("image")
    assert seen[PRESENT][3, image] and not seen[PRESENT][13, image] and not seen[PRESENT][-1].any()
    others = np.arange(shops.ITEMS + 1) != 3
    np.testing.assert_array_equal(seen["image"][others], own[others])
    np.testing.assert_array_equal(seen[PRESENT][others], plain.columns[PRESENT][others])


def test_a_picture_that_is_taken_away_is_told_by_the_neighbours_that_kept_theirs(table):
    weights = sp.lil_matrix((shops.ITEMS, shops.ITEMS), dtype=np.float32)
    weights[0, 1] = weights[0, 2] = 1.0
    features = dataclasses.replace(item_features(table, trained=TRAINED), neighbours=weights.tocsr())
    gone = np.isin(np.arange(shops.ITEMS), [0, 1])
    seen, image = features.without(["image"], gone).seen(), features.modalities.index("image")
    np.testing.assert_allclose(seen["image"][0], features.columns["image"][2], rtol=1e-6)
    assert seen[PRESENT][0, image] and not seen[PRESENT][1, image]
    everybody = features.without(["image"]).seen()
    assert not everybody[PRESENT][:, image].any()
