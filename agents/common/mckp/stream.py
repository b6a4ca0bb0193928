"""The allocator for data that come in batches, or lie on many machines: pure functions.

    def read(cut):  # one pass over the batches
        return (partial(b.value, b.cost, b.user_id, cut) for b in batches)

    cut = find_cut(read, budget)  # two passes
    choice = [assign(b.value, b.cost, b.user_id, cut) for b in batches]

No engine is needed or known: `partial` and `assign` are the map of a map-reduce, `merge` is its
reduce, `choose` runs on the driver, and `find_cut` is the loop around them. Batches are arrays, or
Arrow tables or batches of K columns.

Edges of the users' hulls have an order of service: falling slope, then a hash of the user id
(`keys`). A budget takes the edges up to some key, and passes close in on it. The first adds up the
edges of one user in five by slope, which tells about where the budget ends. The next sums up what
comes before, and lists the edges there: some per mille of all, the fewer the more users there are.
Where so many are listed that they fill the memory, because they tie, edges of neighbouring keys are
listed as one, and one more pass looks into the group in which the budget ends. If the sample was
misleading, which the sums of the second pass show, all users' edges are added up by slope, and the
pass after that cannot miss.

Every partition gives the same choices, bit for bit: a user's edges and their keys are its own, and
sums are integers (`sums`), so it does not matter which batch a user is in, nor in which order
batches are merged. Samples do depend on batches, but decide only where the next pass looks. The
choices are those of `solve_mckp` without `repair`: less than one edge is lost, and nobody searches
for a better use of what it leaves.

A batch is read on one thread; kernels release the interpreter's lock, so threads can read several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from agents.common.mckp.cut import LAST, WORD, Cut, before, keys, number
from agents.common.mckp.keys import hashes, read_ids
from agents.common.mckp.offers import Layout, Offers, read_offers
from agents.common.mckp.parts import SCALES, Groups, Partial, grouped, merge, merge_all
from agents.common.mckp.sums import amount_of, at_most, fitting, limbs_of, total
from agents.common.mckp.sweep import BINS, Split, Tally, bin_floor, split, tally
from agents.common.types import Array

__all__ = [
    "SAMPLE",
    "Cut",
    "Partial",
    "assign",
    "choose",
    "find_cut",
    "merge",
    "merge_all",
    "partial",
]

SAMPLE = Cut(0, LAST, every=5)  # what `find_cut` begins with; fewer users make a wider window
_ERRORS = 4.0  # standard errors that a sample may err, if users' costs deviate by their mean
_SAMPLE_BINS = BINS // 4  # are narrow beside that, and fit into the cache
_WORKERS = 1  # threads: engines have a task for each core, and to share a batch costs time


def partial(
    value: Any,
    cost: Any,
    user_id: ArrayLike,
    cut: Cut | None = None,
    *,
    eligible: Any = None,
    layout: Layout = "auto",
) -> Partial:
    """Read a batch in the pass that a cut asks for; without one, add up all edges by slope.

    Arguments are those of `solve_mckp`. Raises ValueError as there, for rows of the batch, and for
    amounts of 2^31 or more.
    """
    offers, ids = _read(value, cost, user_id, eligible, layout)
    if cut is None or cut.every > 1:
        seen = offers if cut is None else offers.every(cut.every)
        found = tally(seen, SCALES, BINS if cut is None else _SAMPLE_BINS, _WORKERS)
        _check(offers, found)
        nothing = np.zeros((3, 0), dtype=np.int64)
        none = Groups(0, np.zeros((2, 0), dtype=np.uint64), nothing[0], nothing, nothing)
        return Partial(cut, offers.users, seen.users, found.value, found.cost, found.table, none)
    inside, key = _edges(offers, ids, cut)
    gain = limbs_of(inside.edges.value, SCALES.value)
    spend = limbs_of(inside.edges.cost, SCALES.cost)
    taken = before(key, cut.first)
    open_ = ~taken & before(key, cut.end)
    one = np.ones(np.count_nonzero(open_), dtype=np.int64)
    return Partial(
        cut,
        offers.users,
        offers.users,
        inside.value[0] + total(gain[:, taken].sum(axis=1)),
        inside.cost[0] + total(spend[:, taken].sum(axis=1)),
        np.zeros((0, 4), dtype=np.int64),
        grouped(0, key[:, open_], one, gain[:, open_], spend[:, open_]),
    )


def choose(whole: Partial, budget: float) -> Cut:
    """Where a budget ends, in currency in total, as far as a pass over all users can tell.

    Raises ValueError if the cheapest items of all users cost more.
    """
    money = at_most(budget, SCALES.cost)
    room, groups = money - whole.cost, whole.groups
    if whole.cut is None and room < 0:
        least = amount_of(whole.cost, SCALES.cost)
        raise ValueError(f"budget is {budget}, which no allocation meets; least possible: {least}")
    if whole.cut is None or whole.cut.every > 1:
        return _bins(whole, money)
    fits = fitting(groups.spend, room)
    if room < 0:  # the budget ends before the cut's keys,
        return Cut(0, whole.cut.first)
    if fits == len(groups.members) and whole.cut.end < LAST:  # or behind them
        return Cut(whole.cut.end, LAST)
    key = number(groups.key[:, fits]) if fits < len(groups.members) else LAST
    if key < LAST and groups.level and groups.members[fits] > 1:
        start = key >> groups.level << groups.level
        return Cut(start, start + (1 << groups.level))
    spent = total(groups.spend[:, :fits].sum(axis=1))
    value = amount_of(whole.value + total(groups.gain[:, :fits].sum(axis=1)), SCALES.value)
    left = amount_of(room - spent, SCALES.cost) if key < LAST else 0.0
    cut = Cut(key, key, value, amount_of(whole.cost + spent, SCALES.cost))
    return replace(cut, bound=value + cut.price * left)


def find_cut(read: Callable[[Cut | None], Iterable[Partial]], budget: float) -> Cut:
    """Make passes until a budget's cut is exact: two, or more if a sample misleads or many tie.

    read: makes one pass, that is a `partial` with the given cut of every batch, in any order.
    """
    none = np.empty((0, 1))

    def look(cut: Cut | None) -> Cut:
        nobody = partial(none, none, np.empty(0, dtype=np.int64), cut)
        return choose(merge_all(chain([nobody], read(cut))), budget)

    guess = look(SAMPLE)
    cut = look(guess)
    if not guess.first <= cut.first <= cut.end <= guess.end:
        cut = look(None)
    while not cut.exact:
        cut = look(cut)
    return cut


def assign(
    value: Any,
    cost: Any,
    user_id: ArrayLike,
    cut: Cut,
    *,
    eligible: Any = None,
    layout: Layout = "auto",
) -> Array:
    """Return the items (n,) uint8 of a batch's users; raises ValueError if the cut is not exact."""
    if not cut.exact:
        raise ValueError("cut is not exact: allowed is what `find_cut` returns")
    offers, ids = _read(value, cost, user_id, eligible, layout)
    found, key = _edges(offers, ids, cut)
    taken = before(key, cut.first)
    found.choice[found.edges.row[taken]] = found.edges.above[taken]
    return found.choice


