"""Mixtures of few policies, against linear and quadratic programs over all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog, minimize

from agents.common.game import (
    InfeasibleError,
    Measured,
    Mixed,
    Oracle,
    column_generation,
    minimum_norm_point,
    solve_master,
)
from marketing_env.config import Array

SEEDS = st.integers(0, 2**32 - 1)


def oracle_over(z: Array) -> Oracle:
    """Exact best responses of a finite set of policies, which are their own row numbers."""

    def oracle(direction: Array) -> Measured:
        best = int((z @ direction).argmax())
        return Measured(best, z[best])

    return oracle


def campaign(seed: int, m: int, whole: bool) -> tuple[Array, Array]:
    """Policies with rewards and m costs; in whole numbers, ties and degenerate programs abound."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rng.integers(2, 120), 1 + m)) * rng.choice([0.02, 1, 300], 1 + m)
    z[:, 1:] = np.abs(z[:, 1:])
    budget = rng.uniform(0, 1.2, m) * z[:, 1:].mean(axis=0)
    budget[rng.random(m) < 0.15] = 0.0
    budget[rng.random(m) < 0.15] = np.inf
    return (np.rint(z), np.rint(budget)) if whole else (z, budget)


def enumerated(z: Array, budget: Array, slack: bool = False) -> Any:
    """The linear program over every policy; with slack, of the least total overspend."""
    n, capped = len(z), np.isfinite(budget)
    rows, loss = z[:, 1:].T[capped], -z[:, 0]
    if slack:
        loss = np.repeat([0.0, 1.0], [n, len(rows)])
        rows = np.hstack([rows, -np.eye(len(rows))])
    total = np.repeat([[1.0, 0.0]], [n, len(loss) - n], axis=1)
    return linprog(loss, A_ub=rows, b_ub=budget[capped], A_eq=total, b_eq=[1.0], method="highs")


def assert_mixture(found: Mixed, z: Array, most: int) -> None:
    assert len(found.policies) == len(found.weight) == len(set(found.policies)) <= most
    assert (found.weight > 0).all()
    assert found.weight.sum() == pytest.approx(1, abs=1e-12)
    assert_allclose(found.weight @ z[list(found.policies)], found.z, rtol=1e-9, atol=1e-12)
    assert found.gap == found.gaps[-1]


