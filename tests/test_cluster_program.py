"""Which arm each cluster gets: outcomes with honest errors, and the exact program at any budget."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog

from agents.common.one_day.cluster_program import (
    Outcomes,
    Plan,
    Rows,
    cell_means,
    estimate,
    shrink,
    solve,
)
from agents.common.types import Array


def outcomes(n_clusters: int, seed: int, n_actions: int = 3) -> tuple[Outcomes, Array]:
    """Random means and errors, arm 0 free, some arms not eligible; and sizes of the clusters."""
    rng = np.random.default_rng(seed)
    mean = rng.random((n_clusters, n_actions, 2)).cumsum(axis=1)
    error = 0.1 * rng.random((n_clusters, n_actions, 2))
    mean[:, 0, 1] = error[:, 0, 1] = 0
    eligible = rng.random((n_clusters, n_actions)) < 0.8
    eligible[:, 0] = True
    return Outcomes(mean, error, eligible), rng.uniform(0.1, 1, n_clusters)


def assignments(known: Outcomes, size: Array) -> tuple[Array, Array]:
    """Every choice (A, L) of eligible arms, and what it brings (A, 2)."""
    arms = [np.flatnonzero(row) for row in known.eligible]
    choice = np.array(list(itertools.product(*arms)))
    return choice, size @ known.mean[np.arange(len(size)), choice]


def relaxation(known: Outcomes, size: Array, budget: float) -> float:
    """The linear program over shares of each cluster, by another solver."""
    value, cost = (size[:, None] * known.mean[..., k] for k in (0, 1))
    one = np.kron(np.eye(len(size)), np.ones(value.shape[1]))
    bounds = [(0.0, float(allowed)) for allowed in known.eligible.ravel()]
    found = linprog(-value.ravel(), [cost.ravel()], [budget], one, np.ones(len(size)), bounds)
    return float(-found.fun)


def brings(plan: Plan, known: Outcomes, size: Array, budget: float) -> Array:
    """(2,) reward and cost of what is served to users whose buckets are spread evenly."""
    n = len(size)
    shares = plan.at(budget).probs(np.arange(n), known.mean.shape[1])
    return np.asarray(np.einsum("l,lk,lkm->m", size, shares, known.mean))


@given(st.integers(1, 4), st.integers(0, 10_000), st.floats(0, 1.2))
@settings(max_examples=60, deadline=None)
def test_every_budget_gets_the_optimum(n_clusters: int, seed: int, share: float) -> None:
    known, size = outcomes(n_clusters, seed)
    choice, total = assignments(known, size)
    budget = share * total[:, 1].max()
    plan = solve(known, size, risk=0.5)
    reward, cost = brings(plan, known, size, budget)
    assert cost <= budget + 1e-9
    assert reward == pytest.approx(relaxation(known, size, budget))
    assert reward == pytest.approx(plan.bound(budget))
    assert_allclose(plan.expected(budget)[0], [reward, cost], atol=1e-9)
    for row, (value, spent) in zip(plan.choice, plan.total, strict=True):
        assert (choice == row).all(axis=1).any()
        affordable = total[:, 1] <= spent + 1e-9
        assert value == pytest.approx(total[affordable, 0].max())


@given(st.integers(1, 6), st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_one_cluster_is_split_so_that_the_budget_is_spent(
    n_clusters: int, seed: int, share: float
) -> None:
    known, size = outcomes(n_clusters, seed)
    plan = solve(known, size, risk=0.5)
    budget = share * plan.total[-1, 1]
    split = plan.at(budget)
    assert (split.arm != split.dearer).sum() <= 1
    bucket = (np.arange(500) + 0.5) / 500
    users = np.arange(n_clusters).repeat(500)
    arm = split.serve(users, np.tile(bucket, n_clusters))
    spent = size @ known.mean[users, arm, 1].reshape(n_clusters, 500).mean(axis=1)
    assert spent == pytest.approx(budget, abs=1e-9 + size.max() * known.mean.max() / 500)
    assert_allclose(brings(plan, known, size, budget)[1], budget, atol=1e-9)
    served = np.eye(3)[arm].reshape(n_clusters, 500, 3).mean(axis=1)
    assert_allclose(split.probs(np.arange(n_clusters), 3), served, atol=1 / 500)


@pytest.mark.parametrize("seed", range(3))
def test_overspending_is_as_rare_as_the_risk(seed: int) -> None:
    known, size = outcomes(8, seed)
    plan = solve(known, size, risk=0.1)
    rng, draws = np.random.default_rng(seed), 20_000
    drawn = known.mean[..., 1] + known.error[..., 1] * rng.standard_normal((draws, 8, 3))

    def overspends(budget: float) -> float:
        shares = plan.at(budget).probs(np.arange(8), 3)
        return float((np.einsum("l,lk,dlk->d", size, shares, drawn) > budget).mean())

    vertex = len(plan.secured) // 2
    at_vertex, beyond = plan.secured[vertex], plan.secured[vertex + 1]
    assert overspends(float(at_vertex)) == pytest.approx(0.1, abs=0.01)
    assert overspends(float(0.5 * at_vertex + 0.5 * beyond)) < 0.11


def test_a_margin_costs_reward() -> None:
    known, size = outcomes(8, 0)
    budget = 0.5 * float(solve(known, size, 0.5).total[-1, 1])
    rewards = [solve(known, size, risk).expected(budget)[0][0] for risk in (0.5, 0.2, 0.02)]
    assert rewards[0] > rewards[1] > rewards[2]


def test_extreme_budgets() -> None:
    known, size = outcomes(5, 3)
    plan = solve(known, size, risk=0.1)
    assert_array_equal(plan.at(0.0).serve(np.arange(5), np.zeros(5)), 0)
    best = np.where(known.eligible, known.mean[..., 0], -np.inf).argmax(axis=1)
    assert_array_equal(plan.at(np.inf).arm, best)
    assert plan.at(np.inf).share == 0
    assert plan.price_at(np.inf) == 0
    dear = known._replace(eligible=np.eye(3, dtype=bool)[[2, 2, 2, 2, 2]])
    assert_array_equal(solve(dear, size, 0.1).at(0.0).arm, 2)


def sampled(
    n: int, rng: np.random.Generator, days: int = 1, shares: Any = (0.5, 0.5), **parts: Array
) -> Rows:
    """Two clusters, two arms; cost is 3 with probability 0.1, 0.2, 0.3 or 0.4 by cell."""
    m = n * days
    user, cluster = np.arange(n).repeat(days), rng.integers(0, 2, n).repeat(days)
    p = np.broadcast_to(shares, (m, 2))
    arm = (rng.random(m) > p[:, 0]).astype(np.int64)
    chance = 0.1 + 0.1 * (2 * cluster + arm)
    cost = 3.0 * (rng.random(m) < chance)
    given = Rows(
        cluster, user, arm, p[np.arange(m), arm], np.stack([-cost, cost], axis=1),
        np.zeros((m, 2, 2)),
    )  # fmt: skip
    return given._replace(**parts)


TRUTH = 3 * np.array([[0.1, 0.2], [0.3, 0.4]])


def test_errors_are_what_estimates_scatter_by() -> None:
    rng = np.random.default_rng(0)
    found = [cell_means(sampled(300, rng), 2) for _ in range(300)]
    mean = np.stack([cells.mean[..., 1] for cells in found])
    variance = np.stack([(c.variance / c.size[..., None])[..., 1] for c in found])
    assert_allclose(mean.mean(axis=0), TRUTH, atol=0.04)
    assert_allclose(np.sqrt(variance.mean(axis=0)), mean.std(axis=0), rtol=0.15)


def test_propensities_undo_a_log_that_favours_spenders() -> None:
    rng = np.random.default_rng(1)
    rows = sampled(20_000, rng)
    spender = rows.outcome[:, 1] > 0
    chance = np.where(spender, 0.9, 0.3)
    keep = rng.random(20_000) < chance
    biased = Rows(*(part[keep] for part in rows))
    biased = biased._replace(propensity=biased.propensity * chance[keep])
    assert_allclose(cell_means(biased, 2).mean[..., 1], TRUTH, atol=0.1)
    flat = biased._replace(propensity=np.ones(keep.sum()))
    assert (cell_means(flat, 2).mean[..., 1] > TRUTH + 0.2).all()


def test_days_of_one_user_are_no_new_evidence() -> None:
    rows = sampled(400, np.random.default_rng(2))
    again = Rows(*(part.repeat(7, axis=0) for part in rows))
    once, often = (cell_means(each, 2) for each in (rows, again))
    assert_allclose(often.mean, once.mean)
    assert_allclose(often.variance / often.size[..., None], once.variance / once.size[..., None])


def test_shrinkage_goes_from_the_prior_to_the_data() -> None:
    rng = np.random.default_rng(3)
    mean, prior, weight = rng.normal(size=(6, 3, 2)), rng.normal(size=(6, 3, 2)), np.ones(6)
    assert_allclose(shrink(mean, np.zeros_like(mean), prior, weight), mean)
    assert_allclose(shrink(mean, np.full_like(mean, np.inf), prior, weight), prior)
    assert_allclose(shrink(mean, np.full_like(mean, 1e6), prior, weight), prior)
    some = shrink(mean, np.full_like(mean, 0.1), prior, weight)
    assert ((some - prior) * (mean - prior) >= 0).all()
    assert (np.abs(some - prior) < np.abs(mean - prior)).all()


def test_shrinkage_beats_the_data_and_the_prior() -> None:
    rng = np.random.default_rng(4)
    prior = rng.normal(size=(400, 1))
    true = prior + 0.3 * rng.normal(size=(400, 1))
    error = rng.uniform(0.1, 0.6, (400, 1))
    seen = true + error * rng.normal(size=(400, 1))
    found = shrink(seen, error**2, prior, np.ones(400))
    loss = [float(((x - true) ** 2).mean()) for x in (found, seen, prior)]
    assert loss[0] < 0.9 * min(loss[1:])


def test_outcomes_of_few_rows_follow_the_prediction() -> None:
    """100 clusters of 20 rows that differ as predicted, under noise that hides it."""
    rng = np.random.default_rng(5)
    level, cluster = rng.normal(size=(100, 2, 2)), np.arange(2000) % 100
    rows = sampled(2000, rng, cluster=cluster, predicted=7.0 + level[cluster])
    outcome = level[cluster, rows.arm] + rng.normal(0, 3, (2000, 2)) + 10
    rows = rows._replace(outcome=outcome)
    truth, found = level + 10, estimate(rows, 101, 0.01)
    raw = cell_means(rows, 100).mean
    assert ((found.mean[:100] - truth) ** 2).mean() < 0.2 * ((raw - truth) ** 2).mean()
    # Nobody is in cluster 100: what everyone brings.
    assert_allclose(found.mean[100], 10 + level.mean(axis=0), atol=0.3)
    assert found.eligible[100].all()


def test_arms_that_were_hardly_tried_are_not_eligible() -> None:
    rng = np.random.default_rng(6)
    rows = sampled(4000, rng, shares=(0.995, 0.005), predicted=np.zeros((4000, 3, 2)))
    assert_array_equal(estimate(rows, 2, 0.02).eligible, [[True, False, False]] * 2)
    found = estimate(rows, 3, 0.0)
    assert found.eligible[:, :2].all()
    assert not found.eligible[:, 2].any()
    assert np.isnan(found.mean[:, 2]).all()
    assert np.isfinite(found.mean[:, :2]).all()
    assert solve(found, np.ones(3), 0.1).choice.max() <= 1
