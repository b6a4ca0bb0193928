"""From limits to an allocation: guess a window, make the pass, fill the budget, spend what is left.

1. Samples give a window of prices; few users need none, their window is all prices.
2. One pass settles the users whom no price within the window moves, and lists the others' edges.
3. Edges are taken by falling slope. If a price is outside, the window was wrong: a wider one.
4. The money that whole edges leave is spent by a search among the nearly indifferent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from agents.common.mckp.core import improve
from agents.common.mckp.fill import Filled, Limits, fill
from agents.common.mckp.keys import hashes
from agents.common.mckp.offers import Offers
from agents.common.mckp.sums import amount_of, at_most, sum_of
from agents.common.mckp.sweep import Edges, Scales, Split, Window, split
from agents.common.mckp.window import CROWD, Money, guess_window, whole_window
from agents.common.types import Array

_WIDTHS = (3.0, 20.0)  # standard errors; after that, all prices
_THIN = 1 << 14  # users that set the scales of a crowd
_DUST = 1e-12  # relative error granted to a caller's own sum of the cheapest items
_ALL = 1 << 14  # users up to which all are searched, whether or not an edge is near the price
_NEAR = 4096  # edges near the price, else
_ENOUGH = 1e-11  # share of the bound that is not searched for
_POOLS = 16  # groups, the most promising ones, whose money is searched for a better use


def solve(
    offers: Offers, money: Money, group: Array, ids: Array | None, repair: bool
) -> tuple[Filled, Scales]:
    """Return the best allocation found, with the optimum of the relaxation as its bound.

    Raises ValueError for a number that is not finite, or if no allocation keeps the limits.
    """
    scales = Scales.of(offers, max(1, offers.users // _THIN))
    for window in _windows(offers, money, group):
        found, scales = _pass(offers, window, scales, group)
        limits = _limits(money, scales)
        if np.isinf(window.high).all():
            limits = _feasible(offers, found, limits, money, group, scales)
        filled = fill(found, limits, window, scales, group, ids)
        if filled is not None:
            if repair and np.any(filled.prices != 0):
                filled = _repaired(offers, found.edges, filled, limits, scales, group, ids)
            return filled, scales
    raise ValueError(f"min_spend is {money.least}, which is more than the budgets let users cost")


def _windows(offers: Offers, money: Money, group: Array) -> Iterator[Window]:
    if offers.users >= CROWD:
        for width in _WIDTHS:
            yield guess_window(offers, money, group, width)
    yield whole_window(money)


def _pass(offers: Offers, window: Window, scales: Scales, group: Array) -> tuple[Split, Scales]:
    found = split(offers, window, scales, group)
    if not found.finite:
        offers.largest()
    if not found.fits:
        scales = Scales.of(offers)
        found = split(offers, window, scales, group)
    return found, scales


def _limits(money: Money, scales: Scales) -> Limits:
    least = None if money.least is None else -at_most(-money.least, scales.cost)
    group = [at_most(x, scales.cost) for x in money.group]
    return Limits(at_most(money.budget, scales.cost), least, group)


def _feasible(
    offers: Offers, found: Split, limits: Limits, money: Money, group: Array, scales: Scales
) -> Limits:
    """The limits, forgiving a caller whose own sum of the cheapest items was rounded.

    Raises ValueError if everyone's cheapest item costs more.
    """
    cost = offers.chosen(offers.cost, found.choice)
    of = group if len(group) else np.zeros(offers.users, dtype=np.int8)
    spent = np.bincount(of, np.abs(cost), len(found.cost))
    dust = [at_most(_DUST * x, scales.cost) for x in spent]
    for g, (least, own) in enumerate(zip(found.cost, limits.group, strict=True)):
        if least > own + dust[g]:
            raise ValueError(
                f"group_budgets is {money.group[g]} for group {g}, which no allocation meets; "
                f"least possible: {amount_of(least, scales.cost)}"
            )
    if sum(found.cost) > limits.budget + sum(dust):
        raise ValueError(
            f"budget is {money.budget}, which no allocation meets; "
            f"least possible: {amount_of(sum(found.cost), scales.cost)}"
        )
    return limits._replace(
        budget=max(limits.budget, sum(found.cost)),
        group=[max(x, y) for x, y in zip(limits.group, found.cost, strict=True)],
    )


def _repaired(
    offers: Offers,
    edges: Edges,
    filled: Filled,
    limits: Limits,
    scales: Scales,
    group: Array,
    ids: Array | None,
) -> Filled:
    """Spend what is left of each group's money, and of the whole, on nearly indifferent users."""
    rows = _searched(offers, edges, filled, group)
    # Hashed again: in the order of service, those served would crowd out those who were not.
    rows = rows[np.argsort(hashes(None, hashes(ids, rows)), kind="stable")]
    value, cost = offers.take(rows)
    of = group[rows] if len(group) else np.zeros(len(rows), dtype=np.int8)
    for g in np.argsort(-np.abs(filled.prices), kind="stable")[:_POOLS]:
        own = of == g
        filled = _improved(filled, limits, scales, int(g), rows[own], value[own], cost[own])
    return filled


def _searched(offers: Offers, edges: Edges, filled: Filled, group: Array) -> Array:
    """The users whose changes are looked at: all, or those with an edge close to the price."""
    if offers.users <= _ALL:
        return np.arange(offers.users)
    price = filled.prices[group[edges.row]] if len(group) else filled.prices[0]
    loss = np.abs(edges.slope - price) * (edges.cost[1] - edges.cost[0])
    near = np.argpartition(loss, _NEAR)[:_NEAR] if len(loss) > _NEAR else slice(None)
    return np.unique(edges.row[near])


def _improved(
    filled: Filled, limits: Limits, scales: Scales, g: int, rows: Array, value: Array, cost: Array
) -> Filled:
    """The same with other items for some users of one group."""
    price, spent = float(filled.prices[g]), sum(filled.cost)
    if price == 0 or not len(rows):
        return filled
    left = min(limits.budget - spent, limits.group[g] - filled.cost[g])
    sign = 1 if price > 0 else -1
    if price < 0:
        assert limits.least is not None
        left = spent - limits.least
    now = filled.choice[rows]
    enough = _ENOUGH * abs(filled.bound)
    signed = np.where(np.isinf(cost), np.inf, sign * cost)
    item = improve(value, signed, now, sign * price, left, scales.cost, enough)
    at = np.arange(len(rows))
    changed = [
        sum_of(x[at, item], scale) - sum_of(x[at, now], scale)
        for x, scale in ((value, scales.value), (cost, scales.cost))
    ]
    after = spent + changed[1]
    if not (limits.least or after) <= after <= limits.budget:
        return filled
    if filled.cost[g] + changed[1] > limits.group[g]:
        return filled
    filled.choice[rows] = item
    costs = [*filled.cost]
    costs[g] += changed[1]
    return replace(filled, value=filled.value + changed[0], cost=costs)
