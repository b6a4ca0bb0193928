"""Draw the results: figures beside the runs, tables in Markdown, the README's tables.

    python -m experiments.plot results

Every setting's folder gets its figures as PNG and SVG, every suite's folder a `table.md`, and the
README beside RESULTS the tables between its markers `<!-- table:SUITE -->` and `<!-- /table -->`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments import table, titles
from experiments.curves import read_curves
from experiments.results import ROOT
from experiments.table import REFERENCES, Run, by_method, column, pooled
from experiments.titles import (
    FORECASTS,
    GREEDY,
    MAIN,
    OTHERS,
    STYLES,
    Curve,
    Groups,
    came_true,
    main_method,
    offer_unit,
    percent,
    reward_unit,
    shown_name,
    span,
    style,
    tag_groups,
)
from marketing_env.config import STATE_COLUMNS, Array

LOOK: Any = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "figures",  # the same results give the same file
}


def frontier(groups: Groups, title: str) -> Figure:
    """Incremental reward against budget in money, and as a share of the exact optimum."""
    fig, (left, right) = _panels(1, 2, title)
    rows = _first(groups)["rows"]
    budget, best = (np.array([row[k] for row in rows]) for k in ("budget", "best_gain"))
    left.plot([0, *budget], [0, *best], color="black", lw=2, label="exact optimum (bound)")
    shown = {m: g for m, g in groups.items() if m != "oracle"}
    for method, runs in shown.items():
        score, error = (part * best / 100 for part in pooled(runs, "score"))
        colour, marker = style(method)
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
    _dodged(right, {m: pooled(g, "score") for m, g in shown.items()}, rows)
    right.axhline(100, color="black", lw=2)
    right.set(ylabel="score, % of the optimum's gain")
    _legend(fig, left)
    return fig


def spend_over_days(groups: Groups, title: str) -> Figure:
    """Cost per user by day at the tightest and at the middle budget."""
    rows = _first(groups)["rows"]
    chosen = sorted({0, len(rows) // 2})
    fig, axes = _panels(1, len(chosen), title)
    for ax, i in zip(axes, chosen, strict=True):
        for method, runs in groups.items():
            cost = np.mean([run["rows"][i]["cost_by_day"] for run in runs], axis=0)
            wide, opaque = (2.4, 1.0) if method in ("oracle", MAIN) else (1.2, 0.55)
            ax.plot(
                1 + np.arange(len(cost)), cost, color=style(method)[0], lw=wide, alpha=opaque,
                label=shown_name(method),
            )  # fmt: skip
        ax.set(title=f"budget {percent(rows[i])}: {rows[i]['budget']:.3g} currency per user")
        ax.set(xlabel="day of the campaign", ylim=(0, None))
    axes[0].set(ylabel="cost, currency per user and day")
    _legend(fig, axes[0])
    return fig


def who_gets_what(groups: Groups, title: str) -> Figure:
    """Mean incentive by engagement, recency and fatigue at the middle budget."""
    shown = [m for m in dict.fromkeys(("oracle", main_method(groups), GREEDY)) if m in groups]
    fig, axes = _panels(1, 3, title, sharey=True)
    rows = _first(groups)["rows"]
    i = len(rows) // 2
    for ax, state in zip(axes, STATE_COLUMNS, strict=True):
        for method in shown:
            given = groups[method][0]["rows"][i]["incentive_by_state"][state]
            level, mean = np.array([(float(k), v) for k, v in given.items()]).T
            colour, marker = style(method)
            ax.plot(level, mean, color=colour, marker=marker or ".", label=shown_name(method))
        ax.set(xlabel=f"{state}, lowest 0 to highest 1", xlim=(-0.04, 1.04))
    axes[0].set(ylim=(0, None), ylabel=f"mean incentive, {offer_unit(_first(groups)['setting'])}")
    _legend(fig, axes[0])
    return fig


def calibration(groups: Groups, title: str) -> Figure:
    """True spend as a share of the budget."""
    fig, (ax,) = _panels(1, 1, title)
    ax.axhspan(95, 101, color="#0072B2", alpha=0.12, lw=0, label="95 to 101 % of the budget")
    ax.axhline(100, color="black", lw=1)
    shown = {m: pooled(g, "spend_share") for m, g in groups.items()}
    _dodged(ax, {m: (100 * mean, 100 * e) for m, (mean, e) in shown.items()}, _rows(groups))
    ax.set(ylabel="true spend, % of the budget")
    _legend(fig, ax)
    return fig


def forecast(groups: Groups, title: str) -> Figure:
    """What came true, in % of what the model had forecast from the log."""
    shown = {m: g for m, g in groups.items() if all("forecast" in r["rows"][0] for r in g)}
    fig, axes = _panels(1, 3, title)
    for ax, what in zip(axes, FORECASTS, strict=True):
        ax.axhline(100, color="black", lw=1)
        _dodged(ax, {m: came_true(g, what) for m, g in shown.items()}, _rows(groups))
        ax.set(title=what)
    axes[0].set(ylabel="came true, % of the forecast")
    _legend(fig, axes[0])
    return fig


def learning(curves: Mapping[str, Mapping[str, Curve]], title: str) -> Figure:
    """Learning curves: a panel per method and group of tags."""
    panels = [
        (method, group, series)
        for method, found in curves.items()
        for group, series in tag_groups(found).items()
    ]
    columns = min(4, len(panels))
    fig, axes = _panels(-(-len(panels) // columns), columns, title)
    for ax, (method, group, series) in zip(axes, panels, strict=False):
        _curves(ax, group, series, style(method)[0])
        ax.set_title(f"{shown_name(method)}\n{group.replace('_', ' ')}", fontsize=10)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return fig


def myopia(result: Mapping[str, Any]) -> Figure:
    """Score of the myopic policy with perfect knowledge of the response, by preset."""
    found = {name: np.array(f["score"]) for name, f in result["found"].items()}
    means = np.concatenate([score.mean(axis=0) for score in found.values()])
    title = f"Perfect knowledge without foresight earns {span(means)} % of the optimum's gain"
    fig, (ax,) = _panels(1, 1, title)
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
    _budget_axis(ax, rows)
    ax.set(ylabel="gain, % of the exact optimum's", ylim=(min(55, means.min() - 5), 103))
    _legend(fig, ax)
    return fig


def one_shot(summary: Mapping[str, Any]) -> Figure:
    """A randomised test: value against cost, and what the allocator adds at the same spend."""
    robust = [e for e in summary["estimates"] if e["estimator"] == "doubly_robust"]
    gaps = [d for d in summary["differences"] if d["against"] == "random mix"]
    means = [
        f"{d['learner']} {d['difference']:+.2g} ± {1.96 * d['difference_error']:.1g}"
        for d in gaps
        if d["budget"] is None
    ]
    title = f"Gain in {summary['reward']} over the best mix of arms at the same cost"
    fig, (left, right) = _panels(1, 2, f"{title}\nMean over budgets: {', '.join(means)} per user")
    first = [e for e in robust if e["learner"] == robust[0]["learner"]]
    for e in (e for e in first if e["budget"] is None and e["policy"] != "random arm"):
        left.errorbar(e["cost"], e["value"], 1.96 * e["value_error"], color="grey", marker="D")
        left.annotate(e["policy"], (e["cost"], e["value"]), (5, -14), textcoords="offset points")
    for rule, dash, says in (("random mix", "--", "best mix"), ("random dearest", ":", "dearest")):
        line = [(e["cost"], e["value"]) for e in first if e["policy"] == rule]
        left.plot(*np.transpose(line), color="black", ls=dash, label=f"{says} for random users")
    for i, learner in enumerate(dict.fromkeys(e["learner"] for e in robust)):
        look = {"color": OTHERS[i][0], "marker": OTHERS[i][1], "lw": 1.2, "label": learner}
        mine = [e for e in robust if (e["learner"], e["policy"]) == (learner, "allocator")]
        cost = np.array([e["cost"] for e in mine])
        for ax, rows, what in ((left, mine, "value"), (right, gaps, "difference")):
            shown = [r for r in rows if r["learner"] == learner and r["budget"] is not None]
            mean, error = np.transpose([(r[what], r[f"{what}_error"]) for r in shown])
            ax.errorbar(cost + 0.015 * i, mean, 1.96 * error, **look)
    right.axhline(0, color="black", ls="--")
    left.margins(x=0.15)
    left.set(xlabel="cost per user", ylabel=f"{summary['reward']} per user, doubly robust")
    right.set(xlabel="cost per user", ylabel="allocator minus best mix, paired")
    _legend(fig, left)
    return fig


FIGURES: dict[str, tuple[Callable[[Groups, str], Figure], Callable[[Groups], str]]] = {
    "frontier": (frontier, titles.frontier),
    "spend_over_days": (spend_over_days, titles.spend_over_days),
    "who_gets_what": (who_gets_what, titles.who_gets_what),
    "calibration": (calibration, titles.calibration),
    "forecast": (forecast, titles.forecast),
}


# ---------------------------------------------------------------- parts of figures


def _dodged(
    ax: Axes, values: Mapping[str, tuple[Array, Array]], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Means with 95 % intervals at each budget, methods side by side."""
    for i, (method, (mean, error)) in enumerate(values.items()):
        x = np.arange(len(mean)) + 0.7 * ((i + 0.5) / len(values) - 0.5)
        colour, marker = style(method)
        bars = 1.96 * np.nan_to_num(error)
        ax.errorbar(
            x, mean, bars, color=colour, marker=marker or ".", ls="", label=shown_name(method)
        )
    _budget_axis(ax, rows)


