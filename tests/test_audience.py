"""Plans for the users whom a campaign will meet: what they differ in is seen on their first day."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from agents import mixed_policy, price_bisection
from agents.common.values.responses import rarity
from marketing_env import RandomPolicy, evaluate, preset, rollout, sample_users
from marketing_env.dynamics import observe

torch.set_num_threads(1)
CONFIG = preset("toy")
LOG = rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 4_000, seed=1)
SMALL: dict[str, Any] = {
    "folds": 2, "prices": 8, "width": 32, "steps": 60, "outcome_epochs": 6, "progress": False,
}  # fmt: skip
BUDGET = 0.4 * LOG.spend


@cache
def trained(**settings: Any) -> mixed_policy.Model:
    return mixed_policy.fit(LOG, mixed_policy.Config(**(SMALL | settings)), seed=0)


@pytest.fixture
def model() -> mixed_policy.Model:
    return trained()


@pytest.mark.parametrize(
    "settings", [{}, {"contacts": True, "prices": 3}, {"oracle": "plain", "steps": 150}]
)
def test_for_its_own_users_a_plan_stays(settings: dict[str, Any]) -> None:
    model = trained(**settings)
    known, same = model.frontier, model.for_users(LOG.obs[:, 0]).frontier
    assert_allclose(same.value, known.value, rtol=0.03, atol=5e-3)
    assert_array_equal(same.error[:, 0], known.error[:, 0])
    spending = known.value[:, 1] > 0.01
    assert (same.error[spending, 1] > 0).all()
    assert (same.error[spending, 1] < 0.4 * known.value[spending, 1]).all()
    assert_array_equal(same.value[known.idle, 1:], known.value[known.idle, 1:])
    assert_allclose(same.logged, known.logged, rtol=0.01)


def test_forecasts_are_those_of_the_users_who_come(model: mixed_policy.Model) -> None:
    # The half of some users for whom free spending costs most, by what is seen of them.
    users = sample_users(CONFIG, 4_000, 7)
    obs = observe(CONFIG, users, users.start, 0)
    free = model.responses.policies[0]
    spent = rollout(free, CONFIG, 4_000, 7, users=users).cost.sum(axis=1)
    told = obs @ np.linalg.lstsq(obs, spent, rcond=None)[0]
    chosen = told >= np.median(told)
    plain, ours = model.frontier.value[0, 1], model.for_users(obs[chosen]).frontier.value[0, 1]
    truth = spent[chosen].mean()
    assert truth > 1.05 * plain
    assert abs(ours - truth) < 0.5 * abs(plain - truth)


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_what_is_tried_rarely_teaches_little(p: float) -> None:
    action = np.random.default_rng(0).random((20_000, 2)) > p
    log = replace(
        rollout(RandomPolicy(2), preset("toy", horizon=2, incentives=(0.0, 1.0)), 20_000, seed=0),
        action=action.astype(np.uint8), propensity=np.where(action, 1 - p, p),
    )  # fmt: skip
    # Half of the choices have p, half 1 - p: the mean of 1 / (2 p) and 1 / (2 (1 - p)).
    assert rarity(log, 0.01) == pytest.approx((1 / p + 1 / (1 - p)) / 4, rel=0.05)


def test_other_players_of_the_game_plan_so_too(model: mixed_policy.Model) -> None:
    game = price_bisection.fit(
        LOG, price_bisection.Config(**SMALL), seed=0, responses=model.responses
    )
    users = sample_users(CONFIG, 3_000, 5)
    planned = game.for_users(observe(CONFIG, users, users.start, 0))
    spent = evaluate(planned.policy(BUDGET), CONFIG, n_users=3_000, seeds=[5]).cost.mean()
    assert 0 < spent < 1.1 * BUDGET
    assert planned.responses.policies is model.responses.policies  # learned once, judged once


def test_a_plan_is_saved_with_its_users(model: mixed_policy.Model, tmp_path: Path) -> None:
    some, others = LOG.obs[:500, 0], LOG.obs[500:1_000, 0]
    model.for_users(some).save(tmp_path)
    loaded = mixed_policy.load(tmp_path)
    assert loaded.forecast(BUDGET) == model.for_users(some).forecast(BUDGET)
    again, anew = (m.for_users(others).forecast(BUDGET) for m in (loaded, model))
    # What the log's policy would bring was moved to one audience, then to the other: twice rounded.
    assert again.over_log == pytest.approx(anew.over_log, rel=1e-12)
    assert replace(again, over_log=anew.over_log) == anew


@pytest.mark.parametrize(
    ("obs", "says"),
    [
        (LOG.obs[:0, 0], r"obs has shape \(0, "),
        (LOG.obs[:3, 0, :-1], "allowed is \\(users, "),
        (np.where(np.arange(LOG.obs.shape[2]) == 1, np.nan, LOG.obs[:3, 0]), "row 0, column 1 is"),
    ],
)
def test_what_is_no_observation_is_refused(model: mixed_policy.Model, obs: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        model.for_users(obs)
