"""Tables in Markdown from made-up runs: what they say, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import made_up

from experiments.reporting import table
from experiments.reporting.runs import Run


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of all tables of a page, by their heads."""
    found: list[dict[str, str]] = []
    heads: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            heads = []
        elif not heads:
            heads = cells
        elif cells[0] != "---":
            found.append(dict(zip(heads, cells, strict=True)))
    return found


def test_table_says_what_the_runs_say() -> None:
    runs = [
        made_up("oracle", score=100), made_up("mixed_policy", 0, 90), made_up("greedy_uplift"),
        made_up("mixed_policy", 1, 94),
    ]  # fmt: skip
    text = table.suite_table({Path("toy"): runs})
    rows = {row["method"]: row for row in rows_of(text)}
    assert list(rows) == ["*oracle*", "mixed_policy", "greedy_uplift"]
    assert rows["greedy_uplift"] == {
        "method": "greedy_uplift", "score at 10 %": "80.0 ± 2.0", "score at 40 %": "81.0 ± 2.0",
        "mean score": "80.5", "training seeds (sd)": "1",
        "spend, % of budget at 10 / 40 %": "95 / 95", "score under hard limit": "75.0 ± 2.0",
        "refused, % of offers": "2.0", "policies stored": "2", "seconds": "3",
    }  # fmt: skip
    assert rows["mixed_policy"]["training seeds (sd)"] == "2 (2.8)"
    assert rows["*oracle*"]["seconds"] == "–"
    assert "`python -m experiments.sweep --suite toy` at commit `abc1234`" in text


def test_a_single_population_has_no_interval() -> None:
    run = made_up("mixed_policy")
    for row in run["rows"]:
        row["score_error"] = float("nan")
    assert "| 80.0 |" in table.suite_table({Path("toy"): [run]})


def test_what_no_run_measured_is_no_column() -> None:
    run = made_up("mixed_policy")
    for row in run["rows"]:
        for key in ("score_hard_limit", "score_hard_limit_error", "refused_share"):
            del row[key]
    text = table.suite_table({Path("toy"): [run]})
    assert "hard limit" not in text
    assert "refused" not in text
    assert "mean score" in text


def test_a_line_of_settings_is_one_table() -> None:
    settings = {
        Path(name): [
            made_up("a", score=80, name=name, log_users=n),
            made_up("b", score=60, name=name, log_users=n),
        ]
        for name, n in (("large", 20_000), ("small", 2_000))
    }
    text = table.suite_table(settings)
    assert text.count("\n## ") == 1
    assert "## small to large: by logged users" in text
    assert [(r["method"], r["logged users"], r["mean score"]) for r in rows_of(text)] == [
        ("a", "2,000", "80.5"), ("a", "20,000", "80.5"),
        ("b", "2,000", "60.5"), ("b", "20,000", "60.5"),
    ]  # fmt: skip
    assert "log of" not in text  # no one number of users


def test_settings_off_the_line_keep_their_table() -> None:
    names: dict[str, dict[str, Any]] = {
        "small": {"log_users": 10},
        "large": {"log_users": 20},
        "else": {"epsilon": 0.5},
    }
    settings = {Path(n): [made_up("a", name=n, **changes)] for n, changes in names.items()}
    text = table.suite_table(settings)
    assert [h for h in text.splitlines() if h.startswith("## ")] == [
        "## small to large: by logged users", "## else",
    ]  # fmt: skip


def test_variants_name_their_options_and_their_difference() -> None:
    runs: list[Run] = []
    for seed, luck in enumerate((0.0, 4.0, 2.0)):
        runs.append(made_up("whole", seed, 90 + luck, {"folds": 4, "risk": 0.1}))
        runs.append(made_up("half", seed, 88 + luck, {"folds": 2, "risk": 0.1}))
        runs.append(made_up("third", seed, 89.0, {"folds": 4, "risk": 0.5}))
    rows = {row["method"]: row for row in rows_of(table.suite_table({Path("s"): runs}))}
    gap = "minus whole, same seeds"
    assert (rows["whole"]["options"], rows["whole"][gap]) == ("–", "–")
    assert (rows["half"]["options"], rows["half"][gap]) == ("`folds=2`", "-2.0 ± 0.0")
    half = 4.303 * 2 / np.sqrt(3)  # Student's t with two degrees of freedom
    assert (rows["third"]["options"], rows["third"][gap]) == ("`risk=0.5`", f"-3.0 ± {half:.1f}")


def test_summary_has_a_column_per_setting() -> None:
    settings = {Path("one-a"): [made_up("a")], Path("two"): [made_up("a"), made_up("b", score=60)]}
    text = table.summary_table(settings, "results/full/table.md")
    assert text.endswith("from runs at `abc1234`; [commands](results/full/table.md).")
    rows = {row["method"]: row for row in rows_of(text)}
    assert rows["a"]["one<br>a"] == "80.5 ± 2.0<br>spends 95 %"
    assert (rows["b"]["one<br>a"], rows["b"]["two"]) == ("–", "60.5 ± 2.0<br>spends 95 %")


@pytest.mark.parametrize("rest", ["", "\n<!-- table:b -->\n<!-- /table -->\n"])
def test_an_open_marker_is_an_error(rest: str) -> None:
    with pytest.raises(ValueError, match="table:a --> is never closed"):
        table.readme_table("<!-- table:a -->\nold" + rest, "a", "new")


def test_readme_without_markers_is_left_alone() -> None:
    assert table.readme_table("text", "toy", "table") == "text"
