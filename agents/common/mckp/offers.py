"""Offers: the values and costs of K items for n users, read in whatever layout they come.

An array is used as it is, by rows (n, K) or by columns (K, n), and so is a sequence of K columns,
which is what Arrow tables hold: nothing of the size of the input is copied. What compiled code
cannot read in place (integers, strided views, separate columns, masked items) it gets in pieces
that fit into the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from agents.common.types import Array

Layout = Literal["auto", "rows", "columns"]
Columns = Array | list[Array]  # K columns of n numbers: a (K, n) array, or separate ones

LARGEST = 1e150  # sums, and products of two amounts, stay finite below this
ABSENT = -1e200  # value of an item that is not eligible, for code that needs a number
MAX_ITEMS = 256  # choices are uint8
_PIECE = 1 << 19  # numbers of an array that are handled at a time,
_COPIED = 1 << 18  # or that are copied for it


@dataclass(frozen=True)
class Offers:
    """What each of K items is worth to, and costs for, each of n users."""

    value: Columns
    cost: Columns
    eligible: Columns | None  # bool

    @property
    def users(self) -> int:
        return len(self.value[0])

    @property
    def items(self) -> int:
        return len(self.value)

    def spans(self) -> list[tuple[int, int]]:
        """Ranges of users that together are all of them."""
        size = max(1, (_PIECE if self._dense else _COPIED) // self.items)
        return [(at, min(at + size, self.users)) for at in range(0, max(1, self.users), size)]

    def piece(self, start: int, stop: int) -> tuple[Array, Array, int]:
        """Value and cost (K, m) that hold these users, and the position of the first of them."""
        if self._dense:
            return np.asarray(self.value), np.asarray(self.cost), start
        kind = np.float64 if self.eligible is not None else self._kind
        value, cost = (
            np.stack([c[start:stop] for c in columns], dtype=kind)
            for columns in (self.value, self.cost)
        )
        if self.eligible is not None:
            # Added, not assigned: the sum is ABSENT exactly, unless a value is not finite.
            value[~np.stack([e[start:stop] for e in self.eligible])] += ABSENT
        return value, cost, 0

    @cached_property
    def _dense(self) -> bool:
        """Whether compiled code reads both in place: two arrays of one float type and layout."""
        v, c = self.value, self.cost
        if self.eligible is not None or isinstance(v, list) or isinstance(c, list):
            return False
        flags = (v.flags, c.flags)
        dense = all(f.c_contiguous for f in flags) or all(f.f_contiguous for f in flags)
        return dense and v.dtype == c.dtype == self._kind

    @cached_property
    def _kind(self) -> type[np.floating[Any]]:
        """The float type that holds all numbers."""
        kinds = {c.dtype for columns in (self.value, self.cost) for c in columns}
        return np.float32 if kinds == {np.dtype(np.float32)} else np.float64

    def take(self, rows: Array) -> tuple[Array, Array]:
        """Value and cost (m, K) in float64 of some users; what is not eligible costs infinity."""
        value, cost = (
            np.stack([c[rows] for c in columns], axis=1).astype(np.float64)
            for columns in (self.value, self.cost)
        )
        if self.eligible is not None:
            cost[~np.stack([e[rows] for e in self.eligible], axis=1)] = np.inf
        return value, cost

    def every(self, step: int) -> Offers:
        """The offers of one user in so many."""
        value, cost = ([c[::step] for c in columns] for columns in (self.value, self.cost))
        mask = None if self.eligible is None else [e[::step] for e in self.eligible]
        return Offers(value, cost, mask)

    def blocks(self, picks: Array, size: int) -> Offers:
        """The offers of some of the blocks of `size` consecutive users."""

        def some(columns: Columns) -> Array:
            full = len(columns[0]) // size * size
            if isinstance(columns, list) or columns.flags.c_contiguous:
                return np.stack([c[:full].reshape(-1, size)[picks].ravel() for c in columns])
            rows = columns.T[:full].reshape(-1, size, len(columns))
            return rows[picks].reshape(-1, len(columns)).T

        mask = None if self.eligible is None else some(self.eligible)
        return Offers(some(self.value), some(self.cost), mask)

    def chosen(self, columns: Columns, choice: Array) -> Array:
        """(n,) float64: what each user's item is worth, or costs."""
        picked = np.empty(self.users)
        for k, column in enumerate(columns):
            np.copyto(picked, column, where=choice == k)
        return picked

    def largest(self, step: int = 1) -> tuple[float, float]:
        """The largest value and cost in size that every `step`th user can get.

        Raises ValueError for a number that is not finite, whether or not somebody can get it.
        """
        return self._largest("value", self.value, step), self._largest("cost", self.cost, step)

    def _largest(self, name: str, columns: Columns, step: int) -> float:
        sizes = [np.abs(c[::step]) for c in columns]
        if not all(float(np.max(x, initial=0)) <= LARGEST for x in sizes):
            _refuse(name, columns)
        if self.eligible is not None:
            sizes = [x[e[::step]] for x, e in zip(sizes, self.eligible, strict=True)]
        return max(float(np.max(x, initial=0)) for x in sizes)


