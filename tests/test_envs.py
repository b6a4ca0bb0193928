"""The environments keep Gymnasium's contract, and are one campaign in three forms."""

from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from marketing_env import (
    PRESETS,
    DayView,
    MixedPolicy,
    ProductionPolicy,
    RandomPolicy,
    dynamics,
    preset,
    rollout,
)
from marketing_env.config import Array, CampaignConfig
from marketing_env.envs import AudienceEnv, CampaignEnv, CampaignVectorEnv
from marketing_env.rollout import draw

ROOT = Path(__file__).resolve().parents[1]
IDS = ("marketing_env/Campaign-v0", "marketing_env/Audience-v0")


def actions(config: CampaignConfig, n: int, seed: int = 0) -> Array:
    """(T, n) random incentive levels."""
    return np.random.default_rng(seed).integers(config.n_actions, size=(config.horizon, n))


def play(env: gym.Env[Any, Any], plan: Array) -> list[Any]:
    """The (obs, reward, terminated, truncated, info) of each day."""
    return [env.step(action) for action in plan]


# Gymnasium's contract


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_accepts(env_id: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The observation is bounded in units that people read, not in [-1, 1].
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")
        check_env(gym.make(env_id, preset=name).unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_stable_baselines3_accepts(env_id: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # An audience is a table, which some of its networks want flattened.
        warnings.filterwarnings("ignore", message=".*unconventional shape.*")
        checker.check_env(gym.make(env_id, preset="toy"))


@pytest.mark.parametrize("env_id", IDS)
def test_same_seed_same_campaign(env_id: str) -> None:
    first, second = gym.make(env_id), gym.make(env_id)
    for env in (first, second):
        env.action_space.seed(1)
    a, b = first.reset(seed=7)[0], second.reset(seed=7)[0]
    assert_array_equal(a, b)
    for _ in range(30):
        x, y = (env.step(env.action_space.sample()) for env in (first, second))
        assert_array_equal(x[0], y[0])
        assert x[1:4] == y[1:4]
        assert_array_equal(x[4]["cost"], y[4]["cost"])
    assert not np.array_equal(a, first.reset()[0]), "a reset draws fresh users"
    assert_array_equal(a, first.reset(seed=7)[0])


def test_campaign_ends_on_its_last_day_with_its_whole_cost() -> None:
    env = CampaignEnv("food_coupons")
    _, info = env.reset(seed=0)
    assert info == {"cost": 0.0}
    days = play(env, actions(env.config, 1)[:, 0])
    assert [d[2] for d in days] == [False] * (env.config.horizon - 1) + [True]
    assert not any(d[3] for d in days)
    costs = [d[4]["cost"] for d in days]
    assert all(type(cost) is float and cost >= 0 for cost in costs)
    assert sum(costs) > 0
    assert days[-1][4]["episode_cost"] == pytest.approx(sum(costs))
    assert not any("episode_cost" in d[4] for d in days[:-1])
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.int64(0))


@pytest.mark.parametrize("make", [CampaignEnv, AudienceEnv])
def test_returned_arrays_are_never_reused(make: Any) -> None:
    env = make(preset="toy")
    seen = [env.reset(seed=0)[0]]
    kept = [seen[0].copy()]
    for _ in range(env.config.horizon):
        seen.append(env.step(env.action_space.sample())[0])
        kept.append(seen[-1].copy())
    assert_array_equal(seen, kept)
    assert not any(np.shares_memory(a, b) for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize("make", [CampaignEnv, CampaignVectorEnv, AudienceEnv])
def test_pickled_environment_goes_on_the_same(make: Any) -> None:
    env = make(preset="toy")
    env.reset(seed=3)
    action = env.action_space.sample()
    env.step(action)
    twin = pickle.loads(pickle.dumps(env))
    for _ in range(env.config.horizon - 1):
        ours, theirs = env.step(action), twin.step(action)
        assert_array_equal(ours[0], theirs[0])
        assert_array_equal(ours[1], theirs[1])
    assert_array_equal(env.reset()[0], twin.reset()[0])


def test_made_with_overrides() -> None:
    env = gym.make(IDS[0], preset="toy", horizon=2, incentives=(0.0, 1.0))
    assert env.action_space.n == 2  # type: ignore[attr-defined]
    env.reset(seed=0)
    assert [env.step(1)[2] for _ in range(2)] == [False, True]
    many = gym.make_vec(IDS[0], num_envs=3, preset="toy", n_features=5)
    assert many.observation_space.shape == (3, 5 + 6)
    config = preset("grocery", horizon=9)
    assert CampaignEnv(config=config, horizon=8).config == preset("grocery", horizon=8)


@pytest.mark.parametrize("make", [CampaignEnv, CampaignVectorEnv, AudienceEnv])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"horizn": 3}, "horizn"),
        ({"preset": "pyament_bonus"}, "pyament_bonus"),
        ({"horizon": 0}, r"horizon = 0"),
        ({"render_mode": "human"}, "human"),
    ],
)
def test_bad_arguments_are_named(make: Any, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**bad)


