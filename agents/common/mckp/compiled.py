"""The two passes over all users, compiled. `plain` is their definition in plain numpy.

Users are handled in tiles that fit into the first-level cache, one item after the other, so that
the inner loops run over users and become vector instructions. Neither `fastmath` nor fused
multiply-adds are allowed: every operation is rounded as numpy rounds it, which is why both modules
give the same bits. Constants are compiled in; the cache on disk knows the age of this file only, so
it has to change with them.
"""

# Types are the compiler's business here.
# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from agents.common.mckp.offers import ABSENT
from agents.common.mckp.sums import LIMIT

_TILE = 192  # users
_PAD = 16  # so that the rows of a tile do not compete for the same cache lines
_LIMB = 2.0**32
_STEEPEST = np.finfo(np.float64).max


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call; keep the code on disk if there is a place that can be written."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


@_compiled
def _tile(items, kind):
    return np.empty((items, _TILE + _PAD), kind)


@_compiled
def _load(x, at, m, tile):
    """Copy the columns of m users."""
    for k in range(x.shape[0]):
        column, out = x[k, at : at + m], tile[k]
        for t in range(m):
            out[t] = column[t]


@_compiled
def _score(v, c, m, high, low, item, score, paid, rival, noise):
    """The best and then cheapest item at the high price, and the best score at the low one.

    Sums show a NaN.
    """
    for t in range(m):
        score[t] = -np.inf
        paid[t] = np.inf
        rival[t] = -np.inf
        item[t] = 0
    for k in range(v.shape[0]):
        value, cost = v[k], c[k]
        for t in range(m):
            worth, spent = np.float64(value[t]), np.float64(cost[t])
            dear = worth - high[t] * spent
            cheap = worth - low[t] * spent
            better = (dear > score[t]) | ((dear == score[t]) & (spent < paid[t]))
            score[t] = dear if better else score[t]
            paid[t] = spent if better else paid[t]
            item[t] = k if better else item[t]
            rival[t] = cheap if cheap > rival[t] else rival[t]
            noise[t] += dear


@_compiled
def _pick(v, c, m, low, endless, item, rival, worth, spent, undecided):
    """Fetch the items' amounts; mark and count users whose best item changes between the prices."""
    found = 0
    for t in range(m):
        k = item[t]
        value, cost = np.float64(v[k, t]), np.float64(c[k, t])
        undecided[t] = endless[t] | (rival[t] > value - low[t] * cost)
        worth[t], spent[t] = value, cost
        found += np.int64(undecided[t])
    return found


@_compiled
def _cheapest(v, c, t):
    """The cheapest item of a user, the most valuable of them."""
    best = -1
    for k in range(v.shape[0]):
        if v[k, t] > ABSENT and (
            best < 0 or c[k, t] < c[best, t] or (c[k, t] == c[best, t] and v[k, t] > v[best, t])
        ):
            best = k
    return best


@_compiled
def _steepest(v, c, t, k):
    """The item of steepest rise from item k, or of least fall; -1 if none costs more.

    Of several on one line it is the farthest, of equal ones the first.
    """
    best, gain, spent = -1, 0.0, 0.0
    here, paid = np.float64(v[k, t]), np.float64(c[k, t])
    for j in range(v.shape[0]):
        more = np.float64(c[j, t]) - paid
        if more > 0 and v[j, t] > ABSENT:
            rise = np.float64(v[j, t]) - here
            one, two = rise * spent, gain * more
            if best < 0 or one > two or (one == two and more > spent):
                best, gain, spent = j, rise, more
    return best, gain, spent


@_compiled
def _climb(v, c, t, k, high, low, row, places, numbers, found):
    """Walk up a user's hull from item k: past the high price at once, then edge by edge."""
    ceiling, last = _STEEPEST, found
    start = k
    while True:
        j, gain, spent = _steepest(v, c, t, k)
        if j < 0:
            return start, found
        slope = min(gain / spent, ceiling)
        if not slope > low:
            return start, found
        if slope > high:
            start = j
        elif found > last and slope == ceiling:
            _write(v, c, t, places[found - 1, 1], j, slope, row, places, numbers, found - 1)
        else:
            _write(v, c, t, k, j, slope, row, places, numbers, found)
            found += 1
        k, ceiling = j, slope


@_compiled
def _write(v, c, t, k, j, slope, row, places, numbers, at):
    places[at, 0], places[at, 1], places[at, 2] = row, k, j
    numbers[at, 0] = slope
    numbers[at, 1], numbers[at, 2] = v[k, t], v[j, t]
    numbers[at, 3], numbers[at, 4] = c[k, t], c[j, t]


@_compiled
def _add(amount, m, unit, sums):
    """Add the limbs of m amounts to three sums; return whether one is too large."""
    a, b, c, large = 0, 0, 0, 0
    for t in range(m):
        rest = amount[t] * unit
        large += 0 if abs(rest) < LIMIT else 1
        limb = np.int64(rest)
        a += limb
        rest = (rest - limb) * _LIMB
        limb = np.int64(rest)
        b += limb
        c += np.int64(np.ceil((rest - limb) * _LIMB))
    sums[0] += a
    sums[1] += b
    sums[2] += c
    return large > 0


