"""The allocator of `agents.solve_mckp` against what else spends one budget on n users and K items.

Users differ in size, shape and sign of their response; values are noisy, so that no user's offers
are concave by construction. Item 0 is no incentive: worth nothing, costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_matrix, eye, kron

from agents import cost_curve, solve_mckp
from agents.common.mckp.offers import Layout
from experiments.benchmarks.stopwatch import Timing, timed
from marketing_env.config import Array

_SHARES = (0.05, 0.2, 0.5)  # of what everybody's best item costs
_CURVE_SHARES = tuple(np.geomspace(0.01, 0.95, 12))
_BISECTIONS = 50
_EPSILON = 1e-4  # at which LBCF's bisection stops, in units of the price
_CENTS = 10_000  # integers that CP-SAT counts in, per unit of money and of value


Columns = tuple[Array, Array]  # (K, n)


class Offers(NamedTuple):
    """Values and costs (n, K) float32 of some users, by rows, and a budget."""

    value: Array
    cost: Array
    budget: float


class Rival(NamedTuple):
    name: str
    choose: Callable[[Offers, float], Array | None]  # (n,) items; nothing after so many seconds
    most: float = math.inf  # users; with more, it misses the limit by far, or does not keep it


def campaign(users: int, items: int = 6, seed: int = 0) -> tuple[Array, Array]:
    """(n, K) float32: saturating responses of 8 % noise, 8 % of them negative, and rising costs."""
    rng = np.random.default_rng(seed)
    dose = np.linspace(0, 1, items, dtype=np.float32)
    size = rng.lognormal(size=(users, 1)).astype(np.float32)
    size[rng.random(users) < 0.08] *= -1
    value = rng.standard_normal((users, items), dtype=np.float32)
    value *= 0.08 * np.abs(size)
    value += size * (1 - np.exp(-dose / rng.uniform(0.2, 1, (users, 1)).astype(np.float32)))
    cost = dose * rng.random((users, 1), dtype=np.float32)
    cost *= rng.lognormal(sigma=0.5, size=(users, 1)).astype(np.float32)
    value[:, 0] = 0
    return value, cost


def bisection(o: Offers, limit: float) -> Array:
    """Halve the range of prices, and keep the dearest choice that the budget permits."""
    rows = np.arange(len(o.value))
    low, high = 0.0, float((o.value[:, 1:] / o.cost[:, 1:]).max())
    best = o.cost.argmin(axis=1)
    for _ in range(_BISECTIONS):
        price = (low + high) / 2
        choice = (o.value - np.float32(price) * o.cost).argmax(axis=1)
        if o.cost[rows, choice].sum(dtype=np.float64) <= o.budget:
            high, best = price, choice
        else:
            low = price
    return best


def greedy(o: Offers, limit: float) -> Array:
    """Sort the edges of all users' hulls by slope; take them as long as the money lasts."""
    choice = o.cost.argmin(axis=1)
    users, edges = np.arange(len(choice)), []
    here = choice
    for _ in range(o.cost.shape[1] - 1):
        paid, worth = o.cost[users, here, None], o.value[users, here, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (o.value[users] - worth) / (o.cost[users] - paid)
        slope[o.cost[users] <= paid] = -np.inf
        step = slope.argmax(axis=1)
        steepest = slope[np.arange(len(step)), step]
        up = steepest > 0
        users, here, last = users[up], step[up], here[up]
        extra = (o.cost[users, here] - o.cost[users, last]).astype(np.float64)
        edges.append((steepest[up], users, here, extra))
    slope, user, item, extra = (np.concatenate(x) for x in zip(*edges, strict=True))
    order = np.argsort(-slope, kind="stable")
    least = o.cost.min(axis=1).sum(dtype=np.float64)
    taken = order[: np.searchsorted(least + np.cumsum(extra[order]), o.budget, side="right")]
    choice[user[taken]] = item[taken]
    return choice


def dual_gradient_bisection(o: Offers, limit: float) -> Array:
    """LBCF's solver (Ai et al., WWW 2022): bisect on the sign of the dual's gradient.

    D(price) = price * budget + sum_i max(0, max_j v_ij - price * c_ij), to a width of 1e-4.
    """
    value, cost = (torch.from_numpy(x[:, 1:] - x[:, :1]) for x in (o.value, o.cost))
    low, high = 0.0, float((value / cost).max())
    while high - low > _EPSILON:
        price = torch.tensor((low + high) / 2, requires_grad=True)
        scores = (value - price * cost).max(dim=1).values
        dual = price * o.budget + torch.relu(scores).sum(dtype=torch.float64)
        (slope,) = torch.autograd.grad(dual, price)
        low, high = (low, price.item()) if slope > 0 else (price.item(), high)
    best, item = (value - (low + high) / 2 * cost).max(dim=1)
    return torch.where(best > 0, item + 1, 0).numpy()


def highs_relaxed(o: Offers, limit: float) -> Array | None:
    """HiGHS on the linear relaxation; the user whom it splits gets the cheaper item."""
    n, k = o.value.shape
    answer = linprog(
        -o.value.ravel().astype(np.float64),
        A_ub=csr_matrix(o.cost.reshape(1, -1).astype(np.float64)),
        b_ub=[o.budget],
        A_eq=kron(eye(n), np.ones((1, k)), format="csr"),
        b_eq=np.ones(n),
        method="highs",
        options={"time_limit": limit},
    )
    if answer.status != 0:
        return None
    taken = answer.x.reshape(n, k) > 1e-9
    return np.where(taken, o.cost, np.inf).argmin(axis=1)


def highs_integer(o: Offers, limit: float) -> Array | None:
    """HiGHS on the integer program, to its own tolerance."""
    n, k = o.value.shape
    one_each = kron(eye(n), np.ones((1, k)), format="csr")
    spend = csr_matrix(o.cost.reshape(1, -1).astype(np.float64))
    answer = milp(
        -o.value.ravel().astype(np.float64),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(spend, ub=o.budget)],
        integrality=np.ones(n * k),
        bounds=Bounds(0, 1),
        options={"time_limit": limit},
    )
    return answer.x.reshape(n, k).argmax(axis=1) if answer.status == 0 else None


