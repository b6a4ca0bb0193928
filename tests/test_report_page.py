"""What the report says of its own limits, and the commands it prints."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest
from made_up import made_up

from experiments import cli, sweep
from experiments.reporting import report_page
from experiments.reporting.runs import REFERENCES
from experiments.settings import SUITES


def test_limits_are_those_of_the_results() -> None:
    runs = [made_up("mixed_policy", 1), made_up("dfcl", 2), made_up("dfcl", 3)]
    runs[0]["commit"] = "fed4321+"
    said = "\n".join(report_page.limits({Path("s/a"): runs}))
    assert "1 of 2 rows have one training seed" in said
    assert "1 rows have fewer than 5 training seeds" in said
    assert "2 commits" in said
    assert "1 runs were made with changes that no commit holds" in said
    assert "1 comparisons have no common training seed" in said

    whole = [made_up(m, seed) for m in ("mixed_policy", "dfcl") for seed in range(5)]
    said = "\n".join(report_page.limits({Path("s/a"): whole}))
    for word in ("one training seed", "fewer than", "commits", "no common"):
        assert word not in said


def test_rows_that_only_some_settings_have_are_named() -> None:
    settings = {Path("s/a"): [made_up("a"), made_up("b")], Path("s/c"): [made_up("a")]}
    assert list(report_page.missing({Path("s"): settings})) == ["b in suite s: c"]


@pytest.mark.parametrize("method", ["mixed_policy", "oracle", "agents.greedy_uplift"])
def test_the_command_beside_a_row_makes_that_row(method: str, tmp_path: Path) -> None:
    command = report_page.again("full", "grocery-random", method, [made_up(method, 11)])
    parser = argparse.ArgumentParser()
    cli.add_options(parser, sweep.Options)
    o = cli.from_options(sweep.Options, parser.parse_args(shlex.split(command)[3:]))
    found = sweep.jobs(sweep.part(SUITES["full"], o), tmp_path)
    rows = {row for job in found for row in job.rows}
    assert {job.setting.name for job in found} == {"grocery-random"}
    if method == "oracle":
        assert rows == set(REFERENCES)  # all at once
    else:
        assert rows == {method}
        assert [job.seed for job in found] == [11]
