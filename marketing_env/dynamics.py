"""The only physics of the project: pure functions whose array arguments broadcast.

With `(n,)` users they are the vector environment, with one user the single one, and with a grid
of states and actions the exact planner (`exact.py`). One of each user-day's six uniform numbers
(`luck`) decides each chance event, so two policies under one campaign seed meet the same luck.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from marketing_env.config import FEATURE_LIMIT, Array, CampaignConfig
from marketing_env.users import State, Users

# Columns of a day's luck, (n, 6) uniform in [0, 1).
CHOOSE, ACTIVE, REDEEM, BASKET, ENGAGEMENT, FATIGUE = range(6)


class Response(NamedTuple):
    """How a user meets an offer."""

    active: Array  # probability of an active day
    redeem: Array  # probability that an active user redeems the offer
    basket: Array  # mean reward of the day, given activity


class Outcome(NamedTuple):
    """What a day brought."""

    reward: Array  # (n,) unit of the campaign
    cost: Array  # (n,) currency, really paid
    active: Array  # (n,) bool
    redeemed: Array  # (n,) bool
    state: State  # on the next morning


def luck(seed: int, day: int, n: int) -> Array:
    """The chance of one day, (n, 6) uniform; the first users' share does not depend on `n`."""
    return np.random.Generator(np.random.SFC64([seed, day, 3])).random((n, 6))


def response(
    config: CampaignConfig, users: Users, state: State, action: Array, day: int
) -> Response:
    """Probability of activity and redemption and the mean basket, for any broadcastable shapes."""
    engagement, recency, fatigue = _scaled(config, state)
    dose = config.doses[action]
    effect = 1 - np.exp(-dose / users.dose_scale)
    freshness = np.maximum(0, 1 - users.fatigue * fatigue)
    logit = (
        users.base
        + config.weekday[day % 7]
        + users.habit * engagement
        + users.need * (recency - config.need_centre)
        + users.lift * effect * freshness
        - config.drag * users.fatigue * fatigue
    )
    growth = (1 + config.basket_engagement * engagement) * (
        1 + config.basket_lift * effect * freshness
    )
    return Response(
        active=1 / (1 + np.exp(-logit)),
        redeem=users.redeem * (dose > 0),
        basket=users.basket * growth,
    )


def expected(
    config: CampaignConfig, users: Users, state: State, action: Array, day: int
) -> tuple[Array, Array, Array]:
    """Probability of activity, and mean reward and cost of the day given activity."""
    r = response(config, users, state, action, day)
    return r.active, r.basket, r.redeem * _mean_payout(config, r.basket, action)


def drift(config: CampaignConfig, state: State, action: Array, active: Array | int) -> State:
    """The next state before rounding to its grid: engagement and fatigue as real levels."""
    e_top, n_top, f_top = (levels - 1 for levels in config.shape)
    keep, tire = config.engagement_memory, config.fatigue_memory
    dose = config.doses[action] / config.doses[-1]
    # The minimum only catches rounding errors, which would leave the grid.
    return State(
        engagement=np.minimum(keep * state.engagement + (1 - keep) * e_top * active, e_top),
        recency=np.minimum(state.recency + 1, n_top) * (1 - active),
        fatigue=np.minimum(tire * state.fatigue + (1 - tire) * f_top * dose, f_top),
    )


def step(
    config: CampaignConfig, users: Users, state: State, action: Array, day: int, chance: Array
) -> Outcome:
    """One day of n users under the given luck, (n, 6)."""
    r, draw = response(config, users, state, action, day), chance.T
    active = draw[ACTIVE] < r.active
    redeemed = active & (draw[REDEEM] < r.redeem)
    rank = (draw[BASKET] * len(config.basket_quantiles)).astype(np.int64)
    reward = active * r.basket * config.basket_quantiles[rank]
    cost = redeemed * _payout(config, reward, action)
    moved = drift(config, state, action, active)
    after = State(
        engagement=_round(moved.engagement, draw[ENGAGEMENT]),
        recency=moved.recency,
        fatigue=_round(moved.fatigue, draw[FATIGUE]),
    )
    return Outcome(reward, cost, active, redeemed, after)


def observe(config: CampaignConfig, users: Users, state: State, day: int) -> Array:
    """What a policy may see of each user in the morning, (n, len(config.columns)) float32."""
    d = config.n_features
    obs = np.empty((*users.features.shape[:-1], d + len(State._fields) + 3), dtype=np.float32)
    obs[..., :d] = users.features
    for i, level in enumerate(_scaled(config, state)):
        obs[..., d + i] = level
    week = 2 * np.pi * (day % 7) / 7
    obs[..., d + 3 :] = day / config.horizon, np.sin(week), np.cos(week)
    return obs


def observation_bounds(config: CampaignConfig) -> tuple[Array, Array]:
    """Lowest and highest value of each observation column."""
    d = config.n_features
    low = np.array([-FEATURE_LIMIT] * d + [0, 0, 0, 0, -1, -1], dtype=np.float32)
    high = np.array([FEATURE_LIMIT] * d + [1] * 6, dtype=np.float32)
    return low, high


def levels(config: CampaignConfig, obs: Array) -> State:
    """The state that an observation shows: the inverse of `observe`."""
    d = config.n_features
    tops = np.array(config.shape) - 1
    grid = np.rint(obs[:, d : d + 3] * tops).astype(np.int64)
    return State(grid[:, 0], grid[:, 1], grid[:, 2])


def _scaled(config: CampaignConfig, state: State) -> tuple[Array, Array, Array]:
    e, n, f = config.shape
    return state.engagement / (e - 1), state.recency / (n - 1), state.fatigue / (f - 1)


def _payout(config: CampaignConfig, basket: Array, action: Array) -> Array:
    dose = config.doses[action]
    return dose if config.offer == "amount" else dose * np.minimum(basket, config.basket_cap)


def _mean_payout(config: CampaignConfig, basket: Array, action: Array) -> Array:
    """Mean of `_payout` over the quantiles of the basket, by their running sums."""
    if config.offer == "amount":
        return config.doses[action]
    table = config.basket_quantiles
    sums = np.concatenate([[0.0], np.cumsum(table)])
    below = np.searchsorted(table, config.basket_cap / basket)
    capped = basket * sums[below] + config.basket_cap * (len(table) - below)
    return np.asarray(config.doses[action] * capped / len(table))


def _round(level: Array, u: Array) -> Array:
    """Round up with the probability of the fraction, so that the mean is kept."""
    floor = np.floor(level)
    return (floor + (u < level - floor)).astype(np.int64)