def _budget_axis(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    ax.set_xticks(range(len(rows)), [percent(row) for row in rows])
    ax.set(xlabel="budget, % of unconstrained spend")
    ax.grid(False, axis="x")


def _curves(ax: Axes, group: str, series: Mapping[str, Curve], colour: str) -> None:
    """All lines of a group; many become the band between them and three lines."""
    names, curves = list(series), list(series.values())
    few = len(curves) <= 3
    for i in range(len(curves)) if few else (0, len(curves) // 2, len(curves) - 1):
        ax.plot(*curves[i], color=colour, alpha=1 - 0.7 * i / len(curves), label=names[i])
    values = [v for _, v in curves]
    if not few and len({tuple(steps) for steps, _ in curves}) == 1:
        low, high = np.min(values, axis=0), np.max(values, axis=0)
        ax.fill_between(curves[0][0], low, high, color=colour, alpha=0.12)
    if "loss" in group and min(map(min, values)) > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    if len(curves) > 1:
        ax.legend(fontsize=8, handlelength=1)
    days = "to_go" in group or "next" in group
    frontier = "prices, cheap to dear" if "frontier" in group else "step"
    ax.set(xlabel="days to the end" if days else frontier)


def _panels(rows: int, columns: int, title: str, **options: Any) -> tuple[Figure, Any]:
    # A README shows images about 900 pixels wide: 10 inches keep letters legible there.
    size = (10, 4.6 if rows == 1 else 2.5 * rows)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    fig.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    return fig, axes.ravel()


def _legend(fig: Figure, ax: Axes) -> None:
    handles, names = ax.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=min(4, max(1, len(names))))


def _first(groups: Groups) -> Run:
    return next(iter(groups.values()))[0]


def _rows(groups: Groups) -> list[dict[str, Any]]:
    return list(_first(groups)["rows"])


# ---------------------------------------------------------------- files


def draw(folder: str | Path, out: str | Path | None = None) -> list[Path]:
    """Draw every setting, `myopia.json` and one-shot test below a folder; returns the files.

    Figures land beside the runs, or at the same places below `out`.
    """
    folder = Path(folder)
    written: list[Path] = []
    with plt.rc_context(LOOK):
        for place, runs in table.find_runs(folder).items():
            target = Path(out or folder) / place.relative_to(folder)
            written += _draw_setting(place, by_method(runs), target)
        if (folder / "myopia.json").exists():
            fig = myopia(json.loads((folder / "myopia.json").read_text()))
            written += _save(fig, Path(out or folder) / "myopia")
        for path in sorted(folder.rglob("one_shot/*/summary.json")):
            target = Path(out or folder) / path.parent.relative_to(folder) / "one_shot"
            written += _save(one_shot(json.loads(path.read_text())), target)
    return written


def _draw_setting(place: Path, groups: Groups, target: Path) -> list[Path]:
    written: list[Path] = []
    missing = [m for m in (*REFERENCES, MAIN, GREEDY) if m not in groups]
    if missing:
        print(f"{place}: no results of {', '.join(missing)}; drawing what is there")
    for name, (figure, say) in FIGURES.items():
        shown = groups
        if name == "forecast":
            shown = {m: g for m, g in groups.items() if "forecast" in g[0]["rows"][0]}
        if shown:
            written += _save(figure(shown, f"{place.name}\n{say(shown)}"), target / name)
    curves = {
        method: read_curves(path)
        for method, runs in groups.items()
        if (path := place / f"{method}-{runs[0]['seed']}" / "curves.csv").exists()
    }
    curves = {method: found for method, found in curves.items() if found}
    if curves:
        title = f"{place.name}\nLearning curves of the first training seed"
        written += _save(learning(curves, title), target / "learning")
    return written


def _save(fig: Figure, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(kind) for kind in (".png", ".svg")]
    fig.savefig(files[0], dpi=120)
    fig.savefig(files[1], metadata={"Date": None})
    plt.close(fig)
    return files


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 if there is nothing to draw, or if `--check` finds a stale table."""
    parser = argparse.ArgumentParser(
        prog="experiments.plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results", nargs="?", type=Path, default=ROOT / "results", metavar="RESULTS"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="figures go here [RESULTS]")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if tables differ"
    )
    o = parser.parse_args(argv)
    texts = table.documents(o.results, table.find_runs(o.results))
    old = table.stale(texts)
    if o.check:
        print("\n".join(f"{path} differs from the results: run experiments.plot" for path in old))
        return int(bool(old))
    for path in old:
        path.write_text(texts[path])
    written = [*old, *draw(o.results, o.out)]
    print("\n".join(map(str, written)) or f"{o.results}: no results; experiments.sweep makes them")
    return int(not written)


if __name__ == "__main__":
    sys.exit(main())
