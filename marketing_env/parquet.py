"""Logs on disk: a folder of Parquet with one partition a day, or whatever files a company has.

    log/schema.json                        format, columns, horizon, users, incentives, meta
    log/days/day=000/part-00000.parquet    user_id, features, action, propensity, reward, cost,
                                           bucket
    log/final/part-00000.parquet           user_id, features, bucket: the morning after

`log/days` is an ordinary hive-partitioned data set for Spark, DuckDB, pandas and pyarrow. A
`LoggedDataset` goes in and the fields of one come out: `dataset` builds it. A log too large for
memory is written part by part (`save_parts`), and a sample of its users is read (`load_log`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from marketing_env.config import Array
from marketing_env.panel import RESERVED, panel_fields, require_pyarrow, sorted_users

FORMAT = "marketing-env-log-2"


def save_log(log: Any, folder: str | Path, progress: bool = False) -> None:
    """Write a `LoggedDataset`; user-days that are not valid are absent rows.

    Raises:
        ValueError: if `folder` holds something else than a log, or the log cannot be written.
    """
    save_parts([log], folder, progress)


def save_parts(logs: Iterable[Any], folder: str | Path, progress: bool = False) -> None:
    """Write `LoggedDataset`s of different users as one log; only one is held at a time.

    Users are numbered through. The log is written beside `folder` and renamed, so a killed run
    leaves no half-written log. A log that stands there is replaced.

    Raises:
        ValueError: if `folder` holds something else than a log, or a part cannot be written or has
            other columns, days or incentives than the first.
    """
    with new_log(folder) as new:
        schemas: list[dict[str, Any]] = []
        users = 0
        for log in _bar(logs, progress):
            schemas.append(write_part(log, new, len(schemas), users))
            users += log.n_users
        write_schema(new, schemas, users)


@contextmanager
def new_log(folder: str | Path) -> Iterator[Path]:
    """A folder for the parts of a log, which becomes `folder` once all is well.

    Raises:
        ValueError: if `folder` holds something else than a log.
    """
    target = Path(folder).resolve()
    _check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        yield new
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise


def write_part(log: Any, new: Path, number: int, start: int) -> dict[str, Any]:
    """Write the days and the last morning of users `start`, `start` + 1, ... into a `new_log`.

    Parts may be written in any order, by any number of processes. The answer is for `write_schema`.

    Raises:
        ValueError: if the part cannot be written.
    """
    _check_writable(log)
    users, name = np.arange(log.n_users), f"part-{number:05d}.parquet"
    for day in range(log.horizon):
        rows = users[log.valid[:, day]]
        outcomes = {
            name: getattr(log, name)[rows, day]
            for name in ("action", "propensity", "reward", "cost")
        }
        table = _user_table(log, rows, start, day, outcomes)
        _write_table(table, new / "days" / f"day={day:03d}" / name)
    _write_table(_user_table(log, users, start, log.horizon, {}), new / "final" / name)
    return _schema_of(log)


def write_schema(new: Path, schemas: Sequence[Mapping[str, Any]], users: int) -> None:
    """Finish a `new_log` by what `write_part` said of all parts, in their order.

    Raises:
        ValueError: without parts, or if one has other columns, days or incentives than the first.
    """
    if not schemas:
        raise ValueError("logs is empty: allowed is at least one part")
    first = schemas[0]
    for number, schema in enumerate(schemas):
        for key in ("columns", "horizon", "incentives"):
            if schema[key] != first[key]:
                raise ValueError(f"part {number}: {key} {schema[key]}; allowed: {first[key]}")
    text = _as_json({**first, "users": users})
    (new / "schema.json").write_text(text, encoding="utf-8")


def _write_table(table: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Features are as many numbers as users: only the few values of the rest are worth a dictionary.
    few = [name for name in ("action", "propensity", "cost") if name in table.column_names]
    require_pyarrow().parquet.write_table(table, file, use_dictionary=few)


def _user_table(log: Any, rows: Array, start: int, day: int, outcomes: Mapping[str, Array]) -> Any:
    obs = dict(zip(log.columns, log.obs[rows, day].T, strict=True))
    ids = {"user_id": start + rows}
    return require_pyarrow().table({**ids, **obs, **outcomes, "bucket": log.bucket[rows]})


def _schema_of(log: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "columns": list(log.columns),
        "horizon": log.horizon,
        "incentives": log.meta.get("incentives"),
        "meta": {k: v for k, v in log.meta.items() if k not in ("columns", "incentives")},
    }


def _as_json(schema: dict[str, Any]) -> str:
    try:
        return json.dumps(schema, indent=1, default=lambda value: value.tolist()) + "\n"
    except (TypeError, AttributeError) as error:
        meta = schema["meta"]
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


def _bar(logs: Iterable[Any], progress: bool) -> Any:
    if not progress:
        return logs
    from tqdm import tqdm

    return tqdm(logs, desc="save", unit="part")


def load_log(folder: str | Path, users: int | None = None, seed: int = 0) -> dict[str, Any]:
    """The fields of the log that `save_log`, or a company, wrote.

    `folder` is a log, a folder of Parquet or CSV files (`key=value` folders become columns), or
    one such file. A `schema.json` is optional there and may give `columns` (the features),
    `incentives` and `meta`.

    Args:
        users: read only so many users, drawn at random; the log may be larger than memory.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: as `log_from_table` does, and for fewer than one user.
    """
    path = Path(folder)
    schema = _schema(path)
    chosen = None if users is None else _draw_users(path, users, seed)
    meta = dict(schema.get("meta") or {})
    if schema.get("incentives") is not None:
        meta["incentives"] = schema["incentives"]
    if schema.get("format") != FORMAT:
        return panel_fields(_read(path, chosen), schema.get("columns"), meta)
    final, days = _read(path / "final", chosen), _read(path / "days", chosen)
    return panel_fields(days, schema["columns"], meta, final, schema["horizon"])


def user_ids(folder: str | Path) -> Array:
    """(n,) ids of the users, in the order of the log's rows: what an allocation is keyed by."""
    return np.asarray(sorted_users(_id_table(Path(folder)))[0].to_numpy(zero_copy_only=False))


