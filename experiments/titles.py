"""What the figures share and say: looks and names of methods, and titles from the numbers."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.table import REFERENCES, Run, column
from marketing_env import preset
from marketing_env.config import Array

MAIN, GREEDY = "mixed_policy", "greedy_uplift"
Groups = Mapping[str, Sequence[Run]]
Curve = tuple[list[int], list[float]]
FORECASTS = ("reward", "incremental reward", "cost")

# Okabe and Ito's colours stay apart for colour-blind readers, the markers also in grey.
STYLES = {
    "oracle": ("#000000", ""),
    "perfect_myopic": ("#7f7f7f", "x"),
    "mixed_policy": ("#0072B2", "o"),
    "greedy_uplift": ("#D55E00", "s"),
    "dfcl": ("#009E73", "^"),
    "end_to_end": ("#CC79A7", "v"),
    "cluster": ("#E69F00", "D"),
    "lagrangian": ("#56B4E9", "P"),
    "exponentiated_gradient": ("#882255", "X"),
    "bcrlsp": ("#332288", "<"),
    "d3rlpy_price": ("#999933", ">"),
    "online_sb3": ("#44AA99", "p"),
}
OTHERS = (("#AA4499", "*"), ("#117733", "h"), ("#661100", "d"), ("#6699CC", "8"))


def style(method: str) -> tuple[str, str]:
    """Colour and marker, the same in every figure; unknown methods get one by their name."""
    return STYLES.get(method) or OTHERS[zlib.crc32(method.encode()) % len(OTHERS)]


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


def calibration(groups: Groups) -> str:
    name = main_method(groups)
    share = column(groups[name], "spend_share").mean(axis=0)
    return f"{shown_name(name)} spends {span(100 * share)} % of its budget"


def forecast(groups: Groups) -> str:
    name = main_method(groups)
    cost, _ = came_true(groups[name], "cost")
    gain, _ = came_true(groups[name], "incremental reward")
    true = f"cost {span(cost)} %, incremental reward {span(gain)} % of the forecast"
    return f"{shown_name(name)} came true: {true}"


def came_true(runs: Sequence[Run], what: str) -> tuple[Array, Array]:
    """100 * truth / forecast by budget, and its error: the forecast's and the evaluation's.

    Runs do not keep the error of the true reward; that of the gain, which is smaller, stands in.
    """
    ratios, errors = [], []
    for run in runs:
        for row in run["rows"]:
            f = row["forecast"]
            told = f["cost"] if what == "cost" else f["reward"]
            true, own = row["cost" if what == "cost" else "reward"], f["reward_error"]
            noise = row["score_error"] / 100 * row["best_gain"]
            if what == "incremental reward":
                told, true = told - f["baseline"], row["gain"]
            if what == "cost":
                own, noise = f["cost_error"], row["spend_share_error"] * row["budget"]
            told = told if told > 0 else np.nan
            ratios.append(100 * true / told)
            errors.append(100 * np.hypot(own * true / told, np.nan_to_num(noise)) / told)
    shape = (len(runs), -1)
    return np.reshape(ratios, shape).mean(axis=0), np.reshape(errors, shape).mean(axis=0)


def span(values: Array) -> str:
    """The range of the values; NaN, from a forecast of nothing, is left out."""
    if np.isnan(values).all():
        return "?"
    low, high = f"{np.nanmin(values):.0f}", f"{np.nanmax(values):.0f}"
    return low if low == high else f"{low} to {high}"


def main_method(groups: Groups) -> str:
    """The main method, or the best one that is there."""
    learners = [m for m in groups if m not in REFERENCES]
    return MAIN if MAIN in groups else (learners or list(groups))[0]


def shown_name(method: str) -> str:
    names = {"oracle": "exact optimum", "perfect_myopic": "perfect myopic"}
    return names.get(method, method.replace("_", " "))


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
