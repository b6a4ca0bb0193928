"""Budget allocation as a multiple-choice knapsack: every user gets exactly one item.

    maximise sum_i value[i, k_i]   subject to   sum_i cost[i, k_i] <= budget,   k_i eligible

The linear relaxation is solved exactly. It needs only the upper concave hull of each user's (cost,
value) points: edges of all hulls, taken in order of falling slope until the money is spent, are its
optimum, and the slope of the edge that no longer fits is the shadow price of the budget (Sinha &
Zoltners, Operations Research 27(3), 1979; Kellerer, Pferschy & Pisinger, Knapsack Problems, 2004,
section 11.2). Without that one edge the solution is integral and worth less by at most one user's
edge; a search among the users who are nearly indifferent at that price, in the spirit of Pisinger's
core (EJOR 83(2), 1995), then spends what is left.

The choice is never read off ``value - price * cost`` at the shadow price: identical users would all
switch there at once. Equal slopes are served in the order of a hash of the user id, which is fair,
repeatable, and the same however the rows are sorted.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

_LARGEST = 1e150  # sums, and products with a sensible price, stay finite below this
_ROUNDING = 1e-12  # relative error granted to running sums; what they admit is summed again
_CORE_USERS = (32, 64, 128, 256)  # one round of the search each
_CORE_STATES = 2048  # of each half of the core, so 2048^2 combinations are compared


@dataclass(frozen=True)
class Allocation:
    """One eligible item for every user within the budget, and how far from optimal it can be."""

    choice: Array  # (n,) uint8
    value: float
    cost: float  # sum over rows in float64; never above the budget
    price: float  # shadow price: value of one more unit of money, 0 if the budget does not bind
    bound: float  # optimum of the linear relaxation: no allocation is worth more
    status: str

    @property
    def gap(self) -> float:
        """Return the most that any allocation could be better, as a share of the bound."""
        missing = self.bound - self.value
        return missing / max(abs(self.bound), abs(self.value)) if missing else 0.0


@dataclass(frozen=True)
class CostCurve:
    """Best value of every budget, under the linear relaxation: concave and piecewise linear.

    ``price[j]`` is the slope from ``budget[j]`` to ``budget[j + 1]``. The last one is 0: more money
    buys nothing.
    """

    budget: Array  # (m,) breakpoints; the first is the least possible spend
    value: Array  # (m,)
    price: Array  # (m,) falling

    def value_at(self, budget: ArrayLike) -> Array:
        """Return the best value at each budget; raises ValueError below the least spend."""
        return np.interp(self._feasible(budget), self.budget, self.value)

    def price_at(self, budget: ArrayLike) -> Array:
        """Return what one more unit of money is worth at each budget."""
        last = np.searchsorted(self.budget, self._feasible(budget), side="right") - 1
        return np.asarray(self.price[last])

    def _feasible(self, budget: ArrayLike) -> Array:
        amount = np.asarray(budget, dtype=np.float64)
        if not np.all(amount >= self.budget[0]):
            worst = float(amount[~(amount >= self.budget[0])].flat[0])
            raise ValueError(f"budget is {worst}; the least possible spend is {self.budget[0]}")
        return amount


def solve_mckp(
    value: ArrayLike,
    cost: ArrayLike,
    budget: float,
    *,
    eligible: ArrayLike | None = None,
    user_id: ArrayLike | None = None,
    repair: bool = True,
) -> Allocation:
    """Choose one item a user so that total value is as large as a total budget permits.

    Time O(n K h + h n log n) for hulls of h edges; value and cost are (n, K) with any sign.

    budget: currency in total (not a user); may be infinite.
    eligible: (n, K) bool, the items a user may get; default all.
    user_id: (n,) integers or strings that break ties; default the row number.
    repair: search for the best use of what the rounded relaxation leaves; without it less than one
        edge of one user's hull is lost, in a fraction of the time.

    Raises ValueError for wrong shapes, a number that is not finite (eligible or not), a user
    without an eligible item, and a budget below the least possible spend.
    """
    v, c = _checked(value, cost, eligible)
    order = _hash_order(user_id, len(v))
    base = _cheapest(v, c)
    _check_budget(budget, _total(c, base))
    choice, price = _fill(c, base, _hull(v, c, base, order), budget)
    bound = _total(v, choice)
    status = "budget does not bind: every user has its best item"
    if price > 0:
        status = f"budget binds: one more unit of money is worth {price:.6g}"
        loss = _least_loss(v, c, choice, price)
        # Weak duality: holds for any price >= 0 and any choice, whatever the search has done.
        bound += price * (budget - _total(c, choice)) - float(np.minimum(loss, 0).sum())
        if repair:
            choice = _repair(v, c, budget, choice, price, loss, order)
    total = _total(v, choice)
    return Allocation(choice, total, _total(c, choice), price, max(bound, total), status)


def cost_curve(
    value: ArrayLike, cost: ArrayLike, *, eligible: ArrayLike | None = None
) -> CostCurve:
    """Return the best value of every budget at once, with every breakpoint exact.

    The value is the ``bound`` of `solve_mckp`; arguments and errors are the same as there.
    Breakpoints of equal price are merged.
    """
    v, c = _checked(value, cost, eligible)
    base = _cheapest(v, c)
    hull = _hull(v, c, base, np.arange(len(v)))
    rank = np.argsort(-hull.slope, kind="stable")
    slope = np.append(hull.slope[rank], 0.0)
    corner = np.append(True, slope[1:] != slope[:-1])
    spend = np.append(0.0, np.cumsum(hull.cost[rank]))
    worth = np.append(0.0, np.cumsum(hull.value[rank]))
    return CostCurve(
        spend[corner] + _total(c, base), worth[corner] + _total(v, base), slope[corner]
    )


def _checked(value: ArrayLike, cost: ArrayLike, eligible: ArrayLike | None) -> tuple[Array, Array]:
    """Return value and cost as float64, the cost of what is not eligible being infinite."""
    v, c = (np.asarray(x, dtype=np.float64) for x in (value, cost))
    if v.ndim != 2 or not 1 <= v.shape[1] <= 256:
        raise ValueError(f"value has shape {v.shape}; allowed is (n, K) with K from 1 to 256")
    if c.shape != v.shape:
        raise ValueError(f"cost has shape {c.shape}, value {v.shape}; they must be equal")
    _check_finite("value", v)
    _check_finite("cost", c)
    if eligible is None:
        return v, c
    allowed = np.asarray(eligible)
    if allowed.shape != v.shape or allowed.dtype != np.bool_:
        raise ValueError(f"eligible is {allowed.dtype} {allowed.shape}; allowed is bool {v.shape}")
    served = allowed.any(axis=1)
    if not served.all():
        raise ValueError(f"eligible has no item in row {served.argmin()}; every user needs one")
    return v, np.where(allowed, c, np.inf)


def _check_finite(name: str, x: Array) -> None:
    wrong = ~(np.abs(x) <= _LARGEST)
    if wrong.any():
        row, column = (int(i) for i in np.unravel_index(np.argmax(wrong), x.shape))
        raise ValueError(
            f"{name} is {x[row, column]} in row {row}, column {column}; "
            f"allowed are finite numbers up to {_LARGEST:g} in size"
        )


def _check_budget(budget: float, least: float) -> None:
    if np.isnan(budget):
        raise ValueError("budget is nan; allowed is any amount, or infinity")
    if least > budget:
        raise ValueError(f"budget is {budget}, which no allocation meets; least possible: {least}")


def _hash_order(user_id: ArrayLike | None, n: int) -> Array:
    """Return the rows in the order in which equal offers are served."""
    ids = np.arange(n) if user_id is None else np.asarray(user_id)
    if ids.shape != (n,):
        raise ValueError(f"user_id has shape {ids.shape}; value has {n} rows")
    return np.argsort(_hash(ids), kind="stable")


def _hash(ids: Array) -> Array:
    """Return uint64 hashes: splitmix64's finaliser of integers, BLAKE2b of anything else."""
    if ids.dtype.kind not in "iu":
        digests = b"".join(hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in ids)
        return np.frombuffer(digests, dtype="<u8")
    z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _picked(x: Array, choice: Array) -> Array:
    return x[np.arange(len(x)), choice]


