"""What one-shot runs show together: centres over training seeds, paired intervals, comparisons.

Seeds are paired: the same number is the same world, users and parts for every method. Intervals are
95 % percentiles of a bootstrap over seeds. Regret is relative to what the best would gain: in a
world where hardly anybody is worth an incentive it is hundreds of percent, and that world alone
would decide a mean. So regrets are inter-quartile means over seeds. Where seeds only cut the
same users anew, an estimate is the median over these partitions, and its interval is widened by
their spread (Chernozhukov et al., Double/Debiased Machine Learning, Econometrics Journal 2018,
section 3.4).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from agents.common.one_day.uplift_metrics import bootstrap
from agents.common.types import Array
from experiments.reporting.statistics import interquartile_mean
from experiments.trials.one_shot_methods import DECISION, REFERENCE, TWO_STAGE

CELL = ("noise", "users_per_arm", "shift")  # settings of the generated trial
MEASURES = ("regret", "regret_equal", "regret_hindsight", "spend", "mt_aucc")
NAMES = ("policy", "against", "share", "estimator")  # of a row; all else in it is a number
REPEATS = 1000
ENOUGH = 5  # seeds for an interval: draws from fewer repeat themselves
Z = 1.96  # of a 95 % interval

Row = dict[str, Any]


def read_runs(folder: Path) -> list[Row]:
    """The runs below a folder, by setting, method and seed."""
    files = sorted(folder.glob("runs/*/*.json"))
    runs: list[Row] = [json.loads(file.read_text()) for file in files]
    return sorted(
        runs, key=lambda r: (r["about"]["name"], r["about"]["method"], r["about"]["seed"])
    )


def failures(runs: Sequence[Row]) -> list[Row]:
    """What could not be run, once for each setting, method and message."""
    found = {
        (r["about"]["name"], r["about"]["method"], r["error"]): None for r in runs if "error" in r
    }
    return [{"setting": s, "method": m, "error": e} for s, m, e in found]


def frame_of(runs: Sequence[Row]) -> pd.DataFrame:
    """A row for each run on the generated trial, shift and budget."""
    names = ("noise", "users_per_arm", "method", "kind", "seed")
    return pd.DataFrame(
        {**{name: run["about"][name] for name in names}, **row}
        for run in runs
        for row in run.get("budgets", ())
    )


def regrets(frame: pd.DataFrame) -> list[Row]:
    """Each setting and method: centres over seeds, by budget and over all; the difference to
    `REFERENCE`, in the mean over budgets, on the seeds that both have."""
    rows = []
    for cell, part in frame.groupby(list(CELL)):
        own = {m: _by_seed(some, "regret") for m, some in part.groupby("method")}
        for (method, kind), some in part.groupby(["method", "kind"]):
            by_budget = some.groupby("share")[list(MEASURES)].agg(_centre)
            row = {**dict(zip(CELL, cell, strict=True)), "method": method, "kind": kind}
            row |= {"seeds": some["seed"].nunique(), "shares": by_budget.index.tolist()}
            row |= {name: by_budget[name].tolist() for name in MEASURES}
            row |= {"centre": _centre(own[method]), **_named("centre", _interval(own[method]))}
            row |= {"mean": float(own[method].mean())}
            row |= {f"{name}_centre": _centre(_by_seed(some, name)) for name in MEASURES[1:]}
            if REFERENCE in own:
                gap = (own[method] - own[REFERENCE]).dropna()
                row |= {"difference": _centre(gap), **_named("difference", _interval(gap))}
            rows.append(row)
    return sorted(rows, key=lambda r: (*(r[name] for name in CELL), r["centre"]))


def contrast(
    frame: pd.DataFrame, left: Sequence[str], right: Sequence[str], measure: str = "regret"
) -> Row:
    """Some methods' mean minus that of others, over all there is but seeds: these are paired.

    Seeds that miss a run which others have are left out.
    """
    part = _complete(frame[frame["method"].isin([*left, *right])])
    mine, other = (_by_seed(part[part["method"].isin(names)], measure) for names in (left, right))
    gap = (mine - other).dropna()
    low, high = _interval(gap)
    return {"difference": _centre(gap), "low": low, "high": high, "seeds": len(gap)}


def contrasts(frame: pd.DataFrame) -> list[Row]:
    """Decision-focused methods, in the mean, against `REFERENCE`: by what the settings vary."""
    focused = sorted(frame.loc[frame["kind"] == DECISION, "method"].unique())
    if not focused or REFERENCE not in set(frame["method"]):
        return []
    main = frame[frame["users_per_arm"] == _usual(frame)]
    subsets = [("all", "", main)]
    for name in ("noise", "shift", "share"):
        subsets += [(name, value, part) for value, part in main.groupby(name)]
    sized = frame.groupby("noise")["users_per_arm"].nunique()
    same = frame[frame["noise"] == sized.idxmax()]
    subsets += [("users_per_arm", value, part) for value, part in same.groupby("users_per_arm")]
    return [
        {"by": by, "value": value, "measure": measure,
         **contrast(part, focused, [REFERENCE], measure)}
        for by, value, part in subsets
        for measure in ("regret", "regret_equal")
    ]  # fmt: skip


def best_of(frame: pd.DataFrame, kind: str) -> str | None:
    """The method of a kind with the least regret on the usual number of users."""
    part = _complete(frame[frame["users_per_arm"] == _usual(frame)])
    part = part[part["kind"] == kind]
    found = {m: _centre(_by_seed(some, "regret")) for m, some in part.groupby("method")}
    return str(min(found, key=found.__getitem__)) if found else None


def best_against_best(frame: pd.DataFrame) -> Row | None:
    """The best decision-focused method against the best two-stage one, chosen by these numbers."""
    left, right = best_of(frame, DECISION), best_of(frame, TWO_STAGE)
    if left is None or right is None:
        return None
    main = frame[frame["users_per_arm"] == _usual(frame)]
    return {"method": left, "against": right, **contrast(main, [left], [right])}


def over_partitions(runs: Sequence[Row], table: str, measure: str) -> list[Row]:
    """Each row's median over the partitions, by setting and method, with an interval."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for run in runs:
        about = {name: run["about"][name] for name in ("name", "method", "kind")}
        for row in run.get(table, ()):
            names = about | {name: row[name] for name in NAMES if name in row}
            groups[tuple(names.items())].append(row)
    summary = []
    for key, rows in groups.items():
        numbers = {k: np.array([r[k] for r in rows]) for k in rows[0] if k not in NAMES}
        row = {**dict(key), **{k: float(np.median(x)) for k, x in numbers.items()}}
        spread = numbers[measure] - row[measure]
        error = float(np.sqrt(np.median(numbers[f"{measure}_error"] ** 2 + spread**2)))
        low, high = row[measure] - Z * error, row[measure] + Z * error
        row |= {f"{measure}_error": error, "low": low, "high": high, "partitions": len(rows)}
        summary.append(row)
    return summary