@pytest.mark.parametrize(("n_users", "budget"), [(0, 1.0), (5, -1.0), (5, math.nan)])
def test_bad_audience_is_named(n_users: int, budget: float) -> None:
    with pytest.raises(ValueError, match="allowed"):
        AudienceEnv(n_users, budget)


@pytest.mark.parametrize("bad", [-1, 6, 1.5, [1, 2]])
def test_bad_action_is_refused(bad: Any) -> None:
    env = CampaignEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(bad)


@pytest.mark.parametrize("bad", [[0, -1], [0, 6], [0], [[0, 1]]])
@pytest.mark.parametrize("make", [CampaignVectorEnv, AudienceEnv])
def test_bad_actions_are_refused(make: Any, bad: Any) -> None:
    env = make(2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(np.array(bad))


@pytest.mark.parametrize("make", [CampaignEnv, CampaignVectorEnv, AudienceEnv])
def test_bad_options_are_named(make: Any) -> None:
    with pytest.raises(ValueError, match="sed"):
        make(preset="toy").reset(options={"sed": 1})


def test_negative_user_is_refused() -> None:
    with pytest.raises(ValueError, match="user = -1"):
        CampaignEnv().reset(options={"user": -1})


def test_rendered_day_shows_the_state() -> None:
    env = gym.make(IDS[0], preset="toy", render_mode="ansi")
    env.reset(seed=0)
    env.step(1)
    assert str(env.render()).startswith("day 1/4: engagement ")
    assert CampaignEnv("toy").render() is None


def test_registration_is_cheap_and_complete() -> None:
    code = (
        "import sys, gymnasium, marketing_env\n"
        "spec = gymnasium.spec('marketing_env/Campaign-v0')\n"
        "assert isinstance(spec.entry_point, str) and isinstance(spec.vector_entry_point, str)\n"
        "assert not spec.kwargs\n"
        "assert 'marketing_env.envs' not in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
        "gymnasium.make('marketing_env/Audience-v0')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


# The vector environment


def test_vector_entry_point_is_the_default() -> None:
    env = gym.make_vec(IDS[0], num_envs=4)
    assert isinstance(env.unwrapped, CampaignVectorEnv)
    assert env.num_envs == 4
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert_array_equal(info["cost"], np.zeros(4))


def test_vector_environment_resets_itself_on_the_next_step() -> None:
    env = CampaignVectorEnv(3, "toy")
    first, _ = env.reset(seed=0)
    for day in range(env.config.horizon):
        _, reward, terminated, truncated, info = env.step(np.full(3, 2))
        assert reward.shape == info["cost"].shape == (3,)
        assert info["_cost"].all()
        assert_array_equal(terminated, np.full(3, day == env.config.horizon - 1))
        assert not truncated.any()
    assert info["episode_cost"].shape == info["_episode_cost"].shape == (3,)
    again, reward, terminated, truncated, info = env.step(np.full(3, 2))
    assert_array_equal(reward, np.zeros(3))
    assert_array_equal(info["cost"], np.zeros(3))
    assert not (terminated | truncated).any()
    assert not np.array_equal(again, first)
    assert_allclose(again[:, env.config.columns.index("progress")], 0)


def test_vector_environment_truncates() -> None:
    env = gym.make_vec(IDS[0], num_envs=2, preset="toy", max_episode_steps=2)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, int))[2:4] for _ in range(2)]
    assert [(t.any(), u.any()) for t, u in ends] == [(False, False), (False, True)]


def test_vector_environment_names_its_autoreset() -> None:
    if hasattr(gym.vector, "AutoresetMode"):
        mode = gym.vector.AutoresetMode.NEXT_STEP
        assert CampaignVectorEnv.metadata["autoreset_mode"] is mode


# One campaign in three forms


