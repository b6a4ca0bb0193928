"""Passes over all users: spans of them go to the kernels, on as many threads as are allowed.

What a pass finds depends on neither spans nor threads: sums are exact, and users are independent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np

from agents.common.mckp.offers import Offers
from agents.common.mckp.sums import scale_for, total
from agents.common.types import Array

T = TypeVar("T")

KERNELS = "MCKP_KERNELS"  # environment variable: "numpy" or "numba"; without it, what is quicker
_MODULES = {"numpy": "agents.common.mckp.plain", "numba": "agents.common.mckp.compiled"}
_UNSEEN = 11  # bits by which users who were not looked at may exceed those who were
_LISTED = 1 << 17  # edges that a kernel can list at once; a tile of 256 items has fewer
_SMALL = 1 << 16  # numbers up to which numpy is done before compiled code is loaded
_MARGIN = 2.0**-40  # relative; far above the rounding of ``value - price * cost``
_DEAREST = 1e40  # prices beyond make scores that overflow, or lift items that are absent
_OCTAVES = 128  # factors of 2 that bins tell apart; slopes beyond share the first or last bin
BINS = _OCTAVES << 10  # of slopes
NO_GROUPS = np.empty(0, dtype=np.int32)


class Scales(NamedTuple):
    """Exponents that bring amounts to the size that `sums` wants."""

    value: int
    cost: int

    @staticmethod
    def of(offers: Offers, step: int = 1) -> Scales:
        """Scales that suit every `step`th user; raises ValueError for what is not finite."""
        headroom = 0 if step == 1 else _UNSEEN
        return Scales(*(scale_for(x, headroom) for x in offers.largest(step)))


class Window(NamedTuple):
    """A range of prices for each of G groups; an edge is within if low < slope <= high."""

    high: Array  # (G,)
    low: Array  # (G,)


@dataclass(frozen=True)
class Edges:
    """Edges of the users' hulls: what it takes to move from one item to the next.

    Those of one user come by falling slope.
    """

    row: Array  # (m,) user
    below: Array  # (m,) item
    above: Array  # (m,) item
    slope: Array  # (m,) value / cost
    value: Array  # (2, m) of the item below and above
    cost: Array  # (2, m)

    def some(self, index: Array) -> Edges:
        return Edges(*(x[..., index] for x in vars(self).values()))


@dataclass(frozen=True)
class Split:
    """Where every user stands at the high end of a window, and the edges within the window."""

    choice: Array  # (n,) uint8
    value: list[int]  # of every group, in the units of `sums`
    cost: list[int]
    edges: Edges
    finite: bool  # no NaN or infinity was met, or only in sums of huge numbers
    fits: bool  # all amounts fit the scales; else the sums are void


def split(
    offers: Offers,
    window: Window,
    scales: Scales,
    group: Array = NO_GROUPS,
    workers: int | None = None,
) -> Split:
    """One pass over all users, on so many threads, or all that are allowed."""
    workers = workers or threads()
    kernel = _kernels(offers.users * offers.items)
    prices, units = _prices(window), (2.0**scales.value, 2.0**scales.cost)
    choice = np.empty(offers.users, dtype=np.uint8)
    spans = offers.spans()
    most = min(_LISTED, spans[0][1] * offers.items)
    spare = [(np.empty((most, 3), np.int64), np.empty((most, 5))) for _ in range(workers)]

    def some(start: int, stop: int) -> list[tuple[Any, ...]]:
        v, c, at = offers.piece(start, stop)
        places, numbers = spare.pop()
        parts: list[tuple[Any, ...]] = []
        ahead = at - start
        while not parts or start < stop:
            sums = np.zeros((len(window.high), 6), np.int64)
            found, done, *fine = kernel.split(
                v, c, start + ahead, stop + ahead, group[start:stop], prices, *units,
                choice[start:stop], places, numbers, sums,
            )  # fmt: skip
            places[:found, 0] += start
            parts.append((places[:found].copy(), numbers[:found].copy(), sums, fine))
            start += done
        spare.append((places, numbers))
        return parts

    listed = chain.from_iterable(_each(some, spans, workers))
    places, numbers, sums, fine = zip(*listed, strict=True)
    finite, large = np.array(fine).T
    totals = np.sum(sums, axis=0)
    return Split(
        choice,
        [total(s) for s in totals[:, :3]],
        [total(s) for s in totals[:, 3:]],
        _edges(*(np.concatenate([x.T for x in part], axis=1) for part in (places, numbers))),
        bool(finite.all()),
        not large.any(),
    )


@dataclass(frozen=True)
class Tally:
    """The cheapest allocation, and what all edges of all hulls add to it, by slope."""

    value: int  # of the cheapest items, in the units of `sums`
    cost: int
    table: Array  # (bins, 4) two limbs of value and two of cost
    finite: bool
    fits: bool


def tally(offers: Offers, scales: Scales, bins: int = BINS, workers: int | None = None) -> Tally:
    """One pass over all users, on so many threads, or all that are allowed.

    bins: 128 times a power of 2.
    """
    kernel = _kernels(offers.users * offers.items)
    coarse, first = _unseen(bins), _first_bin(scales, bins)
    spans, workers = offers.spans(), workers or threads()

    def some(worker: int, _: int) -> tuple[Array, Array, list[Any]]:
        table, sums = np.zeros((bins, 4), np.int64), np.zeros(6, np.int64)
        fine = []
        for start, stop in spans[worker::workers]:
            v, c, at = offers.piece(start, stop)
            units = 2.0**scales.value, 2.0**scales.cost
            ends = at, at + stop - start
            fine.append(kernel.tally(v, c, *ends, coarse, first, *units, table, sums))
        return table, sums, fine

    shares = [(w, w) for w in range(workers)]
    tables, sums, fine = zip(*_each(some, shares, workers), strict=True)
    finite, large = np.concatenate([np.reshape(f, (-1, 2)) for f in fine]).T
    value, cost = np.sum(sums, axis=0).reshape(2, 3)
    for other in tables[1:]:
        np.add(tables[0], other, out=tables[0])
    return Tally(total(value), total(cost), tables[0], bool(finite.all()), not large.any())


def bin_floor(index: Array, scales: Scales, bins: int = BINS) -> Array:
    """The least slope of bins; that of bin 0 is 0, and behind the last bin it is infinite."""
    coarse = _unseen(bins)
    bits = np.clip(index + _first_bin(scales, bins), 0, 2047 << (52 - coarse)) << coarse
    return np.where(index <= 0, 0.0, np.where(index >= bins, np.inf, bits.view(np.float64)))


def _first_bin(scales: Scales, bins: int) -> int:
    """The bits that the slopes of bin 0 begin with: slopes are expected in the middle of all."""
    middle = 1023 + scales.cost - scales.value
    return (middle - _OCTAVES // 2) << (52 - _unseen(bins))


def _unseen(bins: int) -> int:
    """The low bits of a slope that its bin does not see."""
    return 53 - (bins // _OCTAVES).bit_length()


def _edges(places: Array, numbers: Array) -> Edges:
    row, below, above = places
    return Edges(row, below, above, numbers[0], numbers[1:3], numbers[3:])


def _prices(window: Window) -> Array:
    """(5, G): the window; a wider one for rounded scores; whether there are no such scores."""
    high, low = window
    endless = np.maximum(np.abs(high), np.abs(low)) > _DEAREST
    finite = [np.where(endless, 0, p) for p in (high, low)]
    wide = [p + margin * np.abs(p) for p, margin in zip(finite, (_MARGIN, -_MARGIN), strict=True)]
    return np.stack([high, low, *wide, endless])


def _each(task: Callable[[int, int], T], spans: list[tuple[int, int]], workers: int) -> list[T]:
    workers = min(workers, len(spans))
    if workers <= 1:
        return [task(*span) for span in spans]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda span: task(*span), spans))


def threads() -> int:
    """Threads that the machine, OMP_NUM_THREADS and NUMBA_NUM_THREADS all allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [os.environ.get(f"{name}_NUM_THREADS", "") for name in ("OMP", "NUMBA")]
    return min([cores or 1, *(int(x) for x in limits if x.isdigit() and int(x) > 0)])


@cache
def _has_numba() -> bool:
    return find_spec("numba") is not None


def _kernels(numbers: int) -> Any:
    """The module that makes passes over so many numbers."""
    quicker = "numba" if numbers > _SMALL and _has_numba() else "numpy"
    wanted = os.environ.get(KERNELS) or quicker
    if wanted not in _MODULES:
        raise ValueError(f"{KERNELS} is {wanted!r}; allowed are 'numba', 'numpy', or nothing")
    return import_module(_MODULES[wanted])
