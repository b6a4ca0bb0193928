"""Runs read from disk, grouped by method and pooled over training seeds."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reporting.luck import without_luck
from marketing_env.config import Array

Run = dict[str, Any]
Groups = Mapping[str, Sequence[Run]]  # runs of each method by training seed
REFERENCES = ("oracle", "perfect_myopic", "logging", "uniform", "none")
TUNING = "tuning"  # folder of trials on validation logs, which are no results


def find_runs(folder: str | Path) -> dict[Path, list[Run]]:
    """Runs below a folder by the folder they lie in, numbers in names in their order.

    What is no run is left out, and so are trials of settings (`experiments.tune`). Broken files,
    and runs whose budgets differ from those of their neighbours, are named on the terminal and left
    out. Scores are less what luck explains (`luck.py`).
    """
    found: dict[Path, list[Run]] = {}
    for path in sorted(Path(folder).rglob("*.json"), key=_numbers_in_order):
        run = None if TUNING in path.relative_to(folder).parts else _read(path)
        if run is None:
            continue
        beside = found.setdefault(path.parent, [])
        if beside and not np.allclose(_shares(beside[0]), _shares(run)):
            print(f"{path}: left out, its budgets are not those of {beside[0]['method']}")
            continue
        beside.append(run)
    return without_luck(found)


def by_suite(settings: Mapping[Path, list[Run]]) -> dict[Path, dict[Path, list[Run]]]:
    """Settings by the folder of their suite."""
    suites: dict[Path, dict[Path, list[Run]]] = {}
    for path, runs in settings.items():
        suites.setdefault(path.parent, {})[path] = runs
    return suites


def makers(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Commands with commits, and how many runs each made."""
    count = Counter((run.get("command", "?"), run.get("commit") or "none") for run in runs)
    return [
        {"command": command, "commit": commit, "runs": n}
        for (command, commit), n in sorted(count.items())
    ]


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs of each method by training seed; references first, then the best mean score first."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda r: int(r["seed"])):
        groups.setdefault(run["method"], []).append(run)
    return dict(sorted(groups.items(), key=lambda g: _rank(g[0], g[1])))


def pooled(runs: Sequence[Run], key: str) -> tuple[Array, Array]:
    """Mean over training seeds at each budget, and its standard error.

    All seeds are judged on the same populations, so that error is not divided by their number:

        error^2 = (mean evaluation error)^2 + variance over seeds / seeds
    """
    values = column(runs, key)
    return values.mean(axis=0), pooled_error(values, column(runs, f"{key}_error"))


def pooled_error(values: Array, errors: Array) -> Array:
    """Standard error of the mean over seeds, the first axis of both."""
    error = errors.mean(axis=0)
    if len(values) > 1:
        error = np.sqrt(error**2 + values.var(axis=0, ddof=1) / len(values))
    return error


def column(runs: Sequence[Run], key: str) -> Array:
    """(seeds, budgets) numbers of a key; NaN where a run has none."""
    return np.array([[row.get(key, np.nan) for row in run["rows"]] for run in runs], dtype=float)


def setting_of(runs: Sequence[Run]) -> dict[str, Any]:
    """The setting that runs share; most references are judged on fewer populations."""
    learned = (run for run in runs if run["method"] not in REFERENCES)
    return dict(next(learned, runs[0])["setting"])


def _numbers_in_order(path: Path) -> list[list[tuple[int, int, str]]]:
    """`log-9k` before `log-10k`: digits compare as numbers, and before other text."""
    parts = [re.findall(r"\d+|\D+", part) for part in path.parts]
    return [[(0, int(p), "") if p.isdigit() else (1, 0, p) for p in part] for part in parts]


def _read(path: Path) -> Run | None:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        print(f"{path}: left out, no JSON ({error})")
        return None
    is_run = isinstance(content, dict) and {"setting", "method", "seed", "rows"} <= set(content)
    return content if is_run and content["rows"] else None


def _shares(run: Run) -> tuple[float, ...]:
    # Padded, so that lists of different lengths compare as different.
    shares = [row["budget_share"] for row in run["rows"]]
    return tuple(shares + [0.0] * (32 - len(shares)))


def _rank(method: str, runs: Sequence[Run]) -> tuple[int, float, str]:
    if method in REFERENCES:
        return REFERENCES.index(method), 0.0, method
    return len(REFERENCES), -float(column(runs, "score").mean()), method
