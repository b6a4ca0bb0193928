"""The figure of off-policy estimates: what is drawn where, and what lies beyond the frame."""

from __future__ import annotations

import pytest
from drawn import bars, points
from made_up import estimated, made_up

from experiments.plots import replay_figures
from experiments.reporting.runs import Groups


@pytest.fixture
def groups() -> Groups:
    return {
        "mixed_policy": [
            estimated(made_up("mixed_policy", seed, 80.0 + 10 * seed), fitted_q=0.1 - 0.2 * seed)
            for seed in (0, 1)
        ],
        "cluster": [estimated(made_up("cluster", 0, 60.0), importance=9.0)],
    }


def test_a_panel_per_estimator_on_common_axes(groups: Groups) -> None:
    fig = replay_figures.replay(groups, "mine")
    titles = [ax.get_title("left") for ax in fig.axes]
    assert [title.split(":")[0] for title in titles] == [
        "importance", "self normalised", "doubly robust", "fitted q",
    ]  # fmt: skip
    assert titles[1].endswith("100 % of intervals hold the truth")
    assert titles[0].endswith("67 % of intervals hold the truth; 2 beyond")
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in fig.axes}) == 1


def test_points_are_means_over_seeds_with_the_error_of_one_log(groups: Groups) -> None:
    fitted = replay_figures.replay(groups, "mine").axes[3]
    ours, theirs = bars(fitted)
    # Two seeds gain 0.08 and 0.09; the estimates are 1.1 and 0.9 times that.
    assert ours.x == pytest.approx([1.085, 1.085])
    assert ours.y == pytest.approx([1 + (1.1 * 0.08 + 0.9 * 0.09) / 2] * 2)
    assert ours.half == pytest.approx([0.0196, 0.0196])
    assert theirs.y == pytest.approx(theirs.x)
    assert ours.colour != theirs.colour


def test_what_lies_beyond_stands_at_the_frame(groups: Groups) -> None:
    ax = replay_figures.replay(groups, "mine").axes[0]
    assert len(bars(ax)[1].x) == 0
    at_frame = [xy for xy in points(ax) if len(xy) == 2 and (xy[:, 1] == ax.get_ylim()[1]).all()]
    assert len(at_frame) == 1
    assert at_frame[0][:, 0] == pytest.approx([1.06, 1.06])


def test_the_title_names_what_misses_least(groups: Groups) -> None:
    assert replay_figures.says(groups) == (
        "From a log alone, self normalised misses the gain by 0 % (rms)"
    )
