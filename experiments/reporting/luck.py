"""What methods owe to the luck of the judged campaigns, told by the optimum's luck there.

Every policy is simulated on the same users with the same luck. What the exact optimum is expected
to gain is known, so its luck L (what it gained beyond that) is known for each population, and so
is the mean of L: zero. Methods near the optimum share most of it. With a method's gains G over the
populations, G - beta L has the mean of G and, for beta = cov(G, L) / var(L), the least variance: a
control variate (Lavenberg & Welch, Management Science, 1981). Intervals become half as wide.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Run = dict[str, Any]
_FEWEST = 8  # populations that tell beta
_JUDGED = ("preset", "overrides", "test_users", "test_seeds", "repeats", "budget_shares")


def without_luck(settings: Mapping[Path, Iterable[Run]]) -> dict[Path, list[Run]]:
    """The runs of each setting, scores and gains less what the optimum's luck explains.

    Settings that are judged on the same populations share the optimum that one of them simulated;
    runs without any, or on few populations, stay as they are.
    """
    found = {place: list(runs) for place, runs in settings.items()}
    optima = {
        _judged(run): run
        for runs in found.values()
        for run in runs
        if run["method"] == "oracle" and all("luck" in row for row in run["rows"])
    }
    return {
        place: [_cleared(run, optima.get(_judged(run))) for run in runs]
        for place, runs in found.items()
    }


def _judged(run: Run) -> str:
    """Equal for runs that are judged in the same campaigns."""
    return json.dumps([run["setting"].get(key) for key in _JUDGED], sort_keys=True)


def _cleared(run: Run, optimum: Run | None) -> Run:
    few = any(len(row.get("gains", ())) < _FEWEST for row in run["rows"])
    if optimum is None or few or run["method"] == "oracle":
        return run
    rows = [
        _row(row, np.array(known["luck"]))
        for row, known in zip(run["rows"], optimum["rows"], strict=True)
    ]
    return {**run, "rows": rows}


def _row(row: Mapping[str, Any], luck: np.ndarray) -> dict[str, Any]:
    gains, best = np.array(row["gains"]), np.array(row["best_gains"])
    centred = luck - luck.mean()
    beyond = gains - gains.mean() / best.mean() * best
    beta = float(centred @ beyond / max(centred @ centred, 1e-300))
    left = gains - beta * luck
    ratio = left.mean() / best.mean()
    error = (left - ratio * best).std(ddof=2) / len(left) ** 0.5 / best.mean()
    # `gains` are at matched spend, `gain` and `reward` at the true one.
    shift = beta * luck.mean() * max(row["spend_share"], 1.0)
    return {
        **row, "gains": left.tolist(), "score": 100 * float(ratio),
        "score_error": 100 * float(error), "gain": row["gain"] - shift,
        "reward": row["reward"] - shift,
    }  # fmt: skip
