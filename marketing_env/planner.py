"""Backward induction over (engagement, recency, fatigue) for many users and prices at once.

For price lambda, V = V_r - lambda V_c is carried beside the cost V_c of the same policy:

    V[t](s) = max_a  p (basket - lambda payout + A V[t+1]) + (1 - p) I V[t+1]

with p the probability of an active day in (s, a), and A V, I V the mean value of the morning after
an active and an idle day. All of it comes from `dynamics.expected` and `dynamics.drift`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from marketing_env import dynamics
from marketing_env.config import Array, CampaignConfig
from marketing_env.users import LATENT, State, Users


class Morning(NamedTuple):
    """Where a day leads, as matrices on the levels."""

    idle: Array  # (E, E) engagement after an idle day
    active: Array  # (E, E) engagement after an active day
    offer: Array  # (K, F, F) fatigue after each incentive, transposed
    older: Array  # (N,) recency after an idle day


class Day(NamedTuple):
    """What a day brings in every state; recency changes neither basket nor payout."""

    active: Array  # (K, n, E, N, F) probability of an active day
    basket: Array  # (K, n, E, 1, F) mean reward of an active day
    payout: Array  # (K, n, E, 1, F) mean cost of an active day


def solve(
    config: CampaignConfig, users: Users, prices: Array, foresight: float, keep_actions: bool
) -> tuple[Array, Array, Array | None]:
    """Campaign reward (n, G) and cost (n, G) of each user's plan, and actions (G, T, n, S)."""
    n, shape, n_prices = users.n, config.shape, len(prices)
    idle_price = np.isinf(prices)
    price = np.where(idle_price, 0, prices).reshape(-1, 1, 1, 1, 1)
    may = ~idle_price.reshape(-1, 1, 1, 1, 1)  # an infinite price allows no incentive
    week = [_day(config, users, day) for day in range(min(7, config.horizon))]
    net = [b - price * c for b, c in zip(week[0].basket, week[0].payout, strict=True)]
    morning = _morning(config)
    value, cost = (np.zeros((n_prices, n, *shape)) for _ in range(2))
    actions = np.empty((config.horizon, n_prices, n, *shape), np.uint8) if keep_actions else None
    for day in reversed(range(config.horizon)):
        after, spent = _look_ahead(morning, value), _look_ahead(morning, cost)
        p, payout = week[day % 7].active, week[day % 7].payout
        merit = np.full(value.shape, -np.inf)
        for k in range(config.n_actions):
            (active, idle), (active_cost, idle_cost) = (
                _after_offer(x, morning.offer[k]) for x in (after, spent)
            )
            total = p[k] * (net[k] + active - idle) + idle
            sight = total if foresight == 1 else foresight * total + (1 - foresight) * p[k] * net[k]
            better = (sight > merit) & (may | (k == 0))
            np.copyto(merit, sight, where=better)
            np.copyto(value, total, where=better)
            expense = p[k] * (payout[k] + active_cost - idle_cost) + idle_cost
            np.copyto(cost, expense, where=better)
            if actions is not None:
                np.copyto(actions[day], np.uint8(k), where=better)
    at_start = (slice(None), np.arange(n), *users.start)
    total_cost = cost[at_start].T
    reward = value[at_start].T + price.reshape(-1) * total_cost
    if actions is not None:
        return reward, total_cost, actions.swapaxes(0, 1).reshape(n_prices, config.horizon, n, -1)
    return reward, total_cost, None


def _day(config: CampaignConfig, users: Users, day: int) -> Day:
    each = users._replace(**{name: getattr(users, name)[:, None, None, None] for name in LATENT})
    e, r, f = (np.arange(levels) for levels in config.shape)
    states = State(e[:, None, None], r[:, None], f)
    rows = [
        dynamics.expected(config, each, states, np.array(k), day) for k in range(config.n_actions)
    ]
    shape = (users.n, len(e), 1, len(f))
    return Day(
        active=np.stack([np.broadcast_to(p, (users.n, *config.shape)) for p, _, _ in rows]),
        basket=np.stack([np.broadcast_to(basket, shape) for _, basket, _ in rows]),
        payout=np.stack([np.broadcast_to(payout, shape) for _, _, payout in rows]),
    )


def _morning(config: CampaignConfig) -> Morning:
    e, r, f = (np.arange(levels) for levels in config.shape)
    states, offers = State(e[:, None, None], r[:, None], f), np.arange(config.n_actions)
    none = np.array(0)
    idle, active = (dynamics.drift(config, states, none, moved) for moved in (0, 1))
    tired = dynamics.drift(config, states, offers[:, None, None, None], 0).fatigue
    return Morning(
        idle=_rounding(idle.engagement.ravel(), len(e)),
        active=_rounding(active.engagement.ravel(), len(e)),
        offer=np.stack([_rounding(level.ravel(), len(f)).T for level in tired]),
        older=idle.recency.ravel(),
    )


def _look_ahead(morning: Morning, value: Array) -> tuple[Array, Array]:
    """Means after an active day (G, n, E, F) and an idle one (G, n, E, N, F), before fatigue."""
    n_prices, n, e, r, f = value.shape
    idle = (morning.idle @ value.reshape(n_prices, n, e, r * f)).reshape(value.shape)
    return morning.active @ value[:, :, :, 0], idle[:, :, :, morning.older]


def _after_offer(after: tuple[Array, Array], offer: Array) -> tuple[Array, Array]:
    """The same means once the offer has tired the user; shapes (G, n, E, 1, F), (G, n, E, N, F)."""
    active, idle = after
    # One product of tall matrices; on five axes numpy would do many tiny ones.
    return _last(active, offer)[:, :, :, None], _last(idle, offer)


def _last(x: Array, matrix: Array) -> Array:
    return (x.reshape(-1, len(matrix)) @ matrix).reshape(x.shape)


def _rounding(level: Array, levels: int) -> Array:
    """Matrix that takes values at integer levels to their means under stochastic rounding."""
    floor = np.minimum(np.floor(level).astype(int), levels - 2)
    rows, matrix = np.arange(len(level)), np.zeros((len(level), levels))
    matrix[rows, floor] = 1 - (level - floor)
    matrix[rows, floor + 1] = level - floor
    return matrix
