"""The cluster allocator: who is alike, what they get, and what imitation and noise cost."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from agents import cluster, solve_mckp
from agents.common.one_day.cluster_validation import HeldOut
from agents.common.one_day.clusters import Clusters, answers, assign, distil, fit_clusters
from agents.common.one_day.representation import (
    Fitting,
    Representation,
    UserDays,
    fit_representation,
    user_days,
)
from agents.common.types import Array
from marketing_env import DayView, LoggedDataset

torch.set_num_threads(1)
SMALL = cluster.Config(width=16, batch=256, epochs=1, outcome_epochs=0.25, progress=False)
FITTING = Fitting(epochs=3, batch=256)

# Reward and cost (K, 2) of two segments: one is content with arm 1, the other wants arm 2.
SEGMENTS = np.array([[[1, 0], [2, 1], [2.1, 2]], [[0, 0], [0.1, 1], [2, 1.5]]])


def trial(
    n: int, truth: Array = SEGMENTS, seed: int = 0, noise: float = 0.3, days: int = 2
) -> LoggedDataset:
    """Random arms; the first feature tells the segment, two more tell nothing."""
    rng = np.random.default_rng(seed)
    segment, arms = rng.integers(0, len(truth), n), truth.shape[1]
    x = np.concatenate([segment[:, None], rng.normal(size=(n, 2))], axis=1)
    arm = rng.integers(0, arms, (n, days))
    mean = truth[segment[:, None], arm]
    return LoggedDataset(
        obs=np.repeat(x[:, None], days + 1, axis=1), action=arm,
        propensity=np.full(arm.shape, 1 / arms),
        reward=mean[..., 0] + noise * rng.normal(size=arm.shape),
        cost=mean[..., 1] * rng.uniform(0.5, 1.5, arm.shape),
        valid=np.ones(arm.shape, dtype=bool), bucket=rng.random(n),
        meta={"incentives": tuple(range(arms))},
    )  # fmt: skip


LOG = trial(900)


def view(log: LoggedDataset, day: int = 0, remaining: float = math.inf) -> DayView:
    return DayView(log.obs[:, day], log.bucket, day, remaining)


@cache
def trained(**settings: Any) -> cluster.Model:
    return cluster.fit(LOG, replace(SMALL, **settings))


def found_in(model: cluster.Model, log: LoggedDataset) -> Array:
    obs = torch.tensor(log.obs[:, 0])
    return assign(model.classifier, obs, torch.zeros(len(obs), dtype=torch.long))


def brings(probs: Array, truth: Array, segment: Array) -> Array:
    """(2,) true mean reward and cost of probabilities (n, K)."""
    return np.asarray((probs[..., None] * truth[segment]).sum(axis=1).mean(axis=0))


@pytest.mark.parametrize("decision_aware", [True, False])
def test_segments_are_found_and_served_optimally(decision_aware: bool) -> None:
    model, fresh = trained(clusters=2, decision_aware=decision_aware), trial(2000, seed=1)
    segment, label = fresh.obs[:, 0, 0].astype(int), found_in(model, fresh)
    agree = (label == segment).mean()
    assert max(agree, 1 - agree) == 1
    order = [0, 1] if agree == 1 else [1, 0]
    assert_allclose(model.outcomes.mean[order], SEGMENTS, atol=0.12)
    truth = SEGMENTS[segment]
    for money in (0.2, 0.6, 1.1):
        probs = model.policy(2 * money).probs(view(fresh))
        reward, cost = brings(probs, SEGMENTS, segment)
        best = solve_mckp(truth[..., 0], truth[..., 1], money * 2000).value / 2000
        idle = truth[:, 0, 0].mean()
        assert 0.85 * money <= cost <= 1.05 * money
        assert (reward - idle) / (best - idle) > 0.85


def test_at_most_one_cluster_gets_two_arms() -> None:
    model, fresh = trained(clusters=10), trial(1000, seed=2)
    label = found_in(model, fresh)
    for budget in (0.3, 0.9, 2.0):
        arm = model.policy(budget).probs(view(fresh)).argmax(axis=1)
        several = [len(set(arm[label == each])) > 1 for each in set(label)]
        assert sum(several) <= 1


def test_users_served_singly_get_what_a_crowd_gets() -> None:
    model, fresh = trained(clusters=2), trial(300, seed=3)
    policy, crowd = model.policy(1.0), view(fresh)
    singly = [
        policy.probs(DayView(crowd.obs[[i]], crowd.bucket[[i]], 0, math.inf)) for i in range(300)
    ]
    assert_array_equal(np.concatenate(singly), policy.probs(crowd))


def test_money_that_remains_is_paced() -> None:
    fresh = trial(1000, seed=4)
    for pacing in (True, False):
        policy = trained(clusters=2, pacing=pacing).policy(1.0)
        spent = [
            brings(policy.probs(view(fresh, 1, left)), SEGMENTS, fresh.obs[:, 0, 0].astype(int))[1]
            for left in (0.1, 0.9)
        ]
        if pacing:
            assert_allclose(spent, [0.1, 0.9], rtol=0.15)
        else:
            assert_allclose(spent, [0.5, 0.5], rtol=0.15)


def test_the_forecast_is_what_fresh_users_bring() -> None:
    model, fresh = trained(clusters=2), trial(4000, seed=5)
    segment = fresh.obs[:, 0, 0].astype(int)
    for budget in (0.4, 1.6):
        forecast = model.forecast(budget)
        true = 2 * brings(model.policy(budget).probs(view(fresh)), SEGMENTS, segment)
        assert abs(forecast.reward - true[0]) < 4 * forecast.reward_error + 0.05
        assert abs(forecast.cost - true[1]) < 4 * forecast.cost_error + 0.05
        assert 0 < forecast.reward_error < 0.1
        margin = NormalDist().inv_cdf(1 - SMALL.risk) * forecast.cost_error
        careful = max(forecast.cost, (forecast.cost + margin) / 1.03)
        assert careful == pytest.approx(budget, rel=1e-3)
    assert forecast.baseline == pytest.approx(2 * SEGMENTS[:, 0, 0].mean(), abs=0.1)


def test_representation_and_clusters_do_not_know_the_arm() -> None:
    """The arm decides the outcome, so a network that sees it would group user-days by it."""
    truth = np.array([[[0, 0], [5, 1], [10, 2]]] * 2)
    log = trial(800, truth + np.array([[[0.0]], [[1.0]]]) * [1, 0], seed=6)
    rows = user_days(log, np.arange(log.n_users))
    network = fit_representation(rows, 3, log.horizon, 16, FITTING)
    assert network.shared[0].in_features == log.obs.shape[2] + 3
    for curves in (True, False):
        label = assign(fit_clusters(network, rows, 4, curves), rows.obs, rows.day)
        count = np.zeros((4, 3))
        np.add.at(count, (label, rows.arm.numpy()), 1)
        expected = count.sum(axis=1, keepdims=True) / 3
        assert (
            ((count - expected) ** 2)[count.any(axis=1)] / expected[count.any(axis=1)]
        ).sum() < 25
    shuffled = rows._replace(arm=rows.arm[torch.randperm(len(rows.arm))])
    assert torch.equal(
        network.hidden(shuffled.obs, shuffled.day), network.hidden(rows.obs, rows.day)
    )


@pytest.mark.parametrize("seen", [True, False])
def test_predictions_recover_the_truth_of_a_skewed_log(seen: bool) -> None:
    """Each segment mostly gets some arms; where features hide it, everyone's mean is the truth."""
    log = trial(1500, seed=7)
    segment = log.obs[:, 0, 0].astype(int)
    chance = np.where(segment[:, None] == log.action % 2, 0.9, 0.3)
    keep = np.random.default_rng(7).random(log.action.shape) < chance
    log = replace(log, valid=keep, propensity=log.propensity * chance, obs=log.obs * seen)
    rows = user_days(log, np.arange(log.n_users))
    network = fit_representation(rows, 3, log.horizon, 16, FITTING)
    predicted = answers(network, rows.obs, rows.day).numpy()
    truth = SEGMENTS[segment[rows.user.numpy()]] if seen else SEGMENTS.mean(axis=0)
    assert np.abs(predicted - truth).mean() < 0.1
    assert_array_equal(predicted[:, 0, 1], 0)


