"""What methods that solve a knapsack a day share: allocation, cross-fitting, forecast, files."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from agents.common.one_day.daily import (
    DailyKnapsack,
    DailyModel,
    NetworkResponse,
    Response,
    Settings,
    State,
    fit_daily,
    load_daily,
    solve_day,
    supported,
)
from agents.common.tensors import panel
from agents.common.types import Array
from agents.common.values.response import fit_outcomes
from agents.common.values.support import fit_support
from marketing_env import DayView, LoggedDataset, RandomPolicy, preset, rollout

torch.set_num_threads(1)


@dataclass(frozen=True)
class Config:
    """The least that a method of this kind has."""

    folds: int = 2
    least_support: float = 0.01
    pacing: bool = True


class Linear:
    """Reward and cost are linear in the observation; `note` is kept as JSON."""

    def __init__(self, slope: Array, note: str = "") -> None:
        self.slope, self.note = slope, note  # (d, K, 2)

    def predict(self, obs: Array, day: int) -> Array:
        return np.einsum("nd,dky->nky", obs, self.slope) + 0.1 * day

    def state(self) -> State:
        return State({"slope": torch.tensor(self.slope)}, {"note": self.note})


def read(config: Config, state: State) -> Response:
    return Linear(state.tensors["slope"].numpy(), state.meta["note"])


def made_log(n: int = 40, horizon: int = 3, seed: int = 0, **parts: Any) -> LoggedDataset:
    rng = np.random.default_rng(seed)
    shape = (n, horizon)
    log = LoggedDataset(
        obs=rng.random((n, horizon + 1, 2)), action=rng.integers(0, 3, shape),
        propensity=np.full(shape, 1 / 3), reward=rng.random(shape), cost=rng.random(shape),
        valid=np.ones(shape, dtype=bool), bucket=rng.random(n),
    )  # fmt: skip
    return replace(log, **parts)


def linear(seed: int, note: str = "") -> Linear:
    slope = np.random.default_rng(seed).random((2, 3, 2)).cumsum(axis=1)
    slope[:, 0, 1] = 0
    return Linear(slope, note)


def fitted(log: LoggedDataset, config: Settings = Config()) -> DailyModel:
    return fit_daily("somebody", log, config, lambda users, f: linear(f, f"member {f}"))


def view(log: LoggedDataset, day: int = 0, remaining: float = math.inf) -> DayView:
    return DayView(log.obs[:, day], log.bucket, day, remaining)


def best_by_enumeration(expected: Array, money: float) -> float:
    n, k, _ = expected.shape
    plans = [np.array(plan) for plan in itertools.product(range(k), repeat=n)]
    totals = [expected[np.arange(n), plan].sum(axis=0) for plan in plans]
    return max(reward for reward, cost in totals if cost <= money + 1e-12)


@given(st.integers(1, 5), st.integers(0, 10_000), st.floats(0, 1.5))
@settings(max_examples=50, deadline=None)
def test_a_day_is_allocated_optimally(n: int, seed: int, money: float) -> None:
    expected = np.random.default_rng(seed).random((n, 3, 2))
    expected[:, 0, 1] = 0
    found = solve_day(expected, money)
    assert found.value == pytest.approx(best_by_enumeration(expected, money * n))
    assert found.cost <= money * n + 1e-12


def test_nobody_gets_what_is_not_eligible() -> None:
    expected = np.random.default_rng(0).random((300, 3, 2))
    expected[:, 2, 0] += 10
    assert (solve_day(expected, 100.0).choice == 2).all()
    expected[::2, 2] = np.nan
    choice = solve_day(expected, 100.0).choice
    assert (choice[::2] < 2).all()
    assert (choice[1::2] == 2).all()


def test_with_too_little_money_everyone_gets_the_cheapest() -> None:
    expected = np.random.default_rng(0).random((50, 3, 2)) + 0.1
    cost = expected[..., 1]
    assert_array_equal(solve_day(expected, 0.01).choice, cost.argmin(axis=1))
    # A predicted cost below 0 is no source of money.
    expected[0, 0, 1] = -5.0
    assert solve_day(expected, 0.01).cost == pytest.approx(cost[1:].min(axis=1).sum())


@pytest.mark.parametrize(
    ("pacing", "remaining", "money"),
    [(True, 0.6, 0.2), (True, math.inf, 0.5), (False, 0.6, 0.5), (True, 0.0, 0.0)],
)
def test_money_of_the_day(pacing: bool, remaining: float, money: float) -> None:
    log = made_log(horizon=4)
    policy = DailyKnapsack([linear(0)], budget=2.0, horizon=4, pacing=pacing)
    seen = view(log, day=1, remaining=remaining)
    assert policy.money(seen) == pytest.approx(money)
    expected = linear(0).predict(seen.obs, 1)
    chosen = policy.probs(seen).argmax(axis=1)
    assert_array_equal(chosen, solve_day(expected, money, seen.bucket).choice)


def test_a_policy_acts_from_the_view_alone() -> None:
    log = made_log(n=60)
    policy = DailyKnapsack([linear(0), linear(1)], 0.5, log.horizon, pacing=True)
    first = policy.probs(view(log, 2))
    policy.probs(view(made_log(n=7, seed=3), 0, remaining=0.1))
    assert_array_equal(policy.probs(view(log, 2)), first)
    order = np.random.default_rng(1).permutation(60)
    shuffled = DayView(log.obs[order, 2], log.bucket[order], 2, math.inf)
    assert_array_equal(policy.probs(shuffled), first[order])


def test_the_policy_follows_the_mean_of_the_members() -> None:
    log = made_log(n=60)
    one, two = linear(0), linear(1)
    both = DailyKnapsack([one, two], 0.5, log.horizon, True)
    mean = DailyKnapsack([Linear((one.slope + two.slope) / 2)], 0.5, log.horizon, True)
    assert_array_equal(both.probs(view(log)), mean.probs(view(log)))


@pytest.mark.parametrize("folds", [1, 2, 3])
def test_members_learn_from_all_users_outside_their_fold(folds: int) -> None:
    log, taught = made_log(n=41), []

    def learn(users: Array, member: int) -> Response:
        taught.append(set(users.tolist()))
        return linear(member)

    fit_daily("somebody", log, Config(folds=folds), learn, seed=4)
    everyone = set(range(41))
    if folds == 1:
        assert taught == [everyone]
        return
    held_out = [everyone - users for users in taught]
    assert set().union(*held_out) == everyone
    assert sum(map(len, held_out)) == 41
    assert max(map(len, held_out)) - min(map(len, held_out)) <= 1


def test_the_forecast_reads_each_user_from_the_member_that_did_not_see_him() -> None:
    log, held_out = made_log(), {}

    def learn(users: Array, member: int) -> Response:
        held_out[member] = np.setdiff1d(np.arange(log.n_users), users)
        return linear(member)

    model = fit_daily("somebody", log, Config(), learn)
    for member, users in held_out.items():
        for day in range(log.horizon):
            mine = linear(member).predict(log.obs[users, day], day)
            assert_allclose(model.logged[day][users], mine)


def test_forecast_adds_up_the_days() -> None:
    log = made_log()
    model = fitted(log)
    budget = 0.6
    days = [solve_day(expected, budget / log.horizon) for expected in model.logged]
    found = model.forecast(budget)
    assert found.reward == pytest.approx(sum(day.value for day in days) / log.n_users)
    assert found.cost == pytest.approx(sum(day.cost for day in days) / log.n_users)
    assert found.bound == pytest.approx(sum(day.bound for day in days) / log.n_users)
    assert found.baseline == pytest.approx(sum(day[:, 0, 0].mean() for day in model.logged))
    assert found.reward <= found.bound + 1e-9
    assert found.cost <= budget + 1e-9


def skewed(log: LoggedDataset) -> LoggedDataset:
    """Never arm 2 where the first feature is below 1/2."""
    action = np.where(log.obs[:, :-1, 0] < 0.5, log.action % 2, log.action)
    return replace(log, action=action, propensity=np.full(action.shape, 0.4))


def test_incentives_without_support_are_nan() -> None:
    log = skewed(made_log(n=3000))
    support = fit_support(log, panel(log), least=0.05)
    assert support is not None
    obs = log.obs[:, 0]
    expected = supported(linear(0).predict(obs, 0), support, obs, 0)
    low, high = obs[:, 0] < 0.45, obs[:, 0] > 0.55
    assert np.isnan(expected[low, 2]).mean() > 0.98
    assert np.isnan(expected[high, 2]).mean() < 0.02
    assert not np.isnan(expected[:, :2]).any()
    assert supported(expected, None, obs, 0) is expected


def test_absent_users_are_neither_paid_nor_missed() -> None:
    log = skewed(made_log(n=600))
    there = np.random.default_rng(1).random(log.valid.shape) < 0.5
    seen = np.pad(there, ((0, 0), (0, 1))) | np.pad(there, ((0, 0), (1, 0)))
    ragged = replace(log, valid=there, obs=np.where(seen[..., None], log.obs, np.nan))
    model = fitted(ragged)
    assert model.support is not None
    for day, expected in enumerate(model.logged):
        assert_array_equal(expected[~there[:, day]], 0)
    forecast = model.forecast(0.5)
    assert math.isfinite(forecast.reward)
    assert 0 < forecast.cost <= 0.5 + 1e-9


def test_saved_models_answer_the_same(tmp_path: Path) -> None:
    log = skewed(made_log(n=300))
    model = fitted(log, Config(pacing=False))
    model.save(tmp_path / "model")
    loaded = load_daily(tmp_path / "model", Config, read)
    assert loaded.config == Config(pacing=False)
    assert loaded.method == "somebody"
    assert [m.note for m in loaded.members] == ["member 0", "member 1"]  # type: ignore[attr-defined]
    assert loaded.forecast(0.4) == model.forecast(0.4)
    for day in range(log.horizon):
        morning = view(log, day, remaining=0.3)
        assert_array_equal(loaded.policy(0.4).probs(morning), model.policy(0.4).probs(morning))


def test_networks_are_rebuilt_from_their_state() -> None:
    log = rollout(RandomPolicy(3), preset("toy"), 300, seed=1)
    outcomes = fit_outcomes(panel(log), torch.arange(300), width=8, epochs=0.1)
    response = NetworkResponse(outcomes)
    again = NetworkResponse.from_state(response.state())
    obs = log.obs[:, 1]
    expected = response.predict(obs, 1)
    assert_array_equal(again.predict(obs, 1), expected)
    with torch.no_grad():
        reward, cost = outcomes(torch.tensor(obs), torch.ones(300, dtype=torch.long)).mean()
    assert_allclose(expected, np.stack([reward, cost], axis=-1), rtol=1e-6)
    assert response.predict(obs[:0], 1).shape == (0, 3, 2)


def test_refusals() -> None:
    log = made_log(n=5)
    for folds in (0, 6):
        with pytest.raises(ValueError, match=f"folds = {folds}: allowed is 1 to 5"):
            fitted(log, Config(folds=folds))
    model = fitted(log)
    for budget in (-1.0, math.nan):
        for ask in (model.policy, model.forecast):
            with pytest.raises(ValueError, match="budget"):
                ask(budget)
