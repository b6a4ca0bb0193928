"""What clusters bring under each arm, and which arm each cluster gets at every budget.

The mean outcome of cluster l under arm j is estimated from logged rows with weights w = 1 / p and
shrunk by empirical Bayes towards what the arm brings on average, moved by what a model predicts,

    ybar_lj = sum w y / sum w,   s_lj its standard error,   m_lj = ybar_j + mhat_lj - mhat_j
    y_lj    = b_lj ybar_lj + (1 - b_lj) m_lj,   b_lj = tau_j^2 / (tau_j^2 + s_lj^2)

where tau_j^2 = max(0, mean_l (ybar_lj - m_lj)^2 - s_lj^2). With n_l users in cluster l, the integer
stochastic program is

    max_z  sum_lj n_l r_lj z_lj   s.t.  P(sum_lj n_l c_lj z_lj <= B) >= 1 - risk,  sum_j z_lj = 1

which for independent normal errors means  sum n c z + q (sum n^2 s^2 z)^(1/2) <= B, with q the
normal quantile of 1 - risk. Vertices of the linear relaxation in the mean costs, from the cheapest
arms to the best ones, are a table with one row for each stretch of budgets: neighbours differ in
the arm of one cluster (or of clusters of equal slope), which is split to spend B. A split cluster
keeps the margin, which is convex along the edge between two vertices.

Wang et al., 2025, arXiv 2506.00959 (integer stochastic program over clusters); DerSimonian & Laird,
Controlled Clinical Trials 7 (1986) (tau^2 by moments).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from agents.common.knapsack import cost_curve
from agents.common.types import Array

_BORROWED = 10  # users' worth of everyone that enters each cell's variance and arm shares


class Rows(NamedTuple):
    """Logged user-days, each in a cluster."""

    cluster: Array  # (m,)
    user: Array  # (m,) days of a user are not independent
    arm: Array  # (m,)
    propensity: Array  # (m,)
    outcome: Array  # (m, 2) reward and cost
    predicted: Array  # (m, K, 2) by a model that did not see the user


class Outcomes(NamedTuple):
    """Reward and cost of each cluster under each arm; NaN where an arm was never given."""

    mean: Array  # (L, K, 2)
    error: Array  # (L, K, 2) of the unshrunk mean: shrinking only lowers it
    eligible: Array  # (L, K) bool: the log tried the arm often enough; at least one a cluster


class Cells(NamedTuple):
    """Weighted means over the rows of each cluster and arm."""

    rows: Array  # (L, K) how many
    mean: Array  # (L, K, 2) NaN without rows
    total: Array  # (L, K) sum of weights
    size: Array  # (L, K) rows of equal weight that would be as good: (sum w)^2 / sum w^2
    variance: Array  # (L, K, 2) of one such row


def estimate(rows: Rows, n_clusters: int, least_support: float) -> Outcomes:
    """Shrunken outcomes of the clusters.

    Args:
        least_support: share of a cluster's rows below which an arm is not eligible there.
    """
    cells = cell_means(rows, n_clusters)
    sums = cells.total[..., None] * np.nan_to_num(cells.mean)
    with np.errstate(invalid="ignore", divide="ignore"):
        arm_mean = sums.sum(axis=0) / cells.total.sum(axis=0)[:, None]
        sampling = cells.variance / cells.size[..., None]
    prior = arm_mean + _cluster_means(rows, n_clusters) - rows.predicted.mean(axis=0)
    mean = shrink(cells.mean, sampling, prior, cells.rows.sum(axis=1))
    mean[..., 1] = np.maximum(mean[..., 1], 0)
    error = np.sqrt(cells.variance / np.maximum(cells.size, 1)[..., None])
    return Outcomes(mean, error, _eligible(cells.rows, least_support))


def cell_means(rows: Rows, n_clusters: int) -> Cells:
    """Inverse-propensity-weighted means, with variances robust to days of one user."""
    n_actions = rows.predicted.shape[1]
    shape, n = (n_clusters, n_actions), n_clusters * n_actions
    cell, weight = rows.cluster * n_actions + rows.arm, 1 / rows.propensity
    total, squares = _sums(cell, weight, n), _sums(cell, weight**2, n)
    with np.errstate(invalid="ignore"):
        mean = _sums(cell, weight[:, None] * rows.outcome, n) / total[:, None]
        size = np.nan_to_num(total**2 / squares)
    pair, at = np.unique(rows.user * n + cell, return_inverse=True)
    deviation = _sums(at, weight[:, None] * (rows.outcome - mean[cell]), len(pair)) ** 2
    own = _sums(pair % n, deviation, n).reshape(*shape, 2)
    users, squares = np.bincount(pair % n, minlength=n).reshape(shape), squares.reshape(shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        arm = own.sum(axis=0) / squares.sum(axis=0)[:, None]
        single = np.nan_to_num(own / squares[..., None])
        several = users[..., None]
        variance = (several * single + _BORROWED * arm) / (several + _BORROWED)
    count = np.bincount(cell, minlength=n).reshape(shape)
    return Cells(
        count, mean.reshape(*shape, 2), total.reshape(shape), size.reshape(shape), variance
    )


def shrink(mean: Array, variance: Array, prior: Array, weight: Array) -> Array:
    """Empirical-Bayes means: those of the data where they are sure, the prior where there are none.

    Args:
        mean: (L, ...) estimates, ignored where the variance is not finite.
        variance: (L, ...) of the estimates.
        weight: (L,) of each cluster in the variance between clusters.
    """
    known = np.isfinite(variance)
    w = weight.reshape(-1, *[1] * (mean.ndim - 1)) * known
    gap, v = np.where(known, mean - prior, 0.0), np.where(known, variance, 0.0)
    between = np.maximum((w * (gap**2 - v)).sum(axis=0) / np.maximum(w.sum(axis=0), 1e-300), 0)
    both = between + v
    share = np.divide(between, both, out=np.ones_like(both), where=both > 0)
    return np.asarray(prior + share * gap)


class Split(NamedTuple):
    """Each cluster's arm, for two groups of users."""

    arm: Array  # (L,)
    dearer: Array  # (L,) another arm for one cluster, or for none
    share: float  # of the users who get the dearer ones

    def serve(self, cluster: Array, bucket: Array) -> Array:
        """(n,) arms: within the split cluster users of low buckets get the dearer one."""
        return np.asarray(np.where(bucket < self.share, self.dearer[cluster], self.arm[cluster]))

    def probs(self, cluster: Array, n_actions: int) -> Array:
        """(n, K) the same in expectation over buckets."""
        one = np.eye(n_actions)
        return np.asarray(
            self.share * one[self.dearer[cluster]] + (1 - self.share) * one[self.arm[cluster]]
        )


