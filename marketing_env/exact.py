"""The truth: exact optimal plans, their mixtures, and the bound that no policy exceeds.

Given a price for money, users decouple, and each user's campaign is a small finite-horizon
Markov decision process over (engagement, recency, fatigue), solved here by backward induction
with the simulator's own physics (`dynamics.expected`, `dynamics.drift`). The Lagrangian dual

    bound(B) = min over prices of  price * B + mean over users of max over policies (R - price C)

bounds every policy that keeps the budget on average, also those that see the latent parameters;
mixing the two plans on either side of the optimal price attains it (Altman, Constrained Markov
Decision Processes, 1999, ch. 3-4).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketing_env.config import Array, CampaignConfig
from marketing_env.planner import USERS, solve
from marketing_env.users import Users

_MAX_ROUNDS = 60  # of column generation; 8 to 20 are usual


class Plan(NamedTuple):
    """Optimal policies at G prices for n users."""

    price: Array  # (G,) reward per currency
    reward: Array  # (n, G) expected over the campaign
    cost: Array  # (n, G)
    action: Array | None  # (G, T, n, S) uint8 by day, user and state; None unless asked for


class Mixture(NamedTuple):
    """The best policy within a budget: at most two plans, drawn per user."""

    price: Array  # (1 or 2,) prices of the plans mixed
    weight: Array  # (1 or 2,) sums to 1
    reward: float  # per user per campaign
    cost: float  # per user per campaign, at most the budget
    bound: float  # no policy is worth more; equals `reward` up to rounding


class Curve(NamedTuple):
    """Mean reward and cost per user of the plans at G prices, cheapest plan first."""

    price: Array  # (G,)
    reward: Array  # (G,)
    cost: Array  # (G,)

    def reward_at(self, budget: float | Array) -> Array:
        """Reward of the best mixture of these plans at each budget: their upper envelope."""
        hull = _envelope(self.cost, self.reward)
        return np.asarray(np.interp(budget, self.cost[hull], self.reward[hull]))

    def mixture_at(self, budget: float) -> tuple[Array, Array]:
        """Prices and weights of the at most two plans whose mixture earns `reward_at(budget)`."""
        hull = _envelope(self.cost, self.reward)
        right = int(np.searchsorted(self.cost[hull], budget))
        if right in (0, len(hull)):
            return self.price[hull[[min(right, len(hull) - 1)]]], np.ones(1)
        pair = hull[right - 1 : right + 1]
        low, high = self.cost[pair]
        share = (budget - low) / (high - low)
        return self.price[pair], np.array([1 - share, share])

    def bound_at(self, budget: float | Array) -> Array:
        """Lagrangian bound at each budget: no policy earns more (if the plans are optimal)."""
        finite = np.isfinite(self.price)
        price = self.price[finite]
        net = self.reward[finite] - price * self.cost[finite]
        return np.asarray((np.multiply.outer(budget, price) + net).min(axis=-1))


def plan(
    config: CampaignConfig,
    users: Users,
    price: npt.ArrayLike,
    *,
    foresight: float = 1.0,
    keep_actions: bool = False,
) -> Plan:
    """Solve every user's campaign at each price; `inf` means that money is never spent.

    Args:
        foresight: weight of the future when actions are chosen; 0 is the myopic policy with
            perfect knowledge of the response. Rewards and costs are always those really earned.
        keep_actions: also return the policy tables (G * T * n * S bytes).

    Raises:
        ValueError: if a price is negative or NaN.
    """
    prices = np.atleast_1d(np.asarray(price, dtype=float))
    if not (prices >= 0).all():
        raise ValueError(f"price = {price!r}: allowed are numbers of at least 0")
    parts = [
        solve(config, users.take(slice(i, i + USERS)), prices, foresight, keep_actions)
        for i in range(0, max(users.n, 1), USERS)
    ]
    reward, cost = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    tables = [p[2] for p in parts if p[2] is not None]
    return Plan(prices, reward, cost, np.concatenate(tables, axis=2) if keep_actions else None)


def curve(
    config: CampaignConfig, users: Users, price: npt.ArrayLike, *, foresight: float = 1.0
) -> Curve:
    """Mean reward and cost of the plans at the given prices and at an infinite one."""
    prices = np.union1d(np.asarray(price, dtype=float), [np.inf])[::-1]
    p = plan(config, users, prices, foresight=foresight)
    return Curve(prices, p.reward.mean(axis=0), p.cost.mean(axis=0))


def best_mixture(
    config: CampaignConfig,
    users: Users,
    budget: float,
    *,
    tolerance: float = 1e-12,
) -> Mixture:
    """The optimal policy at a budget (currency per user per campaign), by column generation.

    Each round prices money at the slope between the two plans around the budget and solves one
    plan; it ends when no plan at that price beats the mixture by more than `tolerance`
    (relative): then the mixture and the Lagrangian bound are one number.

    Raises:
        ValueError: if the budget is negative or NaN.
    """
    if not budget >= 0:
        raise ValueError(f"budget = {budget!r}: allowed are numbers of at least 0")
    cheap, rich = (_column(config, users, p) for p in (np.inf, 0.0))
    if rich.cost <= budget:
        return Mixture(np.zeros(1), np.ones(1), rich.reward, rich.cost, rich.reward)
    for _ in range(_MAX_ROUNDS):
        price = (rich.reward - cheap.reward) / (rich.cost - cheap.cost)
        best = _column(config, users, price)
        net = cheap.reward - price * cheap.cost
        gain = best.reward - price * best.cost - net
        if gain <= tolerance * max(abs(net), 1.0):
            break
        cheap, rich = (best, rich) if best.cost <= budget else (cheap, best)
    share = (budget - cheap.cost) / (rich.cost - cheap.cost)
    reward = (1 - share) * cheap.reward + share * rich.reward
    prices, weights = np.array([cheap.price, rich.price]), np.array([1 - share, share])
    return Mixture(prices, weights, reward, budget, reward + max(gain, 0.0))


def bound(config: CampaignConfig, users: Users, budget: float) -> float:
    """No policy that keeps the budget on average earns these users more (mean per user)."""
    return best_mixture(config, users, budget).bound


def spend_prices(
    config: CampaignConfig, users: Users, shares: npt.ArrayLike
) -> tuple[Array, Array]:
    """Budgets that are the given shares of the unconstrained optimum's spend, and their prices."""
    top = _column(config, users, 0.0).cost
    budgets = top * np.asarray(shares, dtype=float)
    prices = [best_mixture(config, users, b, tolerance=1e-4).price[-1] for b in budgets]
    return budgets, np.array(prices)


class _Column(NamedTuple):
    price: float
    reward: float
    cost: float


def _column(config: CampaignConfig, users: Users, price: float) -> _Column:
    p = plan(config, users, price)
    return _Column(price, float(p.reward.mean()), float(p.cost.mean()))


def _envelope(x: Array, y: Array) -> Array:
    """Rows of the upper concave envelope of points sorted by x."""
    hull: list[int] = []
    for i in range(len(x)):
        while hull and y[hull[-1]] <= y[i] and x[hull[-1]] >= x[i]:
            hull.pop()
        while len(hull) >= 2 and _below(x, y, hull[-2], hull[-1], i):
            hull.pop()
        if not hull or y[i] > y[hull[-1]]:
            hull.append(i)
    return np.array(hull)


def _below(x: Array, y: Array, a: int, b: int, c: int) -> bool:
    return bool((y[b] - y[a]) * (x[c] - x[a]) <= (y[c] - y[a]) * (x[b] - x[a]))
