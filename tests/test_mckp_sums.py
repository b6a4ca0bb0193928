"""Exact sums against rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.common.mckp.sums import (
    UNLIMITED,
    amount_of,
    at_most,
    by_group,
    fitting,
    limbs,
    limbs_in,
    scale_for,
    sum_of,
    total,
)

AMOUNTS = st.lists(st.floats(-1e9, 1e9), max_size=30)
COSTS = st.lists(st.integers(0, 2**90), max_size=12)


def in_units(x: float, scale: int) -> int:
    return math.ceil(Fraction(x) * Fraction(2) ** (64 + scale))


@given(AMOUNTS, st.sampled_from([-3, 0, 1]))
@settings(deadline=None, derandomize=True)
def test_sum_is_that_of_the_amounts_rounded_up_to_units(x: list[float], scale: int) -> None:
    assert sum_of(np.array(x), scale) == sum(in_units(v, scale) for v in x)


def test_sum_of_ordinary_amounts_is_exact_in_any_order() -> None:
    rng = np.random.default_rng(0)
    x = rng.lognormal(sigma=3, size=100_000).astype(np.float32)
    sums = {sum_of(part, 0) for part in (x, x[::-1], rng.permutation(x))}
    assert [amount_of(s, 0) for s in sums] == [math.fsum(x.tolist())]
    assert sum_of(x[:30_000], 0) + sum_of(x[30_000:], 0) == sums.pop()


@given(st.floats(1e-150, 1e150))
@settings(deadline=None, derandomize=True)
def test_scale_makes_the_best_of_the_bits(largest: float) -> None:
    scaled = Fraction(largest) * Fraction(2) ** scale_for(largest)
    assert 2**30 <= scaled < 2**31
    assert scale_for(largest, headroom=5) == scale_for(largest) - 5


@given(COSTS, st.integers(-5, 2**93))
@settings(deadline=None, derandomize=True)
def test_fitting_costs_are_counted_exactly(costs: list[int], room: int) -> None:
    parts = np.array([limbs_in(c) for c in costs], dtype=np.int64).reshape(-1, 3).T
    running = list(accumulate(costs))
    for limit in (room, *running, *(r - 1 for r in running)):
        assert fitting(parts, limit) == sum(r <= limit for r in running)


@given(st.integers(-(2**120), 2**120))
@settings(deadline=None, derandomize=True)
def test_limbs_of_a_number_add_up_to_it(count: int) -> None:
    a, b, c = limbs_in(count)
    assert (a << 64) + (b << 32) + c == count
    assert 0 <= b < 2**32
    assert 0 <= c < 2**32


def test_unlimited_fits_everything() -> None:
    assert fitting(limbs(np.full(9, 2.0**30), 0), UNLIMITED) == 9
    assert at_most(math.inf, 0) == UNLIMITED
    assert at_most(-math.inf, 0) == -UNLIMITED


@pytest.mark.parametrize(("price", "count"), [(0.1, 10), (0.7, 3), (0.01, 12_345)])
def test_totals_that_round_to_the_budget_keep_it(price: float, count: int) -> None:
    budget = math.fsum([price] * count)
    assert sum_of(np.full(count, price), 0) <= at_most(budget, 0)
    assert sum_of(np.full(count, price), 0) > at_most(np.nextafter(budget, -math.inf), 0)


@given(st.floats(-1e12, 1e12))
@settings(deadline=None, derandomize=True)
def test_budget_is_the_float_it_was(budget: float) -> None:
    assert amount_of(at_most(budget, 0), 0) == pytest.approx(budget, rel=0, abs=2.0**-64)
    if abs(budget) > 1e-3:
        assert amount_of(at_most(budget, 0), 0) == budget


def test_groups_add_up_apart() -> None:
    rng = np.random.default_rng(1)
    x, of = rng.normal(size=500), rng.integers(0, 4, 500)
    parts = limbs(x, 3)
    assert by_group(parts, of, 5) == [*(sum_of(x[of == g], 3) for g in range(4)), 0]
    assert by_group(parts, None, 2) == [total(parts.sum(axis=1)), 0]
