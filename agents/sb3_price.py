"""Stable-Baselines3's PPO and DQN at a price, with the simulator at hand: an online reference.

What is earned by trial and error instead of from a log? For each price lambda_g of a grid, the
learner maximises  r - lambda_g * c  on fresh users of the simulator, campaign after campaign; the
simulator also says what its policies are worth; and a linear program mixes at most two of them to
meet any budget (`games/frontier.py`):

    max_w  sum_g w_g R_g   s.t.  sum_g w_g C_g <= B,  sum_g w_g = 1,  w >= 0

Sources: Schulman et al., Proximal Policy Optimization Algorithms, arXiv 1707.06347; Mnih et al.,
Human-level control through deep reinforcement learning, Nature 518, 2015; Raffin et al.,
Stable-Baselines3, JMLR 22(268), 2021.

Differences from the papers:
1. One network answers all prices: a user follows one of them through the campaign, and the network
   sees which (`online/sb3_env.py`).
2. Campaigns end and the day is observed, so nothing is discounted; a rollout is a whole campaign.
3. Once trained, PPO's policies take the likeliest incentive: at a price, a draw earns no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from agents.common.bounds import check
from agents.common.nets import Track, no_track
from agents.common.online.simulated import Heads, measured, rebuild, scales, sizes_of
from agents.common.values.family import FamilyModel, Sizes, Verdict, load_family
from marketing_env import CampaignConfig

NEEDS_SIMULATOR = True


@dataclass(frozen=True)
class Config:
    """Settings of the learner; the defaults take minutes of one core on a month's campaign."""

    algorithm: Literal["ppo", "dqn"] = "ppo"
    prices: int = 8  # best responses between unconstrained and almost no spending
    campaigns: int = 150  # simulated to learn from
    users: int = 1_000  # fresh ones in every campaign, shared out among the prices
    epochs: int = 4  # PPO's passes over a campaign, or DQN's gradient steps a day
    learning_rate: float = 2e-3  # of the first step; it falls to 0 along a line
    gae: float = 0.7  # PPO's lambda: how far outcomes are trusted above the values learned so far
    width: int = 64  # of both hidden layers
    measured_on: int = 20_000  # fresh users who show what the policies are worth
    risk: float = 0.05  # accepted probability that a plan violates its budget
    progress: bool = True  # show a progress bar on a terminal

    def __post_init__(self) -> None:
        check(self)


def fit(
    campaign: CampaignConfig, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> FamilyModel:
    """Learn by simulating the campaign; one training serves every budget.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
    """
    from agents.common.online.sb3_env import PricedCampaigns, train_dqn, train_ppo

    c, size = config, scales(campaign, seed)
    price = np.append(0.0, size.price * np.geomspace(1 / 25, 4, c.prices - 1))
    env = PricedCampaigns(
        campaign, c.users, price, unit=size.price, scale=size.reward / campaign.horizon,
        track=track, progress=c.progress,
    )  # fmt: skip
    train = train_dqn if c.algorithm == "dqn" else partial(train_ppo, gae=c.gae)
    net = train(
        env, campaigns=c.campaigns, epochs=c.epochs, width=c.width, lr=c.learning_rate, seed=seed
    )
    env.close()
    heads = Heads(net, c.prices)
    frontier = measured(
        campaign, [heads.policy(g) for g in range(c.prices)], price, users=c.measured_on,
        seed=seed, risk=c.risk, track=track,
    )  # fmt: skip
    return FamilyModel("sb3_price", c, heads, Verdict(frontier), sizes_of(campaign))


def load(folder: str | Path) -> FamilyModel:
    """Read a model that its `save` wrote."""
    return load_family(folder, Config, _rebuild)


def _rebuild(config: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> Heads:
    return rebuild(tensors, sizes, config.width, config.prices)
