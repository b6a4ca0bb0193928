"""The two passes over all users, compiled. `plain` is their definition in plain numpy.

Users are read in blocks that fit into the second-level cache, as long stretches of memory are read
faster than short ones, and handled in tiles that fit into the first, one item after the other, so
that the inner loops run over users and become vector instructions; loops over many arrays do so
only where these are seen to be apart, which is what `_inlined` is for. Neither `fastmath` nor fused
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

_BLOCK = 1 << 18  # bytes of the values, and of the costs
_TILE = 384  # users
_PAD = 16  # so that the rows of a tile do not compete for the same cache lines
_LIMB = 2.0**32
_STEEPEST = np.finfo(np.float64).max
_SINGLE, _DOUBLE = 2.0**-20, 2.0**-49  # well above the relative rounding errors of both types;
_LEAST = 2.0**-126  # below that, float32 errors are not relative


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call; keep the code on disk if there is a place that can be written."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    return njit(inline="always")(function)


@_inlined
def _tile(items, kind):
    return np.empty((items, _TILE + _PAD), kind)


@_inlined
def _block(x):
    """Room for the users of a block, which are whole tiles, and their number."""
    users = max(1, _BLOCK // (x.shape[0] * x.itemsize) // _TILE) * _TILE
    return np.empty((x.shape[0], users + _PAD), x.dtype), users


@_compiled
def _load(x, at, m, block):
    """Copy the columns of m users."""
    for k in range(x.shape[0]):
        column, out = x[k, at : at + m], block[k]
        for t in range(m):
            out[t] = column[t]


@_inlined
def _sift(v, c, m, high, low, item, worth, spent, best, second, own, rest, reach):
    """The best item at the high price, and the score of the next; and what they score at the low.

    All in the precision of the data, twice as many float32 at once.
    reach: sum of the costs' sizes, NaN if a number is not finite.
    """
    for t in range(m):
        best[t], second[t], own[t], rest[t] = -np.inf, -np.inf, -np.inf, -np.inf
        item[t], worth[t], spent[t], reach[t] = 0, 0, 0, 0
    for k in range(v.shape[0]):
        for t in range(m):  # all is read before any is written, or it would not become vectors
            score, next_, low_score, low_next = best[t], second[t], own[t], rest[t]
            chosen, gets, pays, size = item[t], worth[t], spent[t], reach[t]
            value, cost = v[k, t], c[k, t]
            dear, cheap = value - high[t] * cost, value - low[t] * cost
            better = dear > score
            beaten = score if better else dear
            below = low_score if better else cheap
            next_, low_next = max(beaten, next_), max(below, low_next)
            score = dear if better else score
            low_score = cheap if better else low_score
            chosen = np.int32(k) if better else chosen
            gets = value if better else gets
            pays = cost if better else pays
            size += abs(cost) + (dear - dear)
            best[t], second[t], own[t], rest[t] = score, next_, low_score, low_next
            item[t], worth[t], spent[t], reach[t] = chosen, gets, pays, size


@_inlined
def _unsure(m, rounding, least, farthest, best, second, own, rest, reach, flags, who):
    """List and count the users whose lead at one of the prices may be a matter of rounding."""
    for t in range(m):
        error = rounding[t] * (abs(best[t]) + farthest[t] * reach[t]) + least[t]
        lead = min(best[t] - second[t], own[t] - rest[t]) - error
        flags[t] = 0 if lead > 0 else 1
    found, eights = 0, flags.view(np.uint64)
    for eight in range((m + 7) // 8):
        if eights[eight] != 0:  # few are
            for t in range(8 * eight, min(8 * eight + 8, m)):
                who[found] = t
                found += flags[t]
    return found


@_compiled
def _best(v, c, t, high, low):
    """A user's best and then cheapest item at the high price; whether another is at the low one."""
    best, score, paid = 0, -np.inf, np.inf
    for k in range(v.shape[0]):
        spent = np.float64(c[k, t])
        dear = np.float64(v[k, t]) - high * spent
        if dear > score or (dear == score and spent < paid):
            best, score, paid = k, dear, spent
    own = np.float64(v[best, t]) - low * np.float64(c[best, t])
    for k in range(v.shape[0]):
        if np.float64(v[k, t]) - low * np.float64(c[k, t]) > own:
            return best, True
    return best, False


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
        rest = np.float64(amount[t]) * unit
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
    """See `plain.split`; who leads by more than rounding errors need not be scored exactly."""
    items, n = v.shape[0], stop - start
    (block_v, size), (block_c, _) = _block(v), _block(c)
    rows = _tile(12, v.dtype)
    high, low, farthest, rounding, least = rows[0], rows[1], rows[2], rows[3], rows[4]
    worth, spent, best, second = rows[5], rows[6], rows[7], rows[8]
    own, rest, reach = rows[9], rows[10], rows[11]
    rounding[:] = _SINGLE if v.itemsize == 4 else _DOUBLE
    item, who = np.empty(_TILE, np.int32), np.empty(_TILE, np.int64)
    flags = np.zeros(_TILE, np.uint8)
    found, finite, large = 0, True, False
    for at in range(0, n, _TILE):
        m, within = min(_TILE, n - at), at % size
        if len(places) - found < m * items:
            return found, at, finite, large
        if within == 0:
            _load(v, start + at, min(size, n - at), block_v)
            _load(c, start + at, min(size, n - at), block_c)
        tile_v, tile_c = block_v[:, within : within + m], block_c[:, within : within + m]
        for t in range(m if group.size or at == 0 else 0):
            g = group[at + t] if group.size else 0
            high[t], low[t] = prices[2, g], prices[3, g]
            farthest[t] = max(abs(high[t]), abs(low[t]))
            least[t] = np.inf if prices[4, g] > 0 else _LEAST
        _sift(tile_v, tile_c, m, high, low, item, worth, spent, best, second, own, rest, reach)
        unsure = _unsure(m, rounding, least, farthest, best, second, own, rest, reach, flags, who)
        for i in range(unsure):
            t = who[i]
            g = group[at + t] if group.size else 0
            k, moves = _best(tile_v, tile_c, t, prices[2, g], prices[3, g])
            if prices[4, g] > 0:
                k, moves = _cheapest(tile_v, tile_c, t), True
            if moves:
                k, found = _climb(
                    tile_v, tile_c, t, k, prices[0, g], prices[1, g], at + t,
                    places, numbers, found,
                )  # fmt: skip
            item[t], worth[t], spent[t] = k, tile_v[k, t], tile_c[k, t]
            finite &= np.isfinite(reach[t])
        choice[at : at + m] = item[:m]
        if group.size:
            for t in range(m):
                g = group[at + t]
                large |= _add(worth[t:], 1, unit_v, sums[g, :3])
                large |= _add(spent[t:], 1, unit_c, sums[g, 3:])
        else:
            large |= _add(worth, m, unit_v, sums[0, :3])
            large |= _add(spent, m, unit_c, sums[0, 3:])
    return found, n, finite, large


