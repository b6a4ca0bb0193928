"""Budgeted fitted Q iteration: values for every budget a user may be granted.

An augmented action (a, b) gives incentive a today and grants the budget b for all days after. For
every b of a grid, backward from the last day, with m = (reward, cost) of the day,

    Q[t](s, a, b) = E[ m + V[t+1](s', b) | s, a ]
    V[t](s, b)    = the point of cost b on the upper hull of { (Q_c, Q_r)(s, a', b') : all a', b' }

A point between two vertices of the hull is the mixture of their two augmented actions whose
expected cost is b: the best that randomised choices can earn for a budget. The hull is that of one
state; at each transition the budget that was granted goes along.

Sources: Carrara et al., Budgeted Reinforcement Learning in Continuous State Space, NeurIPS 2019,
with the authors' code eleurent/rl-agents; Boutilier & Lu, Budget Allocation using Weakly Coupled,
Constrained Markov Decision Processes, UAI 2016, for many users.

Differences from the papers:
1. One network per day answers the whole grid of budgets by heads, where the source takes the budget
   as an input and resets its network every iteration; the hulls are taken on the same grid there.
2. Finite horizon without discount; the outcome of the logged day is integrated out
   (`values/factored_q.py`), and cross-fitted members choose on hulls that others value.
3. Many users share one budget. Rather than grant every user the same, all stop where a further unit
   of money earns lambda: at the vertex of their hull with that slope, max_{a,b} Q_r - lambda Q_c
   (Boutilier & Lu). Every morning budgets are split anew by the same rule, so that no account is
   kept of any user.
4. What each lambda spends is evaluated on held-out users (`values/family.py`), and at most two are
   mixed for a budget, instead of trusting Q_c.
5. Incentives that the log never tried in a state are not chosen (`values/support.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from agents.common import files
from agents.common.bounds import check
from agents.common.nets import Schedule, Track, no_track
from agents.common.tensors import Panel, panel
from agents.common.values.factored_q import FactoredMember
from agents.common.values.family import (
    FamilyModel,
    Memoryless,
    Sizes,
    load_family,
    sizes_of,
    with_judge,
)
from agents.common.values.fitted_q import ActionValues, Lesson, backward_pass
from agents.common.values.response import fit_members
from agents.common.values.support import Support, fit_support, load_support
from marketing_env import LoggedDataset, Policy

METHOD = "budgeted_fitted_q"


@dataclass(frozen=True)
class Config:
    """Settings of the learner; the defaults serve logs of 5,000 to 100,000 users."""

    budgets: int = 10  # of the grid: 0, then geometric up to more than anybody can use
    prices: int = 14  # marginal returns at which policies stop spending
    folds: int = 2  # cross-fitted members
    width: int = 128  # of every hidden layer
    outcome_epochs: float = 8.0  # passes over the log for the outcome models
    steps: int = 150  # gradient steps per day and member for the values
    batch: int = 2048  # users per step
    pooled: int = 20_000  # most transitions of other days that teach each day, four for a user
    learning_rate: float = 2e-3  # of the values
    least_support: float = 0.01  # logging probability below which an incentive is not chosen
    judge_share: float = 0.3  # of users, kept from the learner to evaluate its policies
    risk: float = 0.05  # accepted probability that a plan violates its budget
    progress: bool = True  # show progress bars on a terminal

    def __post_init__(self) -> None:
        check(self)


class Augmented:
    """Values of augmented actions, (a, b) at column a * G + b, under every granted budget."""

    def __init__(self, member: FactoredMember) -> None:
        self.member = member

    def learn(self, lesson: Lesson, day: int) -> float | None:
        return self.member.learn(lesson, day)

    def q(self, obs: Tensor, day: int, head: int | None = None) -> Tensor:
        """(n, K * G, D, G): the same under every budget that an action is chosen at."""
        q = self.member.q(obs, day)
        flat = q.movedim(-1, 2).flatten(1, 2)
        return flat[..., None].expand(*flat.shape, q.shape[-1])


def hull_mixture(value: Tensor, budgets: Tensor, allowed: Tensor | None = None) -> Tensor:
    """(n, P, G) how often each of P points is chosen at each budget: at most two of them.

    The mixture has the highest expected reward among those whose expected cost is within the
    budget; where even the cheapest point costs more, it is chosen.

    Args:
        value: (n, P, 2) reward and cost of each point.
        allowed: (n, P) bool, at least one in a row.
    """
    reward, cost = value.unbind(-1)
    if allowed is not None:
        reward = reward.masked_fill(~allowed, -torch.inf)
        cost = cost.masked_fill(~allowed, torch.inf)
    cheapest = cost == cost.amin(1, keepdim=True)
    at = reward.masked_fill(~cheapest, -torch.inf).argmax(1, keepdim=True)
    low = high = at.expand(-1, len(budgets))
    share = torch.zeros(len(value), len(budgets), dtype=value.dtype)
    while True:
        dearer, better = cost - cost.gather(1, at), reward - reward.gather(1, at)
        rises = (dearer > 0) & (better > 0)
        if not rises.any():
            break
        slope = torch.where(rises, better / dearer, -torch.inf)
        following = torch.where(rises.any(1, keepdim=True), slope.argmax(1, keepdim=True), at)
        # The segment from this vertex of the hull to the next serves the budgets above its start.
        start, step = cost.gather(1, at), dearer.gather(1, following)
        here = (budgets > start) & (step > 0)
        low, high = torch.where(here, at, low), torch.where(here, following, high)
        along = ((budgets - start) / step.clamp(min=1e-30)).clamp(0, 1)
        share, at = torch.where(here, along, share), following
    chosen = torch.zeros(*reward.shape, len(budgets), dtype=value.dtype)
    chosen.scatter_add_(1, low[:, None], 1 - share[:, None])
    return chosen.scatter_add_(1, high[:, None], share[:, None])


class Budgeted:
    """The policies that spend until a further unit of money earns less than a price."""

    def __init__(
        self, members: Sequence[FactoredMember], prices: Tensor, support: Support | None
    ) -> None:
        """prices: (G,)"""
        self.members, self.prices, self.support = list(members), prices, support
        self.values = ActionValues(self.members)

    @torch.no_grad()
    def probabilities(self, obs: Tensor, user: Tensor, day: int) -> Tensor:
        """(n, K, G) one-hot incentives of the vertices at each price."""
        reward, cost = self.values.mean(obs, day).unbind(2)
        allowed = None if self.support is None else self.support.allowed(obs, day)
        best = []
        for price in self.prices:
            merit = (reward - price * cost).amax(-1)
            if allowed is not None:
                merit = merit.masked_fill(~allowed, -torch.inf)
            best.append(nn.functional.one_hot(merit.argmax(1), merit.shape[1]))
        return torch.stack(best, dim=-1)

    def policy(self, head: int) -> Policy:
        one = Budgeted(self.members, self.prices[[head]], self.support)
        return Memoryless(partial(_only, one))

    def tensors(self) -> dict[str, Tensor]:
        tensors = {"prices": self.prices}
        for e, member in enumerate(self.members):
            tensors |= {f"member.{e}.{k}": v for k, v in member.state().items()}
        return tensors | ({} if self.support is None else files.prefixed("support", self.support))


def _only(family: Budgeted, obs: Tensor, day: int) -> Tensor:
    return family.probabilities(obs, torch.empty(0), day)[..., 0]


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
    members = _learned(data, support, config, seed, track)
    family = Budgeted(members, prices[:-1, 0], support)
    verdict = judge.verdict(family.probabilities, prices, config.risk)
    return FamilyModel(METHOD, config, family, verdict, sizes_of(learn))


def load(folder: str | Path) -> FamilyModel:
    """Read a model that its `save` wrote."""
    return load_family(folder, Config, _rebuild)


def _rebuild(config: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> Budgeted:
    members = [
        FactoredMember.rebuild(files.under(f"member.{e}", tensors), sizes.horizon)
        for e in range(config.folds)
    ]
    return Budgeted(members, tensors["prices"], load_support(tensors, *sizes, config.least_support))


def _learned(
    data: Panel, support: Support | None, config: Config, seed: int, track: Track
) -> list[FactoredMember]:
    """One pass backwards over the log, for all granted budgets at once."""
    fold = torch.randperm(data.n_users, generator=torch.Generator().manual_seed(seed))
    fold = fold % config.folds
    budgets, uses = _budget_grid(data, config.budgets), torch.zeros(data.n_actions, 0)
    outcomes = fit_members(
        data, fold, config.folds, seed=seed, width=config.width, epochs=config.outcome_epochs,
        track=track, progress=config.progress,
    )  # fmt: skip
    schedule = Schedule(config.steps, config.batch, config.learning_rate)
    members = [
        FactoredMember(
            o, uses, len(budgets), width=config.width, schedule=schedule, seed=seed * 1000 + f
        )
        for f, o in enumerate(outcomes)
    ]

    def choose(q: Tensor, obs: Tensor, user: Tensor, day: int) -> Tensor:
        allowed = None if support is None else support.allowed(obs, day)
        if allowed is not None:
            allowed = allowed.repeat_interleave(len(budgets), dim=1)
        return hull_mixture(q.mean(0)[..., 0], budgets, allowed)

    backward_pass(
        data, fold, [Augmented(m) for m in members], choose, (2, len(budgets)),
        pooled=min(config.pooled, 4 * data.n_users), seed=seed, track=track,
        progress="budgeted values" if config.progress else None,
    )  # fmt: skip
    return members


def _budget_grid(data: Panel, count: int) -> Tensor:
    """(G,) currency per user for the rest of the campaign: 0, then geometric.

    The largest is twice what the dearest incentive costs on average, given every day.
    """
    user, day = data.valid.nonzero(as_tuple=True)
    action, cost = data.action[user, day], data.cost[user, day]
    paid = torch.zeros(data.n_actions).index_add(0, action, cost)
    mean = paid / torch.bincount(action, minlength=data.n_actions).clamp(min=1)
    top = 2 * data.horizon * mean.max().clamp(min=1e-6)
    grid = top * torch.logspace(-2.5, 0, max(count - 1, 1))
    return torch.cat([torch.zeros(1), grid])
