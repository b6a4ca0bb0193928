"""Figures of all methods of a suite over all its settings: profiles, ranks, spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.plots.drawing import legend, panels
from experiments.plots.titles import MAIN, looks, main_method, shown_name
from experiments.reporting import statistics
from experiments.reporting.runs import REFERENCES, Groups, column
from marketing_env.config import Array

Strata = Mapping[str, Sequence[Array]]  # by method: (seeds, budgets) scores of every setting


def profiles(scores: Strata, title: str, most: int = 8) -> Figure:
    """Share of runs that score more than each level, with 95 % bands where seeds allow one."""
    center = statistics.bootstrap(scores[main_method(scores)], statistics.interquartile_mean)
    says = f"{shown_name(main_method(scores))}: {said(center)} in the interquartile mean"
    fig, (ax,) = panels(1, 1, f"{title}, all settings and budgets\n{says}")
    chosen = list(dict.fromkeys([*(m for m in (MAIN,) if m in scores), *scores]))[:most]
    lowest = min(float(s.min()) for m in chosen for s in scores[m])
    levels = np.linspace(np.clip(np.floor(lowest / 10) * 10, -20, 90), 105, 201)
    look = looks(scores)
    for method in chosen:
        share, low, high = statistics.profile(scores[method], levels)
        colour, marker = look[method]
        wide, above = (2.4, 3) if method == MAIN else (1.4, 2)
        ax.fill_between(levels, 100 * low, 100 * high, color=colour, alpha=0.15, lw=0)
        ax.plot(
            levels, 100 * share, color=colour, marker=marker, markevery=20, ms=6, lw=wide,
            label=shown_name(method), zorder=above,
        )  # fmt: skip
    ax.set(xlabel="score, % of the optimum's gain", ylabel="runs that score more, %")
    ax.set(xlim=(levels[0], levels[-1]), ylim=(-2, 102))
    left_out = len(scores) - len(chosen)
    legend(fig, ax, f"{left_out} more methods stand in the table" if left_out else None)
    return fig


def rank_map(scores: Strata, title: str) -> Figure:
    """How often each method has each rank, over settings and budgets and resampled seeds."""
    names = list(scores)
    shares = statistics.rank_shares([scores[m] for m in names])
    means = statistics.ranks([scores[m] for m in names]).mean(axis=1)
    order = np.argsort(means, kind="stable")
    height = 1.6 + 0.36 * len(names)
    first = 100 * shares[names.index(main_method(scores)), 0]
    leader = shown_name(main_method(scores))
    says = f"{title}\n{leader} is first in {first:.0f} % of settings and budgets"
    fig, (ax,) = panels(1, 1, says, height=height)
    ax.imshow(100 * shares[order], cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for y, row in enumerate(shares[order]):
        for x, share in enumerate(row):
            if share >= 0.005:
                ink = "white" if share > 0.6 else "black"
                ax.text(x, y, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=9)
    labels = [f"{shown_name(names[i])} (mean {means[i]:.1f})" for i in order]
    ax.set_yticks(range(len(names)), labels)
    ax.set_xticks(range(len(names)), [str(r + 1) for r in range(len(names))])
    ax.set(xlabel="rank; cells: % of settings and budgets, seeds drawn anew")
    ax.grid(False)
    return fig


def calibration(groups: Groups, title: str) -> Figure:
    """True spend of every run at every budget, a line per method; beyond 103 % is a violation."""
    shown = {m: runs for m, runs in groups.items() if m not in REFERENCES}
    count, of = statistics.violation_rate(shown[main_method(shown)])
    says = f"{title}\n{shown_name(main_method(shown))} spends over 103 % in {count} of {of} cases"
    fig, (ax,) = panels(1, 1, says, height=1.6 + 0.36 * len(shown))
    ax.axvspan(103, 1e4, color="#D55E00", alpha=0.1, lw=0)
    ax.axvline(100, color="black", lw=1)
    spent = {m: 100 * np.concatenate([column([run], "spend_share").ravel() for run in runs])
             for m, runs in shown.items()}  # fmt: skip
    for y, (method, (colour, marker)) in enumerate((m, looks(shown)[m]) for m in shown):
        values = spent[method]
        beside = y + np.linspace(-0.25, 0.25, len(values))
        ax.plot(values, beside, ls="", marker=".", ms=5, color=colour, alpha=0.5)
        ax.plot(np.median(values), y, marker=marker or "o", ms=9, color=colour, mec="white")
        count, of = statistics.violation_rate(shown[method])
        ax.annotate(f"{count} of {of} above 103 %", (1, y), (6, 0), fontsize=9, va="center",
                    xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
    every = np.concatenate(list(spent.values()))
    ax.set(xlim=(min(92.0, every.min() - 2), max(106.0, every.max() + 2)))
    ax.set_yticks(range(len(shown)), [shown_name(m) for m in shown])
    ax.set(ylim=(len(shown) - 0.4, -0.6), xlabel="true spend, % of the budget; large: median")
    ax.grid(False, axis="y")
    return fig


def said(interval: statistics.Interval) -> str:
    """An interval in words; a value alone where no interval can be given."""
    if np.isnan(interval.low):
        return f"{interval.value:.1f}"
    return f"{interval.value:.1f} ({interval.low:.1f} to {interval.high:.1f})"
