"""Figures of all methods of a suite: lines, cells and points from made-up scores."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import named_lines, points
from made_up import made_up

from experiments.plots import profile_figures
from experiments.plots.titles import STYLES
from experiments.reporting.runs import by_method

SCORES = {
    "greedy_uplift": [np.array([[70.0, 80.0], [72.0, 82.0]])],
    "mixed_policy": [np.array([[90.0, 95.0], [92.0, 97.0]])],
}


def test_a_profile_falls_from_all_runs_to_none() -> None:
    fig = profile_figures.profiles(SCORES, "main")
    (ax,) = fig.axes
    lines = named_lines(ax)
    assert list(lines) == ["mixed policy", "greedy uplift"]
    levels, share = lines["mixed policy"].T
    assert share[0] == 100
    assert share[-1] == 0
    assert share[np.searchsorted(levels, 93.0)] == pytest.approx(50)
    said = "mixed policy: 93.5 (92.5 to 94.5) in the interquartile mean"
    assert fig.get_suptitle().splitlines()[1] == said


def test_methods_beyond_the_first_are_counted() -> None:
    fig = profile_figures.profiles(SCORES, "main", most=1)
    assert list(named_lines(fig.axes[0])) == ["mixed policy"]
    assert fig.legends[0].get_title().get_text() == "1 more methods stand in the table"


def test_cells_say_how_often_each_rank_is_held() -> None:
    fig = profile_figures.rank_map(SCORES, "main")
    (ax,) = fig.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "mixed policy (mean 1.0)", "greedy uplift (mean 2.0)",
    ]  # fmt: skip
    assert {(t.get_position(), t.get_text()) for t in ax.texts} == {
        ((0, 0), "100"),
        ((1, 1), "100"),
    }
    assert "mixed policy is first in 100 %" in fig.get_suptitle()


def test_every_policy_is_a_point_of_its_spend() -> None:
    runs = [made_up("mixed_policy", seed) for seed in (0, 1)] + [made_up("oracle")]
    runs[0]["rows"][0]["spend_share"] = 1.08
    fig = profile_figures.calibration(by_method(runs), "main")
    (ax,) = fig.axes
    spent = next(p for p in points(ax) if len(p) == 4)
    assert sorted(spent[:, 0]) == pytest.approx([95, 95, 95, 108])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["mixed policy"]
    assert [t.get_text() for t in ax.texts] == ["1 of 4 above 103 %"]
    assert fig.get_suptitle() == "main\nmixed policy spends over 103 % in 1 of 4 cases"
    assert any(line.get_color() == STYLES["mixed_policy"][0] for line in ax.get_lines())
