"""Mixtures of few policies within budgets, against linear programs over all policies."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog

from agents.common.games.game import (
    InfeasibleError,
    Measured,
    Mixed,
    column_generation,
    solve_master,
)
from marketing_env.config import Array

SEEDS = st.integers(0, 2**32 - 1)
KINDS = st.sampled_from(["smooth", "whole", "sparse", "copies"])


class Policy:
    """Row of a table; as an object, it can be counted while it is alive."""

    def __init__(self, row: int) -> None:
        self.row = row


class Enumerated:
    """Exact best responses among the rows of z; `most` answers were alive at once."""

    def __init__(self, z: Array) -> None:
        self.z, self.calls, self.most = z, 0, 0
        self.alive: WeakSet[Policy] = WeakSet()

    def __call__(self, direction: Array) -> Measured:
        best = self.policy(int((self.z @ direction).argmax()))
        self.alive.add(best.policy)
        self.calls, self.most = self.calls + 1, max(self.most, len(self.alive))
        return best

    def policy(self, row: int = 0) -> Measured:
        return Measured(Policy(row), self.z[row])

    def policies(self, mixed: Mixed) -> list[Measured]:
        return [self.policy(p.row) for p in mixed.policies]


def assert_mixture(found: Mixed, oracle: Enumerated, most: int) -> None:
    """It is what it says; and with the answer that arrives, no more than most + 1 were alive."""
    rows = [p.row for p in found.policies]
    assert len(rows) == len(found.weight) == len(set(rows)) <= found.stored <= most
    assert oracle.most <= found.stored + 1
    assert oracle.calls == found.calls
    assert (found.weight > 0).all()
    assert found.weight.sum() == pytest.approx(1, abs=1e-12)
    assert_allclose(found.weight @ oracle.z[rows], found.z, rtol=1e-9, atol=1e-12)
    assert found.gap == found.gaps[-1]


def vertices(rng: np.random.Generator, n: int, d: int, kind: str) -> Array:
    """Policies: in general position, with ties, with zeros and ties, or many on common faces."""
    z = rng.normal(size=(n, d))
    if kind == "whole":
        return np.rint(2 * z)
    if kind == "sparse":
        return np.rint(2 * z) * (rng.random((n, d)) < 0.4)
    if kind == "copies":
        corners = z[: rng.integers(1, d + 2)]
        quarters = rng.multinomial(4, np.full(len(corners), 1 / len(corners)), n) / 4
        return np.concatenate([corners, quarters @ corners])
    return z


def campaign(seed: int, m: int, kind: str) -> tuple[Array, Array]:
    """Policies with rewards and m costs in units of their own, and budgets loose, tight or none."""
    rng = np.random.default_rng(seed)
    z = vertices(rng, int(rng.integers(1, 100)), 1 + m, kind)
    z *= rng.choice([0.01, 1, 3000], 1 + m)
    z[:, 1:] = np.abs(z[:, 1:])
    if rng.random() < 0.5:
        z[0] = 0
    budget = rng.uniform(0, 1.2, m) * z[:, 1:].mean(axis=0)
    one = z[rng.integers(len(z)), 1:]
    pick = rng.random(m)
    budget = np.select([pick < 0.15, pick < 0.3, pick < 0.5], [0.0, np.inf, one], budget)
    return z, budget


def enumerated(z: Array, budget: Array, overspend: bool = False) -> tuple[int, float, float]:
    """Status, optimal loss and its unit of the program over every policy.

    The loss is minus the reward, or the total overspend.
    """
    n, capped, size = len(z), np.isfinite(budget), np.abs(z).max(axis=0)
    size[size == 0] = 1
    rows, loss, unit = (z / size)[:, 1:].T[capped], -z[:, 0] / size[0], size[0]
    if overspend:
        unit = size[1:].max()
        loss = np.append(np.zeros(n), size[1:][capped] / unit)
        rows = np.hstack([rows, -np.eye(len(rows))])
    total = np.repeat([[1.0, 0.0]], [n, len(loss) - n], axis=1)
    lp = linprog(
        loss, A_ub=rows, b_ub=(budget / size[1:])[capped], A_eq=total, b_eq=[1.0],
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )  # fmt: skip
    return lp.status, lp.fun, float(unit)


@given(seed=SEEDS, m=st.integers(1, 5), kind=KINDS)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_it_finds_the_enumerated_optimum(seed: int, m: int, kind: str) -> None:
    z, budget = campaign(seed, m, kind)
    oracle = Enumerated(z)
    start = oracle.policy(len(z) - 1)
    status, loss, unit = enumerated(z, budget)
    if status == 2:
        with pytest.raises(InfeasibleError) as error:
            column_generation(oracle, budget, start=start)
        assert_least_overspend(error.value, z, budget)
        return
    found = column_generation(oracle, budget, start=start)
    assert_mixture(found, oracle, most=m + 1)
    best, slip = -loss * unit, 1e-9 * abs(loss * unit) + 1e-13 * unit
    assert abs(found.z[0] - best) <= slip
    assert found.bound >= best - slip
    assert found.gap <= slip
    assert (np.diff(found.gaps) <= slip).all()
    assert (found.z[1:] <= budget + 1e-10 * z[:, 1:].max(axis=0)).all()
    assert (found.price >= 0).all()
    assert found.bound == pytest.approx(lagrangian(z, budget, found.price), abs=slip)


def lagrangian(z: Array, budget: Array, price: Array) -> float:
    """What the best policy earns with money at these prices: no less than any mixture."""
    return float(price @ np.where(price > 0, budget, 0) + (z[:, 0] - z[:, 1:] @ price).max())


def assert_least_overspend(error: InfeasibleError, z: Array, budget: Array) -> None:
    _, share, unit = enumerated(z, budget, overspend=True)
    assert error.excess == pytest.approx(share * unit, rel=1e-9, abs=1e-10 * unit)
    over = np.maximum(error.least - budget, 0).sum()
    assert over == pytest.approx(error.excess, rel=1e-9, abs=1e-14 * unit)


@given(seed=SEEDS, m=st.integers(1, 5), kind=KINDS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_master_finds_it_too(seed: int, m: int, kind: str) -> None:
    z, budget = campaign(seed, m, kind)
    status, loss, unit = enumerated(z, budget)
    if status == 2:
        with pytest.raises(InfeasibleError) as error:
            solve_master(z, budget)
        assert_least_overspend(error.value, z, budget)
        return
    master = solve_master(z, budget)
    slip = 1e-9 * abs(loss * unit) + 1e-13 * unit
    assert abs(master.z[0] + loss * unit) <= slip
    assert np.count_nonzero(master.weight) <= m + 1
    assert_allclose(master.weight @ z, master.z, rtol=1e-12)
    assert lagrangian(z, budget, master.price) == pytest.approx(master.z[0], abs=slip)


# Reward and costs of four policies. With budgets of 0 (and 1, if there is a third), each exchange
# but the last is degenerate. A ratio test that takes the first tie cycles in the second example,
# one that takes the last tie in the third.
CYCLES: dict[str, tuple[list[float], list[list[float]]]] = {
    "Beale": ([0.75, -150, 0.02, -6], [[0.25, -60, -0.04, 9], [0.5, -90, -0.02, 3], [0, 0, 1, 0]]),
    "first tie": ([-8, 3, 8, -2], [[-8, 2, 1, -5], [-5, -1, 9, -3]]),
    "last tie": ([-7, 1, -4, 4], [[-7, -7, -5, 7], [-4, 8, -3, 1]]),
}


@pytest.mark.parametrize("name", CYCLES)
def test_degenerate_masters_end(name: str) -> None:
    reward, cost = CYCLES[name]
    z = np.vstack([np.zeros(1 + len(cost)), 10 * np.vstack([reward, cost]).T])
    budget = np.array([0.0, 0.0, 1.0])[: len(cost)]
    oracle = Enumerated(z)
    found = column_generation(oracle, budget, start=oracle.policy())
    _, loss, unit = enumerated(z, budget)
    assert found.z[0] == pytest.approx(-loss * unit, rel=1e-9)
    assert found.gap <= 1e-9
    assert found.calls <= 8
    assert_mixture(found, oracle, most=1 + len(cost))


def test_a_degenerate_master_asks_for_no_column_twice() -> None:
    # At budget 0 the best response to each price costs money: it gets no weight and must still
    # raise the price.
    z = np.array([[0.0, 0.0], [1.0, 2.0], [0.5, 1e-3], [3.0, 9.0], [0.1, 0.0]])
    oracle = Enumerated(z)
    found = column_generation(oracle, 0.0, start=oracle.policy())
    assert [p.row for p in found.policies] == [4]
    assert found.gap == 0
    assert found.calls <= len(z)


@given(seed=SEEDS, m=st.integers(1, 5), kind=KINDS, scale=st.floats(0.3, 3))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_warm_start_ends_at_the_same_optimum(seed: int, m: int, kind: str, scale: float) -> None:
    z, budget = campaign(seed, m, kind)
    z[0] = 0  # budgets can be kept
    oracle, other = Enumerated(z), Enumerated(z)
    before = other.policies(column_generation(other, scale * budget, start=other.policy()))
    warm = column_generation(oracle, budget, start=before)
    cold = column_generation(Enumerated(z), budget, start=oracle.policy())
    assert_mixture(warm, oracle, most=m + 1)
    assert warm.z[0] == pytest.approx(cold.z[0], rel=1e-9, abs=1e-12 * np.abs(z[:, 0]).max())


def test_the_optimal_mixture_is_recognised() -> None:
    z, budget = campaign(7, 3, "smooth")
    oracle = Enumerated(z)
    cold = column_generation(oracle, budget, start=oracle.policy())
    warm = column_generation(oracle, budget, start=oracle.policies(cold))
    assert warm.calls == 1 < cold.calls
    assert_allclose(warm.z, cold.z)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_continuum_of_policies_needs_no_more_room(m: int) -> None:
    # Policies earn sum_i sqrt(cost_i), so the best response to a price costs 1 / (2 price)^2, and
    # the optimum is the policy that costs the budget.
    def oracle(direction: Array) -> Measured:
        cost = np.minimum(1 / (2 * np.maximum(-direction[1:], 1e-9)) ** 2, 9)
        return Measured(None, np.append(np.sqrt(cost).sum(), cost))

    budget = np.arange(1, m + 1) / 2
    found = column_generation(oracle, budget, start=Measured(None, np.zeros(1 + m)))
    best = np.sqrt(budget).sum()
    assert found.stored == m + 1 < found.calls < 200
    assert abs(found.z[0] - best) <= found.gap <= 1e-10 * best
    assert (np.diff(found.gaps) <= 1e-12).all()
    assert found.gaps[0] > 1


@pytest.mark.parametrize("seed", range(8))
def test_units_do_not_matter(seed: int) -> None:
    z, budget = campaign(seed, 3, "whole")
    z[0], budget[0] = 0, 0
    unit = np.array([1e9, 1e-14, 1e14, 1e-6])
    plain, other = Enumerated(z), Enumerated(z * unit)
    before = column_generation(plain, budget, start=plain.policy())
    after = column_generation(other, budget * unit[1:], start=other.policy())
    assert after.z[0] == pytest.approx(before.z[0] * unit[0], rel=1e-9)
    assert after.gap <= 1e-9 * after.z[0]


def test_a_budget_that_is_just_reached_is_kept() -> None:
    # The first phase ends with the first budget still in the basis as overspent, by nothing. It
    # must not grow again for the sake of the reward.
    oracle = Enumerated(np.array([[9.0, 2.0, -2.0], [0.0, 0.0, 0.0]]))
    found = column_generation(oracle, [0.0, 0.0], start=oracle.policy())
    assert_array_equal(found.z, 0)
    assert found.gap == 0


@pytest.mark.parametrize("tolerance", [0.0, 1e-10])
@pytest.mark.parametrize(
    ("seed", "m", "kind"), [(1357, 3, "copies"), (10198, 4, "whole"), (1036, 2, "copies")]
)
def test_rounding_ends_the_search(seed: int, m: int, kind: str, tolerance: float) -> None:
    # In the first two nothing can be earned, and a price of 1e-16 keeps the bound above 0; in the
    # last, optimal policies could take turns.
    z, budget = campaign(seed, m, kind)
    oracle = Enumerated(z)
    for start in oracle.policy(0), oracle.policy(len(z) - 1):
        oracle.calls = 0
        column_generation(oracle, budget, start=start, tolerance=tolerance)
        assert oracle.calls <= 20


def test_the_price_is_that_of_the_bound() -> None:
    # The third policy costs the budget: the first price that asks for it proves it optimal, though
    # not the price of the basis that then holds it.
    oracle = Enumerated(np.array([[4.0, 28.0], [-1.0, 4.0], [2.0, 5.0], [3.9, 19.0]]))
    found = column_generation(oracle, 5.0, start=[oracle.policy(0), oracle.policy(1)])
    assert (found.z[0], found.bound, found.calls) == (2, 2, 2)
    assert lagrangian(oracle.z, np.array([5.0]), found.price) == pytest.approx(2)


def test_few_calls_leave_an_honest_gap() -> None:
    z = np.random.default_rng(3).normal(size=(500, 4))
    z[:, 1:] = np.abs(z[:, 1:])
    start = Measured(Policy(-1), np.zeros(4))
    best = column_generation(Enumerated(z), [0.2] * 3, start=start)
    early = column_generation(Enumerated(z), [0.2] * 3, start=start, max_calls=2)
    assert early.calls == 2 < best.calls
    assert early.z[0] <= best.z[0] <= early.bound
    assert early.gap == pytest.approx(early.bound - early.z[0])


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
    oracle = Enumerated(np.ones((2, 1 + np.size(budget))))
    with pytest.raises(ValueError, match=r"budget = .*allowed are"):
        solve_master(oracle.z, budget)
    with pytest.raises(ValueError, match=r"budget = .*allowed are"):
        column_generation(oracle, budget, start=oracle.policy())


@pytest.mark.parametrize("z", [[1.0], [1.0, 1.0, 1.0], [1.0, np.nan], [np.inf, 1.0]])
def test_no_measurement_is_refused(z: list[float]) -> None:
    wrong = Measured(None, np.array(z))
    with pytest.raises(ValueError, match=r"z = .*allowed are 2 finite numbers"):
        column_generation(lambda direction: wrong, 1.0, start=Measured(None, np.zeros(2)))
    with pytest.raises(ValueError, match=r"z = .*allowed are 2 finite numbers"):
        column_generation(lambda direction: wrong, 1.0, start=wrong)


@pytest.mark.parametrize("count", [0, 3])
def test_starts_must_be_as_few_as_are_stored(count: int) -> None:
    oracle = Enumerated(np.ones((1, 2)))
    with pytest.raises(ValueError, match=rf"start has {count} .*allowed are 1 to 2"):
        column_generation(oracle, 1.0, start=[oracle.policy()] * count)
