"""One backward pass gives the exact planner's values, judged by members that saw others."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from agents.common.fitted_q import ActionValues, backward_pass, greedy, greedy_choice
from agents.common.response import OutcomeModel, fit_outcomes
from agents.common.tensors import Panel, panel
from marketing_env import DayView, RandomPolicy, plan, preset, rollout, sample_users
from marketing_env.config import Array, Spread

torch.set_num_threads(1)
# Users differ by a single feature, and their state has few levels: a small table of values.
CONFIG = preset(
    "toy", n_features=1, base=Spread(-2.5, 0.0), lift=Spread(2.5, 0.0), need=4.0,
    dose_scale=Spread(1.0, 0.0), redeem=(1.0, 1.0), engagement_levels=2, fatigue_levels=2,
)  # fmt: skip
K, T = CONFIG.n_actions, CONFIG.horizon
PRICES = torch.tensor([0.0, 0.05, 0.15, 0.4, torch.inf])


def passed(
    data: Panel, folds: int, prices: Tensor = PRICES, **settings: Any
) -> tuple[ActionValues, Tensor, Tensor]:
    """Values, V[0] and the users' folds."""
    fold = torch.arange(data.n_users) % folds
    outcomes = [
        fit_outcomes(data, ((fold != f) | (folds == 1)).nonzero()[:, 0], width=24, batch=1024)
        for f in range(folds)
    ]
    values, first = backward_pass(
        data, fold, outcomes, greedy_choice(prices), len(prices), width=24, joint=24, **settings
    )
    return values, first, fold


class Greedy:
    """The learned best response to the price of one head."""

    def __init__(self, values: ActionValues, head: int) -> None:
        self.values, self.head = values, head

    def probs(self, view: DayView) -> Array:
        q = self.values.mean(torch.as_tensor(view.obs), view.day, self.head)
        return np.asarray(np.eye(K)[greedy(q, PRICES[[self.head]])[:, 0]])


@pytest.fixture(scope="module")
def learned() -> tuple[ActionValues, Tensor]:
    data = panel(rollout(RandomPolicy(K), CONFIG, 8_000, seed=1))
    values, first, _ = passed(data, folds=2, steps=150, batch=1024)
    return values, first


def test_values_are_those_of_the_exact_plan(learned: tuple[ActionValues, Tensor]) -> None:
    _, first = learned
    exact = plan(CONFIG, sample_users(CONFIG, 8_000, 1), PRICES.double().numpy())
    reward, cost = first.mean(dim=0).numpy()
    finite = np.array([*PRICES[:-1], 0.0])
    # Of two incentives that are worth the same, either may be taken: spending is known less well.
    net = (exact.reward - finite * exact.cost).mean(axis=0)
    assert_allclose(reward - finite * cost, net, rtol=0.08)
    assert_allclose(cost, exact.cost.mean(axis=0), rtol=0.2, atol=0.01)


def test_values_differ_between_users_as_they_should(learned: tuple[ActionValues, Tensor]) -> None:
    _, first = learned
    exact = plan(CONFIG, sample_users(CONFIG, 8_000, 1), PRICES.double().numpy())
    for head in range(len(PRICES)):
        mine, true = first[:, 0, head].numpy(), exact.reward[:, head]
        assert np.corrcoef(mine, true)[0, 1] > 0.9


def test_the_policy_is_nearly_optimal(learned: tuple[ActionValues, Tensor]) -> None:
    """At each price, what the greedy policy earns net of its spend in simulation."""
    values, _ = learned
    users = sample_users(CONFIG, 3_000, seed=9)
    exact = plan(CONFIG, users, PRICES[:4].double().numpy())
    idle = plan(CONFIG, users, np.inf).reward.mean()
    for head in (1, 2):
        log = rollout(Greedy(values, head), CONFIG, users=users, seed=9)
        price = float(PRICES[head])
        net = log.reward.sum(axis=1).mean() - price * log.spend - idle
        best = (exact.reward - price * exact.cost)[:, head].mean() - idle
        assert net > 0.75 * best


def test_spending_falls_with_the_price(learned: tuple[ActionValues, Tensor]) -> None:
    cost = learned[1][:, 1].mean(dim=0)
    assert (cost.diff() < 0).all()
    assert abs(float(cost[-1])) < 1e-5


def test_each_day_has_its_own_values(learned: tuple[ActionValues, Tensor]) -> None:
    values, _ = learned
    obs = torch.as_tensor(rollout(RandomPolicy(K), CONFIG, 200, seed=2).obs[:, 1])
    to_go = [values.mean(obs, day)[:, 0, 0, 0].mean() for day in range(T)]
    assert all(a > b for a, b in itertools.pairwise(to_go))
    last = values.members(obs, T - 1)
    day = torch.full((200,), T - 1)
    for member, outcomes in zip(last, values.outcomes, strict=True):
        reward, cost = outcomes(obs, day).mean()
        assert_array_equal(member[:, :, 0, 0], reward)
        assert_array_equal(member[:, :, 1, 0], cost)


