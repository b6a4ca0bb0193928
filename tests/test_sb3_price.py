"""Online references: the adapter is the campaign, policies beat constants, budgets are kept."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

import torch
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal

import agents
from agents import sb3_price
from agents.common.online.sb3_env import PricedCampaigns
from agents.common.online.simulated import Heads, measured, scales
from agents.common.values.family import FamilyModel
from agents.sb3_price import Config, fit
from experiments.run import run
from experiments.settings import SUITES
from marketing_env import (
    ConstantPolicy,
    DayView,
    Policy,
    RandomPolicy,
    evaluate,
    preset,
    rollout,
)
from marketing_env.config import Array
from marketing_env.rollout import days
from marketing_env.users import sample_users

torch.set_num_threads(1)
Algorithm = Literal["ppo", "dqn"]
TOY = preset("toy")
K, T = TOY.n_actions, TOY.horizon
SMALL = Config(campaigns=60, users=300, prices=4, width=32, learning_rate=3e-3, progress=False)
TINY = replace(SMALL, campaigns=2, users=12, width=8, measured_on=200)
LOG = rollout(RandomPolicy(K), TOY, 200, seed=1)


@cache
def trained(algorithm: Algorithm) -> FamilyModel:
    return fit(TOY, replace(SMALL, algorithm=algorithm))


def answers(model: FamilyModel, budget: float) -> Array:
    """(T, n, K) what the policy does with the users of a log."""
    policy = model.policy(budget)
    views = [DayView(LOG.obs[:, d], LOG.bucket, d, math.inf) for d in range(T)]
    return np.stack([policy.probs(view) for view in views])


def test_adapter_plays_the_campaign_of_its_seed() -> None:
    """Rewards at a price, costs and observations are those of the rollout's own users."""
    n, price = 9, np.array([0.0, 0.5, 2.0])
    curves: list[tuple[str, float, int]] = []
    env = PricedCampaigns(
        TOY, n, price, unit=0.25, scale=3.0, track=lambda *point: curves.append(point)
    )
    env.seed(4)
    obs: Any = env.reset()
    head = np.arange(n) % 3
    seed = env.get_attr("campaign_seed")[0]
    users, totals = sample_users(TOY, n, seed), np.zeros((2, n))
    for day in days(ConstantPolicy(1, K), TOY, users, seed):
        assert_array_equal(obs, np.hstack([day.view.obs, np.eye(3)[head]]))
        obs, reward, over, infos = env.step(np.ones(n, dtype=np.int64))
        net = (day.reward - price[head] * day.cost) / (1 + price[head] / 0.25) / 3
        assert_allclose(reward, net, rtol=1e-6)
        totals += day.reward, day.cost
        assert over.all() == (day.view.day == T - 1)
    last = np.stack([info["terminal_observation"] for info in infos])
    progress = TOY.columns.index("progress")
    assert_allclose(last[:, progress], 1.0)
    assert_allclose(obs[:, progress], 0.0)  # the next campaign has begun
    assert env.get_attr("campaign_seed")[0] != seed
    for g in range(3):
        expected = totals[:, head == g].mean(axis=1)
        said = [value for tag, value, _ in curves if tag in (f"reward/head_{g}", f"cost/head_{g}")]
        assert said == pytest.approx(expected)
    assert isinstance(env.observation_space, spaces.Box)
    assert all(env.observation_space.contains(row) for row in (*last, *obs))


def test_prices_move_once_per_campaign_by_what_was_spent() -> None:
    seen: list[Array] = []

    def double(price: Array, spent: Array) -> Array:
        seen.append(spent)
        return 2 * price

    env = PricedCampaigns(TOY, 40, np.array([1.0, 3.0]), adjust=double)
    env.reset()
    for step in range(2 * T):
        env.step(np.where(np.arange(40) % 2, 2, 0) if step < T else np.zeros(40, dtype=np.int64))
    assert_array_equal(env.price, [4.0, 12.0])
    (none, some), later = seen
    assert none == 0 < some
    assert_array_equal(later, [0.0, 0.0])


def test_every_head_needs_a_user() -> None:
    with pytest.raises(ValueError, match="users = 2: allowed is 3"):
        PricedCampaigns(TOY, 2, np.ones(3))


def test_scales_are_those_of_the_best_constant() -> None:
    size = scales(TOY, 0, users=20_000)
    idle, one, two = (
        evaluate(ConstantPolicy(a, K), TOY, n_users=20_000, seeds=2) for a in range(K)
    )
    earned = [((e.reward - idle.reward) / e.cost).mean() for e in (one, two)]
    assert size.price == pytest.approx(max(earned), rel=0.15)
    assert size.spend == pytest.approx(two.cost.mean(), rel=0.03)
    assert size.reward == pytest.approx(idle.reward.mean(), rel=0.03)


