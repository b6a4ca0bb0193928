"""Filling a budget: edges that need no sorting are settled as sorting would settle them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from test_knapsack import campaign

from agents import solve_mckp
from agents.common.mckp.fill import Filled, Limits, fill
from agents.common.mckp.offers import read_offers
from agents.common.mckp.sums import UNLIMITED, at_most
from agents.common.mckp.sweep import NO_GROUPS, Scales, Window, split

Array = NDArray[Any]


def filled(
    monkeypatch: pytest.MonkeyPatch, few: int, value: Array, cost: Array, budget: float
) -> Filled | None:
    """What a budget buys if more than so many edges are not sorted, in a window around 1."""
    monkeypatch.setattr("agents.common.mckp.fill._FEW", few)
    offers = read_offers(value, cost, None, "auto")
    scales, window = Scales.of(offers), Window(np.array([3.0]), np.array([0.1]))
    limits = Limits(at_most(budget, scales.cost), None, [UNLIMITED])
    return fill(split(offers, window, scales), limits, window, scales, NO_GROUPS, None)


@pytest.mark.parametrize("digits", [1, 12])  # with few, slopes tie
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.9, 1.5])
def test_sorting_the_few_is_enough(
    monkeypatch: pytest.MonkeyPatch, digits: int, share: float
) -> None:
    value, cost = (np.round(x, digits) for x in campaign(2_000))
    budget = share * solve_mckp(value, cost, np.inf).cost
    few, all_ = (filled(monkeypatch, n, value, cost, budget) for n in (0, 10**9))
    assert (few is None) == (all_ is None)
    if few is not None and all_ is not None:
        for name, x in vars(all_).items():
            assert_array_equal(getattr(few, name), x)


def test_budget_within_the_window_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    value, cost = campaign(2_000)
    budget = 0.5 * solve_mckp(value, cost, np.inf).cost
    found, truth = filled(monkeypatch, 0, value, cost, budget), solve_mckp(value, cost, budget)
    assert found is not None
    assert (found.price, found.bound) == (truth.price, pytest.approx(truth.bound, rel=1e-14))
