"""The clone draws what the log drew, and a smaller budget reaches fewer users."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents import behaviour_cloning
from agents.common.values.family import FamilyModel
from marketing_env import (
    DayView,
    LoggedDataset,
    MixedPolicy,
    ProductionPolicy,
    RandomPolicy,
    preset,
    rollout,
)

torch.set_num_threads(1)
CONFIG = preset("toy")
BEHAVIOUR = ProductionPolicy(CONFIG, epsilon=0.3)
SMALL = behaviour_cloning.Config(width=32, outcome_epochs=4, steps=30, progress=False)


@pytest.fixture(scope="module")
def log() -> LoggedDataset:
    return rollout(BEHAVIOUR, CONFIG, 4_000, seed=1)


@pytest.fixture(scope="module")
def model(log: LoggedDataset) -> FamilyModel:
    return behaviour_cloning.fit(log, SMALL)


def test_clone_has_the_probabilities_of_the_log(model: FamilyModel) -> None:
    fresh = rollout(BEHAVIOUR, CONFIG, 1_000, seed=2)
    clone = model.policy(math.inf)
    for day in range(CONFIG.horizon):
        view = DayView(fresh.obs[:, day], fresh.bucket, day, math.inf)
        wrong = np.abs(clone.probs(view) - BEHAVIOUR.probs(view))
        assert wrong.mean() < 0.1
        # The log's policy is far from any that does not look at users.
        blind = np.abs(BEHAVIOUR.probs(view).mean(axis=0) - BEHAVIOUR.probs(view))
        assert blind.mean() > 2 * wrong.mean()


def test_a_part_of_the_budget_reaches_a_part_of_the_users(
    model: FamilyModel, log: LoggedDataset
) -> None:
    for share in (0.2, 0.6):
        policy = model.policy(share * log.spend)
        assert isinstance(policy, MixedPolicy)
        served = rollout(policy, CONFIG, 20_000, seed=3)
        offered = (policy.component(served.bucket) == 0).mean()
        assert offered == pytest.approx(share, rel=0.1)
        assert served.spend == pytest.approx(share * log.spend, rel=0.1)


def test_more_money_than_the_log_spent_is_left_alone(
    model: FamilyModel, log: LoggedDataset
) -> None:
    forecast = model.forecast(3 * log.spend)
    assert forecast.cost == pytest.approx(log.spend, rel=0.06)
    assert forecast.reward == pytest.approx(log.value, rel=0.04)
    assert forecast.weights == (1.0,)


def test_uniform_logs_are_cloned_exactly() -> None:
    log = rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 300, seed=1)
    clone = behaviour_cloning.fit(log, SMALL).policy(math.inf)
    view = DayView(log.obs[:, 0], log.bucket, 0, math.inf)
    assert np.allclose(clone.probs(view), 1 / CONFIG.n_actions)
