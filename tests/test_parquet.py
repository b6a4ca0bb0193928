"""Logs on disk: nothing is lost, nothing is half-written, and a company's files load too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marketing_env import parquet
from marketing_env.dataset import LoggedDataset
from marketing_env.panel import REQUIRED

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")

PANELS = ("obs", "action", "propensity", "reward", "cost", "valid", "bucket")


def make(n: int = 12, horizon: int = 4, seed: int = 0, **changes: Any) -> LoggedDataset:
    rng = np.random.default_rng(seed)
    shape = (n, horizon)
    log = LoggedDataset(
        obs=rng.normal(size=(n, horizon + 1, 2)),
        action=rng.integers(3, size=shape),
        propensity=rng.uniform(0.1, 1, shape),
        reward=rng.normal(size=shape),
        cost=rng.exponential(size=shape),
        valid=np.ones(shape, dtype=bool),
        bucket=rng.random(n),
        meta={"columns": ["age", "visits"], "incentives": [0.0, 1.0, 2.0], "source": "here"},
    )
    return replace(log, **changes)


def rows_of(log: LoggedDataset) -> Any:
    """The log as a company's data frame, in no order."""
    user, day = np.nonzero(log.valid)
    frame = pd.DataFrame(log.obs[user, day], columns=list(log.columns))
    frame["user_id"], frame["day"] = [f"u{i:02d}" for i in user], day + 5
    for name in ("action", "propensity", "reward", "cost"):
        frame[name] = getattr(log, name)[user, day]
    return frame.sample(frac=1, random_state=0, ignore_index=True)


def same(one: LoggedDataset, other: LoggedDataset, names: tuple[str, ...] = PANELS) -> bool:
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in names)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    log = make()
    log.save(tmp_path / "log")
    again = LoggedDataset.load(tmp_path / "log")
    assert same(again, log)
    assert dict(again.meta) == dict(log.meta)


def test_ragged_log_keeps_users_and_days_that_nobody_was_there(tmp_path: Path) -> None:
    valid = np.random.default_rng(1).random((12, 4)) < 0.5
    valid[3], valid[:, 0], valid[:, 3] = False, False, False
    log = make(valid=valid)
    log.save(tmp_path / "log")
    again = LoggedDataset.load(tmp_path / "log")
    assert same(again, log, ("valid", "bucket"))
    assert np.array_equal(again.obs[:, -1], log.obs[:, -1])
    for name in ("action", "propensity", "reward", "cost"):
        assert np.array_equal(getattr(again, name)[valid], getattr(log, name)[valid])
    assert np.array_equal(again.obs[:, :-1][valid], log.obs[:, :-1][valid])
    assert not again.reward[~valid].any()
    assert (again.propensity[~valid] == 1).all()
    again.save(tmp_path / "again")
    assert same(LoggedDataset.load(tmp_path / "again"), again)


def test_days_are_partitions_that_pandas_reads(tmp_path: Path) -> None:
    log = make()
    log.save(tmp_path / "log")
    frame = pd.read_parquet(tmp_path / "log/days")
    assert sorted(frame) == sorted(["age", "visits", "bucket", *REQUIRED])
    assert len(frame) == log.n_users * log.horizon
    assert frame[frame["day"] == 2]["reward"].sum() == pytest.approx(log.reward[:, 2].sum())
    parts = sorted(p.parent.name for p in (tmp_path / "log" / "days").rglob("part-*.parquet"))
    assert parts == ["day=000", "day=001", "day=002", "day=003"]
    schema = json.loads((tmp_path / "log/schema.json").read_text())
    assert schema["columns"] == ["age", "visits"]
    assert (schema["horizon"], schema["incentives"]) == (4, [0, 1, 2])


def test_a_log_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    make(horizon=6).save(tmp_path / "log")
    make(seed=1).save(tmp_path / "log", progress=True)
    assert same(LoggedDataset.load(tmp_path / "log"), make(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_failed_write_leaves_the_old_log(tmp_path: Path, monkeypatch: Any) -> None:
    make().save(tmp_path / "log")

    def fail(log: Any) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(parquet, "_as_json", fail)
    with pytest.raises(OSError, match="disk full"):
        make(seed=1).save(tmp_path / "log")
    assert same(LoggedDataset.load(tmp_path / "log"), make())
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_what_is_no_log_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"columns": ["age"]}')
    with pytest.raises(ValueError, match="holds no log"):
        make().save(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        make().save(tmp_path / "schema.json")
    (tmp_path / "empty").mkdir()
    make().save(tmp_path / "empty")
    assert same(LoggedDataset.load(tmp_path / "empty"), make())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": {"columns": ["age", "age"]}}, "different names"),
        ({"meta": {"columns": ["age", "cost"]}}, "none of user_id"),
        ({"meta": {"columns": ["age"]}}, "2 different names"),
        ({"meta": {"when": {1, 2}}}, "JSON"),
        ({"valid": np.zeros((12, 4), dtype=bool)}, "at least one user-day"),
    ],
)
def test_a_log_that_could_not_be_read_is_not_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes).save(tmp_path / "log")
    assert not list(tmp_path.iterdir())


