"""Meta-learners find effects that differ between users, whatever the sizes of the arms."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("torch")
pytest.importorskip("lightgbm")

from agents import greedy_uplift, load
from agents.common.one_day import uplift
from agents.common.one_day.uplift import BoostedResponse, Boosting, Rows, fit_uplift
from agents.common.types import Array
from marketing_env import DayView, LoggedDataset, RandomPolicy, preset, rollout

BOOST = Boosting(trees=60, leaves=4, learning_rate=0.1, min_leaf=20)
LEARNERS = [
    name if name != "causal_forest" else pytest.param(name, marks=pytest.mark.slow)
    for name in uplift.LEARNERS
]
every_learner = pytest.mark.parametrize("learner", LEARNERS)
SHARES = (0.6, 0.3, 0.1)


def truth(x: Array) -> Array:
    """(n, 3, 2): arms help where the first feature is positive, and cost by the second one."""
    arm = np.arange(3)
    reward = 0.5 + x[:, [2]] + arm * np.where(x[:, [0]] > 0, 1.0, 0.1)
    cost = arm * np.where(x[:, [1]] > 0, 2.0, 1.0)
    return np.stack([reward, cost * np.ones(3)], axis=-1)


def trial(n: int, seed: int = 0, shares: Any = SHARES) -> LoggedDataset:
    """Two days; `shares` are probabilities of the arms, (3,) or one row (n, 3) a user."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 3)).astype(np.float32)
    p = np.broadcast_to(shares, (n, 3))
    arm = (rng.random((n, 2, 1)) > p.cumsum(axis=1)[:, None, :2]).sum(axis=2)
    mean = truth(x)[np.arange(n)[:, None], arm]
    noise = rng.normal(0, 0.5, (n, 2)), rng.uniform(0, 2, (n, 2))
    return LoggedDataset(
        obs=np.repeat(x[:, None], 3, axis=1), action=arm,
        propensity=np.take_along_axis(p, arm, axis=1), reward=mean[..., 0] + noise[0],
        cost=mean[..., 1] * noise[1], valid=np.ones((n, 2), dtype=bool), bucket=rng.random(n),
        meta={"incentives": (0.0, 1.0, 2.0)},
    )  # fmt: skip


def fitted(log: LoggedDataset, learner: str, boost: Boosting = BOOST) -> BoostedResponse:
    if learner == "causal_forest":
        pytest.importorskip("econml")
    return fit_uplift(log, np.arange(log.n_users), learner, boost)


def effects(levels: Array) -> Array:
    return np.asarray(levels[:, 1:] - levels[:, :1])


@every_learner
def test_effects_are_found_better_than_by_their_means(learner: str) -> None:
    forest = learner == "causal_forest"  # its leaves are large
    response = fitted(trial(10_000 if forest else 2_500), learner)
    x = trial(1_000, seed=1).obs[:, 0]
    found, true = response.predict(x, 1), truth(x)
    error = ((effects(found) - effects(true)) ** 2).mean(axis=0)
    assert (error < 0.35 * effects(true).var(axis=0)).all(), error / effects(true).var(axis=0)
    assert_allclose(effects(found).mean(axis=0), effects(true).mean(axis=0), atol=0.15)
    assert ((found[:, 0, 0] - true[:, 0, 0]) ** 2).mean() < 0.1 * true[:, 0, 0].var()
    assert_array_equal(found[:, 0, 1], 0)


@every_learner
def test_a_log_that_favours_good_users_does_not_mislead(learner: str) -> None:
    """Dear arms go to users whose reward is high anyway: raw means exaggerate effects."""
    high = np.random.default_rng(2).uniform(-1, 1, (2_500, 3)).astype(np.float32)[:, 2] > 0
    log = trial(2_500, seed=2, shares=np.where(high[:, None], [0.1, 0.3, 0.6], [0.6, 0.3, 0.1]))
    raw = [float(log.reward[log.action == arm].mean()) for arm in range(3)]
    true = effects(truth(log.obs[:, 0])).mean(axis=0)[:, 0]
    assert raw[2] - raw[0] > true[1] + 0.4
    found = effects(fitted(log, learner).predict(log.obs[:, 0], 0)).mean(axis=0)[:, 0]
    assert_allclose(found, true, atol=0.15)


