"""Oracles of the price game side by side: one backward pass for all prices, or d3rlpy at each.

    python -m experiments.oracles
    python -m experiments.oracles --preset food_coupons --behaviour production --seeds 0 1 2

All learn from the same log and are held against the same optimum; what differs is how long they
take and what their policies earn. Each finished run is one JSON file; a comparison that was stopped
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents import d3rlpy_price
from experiments import cli
from experiments.results import ROOT, write_json
from experiments.run import Judge, collect, run
from experiments.settings import Behaviour, Setting
from experiments.table import Run, by_method, find_runs, pooled, suite_table
from experiments.tables import print_table

Oracles = Mapping[str, tuple[str, Mapping[str, Any]]]
"""The method and its settings behind each name of the comparison."""

NAMES = ("mixed_policy", "d3rlpy_cql", "d3rlpy_bcq", "d3rlpy_ddqn")
_D3RLPY = d3rlpy_price.Config()


@dataclass(frozen=True)
class Options:
    """Which campaign and log, and how much training d3rlpy gets."""

    preset: str = "payment_bonus"  # campaign
    behaviour: Behaviour = "random"  # policy that collects the log
    log_users: int = 50_000  # users of the log
    seeds: tuple[int, ...] = (0,)  # of logs and training
    test_users: int = 1_000  # fresh users in each of the ten judged populations
    oracles: tuple[str, ...] = NAMES  # what is compared
    prices: int = _D3RLPY.prices  # best responses of d3rlpy
    steps: int = _D3RLPY.steps  # its gradient steps per price
    updates: int = _D3RLPY.updates  # its gradient steps per evaluation
    out: Path = ROOT / "results" / "oracles"  # results land in OUT/PRESET-BEHAVIOUR-USERS


def oracles(o: Options) -> Oracles:
    """What the options ask for."""
    budget = {"prices": o.prices, "steps": o.steps, "updates": o.updates}
    return {
        name: ("d3rlpy_price", {"algorithm": name.removeprefix("d3rlpy_"), **budget})
        if name.startswith("d3rlpy_")
        else (name, {})
        for name in o.oracles
    }


def compare(setting: Setting, wanted: Oracles, seeds: Sequence[int], folder: Path) -> None:
    """Do what is missing; leaves `folder`/NAME-SEED.json for each run."""
    judge = None
    for seed in seeds:
        files = {name: folder / f"{name}-{seed}.json" for name in wanted}
        missing = [name for name, file in files.items() if not _done(file, name)]
        log = collect(setting, seed) if missing else None
        for name in missing:
            judge = judge or Judge(setting)
            method, config = wanted[name]
            result = run(setting, method, seed, files[name], config=config, log=log, judge=judge)
            # One method stands for several oracles: the table tells them apart by this name.
            write_json(files[name], {**result, "method": name})


def _done(file: Path, name: str) -> bool:
    return file.exists() and json.loads(file.read_text())["method"] == name


def table(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row per oracle: seconds of training, and the score at each budget."""
    rows = []
    for name, found in by_method(runs).items():
        shares = [f"{100 * row['budget_share']:g} %" for row in found[0]["rows"]]
        scores = [f"{score:.1f}" for score in pooled(found, "score")[0]]
        seconds = f"{np.mean([run['seconds'] for run in found]):.0f}"
        rows.append({"oracle": name, "seconds": seconds, **dict(zip(shares, scores, strict=True))})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="experiments.oracles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_options(parser, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    if unknown := set(o.oracles) - set(NAMES):
        parser.error(f"--oracles {' '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    name = f"{o.preset}-{o.behaviour}-{o.log_users}"
    setting = Setting(
        name, o.preset, behaviour=o.behaviour, log_users=o.log_users, test_users=o.test_users
    )
    compare(setting, oracles(o), o.seeds, o.out / name)
    every = find_runs(o.out)
    (o.out / "table.md").write_text(suite_table(every))
    rows = table(every[o.out / name])
    print_table(rows, list(rows[0]), f"{name}: score at shares of the unconstrained spend")
    print(f"{o.out / 'table.md'}: with errors and spending")


if __name__ == "__main__":
    main()
