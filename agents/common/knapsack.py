"""Budget allocation as a multiple-choice knapsack: every user gets exactly one item.

    maximise sum_i value[i, k_i]   subject to   sum_i cost[i, k_i] <= budget,   k_i eligible

The linear relaxation is solved exactly, in one pass over the data: samples tell within which prices
the shadow price of the budget must lie, users whose best item is the same at both ends of that
window are settled at once, and for the few others the edges of the upper hull of their (cost,
value) points are taken by falling slope until the money is spent. Without the one edge that no
longer fits the solution is integral; a search among the users who are nearly indifferent then
spends what is left. All sums are exact, so the answer does not depend on threads, on layout, or on
whether numba is there.

The choice is never read off ``value - price * cost`` at the shadow price: identical users would all
switch there at once. Equal slopes are served in the order of a hash of the user id, which is fair,
repeatable, and the same however the rows are sorted.

`agents.common.mckp` holds the parts: `solve` puts them together, `window` samples, `sweep` passes
over the users, `fill` takes edges, `core` spends what is left, `curve` is the best value of every
budget, and `stream` does the same for data that come in batches or lie on many machines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from agents.common.mckp.curve import CostCurve, cost_curve
from agents.common.mckp.keys import read_ids
from agents.common.mckp.offers import Columns, Layout, Offers, read_columns, read_offers
from agents.common.mckp.solve import solve
from agents.common.mckp.sums import amount_of
from agents.common.mckp.sweep import NO_GROUPS
from agents.common.mckp.window import Money
from agents.common.types import Array

__all__ = ["Allocation", "CostCurve", "cost_curve", "solve_mckp"]

_ROUNDS = 20  # of planning for a risk, at most
_WASTE = 0.01  # share of the reserve that may be kept back without need
_MANY = 1 << 17  # users from which sums close to the budget only are made again
_NEAR = 1e-14  # relative; beyond the rounding of numpy's sum


@dataclass(frozen=True)
class Allocation:
    """One eligible item for every user within the budget, and how far from optimal it can be."""

    choice: Array  # (n,) uint8
    value: float
    cost: float  # the float nearest to the exact sum; never above the budget
    price: float  # worth of one more unit of money: 0 if no limit binds, < 0 if the minimum does
    bound: float  # optimum of the linear relaxation: no allocation is worth more
    status: str
    group_price: Array  # (G,) what money is worth to each group: its own budget may bind, too
    reserve: float = 0.0  # currency kept back for realised costs above their expectation

    @property
    def gap(self) -> float:
        """Return the most that any allocation could be better, as a share of the bound."""
        missing = self.bound - self.value
        return missing / max(abs(self.bound), abs(self.value)) if missing else 0.0


def solve_mckp(
    value: Any,
    cost: Any,
    budget: float,
    *,
    eligible: Any = None,
    user_id: ArrayLike | None = None,
    repair: bool = True,
    layout: Layout = "auto",
    groups: ArrayLike | None = None,
    group_budgets: ArrayLike | None = None,
    min_spend: float | None = None,
    risk: float | None = None,
    variance: Any = None,
) -> Allocation:
    """Choose one item a user so that total value is as large as a total budget permits.

    One pass over the data from 65,536 users on, if the package numba is installed to compile it.

    value, cost: any sign. An array is (n, K), or (K, n) if `layout` is "columns"; a list of K
        arrays, an Arrow table or a record batch is K columns. Dense float32 and float64 arrays are
        read in place.
    budget: currency in total (not a user); may be infinite.
    eligible: bool like value, the items a user may get; default all.
    user_id: (n,) integers or strings that break ties; default the row number.
    repair: search for the best use of what the rounded relaxation leaves; without it less than one
        edge of one user's hull is lost.
    groups, group_budgets: (n,) integers from 0 to G - 1, and (G,) what each group may cost at most,
        within the whole budget. The rounded relaxation then loses less than G + 1 edges.
    min_spend: currency that has to be spent at least, even on items that are worth less.
    risk, variance: probability, up to 0.5, that the realised cost exceeds the budget; and, shaped
        like cost, the variance of each item's realised cost, independent between users. Plans for
        ``cost + z * sd <= budget`` with the normal quantile z; price and bound are those of the
        budget without the reserve ``z * sd``.

    Raises ValueError for wrong shapes, a number that is not finite (eligible or not), a user
    without an eligible item, a budget below the least possible spend, and a minimum above the most.
    """
    offers = read_offers(value, cost, eligible, layout)
    ids = read_ids(user_id, offers.users)
    group, own = _read_groups(groups, group_budgets, offers.users)
    money = Money(_read_amount("budget", budget), min_spend, own)
    if min_spend is not None and not _read_amount("min_spend", min_spend) <= budget:
        raise ValueError(f"min_spend is {min_spend}; allowed is up to the budget, {budget}")

    def plan(reserve: float) -> Allocation:
        return _allocate(offers, money._replace(budget=budget - reserve), group, ids, repair)

    if (risk is None) != (variance is None):
        raise ValueError("risk and variance: give both, or neither")
    if risk is None:
        return plan(0.0)
    return _within_risk(plan, budget, risk, _read_variance(variance, offers, layout), offers)


def _allocate(
    offers: Offers, money: Money, group: Array, ids: Array | None, repair: bool
) -> Allocation:
    filled, scales = solve(offers, money, group, ids, repair)
    value = amount_of(filled.value, scales.value)
    cost = amount_of(sum(filled.cost), scales.cost)
    if money.least is not None and not money.least <= cost <= money.budget:
        raise ValueError(
            f"min_spend is {money.least}, so close below the budget, {money.budget}, "
            f"that no allocation between them was found; nearest spend: {cost}"
        )
    bound = max(filled.bound, value)
    if filled.price > 0 and cost <= money.budget:
        excess = _rounded_excess(offers, filled.choice, cost, money.budget)
        if excess > 0:
            less = money._replace(budget=money.budget - 2 * excess)
            return replace(_allocate(offers, less, group, ids, repair), bound=bound)
    status = _status(filled.price, filled.prices)
    cost = min(cost, money.budget)  # the cheapest items may cost a rounding error more
    return Allocation(filled.choice, value, cost, filled.price, bound, status, filled.prices)


def _rounded_excess(offers: Offers, choice: Array, cost: float, budget: float) -> float:
    """How far numpy's own sum, whose rounding depends on its order, lies above the budget."""
    if offers.users > _MANY and cost < budget - _NEAR * abs(budget):
        return 0.0
    return float(offers.chosen(offers.cost, choice).sum()) - budget