def _edges(offers: Offers, ids: Array, cut: Cut) -> tuple[Split, Array]:
    """The edges of a cut's window, and their keys (2, m)."""
    found = split(offers, cut.window, SCALES, workers=_WORKERS)
    _check(offers, found)
    edges = found.edges
    return found, keys(edges.slope, hashes(ids, edges.row))


def _bins(whole: Partial, money: int) -> Cut:
    """The bins in which the running sum of the table passes `money`, given how exact it is."""
    money = min(money, 1 << 4 * WORD) * whole.seen // max(whole.users, 1)
    left = amount_of(money - whole.cost, SCALES.cost)
    spent = np.array([1.0, 2.0**-32]) @ whole.table[::-1, 2:].cumsum(axis=0).T
    error = 2.0**-24 * whole.seen + 1e-15 * spent[-1]  # up to 256 edges a user, half a limb each
    if whole.seen < whole.users:
        error += _ERRORS * _deviation(whole, left, spent[-1])
    ends = len(spent) - 1 - np.searchsorted(spent, [left - error, left + error], side="right")
    floors = bin_floor(np.maximum(ends, 0) + np.array([1, 0]), SCALES, len(spent))
    steep, _ = keys(floors, np.zeros(2, dtype=np.uint64))
    first, end = (min((int(s) + 1) << WORD, LAST) for s in steep)
    return Cut(first, end)


def _deviation(whole: Partial, spent: float, most: float) -> float:
    """Of a sample's sum, if those who get something cost `most / seen`, the mean of the dearest."""
    least = abs(amount_of(whole.cost, SCALES.cost))
    return (math.sqrt(most * min(max(spent, 0.0), most)) + least) / math.sqrt(max(whole.seen, 1))


def _read(
    value: Any, cost: Any, user_id: ArrayLike, eligible: Any, layout: Layout
) -> tuple[Offers, Array]:
    offers = read_offers(value, cost, eligible, layout)
    ids = read_ids(user_id, offers.users)
    if ids is None:
        raise ValueError("user_id is missing; batches need one to serve equals in one order")
    return offers, ids


def _check(offers: Offers, found: Split | Tally) -> None:
    if not found.finite:
        offers.largest()
    if not found.fits:
        raise ValueError("value or cost has an amount of 2^31 or more: use a larger unit of money")