def rows(n: int = 60, seed: int = 0) -> tuple[Rows, Array]:
    """User-days of few kinds, two a user, and a reward."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (n, 1)).astype(float)
    arm = rng.integers(0, 3, n)
    return Rows(x, arm, rng.uniform(0.2, 0.5, n), np.arange(n) // 2), rng.random(n) + arm * x[:, 0]


CELLS = replace(BOOST, trees=200, learning_rate=0.3, min_leaf=1)  # boosted to the means of cells


def cell_mean(d: Rows, y: Array, like: int, arm: int, half: int) -> float:
    """Mean of y over rows of an arm in a half of the users with the features of row `like`."""
    same = (d.arm == arm) & (d.user % 2 == half) & (d.x[:, 0] == d.x[like, 0])
    return float(y[same].mean())


def test_nuisances_come_from_the_other_half() -> None:
    d, y = rows()
    m = uplift.nuisances(d, y, CELLS)
    for i in range(0, 60, 7):
        other = 1 - d.user[i] % 2
        expected = [cell_mean(d, y, i, arm, other) for arm in range(3)]
        assert_allclose(m[i], expected, atol=1e-4)


def test_dr_learner_regresses_corrected_differences() -> None:
    d, y = rows()
    m = uplift.nuisances(d, y, CELLS)
    (base, _, phi_0), (one, _, first), (two, _, second) = uplift.dr_learner(d, y, CELLS)
    assert (base, one, two) == ("mu_0", "tau_1", "tau_2")
    for i in range(60):
        phi = [
            m[i, j] + ((y[i] - m[i, j]) / d.propensity[i] if d.arm[i] == j else 0) for j in range(3)
        ]
        assert_allclose([phi_0[i], first[i], second[i]], np.subtract(phi, [0, phi[0], phi[0]]))


def test_x_learner_imputes_the_outcome_that_was_not_seen() -> None:
    d, y = rows()
    m = uplift.nuisances(d, y, CELLS)
    found = {name: (x, label) for name, x, label in uplift.x_learner(d, y, CELLS)}
    assert list(found) == ["mu_0", "treated_1", "control_1", "treated_2", "control_2"]
    for j in (1, 2):
        treated, control = np.flatnonzero(d.arm == j), np.flatnonzero(d.arm == 0)
        assert_array_equal(found[f"treated_{j}"][0], d.x[treated])
        assert_allclose(found[f"treated_{j}"][1], [y[i] - m[i, 0] for i in treated])
        assert_array_equal(found[f"control_{j}"][0], d.x[control])
        assert_allclose(found[f"control_{j}"][1], [m[i, j] - y[i] for i in control])


def test_shares_of_the_treated_are_known_where_the_log_says_so() -> None:
    d, _ = rows()
    known = d._replace(propensity=np.array([0.5, 0.3, 0.2])[d.arm])
    for (_, _, label), expected in zip(uplift.treated_shares(known), (3 / 8, 2 / 7), strict=True):
        assert_allclose(label, expected)
    for (_, x, label), j in zip(uplift.treated_shares(d), (1, 2), strict=True):
        pair = (d.arm == 0) | (d.arm == j)
        assert_array_equal(x, d.x[pair])
        assert_array_equal(label, d.arm[pair] == j)


def test_x_learner_weighs_by_the_share_of_the_treated() -> None:
    constants = {"reward/mu_0": 1.0, "reward/control_1": 4.0, "reward/treated_1": 8.0, "e_1": 0.25}
    x = np.array([[0.0, 0.0], [1.0, 0.0]] * 50)
    trees = {name: CELLS(name, x, np.full(100, value)) for name, value in constants.items()}
    found = BoostedResponse("x", trees, np.zeros((2, 2), bool), 1).predict(np.zeros((2, 0)), 0)
    assert_allclose(found[:, :, 0], [[1.0, 1.0 + 0.25 * 4 + 0.75 * 8]] * 2, rtol=1e-6)
    assert_array_equal(found[:, :, 1], 0)


@pytest.mark.parametrize("learner", ["s", "t", "x", "dr"])
def test_what_was_always_0_or_never_given_is_0(learner: str) -> None:
    log = trial(400, shares=(0.5, 0.5, 0.0))
    assert log.n_actions == 3
    found = fitted(log, learner).predict(log.obs[:, 0], 0)
    assert_array_equal(found[:, 2], 0)
    assert_array_equal(found[:, 0, 1], 0)
    assert (found[:, :2, 0].mean(axis=0) > 0.2).all()
    assert found[:, 1, 1].mean() > 0.2


@pytest.mark.parametrize("learner", ["s", "t", "x", "dr"])
def test_rebuilt_from_json_it_predicts_the_same(learner: str) -> None:
    log = trial(300)
    response = fitted(log, learner)
    state = response.state()
    assert not state.tensors
    again = BoostedResponse.from_state(state._replace(meta=json.loads(json.dumps(state.meta))))
    for day in (0, 1):
        expected = response.predict(log.obs[:, day], day)
        assert_array_equal(again.predict(log.obs[:, day], day), expected)
    assert again.predict(log.obs[:0, 0], 0).shape == (0, 3, 2)


def test_only_valid_days_of_the_given_users_teach() -> None:
    log = trial(300)
    odd = np.arange(1, 300, 2)
    valid = log.valid.copy()
    valid[1, 0] = False
    reward = np.where(np.arange(300)[:, None] % 2, log.reward, 99.0)
    reward[1, 0] = np.nan
    spoilt = replace(log, reward=reward, valid=valid)
    clean = replace(log, valid=valid)
    one, two = (fit_uplift(each, odd, "t", BOOST).predict(log.obs[:, 0], 0) for each in
                (spoilt, clean))  # fmt: skip
    assert_array_equal(one, two)


def test_progress_of_every_regression_is_tracked() -> None:
    curves: dict[str, list[float]] = {}

    def track(tag: str, value: float, step: int) -> None:
        curves.setdefault(tag, []).append(value)
        assert step == len(curves[tag]) - 1

    log = trial(300)
    fitted(log, "dr", replace(BOOST, trees=5, track=track, tag="m"))
    assert {"m/reward/mu_0", "m/cost/tau_2", "m/reward/nuisance_1/mu_2"} <= set(curves)
    assert all(curve[-1] <= curve[0] for curve in curves.values())


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    log = trial(100)
    with pytest.raises(ValueError, match="learner = 'forest': allowed are s, t, x, dr, causal"):
        fitted(log, "forest")
    monkeypatch.setitem(sys.modules, "econml.dml", None)
    with pytest.raises(ImportError, match="needs the extra forest: econml"):
        fit_uplift(log, np.arange(100), "causal_forest", BOOST)


@pytest.mark.parametrize("learner", ["s", "t", "x", "dr"])
def test_greedy_uplift_with_boosted_trees(learner: Any, tmp_path: Path) -> None:
    log = rollout(RandomPolicy(3), preset("toy"), 400, seed=1)
    config = greedy_uplift.Config(learner, trees=80, leaves=4, min_leaf=20, progress=False)
    model = greedy_uplift.fit(log, config)
    model.save(tmp_path / "model")
    loaded, budget = load(tmp_path / "model"), log.spend / 4
    forecast = model.forecast(budget)
    assert loaded.forecast(budget) == forecast
    assert forecast.cost <= 1.01 * budget
    assert forecast.reward > forecast.baseline
    for day in range(log.horizon):
        view = DayView(log.obs[:, day], log.bucket, day, np.inf)
        probs = model.policy(budget).probs(view)
        assert_array_equal(loaded.policy(budget).probs(view), probs)
        assert probs[:, 1:].sum() > 0
