"""Passes over users: both kernels, any spans and threads, against hulls made one by one."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from agents.common.mckp import plain
from agents.common.mckp.offers import Offers, read_offers
from agents.common.mckp.sums import sum_of, total
from agents.common.mckp.sweep import (
    BINS,
    KERNELS,
    Scales,
    Split,
    Tally,
    Window,
    _kernels,
    bin_floor,
    split,
    tally,
    threads,
)

Array = NDArray[Any]
INF = np.inf


def awkward(n: int, k: int, seed: int = 0) -> tuple[Array, Array]:
    """Values and costs with ties, duplicates, negative numbers and points on a line."""
    rng = np.random.default_rng(seed)
    value, cost = np.round(rng.normal(size=(n, k)), 1), np.round(rng.normal(size=(n, k)), 1)
    value[::5], cost[1::5] = value[::5, :1], cost[1::5, :1]
    cost[2::5] = np.arange(k)
    value[3::5] = 2 * cost[3::5]
    return value, cost


def masks(n: int, k: int) -> Array:
    mask = np.random.default_rng(9).random((n, k)) < 0.6
    mask[:, k // 2] = True
    return mask


def windows(high: float, low: float) -> Window:
    return Window(np.array([high]), np.array([low]))


WINDOWS = [
    (INF, 0.0),
    (INF, -INF),
    (1.5, 0.7),
    (0.4, -0.4),
    (-0.2, -INF),
    (INF, 1.0),
    (0.7, 0.0),
    (1e300, 0.5),
]


def hull_path(value: Array, cost: Array, high: float, low: float) -> tuple[int, list[Any]]:
    """Where a user stands at the high price, and the edges from there down to the low one."""
    best = min(range(len(cost)), key=lambda k: (cost[k], -value[k], k))
    edges: list[list[Any]] = []
    start = best
    while True:
        dearer = [k for k in range(len(cost)) if cost[k] > cost[best]]
        if not dearer:
            return start, edges
        slope = {k: (value[k] - value[best]) / (cost[k] - cost[best]) for k in dearer}
        steepest = max(slope.values())
        if not steepest > low:
            return start, edges
        close = [k for k in dearer if slope[k] > steepest - 1e-9]  # to the rounding of one line
        last = max(close, key=lambda k: cost[k])
        if steepest > high:
            start = last
        else:
            edges.append([best, last, steepest])
        best = last


@pytest.mark.parametrize(("high", "low"), WINDOWS)
def test_split_walks_every_hull(high: float, low: float) -> None:
    value, cost = awkward(400, 6)
    offers = read_offers(value, cost, None, "auto")
    scales = Scales.of(offers)
    found = split(offers, windows(high, low), scales)
    for i in range(400):
        start, edges = hull_path(value[i], cost[i], high, low)
        assert value[i, found.choice[i]] == value[i, start]
        assert cost[i, found.choice[i]] == cost[i, start]
        own = found.edges.row == i
        order = np.argsort(-found.edges.slope[own])
        ends = cost[i, found.edges.above[own][order]]
        if edges:
            assert ends[-1] == cost[i, edges[-1][1]]
            slopes = {round(s, 9) for s in found.edges.slope[own]}
            assert slopes == {round(e[2], 9) for e in edges}
    rows = np.arange(400)
    assert found.value == [sum_of(value[rows, found.choice], scales.value)]
    assert found.cost == [sum_of(cost[rows, found.choice], scales.cost)]
    assert found.finite
    assert found.fits


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_first_of_equal_items_is_chosen(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """Whether users are scored or walked, so that windows do not change answers."""
    pytest.importorskip(kernel)
    monkeypatch.setenv(KERNELS, kernel)
    offers = read_offers([[0, 0, 1, 1, 3, 3]], [[0, 0, 1, 1, 2, 2]], None, "auto")
    for ends, choice, above in ((0.7, 0.5), 4, []), ((2.5, 0.5), 0, [4]), ((INF, 0.0), 0, [4]):
        found = split(offers, windows(*ends), Scales(0, 0))
        assert (found.choice[0], found.edges.above.tolist()) == (choice, above)


def assert_same(one: Any, two: Any) -> None:
    """Equal bit for bit; edges may come in another order."""
    for name, x in vars(one).items():
        if name != "edges":
            np.testing.assert_array_equal(x, getattr(two, name))
            continue
        orders = [np.lexsort((e.slope, e.row)) for e in (one.edges, two.edges)]
        for field, y in vars(one.edges).items():
            other = getattr(two.edges, field)
            np.testing.assert_array_equal(y[..., orders[0]], other[..., orders[1]])


def variants(value: Array, cost: Array, mask: Array | None) -> list[Offers]:
    columns = None if mask is None else mask.T
    return [
        read_offers(value, cost, mask, "rows"),
        read_offers(value.T.copy(), cost.T.copy(), columns, "columns"),
        read_offers(list(value.T), list(cost.T), None if mask is None else list(mask.T), "auto"),
    ]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("k", [1, 2, 6, 32])
def test_kernels_and_layouts_agree_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, k: int, masked: bool
) -> None:
    pytest.importorskip("numba")
    n = 700
    value, cost = (x.astype(np.float32) for x in awkward(n, k, seed=k))
    mask = masks(n, k) if masked else None
    all_offers = variants(value, cost, mask)
    all_offers += variants(value.astype(float), cost.astype(float), mask)
    scales = Scales.of(all_offers[0])
    found: list[list[Split | Tally]] = []
    for kernel in ("numpy", "numba"):
        monkeypatch.setenv(KERNELS, kernel)
        for offers in all_offers:
            splits = [split(offers, windows(*ends), scales) for ends in WINDOWS]
            found.append([*splits, tally(offers, scales)])
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("size", [1.0, 1e-38, 1e30])
def test_rounded_scores_hide_no_edge(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    """float32 scores of offers that differ in their last digits only, ordinary, tiny and huge."""
    pytest.importorskip("numba")
    rng = np.random.default_rng(5)
    close = 1000 + rng.integers(0, 20, (2, 3_000, 4)) * 2.0**-12
    value, cost = (close * size).astype(np.float32)
    offers, scales = read_offers(value, cost, None, "auto"), Scales(0, 0)
    for ends in WINDOWS:
        found = []
        for kernel in ("numpy", "numba"):
            monkeypatch.setenv(KERNELS, kernel)
            found.append(split(offers, windows(*ends), scales))
        assert_array_equal(found[0].choice, found[1].choice)
        assert len(found[0].edges.row) == len(found[1].edges.row)


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_groups_have_windows_and_sums_of_their_own(
    monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    pytest.importorskip(kernel)
    monkeypatch.setenv(KERNELS, kernel)
    value, cost = awkward(900, 5)
    group = np.random.default_rng(3).integers(0, 3, 900).astype(np.int32)
    ends = [(INF, 0.5), (2.0, 0.3), (1.0, -INF)]
    window = Window(*(np.array(x) for x in zip(*ends, strict=True)))
    offers = read_offers(value, cost, None, "auto")
    scales = Scales.of(offers)
    found = split(offers, window, scales, group)
    for g, (high, low) in enumerate(ends):
        rows = np.flatnonzero(group == g)
        alone = split(
            read_offers(value[rows], cost[rows], None, "auto"), windows(high, low), scales
        )
        np.testing.assert_array_equal(found.choice[rows], alone.choice)
        assert (found.value[g], found.cost[g]) == (alone.value[0], alone.cost[0])
        own = group[found.edges.row] == g
        assert sorted(found.edges.slope[own]) == sorted(alone.edges.slope)


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize("workers", ["1", "3"])
def test_spans_and_threads_change_nothing(
    monkeypatch: pytest.MonkeyPatch, kernel: str, workers: str
) -> None:
    pytest.importorskip(kernel)
    monkeypatch.setenv(KERNELS, kernel)
    value, cost = awkward(2_000, 4)
    dense, loose = variants(value, cost, None)[::2]
    scales = Scales.of(dense)
    whole = split(dense, windows(1.0, 0.5), scales), tally(dense, scales)
    monkeypatch.setattr("agents.common.mckp.offers._PIECE", 1_000)
    monkeypatch.setattr("agents.common.mckp.offers._COPIED", 300)
    monkeypatch.setattr("agents.common.mckp.sweep.threads", lambda: int(workers))
    for offers in (dense, loose):
        assert len(offers.spans()) > 2
        assert_same(split(offers, windows(1.0, 0.5), scales), whole[0])
        assert_same(tally(offers, scales), whole[1])
        assert_same(split(offers, windows(1.0, 0.5), scales, workers=1), whole[0])
        assert_same(tally(offers, scales, workers=1), whole[1])


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_blocks_and_full_lists_change_nothing(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    pytest.importorskip(kernel)
    value, cost = awkward(3_000, 32)
    value[::2], cost[::2] = np.sqrt(np.arange(32)), np.arange(32)
    offers, ends = read_offers(value, cost, None, "auto"), windows(INF, -INF)
    scales = Scales.of(offers)
    monkeypatch.setenv(KERNELS, "numpy")
    whole = split(offers, ends, scales)
    most = 384 * 32
    assert len(whole.edges.row) > most
    monkeypatch.setattr("agents.common.mckp.sweep._LISTED", most)
    monkeypatch.setenv(KERNELS, kernel)
    assert_same(split(offers, ends, scales), whole)


def test_tally_is_the_histogram_of_all_rising_edges() -> None:
    value, cost = awkward(1_000, 6)
    offers = read_offers(value, cost, None, "auto")
    scales = Scales.of(offers)
    counted, listed = tally(offers, scales), split(offers, windows(INF, 0.0), scales)
    assert (counted.value, counted.cost) == (listed.value[0], listed.cost[0])
    floors = bin_floor(np.arange(BINS + 1), scales)
    assert np.all(np.diff(floors[1:-1]) > 0)
    bins = np.searchsorted(floors, listed.edges.slope, side="right") - 1
    edges = listed.edges
    for at, pair, scale in ((0, edges.value, scales.value), (2, edges.cost, scales.cost)):
        amounts = np.bincount(bins, pair[1] - pair[0], BINS)
        sums = (counted.table[:, at] + counted.table[:, at + 1] / 2.0**32) / 2.0**scale
        np.testing.assert_allclose(sums, amounts, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_fewer_bins_hold_what_their_parts_hold(
    monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    pytest.importorskip(kernel)
    monkeypatch.setenv(KERNELS, kernel)
    value, cost = awkward(1_000, 6)
    offers = read_offers(value, cost, None, "auto")
    scales, bins = Scales.of(offers), BINS // 8
    few, many = tally(offers, scales, bins), tally(offers, scales)
    assert (few.value, few.cost) == (many.value, many.cost)
    assert_array_equal(few.table, many.table.reshape(bins, 8, 4).sum(axis=1))
    assert_array_equal(
        bin_floor(np.arange(bins + 1), scales, bins), bin_floor(8 * np.arange(bins + 1), scales)
    )


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize("bad", [np.nan, INF, -INF])
def test_number_that_is_not_finite_is_noticed(
    monkeypatch: pytest.MonkeyPatch, kernel: str, bad: float
) -> None:
    pytest.importorskip(kernel)
    monkeypatch.setenv(KERNELS, kernel)
    for field in (0, 1):
        value_cost = np.ones((2, 300, 3))
        value_cost[field, 299, 2] = bad
        offers = read_offers(value_cost[0], value_cost[1], None, "auto")
        assert not split(offers, windows(2.0, 1.0), Scales(0, 0)).finite
        assert not tally(offers, Scales(0, 0)).finite


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_amount_beyond_the_scale_is_noticed(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    pytest.importorskip(kernel)
    monkeypatch.setenv(KERNELS, kernel)
    value = np.array([[1.0], [2.0**31]])
    for v, c in ((value, value / 4), (value / 4, value)):
        offers = read_offers(v, c, None, "auto")
        assert not split(offers, windows(2.0, 1.0), Scales(0, 0)).fits
        assert not tally(offers, Scales(0, 0)).fits
        assert split(offers, windows(2.0, 1.0), Scales(-1, -1)).fits


def test_kernels_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS, "")
    monkeypatch.setattr("agents.common.mckp.sweep._has_numba", lambda: False)
    assert _kernels(10**7) is plain
    monkeypatch.setattr("agents.common.mckp.sweep._has_numba", lambda: True)
    assert _kernels(10) is plain
    pytest.importorskip("numba")
    assert _kernels(10**7).__name__ == "agents.common.mckp.compiled"
    monkeypatch.setenv(KERNELS, "cuda")
    with pytest.raises(ValueError, match="MCKP_KERNELS is 'cuda'; allowed are 'numba', 'numpy'"):
        _kernels(10)


def test_threads_are_limited_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP", "NUMBA"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    assert 1 <= threads() <= (os.cpu_count() or 1)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert threads() == 1


def test_compiled_code_needs_no_place_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    kernels = import_module("agents.common.mckp.compiled")

    def nowhere(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(kernels, "njit", nowhere)
    assert kernels._compiled(lambda x: x + 1)(2) == 3


def test_total_of_sums_is_an_integer() -> None:
    assert total(np.array([1, -1, 5])) == (1 << 64) - (1 << 32) + 5
