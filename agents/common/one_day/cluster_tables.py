"""The table of each day, and the money that makes the tables of a campaign spend a budget.

A day's table is made for the log's numbers n of users in each cluster, with an even share of the
money b. But the log gave other incentives, so its users are in other clusters than those who follow
a plan: what the plan for b spends in a campaign, C(b), is not b. C and the reward R are evaluated
off-policy on held-out users for a grid of b, and a budget B is served by the plan that spends it
with the program's margin for errors,

    C(b(B)) + q s(b(B)) = B,    b(B) <= argmax_b R(b)

so that money beyond which rewards fall stays unspent. A plan depends on no audience: a user gets
the same alone and among others. Who gets the dearer arm of a split cluster is drawn anew every day,
as it is evaluated: those who always got it would soon be in other clusters than the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from agents.common.one_day.cluster_program import Outcomes, Plan, Split, solve
from agents.common.types import Array

_GRID = 10  # plans
_SMALLEST = 0.005  # of their money, as a share of what the best arms cost


class Judged(NamedTuple):
    """Campaign means per user of plans; the first has no money."""

    money: Array  # (G,) currency that each plan was made for, rising from 0
    value: Array  # (G, 2) reward and cost that it brings
    error: Array  # (G, 2) standard errors
    secured: Array  # (G,) cost that is not exceeded with probability 1 - risk, not falling

    def plan_for(self, budget: float) -> float:
        """Money to plan with, so that a budget is spent and earns something."""
        best = int(self.value[:, 0].argmax()) + 1
        return float(np.interp(budget, self.secured[:best], self.money[:best]))

    def expected(self, budget: float) -> tuple[Array, Array]:
        """(2,) reward and cost of the plan for a budget, and at most their standard errors."""
        plan = self.plan_for(budget)
        value, error = (
            np.array([np.interp(plan, self.money, column) for column in table.T])
            for table in (self.value, self.error)
        )
        return value, error


@dataclass(frozen=True, eq=False)
class Tables:
    """A table for each day, at the log's numbers of users."""

    outcomes: Outcomes
    share: Array  # (T, L) of all users; absent ones are in no cluster
    risk: float

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        """The table of each day, for every amount of money."""
        return tuple(solve(self.outcomes, size, self.risk) for size in self.share)

    def split(self, day: int, money: float) -> Split:
        """Arms of the clusters on a day; money in currency per user per campaign.

        Those who are there get an even share of it; days after the log's last are as that one.
        """
        day = min(day, len(self.share) - 1)
        return self.plans[day].at(money / len(self.share) * self.share[day].sum())

    def bound(self, money: float) -> float:
        """The most that the log's users could bring, as a myopic model believes."""
        return sum(plan.bound(money / len(self.plans)) for plan in self.plans)

    def grid(self) -> Array:
        """(G,) money from almost nothing to what the best arms cost, geometric."""
        dearest = sum(plan.secured[-1] for plan in self.plans)
        return np.asarray(dearest * np.geomspace(_SMALLEST, 1, _GRID))

    def probs(self, money: Array) -> Array:
        """(T, L, K, G) how often a cluster gets an arm on a day, under G plans."""
        n_clusters, n_actions = self.outcomes.eligible.shape
        everyone = np.arange(n_clusters)
        plans = [
            [self.split(day, amount).probs(everyone, n_actions) for day in range(len(self.share))]
            for amount in money.tolist()
        ]
        return np.moveaxis(np.array(plans), 0, -1)
