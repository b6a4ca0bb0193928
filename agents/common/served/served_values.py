"""Values-to-go in numpy, for serving: the members and the support of `responses.py`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from agents.common.served.inference import (
    LANES,
    Dense,
    Inputs,
    Mlp,
    Outcomes,
    Weights,
    lanes,
    layer,
    rows_of,
    scratch,
    stacked,
    under,
    with_calendar,
)
from agents.common.types import Array

_TILES = 32  # of hidden layers that stay in the cache


class FactoredValues:
    """`factored_q.FactoredMember`: values-to-go of E members."""

    def __init__(self, members: Sequence[Weights], horizon: int) -> None:
        self.horizon, self.members = horizon, members
        self.outcomes = Outcomes([under("outcomes", m) for m in members], horizon)
        self.uses = lanes(stacked(members, "uses").swapaxes(1, 2))  # (E, 1, m - 1, K, 16)
        # Outcomes of each incentive (K, y) that were seen; if few, others of probability 0.
        seen = self.outcomes.seen
        order = np.argsort(~seen, axis=1, kind="stable")
        self.pairs = np.arange(len(seen))[:, None], order[:, : max(seen.sum(axis=1).max(), 1)]
        self.day = cache(self._day)

    def __call__(self, obs: Array, day: int, heads: Array) -> Array:
        """(E, B, D, H, K, 16)"""
        x = self.outcomes.tiles(obs, day)
        p, mean, size = self.outcomes(x)
        uses = np.broadcast_to(self.uses, (*mean.shape[:2], *self.uses.shape[2:]))
        q = np.concatenate([mean, uses], axis=2)[:, :, :, None]  # (E, B, D, 1, K, 16)
        if day < self.horizon - 1:
            return q + self._following(x, p, size, day, heads)
        return np.broadcast_to(q, (*q.shape[:3], len(heads), *q.shape[4:]))

    def _following(self, x: Array, p: Array, size: Array, day: int, heads: Array) -> Array:
        """sum_y P(y | s, a) G(s, a, y), (E, B, D, H, K, 16)."""
        trunk, shift, head, (unit, sized) = self.day(day)
        weight, bias = (part[:, :, heads] for part in head)
        e, d, h, joint = weight.shape
        weight, half = weight.reshape(e, 1, 1, 1, d * h, joint), trunk(x)[:, :, None, None]
        p = p[(..., *self.pairs, slice(None))][..., None, :]  # (E, B, K, y, 1, 16)
        total = np.empty((*p.shape[:3], d * h, LANES), np.float32)
        # w silu(2 h) = w h + w (h tanh h), and w h is known from few products: h = half + shift.
        linear = np.matmul(weight, half) + np.matmul(weight, shift)
        # Few incentives at once where users are many: hidden layers have to stay in the cache.
        step = max(1, _TILES // max(p.shape[1], 1))
        for k in range(0, p.shape[2], step):
            some = shift[:, :, k : k + step]
            shape = (*half.shape[:2], *some.shape[2:])  # (E, B, k, y, joint, 16)
            shifted = np.add(half, some, out=scratch("half", shape))
            curved = np.tanh(shifted, out=scratch("hidden", shape))
            curved *= shifted
            values = np.matmul(weight, curved)
            values += linear[:, :, k : k + step]
            values *= p[:, :, k : k + step]
            values.sum(axis=3, out=total[:, :, k : k + step])
        total += bias.reshape(e, 1, 1, d * h, LANES)
        values = np.moveaxis(total.reshape(*total.shape[:3], d, h, LANES), 2, 4)
        relative = np.clip(size / unit, 0.01, 100.0) ** sized
        values[:, :, :2] *= relative[:, :, :, None, None]
        return values

    def _day(self, day: int) -> tuple[Mlp, Array, tuple[Array, Array], tuple[Array, Array]]:
        """Half of the trunk's output, half of the shifts, the head in the log's units, and the
        mean size of users and whether it counts.
        """
        nets = [under(f"next.{day}", m) for m in self.members]
        first = stacked(nets, "trunk.0.0.weight")
        n_in = self.outcomes.inputs.mean.shape[-1]  # the columns after them are 0 at serving
        layers = (
            Dense.of(first[..., :n_in], stacked(nets, "trunk.0.0.bias"), 0.5),
            Dense.of(*layer(nets, "trunk.0.2"), scale=0.5),
        )
        trunk = Mlp(layers, Dense.of(*layer(nets, "trunk.1"), scale=0.5))
        shift = stacked(nets, "shift")[(slice(None), *self.pairs)]
        unit = lanes(np.maximum(stacked(nets, "unit")[:, :2], 1e-12))
        sized = lanes(stacked(nets, "sized")[:, :2])
        return trunk, lanes(shift * 0.5), _head(nets, "head", 1), (unit, sized)


class PlainValues:
    """`plain_q.PlainMember`: values-to-go of E members."""

    def __init__(self, members: Sequence[Weights], horizon: int) -> None:
        self.horizon, self.members = horizon, members
        self.day = cache(self._day)

    def __call__(self, obs: Array, day: int, heads: Array) -> Array:
        """(E, B, D, H, K, 16)"""
        inputs, trunk, head = self.day(day)
        age = inputs.mean.shape[-1] - obs.shape[1] - 3
        hidden = trunk(inputs(with_calendar(obs, day, self.horizon, age)))
        weight, bias = (part[..., heads, :] for part in head)  # (E, K D, H, ..)
        e, outputs, h, width = weight.shape
        values = np.matmul(weight.reshape(e, 1, outputs * h, width), hidden)
        values += bias.reshape(e, 1, outputs * h, LANES)
        k = len(self.members[0]["uses"])
        values = values.reshape(*values.shape[:2], k, outputs // k, h, LANES)
        return np.moveaxis(values, 2, 4)

    def _day(self, day: int) -> tuple[Inputs, Mlp, tuple[Array, Array]]:
        nets = [under(f"day.{day}", m) for m in self.members]
        n_actions = len(self.members[0]["uses"])
        trunk = Mlp.of(nets, ("net.0.0", "net.0.2"))
        return Inputs.of(nets), trunk, _head(nets, "net.1", n_actions)


def _head(nets: Sequence[Weights], name: str, n_actions: int) -> tuple[Array, Array]:
    """Weights (E, K D, G, width) and biases (E, K D, G, 16) of values in the log's units."""
    weight, bias = layer(nets, name)
    centre, spread = stacked(nets, "centre"), stacked(nets, "spread")  # (E, D, G)
    e, d, g = centre.shape
    weight = weight.reshape(e, n_actions, d, g, -1) * spread[:, None, ..., None]
    bias = bias.reshape(e, n_actions, d, g) * spread[:, None] + centre[:, None]
    bias = np.repeat(bias[..., None], LANES, axis=-1)
    return weight.reshape(e, n_actions * d, g, -1), bias.reshape(e, n_actions * d, g, LANES)


class Support:
    """`support.Support`: the incentives that the log can speak about."""

    def __init__(self, weights: Weights, horizon: int, least: float) -> None:
        self.horizon, self.least, self.inputs = horizon, least, Inputs.of([weights])
        self.net = Mlp.of([weights], ("net.0.0", "net.0.2"), "net.1")

    def __call__(self, obs: Array, day: int) -> Array:
        """(n, K) bool"""
        logits = self.net(self.inputs(with_calendar(obs, day, self.horizon)))
        p = np.exp(logits - logits.max(axis=-2, keepdims=True))
        p /= p.sum(axis=-2, keepdims=True)
        p = rows_of(p, len(obs))[0]
        return (p >= self.least) | (p == p.max(axis=1, keepdims=True))