def read_offers(value: Any, cost: Any, eligible: Any, layout: Layout) -> Offers:
    """Read the caller's arrays; raises ValueError for shapes, types and users without an item."""
    v, c = read_columns(value, "value", layout), read_columns(cost, "cost", layout)
    if _shape(c) != _shape(v):
        raise ValueError(f"cost has shape {_shape(c)}, value {_shape(v)}; they must be equal")
    if eligible is None:
        return Offers(v, c, None)
    e = read_columns(eligible, "eligible", layout)
    if _shape(e) != _shape(v) or any(m.dtype != np.bool_ for m in e):
        raise ValueError(f"eligible is {e[0].dtype} {_shape(e)}; allowed is bool {_shape(v)}")
    served = np.logical_or.reduce(list(e))
    if not served.all():
        raise ValueError(f"eligible has no item in row {served.argmin()}; every user needs one")
    return Offers(v, c, e)


def read_columns(x: Any, name: str, layout: Layout) -> Columns:
    """K columns of n numbers, without copying what is an array already.

    Raises ValueError if there are not 1 to 256 of them, or if they differ in length.
    """
    if layout not in ("auto", "rows", "columns"):
        raise ValueError(f"layout is {layout!r}; allowed are 'auto', 'rows', 'columns'")
    separate = None if layout == "rows" else _separate(x)
    if separate is not None:
        columns: Columns = [_numeric(c) for c in separate]
        shapes = {c.shape for c in columns}
        shape = (*shapes.pop(), len(columns))
        if shapes:
            raise ValueError(f"{name} has columns of {shape[0]} and {shapes.pop()[0]} rows")
    else:
        given = _numeric(x)
        shape = given.shape[::-1] if layout == "columns" else given.shape
        columns = given if layout == "columns" else given.T
    if len(shape) != 2 or not 1 <= shape[1] <= MAX_ITEMS:
        raise ValueError(
            f"{name} has shape {shape}; allowed is (n, K) with K from 1 to {MAX_ITEMS}"
        )
    return columns


def _separate(x: Any) -> list[Any] | None:
    """The columns of an Arrow table or record batch, or of a list of arrays; else nothing.

    A list of lists of numbers is n rows, as everywhere.
    """
    if hasattr(x, "schema") and hasattr(x, "num_rows"):
        return list(x.columns) or None
    is_list = isinstance(x, (list, tuple)) and len(x) > 0
    if is_list and all(hasattr(c, "__array__") and len(getattr(c, "shape", "1")) == 1 for c in x):
        return list(x)
    return None


def _numeric(x: Any) -> Array:
    array = np.asarray(x)
    return array if array.dtype.kind in "biuf" else array.astype(np.float64)


def _shape(columns: Columns) -> tuple[int, int]:
    return len(columns[0]), len(columns)


def _refuse(name: str, columns: Columns) -> None:
    """Raise for the first row with a number that is not finite, or is too large."""
    wrong = np.stack([~(np.abs(c) <= LARGEST) for c in columns], axis=1)
    row, column = (int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
    raise ValueError(
        f"{name} is {columns[column][row]} in row {row}, column {column}; "
        f"allowed are finite numbers up to {LARGEST:g} in size"
    )