def blob(n: int, seed: int = 0) -> UserDays:
    rng = torch.Generator().manual_seed(seed)
    obs = torch.randn(n, 3, generator=rng)
    user, arm = torch.arange(n), torch.randint(0, 3, (n,), generator=rng)
    third = torch.full((n,), 1 / 3, dtype=torch.float64)
    outcome = torch.stack([arm * obs[:, 0] + obs[:, 1], arm * torch.exp(obs[:, 2])], dim=-1)
    day = torch.zeros(n, dtype=torch.long)
    return UserDays(obs, day, user, arm, third, outcome, torch.ones(n))


def held_out(rows: UserDays, network: Representation) -> HeldOut:
    return HeldOut(rows, rows.user.numpy() % 2, network, risk=0.1, support=0.01)


def test_separable_clusters_are_imitated_without_loss() -> None:
    found = trained(clusters=2).distillation
    assert found.disagreement == 0
    assert found.value_lost == 0


def test_loss_of_imitation_is_reported() -> None:
    """60 clusters inside one blob, named by a classifier with two hidden units."""
    taught, tested = blob(600), blob(6000, seed=1)
    network = fit_representation(taught, 3, 1, 16, FITTING)
    teacher = fit_clusters(network, taught, 60, curves=False)
    judge, reports = held_out(tested, network), []
    for width in (2, 32):
        classifier = distil(teacher, taught, width, 0.1, FITTING)
        report = judge.compare(teacher, classifier)
        labels = [answers(m, tested.obs, tested.day).argmax(1) for m in (teacher, classifier)]
        assert report.disagreement == float((labels[0] != labels[1]).double().mean())
        worth = [judge.worth(label.numpy(), 60) for label in labels]
        assert report.value_lost == worth[0] - worth[1]
        reports.append(report)
    assert reports[0].disagreement > 0.5
    assert reports[1].disagreement < reports[0].disagreement - 0.1
    assert reports[0].value_lost > 0


