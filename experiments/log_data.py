"""Simulate a campaign and write its log as Parquet.

    python -m experiments.log_data --preset payment_bonus --users 50000 --out logs/payment_bonus

More than 100,000 users are simulated and written part by part, so that any number fits in memory;
workers of a Dask cluster that see OUT at the same path make the same files together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments import cli
from experiments.campaigns import behaviour, campaign
from experiments.engines.on_dask import OnCluster, on_cluster
from experiments.settings import Behaviour, Setting
from marketing_env import LoggedDataset, rollout, rollout_parts, save_parts
from marketing_env.config import Array
from marketing_env.parquet import new_log, write_part, write_schema
from marketing_env.rollout import rollout_part

PART = 100_000  # users simulated and written at once


@dataclass(frozen=True)
class Options:
    """What to simulate and where to write it."""

    out: Path  # folder of the log
    preset: str = "payment_bonus"  # campaign
    users: int = 50_000  # users logged
    behaviour: Behaviour = "random"  # logging policy
    epsilon: float = 0.2  # exploration of the production-like policy
    unobserved: float = 0.0  # share of heterogeneity that no feature shows
    seed: int = 0  # of users, luck and logging policy
    cluster: str = ""  # address of a Dask scheduler; its workers see the same files


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("log_data", __doc__, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    setting = Setting(
        "log", o.preset, {"unobserved": o.unobserved}, behaviour=o.behaviour, epsilon=o.epsilon
    )
    config = campaign(setting)
    try:
        if o.cluster and o.users > PART:
            totals = in_parallel(setting, o, on_cluster(o.cluster))
        else:
            totals = in_turn(setting, o)
    except (ImportError, OSError) as error:
        parser.error(str(error))
    users, spent, earned = totals
    print(
        f"{o.out}: {o.users} users x {config.horizon} days, per user {spent / users:.3f} spent,"
        f" {earned / users:.3f} {config.unit}"
    )


def in_turn(setting: Setting, o: Options) -> Array:
    """Make the log here; returns users, spend and reward."""
    policy, config = behaviour(setting), campaign(setting)
    if o.users <= PART:
        logs = iter([rollout(policy, config, o.users, seed=o.seed)])
    else:
        logs = rollout_parts(policy, config, o.users, o.seed, part=PART)
    totals = np.zeros(3)
    save_parts(_counted(logs, totals), o.out, progress=True)
    return totals


def in_parallel(setting: Setting, o: Options, each: OnCluster) -> Array:
    """Make the same log on a cluster, one part a call; returns users, spend and reward."""
    numbers = range(-(-o.users // PART))
    with new_log(o.out) as new:
        work = partial(_part, setting, o.users, o.seed, PART, new)
        bar = tqdm(each(work, numbers), total=len(numbers), desc="save", unit="part")
        parts = sorted(bar, key=lambda part: part[0])
        totals = sum((totals for *_, totals in parts), np.zeros(3))
        write_schema(new, [schema for _, schema, _ in parts], o.users)
    return np.asarray(totals)


def _part(
    setting: Setting, users: int, seed: int, part: int, new: Path, number: int
) -> tuple[int, dict[str, Any], Array]:
    policy, config = behaviour(setting), campaign(setting)
    log = rollout_part(policy, config, users, seed, number, part=part)
    return number, write_part(log, new, number, number * part), _totals(log)


def _totals(log: LoggedDataset) -> Array:
    return np.array([log.n_users, log.cost.sum(), log.reward.sum()])


def _counted(logs: Iterator[LoggedDataset], totals: Array) -> Iterator[LoggedDataset]:
    """The same logs; adds users, spend and reward to `totals` as they pass."""
    for log in logs:
        totals += _totals(log)
        yield log


if __name__ == "__main__":
    main()
