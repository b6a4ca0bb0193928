"""The game between a price and policies: the best mixture of policies within m budgets.

A policy pi is known here only by its measurement z(pi) = (reward r, cost_1, .., cost_m), the means
per user of a campaign. A mixture draws one policy for each user, so it averages measurements:

    max_w  sum_k w_k r_k   s.t.  sum_k w_k c_k <= budget,  sum_k w_k = 1,  w >= 0

over more policies than can be listed. Column generation is the revised simplex method on this
master problem. Its basis of m + 1 columns, each a policy or the slack of a budget, is all that it
stores. The dual prices of the basis are one player's move; the entering policy is the other's best
response, one call to the oracle; the policy that leaves is forgotten. As a mixture within the
budgets cannot earn more than it would with money at any price >= 0,

    reward  <=  price . budget + max_pi (r(pi) - price . c(pi)),

each round also certifies how much is left to gain.

Sources: Dantzig & Wolfe, Decomposition Principle for Linear Programs, Operations Research 8(1),
1960; Cai et al., A Policy Efficient Reduction Approach to Convex Constrained Deep Reinforcement
Learning, arXiv 2108.12916, for the aim of storing m + 1 policies, as many as an optimum can need.

Differences from the papers:
1. Cai et al. bring measurements into a convex set (`games/norm_point.py`). Here the reward is
   maximised directly, with as few policies and no search over attainable rewards.
2. The first phase starts from any policy and lowers its total overspend; what cannot be removed is
   the proof that the budgets are impossible.
3. Ties of the ratio test are broken lexicographically (Dantzig, Orden & Wolfe, Pacific Journal of
   Mathematics 5(2), 1955). This excludes cycles like Bland's rule, but needs no list of policies.
4. The basis is small, so each pivot solves it anew: no updated inverse gathers rounding errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_ZERO = 1e-12  # weights, shares of a budget and relative gains below are rounding
_PIVOT = 1e-10  # least use of a row, in its unit, that the ratio test heeds
_FEASIBILITY, _REWARD = 0, 1  # the two phases: what a unit of reward counts in each


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
    calls: int = 0  # of the oracle


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
    stored: int  # the most policies kept from one call of the oracle to the next

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
        ValueError: if a budget is NaN or minus infinity, or a column is not finite.
    """
    columns = [Measured(k, row) for k, row in enumerate(np.atleast_2d(np.asarray(z, float)))]
    enough = 100 + 10 * len(columns)
    found = column_generation(
        best_of(columns), budget, start=columns[0], tolerance=0.0, max_calls=enough
    )
    weight = np.zeros(len(columns))
    weight[list(found.policies)] = found.weight
    return Master(weight, found.z, found.price, found.calls)


def column_generation(
    oracle: Oracle,
    budget: npt.ArrayLike,
    *,
    start: Measured | Sequence[Measured],
    tolerance: float = 1e-10,
    max_calls: int = 200,
) -> Mixed:
    """Maximise the mean reward within the budgets, storing at most m + 1 policies at any time.

    Each round asks the oracle for the best response to the prices of the basis and lets it enter,
    until `bound - reward <= tolerance * |reward|`, what is left to gain is rounding, or the answer
    is stored already. While a budget is broken, the overspend is lowered instead. Budgets are kept
    up to 1e-10 of the largest cost seen.

    Args:
        budget: inf leaves a cost free.
        start: any policy, or up to m + 1 of them, such as the mixture for another budget.
        max_calls: of the oracle, in each of the two phases.

    Raises:
        InfeasibleError: if no mixture of any policies keeps the budgets, or none was found in
            `max_calls`.
        ValueError: if a budget is NaN or minus infinity, a measurement is not finite or of another
            length, or there are no or too many policies to start from.
    """
    budget = _budgets(budget)
    starts = [start] if isinstance(start, Measured) else start
    if not 1 <= len(starts) <= 1 + len(budget):
        raise ValueError(f"start has {len(starts)} policies: allowed are 1 to {1 + len(budget)}")
    basis = _Basis(budget, starts[0])
    with suppress(InfeasibleError):
        _two_phases(basis, best_of(starts), tolerance, max_calls)
    basis.stored = len(starts)
    return _two_phases(basis, oracle, tolerance, max_calls)


