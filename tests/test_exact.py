"""The truth is true: against enumeration, linear programming and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from marketing_env import (
    ConstantPolicy,
    DayView,
    Policy,
    ProductionPolicy,
    RandomPolicy,
    Users,
    best_mixture,
    bound,
    curve,
    dynamics,
    exact,
    plan,
    preset,
    sample_users,
)
from marketing_env.config import Array, CampaignConfig, Spread
from marketing_env.exact import Curve
from marketing_env.policy import one_hot
from marketing_env.rollout import days

TOY = preset("toy", weekday=(0.4, -0.3, 0.2, 0.0, 0.1, 0.0, 0.0), base=Spread(-1.0, 1.0))
PERCENT = preset(
    "food_coupons", horizon=3, incentives=(0.0, 0.2, 0.5), basket_cap=20.0, basket_engagement=0.3,
    engagement_levels=3, recency_levels=3, fatigue_levels=2,
)  # fmt: skip
SMALL = preset("payment_bonus", horizon=7, engagement_levels=6)


class Kernel:
    """One user's decision process written out state by state, from `CampaignConfig`'s formula."""

    def __init__(self, config: CampaignConfig, user: Users, day: int) -> None:
        self.config, self.user, self.day = config, user, day
        self.states = list(itertools.product(*(range(levels) for levels in config.shape)))
        shape = (len(self.states), config.n_actions)
        self.reward, self.cost = np.zeros(shape), np.zeros(shape)
        self.next = np.zeros((*shape, len(self.states)))
        for s, a in itertools.product(range(shape[0]), range(shape[1])):
            self._fill(s, a)

    def _fill(self, s: int, a: int) -> None:
        c, user = self.config, self.user
        e, r, f = (x / (levels - 1) for x, levels in zip(self.states[s], c.shape, strict=True))
        dose = c.incentives[a]
        effect = (1 - math.exp(-dose / user.dose_scale)) * max(0.0, 1 - float(user.fatigue) * f)
        logit = user.base + c.weekday[self.day % 7] + user.habit * e
        logit += user.need * (r - c.need_centre) + user.lift * effect - c.drag * user.fatigue * f
        active = 1 / (1 + math.exp(-logit))
        mean = user.basket * (1 + c.basket_engagement * e) * (1 + c.basket_lift * effect)
        baskets = [mean * q for q in c.basket_quantiles]
        pays = [dose * min(b, c.basket_cap) if c.offer == "percent" else dose for b in baskets]
        self.reward[s, a] = active * np.mean(baskets)
        self.cost[s, a] = active * user.redeem * np.mean(pays) if dose else 0.0
        for came, p in ((1, active), (0, 1 - active)):
            for after, q in self._after(self.states[s], dose / c.incentives[-1], came):
                self.next[s, a, self.states.index(after)] += p * q

    def _after(self, state: tuple[int, ...], dose: float, came: int):  # type: ignore[no-untyped-def]
        """(next state, probability) given activity, both memories rounded at random."""
        c, (e, r, f) = self.config, state
        e_top, n_top, f_top = (levels - 1 for levels in c.shape)
        e_next = c.engagement_memory * e + (1 - c.engagement_memory) * e_top * came
        f_next = c.fatigue_memory * f + (1 - c.fatigue_memory) * f_top * dose
        r_next = 0 if came else min(r + 1, n_top)
        for (e2, p), (f2, q) in itertools.product(_corners(e_next), _corners(f_next)):
            if p * q > 0:
                yield (e2, r_next, f2), p * q

    @property
    def start(self) -> int:
        return self.states.index(tuple(int(level) for level in self.user.start))


def _corners(level: float) -> list[tuple[int, float]]:
    level = round(level, 12)
    return [(math.floor(level), 1 - level % 1), (math.floor(level) + 1, level % 1)]


def kernels(config: CampaignConfig, user: Users) -> list[Kernel]:
    return [Kernel(config, user, day) for day in range(config.horizon)]


def enumerate_policies(config: CampaignConfig, user: Users) -> tuple[Array, Array]:
    """Campaign reward and cost of every deterministic policy of one user, (P,) each."""
    process = kernels(config, user)
    n = len(process[0].states)
    tables = np.array(list(itertools.product(range(config.n_actions), repeat=n)))
    value = np.zeros((2, 1, n))
    for k in reversed(process):
        here = tables if k.day else np.unique(tables[:, [k.start]], axis=0).repeat(n, axis=1)
        rows = np.arange(n)
        today = np.stack([k.reward[rows, here], k.cost[rows, here]])[:, :, None, :]
        future = np.einsum("pst,vqt->vpqs", k.next[rows, here], value)
        value = (today + future).reshape(2, -1, n)
    return value[0, :, process[0].start], value[1, :, process[0].start]


@pytest.mark.parametrize("offer", ["amount", "percent"])
@pytest.mark.parametrize("row", [0, 1])
def test_plan_is_the_best_of_all_policies(offer: str, row: int) -> None:
    config = preset(
        "toy", horizon=3, offer=offer, incentives=(0.0, 0.8), basket_cap=1.2, basket_noise=0.5,
        basket_lift=0.3, engagement_levels=2, recency_levels=2, fatigue_levels=2,
    )  # fmt: skip
    users = sample_users(config, 2, seed=1)
    rewards, costs = enumerate_policies(config, users.take(row))
    assert len(rewards) == 2 * 2**8 * 2**8
    prices = [0.0, 0.02, 0.1, 0.3, 1.0, np.inf]
    p = plan(config, users, prices)
    for g, price in enumerate(prices[:-1]):
        best = (rewards - price * costs).max()
        assert p.reward[row, g] - price * p.cost[row, g] == pytest.approx(best, abs=1e-12)
    assert p.cost[row, -1] == 0
    assert p.reward[row, -1] == pytest.approx(rewards[costs == 0].max(), abs=1e-12)


def occupancy_optimum(config: CampaignConfig, users: Users, budget: float) -> float:
    """Best mean reward within the budget, by linear programming over occupancy measures."""
    optimize = pytest.importorskip("scipy.optimize")
    process = [kernels(config, users.take(i)) for i in range(users.n)]
    n_states, n_actions = process[0][0].reward.shape
    shape = (users.n, config.horizon, n_states, n_actions)
    index = np.arange(np.prod(shape)).reshape(shape)
    reward = np.array([[k.reward for k in ks] for ks in process])
    cost = np.array([[k.cost for k in ks] for ks in process])
    flow, inflow = np.zeros((*shape[:3], index.size)), np.zeros(shape[:3])
    for u, t, s in np.ndindex(*shape[:3]):
        flow[u, t, s, index[u, t, s]] = 1
        if t:
            flow[u, t, s, index[u, t - 1].ravel()] = -process[u][t - 1].next[:, :, s].ravel()
        else:
            inflow[u, t, s] = s == process[u][0].start
    result = optimize.linprog(
        -reward.ravel(), cost.reshape(1, -1), [budget * users.n],
        flow.reshape(-1, index.size), inflow.ravel(), method="highs",
    )  # fmt: skip
    assert result.status == 0
    return float(-result.fun / users.n)


@pytest.mark.parametrize("config", [TOY, PERCENT], ids=["amount", "percent"])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 0.8, 1.5])
def test_best_mixture_is_the_occupancy_optimum(
    config: CampaignConfig, n: int, share: float
) -> None:
    users = sample_users(config, n, seed=2)
    budget = share * plan(config, users, 0.0).cost.mean()
    mixture, truth = best_mixture(config, users, budget), occupancy_optimum(config, users, budget)
    assert mixture.reward == pytest.approx(truth, rel=1e-7)
    assert mixture.bound == pytest.approx(truth, rel=1e-7)
    assert mixture.cost <= budget * (1 + 1e-12)


class TablePolicy:
    """Follows the tables of a plan, (T, n, S), for the users it was made for."""

    def __init__(self, config: CampaignConfig, tables: Array) -> None:
        self.config, self.tables = config, tables

    def probs(self, view: DayView) -> Array:
        state = np.ravel_multi_index(dynamics.levels(self.config, view.obs), self.config.shape)
        chosen = self.tables[view.day, np.arange(len(state)), state]
        return one_hot(chosen, self.config.n_actions)


def simulate(
    policy: Policy, config: CampaignConfig, users: Users, campaigns: int
) -> tuple[Array, Array]:
    """Mean (reward, cost) per user over campaigns, and their standard errors, (2,) each."""
    runs = np.array(
        [
            [(d.reward.mean(), d.cost.mean()) for d in days(policy, config, users, seed)]
            for seed in range(campaigns)
        ]
    ).sum(axis=1)
    return runs.mean(axis=0), runs.std(axis=0, ddof=1) / math.sqrt(campaigns)


@pytest.mark.parametrize("name", ["payment_bonus", "short_video_coins", "food_coupons"])
def test_plan_earns_and_costs_what_it_says(name: str) -> None:
    config = preset(name, horizon=10)
    users = sample_users(config, 150, seed=3)
    _, prices = exact.spend_prices(config, users, [0.2])
    p = plan(config, users, [0.0, prices[0], np.inf], keep_actions=True)
    assert p.action is not None
    for g in range(3):
        mean, error = simulate(TablePolicy(config, p.action[g]), config, users, campaigns=40)
        truth = np.array([p.reward[:, g].mean(), p.cost[:, g].mean()])
        assert (np.abs(mean - truth) <= 4 * error).all()
    assert not p.action[2].any()


def test_mixture_earns_what_it_says() -> None:
    users = sample_users(SMALL, 100, seed=4)
    m = best_mixture(SMALL, users, budget=1.0)
    p = plan(SMALL, users, m.price)
    assert m.weight.sum() == pytest.approx(1)
    assert p.reward.mean(axis=0) @ m.weight == pytest.approx(m.reward)
    assert p.cost.mean(axis=0) @ m.weight == pytest.approx(m.cost)
    assert m.cost == pytest.approx(1.0)
    assert m.bound == pytest.approx(m.reward, rel=1e-9)


@pytest.mark.parametrize(
    "policy",
    [
        RandomPolicy(SMALL.n_actions),
        ProductionPolicy(SMALL),
        ProductionPolicy(SMALL, epsilon=0.9),
        ConstantPolicy(1, SMALL.n_actions),
        ConstantPolicy(5, SMALL.n_actions),
    ],
    ids=["random", "production", "explorer", "least", "most"],
)
def test_bound_is_above_every_policy(policy: Policy) -> None:
    users = sample_users(SMALL, 80, seed=5)
    (reward, cost), (error, cost_error) = simulate(policy, SMALL, users, campaigns=30)
    assert reward - 4 * error <= bound(SMALL, users, cost + 4 * cost_error)


@pytest.mark.parametrize("foresight", [0.0, 0.5, 1.0])
def test_bound_is_above_every_plan_and_mixture(foresight: float) -> None:
    users = sample_users(SMALL, 30, seed=6)
    c = curve(SMALL, users, np.geomspace(0.02, 2, 3), foresight=foresight)
    for i, j in itertools.combinations_with_replacement(range(len(c.price)), 2):
        reward, cost = (c.reward[i] + c.reward[j]) / 2, (c.cost[i] + c.cost[j]) / 2
        assert reward <= bound(SMALL, users, cost) * (1 + 1e-9)


def test_foresight_pays_for_every_user() -> None:
    users, prices = sample_users(SMALL, 40, seed=7), np.array([0.0, 0.05, 0.2, 0.5])
    wise, myopic = (plan(SMALL, users, prices, foresight=f) for f in (1.0, 0.0))
    gain = (wise.reward - prices * wise.cost) - (myopic.reward - prices * myopic.cost)
    assert (gain >= -1e-12).all()
    assert (gain.mean(axis=0) > 1e-3).all()


def test_higher_prices_buy_less() -> None:
    users = sample_users(SMALL, 40, seed=8)
    p = plan(SMALL, users, [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, np.inf])
    assert (np.diff(p.cost) <= 1e-12).all()
    assert (np.diff(p.reward) <= 1e-12).all()
    assert not p.cost[:, -1].any()


def test_bound_is_rising_and_concave_in_the_budget() -> None:
    users, budgets = sample_users(SMALL, 30, seed=9), np.linspace(0, 3, 9)
    values = np.array([bound(SMALL, users, b) for b in budgets])
    assert (np.diff(values) > 0).all()
    assert (np.diff(values, n=2) <= 1e-9).all()
    assert values[0] == pytest.approx(plan(SMALL, users, np.inf).reward.mean())


def test_money_beyond_the_optimum_is_not_spent() -> None:
    users = sample_users(TOY, 20, seed=1)
    free = plan(TOY, users, 0.0)
    m = best_mixture(TOY, users, 1_000.0)
    assert_array_equal(m.price, [0.0])
    assert m.cost == pytest.approx(free.cost.mean())
    assert m.reward == m.bound == pytest.approx(free.reward.mean())


def test_curve_lies_on_the_bound() -> None:
    users = sample_users(SMALL, 40, seed=2)
    budgets, prices = exact.spend_prices(SMALL, users, [0.05, 0.2, 0.6])
    c = curve(SMALL, users, np.concatenate([prices, np.geomspace(0.02, 2, 30)]))
    truth = [bound(SMALL, users, b) for b in budgets]
    assert_allclose(c.reward_at(budgets), truth, rtol=1e-3)
    assert (c.reward_at(budgets) <= np.array(truth) * (1 + 1e-12)).all()
    assert c.cost[0] == 0


@given(
    points=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8),
    budget=st.floats(0, 12),
)
def test_reward_at_is_the_best_mixture_of_two_points(
    points: list[tuple[int, int]], budget: float
) -> None:
    cost, reward = np.array(sorted([(0, 0), *points]), dtype=float).T

    def mix(i: int, j: int) -> float:
        if cost[j] <= budget:
            return max(reward[i], reward[j])
        share = (budget - cost[i]) / (cost[j] - cost[i])
        return (1 - share) * reward[i] + share * reward[j]

    pairs = itertools.product(range(len(cost)), repeat=2)
    truth = max(mix(i, j) for i, j in pairs if cost[i] <= budget)
    found = Curve(np.zeros(len(cost)), reward, cost).reward_at(budget)
    assert found == pytest.approx(truth, abs=1e-9)


def test_users_are_solved_alike_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    users, prices = sample_users(TOY, 7, seed=3), [0.1, np.inf]
    whole = plan(TOY, users, prices, keep_actions=True)
    alone = plan(TOY, users.take(slice(4, 5)), prices)
    assert_allclose(alone.reward, whole.reward[4:5], rtol=1e-13)
    monkeypatch.setattr(exact, "USERS", 2)
    pieces = plan(TOY, users, prices, keep_actions=True)
    assert_allclose(pieces.cost, whole.cost, rtol=1e-13)
    assert pieces.action is not None
    assert whole.action is not None
    assert whole.action.shape == (2, TOY.horizon, 7, math.prod(TOY.shape))
    assert_array_equal(pieces.action, whole.action)


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_bad_numbers_are_named(bad: float) -> None:
    users = sample_users(TOY, 2)
    with pytest.raises(ValueError, match="price"):
        plan(TOY, users, bad)
    with pytest.raises(ValueError, match="budget"):
        best_mixture(TOY, users, bad)
