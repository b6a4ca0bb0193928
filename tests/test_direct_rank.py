"""Losses of direct scores have the minimisers that their papers claim, and rank users by them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from scipy.special import expit
from torch import Tensor

from agents import greedy_uplift, load
from agents.common.one_day import direct_rank
from agents.common.one_day.daily import NetworkResponse
from agents.common.one_day.direct_rank import (
    DirectResponse,
    arm_weights,
    dcl,
    dpm,
    drm,
    drp,
    fit_direct,
    mean_returns,
)
from agents.common.tensors import panel
from agents.common.types import Array
from agents.common.values.response import OutcomeModel, fit_outcomes
from marketing_env import DayView, LoggedDataset, RandomPolicy, preset, rollout

torch.set_num_threads(1)
LOSSES = list(direct_rank.LOSSES)
every_loss = pytest.mark.parametrize("loss", LOSSES)
Data = tuple[Tensor, Tensor, Tensor, Tensor]  # arm, reward, cost, weight


def population(k: int, n: int, seed: int) -> Data:
    """Users of one kind: n of arm 0, and of each later arm fewer. Costs rise, rewards may fall."""
    rng = np.random.default_rng(seed)
    arm = np.concatenate([np.full(math.ceil(n / (1 + j)), j) for j in range(k)])
    arm = rng.permutation(arm)
    reward = rng.normal(0.05 * arm, 0.1)
    cost = arm * rng.uniform(0.8, 1.2, len(arm))
    weight = len(arm) / (k * np.bincount(arm)[arm])
    data = (torch.tensor(part) for part in (arm, reward, cost, weight))
    return tuple(data)  # type: ignore[return-value]


def means(arm: Tensor, values: Tensor) -> Array:
    return np.array([float(values[arm == j].mean()) for j in range(int(arm.max()) + 1)])


def minimised(loss: Any, n_scores: int = 1) -> Array:
    """z (n_scores,) where a loss that is a sum over its scores is least, between -8 and 8."""

    def along(j: int, value: float) -> float:
        z = torch.zeros(n_scores, dtype=torch.float64)
        z[j] = value
        return float(loss(z))

    tight = {"xatol": 1e-7}
    search = partial(minimize_scalar, bounds=(-8, 8), method="bounded", options=tight)
    return np.array([search(partial(along, j)).x for j in range(n_scores)])


seeds, sizes = st.integers(0, 10_000), st.integers(20, 60)


@given(sizes, seeds)
@settings(max_examples=25, deadline=None)
def test_drp_finds_the_return(n: int, seed: int) -> None:
    data = arm, reward, cost, _ = population(2, n, seed)
    gain, extra = np.diff(means(arm, reward))[0], np.diff(means(arm, cost))[0]
    z = minimised(lambda z: drp(z.expand(len(arm)), *data))
    assert expit(z) == pytest.approx(np.clip(gain / extra, 0, 1), abs=1e-3)


@given(sizes, seeds, st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_dpm_finds_half_of_each_marginal_return(n: int, seed: int, k: int) -> None:
    data = arm, reward, cost, _ = population(k, n, seed)
    marginal = np.diff(means(arm, reward)) / np.diff(means(arm, cost))
    z = minimised(lambda z: dpm(z.expand(len(arm), k - 1), *data), k - 1)
    assert_allclose(expit(z), np.clip(marginal / 2, 0, 1), atol=1e-3)


@given(sizes, seeds, st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_dcl_finds_the_net_effect(n: int, seed: int, price: float) -> None:
    data = arm, reward, cost, _ = population(2, n, seed)
    net = np.diff(means(arm, reward - price * cost))[0]
    z = minimised(lambda z: dcl(z.expand(len(arm)), *data, price=price))
    assert np.tanh(z) == pytest.approx(np.clip(net, -1, 1), abs=1e-4)


def random_rows(k: int, seed: int = 0) -> tuple[Tensor, Data]:
    rng = np.random.default_rng(seed)
    z = torch.tensor(rng.normal(0, 1.5, (30, k - 1)))
    arm = torch.tensor(rng.permutation(np.arange(30) % k))
    reward, cost, weight = (torch.tensor(rng.random(30)) for _ in range(3))
    return z, (arm, reward, cost, weight)


def test_losses_are_their_formulas() -> None:
    """Row by row, as written in the papers, without any rearrangement."""
    z, (arm, reward, cost, _) = random_rows(2)
    even = torch.ones(30, dtype=torch.float64)
    t, c = arm == 1, arm == 0
    q, u, z = torch.sigmoid(z[:, 0]), torch.tanh(z[:, 0]), z[:, 0]
    value = reward * (q / (1 - q)).log() + cost * (1 - q).log()
    assert float(drp(z, arm, reward, cost, even)) == pytest.approx(
        float(-(value[t].mean() - value[c].mean()))
    )
    w = u.exp()
    delta = [(w * y)[t].sum() / w[t].sum() - (w * y)[c].sum() / w[c].sum() for y in (cost, reward)]
    found = drm(z, arm, reward, cost, even)
    assert float(found) == pytest.approx(float(delta[0] / delta[1]))
    assert float(drm(z + 1e9, arm, reward, cost, even)) == pytest.approx(
        means(arm, cost) @ [-1, 1] / (means(arm, reward) @ [-1, 1])
    )
    value = (reward - 0.2 * cost) * ((1 + u) / (1 - u)).log()
    expected = -(value[t].mean() - value[c].mean()) - (1 - u**2).log().mean()
    assert float(dcl(z, arm, reward, cost, even)) == pytest.approx(float(expected))


def test_dpm_is_its_formula() -> None:
    z, (arm, reward, cost, weight) = random_rows(4, seed=1)
    q, total = torch.sigmoid(z), 0.0
    for i, t in enumerate(arm.tolist()):
        before, after = (q[i, t - 1] if t > 0 else 0), (q[i, t] if t < 3 else 0)
        row = cost[i] * (before**2 - after**2) - reward[i] * (before - after)
        total += float(weight[i] * row) / 30
    assert float(dpm(z, arm, reward, cost, weight)) == pytest.approx(total)


def test_weights_make_arms_equal() -> None:
    arm = torch.tensor([0] * 6 + [1] * 3 + [2])
    shares = torch.tensor([0.6, 0.3, 0.1])[arm]
    assert_allclose(arm_weights(arm, shares, 3), 10 / (3 * np.array([6] * 6 + [3] * 3 + [1])))
    # Within an arm, users who seldom get it count for more.
    uneven = arm_weights(arm, torch.tensor([0.2, 0.4] * 5), 3)
    assert_allclose(uneven[[0, 1]] / uneven[1], [2, 1])
    assert_allclose([float(uneven[arm == j].sum()) for j in range(3)], 10 / 3, rtol=1e-6)


def test_two_arms_and_no_more() -> None:
    z, data = random_rows(3)
    for loss in (drm, drp, dcl):
        with pytest.raises(ValueError, match=r"arm holds \[0, 1, 2\]: this loss compares 1 with 0"):
            loss(z[:, 0], *data)
    with pytest.raises(ValueError, match=r"arm holds \[0\]"):
        drp(z[:, 0], torch.zeros_like(data[0]), *data[1:])


def test_mean_returns() -> None:
    arm, ones = torch.arange(3).repeat(100), torch.ones(300)
    reward, cost = 0.1 * (arm > 0) + 0.3 * (arm > 1), torch.tensor([0.0, 1.0, 3.0])[arm]
    assert_allclose(mean_returns("drm", arm, reward, cost, ones, 3), [0.1, 0.4 / 3], rtol=1e-5)
    assert_allclose(mean_returns("drp", arm, reward, cost, ones, 3), [0.1, 0.4 / 3], rtol=1e-5)
    assert_allclose(mean_returns("dpm", arm, reward, cost, ones, 3), [0.1, 0.15], rtol=1e-5)
    # Where the reward falls, its standard error keeps the start of the networks positive.
    error = float(reward.std()) * math.sqrt(2 / 100)
    found = mean_returns("dpm", arm, -reward, cost, ones, 3)
    assert_allclose(found, [error, error / 2], rtol=1e-5)
    refused = [
        ("drm", -reward, cost, "drm: reward of arm 1 is -0.1 above that of arm 0"),
        ("dpm", reward, cost.clamp(max=1), "dpm: cost of arm 2 is 0 above that of arm 1"),
        ("drp", reward, -cost, "drp: cost of arm 1 is -1 above that of arm 0"),
    ]
    for loss, r, c, message in refused:
        with pytest.raises(ValueError, match=message):
            mean_returns(loss, arm, r, c, ones, 3)
    with pytest.raises(ValueError, match="drp: cost of arm 3 is nan above"):
        mean_returns("drp", arm, reward, cost, ones, 4)


SHARES = np.array([0.5, 0.35, 0.15])


def returns(x: Array, loss: str) -> Array:
    """(n, 2) true reward per unit of money: by step, or of each arm over arm 0."""
    first = np.where(x[:, 0] > 0, 0.35, 0.05)
    second = np.where(x[:, 1] > 0, 0.2, 0.03)
    return np.stack([first, second if loss == "dpm" else (first + second) / 2], axis=1)


def trial(n: int, seed: int = 0) -> LoggedDataset:
    """One day; each step costs 1 on average, and brings `returns`."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 3)).astype(np.float32)
    arm = rng.choice(3, n, p=SHARES)
    gain = np.pad(returns(x, "dpm").cumsum(axis=1), ((0, 0), (1, 0)))[np.arange(n), arm]
    reward = 0.3 + 0.1 * x[:, 2] + gain + rng.normal(0, 0.2, n)
    return LoggedDataset(
        obs=np.repeat(x[:, None], 2, axis=1), action=arm[:, None],
        propensity=SHARES[arm][:, None], reward=reward[:, None],
        cost=(arm * rng.uniform(0.5, 1.5, n))[:, None], valid=np.ones((n, 1), dtype=bool),
        bucket=rng.random(n), meta={"incentives": (0.0, 1.0, 2.0)},
    )  # fmt: skip