def test_soft_labels_sharpen_as_the_temperature_falls() -> None:
    rows = blob(600)
    network = fit_representation(rows, 3, 1, 16, FITTING)
    teacher = fit_clusters(network, rows, 5, curves=True)
    confidence = [
        float(
            answers(distil(teacher, rows, 16, t, FITTING), rows.obs, rows.day)
            .softmax(1)
            .amax(1)
            .mean()
        )
        for t in (0.05, 50.0)
    ]
    assert confidence[0] > 0.8
    assert confidence[1] < 0.3


def test_clusters_of_a_mind_are_worth_more_than_random_ones() -> None:
    tested = blob(3000, seed=2)
    network = fit_representation(blob(600), 3, 1, 16, FITTING)
    judge = held_out(tested, network)
    good = judge.clusters(fit_clusters(network, tested, 10, curves=True))
    random = np.random.default_rng(0).integers(0, 10, 3000)
    assert judge.worth(good, 10) > judge.worth(random, 10) + 0.1
    assert judge.worth(random, 10) < judge.worth(np.zeros_like(random), 1) + 0.05


def test_spending_too_much_is_worth_nothing() -> None:
    """Where every unit of money buys one of reward, all plans are worth their budgets."""
    tested = blob(1500, seed=3)
    judge = held_out(tested, fit_representation(blob(600), 3, 1, 16, FITTING))
    for outcome in judge.logged[-2:]:
        outcome[..., 0] = outcome[..., 1]
    label = np.random.default_rng(0).integers(0, 20, 1500)
    for n in (20, 1):
        assert judge.worth(label % n, n) == pytest.approx(np.mean(judge.budgets))


