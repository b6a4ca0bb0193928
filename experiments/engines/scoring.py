"""What each user could be offered, and what of it a budget buys: pieces that know no engine.

    score      users -> offers: reward, cost and incentive of every item an allocation may choose
    rule       how one budget is spent on offers: passes of `partial` and `find_cut`, then `assign`
    allocated  offers and the cut -> user_id, incentive, expected reward and cost, component

All are functions of Arrow record batches. A user's row depends on that user, the model and the cut
alone, and the cut on integer sums: however users are spread over batches, files and machines, the
allocation is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

import agents
from agents.common.files import learned_columns
from agents.common.mckp import stream
from agents.common.served import mixture_stream
from agents.common.types import Array
from marketing_env.panel import buckets_of, feature_columns

BATCH = 32_768  # users at once
_PARTS = {
    "incentive": pa.int16(),
    "value": pa.float32(),
    "cost": pa.float32(),
    "component": pa.int16(),
}
_ALLOCATED = {
    "incentive": pa.int16(),
    "expected_reward": pa.float64(),
    "expected_cost": pa.float64(),
    "component": pa.int16(),
}


@dataclass(frozen=True)
class Plan:
    """What is allocated to whom; the same for every worker."""

    model: str  # folder
    day: int  # of the campaign
    budget: float  # currency that all users may cost from this day to the end of the campaign
    users: int  # how many they are
    mixes: bool  # offers are policies for the rest of the campaign, else incentives for the day
    money: float  # what expected costs may add up to: the budget, or its share for the day
    campaign_budget: float  # per user of a campaign that runs all along as this one from now on

    @staticmethod
    def of(model: str | Path, day: int, budget: float, users: int) -> Plan:
        """Raises ValueError for a folder that is no model, or a day or budget that is none."""
        server = agents.serve(model, 0.0)
        if not 0 <= day < server.horizon:
            raise ValueError(f"day = {day}: allowed is 0 to {server.horizon - 1}")
        if not 0 <= budget < np.inf:
            raise ValueError(f"budget = {budget}: allowed are finite numbers of at least 0")
        left, mixes = server.horizon - day, server.rule.mixes
        per_user = budget / max(users, 1) * server.horizon / left
        model = str(Path(model).resolve())
        return Plan(model, day, budget, users, mixes, budget / (1 if mixes else left), per_user)


class Rule(NamedTuple):
    """How one budget is spent on offers: the functions of `mckp/stream.py`, on record batches."""

    partial: Callable[[pa.RecordBatch, Any], Any]
    merge: Callable[[Iterable[Any]], Any]
    from_bytes: Callable[[bytes], Any]
    find_cut: Callable[[Callable[[Any], Iterable[Any]], float], Any]
    choose: Callable[[pa.RecordBatch, Any], Array]  # (n,) items, by an exact cut


def rule_of(plan: Plan) -> Rule:
    """Policies are mixed by the users' buckets; a day's incentives are a knapsack."""
    if plan.mixes:
        return Rule(
            lambda b, cut: mixture_stream.partial(
                _items(b, "value"), _items(b, "cost"), _numbers(b, "bucket"), cut
            ),
            lambda parts: mixture_stream.merge(*parts),
            mixture_stream.Partial.from_bytes,
            mixture_stream.find_cut,
            lambda b, cut: mixture_stream.assign(_numbers(b, "bucket"), cut),
        )
    return Rule(
        lambda b, cut: stream.partial(_columns(b, "value"), _columns(b, "cost"), _ids(b), cut),
        stream.merge_all,
        stream.Partial.from_bytes,
        stream.find_cut,
        lambda b, cut: stream.assign(_columns(b, "value"), _columns(b, "cost"), _ids(b), cut),
    )


def score(plan: Plan, users: pa.RecordBatch) -> pa.RecordBatch:
    """Offers to a batch of users: user_id, bucket, and columns of every item.

    Features are the columns that the model learned from, by name; where its description does not
    name them, all columns but those that a log reserves, in the order of the log's.

    Raises:
        ValueError: if a column is missing, or a feature is no finite number.
    """
    ids = users.column(_column(users, "user_id"))
    features = _learned(plan.model) or feature_columns(users.schema.names)
    obs = np.empty((len(users), len(features)), dtype=np.float32)
    for j, name in enumerate(features):
        obs[:, j] = _numbers(users, name)
    bad = ~np.isfinite(obs)
    if bad.any():
        row, j = np.argwhere(bad)[0].tolist()
        raise ValueError(
            f"{features[j]} of user {ids[row].as_py()!r} is {obs[row, j]}: allowed: finite numbers"
        )
    if "bucket" in users.schema.names:
        bucket = _numbers(users, "bucket")
    else:
        bucket = buckets_of(ids.to_pylist())
    offers = _server(plan.model, plan.campaign_budget).offers(obs, plan.day, bucket=bucket)
    columns = {"user_id": ids, "bucket": pa.array(bucket)}
    for (name, kind), part in zip(_PARTS.items(), offers, strict=True):
        columns |= {f"{name}_{j}": pa.array(x, kind) for j, x in enumerate(part.T)}
    return pa.RecordBatch.from_pydict(columns)


def offers_schema(plan: Plan, user_id: pa.DataType) -> pa.Schema:
    """Columns that `score` answers with."""
    server = _server(plan.model, plan.campaign_budget)
    nobody = np.zeros((0, server.n_obs or 0))
    items = server.offers(nobody, plan.day, bucket=[]).cost.shape[1]
    parts = {f"{name}_{j}": kind for name, kind in _PARTS.items() for j in range(items)}
    return pa.schema({"user_id": user_id, "bucket": pa.float64(), **parts})


def allocated_schema(user_id: pa.DataType) -> pa.Schema:
    """Columns that `allocated` answers with."""
    return pa.schema({"user_id": user_id, **_ALLOCATED})


def allocated(plan: Plan, offers: pa.RecordBatch, cut: Any) -> pa.RecordBatch:
    """What each user of a batch gets."""
    item = rule_of(plan).choose(offers, cut)
    rows = np.arange(len(item))
    chosen = (_items(offers, name)[rows, item] for name in _PARTS)
    named = zip(_ALLOCATED.items(), chosen, strict=True)
    columns = {name: pa.array(x.astype(kind.to_pandas_dtype()), kind) for (name, kind), x in named}
    return pa.RecordBatch.from_pydict({"user_id": offers.column("user_id"), **columns})


_learned = lru_cache(8)(learned_columns)


@lru_cache(8)
def _server(model: str, budget: float) -> agents.Server:
    return agents.serve(model, budget)


def _columns(batch: pa.RecordBatch, part: str) -> list[Array]:
    """J arrays (n,)"""
    names = [name for name in batch.schema.names if name.startswith(f"{part}_")]
    return [batch.column(name).to_numpy() for name in names]


def _items(batch: pa.RecordBatch, part: str) -> Array:
    """(n, J)"""
    return np.stack(_columns(batch, part), axis=1)


def _ids(batch: pa.RecordBatch) -> Array:
    return np.asarray(batch.column("user_id").to_numpy(zero_copy_only=False))


def _numbers(batch: pa.RecordBatch, name: str) -> Array:
    column = batch.column(_column(batch, name))
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _column(batch: pa.RecordBatch, name: str) -> str:
    if name not in batch.schema.names:
        raise ValueError(f"users have no column {name!r}; there are {batch.schema.names}")
    return name
