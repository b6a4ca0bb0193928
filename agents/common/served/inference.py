"""Forward passes of the trained networks in numpy: what serving needs, without torch.

Users are packed into tiles of 16, one a lane, and features run down the tile: (..., B, d, 16). So
each product with a weight matrix is one of the same shape however many users there are, and a user
gets the same numbers, bit for bit, alone or in any crowd; and all other arithmetic runs over whole
cache lines. Several members of one shape are one more axis in front, (E, B, d, 16), so that one
user costs as few calls as a thousand. Constants are spread over the lanes once, when a model is
read.

Names of weights are those of the networks' `state_dict`: `nets.py`, `response.py`, `factored_q.py`,
`plain_q.py`, `support.py`, `representation.py`, `clusters.py`, `direct_rank.py`.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np

from agents.common.types import Array

LANES = 16
_CHUNK = 512  # users at once: hidden layers stay in the cache, and calls are few
_TINY = np.float32(1e-30)
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Weights = Mapping[str, Array]
S = TypeVar("S")
T = TypeVar("T")


def under(prefix: str, weights: Weights) -> dict[str, Array]:
    """The weights whose names start with a prefix and a dot, without them."""
    return {k[len(prefix) + 1 :]: v for k, v in weights.items() if k.startswith(f"{prefix}.")}


def by_chunks(answer: Callable[[Array], Array], rows: Array) -> Array:
    """`answer(rows)`, some rows at a time, on all cores."""
    return np.concatenate(on_all_cores(answer, chunks(rows)))


def chunks(rows: Array) -> list[Array]:
    """At least one, of at most `_CHUNK` rows; of equal sizes, as far as tiles are full."""
    size = max(len(rows), 1) / math.ceil(max(len(rows), 1) / _CHUNK)
    step = math.ceil(size / LANES) * LANES
    return [rows[i : i + step] for i in range(0, max(len(rows), 1), step)]


def on_all_cores(work: Callable[[T], S], jobs: Sequence[T]) -> list[S]:
    """`work` of each job; one job, or one core, needs no thread."""
    workers = min(len(jobs), _CORES)
    if workers <= 1:
        return [work(job) for job in jobs]
    return list(_pool(os.getpid()).map(work, jobs))


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Kept, and with it what its threads reuse; a forked process has no threads but its own."""
    return ThreadPoolExecutor(_CORES)


def with_calendar(obs: Array, day: int, horizon: int, more: int = 0) -> Array:
    """(n, d + 3 + more) float32: observation, progress and weekday, and columns of 0."""
    week = np.float32(2 * math.pi * day) / np.float32(7)
    rows = np.zeros((len(obs), obs.shape[1] + 3 + more), np.float32)
    rows[:, : obs.shape[1]] = obs
    now = (np.float32(day) / np.float32(horizon), np.sin(week), np.cos(week))
    rows[:, obs.shape[1] : obs.shape[1] + 3] = now
    return rows


