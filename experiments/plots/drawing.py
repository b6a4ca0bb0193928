"""What all figures are made of: panels, a legend, intervals side by side, a file of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plots.titles import looks, percent, shown_name
from marketing_env.config import Array

LOOK: Any = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.title_fontsize": 10,
    "svg.hashsalt": "figures",  # the same results give the same file
}
NOTE = "bars and bands: 95 % intervals; pale points: training seeds"
BUDGETS = "budget, % of unconstrained spend"


def panels(
    rows: int, columns: int, title: str, *, height: float | None = None, **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes, row by row; outside pyplot, so that no display is needed."""
    # A README shows images about 900 pixels wide: 10 inches keep letters legible there.
    size = (10, height or (4.6 if rows == 1 else 2.6 * rows))
    fig = Figure(figsize=size, layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False, **options)
    fig.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    return fig, axes.ravel()


def legend(fig: Figure, ax: Axes, note: str | None = None) -> None:
    handles, names = ax.get_legend_handles_labels()
    columns = min(4, max(1, len(names)))
    fig.legend(handles, names, loc="outside lower center", ncols=columns, title=note)


def in_order(count: int) -> list[Any]:
    """Colours from dark to light for things that have an order; they also differ in grey."""
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, count)))


def intervals(
    ax: Axes, values: Mapping[str, tuple[Array, Array]], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Means with 95 % intervals at each budget, methods side by side; pale points are seeds.

    Args:
        values: by method (seeds, budgets) numbers, and the standard error of their mean.
    """
    look = looks(values)
    for i, (method, (seeds, error)) in enumerate(values.items()):
        x = np.arange(len(rows)) + 0.7 * ((i + 0.5) / len(values) - 0.5)
        colour, marker = look[method]
        if len(seeds) > 1:
            beside = np.tile(x - 0.1 / len(values), len(seeds))
            ax.plot(beside, seeds.ravel(), ls="", marker=".", ms=4, color=colour, alpha=0.4)
        ax.errorbar(
            x, seeds.mean(axis=0), 1.96 * np.nan_to_num(error), color=colour,
            marker=marker or ".", ls="", label=shown_name(method),
        )  # fmt: skip
    budget_axis(ax, rows)


def budget_axis(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    ax.set_xticks(range(len(rows)), [percent(row) for row in rows])
    ax.set(xlabel=BUDGETS)
    ax.grid(False, axis="x")


def save(fig: Figure, path: Path) -> list[Path]:
    """Write `path`.png and `path`.svg; the last part of the path may hold dots."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(path.name + kind) for kind in (".png", ".svg")]
    fig.savefig(files[0], dpi=120)
    fig.savefig(files[1], metadata={"Date": None})
    return files
