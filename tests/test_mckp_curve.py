"""The curve of the best value of every budget, sorted and binned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_knapsack import campaign

from agents import cost_curve, solve_mckp

OK = np.ones((3, 2))


def test_curve_is_the_bound_of_every_budget() -> None:
    value, cost = campaign(300)
    eligible = np.random.default_rng(3).random(value.shape) < 0.7
    eligible[:, 2] = True
    curve = cost_curve(value, cost, eligible=eligible)
    budgets = np.linspace(curve.budget[0], 1.1 * curve.budget[-1], 23)
    for budget, worth, price in zip(
        budgets, curve.value_at(budgets), curve.price_at(budgets), strict=True
    ):
        a = solve_mckp(value, cost, budget, eligible=eligible)
        assert a.bound == pytest.approx(worth, rel=1e-12)
        assert a.price == price


def test_curve_is_concave_and_prices_are_its_slopes() -> None:
    value, cost = campaign(300)
    curve = cost_curve(value, cost)
    slope = np.diff(curve.value) / np.diff(curve.budget)
    np.testing.assert_allclose(curve.price[:-1], slope, rtol=1e-6)
    assert np.all(np.diff(curve.price) < 0)
    assert curve.price[-1] == 0
    assert curve.value[-1] == pytest.approx(value.max(axis=1).sum(), rel=1e-12)
    assert curve.value_at(np.inf) == curve.value[-1]


def test_curve_of_identical_users_has_one_corner_a_hull_vertex() -> None:
    curve = cost_curve(np.tile([0, 3, 4, 4.5], (100, 1)), np.tile([0, 1, 2, 2], (100, 1)))
    assert curve.budget.tolist() == [0, 100, 200]
    assert curve.value.tolist() == [0, 300, 450]
    assert curve.price.tolist() == [3, 1.5, 0]


@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e25])
def test_binned_curve_is_the_sorted_one_to_a_millionth(
    monkeypatch: pytest.MonkeyPatch, unit: float
) -> None:
    value, cost = campaign(20_000, 5)
    value = value * unit
    exact = cost_curve(value, cost)
    monkeypatch.setattr("agents.common.mckp.curve._EXACT", 0)
    binned = cost_curve(value, cost)
    assert len(binned.budget) < 0.5 * len(exact.budget)
    assert binned.budget[0] == exact.budget[0]
    assert binned.budget[-1] == pytest.approx(exact.budget[-1], rel=1e-9)
    budgets = np.linspace(exact.budget[0], 1.1 * exact.budget[-1], 10_001)
    truth, found = exact.value_at(budgets), binned.value_at(budgets)
    assert np.all(found <= truth + 1e-9 * truth[-1])
    assert np.all(found >= truth * (1 - 1e-6) - 1e-9 * truth[-1])
    assert np.all(np.diff(binned.price) < 0)
    np.testing.assert_allclose(binned.price_at(budgets), exact.price_at(budgets), rtol=2e-3)


def test_binned_curve_keeps_masks_and_costs_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    value, cost = campaign(2_000)
    eligible = np.random.default_rng(3).random(value.shape) < 0.7
    eligible[:, 2] = True
    exact = cost_curve(value, cost - 0.5, eligible=eligible)
    monkeypatch.setattr("agents.common.mckp.curve._EXACT", 0)
    binned = cost_curve(list(value.T), list(cost.T - 0.5), eligible=list(eligible.T))
    np.testing.assert_allclose(binned.budget[[0, -1]], exact.budget[[0, -1]], rtol=1e-9)
    budgets = np.linspace(exact.budget[0], exact.budget[-1], 101)
    np.testing.assert_allclose(binned.value_at(budgets), exact.value_at(budgets), rtol=1e-4)


def test_least_budget_for_a_value() -> None:
    curve = cost_curve(*campaign(300))
    values = np.linspace(curve.value[0], curve.value[-1], 50)
    np.testing.assert_allclose(curve.value_at(curve.budget_for(values)), values, atol=1e-9)
    with pytest.raises(ValueError, match="the best possible value"):
        curve.budget_for([0, curve.value[-1] + 1])


@pytest.mark.parametrize("budget", [-1, np.nan, [5, -1]])
def test_curve_refuses_budgets_below_the_least_spend(budget: Any) -> None:
    with pytest.raises(ValueError, match="least possible spend"):
        cost_curve(OK, OK - 1).value_at(budget)


@pytest.mark.parametrize("exact", [0, 1 << 20])
def test_curve_refuses_what_is_not_finite(monkeypatch: pytest.MonkeyPatch, exact: int) -> None:
    monkeypatch.setattr("agents.common.mckp.curve._EXACT", exact)
    wrong = OK.copy()
    wrong[2, 1] = np.nan
    with pytest.raises(ValueError, match="cost is nan in row 2, column 1"):
        cost_curve(OK, wrong)


def test_curve_of_nobody() -> None:
    assert cost_curve(np.empty((0, 3)), np.empty((0, 3))).value_at(1) == 0


def test_inputs_are_not_written_to() -> None:
    value, cost = campaign(200)
    for x in (value, cost):
        x.setflags(write=False)
    cost_curve(value, cost)
