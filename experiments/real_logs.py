"""Observed grocery coupon campaigns as a log, and where all public data lie.

The files are not part of the project: they lie in the folder that the environment variable
`MARKETING_DATA` names, by default `../shared/data` from the project's root. Randomised one-shot
data are read by `one_shot_logs` and `criteo`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marketing_env.config import Array
from marketing_env.dataset import LoggedDataset
from marketing_env.panel import bucket_of

TYPES = ("A", "B", "C")
FACE_VALUES = (0.0, 0.98, 1.14, 0.75)  # $ mean of a redeemed coupon of no campaign, A, B, C
DAILY = ("trips", "spend", "spend_fuel", "coupon_disc", "coupon_match_disc", "redemptions")
FLAGS = tuple(f"{what}_{kind}" for what in ("active", "start") for kind in TYPES)
LONGEST_RECENCY = 60  # days; the gap of a household that never came is not known
FOLDS = 5
FLOOR = 1e-3  # smallest estimated propensity of an action that somebody got that week


def data_folder() -> Path:
    default = Path(__file__).resolve().parents[1] / "../shared/data"
    return Path(os.environ.get("MARKETING_DATA", default)).resolve()


def find_file(path: str | Path | None, folder: str, names: Sequence[str]) -> Path:
    """The path itself, or the first file of these names in it; by default in the data folder.

    Without any, the first name: reading it raises FileNotFoundError with the path in it.
    """
    place = Path(path or data_folder() / folder)
    if not place.is_dir():
        return place
    return next((place / name for name in names if (place / name).exists()), place / names[0])


def check_columns(known: Sequence[str], needed: Sequence[str]) -> None:
    """Raise ValueError for needed columns that a table does not have."""
    missing = [name for name in needed if name not in known]
    if missing:
        raise ValueError(f"missing columns: {', '.join(missing)}; the table has {', '.join(known)}")


def complete_journey(folder: str | Path | None = None) -> LoggedDataset:
    """dunnhumby's Complete Journey as weekly decisions: which coupon campaign starts for whom.

    A step is a week from Sunday (day 0 is Sunday 2017-01-01). The action is the type of the
    campaign that starts for the household in that week, 0 for none; if several start, A goes before
    B before C (A carries the coupons that are redeemed most). The reward is the week's spend
    without fuel, the cost its coupon discounts (both $).

    Features are known on the week's first morning, from earlier days alone; the exception is
    `starts_*`, the firm's own calendar: whether a type starts for anybody in the week. Campaigns
    are targeted, so propensities are estimated (`estimate_propensities`); nothing is causal.

    Raises:
        FileNotFoundError: if household_day.parquet is not there.
        ValueError: for missing columns, and for a household-day that is absent or stands twice.
    """
    file = Path(folder or data_folder() / "complete_journey") / "household_day.parquet"
    table = pd.read_parquet(file)
    check_columns(table.columns, ("household_id", "day", *DAILY, *FLAGS))
    households, first_week, days = _panel(table)
    starts = np.stack([_weeks(days[f"start_{kind}"]).max(axis=2) > 0 for kind in TYPES], axis=2)
    action = np.where(starts.any(axis=2), starts.argmax(axis=2) + 1, 0)
    features = _weekly_features(days, starts, first_week)
    obs = np.stack(list(features.values()), axis=2).astype(np.float32)
    bucket = np.array([bucket_of(name) for name in households.tolist()])
    return LoggedDataset(
        obs=obs,
        action=action,
        propensity=estimate_propensities(obs[:, :-1], action, bucket),
        reward=_weeks(days["spend"] - days["spend_fuel"]).sum(axis=2),
        cost=_weeks(days["coupon_disc"] + days["coupon_match_disc"]).sum(axis=2),
        valid=np.ones(action.shape, dtype=bool),
        bucket=bucket,
        meta={
            "source": "complete_journey",
            "columns": list(features),
            "incentives": list(FACE_VALUES),
            "actions": ["none", *TYPES],
            "reward_unit": "$",
            "step": "week",
            "propensity": "estimated",
        },
    )


def _panel(table: Any) -> tuple[Array, int, dict[str, Array]]:
    """Sorted households, the number of the first week, and each column as (n, 7 * weeks)."""
    households = np.unique(table["household_id"])
    day = table["day"].to_numpy()
    first_week, after = -(-int(day.min()) // 7), (int(day.max()) + 1) // 7
    if after <= first_week:
        raise ValueError(f"days {day.min()} to {day.max()} hold no whole week from a Sunday on")
    kept = (day >= 7 * first_week) & (day < 7 * after)
    outside = len(np.unique(day[~kept]))
    if outside:
        warnings.warn(f"{outside} days outside of whole weeks are dropped", stacklevel=3)
    row = np.searchsorted(households, table["household_id"].to_numpy()[kept])
    at = (row, day[kept] - 7 * first_week)
    seen = np.zeros((len(households), 7 * (after - first_week)), dtype=int)
    np.add.at(seen, at, 1)
    if (seen != 1).any():
        i, j = np.argwhere(seen != 1)[0]
        raise ValueError(
            f"household_id {households[i]}, day {j + 7 * first_week} stands {seen[i, j]} times: "
            "allowed is exactly one row per household and day"
        )
    days = {}
    for name in (*DAILY, *FLAGS):
        days[name] = np.empty(seen.shape)
        days[name][at] = table[name].to_numpy(dtype=float)[kept]
    return households, first_week, days


def _weekly_features(days: dict[str, Array], starts: Array, first_week: int) -> dict[str, Array]:
    """Each (n, weeks + 1): what is known on the first morning of a week, and after the last."""
    week = {name: _weeks(values).sum(axis=2) for name, values in days.items()}
    n, weeks = week["trips"].shape
    spend = week["spend"] - week["spend_fuel"]
    calendar = np.arange(weeks + 1)
    angle = 2 * np.pi * 7 * (first_week + calendar) / 365.25
    features = {
        "recency_weeks": _recency(days["trips"]) / 7,
        "spend_last_week": _mean_before(spend, 1),
        "spend_4_weeks": _mean_before(spend, 4),
        "trips_4_weeks": _mean_before(week["trips"], 4),
        "coupon_disc_4_weeks": _mean_before(week["coupon_disc"], 4),
        "redemptions": _sum_before(week["redemptions"]),
    }
    for k, kind in enumerate(TYPES):
        yesterday = _weeks(days[f"active_{kind}"])[:, :, -1] > 0
        features[f"received_{kind}"] = _sum_before(starts[:, :, k])
        features[f"active_{kind}"] = np.pad(yesterday, ((0, 0), (1, 0)))
        anybody = np.append(starts[:, :, k].any(axis=0), False)
        features[f"starts_{kind}"] = np.broadcast_to(anybody, (n, weeks + 1))
    for name, values in {
        "progress": calendar / weeks,
        "year_sin": np.sin(angle),
        "year_cos": np.cos(angle),
    }.items():
        features[name] = np.broadcast_to(values, (n, weeks + 1))
    return features


def _recency(trips: Array) -> Array:
    """(n, weeks + 1) days since the last trip, on the first morning of each week."""
    day = np.arange(trips.shape[1] + 1)
    before = np.pad(trips, ((0, 0), (1, 0))) > 0  # column t: the day before t
    last = np.maximum.accumulate(np.where(before, day - 1, -LONGEST_RECENCY), axis=1)
    return np.asarray(np.minimum(day - last, LONGEST_RECENCY)[:, ::7])


def _weeks(days: Array) -> Array:
    """(n, 7 * weeks) as (n, weeks, 7)."""
    return days.reshape(len(days), -1, 7)


def _sum_before(weekly: Array) -> Array:
    """(n, weeks) to (n, weeks + 1): the sum of all earlier weeks."""
    return np.pad(np.cumsum(weekly, axis=1, dtype=float), ((0, 0), (1, 0)))


def _mean_before(weekly: Array, length: int) -> Array:
    """(n, weeks) to (n, weeks + 1): the mean of the last `length` weeks, or of those there are."""
    total = _sum_before(weekly)
    week = np.arange(total.shape[1])
    start = np.maximum(week - length, 0)
    return (total - total[:, start]) / np.maximum(week - start, 1)


def estimate_propensities(features: Array, action: Array, bucket: Array) -> Array:
    """(n, weeks) estimated probability of the action that was taken, given the features.

    One multinomial logit a week, so that each campaign has its own size and its own targets,
    cross-fitted over five folds of households (by bucket). An action has support only in weeks in
    which somebody got it; there its probability is at least `FLOOR` before renormalising. On the
    development data weekly logits predict held-out households better than boosted trees over all
    weeks (log loss .0835 against .0874 a week; ignoring the features .1065).
    """
    propensity = np.ones(action.shape)
    fold = (bucket * FOLDS).astype(int)
    for week in range(action.shape[1]):
        supported = np.unique(action[:, week])
        if len(supported) > 1:
            probs = _cross_fitted(features[:, week], action[:, week], supported, fold)
            column = np.searchsorted(supported, action[:, week])
            propensity[:, week] = probs[np.arange(len(probs)), column]
    return propensity


def _cross_fitted(x: Array, action: Array, supported: Array, fold: Array) -> Array:
    """(n, supported) probabilities of each household from a model that has not seen it."""
    # Every command imports this module; few read these data.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probs = np.zeros((len(x), len(supported)))
    # Money and counts have long tails; the sine and cosine of the year are the only negatives.
    x = np.sign(x) * np.log1p(np.abs(x))
    for k in np.unique(fold):
        train, test = fold != k, np.flatnonzero(fold == k)
        known = np.unique(action[train])
        columns = np.searchsorted(supported, known)
        if len(known) == 1:
            probs[test[:, None], columns] = 1
        elif len(known):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1_000))
            probs[test[:, None], columns] = model.fit(x[train], action[train]).predict_proba(
                x[test]
            )
    probs = np.maximum(probs, FLOOR)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))
