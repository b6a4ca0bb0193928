"""DFCL: prices and judgements by their definitions, and what training for decisions improves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from agents import dfcl
from agents.common.one_day.daily import DailyModel, solve_day
from agents.common.one_day.decisions import Prices, choose_prices, decision_value
from agents.common.one_day.eom import terms
from agents.common.one_day.eom_gradients import allocate, prices_that_spend
from agents.common.one_day.predictors import MultiTaskPredictor, train_on
from agents.common.one_day.representation import Fitting, UserDays, fit_representation, user_days
from agents.common.types import Array
from agents.dfcl import Config, decision_loss, fit
from marketing_env import LoggedDataset, OneShotConfig, RandomPolicy, Trial, lbcf, preset, rollout

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
LOSSES = ("pll", "merl", "ifd", "dr")
every_loss = pytest.mark.parametrize("loss", LOSSES)


@cache
def trial(users_per_arm: int = 200, world: int = 0, test: bool = False) -> Trial:
    config = OneShotConfig(users_per_arm=users_per_arm, world=world, seed=world)
    return lbcf(config, test=test)


def predictions(model: DailyModel, of: Trial) -> Array:
    return np.mean([m.predict(of.log.obs[:, 0], 0) for m in model.members], axis=0)


@cache
def small_network() -> tuple[MultiTaskPredictor, UserDays]:
    rows = user_days(trial().log, np.arange(trial().log.n_users))
    return MultiTaskPredictor(fit_representation(rows, 4, 1, 8, Fitting(1.0, 256))), rows


def prices_at(*price: float) -> Prices:
    units = torch.arange(1.0, len(price) + 1)
    return Prices(torch.tensor(price), units, 10 * units)


def test_prices_spend_geometric_shares() -> None:
    predictor, rows = small_network()
    found = choose_prices(predictor, rows, 5)
    expected = predictor(rows).double().numpy()
    choices = allocate(expected, found.price.double().numpy())
    spend = np.take_along_axis(expected[..., 1], choices.T, axis=1).mean(axis=0)
    free = expected[np.arange(len(expected)), expected[..., 0].argmax(axis=1), 1].mean()
    assert_allclose(spend / free, np.geomspace(0.9, 0.01, 5), rtol=0.06)
    assert (found.price.diff() > 0).all()
    score = np.sort(expected[..., 0] - found.price.numpy()[:, None, None] * expected[..., 1])
    assert_allclose(found.gap, np.median(score[..., -1] - score[..., -2], axis=1), rtol=1e-2)
    net = rows.outcome[:, 0] - found.price[:, None] * rows.outcome[:, 1]
    assert_allclose(found.spread, net.numpy().std(axis=1), rtol=1e-4)


def test_decision_value_is_the_doubly_robust_estimate() -> None:
    predictor, rows = small_network()
    prices, rng = prices_at(0.1, 0.5), np.random.default_rng(0)
    model = torch.tensor(rng.normal(size=(len(rows.arm), 4, 2)))
    expected = predictor(rows)
    total = 0.0
    for price, spread in ((0.1, 10.0), (0.5, 20.0)):
        choice = (expected[..., 0] - price * expected[..., 1]).argmax(-1).numpy()
        found = terms(
            np.eye(4)[choice], rows.arm.numpy(), 1 / (4 * rows.weight.double().numpy()),
            rows.outcome.double().numpy(), model.numpy(),
        )["doubly_robust"].mean(axis=0)  # fmt: skip
        total += float(found @ [1.0, -price]) / spread / 2
    assert decision_value(prices, expected, rows, model) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("loss", ["pll", "merl", "dr"])
def test_gradients_reach_rewards_and_costs(loss: Any) -> None:
    """Against central differences in single predictions."""
    _, rows = small_network()
    rows = rows.take(torch.arange(12))._replace(weight=torch.rand(12).double() + 0.5)
    rows = rows._replace(outcome=rows.outcome.double())
    prices = Prices(*(part.double() for part in prices_at(0.2, 0.9)))
    rng = np.random.default_rng(1)
    expected, model = (torch.tensor(rng.normal(size=(12, 4, 2))) for _ in range(2))
    config = Config(loss=loss, tau=0.8)

    def value(moved: Tensor) -> Tensor:
        return decision_loss(config, prices, moved, rows, model)

    assert torch.autograd.gradcheck(value, expected.requires_grad_(True))


@every_loss
def test_a_cost_counts_as_its_price(loss: Any) -> None:
    """At one price the gradient of a cost is -lambda times that of the reward."""
    predictor, rows = small_network()
    expected = predictor(rows).detach().requires_grad_(True)
    decision_loss(Config(loss=loss), prices_at(0.3), expected, rows, expected.detach()).backward()
    assert expected.grad is not None
    assert expected.grad.any()
    assert_allclose(expected.grad[..., 1], -0.3 * expected.grad[..., 0], rtol=1e-4, atol=1e-9)


def test_unweighted_losses_take_rows_as_they_are() -> None:
    predictor, rows = small_network()
    heavy = rows._replace(weight=rows.weight * torch.linspace(0.1, 9, len(rows.weight)))
    expected = predictor(rows)
    for weighted in (True, False):
        config = Config(loss="pll", weighted=weighted)
        light, other = (
            float(decision_loss(config, prices_at(0.2), expected, r, expected))
            for r in (rows, heavy)
        )
        assert (light == other) == (not weighted)


def test_without_decisions_it_is_the_two_stage_method() -> None:
    first, second = (
        fit(trial().log, replace(SMALL, epochs=0, loss=loss)) for loss in ("ifd", "pll")
    )
    assert_array_equal(predictions(first, trial()), predictions(second, trial()))


@every_loss
def test_each_loss_is_learned_and_followed(loss: Any) -> None:
    curves: dict[str, list[float]] = defaultdict(list)
    fit(trial().log, replace(SMALL, loss=loss), track=lambda n, v, _: curves[n].append(v))
    for name in ("prediction_loss", "decision_loss", "decision_value", "overspend"):
        found = curves[f"response/member_0/held_out/{name}"]
        assert len(found) == 13
        assert np.isfinite(found).all()
        assert found[0] != found[-1]


@every_loss
@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_states_are_judged_by_the_loss_that_is_minimised(
    loss: Any, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, curves = [], defaultdict(list)

    def spied(predictor: Any, loss: Any, judge: Any, *rest: Any) -> None:
        def spy(step: int) -> float:
            judged.append(judge(step))
            return judged[-1]

        train_on(predictor, loss, spy, *rest)

    monkeypatch.setattr(dfcl, "train_on", spied)
    config = replace(SMALL, loss=loss, alpha=alpha)
    fit(trial().log, config, track=lambda n, v, _: curves[n].append(v))
    told, decided = (
        np.array(curves[f"response/member_0/held_out/{x}_loss"]) for x in ("prediction", "decision")
    )
    assert_allclose(judged, -alpha * told - decided)


@pytest.mark.parametrize("rate", [3e-3, 30.0])
def test_the_warm_start_is_left_for_less_loss_alone(rate: float) -> None:
    config = replace(SMALL, learning_rate=rate)
    found, plain = (
        predictions(fit(trial().log, replace(config, epochs=epochs)), trial()) for epochs in (1, 0)
    )
    assert np.array_equal(found, plain) == (rate > 1)


def gained(model: DailyModel, of: Trial, shares: tuple[float, ...]) -> float:
    """True value over no incentive, where true spends are shares of everyone's dearest."""
    predicted, rows = predictions(model, of), np.arange(len(of.expected_cost))
    free = of.expected_cost[rows, predicted[..., 0].argmax(axis=1)].mean()
    choices = allocate(predicted, prices_that_spend(predicted, np.linspace(0.02, 1.5, 40) * free))
    reward, cost = (
        np.take_along_axis(table, choices.T, axis=1).mean(axis=0)
        for table in (of.expected_value, of.expected_cost)
    )
    money = np.array(shares) * of.expected_cost[:, 3].mean()
    order = np.argsort(cost)
    return float(np.interp(money, cost[order], reward[order]).mean()) - float(
        of.expected_value[:, 0].mean()
    )


