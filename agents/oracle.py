"""The exact optimum as a policy, and the myopic policy with perfect knowledge of the response.

Both use the simulator's secrets: they are what learners are held against, not learners. They answer
`for_users(users)`, which `marketing_env.evaluate` calls for every population.

Source: backward induction on the true dynamics at the optimal price (`marketing_env.exact`).

Differences from a learner:
1. Tables of actions belong to one population; `for_users` makes them for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.common.types import Array
from marketing_env import CampaignConfig, DayView, Users
from marketing_env.dynamics import levels
from marketing_env.exact import best_mixture, curve, plan

NEEDS_SIMULATOR = True


@dataclass(frozen=True)
class Oracle:
    """Optimal (foresight 1) or myopic (foresight 0) plans at fixed prices, mixed."""

    config: CampaignConfig
    price: tuple[float, ...]
    weight: tuple[float, ...]
    foresight: float = 1.0

    def for_users(self, users: Users) -> TablePolicy:
        """The policy for these users; rows of the views it is shown must be theirs, in order."""
        solved = plan(self.config, users, self.price, foresight=self.foresight, keep_actions=True)
        assert solved.action is not None
        weight = np.array(self.weight)
        expected = float(solved.reward.mean(axis=0) @ weight)
        return TablePolicy(self.config, solved.action, weight, expected)


def oracles(
    config: CampaignConfig, budgets: Sequence[float], users: Users, foresight: float = 1.0
) -> list[Oracle]:
    """For each budget (currency per user per campaign) the mixture on which these users spend it.

    Prices come from a grid around those of the optimum, so a mixture may miss the optimum by a
    few thousandths. Short-sighted plans may spend more to earn less: their envelope is searched.
    """
    few = users.take(slice(0, 200))
    ends = [best_mixture(config, few, b, tolerance=1e-3).price for b in budgets]
    low, high = min(p[-1] for p in ends), max(p[-1] for p in ends)
    grid = np.geomspace(max(low / 4, 1e-3 * high), 4 * high, 20) if high > 0 else [1.0]
    found = curve(config, users, np.concatenate([[0.0], grid]), foresight=foresight)
    mixtures = [found.mixture_at(budget) for budget in budgets]
    return [Oracle(config, tuple(p.tolist()), tuple(w.tolist()), foresight) for p, w in mixtures]


@dataclass(frozen=True)
class TablePolicy:
    """Tables of actions for one population, mixed by the users' buckets."""

    config: CampaignConfig
    action: Array  # (P, T, n, S) by component, day, user and state
    weight: Array  # (P,)
    expected: float  # exact reward per user per campaign, without the luck of a simulated one

    def probs(self, view: DayView) -> Array:
        """One-hot rows.

        Raises:
            ValueError: if the view is not of the population that the tables were made for.
        """
        n = self.action.shape[2]
        if len(view.obs) != n:
            raise ValueError(f"view of {len(view.obs)} users: allowed are the {n} of the tables")
        part = np.searchsorted(np.cumsum(self.weight)[:-1], view.bucket, side="right")
        state = np.ravel_multi_index(levels(self.config, view.obs), self.config.shape)
        choice = self.action[part, view.day, np.arange(n), state]
        return np.asarray(np.eye(self.config.n_actions)[choice])
