"""The only day loop of the project: a policy meets a population, luck decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from marketing_env import dynamics
from marketing_env.config import Array, CampaignConfig
from marketing_env.dataset import LoggedDataset
from marketing_env.policy import DayView, Policy, check_probs
from marketing_env.users import State, Users, sample_users


class Day(NamedTuple):
    """One day of a whole audience."""

    view: DayView
    action: Array  # (n,) what was really offered
    propensity: Array  # (n,) probability with which the policy wanted the action it drew
    refused: Array  # (n,) bool: the budget could not reserve the offer's face value
    reward: Array  # (n,)
    cost: Array  # (n,) currency
    state: State  # of the next morning


def reserve(config: CampaignConfig, action: Array, money: float, order: Array) -> Array:
    """(n,) bool: which offers must be refused so that the day can never cost more than `money`.

    Offers are reserved at face value in the order of `order` (any numbers, smallest first) until
    one does not fit.
    """
    face = config.face_values[action]
    turn = np.argsort(order, kind="stable")
    fits = np.cumsum(face[turn]) <= money
    refused = np.empty(len(action), dtype=bool)
    refused[turn] = ~fits
    return refused & (face > 0)


def turn_order(bucket: Array, day: int) -> Array:
    """Who is served first today: the buckets, rotated so that nobody is always last."""
    return np.asarray((bucket + day * 0.6180339887498949) % 1.0)


def serve(
    config: CampaignConfig,
    users: Users,
    state: State,
    wanted: Array,
    day: int,
    chance: Array,
    money: float,
) -> tuple[Array, dynamics.Outcome]:
    """One day that cannot cost more than `money`: (n,) refused offers, and what the day brought."""
    refused = np.zeros(len(wanted), dtype=bool)
    if money < np.inf:
        refused = reserve(config, wanted, money, turn_order(users.bucket, day))
    offered = np.where(refused, 0, wanted)
    return refused, dynamics.step(config, users, state, offered, day, chance)


def days(
    policy: Policy,
    config: CampaignConfig,
    users: Users,
    seed: int | Sequence[int] = 0,
    budget: float = float("inf"),
) -> Iterator[Day]:
    """Run one campaign and yield its days.

    Args:
        seed: of the campaign's luck; the same for two policies makes their comparison paired.
            Several seeds are the luck of as many populations of equal size, one after another.
        budget: hard limit in currency per user; n * budget is held, an offer is made only if its
            face value can be reserved, and what is not redeemed is released at night.

    Raises:
        ValueError: if the budget is negative, the policy's answer is no distribution, or the users
            are not as many for every seed.
    """
    if not budget >= 0:
        raise ValueError(f"budget = {budget!r}: allowed are numbers of at least 0")
    n, state, money = users.n, users.start, budget * users.n
    seeds: list[int] = np.atleast_1d(seed).tolist()
    if n % len(seeds):
        raise ValueError(f"{n} users, {len(seeds)} seeds: allowed are as many users for every seed")
    for day in range(config.horizon):
        left = money / max(n, 1)
        view = DayView(dynamics.observe(config, users, state, day), users.bucket, day, left)
        probs = check_probs(policy.probs(view), n, config.n_actions)
        chance = np.concatenate([dynamics.luck(s, day, n // len(seeds)) for s in seeds])
        wanted = draw(probs, chance[:, dynamics.CHOOSE])
        refused, outcome = serve(config, users, state, wanted, day, chance, money)
        money, state = money - outcome.cost.sum(), outcome.state
        action, propensity = np.where(refused, 0, wanted), probs[np.arange(n), wanted]
        yield Day(view, action, propensity, refused, outcome.reward, outcome.cost, state)


def draw(probs: Array, u: Array) -> Array:
    """(n,) actions drawn from (n, K) probabilities with (n,) uniform numbers."""
    passed = (np.cumsum(probs, axis=1) <= u[:, None]).sum(axis=1)
    # A row may sum to a hair less than 1; then the last possible action is meant.
    last = probs.shape[1] - 1 - (probs[:, ::-1] > 0).argmax(axis=1)
    return np.asarray(np.minimum(passed, last))


def rollout_parts(
    policy: Policy, config: CampaignConfig, n_users: int, seed: int = 0, *, part: int = 100_000
) -> Iterator[LoggedDataset]:
    """Log a campaign that is larger than memory, `part` users at a time.

    Every part has users and luck of its own, drawn from `seed`; none of them is that of `rollout`
    with the same seed.
    """
    for number in range(-(-n_users // part)):
        yield rollout_part(policy, config, n_users, seed, number, part=part)


def rollout_part(
    policy: Policy, config: CampaignConfig, n_users: int, seed: int, number: int,
    *, part: int = 100_000,
) -> LoggedDataset:  # fmt: skip
    """One of the logs of `rollout_parts`, by its number, wherever the others are made.

    Raises:
        ValueError: if there is no part of that number.
    """
    if not 0 <= number < -(-n_users // part):
        raise ValueError(f"number = {number}: allowed is 0 to {-(-n_users // part) - 1}")
    own = np.random.SeedSequence([seed, number, 6]).generate_state(1, np.uint64)[0]
    return rollout(policy, config, min(part, n_users - number * part), int(own >> 1))


def rollout(
    policy: Policy,
    config: CampaignConfig,
    n_users: int = 1_000,
    seed: int = 0,
    *,
    budget: float = float("inf"),
    users: Users | None = None,
) -> LoggedDataset:
    """Log one campaign of `n_users` fresh users (or of the given ones) under a policy.

    Logs to learn from are collected without a budget: a refused offer has no honest propensity.
    """
    users = sample_users(config, n_users, seed) if users is None else users
    run = list(days(policy, config, users, seed, budget))
    last = dynamics.observe(config, users, run[-1].state, config.horizon)
    return LoggedDataset(
        obs=np.stack([d.view.obs for d in run] + [last], axis=1),
        action=np.stack([d.action for d in run], axis=1).astype(np.uint8),
        propensity=np.stack([d.propensity for d in run], axis=1),
        reward=np.stack([d.reward for d in run], axis=1),
        cost=np.stack([d.cost for d in run], axis=1),
        valid=np.ones((users.n, config.horizon), dtype=bool),
        bucket=users.bucket,
        meta={
            "source": config.name,
            "columns": list(config.columns),
            "incentives": list(config.incentives),
            "reward_unit": config.unit,
            "seed": seed,
            "refused": int(sum(d.refused.sum() for d in run)),
        },
    )