def _total(x: Array, choice: Array) -> float:
    return float(_picked(x, choice).sum())


def _cheapest(value: Array, cost: Array) -> Array:
    """Return each user's cheapest item, the most valuable of them: the start of its hull.

    Starting there rather than at item 0 is what makes free items and negative costs ordinary.
    """
    least = cost == cost.min(axis=1, keepdims=True)
    return np.where(least, value, -np.inf).argmax(axis=1).astype(np.uint8)


class _Hull(NamedTuple):
    """Edges of every user's hull: first edges of all users, then second edges, and so on."""

    user: Array  # (m,)
    item: Array  # where the edge ends
    value: Array
    cost: Array
    slope: Array  # value / cost, never rising along the edges of one user


def _hull(value: Array, cost: Array, base: Array, order: Array) -> _Hull:
    """Wrap all users' points at once: from each vertex the steepest rise leads to the next one."""
    user, item = order, base[order]
    ceiling = np.full(len(order), np.finfo(np.float64).max)
    rounds: list[tuple[Array, ...]] = []
    while len(user) or not rounds:
        target, slope = _steepest(value, cost, user, item)
        slope = np.minimum(slope, ceiling)  # rounding must not let a later edge overtake
        up = slope > 0
        user, item, target, ceiling = user[up], item[up], target[up], slope[up]
        gain = value[user, target] - value[user, item]
        spent = cost[user, target] - cost[user, item]
        rounds.append((user, target, gain, spent, ceiling))
        item = target
    return _Hull(*(np.concatenate(parts) for parts in zip(*rounds, strict=True)))


