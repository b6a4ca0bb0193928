"""Trials of settings on validation logs: what each scored, and which is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.reporting.runs import TUNING, Run, find_runs
from experiments.reporting.table import as_markdown, made_by
from marketing_env.config import Array

READING = (
    "Every method has the same number of trials, the first with the settings it had. Scores and"
    " spend are means over validation campaigns, logs and budgets; logs and judged populations are"
    " none of those that results are made of. The highest mean score is kept. Differences to the"
    " first trial are paired by campaign and log; ± is Student's 95 % interval over these, where"
    " there are several."
)
_BLANK = "–"

Trials = Mapping[Path, Sequence[Run]]  # runs by campaign; rows are METHOD-NUMBER


class Tried(NamedTuple):
    """One trial of a method."""

    number: int
    changes: Mapping[str, Any]  # settings that differ from those of the first trial
    score: Array  # (cells,) mean score over the budgets; a cell is a log of a campaign
    spend: Array  # (cells,) share of the budget


def tried(found: Trials) -> dict[str, list[Tried]]:
    """The trials of each method by number, on the cells that all of them have."""
    methods: dict[str, dict[int, dict[tuple[Path, int], Run]]] = {}
    for place, runs in found.items():
        for run in runs:
            name, _, number = run["method"].rpartition("-")
            cells = methods.setdefault(name, {}).setdefault(int(number), {})
            cells[place, int(run["seed"])] = run
    return {name: _compared(trials) for name, trials in sorted(methods.items())}


def _compared(trials: Mapping[int, Mapping[tuple[Path, int], Run]]) -> list[Tried]:
    common = sorted(set.intersection(*(set(cells) for cells in trials.values())))
    first = next(iter(trials[min(trials)].values()))["config"]
    made = []
    for number, cells in sorted(trials.items()):
        config = next(iter(cells.values()))["config"]
        changes = {key: value for key, value in config.items() if value != first[key]}
        score, spend = (
            np.array([np.mean([row[key] for row in cells[cell]["rows"]]) for cell in common])
            for key in ("score", "spend_share")
        )
        made.append(Tried(number, changes, score, spend))
    return made


def kept(trials: Sequence[Tried]) -> Tried:
    """The trial with the highest mean score, the first of equals."""
    return max(trials, key=lambda trial: trial.score.mean() if len(trial.score) else -np.inf)


def rows(found: Trials) -> list[dict[str, str]]:
    """A row per trial, method by method."""
    return [
        _row(name, trial, trials)
        for name, trials in tried(found).items()
        for trial in trials
        if len(trial.score)
    ]


def _row(name: str, trial: Tried, trials: Sequence[Tried]) -> dict[str, str]:
    changes = ", ".join(f"{key}={value}" for key, value in trial.changes.items())
    return {
        "method": name,
        "trial": str(trial.number),
        "settings": changes or "as they were",
        "mean score": f"{trial.score.mean():.1f}",
        "spend, % of budget": f"{100 * trial.spend.mean():.0f}",
        "minus the first": _BLANK if trial is trials[0] else _difference(trial, trials[0]),
        "logs": str(len(trial.score)),
        "kept": "kept" if trial is kept(trials) else _BLANK,
    }


def _difference(trial: Tried, first: Tried) -> str:
    gaps = trial.score - first.score
    if len(gaps) < 2:
        return f"{gaps.mean():+.1f}"
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return f"{gaps.mean():+.1f} ± {half:.1f}"


def document(found: Trials) -> str:
    """The whole tuning.md."""
    return "\n\n".join([f"# Trials\n\n{READING}", as_markdown(rows(found)), made_by(found)]) + "\n"


def documents(folder: Path) -> dict[Path, str]:
    """The tuning.md of a results folder, if it has trials."""
    place = Path(folder) / TUNING
    found = find_runs(place)
    return {place / "tuning.md": document(found)} if found else {}
