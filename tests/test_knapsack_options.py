"""The knapsack's options: layouts, budgets of groups, minimum spend, risk; and what is refused."""

from __future__ import annotations

import math
from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import eye, kron
from test_knapsack import campaign, total

from agents import Allocation, cost_curve, solve_mckp
from agents.common.mckp.sweep import KERNELS

Array = NDArray[Any]


def relaxed_optimum(
    value: Array,
    cost: Array,
    budget: float,
    group: Array,
    own: Array,
    least: float | None,
) -> float | None:
    """HiGHS on the linear relaxation; nothing if it is infeasible."""
    n, k = value.shape
    rows, ends = [cost.ravel()], [budget]
    for g in np.flatnonzero(np.isfinite(own)):
        rows.append((cost * (group == g)[:, None]).ravel())
        ends.append(own[g])
    if least is not None:
        rows.append(-cost.ravel())
        ends.append(-least)
    one_each = kron(eye(n), np.ones((1, k)), format="csr")
    answer = linprog(-value.ravel(), np.stack(rows), ends, one_each, np.ones(n), method="highs")
    return -float(answer.fun) if answer.status == 0 else None


def nested(seed: int) -> tuple[Any, ...]:
    """A random campaign with groups whose budgets are scarce, ample or missing."""
    rng = np.random.default_rng(seed)
    n, groups = int(rng.integers(20, 200)), int(rng.integers(1, 6))
    value, cost = campaign(n, int(rng.integers(2, 7)), seed)
    cost = cost - 0.3 * (seed % 3 == 0)
    group = rng.integers(0, groups, n)
    least, best = cost.min(axis=1), cost[np.arange(n), value.argmax(axis=1)]
    members = group == np.arange(groups)[:, None]
    own = members @ least + rng.uniform(0.05, 1.3, groups) * (members @ np.abs(best - least))
    own[rng.random(groups) < 0.3] = np.inf
    budget = least.sum() + rng.uniform(0.05, 1.2) * (best - least).sum()
    return value, cost, budget, group, own


def check_limits(a: Allocation, cost: Array, budget: float, group: Array, own: Array) -> None:
    assert a.cost == total(cost, a.choice) <= budget
    for g, most in enumerate(own):
        assert total(cost[group == g], a.choice[group == g]) <= most


@pytest.mark.parametrize("seed", range(12))
def test_bound_of_nested_budgets_is_the_relaxed_optimum(seed: int) -> None:
    value, cost, budget, group, own = nested(seed)
    a = solve_mckp(value, cost, budget, groups=group, group_budgets=own)
    check_limits(a, cost, budget, group, own)
    expected = relaxed_optimum(value, cost, budget, group, own, None)
    assert a.bound == pytest.approx(expected, rel=1e-9)
    assert a.value == total(value, a.choice) <= a.bound
    assert np.all(a.group_price >= a.price)
    assert np.all(a.group_price[np.isinf(own)] == a.price)


def test_rounding_of_nested_budgets_loses_less_than_an_edge_for_each() -> None:
    value, cost, budget, group, own = nested(7)
    rough = solve_mckp(value, cost, budget, groups=group, group_budgets=own, repair=False)
    fine = solve_mckp(value, cost, budget, groups=group, group_budgets=own)
    edge = np.ptp(value, axis=1).max()
    assert rough.bound == fine.bound
    assert rough.value <= fine.value
    assert rough.value > rough.bound - (len(own) + 1) * edge


@pytest.mark.parametrize("seed", range(6))
def test_small_nested_instances_are_solved_almost_to_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    value, cost = rng.integers(0, 9, (7, 3)), rng.integers(0, 5, (7, 3))
    group, own, budget = np.arange(7) % 2, np.array([7, 9]), 14
    choices = np.array(list(product(range(3), repeat=7)))
    spent, rows = cost[np.arange(7), choices], np.arange(7)
    fits = (spent.sum(axis=1) <= budget) & (spent[:, ::2].sum(axis=1) <= 7)
    fits &= spent[:, 1::2].sum(axis=1) <= 9
    best = value[rows, choices].sum(axis=1)[fits].max()
    a = solve_mckp(value, cost, budget, groups=group, group_budgets=own)
    check_limits(a, cost, budget, group, own)
    assert best - 2 <= a.value <= best <= a.bound + 1e-9


