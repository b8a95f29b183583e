"""The packages' systems: what our own agree with, and what becomes of them where a package is absent.

That they find what popularity cannot, and the rest of what every system must, is in `test_zoo_systems.py`.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import shops
import test_zoo_systems as suite

from tfmm import comparing, evaluation, zoo
from tfmm.comparing import CompareOptions
from tfmm.zoo import ials, peers

PEERS = [name for name, system in zoo.SYSTEMS.items() if system.package]


def test_our_ials_has_the_fixed_point_of_implicit_s():
    """With c = (1 + a) / a and l2' = l2 (1 + a) / a, and vectors scaled by sqrt(1 / (1 + a)), the losses are the same.

    Ours by a is c (p - s)^2 of what was observed and s^2 of what was not, with p = 1 / (1 + a) where implicit has 1.
    """
    als = pytest.importorskip("implicit.cpu.als", reason=peers.absent("implicit"))
    a, l2 = 0.1, 0.05
    matrix = suite.data().matrix().tocsr()[: shops.USERS]
    settings = {"alpha": (1 + a) / a, "regularization": l2 * (1 + a) / a, "iterations": 1000, "random_state": 0}
    model = als.AlternatingLeastSquares(factors=4, use_cg=False, num_threads=1, **settings)
    model.fit(matrix, show_progress=False)
    users, items = (factors / np.sqrt(1 + a) for factors in (model.user_factors, model.item_factors))
    assert np.abs(items).max() > 0.1  # not the fixed point at zero
    np.testing.assert_allclose(ials.solve(matrix, items, alpha=a, l2=l2, nu=0.0), users, atol=1e-3)
    columns = matrix.T.tocsr()
    np.testing.assert_allclose(ials.solve(columns, users, alpha=a, l2=l2, nu=0.0), items, atol=1e-3)


def test_our_ials_ranks_as_well_as_implicit_s():
    pytest.importorskip("implicit", reason=peers.absent("implicit"))
    queries = suite.test_queries()

    def quality(name: str) -> float:
        return evaluation.mean_ndcg(zoo.recommend(suite.fitted(name), queries, suite.data().launched), queries)

    assert quality("ials") == pytest.approx(quality("implicit_als"), abs=0.05)


@pytest.fixture
def without_packages(monkeypatch):
    monkeypatch.setattr(peers, "installed", lambda package: not package)
    monkeypatch.setattr(zoo, "installed", lambda package: not package)


@pytest.mark.parametrize("name", PEERS)
def test_an_absent_package_is_an_error_that_names_the_extra(name, without_packages):
    package = zoo.SYSTEMS[name].package
    with pytest.raises(ValueError, match=rf"'{package}'.*pip install 'tfmm\[bench\]'"):
        zoo.chosen(f"popularity,{name}")
    with pytest.raises(ImportError, match=r"pip install 'tfmm\[bench\]'"):
        zoo.SYSTEMS[name].fit(suite.data(), zoo.SYSTEMS[name].config)


def test_all_systems_are_those_whose_packages_are_there_and_it_is_said_once(monkeypatch, without_packages, caplog):
    some = {name: zoo.SYSTEMS[name] for name in (*zoo.BASELINES, *PEERS)}
    monkeypatch.setattr(zoo, "SYSTEMS", some)
    monkeypatch.setattr(comparing.zoo, "SYSTEMS", some)
    data = dataclasses.replace(suite.data(), validation=suite.data().validation.take(np.arange(5)))
    with caplog.at_level(logging.WARNING):
        assert comparing.besides_baselines(CompareOptions(), data) == []
    (said,) = (record.message for record in caplog.records if "bench" in record.message)
    assert all(name in said for name in PEERS)
