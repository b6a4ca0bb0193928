"""The search for the best use of the money left, against enumeration."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.common.mckp.core import improve, moves
from agents.common.mckp.sums import at_most, scale_for, sum_of

Array = NDArray[Any]


def best_change(value: Array, cost: Array, item: Array, left: float) -> float:
    n, k = value.shape
    rows, choices = np.arange(n), np.array(list(product(range(k), repeat=n)))
    gain = value[rows, choices].sum(axis=1) - value[rows, item].sum()
    extra = cost[rows, choices].sum(axis=1) - cost[rows, item].sum()
    return float(gain[extra <= left].max())


def searched(value: Array, cost: Array, item: Array, price: float, left: float) -> Array:
    scale = scale_for(float(cost[np.isfinite(cost)].max(initial=0)))
    return improve(value, cost, item, price, at_most(left, scale), scale, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_few_users_are_searched_to_the_end(seed: int) -> None:
    rng = np.random.default_rng(seed)
    value, cost = (
        rng.integers(0, 20, (7, 3)).astype(float),
        rng.integers(0, 9, (7, 3)).astype(float),
    )
    price = float(rng.uniform(0.5, 3))
    item = (value - price * cost).argmax(axis=1).astype(np.uint8)
    left = float(rng.integers(0, 6))
    found = searched(value, cost, item, price, left)
    rows = np.arange(7)
    assert cost[rows, found].sum() - cost[rows, item].sum() <= left
    gain = value[rows, found].sum() - value[rows, item].sum()
    assert gain == best_change(value, cost, item, left)


def test_nothing_left_changes_nothing() -> None:
    value, cost, item = np.array([[0, 5.0]]), np.array([[0, 1.0]]), np.array([0], dtype=np.uint8)
    assert searched(value, cost, item, 5.0, 0.0) is item
    assert searched(value, cost, item, 6.0, 1.0).tolist() == [1]
    assert searched(value[:0], cost[:0], item[:0], 5.0, 3.0).tolist() == []


def test_items_that_cost_infinity_are_not_chosen() -> None:
    value, cost = np.array([[0, 9.0, 1.0]]), np.array([[0, np.inf, 1.0]])
    assert searched(value, cost, np.array([0], dtype=np.uint8), 2.0, 1.0).tolist() == [2]


def test_rounded_sums_do_not_overspend() -> None:
    rng = np.random.default_rng(3)
    cost = np.round(rng.uniform(0, 1, (3_000, 2)), 1)
    cost[:, 0] = 0
    item = np.zeros(3_000, dtype=np.uint8)
    left = 0.1 + 0.2  # 0.30000000000000004
    found = searched(cost, cost, item, 1.0, left)
    scale = scale_for(1.0)
    assert sum_of(cost[np.arange(3_000), found], scale) <= at_most(left, scale)
    assert cost[np.arange(3_000), found].sum() == pytest.approx(left)


def test_search_ends_where_it_could_gain_no_more_than_asked() -> None:
    value, cost = np.array([[0, 5.0], [0, 1.0]]), np.array([[0, 1.0], [0, 1.0]])
    item = np.zeros(2, dtype=np.uint8)
    found = improve(value, cost, item, 6.0, at_most(1.0, 0), 0, 6.5)
    assert found is item


def test_moves_are_changes_from_the_present_items() -> None:
    change = moves(np.array([[1.0, 4.0]]), np.array([[2.0, 3.0]]), np.array([1]), 2.0)
    np.testing.assert_array_equal(change.value, [[-3, 0]])
    np.testing.assert_array_equal(change.cost, [[-1, 0]])
    np.testing.assert_array_equal(change.loss, [[1, 0]])
