"""Exact sums of floats: amounts are cut into whole units and added up as integers.

    amount * 2^scale = a + b / 2^32 + c / 2^64,   a, b, c integers

Integer addition does not round, so a total depends neither on the order of the users nor on how
they are spread over threads, batches or machines: the bits of an answer are those of its inputs.
A scaled amount keeps every bit down to 2^-64, which is all of a float32 above 2^-40 and all of a
float64 above 2^-11; what lies below is rounded up, amount by amount: money never seems less.

The idea of an accumulator that never rounds is Kulisch's (Kulisch & Miranker, Computer Arithmetic
in Theory and Practice, 1981); limbs of 32 bits in 64-bit words leave room for 2^31 summands.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from agents.common.types import Array

_BITS = 31
LIMIT = 2.0**_BITS  # all scaled amounts are smaller
_LIMB, _MASK = 32, 0xFFFFFFFF
UNLIMITED = 1 << 4000  # more units than any amount
_FINEST = 1000  # exponent of a scale that a float can hold


def scale_for(largest: float, headroom: int = 0) -> int:
    """The exponent that scales `largest` to just below the limit, or `headroom` bits lower."""
    return min(_BITS - headroom - math.frexp(largest)[1], _FINEST) if largest > 0 else 0


def limbs(amount: ArrayLike, scale: int) -> Array:
    """(3, ...) int64 limbs a, b, c of every amount."""
    rest = np.asarray(amount, dtype=np.float64) * 2.0**scale
    parts = np.empty((3, *rest.shape), dtype=np.int64)
    for part in parts[:2]:
        part[...] = rest
        rest = (rest - part) * 2.0**_LIMB
    parts[2] = np.ceil(rest)
    return parts


def total(summed: Array) -> int:
    """One integer, in units of 2^-64, from three sums of limbs."""
    a, b, c = (int(x) for x in summed)
    return (a << 2 * _LIMB) + (b << _LIMB) + c


def sum_of(amount: Array, scale: int) -> int:
    """The exact total of some amounts."""
    return total(limbs(amount, scale).reshape(3, -1).sum(axis=1))


def at_most(amount: float, scale: int) -> int:
    """The largest total, in units, whose nearest float is at most `amount`: ten times 0.1 is 1."""
    if math.isinf(amount):
        return UNLIMITED if amount > 0 else -UNLIMITED
    middle = (Fraction(amount) + Fraction(math.nextafter(amount, math.inf))) / 2
    count = math.floor(middle * Fraction(2) ** (scale + 2 * _LIMB))
    return count - int(amount_of(count, scale) > amount)


def amount_of(count: int, scale: int) -> float:
    """The float nearest to a number of units."""
    return float(Fraction(count) / Fraction(2) ** (scale + 2 * _LIMB))


def fitting(costs: Array, room: int) -> int:
    """How many of the costs, in the order given, add up to at most `room` units.

    costs: (3, m) limbs of amounts of at least 0.
    """
    a, b, c = np.cumsum(costs, axis=1)
    b, c = b + (c >> _LIMB), c & _MASK
    a, b = a + (b >> _LIMB), b & _MASK
    high, middle, low = limbs_in(room)
    high = min(max(high, -(2**62)), 2**62)
    fits = (a < high) | ((a == high) & ((b < middle) | ((b == middle) & (c <= low))))
    return int(np.count_nonzero(fits))


def limbs_of(pair: Array, scale: int) -> Array:
    """(3, m) limbs of the exact differences between two rows of amounts."""
    below, above = pair
    return limbs(above, scale) - limbs(below, scale)


def limbs_in(count: int) -> tuple[int, int, int]:
    """The limbs of a number of units."""
    return count >> 2 * _LIMB, (count >> _LIMB) & _MASK, count & _MASK


def by_group(parts: Array, of: Array | None, groups: int) -> list[int]:
    """Totals of limbs (3, m) in each group; all are in the first if no groups are given."""
    sums = np.zeros((groups, 3), dtype=np.int64)
    if of is None:
        sums[0] = parts.sum(axis=1)
    else:
        for limb, part in enumerate(parts):
            np.add.at(sums[:, limb], of, part)
    return [total(s) for s in sums]
