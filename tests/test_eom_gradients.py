"""Gradients of the marketing goal against enumeration, and the price that keeps them honest."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from agents.common.one_day import eom_gradients
from agents.common.one_day.eom import mean_and_error, terms
from agents.common.one_day.eom_gradients import (
    Logged,
    MarketingGoal,
    allocate,
    coordinate,
    flip,
    flip_changes,
    gap_scale,
    gaussian,
    ladder,
    matched_sums,
    means,
    prices_that_spend,
    slopes,
)
from agents.common.types import Array

seeds = st.integers(0, 100_000)


def batch(n: int, k: int, seed: int) -> tuple[Array, Logged]:
    """Predictions that rise with the incentive, and outcomes of a log that is no even trial."""
    rng = np.random.default_rng(seed)
    predicted = rng.random((n, k, 2)).cumsum(axis=1)
    share = rng.dirichlet(np.full(k, 5.0), n)
    action = (share.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=k - 1)
    weight = 1 / share[np.arange(n), action]
    return predicted, Logged(action, weight, rng.random((n, 2)) + action[:, None])


def spent(predicted: Array, price: float) -> float:
    choice = allocate(predicted, np.array([price]))[0]
    return float(predicted[np.arange(len(choice)), choice, 1].mean())


def bisected(predicted: Array, budget: float) -> float:
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(predicted, middle) <= budget else (middle, high)
    return high


def rewards(predicted: Array, logged: Logged, prices: Array) -> Array:
    return means(matched_sums(allocate(predicted, prices), logged))[:, 0]


@given(seeds, st.integers(1, 30), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_prices_spend_the_budgets(seed: int, n: int, k: int) -> None:
    predicted, _ = batch(n, k, seed)
    least, most = predicted[:, 0, 1].mean(), spent(predicted, 0.0)
    for budget in least + np.array([0.0, 0.2, 0.7, 1.0, 2.0]) * (most - least):
        (price,) = prices_that_spend(predicted, np.array([budget]))
        assert spent(predicted, price) <= budget + 1e-9
        assert price == 0 or spent(predicted, price * (1 - 1e-6)) > budget - 1e-9
    assert prices_that_spend(predicted, np.array([0.0])) > 0  # less than the least: the least


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_means_are_the_hajek_estimates(seed: int) -> None:
    predicted, logged = batch(60, 3, seed)
    choice = allocate(predicted, np.array([0.3, 1.5]))
    for policy, found in zip(choice, means(matched_sums(choice, logged)), strict=True):
        estimates = terms(np.eye(3)[policy], logged.action, 1 / logged.weight, logged.outcome)
        assert_allclose(found, mean_and_error(estimates["hajek"])[0])
    nobody = np.full((1, 60), 9)
    assert_array_equal(means(matched_sums(nobody, logged)), [[0, 0]])


def test_the_ladder_climbs_from_the_cheapest_to_the_best() -> None:
    predicted, _ = batch(50, 4, 0)
    rungs = ladder(predicted, np.array([3.0, 1.0, 0.2]))
    cost, reward = (predicted[np.arange(50), rungs, y] for y in (1, 0))
    assert_array_equal(cost[0], predicted[..., 1].min(axis=1))
    assert_array_equal(reward[-1], predicted[..., 0].max(axis=1))
    assert (np.diff(cost, axis=0) >= 0).all()
    assert (np.diff(reward, axis=0) >= 0).all()


@given(seeds, st.integers(2, 5), st.floats(0, 3))
@settings(max_examples=40, deadline=None)
def test_flip_changes_are_what_a_flip_changes(seed: int, k: int, slope: float) -> None:
    predicted, logged = batch(40, k, seed)
    prices, slope_of = np.array([0.4, 1.2]), np.array([slope, 2 * slope])
    choice = allocate(predicted, prices)
    changes = flip_changes(choice, logged, slope_of)

    def goal(choice: Array) -> Array:
        reward, cost = means(matched_sums(choice, logged)).T
        return reward - slope_of * cost

    for i, arm in enumerate(logged.action):
        flipped = choice.copy()
        matched = choice[:, i] == arm
        flipped[:, i] = np.where(matched, (arm + 1) % k, arm)
        alone = matched & ((choice == logged.action).sum(axis=1) == 1)
        change = np.where(alone, 0, goal(flipped) - goal(choice))
        assert_allclose(changes[:, i], change, rtol=0, atol=1e-12)


def test_flips_differentiate_the_mean_over_smeared_gaps() -> None:
    """Of one row at a time: its gap plus noise that is uniform on +-h, all others fixed."""
    predicted, logged = batch(30, 3, 1)
    price, slope, h, rows = 0.7, 0.4, 0.5, np.arange(30)
    choice = allocate(predicted, np.array([price]))[0]
    found = flip(predicted, logged, np.array([price]), np.array([slope]), h)
    score = predicted[..., 0] - price * predicted[..., 1]

    def goal(row: int, arm: int) -> float:
        moved = np.where(rows == row, arm, choice)[None]
        reward, cost = means(matched_sums(moved, logged))[0]
        return float(reward - slope * cost)

    for i, arm in enumerate(logged.action):
        rivals = [j for j in range(3) if j != arm] if choice[i] == arm else [choice[i]]
        slopes_of_gaps = []
        for rival in rivals:
            gap = score[i, arm] - score[i, rival]

            def smeared(gap: float, i: int = i, arm: int = arm, rival: int = rival) -> float:
                share = np.clip((gap + h) / (2 * h), 0, 1)
                return float(share * goal(i, arm) + (1 - share) * goal(i, rival))

            slopes_of_gaps.append((smeared(gap + 1e-6) - smeared(gap - 1e-6)) / 2e-6)
            assert found[i, rival, 0] == pytest.approx(-slopes_of_gaps[-1], abs=1e-8)
        assert found[i, arm, 0] == pytest.approx(sum(slopes_of_gaps), abs=1e-8)
    assert_allclose(found[..., 1], -price * found[..., 0])
    assert_allclose(found.sum(axis=1), 0, atol=1e-12)
    assert 3 < (found != 0).any(axis=(1, 2)).sum() < 30


def test_activity_that_no_arm_changes_pushes_nobody() -> None:
    """Of two kinds of rows one earns more under every incentive alike."""
    rng, n = np.random.default_rng(9), 60_000
    kind, action = rng.integers(0, 2, n), rng.integers(0, 4, n)
    reward = rng.normal(np.array([1.0, 3.0])[kind], 0.1)
    logged = Logged(action, np.full(n, 4.0), np.stack([reward, np.zeros(n)], axis=1))
    table = np.array([[0.3, 0.1, 0.2, 0.0], [0.0, 0.2, 0.1, 0.3]])[kind]
    predicted = np.stack([table, np.zeros((n, 4))], axis=-1)
    push = flip(predicted, logged, np.array([0.5]), np.array([0.5]), 1.0)[..., 0]
    for each in (0, 1):
        given = push[kind == each]
        assert np.abs(given.sum(axis=0)).max() < 0.03 * np.abs(given).sum()


def test_gaussian_differentiates_the_smoothed_goal() -> None:
    predicted, logged = batch(4, 2, 3)
    price, h = 0.8, 0.6

    def smoothed(values: Array) -> float:
        """Rows decide independently: every pattern of choices, with its probability."""
        score = values[..., 0] - price * values[..., 1]
        dear = norm.cdf((score[:, 1] - score[:, 0]) / (h * math.sqrt(2 * (1 + price**2))))
        total = 0.0
        for pattern in itertools.product((0, 1), repeat=4):
            choice = np.array(pattern)
            reward = means(matched_sums(choice[None], logged))[0, 0]
            total += float(np.where(choice == 1, dear, 1 - dear).prod() * reward)
        return total

    truth = np.zeros_like(predicted)
    for e in np.ndindex(truth.shape):
        step = np.zeros_like(predicted)
        step[e] = 1e-5
        truth[e] = (smoothed(predicted + step) - smoothed(predicted - step)) / 2e-5

    def goal(values: Array) -> float:
        return float(rewards(values, logged, np.array([price])).sum())

    rng = np.random.default_rng(0)
    parts = np.array([gaussian(goal, predicted, h, 600, rng) for _ in range(20)])
    error = parts.std(axis=0, ddof=1) / math.sqrt(20)
    assert (np.abs(parts.mean(axis=0) - truth) < 5 * error).all()
    assert error.max() < 0.25 * np.abs(truth).max()


def test_coordinate_is_its_definition() -> None:
    predicted, logged = batch(12, 3, 4)
    budgets, h = np.array([0.6, 0.9]), 0.3
    goal = MarketingGoal(budgets, h, "coordinate", corrected=False, samples=10_000, seed=0)
    found = goal.gradient(predicted, logged)

    def value(values: Array) -> float:
        prices = np.array([bisected(values, budget) for budget in budgets])
        return float(rewards(values, logged, prices).sum())

    expected = np.zeros_like(predicted)
    for e in np.ndindex(expected.shape):
        moved = predicted.copy()
        moved[e] += h
        expected[e] = (value(moved) - value(predicted)) / h
    assert_allclose(found, expected, atol=1e-12)
    assert (expected != 0).any()


def test_coordinate_scales_its_share_of_entries_up() -> None:
    rng, weight = np.random.default_rng(0), np.random.default_rng(1).random((10, 3, 2))
    found = coordinate(lambda v: float((weight * v).sum()), np.zeros((10, 3, 2)), 0.1, 15, rng)
    assert (found != 0).sum() == 15
    assert_allclose(found[found != 0], 4 * weight[found != 0])


@pytest.mark.parametrize(
    ("kind", "corrected", "calls"),
    [
        ("flip", True, 1), ("flip", False, 1), ("gaussian", True, 1), ("gaussian", False, 9),
        ("coordinate", True, 1), ("coordinate", False, 10),
    ],
)  # fmt: skip
def test_solver_calls_are_counted(
    kind: eom_gradients.Kind, corrected: bool, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for the batch, and one for each goal evaluated unless prices are kept."""
    predicted, logged = batch(40, 3, 5)
    made = 0

    def counted(predicted: Array, budgets: Array) -> Array:
        nonlocal made
        made += 1
        return prices_that_spend(predicted, budgets)

    monkeypatch.setattr(eom_gradients, "prices_that_spend", counted)
    goal = MarketingGoal(np.array([0.8, 1.2]), 0.2, kind, corrected=corrected, samples=8, seed=0)
    gradient = goal.gradient(predicted, logged)
    assert gradient.shape == predicted.shape
    assert (gradient != 0).any()
    assert goal.solver_calls == made == calls


