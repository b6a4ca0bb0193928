"""Figures of one setting from made-up runs: what they plot, and what they say."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from drawn import Bars, bars, legend_of, points
from made_up import made_up
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb

from experiments.plots import figures, study_figures
from experiments.plots.titles import OTHERS, STYLES, forecast_ratio, looks, tag_groups
from experiments.reporting.runs import by_method

HEADS = {f"cost_to_go/head_{g}": ([1, 2, 3], [0.1 * g, 0.2 * g, 0.3 * g]) for g in range(9)}


def named(ax: Axes) -> dict[str, Bars]:
    return {found.label: found for found in bars(ax)}


def test_frontier_shows_matched_gain_at_the_budget_and_true_gain_at_the_spend() -> None:
    groups = by_method([made_up("oracle", score=100), made_up("mixed_policy", score=90)])
    drawn = points(figures.frontier(groups, "").axes[0])
    for wanted in (
        np.array([[0, 0], [0.2, 0.1], [0.8, 0.1]]),  # the optimum
        np.array([[0.2, 0.09], [0.8, 0.091]]),  # score / 100 * best_gain at the budget
        np.array([[0.19, 0.09], [0.76, 0.09]]),  # true gain at true spend
    ):
        assert any(p.shape == wanted.shape and np.allclose(p, wanted) for p in drawn)


def test_scores_have_95_percent_intervals_and_a_point_per_seed() -> None:
    groups = by_method(made_up("mixed_policy", seed, score) for seed, score in ((0, 90), (1, 94)))
    right = figures.frontier(groups, "").axes[1]
    found = named(right)["mixed policy"]
    assert found.y == pytest.approx([92, 93])
    assert found.half == pytest.approx(1.96 * np.sqrt(1 + 8 / 2))
    assert any(len(p) == 4 and set(p[:, 1]) == {90, 91, 94, 95} for p in points(right))


def test_forecast_shows_both_ratios_the_spend_and_how_often_it_was_too_much() -> None:
    runs = [made_up("mixed_policy", seed, score=90) for seed in range(2)]
    runs[1]["rows"][0]["spend_share"] = 1.02
    runs[1]["rows"][1]["spend_share"] = 1.05
    fig = figures.forecast(by_method([*runs, made_up("greedy_uplift", score=50)]), "title")
    gain, cost, spend = fig.axes
    assert named(gain)["mixed policy"].y == pytest.approx(0.1 / 0.09 * 100)
    assert named(gain)["greedy uplift"].y == pytest.approx(200)
    assert named(cost)["mixed policy"].y == pytest.approx(100 / 0.95)
    assert named(spend)["mixed policy"].y == pytest.approx([98.5, 100])
    assert [ax.get_ylabel() for ax in fig.axes] == [
        "forecast gain,\n% of the true gain", "forecast cost,\n% of the true cost",
        "true spend,\n% of the budget",
    ]  # fmt: skip
    (legend,) = fig.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said == ["mixed policy: 50 %, 25 %", "greedy uplift: 0 %, 0 %"]


def test_forecast_ratio_is_forecast_over_truth() -> None:
    ratio, error = forecast_ratio([made_up("mixed_policy", score=90)], "cost")
    assert ratio == pytest.approx(np.full((1, 2), 100 / 0.95))
    true, noise = np.array([0.19, 0.76]), 0.01 * np.array([0.2, 0.8])
    assert error == pytest.approx(100 * np.hypot(0.01, noise / 0.95) / true)
    runs = [made_up("mixed_policy", seed, score) for seed, score in ((0, 80), (1, 100))]
    ratio, error = forecast_ratio(runs, "gain")
    assert ratio[:, 0] == pytest.approx([125, 100])
    judged = np.mean([125 * 0.01 / 0.8, 100 * 0.01])  # score_error is 1 % of the best gain
    assert error == pytest.approx(np.sqrt(judged**2 + np.var([125, 100], ddof=1) / 2))


def test_without_a_true_gain_there_is_no_ratio() -> None:
    ratio, error = forecast_ratio([made_up("mixed_policy", score=-5)], "gain")
    assert np.isnan(ratio).all()
    assert np.isnan(error).all()
    groups = by_method([made_up("mixed_policy", score=-5)])
    assert "gain ? %" in figures.FIGURES["forecast"][1](groups)


def test_many_heads_have_colours_in_order_and_three_names() -> None:
    fig = figures.learning(HEADS, made_up("x")["setting"], "#0072B2", "")
    (ax,) = fig.axes
    colours = [to_hex(line.get_color()) for line in ax.get_lines()]
    assert len(set(colours)) == len(HEADS)
    light = [sum(to_rgb(colour)) for colour in colours]
    assert light == sorted(light)
    assert legend_of(ax) == ["lowest price", "head 4", "highest price"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("days to the end", "currency per user")


def test_few_members_are_shades_of_the_method_and_losses_are_logarithmic() -> None:
    members = {f"value_loss/member_{f}": ([1, 2], [0.5, 0.1 + 0.1 * f]) for f in range(2)}
    (ax,) = figures.learning(members, made_up("x")["setting"], "#0072B2", "").axes
    assert [line.get_color() for line in ax.get_lines()] == ["#0072B2", "#0072B2"]
    assert (ax.get_yscale(), ax.get_xlabel()) == ("log", "days to the end")


def test_the_learned_frontier_is_reward_against_cost() -> None:
    steps = [0, 1, 2]
    curves = {"frontier/reward": (steps, [3.0, 2.0, 1.0]), "frontier/cost": (steps, [5.0, 1.0, 0])}
    (ax,) = figures.learning(curves, made_up("x")["setting"], "#0072B2", "").axes
    (line,) = points(ax)
    assert line == pytest.approx(np.array([[5, 3], [1, 2], [0, 1]]))
    assert [text.get_text() for text in ax.texts] == ["lowest price", "highest price"]
    assert ax.get_xlabel() == "expected cost, currency per user"


def test_tags_are_grouped_by_what_is_no_number() -> None:
    curve = ([1], [1.0])
    tags = ["response/member_0/cost_2", "response/member_1/cost_2", "to_go/head_11", "loss"]
    groups = tag_groups(dict.fromkeys(tags, curve))
    assert {name: list(found) for name, found in groups.items()} == {
        "response/cost": ["member 0, 2", "member 1, 2"],
        "to_go": ["head 11"],
        "loss": [""],
    }


def test_methods_keep_their_look() -> None:
    every = [*STYLES.values(), *OTHERS]
    assert len({colour for colour, _ in every}) == len(every)
    assert len(set(STYLES.values())) == len(STYLES)
    alone, among = looks(["mixed_policy"]), looks(["my_lab.thrifty", "mixed_policy", "oracle"])
    assert alone["mixed_policy"] == among["mixed_policy"] == STYLES["mixed_policy"]
    assert among["my_lab.thrifty"] == looks(["my_lab.thrifty"])["my_lab.thrifty"]


def test_unknown_methods_do_not_share_a_look_while_there_are_free_ones() -> None:
    names = ["v" * (i + 1) for i in range(len(OTHERS))]
    assert len({zlib.crc32(name.encode()) % len(OTHERS) for name in names}) < len(OTHERS)
    assert set(looks(names).values()) == set(OTHERS)
    assert len(looks([*names, "one more"])) == len(OTHERS) + 1


def test_myopia_shows_the_mean_of_each_preset() -> None:
    study = {"shares": [0.1, 0.4], "found": {"toy": {"score": [[70.0, 80.0], [72.0, 84.0]]}}}
    (ax,) = study_figures.myopia(study).axes
    (found,) = bars(ax)
    assert found.label == "toy"
    assert found.y == pytest.approx([71, 82])
    assert found.half == pytest.approx(1.96 * np.array([1, 2]))
