"""Calibration: spends become those of the log, and no choice changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from agents.common.one_day.calibration import (
    SHARES,
    Calibration,
    calibrate,
    fit_calibration,
    overspend,
    read_calibrated,
    shrunk,
    stretch,
)
from agents.common.one_day.daily import solve_day
from agents.common.one_day.eom_gradients import (
    Logged,
    allocate,
    ladder,
    matched_sums,
    means,
    prices_that_spend,
)
from agents.common.one_day.predictors import MultiTaskResponse
from agents.common.one_day.representation import Fitting, fit_representation, user_days
from agents.common.types import Array
from marketing_env import OneShotConfig, lbcf


def curves(n: int, k: int, seed: int) -> Array:
    """(n, K, 2) reward and cost of any shape: hulls, dents, arms that cost and bring nothing."""
    predicted = np.random.default_rng(seed).normal(0.3, 1, (n, k, 2)).cumsum(axis=1)
    predicted[:, 0] = [2.0, 0.0]
    return np.abs(predicted)


@given(st.integers(0, 10_000), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_no_choice_changes_at_any_price(seed: int, k: int) -> None:
    rng, predicted = np.random.default_rng([seed, 1]), curves(20, k, seed)
    calibration = Calibration(
        prices=np.sort(rng.uniform(0, 3, 4))[::-1],
        factor=rng.uniform(0.1, 10, 5),
        line=np.array([[-3.0, 2.0], [0.5, 1.0]]),
    )
    prices = rng.uniform(0, 4, 30)
    after = allocate(calibration(predicted), 2 * prices)  # rewards count twice
    assert_array_equal(after, allocate(predicted, prices))


def test_a_factor_of_one_changes_nothing_that_is_climbed() -> None:
    predicted, prices = curves(50, 4, 0), np.array([1.5, 0.8, 0.1])
    assert_allclose(
        stretch(predicted, prices, np.ones(4)), np.maximum(predicted, predicted[:, :1] * [1, 0])
    )


def crowd(n: int = 4000) -> tuple[Array, Array, Logged]:
    """Truth (n, K, 2), a trial without noise, and the worth of money told too high for some."""
    rng = np.random.default_rng(0)
    pull, arms = rng.uniform(0.2, 2.0, (n, 1)), np.arange(4)
    truth = np.stack([1 + pull * np.sqrt(arms), 0.5 + arms * np.ones_like(pull)], axis=-1)
    action = rng.integers(0, 4, n)
    logged = Logged(action, np.full(n, 4.0), truth[np.arange(n), action])
    bent = truth.copy()
    bent[..., 1] *= 0.3 + 0.4 * pull  # those whom money reaches first seem dear: others cheap
    return truth, bent, logged


def test_spend_at_the_prices_is_that_of_the_log() -> None:
    _, bent, logged = crowd()
    fitted = fit_calibration(bent, logged)
    choices = ladder(bent, fitted.prices)
    real = means(matched_sums(choices, logged))[:, 1]
    said = np.take_along_axis(fitted(bent)[..., 1], choices.T, axis=1).mean(axis=0)
    assert_allclose(said, real, rtol=0.01)
    before = np.take_along_axis(bent[..., 1], choices.T, axis=1).mean(axis=0)
    assert (np.abs(before / real - 1) > 0.1).any()
    told = fitted(bent)[np.arange(len(bent)), logged.action, 0]
    assert np.average(told, weights=logged.weight) == pytest.approx(logged.outcome[:, 0].mean())


def test_a_knapsack_on_bent_costs_spends_its_budget() -> None:
    truth, bent, logged = crowd(40_000)
    fitted = fit_calibration(bent, logged)
    missed = []
    for money in (0.7, 0.9, 1.2, 1.8):
        spent = [
            np.take_along_axis(truth[..., 1], solve_day(p, money).choice[:, None].astype(int), 1)
            for p in (bent, fitted(bent))
        ]
        missed.append([abs(s.mean() / money - 1) for s in spent])
    assert np.max(missed, axis=0)[0] > 0.1
    assert np.max(missed, axis=0)[1] < 0.03


def test_logs_that_say_little_leave_predictions_alone() -> None:
    predicted = np.zeros((5, 3, 2))
    logged = Logged(np.zeros(5, dtype=int), np.ones(5), np.zeros((5, 2)))
    assert_array_equal(fit_calibration(predicted, logged)(predicted), predicted)
    predicted = curves(5, 3, 0)
    fitted = fit_calibration(predicted, logged)
    assert_array_equal(fitted.factor, 1)


def test_chance_is_no_reason_to_correct() -> None:
    """A trial of outcomes that are as predicted but noisy: the ratios are, the factors are not."""
    truth, _, logged = crowd(2000)
    rng = np.random.default_rng(1)
    cost = logged.outcome[:, 1] * 20 * (rng.random(2000) < 1 / 20)
    noisy = logged._replace(outcome=np.stack([logged.outcome[:, 0], cost], axis=1))
    factor = fit_calibration(truth, noisy).factor
    choices = ladder(truth, fit_calibration(truth, noisy).prices)
    real = np.diff(means(matched_sums(choices, noisy))[:, 1])
    told = np.diff(np.take_along_axis(truth[..., 1], choices.T, axis=1).mean(axis=0))
    assert np.abs(factor - 1).max() < 0.5 * np.abs(real / told - 1).max()


def test_shrinkage_between_all_and_nothing() -> None:
    told = np.array([1.0, 2.0, 4.0, 0.0])
    found = shrunk(np.array([1.5, 3.0, 6.0, 5.0]), np.array([1e-9, 0.6, np.inf, 1.0]), told)
    assert_allclose(found, [1.5, 1.25, 1.0, 1.0])


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_shrunk_ratios_lie_between_one_and_the_ratio(seed: int) -> None:
    rng = np.random.default_rng(seed)
    told, error = rng.uniform(0.1, 2, 6), rng.uniform(0.01, 1, 6)
    ratio = rng.uniform(0, 3, 6)
    found = shrunk(ratio * told, error, told)
    assert (np.minimum(ratio, 1) - 1e-12 <= found).all()
    assert (found <= np.maximum(ratio, 1) + 1e-12).all()


def test_overspend_is_real_over_told() -> None:
    truth, _, logged = crowd()
    prices = np.array([2.0, 1.0])
    assert overspend(truth, prices, logged) == pytest.approx(0, abs=0.05)
    cheap = truth * [1.0, 0.5]
    assert overspend(cheap, 2 * prices, logged) == pytest.approx(1, abs=0.1)
    assert overspend(np.zeros_like(truth), prices, logged) == 0


CONFIG = OneShotConfig(users_per_arm=500, noise=1.0)


def test_a_response_is_calibrated_on_the_users_named() -> None:
    log = lbcf(CONFIG).log
    users = np.arange(0, log.n_users, 2)
    rows = user_days(log, users)
    network = fit_representation(rows, 4, 1, 0, Fitting(3.0, 256))
    with torch.no_grad():
        network.get_parameter("towers.1.0.bias").add_(2.0)  # costs told too high
    response = MultiTaskResponse(network)
    calibrated = calibrate(response, log, users)
    predicted = response.predict(log.obs[users, 0], 0)
    share = np.bincount(log.action[users, 0]) / len(users)
    logged = Logged(
        log.action[users, 0].astype(int),
        1 / (4 * share[log.action[users, 0]]),
        np.stack([log.reward[users, 0], log.cost[users, 0]], axis=1),
    )
    for found, expected in zip(
        calibrated.calibration, fit_calibration(predicted, logged), strict=True
    ):
        assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert calibrated.calibration.factor.mean() < 0.7
    again = read_calibrated(calibrated.state())
    obs = log.obs[:10, 0]
    assert_array_equal(again.predict(obs, 0), calibrated.predict(obs, 0))
    assert not np.allclose(again.predict(obs, 0), response.predict(obs, 0))


def test_prices_fall_and_spend_the_shares() -> None:
    predicted = curves(500, 4, 3)
    rng = np.random.default_rng(0)
    logged = Logged(rng.integers(0, 4, 500), np.ones(500), rng.random((500, 2)))
    prices = fit_calibration(predicted, logged).prices
    free = predicted[np.arange(500), predicted[..., 0].argmax(axis=1), 1].mean()
    least = predicted[..., 1].min(axis=1).mean()
    assert (np.diff(prices) < 0).all()
    assert_allclose(prices, prices_that_spend(predicted, least + SHARES * (free - least)))
