"""The one-shot trial: its distributions, its counterfactuals, and an optimum that nobody beats."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from marketing_env import LoggedDataset, OneShotConfig, Trial, lbcf
from marketing_env.one_shot import ARMS

SMALL = OneShotConfig(users_per_arm=2000)


def logged(table: Any, log: LoggedDataset) -> Any:
    return np.take_along_axis(table, log.action.astype(int), axis=1)


@pytest.mark.parametrize("test", [False, True])
def test_log_shows_the_tables_at_the_logged_arm(test: bool) -> None:
    trial = lbcf(SMALL, test=test)
    log = trial.log
    assert (log.n_users, log.horizon, log.n_actions) == (8000, 1, 4)
    assert np.array_equal(log.reward, logged(trial.value, log))
    assert np.array_equal(log.cost, logged(trial.cost, log))
    assert (log.propensity == 1 / ARMS).all()
    assert np.bincount(log.action[:, 0]) / 8000 == pytest.approx(1 / 4, abs=0.02)
    assert log.columns == ("H1", "H2", "H3", "H4")
    assert np.array_equal(log.obs[:, 0], log.obs[:, 1])


def test_arms_and_buckets_know_nothing() -> None:
    trial = lbcf(SMALL)
    arm, bucket = trial.log.action[:, 0], trial.log.bucket
    columns = (*trial.log.obs[:, 0].T, *trial.value.T, *trial.cost.T[1:], bucket)
    for values in columns:
        assert abs(np.corrcoef(arm, values)[0, 1]) < 4 / np.sqrt(8000)
    assert np.bincount((4 * bucket).astype(int)) / 8000 == pytest.approx(1 / 4, abs=0.02)


def test_features_follow_their_chain() -> None:
    h1, h2, h3, h4 = lbcf(SMALL).log.obs[:, 0].T.astype(float)
    for sd, noise in (
        (1.0, h1 - 0.5),
        (2.5, h2 - 2 * h1**2),
        (2.0, h3 - 2 * h1 - 1.4 * h2),
        (1.0, h4 + 0.5 - 0.7 * h3 - 0.3 * h2),
    ):
        assert noise.mean() == pytest.approx(0, abs=4 * sd / np.sqrt(8000))
        assert noise.std() == pytest.approx(sd, rel=0.04)


def slopes(trial: Trial, weights: Any) -> tuple[Any, Any]:
    """What one level of the arm adds to the value, and inside of M."""
    _, h2, h3, h4 = trial.log.obs[:, 0].T.astype(float)
    w1, w2, w3, w4, w5 = weights
    return w1 * h2**2 + w2 * h3**2 + w3 * h4**2, w4 * h3**2 + w5 * h4


@pytest.mark.parametrize("noise", [1.0, 20.0])
def test_value_is_linear_in_the_arm(noise: float) -> None:
    config = replace(SMALL, noise=noise)
    trial = lbcf(config)
    lift, _ = slopes(trial, config.weights())
    for arm in range(ARMS):
        for table, base in ((trial.value, trial.value[:, 0]), (trial.expected_value, 3)):
            assert table[:, arm] - base == pytest.approx(arm * lift, rel=1e-4, abs=1e-3)
    spread = noise * np.hypot(1.5, 0.5)
    assert trial.value[:, 0].std() == pytest.approx(spread, rel=0.04)
    assert trial.value[:, 0].mean() == pytest.approx(3, abs=4 * spread / np.sqrt(8000))


@pytest.mark.parametrize("noise", [5.0, 20.0])
def test_cost_is_uniform_up_to_its_largest(noise: float) -> None:
    """Where U cannot change the sign inside of M, costs of two arms tell U and the cost's place."""
    config = replace(SMALL, noise=noise, users_per_arm=10_000)
    trial = lbcf(config)
    _, load = slopes(trial, config.weights())
    clear = load > 8 * noise
    cost, load = trial.cost[clear], load[clear]
    # c1 = s (load + U) and c2 = 2 s (2 load + U), with s uniform on [1 / W, 1].
    share = (cost[:, 2] / 2 - cost[:, 1]) / load
    latent = cost[:, 1] / share - load
    assert len(cost) > 2000
    assert cost[:, 3] == pytest.approx(3 * share * (3 * load + latent), rel=1e-4)
    assert (trial.cost[:, 0] == 0).all()
    place = (share * noise - 1) / (noise - 1)
    assert np.histogram(place, 5, (0, 1))[0] / len(place) == pytest.approx(1 / 5, abs=0.03)
    assert latent.mean() == pytest.approx(3, abs=6 * noise / np.sqrt(len(cost)))
    assert latent.std() == pytest.approx(1.5 * noise, rel=0.06)
    assert abs(np.corrcoef(place, latent)[0, 1]) < 4 / np.sqrt(len(cost))
    assert np.corrcoef(trial.value[clear, 0], latent)[0, 1] == pytest.approx(
        3 / np.sqrt(10), abs=0.02
    )


