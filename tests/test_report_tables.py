"""Tables of the report from made-up runs: cells by their heads."""

from __future__ import annotations

from pathlib import Path

from made_up import made_up

from experiments.reporting import report_tables
from experiments.reporting.report_tables import Cell, Table
from experiments.reporting.runs import by_method
from experiments.reporting.verdict import duels


def cells(table: Table) -> list[dict[str, Cell]]:
    return [dict(zip(table.heads, row, strict=True)) for row in table.rows]


def test_columns_that_say_nothing_are_left_out() -> None:
    table = report_tables.make("A b!", "", [{"x": "1", "y": "–"}, {"x": "2", "z": "3"}])
    assert (table.name, table.heads) == ("a-b", ["x", "z"])
    assert [[c.text for c in row] for row in table.rows] == [["1", "–"], ["2", "3"]]


def test_the_closest_baseline_is_shown_with_its_outcome_in_words() -> None:
    runs = [made_up(m, s, 10 * k + s) for k, m in enumerate(("dfcl", "greedy_uplift", "a.b"))
            for s in range(3)]  # fmt: skip
    runs += [made_up("mixed_policy", s, 15.0 + s) for s in range(3)]
    found = duels({Path("here"): runs}, "mixed_policy")
    (row,) = cells(report_tables.closest("s", found, "mixed_policy"))
    assert row["at 10 %"] == Cell("-5.0 ± 0.0", "over a.b: behind", "behind")
    assert row["beaten everywhere"].text == "2 of 3"
    every = cells(report_tables.every_duel("s", found, "mixed_policy"))
    assert [(r["baseline"].text, r["mean"].text, r["mean"].note) for r in every] == [
        ("a.b", "-5.0 ± 0.0", "behind"), ("greedy uplift", "+5.0 ± 0.0", "clear"),
        ("dfcl", "+15.0 ± 0.0", "clear"),
    ]  # fmt: skip


def test_methods_are_told_over_all_settings() -> None:
    both = [made_up("mixed_policy", s, 90) | {"memory": 2e8} for s in (0, 1)]
    settings = {
        Path("s/one"): [*both, made_up("dfcl", 0, 80), made_up("oracle")],
        Path("s/two"): [*both],
    }
    settings[Path("s/one")][0]["rows"][0]["spend_share"] = 1.2
    first, second = cells(report_tables.methods("s", settings, "mixed_policy"))
    assert first["method"].text == "mixed policy"
    assert first["score, interquartile mean"].text == "90.5 (90.5 to 90.5)"
    assert first["spends over 103 %"].text == "25 % (2 of 8)"  # the run stands in both settings
    assert first["settings"].text == "2 of 2"
    assert first["peak memory, MB"].text == "200"
    assert (second["score, interquartile mean"].text, second["settings"].text) == ("–", "1 of 2")


def test_a_setting_has_the_cells_of_its_markdown_table() -> None:
    groups = by_method([made_up("mixed_policy", 0, 90), made_up("oracle", score=99)])
    table = report_tables.of_setting("s", "here", groups)
    assert table.name == "setting-s-here"
    assert [row["score at 10 %"].text for row in cells(table)] == ["99.0 ± 2.0", "90.0 ± 2.0"]


def test_what_was_run_counts_learners_not_references() -> None:
    runs = [made_up("oracle"), made_up("dfcl", 1), made_up("dfcl", 2), made_up("cluster", 1)]
    (row,) = cells(report_tables.ran({Path("main"): {Path("main/here"): runs}}))
    said = {head: row[head].text for head in ("setting", "runs", "methods", "seeds")}
    assert said == {"setting": "here", "runs": "3", "methods": "2", "seeds": "2"}
