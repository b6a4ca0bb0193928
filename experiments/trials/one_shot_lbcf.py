"""One-shot allocation where every counterfactual is known: regret to the true knapsack optimum.

A method learns from one logged arm of each user of an LBCF trial (`marketing_env/one_shot.py`) and
allocates new users, of the same world and of a shifted one, whose log it never sees. At a budget B
its policy has the gain G over no incentive and the spend C, expected given the features; both are
exact, for all arms of all users are known. With G* the most that anybody could gain,

    regret(B) = 100 (1 - min(1, B / C) G / G*(B))

so that who overspends is mixed with giving nothing until B is met. G* is that of the knapsack of
expected values and costs, which features could tell (`regret`), or of what then really happens,
which nobody can know (`regret_hindsight`; G and C are then those that really happened).
`regret_equal` takes G from between the policies whose real spend is just below and above B: what is
left of the regret if the budget is met exactly, and only the order of users is at fault.

A training seed is a world, its users and the method's own seed, alike for all methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from agents import Model, solve_mckp
from agents.common.types import Array
from experiments.trials.crossfit import ranking
from experiments.trials.one_shot_methods import Entry, policy_of, step_scores
from marketing_env import OneShotConfig, Trial, lbcf

SHARES = (0.05, 0.1, 0.2, 0.4, 0.7)  # budgets, of what the best arm for everyone costs
BESIDE = (0.005, 0.01, 0.025, 1.2, 2.0, 4.0)  # where spend is read too, for `regret_equal`

Row = dict[str, Any]


class Options(Protocol):
    @property
    def data(self) -> str: ...
    @property
    def noises(self) -> Sequence[float]: ...
    @property
    def users_per_arm(self) -> int: ...
    @property
    def test_users_per_arm(self) -> int: ...


class Test(NamedTuple):
    """New users, and the most that could be gained from them at each budget."""

    trial: Trial
    budgets: Array  # (B,) currency per user
    beside: Array  # further budgets
    best: Array  # (B,) expected gain, given the features
    best_hindsight: Array  # (B,) gain with all outcomes known


def settings(o: Options) -> list[Row]:
    return [
        {"name": f"noise-{noise:g}-users-{o.users_per_arm}", "noise": noise,
         "users_per_arm": o.users_per_arm, "test_users_per_arm": o.test_users_per_arm}
        for noise in o.noises
    ]  # fmt: skip


def run(o: Options, setting: Mapping[str, Any], entry: Entry, seed: int) -> Row:
    """Train once, and judge with and without a shift of the world."""
    log = _train(setting["noise"], setting["users_per_arm"], seed).log
    model = entry.fit(log, o.data, seed)
    found: list[Row] = []
    for shift in (False, True):
        test = _test(setting["noise"], setting["test_users_per_arm"], seed, shift)
        found += [{"shift": shift, **row} for row in judge(model, test)]
    return {"budgets": found}


def judge(model: Model, test: Test) -> list[Row]:
    """Regret and spend at each budget."""
    trial = test.trial
    probs = [policy_of(model, trial.log, float(b)) for b in (*test.budgets, *test.beside)]
    gain, cost = (
        np.array([(p * table).sum(axis=1).mean() for p in probs])
        for table in (_gains(trial.expected_value), trial.expected_cost)
    )
    order = np.argsort(cost, kind="stable")
    equal = np.interp(
        test.budgets, np.append(0.0, cost[order]), np.append(0.0, gain[order])
    )  # fmt: skip
    found = ranking(step_scores(model, trial.log), trial.log)
    rows = []
    for b, (share, budget) in enumerate(zip(SHARES, test.budgets, strict=True)):
        earned, spent = (
            float((probs[b] * t).sum(axis=1).mean()) for t in (_gains(trial.value), trial.cost)
        )
        rows.append({
            "share": share, "budget": float(budget), "spend": float(cost[b] / budget),
            "regret": _regret(gain[b], cost[b], budget, test.best[b]),
            "regret_hindsight": _regret(earned, spent, budget, test.best_hindsight[b]),
            "regret_equal": float(100 * (1 - equal[b] / test.best[b])),
            "mt_aucc": found["mt_aucc"],
        })  # fmt: skip
    return rows


def prepare(trial: Trial) -> Test:
    """Budgets and optima of a trial."""
    rows = np.arange(len(trial.value))
    free = trial.expected_cost[rows, trial.expected_value.argmax(axis=1)].mean()
    budgets, beside = free * np.array(SHARES), free * np.array(BESIDE)
    known, hindsight = (
        np.array([_best(value, cost, b) for b in budgets])
        for value, cost in (
            (trial.expected_value, trial.expected_cost),
            (trial.value, trial.cost),
        )
    )
    return Test(trial, budgets, beside, known, hindsight)


@lru_cache(maxsize=1)
def _train(noise: float, users_per_arm: int, seed: int) -> Trial:
    return lbcf(OneShotConfig(noise, False, users_per_arm, world=seed, seed=seed))


@lru_cache(maxsize=2)
def _test(noise: float, users_per_arm: int, seed: int, shift: bool) -> Test:
    return prepare(lbcf(OneShotConfig(noise, shift, users_per_arm, seed, seed), test=True))


def _regret(gain: float, cost: float, budget: float, best: float) -> float:
    return float(100 * (1 - min(1.0, budget / max(cost, 1e-12)) * gain / best))


def _best(value: Array, cost: Array, budget: float) -> float:
    gain = _gains(value)
    return float(solve_mckp(gain, cost, budget * len(gain)).value / len(gain))


def _gains(value: Array) -> Array:
    return np.asarray(value - value[:, :1])
