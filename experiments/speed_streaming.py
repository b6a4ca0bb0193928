"""Allocation of a Parquet file that is never in memory, beside only reading it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agents.common.mckp.stream import Cut, Partial, assign, choose, merge, partial
from experiments.speed_allocator import campaign
from experiments.stopwatch import timed

_GROUP = 1_000_000  # users of a row group
_ITEMS = 6
_VALUES, _COSTS = ([f"{name}_{k}" for k in range(_ITEMS)] for name in ("value", "cost"))
_BUDGET = 0.1  # a user


def write(path: Path, users: int) -> None:
    """A file that is read as fast as Parquet can be: neither coded nor compressed."""
    names = ["user_id", *_VALUES, *_COSTS]
    types = [pa.int64(), *[pa.float32()] * 2 * _ITEMS]
    schema = pa.schema(list(zip(names, types, strict=True)))
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for start in range(0, users, _GROUP):
            ids = np.arange(start, min(start + _GROUP, users))
            value, cost = campaign(len(ids), _ITEMS, seed=start)
            columns = [ids, *np.ascontiguousarray(value.T), *np.ascontiguousarray(cost.T)]
            file.write_table(pa.table(dict(zip(names, columns, strict=True))), _GROUP)


def batches(path: Path) -> Iterator[Any]:
    """One row group after the other, on one thread."""
    file = pq.ParquetFile(path, pre_buffer=False)
    for group in range(file.num_row_groups):
        yield from file.read_row_group(group, use_threads=False).to_batches()


def fields(batch: Any) -> tuple[Any, Any, Any]:
    return batch.select(_VALUES), batch.select(_COSTS), batch["user_id"]


def one_pass(path: Path, cut: Cut | None) -> Partial:
    return reduce(merge, (partial(*fields(batch), cut) for batch in batches(path)))


def assigned(path: Path, cut: Cut) -> int:
    """The number of users who get something."""
    return sum(int(np.count_nonzero(assign(*fields(batch), cut))) for batch in batches(path))


def streaming(users: int, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for every pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "users.parquet")
        write(path, users)
        budget = users * _BUDGET
        cut = choose(one_pass(path, None), budget)
        exact = choose(one_pass(path, cut), budget)
        steps = {
            "read only": lambda: sum(len(batch) for batch in batches(path)),
            "first pass": lambda: choose(one_pass(path, None), budget),
            "second pass": lambda: choose(one_pass(path, cut), budget),
            "assignment": lambda: assigned(path, exact),
        }
        plain = np.nan
        for name, step in steps.items():
            t = timed(step, repeats=repeats)
            plain = t.seconds if name == "read only" else plain
            row = {"pass": name, "users": users, "seconds": t.seconds, "reads": t.seconds / plain}
            arrow = pa.default_memory_pool().max_memory() / 1e6
            yield row | {"memory": t.memory + arrow, "gap": 1 - exact.value / exact.bound}