@given(seed=SEEDS, m=st.integers(1, 5), whole=st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_column_generation_finds_the_enumerated_optimum(seed: int, m: int, whole: bool) -> None:
    z, budget = campaign(seed, m, whole)
    truth = enumerated(z, budget)
    start = Measured(0, z[0])
    if truth.status == 2:
        with pytest.raises(InfeasibleError) as error:
            column_generation(oracle_over(z), budget, start=start)
        least = enumerated(z, budget, slack=True).fun
        assert error.value.excess == pytest.approx(least, rel=1e-8, abs=1e-8)
        over = np.maximum(error.value.least - budget, 0).sum()
        assert over == pytest.approx(least, rel=1e-8, abs=1e-8)
        return
    found = column_generation(oracle_over(z), budget, start=start)
    scale = max(1.0, abs(truth.fun))
    assert_mixture(found, z, most=m + 1)
    assert abs(found.z[0] + truth.fun) <= 1e-9 * scale
    assert -1e-9 * scale <= found.bound + truth.fun
    assert found.gap <= 1e-9 * scale
    assert (found.z[1:] <= budget + 1e-9 * z[:, 1:].max(axis=0)).all()
    assert (found.price >= 0).all()
    assert_array_equal(found.price[np.isinf(budget)], 0)


def test_a_degenerate_master_asks_for_no_column_twice() -> None:
    # At budget 0 the best response to each price costs money: it gets no weight and must still
    # raise the price.
    z = np.array([[0.0, 0.0], [1.0, 2.0], [0.5, 1e-3], [3.0, 9.0], [0.1, 0.0]])
    found = column_generation(oracle_over(z), 0.0, start=Measured(0, z[0]))
    assert found.policies == (4,)
    assert found.gap == 0
    assert found.calls <= len(z)


def test_the_certificate_closes_monotonically() -> None:
    z, budget = campaign(7, 3, whole=False)
    found = column_generation(oracle_over(z), budget, start=Measured(0, z[0] * 0))
    assert (np.diff(found.gaps) <= 1e-9).all()
    assert found.gaps[0] > found.gaps[-1]


def test_few_calls_leave_an_honest_gap() -> None:
    z = np.random.default_rng(3).normal(size=(500, 4))
    z[:, 1:] = np.abs(z[:, 1:])
    start = Measured(-1, np.zeros(4))
    best = column_generation(oracle_over(z), [0.2] * 3, start=start)
    early = column_generation(oracle_over(z), [0.2] * 3, start=start, max_calls=2)
    assert early.calls == 2 < best.calls
    assert early.z[0] <= best.z[0] <= early.bound
    assert early.gap == pytest.approx(early.bound - early.z[0])


def box(seed: int, d: int, whole: bool) -> tuple[Array, Array, Array]:
    """Policies and a box with flat, wide and unbounded sides, near them or far away."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rng.integers(1, 120), d))
    centre = rng.normal(size=d) * rng.choice([0.3, 3])
    half = rng.uniform(0, 0.5, d) * (rng.random(d) < 0.5)
    if whole:
        z, centre, half = np.rint(2 * z), np.rint(centre), np.rint(2 * half)
    low, high = centre - half, centre + half
    low[rng.random(d) < 0.2] = -np.inf
    high[rng.random(d) < 0.2] = np.inf
    return z, low, high


@given(seed=SEEDS, d=st.integers(1, 6), whole=st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_minimum_norm_point_is_the_nearest(seed: int, d: int, whole: bool) -> None:
    z, low, high = box(seed, d, whole)
    found = minimum_norm_point(oracle_over(z), low, high, start=Measured(0, z[0]))
    assert_mixture(found, z, most=d + 1)
    miss = found.z - np.clip(found.z, low, high)
    distance = float(np.linalg.norm(miss))
    # No policy lies beyond the hyperplane through the mixture: nothing is nearer.
    nearer = 0.0 if distance == 0 else float(((found.z - z) @ miss).max()) / distance
    assert distance <= 1e-8 or nearer <= 1e-8
    assert found.bound <= distance + 1e-12
    assert found.gap <= 1e-8


@pytest.mark.parametrize("seed", range(12))
def test_minimum_norm_point_agrees_with_a_quadratic_program(seed: int) -> None:
    z, low, high = box(seed, d=3, whole=False)
    z = z[:8]
    found = minimum_norm_point(oracle_over(z), low, high, start=Measured(0, z[0]))

    def squared(w: Array) -> tuple[float, Array]:
        miss = w @ z - np.clip(w @ z, low, high)
        return float(miss @ miss), 2 * z @ miss

    solved = minimize(
        squared, np.full(len(z), 1 / len(z)), jac=True, method="SLSQP",
        bounds=[(0, 1)] * len(z), constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    distance = np.linalg.norm(found.z - np.clip(found.z, low, high))
    assert distance == pytest.approx(np.sqrt(max(solved.fun, 0)), abs=1e-5)


def test_a_start_inside_the_box_asks_nobody() -> None:
    found = minimum_norm_point(
        oracle_over(np.ones((1, 2))), 0.0, 1.0, start=Measured("idle", np.array([0.5, 0.5]))
    )
    assert (found.policies, found.calls, found.gap, found.bound) == (("idle",), 0, 0.0, 0.0)


def test_master_solves_the_grid_of_a_single_budget() -> None:
    z = [[0.0, 0.0], [1.0, 1.0], [1.2, 2.0], [1.8, 3.0]]
    master = solve_master(z, 2.0)
    assert_allclose(master.weight, [0, 0.5, 0, 0.5], atol=1e-12)
    assert_allclose(master.z, [1.4, 2.0])
    assert_allclose(master.price, [0.4])


def test_master_without_a_limit_takes_the_best() -> None:
    z = np.array([[1.0, 5.0, 1.0], [2.0, 9.0, 3.0]])
    master = solve_master(z, [np.inf, np.inf])
    assert_array_equal(master.weight, [0, 1])
    assert_array_equal(master.price, [0, 0])
    half = solve_master(z, [np.inf, 2.0])
    assert_allclose(half.weight, [0.5, 0.5])
    assert_allclose(half.price, [0, 0.5])


def test_master_names_the_nearest_mixture_of_an_impossible_budget() -> None:
    z = np.array([[0.0, 4.0, 0.0], [0.0, 0.0, 4.0], [9.0, 5.0, 5.0]])
    with pytest.raises(InfeasibleError, match=r"budget = \[1.0, 1.0\]") as error:
        solve_master(z, [1.0, 1.0])
    assert error.value.excess == pytest.approx(2)
    assert error.value.least.sum() == pytest.approx(4)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("budget", [float("nan"), -np.inf, [1.0, float("nan")]])
def test_no_budget_is_refused(budget: Any) -> None:
    z = np.ones((2, 1 + np.size(budget)))
    with pytest.raises(ValueError, match=r"budget = .*allowed are"):
        solve_master(z, budget)
    with pytest.raises(ValueError, match=r"budget = .*allowed are"):
        column_generation(oracle_over(z), budget, start=Measured(0, z[0]))


def test_an_empty_box_is_refused() -> None:
    with pytest.raises(ValueError, match=r"low = .*allowed"):
        minimum_norm_point(
            oracle_over(np.ones((1, 2))), [0.0, 2.0], 1.0, start=Measured(0, np.ones(2))
        )
