"""Daily coupons: the law is the one that is written, the optimum is one, nothing leaks."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_allclose, assert_array_equal

import marketing_env
from marketing_env import ConstantPolicy, DayView, LoggedDataset, RandomPolicy, score
from marketing_env.bcorle import (
    CouponConfig,
    State,
    Users,
    days,
    evaluate,
    observe,
    rollout,
    sample_users,
    step,
)
from marketing_env.bcorle_exact import Plan, curve, optimum, plan
from marketing_env.config import Array
from marketing_env.dynamics import luck

WORLD = CouponConfig()
K, T = WORLD.n_actions, WORLD.horizon
PUBLISHED = CouponConfig(wear=0.0, incentives=WORLD.incentives[1:])
SMALL = CouponConfig(horizon=3, window=4, incentives=(0.0, 1.0, 2.0), wear_levels=3)


class FollowPlan:
    """The plan of one price, for the users it was made for."""

    def __init__(self, config: CouponConfig, action: Array) -> None:
        self.config, self.action = config, action  # (T, n, L)

    def probs(self, view: DayView) -> Array:
        wear = np.rint(view.obs[:, 1] * (self.config.wear_levels - 1)).astype(int)
        chosen = self.action[view.day, np.arange(len(wear)), wear]
        return np.asarray(np.eye(self.config.n_actions)[chosen])


def test_kinds_of_users_are_the_published_ones() -> None:
    retention = sample_users(WORLD, 30_000, seed=1).retention
    assert (np.diff(retention, axis=1) >= 0).all()
    low, high = retention.max(axis=1) <= 0.2, retention.min(axis=1) >= 0.8
    assert low.mean() == pytest.approx(1 / 3, abs=0.02)
    assert high.mean() == pytest.approx(1 / 3, abs=0.02)
    assert retention[~low & ~high].mean() == pytest.approx(0.5, abs=0.01)


def test_first_users_of_a_larger_sample_are_those_of_a_smaller_one() -> None:
    few, many = (sample_users(WORLD, n, seed=2) for n in (5, 50))
    for a, b in zip((*few[:2], *few.start), (*many[:2], *many.start), strict=True):
        assert_array_equal(a, b[:5])


@pytest.mark.parametrize("config", [WORLD, PUBLISHED], ids=["repaired", "published"])
def test_users_return_as_often_as_the_law_says(config: CouponConfig) -> None:
    rng, n = np.random.default_rng(0), 200_000
    u = np.sort(rng.random(config.n_actions))
    users = sample_users(config, 1, seed=3)
    for there, wear, action in [(True, 0, 5), (True, 4, 5), (True, 2, 20), (False, 4, 20)]:
        state = State(*(np.repeat(part, n, axis=0) for part in users.start))
        state = state._replace(there=np.full(n, there), wear=np.full(n, wear))
        crowd = Users(np.tile(u, (n, 1)), np.zeros(n), state)
        got = step(config, crowd, state, np.full(n, action), luck(7, 0, n))
        fresh = 1 - config.wear * wear / 4
        expected = u[0] + (u[action] - u[0]) * fresh if there else u.mean()
        assert got.reward.mean() == pytest.approx(expected, abs=5 * 0.5 / n**0.5)
        assert_allclose(got.cost, config.incentives[action] if there else 0.0)
        dose = there * config.incentives[action] / config.incentives[-1]
        assert got.state.wear.mean() == pytest.approx(0.8 * wear + 0.8 * dose, abs=5 * 0.5 / n**0.5)


def test_observation_counts_the_past_and_hides_the_user() -> None:
    users, n = sample_users(WORLD, 40, seed=4), 40
    run = list(days(RandomPolicy(K), WORLD, users, seed=4))
    last = run[-1].outcome.state
    there = np.stack([d.view.obs[:, 0] for d in run], axis=1) > 0
    action = np.stack([d.action for d in run], axis=1)
    returned = np.stack([d.outcome.reward for d in run], axis=1)
    got, back = np.zeros((2, n, K))
    for i, d in product(range(n), range(T)):  # the window is as long as the month
        got[i, action[i, d]] += there[i, d]
        back[i, action[i, d]] += there[i, d] * returned[i, d]
    obs = observe(WORLD, last, T)
    assert obs.shape == (n, len(WORLD.columns)) == (n, 3 + 2 * K)
    assert_allclose(obs[:, 3:], np.hstack([got, back]) / WORLD.window, rtol=1e-6)
    assert_array_equal(obs[:, 0], returned[:, -1])
    changed = users._replace(retention=1 - users.retention)
    assert_array_equal(observe(WORLD, changed.start, 0), run[0].view.obs)


def test_log_tells_what_happened() -> None:
    log = rollout(RandomPolicy(K), WORLD, 300, seed=5)
    assert isinstance(log, LoggedDataset)
    assert (log.n_users, log.horizon, log.n_actions) == (300, T, K)
    assert_array_equal(log.obs[:, 1:, 0], log.reward)
    assert_allclose(log.cost, log.obs[:, :-1, 0] * np.array(WORLD.incentives)[log.action])
    found = evaluate(RandomPolicy(K), WORLD, n_users=300, seeds=[5])
    assert (found.reward[0], found.cost[0]) == pytest.approx((log.value, log.spend))
    # A month's value is a sum over days: rewards that occur twice count twice.
    assert log.value == pytest.approx(log.reward.sum(axis=1).mean())
    assert log.value > 2


def brute_force(config: CouponConfig, users: Users, price: float, day: int = 0) -> Array:
    """(n, 2, L) values of being away or there, by recursion over single outcomes."""
    n, levels, doses = users.n, config.wear_levels, config.incentives
    if day == config.horizon:
        return np.zeros((n, 2, levels))
    after, value = brute_force(config, users, price, day + 1), np.empty((n, 2, levels))
    for i, there, w in product(range(n), (0, 1), range(levels)):
        options = []
        for k, dose in enumerate(doses):
            u = users.retention[i]
            p = u[0] + (u[k] - u[0]) * (1 - config.wear * w / (levels - 1)) if there else u.mean()
            level = 0.8 * w + 0.2 * (levels - 1) * there * dose / doses[-1]
            low = int(level)
            mix = [(low, 1 - level + low), (min(low + 1, levels - 1), level - low)]
            ahead = sum(q * (p * (1 + after[i, 1, v]) + (1 - p) * after[i, 0, v]) for v, q in mix)
            options.append(ahead - price * there * dose)
        value[i, there, w] = max(options)
    return value


@pytest.mark.parametrize("price", [0.0, 0.3, 1.0])
def test_plan_is_the_best_by_brute_force(price: float) -> None:
    users = sample_users(SMALL, 12, seed=6)
    value = brute_force(SMALL, users, price)
    wanted = value[np.arange(12), users.start.there.astype(int), users.start.wear]
    found = plan(SMALL, users, [price, np.inf])
    assert_allclose(found.reward[:, 0] - price * found.cost[:, 0], wanted)
    assert (found.cost[:, 1] == 0).all()


def followed(config: CouponConfig, found: Plan, users: Users, g: int, seeds: range) -> Array:
    """(seeds, 2) simulated reward and cost per user of the plan of one price."""
    policy = FollowPlan(config, found.action[:, g])
    outcomes = [[d.outcome for d in days(policy, config, users, seed)] for seed in seeds]
    return np.array(
        [[sum(getattr(o, x).mean() for o in run) for x in ("reward", "cost")] for run in outcomes]
    )


@pytest.mark.parametrize("config", [WORLD, PUBLISHED], ids=["repaired", "published"])
def test_plans_earn_and_cost_in_simulation_what_they_say(config: CouponConfig) -> None:
    users, seeds = sample_users(config, 500, seed=7), range(100, 112)
    found = plan(config, users, [0.5])
    simulated = followed(config, found, users, 0, seeds)
    exact = np.array([found.reward.mean(), found.cost.mean()])
    error = simulated.std(axis=0, ddof=1) / len(seeds) ** 0.5
    assert (abs(simulated.mean(axis=0) - exact) <= 4 * error).all()
    assert (error < 0.01 * exact + 0.01).all()


def test_no_policy_beats_the_bound() -> None:
    n, seeds, levels = 200, range(6), (0, 6, 20)
    constant = [evaluate(ConstantPolicy(k, K), WORLD, n_users=n, seeds=seeds) for k in levels]
    best = optimum(WORLD, [c.cost.mean() for c in constant], n_users=n, seeds=seeds)
    idle = constant[0]
    assert abs(idle.reward - best.idle).mean() < 0.05 * best.idle.mean()
    for i, c in enumerate(constant):
        gap = best.best[:, i] - c.reward
        assert gap.mean() >= -4 * gap.std(ddof=1) / len(seeds) ** 0.5
    assert 0 < score(constant[1], idle, best, 1)[0] < 80


def test_wear_is_what_makes_the_future_matter() -> None:
    """More wear, less to earn; and money that is dear is spent less."""
    users = sample_users(WORLD, 200, seed=8)
    prices = [0.2, 0.5, 1.0]
    worn, fresh = (curve(replace(WORLD, wear=w), users, prices) for w in (0.5, 0.0))
    assert (np.diff(worn.cost) >= 0).all()
    assert (worn.reward_at(10.0) < fresh.reward_at(10.0)).all()
    assert worn.reward[0] == pytest.approx(fresh.reward[0])


def test_environments_are_gymnasium_s() -> None:
    check_env(gym.make("marketing_env/Coupons-v0").unwrapped, skip_render_check=True)


def test_one_many_and_the_rollout_meet_the_same_users() -> None:
    n, seed = 6, 9
    log = rollout(RandomPolicy(K), WORLD, n, seed=seed)
    many = gym.make_vec("marketing_env/Coupons-v0", n, vectorization_mode="vector_entry_point")
    one = gym.make("marketing_env/Coupons-v0")
    for env, rows in ((many, slice(None)), (one, 0)):
        obs, info = env.reset(options={"campaign_seed": seed})
        assert_array_equal(info["cost"], np.zeros(n)[rows])
        for day in range(T):
            assert_array_equal(obs, log.obs[rows, day])
            obs, reward, over, _, info = env.step(log.action[rows, day].astype(np.int64))
            assert_array_equal(reward, log.reward[rows, day])
            assert_array_equal(info["cost"], log.cost[rows, day])
            assert np.all(over == (day == T - 1))
    first = many.unwrapped.campaign_seed
    obs, reward, over, _, _ = many.step(log.action[:, 0].astype(np.int64))
    assert many.unwrapped.campaign_seed != first
    assert not over.any()
    assert not reward.any()
    with pytest.raises(gym.error.ResetNeeded):
        one.unwrapped.step(np.int64(0))


def test_seeds_decide() -> None:
    many = gym.make_vec("marketing_env/Coupons-v0", 5, vectorization_mode="vector_entry_point")
    first, again, other = (many.reset(seed=seed)[0] for seed in (1, 1, 2))
    assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("change", "name"),
    [({"horizon": 0}, "horizon"), ({"incentives": (1.0, 0.5)}, "incentives"), ({"wear": 2}, "wear"),
     ({"wear_levels": 1}, "wear_levels"), ({"wear_memory": -1}, "wear_memory"),
     ({"window": 0}, "window")],
)  # fmt: skip
def test_impossible_worlds_are_refused(change: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} = "):
        CouponConfig(**change)  # type: ignore[arg-type]


def test_bad_calls_are_refused() -> None:
    many = gym.make_vec("marketing_env/Coupons-v0", 2, vectorization_mode="vector_entry_point")
    with pytest.raises(ValueError, match="no option 'user'"):
        many.reset(options={"user": 3})
    many.reset(seed=0)
    for actions in ([0, K], [-1, 0], [0], [0.0, 1.0]):
        with pytest.raises(ValueError, match="action = "):
            many.step(np.array(actions))
    with pytest.raises(ValueError, match="price"):
        plan(WORLD, sample_users(WORLD, 2), -1.0)
    with pytest.raises(ValueError, match="n = -1"):
        sample_users(WORLD, -1)
    assert marketing_env.PRESETS  # the package registers the environment when it is imported
