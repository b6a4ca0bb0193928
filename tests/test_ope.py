"""Fitted Q evaluation is near the truth, judges each user by others, and keeps mixtures apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.common.values.ope import fitted_q_evaluation
from marketing_env import (
    ConstantPolicy,
    LoggedDataset,
    MixedPolicy,
    Policy,
    ProductionPolicy,
    RandomPolicy,
    preset,
    replay,
    rollout,
)

torch.set_num_threads(1)
# Habit lasts: a user treated twice earns more than the sum, so mixtures differ from redrawing.
CONFIG = preset("toy", need=2.0, habit=6.0)
K = CONFIG.n_actions


@pytest.fixture(scope="module")
def log() -> LoggedDataset:
    return rollout(RandomPolicy(K), CONFIG, 3_000, seed=1)


@pytest.mark.parametrize(
    "policy",
    [
        ProductionPolicy(CONFIG, 0.3),
        ConstantPolicy(2, K),
        MixedPolicy([ConstantPolicy(0, K), ConstantPolicy(2, K)], [0.5, 0.5]),
    ],
    ids=["production", "constant", "mixed"],
)
def test_values_are_near_the_truth(policy: Policy, log: LoggedDataset) -> None:
    q = fitted_q_evaluation(policy, log, width=32, steps=60)
    found = replay(policy, log, q)
    true = rollout(policy, CONFIG, 100_000, seed=10**6)
    reward, cost = true.reward.sum(axis=1).mean(), true.spend
    assert found["fitted_q"].reward == pytest.approx(reward, rel=0.06)
    assert found["fitted_q"].cost == pytest.approx(cost, rel=0.08)
    robust = found["doubly_robust"]
    assert robust.reward == pytest.approx(reward, abs=3 * robust.reward_error)
    assert robust.cost == pytest.approx(cost, abs=3 * robust.cost_error)
    assert found["doubly_robust"].reward_error < found["importance"].reward_error


def test_a_user_of_a_mixture_has_the_values_of_his_own_policy(log: LoggedDataset) -> None:
    parts = ConstantPolicy(0, K), ConstantPolicy(2, K)
    few = log.take(slice(0, 600))
    mixed = MixedPolicy(parts, [0.5, 0.5])
    q = fitted_q_evaluation(mixed, few, width=16, steps=30)
    treated = mixed.component(few.bucket) == 1
    cost_to_go = q[:, 0, 0, 1]
    assert cost_to_go[treated].mean() > 5 * cost_to_go[~treated].mean()
    assert cost_to_go[~treated].mean() < 0.1


def test_shape_seed_and_the_last_day(log: LoggedDataset) -> None:
    few = log.take(slice(0, 300))
    runs = [fitted_q_evaluation(RandomPolicy(K), few, width=8, steps=5, seed=s) for s in (4, 4, 5)]
    assert runs[0].shape == (300, CONFIG.horizon, K, 3)
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    last = runs[0][:, -1]
    assert (last[..., 0] <= 1 + 1e-6).all()
    assert (last[:, 0, 1] == 0).all()


def test_nobody_is_judged_by_his_own_data(log: LoggedDataset) -> None:
    """Changing what one user brought changes nothing in his own values."""
    few = log.take(slice(0, 200))
    user = 17
    reward = few.reward.copy()
    reward[user] = 1 - (reward[user] != 0)
    changed = LoggedDataset(
        few.obs, few.action, few.propensity, reward, few.cost, few.valid, few.bucket, few.meta
    )
    a, b = (fitted_q_evaluation(RandomPolicy(K), x, width=8, steps=5) for x in (few, changed))
    # The last day's values need the outcome model alone.
    assert np.array_equal(a[user, -1], b[user, -1])
    assert not np.array_equal(a[:, -1], b[:, -1])


def test_one_fold_learns_from_everyone(log: LoggedDataset) -> None:
    few = log.take(slice(0, 300))
    q = fitted_q_evaluation(RandomPolicy(K), few, folds=1, width=8, steps=5)
    assert np.isfinite(q).all()
