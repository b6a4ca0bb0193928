"""Judges tell what policies are worth; a family's mixture keeps budgets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from agents.common.values.family import (
    FamilyModel,
    Judge,
    Memoryless,
    Verdict,
    hold_out,
    load_family,
    recorded,
    sizes_of,
)
from marketing_env import (
    ConstantPolicy,
    LoggedDataset,
    MixedPolicy,
    Policy,
    RandomPolicy,
    preset,
    rollout,
    sample_users,
)
from marketing_env.dynamics import observe

torch.set_num_threads(1)
CONFIG = preset("toy")
K = CONFIG.n_actions


@pytest.fixture(scope="module")
def log() -> LoggedDataset:
    return rollout(RandomPolicy(K), CONFIG, 3_000, seed=1)


@pytest.fixture(scope="module")
def judge(log: LoggedDataset) -> Judge:
    return Judge(log, width=32, steps=60)


def constant(action: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(action), K)


def both(obs: Tensor, user: Tensor, day: int) -> Tensor:
    """The largest incentive for everyone, and one that looks at who has been active."""
    always = constant(K - 1).expand(len(obs), -1)
    recent = obs[:, CONFIG.columns.index("recency")] == 0
    some = torch.where(recent[:, None], constant(1), constant(0))
    return torch.stack([always, some], dim=-1)


def one_of_both(head: int, obs: Tensor, day: int) -> Tensor:
    return both(obs, torch.empty(0), day)[..., head]


def test_values_are_near_the_truth(judge: Judge) -> None:
    found = judge.verdict(both, torch.tensor([[0.0], [0.1], [torch.inf]]), risk=0.05).frontier
    policies: list[Policy] = [Memoryless(partial(one_of_both, g)) for g in (0, 1)]
    for k, policy in enumerate([*policies, ConstantPolicy(0, K)]):
        true = rollout(policy, CONFIG, 50_000, seed=10**6)
        reward, cost = true.reward.sum(axis=1).mean(), true.spend
        assert found.value[k, 0] == pytest.approx(reward, rel=0.06)
        assert found.value[k, 1] == pytest.approx(cost, rel=0.08, abs=1e-9)
    assert found.idle == 2
    assert found.value[2, 1] == 0


def test_recorded_choices_are_judged_like_the_policy_that_made_them(
    judge: Judge, log: LoggedDataset
) -> None:
    days = [both(torch.as_tensor(log.obs[:, day]), torch.empty(0), day) for day in range(4)]
    choice = torch.stack(days, dim=1).argmax(2)
    prices = torch.tensor([[0.0], [0.1], [torch.inf]])
    a, b = (judge.verdict(act, prices, 0.05).frontier for act in (both, recorded(choice, K)))
    assert np.array_equal(a.value, b.value)
    assert np.array_equal(a.error, b.error)


@dataclass(frozen=True)
class Config:
    pass


class Constants:
    """Head g gives incentive K - 1 - g to everyone."""

    def policy(self, head: int) -> Policy:
        return ConstantPolicy(K - 1 - head, K)

    def tensors(self) -> dict[str, Tensor]:
        return {}


def test_a_budget_is_met_by_two_policies(judge: Judge, log: LoggedDataset) -> None:
    def act(obs: Tensor, user: Tensor, day: int) -> Tensor:
        heads = [constant(K - 1 - g).expand(len(obs), -1) for g in range(K - 1)]
        return torch.stack(heads, dim=-1)

    verdict = judge.verdict(act, torch.tensor([[0.0], [0.2], [torch.inf]]), risk=0.5)
    model = FamilyModel("constants", Config(), Constants(), verdict, sizes_of(log))
    budget = float(verdict.frontier.value[1, 1] / 2)
    policy = model.policy(budget)
    assert isinstance(policy, MixedPolicy)
    assert len(policy.policies) == 2
    assert rollout(policy, CONFIG, 50_000, seed=10**6).spend == pytest.approx(budget, rel=0.08)
    assert model.forecast(budget).cost == pytest.approx(budget, rel=1e-6)
    nothing = rollout(model.policy(0.0), CONFIG, 100, seed=2)
    assert not nothing.action.any()


def test_parts_share_no_user_and_know_all_incentives(log: LoggedDataset) -> None:
    bare = replace(log, meta={}, action=np.where(log.action == K - 1, 0, log.action))
    rare = bare.action.copy()
    rare[17, 0] = K - 1
    learn, test = hold_out(replace(bare, action=rare), 0.3, seed=0)
    assert (learn.n_users, test.n_users) == (2_100, 900)
    assert learn.n_actions == test.n_actions == K
    assert not set(learn.bucket) & set(test.bucket)


def test_plans_follow_the_users_who_come(judge: Judge, log: LoggedDataset, tmp_path: Path) -> None:
    def act(obs: Tensor, user: Tensor, day: int) -> Tensor:
        return constant(K - 1).expand(len(obs), -1)[..., None]

    verdict = judge.verdict(act, torch.tensor([[0.0], [torch.inf]]), risk=0.05)
    model = FamilyModel("constants", Config(), Constants(), verdict, sizes_of(log))
    same = model.for_users(log.obs[:, 0]).frontier
    assert_allclose(same.value, model.frontier.value, rtol=0.03)
    assert_array_equal(same.error[:, 0], model.frontier.error[:, 0])
    assert 0 < same.error[0, 1] < 0.1 * same.value[0, 1]

    # The half of some users to whom most is given, by what is seen of them.
    users = sample_users(CONFIG, 6_000, 7)
    obs = observe(CONFIG, users, users.start, 0)
    spent = rollout(model.policies[0], CONFIG, 6_000, 7, users=users).cost.sum(axis=1)
    told = obs @ np.linalg.lstsq(obs, spent, rcond=None)[0]
    chosen = told >= np.median(told)
    planned, truth = model.for_users(obs[chosen]), spent[chosen].mean()
    plain, ours = model.frontier.value[0, 1], planned.frontier.value[0, 1]
    assert truth > 1.05 * plain
    assert abs(ours - truth) < 0.5 * abs(plain - truth)

    model.save(tmp_path / "model")
    loaded = load_family(tmp_path / "model", Config, lambda *_: Constants())
    assert_array_equal(loaded.for_users(obs[chosen]).frontier.value, planned.frontier.value)
    with pytest.raises(ValueError, match=r"obs has shape \(0, .*allowed is \(users, "):
        model.for_users(obs[:0])


def test_what_a_simulator_measured_holds_for_all(log: LoggedDataset, judge: Judge) -> None:
    def act(obs: Tensor, user: Tensor, day: int) -> Tensor:
        return constant(1).expand(len(obs), -1)[..., None]

    frontier = judge.verdict(act, torch.tensor([[0.0], [torch.inf]]), risk=0.05).frontier
    model = FamilyModel("constants", Config(), Constants(), Verdict(frontier), sizes_of(log))
    assert model.for_users(log.obs[:5, 0]) is model