@dataclass(frozen=True)
class Plan:
    """The table: vertices from the cheapest arms to the best, in the clusters' units of size."""

    choice: Array  # (M, L) arm of each cluster
    total: Array  # (M, 2) expected reward and cost, both rising
    error: Array  # (M, 2) standard errors
    secured: Array  # (M,) cost that is not exceeded with probability 1 - risk, not falling
    price: Array  # (M,) reward that a unit of money adds after each vertex; the last is 0

    def at(self, budget: float) -> Split:
        """What to do with a budget; with too little of it everyone gets the cheapest arm."""
        m, share = self._place(budget)
        return Split(self.choice[m], self.choice[min(m + 1, len(self.choice) - 1)], share)

    def expected(self, budget: float) -> tuple[Array, Array]:
        """(2,) reward and cost of `at(budget)`, and at most their standard errors."""
        m, share = self._place(budget)
        after = min(m + 1, len(self.choice) - 1)
        mean, error = ((1 - share) * x[m] + share * x[after] for x in (self.total, self.error))
        return mean, error

    def price_at(self, budget: float) -> float:
        """Reward that another unit of money adds."""
        return float(self.price[self._place(budget)[0]])

    def bound(self, budget: float) -> float:
        """The most that any allocation of the clusters earns if the means are true."""
        return float(np.interp(budget, self.total[:, 1], self.total[:, 0]))

    def _place(self, budget: float) -> tuple[int, float]:
        """The last vertex within the budget, and the share of the way to the next one."""
        m = max(int(np.searchsorted(self.secured, budget, side="right")) - 1, 0)
        if m == len(self.secured) - 1 or budget < self.secured[m]:
            return m, 0.0
        return m, float((budget - self.secured[m]) / (self.secured[m + 1] - self.secured[m]))


def solve(outcomes: Outcomes, size: Array, risk: float) -> Plan:
    """Every vertex of the linear relaxation.

    Args:
        size: (L,) users of each cluster, in any unit; budgets are in currency for that many.
        risk: accepted probability of spending more than the budget; 1/2 for no margin.
    """
    reward, cost = np.moveaxis(np.nan_to_num(outcomes.mean), -1, 0)
    n, allowed = size[:, None], outcomes.eligible
    price = cost_curve(n * reward, n * cost, eligible=allowed).price
    # Between two slopes of the curve, each cluster's best arm is unique.
    between = (np.append(2 * price[0] or 1.0, price[:-1]) + price) / 2
    choice = np.stack([np.where(allowed, reward - p * cost, -np.inf).argmax(1) for p in between])
    rows = np.arange(len(size))
    total = size @ np.nan_to_num(outcomes.mean)[rows, choice]
    error = np.sqrt(size**2 @ np.nan_to_num(outcomes.error)[rows, choice] ** 2)
    margin = NormalDist().inv_cdf(1 - risk) * error[:, 1]
    secured = np.maximum.accumulate(total[:, 1] + margin)
    return Plan(choice, total, error, secured, price)


def _sums(index: Array, values: Array, n: int) -> Array:
    """(n, ...) sums of the rows (m, ...) of each index."""
    if values.ndim == 1:
        return np.bincount(index, values, minlength=n)
    return np.stack([np.bincount(index, column, minlength=n) for column in values.T], axis=1)


def _cluster_means(rows: Rows, n_clusters: int) -> Array:
    """(L, K, 2) mean predictions, those of everyone where a cluster is empty."""
    m, count = len(rows.cluster), np.bincount(rows.cluster, minlength=n_clusters)
    sums = _sums(rows.cluster, rows.predicted.reshape(m, -1), n_clusters)
    mean = sums / np.maximum(count, 1)[:, None]
    mean[count == 0] = rows.predicted.mean(axis=0).ravel()
    return mean.reshape(n_clusters, -1, 2)


def _eligible(count: Array, least: float) -> Array:
    """(L, K) by shares of rows, a few of everyone's added lest a small cluster miss an arm."""
    everyone = count.sum(axis=0)
    count = count + _BORROWED * everyone / everyone.sum()
    share = count / count.sum(axis=1, keepdims=True)
    return np.asarray(((share >= least) & (count > 0)) | (share == share.max(axis=1)[:, None]))
