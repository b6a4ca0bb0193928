"""What 10^8 and 10^9 users would take, reckoned from the rates that were measured here.

Every step reads each user once and needs no other user, but for the sums that find the price, which
are some kilobytes a partition. So core hours grow with users, and the clock is core hours by cores:

    core_hours = users * seconds_per_user / 3600,   minutes = 60 * core_hours / cores
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_USERS = (10**8, 10**9)
_CORES = 64
_CORE_HOUR = 0.05  # currency, an assumption: what clouds ask for a core of a large machine


def scale(results: Path) -> Iterator[dict[str, Any]]:
    """A row for every step and size.

    Raises:
        ValueError: if the benchmarks that it reckons from have no results.
    """
    per_user = rates(results)
    for users in _USERS:
        for step, seconds in per_user.items():
            hours = users * seconds / 3600
            yield {
                "step": step, "users": users, "microseconds_per_user": 1e6 * seconds,
                "core_hours": hours, f"minutes_on_{_CORES}_cores": 60 * hours / _CORES,
                "currency": hours * _CORE_HOUR,
            }  # fmt: skip


def rates(results: Path) -> dict[str, float]:
    """Seconds of a core for one user, by step."""
    streamed = _rows(results, "streaming")
    passes = {row["pass"]: row["seconds"] / row["users"] for row in streamed}
    served = next(r for r in _rows(results, "serving") if r["method"] == "mixed_policy")
    found = {
        "score with a mixed policy": served["many_ms"] / 1e3 / 10_000,
        "find the price, two passes": passes["first pass"] + passes["second pass"],
        "assign": passes["assignment"],
    }
    return found | {"all": sum(found.values())}


def _rows(results: Path, name: str) -> list[dict[str, Any]]:
    file = results / f"{name}.json"
    if not file.exists():
        raise ValueError(f"{file} is missing: python -m experiments.speed --only {name} makes it")
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    return rows
