"""Off-policy estimates are right on average, and their intervals cover the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from marketing_env import (
    ConstantPolicy,
    DayView,
    Estimate,
    LoggedDataset,
    MixedPolicy,
    Policy,
    ProductionPolicy,
    RandomPolicy,
    preset,
    replay,
    rollout,
)
from marketing_env.config import Array

CONFIG = preset("toy", weekday=(0.5, 0.0, -0.5, 0.3, 0.0, 0.0, 0.0))
K, T = CONFIG.n_actions, CONFIG.horizon
POLICIES: dict[str, Policy] = {
    "production": ProductionPolicy(CONFIG, 0.4),
    "mixed": MixedPolicy([RandomPolicy(K), ProductionPolicy(CONFIG, 0.6)], [0.3, 0.7]),
}
LOGS, USERS = 120, 800


def leave(log: LoggedDataset, rate: float, seed: int) -> LoggedDataset:
    """The log of users who stay from the first day to a random one."""
    days = np.random.default_rng([seed, 77]).geometric(rate, log.n_users)
    there = np.arange(log.horizon) < days[:, None]
    return replace(
        log,
        valid=there,
        propensity=np.where(there, log.propensity, 0),
        reward=np.where(there, log.reward, np.nan),
        cost=np.where(there, log.cost, np.nan),
    )


def truth(policy: Policy, rate: float) -> Array:
    """(3,) reward, cost and contacts, by simulation of users who leave at the same rate."""
    log = rollout(policy, CONFIG, 100_000, seed=10**6)
    stays = (1 - rate) ** np.arange(T)
    return np.array([x.mean(axis=0) @ stays for x in (log.reward, log.cost, log.action > 0)])


def numbers(e: Estimate) -> tuple[float, float, float]:
    return e.reward, e.cost, e.contacts


def wrong_q(log: LoggedDataset) -> Array:
    """Action values that know nothing of the outcomes, and are far off."""
    noise = np.random.default_rng(5).normal(2.0, 0.5, (T, K, 3))
    return noise + log.obs[:, :-1, 0, None, None] * noise[::-1]


@pytest.fixture(scope="module", params=[(name, rate) for name in POLICIES for rate in (0.0, 0.3)])
def replayed(request: pytest.FixtureRequest) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """Truth (3,), and per estimator (logs, 3) values and errors."""
    name, rate = request.param
    policy, found = POLICIES[name], []
    for seed in range(LOGS):
        log = rollout(RandomPolicy(K), CONFIG, USERS, seed)
        log = leave(log, rate, seed) if rate else log
        found.append(replay(policy, log, wrong_q(log)))
    values = {e: np.array([numbers(f[e]) for f in found]) for e in found[0]}
    errors = {
        e: np.array([(f[e].reward_error, f[e].cost_error, f[e].contacts_error) for f in found])
        for e in found[0]
    }
    return truth(policy, rate), values, errors


Replayed = tuple[Array, dict[str, Array], dict[str, Array]]


@pytest.mark.parametrize("estimator", ["importance", "self_normalised", "doubly_robust"])
def test_estimates_are_right_on_average(replayed: Replayed, estimator: str) -> None:
    true, values, _ = replayed
    found = values[estimator]
    error = found.std(axis=0) / math.sqrt(LOGS)
    assert (np.abs(found.mean(axis=0) - true) <= 3.5 * error).all()
    assert (error < 0.05 * true).all()


@pytest.mark.parametrize("estimator", ["importance", "self_normalised", "doubly_robust"])
def test_intervals_cover_the_truth(replayed: Replayed, estimator: str) -> None:
    true, values, errors = replayed
    covers = np.abs(values[estimator] - true) <= 1.96 * errors[estimator]
    assert (covers.mean(axis=0) >= 0.88).all()
    assert_allclose(errors[estimator].mean(axis=0), values[estimator].std(axis=0), rtol=0.3)


def test_the_logged_policy_is_not_the_asked_one(replayed: Replayed) -> None:
    true, values, _ = replayed
    assert abs(values["logged"][:, 1].mean() - true[1]) > 0.05


def test_wrong_values_mislead_fitted_q_but_not_doubly_robust(replayed: Replayed) -> None:
    true, values, _ = replayed
    assert np.abs(values["fitted_q"].mean(axis=0) - true).max() > 0.2


def by_hand(policy: Policy, log: LoggedDataset, q: Array) -> dict[str, Array]:
    """(3,) importance and doubly robust estimates, user by user, only over the days he is there."""
    importance, robust = np.zeros(3), np.zeros(3)
    for user in range(log.n_users):
        rho, before = 1.0, 1.0
        for day in np.flatnonzero(log.valid[user]):
            one = slice(user, user + 1)
            p = policy.probs(DayView(log.obs[one, day], log.bucket[one], int(day), math.inf))[0]
            a = log.action[user, day]
            m = np.array([log.reward[user, day], log.cost[user, day], a > 0])
            rho = before * p[a] / log.propensity[user, day]
            importance += rho * m
            robust += before * (p @ q[user, day]) + rho * (m - q[user, day, a])
            before = rho
    return {"importance": importance / log.n_users, "doubly_robust": robust / log.n_users}


def test_holes_in_the_log_are_skipped() -> None:
    log = rollout(RandomPolicy(K), CONFIG, 60, seed=3)
    valid = np.random.default_rng(1).random(log.valid.shape) < 0.6
    valid[0] = False
    hidden = np.where(valid, log.reward, np.nan), np.where(valid, log.cost, np.nan)
    ragged = replace(log, valid=valid, reward=hidden[0], cost=hidden[1])
    q = np.where(valid[..., None, None], wrong_q(log), np.nan)
    found = replay(POLICIES["production"], ragged, q)
    for estimator, expected in by_hand(POLICIES["production"], ragged, q).items():
        assert numbers(found[estimator]) == pytest.approx(tuple(expected))
    assert found["logged"].reward == pytest.approx(np.nansum(hidden[0]) / 60)
    assert math.isfinite(found["fitted_q"].reward)


def test_perfect_action_values_remove_the_noise_of_the_weights() -> None:
    """Where the reward is a known function of the action, nothing is left to correct."""
    log = rollout(RandomPolicy(K), CONFIG, 50, seed=4)
    log = replace(log, reward=log.action + 1.0, cost=2.0 * log.action)
    days_left = np.arange(T - 1, -1, -1)[:, None]
    policy = ConstantPolicy(1, K)
    arms = np.arange(K)
    columns = arms + 1 + 2.0 * days_left, 2.0 * (arms + days_left), (arms > 0) + 1.0 * days_left
    q = np.broadcast_to(np.stack(columns, axis=-1), (50, T, K, 3))
    robust = replay(policy, log, q)["doubly_robust"]
    assert robust.contacts == pytest.approx(T)
    assert robust.reward == pytest.approx(2 * T)
    assert robust.cost == pytest.approx(2 * T)
    assert robust.reward_error == pytest.approx(0, abs=1e-12)


def test_effective_users_are_those_of_the_last_day() -> None:
    log = rollout(RandomPolicy(K), CONFIG, 300, seed=5)
    found = replay(ConstantPolicy(2, K), log)
    followed = int((log.action == 2).all(axis=1).sum())
    assert found["importance"].effective_users == pytest.approx(followed)
    assert found["logged"].effective_users == 300
    same = replay(RandomPolicy(K), log)
    assert same["importance"].effective_users == pytest.approx(300)
    assert same["importance"].reward == pytest.approx(same["logged"].reward)
    assert same["self_normalised"].reward_error == pytest.approx(same["logged"].reward_error)


def test_normalised_weights_give_a_constant_without_error() -> None:
    log = rollout(RandomPolicy(K), CONFIG, 300, seed=5)
    log = replace(log, reward=np.full(log.reward.shape, 2.0))
    found = replay(POLICIES["production"], log)
    assert found["self_normalised"].reward == pytest.approx(2 * T)
    assert found["self_normalised"].reward_error == pytest.approx(0, abs=1e-12)
    assert found["importance"].reward_error > 0.01


def test_a_policy_that_the_log_never_followed_has_no_estimate() -> None:
    log = rollout(ConstantPolicy(0, K), CONFIG, 20, seed=6)
    found = replay(ConstantPolicy(1, K), replace(log, meta={"incentives": [0.0, 1.0, 3.0]}))
    assert found["importance"].effective_users == 0
    assert math.isnan(found["self_normalised"].reward)


def test_the_log_is_needed_no_q() -> None:
    log = rollout(RandomPolicy(K), CONFIG, 20, seed=7)
    found = replay(RandomPolicy(K), log)
    assert list(found) == ["logged", "importance", "self_normalised"]
    assert all(isinstance(e, Estimate) and e.estimator == name for name, e in found.items())


def test_logs_with_refused_offers_are_rejected() -> None:
    log = rollout(ConstantPolicy(2, K), CONFIG, 30, seed=8, budget=0.5)
    assert log.meta["refused"] > 0
    with pytest.raises(ValueError, match="refused"):
        replay(RandomPolicy(K), log)


@pytest.mark.parametrize("shape", [(20, T, K), (20, T, K, 2), (19, T, K, 3), (20, T + 1, K, 3)])
def test_q_of_another_shape_is_rejected(shape: tuple[int, ...]) -> None:
    log = rollout(RandomPolicy(K), CONFIG, 20, seed=9)
    with pytest.raises(ValueError, match=r"q has shape .*allowed is \(20, 4, 3, 3\)"):
        replay(RandomPolicy(K), log, np.zeros(shape))


def test_a_policy_of_other_incentives_is_rejected() -> None:
    log = rollout(RandomPolicy(K), CONFIG, 20, seed=9)
    with pytest.raises(ValueError, match=r"policy\.probs has shape"):
        replay(RandomPolicy(K + 1), log)