def test_the_number_of_clusters_is_the_one_worth_most() -> None:
    worth: dict[int, float] = {}

    def track(tag: str, value: float, step: int) -> None:
        if tag == "clusters/worth":
            worth[step] = value

    model = cluster.fit(LOG, SMALL, track=track)
    assert set(worth) == {n for n in cluster.GRID if n <= 900 / 30}
    assert len(model.teacher.centre) == max(worth, key=lambda n: worth[n])


def test_curves_ignore_what_no_incentive_changes() -> None:
    """Two groups differ in activity alone: to the allocation they are one."""
    truth = np.array([[[0, 0], [1, 1]], [[9, 0], [10, 1]]])
    log = trial(600, truth, seed=8, noise=0.1)
    rows = user_days(log, np.arange(log.n_users))
    network = fit_representation(rows, 2, log.horizon, 16, FITTING)
    group = rows.obs[:, 0].numpy()

    def told(curves: bool) -> float:
        label = assign(fit_clusters(network, rows, 2, curves), rows.obs, rows.day)
        return float(abs(np.corrcoef(label, group)[0, 1]))

    assert told(curves=False) > 0.95
    assert told(curves=True) < 0.8


def individual(network: Representation, log: LoggedDataset, money: float) -> Array:
    """Arms by the knapsack on each user's own prediction."""
    obs = torch.tensor(log.obs[:, 0])
    y = answers(network, obs, torch.zeros(len(obs), dtype=torch.long)).double().numpy()
    cost = np.maximum(y[..., 1], 0)
    return solve_mckp(y[..., 0], cost, money * len(obs)).choice


def test_noise_hurts_clusters_less_than_individuals() -> None:
    fresh = trial(2000, seed=10)
    segment, money = fresh.obs[:, 0, 0].astype(int), 0.6

    def net(probs: Array) -> float:
        # A unit of money is worth 4/3 in the segment that wants arm 2.
        reward, cost = brings(probs, SEGMENTS, segment).tolist()
        return reward - 4 / 3 * max(cost - money, 0.0)

    def served(noise: float, seed: int) -> tuple[float, float]:
        log = trial(700, seed=20 + seed, noise=noise)
        model = cluster.fit(log, replace(SMALL, clusters=2, outcome_epochs=4), seed)
        alone = individual(model.teacher.representation, fresh, money)
        return net(np.eye(3)[alone]), net(model.policy(2 * money).probs(view(fresh)))

    clean = np.array(served(0.3, 0))
    lost = clean - np.mean([served(3.0, seed) for seed in range(3)], axis=0)
    assert lost[0] > 0.05
    assert lost[1] < 0.5 * lost[0]


def test_a_saved_teacher_still_places_users(tmp_path: Path) -> None:
    for decision_aware in (True, False):
        model = trained(clusters=2, decision_aware=decision_aware)
        model.save(tmp_path / "model")
        loaded = cluster.load(tmp_path / "model")
        assert isinstance(loaded.teacher, Clusters)
        obs, day = torch.tensor(LOG.obs[:, 0]), torch.zeros(900, dtype=torch.long)
        assert torch.equal(loaded.teacher(obs, day), model.teacher(obs, day))
        assert loaded.distillation == model.distillation
        assert loaded.config == model.config


@pytest.mark.parametrize(
    ("name", "value"),
    [("folds", 2), ("folds", 901), ("clusters", -1), ("temperature", 0.0), ("risk", 1.0)],
)
def test_refusals(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value}: allowed"):
        cluster.fit(LOG, replace(SMALL, **{name: value}))
