"""LoggedDataset: what is allowed in, and what comes out unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketing_env.dataset import LoggedDataset

PANELS = ("obs", "action", "propensity", "reward", "cost", "valid", "bucket")


def arrays(n: int = 10, horizon: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shape = (n, horizon)
    return {
        "obs": rng.normal(size=(n, horizon + 1, 2)),
        "action": rng.integers(3, size=shape),
        "propensity": rng.uniform(0.1, 1, shape),
        "reward": rng.normal(size=shape),
        "cost": rng.exponential(size=shape),
        "valid": np.ones(shape, dtype=bool),
        "bucket": np.arange(n) / n,
    }


def broken(name: str, at: tuple[int, ...], value: float) -> dict[str, Any]:
    fields = arrays()
    fields[name][at] = value
    return fields


def test_sizes_types_and_spend() -> None:
    log = LoggedDataset(**arrays())
    assert (log.n_users, log.horizon, log.n_actions) == (10, 3, 3)
    assert log.columns == ("x0", "x1")
    assert log.spend == pytest.approx(arrays()["cost"].sum() / 10)
    kinds = [str(getattr(log, name).dtype) for name in PANELS]
    assert kinds == ["float32", "uint8", *["float64"] * 3, "bool", "float64"]


def test_declared_incentives_count_as_actions() -> None:
    log = LoggedDataset(**arrays(), meta={"incentives": [0, 1, 2, 3, 4], "columns": ["a", "b"]})
    assert (log.n_actions, log.columns) == (5, ("a", "b"))


def test_arrays_are_read_only_and_the_callers_stay_writable() -> None:
    fields = arrays()
    log = LoggedDataset(**fields)
    for name in PANELS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(log, name)[0] = 0
        fields[name][0] = 0


nan = float("nan")


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("obs", (2, 0, 1), nan, "obs of user row 2, day 0"),
        ("obs", (2, 3, 1), np.inf, "obs of user row 2, day 2"),
        ("propensity", (4, 1), 0, r"propensity of user row 4, day 1 is 0.0: allowed: \(0, 1\]"),
        ("propensity", (4, 1), 1.1, "propensity of user row 4, day 1 is 1.1"),
        ("propensity", (4, 1), nan, "propensity of user row 4, day 1 is nan"),
        ("reward", (9, 2), nan, "reward of user row 9, day 2 is nan: allowed: finite"),
        ("cost", (0, 2), -0.5, "cost of user row 0, day 2 is -0.5: allowed: .* at least 0"),
        ("bucket", (3,), 1, r"bucket of user row 3 is 1.0: allowed: \[0, 1\)"),
        ("bucket", (3,), nan, "bucket of user row 3 is nan"),
        ("action", (1, 1), -1, "action holds -1: allowed are whole numbers, 0 to 255"),
        ("action", (1, 1), 256, "action holds 256"),
    ],
)
def test_fault_is_named(name: str, at: tuple[int, ...], value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoggedDataset(**broken(name, at, value))


def test_undeclared_action_is_named() -> None:
    with pytest.raises(ValueError, match=r"action of user row .* allowed: 0 to 1"):
        LoggedDataset(**arrays(), meta={"incentives": [0, 1]})


def test_days_that_are_not_valid_may_hold_anything_finite_or_not() -> None:
    fields = broken("reward", (9, 2), nan)
    fields["valid"][9, 2] = False
    assert not LoggedDataset(**fields).valid[9, 2]


@pytest.mark.parametrize("name", PANELS)
def test_wrong_shape_is_named(name: str) -> None:
    fields = arrays()
    fields[name] = fields[name][:-1]
    expected = "obs" if name == "action" else name
    with pytest.raises(ValueError, match=rf"{expected} has shape .*: allowed is "):
        LoggedDataset(**fields)


def test_empty_log_is_refused() -> None:
    with pytest.raises(ValueError, match="n >= 1"):
        LoggedDataset(**arrays(n=0))


def test_take_keeps_rows_together() -> None:
    log = LoggedDataset(**arrays(), meta={"source": "here"})
    some = log.take(np.array([7, 2]))
    for name in PANELS:
        assert np.array_equal(getattr(some, name), getattr(log, name)[[7, 2]])
    assert some.meta == log.meta


@given(share=st.floats(0.1, 0.9), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_split_is_a_partition_of_the_users(share: float, seed: int) -> None:
    log = LoggedDataset(**arrays())
    one, two = log.split(share, seed)
    assert one.n_users == round(share * 10)
    assert sorted([*one.bucket, *two.bucket]) == log.bucket.tolist()
    again, _ = log.split(share, seed)
    assert np.array_equal(one.bucket, again.bucket)


@pytest.mark.parametrize("share", [0, 1, -0.1, nan])
def test_split_into_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share = "):
        LoggedDataset(**arrays()).split(share)
