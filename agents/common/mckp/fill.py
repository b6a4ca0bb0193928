"""Filling the budget: edges are taken by falling slope as long as the money lasts.

Edges of all hulls, taken in this order until the money is spent, solve the linear relaxation, and
the slope of the edge that no longer fits is the shadow price of the budget (Sinha & Zoltners,
Operations Research 27(3), 1979; Kellerer, Pferschy & Pisinger, Knapsack Problems, 2004, section
11.2). A group's own budget stops its edges first, so that a user faces

    price = max(price of the whole budget, price of the group's budget)

Money that has to be spent is taken beyond the slope 0, to prices below it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from agents.common.mckp.keys import in_order, key_of, whole_keys
from agents.common.mckp.sums import (
    UNLIMITED,
    amount_of,
    by_group,
    fitting,
    limbs_in,
    limbs_of,
    total,
)
from agents.common.mckp.sweep import Scales, Split, Window
from agents.common.types import Array

_CELLS = 1 << 10  # of a window
_FEW = 1 << 12  # edges that are sorted without further ado
_ROUNDING = 1e-9  # relative error granted to sums of floats


class Limits(NamedTuple):
    """Money in the units of `sums`."""

    budget: int
    least: int | None  # to be spent at least
    group: list[int]  # own budget of each group


@dataclass(frozen=True)
class Filled:
    """The relaxed optimum rounded to whole edges, and what it proves."""

    choice: Array  # (n,) uint8
    value: int
    cost: list[int]  # of each group
    price: float  # of the whole budget; below 0 where money has to be spent
    prices: Array  # (G,) that the users of each group face
    bound: float  # optimum of the linear relaxation


class _Line(NamedTuple):
    """Edges, or parts of edges, by falling slope."""

    slope: Array  # (m,)
    spend: Array  # (3, m) limbs

    def some(self, index: Array) -> _Line:
        return _Line(self.slope[index], self.spend[:, index])

    def reach(self, room: int, need: int | None) -> tuple[int, float]:
        """How many of them to take with `room` units to spend, and the price of one more unit.

        Taking them all ends at price -inf if that spends less than `need`.
        """
        rising = int(np.count_nonzero(self.slope > 0))
        fits = fitting(self.spend, room)
        if fits < rising:
            return fits, float(self.slope[fits])
        if need is None or total(self.spend[:, :rising].sum(axis=1)) >= need:
            return rising, 0.0
        short = fitting(self.spend, need - 1)
        if short == len(self.slope):
            return short, -np.inf
        return short + 1, float(self.slope[short])


def fill(
    split: Split, limits: Limits, window: Window, scales: Scales, group: Array, ids: Array | None
) -> Filled | None:
    """Take edges while the money lasts; nothing if some price lies outside the window.

    `split.choice` is written to.
    """
    if not len(group) and limits.least is None and abs(limits.budget) < UNLIMITED:
        split = _closer(split, limits.budget, window, scales)
    edges = split.edges
    order = in_order(edges.slope, edges.row, ids)
    line = _Line(edges.slope[order], limbs_of(edges.cost[:, order], scales.cost))
    of = group[edges.row[order]] if len(group) else None
    caps, free, parts = _within_groups(split, limits, line, of, edges.row[order], ids)
    room = limits.budget - sum(split.cost)
    need = None if limits.least is None else limits.least - sum(split.cost)
    if free is not None:
        order, line, of = order[free], line.some(free), None if of is None else of[free]
    count, price = line.reach(room, need)
    rows = edges.row[order]
    count = whole_keys(count, line.slope, key_of(ids, rows), up=price < 0)
    if parts is not None:
        price = _merged(line, parts).reach(room, need)[1]
        # The money for parts is kept: groups have a better use for it than users at this price.
        count = int(np.count_nonzero(line.slope > price)) if price > 0 else count
    prices = np.maximum(caps, price)
    if room < 0 or price == -np.inf or not _inside(prices, window, need is not None):
        return None

    relaxed = int(np.count_nonzero(line.slope > price))
    gains = limbs_of(edges.value[:, order[: max(count, relaxed)]], scales.value)

    def totals(taken: int) -> tuple[int, list[int]]:
        spent = by_group(line.spend[:, :taken], None if of is None else of[:taken], len(caps))
        value = sum(split.value) + total(gains[:, :taken].sum(axis=1))
        return value, [a + b for a, b in zip(split.cost, spent, strict=True)]

    bound = dual_value(*totals(relaxed), price, prices, limits, scales)
    # A user's last edge is also last in `order`, so it has the last word.
    split.choice[edges.row[order[:count]]] = edges.above[order[:count]]
    return Filled(split.choice, *totals(count), price, prices, bound)


def _closer(split: Split, budget: int, window: Window, scales: Scales) -> Split:
    """The same when the edges that are sure to be taken are, and those sure not to be are gone.

    Sums of floats tell them from the few among which the budget ends, and which have to be sorted.
    """
    edges, width = split.edges, float(window.high[0] - window.low[0])
    if len(edges.slope) <= _FEW or not np.isfinite(width):
        return split
    depth = (window.high[0] - edges.slope) * (_CELLS / width)
    cell = np.minimum(depth, _CELLS - 1).astype(np.int64)
    spent = np.cumsum(np.bincount(cell, edges.cost[1] - edges.cost[0], _CELLS))
    room = amount_of(budget - sum(split.cost), scales.cost)
    error = _ROUNDING * (abs(room) + spent[-1])
    first, last = np.searchsorted(spent, [room - error, room + error], side="right")
    taken = edges.some(np.flatnonzero(cell < first))
    split.choice[taken.row] = taken.above  # a user's last edge comes last
    gain, spend = (
        total(limbs_of(pair, scale).sum(axis=1))
        for pair, scale in ((taken.value, scales.value), (taken.cost, scales.cost))
    )
    return replace(
        split,
        value=[split.value[0] + gain],
        cost=[split.cost[0] + spend],
        edges=edges.some(np.flatnonzero((cell >= first) & (cell <= last))),
    )


def _within_groups(
    split: Split, limits: Limits, line: _Line, of: Array | None, rows: Array, ids: Array | None
) -> tuple[Array, Array | None, _Line | None]:
    """The price of each group's own budget, the edges it permits, and the parts it would permit."""
    prices = np.full(len(limits.group), -np.inf)
    if of is None or min(limits.group) >= UNLIMITED:
        return prices, None, None
    free, parts = np.ones(len(rows), dtype=bool), []
    for g, index in enumerate(_members(of, len(prices))):
        own, room = line.some(index), limits.group[g] - split.cost[g]
        fits = whole_keys(fitting(own.spend, room), own.slope, key_of(ids, rows[index]))
        if fits < len(index):
            free[index[fits:]] = False
            prices[g] = own.slope[fits] if room >= 0 else np.inf
            left = room - total(own.spend[:, :fits].sum(axis=1))
            parts.append((prices[g], *limbs_in(left)))
    slope, *spend = np.array(parts, dtype=np.float64).reshape(-1, 4).T
    return prices, free, _Line(slope, np.array(spend).astype(np.int64))


