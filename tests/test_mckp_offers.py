"""Reading values and costs in every layout, without copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.common.mckp.offers import ABSENT, MAX_ITEMS, Layout, Offers, read_columns, read_offers

Array = NDArray[Any]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3))


def matrix(offers: Offers) -> Array:
    value, _, at = offers.piece(0, offers.users)
    return value[:, at : at + offers.users].T


def test_layouts_are_read_alike() -> None:
    pa = pytest.importorskip("pyarrow")
    names = ["a", "b", "c"]
    arrow = pa.table(dict(zip(names, X.T, strict=True)))
    columns = list(X.T)
    forms: list[tuple[Any, Layout]] = [
        (X, "auto"),
        (X, "rows"),
        (np.asfortranarray(X), "auto"),
        (X.T, "columns"),
        (X.tolist(), "auto"),
        (columns, "auto"),
        (tuple(columns), "columns"),
        ([pa.array(c) for c in columns], "auto"),
        (arrow, "auto"),
        (arrow.to_batches()[0], "auto"),
        (arrow.to_pandas(), "auto"),
    ]
    for x, layout in forms:
        np.testing.assert_array_equal(matrix(read_offers(x, x, None, layout)), X)


def test_square_array_is_rows_unless_told() -> None:
    square = X[:3]
    np.testing.assert_array_equal(matrix(read_offers(square, square, None, "auto")), square)
    np.testing.assert_array_equal(matrix(read_offers(square, square, None, "columns")), square.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_is_copied(dtype: type) -> None:
    pa = pytest.importorskip("pyarrow")
    x: Array = X.astype(dtype)
    forms: list[tuple[Array, Layout]] = [
        (x, "rows"),
        (np.asfortranarray(x), "rows"),
        (x, "columns"),
    ]
    for given, layout in forms:
        assert np.shares_memory(read_offers(given, given, None, layout).piece(3, 5)[0], given)
    columns = [pa.array(c) for c in x.T]
    for column, read in zip(columns, read_columns(columns, "value", "auto"), strict=True):
        assert np.shares_memory(column.to_numpy(), read)


def test_types_that_differ_are_brought_together_piece_by_piece() -> None:
    ints = RNG.integers(0, 9, (20, 3))
    value, cost, at = read_offers(X.astype(np.float32), ints, None, "auto").piece(4, 9)
    assert value.dtype == cost.dtype == np.float64
    assert at == 0
    np.testing.assert_array_equal(cost.T, ints[4:9])


def test_masked_items_are_absent() -> None:
    mask = RNG.random(X.shape) < 0.5
    mask[:, 1] = True
    offers = read_offers(X, np.abs(X), mask, "auto")
    np.testing.assert_array_equal(matrix(offers), np.where(mask, X, ABSENT))
    _, cost = offers.take(np.array([7, 2]))
    np.testing.assert_array_equal(cost, np.where(mask, np.abs(X), np.inf)[[7, 2]])


def test_mask_hides_no_nan() -> None:
    wrong, mask = X.copy(), np.ones(X.shape, dtype=bool)
    wrong[4, 0], mask[4, 0] = np.nan, False
    assert np.isnan(matrix(read_offers(wrong, X, mask, "auto"))[4, 0])


def test_spans_are_all_users_once() -> None:
    x = np.zeros((300_000, 5), dtype=np.float32)
    spans = read_offers(x, x, None, "auto").spans()
    assert len(spans) > 1
    assert [i for span in spans for i in span][1:-1:2] == [stop for _, stop in spans[:-1]]
    assert (spans[0][0], spans[-1][1]) == (0, 300_000)
    assert read_offers(x[:0], x[:0], None, "auto").spans() == [(0, 0)]


@pytest.mark.parametrize("form", ["rows", "columns", "list"])
def test_blocks_are_consecutive_users(form: str) -> None:
    x = np.arange(24.0).reshape(12, 2)
    given = {"rows": x, "columns": x.T.copy(), "list": list(x.T)}[form]
    offers = read_offers(given, given, None, "columns" if form == "columns" else "auto")
    picked = offers.blocks(np.array([2, 0]), 4)
    np.testing.assert_array_equal(matrix(picked), x[[8, 9, 10, 11, 0, 1, 2, 3]])
    np.testing.assert_array_equal(offers.chosen(offers.cost, np.ones(12, dtype=np.uint8)), x[:, 1])


@pytest.mark.parametrize("masked", [False, True])
def test_sample_is_every_so_manieth_user(masked: bool) -> None:
    mask = RNG.random(X.shape) < 0.5 if masked else None
    if mask is not None:
        mask[:, 1] = True
    for x, m in ((X, mask), (list(X.T), None if mask is None else list(mask.T))):
        thin = read_offers(x, x, m, "auto").every(3)
        assert (thin.users, thin.items) == (7, 3)
        expected = X[::3] if mask is None else np.where(mask[::3], X[::3], ABSENT)
        np.testing.assert_array_equal(matrix(thin), expected)


def test_largest_is_what_somebody_can_get() -> None:
    x = np.array([[1.0, -7.0], [2.0, 90.0]])
    mask = np.array([[True, True], [True, False]])
    assert read_offers(x, 2 * x, mask, "auto").largest() == (7, 14)
    assert read_offers(x, 2 * x, None, "auto").largest() == (90, 180)
    assert read_offers(x, 2 * x, None, "auto").largest(step=2) == (7, 14)


@pytest.mark.parametrize(
    ("x", "layout", "message"),
    [
        (np.ones(3), "auto", r"value has shape \(3,\); allowed is \(n, K\)"),
        (np.ones((3, MAX_ITEMS + 1)), "auto", "K from 1 to 256"),
        (np.ones((0, 4)), "columns", r"value has shape \(4, 0\)"),
        ([np.ones(3), np.ones(4)], "auto", "value has columns of .* rows"),
        (np.ones((3, 2)), "cols", "layout is 'cols'; allowed are 'auto', 'rows', 'columns'"),
    ],
)
def test_other_shapes_are_refused(x: Any, layout: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_offers(x, x, None, layout)


def test_nan_in_an_arrow_column_is_found() -> None:
    pa = pytest.importorskip("pyarrow")
    columns = [pa.array([1.0, 2.0, None]), pa.array([1.0, 2.0, 3.0])]
    with pytest.raises(ValueError, match="value is nan in row 2, column 0"):
        read_offers(columns, columns, None, "auto").largest()
