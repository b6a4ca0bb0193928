"""The daily coupons of `bcorle` as Gymnasium environments: one user, many users.

A step is a day, an action the level of the bonus that a user gets if there; who is away gets none
and pays nothing, whatever the action. The reward is 1 if the user is back on the next morning. The
last day is `terminated`; money is in `info["cost"]`, which is there after `reset` too.

A seed names a population and its luck, so `reset(options={"campaign_seed": s})` meets the very
users and chances of `bcorle.rollout(policy, config, n, seed=s)`.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from marketing_env.bcorle import CouponConfig, observe, sample_users, step
from marketing_env.config import Array
from marketing_env.dynamics import luck
from marketing_env.envs import CampaignVectorEnv

Info = dict[str, Any]


class CouponsVectorEnv(gym.vector.VectorEnv[Array, Array, Array]):
    """`num_envs` independent users in numpy: `gymnasium.make_vec` of Coupons-v0.

    All months end together; the step after that ignores its actions and starts the next month
    with fresh users (next-step autoreset).

    Args:
        overrides: constants of the world to change (`CouponConfig`), if `config` is not given.

    Raises:
        ValueError: for an unknown option of `reset`, and for an action off the list.
    """

    metadata = CampaignVectorEnv.metadata

    def __init__(
        self, num_envs: int = 1, *, config: CouponConfig | None = None, **overrides: Any
    ) -> None:
        self.config = config or CouponConfig(**overrides)
        self.num_envs = num_envs
        width = len(self.config.columns)
        self.single_observation_space = spaces.Box(0.0, 1.0, (width,), np.float32)
        self.single_action_space = spaces.Discrete(self.config.n_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.day = self.config.horizon

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, Info]:
        super().reset(seed=seed)
        options = options or {}
        if unknown := set(options) - {"campaign_seed"}:
            raise ValueError(f"reset has no option {min(unknown)!r}; it has campaign_seed")
        drawn = self.np_random.integers(2**63)
        self.campaign_seed = int(options.get("campaign_seed", drawn))
        self.users = sample_users(self.config, self.num_envs, self.campaign_seed)
        self.day, self.state = 0, self.users.start
        return observe(self.config, self.state, 0), self._info(np.zeros(self.num_envs))

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, Info]:
        never = np.zeros(self.num_envs, dtype=bool)
        if self.day == self.config.horizon:
            obs, info = self.reset()
            return obs, np.zeros(self.num_envs), never, never, info
        actions = np.asarray(actions)
        if actions.dtype.kind not in "iu" or not self.action_space.contains(actions):
            raise ValueError(
                f"action = {actions!r}: allowed are {self.num_envs} whole numbers,"
                f" 0 to {self.config.n_actions - 1}"
            )
        chance = luck(self.campaign_seed, self.day, self.num_envs)
        outcome = step(self.config, self.users, self.state, actions, chance)
        self.day, self.state = self.day + 1, outcome.state
        obs, over = observe(self.config, self.state, self.day), self.day == self.config.horizon
        return obs, outcome.reward, never | over, never, self._info(outcome.cost)

    def _info(self, cost: Array) -> Info:
        return {"cost": cost, "_cost": np.ones(self.num_envs, dtype=bool)}


class CouponsEnv(gym.Env[Array, np.int64]):
    """One user: the vector environment of one. `reset` draws a fresh user."""

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's type)

    def __init__(self, *, config: CouponConfig | None = None, **overrides: Any) -> None:
        self.one = CouponsVectorEnv(1, config=config, **overrides)
        self.config = self.one.config
        self.observation_space = self.one.single_observation_space
        self.action_space = self.one.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, Info]:
        super().reset(seed=seed)
        obs, info = self.one.reset(seed=seed, options=options)
        return obs[0], {"cost": float(info["cost"][0])}

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, Info]:
        if self.one.day == self.config.horizon:
            raise gym.error.ResetNeeded("the month is over or not begun: call reset")
        obs, reward, over, _, info = self.one.step(np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(over[0]), False, {"cost": float(info["cost"][0])}