@pytest.mark.parametrize("name", PRESETS)
def test_teleport(name: str) -> None:
    """Vector environment, single environments and audience agree, state by state."""
    config, n, seed = preset(name), 6, 11
    plan = actions(config, n)
    many, audience = CampaignVectorEnv(n, name), AudienceEnv(n, preset=name)
    singles = [CampaignEnv(name) for _ in range(n)]
    start = [e.reset(options={"campaign_seed": seed, "user": i})[0] for i, e in enumerate(singles)]
    for env in (many, audience):
        assert_array_equal(env.reset(options={"campaign_seed": seed})[0], start)
    for action in plan:
        ones = [env.step(a) for env, a in zip(singles, action, strict=True)]
        obs, reward, terminated, _, info = many.step(action)
        assert_array_equal(obs, [o[0] for o in ones])
        assert_array_equal(np.transpose(many.state), [env.state for env in singles])
        assert_allclose(reward, [o[1] for o in ones], rtol=1e-12)
        assert_allclose(info["cost"], [o[4]["cost"] for o in ones], rtol=1e-12)
        assert_array_equal(terminated, [o[2] for o in ones])
        shared, mean, over, _, audience_info = audience.step(action)
        assert_array_equal(shared, obs)
        assert mean == pytest.approx(reward.mean())
        assert audience_info["cost"] == pytest.approx(info["cost"].mean())
        assert over == terminated.all()


def mixed(config: CampaignConfig) -> MixedPolicy:
    return MixedPolicy([RandomPolicy(config.n_actions), ProductionPolicy(config)], [0.3, 0.7])


def test_vector_environment_is_the_rollout() -> None:
    config, n, seed = preset("food_coupons"), 50, 4
    log = rollout(mixed(config), config, n, seed)
    env = CampaignVectorEnv(n, config=config)
    obs, _ = env.reset(options={"campaign_seed": seed})
    for day in range(config.horizon):
        assert_array_equal(obs, log.obs[:, day])
        obs, reward, _, _, info = env.step(log.action[:, day])
        assert_allclose(reward, log.reward[:, day], rtol=1e-12)
        assert_allclose(info["cost"], log.cost[:, day], rtol=1e-12)
    assert_array_equal(obs, log.obs[:, -1])


@pytest.mark.parametrize("budget", [0.0, 0.8, 5.0, math.inf])
def test_audience_is_the_rollout_under_its_budget(budget: float) -> None:
    config, n, seed = preset("food_coupons"), 40, 5
    policy = mixed(config)
    log = rollout(policy, config, n, seed, budget=budget)
    env = AudienceEnv(n, budget, config=config)
    env.reset(options={"campaign_seed": seed})
    for day in range(config.horizon):
        view: DayView = env.view
        assert_array_equal(view.obs, log.obs[:, day])
        luck = dynamics.luck(seed, day, n)[:, dynamics.CHOOSE]
        wanted = draw(policy.probs(view), luck)
        _, reward, _, _, info = env.step(wanted)
        assert_array_equal(np.where(info["refused"], 0, wanted), log.action[:, day])
        assert reward == pytest.approx(log.reward[:, day].mean())
        assert info["cost"] == pytest.approx(log.cost[:, day].mean())
    assert info["episode_cost"] == pytest.approx(log.spend)


@settings(max_examples=60, deadline=None)
@given(
    budget=st.floats(0, 20),
    seed=st.integers(0, 2**32),
    name=st.sampled_from(["payment_bonus", "food_coupons"]),
    n=st.integers(1, 30),
)
def test_audience_never_overspends(budget: float, seed: int, name: str, n: int) -> None:
    env = AudienceEnv(n, budget, name, horizon=8)
    _, info = env.reset(seed=seed)
    assert info["remaining_budget"] == pytest.approx(budget)
    assert not info["refused"].any()
    spent = 0.0
    for action in actions(env.config, n, seed):
        before = env.money
        info = env.step(action)[4]
        spent += info["cost"]
        offered = env.config.face_values[np.where(info["refused"], 0, action)]
        assert offered.sum() <= before, "offers are reserved at face value"
        assert info["remaining_budget"] == pytest.approx(budget - spent, abs=1e-9)
        assert not (info["refused"] & (action == 0)).any()
    assert spent <= budget * (1 + 1e-12)


def test_remaining_budget_refuses_offers() -> None:
    env = AudienceEnv(20, budget=0.5)
    env.reset(seed=0)
    refused = [env.step(np.full(20, 5))[4]["refused"].sum() for _ in range(env.config.horizon)]
    assert refused[0] == 18, "two offers of 5 fit into 20 * 0.5"
    assert env.money >= 0