def test_gap_scale_is_the_gap_of_a_fifth() -> None:
    predicted = np.zeros((100, 3, 2))
    predicted[:, 1, 0], predicted[:, 2, 0] = np.arange(100), -1
    assert gap_scale(predicted, np.array([0.5])) == pytest.approx(np.quantile(np.arange(100), 0.2))
    assert gap_scale(np.zeros((5, 3, 2)), np.array([1.0])) > 0


def test_slopes_of_what_was_predicted_are_the_prices() -> None:
    prices, told = np.array([2.0, 1.0, 0.4]), np.array([[0, 0], [2, 1], [3, 2], [3.4, 3], [3.5, 9]])
    assert_allclose(slopes(told + 5, told, prices), prices)
    dearer = told * np.array([1.0, 4.0])
    assert_allclose(slopes(dearer, told, prices), prices / 4)


def test_slopes_of_noise_stay_sensible() -> None:
    told, price = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), np.array([1.0])
    assert slopes(np.array([[3.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), told, price) == 0
    assert slopes(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 1e-9]]), told, price) == 4
    assert slopes(np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]), told, price) == 1
    assert slopes(told, np.ones((3, 2)), price) == 1


def crowd(n: int, seed: int) -> tuple[Array, Logged]:
    """A trial without noise. Costs are predicted at half: the price is twice the real slope."""
    rng = np.random.default_rng(seed)
    pull, arms = rng.uniform(0.2, 2.0, (n, 1)), np.arange(4)
    reward, cost = 1 + pull * np.sqrt(arms), arms * np.ones((n, 1))
    action = rng.integers(0, 4, n)
    seen = np.stack([reward, cost], axis=-1)[np.arange(n), action]
    return np.stack([reward, cost / 2], axis=-1), Logged(action, np.full(n, 4.0), seen)


