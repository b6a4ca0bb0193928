"""The campaign as Gymnasium environments: one user, many independent users, one audience.

All three are bookkeeping around `dynamics.step` and `dynamics.observe`. The last day of the
campaign is `terminated`, for the horizon is finite and the day is in the observation. Money is
in `info["cost"]`, which is there after every step and after `reset`.

A campaign seed names a population and its luck, so `reset(options={"campaign_seed": s})` meets
the very users and chances of `rollout(policy, config, n, seed=s)`.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from marketing_env import dynamics, presets
from marketing_env.config import Array, CampaignConfig, override
from marketing_env.policy import DayView
from marketing_env.rollout import serve
from marketing_env.users import sample_users

Info = dict[str, Any]

# Gymnasium 1.0 always resets on the next step and has no name for it.
_AUTORESET = (
    {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
    if hasattr(gym.vector, "AutoresetMode")
    else {}
)


class CampaignEnv(gym.Env[Array, np.int64]):
    """One user of a campaign; a step is a day, an action an incentive level.

    `reset` draws a fresh user. `reset(options={"campaign_seed": s, "user": i})` replays the i-th
    user of campaign s (default 0), at a cost that grows with i. `info["cost"]` is what the day
    cost in currency; the last step also has `info["episode_cost"]`.

    Args:
        preset: name of a campaign; ignored if `config` is given.
        overrides: constants of the campaign to change (`CampaignConfig`).

    Raises:
        ValueError: for an unknown preset, constant or option, and for an action off the list.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 (Gymnasium's type)

    def __init__(
        self,
        preset: str = "payment_bonus",
        *,
        config: CampaignConfig | None = None,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        self.config = _configured(preset, config, overrides)
        self.observation_space = _observation_space(self.config)
        self.action_space = spaces.Discrete(self.config.n_actions)
        self.render_mode = _known_mode(render_mode, self.metadata)
        self.day = self.config.horizon

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, Info]:
        super().reset(seed=seed)
        self.campaign_seed = _campaign_seed(self.np_random, options, also=("user",))
        self.row = int((options or {}).get("user", 0))
        if self.row < 0:
            raise ValueError(f"option user = {self.row}: allowed is 0 or more")
        self.user = sample_users(self.config, self.row + 1, self.campaign_seed).take(self.row)
        self.day, self.state, self.paid = 0, self.user.start, 0.0
        return self._observe(), {"cost": 0.0}

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, Info]:
        _check_day(self.day, self.config)
        offer = _levels(action, self.config, shape=())
        chance = dynamics.luck(self.campaign_seed, self.day, self.row + 1)[self.row]
        outcome = dynamics.step(self.config, self.user, self.state, offer, self.day, chance)
        cost = float(outcome.cost)
        self.day, self.state, self.paid = self.day + 1, outcome.state, self.paid + cost
        over, info = self.day == self.config.horizon, {"cost": cost}
        if over:
            info["episode_cost"] = self.paid
        return self._observe(), float(outcome.reward), over, False, info

    def render(self) -> str | None:  # type: ignore[override]
        if self.render_mode is None:
            return None
        tops = (levels - 1 for levels in self.config.shape)
        levels = zip(self.state._fields, self.state, tops, strict=True)
        state = ", ".join(f"{name} {int(level)}/{top}" for name, level, top in levels)
        return f"day {self.day}/{self.config.horizon}: {state}; paid so far {self.paid:.2f}"

    def _observe(self) -> Array:
        return dynamics.observe(self.config, self.user, self.state, self.day)


class CampaignVectorEnv(gym.vector.VectorEnv[Array, Array, Array]):
    """`num_envs` independent users of one campaign in numpy: `gymnasium.make_vec` of Campaign-v0.

    User i meets what `CampaignEnv` meets as user i of the same campaign seed. All campaigns end
    together; the step after that ignores its actions and starts the next campaign with fresh
    users (next-step autoreset).

    Args:
        max_episode_steps: days after which an unfinished campaign is truncated.
    """

    metadata: dict[str, Any] = {"render_modes": [], **_AUTORESET}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        preset: str = "payment_bonus",
        *,
        config: CampaignConfig | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        self.config = _configured(preset, config, overrides)
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps or self.config.horizon
        self.render_mode = _known_mode(render_mode, self.metadata)
        self.single_observation_space = _observation_space(self.config)
        self.single_action_space = spaces.Discrete(self.config.n_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, Info]:
        super().reset(seed=seed)
        self.campaign_seed = _campaign_seed(self.np_random, options)
        self.users = sample_users(self.config, self.num_envs, self.campaign_seed)
        self.day, self.state, self.over = 0, self.users.start, False
        self.paid = np.zeros(self.num_envs)
        return self._observe(), self._info(cost=self.paid.copy())

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, Info]:
        if self.over:
            obs, info = self.reset()
            return obs, np.zeros(self.num_envs), self._all(False), self._all(False), info
        offers = _levels(actions, self.config, shape=(self.num_envs,))
        chance = dynamics.luck(self.campaign_seed, self.day, self.num_envs)
        outcome = dynamics.step(self.config, self.users, self.state, offers, self.day, chance)
        self.day, self.state, self.paid = self.day + 1, outcome.state, self.paid + outcome.cost
        terminated = self.day >= self.config.horizon
        truncated = self.day >= self.max_episode_steps and not terminated
        self.over = terminated or truncated
        info = self._info(cost=outcome.cost)
        if self.over:
            info |= self._info(episode_cost=self.paid)
        return self._observe(), outcome.reward, self._all(terminated), self._all(truncated), info

    def _observe(self) -> Array:
        return dynamics.observe(self.config, self.users, self.state, self.day)

    def _info(self, **values: Array) -> Info:
        return values | {f"_{name}": self._all(True) for name in values}

    def _all(self, flag: bool) -> Array:
        return np.full(self.num_envs, flag)


