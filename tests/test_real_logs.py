"""Real data as logs: checked on small made-up files, and on the real ones where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from experiments import real_logs  # noqa: E402
from marketing_env.dataset import LoggedDataset  # noqa: E402

HOUSEHOLDS, WEEKS = 60, 6


def household_days(weeks: int = WEEKS, seed: int = 0) -> Any:
    """The layout of household_day.parquet; heavy shoppers get the campaigns of weeks 2 and 4."""
    rng = np.random.default_rng(seed)
    days = 7 * weeks
    household = np.repeat(np.arange(HOUSEHOLDS) * 3 + 1, days)
    day = np.tile(np.arange(days), HOUSEHOLDS)
    heavy = np.repeat(rng.random(HOUSEHOLDS) < 0.5, days)
    trips = rng.poisson(np.where(heavy, 0.6, 0.1))
    frame = pd.DataFrame({"household_id": household, "day": day, "trips": trips})
    frame["spend"] = trips * rng.lognormal(3, 1, len(frame))
    frame["spend_fuel"] = frame["spend"] * rng.choice([0, 0.3], len(frame))
    for name in ("coupon_disc", "coupon_match_disc"):
        frame[name] = trips * rng.choice([0, 0, 0.5], len(frame))
    frame["redemptions"] = (frame["coupon_disc"] > 0).astype(int)
    chosen = np.repeat(rng.random(HOUSEHOLDS), days) < np.where(heavy, 0.8, 0.2)
    for kind, start in {"A": 16, "B": 17, "C": 30}.items():
        frame[f"start_{kind}"] = (chosen & (day == start)).astype(int)
        frame[f"active_{kind}"] = (chosen & (day >= start) & (day < start + 10)).astype(int)
    return frame


def load(frame: Any, folder: Path) -> LoggedDataset:
    frame.to_parquet(folder / "household_day.parquet")
    return real_logs.complete_journey(folder)


def column(log: LoggedDataset, name: str) -> Any:
    return log.obs[:, :, log.columns.index(name)]


def test_weeks_are_steps(tmp_path: Path) -> None:
    frame = household_days()
    log = load(frame, tmp_path)
    assert (log.n_users, log.horizon, log.n_actions) == (HOUSEHOLDS, WEEKS, 4)
    by_week = frame.assign(week=frame["day"] // 7).groupby(["household_id", "week"]).sum()
    earned = by_week["spend"] - by_week["spend_fuel"]
    paid = by_week["coupon_disc"] + by_week["coupon_match_disc"]
    assert log.reward.ravel() == pytest.approx(earned.to_numpy())
    assert log.cost.ravel() == pytest.approx(paid.to_numpy())
    chosen = frame.groupby("household_id")["start_A"].max().to_numpy()
    expected = np.zeros((HOUSEHOLDS, WEEKS), dtype=int)
    expected[:, 2], expected[:, 4] = chosen, 3 * chosen  # A goes before B
    assert np.array_equal(log.action, expected)


def test_features_against_a_plain_loop(tmp_path: Path) -> None:
    frame = household_days()
    log = load(frame, tmp_path)
    for row, (_, rows) in enumerate(frame.groupby("household_id")):
        for week in range(WEEKS + 1):
            past = rows[rows["day"] < 7 * week]
            trips = past.loc[past["trips"] > 0, "day"]
            gap = min(7 * week - trips.max(), 60) if len(trips) else 60
            recent = past[past["day"] >= 7 * (week - 4)]
            weeks = max(1, min(week, 4))
            spend = (recent["spend"] - recent["spend_fuel"]).sum() / weeks
            seen = log.obs[row, week]
            named = dict(zip(log.columns, seen, strict=True))
            assert named["recency_weeks"] == pytest.approx(gap / 7)
            assert named["spend_4_weeks"] == pytest.approx(spend, rel=1e-4, abs=1e-4)
            assert named["trips_4_weeks"] == pytest.approx(recent["trips"].sum() / weeks)
            assert named["redemptions"] == past["redemptions"].sum()
            assert named["received_A"] == past["start_A"].sum()
            assert named["active_C"] == past.loc[past["day"] == 7 * week - 1, "active_C"].sum()


def future_of_others(frame: Any, first_day: int) -> Any:
    """From that day on every household lives another's life; the firm's calendar stays."""
    households = frame["household_id"].unique()
    other = dict(zip(households, np.roll(households, 1), strict=True))
    late = frame[frame["day"] >= first_day]
    late = late.assign(household_id=late["household_id"].map(other))
    return pd.concat([late, frame[frame["day"] < first_day]])


@pytest.mark.parametrize("week", [0, 2, 4, 5])
def test_no_feature_knows_its_own_week(tmp_path: Path, week: int) -> None:
    frame = household_days()
    log = load(frame, tmp_path)
    other = load(future_of_others(frame, 7 * week), tmp_path)
    assert np.array_equal(other.obs[:, : week + 1], log.obs[:, : week + 1])
    assert not np.array_equal(other.reward[:, week], log.reward[:, week])


@pytest.mark.parametrize("week", [1, 3])
def test_whatever_is_sold_and_sent_later_changes_only_the_calendar(
    tmp_path: Path, week: int
) -> None:
    frame = household_days()
    log = load(frame, tmp_path)
    late = frame["day"] >= 7 * week
    for name in (*real_logs.DAILY, *real_logs.FLAGS):
        frame.loc[late, name] = 0
    other = load(frame, tmp_path)
    known = [not name.startswith("starts_") for name in log.columns]
    assert np.array_equal(other.obs[:, : week + 1, known], log.obs[:, : week + 1, known])


def test_propensities_have_support_where_somebody_got_it(tmp_path: Path) -> None:
    log = load(household_days(), tmp_path)
    quiet = (log.action == 0).all(axis=0)
    assert quiet.tolist() == [True, True, False, True, False, True]
    assert (log.propensity[:, quiet] == 1).all()
    assert ((log.propensity > 0) & (log.propensity <= 1)).all()
    assert (log.propensity[:, ~quiet] < 1).all()
    assert log.meta["propensity"] == "estimated"


def test_propensities_recover_a_known_design() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6_000, 1, 1))
    truth = 1 / (1 + np.exp(-np.sign(x) * np.log1p(np.abs(x))))[:, 0]
    action = (rng.random((6_000, 1)) < truth).astype(int)
    found = real_logs.estimate_propensities(x, action, rng.random(6_000))
    assert np.abs(found - np.where(action == 1, truth, 1 - truth)).max() < 0.05


def test_propensity_of_a_household_does_not_know_its_own_action() -> None:
    rng = np.random.default_rng(0)
    x, bucket = rng.normal(size=(200, 1, 2)), rng.random(200)
    action = rng.integers(2, size=(200, 1))
    flipped = action.copy()
    flipped[0] = 1 - action[0]
    found, other = (real_logs.estimate_propensities(x, a, bucket) for a in (action, flipped))
    assert found[0, 0] + other[0, 0] == pytest.approx(1)


def test_an_arm_of_one_household_keeps_its_floor() -> None:
    action = np.zeros((50, 1), dtype=int)
    action[7] = 2
    x, bucket = np.zeros((50, 1, 1)), np.arange(50) / 50
    found = real_logs.estimate_propensities(x, action, bucket)
    assert 0.9 * real_logs.FLOOR < found[7, 0] < 0.1
    assert (np.delete(found[:, 0], 7) > 0.9).all()


def test_partial_weeks_are_dropped_and_said(tmp_path: Path) -> None:
    frame = household_days()
    cut = frame[(frame["day"] >= 5) & (frame["day"] < 38)]
    with pytest.warns(UserWarning, match="5 days outside of whole weeks"):
        log = load(cut, tmp_path)
    assert log.horizon == 4
    assert np.array_equal(log.reward, load(frame, tmp_path).reward[:, 1:5])


def test_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    frame = household_days()
    log, other = load(frame, tmp_path), load(frame.sample(frac=1, random_state=0), tmp_path)
    assert np.array_equal(log.obs, other.obs)
    assert np.array_equal(log.propensity, other.propensity)


def test_faults_of_the_panel_are_named(tmp_path: Path) -> None:
    frame = household_days()
    with pytest.raises(ValueError, match="missing columns: spend_fuel, start_B; the table has"):
        load(frame.drop(columns=["spend_fuel", "start_B"]), tmp_path)
    with pytest.raises(ValueError, match="household_id 1, day 3 stands 0 times"):
        load(frame.drop(index=3), tmp_path)
    with pytest.raises(ValueError, match="household_id 1, day 3 stands 2 times"):
        load(pd.concat([frame, frame.iloc[[3]]]), tmp_path)
    with pytest.raises(ValueError, match="no whole week"):
        load(frame[frame["day"] < 6], tmp_path)
    with pytest.raises(FileNotFoundError):
        real_logs.complete_journey(tmp_path / "nowhere")


def test_data_folder_follows_the_environment(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MARKETING_DATA", str(tmp_path))
    assert real_logs.data_folder() == tmp_path


def real(name: str) -> Path:
    folder = real_logs.data_folder() / name
    if not folder.exists():
        pytest.skip(f"{folder} is absent: set MARKETING_DATA to the folder of the public data")
    return folder


def test_real_complete_journey_agrees_with_its_facts() -> None:
    folder = real("complete_journey")
    log, facts = real_logs.complete_journey(folder), json.loads((folder / "facts.json").read_text())
    assert (log.n_users, log.horizon) == (facts["households"], facts["days"] // 7)
    sent = np.bincount(log.action.ravel(), minlength=4)[1:]
    told = [facts["campaigns"][f"Type {kind}"]["household_campaigns"] for kind in "ABC"]
    # Not equal: of two campaigns that start in one week one is kept, and the facts leave out
    # campaigns that end after the log.
    assert sent == pytest.approx(told, rel=0.1)
    trips = column(log, "trips_4_weeks")[:, 4:]
    assert 7 * facts["active_rate"] < trips.mean() < 10 * facts["active_rate"]
    assert log.propensity.min() > 0.9 * real_logs.FLOOR
    shares = np.stack([(log.action == a).mean(axis=0) for a in range(4)])
    ignorant = shares[log.action, np.arange(log.horizon)]
    assert np.log(log.propensity).mean() > 0.9 * np.log(ignorant).mean()
