"""Runs on disk: which are found, in which order, and how they are pooled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up import made_up, put

from experiments.reporting.runs import by_method, by_suite, find_runs, makers, pooled, setting_of


def test_runs_with_other_budgets_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made_up("mixed_policy")
    other["rows"] = other["rows"][:1]
    put(tmp_path / "toy", made_up("greedy_uplift"), other)
    (runs,) = find_runs(tmp_path).values()
    assert [run["method"] for run in runs] == ["greedy_uplift"]
    assert "mixed_policy-0.json: left out" in capsys.readouterr().out


def test_numbers_in_names_are_in_their_order(tmp_path: Path) -> None:
    names = ["log-9k", "log-10k", "log-100k", "log-production", "other"]
    for name in names:
        put(tmp_path / "suite" / name, *(made_up("mixed_policy", seed) for seed in (10, 9)))
    found = find_runs(tmp_path)
    assert [place.name for place in found] == names
    assert all([run["seed"] for run in runs] == [9, 10] for runs in found.values())
    assert by_suite(found) == {tmp_path / "suite": found}


def test_references_come_first_then_the_best() -> None:
    runs = [made_up("cluster", score=50), made_up("perfect_myopic"), made_up("oracle"),
            made_up("greedy_uplift", score=60)]  # fmt: skip
    assert list(by_method(runs)) == ["oracle", "perfect_myopic", "greedy_uplift", "cluster"]


def test_the_setting_is_that_of_what_learned() -> None:
    reference = made_up("oracle", test_seeds=(1_000,))
    assert setting_of([reference, made_up("cluster")])["test_seeds"] == (1_000, 1_001)
    assert setting_of([reference])["test_seeds"] == (1_000,)


def test_pooled_error_has_an_evaluation_part_and_a_training_part() -> None:
    runs = [made_up("mixed_policy", seed, score) for seed, score in enumerate((88.0, 90.0, 95.0))]
    mean, error = pooled(runs, "score")
    assert mean == pytest.approx([91, 92])
    assert error == pytest.approx(np.sqrt(1 + np.var([88, 90, 95], ddof=1) / 3))
    assert pooled(runs[:1], "score")[1] == pytest.approx(1.0)


def test_makers_are_counted() -> None:
    runs = [made_up("a", 1), made_up("a", 2), {**made_up("b"), "commit": ""}]
    command = runs[0]["command"]
    assert makers(runs) == [
        {"command": command, "commit": "abc1234", "runs": 2},
        {"command": command, "commit": "none", "runs": 1},
    ]