@_compiled
def tally(v, c, start, stop, coarse, first, unit_v, unit_c, table, sums):
    """See `plain.tally`."""
    items = v.shape[0]
    tile_v, tile_c = _tile(items, np.float64), _tile(items, np.float64)
    rows = _tile(6, np.float64)
    here, paid, top, dear, ceiling, noise = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]
    who, bins = np.empty(_TILE, np.int64), np.empty(_TILE, np.int64)
    limbs = np.empty((4, _TILE), np.int64)
    noise[:] = 0
    large = False
    for at in range(start, stop, _TILE):
        m = min(_TILE, stop - at)
        _load(v, at, m, tile_v)
        _load(c, at, m, tile_c)
        _drop_absent(tile_v, tile_c, m, noise)
        _by_cost(tile_v, tile_c, m)
        here[:], paid[:], ceiling[:] = tile_v[0], tile_c[0], _STEEPEST
        large |= _add(here, m, unit_v, sums[:3])
        large |= _add(paid, m, unit_c, sums[3:])
        for passed in range(1, items):
            _rise(tile_v, tile_c, passed, m, here, paid, top, dear)
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
def _drop_absent(v, c, m, noise):
    """Make what is absent too dear for everyone; sums show a NaN."""
    for k in range(v.shape[0]):
        value, cost = v[k], c[k]
        for t in range(m):
            noise[t] += value[t] - cost[t]
            cost[t] = cost[t] if value[t] > ABSENT else np.inf


@_compiled
def _by_cost(v, c, m):
    """Sort each user's items by rising cost, and by falling value where they cost the same."""
    for last in range(v.shape[0] - 1, 0, -1):
        swaps = 0
        for k in range(last):
            swaps += _exchange(v[k], c[k], v[k + 1], c[k + 1], m)
        if swaps == 0:
            break


@_compiled
def _exchange(v, c, next_v, next_c, m):
    """Swap the items of the users who have them in the wrong order; return how many."""
    swaps = 0
    for t in range(m):
        one, two, cheap, dear = v[t], next_v[t], c[t], next_c[t]
        wrong = (cheap > dear) | ((cheap == dear) & (one < two))
        v[t], next_v[t] = two if wrong else one, one if wrong else two
        c[t], next_c[t] = dear if wrong else cheap, cheap if wrong else dear
        swaps += 1 if wrong else 0
    return swaps


@_inlined
def _rise(v, c, passed, m, here, paid, top, dear):
    """Amounts of the item of steepest rise, the farthest on a line; the present ones if none rises.

    passed: items, the cheapest ones, that nobody can rise to.
    """
    for t in range(m):
        top[t], dear[t] = here[t], paid[t]
    for k in range(passed, v.shape[0]):
        for t in range(m):
            worth, spent = v[k, t], c[k, t]
            value, cost, peak, most = here[t], paid[t], top[t], dear[t]
            rise, more, gain, extra = worth - value, spent - cost, peak - value, most - cost
            better = (rise * extra >= gain * more) & (rise > gain) & (more > 0)
            top[t], dear[t] = worth if better else peak, spent if better else most


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
