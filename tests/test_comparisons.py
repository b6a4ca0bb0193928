"""Lines of settings and variants of a method are recognised by what the runs hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up
from scipy.stats import ttest_rel

from experiments.reporting.comparisons import lines, paired_difference, variants
from experiments.reporting.runs import Run, by_method

BASE = {"folds": 4, "prices": 14, "oracle": "factored"}
SCORES = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=8)


def test_settings_that_differ_in_users_alone_are_a_line() -> None:
    sizes = {Path(f"s{n}"): [made_up("cluster", name=f"s{n}", log_users=n)] for n in (900, 40, 500)}
    (line,) = lines(sizes)
    assert line.axis == "log_users"
    assert list(line.places.items()) == [(n, Path(f"s{n}")) for n in (40, 500, 900)]
    assert line.name(4e5) == "400,000"


def test_an_override_that_is_not_there_has_the_value_of_the_preset() -> None:
    some: dict[Path, list[Run]] = {
        Path("none"): [made_up("cluster", name="none")],
        Path("half"): [made_up("cluster", name="half", overrides={"unobserved": 0.5})],
    }
    (line,) = lines(some)
    assert line.axis == "unobserved"
    assert line.places == {0.0: Path("none"), 50.0: Path("half")}
    assert line.name(50.0) == "50 %"


@pytest.mark.parametrize(
    "other", [{"behaviour": "production"}, {"preset": "grocery"}, {"overrides": {"horizon": 5}}]
)
def test_settings_that_differ_in_more_are_no_line(other: dict[str, Any]) -> None:
    settings = {
        Path("a"): [made_up("cluster", name="a", log_users=100)],
        Path("b"): [made_up("cluster", name="b", log_users=200, **other)],
    }
    assert lines(settings) == []


def test_a_grid_has_a_line_for_every_value_of_the_other_number() -> None:
    grid = {
        Path(f"{n}-{share}"): [
            made_up("cluster", name=f"{n}-{share}", log_users=n, overrides={"unobserved": share})
        ]
        for n in (100, 200, 300)
        for share in (0.0, 0.5)
    }
    found = lines(grid)
    assert [(line.axis, len(line.places)) for line in found] == [
        ("log_users", 3), ("log_users", 3), *[("unobserved", 2)] * 3,
    ]  # fmt: skip


def test_a_setting_that_nothing_learned_from_yet_is_on_no_line() -> None:
    settings = {
        Path("a"): [made_up("cluster", name="a", log_users=100)],
        Path("b"): [made_up("oracle", name="b", log_users=200)],
    }
    assert lines(settings) == []


def test_the_row_with_the_methods_own_name_is_the_base() -> None:
    rows = {
        "few prices": {**BASE, "prices": 7},
        "mixed_policy": {**BASE, "folds": 2, "prices": 3},
        "plain": {**BASE, "oracle": "plain"},
    }
    found = variants(by_method(made_up(row, config=c) for row, c in rows.items()))
    assert found is not None
    assert found.base == "mixed_policy"
    assert found.changes == {
        "few prices": {"folds": 4, "prices": 7},
        "mixed_policy": {},
        "plain": {"folds": 4, "prices": 14, "oracle": "plain"},
    }


def test_without_it_the_base_is_the_row_that_others_differ_least_from() -> None:
    rows = {
        "a": {**BASE, "prices": 7}, "whole": BASE, "b": {**BASE, "folds": 1},
        "c": {**BASE, "oracle": "plain"},
    }  # fmt: skip
    found = variants(by_method(made_up(row, config=c) for row, c in rows.items()))
    assert found is not None
    assert found.base == "whole"


@pytest.mark.parametrize(
    "rows",
    [
        {"mixed_policy": BASE, "greedy_uplift": {**BASE, "folds": 2}},  # methods of their own
        {"my_lab.a": BASE, "my_lab.b": {**BASE, "folds": 2}},
        {"one": BASE, "two": {"width": 32}},  # other options
        {"one": BASE, "two": BASE},
        {"oracle": BASE, "perfect_myopic": {**BASE, "folds": 2}},
        {"mixed_policy": {}, "other": {}},
    ],
)
def test_rows_that_are_no_variants(rows: dict[str, dict[str, object]]) -> None:
    assert variants(by_method(made_up(row, config=c) for row, c in rows.items())) is None


@given(SCORES)
def test_paired_difference_is_the_paired_t_interval(scores: list[tuple[float, float]]) -> None:
    a, b = np.array(scores).T
    ours, base = (
        [made_up(name, seed, score) for seed, score in enumerate(of)]
        for name, of in (("few", a), ("all", b))
    )
    mean, half = paired_difference(ours[::-1], base)  # runs may come in any order
    assert mean == pytest.approx((a - b).mean(), abs=1e-9)
    if np.ptp(a - b) > 1e-6:
        interval = ttest_rel(a, b).confidence_interval(0.95)
        assert half == pytest.approx((interval.high - interval.low) / 2, rel=1e-5, abs=1e-9)


def test_only_common_seeds_are_compared() -> None:
    ours = [made_up("few", seed, score) for seed, score in ((1, 50.0), (2, 60.0), (9, 0.0))]
    base = [made_up("all", seed, score) for seed, score in ((2, 61.0), (1, 53.0), (5, 99.0))]
    assert paired_difference(ours, base)[0] == pytest.approx(-2)
    mean, half = paired_difference(ours[:1], base)
    assert mean == pytest.approx(-3)
    assert np.isnan(half)
    assert np.isnan(paired_difference(ours[2:], base)).all()
