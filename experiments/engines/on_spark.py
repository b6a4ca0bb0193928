"""Allocation on Spark: the functions of `scoring.py` as `mapInArrow` on a DataFrame of users.

    found, summary = allocate(spark.table("users"), "models/mine/model", budget=500_000)
    found.write.parquet("allocation")

The model's folder must be readable on every executor (`sc.addFile`, or a shared file system). The
allocation of a user is that of `experiments.allocate`, bit for bit, however the DataFrame is
partitioned; executors that are lost change nothing, because offers depend on the user alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments.engines.scoring import (
    BATCH,
    Plan,
    allocated,
    allocated_schema,
    offers_schema,
    rule_of,
    score,
)

Batches = Iterator[pa.RecordBatch]


def offers(users: Any, plan: Plan) -> Any:
    """Score users: a DataFrame of what each could be offered."""
    user_id = _arrow_type(users, "user_id")
    return _mapped(users, partial(score, plan), offers_schema(plan, user_id))


def allocate(
    users: Any, model: str | Path, budget: float, day: int = 0
) -> tuple[Any, dict[str, float]]:
    """Allocate a budget: a DataFrame with a row for each user, and what is expected of it.

    users: DataFrame of user_id, the log's features in the log's order, and perhaps bucket.
    budget: currency in total from this day on; see `experiments.allocate`.

    Raises:
        ValueError: for a model, a day or a budget that is none, or a budget below the least
            possible spend.
    """
    plan = Plan.of(model, day, budget, users.count())
    scored = offers(users, plan).persist()
    rule = rule_of(plan)

    def read(cut: Any) -> Iterator[Any]:
        found = scored.mapInArrow(partial(_partials, plan, cut), "part binary").collect()
        return (rule.from_bytes(bytes(row.part)) for row in found)

    cut = rule.find_cut(read, plan.money)
    schema = allocated_schema(_arrow_type(users, "user_id"))
    found = _mapped(scored, partial(_allocated, plan, cut), schema)
    return found, {
        "users": plan.users, "money": plan.money, "expected_reward": cut.value,
        "expected_cost": cut.cost, "price": cut.price, "bound": cut.bound,
    }  # fmt: skip


def _allocated(plan: Plan, cut: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
    return allocated(plan, batch, cut)


def _partials(plan: Plan, cut: Any, batches: Batches) -> Batches:
    """One row for a partition: its part in a pass."""
    rule = rule_of(plan)
    parts = [rule.partial(batch, cut) for batch in _large(batches)]
    if parts:
        data = rule.merge(parts).to_bytes()
        yield pa.RecordBatch.from_pydict({"part": pa.array([data], pa.binary())})


def _mapped(
    frame: Any, answer: Callable[[pa.RecordBatch], pa.RecordBatch], schema: pa.Schema
) -> Any:
    from pyspark.sql.pandas.types import from_arrow_schema

    def each(batches: Batches) -> Batches:
        return (answer(batch) for batch in _large(batches))

    return frame.mapInArrow(each, from_arrow_schema(schema))


def _large(batches: Batches) -> Batches:
    """The same rows in batches of about `BATCH`; Spark's are small."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= BATCH:
            yield pa.concat_batches(waiting)
            waiting = []
    if sum(map(len, waiting)):
        yield pa.concat_batches(waiting)


def _arrow_type(frame: Any, column: str) -> pa.DataType:
    from pyspark.sql.pandas.types import to_arrow_type

    if column not in frame.columns:
        raise ValueError(f"users have no column {column!r}; there are {frame.columns}")
    return to_arrow_type(frame.schema[column].dataType)
