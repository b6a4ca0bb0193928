"""Backward induction over (engagement, recency, fatigue) for many users, one price at a time.

For price lambda, V = V_r - lambda V_c is carried beside the cost V_c of the same policy:

    V[t](s) = max_a  p (basket - lambda payout + A V[t+1]) + (1 - p) I V[t+1]

with p the probability of an active day in (s, a), and A V, I V the mean value of the morning after
an active and an idle day. All of it comes from `dynamics.expected` and `dynamics.drift`.

Arrays are (F, E, N, n): with users last, numpy's loops run along users, and what an offer does to
fatigue is one tall matrix product for all offers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from marketing_env import dynamics
from marketing_env.config import Array, CampaignConfig
from marketing_env.users import State, Users

USERS = 64  # solved at once, so that a day of one price stays in the cache


class Morning(NamedTuple):
    """Where a day leads, as matrices on the levels."""

    idle: Array  # (E, E) engagement after an idle day
    active: Array  # (E, E) engagement after an active day
    offer: Array  # (K * F, F) fatigue after each incentive
    older: Array  # (N,) recency after an idle day


class Day(NamedTuple):
    """What a day brings in every state; recency changes neither basket nor payout."""

    active: Array  # (K, F, E, N, n) probability of an active day
    basket: Array  # (K, F, E, 1, n) mean reward of an active day
    payout: Array  # (K, F, E, 1, n) mean cost of an active day


def solve(
    config: CampaignConfig, users: Users, prices: Array, foresight: float, keep_actions: bool
) -> tuple[Array, Array, Array | None]:
    """Campaign reward (n, G) and cost (n, G) of each user's plan, and actions (G, T, n, S)."""
    week = [_day(config, users, day) for day in range(min(7, config.horizon))]
    morning = _morning(config)
    reward, cost = (np.empty((users.n, len(prices))) for _ in range(2))
    tables = (len(prices), config.horizon, users.n, int(np.prod(config.shape)))
    actions = np.empty(tables, np.uint8) if keep_actions else None
    at_start = (users.start.fatigue, users.start.engagement, users.start.recency)
    for g, price in enumerate(prices):
        table = None if actions is None else actions[g]
        value = _campaign(config, week, morning, price, foresight, table)
        net, cost[:, g] = value[(slice(None), *at_start, np.arange(users.n))]
        reward[:, g] = net if np.isinf(price) else net + price * cost[:, g]
    return reward, cost, actions


def _campaign(
    config: CampaignConfig,
    week: list[Day],
    morning: Morning,
    price: float,
    foresight: float,
    actions: Array | None,
) -> Array:
    """Net value and cost of the plan on the first morning, (2, F, E, N, n).

    actions: (T, n, S), filled with the plan.
    """
    n_offers = 1 if np.isinf(price) else config.n_actions
    price = 0.0 if np.isinf(price) else price
    brings = np.stack([week[0].basket - price * week[0].payout, week[0].payout])
    value, total = (np.zeros((2, *week[0].active.shape[1:])) for _ in range(2))
    merit, choice = np.empty(value.shape[1:]), np.empty(value.shape[1:], np.uint8)
    for day in reversed(range(config.horizon)):
        after_active, after_idle = _look_ahead(morning, value, config.n_actions)
        merit.fill(-np.inf)
        for k in range(n_offers):
            p, net = week[day % 7].active[k], brings[0, k]
            np.add(brings[:, k], after_active[:, k], out=total)
            total -= after_idle[:, k]
            total *= p
            total += after_idle[:, k]
            sight = total[0] if foresight == 1 else _discounted(total[0], p * net, foresight)
            better = sight > merit
            np.copyto(merit, sight, where=better)
            np.copyto(value, total, where=better)
            if actions is not None:
                np.copyto(choice, np.uint8(k), where=better)
        if actions is not None:
            actions[day] = choice.transpose(3, 1, 2, 0).reshape(actions.shape[1:])
    return value


def _discounted(total: Array, today: Array, foresight: float) -> Array:
    return np.asarray(foresight * total + (1 - foresight) * today)


def _day(config: CampaignConfig, users: Users, day: int) -> Day:
    e, r, f = (np.arange(levels) for levels in config.shape)
    states = State(e[:, None, None], r[:, None], f[:, None, None, None])
    rows = [
        dynamics.expected(config, users, states, np.array(k), day) for k in range(config.n_actions)
    ]
    shape = (len(f), len(e), 1, users.n)
    return Day(
        active=np.stack([np.broadcast_to(p, (*shape[:2], len(r), users.n)) for p, _, _ in rows]),
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
        offer=np.concatenate([_rounding(level.ravel(), len(f)) for level in tired]),
        older=idle.recency.ravel(),
    )


def _look_ahead(morning: Morning, value: Array, n_offers: int) -> tuple[Array, Array]:
    """Means after each offer and an active (2, K, F, E, 1, n) or an idle day (2, K, F, E, N, n)."""
    two, f, e, r, n = value.shape
    idle = (morning.idle @ value.reshape(two, f, e, r * n)).reshape(value.shape)
    active = morning.active @ value[:, :, :, 0]
    after_idle = morning.offer @ idle[:, :, :, morning.older].reshape(two, f, -1)
    after_active = morning.offer @ active.reshape(two, f, -1)
    return (
        after_active.reshape(two, n_offers, f, e, 1, n),
        after_idle.reshape(two, n_offers, f, e, r, n),
    )


def _rounding(level: Array, levels: int) -> Array:
    """Matrix that takes values at integer levels to their means under stochastic rounding."""
    floor = np.minimum(np.floor(level).astype(int), levels - 2)
    rows, matrix = np.arange(len(level)), np.zeros((len(level), levels))
    matrix[rows, floor] = 1 - (level - floor)
    matrix[rows, floor + 1] = level - floor
    return matrix
