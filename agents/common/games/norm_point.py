"""The mixture of few policies that is nearest to a box of measurements.

    min_w  dist(sum_k w_k z_k, [low, high])   s.t.  sum_k w_k = 1,  w >= 0

over more policies than can be listed. A major cycle asks the oracle for the policy that lies
farthest in the direction from the mixture to the box; a minor cycle moves to the nearest point of
the affine hull and drops policies until that point is a mixture. Those that stay are affinely
independent: at most d + 1 for d coordinates. As the attainable set lies behind the hyperplane
through the best response,

    distance of any mixture  >=  |g| - max_k g . (z - z_k) / |g|,    g = z - projection on the box

certifies how far every policy stays away.

Sources: Wolfe, Finding the Nearest Point in a Polytope, Mathematical Programming 11, 1976; Cai et
al., A Policy Efficient Reduction Approach to Convex Constrained Deep Reinforcement Learning, arXiv
2108.12916, for policies as the points and best responses as the linear minimiser.

Differences from the papers:
1. Wolfe's target is the origin, here it is a box: unbounded sides are inequalities, sides without
   width are equations.
2. The minor cycle minimises the distance from the affine hull to the *box*, not to a fixed
   projection; with the latter, more than d + 1 policies can survive.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import lsq_linear

from agents.common.games.game import Array, Measured, Mixed, Oracle

_ZERO = 1e-11  # weights below are rounding


def minimum_norm_point(
    oracle: Oracle,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    *,
    start: Measured,
    tolerance: float = 1e-10,
    max_calls: int = 200,
) -> Mixed:
    """Bring the measurement of a mixture into the box [low, high], or as near as possible.

    `gap` is 0 inside the box; outside, `bound` certifies that every mixture stays at least that
    far away, and `gap` is what is left between it and this mixture's distance. At most d + 1
    policies are stored at any time.

    Raises:
        ValueError: if the box is empty.
    """
    low, high = (np.broadcast_to(np.asarray(x, float), start.z.shape) for x in (low, high))
    if not (low <= high).all():
        raise ValueError(f"low = {low.tolist()}: allowed are numbers up to high = {high.tolist()}")
    columns, weight, bound, calls, gaps = [start], np.ones(1), 0.0, 0, list[float]()
    stored = 1
    while True:
        z = weight @ np.array([c.z for c in columns])
        g = z - np.clip(z, low, high)
        distance, enough = float(np.linalg.norm(g)), tolerance * max(1.0, float(np.abs(z).max()))
        gaps.append(max(distance - bound, 0.0))
        if gaps[-1] <= enough or calls >= max_calls:
            break
        best = oracle(-g)
        calls += 1
        bound = max(bound, distance - float(g @ (z - best.z)) / distance)
        gaps[-1] = max(distance - bound, 0.0)
        if gaps[-1] <= enough or any(np.array_equal(best.z, c.z) for c in columns):
            break
        columns, weight = _minor_cycle([*columns, best], np.append(weight, 0.0), low, high)
        stored = max(stored, len(columns))
    policies = tuple(c.policy for c in columns)
    return Mixed(policies, weight, z, g[1:], bound, calls, tuple(gaps), stored)


def _minor_cycle(
    columns: list[Measured], weight: Array, low: Array, high: Array
) -> tuple[list[Measured], Array]:
    """Move to the nearest point of the affine hull; drop columns until it is a mixture."""
    while True:
        target = _nearest_affine(np.array([c.z for c in columns]), low, high)
        inside = bool((target >= -_ZERO).all())
        kept = target > _ZERO
        if not inside:
            falling = target < 0
            steps = weight[falling] / (weight[falling] - target[falling])
            target = weight + steps.min() * (target - weight)
            kept = target > _ZERO
            kept[np.flatnonzero(falling)[steps.argmin()]] = False
        columns = [c for c, keep in zip(columns, kept, strict=True) if keep]
        weight = target[kept] / target[kept].sum()
        if inside:
            return columns, weight


def _nearest_affine(z: Array, low: Array, high: Array) -> Array:
    """Affine weights (sum 1) of the point of aff(z) that is nearest to the box."""
    if len(z) == 1:
        return np.ones(1)
    k, d = len(z) - 1, z.shape[1]
    # Where the box has no width there is nothing to choose, and the solver stalls.
    wide = high > low
    fit = lsq_linear(
        np.hstack([(z[1:] - z[0]).T, -np.eye(d)[:, wide]]),
        np.where(wide, 0.0, low) - z[0],
        bounds=[
            np.concatenate([np.full(k, -np.inf), low[wide]]),
            np.concatenate([np.full(k, np.inf), high[wide]]),
        ],
        method="bvls", tol=1e-14, max_iter=100 * (k + d),
    )  # fmt: skip
    return np.concatenate([[1 - fit.x[:k].sum()], fit.x[:k]])
