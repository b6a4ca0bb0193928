"""One day loop: honest propensities, a budget that holds, and luck that ignores the policy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from marketing_env import (
    PRESETS,
    ConstantPolicy,
    DayView,
    MixedPolicy,
    Policy,
    ProductionPolicy,
    RandomPolicy,
    dynamics,
    preset,
    rollout,
    rollout_parts,
    sample_users,
)
from marketing_env.config import Array
from marketing_env.rollout import days, draw, reserve, rollout_part, turn_order

CONFIG = preset("payment_bonus", horizon=6)
K = CONFIG.n_actions
BEHAVIOURS: dict[str, Policy] = {
    "random": RandomPolicy(K),
    "production": ProductionPolicy(CONFIG),
    "mixed": MixedPolicy([RandomPolicy(K), ProductionPolicy(CONFIG, 0.5)], [0.4, 0.6]),
}


@pytest.mark.parametrize("name", PRESETS)
def test_log_tells_the_campaign(name: str) -> None:
    config = preset(name)
    log = rollout(RandomPolicy(config.n_actions), config, 30, seed=1)
    assert (log.n_users, log.horizon, log.n_actions) == (30, config.horizon, config.n_actions)
    assert log.columns == config.columns
    assert log.valid.all()
    assert_allclose(log.propensity, 1 / config.n_actions)
    assert_array_equal(log.bucket, sample_users(config, 30, 1).bucket)
    assert log.meta["incentives"] == list(config.incentives)
    assert log.meta["reward_unit"] == config.unit
    assert log.meta["refused"] == 0


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_propensities_are_those_of_the_policy(name: str) -> None:
    policy, log = BEHAVIOURS[name], rollout(BEHAVIOURS[name], CONFIG, 200, seed=2)
    for day in range(log.horizon):
        view = DayView(log.obs[:, day], log.bucket, day, math.inf)
        chosen = policy.probs(view)[np.arange(200), log.action[:, day]]
        assert_allclose(log.propensity[:, day], chosen, rtol=1e-12)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_actions_are_as_frequent_as_their_propensity_says(name: str) -> None:
    """Each action's frequency on each day, and inverse propensities that count to one."""
    policy, n = BEHAVIOURS[name], 20_000
    for day in days(policy, CONFIG, sample_users(CONFIG, n, 3), seed=3):
        probs = policy.probs(day.view)
        taken = np.eye(K)[day.action]
        error = np.sqrt((probs * (1 - probs)).sum(axis=0)) + 1e-9
        assert (np.abs((taken - probs).sum(axis=0)) <= 4.5 * error).all()
        weight = taken / day.propensity[:, None]
        assert (np.abs(weight.mean(axis=0) - 1) <= 4.5 * weight.std(axis=0) / math.sqrt(n)).all()


def test_draws_use_each_action_by_its_share() -> None:
    u = (np.arange(1_000) + 0.5) / 1_000
    shares = np.array([0.2, 0.0, 0.5, 0.3])
    counts = np.bincount(draw(np.tile(shares, (1_000, 1)), u), minlength=4)
    assert_array_equal(counts, 1_000 * shares)


def test_a_row_that_sums_to_less_than_one_draws_its_last_possible_action() -> None:
    probs = np.array([[0.5, 0.5 - 1e-9, 0.0], [0.0, 1.0, 0.0]])
    assert_array_equal(draw(probs, np.array([1 - 1e-12, 0.0])), [1, 1])


def test_luck_belongs_to_the_campaign() -> None:
    """Two policies that agree until day 3 live the same campaign until then."""

    class Late(ConstantPolicy):
        def probs(self, view: DayView) -> Array:
            level = 0 if view.day < 3 else self.action
            return ConstantPolicy(level, self.n_actions).probs(view)

    none, late = (rollout(p, CONFIG, 50, 4) for p in (ConstantPolicy(0, K), Late(5, K)))
    assert_array_equal(none.obs[:, :4], late.obs[:, :4])
    assert_array_equal(none.reward[:, :3], late.reward[:, :3])
    assert (late.reward[:, 3] >= none.reward[:, 3]).all(), "money only ever adds activity today"
    assert late.reward[:, 3].sum() > none.reward[:, 3].sum()


def test_more_users_leave_the_first_ones_alone() -> None:
    small, large = (rollout(ProductionPolicy(CONFIG), CONFIG, n, 5) for n in (20, 60))
    for name in ("obs", "action", "propensity", "reward", "cost", "bucket"):
        assert_array_equal(getattr(small, name), getattr(large, name)[:20])


def test_every_seed_has_as_many_users() -> None:
    users = sample_users(CONFIG, 9, seed=0)
    with pytest.raises(ValueError, match="9 users, 2 seeds"):
        next(days(RandomPolicy(K), CONFIG, users, seed=(0, 1)))


def test_seeds_differ_and_repeat() -> None:
    logs = [rollout(RandomPolicy(K), CONFIG, 20, seed) for seed in (0, 0, 1)]
    assert_array_equal(logs[0].obs, logs[1].obs)
    assert not np.array_equal(logs[0].action, logs[2].action)


