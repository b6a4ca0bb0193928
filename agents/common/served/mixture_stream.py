"""A mixture of policies that spends a budget on users who come in batches, or lie on machines.

Each user follows one of G policies, of which it is known what each is worth for him. The mixture is
that of `frontier.py`: two policies a and b at most, and user i follows

    a  if bucket_i < edge,  else b

which tells users apart by nothing but their bucket, so it is the policy that was judged, and who
followed a yesterday does so today. The edge is where these users' money ends:

    max edge  s.t.  sum_{i: bucket_i < edge} cost_ia + sum_{i: bucket_i >= edge} cost_ib <= budget

Functions are those of `mckp/stream.py`: `partial` and `assign` are the map of a map-reduce, `merge`
is its reduce, `choose` runs on the driver and `find_cut` is the loop around them. The first pass
finds the policies, each further one divides the stretch of buckets in which the edge lies by 4,096.
Sums are integers, so every partition gives the same edge.

No assignment of the policies to these users that keeps the budget is worth more than

    bound = price * budget + sum_i max_g value_ig - price * cost_ig
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import reduce

import numpy as np

from agents.common.games.game import solve_master
from agents.common.mckp.sums import amount_of, at_most, limbs, total
from agents.common.types import Array

_BINS = 4096
_FINE = 2.0**-24  # width at which an edge is exact: one user in sixteen million
_SCALE = 0


@dataclass(frozen=True)
class Cut:
    """Two policies, and the buckets between which the edge lies."""

    first: int  # below the edge
    second: int  # from it on
    price: float  # reward that one more unit of money earns
    low: float = 0.0
    high: float = 1.0
    value: float = 0.0  # of all users, if exact
    cost: float = 0.0
    bound: float = 0.0  # no assignment of policies to users is worth more

    @property
    def exact(self) -> bool:
        return self.high - self.low <= _FINE


@dataclass(frozen=True)
class Partial:
    """Integer sums over some users; `merge` adds."""

    cut: Cut | None  # this is a pass after the first, and looks between its buckets
    users: int
    sums: Array  # limbs: (G, 2, 3) of each policy, later (3 + BINS, 2, 3) as `_row` says

    def to_bytes(self) -> bytes:
        """This as a compressed npz, for columns and files that hold bytes."""
        out, meta = io.BytesIO(), {"cut": self.cut and asdict(self.cut), "users": self.users}
        np.savez_compressed(out, sums=self.sums, meta=np.array(json.dumps(meta)))
        return out.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Partial:
        """What `to_bytes` was called on."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            meta, sums = json.loads(str(arrays["meta"])), arrays["sums"]
        return Partial(meta["cut"] and Cut(**meta["cut"]), meta["users"], sums)


def partial(value: Array, cost: Array, bucket: Array, cut: Cut | None = None) -> Partial:
    """Read a batch.

    value, cost: (n, G) of each policy for each user.
    bucket: (n,) in [0, 1).

    Raises:
        ValueError: for a value or a cost that is not finite or of 2^31 or more.
    """
    worth = np.stack([value, cost], axis=-1).astype(np.float64)  # (n, G, 2)
    fits = np.abs(worth) < 2.0**31
    if not fits.all():
        row, policy, kind = np.argwhere(~fits)[0].tolist()
        raise ValueError(
            f"{('value', 'cost')[kind]} of row {row}, policy {policy} is {worth[row, policy, kind]}"
            ": allowed are numbers below 2^31"
        )
    if cut is None:
        return Partial(None, len(worth), np.moveaxis(limbs(worth, _SCALE).sum(axis=1), 0, -1))
    own, other = (np.moveaxis(limbs(worth[:, g], _SCALE), 0, -1) for g in (cut.first, cut.second))
    sums = np.zeros((3 + _BINS, 2, 3), dtype=np.int64)
    best = (worth[..., 0] - cut.price * worth[..., 1]).max(axis=1, initial=-np.inf)
    sums[0, 0] = limbs(best, _SCALE).sum(axis=1)
    sums[1] = other.sum(axis=0)
    np.add.at(sums, _row(bucket, cut), own - other)
    return Partial(cut, len(worth), sums)


def _row(bucket: Array, cut: Cut) -> Array:
    """Which sum a user's difference between the policies belongs to.

    0 has the certificate, 1 what is spent whatever the edge is, 2 + b what bin b adds if the edge
    lies behind it; the last is of users beyond all bins.
    """
    place = (bucket - cut.low) / (cut.high - cut.low) * _BINS
    return np.where(place < 0, 1, 2 + np.clip(place, 0, _BINS).astype(np.int64))


def merge(*parts: Partial) -> Partial:
    """Add batches up, in any order and grouping; raises ValueError for those of several passes."""
    if not parts or any(p.cut != parts[0].cut for p in parts):
        raise ValueError("parts: allowed are one or more that were made with the same cut")
    return Partial(
        parts[0].cut, sum(p.users for p in parts), np.sum([p.sums for p in parts], axis=0)
    )


def choose(whole: Partial, budget: float) -> Cut:
    """Where a budget (currency in total) ends: the policies after the first pass, then the edge.

    Raises:
        ValueError: if the cheapest policy costs more.
    """
    room = at_most(budget, _SCALE)
    if whole.cut is None:
        each = np.array([[amount_of(total(x), _SCALE) for x in g] for g in whole.sums])
        return _policies(each, max(whole.users, 1), budget)
    cut, prefix = whole.cut, np.cumsum(whole.sums[1:], axis=0)  # (1 + BINS + 1, 2, 3)
    edge = max((b for b in range(_BINS + 1) if total(prefix[b, 1]) <= room), default=0)
    width = (cut.high - cut.low) / _BINS
    low = cut.low + edge * width
    value, cost = (amount_of(total(x), _SCALE) for x in prefix[edge])
    best = amount_of(total(whole.sums[0, 0]), _SCALE)
    bound = max(best + (cut.price * budget if cut.price else 0.0), value)
    return replace(
        cut, low=low, high=min(low + width, cut.high), value=value, cost=cost, bound=bound
    )


def _policies(each: Array, users: int, budget: float) -> Cut:
    """The best mixture (G, 2) of all users' values and costs."""
    if each[:, 1].min() > budget:
        raise ValueError(
            f"budget is {budget}, which no policy keeps; least possible: {each[:, 1].min()}"
        )
    found = solve_master(each / users, budget / users)
    used = np.flatnonzero(found.weight)
    dear, cheap = used[np.argsort(-each[used, 1], kind="stable")][[0, -1]].tolist()
    return Cut(dear, cheap, float(found.price[0]))


def find_cut(read: Callable[[Cut | None], Iterable[Partial]], budget: float) -> Cut:
    """Make passes until a budget's cut is exact: three.

    read: makes one pass, that is a `partial` with the given cut of every batch, in any order.
    """
    cut: Cut | None = None
    while cut is None or not cut.exact:
        cut = choose(reduce(merge, read(cut)), budget)
    return cut


def assign(bucket: Array, cut: Cut) -> Array:
    """(n,) policy of each user; raises ValueError if the cut is not exact."""
    if not cut.exact:
        raise ValueError("cut is not exact: allowed is what `find_cut` returns")
    return np.where(bucket < cut.low, cut.first, cut.second)