def metrics(runs: Sequence[Row]) -> list[Row]:
    """Each setting, method and metric: mean over seeds, and the difference to `REFERENCE`."""
    found: dict[tuple[str, str], dict[str, dict[int, float]]] = defaultdict(dict)
    kinds = {}
    for run in runs:
        about = run["about"]
        kinds[about["method"]] = about["kind"]
        for name, value in run.get("metrics", {}).items():
            by_seed = found[about["name"], name].setdefault(about["method"], {})
            by_seed[about["seed"]] = value
    rows = []
    for (setting, metric), methods in found.items():
        reference = pd.Series(methods.get(REFERENCE, {}), dtype=float)
        for method, by_seed in methods.items():
            value = pd.Series(by_seed, dtype=float)
            gap = (value - reference).dropna()
            row = {"name": setting, "method": method, "kind": kinds[method], "metric": metric}
            row |= {"seeds": len(value), "value": float(value.mean()), "sd": float(value.std())}
            row |= {**_named("value", interval(value.dropna())), "difference": float(gap.mean())}
            rows.append({**row, **_named("difference", interval(gap))})
    return rows


def interval(
    values: Sequence[float] | pd.Series, statistic: Callable[[Array], ArrayLike] = np.mean
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic of (S,) values; nan for too few of them."""
    x: Array = np.asarray(values, dtype=float)
    if len(x) < ENOUGH:
        return float("nan"), float("nan")
    found = bootstrap(lambda rows: statistic(x[rows]), len(x), repeats=REPEATS)
    return float(found.low), float(found.high)


def summarise(data: str, runs: Sequence[Row]) -> Mapping[str, Any]:
    """All tables of a kind of data."""
    if data == "lbcf":
        frame = frame_of(runs)
        tables: dict[str, Any] = {"regrets": [], "contrasts": [], "best": None}
        if not frame.empty:
            tables = {"regrets": regrets(frame), "contrasts": contrasts(frame)}
            tables["best"] = best_against_best(frame)
        return tables
    return {
        "estimates": over_partitions(runs, "estimates", "value"),
        "differences": over_partitions(runs, "differences", "difference"),
        "revenue": over_partitions(runs, "revenue", "net"),
        "metrics": metrics(runs),
    }


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of those seeds that have most of them."""
    size = frame.groupby("seed").size()
    return frame[frame["seed"].isin(size.index[size == size.max()])]


def _centre(values: pd.Series) -> float:
    return float(interquartile_mean(np.asarray(values, dtype=float)))


def _interval(values: pd.Series) -> tuple[float, float]:
    return interval(values, interquartile_mean)


def _by_seed(part: pd.DataFrame, measure: str) -> pd.Series:
    return part.groupby("seed")[measure].mean()


def _usual(frame: pd.DataFrame) -> int:
    """The number of training users that most settings have; the larger of a tie."""
    counted = frame.groupby("users_per_arm")["noise"].nunique()
    return int(counted[counted == counted.max()].index.max())


def _named(name: str, ends: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": ends[0], f"{name}_high": ends[1]}
