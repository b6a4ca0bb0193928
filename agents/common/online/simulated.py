"""What methods share that learn by simulating: G policies in one network, and their worth.

Which of the G a user follows, the network sees in G more columns. What the policies are worth is
measured on fresh users, whom neither logs nor judges meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.common.games.frontier import Frontier
from agents.common.nets import Track, mlp
from agents.common.types import Array
from agents.common.values.family import Memoryless, Sizes
from marketing_env import CampaignConfig, ConstantPolicy, Policy, evaluate

NEEDS_SIMULATOR = True

_SCALES, _MEASURED = 900_000_000, 1_000_000_000  # first seeds; judges and logs have small ones
_POPULATIONS = 10  # on which policies are measured


class Scales(NamedTuple):
    """Where a campaign's prices, budgets and rewards lie."""

    price: float  # the most that a unit of money earns when everyone gets the same
    spend: float  # per user, when everyone gets the largest incentive
    reward: float  # per user, when nobody gets any


def scales(campaign: CampaignConfig, seed: int, users: int = 4_000) -> Scales:
    """From one simulated campaign of each incentive, given to everyone every day.

    In each of the presets, the prices at which the optimum spends 5 to 60 % of what it would at no
    price lie between 1/25 and 4 times `Scales.price`.
    """
    k, seeds = campaign.n_actions, [_SCALES + seed]
    found = [evaluate(ConstantPolicy(a, k), campaign, n_users=users, seeds=seeds) for a in range(k)]
    reward, cost = (np.array([getattr(f, name)[0] for f in found]) for name in ("reward", "cost"))
    earned = (reward - reward[0])[1:] / np.maximum(cost[1:], 1e-12)
    return Scales(max(float(earned.max()), 1e-12), float(cost.max()), max(float(reward[0]), 1e-12))


class Heads:
    """The family of one network: G policies that take the likeliest incentive, G that draw it."""

    def __init__(self, net: nn.Sequential, n_heads: int) -> None:
        self.net, self.column = net, head_columns(n_heads)

    def policy(self, head: int) -> Policy:
        """Policy `head` follows head `head mod G`; the first G take the likeliest incentive."""
        repeat, row = divmod(head, len(self.column))

        def act(obs: Tensor, day: int) -> Tensor:
            seen = torch.cat([obs, self.column[row].expand(len(obs), -1)], dim=1)
            with torch.no_grad():
                logits = self.net(seen)
            if repeat:
                return logits.double().softmax(dim=1)
            return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1])

        return Memoryless(act)

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())


def rebuild(tensors: Mapping[str, Tensor], sizes: Sizes, width: int, n_heads: int) -> Heads:
    """The family whose `tensors` these are."""
    hidden = mlp(sizes.n_obs + n_heads, width, 2)
    net = nn.Sequential(*hidden, nn.Linear(width, sizes.n_actions))
    net.load_state_dict(dict(tensors))
    return Heads(net, n_heads)


def head_columns(n_heads: int) -> Tensor:
    """(G, G) what the network sees of each head; one number would bind neighbours together."""
    return torch.eye(n_heads)


def measured(
    campaign: CampaignConfig,
    policies: Sequence[Policy],
    price: Array,
    *,
    users: int,
    seed: int,
    risk: float,
    track: Track,
) -> Frontier:
    """What policies, and last giving nothing, are worth in simulation, all on the same users.

    There is no log whose policy could be compared; that part is NaN.

    Args:
        price: (G,) reward per currency, at which each policy stops spending.
        users: in all.
    """
    first = _MEASURED + _POPULATIONS * seed
    seeds, each = range(first, first + _POPULATIONS), max(users // _POPULATIONS, 1)
    idle = ConstantPolicy(0, campaign.n_actions)
    found = [evaluate(p, campaign, n_users=each, seeds=seeds) for p in (*policies, idle)]
    for g, f in enumerate(found):
        track("frontier/reward", float(f.reward.mean()), g)
        track("frontier/cost", float(f.cost.mean()), g)
    return Frontier(
        price=np.append(price, np.inf)[:, None],
        value=np.array([[f.reward.mean(), f.cost.mean()] for f in found]),
        error=np.array([[f.reward_error, f.cost_error] for f in found]),
        logged=np.full(2, np.nan),
        logged_error=np.full(2, np.nan),
        risk=risk,
    )


def sizes_of(campaign: CampaignConfig) -> Sizes:
    return Sizes(len(campaign.columns), campaign.n_actions, campaign.horizon)
