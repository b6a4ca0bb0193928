"""The end-to-end regulariser: what it leaves alone, what it improves, and that it spends right."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from agents.common.one_day.daily import DailyModel, solve_day
from agents.common.one_day.eom_gradients import (
    Kind,
    allocate,
    ladder,
    matched_sums,
    means,
    prices_that_spend,
)
from agents.common.one_day.predictors import MultiTaskPredictor
from agents.common.one_day.representation import Fitting, UserDays, fit_representation, user_days
from agents.common.types import Array
from agents.end_to_end import Config, Task, fit, judged
from marketing_env import OneShotConfig, RandomPolicy, Trial, lbcf, preset, rollout

torch.set_num_threads(1)
SMALL = Config(
    network="multi_task",
    folds=1,
    width=8,
    warm_epochs=3,
    epochs=3,
    batch=256,
    progress=False,
    learning_rate=3e-3,
)
Curves = dict[str, list[float]]


@cache
def trial(users_per_arm: int = 200, world: int = 0, test: bool = False) -> Trial:
    config = OneShotConfig(users_per_arm=users_per_arm, world=world, seed=world)
    return lbcf(config, test=test)


@cache
def curves(config: Config) -> tuple[DailyModel, Curves]:
    found: Curves = defaultdict(list)
    model = fit(trial().log, config, track=lambda name, value, step: found[name].append(value))
    return model, found


def predictions(model: DailyModel, of: Trial) -> Array:
    return model.members[0].predict(of.log.obs[:, 0], 0)


def small_network() -> tuple[MultiTaskPredictor, UserDays, Task]:
    rows = user_days(trial().log, np.arange(trial().log.n_users))
    net = fit_representation(rows, 4, 1, 8, Fitting(1.0, 256))
    return MultiTaskPredictor(net), rows, Task.of(rows, 4, 2)


def test_starts_from_the_two_stage_method() -> None:
    found = {alpha: curves(replace(SMALL, alpha=alpha))[1] for alpha in (0.0, 50.0)}
    warm = "response/member_0/warm/loss"
    assert found[0.0][warm] == found[50.0][warm]
    for part in ("learned", "held_out"):
        name = f"response/member_0/{part}/prediction_loss"
        two_stage, regularised = found[0.0][name], found[50.0][name]
        assert len(two_stage) == len(regularised) == 13
        assert two_stage[0] == regularised[0]
        assert two_stage[-1] < regularised[-1]
    calls = "response/member_0/solver_calls"
    assert found[0.0][calls] == [0] * 13
    assert found[50.0][calls] == [math.ceil(100 * check / 12) for check in range(13)]


def test_no_epochs_leave_the_two_stage_method() -> None:
    two, same = (fit(trial().log, replace(SMALL, epochs=0, alpha=alpha)) for alpha in (0.0, 9.0))
    assert_array_equal(predictions(two, trial()), predictions(same, trial()))


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("gradient", ["coordinate", "gaussian", "flip"])
def test_each_gradient_moves_the_predictions(gradient: Kind, corrected: bool) -> None:
    config = replace(SMALL, gradient=gradient, corrected=corrected, alpha=10.0, samples=4)
    _, found = curves(config)
    _, alone = curves(replace(SMALL, alpha=0.0))
    name = "response/member_0/learned/prediction_loss"
    assert found[name][-1] != alone[name][-1]
    assert np.isfinite([value for values in found.values() for value in values]).all()
    solves = {"coordinate": 5, "gaussian": 4, "flip": 0}[gradient] * (not corrected) + 1
    assert found["response/member_0/solver_calls"][-1] == 100 * solves


def true_rewards(model: DailyModel, of: Trial, budgets: Array) -> Array:
    """(M,) expected value where the expected cost is B, along the policies that a model gives."""
    predicted = predictions(model, of)
    free = of.expected_cost[np.arange(len(predicted)), predicted[..., 0].argmax(axis=1)].mean()
    prices = prices_that_spend(predicted, np.linspace(0.02, 1.5, 40) * free)
    reward, cost = (
        np.take_along_axis(table, ladder(predicted, prices).T, axis=1).mean(axis=0)
        for table in (of.expected_value, of.expected_cost)
    )
    order = np.argsort(cost)
    return np.interp(budgets, cost[order], reward[order])


@pytest.mark.parametrize("world", [0, 1])
def test_a_linear_network_allocates_better(world: int) -> None:
    """Values and costs are quadratic. A linear prediction must choose what to be wrong about."""
    log, fresh = trial(1500, world).log, trial(4000, world, test=True)
    money = np.array([0.2, 0.35, 0.5]) * fresh.expected_cost[:, 3].mean()
    linear = replace(SMALL, network="linear", batch=2048, warm_epochs=5, epochs=100)
    gain = []
    for alpha in (0.0, 30.0):
        model = fit(log, replace(linear, alpha=alpha))
        gain.append(true_rewards(model, fresh, money).mean() - fresh.expected_value[:, 0].mean())
    truth = np.stack([fresh.expected_value, fresh.expected_cost], axis=-1)
    best = allocate(truth, prices_that_spend(truth, money))
    most = np.take_along_axis(fresh.expected_value, best.T, axis=1).mean()
    missed = most - fresh.expected_value[:, 0].mean() - np.array(gain)
    assert 0 < missed[1] < 0.95 * missed[0]


def test_real_spend_keeps_to_the_budget() -> None:
    log, fresh = trial(3000).log, trial(4000, test=True)
    model = fit(log, replace(SMALL, network="linear", alpha=30.0, folds=2, batch=1024))
    predicted = np.mean([m.predict(fresh.log.obs[:, 0], 0) for m in model.members], axis=0)
    for share in (0.2, 0.35, 0.5):
        money = share * fresh.expected_cost[:, 3].mean()
        choice = solve_day(predicted, money).choice
        spent = np.take_along_axis(fresh.expected_cost, choice[:, None].astype(int), axis=1).mean()
        assert 0.85 < spent / money < 1.15


def test_a_campaign_is_allocated_day_by_day() -> None:
    config = preset("toy")
    log = rollout(RandomPolicy(config.n_actions), config, 300, seed=1)
    model = fit(log, replace(SMALL, folds=2, network="outcomes"))
    days = [np.asarray(day) for day in model.logged]
    assert len(days) == log.horizon
    assert not np.allclose(days[0], days[-1])
    assert_allclose(days[0][:, 0, 1], 0, atol=1e-12)


def test_task_reads_units_and_budgets_off_the_log() -> None:
    _, rows, task = small_network()
    log = trial().log
    assert_allclose(task.unit, [log.reward.std(), log.cost.std()], rtol=1e-4)
    mean = np.array([log.cost[log.action == j].mean() for j in range(4)])
    assert_allclose(task.budgets * log.cost.std(), np.array([0.03, 0.75]) * mean[3], rtol=1e-4)
    predicted = torch.randn(len(rows.arm), 4, 2)
    values, logged = task.standardised(predicted, rows)
    assert_allclose(values * task.unit.numpy(), predicted, rtol=1e-4)
    assert_allclose(logged.outcome[:, 0] * log.reward.std(), log.reward[:, 0], rtol=1e-4)


def crowd() -> tuple[Tensor, UserDays]:
    """A trial without noise, and predictions that know it."""
    rng = np.random.default_rng(0)
    pull, arms = rng.uniform(0.2, 2.0, (20_000, 1)), np.arange(4)
    truth = np.stack([1 + pull * np.sqrt(arms), arms * np.ones_like(pull)], axis=-1)
    arm = rng.integers(0, 4, len(truth))
    outcome = torch.tensor(truth[np.arange(len(arm)), arm]).float()
    none = torch.zeros(len(arm))
    rows = UserDays(
        none[:, None], none.long(), none.long(), torch.tensor(arm), none + 0.25, outcome, none + 1
    )
    return torch.tensor(truth).float(), rows


def test_predicting_low_costs_earns_nothing_at_real_spend() -> None:
    predicted, rows = crowd()
    task = Task.of(rows, 4, 5)
    cheap = predicted * torch.tensor([1.0, 0.5])

    def at_predicted_spend(predicted: Tensor) -> Array:
        values, logged = task.standardised(predicted, rows)
        return means(
            matched_sums(allocate(values, prices_that_spend(values, task.budgets)), logged)
        )

    boast, honest = at_predicted_spend(cheap), at_predicted_spend(predicted)
    assert (boast > 1.05 * honest)[:, 0].sum() >= 3
    assert_allclose(task.reward(cheap, rows), task.reward(predicted, rows), rtol=0.02)
    assert_allclose(task.reward(predicted, rows), honest[:, 0], rtol=0.02)


def test_judgement_weighs_prediction_against_reward() -> None:
    predictor, rows, task = small_network()
    found = judged(predictor, task, rows)
    with torch.no_grad():
        predicted = predictor(rows)
        assert found.prediction_loss == pytest.approx(float(predictor.loss(predicted, rows)))
        assert_allclose(found.reward, task.reward(predicted, rows))
    assert found.worth(0.0) == -found.prediction_loss
    assert found.worth(2.0) - found.worth(0.0) == pytest.approx(2 * found.reward.sum())
    curves = found.curves(task.unit)
    assert curves["reward_at_budget_1"] == pytest.approx(found.reward[1] * float(task.unit[0]))


@pytest.mark.parametrize(
    "wrong",
    [{"gradient": "score"}, {"alpha": -1.0}, {"budgets": 0}, {"samples": 1}, {"network": "forest"}],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        fit(trial().log, replace(SMALL, **wrong))  # type: ignore[arg-type]