LOG = trial(8_000)
USERS = np.arange(LOG.n_users)


@cache
def outcomes() -> OutcomeModel:
    return fit_outcomes(panel(LOG), torch.as_tensor(USERS), width=16)


def fitted(log: LoggedDataset, loss: str, batch: int = 2048, **options: Any) -> DirectResponse:
    model = outcomes()
    return fit_direct(log, USERS, model, loss, width=16, batch=batch, lr=3e-3, **options)


@every_loss
def test_scores_follow_the_true_returns(loss: str) -> None:
    curve: list[float] = []
    response = fitted(LOG, loss, track=lambda tag, value, step: curve.append(value))
    assert curve[-1] < curve[0]
    x = trial(1_000, seed=1).obs[:, 0]
    expected, true = response.predict(x, 0), returns(x, loss)
    inputs = response.outcomes.inputs(torch.tensor(x), torch.zeros(1_000))
    found = response.scores.returns(inputs).detach().numpy()
    for j in range(2):
        assert np.corrcoef(found[:, j], true[:, j])[0, 1] > (0.6 if loss == "drm" else 0.75)
    if loss != "drm":  # DRM finds an order
        assert ((found - true) ** 2).mean() < 0.4 * true.var()
    assert_allclose(found.mean(axis=0), true.mean(axis=0), rtol=0.35)

    level = NetworkResponse(response.outcomes).predict(x, 0)
    cost = level[..., 1]
    assert_array_equal(expected[..., 1], cost)
    assert_array_equal(expected[:, 0], level[:, 0])
    gain = found[:, 0] * (cost[:, 1] - cost[:, 0])
    assert_allclose(expected[:, 1, 0] - expected[:, 0, 0], gain, rtol=1e-5)
    if loss == "dpm":
        gain = gain + found[:, 1] * (cost[:, 2] - cost[:, 1])
    else:
        gain = found[:, 1] * (cost[:, 2] - cost[:, 0])
    assert_allclose(expected[:, 2, 0] - expected[:, 0, 0], gain, rtol=1e-5)


