"""Switching: the boldest head that the money left allows, day by day and user by user."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from agents import policy_switching
from agents.policy_switching import Rule, switch
from marketing_env import DayView, RandomPolicy, evaluate, preset, rollout
from marketing_env.config import Array

torch.set_num_threads(1)
CONFIG = preset("toy")
LOG = rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 3_000, seed=1)


@cache
def trained(heads: int = 4, limit: Literal["mean", "each"] = "mean") -> policy_switching.Model:
    config = policy_switching.Config(
        folds=2, prices=8, width=32, steps=60, batch=1024, outcome_epochs=2, progress=False,
        heads=heads, limit=limit,
    )  # fmt: skip
    known = trained().responses if heads != 4 or limit != "mean" else None
    return policy_switching.fit(LOG, config, seed=0, responses=known)


def view(day: int, remaining: float = math.inf) -> DayView:
    return DayView(LOG.obs[:, day], LOG.bucket, day, remaining)


def offered(probs: Array) -> float:
    return float((probs @ CONFIG.doses).mean())


@given(seed=st.integers(0, 10_000), left=st.floats(0, 2))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_best_head_that_fits(seed: int, left: float) -> None:
    reward, cost = np.random.default_rng(seed).uniform(0, 1, (2, 5, 4))
    for r, c, head in zip(reward, cost, switch(reward, cost, left), strict=True):
        fitting = [h for h in range(4) if c[h] <= left or h == 3]
        assert head == max(fitting, key=lambda h: r[h])


@given(seed=st.integers(0, 10_000), left=st.floats(0, 1.2))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_limit_is_as_high_as_the_mean_allows(seed: int, left: float) -> None:
    rng = np.random.default_rng(seed)
    value = np.sort(rng.uniform(0, 1, (200, 2, 4)))[:, :, ::-1].copy()  # dear heads earn more
    value[:, 1, -1] = 0
    rule = Rule(np.arange(4), rng.uniform(1, 1.2, 4), each=False)
    cost, rows = value[:, 1] * rule.margin, np.arange(200)
    common, each = (r.choose(value, left) for r in (rule, rule._replace(each=True)))
    assert (cost[rows, each] <= left).all()
    assert cost[rows, common].mean() <= left + 1e-9
    assert (value[rows, 0, common] >= value[rows, 0, each]).all()
    # All but the last user who does not fit any more are served.
    assert cost[rows, common].mean() >= min(left, cost[:, 0].mean()) - 2 / 200
    assert (rule.choose(np.zeros((3, 2, 4)), 0.0) == 3).all()


def test_more_money_is_never_offered_less() -> None:
    policy = trained().policy(0.5 * LOG.spend)
    for day in (0, CONFIG.horizon // 2):
        rates = [offered(policy.probs(view(day, left))) for left in (0.0, 0.1, 0.5, 2.0, 50.0)]
        assert rates == sorted(rates)
        assert rates[0] == 0
        assert rates[-1] > 2 * rates[1]


def test_heads_reach_from_free_spending_to_none() -> None:
    price = trained().responses.frontier.price[:, 0]
    for heads in (2, 4, 8):
        chosen = price[trained(heads).heads]
        assert len(chosen) == heads
        assert (np.diff(chosen) > 0).all()
        assert (chosen[0], chosen[-1]) == (0.0, math.inf)
        assert trained(heads).forecast(1.0).oracle_calls == heads
        assert len(trained(heads).forecast(1.0).weights) <= heads


def test_where_money_is_unknown_the_plan_is_followed() -> None:
    budget = 0.5 * LOG.spend
    left = trained().policy(budget).left
    assert left[0] == pytest.approx(budget)
    assert (np.diff(left) < 0).all()
    assert left[-1] > 0
    for day in (0, CONFIG.horizon - 1):
        assert_array_equal(
            trained().policy(budget).probs(view(day)),
            trained().policy(9.0).probs(view(day, float(left[day]))),
        )
    assert np.isinf(trained().policy(math.inf).left).all()
    assert (trained().policy(0.0).left == 0).all()


def test_budgets_are_kept_and_earn_something() -> None:
    model = trained()
    idle = evaluate(model.policy(0.0), CONFIG, n_users=4_000, seeds=2)
    assert idle.cost.mean() <= 0.02 * LOG.spend
    gains = []
    for share in (0.2, 0.6):
        budget = share * LOG.spend
        found = evaluate(model.policy(budget), CONFIG, n_users=4_000, seeds=2)
        assert found.cost.mean() <= 1.05 * budget
        assert model.forecast(budget).cost <= budget
        gains.append(float((found.reward - idle.reward).mean()))
    assert 0 < gains[0] < gains[1]


def test_a_limit_for_everyone_leaves_money_unspent() -> None:
    budget = 0.5 * LOG.spend
    common, each = (
        evaluate(trained(4, limit).policy(budget), CONFIG, n_users=4_000, seeds=2)
        for limit in ("mean", "each")
    )
    assert each.cost.mean() < 0.5 * common.cost.mean() < 0.5 * budget
    assert each.reward.mean() < common.reward.mean()


def test_the_forecast_knows_who_follows_which_head() -> None:
    """Users who fit a dearer head are those whom it costs less than others."""
    model = trained()
    told = model.forecast(0.5 * LOG.spend)
    frontier = model.responses.frontier
    weight = np.zeros(len(frontier.price))
    for price, share in zip(told.prices, told.weights, strict=True):
        weight[frontier.price[:, 0] == price] = share
    assert weight.sum() == pytest.approx(1)
    assert told.cost < weight @ frontier.value[:, 1]