class AudienceEnv(gym.Env[Array, Array]):
    """Everyone at once under one hard budget; a step is a day of the whole audience.

    An offer is made only if its face value can be reserved (`rollout.reserve`), what is not
    redeemed is released at night, so `n_users * budget` can never be overspent. The law is that
    of `rollout(policy, config, n_users, seed, budget=budget)`.

    The reward is the mean over users, so that a campaign's return is its value per user.
    `info` holds `cost` and `remaining_budget` (currency per user) and `refused` ((n,) bool: the
    offer could not be paid, level 0 was given instead); the last step also has `episode_cost`.

    Args:
        budget: currency per user of the campaign.

    Raises:
        ValueError: as `CampaignEnv`, and for a negative budget or fewer than one user.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        n_users: int = 100,
        budget: float = math.inf,
        preset: str = "payment_bonus",
        *,
        config: CampaignConfig | None = None,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        if n_users < 1 or not budget >= 0:
            raise ValueError(f"n_users = {n_users}, budget = {budget}: allowed is >= 1 and >= 0")
        self.config = _configured(preset, config, overrides)
        self.n_users, self.budget = n_users, budget
        self.observation_space = batch_space(_observation_space(self.config), n_users)
        self.action_space = spaces.MultiDiscrete([self.config.n_actions] * n_users)
        self.render_mode = _known_mode(render_mode, self.metadata)
        self.day = self.config.horizon

    @property
    def view(self) -> DayView:
        """This morning as a policy sees it."""
        obs = dynamics.observe(self.config, self.users, self.state, self.day)
        return DayView(obs, self.users.bucket, self.day, self.money / self.n_users)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, Info]:
        super().reset(seed=seed)
        self.campaign_seed = _campaign_seed(self.np_random, options)
        self.users = sample_users(self.config, self.n_users, self.campaign_seed)
        self.day, self.state, self.paid = 0, self.users.start, 0.0
        self.money = self.budget * self.n_users
        return self.view.obs, self._info(0.0, np.zeros(self.n_users, dtype=bool))

    def step(self, action: Array) -> tuple[Array, float, bool, bool, Info]:
        _check_day(self.day, self.config)
        wanted = _levels(action, self.config, shape=(self.n_users,))
        chance = dynamics.luck(self.campaign_seed, self.day, self.n_users)
        refused, outcome = serve(
            self.config, self.users, self.state, wanted, self.day, chance, self.money
        )
        cost = float(outcome.cost.sum())
        self.day, self.state, self.money = self.day + 1, outcome.state, self.money - cost
        self.paid += cost / self.n_users
        over, info = self.day == self.config.horizon, self._info(cost / self.n_users, refused)
        if over:
            info["episode_cost"] = self.paid
        return self.view.obs, float(outcome.reward.mean()), over, False, info

    def _info(self, cost: float, refused: Array) -> Info:
        left = self.money / self.n_users
        return {"cost": cost, "refused": refused, "remaining_budget": left}


def _configured(
    preset: str, config: CampaignConfig | None, overrides: dict[str, Any]
) -> CampaignConfig:
    return override(config, **overrides) if config else presets.preset(preset, **overrides)


def _observation_space(config: CampaignConfig) -> spaces.Box:
    low, high = dynamics.observation_bounds(config)
    return spaces.Box(low, high, dtype=np.float32)


def _campaign_seed(
    rng: np.random.Generator, options: dict[str, Any] | None, also: tuple[str, ...] = ()
) -> int:
    """The seed that the options ask for, or a fresh one."""
    options, known = options or {}, ("campaign_seed", *also)
    for name in options:
        if name not in known:
            raise ValueError(f"reset has no option {name!r}; it has {', '.join(known)}")
    return int(options["campaign_seed"] if "campaign_seed" in options else rng.integers(2**63))


def _levels(action: Any, config: CampaignConfig, shape: tuple[int, ...]) -> Array:
    """The action as integers; a negative one would silently mean the largest incentive."""
    if shape == () and isinstance(action, int | np.integer) and 0 <= action < config.n_actions:
        return action  # type: ignore[return-value]  # the short way of the single environment
    levels = np.asarray(action)
    if levels.shape != shape or levels.dtype.kind not in "iu":
        raise ValueError(f"action = {action!r}: allowed are integers of shape {shape}")
    if levels.size and not 0 <= levels.min() <= levels.max() < config.n_actions:
        raise ValueError(f"action = {action!r}: allowed is 0 to {config.n_actions - 1}")
    return levels


def _check_day(day: int, config: CampaignConfig) -> None:
    if day >= config.horizon:
        raise gym.error.ResetNeeded("the campaign is over or not begun: call reset")


def _known_mode(render_mode: str | None, metadata: dict[str, Any]) -> str | None:
    if render_mode is not None and render_mode not in metadata["render_modes"]:
        allowed = [None, *metadata["render_modes"]]
        raise ValueError(f"render_mode = {render_mode!r}: allowed is one of {allowed}")
    return render_mode