def _two_phases(basis: _Basis, oracle: Oracle, tolerance: float, max_calls: int) -> Mixed:
    basis.begin(_FEASIBILITY)
    _, _, broken = _climb(basis, oracle, tolerance, max_calls)
    if (excess := -basis.value()) > 0:
        *_, least = basis.mixture()
        raise InfeasibleError(basis.budget, excess, least[1:])
    basis.begin(_REWARD)
    bound, price, gaps = _climb(basis, oracle, tolerance, max_calls)
    calls = len(broken) + len(gaps)
    return Mixed(*basis.mixture(), price, bound, calls, tuple(gaps), basis.stored)


def _climb(
    basis: _Basis, oracle: Oracle, tolerance: float, max_calls: int
) -> tuple[float, Array, list[float]]:
    """Maximise the objective of one phase; its bound, the prices (m,) of that bound, its gaps."""
    bound, shadow, gaps = np.inf, np.zeros(len(basis.budget)), list[float]()
    limit = np.where(np.isfinite(basis.budget), basis.budget, 0.0)  # elsewhere the price is 0
    while True:
        price, value = basis.price(), basis.value()
        if basis.phase == _FEASIBILITY and value == 0:
            return bound, shadow, gaps
        direction = np.concatenate([[basis.phase], -price])
        best = basis.checked(oracle(direction))
        terms = np.concatenate([direction * best.z, price * limit])
        if terms.sum() < bound:
            bound, shadow = float(terms.sum()), price
        gaps.append(max(bound - value, 0.0))
        enough = max(tolerance * abs(value), _ZERO * float(np.abs(terms).sum()))
        if gaps[-1] <= enough or len(gaps) >= max_calls or basis.holds(best):
            return bound, shadow, gaps
        basis.pivot(best)


class _Slack(NamedTuple):
    """What is left of a finite budget (sign 1), or is overspent (sign -1), in the row's unit."""

    row: int
    sign: int


_Column = Measured | _Slack


