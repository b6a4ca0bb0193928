"""PPO-Lagrangian: prices move towards the budgets, and each budget is kept by what is measured."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

import torch

import agents
from agents.common.values.family import FamilyModel
from agents.ppo_lagrangian import Config, fit
from marketing_env import ConstantPolicy, evaluate, preset

torch.set_num_threads(1)
TOY = preset("toy")
K = TOY.n_actions
BUDGETS = (0.1, 0.4, 1.2)
SMALL = Config(
    budgets=BUDGETS, campaigns=100, users=300, dual_rate=0.1, width=32, learning_rate=3e-3,
    progress=False,
)  # fmt: skip
TINY = replace(SMALL, campaigns=3, users=12, width=8, measured_on=200)
Curves = list[tuple[str, float, int]]


@cache
def trained() -> tuple[FamilyModel, Curves]:
    curves: Curves = []
    return fit(TOY, SMALL, track=lambda *point: curves.append(point)), curves


def curve(curves: Curves, tag: str) -> list[float]:
    return [value for name, value, _ in curves if name == tag]


def test_prices_climb_by_the_overspend() -> None:
    """Every step is the dual rule, applied to what the campaign's users spent."""
    _, curves = trained()
    for g, budget in enumerate(BUDGETS):
        price, spent = (np.array(curve(curves, f"{x}/head_{g}")) for x in ("price", "cost"))
        assert len(price) == SMALL.campaigns
        rise = SMALL.dual_rate * np.clip(spent[:-1] / budget - 1, -1, 1)
        np.testing.assert_allclose(np.diff(np.log(price)), rise, rtol=1e-6, atol=1e-9)


def test_spending_ends_near_the_budgets() -> None:
    _, curves = trained()
    for g, budget in enumerate(BUDGETS[:2]):
        spent = curve(curves, f"cost/head_{g}")
        assert np.mean(spent[-20:]) == pytest.approx(budget, rel=0.35)
        assert abs(spent[0] / budget - 1) > 0.5  # it had to be learned


def test_small_budgets_have_dear_money() -> None:
    model, _ = trained()
    price = model.frontier.price[:-1, 0]
    assert price[0] > price[1] > price[2]
    np.testing.assert_array_equal(price[:3], price[3:])


@pytest.mark.parametrize("budget", [0.1, 0.25, 0.4])
def test_budgets_are_kept_and_worth_something(budget: float) -> None:
    model, _ = trained()
    found, idle = (
        evaluate(policy, TOY, n_users=4_000, seeds=2)
        for policy in (model.policy(budget), ConstantPolicy(0, K))
    )
    assert found.cost.mean() <= 1.1 * budget
    assert found.cost.mean() == pytest.approx(model.forecast(budget).cost, rel=0.15)
    assert found.reward.mean() > idle.reward.mean()


def test_drawn_policies_spend_what_they_were_trained_to() -> None:
    cost = trained()[0].frontier.value[:, 1]
    assert cost[3:5] == pytest.approx(BUDGETS[:2], rel=0.35)


def test_no_budget_no_money() -> None:
    model, _ = trained()
    assert evaluate(model.policy(0.0), TOY, n_users=500, seeds=1).cost.max() == 0
    for budget in (-1.0, math.nan):
        with pytest.raises(ValueError, match="budget"):
            model.policy(budget)


def test_default_budgets_are_shares_of_the_largest_spending() -> None:
    curves: Curves = []
    config = replace(TINY, budgets=None, users=160)
    model = fit(TOY, config, track=lambda *point: curves.append(point))
    assert len(model.frontier.price) == 2 * 8 + 1
    rises = [np.diff(np.log(curve(curves, f"price/head_{g}")))[0] for g in range(8)]
    spent = [curve(curves, f"cost/head_{g}")[0] for g in range(8)]
    free = [g for g in range(8) if abs(rises[g]) < 0.99 * TINY.dual_rate]
    assert free  # elsewhere the rule is clipped
    shares = (0.02, 0.035, 0.06, 0.1, 0.17, 0.28, 0.45, 0.7)
    largest = evaluate(ConstantPolicy(K - 1, K), TOY, n_users=20_000, seeds=1).cost.mean()
    for g in free:
        budget = spent[g] / (1 + rises[g] / TINY.dual_rate)
        assert budget == pytest.approx(shares[g] * largest, rel=0.05)


def test_seed_decides_and_saved_models_answer_the_same(tmp_path: Path) -> None:
    first, again = (fit(TOY, TINY, 5) for _ in range(2))
    first.save(tmp_path / "model")
    loaded = agents.load(tmp_path / "model")
    assert loaded.forecast(0.3).reward == again.forecast(0.3).reward == first.forecast(0.3).reward
    found = [
        evaluate(model.policy(0.3), TOY, n_users=200, seeds=1) for model in (first, again, loaded)
    ]
    assert found[0].cost == found[1].cost == found[2].cost
    kept = json.loads((tmp_path / "model" / "model.json").read_text())["config"]
    assert kept == json.loads(json.dumps(asdict(TINY)))


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, math.inf])
def test_budgets_to_learn_for_are_positive(budget: float) -> None:
    with pytest.raises(ValueError, match="budgets = "):
        fit(TOY, replace(TINY, budgets=(0.1, budget)))
