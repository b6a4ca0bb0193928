"""What passes over batches find, and how it adds up: tables of slopes, or lists of edges.

Sums are integers, so parts can be merged in any order and grouping; they travel as bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from agents.common.mckp.curve import CostCurve, from_tally
from agents.common.mckp.cut import WORD, Cut, words
from agents.common.mckp.keys import by_two
from agents.common.mckp.sweep import Scales, Tally
from agents.common.types import Array

SCALES = Scales(0, 0)  # the same for all batches: amounts are below 2^31
_GROUPS = 1 << 19  # that are listed at most, 72 bytes each
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

    cut: Cut | None  # between whose keys was looked
    users: int
    seen: int  # of them were looked at: all, or a sample
    value: int  # of the cheapest items, or of those before the cut, in the units of `sums`
    cost: int
    table: Array  # (bins, 4) limbs of value and cost of all edges, by slope; or nothing, and
    groups: Groups  # the edges between the keys of the cut

    def curve(self) -> CostCurve:
        """Return the best value of every budget; raises ValueError if there is a cut."""
        if self.cut is not None:
            raise ValueError(f"cut is {self.cut}; a curve needs the pass that has none")
        return from_tally(Tally(self.value, self.cost, self.table, True, True), SCALES)

    def to_bytes(self) -> bytes:
        """Return this as a compressed npz, for columns and files that hold bytes."""
        meta = {
            "cut": self.cut and asdict(self.cut),
            "users": self.users,
            "seen": self.seen,
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
        users, seen, value, cost = (meta[name] for name in ("users", "seen", "value", "cost"))
        return Partial(meta["cut"] and Cut(**meta["cut"]), users, seen, value, cost, table, groups)


def merge(*parts: Partial) -> Partial:
    """Add batches up, in any order and grouping; raises ValueError for those of several passes."""
    if not parts or any(p.cut != parts[0].cut for p in parts):
        raise ValueError("parts: allowed are one or more that were made with the same cut")
    level, *lists = zip(*(p.groups for p in parts), strict=True)
    return Partial(
        parts[0].cut,
        sum(p.users for p in parts),
        sum(p.seen for p in parts),
        sum(p.value for p in parts),
        sum(p.cost for p in parts),
        reduce(np.add, (p.table for p in parts)),
        grouped(max(level), *(np.concatenate(x, axis=-1) for x in lists)),
    )


def merge_all(parts: Iterable[Partial]) -> Partial:
    """Merge parts as they come: tables at once, lists, which have to be sorted, when they are long.

    Raises ValueError as `merge`.
    """
    held: list[Partial] = []
    for part in parts:
        held.append(part)
        if len(part.table) or sum(len(p.groups.members) for p in held) > 2 * _GROUPS:
            held = [merge(*held)]
    return merge(*held)


def grouped(level: int, key: Array, *sums: Array) -> Groups:
    """Sort and add up what is of one group, in groups so coarse that they are not too many."""
    order = by_two(key[0], lambda some: key[1, some])
    key = key[:, order]
    while True:
        bits = key & words((1 << 2 * WORD) - (1 << level))[:, None]
        new = np.append(True, (bits[:, 1:] != bits[:, :-1]).any(axis=0))[: len(order)]
        if np.count_nonzero(new) <= _GROUPS:
            break
        level += _COARSER
    rising = (x[..., order] for x in sums)
    if new.all():
        return Groups(level, key, *rising)
    starts = np.flatnonzero(new)
    added = (np.add.reduceat(x, starts, axis=-1) for x in rising)
    return Groups(level, key[:, starts], *added)
