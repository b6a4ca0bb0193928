"""Daily coupons of a payment app: the simulator of BCORLE(lambda), repaired, with its optimum.

A user who is there today gets a bonus b and is back tomorrow with probability u(b), rising in b;
who is away is back with the mean of u. Each bonus wears the next ones out:

    P(back) = u(0) + (u(b) - u(0)) (1 - wear * w)   if there,   mean(u)   if away
    w'      = memory * w + (1 - memory) * b / b_max,   rounded at random to its grid
    reward  = back tomorrow,   cost = b if there

A third of the users seldom return whatever they get, a third nearly always, and the others as the
bonus says. Nobody's u is shown: a policy sees which bonuses a user got in the last 30 days and
after which he was back.

Source: Zhang et al., BCORLE(lambda), NeurIPS 2021, and the authors' code.

Differences from the authors' code:
1. The kind of a user is not part of the observation.
2. A policy's value is the mean number of days that users come back; there it is computed from the
   set of the daily rewards, which forgets how often each occurred.
3. Bonuses wear out (`wear`), so that today's decision matters later; 0 is the published world.
4. The morning after the last day counts; there the last reward is 0, the best one, for everybody.
5. There is a level without a bonus, which costs nothing; `incentives` can leave it out.
6. Days on which a user is away are rows of the log too: what is offered then, nobody sees or pays.
7. A day is worth 1 or 0; there 0 or -1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from marketing_env.config import Array
from marketing_env.dataset import LoggedDataset
from marketing_env.dynamics import ACTIVE, CHOOSE, FATIGUE, luck
from marketing_env.evaluate import Evaluation
from marketing_env.policy import DayView, Policy, check_probs
from marketing_env.rollout import draw

_OTHER_LUCK = 2**32  # added to a seed, it gives the same users another month


@dataclass(frozen=True)
class CouponConfig:
    """The world of daily coupons.

    Raises:
        ValueError: naming the constant, its value and what is allowed.
    """

    horizon: int = 30  # days
    window: int = 30  # days that a policy looks back on, simulated before the first
    incentives: tuple[float, ...] = tuple(i / 10 for i in range(22))  # currency
    wear: float = 0.5  # response lost by the users who are worn out most
    wear_levels: int = 5
    wear_memory: float = 0.8  # share kept over a day

    def __post_init__(self) -> None:
        object.__setattr__(self, "incentives", tuple(map(float, self.incentives)))
        doses = self.incentives
        rising = len(doses) >= 2 and all(a < b for a, b in pairwise(doses))
        rules = [
            ("horizon", self.horizon >= 1, "1 or more"),
            ("window", self.window >= 1, "1 or more"),
            ("incentives", rising and doses[0] >= 0, "2 or more, rising, at least 0"),
            ("wear", 0 <= self.wear <= 1, "[0, 1]"),
            ("wear_levels", self.wear_levels >= 2, "2 or more"),
            ("wear_memory", 0 <= self.wear_memory <= 1, "[0, 1]"),
        ]
        for name, holds, allowed in rules:
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r}: allowed is {allowed}")

    @property
    def n_actions(self) -> int:
        return len(self.incentives)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the observation's columns, in order."""
        counts = [f"{what}_{b:g}" for what in ("got", "back_after") for b in self.incentives]
        return ("there", "wear", "progress", *counts)


class State(NamedTuple):
    """Where users are this morning, and what a policy remembers of them."""

    there: Array  # (n,) bool
    wear: Array  # (n,) int level
    got: Array  # (n, window) level of the bonus of each past day, the latest last; -1 when away
    back: Array  # (n, window) bool: there on the day after


class Users(NamedTuple):
    """A population. All but the bucket is the simulator's secret."""

    retention: Array  # (n, K) u: probability of being back after each bonus, rising
    bucket: Array  # (n,) in [0, 1)
    start: State  # after a window of random bonuses

    @property
    def n(self) -> int:
        return len(self.bucket)


class Outcome(NamedTuple):
    """What a day brought."""

    reward: Array  # (n,) 1 if the user is there tomorrow
    cost: Array  # (n,) currency
    state: State  # of the next morning


def sample_users(config: CouponConfig, n: int, seed: int = 0) -> Users:
    """Draw `n` users, who have lived through a window of uniformly random bonuses.

    The first users of a larger sample with the same seed are the users of the smaller one.
    """
    if n < 0:
        raise ValueError(f"n = {n}: allowed is 0 or more users")
    uniform = np.random.default_rng([seed, 11]).random((n, config.n_actions + 2))
    kind = np.floor(3 * uniform[:, 0]).astype(int)
    low, span = np.array([0.0, 0.0, 0.8])[kind], np.array([0.2, 1.0, 0.2])[kind]
    retention = np.sort(low[:, None] + span[:, None] * uniform[:, 2:], axis=1)
    none = np.full((n, config.window), -1, dtype=np.int16)
    born = State(np.ones(n, bool), np.zeros(n, int), none, np.zeros(none.shape, bool))
    users = Users(retention, uniform[:, 1], born)
    for day in range(config.window):
        chance = luck(seed, config.horizon + day, n)  # the campaign's own days come first
        action = np.floor(config.n_actions * chance[:, CHOOSE]).astype(int)
        users = users._replace(start=step(config, users, users.start, action, chance).state)
    return users


