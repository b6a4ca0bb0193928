"""Policies stay where the log has been."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents import greedy_uplift, load, mixed_policy
from agents.common.tensors import panel
from agents.common.values.support import fit_support, silences
from marketing_env import DayView, LoggedDataset, RandomPolicy, preset, rollout
from marketing_env.config import Array

CONFIG = preset("toy")
SMALL = mixed_policy.Config(folds=2, prices=5, width=24, steps=20, outcome_epochs=2, progress=False)


class Shy:
    """Never gives the dearest incentive to users whose first feature is positive."""

    def probs(self, view: DayView) -> Array:
        p = np.full((len(view.obs), 3), 1 / 3)
        p[view.obs[:, 0] > 0] = (0.5, 0.5, 0.0)
        return p


@pytest.fixture(scope="module")
def log() -> LoggedDataset:
    return rollout(Shy(), CONFIG, 3_000, seed=5)


def test_support_knows_what_was_never_tried(log: LoggedDataset) -> None:
    support = fit_support(log, panel(log), least=0.05)
    assert support is not None
    obs = log.obs[:, 1]
    allowed = support.allowed(torch.tensor(obs), 1).numpy()
    clear = np.abs(obs[:, 0]) > 0.3
    assert allowed[:, :2].all()
    assert (allowed[clear, 2] == (obs[clear, 0] < 0)).mean() > 0.98


def test_diagnostic_names_what_the_log_cannot_judge(log: LoggedDataset) -> None:
    found = silences(fit_support(log, panel(log), least=0.05), log)
    assert [s.incentive for s in found] == [2]
    (silence,) = found
    assert silence.share == pytest.approx((log.obs[:, :-1, 0] > 0).mean(), abs=0.06)
    assert silence.column == "feature_0"
    assert silence.silent > 0.5 > -0.5 > silence.heard
    assert "incentive 2 on" in str(silence)
    assert silences(None, log) == []


class Generous(Shy):
    """Leaves nobody without an incentive whose first feature is positive."""

    def probs(self, view: DayView) -> Array:
        return super().probs(view)[:, ::-1]


@pytest.mark.parametrize(("behaviour", "known"), [(Shy(), True), (Generous(), False)])
def test_nothing_is_promised_where_giving_nothing_was_never_tried(
    behaviour: Shy, known: bool, tmp_path: Path
) -> None:
    model = mixed_policy.fit(rollout(behaviour, CONFIG, 3_000, seed=5), SMALL)
    model.save(tmp_path)
    for some in (model, load(tmp_path)):
        forecast = some.forecast(0.5)
        assert np.isfinite(forecast.over_log_error) == known
        assert known or ("no promise" in str(forecast) and not forecast.safe)


def test_policy_keeps_to_the_support(log: LoggedDataset, tmp_path: Path) -> None:
    view = DayView(log.obs[:, 0], log.bucket, 0, np.inf)
    shy = log.obs[:, 0, 0] > 0.3
    model = mixed_policy.fit(log, SMALL)
    rich = model.policy(100.0)
    assert rich.probs(view)[shy, 2].mean() < 0.02
    model.save(tmp_path / "m")
    assert (load(tmp_path / "m").policy(100.0).probs(view) == rich.probs(view)).all()

    reckless = mixed_policy.fit(log, replace(SMALL, least_support=0.0)).policy(100.0)
    assert reckless.probs(view)[shy, 2].mean() > 0.1


def test_greedy_keeps_to_the_support(log: LoggedDataset, tmp_path: Path) -> None:
    view = DayView(log.obs[:, 0], log.bucket, 0, np.inf)
    shy = log.obs[:, 0, 0] > 0.3
    model = greedy_uplift.fit(log, greedy_uplift.Config(width=24, epochs=2, progress=False))
    rich = model.policy(100.0).probs(view)
    assert rich[shy, 2].mean() < 0.02
    assert rich[log.obs[:, 0, 0] < -0.3, 2].mean() > 0.1
    model.save(tmp_path / "m")
    assert (load(tmp_path / "m").policy(100.0).probs(view) == rich).all()


def test_random_logs_need_no_support_model() -> None:
    log = rollout(RandomPolicy(3), CONFIG, 300, seed=1)
    assert mixed_policy.fit(log, SMALL).support is None