def test_least_noise_charges_the_largest_cost() -> None:
    config = replace(SMALL, noise=1.0)
    trial = lbcf(config)
    _, load = slopes(trial, config.weights())
    clear = load > 10
    gap = trial.cost[clear, 2] / 2 - trial.cost[clear, 1]
    assert gap == pytest.approx(load[clear], rel=1e-4)


@pytest.mark.parametrize("noise", [1.0, 5.0, 20.0])
def test_expectations_are_the_means_of_the_tables(noise: float) -> None:
    """Overall, and where U often changes the sign inside of M."""
    config = replace(SMALL, noise=noise, users_per_arm=20_000)
    trial = lbcf(config)
    _, load = slopes(trial, config.weights())
    for chosen in (np.abs(load) < 2 * noise, load > 2 * noise):
        assert chosen.sum() > 2000
        for truth, expected in (
            (trial.value, trial.expected_value),
            (trial.cost, trial.expected_cost),
        ):
            rest = (truth - expected)[chosen]
            assert (np.abs(rest.mean(axis=0)) <= 4 * rest.std(axis=0) / np.sqrt(len(rest))).all()
    assert (trial.expected_cost[:, 1:] > 0).all()


@pytest.mark.parametrize("noise", [5.0, 20.0])
def test_optimum_is_known(noise: float) -> None:
    """Features alone keep to the budget on average, and earn less than hindsight."""
    pytest.importorskip("torch")
    from agents import cost_curve, solve_mckp

    trial = lbcf(replace(SMALL, noise=noise, users_per_arm=5000))
    hindsight = cost_curve(trial.value, trial.cost)
    nothing, rows = trial.value[:, 0].sum(), np.arange(20_000)
    for share in (0.1, 0.3):
        budget = share * trial.expected_cost[:, 3].sum()
        chosen = solve_mckp(trial.expected_value, trial.expected_cost, budget).choice
        value, cost = trial.value[rows, chosen], trial.cost[rows, chosen]
        assert cost.sum() == pytest.approx(budget, abs=4 * cost.std() * np.sqrt(len(cost)))
        assert value.sum() <= hindsight.value_at(cost.sum())
        best = solve_mckp(trial.value, trial.cost, budget).value
        reached = (value.sum() - nothing) / (best - nothing)
        at_random = share * (trial.value[:, 3].sum() - nothing) / (best - nothing)
        assert at_random < reached < 1


def test_seeds_repeat_and_larger_trials_begin_alike() -> None:
    first, again, other = lbcf(SMALL), lbcf(SMALL), lbcf(replace(SMALL, seed=1))
    assert all(np.array_equal(a, b) for a, b in zip(first[1:], again[1:], strict=True))
    assert np.array_equal(first.log.action, again.log.action)
    assert not np.array_equal(first.log.obs, other.log.obs)
    larger = lbcf(replace(SMALL, users_per_arm=3000))
    assert np.array_equal(larger.cost[:8000], first.cost)
    assert np.array_equal(larger.log.action[:8000], first.log.action)


def test_worlds_share_users_and_noise_but_not_effects() -> None:
    here, there = lbcf(SMALL), lbcf(replace(SMALL, world=1))
    assert np.array_equal(here.log.obs, there.log.obs)
    assert np.array_equal(here.value[:, 0], there.value[:, 0])
    assert not np.isclose(here.value[:, 1:], there.value[:, 1:]).any(axis=1).all()


@pytest.mark.parametrize("shift", [False, True])
def test_test_world_differs_only_by_choice(shift: bool) -> None:
    config = replace(SMALL, shift=shift)
    train, test = lbcf(config), lbcf(config, test=True)
    assert np.array_equal(config.weights(), config.weights(test=True)) is not shift
    lift, _ = slopes(test, config.weights())
    same = np.isclose(test.value[:, 1] - test.value[:, 0], lift, rtol=1e-4, atol=1e-3)
    assert same.all() if not shift else same.mean() < 0.1
    assert not np.isclose(train.log.obs, test.log.obs).any(axis=(1, 2)).all()
    assert np.array_equal(train.value, lbcf(SMALL).value)


def test_weights_have_their_published_law() -> None:
    weights = np.array([OneShotConfig(world=world).weights() for world in range(400)])
    assert weights.mean(axis=0) == pytest.approx([0, 0, 2, 2, 4], abs=0.2)
    assert weights.std(axis=0) == pytest.approx(1, abs=0.15)


def test_log_says_where_it_comes_from() -> None:
    meta = json.loads(json.dumps(lbcf(SMALL).log.meta))
    assert OneShotConfig(**meta["config"]) == SMALL
    assert meta["incentives"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": 0.5}, "noise = 0.5: allowed is 1 or more"),
        ({"noise": float("nan")}, "noise = nan"),
        ({"users_per_arm": 0}, "users_per_arm = 0"),
    ],
)
def test_bad_trials_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)
