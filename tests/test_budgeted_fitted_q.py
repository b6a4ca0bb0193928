"""Hulls against a linear program, and learned values that spend what was granted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import linprog

from agents.budgeted_fitted_q import (
    Augmented,
    Budgeted,
    Config,
    _budget_grid,
    _learned,
    hull_mixture,
)
from agents.common.nets import no_track
from agents.common.tensors import panel
from agents.common.values.fitted_q import ActionValues
from marketing_env import RandomPolicy, preset, rollout
from marketing_env.config import Array

torch.set_num_threads(1)
numbers = st.floats(-3, 3, allow_nan=False, width=16)
points = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8)


def best_by_program(value: Array, budget: float) -> float:
    """Highest expected reward of any mixture within the budget, or of the cheapest points."""
    budget = max(budget, value[:, 1].min())
    found = linprog(
        -value[:, 0], value[:, [1]].T, [budget], np.ones((1, len(value))), [1.0], method="highs"
    )
    assert found.status == 0
    return -float(found.fun)


@settings(max_examples=150, deadline=None)
@given(points, st.lists(numbers, min_size=1, max_size=4))
def test_mixtures_are_optimal(rows: list[tuple[float, float]], budgets: list[float]) -> None:
    value = torch.tensor([rows], dtype=torch.float64)
    chosen = hull_mixture(value, torch.tensor(budgets, dtype=torch.float64))[0].numpy()
    assert (chosen >= 0).all()
    assert_allclose(chosen.sum(axis=0), 1, atol=1e-12)
    assert ((chosen > 0).sum(axis=0) <= 2).all()
    reward, cost = np.array(rows).T @ chosen
    for k, budget in enumerate(budgets):
        assert cost[k] <= max(budget, min(c for _, c in rows)) + 1e-9
        assert reward[k] == pytest.approx(best_by_program(np.array(rows), budget), abs=1e-7)


def test_every_state_has_a_hull_of_its_own() -> None:
    rng = np.random.default_rng(0)
    value, budgets = rng.normal(size=(50, 12, 2)), np.linspace(-1, 2, 5)
    chosen = hull_mixture(torch.tensor(value), torch.tensor(budgets)).numpy()
    reward = np.einsum("np,npg->ng", value[..., 0], chosen)
    for user, row in enumerate(value):
        for g, budget in enumerate(budgets):
            assert reward[user, g] == pytest.approx(best_by_program(row, budget), abs=1e-9)


def test_points_that_are_not_allowed_are_not_there() -> None:
    rng = np.random.default_rng(1)
    value, allowed = rng.normal(size=(30, 9, 2)), rng.random((30, 9)) < 0.5
    allowed[:, 0] = True
    chosen = hull_mixture(
        torch.tensor(value), torch.tensor([0.3, 1.0]), torch.tensor(allowed)
    ).numpy()
    assert not chosen[~allowed].any()
    for user in range(30):
        few = value[user, allowed[user]]
        found = value[user, :, 0] @ chosen[user]
        assert found[0] == pytest.approx(best_by_program(few, 0.3), abs=1e-6)
        assert found[1] == pytest.approx(best_by_program(few, 1.0), abs=1e-6)


CONFIG = preset("toy")
SMALL = Config(budgets=6, width=32, steps=40, outcome_epochs=8, folds=2, progress=False)


@pytest.fixture(scope="module")
def budgeted() -> tuple[Budgeted, torch.Tensor]:
    data = panel(rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 3_000, seed=1))
    members = _learned(data, None, SMALL, 0, no_track)
    prices = torch.tensor([0.0, 0.05, 0.1, 0.3, 2.0])
    return Budgeted(members, prices, None), _budget_grid(data, SMALL.budgets)


def test_what_is_granted_is_spent(budgeted: tuple[Budgeted, torch.Tensor]) -> None:
    """Nothing today and b for the days after costs b in expectation, until nobody can use more."""
    family, budgets = budgeted
    fresh = rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 2_000, seed=2)
    q = family.values.mean(torch.as_tensor(fresh.obs[:, 0]), 0)
    reward, cost = q[:, 0].mean(0).detach().numpy()
    assert cost[0] == pytest.approx(0, abs=0.02)
    top = cost.max()
    for b, spent in zip(budgets.numpy(), cost, strict=True):
        if b < 0.4 * top:
            assert spent == pytest.approx(b, rel=0.1, abs=0.01)
    assert (np.diff(cost) > -0.01).all()
    assert (np.diff(reward) > -0.01).all()
    assert reward[-1] > reward[0] + 0.1


def test_a_higher_price_buys_less(budgeted: tuple[Budgeted, torch.Tensor]) -> None:
    family, _ = budgeted
    spent = [rollout(family.policy(g), CONFIG, 1_000, seed=2).spend for g in range(5)]
    assert all(b <= 1.02 * a for a, b in pairwise(spent))
    assert spent[4] < 0.05 * spent[0]


def test_a_price_picks_the_vertex_with_its_slope(
    budgeted: tuple[Budgeted, torch.Tensor],
) -> None:
    family, _ = budgeted
    obs = torch.as_tensor(rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 40, seed=3).obs[:, 1])
    q = ActionValues([Augmented(m) for m in family.members]).mean(obs, 1)[..., 0].numpy()
    n_budgets = q.shape[1] // CONFIG.n_actions
    chosen = family.probabilities(obs, torch.empty(0), 1).argmax(1).numpy()
    for g, price in enumerate(family.prices.tolist()):
        vertex = (q[:, :, 0] - price * q[:, :, 1]).argmax(axis=1)
        assert np.array_equal(chosen[:, g], vertex // n_budgets)