class _Basis:
    """A basis of the master problem: one row for each finite budget and, last, one for the users.

    The unit of a row is its largest entry so far, so that rewards in thousands and costs in cents
    are solved alike well.
    """

    def __init__(self, budget: Array, start: Measured) -> None:
        self.budget, self.capped = budget, np.flatnonzero(np.isfinite(budget))
        self.limit = np.append(budget[self.capped], 1.0)
        self.largest = np.abs(self.limit)
        over = self.uses(self.checked(start)) > self.limit
        slacks = [_Slack(row, -1 if over[row] else 1) for row in range(len(self.capped))]
        self.columns: list[_Column] = [start, *slacks]
        self.stored = 1

    def begin(self, phase: int) -> None:
        """Enter a phase; its lexicographic order is that of the basis it begins with."""
        self.phase = phase
        if phase == _REWARD:  # nothing is overspent any more
            self.columns = [_Slack(c.row, 1) if isinstance(c, _Slack) else c for c in self.columns]
        self.first = [c if isinstance(c, _Slack) else Measured(None, c.z) for c in self.columns]

    def checked(self, best: Measured) -> Measured:
        """The same measurement, found sound and covered by the units."""
        if best.z.shape != (1 + len(self.budget),) or not np.isfinite(best.z).all():
            raise ValueError(f"z = {best.z}: allowed are {1 + len(self.budget)} finite numbers")
        self.largest = np.maximum(self.largest, np.abs(self.uses(best)))
        return best

    def uses(self, policy: Measured) -> Array:
        """What a policy uses (m + 1,): of each finite budget, and of the users."""
        return np.append(policy.z[1:][self.capped], 1.0)

    @property
    def unit(self) -> Array:  # (m + 1,)
        return np.where(self.largest > 0, self.largest, 1.0)

    def matrix(self, columns: Sequence[_Column]) -> Array:
        """Entries (m + 1, len(columns)) in units."""
        one, unit = np.eye(len(self.limit)), self.unit
        entries = [
            c.sign * one[c.row] if isinstance(c, _Slack) else self.uses(c) / unit for c in columns
        ]
        return np.reshape(entries, (len(columns), len(one))).T

    def objective(self, columns: Sequence[_Column]) -> Array:
        """What a unit of each column adds: reward, or minus the overspend."""
        unit = self.unit
        worth = [
            min(c.sign, 0) * unit[c.row] if isinstance(c, _Slack) else self.phase * c.z[0]
            for c in columns
        ]
        return np.array(worth)

    def solution(self) -> Array:
        """How much there is of each column (m + 1,)."""
        x = np.linalg.solve(self.matrix(self.columns), self.limit / self.unit)
        return np.where(x > _ZERO, x, 0.0)

    def holds(self, best: Measured) -> bool:
        return any(isinstance(c, Measured) and np.array_equal(c.z, best.z) for c in self.columns)

    def value(self) -> float:
        return float(self.objective(self.columns) @ self.solution())

    def mixture(self) -> tuple[tuple[Any, ...], Array, Array]:
        """Policies, weights and measurement."""
        pairs = zip(self.columns, self.solution(), strict=True)
        used = [(c, x) for c, x in pairs if isinstance(c, Measured) and x > 0]
        weight = np.array([x for _, x in used])
        weight /= weight.sum()
        return tuple(c.policy for c, _ in used), weight, weight @ np.array([c.z for c, _ in used])

    def price(self) -> Array:
        """Dual prices (m,), once every slack that gains by them has entered."""
        signs = (1, -1) if self.phase == _FEASIBILITY else (1,)
        slacks = [_Slack(row, sign) for row in range(len(self.capped)) for sign in signs]
        # The lexicographic order ends the loop; its range is for rounding that defeats the order.
        for _ in range(100 * len(self.columns)):
            dual = np.linalg.solve(self.matrix(self.columns).T, self.objective(self.columns))
            reduced = self.objective(slacks) - dual @ self.matrix(slacks)
            if reduced.max(initial=0.0) <= _ZERO * np.abs(dual).max():
                break
            self.pivot(slacks[int(reduced.argmax())])
        price = np.zeros(len(self.budget))
        price[self.capped] = np.maximum(dual / self.unit, 0.0)[:-1]
        return price

    def pivot(self, entering: _Column) -> None:
        """Exchange the column that runs out first; lexicographically first among ties."""
        limit = self.limit / self.unit
        right = np.hstack([self.matrix([entering]), limit[:, None], self.matrix(self.first)])
        step, x, *order = np.linalg.solve(self.matrix(self.columns), right).T
        rows = np.flatnonzero(step > _PIVOT)
        for amount in (np.maximum(x, 0.0), *order):
            left = amount[rows] - step[rows] * (amount[rows] / step[rows]).min()
            rows = rows[left <= left.min() + _ZERO]
        self.columns[rows[0]] = entering
        self.stored = max(self.stored, sum(isinstance(c, Measured) for c in self.columns))


def best_of(columns: Sequence[Measured]) -> Oracle:
    """The oracle that knows the given policies alone."""
    z = np.array([c.z for c in columns])
    return lambda direction: columns[int((z @ direction).argmax())]


def _budgets(budget: npt.ArrayLike) -> Array:
    budget = np.atleast_1d(np.asarray(budget, dtype=float))
    if not (budget > -np.inf).all():
        raise ValueError(f"budget = {budget.tolist()}: allowed are numbers and inf")
    return budget
