"""Regret where the truth is known: of the best, of doing nothing, and of misjudged costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightgbm")

from agents import solve_mckp
from experiments.trials import one_shot_lbcf
from experiments.trials.one_shot_lbcf import SHARES, judge, prepare
from marketing_env import DayView, OneShotConfig, Trial, lbcf

CONFIG = OneShotConfig(noise=10, users_per_arm=500)


class Told:
    """Allocates by tables that somebody told it."""

    def __init__(self, value: Any, cost: Any) -> None:
        self.value, self.cost = value, cost

    def policy(self, budget: float) -> Told:
        return Told(self.value, self.cost)._at(budget)

    def _at(self, budget: float) -> Told:
        self.budget = budget
        return self

    def probs(self, view: DayView) -> Any:
        n, k = self.value.shape
        assert len(view.obs) == n
        return np.eye(k)[solve_mckp(self.value, self.cost, self.budget * n).choice]


def judged(trial: Trial, value: Any, cost: Any) -> list[dict[str, Any]]:
    return judge(Told(value, cost), prepare(trial))  # type: ignore[arg-type]


def test_expectations_leave_no_regret_but_hindsight_does_better() -> None:
    trial = lbcf(CONFIG, test=True)
    rows = judged(trial, trial.expected_value, trial.expected_cost)
    assert [row["share"] for row in rows] == list(SHARES)
    for row in rows:
        assert row["regret"] == pytest.approx(0, abs=0.1)
        assert row["regret_equal"] == pytest.approx(0, abs=0.1)
        assert row["spend"] == pytest.approx(1, abs=0.01)
        assert row["regret_hindsight"] > 3
        assert 0.5 < row["mt_aucc"] < 1


def test_hindsight_leaves_none() -> None:
    trial = lbcf(CONFIG, test=True)
    rows = judged(trial, trial.value, trial.cost)
    assert [row["regret_hindsight"] for row in rows] == pytest.approx([0] * len(SHARES), abs=0.1)
    assert all(row["regret"] > 3 for row in rows)  # luck is no knowledge


def test_giving_nothing_is_all_the_regret_there_is() -> None:
    trial = lbcf(CONFIG, test=True)
    for row in judged(trial, -trial.expected_cost, trial.expected_cost):
        assert row["regret"] == row["regret_equal"] == row["regret_hindsight"] == 100
        assert row["spend"] == 0


def test_misjudged_costs_are_charged_and_the_order_is_not() -> None:
    """Who believes in half of all costs spends the budget twice, on the right users."""
    trial = lbcf(CONFIG, test=True)
    rows = judged(trial, trial.expected_value, trial.expected_cost / 2)
    for row in rows[:3]:
        assert row["spend"] == pytest.approx(2, abs=0.02)
        assert row["regret"] > 5
    # Budgets beside the five are coarse: between two of them users are a little worse than best.
    assert all(-0.1 < row["regret_equal"] < 0.6 * row["regret"] for row in rows[:4])


def test_optima_are_those_of_the_knapsack() -> None:
    trial = lbcf(CONFIG, test=True)
    test = prepare(trial)
    n, rows = 2000, np.arange(2000)
    free = trial.expected_cost[rows, trial.expected_value.argmax(axis=1)].mean()
    assert test.budgets == pytest.approx(np.array(SHARES) * free)
    nothing = trial.value[:, 0].sum()
    best = [solve_mckp(trial.value, trial.cost, b * n).value - nothing for b in test.budgets]
    assert test.best_hindsight * n == pytest.approx(best, rel=1e-9)
    assert (np.diff(test.best) > 0).all()


def test_shift_changes_the_test_world_alone() -> None:
    test = one_shot_lbcf._test
    here, there = test(10.0, 50, 3, False), test(10.0, 50, 3, True)
    assert np.array_equal(here.trial.log.obs, there.trial.log.obs)
    assert not np.allclose(here.trial.expected_value[:, 1:], there.trial.expected_value[:, 1:])
    assert not np.array_equal(test(10.0, 50, 4, False).trial.log.obs, here.trial.log.obs)
