"""Figures of one setting: what its methods earn, spend, give to whom, forecast and learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.plots import titles
from experiments.plots.drawing import BUDGETS, NOTE, in_order, intervals, legend, panels
from experiments.plots.titles import (
    GREEDY,
    MAIN,
    Curve,
    forecast_ratio,
    looks,
    main_method,
    offer_unit,
    percent,
    reward_unit,
    shown_name,
    tag_groups,
)
from experiments.reporting.runs import Groups, Run, column, pooled
from marketing_env.config import STATE_COLUMNS, Array


def frontier(groups: Groups, title: str) -> Figure:
    """Incremental reward against budget in money, and as a share of the exact optimum."""
    fig, (left, right) = panels(1, 2, title)
    rows, look = _first(groups)["rows"], looks(groups)
    budget, best = (np.array([row[k] for row in rows]) for k in ("budget", "best_gain"))
    left.plot([0, *budget], [0, *best], color="black", lw=2, label="exact optimum (bound)")
    shown = {m: g for m, g in groups.items() if m != "oracle"}
    for method, runs in shown.items():
        score, error = (part * best / 100 for part in pooled(runs, "score"))
        colour, marker = look[method]
        bars = 1.96 * np.nan_to_num(error)
        left.errorbar(
            budget, score, bars, color=colour, marker=marker, label=shown_name(method), lw=1.2
        )
        spend, gain = (column(runs, key).mean(axis=0) for key in ("cost", "gain"))
        left.plot(spend, gain, ls="", marker=marker or "o", mfc="none", mec=colour, ms=7)
    left.plot([], [], ls="", marker="o", mfc="none", mec="grey", ms=7, label="at its true spend")
    setting = _first(groups)["setting"]
    left.set(
        xlabel="budget, currency per user", xlim=(0, None), ylim=(0, None),
        ylabel=f"gain over no incentives,\n{reward_unit(setting)} per user",
    )  # fmt: skip
    scores = {m: (column(runs, "score"), pooled(runs, "score")[1]) for m, runs in shown.items()}
    intervals(right, scores, rows)
    right.axhline(100, color="black", lw=2)
    right.set(ylabel="score, % of the optimum's gain")
    legend(fig, left, NOTE)
    return fig


def spend_over_days(groups: Groups, title: str) -> Figure:
    """Cost per user by day at the tightest and at the middle budget."""
    rows, look = _first(groups)["rows"], looks(groups)
    chosen = sorted({0, len(rows) // 2})
    fig, axes = panels(1, len(chosen), title)
    for ax, i in zip(axes, chosen, strict=True):
        for method, runs in groups.items():
            cost = np.mean([run["rows"][i]["cost_by_day"] for run in runs], axis=0)
            wide, opaque = (2.4, 1.0) if method in ("oracle", MAIN) else (1.2, 0.55)
            ax.plot(
                1 + np.arange(len(cost)), cost, color=look[method][0], lw=wide, alpha=opaque,
                label=shown_name(method),
            )  # fmt: skip
        ax.set(title=f"budget {percent(rows[i])}: {rows[i]['budget']:.3g} currency per user")
        ax.set(xlabel="day of the campaign", ylim=(0, None))
    axes[0].set(ylabel="cost, currency per user and day")
    legend(fig, axes[0])
    return fig


def who_gets_what(groups: Groups, title: str) -> Figure:
    """Mean incentive by engagement, recency and fatigue at the middle budget."""
    shown = [m for m in dict.fromkeys(("oracle", main_method(groups), GREEDY)) if m in groups]
    fig, axes = panels(1, 3, title, sharey=True)
    rows, look = _first(groups)["rows"], looks(groups)
    i = len(rows) // 2
    for ax, state in zip(axes, STATE_COLUMNS, strict=True):
        for method in shown:
            given = groups[method][0]["rows"][i]["incentive_by_state"][state]
            level, mean = np.array([(float(k), v) for k, v in given.items()]).T
            colour, marker = look[method]
            ax.plot(level, mean, color=colour, marker=marker or ".", label=shown_name(method))
        ax.set(xlabel=f"{state}, lowest 0 to highest 1", xlim=(-0.04, 1.04))
    axes[0].set(ylim=(0, None), ylabel=f"mean incentive, {offer_unit(_first(groups)['setting'])}")
    legend(fig, axes[0])
    return fig


def forecast(groups: Groups, title: str) -> Figure:
    """What was forecast and what was allowed, against what came true; how often it was too much."""
    fig, axes = panels(3, 1, title, height=8.6, sharex=True)
    parts: tuple[tuple[str, Callable[[Sequence[Run]], tuple[Array, Array]]], ...] = (
        ("forecast gain,\n% of the true gain", partial(forecast_ratio, what="gain")),
        ("forecast cost,\n% of the true cost", partial(forecast_ratio, what="cost")),
        ("true spend,\n% of the budget", _spend),
    )
    for ax, (says, ratio) in zip(axes, parts, strict=True):
        intervals(ax, {m: ratio(runs) for m, runs in groups.items()}, _first(groups)["rows"])
        ax.axhline(100, color="black", lw=1)
        ax.set(xlabel="", ylabel=says)
    axes[2].axhline(103, color="black", lw=1, ls=":")
    axes[2].set(xlabel=BUDGETS)
    handles, _ = axes[2].get_legend_handles_labels()
    often = [f"{shown_name(m)}: {_often(g, 1.0)}, {_often(g, 1.03)}" for m, g in groups.items()]
    fig.legend(
        handles, often, loc="outside lower center", ncols=min(3, len(often)),
        title=f"{NOTE}\nhow often the true spend was above 100 %, and above 103 % of the budget:",
    )  # fmt: skip
    return fig


def learning(
    curves: Mapping[str, Curve], setting: Mapping[str, Any], colour: str, title: str
) -> Figure:
    """Learning curves of a method: a panel per group of tags, and the learned frontier."""
    groups = tag_groups({tag: c for tag, c in curves.items() if tag not in _FRONTIER})
    count = len(groups) + all(tag in curves for tag in _FRONTIER)
    columns = min(3, count)
    fig, axes = panels(-(-count // columns), columns, title)
    for ax, (group, series) in zip(axes, groups.items(), strict=False):
        _curves(ax, group, series, colour)
        ax.set(title=group.replace("_", " ").replace("/", ": "), ylabel=_unit(group, setting))
    if count > len(groups):
        cost, reward = (curves[tag][1] for tag in _FRONTIER)
        _learned_frontier(axes[len(groups)], cost, reward, reward_unit(setting))
    for ax in axes:
        ax.yaxis.label.set_size(9)  # long units stand beside low panels
    for ax in axes[count:]:
        ax.set_visible(False)
    return fig


FIGURES: dict[str, tuple[Callable[[Groups, str], Figure], Callable[[Groups], str]]] = {
    "frontier": (frontier, titles.frontier),
    "spend_over_days": (spend_over_days, titles.spend_over_days),
    "who_gets_what": (who_gets_what, titles.who_gets_what),
    "forecast": (forecast, titles.forecast),
}
_FRONTIER = ("frontier/cost", "frontier/reward")


def _spend(runs: Sequence[Run]) -> tuple[Array, Array]:
    """(seeds, budgets) true spend in % of the budget, and the error of its mean."""
    return 100 * column(runs, "spend_share"), 100 * pooled(runs, "spend_share")[1]


def _often(runs: Sequence[Run], limit: float) -> str:
    return f"{100 * float((column(runs, 'spend_share') > limit).mean()):.0f} %"


def _curves(ax: Axes, group: str, series: Mapping[str, Curve], colour: str) -> None:
    """All lines of a group: few are shades of the method, many go from dark to light in order."""
    names, curves = list(series), list(series.values())
    few = len(curves) <= 4
    colours = [colour] * len(curves) if few else in_order(len(curves))
    named = range(len(curves)) if few else (0, len(curves) // 2, len(curves) - 1)
    for i, curve in enumerate(curves):
        label = _price_name(names[i], i, len(names)) if i in named else None
        opaque = 1 - 0.7 * i / len(curves) if few else 1.0
        ax.plot(*curve, color=colours[i], alpha=opaque, lw=1.3, label=label)
    values = np.concatenate([v for _, v in curves])
    if "loss" in group and values.min() > 0:
        ax.set_yscale("log")
        wide = values.max() > 30 * values.min()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 3) if wide else (1, 1.5, 2, 3, 4, 5, 7)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    if len(curves) > 1:
        ax.legend(fontsize=8, handlelength=1)
    backwards = "to_go" in group or "value_loss" in group
    ax.set(xlabel="days to the end" if backwards else "step")


def _price_name(name: str, i: int, count: int) -> str:
    """Heads are in order of their price; the ends say so."""
    ends = {0: "lowest price", count - 1: "highest price"}
    return ends.get(i, name) if name.startswith("head") else name


def _learned_frontier(ax: Axes, cost: list[float], reward: list[float], unit: str) -> None:
    """The best responses to every price, as the model values them."""
    ax.plot(cost, reward, color="grey", lw=1)
    ax.scatter(cost, reward, c=in_order(len(cost)), zorder=2)
    for i, name in ((0, "lowest price"), (len(cost) - 1, "highest price")):
        away = (8, -20, "right") if i == 0 else (8, -2, "left")
        ax.annotate(
            name, (cost[i], reward[i]), away[:2], textcoords="offset points", ha=away[2],
            fontsize=8,
        )  # fmt: skip
    ax.set(title="frontier", xlabel="expected cost, currency per user", ylabel=f"{unit} per user")


def _unit(group: str, setting: Mapping[str, Any]) -> str:
    units = {"cost_to_go": "currency", "reward_to_go": reward_unit(setting)}
    return f"{units[group]} per user" if group in units else "loss"


def _first(groups: Groups) -> Run:
    return next(iter(groups.values()))[0]
