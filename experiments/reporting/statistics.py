"""Honest numbers from few runs: intervals, paired differences, profiles, ranks, kept forecasts.

A task is a budget of a setting; a run is a training seed. Point estimates over many tasks are
interquartile means with stratified bootstrap intervals, as in Agarwal et al., "Deep Reinforcement
Learning at the Edge of the Statistical Precipice" (NeurIPS 2021), sections 4.1 to 4.3; performance
profiles are those of Dolan & More (Mathematical Programming, 2002) over scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.reporting.runs import REFERENCES, Run, by_method, column, pooled
from marketing_env.config import Array

Statistic = Callable[[Array], Array]  # (..., n) values -> (...)
DRAWS = 2_000


def strata(settings: Iterable[Sequence[Run]], main: str) -> dict[str, list[Array]]:
    """Scores of each method in every setting of the main method, (seeds, budgets) each.

    Methods that miss one of these settings are left out: a mean over other settings would compare
    campaigns, not methods. References learn nothing, and are left out too. The highest
    interquartile mean comes first.
    """
    groups = [found for runs in settings if main in (found := by_method(runs))]
    there = {m for found in groups for m in found if m not in REFERENCES}
    scores = {
        m: [column(found[m], "score") for found in groups]
        for m in there
        if all(m in found for found in groups)
    }
    return dict(sorted(scores.items(), key=lambda item: (-float(_center(item[1])), item[0])))


def _center(values: Sequence[Array]) -> Array:
    return interquartile_mean(np.concatenate([v.ravel() for v in values]))


class Interval(NamedTuple):
    """An estimate with its 95 % interval; NaN ends where nothing can be said."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """Scores of one method minus another's; the last entry is the mean over the budgets."""

    value: Array  # (B + 1,) score points
    half: Array  # (B + 1,) half the 95 % interval; NaN where nothing can be said
    seeds: int  # training seeds that both have; 0 if the runs are not paired by seed
    luck: bool  # campaigns are compared population by population

    @property
    def low(self) -> Array:
        return self.value - self.half

    @property
    def high(self) -> Array:
        return self.value + self.half


def interquartile_mean(values: Array) -> Array:
    """(...) mean of what is left of (..., n) values without the lowest and the highest quarter.

    Whole values are left out, floor(n / 4) at each end.
    """
    n = values.shape[-1]
    cut = n // 4
    return np.asarray(np.sort(values, axis=-1)[..., cut : n - cut].mean(axis=-1))


def resamples(strata: Sequence[Array], draws: int = DRAWS, seed: int = 0) -> Array:
    """(draws, n) all values of the strata, with the runs of each drawn anew with replacement.

    Args:
        strata: (runs, tasks) each; a run's tasks stay together, for they share a log and a model.
    """
    rng = np.random.default_rng(seed)
    parts = [s[rng.integers(len(s), size=(draws, len(s)))].reshape(draws, -1) for s in strata]
    return np.concatenate(parts, axis=1)


def bootstrap(strata: Sequence[Array], statistic: Statistic, seed: int = 0) -> Interval:
    """Percentile interval of the statistic of all values, under `resamples`.

    A stratum of one run has no spread to draw from: then the interval is NaN.
    """
    value = float(statistic(np.concatenate([s.ravel() for s in strata])))
    if min(len(s) for s in strata) < 2:
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(statistic(resamples(strata, seed=seed)), (0.025, 0.975))
    return Interval(value, float(low), float(high))


def profile(strata: Sequence[Array], levels: Array) -> tuple[Array, Array, Array]:
    """Share of all values above each level, and the ends of its pointwise 95 % band."""
    values = np.concatenate([s.ravel() for s in strata])
    share = _share_above(values, levels)
    if min(len(s) for s in strata) < 2:
        return share, np.full(len(levels), np.nan), np.full(len(levels), np.nan)
    drawn = np.array([_share_above(row, levels) for row in resamples(strata, draws=500)])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return share, low, high


def _share_above(values: Array, levels: Array) -> Array:
    return np.asarray(1 - np.searchsorted(np.sort(values), levels, side="right") / len(values))


def ranks(methods: Sequence[Sequence[Array]]) -> Array:
    """(methods, tasks) rank of each method's mean over runs, 1 for the highest; ties share.

    Args:
        methods: the strata of each method, (runs, tasks) each; tasks agree, runs need not.
    """
    means = np.array([np.concatenate([s.mean(axis=0) for s in strata]) for strata in methods])
    return np.asarray(stats.rankdata(-means, axis=0))


def rank_shares(methods: Sequence[Sequence[Array]], draws: int = 200, seed: int = 0) -> Array:
    """(methods, ranks) how often a method has a rank, over tasks and over resampled runs.

    A shared rank counts for the better of the places that it spans.
    """
    rng = np.random.default_rng(seed)
    count = np.zeros((len(methods), len(methods)))
    for _ in range(draws):
        drawn = [[s[rng.integers(len(s), size=len(s))] for s in strata] for strata in methods]
        means = np.array([np.concatenate([s.mean(axis=0) for s in strata]) for strata in drawn])
        place = stats.rankdata(-means, axis=0, method="min").astype(int) - 1
        np.add.at(count, (np.arange(len(methods))[:, None], place), 1)
    return np.asarray(count / count.sum(axis=1, keepdims=True))


