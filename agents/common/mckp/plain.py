"""The two passes over all users, in plain numpy: what `compiled` compiles, bit for bit."""

from __future__ import annotations

import numpy as np

from agents.common.mckp.offers import ABSENT
from agents.common.mckp.sums import LIMIT
from agents.common.types import Array

_STEEPEST = np.finfo(np.float64).max
_LIMB = 2.0**32


def split(
    v: Array,
    c: Array,
    start: int,
    stop: int,
    group: Array,
    prices: Array,
    unit_v: float,
    unit_c: float,
    choice: Array,
    places: Array,
    numbers: Array,
    sums: Array,
) -> tuple[int, int, bool, bool]:
    """Walk every user up its hull to the high end of a window of prices, and list the edges within.

    v, c: (K, n), of which the users from start to stop are meant.
    group: (m,) index of each user's column in `prices`; empty if there is only one.
    prices: (5, G) the window's high and low end; both a little wider, for scores that are rounded;
        and whether that is of no use, and all users have to be walked.
    unit_v, unit_c: powers of two that scale amounts for `sums`.
    choice: (m,) is filled with the item each user has at the high end.
    places: (edges, 3) is filled with user, item below, item above, and
    numbers: (edges, 5) with slope, value below and above, cost below and above.
    sums: (G, 6) limbs of the values and of the costs of `choice` are added to it.

    Returns how many edges there are, how many users were walked before there might be no room for
    the edges of more, whether all numbers are finite, and whether one is too large for the sums.
    """
    m = min(stop - start, len(places) // len(v))
    stop, group, choice = start + m, group[:m], choice[:m]
    v, c = (np.asarray(x[:, start:stop], dtype=np.float64) for x in (v, c))
    group = group if len(group) else np.zeros(v.shape[1], dtype=np.intp)
    high, low, wide_high, wide_low, endless = prices[:, group]
    with np.errstate(all="ignore"):
        item, rival, finite = _score(v, c, wide_high, wide_low)
        own = _picked(v, item) - wide_low * _picked(c, item)
        users = np.flatnonzero((endless > 0) | (rival > own))
        free = np.flatnonzero(endless)
        item[free] = _cheapest(v[:, free], c[:, free])
        found = _climb(v, c, users, item, high, low, places, numbers)
    choice[:] = item
    large = False
    for amounts, unit, at in ((v, unit_v, slice(0, 3)), (c, unit_c, slice(3, 6))):
        chosen = _picked(amounts, item) * unit
        large |= not np.all(np.abs(chosen) < LIMIT)
        _add(chosen, group, sums[:, at])
    return found, m, finite, large


def tally(
    v: Array,
    c: Array,
    start: int,
    stop: int,
    coarse: int,
    first: int,
    unit_v: float,
    unit_c: float,
    table: Array,
    sums: Array,
) -> tuple[bool, bool]:
    """Add every rising edge of all users' hulls to the bin of its slope.

    coarse, first: a slope's bin does not see its low `coarse` bits; its other bits in bin 0.
    table: (bins, 4) to which two limbs of value and two of cost are added.
    sums: (6,) to which the limbs of the values and of the costs of the cheapest items are added.

    Returns whether all numbers are finite, and whether one is too large for the sums.
    """
    v, c, finite = _by_cost(*(np.asarray(x[:, start:stop], dtype=np.float64) for x in (v, c)))
    users, item, large = np.arange(v.shape[1]), np.zeros(v.shape[1], dtype=np.intp), False
    for amounts, unit, at in ((v, unit_v, slice(0, 3)), (c, unit_c, slice(3, 6))):
        chosen = _picked(amounts, item) * unit
        large |= not np.all(np.abs(chosen) < LIMIT)
        _add(chosen, np.zeros(len(users), dtype=np.intp), sums[None, at])
    ceiling: Array = np.full(len(users), _STEEPEST)
    while finite and len(users):
        best, gain, spent = _rise(v, c, users, item)
        up = gain > 0
        users, item, gain, spent = users[up], best[up], gain[up], spent[up]
        ceiling = np.minimum(gain / spent, ceiling[up])
        bins = np.clip((ceiling.view(np.int64) >> coarse) - first, 0, len(table) - 1)
        for first_limb, rest in ((0, gain * unit_v), (2, spent * unit_c)):
            whole = rest.astype(np.int64)
            part = np.rint((rest - whole) * _LIMB).astype(np.int64)
            np.add.at(table[:, first_limb], bins, whole)
            np.add.at(table[:, first_limb + 1], bins, part)
    return finite, large


def _by_cost(v: Array, c: Array) -> tuple[Array, Array, bool]:
    """Each user's items by rising cost, the most valuable first; sums show a NaN.

    What is absent costs infinity.
    """
    with np.errstate(all="ignore"):
        finite = bool(np.isfinite((v - c).sum()))
    c = np.where(v > ABSENT, c, np.inf)
    order = np.lexsort((-v, c), axis=0)
    return np.take_along_axis(v, order, axis=0), np.take_along_axis(c, order, axis=0), finite


def _rise(v: Array, c: Array, users: Array, item: Array) -> tuple[Array, Array, Array]:
    """The item of steepest rise from `item`, the farthest on a line, with its gain and extra cost.

    Items are sorted by cost; the gain is 0 if none rises.
    """
    here, paid = v[item, users], c[item, users]
    best, gain, spent = item, np.zeros(len(users)), np.zeros(len(users))
    for k in range(len(v)):
        rise, more = v[k, users] - here, c[k, users] - paid
        with np.errstate(over="ignore", invalid="ignore"):
            better = (rise * spent >= gain * more) & (rise > gain) & (more > 0)
        best = np.where(better, k, best)
        gain, spent = np.where(better, rise, gain), np.where(better, more, spent)
    return best, gain, spent


def _picked(x: Array, item: Array) -> Array:
    return x[item, np.arange(x.shape[1])]


def _score(v: Array, c: Array, high: Array, low: Array) -> tuple[Array, Array, bool]:
    """The best and then cheapest item at the high price, and the best score at the low one.

    Sums show a NaN.
    """
    score, rival = (np.full(v.shape[1], -np.inf) for _ in range(2))
    paid = np.full(v.shape[1], np.inf)
    noise, item = np.zeros(v.shape[1]), np.zeros(v.shape[1], dtype=np.uint8)
    for k in range(len(v)):
        dear, cheap = v[k] - high * c[k], v[k] - low * c[k]
        better = (dear > score) | ((dear == score) & (c[k] < paid))
        item[better], score[better], paid[better] = k, dear[better], c[k, better]
        rival = np.where(cheap > rival, cheap, rival)
        noise += dear
    return item, rival, bool(np.isfinite(noise).all())


def _cheapest(v: Array, c: Array) -> Array:
    """The cheapest item of each user, the most valuable of them."""
    cost = np.where(v > ABSENT, c, np.inf)
    return np.where(cost == cost.min(axis=0), v, -np.inf).argmax(axis=0).astype(np.uint8)


def _steepest(v: Array, c: Array, users: Array, item: Array) -> tuple[Array, Array, Array]:
    """The item of steepest rise from `item`, or of least fall, with its gain and extra cost.

    Of several on one line it is the farthest, of equal ones the first; -1 if none costs more.
    """
    here, paid = v[item, users], c[item, users]
    best = np.full(len(users), -1)
    gain, spent = np.zeros(len(users)), np.zeros(len(users))
    for j in range(len(v)):
        more, rise = c[j, users] - paid, v[j, users] - here
        one, two = rise * spent, gain * more
        steeper = (best < 0) | (one > two) | ((one == two) & (more > spent))
        steeper &= (more > 0) & (v[j, users] > ABSENT)
        best[steeper], gain[steeper], spent[steeper] = j, rise[steeper], more[steeper]
    return best, gain, spent


def _climb(
    v: Array,
    c: Array,
    users: Array,
    item: Array,
    high: Array,
    low: Array,
    places: Array,
    numbers: Array,
) -> int:
    """Walk up the hulls of `users` together, an edge at a time; `item` moves to the high end."""
    here: Array = item[users].astype(np.intp)
    ceiling: Array = np.full(len(users), _STEEPEST)
    found: list[tuple[Array, ...]] = []
    while len(users) or not found:
        best, gain, spent = _steepest(v, c, users, here)
        slope = np.full(len(users), -np.inf)
        np.divide(gain, spent, out=slope, where=best >= 0)
        slope = np.minimum(slope, ceiling)  # rounding must not let a later edge overtake
        up = slope > low[users]
        users, here, best, ceiling = users[up], here[up], best[up], slope[up]
        inside = ceiling <= high[users]
        item[users[~inside]] = best[~inside]
        found.append((users[inside], here[inside], best[inside], ceiling[inside]))
        here = best
    user, below, above, slope = map(np.concatenate, zip(*found, strict=True))
    return _write(v, c, user, below, above, slope, places, numbers)


def _write(
    v: Array,
    c: Array,
    user: Array,
    below: Array,
    above: Array,
    slope: Array,
    places: Array,
    numbers: Array,
) -> int:
    """Write the edges down; successive ones of equal slope are one edge."""
    order = np.argsort(user, kind="stable")
    user, below, above, slope = (x[order] for x in (user, below, above, slope))
    same = (user[1:] == user[:-1]) & (slope[1:] == slope[:-1])
    first = np.append(True, ~same)[: len(user)]
    last = np.append(~same, True)[: len(user)]
    user, below, above, slope = user[first], below[first], above[last], slope[first]
    m = len(user)
    places[:m] = np.stack([user, below, above], axis=1)
    columns = [slope, v[below, user], v[above, user], c[below, user], c[above, user]]
    numbers[:m] = np.stack(columns, axis=1)
    return m


def _add(scaled: Array, group: Array, sums: Array) -> None:
    """Add the limbs of each user's scaled amount to the sums (G, 3) of its group."""
    scaled = np.clip(scaled, -LIMIT, LIMIT)
    for part in range(3):
        whole = (np.ceil(scaled) if part == 2 else scaled).astype(np.int64)
        np.add.at(sums[:, part], group, whole)
        scaled = (scaled - whole) * _LIMB