def back(config: CouponConfig, lowest: Array, given: Array, wear: Array) -> Array:
    """Probability that who is there today is there tomorrow; all arguments broadcast.

    Args:
        lowest: u of the lowest bonus.
        given: u of the bonus that was given.
        wear: level.
    """
    return lowest + (given - lowest) * (1 - config.wear * wear / (config.wear_levels - 1))


def drift(config: CouponConfig, wear: Array, dose: Array) -> Array:
    """The next level of wear before rounding; both arguments broadcast."""
    share = dose / config.incentives[-1]
    return config.wear_memory * wear + (1 - config.wear_memory) * (config.wear_levels - 1) * share


def step(config: CouponConfig, users: Users, state: State, action: Array, chance: Array) -> Outcome:
    """One day of n users under the given luck, (n, 6) (`dynamics.luck`)."""
    paid = state.there * np.asarray(config.incentives)[action]
    u = users.retention
    given = np.take_along_axis(u, action[:, None], axis=1)[:, 0]
    chances = np.where(state.there, back(config, u[:, 0], given, state.wear), u.mean(axis=1))
    returns = chance[:, ACTIVE] < chances
    level = drift(config, state.wear, paid)
    floor = np.minimum(np.floor(level), config.wear_levels - 1)
    wear = (floor + (chance[:, FATIGUE] < level - floor)).astype(int)
    got = np.where(state.there, action, -1).astype(np.int16)
    after = State(
        returns,
        np.minimum(wear, config.wear_levels - 1),
        np.hstack([state.got[:, 1:], got[:, None]]),
        np.hstack([state.back[:, 1:], returns[:, None]]),
    )
    return Outcome(returns.astype(float), paid, after)


def observe(config: CouponConfig, state: State, day: int) -> Array:
    """What a policy may see of each user in the morning, (n, len(config.columns)) float32.

    Counts are shares of the window.
    """
    n, k = len(state.there), config.n_actions
    cell = np.arange(n)[:, None] * k + state.got
    seen = state.got >= 0
    counts = [
        np.bincount(cell[rows], minlength=n * k).reshape(n, k) / config.window
        for rows in (seen, seen & state.back)
    ]
    wear, progress = state.wear / (config.wear_levels - 1), np.full(n, day / config.horizon)
    return np.column_stack([state.there, wear, progress, *counts]).astype(np.float32)


class Day(NamedTuple):
    """One day of a whole population under a policy."""

    view: DayView
    action: Array  # (n,)
    propensity: Array  # (n,)
    outcome: Outcome


def days(policy: Policy, config: CouponConfig, users: Users, seed: int = 0) -> Iterator[Day]:
    """Run one month and yield its days; policies under one seed meet the same luck."""
    state = users.start
    for day in range(config.horizon):
        view = DayView(observe(config, state, day), users.bucket, day, math.inf)
        probs = check_probs(policy.probs(view), users.n, config.n_actions)
        chance = luck(seed, day, users.n)
        action = draw(probs, chance[:, CHOOSE])
        outcome = step(config, users, state, action, chance)
        state = outcome.state
        yield Day(view, action, probs[np.arange(users.n), action], outcome)


def rollout(
    policy: Policy, config: CouponConfig, n_users: int = 1_000, seed: int = 0
) -> LoggedDataset:
    """Log one month of `n_users` fresh users under a policy."""
    users = sample_users(config, n_users, seed)
    run = list(days(policy, config, users, seed))
    last = observe(config, run[-1].outcome.state, config.horizon)
    return LoggedDataset(
        obs=np.stack([d.view.obs for d in run] + [last], axis=1),
        action=np.stack([d.action for d in run], axis=1),
        propensity=np.stack([d.propensity for d in run], axis=1),
        reward=np.stack([d.outcome.reward for d in run], axis=1),
        cost=np.stack([d.outcome.cost for d in run], axis=1),
        valid=np.ones((users.n, config.horizon), dtype=bool),
        bucket=users.bucket,
        meta={
            "source": "bcorle",
            "columns": list(config.columns),
            "incentives": list(config.incentives),
            "reward_unit": "days back",
            "seed": seed,
            "config": asdict(config),
        },
    )


def evaluate(
    policy: Policy, config: CouponConfig, *, n_users: int, seeds: Sequence[int], repeats: int = 1
) -> Evaluation:
    """Simulate the policy on fresh users, once per seed; the same seeds make pairs.

    Args:
        repeats: months per seed with the same users and other luck, averaged.
    """
    rows = []
    for seed in seeds:
        users = sample_users(config, n_users, seed)
        sums = np.zeros(3)
        for repeat in range(repeats):
            for d in days(policy, config, users, seed + repeat * _OTHER_LUCK):
                offered = d.view.obs[:, 0] * np.asarray(config.incentives)[d.action] > 0
                sums += d.outcome.reward.sum(), d.outcome.cost.sum(), offered.sum()
        rows.append(sums / (n_users * repeats))
    reward, cost, contacts = np.array(rows).T
    return Evaluation(reward, cost, contacts, np.zeros(len(rows)), tuple(seeds))
