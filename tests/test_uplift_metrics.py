"""AUCC, MT-AUCC and Qini: against hand calculation, plain loops, and rankings of known worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from agents.common.one_day.uplift_metrics import aucc, bootstrap, mt_aucc, qini, qini_curve

TREATED = np.array([1, 0, 1, 0, 1, 0])
SCORE = np.array([6.0, 5, 4, 3, 2, 1])
REWARD = np.array([2.0, 1, 1, 0, 2, 1])  # cumulative effect 2 1 2 2 4 3, in thirds


def trial(n: int, seed: int, share: float = 0.5) -> tuple[Any, ...]:
    """Two kinds of users: treating either costs 1 more, but only the first kind pays back."""
    rng = np.random.default_rng(seed)
    kind, treated = rng.integers(0, 2, n), rng.random(n) < share
    reward = rng.normal(1, 0.1, n) + treated * kind
    return kind, treated, reward, rng.normal(1, 0.1, n) + treated


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        # Thirds of a step of 1: reached at rows 1, 3 and 5, and then the end: (2 + 2 + 4 + 3) / 15.
        ([1.2, 0, 1.2, 0, 1.6, 0], 11 / 15),
        # Row 1 passes all three steps, but a row is one point: rows 1, 2, 3 and the end.
        ([3.4, 0, 0.3, 0, 0.3, 0], 8 / 15),
        # Control costs pull the curve back: 3.4 0.4 2.1 2.1 4.4 4 reaches step 2 at row 3.
        ([3.4, 3.0, 1.7, 0, 2.3, 0.4], 11 / 15),
        # A step is missed if the end comes first: 0 0 0 0 3 3 has one point before the end.
        ([0, 0, 0, 0, 3, 0], 7 / 15),
    ],
)
def test_six_rows_by_hand(cost: list[float], expected: float) -> None:
    found = aucc(SCORE, TREATED, REWARD, np.array(cost), q=4)
    assert found == pytest.approx(expected)
    order = np.array([3, 0, 5, 2, 1, 4])
    shuffled = (values[order] for values in (SCORE, TREATED, REWARD, np.array(cost)))
    assert aucc(*shuffled, q=4) == pytest.approx(expected)


def aucc_loop(score: Any, treated: Any, reward: Any, cost: Any, q: int) -> float:
    """Row by row, as it was published."""
    order = np.argsort(-score)
    n_t, n_c = treated.sum(), (~treated).sum()
    points, spend, gain, j = [0.0], 0.0, 0.0, 1
    total_gain = reward[treated].mean() - reward[~treated].mean()
    total_spend = cost[treated].mean() - cost[~treated].mean()
    for k, i in enumerate(order):
        sign = 1 / n_t if treated[i] else -1 / n_c
        spend, gain = spend + sign * cost[i], gain + sign * reward[i]
        if k == len(order) - 1 or (j < q and spend >= j * total_spend / q):
            points.append(gain)
            j += 1
    return float(sum(points) / (total_gain * (q + 1)))


@given(st.integers(2, 60), st.integers(1, 30), st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_aucc_is_the_published_loop(n: int, q: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    treated = rng.permutation(np.arange(n) < rng.integers(1, n))
    score, reward, cost = rng.normal(size=(3, n))
    for y in (reward, cost):
        y[treated] += 1 + y[~treated].mean() - y[treated].mean()  # both effects are 1
    found = aucc(score, treated, reward, cost, q=q)
    assert found == pytest.approx(aucc_loop(score, treated, reward, cost, q), rel=1e-6, abs=1e-9)


def test_random_ranking_gives_one_half() -> None:
    _, treated, reward, cost = trial(2000, seed=0, share=0.7)
    rng = np.random.default_rng(1)
    found = np.array([aucc(rng.random(2000), treated, reward, cost) for _ in range(200)])
    assert abs(found.mean() - 0.5) < 4 * found.std() / np.sqrt(len(found))
    assert found.std() < 0.1


def test_perfect_ranking_has_its_known_area() -> None:
    """All of the gain within half of the spend: a triangle and a square, 1/4 + 1/2."""
    kind, treated, reward, cost = trial(20_000, seed=0)
    noise = np.random.default_rng(1).normal(size=20_000)
    perfect, fair, reverse = (aucc(s, treated, reward, cost) for s in (kind, kind + noise, -kind))
    assert perfect == pytest.approx(0.75, abs=0.01)
    assert reverse == pytest.approx(0.25, abs=0.01)
    assert reverse < 0.5 < fair < perfect


def test_value_may_exceed_one() -> None:
    """Treating the second half of the users destroys most of what the first half gained."""
    kind, treated, reward, cost = trial(4000, seed=0)
    assert aucc(kind, treated, reward - 0.8 * treated * (1 - kind), cost) > 1.5


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_only_the_order_of_scores_counts(seed: int) -> None:
    kind, treated, reward, cost = trial(300, seed)
    score = np.round(kind + np.random.default_rng(seed).normal(size=300), 1)  # with ties
    transforms = (np.exp(score), 3 * score - 7, np.unique(score, return_inverse=True)[1])
    for other in transforms:
        assert aucc(other, treated, reward, cost) == aucc(score, treated, reward, cost)
        assert qini(other, treated, reward) == qini(score, treated, reward)


def test_ties_do_not_know_the_outcome() -> None:
    _, treated, reward, cost = trial(2000, seed=0)
    rows = np.argsort(-reward * treated)
    same = (np.zeros(2000), treated[rows], reward[rows], cost[rows])
    found = [aucc(*same, seed=seed) for seed in range(50)]
    assert np.mean(found) == pytest.approx(0.5, abs=4 * np.std(found) / np.sqrt(50))
    assert found[3] == aucc(*same, seed=3)
    assert len(set(found)) == 50


def test_two_arms_give_weighted_aucc() -> None:
    kind, treated, reward, cost = trial(900, seed=0, share=0.85)
    score = kind + np.random.default_rng(1).normal(size=900)
    found = mt_aucc(score[:, None], treated, reward, cost)
    weight = np.where(treated, 1 / treated.mean(), 1 / (1 - treated.mean()))
    assert found == pytest.approx(aucc(score, treated, reward, cost, weight=weight))
    assert found == pytest.approx(aucc(score, treated, reward, cost))


def test_equal_arms_give_the_published_pool() -> None:
    """Outcomes times N / N_t, rows pooled over steps, and group sizes counted in rows."""
    rng = np.random.default_rng(0)
    arm, score = np.repeat(np.arange(3), 100), rng.normal(size=(300, 2))
    reward, cost = rng.normal(arm**0.5, 1), rng.normal(arm, 1)
    low, high = np.flatnonzero(arm < 2), np.flatnonzero(arm > 0)
    pooled = np.concatenate([score[low, arm[low]], score[high, arm[high] - 1]])
    treated = np.repeat([False, True], [len(low), len(high)])
    outcomes = (3 * np.concatenate([y[low], y[high]]) for y in (reward, cost))
    found = mt_aucc(score, arm, reward, cost)
    assert found == pytest.approx(aucc_loop(pooled, treated, *outcomes, q=200))


def test_mt_aucc_knows_good_steps_from_bad() -> None:
    """Each step costs 1; for half of the users the first pays, for the others the second."""
    rng = np.random.default_rng(0)
    n = 30_000
    kind, arm = rng.integers(0, 2, n), rng.choice(3, n, p=[0.6, 0.3, 0.1])
    gains = np.stack([1 - kind, kind], axis=1)
    reward = np.pad(gains.cumsum(axis=1), ((0, 0), (1, 0)))[np.arange(n), arm]
    assert mt_aucc(gains, arm, reward, arm.astype(float)) == pytest.approx(0.75, abs=0.01)
    assert mt_aucc(-gains, arm, reward, arm.astype(float)) == pytest.approx(0.25, abs=0.01)


def test_qini_curve_by_hand() -> None:
    # Y_T 2 2 3 3 5 5, Y_C 0 1 1 1 1 2, n_T 1 1 2 2 3 3, n_C 0 1 1 2 2 3.
    expected = [0, 2, 1, 1, 2, 3.5, 3]
    assert qini_curve(SCORE, TREATED, REWARD) == pytest.approx(expected)


def test_qini_coefficient_by_hand() -> None:
    y = np.array([1.0, 0, 0, 0, 1, 1])
    # Q 0 1 1 1 1 2 1 has area 6.5; the chord to 1 has 3. Best order: responders in treatment,
    # then all without response, last the responder in control: 0 1 2 2 2 2 1, area 9.5, if
    # tied rows come in any order, for only responders move the curve before a control responds.
    assert qini(SCORE, TREATED, y) == pytest.approx(3.5 / 6.5)


def test_qini_of_known_effects() -> None:
    kind, treated, reward, _ = trial(5000, seed=0)
    assert qini(kind, treated, reward, effect=kind) == pytest.approx(1)
    assert qini(-kind, treated, reward, effect=kind) == pytest.approx(-1, abs=0.05)
    rng = np.random.default_rng(1)
    at_random = [qini(rng.random(5000), treated, reward, effect=kind) for _ in range(60)]
    assert np.mean(at_random) == pytest.approx(0, abs=4 * np.std(at_random) / np.sqrt(60))
    visits = (reward > 1.5).astype(float)
    assert 0 < qini(kind, treated, visits) <= 1


def test_bootstrap_of_a_mean_has_its_known_error() -> None:
    values = np.random.default_rng(0).normal(3, [1.0, 2.0], (400, 2))
    found = bootstrap(lambda rows: values[rows].mean(axis=0), 400)
    error = values.std(axis=0) / 20
    assert found.error == pytest.approx(error, rel=0.1)
    assert found.low == pytest.approx(values.mean(axis=0) - 1.96 * error, abs=0.2 * error.max())
    assert found.high == pytest.approx(values.mean(axis=0) + 1.96 * error, abs=0.2 * error.max())


def test_bootstrap_pairs_what_one_metric_returns() -> None:
    kind, treated, reward, cost = trial(1500, seed=0)
    good, same = kind + 0.0, 2.0 * kind

    def both(rows: Any) -> Any:
        a, b = (aucc(s[rows], treated[rows], reward[rows], cost[rows]) for s in (good, same))
        return [a, b - a]

    found = bootstrap(both, 1500, repeats=40, seed=2)
    assert found.low[0] < 0.75 < found.high[0]
    assert found.low[1] == found.high[1] == 0
    assert np.array_equal(bootstrap(both, 1500, repeats=40, seed=2).low, found.low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": -REWARD}, "effect on reward is -1: AUCC needs a positive one"),
        ({"cost": np.zeros(6)}, "effect on cost is 0"),
        ({"treated": np.ones(6)}, r"values \[1.\]: allowed are \(n,\), both 0 and 1"),
        ({"treated": np.arange(6)}, "both 0 and 1"),
        ({"score": np.where(SCORE == 4, np.nan, SCORE)}, "score of row 2 is nan"),
        ({"cost": np.where(SCORE == 5, np.inf, SCORE)}, "cost of row 1 is inf"),
        ({"reward": REWARD[:5]}, r"reward has shape \(5,\): allowed is \(6,\)"),
    ],
)
def test_errors_name_the_input(change: dict[str, Any], message: str) -> None:
    given = {"score": SCORE, "treated": TREATED, "reward": REWARD, "cost": TREATED * 1.0}
    with pytest.raises(ValueError, match=message):
        aucc(**(given | change))


def test_arms_and_orders_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"action has \[3 3 0\] users by arm"):
        mt_aucc(np.zeros((6, 2)), TREATED, REWARD, REWARD)
    with pytest.raises(ValueError, match="nothing to find"):
        qini(SCORE, TREATED, np.zeros(6))


def test_infinite_returns_rank_first() -> None:
    cost = np.array([1.2, 0, 1.2, 0, 1.6, 0])
    assert aucc(np.where(SCORE == 6, np.inf, SCORE), TREATED, REWARD, cost, q=4) == pytest.approx(
        11 / 15
    )