def write(frame: Any, folder: Path, layout: str) -> Path:
    folder.mkdir()
    if layout == "parts":
        frame.iloc[:20].to_parquet(folder / "a.parquet")
        frame.iloc[20:].to_parquet(folder / "b.parquet")
    elif layout == "hive":
        frame.to_parquet(folder, partition_cols=["day"])
        (folder / "_SUCCESS.parquet").write_text("")
    elif layout == "dates":
        dates = pd.Timestamp("2026-01-30") + pd.to_timedelta(frame["day"], unit="D")
        frame.assign(day=dates.dt.date).to_parquet(folder, partition_cols=["day"])
    else:
        frame.to_csv(folder / layout, index=False)
        return folder / layout
    return folder


@pytest.mark.parametrize("layout", ["parts", "hive", "dates", "log.csv", "log.csv.gz"])
def test_company_files_load(tmp_path: Path, layout: str) -> None:
    log = make()
    path = write(rows_of(log), tmp_path / "log", layout)
    again = LoggedDataset.load(path)
    assert again.columns == ("age", "visits")
    assert np.allclose(again.obs[:, :-1], log.obs[:, :-1], atol=1e-6)
    assert same(again, log, ("action", "valid"))
    assert np.allclose(again.reward, log.reward)
    assert parquet.user_ids(path).tolist() == [f"u{i:02d}" for i in range(12)]


def test_company_schema_names_features_and_incentives(tmp_path: Path) -> None:
    frame = rows_of(make()).assign(city="Rome")
    path = write(frame, tmp_path / "log", "parts")
    with pytest.raises(ValueError, match=r"column 'city', row 0: 'Rome'.*schema\.json"):
        LoggedDataset.load(path)
    schema: dict[str, Any] = {"columns": ["visits"], "incentives": [0, 1, 2, 5], "meta": {"a": 1}}
    (path / "schema.json").write_text(json.dumps(schema))
    log = LoggedDataset.load(path)
    assert (log.columns, log.n_actions, log.meta["a"]) == (("visits",), 4, 1)
    (path / "schema.json").write_text(json.dumps(schema | {"incentives": [0, 1]}))
    with pytest.raises(ValueError, match="2 declared incentives"):
        LoggedDataset.load(path)


def test_ids_of_a_saved_log_are_its_rows(tmp_path: Path) -> None:
    make().save(tmp_path / "log")
    assert parquet.user_ids(tmp_path / "log").tolist() == list(range(12))


def test_faults_of_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no log at"):
        LoggedDataset.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no file"):
        LoggedDataset.load(tmp_path)
    (tmp_path / "x.parquet").write_text("hello")
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read"):
        LoggedDataset.load(tmp_path)
    (tmp_path / "schema.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        LoggedDataset.load(tmp_path)


def test_parts_become_one_log(tmp_path: Path) -> None:
    logs = [make(seed=seed) for seed in range(3)]
    parquet.save_parts(iter(logs), tmp_path / "log")
    found = LoggedDataset.load(tmp_path / "log")
    for name in ("obs", "action", "reward", "bucket", "valid"):
        whole = np.concatenate([getattr(log, name) for log in logs])
        np.testing.assert_array_equal(getattr(found, name), whole)
    assert parquet.user_ids(tmp_path / "log").tolist() == list(range(found.n_users))


def test_parts_that_differ_leave_nothing_behind(tmp_path: Path) -> None:
    log = make(seed=0)
    short = log.take(slice(0, 3))
    odd = replace(short, meta={**short.meta, "incentives": [0.0, 1.0, 9.0]})
    with pytest.raises(ValueError, match=r"part 1: incentives .*9\.0.*allowed"):
        parquet.save_parts([log, odd], tmp_path / "log")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="logs is empty"):
        parquet.save_parts([], tmp_path / "log")


@pytest.mark.parametrize("own", [True, False])
def test_a_sample_of_users_is_read(tmp_path: Path, own: bool) -> None:
    log = make(seed=0)
    log.save(tmp_path / "log")
    path = tmp_path / "log" if own else tmp_path / "log" / "days"
    whole = LoggedDataset.load(path)
    some = LoggedDataset.load(path, users=5, seed=1)
    assert some.n_users == 5
    rows = [int(np.flatnonzero(whole.bucket == b)[0]) for b in some.bucket]
    assert rows == sorted(rows)
    np.testing.assert_array_equal(some.reward, whole.reward[rows])
    np.testing.assert_array_equal(some.obs[:, :-1], whole.obs[rows, :-1])
    other = LoggedDataset.load(path, users=5, seed=2)
    assert set(other.bucket) != set(some.bucket)
    assert LoggedDataset.load(path, users=10**6).n_users == whole.n_users
    with pytest.raises(ValueError, match=r"users = 0"):
        LoggedDataset.load(path, users=0)
