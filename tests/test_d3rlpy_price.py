"""d3rlpy's learners as oracles: evaluated policies are worth what they say, prices cut spending."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("d3rlpy")

import torch
from numpy.testing import assert_allclose, assert_array_equal

import agents
from agents import d3rlpy_price
from agents.common.nets import no_track
from agents.d3rlpy_price import Config, Constant, Greedy, Oracle, choose_prices, fit, user_days
from experiments import train
from marketing_env import (
    ConstantPolicy,
    DayView,
    LoggedDataset,
    ProductionPolicy,
    RandomPolicy,
    evaluate,
    preset,
    rollout,
)
from marketing_env.export import to_d4rl_dict

torch.set_num_threads(1)
TOY = preset("toy")
K, T = TOY.n_actions, TOY.horizon
LOG = rollout(RandomPolicy(K), TOY, 4_000, seed=1)
SMALL = Config(steps=300, updates=150, batch=256, width=32, prices=4, progress=False)
TINY = replace(SMALL, steps=10, updates=5, width=8, prices=3)


def oracle(log: LoggedDataset, config: Config = SMALL) -> Oracle:
    torch.manual_seed(0)
    return Oracle(log, config, 0, no_track)


@cache
def trained() -> d3rlpy_price.Model:
    return fit(LOG, replace(SMALL, algorithm="ddqn"))


def ragged(log: LoggedDataset) -> LoggedDataset:
    there = np.random.default_rng(2).random(log.valid.shape) < 0.6
    return replace(log, valid=there, reward=np.where(there, log.reward, np.nan))


def one_day(reward: np.ndarray, cost: np.ndarray, action: np.ndarray) -> LoggedDataset:
    """A log of one day whose arms were drawn uniformly."""
    n = len(action)
    p = 1 / (action.max() + 1)
    return LoggedDataset(
        obs=np.ones((n, 2, 1)), action=action[:, None], propensity=np.full((n, 1), p),
        reward=reward[:, None], cost=cost[:, None], valid=np.ones((n, 1), bool),
        bucket=np.linspace(0, 0.99, n),
    )  # fmt: skip


@pytest.mark.parametrize("log", [LOG, ragged(LOG)], ids=["full", "ragged"])
def test_transitions_are_those_of_the_exporter(log: LoggedDataset) -> None:
    flat, days = to_d4rl_dict(log), user_days(log)
    assert_array_equal(days.obs[:, :-3], flat["observations"])
    assert_array_equal(days.action, flat["actions"])
    assert_array_equal(days.last, flat["terminals"])
    assert_allclose(days.outcome, np.stack([flat["rewards"], flat["costs"]], axis=1), rtol=1e-6)
    goes_on = np.flatnonzero(~days.last)
    assert_array_equal(days.obs[goes_on + 1, :-3], flat["next_observations"][goes_on])
    assert len(days.first) == log.valid.any(axis=1).sum()
    progress = np.nonzero(log.valid)[1] / log.horizon
    assert_allclose(days.obs[:, -3], progress, rtol=1e-6)


@pytest.mark.parametrize("behaviour", [RandomPolicy(K), ProductionPolicy(TOY, 0.5)])
@pytest.mark.parametrize("action", range(K))
def test_constant_policies_are_worth_what_they_earn(
    behaviour: RandomPolicy | ProductionPolicy, action: int
) -> None:
    log = rollout(behaviour, TOY, 4_000, seed=3)
    judged = oracle(log).judge(1.0, Constant(action))
    truth = evaluate(ConstantPolicy(action, K), TOY, n_users=20_000, seeds=2)
    assert abs(judged.reward - truth.reward.mean()) <= 4 * judged.reward_error
    assert abs(judged.cost - truth.cost.mean()) <= 4 * judged.cost_error + 1e-9
    assert judged.reward_error < 0.15


def test_correction_makes_up_for_an_evaluation_that_learned_nothing() -> None:
    """In a campaign of one day it is the doubly robust estimate, right whatever Q says."""
    action = (np.random.default_rng(1).random(6_000) < 0.2).astype(np.int64)
    log = one_day(7.0 + action, 2.0 * action, action)
    log = replace(log, propensity=np.where(action == 1, 0.2, 0.8)[:, None])
    judged = oracle(log, replace(SMALL, updates=1)).judge(1.0, Constant(1))
    assert abs(judged.reward - 8.0) <= 4 * judged.reward_error < 4
    assert abs(judged.cost - 2.0) <= 4 * judged.cost_error < 1


def test_absent_users_earn_nothing() -> None:
    half = np.repeat(np.arange(LOG.n_users) % 2 == 0, T).reshape(-1, T)
    judged = oracle(replace(LOG, valid=half)).judge(1.0, Constant(1))
    whole = evaluate(ConstantPolicy(1, K), TOY, n_users=20_000, seeds=2)
    assert abs(judged.reward - whole.reward.mean() / 2) <= 4 * judged.reward_error


def test_rare_large_costs_keep_their_mean() -> None:
    """A Huber loss in the outcome's own units would see a fraction of it."""
    rng = np.random.default_rng(0)
    action = rng.integers(0, 2, 8_000)
    cost = np.where((action == 1) & (rng.random(8_000) < 0.05), 200.0, 0.0)
    log = one_day(np.zeros(8_000), cost, action)
    judge = oracle(log, replace(SMALL, updates=400))
    judge.learn = judge.test
    arm = np.ones(len(judge.test.last), dtype=np.int64)
    value = judge._values(1.0, Constant(1), arm, 1)
    assert value.mean() == pytest.approx(cost[action == 1].mean(), rel=0.25)


