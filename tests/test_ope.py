"""Fitted Q evaluation is near the truth, judges each user by others, and keeps mixtures apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.common.values.ope import FittedQEvaluation, fitted_q_evaluation
from marketing_env import (
    ConstantPolicy,
    DayView,
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
    q = fitted_q_evaluation(policy, log, width=32, steps=60, epochs=4)
    found = replay(policy, log, q)
    true = rollout(policy, CONFIG, 40_000, seed=10**6)
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
    q = fitted_q_evaluation(mixed, few, width=16, steps=30, epochs=1)
    treated = mixed.component(few.bucket) == 1
    cost_to_go = q[:, 0, 0, 1]
    assert cost_to_go[treated].mean() > 5 * cost_to_go[~treated].mean()
    assert cost_to_go[~treated].mean() < 0.1


def test_shape_seed_and_the_last_day(log: LoggedDataset) -> None:
    few = log.take(slice(0, 300))
    runs = [
        fitted_q_evaluation(RandomPolicy(K), few, width=8, steps=5, epochs=0.1, seed=s)
        for s in (4, 4, 5)
    ]
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
    a, b = (
        fitted_q_evaluation(RandomPolicy(K), x, width=8, steps=5, epochs=0.1)
        for x in (few, changed)
    )
    # The last day's values need the outcome model alone.
    assert np.array_equal(a[user, -1], b[user, -1])
    assert not np.array_equal(a[:, -1], b[:, -1])


def test_one_fold_learns_from_everyone(log: LoggedDataset) -> None:
    few = log.take(slice(0, 300))
    q = fitted_q_evaluation(RandomPolicy(K), few, folds=1, width=8, steps=5, epochs=0.1)
    assert np.isfinite(q).all()


def test_one_pass_values_several_policies_near_the_truth(log: LoggedDataset) -> None:
    policies: list[Policy] = [
        ConstantPolicy(0, K), ProductionPolicy(CONFIG, 0.3), ConstantPolicy(2, K)
    ]  # fmt: skip
    values = FittedQEvaluation(log, width=32, steps=60, epochs=8).values(policies)
    assert values.shape == (3, log.n_users, CONFIG.horizon, K, 3)
    for policy, q in zip(policies, values, strict=True):
        found = replay(policy, log, q)["fitted_q"]
        true = rollout(policy, CONFIG, 40_000, seed=10**6)
        assert found.reward == pytest.approx(true.reward.sum(axis=1).mean(), rel=0.06)
        assert found.cost == pytest.approx(true.spend, rel=0.08, abs=1e-6)


def test_a_part_of_several_mixtures_is_valued_once(log: LoggedDataset) -> None:
    few = log.take(slice(0, 300))
    nothing, all_two = ConstantPolicy(0, K), ConstantPolicy(2, K)
    mixtures = [MixedPolicy([nothing, all_two], [w, 1 - w]) for w in (0.25, 0.75)]
    judge = FittedQEvaluation(few, width=8, steps=5, epochs=0.1)
    first, second = judge.values(mixtures)
    alone = judge.values([nothing, all_two])
    for mixture, values in zip(mixtures, (first, second), strict=True):
        follows = mixture.component(few.bucket)
        assert np.array_equal(values, alone[follows, np.arange(300)])
    assert np.array_equal(judge.values(mixtures)[1], second)


class Diary:
    """Gives nothing, and writes down when it was asked about how many users."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def probs(self, view: DayView) -> np.ndarray:
        self.asked.append((view.day, len(view.obs)))
        return ConstantPolicy(0, K).probs(view)


def test_policies_are_asked_once_a_day_in_order_with_everyone_there(log: LoggedDataset) -> None:
    diary = Diary()
    fitted_q_evaluation(diary, log.take(slice(0, 50)), width=8, steps=2, epochs=0.1)
    assert diary.asked == [(day, 50) for day in range(CONFIG.horizon)]