def test_given_users_take_part() -> None:
    users = sample_users(CONFIG, 9, seed=8).take(slice(4, 9))
    log = rollout(RandomPolicy(K), CONFIG, seed=1, users=users)
    assert_array_equal(log.bucket, users.bucket)


@settings(max_examples=60, deadline=None)
@given(
    budget=st.floats(0, 15),
    seed=st.integers(0, 2**32),
    name=st.sampled_from(["payment_bonus", "short_video_coins", "food_coupons"]),
    n=st.integers(1, 40),
)
def test_budget_holds(budget: float, seed: int, name: str, n: int) -> None:
    config = preset(name, horizon=5)
    users, money = sample_users(config, n, seed), budget * n
    for day in days(RandomPolicy(config.n_actions), config, users, seed, budget):
        assert day.view.remaining_budget * n == pytest.approx(money)
        assert config.face_values[day.action].sum() <= money * (1 + 1e-12)
        assert not (day.refused & (day.action > 0)).any()
        money -= day.cost.sum()
    assert money >= -1e-9


def test_money_is_used_before_offers_are_refused() -> None:
    users = sample_users(CONFIG, 30)
    free, ample = (
        list(days(ConstantPolicy(5, K), CONFIG, users, 1, b)) for b in (math.inf, 30 * 6)
    )
    for a, b in zip(free, ample, strict=True):
        assert_array_equal(a.cost, b.cost)
        assert not b.refused.any()
    assert not rollout(ConstantPolicy(5, K), CONFIG, 30, budget=0.0).cost.any()
    money, refusals = 2.0 * 30, 0
    for day in days(ConstantPolicy(5, K), CONFIG, users, 1, budget=2.0):
        refusals += day.refused.sum()
        assert not day.refused.any() or CONFIG.face_values[day.action].sum() + 5 > money
        money -= day.cost.sum()
    assert refusals > 0


@given(
    action=st.lists(st.integers(0, K - 1), min_size=1, max_size=12),
    money=st.floats(0, 30),
    seed=st.integers(0, 99),
)
def test_offers_are_reserved_in_order(action: list[int], money: float, seed: int) -> None:
    wanted, order = np.array(action), np.random.default_rng(seed).random(len(action))
    refused = reserve(CONFIG, wanted, money, order)
    left, open_ = money, True
    for i in np.argsort(order):
        face = CONFIG.incentives[action[i]]
        open_ = open_ and face <= left
        assert refused[i] == (face > 0 and not open_)
        left -= face if open_ else 0


def test_nobody_is_always_served_last() -> None:
    bucket = sample_users(CONFIG, 50).bucket
    orders = np.array([np.argsort(np.argsort(turn_order(bucket, day))) for day in range(30)])
    assert ((turn_order(bucket, 3) >= 0) & (turn_order(bucket, 3) < 1)).all()
    assert (orders.min(axis=0) < 10).all()
    assert (orders.max(axis=0) >= 40).all()


@pytest.mark.parametrize("budget", [-1.0, math.nan])
def test_bad_budget_is_named(budget: float) -> None:
    with pytest.raises(ValueError, match="budget"):
        rollout(RandomPolicy(K), CONFIG, 3, budget=budget)


def test_bad_policy_is_named() -> None:
    with pytest.raises(ValueError, match=r"policy\.probs has shape"):
        rollout(RandomPolicy(K + 1), CONFIG, 3)


def test_policy_sees_what_the_environment_shows() -> None:
    """The day, the observation and the bucket are those of the campaign; nothing else is there."""
    users = sample_users(CONFIG, 10, seed=6)
    run = list(days(RandomPolicy(K), CONFIG, users, seed=6))
    state = users.start
    for t, day in enumerate(run):
        assert day.view._fields == ("obs", "bucket", "day", "remaining_budget")
        assert day.view.day == t
        assert day.view.remaining_budget == math.inf
        assert_array_equal(day.view.obs, dynamics.observe(CONFIG, users, state, t))
        state = day.state


def test_parts_are_users_and_luck_of_their_own() -> None:
    parts = list(rollout_parts(RandomPolicy(K), CONFIG, 50, seed=3, part=20))
    assert [log.n_users for log in parts] == [20, 20, 10]
    buckets = np.concatenate([log.bucket for log in parts])
    assert len(np.unique(buckets)) == 50
    again = list(rollout_parts(RandomPolicy(K), CONFIG, 50, seed=3, part=20))
    assert_array_equal(parts[1].reward, again[1].reward)
    one = rollout_part(RandomPolicy(K), CONFIG, 50, 3, 2, part=20)
    assert_array_equal(one.obs, parts[2].obs)
    with pytest.raises(ValueError, match="number = 3: allowed is 0 to 2"):
        rollout_part(RandomPolicy(K), CONFIG, 50, 3, 3, part=20)
    assert not np.isin(rollout(RandomPolicy(K), CONFIG, 50, seed=3).bucket, buckets).any()
