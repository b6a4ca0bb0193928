"""Where a budget cuts the order of service: keys of edges, and what lies between two of them.

A key is an integer of 128 bits: first the steepness of an edge, which rises as its slope falls,
then the hash of its user. Edges are served by rising key, so a budget takes those before one key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.common.mckp.sweep import Window
from agents.common.types import Array

WORD = 64  # bits
_ONES = (1 << WORD) - 1
_FLAT = int(np.array(np.inf).view(np.uint64))  # steepness of the slope 0
LAST = _FLAT << WORD  # key behind all edges that rise


@dataclass(frozen=True)
class Cut:
    """Between which keys a budget ends.

    Its fields are numbers: ``Cut(**json.loads(json.dumps(asdict(cut))))`` is the same cut.
    """

    first: int  # edges before this key are taken
    end: int  # and those from this key on are not
    value: float = 0.0  # of all users, if exact
    cost: float = 0.0
    bound: float = 0.0  # optimum of the linear relaxation
    every: int = 1  # one user in so many is looked at

    @property
    def exact(self) -> bool:
        """Whether nothing is open; else another pass looks between the keys."""
        return self.first == self.end

    @property
    def price(self) -> float:
        """Slope of the first edge that is not taken: what one more unit of money is worth."""
        return _slope(self.first)

    @property
    def window(self) -> Window:
        """The slopes of the edges between the keys, or of those at the key."""
        last = max(self.first, self.end - 1)
        ends = self.price, _slope(min(last + (1 << WORD), LAST))
        return Window(*np.array(ends).reshape(2, 1))


def keys(slope: Array, tie: Array) -> Array:
    """(2, m) uint64: steepness, as floats of at least 0 are ordered as their bits, and hash."""
    return np.stack([np.uint64(_FLAT) - np.ascontiguousarray(slope).view(np.uint64), tie])


def before(key: Array, end: int) -> Array:
    """Which keys (2, m) come before one."""
    steep, tie = words(end)
    return (key[0] < steep) | ((key[0] == steep) & (key[1] < tie))


def words(key: int) -> Array:
    """(2,) uint64."""
    return np.array([key >> WORD, key & _ONES], dtype=np.uint64)


def number(words: Array) -> int:
    """The key of two words."""
    steep, tie = (int(x) for x in words)
    return steep << WORD | tie


def _slope(key: int) -> float:
    return float(np.array(_FLAT - (key >> WORD), dtype=np.uint64).view(np.float64))
