"""Each morning's plan is the best that the day's money buys, by enumeration."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from agents import bcrlsp
from agents.bcrlsp import DayValues
from agents.common.values.factored_q import FactoredMember
from agents.common.values.response import OutcomeModel
from marketing_env import DayView, LoggedDataset, RandomPolicy, preset, rollout

torch.set_num_threads(1)
CONFIG = preset("toy")
K, T = CONFIG.n_actions, CONFIG.horizon


@pytest.fixture(scope="module")
def log() -> LoggedDataset:
    return rollout(RandomPolicy(K), CONFIG, 2_000, seed=1)


@pytest.fixture(scope="module")
def model(log: LoggedDataset) -> bcrlsp.Model:
    small = bcrlsp.Config(folds=2, steps=30, width=32, outcome_epochs=4, progress=False)
    return bcrlsp.fit(log, small)


def outcomes_of(model: bcrlsp.Model) -> list[OutcomeModel]:
    members = model.responses.members
    return [member.outcomes for member in members if isinstance(member, FactoredMember)]


def test_values_are_the_days_cost_and_at_least_the_days_reward(
    model: bcrlsp.Model, log: LoggedDataset
) -> None:
    obs = log.obs[:200]
    for day in range(T):
        found = DayValues(model.responses).predict(obs[:, day], day)
        assert found.shape == (200, K, 2)
        rows = torch.tensor(obs[:, day]), torch.full((200,), day)
        today = [torch.stack(o(*rows).mean(), dim=-1).detach() for o in outcomes_of(model)]
        reward, cost = torch.stack(today).mean(0).double().numpy().transpose(2, 0, 1)
        assert_allclose(found[..., 1], cost, atol=1e-4)
        if day == T - 1:
            assert_allclose(found[..., 0], reward, atol=1e-4)
        else:
            assert (found[..., 0] > reward).mean() > 0.85
            assert found[..., 0].mean() > 1.2 * reward.mean()


@pytest.mark.parametrize("budget", [0.5, 2.0, 4.0])
def test_the_plan_of_a_few_users_is_the_best_by_enumeration(
    model: bcrlsp.Model, log: LoggedDataset, budget: float
) -> None:
    n, day = 5, 1
    view = DayView(log.obs[:n, day], log.bucket[:n], day, math.inf)
    value, cost = np.moveaxis(DayValues(model.responses).predict(view.obs, day), 2, 0)
    users, money = np.arange(n), n * budget / T
    plans = [np.array(plan) for plan in product(range(K), repeat=n)]
    best = max(value[users, p].sum() for p in plans if cost[users, p].sum() <= money)
    chosen = model.policy(budget).probs(view).argmax(axis=1)
    assert cost[users, chosen].sum() <= money + 1e-9
    assert value[users, chosen].sum() == pytest.approx(best, abs=0.02 * np.ptp(value))


def test_money_that_is_left_is_spread_over_the_days_left(
    model: bcrlsp.Model, log: LoggedDataset
) -> None:
    _, cost = np.moveaxis(DayValues(model.responses).predict(log.obs[:, 2], 2), 2, 0)
    for left in (0.1, 0.4):
        view = DayView(log.obs[:, 2], log.bucket, 2, left)
        chosen = model.policy(1.0).probs(view).argmax(axis=1)
        assert cost[np.arange(len(cost)), chosen].mean() == pytest.approx(left / 2, rel=0.03)


def test_campaigns_spend_what_was_granted(model: bcrlsp.Model) -> None:
    for budget in (0.2, 0.6):
        assert rollout(model.policy(budget), CONFIG, 4_000, seed=5).spend == pytest.approx(
            budget, rel=0.15
        )


def test_forecasts_are_of_the_plans(model: bcrlsp.Model) -> None:
    budget = 0.6
    true = rollout(model.policy(budget), CONFIG, 20_000, seed=6)
    forecast = model.forecast(budget)
    assert forecast.reward == pytest.approx(true.value, rel=0.08)
    assert forecast.cost <= budget
