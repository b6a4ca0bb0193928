"""How well a log alone predicted what policies are worth: off-policy estimates beside the truth.

For every policy of a run, in per cent of the run's mean true gain over no incentives,

    error = 100 (estimated gain - true gain) / mean true gain of the run's policies

so that campaigns with other units stand in one table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.reporting.runs import Run, by_method, by_suite, column
from experiments.reporting.table import as_markdown, made_by
from marketing_env.config import Array

ESTIMATORS = ("importance", "self_normalised", "doubly_robust", "fitted_q")
EVERY = "all methods"
READING = (
    "Estimates from a test log of fresh users under the policy that collected the training log; the"
    " truth is simulated. Bias and rms error: of the gain over no incentives (estimated by fitted Q"
    " for all), in % of the mean true gain of a run's policies. Intervals are the estimates' own"
    " 95 %, widened by the noise of the"
    " truth. Rank correlation: Spearman's, of estimated and true reward over the budgets of a run."
    " Effective users: of the test log, whose actions still speak about the policy on the last day."
    " Where no user's do, self-normalised weights give no estimate."
)


class Accuracy(NamedTuple):
    """Estimates beside the truth over policies; NaN where there are none."""

    bias: float  # mean error
    error: float  # root mean squared error
    reward_coverage: float  # share of 95 % intervals that hold the truth
    cost_coverage: float
    ranked: float  # mean rank correlation
    effective_users: float  # median
    estimated: int  # policies with an estimate
    policies: int


def replayed(runs: Sequence[Run]) -> list[Run]:
    """Runs with estimates of all their policies."""
    return [run for run in runs if all("replay" in row for row in run["rows"])]


def accuracy(runs: Sequence[Run], estimator: str) -> Accuracy:
    """Of one estimator over the policies of runs that have estimates."""
    every = np.concatenate([errors(run, estimator) for run in runs])
    known = every[np.isfinite(every)]
    weighted = estimates(runs, estimator, "effective_users")
    return Accuracy(
        bias=float(known.mean()) if len(known) else np.nan,
        error=float((known**2).mean() ** 0.5) if len(known) else np.nan,
        reward_coverage=_coverage(runs, estimator, "reward"),
        cost_coverage=_coverage(runs, estimator, "cost"),
        ranked=_ranked(runs, estimator),
        effective_users=float(np.median(weighted)),
        estimated=int(np.isfinite(estimates(runs, estimator, "reward")).sum()),
        policies=weighted.size,
    )


def estimates(runs: Sequence[Run], estimator: str, key: str) -> Array:
    """(runs, budgets) numbers of an estimator."""
    return np.array([[row["replay"][estimator][key] for row in run["rows"]] for run in runs])


def errors(run: Run, estimator: str) -> Array:
    """(budgets,) error of the estimated gain, % of the mean true gain; NaN if nothing is gained."""
    true = column([run], "gain")[0]
    mean = true.mean()
    gap = estimates([run], estimator, "gain")[0] - true
    return 100 * gap / mean if mean > 0 else np.full(len(true), np.nan)


def _coverage(runs: Sequence[Run], estimator: str, what: str) -> float:
    told, error = (estimates(runs, estimator, key) for key in (what, f"{what}_error"))
    true = column(runs, what)
    noise = np.array([[_noise(row, what) for row in run["rows"]] for run in runs])
    known = np.isfinite(told)
    inside = np.abs(told - true) <= 1.96 * np.hypot(error, np.nan_to_num(noise))
    return float(inside[known].mean()) if known.any() else np.nan


def _noise(row: Mapping[str, float], what: str) -> float:
    """Standard error of the simulated truth."""
    return row["reward_error"] if what == "reward" else row["spend_share_error"] * row["budget"]


def _ranked(runs: Sequence[Run], estimator: str) -> float:
    """NaN, a constant or a single budget have no rank."""
    found = []
    for told, run in zip(estimates(runs, estimator, "reward"), runs, strict=True):
        true = column([run], "reward")[0]
        if np.isfinite(told).all() and np.ptp(told) > 0 and np.ptp(true) > 0:
            found.append(stats.spearmanr(told, true).statistic)
    return float(np.mean(found)) if found else np.nan


# ---------------------------------------------------------------- tables


def rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row per estimator over all methods, then for each method; none without estimates."""
    found = replayed(runs)
    groups = {EVERY: found} | by_method(found)
    return [
        {"method": method, "estimator": name.replace("_", " "), **_cells(accuracy(some, name))}
        for method, some in groups.items()
        for name in ESTIMATORS
        if some
    ]


def _cells(a: Accuracy) -> dict[str, str]:
    return {
        "bias of the gain": _number(a.bias, "+.0f", " %"),
        "rms error of the gain": _number(a.error, ".0f", " %"),
        "95 % interval holds reward": _number(100 * a.reward_coverage, ".0f", " %"),
        "95 % interval holds cost": _number(100 * a.cost_coverage, ".0f", " %"),
        "rank correlation": _number(a.ranked, ".2f"),
        "effective users": _number(a.effective_users, ",.0f"),
        "policies with an estimate": f"{a.estimated} of {a.policies}",
    }


def _number(value: float, form: str, unit: str = "") -> str:
    return "–" if np.isnan(value) else f"{value:{form}}{unit}"


def documents(settings: Mapping[Path, list[Run]]) -> dict[Path, str]:
    """The replay.md of every suite that has estimates."""
    return dict(_documents(settings))


def _documents(settings: Mapping[Path, list[Run]]) -> Iterator[tuple[Path, str]]:
    for suite, found in by_suite(dict(settings)).items():
        runs = [run for some in found.values() for run in replayed(some)]
        if runs:
            parts = (READING, as_markdown(rows(runs)), made_by({suite: runs}))
            yield suite / "replay.md", "\n\n".join(parts) + "\n"
