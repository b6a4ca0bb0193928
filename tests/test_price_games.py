"""Games between a price and policies: rates, counts, certificates on frontiers of exact values."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import approachability, exponentiated_gradient, price_bandit, price_bisection
from agents.common.games.frontier import Frontier
from agents.common.games.game import InfeasibleError, Measured, Mixed, Oracle, best_of, solve_master
from agents.common.games.price_games import DEAREST, Game, Model, solve
from agents.common.values.responses import Responses
from marketing_env.config import Array

SEEDS = st.integers(0, 2**32 - 1)
SHARES = st.floats(0.02, 0.98)  # of what unlimited money is spent
Made = tuple[Array, float]


def frontier(seed: int, share: float) -> Made:
    """Policies (reward, cost), the first of which gives nothing, and a budget.

    Rewards are concave in the cost, up to noise, in units of their own; giving nothing may cost.
    """
    rng = np.random.default_rng(seed)
    cost = np.append(0, np.sort(rng.uniform(0, 1, rng.integers(1, 40))))
    reward = cost ** rng.uniform(0.2, 0.9) + rng.normal(0, 0.02, len(cost)) * (cost > 0)
    z = np.stack([reward, cost], axis=1) * rng.choice([0.01, 1, 3000], 2)
    z += np.array([rng.normal(), rng.choice([0, 0.3])]) * np.ptp(z, axis=0)
    free = z[z[:, 0].argmax()]
    return z, float(z[0, 1] + share * (free[1] - z[0, 1]))


def counted(z: Array) -> tuple[Oracle, list[Array]]:
    """Best responses among the rows, and the directions that were asked for."""
    answer, asked = best_of([Measured(k, row) for k, row in enumerate(z)]), list[Array]()

    def oracle(direction: Array) -> Measured:
        asked.append(direction)
        return answer(direction)

    return oracle, asked


def played(made: Made, method: Any, seed: int = 0, **config: Any) -> Mixed:
    """A method's mixture, found to be what it says."""
    z, budget = made
    oracle, asked = counted(z)
    play = partial(method.play, config=method.Config(**config))
    found = solve(play, oracle, budget, Measured(0, z[0]), seed=seed)
    assert found.calls == len(asked)
    assert all(direction[0] >= 0 >= direction[1] for direction in asked)
    assert found.weight.sum() == pytest.approx(1)
    assert (found.weight >= 0).all()
    assert found.weight @ z[list(found.policies)] == pytest.approx(found.z)
    best = solve_master(z, budget).z[0]
    assert found.bound >= best - 1e-9 * np.ptp(z[:, 0])
    assert set(found.policies) <= set(range(len(z)))
    assert found.stored >= len(found.policies)
    return found


def off(made: Made, found: Mixed) -> tuple[float, float]:
    """Shortfall as a share of the possible gain, and overspend as one of the budget."""
    z, budget = made
    unit = np.array([z[:, 0].max() - z[0, 0], budget - z[0, 1]])
    if not (unit > 0).all():
        return 0.0, 0.0
    best = solve_master(z, budget).z[0]
    return (best - found.z[0]) / unit[0], (found.z[1] - budget) / unit[1]


def spread(made: Made) -> float:
    """The largest overspend of a best response, in budgets; at least 1."""
    z, budget = made
    free = z[z[:, 0].argmax()]
    return max((free[1] - budget) / max(budget - z[0, 1], 1e-300), 1.0)


def plays(made: Made) -> bool:
    return bool(made[0][:, 0].argmax() != 0)


@given(seed=SEEDS, share=SHARES)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_bisection_ends_at_the_best_vertex_within_the_budget(seed: int, share: float) -> None:
    made = frontier(seed, share)
    z, budget = made
    found = played(made, price_bisection, rounds=60, tolerance=0.0)
    exact = solve_master(z, budget)
    mixed = np.flatnonzero(exact.weight)
    cheapest = mixed[z[mixed, 1].argmin()]
    assert found.z == pytest.approx(z[cheapest], rel=1e-6, abs=1e-9)
    assert (len(found.policies), found.stored) == (1, 1)


@pytest.mark.parametrize("rounds", [1, 4, 9])
def test_bisection_halves_the_range_of_the_price(rounds: int) -> None:
    cost = np.linspace(0, 1, 10_001)
    made = np.stack([np.sqrt(cost), cost], axis=1), 0.3
    oracle, asked = counted(made[0])
    config = price_bisection.Config(rounds=rounds, tolerance=0.0)
    play = partial(price_bisection.play, config=config)
    solve(play, oracle, made[1], Measured(0, made[0][0]))
    # The reward of a budget's last unit is 1 / (2 sqrt(0.3)); at most 1 / 0.3 is thinkable.
    assert len(asked) == rounds + 1
    last = -asked[-1][1] / asked[-1][0]
    assert abs(last - 1 / (2 * math.sqrt(0.3))) <= 1 / 0.3 * 0.5**rounds


