"""What the figures share and say: looks and names of methods, and titles from the numbers."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from typing import Any

import numpy as np

from experiments.methods import method_names
from experiments.reporting.comparisons import paired_difference
from experiments.reporting.runs import REFERENCES, Groups, Run, column, pooled_error
from experiments.reporting.statistics import told_and_true
from marketing_env import preset
from marketing_env.config import Array

MAIN, GREEDY = "mixed_policy", "greedy_uplift"
Curve = tuple[list[int], list[float]]

# Okabe and Ito's colours and three that stay apart from them for colour-blind readers; the markers
# differ also in grey. More than eight colours nobody keeps apart: all other methods are grey.
STYLES = {
    "oracle": ("#000000", ""),
    "perfect_myopic": ("#7f7f7f", "x"),
    "logging": ("#8c8c8c", "d"),
    "uniform": ("#999999", "+"),
    "none": ("#b3b3b3", "_"),
    "mixed_policy": ("#0072B2", "o"),
    "greedy_uplift": ("#D55E00", "s"),
    "dfcl": ("#009E73", "^"),
    "end_to_end": ("#CC79A7", "v"),
    "cluster": ("#E69F00", "D"),
    "bcorle": ("#56B4E9", "P"),
    "bcrlsp": ("#332288", "<"),
    "decision_transformer": ("#999933", ">"),
}
GREYS = ("#5c5c5c", "#a6a6a6")
MARKERS = ("X", "p", "*", "h", "d", "8", "H", "1", "2", "3", "4", "+")
# Rows that are no file of agents/: variants, and methods of other people.
OTHERS = (
    ("#AA4499", "*"),
    ("#117733", "h"),
    ("#661100", "d"),
    ("#6699CC", "8"),
    ("#DDAA33", "H"),
    ("#CC6677", "s"),
    ("#44BB99", "^"),
    ("#AAAA00", "v"),
)


def looks(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, the same in every figure.

    Files of `agents/` without a colour of their own have greys by their place in the folder. All
    other rows get a colour by their name, and the next free one if another has it already.
    """
    known = STYLES | _grey_looks()
    found = {}
    free = list(OTHERS)
    for method in sorted(methods):
        if method in known:
            found[method] = known[method]
            continue
        start = zlib.crc32(method.encode()) % len(OTHERS)
        turned = (*OTHERS[start:], *OTHERS[:start])
        found[method] = next((look for look in turned if look in free), turned[0])
        free = [look for look in free if look != found[method]]
    return found


def _grey_looks() -> dict[str, tuple[str, str]]:
    plain = [name for name in method_names() if name not in STYLES]
    return dict(zip(plain, cycle(product(GREYS, MARKERS)), strict=False))


def foremost(groups: Groups, most: int = 8) -> Groups:
    """The methods that a figure has room for: references, the main method and the best others."""
    learners = [method for method in groups if method not in REFERENCES]
    first = [method for method in (MAIN, GREEDY) if method in learners]
    kept = {*list(dict.fromkeys([*first, *learners]))[:most], *REFERENCES}
    return {method: runs for method, runs in groups.items() if method in kept}


def frontier(groups: Groups) -> str:
    said = [
        f"{shown_name(m)} earns {span(column(groups[m], 'score').mean(axis=0))} %"
        for m in (main_method(groups), GREEDY)
        if m in groups
    ]
    return "; ".join(dict.fromkeys(said)) + " of the optimum's gain"


