"""Off-policy estimates beside the truth: bias, error, coverage, ranks, and where they stand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from made_up import estimated, made_up, put

from experiments import plot
from experiments.reporting import replayed, report_tables
from experiments.reporting.runs import Run, find_runs


@pytest.fixture
def runs() -> list[Run]:
    """Two runs of gains 0.08 and 0.08: importance is half too high, then half too low."""
    return [
        estimated(made_up("mixed_policy", 0), importance=0.5, fitted_q=0.1),
        estimated(made_up("mixed_policy", 1), importance=-0.5, fitted_q=0.1),
    ]


def test_errors_are_shares_of_the_gain(runs: list[Run]) -> None:
    high, low = (replayed.errors(run, "importance") for run in runs)
    assert high == pytest.approx([50, 50])
    assert low == pytest.approx([-50, -50])
    both = replayed.accuracy(runs, "importance")
    assert both.bias == pytest.approx(0)
    assert both.error == pytest.approx(50)
    always = replayed.accuracy(runs, "fitted_q")
    assert always.bias == pytest.approx(10) == always.error
    assert (always.estimated, always.policies) == (4, 4)


def test_errors_are_of_the_mean_gain_of_the_run(runs: list[Run]) -> None:
    run = runs[0]
    for row, gain, told in zip(run["rows"], (0.1, 0.3), (0.2, 0.3), strict=True):
        row["gain"] = gain
        row["replay"]["fitted_q"]["gain"] = told
    assert replayed.errors(run, "fitted_q") == pytest.approx([50, 0])
    for row in run["rows"]:
        row["gain"] = 0.0
    assert np.isnan(replayed.errors(run, "fitted_q")).all()


def test_intervals_hold_the_truth_or_not(runs: list[Run]) -> None:
    # Shifts of 0.5 x 0.08 against 1.96 x 0.01; of 0.1 x 0.08 within.
    assert replayed.accuracy(runs, "importance").reward_coverage == 0
    assert replayed.accuracy(runs, "fitted_q").reward_coverage == 1
    for run in runs:
        run["rows"][0]["reward_error"] = 0.05
    assert replayed.accuracy(runs, "importance").reward_coverage == 0.5
    for row in runs[0]["rows"]:
        row["replay"]["fitted_q"]["cost"] += 0.25
    assert replayed.accuracy(runs, "fitted_q").cost_coverage == 0.5


def test_ranks_over_the_budgets_of_a_run(runs: list[Run]) -> None:
    for row, true, told in zip(runs[0]["rows"], (1.0, 2.0), (5.0, 4.0), strict=True):
        row["reward"], row["replay"]["fitted_q"]["reward"] = true, told
    assert replayed.accuracy(runs[:1], "fitted_q").ranked == pytest.approx(-1)
    for row in runs[0]["rows"]:
        row["replay"]["fitted_q"]["reward"] = 3.0
    assert math.isnan(replayed.accuracy(runs[:1], "fitted_q").ranked)


def test_what_was_not_estimated_counts_nowhere_else(runs: list[Run]) -> None:
    lost = runs[0]["rows"][0]["replay"]["self_normalised"]
    lost |= dict.fromkeys(lost, math.nan) | {"effective_users": 0.0}
    found = replayed.accuracy(runs, "self_normalised")
    assert (found.estimated, found.policies) == (3, 4)
    assert found.bias == 0
    assert found.reward_coverage == 1
    assert found.effective_users == 25


def test_rows_for_all_methods_then_for_each(runs: list[Run]) -> None:
    other = estimated(made_up("cluster", 0, score=60.0), importance=2.0)
    rows = replayed.rows([*runs, other, made_up("dfcl"), made_up("oracle")])
    methods = list(dict.fromkeys(row["method"] for row in rows))
    assert methods == ["all methods", "mixed_policy", "cluster"]
    assert len(rows) == 12
    cells = next(r for r in rows if (r["method"], r["estimator"]) == ("cluster", "importance"))
    assert cells["bias of the gain"] == "+200 %"
    assert cells["95 % interval holds reward"] == "0 %"
    assert cells["policies with an estimate"] == "2 of 2"
    assert replayed.rows([made_up("dfcl")]) == []


def test_a_suite_with_estimates_has_its_page(
    tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "draw", lambda *_: [])
    put(tmp_path / "with" / "toy", *runs)
    put(tmp_path / "without" / "toy", made_up("dfcl"))
    assert set(replayed.documents(find_runs(tmp_path))) == {tmp_path / "with" / "replay.md"}
    assert plot.main([str(tmp_path)]) == 0
    text = (tmp_path / "with" / "replay.md").read_text()
    assert "| all methods | fitted q | +10 % | 10 % |" in text
    assert "`python -m experiments.sweep --suite toy` at commit `abc1234`" in text
    put(tmp_path / "with" / "toy", estimated(made_up("dfcl"), importance=1.0))
    assert plot.main([str(tmp_path), "--check"]) == 1


def test_the_report_has_both_tables_or_none(runs: list[Run]) -> None:
    found = report_tables.replay("mine", {Path("mine/a"): runs})
    assert found is not None
    assert found.estimators.heads[0] == "estimator"
    assert [row[0].text for row in found.methods.rows] == ["mixed policy"] * 4
    assert report_tables.replay("mine", {Path("mine/a"): [made_up("dfcl")]}) is None
