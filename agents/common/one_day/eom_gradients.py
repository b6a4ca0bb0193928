"""Gradients of the marketing goal: what predictions earn once they have allocated a budget.

A batch of b rows is the population of a knapsack. At a price lambda, predictions V (b, K, 2) of
reward and cost choose

    z_i(V, lambda) = argmax_j V_ij,reward - lambda V_ij,cost

and lambda_B(V) is the price at which the predicted spend meets B. What that earns and costs is
estimated on the logged outcomes of the rows that got their z_i (EOM, the Hajek form of `eom.py`),

    R(V, lambda) = sum_{t_i = z_i} w_i r_i / sum_{t_i = z_i} w_i,     C alike,     w_i = 1 / p_i

The goal, sum_B R(V, lambda_B(V)), moves in steps. Three estimators smooth it by perturbations whose
size h is a quantile of the gaps between the two best scores:

    coordinate   g_e = [goal(V + h e) - goal(V)] / h     for random entries e, times their share
    gaussian     g = mean_u u [goal(V + h u) - goal(V - h u)] / (2 h),     u standard normal
    flip         one row's choice changes at a given price, and only where a gap is below h:
                 dR = w_i (r_i - R) / (S + w_i) for a row that comes to match its logged incentive,
                 -w_i (r_i - R) / (S - w_i) for one that ceases to; S is the sum of matched weights

`flip` divides by 2 h: the derivative of the mean if gaps were smeared evenly over +-h. A row that
matches can cease to in favour of every other incentive, and all that are near count: they balance
the rows that come to match, so that who earns more than the mean, whatever he gets, is not pushed.

Shadow-price correction: at the prices in use, without solving again, the goal is
sum_B (R - kappa_B C), where kappa is the slope dR / dC of the frontier that the policies trace in
the log. A change that only spends more, as when costs are predicted too low, then is worth nothing.
Prices and frontier are running means over batches; a batch's own are noisy.

Sources: Yan et al., 2023, arXiv 2302.04477 (the goal; finite differences); Zhou et al., DFCL,
KDD 2024 (flips, of two incentives and one price). Flips of several incentives, the correction and
the running prices are ours. Cost is counted in calls of the knapsack's solver; one call serves all
budgets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from agents.common.knapsack import cost_curve
from agents.common.types import Array

Kind = Literal["coordinate", "gaussian", "flip"]
Goal = Callable[[Array], float]

_NEAR = 0.2  # share of gaps that a perturbation of size h can close
_LEAST_GAP = 1e-3  # standard deviations of an outcome: where most users tie, h is not 0
_RATE = 0.05  # of the running means
_MOST = 4.0  # times the price, which a noisy slope may be


class Logged(NamedTuple):
    """What happened to the rows of a batch."""

    action: Array  # (b,)
    weight: Array  # (b,) inverse propensity
    outcome: Array  # (b, 2) reward and cost


def prices_that_spend(predicted: Array, budgets: Array) -> Array:
    """(M,) prices at which the predicted mean spend meets budgets (M,) per row: one solver call."""
    curve = cost_curve(predicted[..., 0], predicted[..., 1])
    price = curve.price_at(np.maximum(budgets * len(predicted), curve.budget[0]))
    # Just above the breakpoint the user who no longer fits stays out, whatever the rounding.
    return price * (1 + 1e-9)


def allocate(predicted: Array, prices: Array) -> Array:
    """(M, b) best incentive of every row at prices (M,)."""
    return np.asarray(_scores(predicted, prices).argmax(axis=-1))


def ladder(predicted: Array, prices: Array) -> Array:
    """(M + 2, b) choices of rising spend: the cheapest for all, at falling prices, for free."""
    ends = predicted[..., 1].argmin(axis=-1), predicted[..., 0].argmax(axis=-1)
    return np.stack([ends[0], *allocate(predicted, prices), ends[1]])


def matched_sums(choice: Array, logged: Logged) -> Array:
    """(M, 3) sums over the rows that got the choice: weight, weighted reward, weighted cost."""
    weight = np.where(choice == logged.action, logged.weight, 0.0)
    return np.asarray(weight @ np.column_stack([np.ones(len(logged.action)), logged.outcome]))


def means(sums: Array) -> Array:
    """(M, 2) Hajek means of matched sums; 0 where nothing matched."""
    values, weight = sums[:, 1:], sums[:, :1]
    return np.divide(values, weight, out=np.zeros_like(values), where=weight > 0)


def slopes(points: Array, told: Array, prices: Array) -> Array:
    """(M,) slope dR / dC of a frontier at its inner points.

    Where predictions are right it is the price. So it is the price times the slope from an inner
    point's left to its right neighbour, over the same slope as predicted: the bends in between
    cancel. The price itself where the neighbours do not differ.

    Args:
        points: (M + 2, 2) reward and cost of the ladder in the log.
        told: (M + 2, 2) the same, as predicted.
    """
    (gain, extra), (told_gain, told_extra) = (
        (values[2:] - values[:-2]).T for values in (points, told)
    )
    ratio = np.ones_like(prices)
    differ = (extra > 0) & (told_gain > 0)
    np.divide(gain * told_extra, extra * told_gain, out=ratio, where=differ)
    return prices * np.clip(ratio, 0, _MOST)


def gap_scale(predicted: Array, prices: Array) -> float:
    """h, a quantile of the gaps between the two best scores at prices (M,)."""
    top = np.partition(_scores(predicted, prices), -2, axis=-1)[..., -2:]
    return max(float(np.quantile(top[..., 1] - top[..., 0], _NEAR)), _LEAST_GAP)


def coordinate(
    goal: Goal, predicted: Array, h: float, samples: int, rng: np.random.Generator
) -> Array:
    """Forward differences in `samples` random entries, scaled up to the rest: samples + 1 goals."""
    size = predicted.size
    entries = rng.choice(size, min(samples, size), replace=False)
    base, gradient = goal(predicted), np.zeros(size)
    for e in entries:
        moved = predicted.flatten()
        moved[e] += h
        gradient[e] = (goal(moved.reshape(predicted.shape)) - base) / h
    return gradient.reshape(predicted.shape) * (size / len(entries))


def gaussian(
    goal: Goal, predicted: Array, h: float, samples: int, rng: np.random.Generator
) -> Array:
    """Antithetic smoothing over samples / 2 directions: two goals each."""
    gradient = np.zeros_like(predicted)
    for _ in range(samples // 2):
        u = rng.standard_normal(predicted.shape)
        gradient += u * (goal(predicted + h * u) - goal(predicted - h * u))
    return np.asarray(gradient / (2 * h * (samples // 2)))


def flip_changes(choice: Array, logged: Logged, slope: Array) -> Array:
    """(M, b) change of R - slope * C if a row comes to match its logged arm, or ceases to.

    Args:
        choice: (M, b) by M policies.
        slope: (M,) price of a unit of cost.
    """
    sign = np.where(choice == logged.action, -1.0, 1.0)
    sums = matched_sums(choice, logged)
    mean = (means(sums) * np.stack([np.ones_like(slope), -slope], axis=1)).sum(axis=1)
    net = logged.outcome[:, 0] - slope[:, None] * logged.outcome[:, 1]
    left = sums[:, :1] + sign * logged.weight
    change = sign * logged.weight * (net - mean[:, None])
    return np.divide(change, left, out=np.zeros_like(change), where=left > 0)


def flip(predicted: Array, logged: Logged, prices: Array, slope: Array, h: float) -> Array:
    """(b, K, 2) gradient by flips at prices (M,): no solver, no perturbation.

    The score of the logged arm is pushed by what a match is worth, those of its rivals the other
    way: the best arm if they do not match, else every other one; a score is reward - price * cost.
    """
    choice, arms = allocate(predicted, prices), np.arange(predicted.shape[1])
    matched = choice == logged.action
    change = flip_changes(choice, logged, slope)
    worth = np.where(matched, -change, change)
    rival = np.where(matched[..., None], arms != logged.action[:, None], arms == choice[..., None])
    score = _scores(predicted, prices)
    own = np.take_along_axis(score, logged.action[None, :, None], axis=2)
    near = rival & (np.abs(own - score) < h)
    push = near * worth[..., None] / (2 * h)  # (M, b, K)
    gradient = -push
    at = (slice(None), np.arange(len(predicted)), logged.action)
    gradient[at] += push.sum(axis=2)
    return np.stack([gradient.sum(axis=0), -(prices @ gradient.swapaxes(0, 1))], axis=-1)


class Frontier(NamedTuple):
    """Prices of money, and what their ladder earns and costs."""

    prices: Array  # (M,)
    sums: Array  # (M + 2, 3) in the log
    told: Array  # (M + 2, 2) as predicted

    @staticmethod
    def of(prices: Array, predicted: Array, logged: Logged) -> Frontier:
        rungs = ladder(predicted, prices)
        told = predicted[np.arange(len(predicted)), rungs].mean(axis=1)
        return Frontier(prices, matched_sums(rungs, logged), told)

    def slopes(self) -> Array:
        """(M,) kappa at each price."""
        return slopes(means(self.sums), self.told, self.prices)


class MarketingGoal:
    """The goal over several budgets, with what is carried on from batch to batch."""

    def __init__(
        self, budgets: Array, h: float, kind: Kind, *, corrected: bool, samples: int, seed: int
    ) -> None:
        self.budgets, self.h = budgets, h  # budgets (M,) per row
        self.kind, self.corrected = kind, corrected
        self.samples, self.rng = samples, np.random.default_rng(seed)
        self.frontier: Frontier | None = None  # running means
        self.solver_calls = 0

    def gradient(self, predicted: Array, logged: Logged) -> Array:
        """(b, K, 2) ascent direction of the goal on one batch."""
        prices, slope = self._prices(predicted, logged)
        if self.kind == "flip":
            return flip(predicted, logged, prices, slope, self.h)

        def goal(moved: Array) -> float:
            at = prices if self.corrected else self._solve(moved)
            reward, cost = means(matched_sums(allocate(moved, at), logged)).T
            return float((reward - slope * cost).sum())

        estimate = coordinate if self.kind == "coordinate" else gaussian
        return estimate(goal, predicted, self.h, self.samples, self.rng)

    def _prices(self, predicted: Array, logged: Logged) -> tuple[Array, Array]:
        """Prices (M,) of money, and what a unit of cost takes off the goal (M,)."""
        own = self._solve(predicted)
        if not self.corrected:
            return own, np.zeros_like(own)
        past = self.frontier
        prices = own if past is None else _running(past.prices, own)
        now = Frontier.of(prices, predicted, logged)
        if past is not None:
            now = Frontier(prices, _running(past.sums, now.sums), _running(past.told, now.told))
        self.frontier = now
        return prices, now.slopes()

    def _solve(self, predicted: Array) -> Array:
        self.solver_calls += 1
        return prices_that_spend(predicted, self.budgets)


def _running(mean: Array, new: Array) -> Array:
    return np.asarray(mean + _RATE * (new - mean))


def _scores(predicted: Array, prices: Array) -> Array:
    """(M, b, K) reward - price * cost."""
    return np.asarray(predicted[..., 0] - prices[:, None, None] * predicted[..., 1])
