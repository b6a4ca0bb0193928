"""The best use of the money that whole edges leave: a search among the nearly indifferent users.

At the shadow price every change of items loses

    loss = price * (extra cost) - (extra value) >= 0,

so the money left is worth at most ``price * left``, and only changes that lose less than that can
be part of a better allocation. The users with the least losses are the core (Pisinger, EJOR 83(2),
1995, searches it by dynamic programming); here those combinations of their items that can pay meet
in the middle (Horowitz & Sahni, JACM 21(2), 1974), in rounds of growing cores.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agents.common.mckp.sums import amount_of, limbs, total
from agents.common.types import Array

_CORES = (32, 64, 128, 256)  # users, a round of the search each
_STATES = 2048  # of each half of the core, so 2048^2 combinations are compared
_ROUNDING = 1e-12  # relative error granted to running sums; what they admit is summed again


class Moves(NamedTuple):
    """What each item changes for each of m users, against their present items."""

    value: Array  # (m, K)
    cost: Array
    loss: Array  # price * cost - value

    def some(self, index: Array | slice) -> Moves:
        return Moves(*(x[index] for x in self))


def moves(value: Array, cost: Array, item: Array, price: float | Array) -> Moves:
    """Changes from `item` (m,) at a price, or at a price (m, 1) of each user."""
    rows = np.arange(len(item))
    gain = value - value[rows, item, None]
    extra = cost - cost[rows, item, None]
    with np.errstate(over="ignore", invalid="ignore"):
        return Moves(gain, extra, price * extra - gain)


def improve(
    value: Array, cost: Array, item: Array, price: float, left: int, scale: int, enough: float
) -> Array:
    """Return the items (m,) worth most that cost at most `left` units more than `item`.

    value, cost: (m, K) of the users to look at, in the order in which equals are served.
    enough: the search ends once it could gain no more than this.
    """
    change = moves(value, cost, item, price)
    other = np.arange(value.shape[1]) != item[:, None]
    loss = change.loss.min(axis=1, initial=np.inf, where=other)
    best, gain, room = item, 0.0, amount_of(left, scale)
    possible, room = price * room, room * (1 + _ROUNDING)
    for size in (2, *_CORES):
        slack = possible - gain
        near = np.flatnonzero(loss < slack)
        if slack <= enough or not len(near):
            break
        if size == 2:
            users, items, found = _best_pair(change, near, room, slack)
        else:
            users = _core(loss, item, near, size)
            items, found = _best_combination(change.some(users), room, slack)
            if found <= gain and len(users) < size:
                break
        extra = limbs(cost[users, items], scale) - limbs(cost[users, item[users]], scale)
        excess = total(extra.sum(axis=1)) - left
        if excess > 0:
            room -= 2 * amount_of(excess, scale)
        elif found > gain:
            best, gain = item.copy(), found
            best[users] = items
    return best


def _best_pair(change: Moves, near: Array, room: float, slack: float) -> tuple[Array, Array, float]:
    """Return the two users, of all those near, whose moves gain most within `room`; and the gain.

    Every move meets the dearest, hence most valuable, of the others that it leaves room for.
    """
    at, item = np.nonzero(change.loss[near] < slack)
    user = near[at]
    value, cost = change.value[user, item], change.cost[user, item]
    steps = _undominated(value, cost)
    partner = np.searchsorted(cost[steps], room - cost, side="right") - 1
    other = steps[partner]
    gain = np.where((partner >= 0) & (user != user[other]), value + value[other], -np.inf)
    i = int(gain.argmax())
    pair = np.array([i, other[i]])
    return user[pair], item[pair], float(gain[i])


def _core(loss: Array, item: Array, near: Array, size: int) -> Array:
    """Return `size` of the users `near` indifference, one of each kind before the second of any."""
    near = near[np.lexsort((item[near], loss[near]))]
    place = np.arange(len(near))
    same = (np.diff(loss[near]) == 0) & (np.diff(item[near]) == 0)
    copy = place - np.maximum.accumulate(np.where(np.append(False, same)[: len(near)], 0, place))
    return near[np.argsort(copy, kind="stable")][:size]


class _States(NamedTuple):
    """Combinations of the moves of some users, by rising cost and rising value."""

    value: Array  # (s,)
    cost: Array
    loss: Array
    item: Array  # (s, m) uint8


def _best_combination(change: Moves, room: float, slack: float) -> tuple[Array, float]:
    """Return the items (m,) that gain most at an extra cost within `room`, and that gain.

    Every state of one half of the users meets the dearest, hence most valuable, state of the other
    half that it leaves room for.
    """
    halves = _halves(len(change.value))
    one, two = (_states(change.some(half), room, slack) for half in halves)
    partner = np.searchsorted(two.cost, room - one.cost, side="right") - 1
    gain = np.where(partner >= 0, one.value + two.value[partner], -np.inf)
    i = int(gain.argmax())
    items = np.empty(len(change.value), dtype=np.uint8)
    items[halves[0]], items[halves[1]] = one.item[i], two.item[partner[i]]
    return items, float(gain[i])


def _halves(m: int) -> list[Array]:
    """Split 0..m - 1 by the Thue-Morse sequence: both halves get users of every recurring kind."""
    bits = np.arange(m)
    for shift in (4, 2, 1):
        bits = bits ^ bits >> shift
    return [np.flatnonzero(bits & 1 == half) for half in (0, 1)]


def _states(change: Moves, room: float, slack: float) -> _States:
    """Return the combinations that lose less than `slack`, the best `_STATES` of them."""
    m, none = len(change.value), np.zeros(1)
    states = _States(none, none, none, np.zeros((1, m), dtype=np.uint8))
    for j in range(m):
        parent, item = np.nonzero(np.add.outer(states.loss, change.loss[j]) < slack)
        value = states.value[parent] + change.value[j, item]
        cost = states.cost[parent] + change.cost[j, item]
        loss = states.loss[parent] + change.loss[j, item]
        keep = _undominated(value, cost)
        # Where losses are equal, a half that takes half of the room finds most partners.
        keep = _fewest(keep, loss[keep] / slack + 1e-3 * np.abs(cost[keep] / room - 0.5))
        items = states.item[parent[keep]]
        items[:, j] = item[keep]
        states = _States(value[keep], cost[keep], loss[keep], items)
    return states


def _undominated(value: Array, cost: Array) -> Array:
    """Return by rising cost the states that are worth more than all cheaper ones."""
    rank = np.argsort(cost, kind="stable")
    value = value[rank]
    return rank[np.append(True, value[1:] > np.maximum.accumulate(value)[:-1])]


def _fewest(states: Array, badness: Array) -> Array:
    """Return the `_STATES` least bad of the states, in the order given."""
    if len(states) <= _STATES:
        return states
    return states[np.sort(np.argpartition(badness, _STATES)[:_STATES])]
