"""The reckoning for more users than were measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.benchmarks import speed_scale


def measured(folder: Path) -> None:
    passes = {"read only": 1.0, "first pass": 2.0, "second pass": 1.0, "assignment": 0.5}
    rows = [{"pass": name, "users": 10**6, "seconds": s} for name, s in passes.items()]
    (folder / "streaming.json").write_text(json.dumps({"rows": rows}))
    serving = [{"method": "dfcl", "many_ms": 1.0}, {"method": "mixed_policy", "many_ms": 50.0}]
    (folder / "serving.json").write_text(json.dumps({"rows": serving}))


def test_hours_follow_from_rates(tmp_path: Path) -> None:
    measured(tmp_path)
    rows = {(row["step"], row["users"]): row for row in speed_scale.scale(tmp_path)}
    whole = rows["all", 10**9]
    # 5 microseconds to score, 3 to find the price, half of one to assign.
    assert whole["microseconds_per_user"] == pytest.approx(8.5)
    assert whole["core_hours"] == pytest.approx(8500 / 3600)
    assert rows["assign", 10**8]["core_hours"] == pytest.approx(50 / 3600)
    assert rows["all", 10**8]["minutes_on_64_cores"] == pytest.approx(850 / 60 / 64)


def test_missing_measurements_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"streaming.json is missing: python -m experiments.speed"):
        list(speed_scale.scale(tmp_path))
