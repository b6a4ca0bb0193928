"""The mixture nearest to a box, against a least-squares problem over all policies."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from test_game import KINDS, SEEDS, Enumerated, assert_mixture, vertices

from agents.common.games.game import Measured
from agents.common.games.norm_point import minimum_norm_point
from marketing_env.config import Array


def box(seed: int, d: int, kind: str) -> tuple[Array, Array, Array]:
    """Policies and a box with flat, wide and unbounded sides, near them or far away."""
    rng = np.random.default_rng(seed)
    z = vertices(rng, int(rng.integers(1, 40)), d, kind)
    centre = rng.normal(size=d) * rng.choice([0.3, 3])
    half = rng.uniform(0, 0.5, d) * (rng.random(d) < 0.5)
    if kind in ("whole", "sparse"):
        centre, half = np.rint(centre), np.rint(2 * half)
    low, high = centre - half, centre + half
    low[rng.random(d) < 0.2] = -np.inf
    high[rng.random(d) < 0.2] = np.inf
    return z, low, high


def enumerated_distance(z: Array, low: Array, high: Array) -> float:
    """Distance of conv(z) to the box: the norm of the least point of their difference.

    The difference is spanned by points (policy - corner) and rays (unbounded sides). The minimum of
    |A w|^2 + (sum_k w_k - 1)^2 over w >= 0 lies, up to a factor, at that of |A w| with sum 1.
    """
    sides = [sorted({x for x in side if np.isfinite(x)}) for side in zip(low, high, strict=True)]
    closed = [j for j, side in enumerate(sides) if side]
    if not closed:
        return 0.0
    corners = np.array(list(product(*(sides[j] for j in closed))))
    points = (z[:, None, closed] - corners).reshape(-1, len(closed))
    down, up = np.isinf(low[closed]), np.isinf(high[closed])
    rays = np.diag(1.0 * down - up)[down | up]
    a = np.vstack([points, rays]).T
    one = np.repeat([1.0, 0.0], [len(points), len(rays)])
    weight, _ = nnls(np.vstack([a, one]), np.append(np.zeros(len(closed)), 1.0))
    return float(np.linalg.norm(a @ weight) / (one @ weight))


@given(seed=SEEDS, d=st.integers(1, 6), kind=KINDS)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_it_is_as_near_as_the_enumerated_optimum(seed: int, d: int, kind: str) -> None:
    z, low, high = box(seed, d, kind)
    oracle = Enumerated(z)
    found = minimum_norm_point(oracle, low, high, start=oracle.policy())
    assert_mixture(found, oracle, most=d + 1)
    truth = enumerated_distance(z, low, high)
    distance = float(np.linalg.norm(found.z - np.clip(found.z, low, high)))
    assert distance == pytest.approx(truth, abs=1e-9)
    assert found.bound == pytest.approx(truth, abs=1e-9)
    assert found.gap <= 1e-9


def test_few_calls_leave_an_honest_gap() -> None:
    z = np.random.default_rng(5).normal(size=(500, 5))
    low, high = np.full(5, 2.0), np.full(5, 3.0)
    truth = enumerated_distance(z, low, high)
    oracle = Enumerated(z)
    early = minimum_norm_point(oracle, low, high, start=oracle.policy(), max_calls=3)
    distance = float(np.linalg.norm(early.z - np.clip(early.z, low, high)))
    assert early.calls == 3
    assert 0 < early.bound < truth < distance
    assert early.gap == pytest.approx(distance - early.bound)


def test_a_start_inside_the_box_asks_nobody() -> None:
    found = minimum_norm_point(
        Enumerated(np.ones((1, 2))), 0.0, 1.0, start=Measured("idle", np.array([0.5, 0.5]))
    )
    assert (found.policies, found.calls, found.gap, found.bound) == (("idle",), 0, 0.0, 0.0)
    assert found.stored == 1


def test_an_empty_box_is_refused() -> None:
    oracle = Enumerated(np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"low = .*allowed"):
        minimum_norm_point(oracle, [0.0, 2.0], 1.0, start=oracle.policy())