def test_measured_values_are_the_simulator_s() -> None:
    policies = [ConstantPolicy(a, K) for a in (2, 1)]
    found = measured(
        TOY, policies, np.array([0.0, 1.0]), users=5_000, seed=0, risk=0.05,
        track=lambda *point: None,
    )  # fmt: skip
    for (reward, cost), error, action in zip(found.value, found.error, (2, 1, 0), strict=True):
        truth = evaluate(ConstantPolicy(action, K), TOY, n_users=20_000, seeds=3)
        assert abs(reward - truth.reward.mean()) <= 5 * error[0]
        assert abs(cost - truth.cost.mean()) <= 5 * error[1]
    assert found.idle == 2


def test_the_network_sees_which_head_a_user_follows() -> None:
    layer = torch.nn.Linear(len(TOY.columns) + 3, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight[1, -3:] = torch.tensor([-1.0, 1.0, 2.0])
    view = DayView(LOG.obs[:, 0], LOG.bucket, 0, math.inf)
    heads = Heads(torch.nn.Sequential(layer), 3)
    chosen = [heads.policy(g).probs(view)[:, 1] for g in range(6)]
    drawn = 1 / (1 + np.exp([1.0, -1.0, -2.0]))
    expected = np.append([0.0, 1.0, 1.0], drawn)
    assert_allclose(chosen, np.repeat(expected[:, None], LOG.n_users, axis=1), rtol=1e-6)


def test_ppo_beats_every_constant_incentive() -> None:
    """Not each price at every seed; together they are ahead."""
    rivals = [ConstantPolicy(a, K) for a in range(K)]
    assert sum(ahead(trained("ppo"), g, rivals) for g in range(4)) > 0


def test_dqn_beats_chance_at_every_price() -> None:
    assert all(ahead(trained("dqn"), g, [RandomPolicy(K)]) > 0 for g in range(4))


def ahead(model: FamilyModel, head: int, rivals: Sequence[Policy]) -> float:
    """How much more than the best rival the policy of a head earns at its price."""
    price = model.frontier.price[head, 0]
    policies = [model.family.policy(head), *rivals]
    found = [evaluate(p, TOY, n_users=4_000, seeds=2) for p in policies]
    net, *others = [float((f.reward - price * f.cost).mean()) for f in found]
    return net - max(others)


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_budgets_are_kept_and_worth_something(algorithm: Algorithm) -> None:
    model = trained(algorithm)
    idle = evaluate(ConstantPolicy(0, K), TOY, n_users=4_000, seeds=2)
    for budget in (0.1, 0.4):
        found = evaluate(model.policy(budget), TOY, n_users=4_000, seeds=2)
        believed = model.forecast(budget)
        assert found.cost.mean() <= 1.1 * budget
        assert found.cost.mean() == pytest.approx(believed.cost, rel=0.1)
        assert found.reward.mean() == pytest.approx(believed.reward, rel=0.05)
        assert found.reward.mean() > idle.reward.mean()
        assert believed.bound >= believed.reward
    assert evaluate(model.policy(0.0), TOY, n_users=500, seeds=1).cost.max() == 0
    for budget in (-1.0, math.nan):
        with pytest.raises(ValueError, match="budget"):
            model.policy(budget)


def test_dear_money_is_spent_less() -> None:
    cost = trained("ppo").frontier.value[:, 1]
    assert cost[0] > cost[-2] >= cost[-1] == 0


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_seed_decides_and_saved_models_answer_the_same(
    algorithm: Algorithm, tmp_path: Path
) -> None:
    config = replace(TINY, algorithm=algorithm)
    curves: list[tuple[str, float, int]] = []
    outer = torch.get_rng_state()
    first = fit(TOY, config, 3, track=lambda *point: curves.append(point))
    assert torch.equal(outer, torch.get_rng_state())
    again = fit(TOY, config, 3)
    first.save(tmp_path / "model")
    loaded = agents.load(tmp_path / "model")
    assert isinstance(loaded, FamilyModel)
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"model.safetensors", "model.json"}
    for budget in (0.0, 0.2, math.inf):
        for other in (again, loaded):
            assert_array_equal(answers(other, budget), answers(first, budget))
            assert other.forecast(budget).reward == first.forecast(budget).reward
    tags = {tag for tag, _, _ in curves}
    assert {"reward/head_0", "cost/head_3", "price/head_1", "frontier/reward"} <= tags
    assert all(math.isfinite(value) for _, value, _ in curves)
    assert json.loads(json.dumps(asdict(config))) == asdict(config)


def test_a_run_simulates_instead_of_reading_the_log(tmp_path: Path) -> None:
    setting = replace(SUITES["toy"].settings[0], log_users=50, hard_limit=False)
    options = {f: getattr(TINY, f) for f in ("campaigns", "users", "prices", "measured_on")}
    found = run(setting, "sb3_price", 0, tmp_path / "sb3_price-0.json", config=options)
    assert [row["policies"] <= 2 for row in found["rows"]] == [True, True]
    assert agents.load(tmp_path / "sb3_price-0" / "model").forecast(0.1).cost <= 0.1


def test_without_the_library_the_method_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "agents.common.online.sb3_env")
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ImportError, match=r"pip install 'marketing-env\[sb3\]'"):
        fit(TOY, TINY)
    assert sb3_price.NEEDS_SIMULATOR
