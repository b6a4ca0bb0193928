"""Tables are made for the log's users; what they spend on their own is judged, and budgets kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from agents import cluster
from agents.common.buckets import redrawn
from agents.common.one_day.cluster_program import Outcomes
from agents.common.one_day.cluster_tables import Judged, Tables
from agents.common.types import Array
from marketing_env import DayView, LoggedDataset, Policy

torch.set_num_threads(1)
DAYS, REST = 8, 0.25  # chance that a sated user is hungry again tomorrow
SMALL = cluster.Config(clusters=2, width=16, batch=256, epochs=1, progress=False)


def judged(seed: int, n: int = 6) -> Judged:
    """Plans whose spending rises; the last but one earns most."""
    rng = np.random.default_rng(seed)
    money, cost = (np.append(0, rng.uniform(0.2, 2, n).cumsum()) for _ in range(2))
    reward = np.append(rng.uniform(0, 1, n).cumsum(), 0)
    value, error = np.stack([reward, cost], axis=1), rng.uniform(0, 0.1, (n + 1, 2)).cumsum(axis=0)
    error[0, 1] = 0
    return Judged(money, value, error, cost + 0.5 * error[:, 1])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_a_budget_is_spent_up_to_its_margin(seed: int, share: float) -> None:
    known = judged(seed)
    budget = share * float(known.secured[-2])
    (_, cost), (_, error) = known.expected(budget)
    assert cost + 0.5 * error == pytest.approx(budget, abs=1e-9)


def test_money_that_earns_nothing_stays_unspent() -> None:
    known = judged(1)
    best = known.plan_for(float(known.secured[-2]))
    assert best == known.money[-2]
    assert known.plan_for(10 * known.secured[-1]) == best
    value, _ = known.expected(math.inf)
    assert_array_equal(value, known.value[-2])


def test_a_table_spends_an_even_share_on_the_users_of_the_log() -> None:
    rng = np.random.default_rng(0)
    mean = rng.random((4, 3, 2)).cumsum(axis=1)
    mean[:, 0, 1] = 0
    known = Outcomes(mean, np.zeros_like(mean), np.ones((4, 3), dtype=bool))
    share = rng.dirichlet(np.ones(4), 5) * np.array([1.0, 1, 0.5, 1, 1])[:, None]
    tables = Tables(known, share, risk=0.5)
    money = np.array([0.5, 1.5, 3.0])
    probs = tables.probs(money)
    assert_allclose(probs.sum(axis=2), 1)
    cost = np.einsum("tl,tlkg,lk->tg", share, probs, mean[..., 1])
    assert_allclose(cost, share.sum(axis=1)[:, None] * money / 5)
    assert tables.grid()[-1] == pytest.approx((share @ mean[..., 1].max(axis=1)).sum())


def campaign(policy: Policy | None, n: int, seed: int) -> LoggedDataset:
    """Hungry users take arm 1 for a unit of money and are sated; the sated take it for little."""
    rng = np.random.default_rng(seed)
    bucket, hungry = rng.random(n), np.ones(n, dtype=bool)
    obs, action = np.zeros((n, DAYS + 1, 2)), np.zeros((n, DAYS), dtype=int)
    cost = np.zeros((n, DAYS))
    for day in range(DAYS):
        obs[:, day] = np.stack([hungry, rng.normal(size=n)], axis=1)
        if policy is None:
            action[:, day] = rng.integers(0, 2, n)
        else:
            view = DayView(obs[:, day].astype(np.float32), bucket, day, math.inf)
            action[:, day] = policy.probs(view).argmax(axis=1)
        cost[:, day] = action[:, day] * np.where(hungry, rng.uniform(0.5, 1.5, n), 0.1)
        hungry = np.where(hungry, action[:, day] == 0, rng.random(n) < REST)
    obs[:, DAYS, 0] = hungry
    return LoggedDataset(
        obs=obs.astype(np.float32), action=action, propensity=np.full(action.shape, 0.5),
        reward=2 * cost + 0.1 * rng.normal(size=cost.shape), cost=cost,
        valid=np.ones(action.shape, dtype=bool), bucket=bucket, meta={"incentives": (0, 1)},
    )  # fmt: skip


def spend(policy: Policy) -> float:
    return float(campaign(policy, 20_000, seed=5).cost.sum(axis=1).mean())


class Uncalibrated:
    """The tables with the budget as their money."""

    def __init__(self, model: cluster.Model, budget: float) -> None:
        self.model, self.budget = model, budget

    def probs(self, view: DayView) -> Array:
        days = torch.full((len(view.obs),), view.day)
        named = cluster.assign(self.model.classifier, torch.as_tensor(view.obs), days)
        split = self.model.tables.split(view.day, self.budget)
        return np.eye(2)[split.serve(named, redrawn(view.bucket, view.day))]


def test_users_who_are_not_where_the_log_was_spend_the_budget() -> None:
    """The log sated most users; a plan that gives little finds them hungry."""
    model = cluster.fit(campaign(None, 1_500, seed=0), SMALL)
    for budget in (0.2, 0.5):
        assert spend(Uncalibrated(model, budget)) > 1.3 * budget
        assert spend(model.policy(budget)) == pytest.approx(budget, rel=0.1)


def test_users_draw_anew_every_day() -> None:
    bucket = np.random.default_rng(0).random(20_000)
    drawn = np.stack([redrawn(bucket, day) for day in range(4)])
    assert_allclose(np.quantile(drawn, [0.1, 0.5, 0.9], axis=1).T, [[0.1, 0.5, 0.9]] * 4, atol=0.02)
    assert np.abs(np.corrcoef(np.vstack([bucket, drawn])) - np.eye(5)).max() < 0.03
    both = (drawn[0] < 0.2) & (drawn[1] < 0.2)
    assert both.mean() == pytest.approx(0.04, abs=0.006)
    assert_array_equal(redrawn(bucket[:9], 3), drawn[3, :9])
