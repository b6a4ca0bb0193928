"""Figures of the one-shot tables: methods as dots with 95 % intervals, coloured by their kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plots.drawing import LOOK, legend, panels, save
from experiments.trials.one_shot_methods import DECISION, DIRECT, OTHER, REFERENCE, TWO_STAGE

COLOURS = {
    TWO_STAGE: ("#D55E00", "s"),
    DIRECT: ("#CC79A7", "D"),
    DECISION: ("#009E73", "^"),
    OTHER: ("#0072B2", "o"),
}
BY = {
    "noise": "noise",
    "share": "budget, % of the best arm for all",
    "users_per_arm": "training users an arm",
    "shift": "test world",
}

Row = dict[str, Any]
Dot = tuple[str, str, float, float, float]  # name, kind, value, ends of its interval


def draw(tables: Mapping[str, Any], folder: Path) -> None:
    """Write all figures of a comparison as PNG and SVG."""
    with matplotlib.rc_context(LOOK):
        for name, figure in figures(tables):
            save(figure, folder / name)


def figures(tables: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Figures by file name; none where there are no numbers."""
    if "regrets" in tables:
        if tables["regrets"]:
            yield "regret", regret(tables["regrets"])
        if tables["contrasts"]:
            yield "decision_focused", decision_focused(tables["contrasts"])
    elif tables["differences"]:
        yield "difference", differences(tables["differences"])
    elif tables["revenue"]:
        yield "revenue", revenue(tables["revenue"])
    elif tables["metrics"]:
        yield "aucc", rankings(tables["metrics"])


def regret(rows: Sequence[Row]) -> Figure:
    """Regret of every method, inter-quartile means; a row of panels for each number of users, with
    and without shift."""
    down = sorted({(r["users_per_arm"], r["shift"]) for r in rows})
    across = sorted({r["noise"] for r in rows})
    methods = {r["method"] for r in rows}
    fig, axes = panels(
        len(down), len(across), "Regret to the best that features can tell, mean over five budgets",
        height=1 + (0.6 + 0.17 * len(methods)) * len(down), sharex="row", sharey=True,
    )  # fmt: skip
    # The same order in all panels: that of the mean.
    order = sorted(methods, key=lambda m: -np.mean([r["centre"] for r in rows if r["method"] == m]))
    for i, (users, shift) in enumerate(down):
        for j, noise in enumerate(across):
            ax = axes[i * len(across) + j]
            found = {
                r["method"]: r
                for r in rows
                if (r["users_per_arm"], r["shift"], r["noise"]) == (users, shift, noise)
            }
            dots(ax, [_dot(found[m], "centre") for m in order if m in found], order)
            ax.set_title(f"noise {noise:g}, {users:,} users{', shift' if shift else ''}", size=9)
            if i == len(down) - 1:
                ax.set_xlabel("regret, %")
    _key(fig, axes[0], {r["kind"] for r in rows})
    return fig


def decision_focused(rows: Sequence[Row]) -> Figure:
    """What decision losses add to the same network, by what the settings vary."""
    shown = [by for by in BY if sum(r["by"] == by for r in rows) > 2]
    title = f"Decision-focused methods, in the mean, minus {REFERENCE}: points of regret"
    fig, axes = panels(1, max(len(shown), 1), title, sharey=True)
    looks = (("regret", COLOURS[DECISION], 0.0), ("regret_equal", COLOURS[OTHER], 0.12))
    says = {"regret": "as they spend", "regret_equal": "budget met exactly"}
    for ax, by in zip(axes, shown, strict=False):
        values = list(dict.fromkeys(r["value"] for r in rows if r["by"] == by))
        for measure, (colour, marker), aside in looks:
            part = [r for r in rows if r["by"] == by and r["measure"] == measure]
            mean, low, high = np.transpose([(r["difference"], r["low"], r["high"]) for r in part])
            x = np.arange(len(part)) + aside
            bars = np.nan_to_num([mean - low, high - mean])
            ax.errorbar(x, mean, bars, color=colour, marker=marker, ls="", label=says[measure])
        ax.axhline(0, color="black", lw=1)
        ax.set_xticks(range(len(values)), [_tick(by, value) for value in values])
        ax.set_xlabel(BY[by])
    axes[0].set_ylabel("points; below 0 is better")
    legend(fig, axes[0])
    return fig


