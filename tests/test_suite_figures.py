"""Figures of a suite from made-up runs: lines of settings, and variants of a method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn import bars, legend_of, named_lines
from made_up import made_up

from experiments.plots import suite_figures
from experiments.reporting import comparisons
from experiments.reporting.runs import Run, by_method


@pytest.fixture
def sizes() -> dict[Path, list[Run]]:
    """Two methods by three sizes of the log; the second method lacks the largest."""
    found: dict[Path, list[Run]] = {}
    for n, score in ((1_000, 70), (10_000, 80), (100_000, 90)):
        runs = [made_up("mixed_policy", s, score + 2 * s, name=str(n), log_users=n) for s in (0, 1)]
        if n < 100_000:
            runs.append(made_up("greedy_uplift", 0, score - 10, name=str(n), log_users=n))
        found[Path(str(n))] = runs
    return found


def test_a_line_shows_every_method_and_the_main_one_by_budget(sizes: dict[Path, list[Run]]) -> None:
    (line,) = comparisons.lines(sizes)
    fig = suite_figures.by_axis(line, sizes, "mine")
    left, right = fig.axes
    means = named_lines(left)
    assert list(means) == ["mixed policy", "greedy uplift"]
    wanted = [[1_000, 71.5], [10_000, 81.5], [100_000, 91.5]]
    assert means["mixed policy"] == pytest.approx(np.array(wanted))
    assert means["greedy uplift"] == pytest.approx(np.array([[1_000, 60.5], [10_000, 70.5]]))
    assert legend_of(right) == ["10 %", "40 %"]
    assert [found.y.tolist() for found in bars(right)] == [[71, 81, 91], [72, 82, 92]]
    assert left.get_xscale() == right.get_xscale() == "log"
    assert [t.get_text() for t in left.get_xticklabels()] == ["1,000", "10,000", "100,000"]
    assert left.get_xlabel() == "logged users"
    assert fig.get_suptitle() == (
        "mine, by logged users\n"
        "From left to right: mixed policy 72 → 92 %, greedy uplift 60 → 70 % of the optimum's gain"
    )


def test_its_band_is_the_95_percent_interval_of_the_mean(sizes: dict[Path, list[Run]]) -> None:
    (line,) = comparisons.lines(sizes)
    left = suite_figures.by_axis(line, sizes, "").axes[0]
    band = np.array(left.collections[0].get_paths()[0].vertices)
    half = 1.96 * np.sqrt(1 + np.var([70, 72], ddof=1) / 2)
    at_first = band[band[:, 0] == 1_000][:, 1]
    assert (at_first.min(), at_first.max()) == pytest.approx((71.5 - half, 71.5 + half))


def test_unobserved_shares_are_percent_on_a_plain_axis() -> None:
    settings = {
        Path(f"{share}"): [made_up("cluster", name=f"{share}", overrides={"unobserved": share})]
        for share in (0.0, 0.2, 0.5)
    }
    (line,) = comparisons.lines(settings)
    left = suite_figures.by_axis(line, settings, "").axes[0]
    assert left.get_xscale() == "linear"
    assert [t.get_text() for t in left.get_xticklabels()] == ["0 %", "20 %", "50 %"]


@pytest.fixture
def parts() -> dict[Path, list[Run]]:
    """Three variants in two settings, one of which lacks the third."""
    runs: list[Run] = []
    for seed, luck in enumerate((0.0, 3.0, 1.0)):
        runs.append(made_up("mixed_policy", seed, 90 + luck, {"folds": 4}))
        runs.append(made_up("one member", seed, 85 + luck + 0.1 * seed, {"folds": 1}))
        runs.append(made_up("two members", seed, 91.0, {"folds": 2}))
    return {Path("a"): runs, Path("b"): [run for run in runs if run["method"] != "two members"]}


def test_variants_are_held_against_the_base_in_every_setting(parts: dict[Path, list[Run]]) -> None:
    found = comparisons.variants(by_method(parts[Path("a")]))
    assert found is not None
    axes = suite_figures.variants(found, parts, "").axes
    assert [ax.get_title("left") for ax in axes] == [
        "a", "1 of 2 clearly lower than mixed policy, 0 higher",
        "b", "1 of 1 clearly lower than mixed policy, 0 higher",
    ]  # fmt: skip
    order = ["mixed policy", "two members", "one member"]  # the base, then the best
    assert [t.get_text() for t in axes[0].get_yticklabels()] == order
    assert [t.get_text().split(" ±")[0] for t in axes[1].texts] == ["-4.9", "-0.3"]
    assert [len(ax.containers) for ax in axes] == [0, 2, 0, 1]


def test_only_what_is_clear_has_a_full_marker(parts: dict[Path, list[Run]]) -> None:
    found = comparisons.variants(by_method(parts[Path("a")]))
    assert found is not None
    right = suite_figures.variants(found, parts, "").axes[1]
    two, one = sorted(bars(right), key=lambda found: found.y[0])
    assert two.face == "white"
    assert one.face == one.colour
    for shown, gaps in ((two, [1.0, -2.0, 0.0]), (one, [-5.0, -4.9, -4.8])):
        assert shown.x == pytest.approx(np.mean(gaps))
        half = 4.303 * np.std(gaps, ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
        assert shown.half == pytest.approx(half, rel=1e-3)


def test_one_seed_has_no_interval_and_no_verdict(parts: dict[Path, list[Run]]) -> None:
    first = {place: [run for run in runs if run["seed"] == 0] for place, runs in parts.items()}
    found = comparisons.variants(by_method(first[Path("a")]))
    assert found is not None
    right = suite_figures.variants(found, first, "").axes[1]
    assert right.get_title("left") == "0 of 2 clearly lower than mixed policy, 0 higher"
    assert [t.get_text() for t in right.texts] == ["-5.0", "+1.0"]