def _steepest(value: Array, cost: Array, user: Array, item: Array) -> tuple[Array, Array]:
    """Return for each user the item of steepest rise from the present one, and that slope."""
    value_now, cost_now = value[user, item], cost[user, item]
    target, best = item.copy(), np.zeros(len(user))
    for k in range(value.shape[1]):
        gain, spent = value[user, k] - value_now, cost[user, k] - cost_now
        with np.errstate(over="ignore"):
            slope = np.divide(gain, spent, out=np.zeros_like(gain), where=(gain > 0) & (spent > 0))
        steeper = slope > best
        target[steeper], best[steeper] = k, slope[steeper]
    return target, best


def _fill(cost: Array, base: Array, hull: _Hull, budget: float) -> tuple[Array, float]:
    """Take edges by falling slope while the money lasts; return the choice and the shadow price.

    The running sum may be off by its rounding, so the true sum has the last word.
    """
    rank = np.argsort(-hull.slope, kind="stable")

    def spend(count: int) -> float:
        return _total(cost, _after(base, hull, rank[:count]))

    room = budget - spend(0) + _ROUNDING * max(abs(budget), abs(spend(0)))
    fits = int(np.searchsorted(np.cumsum(hull.cost[rank]), room, side="right"))
    low, step = fits, 1
    while low > 0 and spend(low) > budget:
        low, step = max(low - step, 0), 2 * step
    count = bisect_right(range(fits + 1), budget, lo=low, key=spend) - 1
    price = float(hull.slope[rank[count]]) if count < len(rank) else 0.0
    return _after(base, hull, rank[:count]), price


def _after(base: Array, hull: _Hull, taken: Array) -> Array:
    """Return the choice once the edges are taken; a user's last edge is also last in `taken`."""
    choice = base.copy()
    choice[hull.user[taken]] = hull.item[taken]
    return choice


def _least_loss(value: Array, cost: Array, choice: Array, price: float) -> Array:
    """Return (n,) the least fall of ``value - price * cost`` when a user gets another item."""
    value_now, cost_now = _picked(value, choice), _picked(cost, choice)
    least = np.full(len(choice), np.inf)
    for k in range(value.shape[1]):
        with np.errstate(over="ignore"):
            loss = price * (cost[:, k] - cost_now) - (value[:, k] - value_now)
        np.minimum(least, loss, out=least, where=choice != k)
    return least