def spend_over_days(groups: Groups) -> str:
    said = []
    for method in ("oracle", main_method(groups)):
        if method in groups:
            cost = np.array(groups[method][0]["rows"][0]["cost_by_day"])
            half = cost[: (len(cost) + 1) // 2].sum() / max(cost.sum(), 1e-300)
            said.append(f"{shown_name(method)} {100 * half:.0f} %")
    return f"Spent in the first half at the tightest budget: {', '.join(dict.fromkeys(said))}"


def who_gets_what(groups: Groups) -> str:
    rows = groups["oracle" if "oracle" in groups else main_method(groups)][0]["rows"]
    row = rows[len(rows) // 2]
    who = shown_name("oracle" if "oracle" in groups else main_method(groups))
    most = {s: max(g, key=g.get) for s, g in row["incentive_by_state"].items()}
    levels = ", ".join(f"{state} {float(level):.2g}" for state, level in most.items())
    return f"{who} at budget {percent(row)}: incentives peak at {levels}"


def forecast(groups: Groups) -> str:
    name = main_method(groups)
    gain, cost = (forecast_ratio(groups[name], what)[0].mean(axis=0) for what in ("gain", "cost"))
    told = f"gain {span(gain)} %, cost {span(cost)} % of the truth"
    return f"{shown_name(name)} forecasts {told}"


def by_axis(scores: Mapping[str, Array]) -> str:
    """Mean scores of the main method and the baseline at both ends of a line."""
    shown = dict.fromkeys((main_method(scores), *(m for m in (GREEDY,) if m in scores)))
    said = [f"{shown_name(m)} {scores[m][0]:.0f} → {scores[m][-1]:.0f} %" for m in shown]
    return f"From left to right: {', '.join(said)} of the optimum's gain"


def variants(groups: Groups, base: str) -> str:
    """How many variants are clearly lower, and how many clearly higher, than the base."""
    others = [row for row in groups if row != base]
    found = [paired_difference(groups[row], groups[base]) for row in others]
    lower, higher = (sum(s * mean - half > 0 for mean, half in found) for s in (-1, 1))
    return f"{lower} of {len(others)} clearly lower than {shown_name(base)}, {higher} higher"


def forecast_ratio(runs: Sequence[Run], what: str) -> tuple[Array, Array]:
    """(seeds, budgets) 100 * forecast / truth of `gain` or `cost`, and the error of its mean.

    A single run has the forecast's own error beside that of the evaluation; in several, whose logs
    differ, the spread over seeds says both. NaN where the truth is not positive.
    """
    cells = np.array([[told_and_true(row, what) for row in run["rows"]] for run in runs])
    told, own, true, noise = np.moveaxis(cells, -1, 0)
    true = np.where(true > 0, true, np.nan)
    ratio, error = 100 * told / true, 100 * np.abs(told) / true**2 * np.nan_to_num(noise)
    if len(runs) == 1:
        error = np.hypot(error, 100 * own / true)
    return ratio, pooled_error(ratio, error)


def span(values: Array) -> str:
    """The range of the values; NaN, where nothing can be said, is left out."""
    if np.isnan(values).all():
        return "?"
    low, high = f"{np.nanmin(values):.0f}", f"{np.nanmax(values):.0f}"
    return low if low == high else f"{low} to {high}"


def main_method(groups: Iterable[str]) -> str:
    """The main method, or the best one that is there."""
    learners = [m for m in groups if m not in REFERENCES]
    return MAIN if MAIN in groups else (learners or list(groups))[0]


def shown_name(method: str) -> str:
    names = {"oracle": "exact optimum", "perfect_myopic": "perfect myopic"}
    return names.get(method, method if "." in method else method.replace("_", " "))


def percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['budget_share']:g} %"


def reward_unit(setting: Mapping[str, Any]) -> str:
    return preset(setting["preset"], **setting["overrides"]).unit


def offer_unit(setting: Mapping[str, Any]) -> str:
    config = preset(setting["preset"], **setting["overrides"])
    return "share of the basket" if config.offer == "percent" else "currency"


def tag_groups(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Curves whose tags differ in numbers only: `values/head_0` and `values/head_1` are one."""
    groups: dict[str, dict[str, Curve]] = {}
    for tag, curve in curves.items():
        numbers = re.findall(r"(?:/|_)((?:head_|member_)?\d+)(?=/|$)", tag)
        group = re.sub(r"/(head|member)_\d+|_\d+$", "", tag)
        name = ", ".join(numbers).replace("_", " ")
        groups.setdefault(group, {})[name] = curve
    return groups
