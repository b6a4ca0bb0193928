"""Allocation of a Parquet file that is never in memory, beside only reading it.

Passes are made in a process of their own, which imports no more than they need: what is measured is
all the memory that it ever holds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agents.common.mckp.stream import SAMPLE, Cut, Partial, assign, choose, merge_all, partial
from experiments.benchmarks.stopwatch import timed
from experiments.memory import forget_peak, peak_memory

_GROUP = 1_000_000  # users of a row group
_BATCH = 1 << 18  # users at once
_BUFFER = 1 << 18  # bytes read at once of each column
_ITEMS = 6
_VALUES, _COSTS = ([f"{name}_{k}" for k in range(_ITEMS)] for name in ("value", "cost"))
_BUDGET = 0.1  # a user


def write(path: Path, users: int) -> None:
    """A file that is read as fast as Parquet can be: neither coded nor compressed."""
    from experiments.benchmarks.speed_allocator import campaign  # and with it solvers and torch

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
    """Some users after the others, on one thread."""
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
        yield from file.iter_batches(_BATCH, use_threads=False)


def fields(batch: Any) -> tuple[Any, Any, Any]:
    return batch.select(_VALUES), batch.select(_COSTS), batch["user_id"]


def one_pass(path: Path, cut: Cut | None) -> Partial:
    return merge_all(partial(*fields(batch), cut) for batch in batches(path))


def assigned(path: Path, cut: Cut) -> int:
    """The number of users who get something."""
    return sum(int(np.count_nonzero(assign(*fields(batch), cut))) for batch in batches(path))


def streaming(users: int, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for every pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "users.parquet")
        write(path, users)
        code = (
            "import json; from experiments.benchmarks.speed_streaming import passes\n"
            f"print(json.dumps(list(passes({str(path)!r}, {users}, {repeats}))))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        yield from json.loads(done.stdout)


def passes(path: Path, users: int, repeats: int) -> Iterator[dict[str, Any]]:
    """What reading and each pass take, the libraries' memory included."""
    budget = users * _BUDGET
    cut = choose(one_pass(path, SAMPLE), budget)
    exact = choose(one_pass(path, cut), budget)
    steps = {
        "read only": lambda: sum(len(batch) for batch in batches(path)),
        "first pass": lambda: choose(one_pass(path, SAMPLE), budget),
        "second pass": lambda: choose(one_pass(path, cut), budget),
        "assignment": lambda: assigned(path, exact),
        "cost curve": lambda: one_pass(path, None).curve(),
    }
    plain = np.nan
    for name, step in steps.items():
        forget_peak()
        t = timed(step, repeats=repeats)
        plain = t.seconds if name == "read only" else plain
        row = {"pass": name, "users": users, "seconds": t.seconds, "reads": t.seconds / plain}
        yield row | {"memory": peak_memory() / 1e6, "gap": 1 - exact.value / exact.bound}