def differences(rows: Sequence[Row]) -> Figure:
    """Gain over each rival at the same cost, mean over budgets; a panel a rival."""
    means = [r for r in rows if r["share"] is None and r["method"] != r["against"]]
    rivals = list(dict.fromkeys(r["against"] for r in means))
    names = list(dict.fromkeys(r["name"] for r in means))
    title = f"Gain per user at the same budget, mean over budgets: {', '.join(names)}"
    fig, axes = panels(len(names), len(rivals), title, height=1.5 + 3 * len(names))
    for ax, (name, rival) in zip(axes, [(n, r) for n in names for r in rivals], strict=True):
        part = [r for r in means if (r["name"], r["against"]) == (name, rival)]
        found = [_dot(r, "difference", "") for r in sorted(part, key=lambda r: r["difference"])]
        dots(ax, found, [d[0] for d in found])
        ax.axvline(0, color="black", lw=1)
        ax.set_xlabel(f"{name}, over {rival}")
    _key(fig, axes[0], {r["kind"] for r in means})
    return fig


def revenue(rows: Sequence[Row]) -> Figure:
    """Net incremental revenue of held-out users."""
    task = [r for r in rows if r["estimator"] == "task"]
    mine = sorted((r for r in task if r["policy"] == "allocator"), key=lambda r: r["net"])
    fig, (ax,) = panels(1, 1, "Net incremental revenue of held-out users")
    found = [_dot(r, "net", "") for r in mine]
    every = next(r for r in task if r["policy"] == "everyone")
    found = [("send to everyone", OTHER, every["net"], every["low"], every["high"]), *found]
    dots(ax, found, [d[0] for d in found])
    ax.axvline(0, color="black", lw=1)
    ax.set_xlabel("$")
    _key(fig, ax, {r["kind"] for r in mine} | {OTHER})
    return fig


def rankings(rows: Sequence[Row]) -> Figure:
    """AUCC of every method."""
    part = sorted((r for r in rows if r["metric"] == "aucc"), key=lambda r: r["value"])
    fig, (ax,) = panels(1, 1, "AUCC (200 steps) on the test part")
    found = [_dot(r, "value") for r in part]
    dots(ax, found, [d[0] for d in found])
    ax.axvline(0.5, color="black", lw=1)
    ax.set_xlabel("AUCC; 0.5 is random")
    _key(fig, ax, {r["kind"] for r in part})
    return fig


def dots(ax: Axes, found: Sequence[Dot], order: Sequence[str]) -> None:
    """A dot with its interval for each name, from the bottom up in the given order."""
    for name, kind, value, low, high in found:
        colour, marker = COLOURS[kind]
        bars = np.nan_to_num([[value - low], [high - value]])
        ax.errorbar(value, order.index(name), xerr=bars, color=colour, marker=marker, ms=4, ls="")
    ax.set_yticks(range(len(order)), order, size=8)


def _dot(r: Row, value: str, ends: str | None = None) -> Dot:
    part = f"{value}_" if ends is None else ends
    return r["method"], r["kind"], r[value], r[f"{part}low"], r[f"{part}high"]


def _key(fig: Figure, ax: Axes, kinds: set[str]) -> None:
    for kind, (colour, marker) in COLOURS.items():
        if kind in kinds:
            ax.plot([], [], color=colour, marker=marker, ls="", label=kind)
    legend(fig, ax, "bars: 95 % intervals")


def _tick(by: str, value: Any) -> str:
    if by == "shift":
        return "another" if value else "same"
    return f"{100 * value:g}" if by == "share" else f"{value:g}"