def _repair(
    value: Array, cost: Array, budget: float, split: Array, price: float, loss: Array, order: Array
) -> Array:
    """Spend what the integral part of the relaxed solution leaves on the best core combination.

    Changes gain ``price * extra cost - loss``, so a loss as large as the gap cannot pay. Each
    success narrows the gap, and with it the users to look at, until they all fit into the core.
    """
    left, best, gain = budget - _total(cost, split), split, 0.0
    room = left + _ROUNDING * abs(budget)
    for size in _CORE_USERS:
        slack = price * left - gain
        if slack <= 0:
            break
        users = _core(loss, split, order[loss[order] < slack], size)
        items, found = _best_combination(_moves(value, cost, split, price, users), room, slack)
        if found <= gain and len(users) < size:
            break
        trial = split.copy()
        trial[users] = items
        excess = _total(cost, trial) - budget
        if excess > 0:
            room -= 2 * excess
        elif found > gain:
            best, gain = trial, found
    return best


def _core(loss: Array, choice: Array, near: Array, size: int) -> Array:
    """Return `size` of the users `near` indifference, one of each kind before the second of any."""
    near = near[np.lexsort((choice[near], loss[near]))]
    place = np.arange(len(near))
    same = (np.diff(loss[near]) == 0) & (np.diff(choice[near]) == 0)
    copy = place - np.maximum.accumulate(np.where(np.append(False, same)[: len(near)], 0, place))
    return near[np.argsort(copy, kind="stable")][:size]


class _Moves(NamedTuple):
    """What each item changes for each of m users, against their present items."""

    value: Array  # (m, K)
    cost: Array
    loss: Array  # price * cost - value


def _moves(value: Array, cost: Array, choice: Array, price: float, users: Array) -> _Moves:
    gain = value[users] - value[users, choice[users], None]
    extra = cost[users] - cost[users, choice[users], None]
    with np.errstate(over="ignore"):
        return _Moves(gain, extra, price * extra - gain)


class _States(NamedTuple):
    """Combinations of the moves of some users, by rising cost and rising value."""

    value: Array  # (s,)
    cost: Array
    loss: Array
    item: Array  # (s, m) uint8


def _best_combination(moves: _Moves, room: float, slack: float) -> tuple[Array, float]:
    """Return the items (m,) that gain most at an extra cost within `room`, and that gain.

    Meet in the middle (Horowitz & Sahni, JACM 21(2), 1974): every state of one half of the users
    meets the dearest, hence most valuable, state of the other half that it leaves room for.
    """
    one, two = (_states(_Moves(*(x[half::2] for x in moves)), room, slack) for half in (0, 1))
    partner = np.searchsorted(two.cost, room - one.cost, side="right") - 1
    gain = np.where(partner >= 0, one.value + two.value[partner], -np.inf)
    i = int(gain.argmax())
    items = np.empty(len(moves.value), dtype=np.uint8)
    items[::2], items[1::2] = one.item[i], two.item[partner[i]]
    return items, float(gain[i])


def _states(moves: _Moves, room: float, slack: float) -> _States:
    """Return the combinations that lose less than `slack`, the best `_CORE_STATES` of them."""
    m, none = len(moves.value), np.zeros(1)
    states = _States(none, none, none, np.zeros((1, m), dtype=np.uint8))
    for j in range(m):
        parent, item = np.nonzero(np.add.outer(states.loss, moves.loss[j]) < slack)
        value = states.value[parent] + moves.value[j, item]
        cost = states.cost[parent] + moves.cost[j, item]
        loss = states.loss[parent] + moves.loss[j, item]
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
    """Return the `_CORE_STATES` least bad of the states, in the order given."""
    if len(states) <= _CORE_STATES:
        return states
    return states[np.sort(np.argpartition(badness, _CORE_STATES)[:_CORE_STATES])]
