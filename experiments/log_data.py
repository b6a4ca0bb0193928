"""Simulate a campaign and write its log as Parquet.

python -m experiments.log_data --preset payment_bonus --users 50000 --out logs/payment_bonus
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments import cli
from experiments.run import behaviour
from experiments.settings import Behaviour, Setting
from marketing_env import preset, rollout


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
    log = rollout(behaviour(setting), config, o.users, seed=o.seed)
    log.save(o.out, progress=True)
    print(
        f"{o.out}: {log.n_users} users x {log.horizon} days, per user {log.spend:.3f} spent,"
        f" {log.value:.3f} {config.unit}"
    )


if __name__ == "__main__":
    main()
