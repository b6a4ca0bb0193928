"""Interval estimates against known answers, brute force and scipy."""

from __future__ import annotations

from operator import eq, gt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up
from scipy.stats import trim_mean, ttest_1samp

from experiments.reporting import statistics
from experiments.reporting.comparisons import paired_difference
from experiments.reporting.runs import Run

NUMBERS = st.lists(st.floats(-100, 100), min_size=1, max_size=30)
TASKS = st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=2, max_size=5)


def with_luck(run: Run, ratio: np.ndarray, best: np.ndarray) -> Run:
    """The run with what it gained in each population, the score made to fit."""
    for row in run["rows"]:
        row |= {"gains": list(ratio * best), "best_gains": list(best)}
        row["score"] = 100 * float((ratio * best).mean() / best.mean())
    return run


@given(NUMBERS)
def test_interquartile_mean_is_scipys(values: list[float]) -> None:
    expected = trim_mean(values, 0.25)
    assert statistics.interquartile_mean(np.array(values)) == pytest.approx(expected, abs=1e-9)


def test_runs_are_drawn_whole_and_within_their_stratum() -> None:
    strata = [np.array([[1.0, 10.0], [2.0, 20.0]]), np.array([[7.0], [8.0], [9.0]])]
    drawn = statistics.resamples(strata, draws=500)
    assert drawn.shape == (500, 7)
    assert (drawn[:, [1, 3]] == 10 * drawn[:, [0, 2]]).all()
    assert set(drawn[:, 4:].ravel()) == {7, 8, 9}
    # Of two runs, one is missing in half of all draws.
    same = (drawn[:, 0] == drawn[:, 2]).mean()
    assert same == pytest.approx(0.5, abs=0.08)


def test_bootstrap_of_a_mean_is_near_students_interval() -> None:
    values = np.random.default_rng(3).normal(50, 10, size=(120, 1))
    found = statistics.bootstrap([values], lambda v: v.mean(axis=-1))
    student = ttest_1samp(values.ravel(), 0).confidence_interval(0.95)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((student.low, student.high), abs=0.3)


def test_two_runs_span_their_interval_and_one_has_none() -> None:
    two = statistics.bootstrap([np.array([[3.0], [5.0]])], statistics.interquartile_mean)
    assert two == (4.0, 3.0, 5.0)  # a quarter of the draws at each end
    one = statistics.bootstrap([np.array([[3.0]]), np.array([[5.0], [7.0]])], np.median)
    assert one.value == 5
    assert np.isnan([one.low, one.high]).all()


@given(NUMBERS, NUMBERS)
@settings(max_examples=30)
def test_a_profile_is_the_share_above(values: list[float], levels: list[float]) -> None:
    share, _, _ = statistics.profile([np.array(values)[None]], np.array(levels))
    assert share == pytest.approx([np.mean([v > level for v in values]) for level in levels])


def test_the_band_of_a_profile_holds_it() -> None:
    scores = np.random.default_rng(0).normal(80, 5, size=(10, 3))
    share, low, high = statistics.profile([scores], np.linspace(60, 100, 9))
    assert (low <= share).all()
    assert (share <= high).all()
    assert (high - low).max() > 0.1
    assert (np.diff(share) <= 0).all()


@given(TASKS)
def test_ranks_count_who_is_better(scores: list[list[int]]) -> None:
    found = statistics.ranks([[np.array([row], dtype=float)] for row in scores])
    for task in range(3):
        for i, mine in enumerate(scores):
            others = [row[task] for j, row in enumerate(scores) if j != i]
            better, equal = (sum(is_so(o, mine[task]) for o in others) for is_so in (gt, eq))
            assert found[i, task] == 1 + better + equal / 2


def test_rank_shares_without_luck_are_the_ranks() -> None:
    strata = [[np.array([[9.0, 1.0]])], [np.array([[5.0, 5.0]])]]
    assert statistics.rank_shares(strata) == pytest.approx(np.array([[0.5, 0.5], [0.5, 0.5]]))
    sure = [[np.array([[9.0], [8.0]])], [np.array([[5.0], [6.0]])]]
    assert statistics.rank_shares(sure) == pytest.approx(np.eye(2))
    open_race = [[np.array([[9.0], [1.0]])], [np.array([[5.0]])]]
    first = statistics.rank_shares(open_race, draws=2_000)[0, 0]
    # Means of two draws of 9 and 1: 9 and 5 in three quarters, and 5 shares the first place.
    assert first == pytest.approx(0.75, abs=0.04)


def test_differences_of_seeds_are_the_paired_t_interval() -> None:
    ours = [made_up("a", seed, score) for seed, score in ((3, 91.0), (1, 90.0), (2, 94.0))]
    base = [made_up("b", seed, score) for seed, score in ((1, 80.0), (2, 86.0), (3, 80.0))]
    found = statistics.difference(ours, base)
    mean, half = paired_difference(ours, base)
    assert found.value == pytest.approx([mean] * 3)
    assert found.half == pytest.approx([half] * 3)
    assert (found.seeds, found.luck) == (3, False)
    assert found.low[0] == pytest.approx(mean - half)


def test_equal_runs_differ_by_exactly_nothing() -> None:
    luck = np.array([0.8, 0.9, 0.7]), np.array([1.0, 1.5, 0.5])
    runs = [with_luck(made_up("a", seed, 0), *luck) for seed in (1, 2)]
    found = statistics.difference(runs, runs)
    assert (found.value == 0).all()
    assert (found.half == 0).all()