@_compiled
def split(v, c, start, stop, group, prices, unit_v, unit_c, choice, places, numbers, sums):
    """See `plain.split`."""
    items, n = v.shape[0], stop - start
    tile_v, tile_c = _tile(items, v.dtype), _tile(items, v.dtype)
    score, paid = np.empty(_TILE), np.empty(_TILE)
    rival, noise = np.empty(_TILE), np.zeros(_TILE)
    worth, spent = score, paid  # which are not needed any more when these are set
    item, undecided = np.empty(_TILE, np.uint8), np.empty(_TILE, np.bool_)
    high, low = np.full(_TILE, prices[2, 0]), np.full(_TILE, prices[3, 0])
    endless = np.full(_TILE, prices[4, 0] > 0)
    found, large = 0, False
    for at in range(0, n, _TILE):
        m = min(_TILE, n - at)
        _load(v, start + at, m, tile_v)
        _load(c, start + at, m, tile_c)
        if group.size:
            for t in range(m):
                g = group[at + t]
                high[t], low[t], endless[t] = prices[2, g], prices[3, g], prices[4, g] > 0
        _score(tile_v, tile_c, m, high, low, item, score, paid, rival, noise)
        if _pick(tile_v, tile_c, m, low, endless, item, rival, worth, spent, undecided):
            for t in range(m):
                if undecided[t]:
                    g = group[at + t] if group.size else 0
                    k = _cheapest(tile_v, tile_c, t) if endless[t] else item[t]
                    k, found = _climb(
                        tile_v, tile_c, t, k, prices[0, g], prices[1, g], at + t,
                        places, numbers, found,
                    )  # fmt: skip
                    item[t], worth[t], spent[t] = k, tile_v[k, t], tile_c[k, t]
        choice[at : at + m] = item[:m]
        if group.size:
            for t in range(m):
                g = group[at + t]
                large |= _add(worth[t:], 1, unit_v, sums[g, :3])
                large |= _add(spent[t:], 1, unit_c, sums[g, 3:])
        else:
            large |= _add(worth, m, unit_v, sums[0, :3])
            large |= _add(spent, m, unit_c, sums[0, 3:])
    return found, np.isfinite(noise).all(), large


@_compiled
def tally(v, c, start, stop, coarse, first, unit_v, unit_c, table, sums):
    """See `plain.tally`."""
    items = v.shape[0]
    tile_v, tile_c = _tile(items, v.dtype), _tile(items, v.dtype)
    here, paid, noise = np.empty(_TILE), np.empty(_TILE), np.zeros(_TILE)
    top, dear, ceiling = np.empty(_TILE), np.empty(_TILE), np.empty(_TILE)
    who, bins = np.empty(_TILE, np.int64), np.empty(_TILE, np.int64)
    limbs = np.empty((4, _TILE), np.int64)
    large = False
    for at in range(start, stop, _TILE):
        m = min(_TILE, stop - at)
        _load(v, at, m, tile_v)
        _load(c, at, m, tile_c)
        _start(tile_v, tile_c, m, here, paid, noise)
        large |= _add(here, m, unit_v, sums[:3])
        large |= _add(paid, m, unit_c, sums[3:])
        ceiling[:] = _STEEPEST
        for _ in range(items - 1):
            _rise(tile_v, tile_c, m, here, paid, top, dear)
            found = _rose(m, here, top, who)
            if found == 0:
                break
            _split_up(m, here, top, unit_v, limbs[:2])
            _split_up(m, paid, dear, unit_c, limbs[2:])
            _bins(m, here, paid, top, dear, ceiling, coarse, first, len(table), bins)
            for e in range(found):
                t = who[e]
                record = table[bins[t]]
                for limb in range(4):
                    record[limb] += limbs[limb, t]
            here[:], paid[:] = top, dear
    return np.isfinite(noise).all(), large


@_compiled
def _start(v, c, m, here, paid, noise):
    """Amounts of each user's cheapest item, the most valuable of them; sums show a NaN."""
    for t in range(m):
        here[t], paid[t] = -np.inf, np.inf
    for k in range(v.shape[0]):
        value, cost = v[k], c[k]
        for t in range(m):
            worth, spent = np.float64(value[t]), np.float64(cost[t])
            better = (spent < paid[t]) | ((spent == paid[t]) & (worth > here[t]))
            better &= worth > ABSENT
            here[t] = worth if better else here[t]
            paid[t] = spent if better else paid[t]
            noise[t] += worth - spent


@_compiled
def _rise(v, c, m, here, paid, top, dear):
    """Amounts of the item of steepest rise; the present ones if nothing rises."""
    for t in range(m):
        top[t], dear[t] = here[t], paid[t]
    for k in range(v.shape[0]):
        value, cost = v[k], c[k]
        for t in range(m):
            worth, spent = np.float64(value[t]), np.float64(cost[t])
            rise, more = worth - here[t], spent - paid[t]
            gain, extra = top[t] - here[t], dear[t] - paid[t]
            one, two = rise * extra, gain * more
            better = (one > two) | ((one == two) & (more > extra))
            better &= (rise > 0) & (more > 0)
            top[t] = worth if better else top[t]
            dear[t] = spent if better else dear[t]


@_compiled
def _split_up(m, low, high, unit, limbs):
    """Two limbs of each difference."""
    for t in range(m):
        rest = (high[t] - low[t]) * unit
        limb = np.int64(rest)
        limbs[0, t] = limb
        limbs[1, t] = np.int64(np.rint((rest - limb) * _LIMB))


@_compiled
def _rose(m, here, top, who):
    """List the users who have an edge; return their number."""
    found = 0
    for t in range(m):
        who[found] = t
        found += np.int64(top[t] > here[t])
    return found


@_compiled
def _bins(m, here, paid, top, dear, ceiling, coarse, first, size, bins):
    """Slopes that share their exponent and first mantissa bits share a bin."""
    for t in range(m):
        gain, extra = top[t] - here[t], dear[t] - paid[t]
        slope = gain / extra if extra > 0 else 0.0
        ceiling[t] = min(slope, ceiling[t])
    key = ceiling.view(np.int64)
    for t in range(m):
        bins[t] = min(max((key[t] >> coarse) - first, 0), size - 1)
