"""The knapsack against enumeration, HiGHS and duality, and against inputs made to break it."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_matrix, eye, kron

from agents import Allocation, solve_mckp

Array = NDArray[Any]

INTEGERS = st.integers(-4, 6).map(float)
DECIMALS = st.integers(-40, 60).map(lambda x: x / 10)
WIDE = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6)
UNITS = st.sampled_from([1e-140, 1e-9, 1.0, 1e7, 1e140])


def campaign(n: int, k: int = 6, seed: int = 0) -> tuple[Array, Array]:
    """Return saturating noisy values, some of them negative, and rising costs."""
    rng = np.random.default_rng(seed)
    dose = np.linspace(0, 1, k)
    size = rng.lognormal(size=(n, 1)) * np.where(rng.random((n, 1)) < 0.08, -1, 1)
    value = size * (1 - np.exp(-3 * dose)) + 0.08 * np.abs(size) * rng.normal(size=(n, k))
    cost = dose * rng.uniform(0.3, 1, (n, k)) * rng.lognormal(sigma=0.5, size=(n, 1))
    value[:, 0] = 0
    return value, cost


def total(x: Array, choice: Array) -> float:
    return math.fsum(x[np.arange(len(x)), choice])


def check_consistent(a: Allocation, value: Array, cost: Array, budget: float) -> None:
    assert a.choice.dtype == np.uint8
    assert a.cost == total(cost, a.choice) <= budget
    assert a.value == total(value, a.choice) <= a.bound
    assert a.price >= 0


def best_by_enumeration(value: Array, cost: Array, eligible: Array, budget: float) -> float | None:
    n, k = value.shape
    choices = np.array(list(product(range(k), repeat=n)))
    rows = np.arange(n)
    fits = (cost[rows, choices].sum(axis=1) <= budget) & eligible[rows, choices].all(axis=1)
    return float(value[rows, choices].sum(axis=1)[fits].max()) if fits.any() else None


@st.composite
def instances(draw: st.DrawFn, numbers: st.SearchStrategy[float]) -> tuple[Any, ...]:
    n, k = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    cells = st.lists(numbers, min_size=n * k, max_size=n * k)
    value, cost = (np.array(draw(cells)).reshape(n, k) for _ in range(2))
    eligible = np.array(draw(st.lists(st.booleans(), min_size=n * k, max_size=n * k)))
    eligible = eligible.reshape(n, k)
    eligible[np.arange(n), draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))] = True
    return value, cost, eligible, n * draw(numbers)


@given(instances(INTEGERS))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_small_integer_instances_are_solved_to_the_optimum(instance: tuple[Any, ...]) -> None:
    value, cost, eligible, budget = instance
    best = best_by_enumeration(value, cost, eligible, budget)
    if best is None:
        with pytest.raises(ValueError, match="least possible"):
            solve_mckp(value, cost, budget, eligible=eligible)
        return
    a = solve_mckp(value, cost, budget, eligible=eligible)
    check_consistent(a, value, cost, budget)
    assert eligible[np.arange(len(value)), a.choice].all()
    assert a.value == best
    assert a.bound >= best - 1e-9


# Nothing is left, and 1 / 49 * 49 < 1 makes a loss negative.
NOTHING_LEFT = (np.array([[0.0, 1.0]]), np.array([[0.0, 49.0]]), np.ones((1, 2), dtype=bool), 0.0)


@example(NOTHING_LEFT, 1.0, 1.0)
@pytest.mark.filterwarnings("error")
@given(instances(st.one_of(DECIMALS, WIDE)), UNITS, UNITS)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_sandwich_holds_whatever_the_numbers(
    instance: tuple[Any, ...], unit_v: float, unit_c: float
) -> None:
    value, cost, eligible, budget = instance
    value, cost, budget = unit_v * value, unit_c * cost, unit_c * budget
    best = best_by_enumeration(value, cost, eligible, budget)
    if best is None:
        return
    a = solve_mckp(value, cost, budget, eligible=eligible)
    check_consistent(a, value, cost, budget)
    assert cost[np.arange(len(cost)), a.choice].sum() <= budget  # also by numpy's own sum
    rounding = 1e-9 * max(unit_v, np.abs(value).max(initial=0) * len(value))
    worst, top = (np.where(eligible, value, x) for x in (np.inf, -np.inf))
    assert a.value <= best + rounding
    assert a.bound >= best - rounding
    assert a.value >= a.bound - (top.max(axis=1) - worst.min(axis=1)).max() - rounding


def relaxed_optimum(value: Array, cost: Array, budget: float) -> float:
    n, k = value.shape
    one_each = kron(eye(n), np.ones((1, k)), format="csr")
    answer = linprog(
        -value.ravel(), cost.reshape(1, -1), [budget], one_each, np.ones(n), method="highs"
    )
    return float(-answer.fun)


def integer_optimum(value: Array, cost: Array, budget: float) -> float:
    n, k = value.shape
    answer = milp(
        -value.ravel(),
        constraints=[
            LinearConstraint(kron(eye(n), np.ones((1, k)), format="csr"), 1, 1),
            LinearConstraint(csr_matrix(cost.reshape(1, -1)), -np.inf, budget),
        ],
        integrality=np.ones(n * k),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0, "time_limit": 20},
    )
    return float(-answer.fun)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("signed", [False, True])
def test_bound_is_the_relaxed_optimum(share: float, signed: bool) -> None:
    value, cost = campaign(300)
    if signed:
        cost = cost - 0.4
    least, most = cost.min(axis=1).sum(), solve_mckp(value, cost, np.inf).cost
    budget = least + share * (most - least)
    bound = solve_mckp(value, cost, budget).bound
    assert bound == pytest.approx(relaxed_optimum(value, cost, budget), rel=1e-9)


@pytest.mark.parametrize(("n", "k", "share"), [(20, 6, 0.1), (60, 3, 0.3), (60, 12, 0.2)])
def test_value_is_the_integer_optimum_of_midsize_instances(n: int, k: int, share: float) -> None:
    value, cost = campaign(n, k, seed=n + k)
    budget = share * solve_mckp(value, cost, np.inf).cost
    a = solve_mckp(value, cost, budget)
    assert a.value == pytest.approx(integer_optimum(value, cost, budget), rel=1e-9)


def dynamic_program(value: Array, cost: Array, budget: int) -> float:
    """The best value within a budget of whole cents."""
    best = np.zeros(budget + 1)
    for worth, spent in zip(value, cost, strict=True):
        new = np.full(budget + 1, -np.inf)
        for k in np.flatnonzero(spent <= budget):
            shifted = best[: budget + 1 - spent[k]] + worth[k]
            np.maximum(new[spent[k] :], shifted, out=new[spent[k] :])
        best = new
    return float(best[-1])


@pytest.mark.parametrize(("n", "cents"), [(1, 500), (30, 1_000), (100, 1_000), (1_000, 60)])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_value_is_that_of_the_dynamic_program(n: int, cents: int, share: float) -> None:
    value, cost = campaign(n)
    cost = np.rint(cost * cents).astype(int)
    budget = int(share * solve_mckp(value, cost, np.inf).cost)
    a = solve_mckp(value, cost, budget)
    assert a.value == pytest.approx(dynamic_program(value, cost, budget), rel=1e-6)


@pytest.mark.parametrize("worth", [1, 0.3])
@pytest.mark.parametrize("form", ["scattered", "regular"])
def test_ties_of_slope_do_not_waste_money(worth: float, form: str) -> None:
    """Where value is proportional to cost all edges have one slope, exactly or but for rounding."""
    rng = np.random.default_rng(5)
    cost = rng.uniform(0, 1, (4_000, 5))
    if form == "regular":
        cost = np.arange(5) / 10 * rng.lognormal(size=(4_000, 1))
    budget = 1_500.123456789
    a = solve_mckp(worth * cost, cost, budget)
    check_consistent(a, worth * cost, cost, budget)
    assert a.gap < 1e-9


@pytest.mark.parametrize("seed", [9, 15, 21])
def test_few_kinds_of_users_still_spend_the_remainder(seed: int) -> None:
    """Copies of one user must not crowd the others out of the search."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 20, 1_000)
    value, cost = (np.sort(rng.lognormal(size=(40, 4)), axis=1)[kind] for _ in range(2))
    least, most = cost.min(axis=1).sum(), solve_mckp(value, cost, np.inf).cost
    budget = least + rng.uniform(0.05, 0.6) * (most - least)
    a = solve_mckp(value, cost, budget)
    assert a.value == pytest.approx(integer_optimum(value, cost, budget), rel=1e-6)


