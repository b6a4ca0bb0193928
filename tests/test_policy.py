"""Policies answer distributions, and a mixture sends each user to one component."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from marketing_env import (
    ConstantPolicy,
    DayView,
    MixedPolicy,
    Policy,
    ProductionPolicy,
    RandomPolicy,
    State,
    dynamics,
    preset,
    sample_users,
)
from marketing_env.config import Array
from marketing_env.policy import check_probs, one_hot

CONFIG = preset("payment_bonus")
K = CONFIG.n_actions
POLICIES: dict[str, Policy] = {
    "constant": ConstantPolicy(2, K),
    "random": RandomPolicy(K),
    "production": ProductionPolicy(CONFIG),
    "mixed": MixedPolicy([ConstantPolicy(1, K), ProductionPolicy(CONFIG)], [0.25, 0.75]),
}


def morning(n: int, day: int = 0, seed: int = 0) -> DayView:
    users = sample_users(CONFIG, n, seed)
    obs = dynamics.observe(CONFIG, users, users.start, day)
    return DayView(obs, users.bucket, day, float("inf"))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("n", [0, 1, 50])
def test_policies_answer_distributions(name: str, n: int) -> None:
    policy, view = POLICIES[name], morning(n)
    kept = view.obs.copy()
    assert check_probs(policy.probs(view), n, K).shape == (n, K)
    assert isinstance(policy, Policy)
    assert_array_equal(view.obs, kept)


@pytest.mark.parametrize("name", POLICIES)
def test_users_are_answered_alike_in_any_company(name: str) -> None:
    view = morning(40)
    some = DayView(view.obs[10:20], view.bucket[10:20], view.day, view.remaining_budget)
    whole = POLICIES[name].probs(view)
    assert_array_equal(POLICIES[name].probs(some), whole[10:20])


def test_constant_and_random_are_what_they_are_called() -> None:
    view = morning(3)
    assert_array_equal(ConstantPolicy(2, K).probs(view), one_hot(np.full(3, 2), K))
    assert_array_equal(RandomPolicy(4).probs(view), np.full((3, 4), 0.25))


def test_production_gives_engaged_and_recent_users_more() -> None:
    n = 200
    users = sample_users(CONFIG, n, seed=1)
    policy = ProductionPolicy(CONFIG, epsilon=0.3)

    def mean_level(engagement: int, recency: int) -> Array:
        state = State(np.full(n, engagement), np.full(n, recency), np.zeros(n, dtype=int))
        view = DayView(dynamics.observe(CONFIG, users, state, 0), users.bucket, 0, np.inf)
        probs = policy.probs(view)
        assert_allclose(np.sort(probs, axis=1)[:, :-1], 0.3 / K)
        assert_allclose(probs.max(axis=1), 0.7 + 0.3 / K)
        return probs @ np.arange(K)

    assert (mean_level(8, 0) >= mean_level(0, 0)).all()
    assert (mean_level(4, 0) >= mean_level(4, 5)).all()
    assert mean_level(8, 0).mean() > mean_level(0, 5).mean() + 1


@given(weights=st.lists(st.integers(0, 9), min_size=2, max_size=5).filter(any))
def test_mixture_splits_users_by_bucket(weights: list[int]) -> None:
    share = np.array(weights) / sum(weights)
    mixed = MixedPolicy([ConstantPolicy(k, K) for k in range(len(share))], share)
    bucket = (np.arange(1_000) + 0.5) / 1_000
    part = mixed.component(bucket)
    assert (np.diff(part) >= 0).all()
    counts = np.bincount(part, minlength=len(share))
    assert (np.abs(counts / 1_000 - share) <= 0.001 + 1e-12).all()
    assert not counts[share == 0].any()
    view = DayView(np.zeros((1_000, 2), np.float32), bucket, 0, np.inf)
    assert_array_equal(mixed.probs(view), one_hot(part, K))


def test_mixture_keeps_its_users_all_campaign_long() -> None:
    mixed = MixedPolicy([ConstantPolicy(0, K), ConstantPolicy(5, K)], [0.5, 0.5])
    answers = [mixed.probs(morning(30, day)) for day in range(5)]
    for answer in answers:
        assert_array_equal(answer, answers[0])


def test_edge_of_a_component_belongs_to_the_next() -> None:
    mixed = MixedPolicy([ConstantPolicy(0, K), ConstantPolicy(1, K)], [0.5, 0.5])
    below = np.nextafter(0.5, 0)
    assert_array_equal(mixed.component(np.array([0.0, below, 0.5, 1 - 2**-53])), [0, 0, 1, 1])


@pytest.mark.parametrize(
    "weights", [[1.0], [0.5, 0.6], [-0.5, 1.5], [0.5, 0.25, 0.25], [np.nan, 1.0]]
)
def test_bad_weights_are_named(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        MixedPolicy([RandomPolicy(K), RandomPolicy(K)], weights)


def test_empty_mixture_is_refused() -> None:
    with pytest.raises(ValueError, match="weights"):
        MixedPolicy([], [])


@pytest.mark.parametrize("action", [-1, K])
def test_bad_constant_is_named(action: int) -> None:
    with pytest.raises(ValueError, match=f"action = {action}"):
        ConstantPolicy(action, K)


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, np.nan])
def test_bad_epsilon_is_named(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        ProductionPolicy(CONFIG, epsilon)


def test_no_random_policy_without_actions() -> None:
    with pytest.raises(ValueError, match="n_actions = 0"):
        RandomPolicy(0)


@pytest.mark.parametrize(
    ("row", "message"),
    [([0.5, 0.6], "row 1"), ([-0.5, 1.5], "row 1"), ([np.nan, 1.0], "row 1"), ([1.0], "shape")],
)
def test_bad_probabilities_are_named(row: list[float], message: str) -> None:
    good = [0.5, 0.5][: len(row)]
    with pytest.raises(ValueError, match=message):
        check_probs(np.array([good, row]), 2, 2)


def test_good_probabilities_pass() -> None:
    probs = np.array([[1.0, 0.0], [0.3, 0.7]], dtype=np.float32)
    assert_array_equal(check_probs(probs, 2, 2), probs)
