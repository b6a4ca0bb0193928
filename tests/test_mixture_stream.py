"""A mixture spends a budget on given users: against brute force, in any partition."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from agents.common.served.mixture_stream import (
    Cut,
    Partial,
    assign,
    choose,
    find_cut,
    merge,
    partial,
)
from marketing_env.config import Array


class Crowd(NamedTuple):
    value: Array  # (n, G) float32
    cost: Array
    bucket: Array

    @staticmethod
    def drawn(n: int, policies: int, seed: int) -> Crowd:
        """Policies of rising cost and value, differing from user to user; the first is idle."""
        rng = np.random.default_rng(seed)
        cost = rng.gamma(1.0, size=(n, policies)) * np.arange(policies)
        value = np.sqrt(np.arange(policies)) + rng.normal(size=(n, policies)) / 3
        return Crowd(value.astype(np.float32), cost.astype(np.float32), rng.random(n))

    def spend(self, budget: float, parts: int = 1) -> Cut:
        split = [np.arange(len(self.bucket))[i::parts] for i in range(parts)]

        def read(cut: Cut | None) -> list[Partial]:
            made = [
                partial(self.value[rows], self.cost[rows], self.bucket[rows], cut) for rows in split
            ]
            return [Partial.from_bytes(part.to_bytes()) for part in made]

        return find_cut(read, budget)

    def worth(self, policy: Array) -> tuple[float, float]:
        rows = np.arange(len(policy))
        value, cost = (x.astype(np.float64)[rows, policy].sum() for x in (self.value, self.cost))
        return float(value), float(cost)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 6), st.floats(0, 1.2), st.integers(0, 10**6))
def test_budget_is_spent_to_the_last_user(n: int, policies: int, share: float, seed: int) -> None:
    crowd = Crowd.drawn(n, policies, seed)
    budget = share * float(crowd.cost.astype(float).sum(axis=0).max())
    cut = crowd.spend(budget)
    policy = assign(crowd.bucket, cut)
    value, cost = crowd.worth(policy)
    assert cost <= budget
    assert (value, cost) == pytest.approx((cut.value, cut.cost))
    assert cut.bound >= value - 1e-9
    rich = np.where(np.arange(n) < 0, 0, cut.first)
    if crowd.worth(rich)[1] > budget:
        # One user more who follows the first policy, and the money would not do; all who come
        # next by bucket are tried, because some of them may cost less by it.
        order = np.argsort(crowd.bucket)
        following = int(np.count_nonzero(crowd.bucket < cut.low))
        costs = [
            crowd.worth(np.where(np.isin(np.arange(n), order[:k]), cut.first, cut.second))[1]
            for k in range(n + 1)
        ]
        assert following == max(k for k in range(n + 1) if costs[k] <= budget)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 5.0])
def test_no_assignment_is_worth_more_than_the_bound(share: float) -> None:
    crowd = Crowd.drawn(8, 3, seed=3)
    budget = share * float(crowd.cost.sum(axis=0).max())
    cut = crowd.spend(budget)
    every = np.indices((3,) * 8).reshape(8, -1).T
    worth = [crowd.worth(policy) for policy in every]
    assert max(value for value, cost in worth if cost <= budget) <= cut.bound + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(0, 10**6))
def test_partition_changes_no_bit(parts: int, seed: int) -> None:
    crowd, order = Crowd.drawn(200, 4, seed), np.random.default_rng(seed).permutation(200)
    budget = 0.3 * float(crowd.cost.sum(axis=0).max())
    cut = crowd.spend(budget)
    assert Crowd(*(x[order] for x in crowd)).spend(budget, parts) == cut
    assert Cut(**json.loads(json.dumps(asdict(cut)))) == cut


def test_mixture_is_that_of_the_mean_values() -> None:
    crowd = Crowd.drawn(20_000, 5, seed=1)
    budget = 0.4 * float(crowd.cost.sum(axis=0).max())
    cut = crowd.spend(budget)
    mean = np.stack([crowd.value, crowd.cost], axis=-1).astype(float).sum(axis=0)
    line = (budget - mean[cut.second, 1]) / (mean[cut.first, 1] - mean[cut.second, 1])
    assert 0 < cut.low < 1
    assert cut.low == pytest.approx(line, abs=0.02)
    best = line * mean[cut.first, 0] + (1 - line) * mean[cut.second, 0]
    for a in range(5):
        for b in range(5):
            if mean[b, 1] <= budget < mean[a, 1]:
                share = (budget - mean[b, 1]) / (mean[a, 1] - mean[b, 1])
                assert share * mean[a, 0] + (1 - share) * mean[b, 0] <= best + 1e-6


def test_what_is_refused() -> None:
    crowd = Crowd.drawn(10, 3, seed=0)
    least = crowd._replace(cost=crowd.cost + 1)
    with pytest.raises(ValueError, match="no policy keeps; least possible: 10"):
        least.spend(9.0)
    bad = crowd.cost.copy()
    bad[4, 1] = np.nan
    with pytest.raises(ValueError, match="cost of row 4, policy 1 is nan"):
        partial(crowd.value, bad, crowd.bucket)
    first = partial(*crowd)
    cut = choose(first, 5.0)
    with pytest.raises(ValueError, match="same cut"):
        merge(first, partial(*crowd, cut))
    with pytest.raises(ValueError, match="not exact"):
        assign(crowd.bucket, cut)
    assert_array_equal(assign(crowd.bucket, crowd.spend(0.0)), 0)
