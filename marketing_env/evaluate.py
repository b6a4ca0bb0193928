"""What a policy is worth: by simulation, and from a log alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from marketing_env.config import Array, CampaignConfig
from marketing_env.exact import best_mixture, curve
from marketing_env.policy import Policy
from marketing_env.rollout import days
from marketing_env.users import Users, concatenate, sample_users

_OTHER_LUCK = 2**32  # added to a seed, it gives the same users another campaign
_AUDIENCE = 50_000  # most users who are served side by side


@runtime_checkable
class Reference(Protocol):
    """A policy that may know the simulator's secrets: it is made anew for each population."""

    def for_users(self, users: Users) -> Policy: ...


@dataclass(frozen=True)
class Evaluation:
    """Campaign means per user for each seed, with the errors of their mean."""

    reward: Array  # (seeds,) per user per campaign
    cost: Array  # (seeds,) currency per user per campaign
    contacts: Array  # (seeds,) incentives offered per user per campaign
    refused: Array  # (seeds,) share of wanted offers that the hard budget refused
    seeds: tuple[int, ...]

    @property
    def reward_error(self) -> float:
        return standard_error(self.reward)

    @property
    def cost_error(self) -> float:
        return standard_error(self.cost)


def evaluate(
    policy: Policy | Reference,
    config: CampaignConfig,
    *,
    n_users: int,
    seeds: int | Sequence[int],
    budget: float = math.inf,
    repeats: int = 1,
) -> Evaluation:
    """Simulate the policy on fresh users, once per seed.

    Users and luck depend on the seed only, so evaluations of two policies with the same seeds
    are paired: compare `a.reward - b.reward`. Without a hard limit many seeds are served side by
    side, as one audience of the policy, which is several times faster than one after another.

    Args:
        seeds: the seeds, or their number.
        budget: hard limit in currency per user that the simulator enforces; none by default.
        repeats: campaigns per seed with the same users and other luck, averaged.
    """
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if n_users < 1 or not seeds or repeats < 1:
        raise ValueError(
            f"n_users = {n_users}, seeds = {seeds}, repeats = {repeats}: allowed is 1 or more"
        )
    runs = [(seed, repeat) for seed in seeds for repeat in range(repeats)]
    # The money of one population is not another's, and a reference is made for one.
    apart = budget < math.inf or isinstance(policy, Reference)
    together = 1 if apart else max(_AUDIENCE // n_users, 1)
    batches = [runs[i : i + together] for i in range(0, len(runs), together)]

    @lru_cache(maxsize=1)  # campaigns of the same users come one after another
    def acting(seed: int) -> Policy:
        if isinstance(policy, Reference):
            return policy.for_users(sample_users(config, n_users, seed))
        return policy

    sums = np.concatenate(
        [_sums(acting(batch[0][0]), config, n_users, batch, budget) for batch in batches]
    )
    reward, cost, offered, refused = sums.reshape(len(seeds), repeats, 4).sum(axis=1).T
    campaigns = n_users * repeats
    return Evaluation(
        reward / campaigns, cost / campaigns, offered / campaigns,
        refused / np.maximum(refused + offered, 1), seeds,
    )  # fmt: skip


def _sums(
    policy: Policy,
    config: CampaignConfig,
    n_users: int,
    runs: Sequence[tuple[int, int]],
    budget: float,
) -> Array:
    """(runs, 4) reward, cost, offers and refused offers of populations (seed, repeat)."""
    users = concatenate([sample_users(config, n_users, seed) for seed, _ in runs])
    luck = [seed + repeat * _OTHER_LUCK for seed, repeat in runs]
    sums = np.zeros((len(runs), 4))
    for d in days(policy, config, users, luck, budget):
        measured = np.stack([d.reward, d.cost, d.action > 0, d.refused], axis=1)
        sums += measured.reshape(len(runs), n_users, 4).sum(axis=1)
    return sums


@dataclass(frozen=True)
class Optimum:
    """What `evaluate`'s users could earn at best, and earn without incentives, exactly."""

    budget: Array  # (B,) currency per user per campaign
    best: Array  # (seeds, B) Lagrangian bound: no policy within the budget earns more
    idle: Array  # (seeds,) expected reward without incentives

    @property
    def gain(self) -> Array:
        """(seeds, B) the most that incentives can add."""
        return self.best - self.idle[:, None]


def optimum(
    config: CampaignConfig,
    budget: npt.ArrayLike,
    *,
    n_users: int,
    seeds: Sequence[int],
    prices: int = 12,
) -> Optimum:
    """Bounds for the users of each seed, from a grid of prices around those of the budgets.

    A grid can only make the bound larger, so scores against it are never flattered.
    """
    budget = np.atleast_1d(np.asarray(budget, dtype=float))
    few = sample_users(config, min(n_users, 200), seeds[0])
    ends = [best_mixture(config, few, b, tolerance=1e-3).price[-1] for b in budget]
    low, high = min(ends), max(ends)
    grid = np.geomspace(max(low / 1.5, 1e-3 * high), 1.5 * high, prices) if high > 0 else [1.0]
    best, idle = [], []
    for seed in seeds:
        c = curve(config, sample_users(config, n_users, seed), np.concatenate([[0.0], grid]))
        best.append(c.bound_at(budget))
        idle.append(c.reward[0])
    return Optimum(budget, np.array(best), np.array(idle))


def score(policy: Evaluation, idle: Evaluation, best: Optimum, budget: int) -> tuple[float, float]:
    """100 * gain over no incentives / largest possible gain, at matched spend, and its error.

    All three must be of the same users and seeds; `idle` is the evaluation of no incentives, and
    `budget` the position of the policy's budget in `best`. A policy that overspends is scored as
    if mixed with doing nothing until it kept the budget. Gains are averaged over seeds before they
    are divided; the standard error is that of the ratio.

    Raises:
        ValueError: if seeds differ.
    """
    if not policy.seeds == idle.seeds or len(policy.seeds) != len(best.idle):
        raise ValueError(f"seeds {policy.seeds} and {idle.seeds}: allowed are the same ones")
    share = min(1.0, float(best.budget[budget]) / max(float(policy.cost.mean()), 1e-300))
    gain, possible = share * (policy.reward - idle.reward), best.gain[:, budget]
    ratio = float(gain.mean() / possible.mean())
    error = standard_error(gain - ratio * possible) / float(possible.mean())
    return 100 * ratio, 100 * error


def standard_error(samples: Array) -> float:
    """Standard error of the mean; NaN for a single sample."""
    n = len(samples)
    return float(np.std(samples, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