def difference(runs: Sequence[Run], base: Sequence[Run]) -> Difference:
    """Scores of `runs` minus those of `base` at each budget, as far as possible on common luck.

    Runs of the same training seed learned from the same log, and every run is judged on the same
    populations in the same campaigns. The mean over seeds and populations has the variance

        variance over seeds / seeds + variance over populations / populations,

    each of the paired differences; the first part has Student's quantile. Results that do not say
    what they gained in each population have the first part alone; without a common seed, means
    over seeds are compared, and the errors of both count in full.
    """
    ours, theirs = (sorted(of, key=lambda run: int(run["seed"])) for of in (runs, base))
    common = sorted({int(run["seed"]) for run in ours} & {int(run["seed"]) for run in theirs})
    if not common:
        return _unpaired(ours, theirs)
    pairs = [[run for run in of if int(run["seed"]) in common] for of in (ours, theirs)]
    gaps = with_mean(column(pairs[0], "score") - column(pairs[1], "score"))
    luck = _error_of_luck(*pairs)
    half = 0.0 if luck is None else 1.96 * luck
    if len(common) > 1:
        error = gaps.std(axis=0, ddof=1) / len(common) ** 0.5
        half = np.hypot(half, stats.t.ppf(0.975, len(common) - 1) * error)
    elif luck is None:
        half = np.full(gaps.shape[1], np.nan)
    return Difference(gaps.mean(axis=0), np.asarray(half), len(common), luck is not None)


def with_mean(values: Array) -> Array:
    """(..., B + 1) the values at each budget, and their mean."""
    return np.concatenate([values, values.mean(axis=-1, keepdims=True)], axis=-1)


def _unpaired(runs: Sequence[Run], base: Sequence[Run]) -> Difference:
    (score, error), (other, other_error) = (pooled(of, "score") for of in (runs, base))
    error = np.hypot(error, other_error)
    # Budgets share users: the mean of their errors bounds the error of their mean.
    return Difference(with_mean(score - other), 1.96 * with_mean(error), 0, False)


def _error_of_luck(runs: Sequence[Run], base: Sequence[Run]) -> Array | None:
    """(B + 1,) standard error over populations of the mean difference in score.

    The score is a ratio of means: its error is that of what the populations gain beyond it.
    """
    if not all("gains" in row for run in (*runs, *base) for row in run["rows"]):
        return None
    gains, other = (np.array([[r["gains"] for r in run["rows"]] for run in of]).mean(axis=0)
                    for of in (runs, base))  # fmt: skip
    best = np.array([row["best_gains"] for row in runs[0]["rows"]])  # (B, populations)
    if gains.shape != best.shape or other.shape != best.shape or best.shape[1] < 2:
        return None
    gap, best_mean = gains - other, best.mean(axis=1, keepdims=True)
    beyond = with_mean(((gap - gap.mean(axis=1, keepdims=True) / best_mean * best) / best_mean).T)
    return np.asarray(100 * beyond.std(axis=0, ddof=1) / best.shape[1] ** 0.5)


def violation_rate(runs: Sequence[Run], limit: float = 1.03) -> tuple[int, int]:
    """How many policies spent more than `limit` times their budget, and of how many."""
    spent = column(runs, "spend_share")
    return int((spent > limit).sum()), spent.size


class Promise(NamedTuple):
    """Policies by whether they promised to beat the log's own policy at equal spend, and did."""

    kept: int
    broken: int
    unsaid: int  # no promise, but better
    rightly_silent: int


def promises(runs: Sequence[Run]) -> Promise:
    """Promises (95 % confidence) of the forecasts held against what the policies are worth.

    At less than its own spend, the log's policy serves a share of the users: it earns
    idle + cost / log cost * (log reward - idle). Runs without log or promise count nowhere.
    """
    counts = dict.fromkeys(((True, True), (True, False), (False, True), (False, False)), 0)
    for run in runs:
        for row in run["rows"] if "log" in run else ():
            told = row.get("forecast", {})
            if not np.isnan(told.get("over_log", np.nan)):
                counts[bool(told["safe"]), over_log(row, run["log"]) >= 0] += 1
    return Promise(*counts.values())


def over_log(row: Mapping[str, float], log: Mapping[str, float]) -> float:
    """True reward of a policy above that of the log's own policy at equal spend."""
    idle = row["reward"] - row["gain"]
    share = min(row["cost"] / log["cost"], 1.0) if log["cost"] > 0 else 1.0
    return row["reward"] - (idle + share * (log["reward"] - idle))


class Foresight(NamedTuple):
    """How estimates made without the simulator compare to the truth."""

    bias: float  # mean of estimate - truth, % of the truth's mean
    coverage: float  # share of 95 % intervals that hold the truth


def foresight(runs: Sequence[Run], what: str) -> Foresight | None:
    """Forecast `gain` or `cost` beside what the policies gain and cost; None if none was told.

    The interval covers the noise of the forecast and that of the evaluation it is held against.
    """
    told = [told_and_true(row, what) for run in runs for row in run["rows"] if "forecast" in row]
    if not told:
        return None
    estimate, error, truth, noise = np.array(told).T
    inside = np.abs(estimate - truth) <= 1.96 * np.hypot(error, np.nan_to_num(noise))
    mean = truth.mean()
    bias = 100 * (estimate - truth).mean() / mean if mean > 0 else np.nan
    return Foresight(float(bias), float(inside.mean()))


def told_and_true(row: Mapping[str, Any], what: str) -> tuple[float, float, float, float]:
    """Forecast `gain` or `cost` and the truth, each with its standard error."""
    told = row["forecast"]
    if what == "cost":
        noise = row["spend_share_error"] * row["budget"]
        return told["cost"], told["cost_error"], row["cost"], noise
    noise = row["score_error"] / 100 * row["best_gain"]
    return told["reward"] - told["baseline"], told["reward_error"], row["gain"], noise