def test_one_head_is_a_column_of_all(learned: tuple[ActionValues, Tensor]) -> None:
    values, _ = learned
    obs = torch.as_tensor(rollout(RandomPolicy(K), CONFIG, 50, seed=2).obs[:, 0])
    for day in (0, T - 1):
        every = values.members(obs, day)
        assert every.shape == (2, 50, K, 2, len(PRICES))
        for head in range(len(PRICES)):
            one = values.members(obs, day, head)
            assert_allclose(one[..., 0], every[..., head], rtol=1e-5, atol=1e-6)
        assert_allclose(values.mean(obs, day), every.mean(dim=0), rtol=1e-6)


@pytest.mark.parametrize("folds", [2, 3])
def test_users_are_valued_by_the_member_that_did_not_see_them(folds: int) -> None:
    data = panel(rollout(RandomPolicy(K), CONFIG, 120, seed=3))
    values, first, fold = passed(data, folds, steps=4, batch=64)
    members = values.members(data.obs[:, 0], 0)
    rows = torch.arange(data.n_users)
    judge = members[fold, rows]
    chooser = (members.sum(dim=0) - judge) / (folds - 1)
    choice = greedy(chooser, PRICES)
    expected = torch.gather(judge, 1, choice[:, None, None].expand(-1, 1, 2, -1))[:, 0]
    assert_allclose(first, expected, rtol=1e-4, atol=1e-5)


def test_member_learns_nothing_from_its_own_fold() -> None:
    log = rollout(RandomPolicy(K), CONFIG, 120, seed=4)
    data = panel(log)
    fold = torch.arange(120) % 2
    outcomes: list[OutcomeModel] = [
        fit_outcomes(data, (fold != f).nonzero()[:, 0], width=8, epochs=1) for f in (0, 1)
    ]
    # Two days: the only targets are last-day values, which the outcome models alone decide.
    short = Panel(
        data.obs[:, :3], data.action[:, :2], data.reward[:, :2], data.cost[:, :2],
        data.outcome[:, :2], data.valid[:, :2], n_actions=K,
    )  # fmt: skip
    other = Panel(
        short.obs, torch.where(fold[:, None] == 0, 0, short.action), short.reward, short.cost,
        short.outcome, short.valid, n_actions=K,
    )  # fmt: skip
    for model in outcomes:
        model.horizon = 2
    a, b = (
        backward_pass(x, fold, outcomes, greedy_choice(PRICES), 5, width=8, joint=8, steps=3)[0]
        for x in (short, other)
    )
    obs = short.obs[:, 0]
    assert_array_equal(a.members(obs, 0)[0], b.members(obs, 0)[0])
    assert not torch.equal(a.members(obs, 0)[1], b.members(obs, 0)[1])


def test_days_without_the_user_are_skipped() -> None:
    """A user who is only there on the last day is worth his last day."""
    log = rollout(RandomPolicy(K), CONFIG, 100, seed=5)
    data = panel(log)
    data.valid[:50, :-1] = False
    values, first, fold = passed(data, 2, steps=4, batch=64)
    last = values.members(data.obs[:, T - 1], T - 1)
    judge = last[fold, torch.arange(100)]
    rich = greedy(last.sum(dim=0) - judge, PRICES)
    worth = torch.gather(judge, 1, rich[:, None, None].expand(-1, 1, 2, -1))[:, 0]
    assert_allclose(first[:50], worth[:50], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(first[50:], worth[50:])


def test_greedy_weighs_money_by_its_price() -> None:
    reward, cost = torch.tensor([1.0, 2.0, 3.5]), torch.tensor([0.0, 1.0, 3.0])
    q = torch.stack([reward, cost], dim=-1)[None, :, :, None].expand(2, -1, -1, 4)
    prices = torch.tensor([0.0, 0.9, 1.5, torch.inf])
    assert greedy(q, prices).tolist() == [[2, 1, 0, 0]] * 2
    # Even where no incentive looks worst: an infinite price never pays.
    assert greedy(-q, prices)[:, 3].tolist() == [0, 0]


def test_greedy_choice_is_one_hot_per_price() -> None:
    q = torch.randn(6, K, 2, 5, generator=torch.Generator().manual_seed(0))
    weight = greedy_choice(PRICES)(q, slice(0, 6), 0)
    assert weight.shape == (6, K, 5)
    assert_array_equal(weight.argmax(dim=1), greedy(q, PRICES))
    assert_array_equal(weight.sum(dim=1), np.ones((6, 5)))