def test_correction_makes_mere_spending_worthless() -> None:
    """All predicted costs move together, which is another price and nothing else."""
    value = {}
    for corrected in (True, False):
        predicted, logged = crowd(40_000, 0)
        budgets = np.array([0.4, 0.7, 1.0])
        goal = MarketingGoal(budgets, 0.1, "flip", corrected=corrected, samples=2, seed=0)
        cheaper = np.stack([np.zeros((40_000, 4)), -predicted[..., 1]], axis=-1)
        value[corrected] = (goal.gradient(predicted, logged) * cheaper).sum()
        if corrected:
            assert goal.frontier is not None
            assert_allclose(goal.frontier.slopes(), goal.frontier.prices / 2, rtol=0.1)
    assert value[False] > 0.3
    assert abs(value[True]) < 0.1 * value[False]


def test_prices_and_frontier_run_on_from_batch_to_batch() -> None:
    goal = MarketingGoal(np.array([0.8]), 0.2, "flip", corrected=True, samples=2, seed=0)
    prices, sums, told = np.zeros(1), np.zeros((3, 3)), np.zeros((3, 2))
    for seed, rate in ((0, 1.0), (1, 0.05), (2, 0.05)):
        predicted, logged = batch(50, 3, seed)
        goal.gradient(predicted, logged)
        prices += rate * (prices_that_spend(predicted, goal.budgets) - prices)
        rungs = ladder(predicted, prices)
        sums += rate * (matched_sums(rungs, logged) - sums)
        told += rate * (np.array([predicted[range(50), r].mean(axis=0) for r in rungs]) - told)
        assert goal.frontier is not None
        for found, expected in zip(goal.frontier, (prices, sums, told), strict=True):
            assert_allclose(found, expected)
