"""The multi-task network: its loss, its outputs, and the rows it learns from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from agents.common.one_day.representation import (
    Fitting,
    Representation,
    UserDays,
    fit_representation,
    user_days,
)
from marketing_env import LoggedDataset, RandomPolicy, preset, rollout

torch.set_num_threads(1)
CONFIG = preset("toy")
LOG = rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 200, seed=1)
EVERYONE = np.arange(LOG.n_users)


def network(rows: UserDays, width: int = 16, epochs: float = 1.0) -> Representation:
    return fit_representation(rows, LOG.n_actions, LOG.horizon, width, Fitting(epochs, 512))


def ragged() -> LoggedDataset:
    there = np.random.default_rng(0).random(LOG.valid.shape) < 0.6
    return replace(LOG, valid=there, propensity=np.where(there, LOG.propensity, 0))


def test_rows_are_the_valid_user_days() -> None:
    log, users = ragged(), np.array([3, 7, 100])
    rows = user_days(log, users)
    expected = [(u, t) for u in users for t in range(log.horizon) if log.valid[u, t]]
    assert list(zip(rows.user.tolist(), rows.day.tolist(), strict=True)) == expected
    user, day = np.array(expected).T
    assert_array_equal(rows.arm, log.action[user, day])
    assert_allclose(rows.outcome, np.stack([log.reward, log.cost], -1)[user, day], rtol=1e-6)
    assert_array_equal(rows.propensity, log.propensity[user, day])


def test_weights_make_arms_equal_and_favour_the_unlikely() -> None:
    chance = np.random.default_rng(1).uniform(0.2, 0.9, LOG.propensity.shape)
    rows = user_days(replace(LOG, propensity=chance), EVERYONE)
    for j in range(LOG.n_actions):
        weight, p = rows.weight[rows.arm == j], rows.propensity[rows.arm == j]
        assert float(weight.sum()) == pytest.approx(len(rows.arm) / LOG.n_actions, rel=1e-4)
        assert_allclose(weight * p, (weight * p)[0], rtol=1e-4)


def test_loss_is_its_formula() -> None:
    rows = user_days(LOG, EVERYONE[:50])
    net = network(rows)
    with torch.no_grad():
        net.uncertainty.copy_(torch.tensor([0.3, -0.8]))
        predicted = net(rows.obs, rows.day)
        found = float(net.loss(predicted, rows))
    total = 0.0
    for k, u in enumerate((0.3, -0.8)):
        errors = [
            float(rows.weight[i] * ((rows.outcome[i, k] - predicted[i, j, k]) / unit) ** 2)
            for i, j in enumerate(rows.arm.tolist())
            for unit in [float(net.spread[j, k]) or 1.0]
        ]
        total += (np.exp(-u) * np.mean(errors) + u) / 2
    assert found == pytest.approx(total, rel=1e-5)


def test_untrained_it_predicts_the_arms_means() -> None:
    rows = user_days(LOG, EVERYONE)
    net = network(rows)
    for parameter in net.towers.parameters():
        torch.nn.init.zeros_(parameter)
    predicted = net(rows.obs[:5], rows.day[:5])
    for j in range(LOG.n_actions):
        mean = rows.outcome[rows.arm == j].mean(0)
        assert_allclose(predicted[:, j], mean.expand(5, 2), rtol=1e-4, atol=1e-7)


def test_no_cost_is_negative_and_the_free_arm_is_free() -> None:
    rows = user_days(LOG, EVERYONE)
    predicted = network(rows, epochs=20)(rows.obs, rows.day)
    assert (predicted[:, 1:, 1] > 0).all()
    assert (predicted[:, 0, 1] == 0).all()


def test_an_arm_that_nobody_got_is_no_bargain() -> None:
    rows = user_days(LOG, EVERYONE)
    rows = rows.take((rows.arm < LOG.n_actions - 1).nonzero()[:, 0])
    level = network(rows).level
    assert level[-1, 1] == level[:-1, 1].max()
    assert float(level[-1, 0]) == pytest.approx(float(rows.outcome[:, 0].mean()), rel=1e-5)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_units_do_not_matter(factor: float) -> None:
    rows = user_days(LOG, EVERYONE)
    scale = torch.tensor([factor, 1 / factor])
    other = rows._replace(outcome=rows.outcome * scale)
    found, scaled = (network(each)(rows.obs, rows.day) for each in (rows, other))
    assert_allclose(found * scale, scaled, rtol=2e-2, atol=1e-3 * factor)


@pytest.mark.parametrize("width", [0, 1, 8])
def test_rebuilt_from_its_state(width: int) -> None:
    rows = user_days(LOG, EVERYONE)
    net = network(rows, width)
    again = Representation.rebuild(net.state_dict(), LOG.horizon)
    assert torch.equal(again(rows.obs, rows.day), net(rows.obs, rows.day))


def test_without_width_rewards_are_linear() -> None:
    rows = user_days(LOG, EVERYONE)
    net = network(rows, width=0)
    a, b = rows.obs[:20], rows.obs[20:40]
    day = torch.zeros(20, dtype=torch.long)
    middle = net((a + b) / 2, day)[..., 0]
    assert_allclose(middle, (net(a, day) + net(b, day))[..., 0] / 2, rtol=1e-4, atol=1e-5)
