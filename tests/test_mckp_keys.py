"""The order of service."""

from __future__ import annotations

import numpy as np
import pytest

from agents.common.mckp.keys import hashes, in_order, key_of, read_ids, whole_keys


def test_integers_never_share_a_hash() -> None:
    ids = np.arange(-50_000, 50_000)
    assert len(np.unique(hashes(ids, np.arange(len(ids))))) == len(ids)


def test_row_numbers_stand_for_missing_ids() -> None:
    rows = np.array([5, 0, 17])
    np.testing.assert_array_equal(hashes(None, rows), hashes(np.arange(20), rows))


def test_hash_does_not_depend_on_the_type_of_an_integer() -> None:
    ids, rows = np.arange(9), np.arange(9)
    np.testing.assert_array_equal(
        hashes(ids.astype(np.uint32), rows), hashes(ids.astype(np.int64), rows)
    )


def test_texts_have_hashes_of_their_own() -> None:
    names = np.array(["a", "b", "a", "1"])
    h = hashes(names, np.arange(4))
    assert h[0] == h[2]
    assert len({*h.tolist(), *hashes(np.array([1]), np.arange(1)).tolist()}) == 4


def test_order_is_that_of_slope_and_then_of_hash() -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(10**6)[:2_000]
    slope, rows = rng.integers(0, 40, 2_000) / 7, rng.permutation(2_000)
    order = in_order(slope, rows, ids)
    expected = np.lexsort((hashes(ids, rows), -slope))
    np.testing.assert_array_equal(order, expected)
    unique = rng.permutation(2_000).astype(float)
    np.testing.assert_array_equal(in_order(unique, rows, ids), np.argsort(-unique))
    assert len(in_order(slope[:0], rows[:0], ids)) == 0


def test_equal_keys_are_not_split() -> None:
    ids = np.array([7, 7, 7, 8, 9])
    key = key_of(ids, np.arange(5))
    one = np.ones(5)
    assert [whole_keys(i, one, key) for i in range(6)] == [0, 0, 0, 3, 4, 5]
    assert [whole_keys(i, one, key, up=True) for i in range(6)] == [0, 3, 3, 3, 4, 5]
    falling = np.arange(5.0)[::-1]
    assert [whole_keys(i, falling, key) for i in range(6)] == list(range(6))


def test_ids_of_other_users_are_refused() -> None:
    assert read_ids(None, 3) is None
    with pytest.raises(ValueError, match=r"user_id has shape \(2,\); value has 3 rows"):
        read_ids([1, 2], 3)
