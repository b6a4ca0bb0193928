"""Tables of user-days: what they become, and that each fault is named."""

from __future__ import annotations

import hashlib
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketing_env.dataset import LoggedDataset
from marketing_env.panel import bucket_of, buckets_of

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")


def table(**changes: Any) -> dict[str, Any]:
    """Two users; `b` was not there on day 1."""
    columns: dict[str, Any] = {
        "user_id": ["b", "a", "a", "b", "a"],
        "day": [4, 2, 3, 2, 4],
        "age": [30, 20, 20, 30, 21],
        "visits": [3.5, 0.0, 1.0, 2.5, 2.0],
        "action": [1, 0, 2, 0, 1],
        "propensity": [0.5, 0.25, 1.0, 0.5, 0.125],
        "reward": [1.0, 0.0, -2.0, 3.0, 4.0],
        "cost": [0.1, 0.0, 2.0, 0.0, 1.0],
    }
    return {name: values for name, values in (columns | changes).items() if values is not None}


def same(one: LoggedDataset, other: LoggedDataset) -> bool:
    names = ("obs", "action", "propensity", "reward", "cost", "valid", "bucket")
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in names)


def test_ragged_table_becomes_a_panel() -> None:
    log = LoggedDataset.from_table(table(), incentives=[0, 1, 2])
    assert log.columns == ("age", "visits")
    assert log.valid.tolist() == [[True, True, True], [True, False, True]]
    assert log.action.tolist() == [[0, 2, 1], [0, 0, 1]]
    assert log.propensity.tolist() == [[0.25, 1, 0.125], [0.5, 1, 0.5]]
    assert log.reward.tolist() == [[0, -2, 4], [3, 0, 1]]
    assert log.cost.tolist() == [[0, 2, 1], [0, 0, 0.1]]
    assert log.obs[:, :, 1].tolist() == [[0, 1, 2, 2], [2.5, 2.5, 3.5, 3.5]]
    assert log.bucket.tolist() == [bucket_of("a"), bucket_of("b")]
    assert log.n_actions == 3


def test_first_observation_stands_before_it() -> None:
    late = {"user_id": [1, 1, 2], "day": [0, 1, 1], "x": [1, 2, 3], "action": [0, 0, 0]}
    rest = {"propensity": [1, 1, 1], "reward": [0, 0, 0], "cost": [0, 0, 0]}
    assert LoggedDataset.from_table(late | rest).obs[1, :, 0].tolist() == [3, 3, 3]


def test_a_day_without_rows_is_a_gap() -> None:
    log = LoggedDataset.from_table(table(day=[6, 2, 3, 2, 6]))
    assert log.horizon == 5
    assert log.valid.any(axis=0).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    "days",
    [
        [date(2026, 2, 1), date(2026, 1, 30), date(2026, 1, 31), date(2026, 1, 30)],
        ["2026-02-01", "2026-01-30", "2026-01-31", "2026-01-30"],
        [datetime(2026, 2, 1, 9), *(datetime(2026, 1, d, 23) for d in (30, 31, 30))],
        ["001", "-1", "0", "-1"],
        [1.0, -1.0, 0.0, -1.0],
    ],
)  # fmt: skip
def test_days_of_any_kind_count_from_zero(days: list[Any]) -> None:
    days = [*days, days[0]]
    assert same(LoggedDataset.from_table(table(day=days)), LoggedDataset.from_table(table()))


@pytest.mark.parametrize("make", [pd.DataFrame, pa.table, lambda t: pd.DataFrame(t).iloc[:]])
def test_every_kind_of_table_gives_the_same_log(make: Any) -> None:
    given = make(table())
    assert same(LoggedDataset.from_table(given), LoggedDataset.from_table(table()))


def test_index_of_a_data_frame_is_no_feature(tmp_path: Path) -> None:
    frame = pd.DataFrame(table(), index=[7, 3, 9, 1, 5])
    assert LoggedDataset.from_table(frame).columns == ("age", "visits")
    frame.to_parquet(tmp_path / "with_index.parquet")
    assert LoggedDataset.load(tmp_path / "with_index.parquet").columns == ("age", "visits")
    mixed = frame.assign(age=["1", 2, 3, 4, 5])
    with pytest.raises(ValueError, match="column 'age', row 1: 2"):
        LoggedDataset.from_table(mixed)


@given(order=st.permutations(range(5)), names=st.permutations(["u", "v", "w"]))
@settings(max_examples=30, deadline=None)
def test_order_of_rows_does_not_matter(order: list[int], names: list[str]) -> None:
    users = [names[i] for i in (0, 1, 1, 0, 2)]
    rows = pa.table(table(user_id=users))
    shuffled = LoggedDataset.from_table(rows.take(pa.array(order)))
    assert same(shuffled, LoggedDataset.from_table(rows))


def test_chosen_features_come_in_their_order() -> None:
    log = LoggedDataset.from_table(table(city=["x"] * 5), features=["visits", "age"])
    assert log.columns == ("visits", "age")
    assert log.obs[0, 0].tolist() == [0, 20]


def test_categories_and_booleans_of_numbers_are_features() -> None:
    frame = pd.DataFrame(table(new=[True, False, False, True, False]))
    frame["user_id"], frame["age"] = (
        frame["user_id"].astype("category"),
        frame["age"].astype("category"),
    )
    log = LoggedDataset.from_table(frame)
    assert log.columns == ("age", "visits", "new")
    assert log.obs[1, 0].tolist() == [30, 2.5, 1]


