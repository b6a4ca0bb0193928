"""Keys of edges, and the windows between them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.common.mckp.cut import LAST, Cut, before, keys, number, words

EDGES = st.tuples(st.floats(0, exclude_min=True, allow_infinity=False), st.integers(0, 2**64 - 1))


def key_of(edge: tuple[float, int]) -> int:
    return number(keys(np.array([edge[0]]), np.array([edge[1]], dtype=np.uint64))[:, 0])


@settings(deadline=None, derandomize=True)
@given(EDGES, EDGES)
def test_keys_rise_as_slopes_fall_and_then_with_the_hash(
    one: tuple[float, int], two: tuple[float, int]
) -> None:
    served_first = (-one[0], one[1]) < (-two[0], two[1])
    assert (key_of(one) < key_of(two)) == served_first
    assert before(words(key_of(one))[:, None], key_of(two)).tolist() == [served_first]


@settings(deadline=None, derandomize=True)
@given(EDGES)
def test_key_tells_the_slope(edge: tuple[float, int]) -> None:
    key = key_of(edge)
    assert 0 < key < LAST
    assert number(words(key)) == key
    cut = Cut(key, key)
    assert cut.exact
    assert cut.price == edge[0]


@settings(deadline=None, derandomize=True)
@given(EDGES, EDGES)
def test_window_is_just_wide_enough(one: tuple[float, int], two: tuple[float, int]) -> None:
    first, last = sorted([key_of(one), key_of(two)])
    high, low = (float(x[0]) for x in Cut(first, last + 1).window)
    assert high == max(one[0], two[0])
    assert low == np.nextafter(min(one[0], two[0]), 0)


def test_ends_of_the_order_are_an_endless_slope_and_a_flat_one() -> None:
    assert [float(x[0]) for x in Cut(0, LAST).window] == [np.inf, 0]
    assert [float(x[0]) for x in Cut(LAST, LAST).window] == [0, 0]
