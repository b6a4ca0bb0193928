"""The frontier mixes few policies, bounds what is possible, and compares with the log."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.common.games.frontier import Frontier
from agents.common.games.game import solve_master
from agents.common.values.responses import frontier_of
from marketing_env import RandomPolicy, preset, rollout

INF = math.inf


def frontier(risk: float = 0.5, m: int = 1, leeway: float = 0.0) -> Frontier:
    """Best responses of a concave world, r = 10 + 2 sqrt(c), at the prices of their slopes."""
    cost = np.array([9.0, 4.0, 1.0, 0.25, 0.0])
    price = np.array([1 / 3, 0.5, 1.0, 2.0, INF])
    value = np.stack([10 + 2 * np.sqrt(cost), cost, 2 * cost], axis=1)[:, : 1 + m]
    prices = np.stack([price, np.where(np.isinf(price), INF, 0.0)], axis=1)[:, :m]
    error = np.full_like(value, 0.1)
    logged = np.array([11.0, 2.0, 4.0])[: 1 + m]
    return Frontier(prices, value, error, logged, np.full(1 + m, 0.05), risk, leeway)


@given(budget=st.floats(0, 20))
def test_mixture_and_bound(budget: float) -> None:
    """At most two policies; between their chord and the concave truth lies the certificate."""
    f = frontier()
    mixed, forecast = f.mix([budget]), f.forecast([budget])
    assert (mixed.weight > 0).sum() <= 2
    assert forecast.cost <= budget + 1e-9
    truth = 10 + 2 * math.sqrt(min(budget, 9.0))
    assert forecast.reward <= truth + 1e-9
    assert forecast.bound >= forecast.reward
    if budget <= 9:
        assert forecast.bound >= truth - 1e-9
    assert len(forecast.prices) == len(forecast.weights) == (mixed.weight > 0).sum()
    assert sum(forecast.weights) == pytest.approx(1)


def test_no_gap_at_a_policy_of_the_grid() -> None:
    forecast = frontier().forecast([4.0])
    assert forecast.prices == (0.5,)
    assert forecast.reward == pytest.approx(14)
    assert forecast.gap == pytest.approx(0, abs=1e-9)
    assert forecast.baseline == 10


def test_cost_errors_leave_a_margin_but_not_for_giving_nothing() -> None:
    cautious = frontier(risk=0.05, leeway=0.0)
    assert cautious.forecast([4.0]).cost == pytest.approx(4 - 1.645 * 0.1, abs=0.01)
    assert cautious.forecast([4.0]).violation == pytest.approx(0.05, abs=0.001)
    nothing = cautious.forecast([0.0])
    assert (nothing.cost, nothing.prices) == (0, (INF,))
    assert frontier(risk=0.5).forecast([4.0]).cost == pytest.approx(4)


@pytest.mark.parametrize("leeway", [0.0, 0.01, 0.03, 0.1])
def test_a_plan_keeps_its_budget_in_expectation_and_rarely_violates_it(leeway: float) -> None:
    known = frontier(risk=0.1, leeway=leeway)
    forecast = known.forecast([4.0])
    assert forecast.cost <= 4 + 1e-9
    over = 1 - NormalDist(forecast.cost, forecast.cost_error).cdf(4 * (1 + leeway))
    assert forecast.violation == pytest.approx(over)
    assert forecast.violation <= 0.1 + 1e-6
    # One of the two binds: nothing is left unspent without need.
    assert forecast.cost == pytest.approx(4) or forecast.violation == pytest.approx(0.1, abs=1e-3)
    assert known.forecast([INF]).violation == 0


def test_two_limits_hold_together() -> None:
    f = frontier(m=2)
    mixed = f.mix([4.0, 3.0])
    assert (mixed.weight > 0).sum() <= 3
    assert mixed.weight @ f.value[:, 1] <= 4 + 1e-9
    # Contacts are twice the cost here: their cap is the one that binds.
    assert mixed.weight @ f.value[:, 2] == pytest.approx(3)
    same = solve_master(f.value, [4.0, 3.0]).weight
    assert mixed.weight == pytest.approx(same)
    assert f.forecast([4.0, INF]).reward == pytest.approx(14)


def test_comparison_with_the_log_is_at_equal_spend() -> None:
    f = frontier()
    # The log spent 2 for a gain of 1: half of it buys half of that.
    half = f.forecast([1.0])
    assert half.over_log == pytest.approx(12 - 10.5)
    more = f.forecast([9.0])
    assert more.over_log == pytest.approx(16 - 11)
    assert half.safe
    assert half.over_log_error > 0.1


def test_nothing_spent_violates_nothing() -> None:
    assert frontier().forecast([0.0]).violation == 0


def test_a_fee_on_every_user_changes_no_comparison() -> None:
    fee = np.array([0.0, 1.5])
    plain, free = frontier(), frontier().forecast([2.0])
    with_fee = dataclasses.replace(plain, value=plain.value + fee, logged=plain.logged + fee)
    found = with_fee.forecast([3.5])
    assert found.over_log == pytest.approx(free.over_log)
    assert found.over_log_error == pytest.approx(free.over_log_error)
    # Other users, on whom the fee is twice as much: the log's policy would pay it for them too.
    others = with_fee.of_users(with_fee.value + fee, with_fee.error)
    assert others.forecast([5.0]).over_log == pytest.approx(free.over_log)


def test_no_promise_without_an_advantage() -> None:
    f = dataclasses.replace(frontier(), logged=np.array([12.9, 2.0]))
    forecast = f.forecast([2.0])
    assert forecast.over_log < 0.1
    assert not forecast.safe
    assert "no promise" in str(forecast)
    assert "better than the log" in str(frontier().forecast([2.0]))


@pytest.mark.parametrize("budget", [-1.0, math.nan, "0.5", None, np.float64(-2)])
def test_impossible_budgets_are_named(budget: Any) -> None:
    shown = re.escape(repr(budget)) if isinstance(budget, str) else str(budget)
    for ask in (frontier().mix, frontier().forecast):
        with pytest.raises(ValueError, match=f"budget = {shown}: allowed are numbers of at least"):
            ask([budget])
    with pytest.raises(ValueError, match=r"contacts = -1\.0"):
        frontier(m=2).mix([1.0, -1.0])


def test_survives_json() -> None:
    f = frontier(m=2)
    again = Frontier.from_lists(json.loads(json.dumps(f.lists())))
    assert again.forecast([2.0, 3.0]) == f.forecast([2.0, 3.0])


@pytest.mark.parametrize("folds", [2, 4, 6])
def test_errors_cover_what_members_that_share_users_have_in_common(folds: int) -> None:
    """Each member's estimate is the mean of what its users show, and judges the other ones."""
    campaign, n = preset("toy"), 120
    log = rollout(RandomPolicy(campaign.n_actions), campaign, n, seed=0)
    generator, fold = torch.Generator().manual_seed(folds), torch.arange(n) % folds
    prices, means, errors = torch.tensor([[0.0], [torch.inf]]), [], []
    for _ in range(400):
        shown = torch.randn(folds, generator=generator)
        judged = (shown.sum() - shown) / (folds - 1)
        own = 0.1 * torch.randn(n, generator=generator)
        first = (judged[fold] + own)[:, None, None].expand(n, 2, 2)
        known = frontier_of(log, first, fold, prices, risk=0.05)
        means.append(known.value[0, 0])
        errors.append(known.error[0, 0])
    assert np.mean(np.square(errors)) == pytest.approx(np.var(means), rel=0.2)
