"""Where the prices will be: windows from samples, so that one pass over all users is enough.

A small sample gives a rough window, and a larger one, of which only the edges within that window
are looked at, a narrow one. A window holds the price unless the sample misleads by `width` standard
errors; `fill` notices if it does not, and the next window is wider. Chance moves time, not answers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agents.common.mckp.offers import Offers
from agents.common.mckp.sweep import Scales, Window, split
from agents.common.types import Array

_BLOCK = 64  # consecutive users, so that reading a sample touches few pages
_STAGES = (1 << 14, 1 << 18)  # users
_WORTH = 4  # a sample pays if there are this many times as many users
CROWD = _STAGES[0] * _WORTH  # users from which there are samples
_SEEN = 30  # blocks in which a group must occur before its sample is believed


class Money(NamedTuple):
    """The limits as amounts."""

    budget: float
    least: float | None  # to be spent at least
    group: Array  # (G,) own budget of each group


def whole_window(money: Money) -> Window:
    """All prices; negative ones only if money has to be spent."""
    groups = len(money.group)
    return Window(np.full(groups, np.inf), np.full(groups, 0.0 if money.least is None else -np.inf))


def guess_window(offers: Offers, money: Money, group: Array, width: float) -> Window:
    """The range of prices that samples leave open, at `width` standard errors."""
    window = whole_window(money)
    for users in _STAGES:
        if users * _WORTH <= offers.users:
            window = _narrowed(offers, money, group, window, users // _BLOCK, width)
    return window


class _Walk(NamedTuple):
    """The edges of a sample by falling slope, and what its users cost before the first of them."""

    slope: Array  # (m,)
    spend: Array
    block: Array
    group: Array
    start: Array  # (blocks, G)
    seen: Array  # (G,) blocks in which a group occurs

    def some(self, edges: Array) -> _Walk:
        slope, spend, block, group = (x[edges] for x in self[:4])
        return _Walk(slope, spend, block, group, self.start, self.seen)

    def within(self, g: int) -> _Walk:
        return self.some(self.group == g)._replace(start=self.start[:, g : g + 1])

    def prices(self, target: float, width: float, high: float, low: float) -> Array:
        """Prices at which the sample spends `width` errors less than the target, it, and more.

        The error of the spend is estimated from neighbouring blocks, as each is the sample of its
        own stratum. `high` and `low` are the answers beyond both ends of the walk.
        """
        start = float(self.start.sum())
        spent = start + np.cumsum(self.spend)
        slopes = np.append(self.slope, low)

        def at(amount: float) -> float:
            return (
                high if amount < start else float(slopes[np.searchsorted(spent, amount, "right")])
            )

        taken = self.slope > at(target)
        per_block = self.start.sum(axis=1)
        per_block += np.bincount(self.block[taken], self.spend[taken], len(per_block))
        error = width * np.sqrt(np.square(np.diff(per_block)).sum() / 2)
        return np.array([at(target - error), at(target), at(target + error)])


def _narrowed(
    offers: Offers, money: Money, group: Array, window: Window, blocks: int, width: float
) -> Window:
    """The part of a window that a sample of so many blocks leaves open."""
    walk = _walk(offers, group, window, blocks)
    share = blocks * _BLOCK / offers.users
    own = np.full((3, len(money.group)), -np.inf)
    for g in np.flatnonzero(np.isfinite(money.group)):
        high, low = window.high[g], window.low[g]
        own[:, g] = walk.within(int(g)).prices(share * money.group[g], width, high, low)
        if walk.seen[g] < _SEEN:
            own[[0, 2], g] = high, low
    if np.isfinite(own).any():
        walk = walk.some(walk.slope > own[1, walk.group])
    ends = window.high.max(), window.low.min()
    most = walk.prices(share * money.budget, width, *ends)
    least = np.zeros(3) if money.least is None else walk.prices(share * money.least, width, *ends)
    high, _, low = np.maximum(most, np.minimum(least, 0))
    if high == 0:  # the price 0 itself has to be inside
        high = np.min(walk.slope, initial=ends[0], where=walk.slope > 0)
    if low == 0 and money.least is not None:
        low = np.max(walk.slope, initial=ends[1], where=walk.slope < 0)
    return Window(np.maximum(own[0], high), np.maximum(own[2], low))


def _walk(offers: Offers, group: Array, window: Window, blocks: int) -> _Walk:
    """Sample one block from each of so many strata, and list its edges within the window."""
    groups = len(window.high)
    ends = np.linspace(0, offers.users // _BLOCK, blocks + 1).astype(np.intp)
    shift = np.random.default_rng(0).random(blocks)
    picks = ends[:-1] + (shift * np.diff(ends)).astype(np.intp)
    sample = offers.blocks(picks, _BLOCK)
    of = group
    if len(group):
        of = group[: len(group) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)[picks].ravel()
    found = split(sample, window, Scales(0, 0), of)
    if not found.finite:
        offers.largest()
    edges, order = found.edges, np.argsort(-found.edges.slope)
    row = edges.row[order]
    of = of if len(of) else np.zeros(sample.users, dtype=np.int32)
    users = np.arange(sample.users)
    cell = users // _BLOCK * groups + of
    cost = np.asarray(sample.cost)[found.choice, users]
    paid = np.bincount(cell, cost, blocks * groups)
    seen = np.bincount(cell, minlength=blocks * groups).reshape(blocks, groups) > 0
    spend = (edges.cost[1] - edges.cost[0])[order]
    return _Walk(
        edges.slope[order], spend, row // _BLOCK, of[row],
        paid.reshape(blocks, groups), seen.sum(axis=0),
    )  # fmt: skip
