"""Made-up runs for the tests of figures and tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.reporting.replayed import ESTIMATORS
from experiments.reporting.runs import REFERENCES, Run
from experiments.settings import SUITES

SETTING = SUITES["toy"].settings[0]
STATES = ("engagement", "recency", "fatigue")


def made_up(
    method: str,
    seed: int = 0,
    score: float = 80.0,
    config: dict[str, Any] | None = None,
    **setting: Any,
) -> Run:
    """A run at two budgets; the score rises by one from the first to the second."""
    rows = [_row(i, share, score + i) for i, share in enumerate(SETTING.budget_shares)]
    for row in rows if method not in REFERENCES else ():
        row |= {"policies": 2, "forecast": _forecast(row["budget_share"])}
    return {
        "setting": {**asdict(SETTING), **setting}, "method": method, "config": config or {},
        "seed": seed, "rows": rows, "seconds": 3.0,
        "command": "python -m experiments.sweep --suite toy", "commit": "abc1234",
    }  # fmt: skip


def _row(i: int, share: float, score: float) -> dict[str, Any]:
    gain = 0.1 * (score - i) / 100
    return {
        "budget": 2.0 * share, "budget_share": share, "score": score, "score_error": 1.0,
        "gain": gain, "best_gain": 0.1, "reward": 1.0 + gain, "reward_error": 0.0,
        "cost": 1.9 * share,
        "spend_share": 0.95, "spend_share_error": 0.01, "score_hard_limit": score - 5 - i,
        "score_hard_limit_error": 1.0, "spend_share_hard_limit": 0.9, "refused_share": 0.02,
        "cost_by_day": [0.1, 0.2, 0.1, 0.3], "reward_by_day": [0.3] * 4,
        "incentive_by_state": {s: {"0.000": 0.2, "0.500": 0.1} for s in STATES},
    }  # fmt: skip


def _forecast(share: float) -> dict[str, float]:
    return {
        "reward": 1.1, "reward_error": 0.01, "cost": 2.0 * share, "cost_error": 0.01,
        "bound": 1.2, "baseline": 1.0, "gap": 0.5,
    }  # fmt: skip


def estimated(run: Run, **shifts: float) -> Run:
    """The run with estimates that differ from the truth by a share of the gain, each its own.

    Args:
        shifts: by estimator; the others tell the truth.
    """
    for row in run["rows"]:
        row["replay"] = {
            name: {
                "reward": row["reward"] + shifts.get(name, 0.0) * row["gain"],
                "gain": (1 + shifts.get(name, 0.0)) * row["gain"], "reward_error": 0.01,
                "cost": row["cost"], "cost_error": 0.1, "effective_users": 25.0,
            }
            for name in ESTIMATORS
        }  # fmt: skip
    return run


def put(folder: Path, *runs: Run) -> None:
    """Write runs where the sweep writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        name = run["method"] + ("" if run["method"] in REFERENCES else f"-{run['seed']}")
        (folder / f"{name}.json").write_text(json.dumps(run))
