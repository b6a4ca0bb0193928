"""Cross-fitted allocation: budgets are kept exactly where prices are set, and nothing leaks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("lightgbm")

from agents import cost_curve, greedy_uplift
from experiments.crossfit import CrossFit, PriceRule, arm_means, cross_fit
from marketing_env import LoggedDataset

SMALL = greedy_uplift.Config(learner="t", folds=1, trees=10, leaves=4, min_leaf=50, progress=False)
BUDGETS = (0.3, 1.0, 2.0)


def e_mail_test(n: int = 3000, effect: float = 0.4, seed: int = 0) -> LoggedDataset:
    """Arm 1 works where feature 0 is set, arm 2 for everyone, a little."""
    rng = np.random.default_rng(seed)
    x, arm = rng.integers(0, 2, (n, 3)).astype(np.float32), rng.integers(0, 3, n)
    chance = 0.2 + effect * (arm == 1) * x[:, 0] + 0.1 * (arm == 2)
    return LoggedDataset(
        obs=np.repeat(x[:, None], 2, axis=1), action=arm[:, None],
        propensity=np.full((n, 1), 1 / 3), reward=(rng.random(n) < chance).astype(float)[:, None],
        cost=arm[:, None].astype(float), valid=np.ones((n, 1), bool), bucket=rng.random(n),
        meta={"incentives": (0.0, 1.0, 2.0)},
    )  # fmt: skip


def fitted(log: LoggedDataset) -> CrossFit:
    return cross_fit(log, [SMALL], BUDGETS, folds=3, seed=0, on_fold=lambda: None)


@given(st.integers(1, 40), st.integers(0, 10_000), st.floats(0, 1.2))
@settings(max_examples=80, deadline=None)
def test_price_rule_is_the_relaxed_optimum(n: int, seed: int, budget: float) -> None:
    """Predictions on a coarse grid tie often; costs rise with the arm."""
    rng = np.random.default_rng(seed)
    reward = rng.integers(0, 4, (n, 3)) / 4.0
    cost = np.tile([0.0, 1.0, 2.0], (n, 1))
    probs = PriceRule.at(np.stack([reward, cost], axis=-1), budget).probs(
        np.stack([reward, cost], axis=-1)
    )
    curve = cost_curve(reward, cost)
    assert (probs * reward).sum() == pytest.approx(float(curve.value_at(budget * n)))
    # Nothing is spent where more money buys nothing.
    spent = min(budget * n, curve.budget[-1])
    assert (probs * cost).sum() == pytest.approx(spent)


def test_finds_the_users_who_respond() -> None:
    log = e_mail_test()
    probs = fitted(log).policies["allocator", 0.3]
    responsive = log.obs[:, 0, 0] == 1
    assert probs[responsive, 1].mean() == pytest.approx(0.6, abs=0.05)
    assert probs[~responsive, 0].mean() > 0.99


def test_rivals_spend_what_the_allocator_spends() -> None:
    policies = fitted(e_mail_test()).policies
    unit_cost = np.array([0.0, 1.0, 2.0])
    for budget in BUDGETS:
        mine, dearest, mix = (
            float((policies[name, budget] @ unit_cost).mean())
            for name in ("allocator", "random dearest", "random mix")
        )
        assert mine == pytest.approx(dearest)
        assert mix < mine + 1e-9
        assert mine < budget + 0.05
    assert {name for name, budget in policies if budget is None} == {
        "arm 0", "arm 1", "arm 2", "random arm",
    }  # fmt: skip


def test_nobody_is_allocated_by_his_own_outcome() -> None:
    log = e_mail_test(600)
    reward = log.reward.copy()
    reward[0] = 50.0
    other = LoggedDataset(
        log.obs, log.action, log.propensity, reward, log.cost, log.valid, log.bucket, log.meta
    )
    before, after = fitted(log), fitted(other)
    for key, probs in before.policies.items():
        assert np.array_equal(probs[0], after.policies[key][0]), key
    assert np.array_equal(before.model[0], after.model[0])
    assert not np.array_equal(before.model, after.model)


def test_arm_means() -> None:
    log = e_mail_test(300)
    means: Any = arm_means(log)
    for arm in range(3):
        given_arm = log.action[:, 0] == arm
        assert means[arm, 0] == pytest.approx(log.reward[given_arm].mean())
        assert means[arm, 1] == arm


def test_refuses_campaigns_of_several_days() -> None:
    log = e_mail_test(50)
    two: dict[str, Any] = {
        name: np.repeat(getattr(log, name), 2, axis=1)
        for name in ("action", "propensity", "reward", "cost", "valid")
    }
    days = LoggedDataset(obs=log.obs[:, [0, 0, 1]], bucket=log.bucket, **two)
    with pytest.raises(ValueError, match="horizon = 2"):
        fitted(days)
    with pytest.raises(ValueError, match="folds = 2"):
        cross_fit(log, [SMALL], BUDGETS, folds=2, seed=0, on_fold=lambda: None)