def test_price_is_the_dual_optimum() -> None:
    value, cost = campaign(500)
    budget = 0.2 * solve_mckp(value, cost, np.inf).cost
    a = solve_mckp(value, cost, budget)

    def dual(price: float) -> float:
        return price * budget + float((value - price * cost).max(axis=1).sum())

    assert dual(a.price) == pytest.approx(a.bound, rel=1e-12)
    assert min(dual(a.price * x) for x in np.linspace(0, 3, 50)) >= a.bound * (1 - 1e-12)


def test_gap_shrinks_with_the_number_of_users() -> None:
    value, cost = campaign(100_000)
    budget = 0.2 * solve_mckp(value, cost, np.inf).cost
    a = solve_mckp(value.astype(np.float32), cost.astype(np.float32), budget)
    assert 0 <= a.gap < 1e-7


def test_identical_users_are_served_up_to_the_budget_and_not_by_row() -> None:
    n, budget = 20_000, 7_777.5
    offer = np.tile([0.0, 1.0], (n, 1))
    a = solve_mckp(offer, offer, budget)
    assert (a.value, a.cost, a.bound, a.price) == (7_777, 7_777, 7_777.5, 1)
    in_first_half = a.choice[: n // 2].sum() / a.cost
    assert abs(in_first_half - 0.5) < 0.03


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("kind", ["identical", "distinct"])
def test_users_keep_their_items_when_rows_are_permuted(kind: str, text: bool) -> None:
    rng = np.random.default_rng(1)
    n = 2_000
    value, cost = campaign(n) if kind == "distinct" else (np.tile([0, 2, 3], (n, 1)),) * 2
    ids = 10**12 + 7 * np.arange(n)
    names = np.array([f"user-{i}" for i in ids]) if text else ids
    move = rng.permutation(n)
    before = solve_mckp(value, cost, 301.5, user_id=names)
    after = solve_mckp(value[move], cost[move], 301.5, user_id=names[move])
    np.testing.assert_array_equal(after.choice, before.choice[move])
    assert len(np.unique(before.choice)) > 1


def test_other_user_ids_serve_other_users() -> None:
    offer = np.tile([0.0, 1.0], (1_000, 1))
    one, two = (solve_mckp(offer, offer, 500, user_id=np.arange(1_000) + s) for s in (0, 5_000))
    assert 0.3 < (one.choice != two.choice).mean() < 0.7


def test_budget_that_does_not_bind_is_left_unspent() -> None:
    value, cost = np.array([[0, 5, 5], [0, -1, 1]]), np.array([[0, 3, 2], [0, 1, 4]])
    a = solve_mckp(value, cost, 100)
    assert a.choice.tolist() == [2, 2]
    assert (a.value, a.cost, a.price, a.bound, a.gap) == (6, 6, 0, 6, 0)
    assert "does not bind" in a.status
    assert solve_mckp(value, cost, 6).price == 0
    assert "budget binds" in solve_mckp(value, cost, 5.99).status


def test_no_budget_still_gives_free_items() -> None:
    a = solve_mckp([[0, 1, 9], [0, 2, 3]], [[0, 0, 1], [0, 5, 0]], 0)
    assert a.choice.tolist() == [1, 2]
    assert (a.value, a.cost) == (4, 0)


def test_money_earned_by_one_user_pays_for_another() -> None:
    a = solve_mckp([[0, -1], [0, 10]], [[0, -3], [0, 3]], 0)
    assert a.choice.tolist() == [1, 1]
    assert (a.value, a.cost) == (9, 0)


def test_negative_value_is_taken_only_where_it_is_forced() -> None:
    a = solve_mckp([[-5, -1], [0, -2]], [[0, 1], [0, 1]], 10)
    assert a.choice.tolist() == [1, 0]


def test_single_item_leaves_no_choice() -> None:
    a = solve_mckp([[1], [-2]], [[3], [4]], 7)
    assert (a.value, a.cost, a.bound, a.price) == (-1, 7, -1, 0)


def test_no_users() -> None:
    a = solve_mckp(np.empty((0, 3)), np.empty((0, 3)), 0)
    assert a.choice.shape == (0,)
    assert (a.value, a.cost, a.bound, a.gap) == (0, 0, 0, 0)


def test_items_that_are_not_eligible_are_never_chosen() -> None:
    value, cost = campaign(1_000)
    eligible = np.random.default_rng(2).random(value.shape) < 0.5
    eligible[:, 3] = True
    a = solve_mckp(
        np.where(eligible, value, 1e6), np.where(eligible, cost, -9), 400, eligible=eligible
    )
    assert eligible[np.arange(1_000), a.choice].all()
    assert a.cost == total(cost, a.choice) <= 400


@pytest.mark.parametrize("form", [np.float32, np.int16, np.asfortranarray, np.ndarray.tolist])
def test_form_of_the_input_does_not_matter(form: Any) -> None:
    rng = np.random.default_rng(4)
    value, cost = rng.integers(-20, 90, (2, 500, 5)).astype(float)
    convert = (lambda x: x.astype(form)) if isinstance(form, type) else form
    expected, given = solve_mckp(value, cost, 99), solve_mckp(convert(value), convert(cost), 99)
    np.testing.assert_array_equal(given.choice, expected.choice)


def test_sums_are_float64_for_float32_input() -> None:
    cost = np.full((200_000, 1), 0.1, dtype=np.float32)
    assert solve_mckp(cost, cost, 1e9).cost == pytest.approx(200_000 * float(cost[0, 0]), rel=1e-12)


def test_inputs_are_not_written_to() -> None:
    value, cost = campaign(200)
    eligible, ids = np.ones(value.shape, dtype=bool), np.arange(200)
    for x in (value, cost, eligible, ids):
        x.setflags(write=False)
    solve_mckp(value, cost, 5, eligible=eligible, user_id=ids)


OK = np.ones((3, 2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("field", ["value", "cost"])
def test_number_that_is_not_finite_is_named_with_its_place(field: str, bad: float) -> None:
    wrong = OK.copy()
    wrong[2, 1] = bad
    arrays: dict[str, Any] = {"value": OK, "cost": OK} | {field: wrong}
    with pytest.raises(ValueError, match=rf"{field} is .* in row 2, column 1"):
        solve_mckp(**arrays, budget=9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": np.ones(3)}, r"value has shape \(3,\)"),
        ({"value": np.ones((3, 0)), "cost": np.ones((3, 0))}, "K from 1"),
        ({"value": np.ones((3, 257)), "cost": np.ones((3, 257))}, "to 256"),
        ({"cost": np.ones((2, 2))}, r"cost has shape \(2, 2\)"),
        ({"cost": np.ones((3, 1))}, r"cost has shape \(3, 1\)"),
        ({"eligible": np.ones((3, 1), dtype=bool)}, r"eligible is bool \(3, 1\)"),
        ({"eligible": np.ones((3, 2))}, "eligible is float64"),
        ({"eligible": np.array([[1, 0], [0, 0], [1, 1]], dtype=bool)}, "no item in row 1"),
        ({"user_id": np.arange(4)}, r"user_id has shape \(4,\)"),
        ({"budget": np.nan}, "budget is nan"),
        ({"budget": 2.5}, "budget is 2.5.*least possible: 3.0"),
        ({"budget": -np.inf}, "least possible: 3.0"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_mckp(**{"value": OK, "cost": OK, "budget": 9, **change})


def test_without_repair_at_most_one_increment_is_lost() -> None:
    rng = np.random.default_rng(8)
    value, cost = rng.random((300, 4)), rng.random((300, 4))
    fine, rough = (solve_mckp(value, cost, 90.0, repair=r) for r in (True, False))
    assert rough.bound == fine.bound
    assert rough.cost <= 90.0
    assert rough.value <= fine.value
    assert rough.value >= fine.bound - 1.0  # no increment is worth more than 1