def test_given_buckets_are_kept() -> None:
    log = LoggedDataset.from_table(table(bucket=[0.5, 0.25, 0.25, 0.5, 0.25]))
    assert log.bucket.tolist() == [0.25, 0.5]


def test_caller_keeps_its_table() -> None:
    rows = {name: np.array(values) for name, values in table().items()}
    before = {name: values.copy() for name, values in rows.items()}
    LoggedDataset.from_table(rows)
    assert all(np.array_equal(rows[name], before[name]) for name in rows)


nan, inf = float("nan"), float("inf")
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"cost": None, "reward": None}, "missing columns: reward, cost; the table has user_id, day"),
    ({"propensity": None}, r"missing columns: propensity.*estimate it.*real_logs"),
    ({"city": list("xyzzy")}, r"column 'city', row 0: 'x'; allowed: numbers. Encode it.*features="),
    ({"age": ["1", "2", "ten", "4", "5"]}, "column 'age', row 2: 'ten'"),
    ({"age": ["1", 2, 3, 4, 5]}, "column 'age', row 1: 2"),
    ({"visits": [0, 1, 2, nan, 4]}, "column 'visits', row 3: nan; allowed: finite"),
    ({"visits": [0, 1, None, 3, 4]}, "column 'visits', row 2: nan; allowed: finite"),
    ({"visits": [0, 1e39, 2, 3, 4]}, r"column 'visits', row 1: 1e\+39; allowed: finite"),
    ({"reward": [0, 1, 2, 3, inf]}, "column 'reward', row 4: inf; allowed: finite"),
    ({"reward": list("abcde")}, "column 'reward', row 0: 'a'; allowed: numbers$"),
    ({"cost": [0, -0.5, 0, 0, -1]}, "column 'cost', row 1: -0.5; allowed: numbers of at least 0"),
    ({"cost": [0, nan, 0, 0, 0]}, "column 'cost', row 1: nan"),
    ({"propensity": [1, 1, 0, 1, 1]}, r"column 'propensity', row 2: 0.0; allowed: \(0, 1\]"),
    ({"propensity": [1, 1, 1, 1.5, 1]}, r"column 'propensity', row 3: 1.5; allowed: \(0, 1\]"),
    ({"action": [0, 1, 2, 3, 0]}, "column 'action', row 3: 3.0; .*0 to 2, the 3 declared"),
    ({"action": [0, 1, 2, -1, 0]}, "column 'action', row 3: -1.0"),
    ({"action": [0, 0.5, 2, 1, 0]}, "column 'action', row 1: 0.5"),
    ({"day": [4, 2, 3, 2, 3]}, "user_id 'a', day 3 stands in rows 2 and 4"),
    ({"day": [4, 2, 3.5, 2, 4]}, "column 'day', row 2: 3.5"),
    ({"day": ["2026-01-01", "x", "3", "4", "5"]}, "column 'day', row 1: 'x'"),
    ({"day": [20260104, 20260102, 20260103, 20260102, 20260104]}, "written as dates"),
    ({"day": [10**9, 2, 3, 2, 4]}, "at most 3660 days"),
    ({"user_id": ["b", None, "a", "b", "a"]}, "column 'user_id', row 1: None; allowed: an id"),
    ({"bucket": [0.5, 0.2, 0.3, 0.5, 0.2]}, "column 'bucket', row 2: 0.3; allowed: one number"),
    ({"bucket": [1.0] * 5}, r"column 'bucket', row 0: 1.0; allowed: \[0, 1\)"),
    ({name: [] for name in table()}, "no rows"),
    ({"age": None, "visits": None}, "features = "),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_fault_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoggedDataset.from_table(table(**change), incentives=[0, 1, 2])


def test_undeclared_actions_fit_a_byte() -> None:
    assert LoggedDataset.from_table(table(action=[255, 0, 0, 0, 0])).n_actions == 256
    with pytest.raises(ValueError, match="row 0: 256"):
        LoggedDataset.from_table(table(action=[256, 0, 0, 0, 0]))


@pytest.mark.parametrize("thing", [[1, 2], None, "log.csv"])
def test_what_is_no_table_is_refused(thing: Any) -> None:
    with pytest.raises(ValueError, match="allowed are a data frame"):
        LoggedDataset.from_table(thing)


def test_columns_that_stand_twice_are_refused() -> None:
    rows = pa.table(table())
    with pytest.raises(ValueError, match="age stand"):
        LoggedDataset.from_table(rows.append_column("age", rows["age"]))


def test_bucket_depends_on_the_id_alone() -> None:
    assert bucket_of(7) == bucket_of("7") != bucket_of("7", salt="x")
    digest = hashlib.blake2b(b"x7", digest_size=8).hexdigest()
    assert bucket_of(7, salt="x") == (int(digest, 16) >> 11) / 2**53
    assert buckets_of([7, "u"]).tolist() == [bucket_of(7), bucket_of("u")]
    assert buckets_of([]).shape == (0,)
    sample = np.array([bucket_of(i) for i in range(4_000)])
    assert ((sample >= 0) & (sample < 1)).all()
    # 4,000 uniform numbers: a tenth holds 400, sd 19.
    assert (np.abs(np.histogram(sample, 10, (0, 1))[0] - 400) < 95).all()


def test_missing_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'marketing-env\[data\]'"):
        LoggedDataset.from_table(table())