@given(seed=SEEDS, share=SHARES, rounds=st.sampled_from([5, 40, 200]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_exponentiated_gradient_keeps_its_regret_bound(
    seed: int, share: float, rounds: int
) -> None:
    made = frontier(seed, share)
    found = played(made, exponentiated_gradient, rounds=rounds, pace=1.0, tolerance=0.0)
    allowed = DEAREST * spread(made) * math.sqrt(math.log(2) / (2 * rounds))
    assert found.gaps[-1] <= allowed + 1e-9
    assert max(off(made, found)) <= found.gaps[-1] + 1e-9
    if plays(made):
        assert (found.stored, found.calls) == (len(found.gaps), 1 + 2 * len(found.gaps))


def test_exponentiated_gradient_ends_when_the_gap_is_small() -> None:
    made = frontier(3, 0.5)
    found = played(made, exponentiated_gradient, rounds=1000, tolerance=0.05)
    assert 1 < found.stored < 1000
    assert found.gaps[-1] <= 0.05 < min(found.gaps[:-1])
    assert max(off(made, found)) <= 0.05


@given(seed=SEEDS, share=SHARES, rounds=st.sampled_from([20, 400]))
@settings(max_examples=15, deadline=None, derandomize=True)
@pytest.mark.parametrize("solver", ["online_gradient", "conditional_gradient"])
def test_approaches_at_their_rates(solver: str, seed: int, share: float, rounds: int) -> None:
    """Distance G (1/2 + 1) / sqrt(T) of gradient steps (Zinkevich, 2003), G sqrt(8 / (T + 2)) of
    Frank and Wolfe's (Jaggi, 2013), and half of the last step of the floor besides."""
    made, tolerance = frontier(seed, share), 0.02
    found = played(
        made, approachability, solver=solver, rounds=rounds, pace=1.0, tolerance=tolerance
    )
    largest = math.hypot(1, spread(made) + 1)
    away = {
        "online_gradient": 1.5 * largest / math.sqrt(rounds),
        "conditional_gradient": largest * math.sqrt(8 / (rounds + 2)),
    }[solver]
    short, over = off(made, found)
    assert short <= away + 2 * tolerance
    assert over <= max(away, tolerance) + 1e-9
    assert found.stored <= 2 * (rounds + 1)


@given(seed=SEEDS, share=SHARES)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_nearest_point_needs_few_policies(seed: int, share: float) -> None:
    made = frontier(seed, share)
    found = played(made, approachability, solver="minimum_norm_point", tolerance=0.01)
    short, over = off(made, found)
    assert short <= 0.01 + 1e-9
    assert over <= 1e-9
    assert len(found.policies) <= 3
    assert found.stored <= 6  # those of the floor that was reached, and of the next


@given(seed=SEEDS, share=SHARES)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_the_bandit_keeps_its_regret_bound(seed: int, share: float) -> None:
    """Auer et al. bound the mean over draws by 2 sqrt((e - 1) T K ln K); twice that is granted."""
    made, rounds, k = frontier(seed, share), 300, 4
    found = [played(made, price_bandit, s, rounds=rounds, arms=k, pace=1.0) for s in range(3)]
    span = DEAREST * (spread(made) + 1)
    allowed = 2 * 2 * math.sqrt((math.e - 1) * k * math.log(k) / rounds) * span
    assert np.mean([f.gaps[-1] for f in found]) <= allowed
    for f in found:
        assert max(off(made, f)) <= f.gaps[-1] + 1e-9
        assert f.stored == len(f.gaps)


def test_the_bandit_gets_nearer_and_follows_its_seed() -> None:
    made = frontier(3, 0.5)
    few, many = (
        np.mean([played(made, price_bandit, s, rounds=n, pace=1.0).gaps[-1] for s in range(5)])
        for n in (20, 2_000)
    )
    assert many < 0.4 * few
    first, again, other = (played(made, price_bandit, s, rounds=50) for s in (1, 1, 2))
    assert first.gaps == again.gaps != other.gaps


METHODS = [approachability, exponentiated_gradient, price_bandit, price_bisection]


@pytest.mark.parametrize("method", METHODS)
def test_units_do_not_matter(method: Any) -> None:
    z, budget = frontier(5, 0.3)
    scale, shift = np.array([1000.0, 0.01]), np.array([-7.0, 0.0])
    plain = played((z, budget), method)
    moved = played((z * scale + shift, budget * 0.01), method)
    assert moved.z == pytest.approx(plain.z * scale + shift)
    assert moved.calls == plain.calls


@pytest.mark.parametrize("method", METHODS)
def test_where_money_is_not_short_there_is_no_game(method: Any) -> None:
    z = np.array([[1.0, 0.5], [2.0, 1.0], [3.0, 2.0]])
    for budget, row in ((2.0, 2), (math.inf, 2), (0.5, 0)):
        found = played((z, budget), method)
        assert found.policies == (row,)
        assert (found.calls, found.stored) == (1, 1)
    useless = np.array([[1.0, 0.0], [0.5, 1.0]])
    assert played((useless, 0.4), method).policies == (0,)
    with pytest.raises(InfeasibleError, match=r"budget = \[0.4\]"):
        played((z, 0.4), method)


def test_the_gap_bounds_shortfall_and_overspend() -> None:
    """Of any mixture, once any price was asked for."""
    rng = np.random.default_rng(0)
    for seed in range(50):
        z, budget = made = frontier(seed, rng.uniform(0.1, 0.9))
        oracle, _ = counted(z)
        free = oracle(np.array([1.0, 0.0]))
        if not plays(made):
            continue
        game = Game(oracle, budget, Measured(0, z[0]), free)
        for price in rng.uniform(0, 1, 3):
            game.respond(float(price))
        weight = rng.dirichlet(np.ones(len(z)))
        answers = [game.shared(Measured(k, row)) for k, row in enumerate(z)]
        gap = game.note(weight @ np.array([a.z for a in answers]), stored=1)
        assert max(off(made, game.mixed(answers, weight))) <= gap + 1e-9


def test_curves_are_in_the_campaign_s_units() -> None:
    z, budget = made = frontier(5, 0.3)
    curves: dict[str, list[float]] = {}

    def track(name: str, value: float, step: int) -> None:
        curves.setdefault(name, []).append(value)
        assert step == len(curves[name]) - 1

    config = exponentiated_gradient.Config(rounds=7, tolerance=0.0)
    play: Callable[[Game], Mixed] = partial(exponentiated_gradient.play, config=config)
    found = solve(play, counted(z)[0], budget, Measured(0, z[0]), track=track)
    assert set(curves) == {f"game/{name}" for name in ("price", "reward", "cost", "gap")}
    assert (curves["game/reward"][-1], curves["game/cost"][-1]) == pytest.approx(tuple(found.z))
    assert tuple(curves["game/gap"]) == found.gaps
    # At its end, the price of a budget of 1 unit is what a unit of money earns.
    exact = solve_master(made[0], budget)
    assert 0 < curves["game/price"][-1] <= DEAREST * np.ptp(z[:, 0]) / (budget - z[0, 1])
    assert found.bound == pytest.approx(exact.z[0], rel=0.5)


def model(method: Any, **config: Any) -> Model:
    """A model whose best responses are r = 10 + 2 sqrt(c), with errors; nothing is learned."""
    cost = np.array([9.0, 4.0, 1.0, 0.25, 0.0])
    price = np.array([1 / 3, 0.5, 1.0, 2.0, math.inf])[:, None]
    value = np.stack([10 + 2 * np.sqrt(cost), cost], axis=1)
    known = Frontier(price, value, 0.1 * np.ones((5, 2)), np.array([11.0, 2.0]), np.full(2, 0.1))
    responses = Responses(known, (), n_actions=2, horizon=1, n_obs=1)
    return Model(method.METHOD, method.Config(**config), 0, responses, method.play)


@pytest.mark.parametrize("method", METHODS)
@given(budget=st.floats(0, 12), rounds=st.sampled_from([1, 3, 30]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_models_keep_the_budget_with_the_margin_of_the_frontier(
    method: Any, budget: float, rounds: int
) -> None:
    made = model(method, rounds=rounds)
    known, (weight, calls) = made.responses.frontier, made.mix(budget)
    assert weight.sum() == pytest.approx(1)
    assert (weight >= 0).all()
    assert weight @ known.cautious[:, 1] <= budget + 1e-9
    best = known.mix([budget])
    assert weight @ known.value[:, 0] <= best.z[0] + 1e-9
    told = made.forecast(budget)
    assert told.reward == pytest.approx(weight @ known.value[:, 0])
    assert len(told.weights) == (weight > 0).sum()
    assert told.oracle_calls == calls >= 1
    assert made.policy(budget).weights == pytest.approx(weight[weight > 0])


def test_few_rounds_that_overspend_leave_users_without_incentives() -> None:
    hasty = model(approachability, rounds=1)
    weight, _ = hasty.mix(1.0)
    cautious = hasty.responses.frontier.cautious
    assert weight @ cautious[:, 1] == pytest.approx(1.0)
    assert weight[-1] > 0
