"""Cross-fitted allocation: it finds who responds, keeps the budget, and nothing leaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightgbm")

from experiments.trials.crossfit import CrossFit, cross_fit, outcomes, parts, ranking
from experiments.trials.one_shot_methods import Entry
from marketing_env import LoggedDataset

SMALL = {"learner": "t", "trees": 10, "leaves": 4, "min_leaf": 50}
ENTRY = Entry("greedy_uplift-t", "greedy_uplift", SMALL)
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
    return cross_fit(log, ENTRY, "hillstrom", BUDGETS, folds=3, seed=0)


def test_finds_the_users_who_respond_within_the_budget() -> None:
    log = e_mail_test()
    found = fitted(log)
    responsive = log.obs[:, 0, 0] == 1
    probs = found.policies[0]
    assert probs[responsive, 1].mean() == pytest.approx(0.6, abs=0.05)
    assert probs[~responsive, 0].mean() > 0.99
    for probs, budget in zip(found.policies, BUDGETS, strict=True):
        assert probs.sum(axis=1) == pytest.approx(1)
        assert (probs @ [0.0, 1.0, 2.0]).mean() <= budget + 1e-9
    assert found.scores[responsive, 0].min() > found.scores[~responsive, 0].max()


def test_nobody_is_allocated_by_his_own_outcome() -> None:
    """Changing one user's outcome may move his part's rivals for money, but not his predictions."""
    log = e_mail_test(600)
    reward = log.reward.copy()
    reward[0] = 50.0
    other = replace(log, reward=reward)
    mine = parts(log, 3, 0) == parts(log, 3, 0)[0]
    before, after = fitted(log), fitted(other)
    for one, two in zip(before.policies, after.policies, strict=True):
        assert np.array_equal(one[mine], two[mine])
    assert np.array_equal(before.scores[mine], after.scores[mine])
    assert not np.array_equal(before.scores[~mine], after.scores[~mine])
    told = [outcomes(some, "hillstrom", 3, 0) for some in (log, other)]
    assert np.array_equal(told[0][mine], told[1][mine])
    assert not np.array_equal(told[0][~mine], told[1][~mine])


def test_outcomes_tell_what_each_arm_brings() -> None:
    log = e_mail_test()
    found = outcomes(log, "hillstrom", 3, 0)
    responsive = log.obs[:, 0, 0] == 1
    assert found[responsive].mean(axis=0)[:, 0] == pytest.approx([0.2, 0.6, 0.3], abs=0.05)
    assert found[..., 1] == pytest.approx(np.tile([0.0, 1.0, 2.0], (3000, 1)))


def test_ranking_of_known_orders() -> None:
    """Costs are 1 a step; all of arm 1's gain is with half of the users, and none beyond it."""
    rng = np.random.default_rng(0)
    n = 20_000
    kind, arm = rng.integers(0, 2, n), rng.choice(3, n, p=[0.5, 0.3, 0.2])
    reward = ((arm > 0) * kind).astype(float)
    log = LoggedDataset(
        obs=np.zeros((n, 2, 1), np.float32), action=arm[:, None], propensity=np.full((n, 1), 0.3),
        reward=reward[:, None], cost=arm[:, None].astype(float), valid=np.ones((n, 1), bool),
        bucket=rng.random(n),
    )  # fmt: skip
    gains = np.stack([kind, np.zeros(n)], axis=1)
    best, fair = ranking(gains, log), ranking(rng.random((n, 2)), log)
    assert set(best) == {"mt_aucc", "qini_1", "qini_2"}
    # A quarter of the money buys everything: a triangle of 1/8, and 3/4.
    assert best["mt_aucc"] == pytest.approx(0.875, abs=0.01)
    assert fair["mt_aucc"] == pytest.approx(0.5, abs=0.03)
    # Chords have area 1/2. The order rises over half of the users; hindsight over those responders
    # alone who were treated, half of 3/8.
    assert best["qini_1"] == pytest.approx((1 / 2 - 1 / 4) / (1 / 2 - 3 / 32), abs=0.04)
    assert abs(fair["qini_1"]) < 0.1
    nothing = replace(log, reward=np.zeros((n, 1)))
    assert np.isnan(list(ranking(gains, nothing).values())).all()


def test_refuses_campaigns_of_several_days_and_single_parts() -> None:
    log = e_mail_test(50)
    two: dict[str, Any] = {
        name: np.repeat(getattr(log, name), 2, axis=1)
        for name in ("action", "propensity", "reward", "cost", "valid")
    }
    days = LoggedDataset(obs=log.obs[:, [0, 0, 1]], bucket=log.bucket, **two)
    with pytest.raises(ValueError, match="horizon = 2"):
        fitted(days)
    with pytest.raises(ValueError, match="folds = 1"):
        parts(log, 1, 0)
