"""Figures of single studies: what foresight is worth, what mixing takes, one-shot tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.plots.drawing import budget_axis, legend, panels
from experiments.plots.titles import MAIN, OTHERS, STYLES, shown_name, span
from marketing_env.config import Array

_LEAST, _NEAR = 0.01, 1  # per cent: the least distance drawn, and one that is near


def myopia(result: Mapping[str, Any]) -> Figure:
    """Score of the myopic policy with perfect knowledge of the response, by preset."""
    found = {name: np.array(f["score"]) for name, f in result["found"].items()}
    means = np.concatenate([score.mean(axis=0) for score in found.values()])
    title = f"Perfect knowledge without foresight earns {span(means)} % of the optimum's gain"
    fig, (ax,) = panels(1, 1, title)
    ax.axhspan(60, 90, color="#0072B2", alpha=0.1, lw=0, label="60 to 90 %: foresight matters")
    ax.axhline(100, color="black", lw=2, label="exact optimum")
    looks = [STYLES[m] for m in ("mixed_policy", "greedy_uplift", "dfcl", "end_to_end", "cluster")]
    for i, (name, score) in enumerate(found.items()):
        colour, marker = looks[i % len(looks)]
        x = np.arange(score.shape[1]) + 0.06 * (i - (len(found) - 1) / 2)
        error = score.std(axis=0, ddof=1) / len(score) ** 0.5 if len(score) > 1 else None
        bars = None if error is None else 1.96 * error
        ax.errorbar(
            x, score.mean(axis=0), bars, color=colour, marker=marker, label=shown_name(name)
        )
    rows = [{"budget_share": share} for share in result["shares"]]
    budget_axis(ax, rows)
    ax.set(ylabel="gain, % of the exact optimum's", ylim=(min(55, means.min() - 5), 103))
    legend(fig, ax)
    return fig


def mixing(result: Mapping[str, Any]) -> Figure:
    """Distance to the optimal mixture against the policies stored and the best responses asked."""
    found = {
        m: _mixing_means(result, m) for m in dict.fromkeys(r["method"] for r in result["rows"])
    }
    shown = [m for m in (MAIN, "exponentiated_gradient") if m in found]
    title = f"Policies stored until {_NEAR} % from the optimum:\n" + ", ".join(
        f"{shown_name(m)} {_stored_until(found[m], _NEAR)}" for m in shown
    )
    fig, axes = panels(1, 2, title, sharey=True)
    others = iter(OTHERS)
    for method, (stored, calls, distance) in found.items():
        colour, marker = STYLES[MAIN] if method == MAIN else next(others)
        look = {"color": colour, "marker": marker, "ms": 5, "label": shown_name(method)}
        for ax, effort in zip(axes, (stored, calls), strict=True):
            ax.loglog(
                effort, np.maximum(distance, _LEAST), **look, zorder=3 if method == MAIN else 2
            )
    axes[0].set(xlabel="policies stored", ylabel="shortfall + overspend, %")
    axes[1].set(xlabel="best responses asked for")
    for ax in axes:
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.yaxis.set_major_formatter("{x:g}")
    cases = f"{len(result['shares'])} budgets on {len(result['presets'])} presets"
    note = f"means over {cases}, exact best responses; less than {_LEAST} % is drawn as {_LEAST} %"
    legend(fig, axes[0], note)
    return fig


def _stored_until(means: Array, distance: float) -> str:
    """Policies stored when the distance is reached first, or that it is not."""
    near = means[2] <= distance
    return f"{means[0, near.argmax()]:.0f}" if near.any() else f"over {means[0].max():,.0f}"


def _mixing_means(result: Mapping[str, Any], method: str) -> Array:
    """(3, rounds) policies stored, calls, and distance in %: means over presets and budgets."""
    rows = [row for row in result["rows"] if row["method"] == method]
    cells = [
        [
            (r["stored"], r["calls"], r["shortfall"] + r["violation"])
            for r in rows
            if r["rounds"] == n
        ]
        for n in result["rounds"]
    ]
    return np.mean(cells, axis=1).T
