"""PPO-Lagrangian: proximal policy optimisation whose price follows the measured spending.

The simulator is at hand: an online reference. For each budget B_g of a grid, PPO maximises
r - lambda_g * c  while the dual variable climbs when its users overspend and falls when money is
left. After every campaign, of which the users of budget B_g spent C_g each on average,

    log lambda_g  <-  log lambda_g + dual_rate * clip(C_g / B_g - 1, -1, 1)

One training serves every budget: the budgets of the grid share a network that sees which of them a
user follows, the simulator says what each policy is worth, and a linear program mixes two of them
for any budget between (`games/frontier.py`).

Sources: Ray, Achiam & Amodei, Benchmarking Safe Exploration in Deep Reinforcement Learning, 2019;
Schulman et al., Proximal Policy Optimization Algorithms, arXiv 1707.06347; Raffin et al.,
Stable-Baselines3, JMLR 22(268), 2021.

Differences from the papers:
1. All budgets are learned at once, by one network and one dual variable for each of them.
2. One critic for  r - lambda * c  instead of one for rewards and one for costs: it lags behind a
   dual variable that moves fast, hence a slow `dual_rate`.
3. The dual variable climbs along its logarithm and in shares of the budget, so that one rate serves
   every currency; there it is the softplus of a parameter that Adam moves.
4. Once trained, each policy is measured as it is and with its likeliest incentives only, and the
   mixture keeps the budget, whatever the last dual variable was.
5. Campaigns end and the day is observed, so nothing is discounted; a rollout is a whole campaign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from agents.common.bounds import check
from agents.common.nets import Track, no_track
from agents.common.online.simulated import Heads, measured, rebuild, scales, sizes_of
from agents.common.types import Array
from agents.common.values.family import FamilyModel, Sizes, Verdict, load_family
from marketing_env import CampaignConfig

NEEDS_SIMULATOR = True

# Shares of what the largest incentive costs, given to everyone every day.
_SHARES = (0.02, 0.035, 0.06, 0.1, 0.17, 0.28, 0.45, 0.7)


@dataclass(frozen=True)
class Config:
    """Settings of the learner; the defaults take minutes of one core on a month's campaign."""

    budgets: Sequence[float] | None = None  # currency per user to learn for; None: eight shares
    campaigns: int = 150  # simulated to learn from
    users: int = 1_000  # fresh ones in every campaign, shared out among the budgets
    dual_rate: float = 0.1  # of the dual variables' logarithms, per campaign
    epochs: int = 4  # passes over a campaign
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

    Raises:
        ValueError: if a budget to learn for is not above 0.
    """
    from agents.common.online.sb3_env import PricedCampaigns, train_ppo

    c, size = config, scales(campaign, seed)
    budget = np.array(_SHARES) * size.spend if c.budgets is None else np.array(c.budgets)
    if not ((budget > 0) & np.isfinite(budget)).all():
        raise ValueError(f"budgets = {budget.tolist()}: allowed are finite numbers above 0")

    def climb(price: Array, spent: Array) -> Array:
        return price * np.exp(c.dual_rate * np.clip(spent / budget - 1, -1, 1))

    env = PricedCampaigns(
        campaign, c.users, np.full(len(budget), size.price), unit=size.price,
        scale=size.reward / campaign.horizon, adjust=climb, track=track, progress=c.progress,
    )  # fmt: skip
    net = train_ppo(
        env, campaigns=c.campaigns, epochs=c.epochs, width=c.width, lr=c.learning_rate, gae=c.gae,
        seed=seed,
    )  # fmt: skip
    env.close()
    heads = Heads(net, len(budget))
    frontier = measured(
        campaign, [heads.policy(g) for g in range(2 * len(budget))], np.tile(env.price, 2),
        users=c.measured_on, seed=seed, risk=c.risk, track=track,
    )  # fmt: skip
    return FamilyModel("ppo_lagrangian", c, heads, Verdict(frontier), sizes_of(campaign))


def load(folder: str | Path) -> FamilyModel:
    """Read a model that its `save` wrote."""
    return load_family(folder, Config, _rebuild)


def _rebuild(config: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> Heads:
    n_heads = len(_SHARES if config.budgets is None else config.budgets)
    return rebuild(tensors, sizes, config.width, n_heads)
