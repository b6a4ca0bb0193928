"""A table of user-days, from anywhere, becomes the panel that a `LoggedDataset` is.

Users become rows in the order of their sorted distinct ids, so a log does not depend on the order
of its table. pyarrow reads whatever a data frame is; it is imported when a table is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from marketing_env.config import Array

REQUIRED = ("user_id", "day", "action", "propensity", "reward", "cost")
RESERVED = (*REQUIRED, "bucket")
# Ten years: a longer span is a date written as a plain number, and would only exhaust the memory.
MAX_DAYS = 3_660


def feature_columns(names: Iterable[str]) -> list[str]:
    """The names that are features: not those a log needs, nor a data frame's row numbers."""
    return [n for n in names if n not in RESERVED and not n.startswith("__index_level_")]


def bucket_of(user_id: Any, salt: str = "") -> float:
    """A user's number in [0, 1), from its id alone: the same on every machine and every day."""
    return float(buckets_of([user_id], salt)[0])


def buckets_of(user_ids: Iterable[Any], salt: str = "") -> Array:
    """(n,) `bucket_of` each user."""
    if isinstance(user_ids, np.ndarray) and user_ids.dtype.kind in "iu":
        user_ids = user_ids.tolist()  # Python's integers are written several times faster
    fresh, digests = hashlib.blake2b(salt.encode(), digest_size=8), []
    for user in user_ids:
        digest = fresh.copy()
        digest.update(f"{user}".encode())
        digests.append(digest.digest())
    return np.asarray((np.frombuffer(b"".join(digests), ">u8") >> 11) / 2**53)


def log_from_table(
    table: Any,
    features: Sequence[str] | None = None,
    incentives: Sequence[float] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The fields of the log that a table of user-days holds.

    One row is one user on one day. Columns: `user_id` (any type), `day` (integers from anywhere, or
    dates; the first becomes 0), `action` (0 is "no incentive"), `propensity` (probability with
    which the logging policy chose it), `reward`, `cost` (currency), optionally `bucket` (otherwise
    a hash of the id), and the features.

    A user-day without a row is not valid: the observation of the user's last row stands there (of
    the first, before it), with action 0, propensity 1 and nothing earned or paid. The observation
    after the last day is the last one seen: a table of user-days has no other.

    Args:
        table: a data frame (pandas, polars), an Arrow table or a dict of columns.
        features: names in order; by default all other columns, which must be numeric.
        incentives: declared levels; an action beyond them is an error.

    Raises:
        ValueError: naming the column, the 0-based row of the table, the bad value and the rule.
    """
    known = dict(meta or {})
    if incentives is not None:
        known["incentives"] = [float(level) for level in incentives]
    return panel_fields(_as_arrow(table), features, known)


def panel_fields(
    table: Any,
    features: Sequence[str] | None,
    meta: dict[str, Any],
    final: Any = None,
    horizon: int | None = None,
) -> dict[str, Any]:
    """`final` and `horizon` are of a log that knows its last morning and its empty days."""
    columns = _feature_names(table, features)
    ids, user = sorted_users(table, final)
    day = _days(table)
    if horizon is None:
        day = day - day.min()
        horizon = int(day.max()) + 1
    at = (user, day)
    valid = np.zeros((len(ids), horizon), dtype=bool)
    valid[at] = True
    if valid.sum() < len(user):
        raise _duplicated(table, user * horizon + day)

    def spread(values: Array, absent: float) -> Array:
        panel = np.full(valid.shape, absent, dtype=values.dtype)
        panel[at] = values
        return panel

    return {
        "obs": _observations(table, columns, at, valid, final),
        "action": spread(_actions(table, meta), 0),
        "propensity": spread(_propensities(table), 1),
        "reward": spread(_numbers(table, "reward"), 0),
        "cost": spread(_costs(table), 0),
        "valid": valid,
        "bucket": _buckets(table, ids, user) if final is None else _numbers(final, "bucket"),
        "meta": {**meta, "columns": columns},
    }


def _observations(table: Any, columns: list[str], at: Any, valid: Array, final: Any) -> Array:
    n, horizon = valid.shape
    obs = np.zeros((n, horizon + 1, len(columns)), dtype=np.float32)
    for j, name in enumerate(columns):
        obs[(*at, j)] = _numbers(table, name, np.float32)
        if final is not None:
            obs[:, -1, j] = _numbers(final, name, np.float32)
    seen = np.maximum.accumulate(np.where(valid, np.arange(horizon), -1), axis=1)
    before = np.where(valid.any(axis=1), valid.argmax(axis=1), horizon)
    source = np.where(seen < 0, before[:, None], seen)
    rows, days = np.nonzero(~valid)
    obs[rows, days] = obs[rows, source[rows, days]]
    if final is None:
        obs[:, -1] = obs[:, -2]
    return obs


def _feature_names(table: Any, features: Sequence[str] | None) -> list[str]:
    """The features' names, once all columns that a log needs are there."""
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"columns {', '.join(twice)} stand twice in the table")
    missing = [name for name in (*REQUIRED, *(features or ())) if name not in names]
    if missing:
        why = (
            ". propensity, the probability with which the logging policy chose the action, is "
            "required: log it, or estimate it as experiments/real_logs.py does"
        )
        raise ValueError(
            f"missing columns: {', '.join(missing)}; the table has {', '.join(names) or 'none'}"
            + why * ("propensity" in missing)
        )
    wanted = list(features or feature_columns(names))
    if not wanted or {*wanted} & {*RESERVED}:
        raise ValueError(f"features = {wanted}: allowed is one at least, none of {RESERVED}")
    if not len(table):
        raise ValueError("the table has no rows: a log holds at least one user-day")
    return wanted