@pytest.mark.parametrize("seed", range(10))
def test_bound_of_a_minimum_is_the_relaxed_optimum(seed: int) -> None:
    value, cost, _, group, own = nested(seed)
    own = np.where(np.isfinite(own), own + np.ptp(cost, axis=1).sum() * (seed % 2), own)
    most = cost.max(axis=1).sum()
    least = cost.min(axis=1).sum() + (0.3 + 0.06 * seed) * np.ptp(cost, axis=1).sum()
    budget = max(least + 2, 0.9 * most)
    expected = relaxed_optimum(value, cost, budget, group, own, least)
    if expected is None:
        with pytest.raises(
            ValueError, match=r"min_spend is .* more than the budgets let users cost"
        ):
            solve_mckp(value, cost, budget, groups=group, group_budgets=own, min_spend=least)
        return
    a = solve_mckp(value, cost, budget, groups=group, group_budgets=own, min_spend=least)
    check_limits(a, cost, budget, group, own)
    assert a.cost >= least
    assert a.bound == pytest.approx(expected, rel=1e-9)
    assert a.value <= a.bound


def test_minimum_below_the_spend_changes_nothing() -> None:
    value, cost = campaign(300)
    a = solve_mckp(value, cost, 40)
    b = solve_mckp(value, cost, 40, min_spend=a.cost - 1)
    np.testing.assert_array_equal(a.choice, b.choice)
    assert b.price == a.price > 0


def test_money_that_must_go_goes_where_it_does_least_harm() -> None:
    a = solve_mckp([[0, -1], [0, -5], [3, 0]], [[0, 2], [0, 2], [0, 2]], 6, min_spend=2)
    assert a.choice.tolist() == [1, 0, 0]
    assert (a.value, a.cost, a.price, a.bound) == (2, 2, -0.5, 2)
    assert "minimum spend binds" in a.status


@pytest.mark.parametrize("risk", [0.3, 0.01])
def test_realised_cost_keeps_the_budget_as_often_as_asked(risk: float) -> None:
    rng = np.random.default_rng(0)
    value, face = campaign(2_000)
    redeemed = rng.uniform(0.1, 0.6, value.shape)
    cost, variance = redeemed * face, face**2 * redeemed * (1 - redeemed)
    budget = 0.2 * solve_mckp(value, cost, np.inf).cost
    a = solve_mckp(value, cost, budget, risk=risk, variance=variance)
    spread = math.sqrt(total(variance, a.choice))
    assert a.reserve == pytest.approx(NormalDist().inv_cdf(1 - risk) * spread)
    assert budget - 0.02 * a.reserve <= a.cost + a.reserve <= budget
    rows = np.arange(len(cost))
    p, paid = redeemed[rows, a.choice], face[rows, a.choice]
    draws = (rng.random((4_000, len(cost))) < p) @ paid
    assert (draws > budget).mean() == pytest.approx(risk, abs=3 * math.sqrt(risk / 4_000) + 0.01)


def test_no_reserve_where_the_budget_is_ample() -> None:
    value, cost = campaign(100)
    a = solve_mckp(value, cost, 1e6, risk=0.05, variance=cost.clip(0))
    assert (a.price, a.value) == (0, solve_mckp(value, cost, 1e6).value)


def test_layouts_give_one_answer() -> None:
    pa = pytest.importorskip("pyarrow")
    value, cost = (x.astype(np.float32) for x in campaign(500))
    mask = np.random.default_rng(1).random(value.shape) < 0.7
    mask[:, 0] = True
    names = list("abcdef")
    expected = solve_mckp(value, cost, 60, eligible=mask)
    for v, c, m, layout in (
        (value.astype(float), cost.astype(float), mask, "rows"),
        (value.T, cost.T, mask.T, "columns"),
        (list(value.T), list(cost.T), list(mask.T), "auto"),
        *[[pa.table(dict(zip(names, x.T, strict=True))) for x in (value, cost, mask)] + ["auto"]],
    ):
        a = solve_mckp(v, c, 60, eligible=m, layout=layout)
        np.testing.assert_array_equal(a.choice, expected.choice)
        assert (a.value, a.cost, a.bound) == (expected.value, expected.cost, expected.bound)


