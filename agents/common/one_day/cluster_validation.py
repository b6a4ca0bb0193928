"""How well clusters serve an allocation, on users that the network has not seen.

A set of clusters is worth the doubly robust value of its table at several budgets B, net of the
price lambda(B) that money has without clusters, so that no plan is praised for spending too much:

    worth = mean_B  R(B) - lambda(B) (C(B) - B)

Tables are made on one half of the users and valued on the other half, and the reverse.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.common.one_day.cluster_program import Outcomes, Plan, Rows, estimate, solve
from agents.common.one_day.clusters import Classifier, Clusters, Network, answers, assign
from agents.common.one_day.eom import terms
from agents.common.one_day.representation import Representation, UserDays
from agents.common.types import Array

BUDGETS = (0.25, 0.5, 1.0)  # per user-day, in units of what the log spent


class Distillation(NamedTuple):
    """What a classifier loses against the clusters that it imitates, on held-out users."""

    disagreement: float  # share of user-days that it puts into another cluster
    value_lost: float  # fall of the worth, in reward per user-day


class HeldOut:
    """Users that the network has not seen: they tell what clusters bring, and which serve best."""

    def __init__(
        self, rows: UserDays, half: Array, network: Representation, risk: float, support: float
    ) -> None:
        self.rows, self.half = rows, half  # (m,) 0 or 1, the same on all days of a user
        self.risk, self.support = risk, support
        predicted = answers(network, rows.obs, rows.day)
        logged = (rows.user, rows.arm, rows.propensity, rows.outcome.double(), predicted.double())
        self.logged = [tensor.numpy() for tensor in logged]
        self.budgets = [share * float(rows.outcome[:, 1].mean()) for share in BUDGETS]

    def clusters(self, network: Network) -> Array:
        """(m,) cluster of each row."""
        return assign(network, self.rows.obs, self.rows.day)

    def outcomes(self, cluster: Array, n_clusters: int) -> Outcomes:
        """What clusters bring, by all held-out users."""
        return estimate(self._rows(cluster), n_clusters, self.support)

    def worth(self, cluster: Array, n_clusters: int) -> float:
        """Cross-validated worth of clusters (m,)."""
        found = []
        for mine in (self.half == 0, self.half == 1):
            rows, others = self._rows(cluster, mine), self._rows(cluster, ~mine)
            alike = others._replace(cluster=np.zeros_like(others.cluster))
            plain = solve(estimate(alike, 1, self.support), np.ones(1), risk=0.5)
            size = np.bincount(rows.cluster, minlength=n_clusters) / len(rows.cluster)
            table = solve(estimate(others, n_clusters, self.support), size, self.risk)
            for budget in self.budgets:
                reward, cost = _value(rows, table, budget)
                found.append(reward - plain.price_at(budget) * (cost - budget))
        return float(np.mean(found))

    def compare(self, teacher: Clusters, classifier: Classifier) -> Distillation:
        """What the classifier loses against its teacher."""
        meant, named = self.clusters(teacher), self.clusters(classifier)
        lost = self.worth(meant, len(teacher.centre)) - self.worth(named, len(teacher.centre))
        return Distillation(float((meant != named).mean()), lost)

    def _rows(self, cluster: Array, chosen: NDArray[np.bool_] | slice = slice(None)) -> Rows:
        return Rows(cluster[chosen], *(part[chosen] for part in self.logged))


def _value(rows: Rows, table: Plan, budget: float) -> tuple[float, float]:
    """Doubly robust reward and cost per user-day of a table at a budget."""
    probs = table.at(budget).probs(rows.cluster, rows.predicted.shape[1])
    found = terms(probs, rows.arm, rows.propensity, rows.outcome, rows.predicted)
    reward, cost = found["doubly_robust"].mean(axis=0).tolist()
    return reward, cost
