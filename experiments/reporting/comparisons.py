"""What a suite compares beside methods, read from its runs: lines of settings, and variants.

A line is made of settings that differ in one number only: the users of their logs, or the share of
users' differences that nothing observed explains. Variants are rows of one method with other
options.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments.methods import method_names
from experiments.reporting.runs import REFERENCES, Groups, Run, column, setting_of
from marketing_env import preset
from marketing_env.config import Array

AXES = {
    "log_users": "logged users",
    "unobserved": "unobserved share of users' differences",
}


@dataclass(frozen=True)
class Line:
    """Settings that differ in one number only."""

    axis: str  # key of AXES
    places: dict[float, Path]  # by the number, ascending

    def name(self, value: float) -> str:
        return f"{value:,.0f}" if self.axis == "log_users" else f"{value:g} %"


@dataclass(frozen=True)
class Variants:
    """Rows of one method with other options."""

    base: str  # row that the others are held against
    changes: dict[str, dict[str, Any]]  # by row: options that are not the base's


def lines(settings: Mapping[Path, Sequence[Run]]) -> list[Line]:
    """All lines of two or more settings that were learned from, longest first."""
    found: dict[tuple[str, str], dict[float, Path]] = {}
    for place, runs in settings.items():
        if all(run["method"] in REFERENCES for run in runs):
            continue
        for axis in AXES:
            value, rest = _split(setting_of(runs), axis)
            found.setdefault((axis, rest), {})[value] = place
    made = [Line(axis, dict(sorted(of.items()))) for (axis, _), of in found.items() if len(of) > 1]
    return sorted(made, key=lambda line: -len(line.places))


def _split(setting: Mapping[str, Any], axis: str) -> tuple[float, str]:
    """The setting's number on an axis, and all that is left of it but its name."""
    rest = {key: value for key, value in setting.items() if key not in ("name", axis)}
    rest["overrides"] = {k: v for k, v in setting["overrides"].items() if k != axis}
    if axis == "log_users":
        value = float(setting["log_users"])
    else:
        value = round(100 * preset(setting["preset"], **setting["overrides"]).unobserved, 6)
    return value, json.dumps(rest, sort_keys=True)


def variants(groups: Groups) -> Variants | None:
    """The largest family of rows that are one method with other options, if there is one.

    Rows are of one method if they have the same options, and at most one of them bears the name of
    a method of its own. That one is the base; without it, the row that the others differ least
    from, the best of them first.
    """
    for family in sorted(_families(groups), key=len, reverse=True):
        own = _methods(family)
        base = own[0] if own else min(family, key=lambda row: _distance(family, row))
        changes = {row: _changes(config, family[base]) for row, config in family.items()}
        if len(own) <= 1 and any(changes.values()):
            return Variants(base, changes)
    return None


def variants_of(groups: Groups, main: str) -> set[str]:
    """Rows that are a method with other options, and bear no method's name."""
    own = next((family for family in _families(groups) if main in family), {})
    return set(own) - set(_methods(own))


def _families(groups: Groups) -> list[dict[str, dict[str, Any]]]:
    """Rows with the same options, and the settings of each."""
    families: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row, runs in groups.items():
        config = runs[0].get("config")
        if row not in REFERENCES and config:
            families.setdefault(tuple(sorted(config)), {})[row] = config
    return list(families.values())


def _methods(rows: Iterable[str]) -> list[str]:
    """Those that bear the name of a method, of ours or of a user's module."""
    named = set(method_names())
    return [row for row in rows if row in named or "." in row]


def _distance(family: Mapping[str, Mapping[str, Any]], row: str) -> int:
    return sum(len(_changes(config, family[row])) for config in family.values())


def _changes(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value != base[key]}


def mean_scores(runs: Sequence[Run]) -> Array:
    """(seeds,) mean score over the budgets."""
    return column(runs, "score").mean(axis=1)


def paired_difference(runs: Sequence[Run], base: Sequence[Run]) -> tuple[float, float]:
    """Mean of `mean_scores(runs) - mean_scores(base)` on common seeds, and half its 95 % interval.

    Student's interval over training seeds; NaN where there is no common seed, or only one. Both
    sides were judged on the same populations, so the luck of these cancels in part and is left out.
    """
    score, other = (
        {int(run["seed"]): mean for run, mean in zip(of, mean_scores(of), strict=True)}
        for of in (runs, base)
    )
    gaps = np.array([score[seed] - other[seed] for seed in sorted(score.keys() & other.keys())])
    if len(gaps) < 2:
        return float(gaps.mean()) if len(gaps) else np.nan, np.nan
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return float(gaps.mean()), float(half)
