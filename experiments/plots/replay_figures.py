"""Figures of off-policy estimates beside the truth."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plots.drawing import legend, panels
from experiments.plots.titles import looks, reward_unit, shown_name
from experiments.reporting.replayed import ESTIMATORS, accuracy, estimates, replayed
from experiments.reporting.runs import Groups, Run, column, setting_of
from marketing_env.config import Array

_ROOM = 0.6  # beside the true rewards, in their range
_NOTE = "bars: 95 % interval that one log gives; at the frame, hollow: beyond it"


def replay(groups: Groups, title: str) -> Figure:
    """Estimated against true reward, a panel per estimator, a point per method and budget."""
    found = {m: some for m, runs in groups.items() if (some := replayed(runs))}
    every = [run for runs in found.values() for run in runs]
    fig, axes = panels(2, 2, title, height=8.2, sharex=True, sharey=True)
    low, high = _frame(every)
    look = looks(found)
    for ax, estimator in zip(axes, ESTIMATORS, strict=True):
        ax.plot([low, high], [low, high], color="black", lw=1, label="estimate = truth")
        beyond = sum(_points(ax, runs, estimator, method, look[method], (low, high))
                     for method, runs in found.items())  # fmt: skip
        ax.set_title(
            f"{estimator.replace('_', ' ')}: {_said(every, estimator, beyond)}", loc="left"
        )
        ax.set(xlim=(low, high), ylim=(low, high))
    unit = reward_unit(setting_of(every))
    for ax in axes[2:]:
        ax.set(xlabel=f"true reward, {unit} per user")
    for ax in axes[::2]:
        ax.set(ylabel="estimated reward")
    legend(fig, axes[0], _NOTE)
    return fig


def says(groups: Groups) -> str:
    """The title: how far the estimator goes that is least wrong."""
    every = [run for runs in groups.values() for run in replayed(runs)]
    error = {name: accuracy(every, name).error for name in ESTIMATORS}
    known = {name: e for name, e in error.items() if not np.isnan(e)}
    if not known:
        return "Off-policy estimates beside the truth"
    best = min(known, key=lambda name: known[name])
    return (
        f"From a log alone, {best.replace('_', ' ')} misses the gain by {known[best]:.0f} % (rms)"
    )


def _frame(runs: list[Run]) -> tuple[float, float]:
    """What the axes show: the true rewards, and some room."""
    true = column(runs, "reward")
    room = _ROOM * max(float(np.ptp(true)), 0.02 * float(np.abs(true).max()))
    return float(true.min()) - room, float(true.max()) + room


def _points(
    ax: Axes,
    runs: list[Run],
    estimator: str,
    method: str,
    look: tuple[str, str],
    frame: tuple[float, float],
) -> int:
    """Means over training seeds, which are pale; returns how many means lie beyond the frame."""
    colour, marker = look
    true = column(runs, "reward")
    told, error = (estimates(runs, estimator, key) for key in ("reward", "reward_error"))
    if len(runs) > 1:
        ax.plot(true.ravel(), told.ravel(), ls="", marker=".", ms=4, color=colour, alpha=0.3)
    x, y, half = (_means(part) for part in (true, told, 1.96 * error))
    inside = (y >= frame[0]) & (y <= frame[1])
    ax.errorbar(
        x[inside], y[inside], half[inside], color=colour, marker=marker or ".", ls="", ms=5,
        elinewidth=0.8, label=shown_name(method),
    )  # fmt: skip
    beyond = np.isfinite(y) & ~inside
    if beyond.any():
        ax.plot(
            x[beyond], np.clip(y[beyond], *frame), ls="", marker=marker or ".", ms=6, mfc="white",
            mec=colour, clip_on=False, zorder=3,
        )  # fmt: skip
    return int(beyond.sum())


def _means(values: Array) -> Array:
    """(budgets,) means over the seeds that have an estimate; NaN where none has."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    count = known.sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))


def _said(runs: list[Run], estimator: str, beyond: int) -> str:
    a = accuracy(runs, estimator)
    if not a.estimated:
        return "no estimate"
    outside = f"; {beyond} beyond" if beyond else ""
    return f"{100 * a.reward_coverage:.0f} % of intervals hold the truth{outside}"
