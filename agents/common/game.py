"""The game between a price and policies: mixed policies under m constraints.

A policy pi is known here only by its measurement z(pi) = (reward, cost_1, .., cost_m), the means
per user of a campaign. Mixing policies per user averages measurements, so the attainable set is
convex, and two classic methods find a mixture of few policies, each call to the oracle being one
best response to a direction (a price on every cost):

- `column_generation` (Dantzig & Wolfe, Operations Research 8(1), 1960): maximise the reward
  within the budgets, with a Lagrangian bound on what any mixture can earn.
- `minimum_norm_point` (Wolfe, Math. Programming 11, 1976, for the distance to a box; the
  policy-efficient reduction of Cai et al., arXiv 2108.12916): reach a box of measurements, or
  certify how far from it every policy stays.

Both mix at most one policy more than there are coordinates to balance: m + 1 for m budgets,
d + 1 for a box in d dimensions.

Differences from Cai et al.:
1. The optimum is found by column generation instead of a search over feasibility problems.
2. The minor cycle minimises the distance from the affine hull to the *box*, not to a fixed
   projection; with the latter, more than d + 1 policies can survive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog, lsq_linear

Array = npt.NDArray[Any]

_LP = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
_ZERO = 1e-11  # weights below are rounding


class Measured(NamedTuple):
    """A policy and what it is worth."""

    policy: Any
    z: Array  # (1 + m,) reward, then costs, per user per campaign


Oracle = Callable[[Array], Measured]
"""Best response: a policy that maximises `direction @ z`, for a direction (1 + m,)."""


class Master(NamedTuple):
    """Optimal mixture of given columns."""

    weight: Array  # (P,) at most m + 1 are not zero
    z: Array  # (1 + m,) of the mixture
    price: Array  # (m,) reward per unit of each budget


@dataclass(frozen=True)
class Mixed:
    """A mixed policy with its certificate."""

    policies: tuple[Any, ...]
    weight: Array  # (k,) above 0, sums to 1
    z: Array  # (1 + m,) measurement of the mixture
    price: Array  # (m,) shadow prices; of a distance, the costs' part of the way into the box
    bound: float  # no mixture earns more; of a distance, none is nearer
    calls: int  # of the oracle
    gaps: tuple[float, ...]  # certificate, round by round; the last is this mixture's

    @property
    def gap(self) -> float:
        """How far from the optimum this mixture can be at most, if the oracle is exact."""
        return self.gaps[-1]


class InfeasibleError(ValueError):
    """No mixture keeps the budgets; `excess` is the least total overspend, of costs `least`."""

    def __init__(self, budget: Array, excess: float, least: Array) -> None:
        self.excess, self.least = excess, least
        super().__init__(
            f"budget = {budget.tolist()}: no policy keeps it; the nearest costs {least.tolist()}"
        )


def solve_master(z: npt.ArrayLike, budget: npt.ArrayLike) -> Master:
    """Best mixture of columns z (P, 1 + m) within budgets (m,): a linear program's basic solution.

    Args:
        budget: inf leaves a cost free.

    Raises:
        InfeasibleError: with the least possible overspend, if no mixture keeps the budgets.
        ValueError: if a budget is NaN or minus infinity.
    """
    z, budget = np.atleast_2d(np.asarray(z, float)), _budgets(budget)
    capped = np.isfinite(budget)
    # In units of their own size, rewards in thousands and costs in cents are solved alike well.
    unit = np.abs(z).max(axis=0)
    unit[unit == 0] = 1.0
    scaled, limit = z / unit, (budget / unit[1:])[capped]
    lp = _mixture_lp(-scaled[:, 0], scaled[:, 1:].T[capped], limit)
    if lp.status == 2:
        excess, _, least = _least_overspend(z[:, 1:], budget)
        raise InfeasibleError(budget, excess, least)
    weight = np.where(lp.x > _ZERO, lp.x, 0.0)
    weight /= weight.sum()
    price = np.zeros(len(budget))
    price[capped] = np.maximum(-lp.ineqlin.marginals, 0.0)
    return Master(weight, weight @ z, price * unit[0] / unit[1:])


def column_generation(
    oracle: Oracle,
    budget: npt.ArrayLike,
    *,
    start: Measured,
    tolerance: float = 1e-10,
    max_calls: int = 200,
) -> Mixed:
    """Maximise the mean reward within the budgets, with at most m + 1 policies.

    Each round solves the master problem over the columns found, asks the oracle for the best
    response to the master's prices, and stops when `bound - reward <= tolerance` (relative), or
    when the oracle repeats itself. While the budgets cannot be kept, the oracle is asked to lower
    the overspend instead.

    Args:
        start: any policy; doing nothing makes the first master feasible.
        max_calls: of the oracle, in each of the two phases.

    Raises:
        InfeasibleError: if no mixture of any policies keeps the budgets.
        ValueError: if a budget is NaN or minus infinity.
    """
    budget = _budgets(budget)
    columns = _reach(oracle, budget, start, tolerance, max_calls)
    calls, bound, gaps = len(columns) - 1, np.inf, list[float]()
    limit = np.where(np.isfinite(budget), budget, 0.0)  # where a budget is infinite, its price is 0
    while True:
        master = solve_master([c.z for c in columns], budget)
        best = oracle(np.concatenate([[1.0], -master.price]))
        calls += 1
        bound = min(bound, float(best.z[0] - master.price @ (best.z[1:] - limit)))
        gaps.append(max(bound - float(master.z[0]), 0.0))
        done = gaps[-1] <= tolerance * max(1.0, abs(float(master.z[0])))
        if done or len(gaps) >= max_calls or _known(best, columns):
            break
        # No column is ever dropped: a degenerate master gives a new one no weight at first, and
        # without it would ask for it again.
        columns.append(best)
    mixed = np.flatnonzero(master.weight)
    policies = tuple(columns[k].policy for k in mixed)
    return Mixed(policies, master.weight[mixed], master.z, master.price, bound, calls, tuple(gaps))


def minimum_norm_point(
    oracle: Oracle,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    *,
    start: Measured,
    tolerance: float = 1e-10,
    max_calls: int = 200,
) -> Mixed:
    """Bring the measurement of a mixture into the box [low, high], or as near as possible.

    `gap` is 0 inside the box; outside, `bound` certifies that every mixture stays at least that
    far away, and `gap` is what is left between it and this mixture's distance. At most d + 1
    policies for d coordinates.

    Raises:
        ValueError: if the box is empty.
    """
    low, high = (np.broadcast_to(np.asarray(x, float), start.z.shape) for x in (low, high))
    if not (low <= high).all():
        raise ValueError(f"low = {low.tolist()}: allowed are numbers up to high = {high.tolist()}")
    columns, weight, bound, calls, gaps = [start], np.ones(1), 0.0, 0, list[float]()
    while True:
        z = weight @ np.array([c.z for c in columns])
        g = z - np.clip(z, low, high)
        distance, enough = float(np.linalg.norm(g)), tolerance * max(1.0, float(np.abs(z).max()))
        gaps.append(max(distance - bound, 0.0))
        if gaps[-1] <= enough or calls >= max_calls:
            break
        best = oracle(-g)
        calls += 1
        bound = max(bound, distance - float(g @ (z - best.z)) / distance)
        gaps[-1] = max(distance - bound, 0.0)
        if gaps[-1] <= enough or _known(best, columns):
            break
        columns, weight = _minor_cycle([*columns, best], np.append(weight, 0.0), low, high)
    policies = tuple(c.policy for c in columns)
    return Mixed(policies, weight, z, g[1:], bound, calls, tuple(gaps))


def _minor_cycle(
    columns: list[Measured], weight: Array, low: Array, high: Array
) -> tuple[list[Measured], Array]:
    """Move to the nearest point of the affine hull; drop columns until it is a mixture."""
    while True:
        target = _nearest_affine(np.array([c.z for c in columns]), low, high)
        inside = bool((target >= -_ZERO).all())
        kept = target > _ZERO
        if not inside:
            falling = target < 0
            steps = weight[falling] / (weight[falling] - target[falling])
            target = weight + steps.min() * (target - weight)
            kept = target > _ZERO
            kept[np.flatnonzero(falling)[steps.argmin()]] = False
        columns = [c for c, keep in zip(columns, kept, strict=True) if keep]
        weight = target[kept] / target[kept].sum()
        if inside:
            return columns, weight


def _nearest_affine(z: Array, low: Array, high: Array) -> Array:
    """Affine weights (sum 1) of the point of aff(z) that is nearest to the box."""
    if len(z) == 1:
        return np.ones(1)
    k, d = len(z) - 1, z.shape[1]
    # Where the box has no width there is nothing to choose, and the solver stalls.
    wide = high > low
    fit = lsq_linear(
        np.hstack([(z[1:] - z[0]).T, -np.eye(d)[:, wide]]),
        np.where(wide, 0.0, low) - z[0],
        bounds=[
            np.concatenate([np.full(k, -np.inf), low[wide]]),
            np.concatenate([np.full(k, np.inf), high[wide]]),
        ],
        method="bvls", tol=1e-14, max_iter=100 * (k + d),
    )  # fmt: skip
    return np.concatenate([[1 - fit.x[:k].sum()], fit.x[:k]])


def _reach(
    oracle: Oracle, budget: Array, start: Measured, tolerance: float, max_calls: int
) -> list[Measured]:
    """Columns with a mixture inside the budgets, found by pricing overspend alone."""
    columns = [start]
    while True:
        try:
            solve_master([c.z for c in columns], budget)
        except InfeasibleError as error:
            excess, price, least = _least_overspend(np.array([c.z[1:] for c in columns]), budget)
            best = oracle(np.concatenate([[0.0], -price]))
            lower = float(price[price > 0] @ (best.z[1:] - budget)[price > 0])
            certain = excess - lower <= tolerance * max(1.0, float(np.abs(least).max()))
            if certain or len(columns) > max_calls or _known(best, columns):
                raise error
            columns.append(best)
        else:
            return columns


def _least_overspend(cost: Array, budget: Array) -> tuple[float, Array, Array]:
    """Least total overspend of mixtures of the columns, the price (m,) that proves it, its costs.

    No mixture of policies overspends less than  min over policies of price . (cost - budget).
    """
    n, capped = len(cost), np.isfinite(budget)
    m = int(capped.sum())
    lp = _mixture_lp(
        np.repeat([0.0, 1.0], [n, m]), np.hstack([cost.T[capped], -np.eye(m)]), budget[capped], n
    )
    price = np.zeros(len(budget))
    price[capped] = np.maximum(-lp.ineqlin.marginals, 0.0)
    return float(lp.fun), price, lp.x[:n] @ cost


def _mixture_lp(loss: Array, rows: Array, limit: Array, n: int | None = None) -> Any:
    """Minimise loss . x  s.t.  rows . x <= limit,  x >= 0,  the first n (or all) of x sum to 1."""
    total = np.zeros((1, len(loss)))
    total[:, :n] = 1.0
    # The simplex method ends in a vertex: no more weights than rows.
    lp = linprog(
        loss, A_ub=rows, b_ub=limit, A_eq=total, b_eq=[1.0], method="highs-ds", options=_LP
    )
    if lp.status not in (0, 2):
        raise ArithmeticError(f"linear program of {rows.shape}: {lp.message}")
    return lp


def _budgets(budget: npt.ArrayLike) -> Array:
    budget = np.atleast_1d(np.asarray(budget, dtype=float))
    if not (budget > -np.inf).all():
        raise ValueError(f"budget = {budget.tolist()}: allowed are numbers and inf")
    return budget


def _known(best: Measured, columns: Sequence[Measured]) -> bool:
    return any(np.array_equal(best.z, c.z) for c in columns)