def sorted_users(table: Any, final: Any = None) -> tuple[Any, Array]:
    """Sorted distinct ids, and for each row of the table the number of its user among them."""
    pa = require_pyarrow()
    column = _column(table, "user_id")
    absent = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if absent.any():
        raise _bad("user_id", int(absent.argmax()), None, "an id")
    if final is not None:
        column = pa.concat_arrays([_column(final, "user_id"), column])
    encoded = column.dictionary_encode()
    order = pa.compute.array_sort_indices(encoded.dictionary).to_numpy()
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    user = number[encoded.indices.to_numpy()]
    return encoded.dictionary.take(pa.array(order)), user[len(user) - len(table) :]


def _days(table: Any) -> Array:
    """(rows,) day numbers: of a date, the days since 1970."""
    pa = require_pyarrow()
    column = _column(table, "day")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _parsed_days(column)
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        column = column.cast(pa.date32(), safe=False).cast(pa.int32())
    day = _numbers(pa.table({"day": column}), "day")
    _require(day == np.floor(day), day, "day", "whole numbers, or dates")
    span = day.max() - day.min() + 1
    if span > MAX_DAYS or (day.min() > 19e6 and day.max() < 22e6):
        raise ValueError(
            f"column 'day' runs from {day.min():.0f} to {day.max():.0f}: allowed are at most "
            f"{MAX_DAYS} days, counted one by one or written as dates (2026-01-31)"
        )
    return day.astype(np.int64)


def _parsed_days(column: Any) -> Any:
    pa = require_pyarrow()
    for kind in (pa.int64(), pa.date32()):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    for row, text in enumerate(column.to_pylist()):
        try:
            date.fromisoformat(text or "")
        except ValueError:
            raise _bad("day", row, text, "whole numbers, or dates as 2026-01-31") from None
    raise ValueError("column 'day' mixes numbers and dates: allowed is one of them")


def _actions(table: Any, meta: Mapping[str, Any]) -> Array:
    action = _numbers(table, "action")
    known = len(meta.get("incentives") or ())
    top, why = (known - 1, f", the {known} declared incentives") if known else (255, "")
    holds = (action == np.floor(action)) & (action >= 0) & (action <= top)
    _require(holds, action, "action", f"whole numbers from 0 to {top}{why}")
    return action.astype(np.uint8)


def _propensities(table: Any) -> Array:
    p = _numbers(table, "propensity")
    _require((p > 0) & (p <= 1), p, "propensity", "(0, 1]")
    return p


