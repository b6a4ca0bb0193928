"""Oracles of the price game side by side: one backward pass for all prices, or d3rlpy at each.

    python -m experiments.oracles
    python -m experiments.oracles --preset food_coupons --behaviour production --seeds 0 1 2

All learn from the same log and are held against the same optimum; what differs is how many seconds
of the processor they take, and what their policies earn. Each finished run is one JSON file; a
comparison that was stopped goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from agents import d3rlpy_price
from experiments import cli
from experiments.reporting.runs import Run, by_method, find_runs, pooled
from experiments.reporting.table import suite_table
from experiments.reporting.tables import print_table
from experiments.results import ROOT
from experiments.settings import Behaviour, Setting, Suite
from experiments.sweep import jobs, work

ALGORITHMS = {"d3rlpy_cql": "cql", "d3rlpy_bcq": "bcq", "d3rlpy_ddqn": "ddqn"}
# Our oracle at its defaults, and trained just long enough to be as good as d3rlpy's.
_BRIEF = {"steps": 80, "folds": 2, "width": 64, "outcome_epochs": 2.0, "pooled": 20_000}
ORACLES = ("mixed_policy", "mixed_policy_brief", *ALGORITHMS)
_D3RLPY = d3rlpy_price.Config()


@dataclass(frozen=True)
class Options:
    """Which campaign and log, and how much training d3rlpy gets."""

    preset: str = "payment_bonus"  # campaign
    behaviour: Behaviour = "random"  # policy that collects the log
    log_users: int = 50_000  # users of the log
    seeds: tuple[int, ...] = (0,)  # of logs and training
    test_users: int = 1_000  # fresh users in each of the ten judged populations
    oracles: tuple[str, ...] = ORACLES  # what is compared
    prices: int = _D3RLPY.prices  # best responses of d3rlpy
    steps: int = _D3RLPY.steps  # its gradient steps per price
    updates: int = _D3RLPY.updates  # its gradient steps per evaluation
    out: Path = ROOT / "results" / "oracles"  # results land in OUT/PRESET-BEHAVIOUR-USERS


def comparison(o: Options) -> Suite:
    """The runs that the options ask for."""
    training = {"prices": o.prices, "steps": o.steps, "updates": o.updates}
    configs = {row: {"algorithm": name, **training} for row, name in ALGORITHMS.items()}
    setting = Setting(
        f"{o.preset}-{o.behaviour}-{o.log_users}", o.preset, behaviour=o.behaviour,
        log_users=o.log_users, test_users=o.test_users,
    )  # fmt: skip
    return Suite(
        settings=(setting,),
        methods=o.oracles,
        seeds=o.seeds,
        configs=configs | {"mixed_policy_brief": {"prices": o.prices, **_BRIEF}},
        variants=dict.fromkeys(ALGORITHMS, "d3rlpy_price") | {"mixed_policy_brief": "mixed_policy"},
        references=False,
    )


def table(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row per oracle: processor seconds of training, and the score at each budget."""
    rows = []
    for name, found in by_method(runs).items():
        shares = [f"{100 * row['budget_share']:g} %" for row in found[0]["rows"]]
        scores = [f"{score:.1f}" for score in pooled(found, "score")[0]]
        cost = f"{np.mean([run['cpu_seconds'] for run in found]):.0f}"
        rows.append({"oracle": name, "cpu seconds": cost, **dict(zip(shares, scores, strict=True))})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("oracles", __doc__, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    if unknown := set(o.oracles) - set(ORACLES):
        parser.error(f"--oracles {' '.join(sorted(unknown))}: there are {', '.join(ORACLES)}")
    suite = comparison(o)
    for job in tqdm(jobs(suite, o.out), desc="seeds"):
        work(job)
    found = find_runs(o.out)
    (o.out / "table.md").write_text(suite_table(found))
    name = suite.settings[0].name
    rows = table(found[o.out / name])
    print_table(rows, list(rows[0]), f"{name}: score at shares of the unconstrained spend")
    print(f"{o.out / 'table.md'}: with errors and spending")


if __name__ == "__main__":
    main()
