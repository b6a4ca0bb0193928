"""The allocator for data that come in batches, or lie on many machines: four pure functions.

    def read(cut):  # one pass over the batches
        return (partial(b.value, b.cost, b.user_id, cut) for b in batches)

    cut = find_cut(read, budget)  # two passes
    choice = [assign(b.value, b.cost, b.user_id, cut) for b in batches]

No engine is needed or known: `partial` and `assign` are the map of a map-reduce, `merge` is its
reduce, `choose` runs on the driver, and `find_cut` is the loop around them. Batches are arrays, or
Arrow tables or batches of K columns.

Edges of the users' hulls have an order of service: falling slope, then a hash of the user id
(`keys`). A budget takes the edges up to some key, and passes close in on it. The first adds up
edges by slope, in 4 MB however many users there are. The next lists those that share the slope bin
in which the budget ends: some per mille of all. Where so many do that they fill the memory, because
they tie, edges of neighbouring keys are listed as one, and one more pass looks into the group in
which the budget ends.

Every partition gives the same choices, bit for bit: a user's edges and their keys are its own, and
sums are integers (`sums`), so it does not matter which batch a user is in, nor in which order
batches are merged. The choices are those of `solve_mckp` without `repair`: less than one edge is
lost, and nobody searches for a better use of what it leaves.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from agents.common.mckp.curve import CostCurve, from_tally
from agents.common.mckp.cut import LAST, WORD, Cut, before, keys, number, words
from agents.common.mckp.keys import hashes, read_ids
from agents.common.mckp.offers import Layout, Offers, read_offers
from agents.common.mckp.sums import amount_of, at_most, fitting, limbs_of, total
from agents.common.mckp.sweep import BINS, Scales, Split, Tally, bin_floor, split, tally
from agents.common.types import Array

__all__ = ["Cut", "Partial", "assign", "choose", "find_cut", "merge", "partial"]

_SCALES = Scales(0, 0)  # the same for all batches: amounts are below 2^31
_GROUPS = 1 << 18  # that are listed at most, 72 bytes each
_COARSER = 8  # bits of a key by which groups grow if they are more; still many are left


class Groups(NamedTuple):
    """Edges by rising key; those whose keys differ in the low `level` bits only are one group."""

    level: int
    key: Array  # (2, m) of a group's first edge, as `cut.keys` makes them
    members: Array  # (m,) edges
    gain: Array  # (3, m) limbs
    spend: Array  # (3, m)


@dataclass(frozen=True)
class Partial:
    """What has to be known of some users; `merge` adds."""

    cut: Cut | None  # this is a pass after the first, and looks between its keys
    users: int
    value: int  # of the cheapest items, or of those before the cut, in the units of `sums`
    cost: int
    table: Array  # (BINS, 4) limbs of value and cost by slope; empty after the first pass
    groups: Groups  # between the keys of the cut

    def curve(self) -> CostCurve:
        """Return the best value of every budget, after the first pass."""
        return from_tally(Tally(self.value, self.cost, self.table, True, True), _SCALES)

    def to_bytes(self) -> bytes:
        """Return this as a compressed npz, for columns and files that hold bytes."""
        meta = {
            "cut": self.cut and asdict(self.cut),
            "users": self.users,
            "value": self.value,
            "cost": self.cost,
            "level": self.groups.level,
        }
        out = io.BytesIO()
        arrays = self.groups._asdict() | {"level": np.array(json.dumps(meta))}
        np.savez_compressed(out, table=self.table, **arrays)
        return out.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Partial:
        """Return what `to_bytes` was called on."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            meta = json.loads(str(arrays["level"]))
            lists = (arrays[name] for name in Groups._fields[1:])
            groups, table = Groups(meta["level"], *lists), arrays["table"]
        cut = meta["cut"] and Cut(**meta["cut"])
        return Partial(cut, meta["users"], meta["value"], meta["cost"], table, groups)