def _costs(table: Any) -> Array:
    cost = _numbers(table, "cost")
    _require(cost >= 0, cost, "cost", "numbers of at least 0")
    return cost


def _buckets(table: Any, ids: Any, user: Array) -> Array:
    if "bucket" not in table.column_names:
        return np.array([bucket_of(name) for name in ids.to_pylist()])
    given = _numbers(table, "bucket")
    _require((given >= 0) & (given < 1), given, "bucket", "[0, 1)")
    bucket = np.empty(len(ids))
    bucket[user] = given
    _require(bucket[user] == given, given, "bucket", "one number per user, the same every day")
    return bucket


def _numbers(table: Any, name: str, dtype: Any = np.float64) -> Array:
    """A column as finite numbers."""
    pa = require_pyarrow()
    column = _column(table, name)
    kind, is_kind = column.type, pa.types
    numeric = is_kind.is_integer(kind) or is_kind.is_floating(kind) or is_kind.is_decimal(kind)
    if not (numeric or is_kind.is_boolean(kind) or is_kind.is_null(kind)):
        raise _not_numeric(name, column)
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        cast = values.astype(dtype, copy=False)
    _require(np.isfinite(cast), values, name, f"finite numbers ({np.dtype(dtype)})")
    return np.asarray(cast)


def _not_numeric(name: str, column: Any) -> ValueError:
    def is_number(value: Any) -> bool:
        try:
            float(value)
        except (TypeError, ValueError):
            return False
        return True

    values = column.to_pylist()
    row = next((i for i, value in enumerate(values) if not is_number(value)), 0)
    if name in RESERVED:
        return _bad(name, row, values[row], "numbers")
    encode = (
        f"numbers. Encode it (pandas.get_dummies(table, columns=[{name!r}])) or name the features "
        'to use (features=[...], or "columns" in schema.json)'
    )
    return _bad(name, row, values[row], encode)


def _column(table: Any, name: str) -> Any:
    column = table.column(name).combine_chunks()
    is_category = require_pyarrow().types.is_dictionary(column.type)
    return column.cast(column.type.value_type) if is_category else column


def _require(holds: Array, values: Array, column: str, allowed: str) -> None:
    if not holds.all():
        row = int(np.argmin(holds))
        value = values[row]
        raise _bad(column, row, value.item() if isinstance(value, np.generic) else value, allowed)


def _bad(column: str, row: int, value: Any, allowed: str) -> ValueError:
    return ValueError(f"column {column!r}, row {row}: {value!r}; allowed: {allowed}")


def _duplicated(table: Any, key: Array) -> ValueError:
    order = np.argsort(key, kind="stable")
    twice = np.flatnonzero(key[order][1:] == key[order][:-1])
    pair = twice[np.argmin(order[twice + 1])]
    first, second = int(order[pair]), int(order[pair + 1])
    user, day = (table.column(name)[second].as_py() for name in ("user_id", "day"))
    return ValueError(
        f"user_id {user!r}, day {day} stands in rows {first} and {second}: "
        "allowed is one row per user and day"
    )


def _as_arrow(table: Any) -> Any:
    pa = require_pyarrow()
    if not (isinstance(table, Mapping) or hasattr(table, "iloc")):
        try:
            return table if isinstance(table, pa.Table) else pa.table(table)
        except (TypeError, ValueError):
            raise ValueError(
                f"table is a {type(table).__name__}: allowed are a data frame, an Arrow table "
                "or a dict of columns"
            ) from None
    names = list(table)
    return pa.table([_arrow_column(name, table[name]) for name in names], names=names)


def _arrow_column(name: str, values: Any) -> Any:
    pa = require_pyarrow()
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        values = list(values)
        kinds = [isinstance(value, str) for value in values]
        row = kinds.index(not kinds[0]) if len(set(kinds)) == 2 else 0
        raise _bad(name, row, values[row], f"one type of value; row 0 is {values[0]!r}") from None


def require_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "tables of user-days need pyarrow: pip install 'marketing-env[data]'"
        ) from error
    return pyarrow
