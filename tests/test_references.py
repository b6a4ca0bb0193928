"""References: what ignores the budget is thinned until it costs the budget, and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.oracle import Oracle
from experiments.campaigns import behaviour
from experiments.judging import Judge
from experiments.references import diluted, reference
from experiments.reporting.runs import find_runs
from experiments.run import references
from experiments.settings import SUITES
from marketing_env import ConstantPolicy, RandomPolicy, evaluate, preset, sample_users

TOY = preset("toy")
K = TOY.n_actions
SETTING = replace(SUITES["toy"].settings[0], behaviour="production", hard_limit=False)
USERS = sample_users(TOY, 50, seed=0)


@pytest.mark.parametrize("name", ["logging", "uniform"])
def test_budgets_are_spent_in_expectation(name: str) -> None:
    whole = {"logging": behaviour(SETTING), "uniform": RandomPolicy(K)}[name]
    spend, budgets = evaluate(whole, TOY, n_users=5_000, seeds=4).cost.mean(), (0.1, 0.5, 100.0)
    policies = reference(name, TOY, budgets, logging=behaviour(SETTING), users=USERS)
    for policy, budget in zip(policies, budgets, strict=True):
        found = evaluate(policy, TOY, n_users=5_000, seeds=4)
        assert found.cost.mean() == pytest.approx(min(budget, spend), rel=0.06)
    assert found.cost.mean() == spend  # money for everyone changes nothing


def test_none_costs_nothing_at_any_budget() -> None:
    for policy in reference("none", TOY, (0.0, 1.0), logging=RandomPolicy(K), users=USERS):
        assert evaluate(policy, TOY, n_users=200, seeds=1).cost.max() == 0


def test_half_the_money_is_half_the_users() -> None:
    policy = diluted(ConstantPolicy(1, K), 2.0, 1.0, K)
    np.testing.assert_allclose(policy.weights, [0.5, 0.5])
    np.testing.assert_allclose(diluted(ConstantPolicy(0, K), 0.0, 0.0, K).weights, [1.0, 0.0])


def test_plans_see_the_future_or_do_not() -> None:
    far, near = (
        reference(name, TOY, (0.3,), logging=RandomPolicy(K), users=USERS)[0]
        for name in ("oracle", "perfect_myopic")
    )
    assert isinstance(far, Oracle)
    assert isinstance(near, Oracle)
    assert (far.foresight, near.foresight) == (1.0, 0.0)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no reference 'wise': there are oracle"):
        reference("wise", TOY, (0.3,), logging=RandomPolicy(K), users=USERS)


def test_rows_are_judged_like_methods(tmp_path: Path) -> None:
    names = ("perfect_myopic", "logging", "uniform", "none")
    found = references(SETTING, tmp_path / "toy", progress=False, only=names)
    score = {run["method"]: [row["score"] for row in run["rows"]] for run in found}
    assert set(score) == set(names)
    assert score["none"] == [0.0, 0.0]
    assert min(score["perfect_myopic"]) > max(score["logging"] + score["uniform"])
    (kept,) = find_runs(tmp_path).values()
    assert {run["method"] for run in kept} == set(names)
    assert len(found[0]["setting"]["test_seeds"]) == len(Judge(SETTING, False).setting.test_seeds)
