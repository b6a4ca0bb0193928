"""Estimators on randomised data: unbiased by enumeration, covering by simulation."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from agents.common.one_day import eom
from marketing_env import DayView, LoggedDataset, replay


def trial(n: int, k: int, seed: int) -> tuple[Any, ...]:
    """A policy, propensities, potential outcomes (n, K, 2) and a model that is wrong."""
    rng = np.random.default_rng(seed)
    probs, propensity = (rng.dirichlet(np.ones(k), n) for _ in range(2))
    potential = rng.normal(5, 3, (n, k, 2))
    return probs, propensity, potential, potential + rng.normal(1, 2, potential.shape)


def observe(potential: Any, propensity: Any, arm: Any) -> tuple[Any, ...]:
    rows = np.arange(len(arm))
    return arm, propensity[rows, arm], potential[rows, arm]


@given(st.integers(1, 5), st.integers(2, 3), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_unbiased_over_all_assignments(n: int, k: int, seed: int) -> None:
    probs, propensity, potential, model = trial(n, k, seed)
    truth = (probs[..., None] * potential).sum(axis=1).mean(axis=0)
    expected = {"ht": np.zeros(2), "doubly_robust": np.zeros(2)}
    for arms in product(range(k), repeat=n):
        arm, p, outcome = observe(potential, propensity, np.array(arms))
        found = eom.terms(probs, arm, p, outcome, model)
        for name in expected:
            expected[name] += p.prod() * found[name].mean(axis=0)
    for name, value in expected.items():
        assert value == pytest.approx(truth, rel=1e-9), name


def test_intervals_cover() -> None:
    """Users of two types, so that the truth is known; the policy treats mostly the second."""
    rng = np.random.default_rng(0)
    chance = np.array([[0.1, 0.2, 0.3], [0.2, 0.6, 0.5]])
    policy = np.array([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7]])
    arms = np.array([0.5, 0.3, 0.2])
    truth = (policy * chance).sum(axis=1).mean()
    n, repeats = 800, 600
    inside = dict.fromkeys(eom.ESTIMATORS, 0)
    values: dict[str, list[float]] = {name: [] for name in eom.ESTIMATORS}
    for _ in range(repeats):
        kind, arm = rng.integers(0, 2, n), rng.choice(3, n, p=arms)
        reward = (rng.random(n) < chance[kind, arm]).astype(float)[:, None]
        model = np.full((n, 3, 1), 0.4)
        found = eom.terms(policy[kind], arm, arms[arm], reward, model)
        for name, terms in found.items():
            (mean,), (error,) = eom.mean_and_error(terms)
            inside[name] += abs(mean - truth) < 1.96 * error
            values[name].append(mean)
    for name in eom.ESTIMATORS:
        assert 0.925 < inside[name] / repeats < 0.975, name
        spread = np.std(values[name]) / np.sqrt(repeats)
        assert abs(np.mean(values[name]) - truth) < 4 * spread, name


class Fixed:
    """A policy that answers the rows it was given."""

    def __init__(self, probs: Any) -> None:
        self.given = probs

    def probs(self, view: DayView) -> Any:
        return self.given


def test_one_day_replay_agrees() -> None:
    probs, propensity, potential, model = trial(50, 3, 1)
    arm, p, outcome = observe(potential, propensity, np.arange(50) % 3)
    outcome = np.abs(outcome)
    log = LoggedDataset(
        obs=np.zeros((50, 2, 1), np.float32), action=arm[:, None], propensity=p[:, None],
        reward=outcome[:, :1], cost=outcome[:, 1:], valid=np.ones((50, 1), bool),
        bucket=np.zeros(50),
    )  # fmt: skip
    contacts = np.broadcast_to([0.0, 1.0, 1.0], (50, 3))[..., None]
    totals = replay(Fixed(probs), log, np.concatenate([model, contacts], axis=2)[:, None])
    found = eom.terms(probs, arm, p, outcome, model)
    names = {"ht": "importance", "hajek": "self_normalised", "doubly_robust": "doubly_robust"}
    for name, other in names.items():
        mean, error = eom.mean_and_error(found[name])
        e = totals[other]
        assert (e.reward, e.cost) == pytest.approx(tuple(mean)), name
        assert (e.reward_error, e.cost_error) == pytest.approx(tuple(error)), name


def test_post_stratified_is_the_published_formula() -> None:
    rng = np.random.default_rng(2)
    arm, choice, y = rng.integers(0, 3, 90), rng.integers(0, 3, 90), rng.normal(size=90)
    found = eom.terms(np.eye(3)[choice], arm, np.full(90, 1 / 3), y[:, None])
    by_hand = sum((choice == j).mean() * y[(arm == j) & (choice == j)].mean() for j in range(3))
    assert found["post_stratified"].mean() == pytest.approx(by_hand)
    assert "doubly_robust" not in found


def test_normalised_estimates_follow_a_shift() -> None:
    probs, propensity, potential, _ = trial(60, 3, 3)
    arm, p, outcome = observe(potential, propensity, np.arange(60) % 3)
    before, after = (eom.terms(probs, arm, p, y) for y in (outcome, outcome + 100))
    for name in ("hajek", "post_stratified"):
        assert after[name] == pytest.approx(before[name] + 100)


def test_a_rare_arm_borrows_the_mean_of_all_who_got_it() -> None:
    choice, arm = np.array([1, 0, 0, 0]), np.array([0, 0, 1, 1])
    y = np.array([[1.0], [2.0], [6.0], [8.0]])
    found = eom.terms(np.eye(2)[choice], arm, np.full(4, 0.5), y)
    assert found["post_stratified"].mean() == pytest.approx(0.75 * 2.0 + 0.25 * 7.0)


def test_an_arm_that_nobody_got_is_not_made_up() -> None:
    probs, arm, p, y = np.eye(2)[[1, 0, 0]], np.zeros(3, int), np.full(3, 0.5), np.ones((3, 1))
    assert np.isnan(eom.terms(probs, arm, p, y)["post_stratified"]).all()
    assert np.isnan(eom.terms(np.eye(2)[[1, 1, 1]], arm, p, y)["hajek"]).all()


def test_errors_name_the_input() -> None:
    probs, arm, y = np.full((3, 2), 0.5), np.zeros(3, int), np.ones((3, 1))
    with pytest.raises(ValueError, match=r"propensity of row 1 is 0\.0"):
        eom.terms(probs, arm, np.array([1.0, 0.0, 1.0]), y)
    with pytest.raises(ValueError, match=r"model has shape \(3, 2\): allowed is \(3, 2, 1\)"):
        eom.terms(probs, arm, np.ones(3), y, np.zeros((3, 2)))


def responsive(n: int, seed: int) -> tuple[Any, ...]:
    """Predictions (n, 3, 2) that understate costs by half, and a random log of what happened."""
    rng = np.random.default_rng(seed)
    gain, cost = rng.exponential([1.0, 0.6], (n, 2)), rng.uniform(0.5, [1.0, 2.0], (n, 2))
    reward = np.concatenate([np.zeros((n, 1)), gain.cumsum(axis=1)], axis=1)
    charged = np.concatenate([np.zeros((n, 1)), cost.cumsum(axis=1)], axis=1)
    arm, p = rng.integers(0, 3, n), np.full(n, 1 / 3)
    outcome = np.stack([reward, charged], axis=-1)[np.arange(n), arm]
    return np.stack([reward, charged / 2], axis=-1), arm, p, outcome * rng.uniform(0, 2, (n, 1))


def spend_at(price: float, expected: Any, arm: Any, p: Any, outcome: Any) -> float:
    probs = np.eye(expected.shape[1])[eom.at_price(expected, price)]
    return float(eom.terms(probs, arm, p, outcome)["hajek"][:, 1].mean())


@given(st.integers(1, 60), st.integers(0, 10_000), st.floats(0, 2))
@settings(max_examples=40, deadline=None)
def test_price_is_the_least_that_keeps_to_the_budget(n: int, seed: int, budget: float) -> None:
    rows = expected, arm, p, outcome = responsive(n, seed)
    arm[0], outcome[0] = 0, 0.0  # somebody got the free arm, so what it spends is known
    price = eom.price_that_spends(budget, expected, arm, p, outcome[:, 1])
    assert spend_at(price, *rows) <= budget or price == 0
    if price > 0:
        assert not spend_at(price * (1 - 1e-9), *rows) <= budget


def test_price_of_validation_rows_holds_on_test_rows() -> None:
    """Predicted costs are half of the real ones: a price set by them spends the budget twice."""
    expected, arm, p, outcome = responsive(40_000, 0)
    test = responsive(40_000, 1)
    price = eom.price_that_spends(0.8, expected, arm, p, outcome[:, 1])
    assert spend_at(price, *test) == pytest.approx(0.8, rel=0.05)
    believed = np.take_along_axis(
        test[0][..., 1], eom.at_price(test[0], price)[:, None], axis=1
    ).mean()
    assert believed == pytest.approx(0.4, rel=0.05)


def test_price_of_too_little_money() -> None:
    expected, arm, p, outcome = responsive(50, 0)
    with pytest.raises(ValueError, match=r"budget = 0\.1: everybody's cheapest arm spends 1"):
        eom.price_that_spends(0.1, expected, arm, p, np.ones(50))
    assert eom.price_that_spends(np.inf, expected, arm, p, outcome[:, 1]) == 0