def _status(price: float, prices: Array) -> str:
    if price > 0:
        return f"budget binds: one more unit of money is worth {price:.6g}"
    if price < 0:
        return f"minimum spend binds: one unit less of it is worth {-price:.6g}"
    if np.any(prices > 0):
        return f"budgets of {np.count_nonzero(prices > 0)} groups bind, the whole budget does not"
    return "budget does not bind: every user has its best item"


def _within_risk(
    plan: Callable[[float], Allocation],
    budget: float,
    risk: float,
    variance: Columns,
    offers: Offers,
) -> Allocation:
    """Keep back what makes ``cost + z * sd <= budget`` hold; sd is that of the users' own items."""
    if not 0 < risk <= 0.5:
        raise ValueError(f"risk is {risk}; allowed are probabilities above 0, up to 0.5")
    z, reserve = NormalDist().inv_cdf(1 - risk), 0.0
    best: Allocation | None = None
    for _ in range(_ROUNDS):
        a = plan(reserve)
        need = z * math.sqrt(math.fsum(offers.chosen(variance, a.choice)))
        if a.cost + need <= budget:
            if best is None or a.value > best.value:
                best = replace(a, reserve=need)
            if reserve <= need * (1 + _WASTE):
                break
        reserve = need if need > reserve or a.cost + need <= budget else reserve * (1 + _WASTE)
    if best is None:
        raise ValueError(f"risk is {risk}: no allocation was found that keeps it within the budget")
    return best


def _read_amount(name: str, amount: float) -> float:
    if np.isnan(amount):
        raise ValueError(f"{name} is nan; allowed is any amount, or infinity")
    return float(amount)


def _read_groups(groups: Any, budgets: Any, users: int) -> tuple[Array, Array]:
    """Each user's group, empty if there is one only, and the budget of each."""
    if (groups is None) != (budgets is None):
        raise ValueError("groups and group_budgets: give both, or neither")
    if groups is None:
        return NO_GROUPS, np.array([np.inf])
    own, group = np.asarray(budgets, dtype=np.float64), np.asarray(groups)
    if own.ndim != 1 or not len(own) or np.isnan(own).any():
        raise ValueError(f"group_budgets is {budgets}; allowed is one amount a group")
    if group.shape != (users,) or group.dtype.kind not in "iu":
        raise ValueError(f"groups is {group.dtype} {group.shape}; allowed are integers ({users},)")
    wrong = (group < 0) | (group >= len(own))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"groups is {group[row]} in row {row}; allowed is 0 to {len(own) - 1}")
    return np.ascontiguousarray(group, dtype=np.int32), own


def _read_variance(variance: Any, offers: Offers, layout: Layout) -> Columns:
    columns = read_columns(variance, "variance", layout)
    shape, wanted = ((len(x[0]), len(x)) for x in (columns, offers.cost))
    if shape != wanted:
        raise ValueError(f"variance has shape {shape}, cost {wanted}; they must be equal")
    for k, column in enumerate(columns):
        wrong = ~((column >= 0) & (column < np.inf))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"variance is {column[row]} in row {row}, column {k}; allowed is finite, from 0 on"
            )
    return columns