def tiled(rows: Array) -> Array:
    """(..., n, d) rows as tiles (..., B, d, 16); the last one is filled up with 0."""
    *front, n, d = rows.shape
    tiles = -(-n // LANES)
    padded = np.zeros((*front, tiles * LANES, d), np.float32)
    padded[..., :n, :] = rows
    return np.ascontiguousarray(padded.reshape(*front, tiles, LANES, d).swapaxes(-1, -2))


def rows_of(tiles: Array, n: int) -> Array:
    """Tiles (..., B, d, 16) as rows (..., n, d)."""
    *front, b, d, lanes = tiles.shape
    return tiles.swapaxes(-1, -2).reshape(*front, b * lanes, d)[..., :n, :]


def users_of(tiles: Array, n: int) -> Array:
    """Tiles (B, ..., 16) of one member as (n, ...)."""
    return np.moveaxis(tiles, -1, 1).reshape(-1, *tiles.shape[1:-1])[:n]


def lanes(constants: Array) -> Array:
    """Constants (E, ...) spread over tiles and lanes: (E, 1, ..., 16)."""
    spread = np.repeat(constants[..., None], LANES, axis=-1).astype(np.float32)
    return np.ascontiguousarray(spread[:, None])


class _Scratch(threading.local):
    """Arrays that a thread uses again and again: new pages take longer than the arithmetic."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Array:
        """What the thread's last array of this name holds is lost."""
        size, kept = math.prod(shape), self.arrays.get(name)
        if kept is None or kept.size < size:
            kept = self.arrays[name] = np.empty(size, np.float32)
        return kept[:size].reshape(shape)


scratch = _Scratch()


class Dense(NamedTuple):
    """A linear layer of E members, applied to (E or 1, B, d, 16)."""

    weight: Array  # (E, 1, m, d)
    bias: Array  # (E, 1, m, 16)

    @staticmethod
    def of(weight: Array, bias: Array, scale: float = 1.0) -> Dense:
        """From (E, m, d) and (E, m), both times `scale`."""
        return Dense(np.ascontiguousarray(weight * scale, np.float32)[:, None], lanes(bias * scale))

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        y = np.matmul(self.weight, x, out=out)
        y += self.bias
        return y

    def shape(self, x: Array) -> tuple[int, ...]:
        """Of the answer."""
        return len(self.weight), x.shape[-3], self.weight.shape[2], LANES


def silu_of_twice(half: Array, out: Array | None = None) -> Array:
    """silu(2 h) = h + h tanh h; layers that feed it are halved, which is exact."""
    y = np.tanh(half, out=out)
    y *= half
    y += half
    return y


class Mlp(NamedTuple):
    """SiLU layers and perhaps a linear one at the end."""

    hidden: tuple[Dense, ...]
    last: Dense | None

    @staticmethod
    def of(members: Sequence[Weights], hidden: Sequence[str], last: str | None = None) -> Mlp:
        """From the names of the layers."""
        layers = tuple(Dense.of(*layer(members, name), scale=0.5) for name in hidden)
        return Mlp(layers, Dense.of(*layer(members, last)) if last else None)

    def __call__(self, x: Array) -> Array:
        for i, each in enumerate(self.hidden, start=1):
            shape = each.shape(x)
            leaves = i == len(self.hidden) and self.last is None
            half = each(x, scratch("half", shape))
            x = silu_of_twice(half, None if leaves else scratch("hidden", shape))
        return self.last(x) if self.last else x


def layer(members: Sequence[Weights], name: str) -> tuple[Array, Array]:
    """(E, m, d) weights and (E, m) biases of a linear layer."""
    return stacked(members, f"{name}.weight"), stacked(members, f"{name}.bias")


def stacked(members: Sequence[Weights], name: str) -> Array:
    """(E, ...)"""
    return np.stack([member[name] for member in members])


class Inputs(NamedTuple):
    """Standardises rows for each member."""

    mean: Array  # (E, 1, d)
    scale: Array  # (E, 1, d)

    @staticmethod
    def of(members: Sequence[Weights], mean: str = "mean", scale: str = "scale") -> Inputs:
        return Inputs(stacked(members, mean)[:, None], stacked(members, scale)[:, None])

    def __call__(self, rows: Array) -> Array:
        """(E, B, d, 16) of rows (n, d)."""
        return tiled((rows - self.mean) / self.scale)


class Outcomes:
    """`response.OutcomeModel`: what comes of a user-day, and how likely."""

    def __init__(self, members: Sequence[Weights], horizon: int) -> None:
        self.horizon, self.inputs = horizon, Inputs.of(members)
        seen, table = stacked(members, "seen"), stacked(members, "table")
        self.seen: Array = np.any(seen, axis=0)  # (K, Y) by any member
        (n_members, self.n_actions, n_outcomes) = seen.shape
        self.n_levels = n_outcomes // 2
        by_level = (n_members, self.n_actions, self.n_levels, 2)
        self.possible = lanes(seen.reshape(by_level))
        self.table = lanes(table)  # (E, 1, 2, K, Y, 16)
        logits = Dense.of(*_by_dose(members, "logits", stacked(members, "offset")))
        self.logits = Mlp(Mlp.of(members, ("trunk.0", "trunk.2")).hidden, logits)
        means = Dense.of(*_by_dose(members, "means", np.zeros(1)))
        self.means = Mlp(Mlp.of(members, ("mean_trunk.0", "mean_trunk.2")).hidden, means)
        self.unit = stacked(members, "unit")[:, None, :, None, None, None]
        varies = stacked(members, "varies")
        self.varies = lanes(varies) if varies.any() else None

    def tiles(self, obs: Array, day: int) -> Array:
        """(E, B, d + 3, 16) inputs."""
        return self.inputs(with_calendar(obs, day, self.horizon))

    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        """(E, B, K, Y, 16) probabilities, (E, B, 2, K, 16) mean reward and cost of the day, and
        (E, B, 2, 16) the user's `Expected.size`, or 1 where it is everyone's.
        """
        p = self.probability(x)
        amounts = self.table
        if self.varies is not None:
            shape = (*x.shape[:2], self.n_actions, 2, self.n_levels, LANES)
            departure = self.means(x).reshape(shape)
            departure = np.repeat(departure.swapaxes(2, 3), 2, axis=-2) * self.varies
            amounts = self.table * np.exp(departure)
            if self.unit.any():
                amounts = np.where(self.unit > 0, self.table + self.unit * departure, amounts)
        brought = p[:, :, None] * amounts
        if self.varies is None:
            return p, brought.sum(axis=-2), np.ones((*p.shape[:2], 2, LANES), np.float32)
        response, paid = p[:, :, 0, 2:], p[:, :, -1, 1::2]
        size = np.stack(
            [
                brought[:, :, 0, 0, 2:].sum(axis=2) / np.maximum(response.sum(axis=2), 1e-12),
                brought[:, :, 1, -1, 1::2].sum(axis=2) / np.maximum(paid.sum(axis=2), 1e-12),
            ],
            axis=2,
        )
        return p, brought.sum(axis=-2), np.abs(size, out=size)

    def probability(self, x: Array) -> Array:
        """P(level) P(paid | level) over the outcomes that the log has seen, (E, B, K, Y, 16)."""
        shape = (*x.shape[:2], self.n_actions, 2 * self.n_levels - 1, LANES)
        answers = self.logits(x).reshape(shape)
        level = answers[..., : self.n_levels - 1, :]
        level = np.concatenate([np.zeros_like(level[..., :1, :]), level], axis=-2)
        level = np.exp(level - level.max(axis=-2, keepdims=True))
        paid = answers[..., self.n_levels - 1 :, :]
        both = np.empty((*level.shape[:-1], 2, LANES), np.float32)
        with np.errstate(over="ignore"):  # exp of much is inf, and its inverse 0
            both[..., 0, :] = level / (1 + np.exp(paid))
            both[..., 1, :] = level / (1 + np.exp(-paid))
        both *= self.possible
        both = both.reshape(*shape[:3], 2 * self.n_levels, LANES)
        both /= np.maximum(both.sum(axis=-2, keepdims=True), _TINY)
        return both


def _by_dose(members: Sequence[Weights], name: str, offset: Array) -> tuple[Array, Array]:
    """(E, K q, width) and (E, K q): heads and their doses as one linear layer per incentive."""
    basis = [member["basis"].astype(np.float64) for member in members]  # (K, b)
    found = []
    for dose, member in zip(basis, members, strict=True):
        n_basis = 1 + dose.shape[1]
        both = np.column_stack([member[f"{name}.weight"], member[f"{name}.bias"]])
        both = both.astype(np.float64).reshape(-1, n_basis, both.shape[1])
        found.append(both[:, 0] + np.einsum("kb,qbw->kqw", dose, both[:, 1:]))
    layers = np.stack(found)  # (E, K, q, width + 1)
    weight, bias = layers[..., :-1], layers[..., -1] + offset
    flat = len(members), -1
    return weight.reshape(*flat, weight.shape[-1]), bias.reshape(flat)
