"""Estimates from a test log: whose log, what is kept, and that a sweep writes them if asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import off_policy, sweep
from experiments.campaigns import behaviour, campaign, collect
from experiments.reporting.replayed import ESTIMATORS
from experiments.settings import SUITES, Suite
from marketing_env import ConstantPolicy, rollout

SETTING = replace(SUITES["toy"].settings[0], log_users=400, test_users=40, behaviour="mixture")


def test_the_log_is_of_fresh_users_under_the_logging_policy() -> None:
    log = off_policy.TestLog(SETTING, 3).log
    same = rollout(behaviour(SETTING), campaign(SETTING), 400, seed=50_003)
    assert np.array_equal(log.obs, same.obs)
    assert not np.array_equal(log.bucket, collect(SETTING, 3).bucket)


def test_large_logs_are_judged_by_some_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_policy, "MOST_USERS", 30)
    assert off_policy.TestLog(SETTING, 0).log.n_users == 30


def test_estimates_of_every_estimator_are_near_a_truth_that_is_easy() -> None:
    setting = replace(SETTING, behaviour="random", log_users=3_000)
    config = campaign(setting)
    policy = behaviour(setting)
    random, idle = off_policy.TestLog(setting, 0).estimates(
        [policy, ConstantPolicy(0, config.n_actions)]
    )
    true, nothing = (
        rollout(p, config, 20_000, seed=7) for p in (policy, ConstantPolicy(0, config.n_actions))
    )
    reward, base = (log.reward.sum(axis=1).mean() for log in (true, nothing))
    assert tuple(random) == ESTIMATORS
    for name in ESTIMATORS:
        assert random[name]["reward"] == pytest.approx(reward, abs=4 * random[name]["reward_error"])
        assert random[name]["cost"] == pytest.approx(true.spend, abs=4 * random[name]["cost_error"])
        gain = random[name]["reward"] - idle["fitted_q"]["reward"]
        assert random[name]["gain"] == pytest.approx(gain, abs=0.02)
    assert idle["fitted_q"]["gain"] == pytest.approx(0, abs=0.02)
    assert random["fitted_q"]["gain"] == pytest.approx(reward - base, abs=0.1)


def test_a_sweep_writes_them_if_asked(tmp_path: Path) -> None:
    suite = Suite(
        (SETTING,), ("greedy_uplift",), references=False,
        configs={"greedy_uplift": {"width": 8, "epochs": 1}},
    )  # fmt: skip
    for replay in (False, True):
        (job,) = sweep.jobs(suite, tmp_path / str(replay), replay)
        sweep.work(job)
    plain, told = (
        json.loads((tmp_path / str(r) / "toy" / "greedy_uplift-0.json").read_text())["rows"]
        for r in (False, True)
    )
    assert all("replay" not in row for row in plain)
    for without, row in zip(plain, told, strict=True):
        estimates = row.pop("replay")
        assert row == without  # judging by a log changes nothing else
        assert set(estimates) == set(ESTIMATORS)
        for found in estimates.values():
            assert set(found) == {*off_policy.KEPT, "gain"}
        assert estimates["fitted_q"]["cost"] > 0