def test_one_seed_has_the_luck_of_its_populations() -> None:
    best = np.full(4, 2.0)
    ratio = np.array([0.9, 0.8, 0.7, 0.8])
    ours = [with_luck(made_up("a", 5), ratio, best)]
    base = [with_luck(made_up("b", 5), np.full(4, 0.5), best)]
    found = statistics.difference(ours, base)
    assert found.value == pytest.approx([30.0] * 3)
    assert found.half == pytest.approx([1.96 * 100 * ratio.std(ddof=1) / 2] * 3)
    assert (found.seeds, found.luck) == (1, True)


def test_luck_that_both_share_is_no_uncertainty() -> None:
    best = np.array([1.0, 2.0, 5.0])  # rich and poor populations
    ours = [with_luck(made_up("a", 5), np.full(3, 0.9), best)]
    base = [with_luck(made_up("b", 5), np.full(3, 0.6), best)]
    assert statistics.difference(ours, base).half == pytest.approx(np.zeros(3), abs=1e-12)


def test_other_populations_are_not_paired() -> None:
    ours = [with_luck(made_up("a", 5), np.full(3, 0.9), np.ones(3))]
    base = [with_luck(made_up("b", 5), np.full(2, 0.6), np.ones(2))]
    found = statistics.difference(ours, base)
    assert np.isnan(found.half).all()
    assert not found.luck


def test_without_a_common_seed_both_errors_count() -> None:
    found = statistics.difference([made_up("a", 1, 90)], [made_up("b", 2, 80)])
    assert found.value == pytest.approx([10, 10, 10])
    assert found.half == pytest.approx([1.96 * 2**0.5] * 3)  # each score has an error of one
    assert found.seeds == 0


@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_intervals_hold_the_truth_about_as_often_as_they_say(noise: float) -> None:
    rng, held = np.random.default_rng(7), 0
    for _ in range(300):
        shared = rng.normal(size=20)  # luck of the populations, common to all seeds
        runs = {"a": [], "b": []}  # type: dict[str, list[Run]]
        for seed in range(4):
            for method, level in (("a", 0.8), ("b", 0.7)):
                ratio = level + 0.01 * rng.normal() * noise
                luck = 0.05 * shared * (method == "a")
                runs[method].append(with_luck(made_up(method, seed), ratio + luck, np.ones(20)))
        found = statistics.difference(runs["a"], runs["b"])
        held += found.low[0] <= 10 <= found.high[0]
    assert 0.92 < held / 300 <= 1


def test_violations_are_counted_beyond_the_limit() -> None:
    runs = [made_up("a", seed) for seed in (0, 1)]
    runs[0]["rows"][0]["spend_share"], runs[1]["rows"][1]["spend_share"] = 1.031, 1.03
    assert statistics.violation_rate(runs) == (1, 4)


def promising(reward: float, safe: bool) -> Run:
    """A policy that spends half of the log's budget; idle users give 1, the log's policy 1.4."""
    run = made_up("a")
    run["log"] = {"users": 10, "reward": 1.4, "cost": 1.0}
    row = run["rows"][0] | {"reward": reward, "gain": reward - 1.0, "cost": 0.5}
    row["forecast"] = row["forecast"] | {"over_log": 0.1, "over_log_error": 0.0, "safe": safe}
    run["rows"] = [row]
    return run


@pytest.mark.parametrize(
    ("reward", "safe", "expected"),
    [
        (1.25, True, (1, 0, 0, 0)),
        (1.15, True, (0, 1, 0, 0)),
        (1.25, False, (0, 0, 1, 0)),
        (1.15, False, (0, 0, 0, 1)),
    ],
)
def test_promises_are_held_against_the_log_at_equal_spend(
    reward: float, safe: bool, expected: tuple[int, ...]
) -> None:
    run = promising(reward, safe)
    assert statistics.over_log(run["rows"][0], run["log"]) == pytest.approx(reward - 1.2)
    assert statistics.promises([run]) == expected


def test_who_promised_nothing_is_not_counted() -> None:
    silent, without_log = promising(1.5, True), promising(1.5, True)
    silent["rows"][0]["forecast"]["over_log"] = float("nan")
    del without_log["log"]
    assert statistics.promises([silent, without_log, made_up("oracle")]) == (0, 0, 0, 0)


def told(gain: float, error: float) -> dict[str, Any]:
    return {
        "reward": 1.0 + gain,
        "reward_error": error,
        "baseline": 1.0,
        "cost": 1,
        "cost_error": 0,
    }


def test_foresight_is_bias_and_coverage() -> None:
    run = made_up("a")  # true gains 0.08, judged with an error of 0.001
    run["rows"][0]["forecast"], run["rows"][1]["forecast"] = told(0.1, 0.01), told(0.1, 0.02)
    found = statistics.foresight([run], "gain")
    assert found is not None
    assert found.bias == pytest.approx(25)
    assert found.coverage == pytest.approx(0.5)
    assert statistics.foresight([made_up("oracle")], "gain") is None


def test_methods_are_compared_where_the_main_one_ran() -> None:
    first = [made_up(m, score=s) for m, s in (("a", 80), ("b", 90), ("c", 99), ("oracle", 100))]
    second = [made_up("a", 0, 70), made_up("a", 1, 60), made_up("b", 0, 50)]
    third = [made_up("c")]
    found = statistics.strata([first, second, third], "a")
    assert list(found) == ["a", "b"]  # 75 before 70; c misses the second setting
    assert [s.shape for s in found["a"]] == [(1, 2), (2, 2)]
    assert found["b"][1] == pytest.approx(np.array([[50, 51]]))
