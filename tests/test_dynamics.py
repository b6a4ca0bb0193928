"""The physics: its means are those of its draws, and it broadcasts without leaving the grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from marketing_env import PRESETS, State, Users, dynamics, preset, sample_users
from marketing_env.config import Array, CampaignConfig, Spread

# Offers of both kinds, and every constant away from the value that would hide it.
WORLDS = {
    "amount": preset("short_video_coins", basket_lift=0.4),
    "percent": preset("food_coupons", basket_cap=15.0, basket_engagement=0.5),
}
ALMOST_ONE = 1 - 2**-53


def all_states(config: CampaignConfig) -> State:
    """Every state of the grid, (S,) each."""
    return State(*(axis.ravel() for axis in np.indices(config.shape)))


def draw_states(config: CampaignConfig, n: int, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    return State(*(rng.integers(levels, size=n) for levels in config.shape))


def column(users: Users) -> Users:
    """The users as a column, (n, 1) each, to meet a row of states."""
    names = [name for name in users._fields if name not in ("features", "start", "bucket")]
    return users._replace(**{name: getattr(users, name)[:, None] for name in names})


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("day", [0, 5])
def test_expected_is_the_mean_of_step(world: str, day: int) -> None:
    config, copies, n = WORLDS[world], 40_000, 6
    users, state = sample_users(config, n, seed=1), draw_states(config, n)
    action = np.arange(n) % config.n_actions
    active, reward, cost = dynamics.expected(config, users, state, action, day)
    rows = np.repeat(np.arange(n), copies)
    crowd, crowd_state = users.take(rows), State(*(level[rows] for level in state))
    luck = dynamics.luck(seed=2, day=day, n=n * copies)
    outcome = dynamics.step(config, crowd, crowd_state, action[rows], day, luck)
    for truth, draws in [
        (active, outcome.active),
        (active * reward, outcome.reward),
        (active * cost, outcome.cost),
    ]:
        samples = np.reshape(draws, (n, copies)).astype(float)
        error = samples.std(axis=1) / math.sqrt(copies)
        assert (np.abs(samples.mean(axis=1) - truth) <= 4.5 * error).all()


@pytest.mark.parametrize("world", WORLDS)
def test_drift_is_the_mean_of_the_next_state(world: str) -> None:
    config, copies, n = WORLDS[world], 20_000, 8
    state, action = draw_states(config, n, seed=3), np.arange(n) % config.n_actions
    rows = np.repeat(np.arange(n), copies)
    crowd = sample_users(config, n, seed=4).take(rows)
    start = State(*(level[rows] for level in state))
    luck = dynamics.luck(seed=5, day=1, n=n * copies)
    outcome = dynamics.step(config, crowd, start, action[rows], 1, luck)
    moved = dynamics.drift(config, start, action[rows], outcome.active)
    for truth, level in zip(moved, outcome.state, strict=True):
        gap = (level - truth).reshape(n, copies)
        assert (np.abs(gap) < 1).all()
        assert (np.abs(gap.mean(axis=1)) <= 4.5 * 0.5 / math.sqrt(copies)).all()


@pytest.mark.parametrize("name", PRESETS)
def test_users_and_grids_broadcast_alike(name: str) -> None:
    config = preset(name)
    users, states = sample_users(config, 5, seed=6), all_states(config)
    actions = np.arange(config.n_actions)[:, None, None]
    grid = dynamics.expected(config, column(users), states, actions, day=3)
    for action in range(config.n_actions):
        for s in range(0, len(states.fatigue), 7):
            here = State(*(np.full(5, level[s]) for level in states))
            row = dynamics.expected(config, users, here, np.full(5, action), day=3)
            for ours, theirs in zip(row, grid, strict=True):
                whole = np.broadcast_to(theirs, grid[0].shape)
                assert_allclose(ours, whole[action, :, s], rtol=1e-13)


@pytest.mark.parametrize("name", PRESETS)
def test_scalars_and_arrays_step_alike(name: str) -> None:
    config, n = preset(name), 12
    users, state, action = sample_users(config, n), draw_states(config, n), np.arange(n)
    action %= config.n_actions
    luck = dynamics.luck(seed=1, day=2, n=n)
    many = dynamics.step(config, users, state, action, 2, luck)
    for i in range(n):
        here = State(*(level[i] for level in state))
        one = dynamics.step(config, users.take(i), here, action[i], 2, luck[i])
        assert_array_equal(one.state, [level[i] for level in many.state])
        assert_allclose(one[:4], [part[i] for part in many[:4]], rtol=1e-13)
        row = dynamics.observe(config, users, state, 2)[i]
        assert_array_equal(dynamics.observe(config, users.take(i), here, 2), row)


def test_first_users_do_not_depend_on_the_number_of_users() -> None:
    assert_array_equal(dynamics.luck(3, 1, 4), dynamics.luck(3, 1, 9)[:4])
    config = preset("toy")
    small, large = sample_users(config, 4, 3), sample_users(config, 9, 3).take(slice(4))
    for ours, theirs in zip(small, large, strict=True):
        assert_array_equal(ours, theirs)


def test_luck_differs_between_days_and_campaigns() -> None:
    draws = [dynamics.luck(seed, day, 3) for seed in (0, 1) for day in (0, 1)]
    assert len({draw.tobytes() for draw in draws}) == 4
    assert all(((draw >= 0) & (draw < 1)).all() for draw in draws)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("last", [False, True])
def test_observation_shows_the_state(name: str, last: bool) -> None:
    config = preset(name)
    states, day = all_states(config), config.horizon * last
    users = sample_users(config, len(states.fatigue), seed=2)
    obs = dynamics.observe(config, users, states, day)
    assert obs.shape == (users.n, len(config.columns))
    assert obs.dtype == np.float32
    for ours, theirs in zip(dynamics.levels(config, obs), states, strict=True):
        assert_array_equal(ours, theirs)
    low, high = dynamics.observation_bounds(config)
    assert ((obs >= low) & (obs <= high)).all()
    assert_allclose(obs[:, config.columns.index("progress")], day / config.horizon, rtol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("act", [0.0, ALMOST_ONE])
@pytest.mark.parametrize("rounding", [0.0, 0.5, ALMOST_ONE])
def test_every_step_stays_on_the_grid(name: str, act: float, rounding: float) -> None:
    config = preset(name)
    states = State(*(level[:, None] for level in all_states(config)))
    luck = np.full(6, rounding)
    luck[dynamics.ACTIVE] = act
    users = sample_users(config, 1)
    after = dynamics.step(config, users, states, np.arange(config.n_actions), 0, luck).state
    for level, levels in zip(after, config.shape, strict=True):
        assert 0 <= level.min() <= level.max() < levels
        assert level.dtype.kind == "i"


@pytest.mark.parametrize("name", PRESETS)
def test_step_never_costs_more_than_the_face_value(name: str) -> None:
    config, n = preset(name), 20_000
    users, state = sample_users(config, n), draw_states(config, n)
    action = np.random.default_rng(0).integers(config.n_actions, size=n)
    outcome = dynamics.step(config, users, state, action, 0, dynamics.luck(0, 0, n))
    assert ((outcome.cost >= 0) & (outcome.cost <= config.face_values[action])).all()
    assert not outcome.cost[action == 0].any()
    assert not (outcome.redeemed & ~outcome.active).any()
    assert_array_equal(outcome.cost > 0, outcome.redeemed)
    assert_array_equal(outcome.reward > 0, outcome.active)


def answer(config: CampaignConfig, state: tuple[int, int, int], action: int = 0) -> Array:
    """Probability of activity of one user."""
    here = State(*(np.array([level]) for level in state))
    users = sample_users(config, 1, seed=3)
    return dynamics.response(config, users, here, np.array([action]), day=0).active[0]


def test_response_has_the_signs_that_marketers_know() -> None:
    config = preset("payment_bonus")
    by_dose = [answer(config, (2, 2, 0), k) for k in range(config.n_actions)]
    assert (np.diff(by_dose) > 0).all(), "more money, more activity"
    slopes = np.diff(by_dose) / np.diff(config.doses)
    assert slopes[-1] < slopes[0], "saturation"
    assert answer(config, (8, 2, 0)) > answer(config, (0, 2, 0)), "habit"
    assert answer(config, (2, 5, 0)) > answer(config, (2, 0, 0)), "need"
    assert answer(config, (2, 2, 4)) < answer(config, (2, 2, 0)), "drag"
    lift = [answer(config, (2, 2, f), 5) - answer(config, (2, 2, f)) for f in (0, 4)]
    assert lift[1] < lift[0], "fatigue"


def test_basket_quantiles_have_mean_one() -> None:
    config = preset("grocery", basket=Spread(1.0, 0.0))
    assert config.basket_quantiles.mean() == pytest.approx(1)
    assert (np.diff(config.basket_quantiles) > 0).all()
    assert_allclose(preset("toy").basket_quantiles, 1)
