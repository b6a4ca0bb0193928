"""Rows of the one-shot comparison: found by themselves, asked alike, ranked alike."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightgbm")

from agents import end_to_end, greedy_uplift
from agents.common.one_day.representation import Fitting
from agents.common.one_day.uplift_metrics import aucc
from experiments.methods import method_names
from experiments.trials import one_shot_methods
from experiments.trials.one_shot_methods import (
    DECISION,
    DIRECT,
    OTHER,
    TWO_STAGE,
    arm_means,
    entries,
    kind,
    policy_of,
    remembering,
    step_scores,
)
from marketing_env import LoggedDataset, OneShotConfig, lbcf

LOG = lbcf(OneShotConfig(noise=5, users_per_arm=250)).log


def test_methods_are_there_in_all_their_variants() -> None:
    found = {entry.name: entry for entry in entries()}
    assert {entry.module for entry in found.values()} == set(one_shot_methods.METHODS[1:])
    assert {f"greedy_uplift-{x}" for x in ("network", "s", "t", "x", "dr", "drm", "dpm")} < set(
        found
    )
    assert found["greedy_uplift-x"].config("lbcf").learner == "x"
    same, own = (found[name].config("lbcf") for name in ("dfcl-ifd", "two_stage"))
    assert (own.epochs, own.warm_epochs) == (0, same.epochs + same.warm_epochs)
    assert replace(own, epochs=same.epochs, warm_epochs=same.warm_epochs, loss="ifd") == same


def test_networks_may_be_linear_and_go_on_as_fast_as_they_began() -> None:
    found = {entry.name: entry for entry in entries()}
    for name in ("two_stage", "dfcl-pll", "bi_dfcl-pifd", "end_to_end"):
        usual, linear = (found[name].config(data) for data in ("lbcf", "lbcf-linear"))
        assert (usual.network, linear) == ("auto", replace(usual, network="linear"))
        assert usual.learning_rate == Fitting().learning_rate
    for name in ("greedy_uplift-x", "cluster"):
        own = found[name].config("lbcf")
        assert own.learning_rate == type(own)().learning_rate


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["dfcl-ifd", "cluster"], {"dfcl-ifd", "cluster"}),
        (["two_stage"], {"two_stage"}),
        (["greedy_uplift"], {"greedy_uplift-"}),
        (method_names(), {*method_names(), "greedy_uplift-", "dfcl-", "bi_dfcl-"}),
    ],
)
def test_rows_are_chosen_by_name(names: list[str], expected: set[str]) -> None:
    found = [entry.name for entry in entries(names)]
    assert found
    assert all(name in expected or f"{name.split('-')[0]}-" in expected for name in found)


def solver_calls(log: LoggedDataset, config: end_to_end.Config) -> float:
    found: dict[str, float] = {}
    end_to_end.fit(log, config, track=lambda tag, value, _: found.update({tag: value}))
    return found["response/member_0/solver_calls"]


def test_estimators_are_compared_after_equally_many_solver_calls() -> None:
    log = lbcf(OneShotConfig(10.0, False, 2_000, world=100, seed=100)).log
    configs = [replace(e.config("lbcf"), warm_epochs=1.0) for e in entries(["estimator"])]
    assert {c.gradient for c in configs} == {"flip", "gaussian", "coordinate"}
    assert not any(c.corrected for c in configs)
    calls = [solver_calls(log, config) for config in configs]
    assert max(calls) < 1.02 * min(calls)
    assert not [e for e in entries() if e.name.startswith("estimator")]


def test_unknown_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="methods = greedy: allowed are two_stage"):
        entries(["greedy", "cluster"])


def test_a_module_of_yours_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "your_lab").mkdir()
    (tmp_path / "your_lab" / "thrifty.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import Literal\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n"
        "    loss: Literal['a', 'b'] = 'a'\n"
        "    width: int = 7\n"
        "def fit(log, config=Config(), seed=0): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = entries(["your_lab.thrifty"])
    assert [entry.name for entry in found] == ["your_lab.thrifty-a", "your_lab.thrifty-b"]
    assert found[1].config("lbcf").loss == "b"
    assert found[1].config("lbcf").width == one_shot_methods.SETTINGS["lbcf"]["width"]
    assert kind(found[1].name) == OTHER


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("two_stage", TWO_STAGE),
        ("greedy_uplift-dr", TWO_STAGE),
        ("greedy_uplift-drm", DIRECT),
        ("greedy_uplift-dpm", DIRECT),
        ("dfcl-dr", DECISION),
        ("end_to_end", DECISION),
        ("mixed_policy", OTHER),
    ],
)
def test_kinds(name: str, expected: str) -> None:
    assert kind(name) == expected


class Priced:
    """Buys the steps whose known return is at least a price that falls as the budget rises."""

    def __init__(self, returns: Any) -> None:
        self.returns = returns

    def policy(self, budget: float) -> Priced:
        other = Priced(self.returns)
        other.price = np.quantile(self.returns, max(0.0, 1 - budget / 3))  # type: ignore[attr-defined]
        return other

    def probs(self, view: Any) -> Any:
        bought = (self.returns >= self.price).sum(axis=1)  # type: ignore[attr-defined]
        return np.eye(self.returns.shape[1] + 1)[bought]


def test_policies_show_their_order() -> None:
    rng = np.random.default_rng(0)
    n, arm = 3000, rng.integers(0, 3, 3000)
    returns = np.sort(rng.random((n, 2)), axis=1)[:, ::-1]  # of falling return, like a hull
    log = LoggedDataset(
        obs=np.zeros((n, 2, 1), np.float32), action=arm[:, None], propensity=np.full((n, 1), 1 / 3),
        reward=rng.random((n, 1)), cost=1.5 * arm[:, None].astype(float),
        valid=np.ones((n, 1), bool), bucket=rng.random(n),
    )  # fmt: skip
    scores = step_scores(Priced(returns), log)  # type: ignore[arg-type]
    assert scores.shape == returns.shape
    ranks: Any = [np.argsort(np.argsort(x.ravel())) for x in (scores, returns)]
    assert np.corrcoef(*ranks)[0, 1] > 0.995
    treated = arm[arm < 2] == 1
    gain = treated * returns[arm < 2, 0] + rng.normal(0, 0.1, treated.size)
    told, asked = (aucc(x[arm < 2, 0], treated, gain, treated * 1.0) for x in (returns, scores))
    assert asked == pytest.approx(told, abs=0.02)


def test_predictions_are_made_once_and_stay_the_same() -> None:
    config = greedy_uplift.Config(learner="t", folds=1, trees=5, min_leaf=20, progress=False)
    model = greedy_uplift.fit(LOG, config)
    asked: list[int] = []

    class Counted:
        def predict(self, obs: Any, day: int) -> Any:
            asked.append(len(obs))
            return model.members[0].predict(obs, day)

        def state(self) -> Any:
            raise NotImplementedError

    counted: Any = remembering(replace(model, members=(Counted(),)))
    other = LOG.take(slice(0, 300))
    for log in (LOG, other, LOG):
        for budget in (1.0, 20.0, math.inf):
            assert np.array_equal(policy_of(counted, log, budget), policy_of(model, log, budget))
        assert np.array_equal(step_scores(counted, log), step_scores(model, log))
    assert asked == [1000, 300, 1000]


def test_predicted_returns_rank_steps() -> None:
    config = greedy_uplift.Config(learner="t", folds=1, trees=5, min_leaf=20, progress=False)
    model = greedy_uplift.fit(LOG, config)
    expected = model.members[0].predict(LOG.obs[:, 0], 0)
    scores = step_scores(model, LOG)
    assert scores.shape == (1000, 3)
    rise = np.diff(expected, axis=1)
    sound = rise[..., 1] > 1e-6
    assert scores[sound] == pytest.approx((rise[..., 0] / rise[..., 1])[sound])
    assert np.isfinite(scores).all()


def test_arm_means() -> None:
    means = arm_means(LOG)
    for arm in range(4):
        given = LOG.action[:, 0] == arm
        assert means[arm] == pytest.approx([LOG.reward[given].mean(), LOG.cost[given].mean()])
