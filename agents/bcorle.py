"""BCORLE(lambda): batch-constrained Q-learning whose network takes the price of money as an input.

One network Q(s, a, lambda) learns at all prices at once the value of  r - lambda * c  under its own
greedy policy, kept to incentives that the log supports:

    y = r - lambda c + Q'(s', argmax_{a' supported} Q(s', a', lambda), lambda)

Each step draws a price for every row (lambda-generalisation). Q has several heads, and each step
trains a random convex mixture of them (random ensemble mixture, REM); the policy acts on their
mean. A budget is met by the dual price: prices of a grid are evaluated offline, on users from whom
the network did not learn, and the mixture of the two policies around the budget is followed.

Sources: Zhang et al., BCORLE(lambda): An Offline Reinforcement Learning and Evaluation Framework
for Coupons Allocation in E-commerce Market, NeurIPS 2021, with the authors' code ZSCDumin/BCORLE;
Agarwal et al., An Optimistic Perspective on Offline Reinforcement Learning, ICML 2020 (REM);
Fujimoto et al., Benchmarking Batch Deep Reinforcement Learning Algorithms, arXiv 1910.01708 (BCQ).

Differences from the paper:
1. Campaigns end and the day is observed: no discount, and no value after the last day.
2. The grid of prices is chosen from the log, geometric in spending, instead of 0, .05, .., 1;
   values are learned in the unit 1 / (1 + lambda / middle price), so that all prices weigh alike.
3. The imitation head is a network of its own with an absolute threshold (`values/support.py`): with
   a share of the likeliest incentive's probability, rare but honest exploration would not count.
4. The target network's values are of the action that the learning one prefers (Double DQN); heads
   are dueling. The loss is the square: Huber's takes the mean of rare large rewards for less.
5. Offline evaluation is fitted Q evaluation on held-out users (`values/family.py`) instead of
   the REM estimator on the training log, and a mixture of two prices instead of one price meets
   the budget exactly in expectation.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from agents.common import files
from agents.common.bounds import check
from agents.common.nets import (
    Track,
    calendar,
    minimise,
    mlp,
    moments,
    no_track,
    seeded,
    standardised,
)
from agents.common.tensors import Panel, panel
from agents.common.values.family import (
    FamilyModel,
    Memoryless,
    Sizes,
    load_family,
    sizes_of,
    with_judge,
)
from agents.common.values.support import Support, fit_support, load_support
from marketing_env import LoggedDataset, Policy

METHOD = "bcorle"
_ROWS = 8192  # user-days at once where nothing is learned


@dataclass(frozen=True)
class Config:
    """Settings of the learner; the defaults serve logs of 5,000 to 500,000 users."""

    prices: int = 14  # of the grid, from unconstrained to almost no spending
    heads: int = 10  # of the random ensemble mixture
    width: int = 128  # of both hidden layers
    steps: int = 6000  # gradient steps
    batch: int = 1024  # user-days per step
    learning_rate: float = 2e-3  # the largest of a cycle
    tau: float = 0.01  # share of the learning network in each update of the target
    least_support: float = 0.01  # logging probability below which an incentive is not chosen
    judge_share: float = 0.3  # of users, kept from the learner to evaluate its policies
    outcome_epochs: float = 8.0  # passes over their log for the outcome model of the evaluation
    risk: float = 0.05  # accepted probability that a plan violates its budget
    progress: bool = True  # show progress bars on a terminal

    def __post_init__(self) -> None:
        check(self)


class PricedQ(nn.Module):
    """Q(s, a, lambda) of every incentive, by heads; in the unit 1 / (1 + lambda / middle)."""

    mean: Tensor  # of the inputs
    scale: Tensor
    price: Tensor  # (G,) the grid
    middle: Tensor  # price at which money and reward weigh alike
    unit: Tensor  # of the reward

    def __init__(self, sizes: Sizes, n_prices: int, width: int, heads: int) -> None:
        super().__init__()
        self.sizes, n_in = sizes, sizes.n_obs + 3
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("scale", torch.ones(n_in))
        self.register_buffer("price", torch.zeros(n_prices))
        self.register_buffer("middle", torch.ones(()))
        self.register_buffer("unit", torch.ones(()))
        self.trunk = mlp(n_in + 2, width, 2)
        self.value = nn.Linear(width, heads)
        self.advantage = nn.Linear(width, sizes.n_actions * heads)

    def forward(self, obs: Tensor, day: Tensor, price: Tensor) -> Tensor:
        """(n, K, H)"""
        x = standardised(obs, day, self.sizes.horizon, self.mean, self.scale)
        relative = price / self.middle
        asked = torch.stack([relative / (1 + relative), torch.log1p(relative)], dim=-1)
        h = self.trunk(torch.cat([x, asked], dim=-1))
        advantage = self.advantage(h).unflatten(-1, (self.sizes.n_actions, -1))
        return self.value(h)[:, None] + advantage - advantage.mean(1, keepdim=True)

    def net_reward(self, reward: Tensor, cost: Tensor, price: Tensor) -> Tensor:
        """r - lambda c in the unit of Q."""
        return (reward - price * cost) / (self.unit * (1 + price / self.middle))


class Priced:
    """The greedy policies of a grid of prices."""

    def __init__(self, net: PricedQ, support: Support | None) -> None:
        self.net, self.support = net, support

    @torch.no_grad()
    def act(self, obs: Tensor, day: int, head: int) -> Tensor:
        """(n, K) one-hot best supported incentives at a price of the grid."""
        n = len(obs)
        q = self.net(obs, torch.full((n,), day), self.net.price[head].expand(n)).mean(-1)
        if self.support is not None:
            q = q.masked_fill(~self.support.allowed(obs, day), -torch.inf)
        return nn.functional.one_hot(q.argmax(1), q.shape[1])

    def probabilities(self, obs: Tensor, user: Tensor, day: int) -> Tensor:
        """(n, K, G)"""
        heads = range(len(self.net.price))
        return torch.stack([self.act(obs, day, head) for head in heads], dim=-1)

    def policy(self, head: int) -> Policy:
        return Memoryless(partial(self.act, head=head))

    def tensors(self) -> dict[str, Tensor]:
        support = {} if self.support is None else files.prefixed("support", self.support)
        return support | files.prefixed("net", self.net)


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> FamilyModel:
    """Learn from a log alone; one training serves every budget.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
    """
    learn, judge = with_judge(log, config, seed, track)
    data = panel(learn)
    support = fit_support(learn, data, least=config.least_support, seed=seed, track=track)
    prices = judge.prices(config.prices, support and support.allowed)
    net = _initial(data, sizes_of(learn), prices[:-1, 0], config, seed)
    family = Priced(_learned(net, data, support, config, seed, track), support)
    verdict = judge.verdict(family.probabilities, prices, config.risk)
    return FamilyModel(METHOD, config, family, verdict, sizes_of(learn))


def load(folder: str | Path) -> FamilyModel:
    """Read a model that its `save` wrote."""
    return load_family(folder, Config, _rebuild)


def _rebuild(config: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> Priced:
    state = files.under("net", tensors)
    net = PricedQ(sizes, len(state["price"]), config.width, config.heads)
    net.load_state_dict(state)
    support = load_support(tensors, *sizes, config.least_support)
    return Priced(net.requires_grad_(False), support)


def _initial(data: Panel, sizes: Sizes, price: Tensor, config: Config, seed: int) -> PricedQ:
    """A network whose buffers are read off the log."""
    with seeded(seed):
        net = PricedQ(sizes, len(price), config.width, config.heads)
    rows = data.user_days()
    obs, day = data.mornings(rows)
    x = torch.cat([obs, calendar(day, data.horizon)], dim=-1)
    net.mean, net.scale = moments(x)
    net.price, positive = price, price[price > 0]
    net.middle = positive.median() if len(positive) else torch.ones(())
    total = torch.where(data.valid, data.reward, 0).sum(1)
    net.unit = total.std(correction=0).clamp(min=1e-6)
    return net


def _learned(
    net: PricedQ,
    data: Panel,
    support: Support | None,
    config: Config,
    seed: int,
    track: Track,
) -> PricedQ:
    """Q-learning on the transitions between a user's valid days."""
    generator = torch.Generator().manual_seed(seed)
    target, flat = deepcopy(net).requires_grad_(False), data.user_days()
    users = flat // data.horizon
    ends = torch.cat([users[1:] != users[:-1], torch.ones(1, dtype=torch.bool)])
    allowed = _supported(support, data, flat)

    def loss(rows: Tensor) -> Tensor:
        price = net.price[torch.randint(len(net.price), rows.shape, generator=generator)]
        share = torch.rand(config.heads, generator=generator)
        share = share / share.sum()
        logged, at = data.happened(flat[rows]), torch.arange(len(rows))
        now = net.net_reward(logged.reward, logged.cost, price)
        with torch.no_grad():
            after = (rows + 1) % len(flat)
            state = *data.mornings(flat[after]), price
            best = net(*state).mean(-1).masked_fill(~allowed[after], -torch.inf).argmax(1)
            later = torch.where(ends[rows], 0, target(*state)[at, best] @ share)
        q = net(*data.mornings(flat[rows]), price)[at, logged.action] @ share
        return (q - now - later).square().mean()

    @torch.no_grad()
    def on_step(step: int, value: Tensor) -> None:
        for old, new in zip(target.parameters(), net.parameters(), strict=True):
            old.lerp_(new, config.tau)
        if step % 50 == 0 or step == config.steps - 1:
            track("q/loss", float(value), step)

    minimise(
        net.parameters(), loss, torch.arange(len(flat)), steps=config.steps, batch=config.batch,
        lr=config.learning_rate, generator=generator, on_step=on_step,
        progress="priced Q" if config.progress else None,
    )  # fmt: skip
    return net.requires_grad_(False)


def _supported(support: Support | None, data: Panel, rows: Tensor) -> Tensor:
    """(N, K) bool"""
    if support is None:
        return torch.ones(len(rows), data.n_actions, dtype=torch.bool)
    return torch.cat([support.allowed(*data.mornings(some)) for some in rows.split(_ROWS)])