def test_drm_scores_have_the_mean_return_of_their_arm() -> None:
    response, arm = fitted(LOG, "drm"), LOG.action[:, 0]
    inputs = response.outcomes.inputs(torch.tensor(LOG.obs[:, 0]), torch.zeros(LOG.n_users))
    reward, cost = (
        np.array([float(y[arm == j].mean()) for j in range(3)]) for y in (LOG.reward, LOG.cost)
    )
    found = response.scores.returns(inputs).mean(dim=0)
    assert_allclose(found, (reward[1:] - reward[0]) / cost[1:], rtol=1e-3)


def test_rare_arms_may_miss_a_batch() -> None:
    rare = np.where(USERS < 3, 2, LOG.action[:, 0] % 2)
    arms = replace(LOG, action=rare[:, None], cost=rare[:, None].astype(float))
    found = fitted(arms, "drp", batch=64, epochs=0.1).predict(LOG.obs[:, 0], 0)
    assert np.isfinite(found).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="loss = 'dcl': allowed are drm, drp, dpm"):
        fitted(LOG, "dcl")
    free = replace(LOG, cost=np.zeros_like(LOG.cost))
    with pytest.raises(ValueError, match="dpm: cost of arm 1 is 0 above that of arm 0"):
        fitted(free, "dpm")


@every_loss
def test_greedy_uplift_with_direct_scores(loss: Any, tmp_path: Path) -> None:
    log = rollout(RandomPolicy(3), preset("toy"), 600, seed=1)
    model = greedy_uplift.fit(log, greedy_uplift.Config(loss, folds=1, width=8, progress=False))
    model.save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "model.json").read_text())["config"]["learner"] == loss
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