def _id_table(path: Path) -> Any:
    """One row a user-day; of our own logs, one row a user."""
    own = _schema(path).get("format") == FORMAT
    return _read(path / "final" if own else path, columns=["user_id"])


def _draw_users(path: Path, users: int, seed: int) -> Any:
    """Arrow array of so many ids, or of all if there are fewer."""
    if users < 1:
        raise ValueError(f"users = {users}: allowed is 1 or more")
    ids = sorted_users(_id_table(path))[0]
    order = np.random.default_rng([seed, 9]).permutation(len(ids))
    return ids.take(np.sort(order[:users]))


def _schema(path: Path) -> dict[str, Any]:
    file = path / "schema.json"
    if not file.is_file():
        return {}
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    return schema if isinstance(schema, dict) else {}


def _read(path: Path, users: Any = None, columns: list[str] | None = None) -> Any:
    """One Arrow table of all files; what Spark hides (names that start with _ or .) is skipped.

    users: Arrow array of the ids whose rows are kept; default all.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no log at {path}")
    base = path if path.is_dir() else path.parent
    shown = sorted(_files(path))
    files = [f for f in shown if f.suffix == ".parquet"] or shown
    if not files:
        raise ValueError(f"{path} holds no file that ends with .parquet, .csv or .csv.gz")
    tables = [_read_file(file, base, users, columns) for file in files]
    return require_pyarrow().concat_tables(tables, promote_options="permissive")


def _files(path: Path) -> Iterator[Path]:
    for file in [path] if path.is_file() else path.rglob("*"):
        hidden = any(part[0] in "_." for part in file.relative_to(path).parts)
        if not hidden and file.name.endswith((".parquet", ".csv", ".csv.gz")):
            yield file


def _read_file(file: Path, base: Path, users: Any, columns: list[str] | None) -> Any:
    pa = require_pyarrow()
    try:
        if file.suffix == ".parquet":
            table = _read_parquet(pa.parquet.ParquetFile(file), users, columns)
        else:
            table = pa.csv.read_csv(file)
            table = _of_users(table, users).select(columns or table.column_names)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    for part in file.relative_to(base).parts[:-1]:
        key, equals, value = part.partition("=")
        if equals and key not in table.column_names and (columns is None or key in columns):
            table = table.append_column(key, pa.repeat(value, len(table)))
    return table


def _read_parquet(file: Any, users: Any, columns: list[str] | None) -> Any:
    """A file, or the rows of some users, one row group at a time."""
    if users is None:
        return file.read(columns)
    groups = (file.read_row_group(i, columns) for i in range(file.num_row_groups))
    tables = [_of_users(group, users) for group in groups]
    return require_pyarrow().concat_tables(tables) if tables else file.read(columns)


def _of_users(table: Any, users: Any) -> Any:
    if users is None or "user_id" not in table.column_names:
        return table
    compute = require_pyarrow().compute
    return table.filter(compute.is_in(table["user_id"], value_set=users))
