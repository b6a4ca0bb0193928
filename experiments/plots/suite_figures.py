"""Figures of a whole suite: scores along a line of settings, and variants of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from experiments.plots import titles
from experiments.plots.drawing import NOTE, in_order, legend, panels
from experiments.plots.titles import looks, main_method, percent, shown_name
from experiments.reporting.comparisons import AXES, Line, Variants, mean_scores, paired_difference
from experiments.reporting.runs import (
    REFERENCES,
    Groups,
    Run,
    by_method,
    column,
    pooled,
    pooled_error,
)

Settings = Mapping[Path, Sequence[Run]]


def by_axis(line: Line, settings: Settings, title: str) -> Figure:
    """Score along a line: the mean over budgets of every method, the main method's by budget."""
    along = _along(line, settings)
    means = {
        m: np.array([mean_scores(runs).mean() for runs in f.values()]) for m, f in along.items()
    }
    says = f"{title}, by {AXES[line.axis]}\n{titles.by_axis(means)}"
    fig, (left, right) = panels(1, 2, says, sharey=True)
    look = looks(along)
    for method, found in along.items():
        _mean_line(left, found, *look[method], shown_name(method))
    chosen = main_method(along)
    _by_budget(right, along[chosen])
    left.set(title="mean over the budgets", ylabel="score, % of the optimum's gain")
    right.set(title=f"{shown_name(chosen)}, by budget (% of unconstrained spend)")
    for ax in (left, right):
        _number_axis(ax, line)
    legend(fig, left, NOTE)
    return fig


def variants(found: Variants, settings: Settings, title: str) -> Figure:
    """Mean score of every variant, and its difference to the base on the same training seeds."""
    shown = {place: by_method(runs) for place, runs in settings.items()}
    shown = {place: groups for place, groups in shown.items() if found.base in groups}
    order = _best_first(found, list(shown.values()))
    height = (0.8 + 0.32 * len(order)) * len(shown) + 1
    says = f"{title}\n{shown_name(found.base)} with other options, mean over the budgets"
    fig, axes = panels(len(shown), 2, says, height=height, sharey=True, sharex="col")
    for i, (place, groups) in enumerate(shown.items()):
        left, right = axes[2 * i : 2 * i + 2]
        there = {row: groups[row] for row in order if row in groups}
        _scores(left, there, order)
        _differences(right, there, order, found.base)
        left.set_title(place.name, loc="left", fontweight="bold")
        right.set_title(titles.variants(there, found.base), loc="left")
    axes[0].set(ylim=(len(order) - 0.5, -0.5))
    axes[0].set_yticks(range(len(order)), [shown_name(row) for row in order])
    axes[-2].set(xlabel="score, % of the optimum's gain; pale: seeds")
    axes[-1].set(xlabel="paired difference, points (95 % interval)")
    axes[-1].xaxis.set_major_locator(MaxNLocator(6))
    return fig


# ---------------------------------------------------------------- lines


def _along(line: Line, settings: Settings) -> dict[str, dict[float, Sequence[Run]]]:
    """Runs by method, the best first, and by the number of their setting."""
    groups = {value: by_method(settings[place]) for value, place in line.places.items()}
    every = by_method(run for place in line.places.values() for run in settings[place])
    return {
        m: {value: found[m] for value, found in groups.items() if m in found}
        for m in every
        if m not in REFERENCES
    }


def _mean_line(
    ax: Axes, found: Mapping[float, Sequence[Run]], colour: str, marker: str, name: str
) -> None:
    """Mean over budgets and seeds with its 95 % band, and every seed."""
    x, seeds = list(found), [mean_scores(runs) for runs in found.values()]
    mean = np.array([scores.mean() for scores in seeds])
    half = 1.96 * np.array([_error_of_mean(runs) for runs in found.values()])
    ax.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, lw=0)
    ax.plot(x, mean, color=colour, marker=marker or ".", label=name)
    at = np.repeat(x, [len(scores) for scores in seeds])
    ax.plot(at, np.concatenate(seeds), ls="", marker=".", ms=4, color=colour, alpha=0.4)


def _error_of_mean(runs: Sequence[Run]) -> float:
    """Budgets share users: the mean of their errors bounds the error of their mean."""
    evaluation = column(runs, "score_error").mean(axis=1)
    return float(pooled_error(mean_scores(runs), np.nan_to_num(evaluation)))


def _by_budget(ax: Axes, found: Mapping[float, Sequence[Run]]) -> None:
    """A line per budget, dark for tight ones."""
    runs = list(found.values())
    means, errors = np.moveaxis(np.array([pooled(some, "score") for some in runs]), 1, 0)
    rows = runs[0][0]["rows"]
    for b, colour in enumerate(in_order(len(rows))):
        bars = 1.96 * np.nan_to_num(errors[:, b])
        ax.errorbar(
            list(found), means[:, b], bars, color=colour, marker=".", lw=1.4, elinewidth=0.7,
            label=percent(rows[b]),
        )  # fmt: skip
    ax.legend(fontsize=9, handlelength=1.2)


def _number_axis(ax: Axes, line: Line) -> None:
    values = list(line.places)
    if line.axis == "log_users":
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xticks(values, [line.name(value) for value in values])
    ax.set(xlabel=AXES[line.axis])


# ---------------------------------------------------------------- variants


def _best_first(found: Variants, settings: Sequence[Groups]) -> list[str]:
    """The base, then the others by their mean difference to it over the settings."""
    gaps = {
        row: np.mean([paired_difference(g[row], g[found.base])[0] for g in settings if row in g])
        for row in found.changes
        if row != found.base and any(row in g for g in settings)
    }
    return [found.base, *sorted(gaps, key=lambda row: -gaps[row])]


def _scores(ax: Axes, groups: Groups, order: Sequence[str]) -> None:
    for row, (colour, marker) in looks(groups).items():
        scores, y = mean_scores(groups[row]), order.index(row)
        ax.plot(scores, [y] * len(scores), ls="", marker=".", color=colour, alpha=0.4)
        ax.plot(scores.mean(), y, marker=marker or "o", ms=8, color=colour)
    ax.grid(False, axis="y")


def _differences(ax: Axes, groups: Groups, order: Sequence[str], base: str) -> None:
    """Full markers where the 95 % interval excludes no difference, hollow ones elsewhere."""
    ax.axvline(0, color="black", lw=1)
    for row, (colour, marker) in looks(groups).items():
        mean, half = paired_difference(groups[row], groups[base])
        if row == base or np.isnan(mean):
            continue
        y, sure = order.index(row), abs(mean) > half
        ax.errorbar(
            mean, y, xerr=np.nan_to_num(half), marker=marker or "o", ms=8, color=colour, lw=1.5,
            mfc=colour if sure else "white",
        )  # fmt: skip
        said = f"{mean:+.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")
        ax.annotate(
            said, (1, y), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", fontsize=10,
        )  # fmt: skip
    ax.grid(False, axis="y")