def _members(of: Array, groups: int) -> list[Array]:
    """The positions of each group's edges."""
    ends = np.cumsum(np.bincount(of, minlength=groups))
    return np.split(np.argsort(of, kind="stable"), ends[:-1])


def _merged(one: _Line, two: _Line) -> _Line:
    slope, spend = np.append(one.slope, two.slope), np.append(one.spend, two.spend, axis=1)
    order = np.argsort(-slope, kind="stable")
    return _Line(slope[order], spend[:, order])


def _inside(prices: Array, window: Window, negative: bool) -> bool:
    """Whether the window shows all that these prices decide; 0 may be its end if none is below."""
    low = np.where((window.low == 0) & (not negative), -np.inf, window.low)
    return bool(np.all((prices > low) & (prices < window.high)))


def dual_value(
    value: int,
    cost: list[int],
    price: float,
    prices: Array,
    limits: Limits,
    scales: Scales,
) -> float:
    """The dual value of these prices, given what the best items at these prices are worth and cost.

    It is an upper bound whatever the prices are (weak duality), and the optimum at the right ones.
    """
    bound = amount_of(value, scales.value)
    target = limits.budget if price > 0 else limits.least
    if price != 0 and target is not None:
        bound += price * amount_of(target - sum(cost), scales.cost)
    for g in np.flatnonzero(prices > price):
        bound += (prices[g] - price) * amount_of(limits.group[g] - cost[g], scales.cost)
    return float(bound)
