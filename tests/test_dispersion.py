"""Dispersion of users' sums of rewards: 1 where the log shows the state, more where it does not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

import agents
from agents import mixed_policy
from agents.common.tensors import panel
from agents.common.types import Forecast
from agents.common.values.dispersion import Dispersion, dispersion
from agents.common.values.response import OutcomeModel
from marketing_env import LoggedDataset, RandomPolicy, preset, rollout

torch.set_num_threads(1)
N, T = 6_000, 10


class Expects:
    """Stands for an outcome model: the incentive's number, whoever the user."""

    def __call__(self, obs: Tensor, day: Tensor) -> Any:
        class Expected:
            def mean(self) -> tuple[Tensor, None]:
                return torch.arange(2.0).expand(len(obs), 2), None

        return Expected()


def made_log(alike: float, seed: int = 0) -> LoggedDataset:
    """Rewards of the incentive's number + alike * (something of the user) + noise."""
    rng = np.random.default_rng(seed)
    action = rng.integers(0, 2, (N, T))
    reward = action + alike * rng.standard_normal((N, 1)) + rng.standard_normal((N, T))
    valid = np.arange(T) < rng.integers(1, T + 1, (N, 1))
    return LoggedDataset(
        obs=np.zeros((N, T + 1, 1)),
        action=action,
        propensity=np.full((N, T), 0.5),
        reward=np.where(valid, reward, 0.0),
        cost=np.zeros((N, T)),
        valid=valid,
        bucket=rng.random(N),
        meta={"incentives": (0.0, 1.0)},
    )


def of(log: LoggedDataset, models: int = 2) -> Dispersion:
    found = [cast(OutcomeModel, Expects())] * models
    return dispersion(panel(log), torch.arange(N) % models, found)


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_the_ratio_is_that_of_the_variances(alike: float) -> None:
    log = made_log(alike)
    days = log.valid.sum(axis=1)
    true = (alike**2 * days**2 + days).mean() / ((alike**2 + 1) * days).mean()
    ratio, error = of(log)
    assert ratio is not None
    assert abs(ratio - true) < 3 * error
    assert error < 0.05 * true


def test_one_model_saw_everybody_and_cannot_tell() -> None:
    assert of(made_log(1.0), models=1).ratio is None


def test_a_log_without_noise_is_explained() -> None:
    log = made_log(0.0)
    known = replace(log, reward=np.where(log.valid, log.action, 0.0))
    assert of(known) == (1.0, 0.0)


@cache
def trained(unobserved: float, oracle: str = "factored") -> mixed_policy.Model:
    config = preset("payment_bonus", unobserved=unobserved, horizon=14)
    log = rollout(RandomPolicy(config.n_actions), config, 2_000, seed=1)
    settings: dict[str, Any] = {"folds": 2, "prices": 4, "width": 32, "steps": 5}
    return mixed_policy.fit(
        log, mixed_policy.Config(**settings, oracle=oracle, outcome_epochs=8, progress=False)
    )


@pytest.mark.parametrize("unobserved", [0.0, 0.5])
def test_forecasts_say_if_users_differ_in_what_nobody_sees(unobserved: float) -> None:
    told = trained(unobserved).forecast(1.0)
    assert told.exaggerated == (unobserved > 0)
    assert ("users differ in what the log does not show" in str(told)) == (unobserved > 0)
    assert told.dispersion is not None
    assert (told.dispersion > 1.2) == (unobserved > 0)


def test_the_plain_oracle_does_not_tell() -> None:
    told = trained(0.5, "plain").forecast(1.0)
    assert told.dispersion is None
    assert not told.exaggerated


def test_it_is_saved(tmp_path: Path) -> None:
    trained(0.5).save(tmp_path / "model")
    assert agents.load(tmp_path / "model").forecast(1.0) == trained(0.5).forecast(1.0)


def test_a_little_is_left_to_the_model() -> None:
    told = Forecast(1, 0, 1, 0, 1, 0, dispersion=1.2, dispersion_error=0.1)
    assert not told.exaggerated