def partial(
    value: Any,
    cost: Any,
    user_id: ArrayLike,
    cut: Cut | None = None,
    *,
    eligible: Any = None,
    layout: Layout = "auto",
) -> Partial:
    """Read a batch in the first pass, or in the one that a cut asks for.

    Arguments are those of `solve_mckp`. Raises ValueError as there, for rows of the batch, and for
    amounts of 2^31 or more.
    """
    offers, ids = _read(value, cost, user_id, eligible, layout)
    if cut is None:
        found = tally(offers, _SCALES)
        _check(offers, found)
        nothing = np.zeros((3, 0), dtype=np.int64)
        none = Groups(0, np.zeros((2, 0), dtype=np.uint64), nothing[0], nothing, nothing)
        return Partial(None, offers.users, found.value, found.cost, found.table, none)
    inside, key = _edges(offers, ids, cut)
    gain = limbs_of(inside.edges.value, _SCALES.value)
    spend = limbs_of(inside.edges.cost, _SCALES.cost)
    taken = before(key, cut.first)
    open_ = ~taken & before(key, cut.end)
    one = np.ones(np.count_nonzero(open_), dtype=np.int64)
    return Partial(
        cut,
        offers.users,
        inside.value[0] + total(gain[:, taken].sum(axis=1)),
        inside.cost[0] + total(spend[:, taken].sum(axis=1)),
        np.zeros((0, 4), dtype=np.int64),
        _grouped(0, key[:, open_], one, gain[:, open_], spend[:, open_]),
    )


def merge(*parts: Partial) -> Partial:
    """Add batches up, in any order and grouping; raises ValueError for those of several passes."""
    if not parts or any(p.cut != parts[0].cut for p in parts):
        raise ValueError("parts: allowed are one or more that were made with the same cut")
    level, *lists = zip(*(p.groups for p in parts), strict=True)
    return Partial(
        parts[0].cut,
        sum(p.users for p in parts),
        sum(p.value for p in parts),
        sum(p.cost for p in parts),
        reduce(np.add, (p.table for p in parts)),
        _grouped(max(level), *(np.concatenate(x, axis=-1) for x in lists)),
    )


def choose(whole: Partial, budget: float) -> Cut:
    """Where a budget ends, in currency in total, as far as a pass over all users can tell.

    Raises ValueError if the cheapest items cost more.
    """
    room = at_most(budget, _SCALES.cost) - whole.cost
    if whole.cut is None:
        if room < 0:
            least = amount_of(whole.cost, _SCALES.cost)
            raise ValueError(
                f"budget is {budget}, which no allocation meets; least possible: {least}"
            )
        return _bins(whole, room)
    groups = whole.groups
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
    value = amount_of(whole.value + total(groups.gain[:, :fits].sum(axis=1)), _SCALES.value)
    left = amount_of(room - spent, _SCALES.cost) if key < LAST else 0.0
    cut = Cut(key, key, value, amount_of(whole.cost + spent, _SCALES.cost))
    return replace(cut, bound=value + cut.price * left)


def find_cut(read: Callable[[Cut | None], Iterable[Partial]], budget: float) -> Cut:
    """Make passes until a budget's cut is exact: two, or more if very many users tie.

    read: makes one pass, that is a `partial` with the given cut of every batch, in any order.
    """
    none, cut = np.empty((0, 1)), None
    while cut is None or not cut.exact:
        nobody = partial(none, none, np.empty(0, dtype=np.int64), cut)
        cut = choose(reduce(merge, read(cut), nobody), budget)
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
    found = split(offers, cut.window, _SCALES)
    _check(offers, found)
    edges = found.edges
    return found, keys(edges.slope, hashes(ids, edges.row))


def _grouped(level: int, key: Array, *sums: Array) -> Groups:
    """Sort and add up what is of one group, in groups so coarse that they are not too many."""
    order = np.lexsort(key[::-1])
    key = key[:, order]
    while True:
        bits = key & words((1 << 2 * WORD) - (1 << level))[:, None]
        new = np.append(True, (bits[:, 1:] != bits[:, :-1]).any(axis=0))[: len(order)]
        if np.count_nonzero(new) <= _GROUPS:
            break
        level += _COARSER
    starts = np.flatnonzero(new)
    added = (np.add.reduceat(x[..., order], starts, axis=-1) for x in sums)
    return Groups(level, key[:, starts], *added)


def _bins(whole: Partial, room: int) -> Cut:
    """The bins in which the running sum of the table passes `room`, given how it is rounded."""
    spent = np.array([1.0, 2.0**-32]) @ whole.table[::-1, 2:].cumsum(axis=0).T
    error = 2.0**-24 * whole.users + 1e-15 * spent[-1]  # up to 256 edges a user, half a limb each
    left = amount_of(min(room, 1 << 4 * WORD), _SCALES.cost)
    ends = BINS - 1 - np.searchsorted(spent, [left - error, left + error], side="right")
    floors = bin_floor(np.maximum(ends, 0) + np.array([1, 0]), _SCALES)
    steep, _ = keys(floors, np.zeros(2, dtype=np.uint64))
    first, end = (min((int(s) + 1) << WORD, LAST) for s in steep)
    return Cut(first, end)


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