@pytest.mark.parametrize("loss", ["ifd", "dr"])
def test_a_linear_network_allocates_better(loss: Any) -> None:
    """Values and costs are quadratic. A linear prediction must choose what to be wrong about."""
    log, fresh, shares = trial(1500).log, trial(4000, test=True), (0.2, 0.35, 0.5)
    linear = replace(
        SMALL, network="linear", batch=2048, warm_epochs=5, epochs=60, learning_rate=0.01, tau=1.0
    )
    two_stage, focused = (
        gained(fit(log, replace(linear, loss=loss, alpha=alpha)), fresh, shares)
        for alpha in (1e6, 0.1)
    )
    truth = np.stack([fresh.expected_value, fresh.expected_cost], axis=-1)
    money = np.array(shares) * fresh.expected_cost[:, 3].mean()
    best = allocate(truth, prices_that_spend(truth, money))
    most = float(np.take_along_axis(fresh.expected_value, best.T, axis=1).mean())
    most -= float(fresh.expected_value[:, 0].mean())
    assert two_stage < focused < most
    assert most - focused < 0.97 * (most - two_stage)


def test_real_spend_keeps_to_the_budget() -> None:
    log, fresh = trial(3000).log, trial(4000, test=True)
    model = fit(log, replace(SMALL, network="linear", alpha=0.1, folds=2, batch=1024))
    predicted = predictions(model, fresh)
    for share in (0.2, 0.35, 0.5):
        money = share * fresh.expected_cost[:, 3].mean()
        choice = solve_day(predicted, money).choice
        spent = np.take_along_axis(fresh.expected_cost, choice[:, None].astype(int), axis=1).mean()
        assert 0.85 < spent / money < 1.15


def test_units_of_the_log_do_not_matter() -> None:
    log = trial(600).log
    scaled = replace(log, reward=1000 * log.reward, cost=log.cost / 50)
    config = replace(SMALL, epochs=3)

    def choices(of: LoggedDataset, factor: float) -> Array:
        predicted = fit(of, config).members[0].predict(of.obs[:, 0], 0)
        return solve_day(predicted, 0.3 * log.cost[log.action == 3].mean() * factor).choice

    assert (choices(log, 1.0) == choices(scaled, 1 / 50)).mean() > 0.95


def test_a_campaign_is_allocated_day_by_day() -> None:
    config = preset("toy")
    log = rollout(RandomPolicy(config.n_actions), config, 300, seed=1)
    model = fit(log, replace(SMALL, folds=2, network="auto"))
    days = [np.asarray(day) for day in model.logged]
    assert len(days) == log.horizon
    assert not np.allclose(days[0], days[-1])
    assert_allclose(days[0][:, 0, 1], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"loss": "mse"}, "loss"),
        ({"clip": "none"}, "clip"),
        ({"network": "forest"}, "network"),
        ({"loss": "dr", "weighted": False}, "weighted"),
    ],
)
def test_settings_are_checked(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        fit(trial().log, replace(SMALL, **wrong))
