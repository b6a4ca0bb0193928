"""The best value of every budget at once: edges of all hulls, added up by falling slope.

Few users' edges are sorted, so that every breakpoint is exact. Many users' edges go to bins of
equal leading bits of their slopes, 1024 for each factor of 2, as they are met: one pass, a table of
4 MB. Breakpoints between bins are exact then, and the straight lines between them lie below the
true curve by less than a millionth of its value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from agents.common.mckp.offers import Layout, Offers, read_offers
from agents.common.mckp.sums import amount_of, limbs_of
from agents.common.mckp.sweep import Scales, Tally, Window, bin_floor, split, tally
from agents.common.types import Array

_EXACT = 1 << 20  # numbers up to which edges are sorted
_THIN = 1 << 14  # users that set the scales of more


@dataclass(frozen=True)
class CostCurve:
    """Best value of every budget, under the linear relaxation: concave and piecewise linear.

    ``price[j]`` is the slope from ``budget[j]`` to ``budget[j + 1]``. The last one is 0: more money
    buys nothing.
    """

    budget: Array  # (m,) breakpoints; the first is the least possible spend
    value: Array  # (m,)
    price: Array  # (m,) falling

    def value_at(self, budget: ArrayLike) -> Array:
        """Return the best value at each budget; raises ValueError below the least spend."""
        return np.interp(self._feasible(budget), self.budget, self.value)

    def price_at(self, budget: ArrayLike) -> Array:
        """Return what one more unit of money is worth at each budget."""
        last = np.searchsorted(self.budget, self._feasible(budget), side="right") - 1
        return np.asarray(self.price[last])

    def budget_for(self, value: ArrayLike) -> Array:
        """Return the least budget that buys each value; raises ValueError above the best value."""
        wanted = np.asarray(value, dtype=np.float64)
        if not np.all(wanted <= self.value[-1]):
            worst = float(wanted[~(wanted <= self.value[-1])].flat[0])
            raise ValueError(f"value is {worst}; the best possible value is {self.value[-1]}")
        return np.interp(wanted, self.value, self.budget)

    def _feasible(self, budget: ArrayLike) -> Array:
        amount = np.asarray(budget, dtype=np.float64)
        if not np.all(amount >= self.budget[0]):
            worst = float(amount[~(amount >= self.budget[0])].flat[0])
            raise ValueError(f"budget is {worst}; the least possible spend is {self.budget[0]}")
        return amount


def cost_curve(
    value: Any, cost: Any, *, eligible: Any = None, layout: Layout = "auto"
) -> CostCurve:
    """Return the best value of every budget at once: the ``bound`` of `solve_mckp`.

    Arguments and errors are the same as there. Up to a million numbers every breakpoint is exact,
    those of equal price being one; beyond, breakpoints are 0.1 % of price apart, and the value
    between them is at most a millionth too low.
    """
    offers = read_offers(value, cost, eligible, layout)
    if offers.users * offers.items <= _EXACT:
        return _sorted(offers)
    scales = Scales.of(offers, max(1, offers.users // _THIN))
    found = tally(offers, scales)
    if not found.finite:
        offers.largest()
    if not found.fits:
        scales = Scales.of(offers)
        found = tally(offers, scales)
    return from_tally(found, scales)


def _sorted(offers: Offers) -> CostCurve:
    """Every breakpoint."""
    scales = Scales.of(offers)
    found = split(offers, Window(np.array([np.inf]), np.zeros(1)), scales)
    order = np.argsort(-found.edges.slope)
    slope = np.append(found.edges.slope[order], 0.0)
    spends, gains = (
        np.cumsum(limbs_of(pair[:, order], scale), axis=1)
        for pair, scale in ((found.edges.cost, scales.cost), (found.edges.value, scales.value))
    )
    cost = _running(spends, found.cost[0], scales.cost)
    value = _running(gains, found.value[0], scales.value)
    corner = np.append(True, slope[1:] != slope[:-1])
    return _curve(cost[corner], value[corner], slope[corner])


def from_tally(found: Tally, scales: Scales) -> CostCurve:
    """One breakpoint for each bin that is not empty."""
    used = np.flatnonzero(found.table.any(axis=1))[::-1]
    sums = found.table[used].cumsum(axis=0).T
    value = _running(sums[:2], found.value, scales.value)
    cost = _running(sums[2:], found.cost, scales.cost)
    least, most = (bin_floor(used + up, scales) for up in (0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        price = np.clip(np.diff(value) / np.diff(cost), least, most)
    return _curve(cost, value, np.append(price, 0.0))


def _curve(cost: Array, value: Array, price: Array) -> CostCurve:
    """Where several edges cost less than the rounding of the sum, the last one stands for all."""
    last = np.append(np.diff(cost) > 0, True)
    return CostCurve(cost[last], value[last], price[last])


def _running(limbs: Array, start: int, scale: int) -> Array:
    """Amounts from the start on, given running sums of limbs."""
    amount = np.zeros(limbs.shape[1])
    for limb in limbs[::-1]:
        amount = limb + amount / 2.0**32
    return amount_of(start, scale) + np.append(0.0, amount) / 2.0**scale
