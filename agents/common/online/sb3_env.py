"""Campaigns at prices as Stable-Baselines3 sees them, and its learners on them.

One network learns a policy for each of G prices at once: a user follows one head g through the
campaign, sees which one in G more columns, and earns of every day

    (reward - lambda_g * cost) / (1 + lambda_g / unit) / scale

Dividing by the price keeps dear heads from shouting down cheap ones; no best response depends on
it. The horizon is finite and the day is observed, so nothing is discounted.

Stable-Baselines3 draws from the global generators of Python and numpy, which it seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from torch import nn
from tqdm import tqdm

from agents.common.nets import Track, no_track, seeded
from agents.common.online.simulated import head_columns
from agents.common.types import Array
from marketing_env import CampaignConfig

try:
    from stable_baselines3 import DQN, PPO
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    needed = "stable-baselines3 is not installed: pip install 'marketing-env[sb3]'"
    raise ImportError(needed) from error

NEEDS_SIMULATOR = True

Adjust = Callable[[Array, Array], Array]
"""New prices (G,) from those of a campaign and what its users spent, (G,) means per head."""


class PricedCampaigns(VecEnv):
    """Users of `marketing_env/Campaign-v0` in numpy; each campaign has fresh ones.

    User i follows head i mod G.

    Args:
        price: (G,) reward per currency.
        unit: price at which reward and cost weigh about the same.
        scale: size of a day's reward.
        adjust: moves the prices after every campaign; None keeps them.

    Raises:
        ValueError: if there are fewer users than prices.
    """

    def __init__(
        self,
        config: CampaignConfig,
        users: int,
        price: Array,
        *,
        unit: float = 1.0,
        scale: float = 1.0,
        adjust: Adjust | None = None,
        track: Track = no_track,
        progress: bool = False,
    ) -> None:
        if users < len(price):
            raise ValueError(f"users = {users}: allowed is {len(price)} or more, one for each head")
        self.campaigns = gym.make_vec(
            "marketing_env/Campaign-v0", users, vectorization_mode="vector_entry_point",
            config=config,
        )  # fmt: skip
        self.config, self.price, self.unit, self.scale = config, price, unit, scale
        self.adjust, self.track = adjust, track
        self.bar = tqdm(desc="simulated campaigns", disable=None if progress else True)
        self.head = np.arange(users) % len(price)
        self.column = head_columns(len(price)).numpy()[self.head]
        self.totals, self.played = np.zeros((2, users)), 0
        box = self.campaigns.single_observation_space
        assert isinstance(box, spaces.Box)
        none, one = np.zeros_like(self.column[0]), np.ones_like(self.column[0])
        seen = spaces.Box(np.append(box.low, none), np.append(box.high, one), dtype=np.float32)
        super().__init__(users, seen, self.campaigns.single_action_space)

    def reset(self) -> Array:
        obs, _ = self.campaigns.reset(seed=self._seeds[0])
        self._reset_seeds()
        self.totals[:] = 0
        return self._seen(obs)

    def step_async(self, actions: Array) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        obs, reward, over, _, info = self.campaigns.step(self.actions)
        price, cost = self.price[self.head], info["cost"]
        self.totals += reward, cost
        net = (reward - price * cost) / (1 + price / self.unit) / self.scale
        infos: list[dict[str, Any]] = [{} for _ in self.head]
        if over.all():  # users begin and end together
            infos = [{"terminal_observation": last} for last in self._seen(obs)]
            self._finish()
            obs, _ = self.campaigns.reset()
        return self._seen(obs), net.astype(np.float32), over, infos

    def close(self) -> None:
        self.bar.close()
        self.campaigns.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.campaigns, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("users have no attributes of their own")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kw: Any) -> list[Any]:
        raise NotImplementedError("users have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def _finish(self) -> None:
        """Report what the users of each head earned and cost, and move the prices."""
        heads = range(len(self.price))
        reward, cost = np.array([self.totals[:, self.head == g].mean(axis=1) for g in heads]).T
        for g in heads:
            self.track(f"reward/head_{g}", float(reward[g]), self.played)
            self.track(f"cost/head_{g}", float(cost[g]), self.played)
            self.track(f"price/head_{g}", float(self.price[g]), self.played)
        if self.adjust is not None:
            self.price = self.adjust(self.price, cost)
        self.totals[:] = 0
        self.played += 1
        self.bar.update()

    def _seen(self, obs: Array) -> Array:
        return np.hstack([obs, self.column])


def train_ppo(
    env: PricedCampaigns, *, campaigns: int, epochs: int, width: int, lr: float, gae: float,
    seed: int,
) -> nn.Sequential:  # fmt: skip
    """Proximal policy optimisation; a rollout is a whole campaign. Returns the policy's logits.

    The learning rate falls to 0 along a line.
    """
    days = env.config.horizon
    with seeded(seed):
        agent = PPO(
            "MlpPolicy", env, learning_rate=lambda left: left * lr, n_steps=days,
            batch_size=env.num_envs, n_epochs=epochs, gamma=1.0, gae_lambda=gae, seed=seed,
            policy_kwargs=_networks([width, width]), device="cpu",
        )  # fmt: skip
        agent.learn(campaigns * days * env.num_envs)
    return nn.Sequential(*agent.policy.mlp_extractor.policy_net, agent.policy.action_net)


def train_dqn(
    env: PricedCampaigns, *, campaigns: int, epochs: int, width: int, lr: float, seed: int
) -> nn.Sequential:
    """Deep Q-network, `epochs` gradient steps a day. Returns the values of the incentives.

    Each copy to the target network carries values one day further back; there are two a campaign.
    """
    days = env.config.horizon
    with seeded(seed):
        agent = DQN(
            "MlpPolicy", env, learning_rate=lambda left: left * lr, batch_size=env.num_envs,
            buffer_size=20 * days * env.num_envs, learning_starts=days * env.num_envs,
            train_freq=1, gradient_steps=epochs, gamma=1.0, exploration_fraction=0.3, seed=seed,
            target_update_interval=max(days // 2, 1) * env.num_envs,
            policy_kwargs=_networks([width, width]), device="cpu",
        )  # fmt: skip
        agent.learn(campaigns * days * env.num_envs)
    return nn.Sequential(*agent.q_net.q_net)


def _networks(layers: list[int]) -> dict[str, Any]:
    """As `Heads.rebuild` makes them; PPO has one for the policy and one for values."""
    return {"net_arch": layers, "activation_fn": nn.SiLU}
