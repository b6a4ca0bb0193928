"""Simulate a campaign and write its log as Parquet.

    python -m experiments.log_data --preset payment_bonus --users 50000 --out logs/payment_bonus

More than 100,000 users are simulated and written part by part, so that any number fits in memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments import cli
from experiments.run import behaviour
from experiments.settings import Behaviour, Setting
from marketing_env import LoggedDataset, preset, rollout, rollout_parts, save_parts
from marketing_env.config import Array

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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="experiments.log_data", description=__doc__)
    cli.add_options(parser, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    setting = Setting(
        "log", o.preset, {"unobserved": o.unobserved}, behaviour=o.behaviour, epsilon=o.epsilon
    )
    config = preset(o.preset, unobserved=o.unobserved)
    if o.users <= PART:
        logs = iter([rollout(behaviour(setting), config, o.users, seed=o.seed)])
    else:
        logs = rollout_parts(behaviour(setting), config, o.users, o.seed, part=PART)
    totals = np.zeros(3)
    save_parts(_counted(logs, totals), o.out, progress=True)
    users, spent, earned = totals
    print(
        f"{o.out}: {o.users} users x {config.horizon} days, per user {spent / users:.3f} spent,"
        f" {earned / users:.3f} {config.unit}"
    )


def _counted(logs: Iterator[LoggedDataset], totals: Array) -> Iterator[LoggedDataset]:
    """The same logs; adds users, spend and reward to `totals` as they pass."""
    for log in logs:
        totals += log.n_users, log.cost.sum(), log.reward.sum()
        yield log


if __name__ == "__main__":
    main()