@pytest.mark.parametrize("algorithm", ["cql", "bcq", "ddqn"])
def test_best_responses_beat_every_constant_incentive(algorithm: str) -> None:
    price = 0.2
    learner = oracle(LOG, replace(SMALL, algorithm=algorithm, updates=1)).respond(price).learner
    policies = [Greedy(learner, K, T), *(ConstantPolicy(a, K) for a in range(K))]
    found = [evaluate(policy, TOY, n_users=10_000, seeds=2) for policy in policies]
    net, *constant = [(f.reward - price * f.cost).mean() for f in found]
    assert net > max(constant) + 0.01


def test_batch_constrained_learner_avoids_what_the_log_avoids() -> None:
    class Shy:
        def probs(self, view: DayView) -> np.ndarray:
            return np.tile([0.49, 0.49, 0.02], (len(view.obs), 1))

    log = rollout(Shy(), TOY, 4_000, seed=1)
    # Where the dear incentive looks like a gift, values alone would always choose it.
    gift = replace(log, reward=log.reward + 5.0 * (log.action == 2))
    config = replace(SMALL, updates=1)
    view = DayView(gift.obs[:, 0], gift.bucket, 0, np.inf)
    bcq, ddqn = (
        Greedy(oracle(gift, replace(config, algorithm=a)).respond(0.0).learner, K, T).probs(view)
        for a in ("bcq", "ddqn")
    )
    assert bcq[:, 2].mean() < 0.02
    assert ddqn[:, 2].mean() > 0.9


def test_prices_cut_spending() -> None:
    responses = trained().responses
    prices = [r.price for r in responses]
    assert prices == sorted(prices)
    assert prices[0] == 0
    assert np.isinf(prices[-1])
    spent = [
        evaluate(Greedy(r.learner, K, T), TOY, n_users=5_000, seeds=1).cost.mean()
        for r in responses
    ]
    assert spent[0] > 5 * spent[-2]
    assert spent[-1] == responses[-1].cost == responses[-1].cost_error == 0
    assert_allclose([r.cost for r in responses], spent, atol=0.25)


def test_budgets_are_kept_and_earn_most_of_the_bound() -> None:
    for budget in (0.1, 0.4, 0.8):
        believed = trained().forecast(budget)
        found = evaluate(trained().policy(budget), TOY, n_users=20_000, seeds=2)
        assert 0.6 * budget < found.cost.mean() < 1.1 * budget
        assert believed.cost < budget
        assert len(believed.prices) <= 2
        assert believed.baseline < believed.reward <= believed.bound


def test_column_generation_adds_the_price_of_a_budget() -> None:
    budget = 0.3
    plain, more = fit(LOG, TINY), fit(LOG, replace(TINY, refine_at=[budget]))
    assert len(more.responses) == len(plain.responses) + 1
    (added,) = {r.price for r in more.responses} - {r.price for r in plain.responses}
    # The slope, at the budget, of the upper envelope of all chords: by brute force.
    margin = 1.6448536269514722
    points = [
        (max(r.cost, (r.cost + margin * r.cost_error) / 1.03), r.reward) for r in plain.responses
    ]
    chords = [
        (a[1] + (budget - a[0]) * (b[1] - a[1]) / (b[0] - a[0]), (b[1] - a[1]) / (b[0] - a[0]))
        for a in points
        for b in points
        if a[0] <= budget < b[0]
    ]
    assert added == pytest.approx(max(chords)[1])


def test_price_grid_surrounds_what_money_buys_in_a_day() -> None:
    rng = np.random.default_rng(4)
    action = rng.integers(0, 3, 3_000)
    log = one_day(np.array([1.0, 2.0, 2.5])[action], np.array([0.0, 4.0, 10.0])[action], action)
    grid = choose_prices(user_days(log), 5)
    assert grid[0] == 0
    assert_allclose(grid[1:], np.geomspace(0.25 / 30, 1.0, 4))
    free = one_day(np.ones(3_000), np.zeros(3_000), action)
    assert choose_prices(user_days(free), 5) == [0.0]


@pytest.mark.parametrize("algorithm", ["cql", "bcq", "ddqn"])
def test_saved_learners_choose_the_same(algorithm: str, tmp_path: Path) -> None:
    model = fit(LOG, replace(TINY, algorithm=algorithm, refine_at=(0.2,)))
    model.save(tmp_path / "model")
    loaded = agents.load(tmp_path / "model")
    assert isinstance(loaded, d3rlpy_price.Model)
    assert [r[:5] for r in loaded.responses] == [r[:5] for r in model.responses]
    choices = [
        [Greedy(r.learner, K, T).probs(DayView(LOG.obs[:, 1], LOG.bucket, 1, np.inf)) for r in m]
        for m in (model.responses, loaded.responses)
    ]
    assert_array_equal(*choices)
    assert len({c.tobytes() for c in choices[0]}) > 1


def test_training_is_silent_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    curves: dict[str, list[int]] = {}
    model = fit(LOG, TINY, track=lambda tag, _, step: curves.setdefault(tag, []).append(step))
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")
    for price in (r.price for r in model.responses):
        assert {f"price_{price:.3g}/reward/loss", f"price_{price:.3g}/cost/loss"} <= set(curves)
    assert curves["price_0/loss"] == [0, TINY.steps - 1]


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "d3rlpy", None)
    with pytest.raises(ImportError, match=r"pip install 'marketing-env\[d3rlpy\]'"):
        fit(LOG, TINY)


def test_settings_are_options_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--method", "d3rlpy_price", "--help"])
    said = capsys.readouterr().out
    for name in ("--algorithm {cql,bcq,ddqn}", "--refine-at FLOAT", "--judge-share"):
        assert name in said
