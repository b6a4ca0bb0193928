"""Mixtures are judged by their parts, each of which is simulated once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from experiments import judging
from experiments.judging import Judge, example
from experiments.settings import Setting
from marketing_env import ConstantPolicy, MixedPolicy, RandomPolicy, evaluate, sample_users
from marketing_env.dynamics import observe

SETTING = Setting("toy", "toy", test_users=400, test_seeds=(1_000, 1_001), repeats=1)


@pytest.fixture
def judge() -> Judge:
    return Judge(SETTING, progress=False)


def test_a_mixture_is_worth_the_mean_of_its_parts(judge: Judge) -> None:
    k = judge.config.n_actions
    parts = [ConstantPolicy(1, k), RandomPolicy(k)]
    mixture = MixedPolicy(parts, [0.25, 0.75])
    some, others = (judge.evaluate(part) for part in parts)
    found = judge.evaluate(mixture)
    for name in ("reward", "cost", "contacts"):
        mean = 0.25 * getattr(some, name) + 0.75 * getattr(others, name)
        assert_allclose(getattr(found, name), mean)
    # ... which is what a campaign brings, but for who follows which part.
    truth = evaluate(mixture, judge.config, n_users=20_000, seeds=(1_000, 1_001))
    assert_allclose(found.cost.mean(), truth.cost.mean(), rtol=0.1)
    assert_allclose(found.reward.mean(), truth.reward.mean(), rtol=0.1)


def test_parts_are_simulated_once(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    served = []
    monkeypatch.setattr(
        judging, "evaluate", lambda p, *a, **k: served.append(p) or evaluate(p, *a, **k)
    )
    k = judge.config.n_actions
    parts = [ConstantPolicy(a, k) for a in range(k)]
    judge.evaluate(MixedPolicy(parts[:2], [0.5, 0.5]))
    judge.evaluate(MixedPolicy(parts[1:], [0.1, 0.9]))
    assert served == parts


def test_under_a_hard_limit_parts_share_the_money(judge: Judge) -> None:
    k = judge.config.n_actions
    mixture = MixedPolicy([ConstantPolicy(0, k), ConstantPolicy(k - 1, k)], [0.5, 0.5])
    asked: dict[str, Any] = {"n_users": SETTING.test_users, "seeds": SETTING.test_seeds}
    held = judge.evaluate(mixture, 0.1)
    whole = evaluate(mixture, judge.config, budget=0.1, repeats=1, **asked)
    assert_allclose(held.cost, whole.cost)
    assert (held.cost <= 0.1 + 1e-9).all()


def test_the_example_is_the_mean_campaign_of_the_parts(judge: Judge) -> None:
    k = judge.config.n_actions
    parts = [ConstantPolicy(0, k), ConstantPolicy(k - 1, k)]
    idle, given = (example(judge, part) for part in parts)
    mixed = example(judge, MixedPolicy(parts, [0.75, 0.25]))
    for name in ("cost_by_day", "reward_by_day"):
        assert_allclose(mixed[name], 0.75 * np.array(idle[name]) + 0.25 * np.array(given[name]))
    top = judge.config.doses[-1]
    for name, means in mixed["incentive_by_state"].items():
        own = set(given["incentive_by_state"][name]) - set(idle["incentive_by_state"][name])
        both = set(given["incentive_by_state"][name]) & set(idle["incentive_by_state"][name])
        assert all(means[level] == pytest.approx(top) for level in own)
        assert both
        assert all(0 < means[level] < top for level in both)


def test_plans_are_made_for_the_judged_users(judge: Judge) -> None:
    class Asked:
        def for_users(self, obs: Any) -> Any:
            return obs

    users = [sample_users(judge.config, SETTING.test_users, seed) for seed in SETTING.test_seeds]
    first = [observe(judge.config, u, u.start, 0) for u in users]
    model: Any = Asked()
    np.testing.assert_array_equal(judge.planned(model), np.concatenate(first))
    greedy: Any = object()
    assert judge.planned(greedy) is greedy