def cp_sat(o: Offers, limit: float) -> Array | None:
    """OR-Tools' CP-SAT on amounts that are rounded to integers, costs upwards."""
    cp_model: Any = import_module("ortools.sat.python.cp_model")
    model = cp_model.CpModel()
    worth, spent = np.rint(o.value * _CENTS), np.ceil(o.cost.astype(np.float64) * _CENTS)
    takes = [[model.new_bool_var("") for _ in user] for user in worth]
    for user in takes:
        model.add_exactly_one(user)
    flat = [take for user in takes for take in user]
    weights, gains = (x.ravel().astype(int).tolist() for x in (spent, worth))
    model.add(cp_model.LinearExpr.weighted_sum(flat, weights) <= int(o.budget * _CENTS))
    model.maximize(cp_model.LinearExpr.weighted_sum(flat, gains))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit
    if solver.solve(model) != cp_model.OPTIMAL:
        return None
    return np.array([[solver.value(take) for take in user] for user in takes]).argmax(axis=1)


RIVALS = (
    Rival("numpy bisection", bisection),
    Rival("greedy sort", greedy),
    Rival("LBCF dual gradient bisection", dual_gradient_bisection),
    Rival("HiGHS, linear relaxation", highs_relaxed, 10_000),
    Rival("HiGHS, integer program", highs_integer, 10_000),
    *([Rival("OR-Tools CP-SAT", cp_sat, 10_000)] if find_spec("ortools") else []),
)


def allocator(users: tuple[int, ...], repeats: int, limit: float) -> Iterator[dict[str, Any]]:
    """A row for every method, number of users and budget; rivals get the middle budget.

    A rival that did not finish, or would need more seconds than `limit` if its time grew with the
    users, is left out from then on.
    """
    slowness = dict.fromkeys(RIVALS, 0.0)  # seconds a user
    for n in users:
        value, cost = campaign(n)
        columns = np.ascontiguousarray(value.T), np.ascontiguousarray(cost.T)
        most = solve_mckp(value, cost, np.inf).cost
        for share in _SHARES:
            o = Offers(value, cost, share * most)
            yield from _ours(o, columns, share, repeats)
        yield _curve(columns, most, repeats)
        o = Offers(value, cost, _SHARES[1] * most)
        for rival in RIVALS:
            if n <= rival.most and slowness[rival] * n <= limit:
                row = _rival(rival, o, repeats, limit)
                slowness[rival] = math.inf if math.isnan(row["gap"]) else row["seconds"] / n
                yield row


def _ours(o: Offers, columns: Columns, share: float, repeats: int) -> Iterator[dict[str, Any]]:
    layouts: list[tuple[Layout, Array, Array]] = [("columns", *columns), ("rows", *o[:2])]
    for layout, v, c in layouts:
        t = timed(partial(solve_mckp, v, c, o.budget, layout=layout), (v, c), repeats)
        yield _row(f"solve_mckp, {layout}", o, t, t.answer.choice, share)


def _rival(rival: Rival, o: Offers, repeats: int, limit: float) -> dict[str, Any]:
    t = timed(lambda: rival.choose(o, limit), (o.value, o.cost), repeats)
    return _row(rival.name, o, t, t.answer, _SHARES[1])


def _row(name: str, o: Offers, t: Timing, choice: Array | None, share: float) -> dict[str, Any]:
    row = {"method": name, "users": len(o.value), "budget": share, **_times(t)}
    if choice is None:
        return row | {"gap": math.nan, "overspent": math.nan}
    bound = solve_mckp(o.value, o.cost, o.budget, repair=False).bound
    rows = np.arange(len(choice))
    worth, spent = (math.fsum(x[rows, choice].tolist()) for x in (o.value, o.cost))
    return row | {"gap": 1 - worth / bound, "overspent": max(0.0, spent / o.budget - 1)}


def _curve(columns: Columns, most: float, repeats: int) -> dict[str, Any]:
    """The whole curve; its gap is the largest of several budgets' errors."""
    v, c = columns
    t = timed(lambda: cost_curve(v, c, layout="columns"), columns, repeats)
    budgets = most * np.array(_CURVE_SHARES)
    truth = [solve_mckp(v, c, b, layout="columns", repair=False).bound for b in budgets]
    gap = float(np.abs(t.answer.value_at(budgets) / truth - 1).max())
    row = {"method": "cost_curve, columns", "users": v.shape[1], "budget": "all"}
    return row | _times(t) | {"gap": gap, "overspent": 0.0}


def _times(t: Timing) -> dict[str, float]:
    return {"seconds": t.seconds, "reads": t.reads, "memory": t.memory}
