"""Simulated values are those of the campaigns, paired between policies, and within the budget."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from marketing_env import (
    ConstantPolicy,
    DayView,
    Evaluation,
    Optimum,
    Policy,
    ProductionPolicy,
    RandomPolicy,
    Users,
    bound,
    dynamics,
    evaluate,
    optimum,
    plan,
    preset,
    rollout,
    sample_users,
    score,
)
from marketing_env.config import Array
from marketing_env.evaluate import standard_error
from marketing_env.policy import one_hot

CONFIG = preset("payment_bonus", horizon=6)
K = CONFIG.n_actions


def test_values_are_the_means_of_the_campaigns() -> None:
    policy = ProductionPolicy(CONFIG)
    result = evaluate(policy, CONFIG, n_users=40, seeds=[3, 8])
    logs = [rollout(policy, CONFIG, 40, seed) for seed in (3, 8)]
    assert result.seeds == (3, 8)
    assert_allclose(result.reward, [log.reward.sum(axis=1).mean() for log in logs])
    assert_allclose(result.cost, [log.spend for log in logs])
    assert_array_equal(result.refused, [0.0, 0.0])


def test_populations_of_several_audiences_keep_their_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = ProductionPolicy(CONFIG)
    whole = evaluate(policy, CONFIG, n_users=20, seeds=5, repeats=2)
    monkeypatch.setattr(import_module("marketing_env.evaluate"), "_AUDIENCE", 70)
    parts = evaluate(policy, CONFIG, n_users=20, seeds=5, repeats=2)
    assert_allclose(parts.reward, whole.reward)
    assert_allclose(parts.contacts, whole.contacts)


def test_a_number_of_seeds_means_the_first_ones() -> None:
    policy = RandomPolicy(K)
    by_number, by_name = (evaluate(policy, CONFIG, n_users=10, seeds=s) for s in (3, (0, 1, 2)))
    assert_array_equal(by_number.reward, by_name.reward)
    assert by_number.seeds == by_name.seeds


def test_policies_meet_the_same_users_and_luck() -> None:
    same = [evaluate(ConstantPolicy(0, K), CONFIG, n_users=30, seeds=4) for _ in range(2)]
    assert_array_equal(same[0].reward, same[1].reward)
    other = evaluate(ConstantPolicy(2, K), CONFIG, n_users=30, seeds=range(40))
    none = evaluate(ConstantPolicy(0, K), CONFIG, n_users=30, seeds=range(40))
    paired = np.std(other.reward - none.reward)
    assert paired < 0.6 * np.std(other.reward - np.roll(none.reward, 1))


@pytest.mark.parametrize("name", ["payment_bonus", "food_coupons"])
@pytest.mark.parametrize("budget", [0.0, 0.3, 2.0])
def test_hard_budget_holds(name: str, budget: float) -> None:
    config = preset(name, horizon=6)
    most = ConstantPolicy(config.n_actions - 1, config.n_actions)
    result = evaluate(most, config, n_users=60, seeds=5, budget=budget)
    assert (result.cost <= budget * (1 + 1e-12)).all()
    assert ((result.refused > 0) & (result.refused <= 1)).all()
    free = evaluate(most, config, n_users=60, seeds=5)
    assert (free.cost > result.cost).all()


def test_refused_is_the_share_of_wanted_offers() -> None:
    result = evaluate(ConstantPolicy(5, K), CONFIG, n_users=20, seeds=2, budget=1.0)
    log = rollout(ConstantPolicy(5, K), CONFIG, 20, seed=1, budget=1.0)
    assert result.refused[1] == pytest.approx(log.meta["refused"] / (20 * CONFIG.horizon))
    nothing = evaluate(ConstantPolicy(0, K), CONFIG, n_users=20, seeds=2, budget=0.0)
    assert_array_equal(nothing.refused, [0.0, 0.0])


class Oracle:
    """The optimal plan at a price, made anew for each population."""

    def __init__(self, price: float) -> None:
        self.price = price

    def for_users(self, users: Users) -> Policy:
        found = plan(CONFIG, users, self.price, keep_actions=True).action
        assert found is not None
        tables = found[0]

        class Follow:
            def probs(self, view: DayView) -> Array:
                state = dynamics.levels(CONFIG, view.obs)
                cell = np.ravel_multi_index(state, CONFIG.shape)
                return one_hot(tables[view.day, np.arange(len(cell)), cell], K)

        return Follow()


def test_reference_is_made_for_each_population_and_earns_its_plan() -> None:
    result = evaluate(Oracle(0.1), CONFIG, n_users=80, seeds=25)
    plans = [plan(CONFIG, sample_users(CONFIG, 80, seed), 0.1) for seed in range(25)]
    for simulated, exact in [
        (result.reward, [p.reward.mean() for p in plans]),
        (result.cost, [p.cost.mean() for p in plans]),
    ]:
        gap = simulated - np.array(exact)
        assert abs(gap.mean()) <= 4 * standard_error(gap)


def test_reference_is_made_once_for_the_campaigns_of_a_population() -> None:
    made = []

    class Counting(Oracle):
        def for_users(self, users: Users) -> Policy:
            made.append(users.features[0, 0])
            return super().for_users(users)

    evaluate(Counting(0.1), CONFIG, n_users=5, seeds=[4, 7], repeats=3)
    assert made == [sample_users(CONFIG, 5, seed).features[0, 0] for seed in (4, 7)]


def test_errors_are_those_of_the_mean() -> None:
    samples = np.array([1.0, 2.0, 4.0, 5.0])
    assert standard_error(samples) == pytest.approx(math.sqrt(10 / 3 / 4))
    assert math.isnan(standard_error(samples[:1]))
    result = evaluate(RandomPolicy(K), CONFIG, n_users=10, seeds=4)
    fixed = replace(result, reward=samples, cost=2 * samples)
    assert fixed.reward_error == pytest.approx(standard_error(samples))
    assert fixed.cost_error == pytest.approx(2 * standard_error(samples))


@pytest.mark.parametrize(("n_users", "seeds"), [(0, 3), (5, 0), (5, ())])
def test_nothing_to_evaluate_is_refused(n_users: int, seeds: int | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="allowed is 1 or more"):
        evaluate(RandomPolicy(K), CONFIG, n_users=n_users, seeds=seeds)


def test_repeats_are_other_campaigns_of_the_same_users() -> None:
    policy, users = RandomPolicy(K), sample_users(CONFIG, 30, 5)
    result = evaluate(policy, CONFIG, n_users=30, seeds=[5], repeats=3)
    logs = [rollout(policy, CONFIG, users=users, seed=5 + i * 2**32) for i in range(3)]
    assert len({log.reward.sum() for log in logs}) == 3
    assert_allclose(result.reward, [np.mean([log.reward.sum(axis=1).mean() for log in logs])])
    assert_allclose(result.cost, [np.mean([log.spend for log in logs])])


def test_optimum_is_a_close_bound_for_the_users_of_each_seed() -> None:
    budgets, seeds = [0.05, 0.3, 2.0], (4, 9)
    best = optimum(CONFIG, budgets, n_users=50, seeds=seeds)
    users = [sample_users(CONFIG, 50, seed) for seed in seeds]
    exact = np.array([[bound(CONFIG, each, b) for b in budgets] for each in users])
    idle = [plan(CONFIG, each, np.inf).reward.mean() for each in users]
    assert_allclose(best.idle, idle)
    assert (best.best >= exact - 1e-9).all()
    assert_allclose(best.gain, exact - np.array(idle)[:, None], rtol=0.03)


def made(reward: list[float], cost: list[float]) -> Evaluation:
    n = len(reward)
    return Evaluation(np.array(reward), np.array(cost), np.zeros(n), np.zeros(n), tuple(range(n)))


def test_score_is_the_share_of_the_possible_gain() -> None:
    best = Optimum(np.array([1.0]), np.array([[5.0], [7.0]]), np.array([1.0, 1.0]))
    idle = made([1.0, 1.2], [0.0, 0.0])
    assert score(made([3.0, 4.2], [1.0, 1.0]), idle, best, 0)[0] == pytest.approx(50)
    # Twice the budget: only half of it could be followed.
    assert score(made([3.0, 4.2], [1.5, 2.5]), idle, best, 0)[0] == pytest.approx(25)
    assert score(idle, idle, best, 0) == (0.0, 0.0)
    ratio, error = score(made([5.0, 5.2], [0.5, 0.5]), idle, best, 0)
    assert ratio == pytest.approx(80)
    assert error == pytest.approx(100 * standard_error(np.array([0.8, -0.8])) / 5)
    with pytest.raises(ValueError, match="seeds"):
        score(made([1.0], [0.0]), idle, best, 0)
