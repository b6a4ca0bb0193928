"""Logs on disk: a folder of Parquet with one partition a day, or whatever files a company has.

    log/schema.json                     format, columns, horizon, users, incentives, meta
    log/days/day=000/part-0.parquet     user_id, features, action, propensity, reward, cost, bucket
    log/final.parquet                   user_id, features, bucket: the morning after the last day

`log/days` is an ordinary hive-partitioned data set for Spark, DuckDB, pandas and pyarrow. A
`LoggedDataset` goes in and the fields of one come out: `dataset` builds it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from marketing_env.config import Array
from marketing_env.panel import RESERVED, panel_fields, require_pyarrow, sorted_users

FORMAT = "marketing-env-log-1"


def save_log(log: Any, folder: str | Path, progress: bool = False) -> None:
    """Write a `LoggedDataset`; user-days that are not valid are absent rows.

    The log is written beside `folder` and renamed, so a killed run leaves no half-written log. A
    log that stands there is replaced.

    Raises:
        ValueError: if `folder` holds something else than a log, or the log cannot be written.
    """
    target = Path(folder).resolve()
    _check_target(target)
    _check_writable(log)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        _write(log, new, progress)
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise


def _write(log: Any, folder: Path, progress: bool) -> None:
    parquet = require_pyarrow().parquet
    users = np.arange(log.n_users)
    for day in _bar(range(log.horizon), progress):
        part = folder / "days" / f"day={day:03d}" / "part-0.parquet"
        part.parent.mkdir(parents=True)
        rows = users[log.valid[:, day]]
        outcomes = {
            name: getattr(log, name)[rows, day]
            for name in ("action", "propensity", "reward", "cost")
        }
        parquet.write_table(_user_table(log, rows, day, outcomes), part)
    parquet.write_table(_user_table(log, users, log.horizon, {}), folder / "final.parquet")
    (folder / "schema.json").write_text(_schema_text(log), encoding="utf-8")


def _user_table(log: Any, rows: Array, day: int, outcomes: Mapping[str, Array]) -> Any:
    obs = dict(zip(log.columns, log.obs[rows, day].T, strict=True))
    return require_pyarrow().table({"user_id": rows, **obs, **outcomes, "bucket": log.bucket[rows]})


def _schema_text(log: Any) -> str:
    meta = {key: value for key, value in log.meta.items() if key not in ("columns", "incentives")}
    schema = {
        "format": FORMAT,
        "columns": list(log.columns),
        "horizon": log.horizon,
        "users": log.n_users,
        "incentives": log.meta.get("incentives"),
        "meta": meta,
    }
    try:
        return json.dumps(schema, indent=1, default=lambda value: value.tolist()) + "\n"
    except (TypeError, AttributeError) as error:
        raise ValueError(f"meta = {meta}: allowed is what JSON can hold ({error})") from None


def _check_target(target: Path) -> None:
    if target.is_file():
        raise ValueError(f"{target} is a file: a log is a folder")
    is_log = _schema(target).get("format") == FORMAT
    if target.exists() and any(target.iterdir()) and not is_log:
        raise ValueError(f"{target} is not empty and holds no log: it is not overwritten")


def _check_writable(log: Any) -> None:
    names = log.columns
    if len(names) != log.obs.shape[2] or len(set(names)) < len(names) or {*names} & {*RESERVED}:
        raise ValueError(
            f"columns = {list(names)}: allowed are {log.obs.shape[2]} different names, "
            f"none of {', '.join(RESERVED)}"
        )
    if not log.valid.any():
        raise ValueError("valid is False everywhere: a log holds at least one user-day")


def _bar(days: range, progress: bool) -> Any:
    if not progress:
        return days
    from tqdm import tqdm

    return tqdm(days, desc="save", unit="day")


def load_log(folder: str | Path) -> dict[str, Any]:
    """The fields of the log that `save_log`, or a company, wrote.

    `folder` is a log, a folder of Parquet or CSV files (`key=value` folders become columns), or
    one such file. A `schema.json` is optional there and may give `columns` (the features),
    `incentives` and `meta`.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: as `log_from_table` does.
    """
    path = Path(folder)
    schema = _schema(path)
    meta = dict(schema.get("meta") or {})
    if schema.get("incentives") is not None:
        meta["incentives"] = schema["incentives"]
    if schema.get("format") != FORMAT:
        return panel_fields(_read(path), schema.get("columns"), meta)
    final = _read(path / "final.parquet")
    return panel_fields(_read(path / "days"), schema["columns"], meta, final, schema["horizon"])


def user_ids(folder: str | Path) -> Array:
    """(n,) ids of the users, in the order of the log's rows: what an allocation is keyed by."""
    path = Path(folder)
    own = _schema(path).get("format") == FORMAT
    table = _read(path / "final.parquet" if own else path)
    return np.asarray(sorted_users(table)[0].to_numpy(zero_copy_only=False))


def _schema(path: Path) -> dict[str, Any]:
    file = path / "schema.json"
    if not file.is_file():
        return {}
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    return schema if isinstance(schema, dict) else {}


def _read(path: Path) -> Any:
    """One Arrow table of all files; what Spark hides (names that start with _ or .) is skipped."""
    if not path.exists():
        raise FileNotFoundError(f"there is no log at {path}")
    base = path if path.is_dir() else path.parent
    shown = sorted(_files(path))
    files = [f for f in shown if f.suffix == ".parquet"] or shown
    if not files:
        raise ValueError(f"{path} holds no file that ends with .parquet, .csv or .csv.gz")
    tables = [_read_file(file, base) for file in files]
    return require_pyarrow().concat_tables(tables, promote_options="permissive")


def _files(path: Path) -> Iterator[Path]:
    for file in [path] if path.is_file() else path.rglob("*"):
        hidden = any(part[0] in "_." for part in file.relative_to(path).parts)
        if not hidden and file.name.endswith((".parquet", ".csv", ".csv.gz")):
            yield file


def _read_file(file: Path, base: Path) -> Any:
    pa = require_pyarrow()
    try:
        is_parquet = file.suffix == ".parquet"
        table = pa.parquet.ParquetFile(file).read() if is_parquet else pa.csv.read_csv(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    for part in file.relative_to(base).parts[:-1]:
        key, equals, value = part.partition("=")
        if equals and key not in table.column_names:
            table = table.append_column(key, pa.repeat(value, len(table)))
    return table
