"""The exact optimum of the daily coupons of `bcorle`, by backward induction.

A user is a Markov decision process over (there, wear). With price lambda for money, and M_b the
matrix that takes values at levels of wear to their means after a bonus b,

    V[t](there, w) = max_b  p_b (1 + M_b V[t+1](there)) + (1 - p_b) M_b V[t+1](away) - lambda b
    V[t](away, w)  =        p (1 + M_0 V[t+1](there)) + (1 - p) M_0 V[t+1](away)

Optimal plans know each user's u, which a policy can only guess from his past, so the best policy
may lie below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketing_env.bcorle import CouponConfig, State, Users, back, drift, sample_users
from marketing_env.config import Array
from marketing_env.evaluate import Optimum
from marketing_env.exact import Curve

_CHUNK_CELLS = 30_000  # users x prices x levels x bonuses solved at once, to stay in the cache


class Plan(NamedTuple):
    """Optimal policies at G prices for n users."""

    price: Array  # (G,) reward per currency
    reward: Array  # (n, G) expected over the month
    cost: Array  # (n, G)
    action: Array  # (T, G, n, L) uint8 for users who are there, by day and level of wear


def plan(config: CouponConfig, users: Users, price: npt.ArrayLike) -> Plan:
    """Solve every user's month at each price; `inf` leaves only the lowest level.

    Raises:
        ValueError: if a price is negative or NaN.
    """
    prices = np.atleast_1d(np.asarray(price, dtype=float))
    if not (prices >= 0).all():
        raise ValueError(f"price = {price!r}: allowed are numbers of at least 0")
    chunk = max(1, _CHUNK_CELLS // (len(prices) * config.wear_levels * config.n_actions))
    parts = [
        _solve(config, _take(users, slice(i, i + chunk)), prices)
        for i in range(0, max(users.n, 1), chunk)
    ]
    reward, cost = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    return Plan(prices, reward, cost, np.concatenate([p[2] for p in parts], axis=2))


def curve(config: CouponConfig, users: Users, price: npt.ArrayLike) -> Curve:
    """Mean reward and cost of the plans at the given prices and at an infinite one."""
    prices = np.union1d(np.asarray(price, dtype=float), [np.inf])[::-1]
    p = plan(config, users, prices)
    return Curve(prices, p.reward.mean(axis=0), p.cost.mean(axis=0))


def optimum(
    config: CouponConfig,
    budget: npt.ArrayLike,
    *,
    n_users: int,
    seeds: Sequence[int],
    prices: int = 24,
) -> Optimum:
    """Lagrangian bounds for the users of each seed, from a grid of prices.

    A grid can only make the bound larger, so scores against it are never flattered.

    Args:
        budget: (B,) currency per user per month.
    """
    budget = np.atleast_1d(np.asarray(budget, dtype=float))
    grid = np.append(0.0, np.geomspace(0.005, 20, prices) / config.incentives[-1])
    curves = [curve(config, sample_users(config, n_users, seed), grid) for seed in seeds]
    best = np.array([c.bound_at(budget) for c in curves])
    return Optimum(budget, best, np.array([c.reward[0] for c in curves]))


def _solve(config: CouponConfig, users: Users, prices: Array) -> tuple[Array, Array, Array]:
    """Reward (n, G), cost (n, G) and actions (T, G, n, L)."""
    n, n_prices, n_levels = users.n, len(prices), config.wear_levels
    doses = np.asarray(config.incentives)
    may = np.isfinite(prices)[:, None] | (np.arange(len(doses)) == 0)
    price = np.where(np.isfinite(prices), prices, 0.0)
    wear = np.arange(n_levels)
    stay = back(config, users.retention[:, :1, None], users.retention[:, None], wear[:, None])
    leave = users.retention.mean(axis=1)[:, None, None]
    worn = np.stack([_rounding(config, dose) for dose in doses], axis=-1)  # (L, L, K)
    rested = _rounding(config, 0.0)[..., None]
    value, cost = np.zeros((2, 2, n_prices, n, n_levels))
    actions = np.empty((config.horizon, n_prices, n, n_levels), dtype=np.uint8)
    for day in reversed(range(config.horizon)):
        net = _tomorrow(value, 1.0, stay, worn) - (price[:, None] * doses)[:, None, None]
        choice = np.where(may[:, None, None], net, -np.inf).argmax(axis=-1)[..., None]
        expense = _tomorrow(cost, 0.0, stay, worn) + doses
        value, cost = (
            np.stack([_tomorrow(x, gain, leave, rested)[..., 0], _at(there, choice)])
            for x, gain, there in ((value, 1.0, net), (cost, 0.0, expense))
        )
        actions[day] = choice[..., 0]
    start = users.start.there.astype(int), slice(None), np.arange(n), users.start.wear
    total_value, total_cost = value[start], cost[start]  # (n, G)
    return total_value + price * total_cost, total_cost, actions


def _tomorrow(x: Array, gain: float, chance: Array, worn: Array) -> Array:
    """Means over tomorrow, (G, n, L, K), of values x (2, G, n, L) and a gain from being there."""
    away, there = np.tensordot(x, worn, axes=(3, 1))
    return np.asarray(away + chance * (gain + there - away))


def _at(x: Array, choice: Array) -> Array:
    return np.asarray(np.take_along_axis(x, choice, axis=-1)[..., 0])


def _rounding(config: CouponConfig, dose: float) -> Array:
    """(L, L) matrix that takes values at levels of wear to their means after a dose."""
    rows, top = np.arange(config.wear_levels), config.wear_levels - 1
    level = drift(config, rows, np.array(dose))
    floor = np.minimum(np.floor(level).astype(int), top - 1)
    matrix = np.zeros((top + 1, top + 1))
    matrix[rows, floor], matrix[rows, floor + 1] = 1 - (level - floor), level - floor
    return matrix


def _take(users: Users, rows: slice) -> Users:
    start = State(*(part[rows] for part in users.start))
    return Users(users.retention[rows], users.bucket[rows], start)