@pytest.mark.parametrize("kind", ["distinct", "tied"])
def test_answer_does_not_depend_on_compiled_code(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pytest.importorskip("numba")
    value, cost = (x.astype(np.float32) for x in campaign(70_000, 3))
    if kind == "tied":
        value, cost = np.round(4 * value), np.round(4 * cost)
    group, found = np.arange(70_000) % 2, []
    budget = 0.3 * float(cost[np.arange(70_000), value.argmax(axis=1)].sum())
    for kernels in ("numpy", "numba"):
        monkeypatch.setenv(KERNELS, kernels)
        a = solve_mckp(value, cost, budget, groups=group, group_budgets=[np.inf, 0.1 * budget])
        found.append((a, cost_curve(value, cost)))
    for one, two in zip(*found, strict=True):
        for name, x in vars(one).items():
            np.testing.assert_array_equal(x, getattr(two, name))


@pytest.mark.parametrize("k", [2, 3, 17, 32, 256])
def test_any_number_of_items(k: int) -> None:
    value, cost = campaign(120, k)
    group = np.zeros(120, dtype=int)
    a = solve_mckp(value, cost, 20)
    expected = relaxed_optimum(value, cost, 20, group, np.array([np.inf]), None)
    assert a.bound == pytest.approx(expected, rel=1e-9)
    assert a.gap < 2e-3


def test_crowd_is_sampled_and_solved_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    value, cost = campaign(70_000, 4)
    budget = 0.2 * solve_mckp(value, cost, np.inf).cost
    group, own = np.arange(70_000) % 3, np.array([0.02, 1.0, np.inf]) * budget
    options: list[dict[str, Any]] = [
        {},
        {"groups": group, "group_budgets": own},
        {"min_spend": 0.9 * cost.max(axis=1).sum()},
    ]
    for option in options:
        limit = np.inf if "min_spend" in option else budget
        sampled = solve_mckp(value, cost, limit, repair=False, **option)
        with monkeypatch.context() as patch:
            patch.setattr("agents.common.mckp.solve.CROWD", 10**9)
            whole = solve_mckp(value, cost, limit, repair=False, **option)
        np.testing.assert_array_equal(sampled.choice, whole.choice)
        assert (sampled.bound, sampled.price) == (whole.bound, whole.price)
        assert solve_mckp(value, cost, limit, **option).gap < 1e-6


OK = np.ones((3, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [0, 0, 0]}, "groups and group_budgets: give both"),
        ({"groups": [0, 0], "group_budgets": [9]}, r"groups is int64 \(2,\).*integers \(3,\)"),
        ({"groups": [0, 2, 0], "group_budgets": [9, 9]}, "groups is 2 in row 1; allowed is 0 to 1"),
        ({"groups": [0, 1, 0], "group_budgets": [9, 0.5]}, "0.5 for group 1.*possible: 1.0"),
        ({"groups": [0, 1, 0], "group_budgets": [9, np.nan]}, "group_budgets is"),
        ({"min_spend": np.nan}, "min_spend is nan"),
        ({"min_spend": 10}, "min_spend is 10; allowed is up to the budget, 9"),
        ({"min_spend": 4}, "min_spend is 4, which is more"),
        ({"cost": [[1, 3.2]] * 3, "min_spend": 8.5}, "so close below the budget"),
        ({"risk": 0.1}, "risk and variance: give both"),
        ({"risk": 0.7, "variance": OK}, "risk is 0.7; allowed are probabilities"),
        ({"risk": 0.1, "variance": -OK}, "variance is -1.0 in row 0, column 0"),
        ({"risk": 0.1, "variance": OK[:2]}, r"variance has shape \(2, 2\), cost \(3, 2\)"),
        ({"risk": 0.01, "variance": 9 * OK}, "budget is .* least possible: 3.0"),
        ({"layout": "tiles"}, "layout is 'tiles'"),
    ],
)
def test_bad_options_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_mckp(**{"value": OK, "cost": OK, "budget": 9, **change})
