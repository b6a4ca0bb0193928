"""Networks that are trained on after they have learned to predict."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from agents.common.one_day.daily import NetworkResponse
from agents.common.one_day.predictors import (
    Kind,
    MultiTaskResponse,
    Predictor,
    fit_predictor,
    read_response,
    train_on,
)
from agents.common.one_day.representation import Fitting, user_days
from marketing_env import LoggedDataset, RandomPolicy, preset, rollout

torch.set_num_threads(1)
CONFIG = preset("toy")
LOG = rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 300, seed=1)
USERS = np.arange(100, 300)
ROWS = user_days(LOG, USERS)
every_kind = pytest.mark.parametrize("kind", ["outcomes", "multi_task", "linear"])


def fitted(kind: Any, log: LoggedDataset = LOG, epochs: float = 1.0) -> Predictor:
    fitting = Fitting(epochs, batch=256, learning_rate=3e-3)
    predictor = fit_predictor(kind, log, user_days(log, USERS), 16, fitting, "warm")
    predictor.net.requires_grad_(True)
    return predictor


@every_kind
def test_predictions_are_those_of_the_response(kind: Kind) -> None:
    predictor = fitted(kind)
    with torch.no_grad():
        predicted = predictor(ROWS).numpy()
    response = predictor.response()
    for day in range(LOG.horizon):
        expected = response.predict(LOG.obs[USERS, day], day)
        assert_allclose(predicted[ROWS.day == day], expected, rtol=1e-4, atol=1e-5)


@every_kind
def test_the_loss_is_what_was_learned(kind: Kind) -> None:
    """Lower on the rows as they are than on rows whose observations are shuffled."""
    predictor = fitted(kind, epochs=6)
    order = torch.randperm(len(ROWS.obs), generator=torch.Generator().manual_seed(0))
    wrong = ROWS._replace(obs=ROWS.obs[order])
    with torch.no_grad():
        loss, other = (float(predictor.loss(predictor(rows), rows)) for rows in (ROWS, wrong))
    assert loss < other - 0.01


@every_kind
@pytest.mark.parametrize("goal", [False, True])
def test_it_can_be_trained_on(kind: Kind, goal: bool) -> None:
    predictor = fitted(kind)
    predicted = predictor(ROWS)
    aim = predicted[:, 1].sum() if goal else predictor.loss(predicted, ROWS)
    aim.backward()
    reached = [p.grad is not None and bool(p.grad.any()) for p in predictor.net.parameters()]
    assert np.mean(reached) > 0.5


@every_kind
def test_a_response_is_read_back(kind: Kind) -> None:
    response = fitted(kind).response()
    again = read_response(response.state())
    assert type(again) is (NetworkResponse if kind == "outcomes" else MultiTaskResponse)
    obs = LOG.obs[:20, 1]
    assert_array_equal(again.predict(obs, 1), response.predict(obs, 1))


def test_rewards_below_zero_need_heads() -> None:
    assert type(fitted("auto").response()) is NetworkResponse
    losses = replace(LOG, reward=LOG.reward - 0.5)
    assert type(fitted("auto", losses).response()) is MultiTaskResponse


def test_training_on_ends_with_the_state_judged_best() -> None:
    predictor, seen = fitted("linear", epochs=3), []
    fitting = Fitting(3.0, batch=256, learning_rate=3e-3)

    def judge(step: int) -> float:
        seen.append((step, predictor(ROWS).clone()))
        return -abs(step - 50)

    def loss(index: torch.Tensor) -> torch.Tensor:
        return predictor(ROWS.take(index))[..., 0].mean()

    train_on(predictor, loss, judge, ROWS, fitting, "on")
    steps = [step for step, _ in seen]
    assert steps == [math.ceil(100 * check / 12) for check in range(13)]
    predicted = dict(seen)
    assert torch.equal(predictor(ROWS), predicted[50])
    assert (predicted[100] < predicted[0])[..., 0].all()


def test_training_on_may_do_no_good() -> None:
    predictor = fitted("linear")
    before = predictor(ROWS).detach()
    fitting = Fitting(1.0, batch=256, learning_rate=3e-3)

    def loss(index: torch.Tensor) -> torch.Tensor:
        return predictor(ROWS.take(index)).mean()

    train_on(predictor, loss, lambda step: -step, ROWS, fitting, "on")
    assert torch.equal(predictor(ROWS), before)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="network = 'forest'"):
        fitted("forest")
