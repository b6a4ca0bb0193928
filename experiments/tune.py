"""Try settings of every method on validation logs, and say which are best.

    python -m experiments.tune
    python -m experiments.tune mixed_policy bcorle --preset payment_bonus --trials 2

Every method has the same number of trials (`experiments/tuning.py`), the first with its present
settings. Logs and populations are others than those of the results. Each finished trial is one JSON
file; tuning that was stopped goes on where it stopped. OUT/tuning.md lists every trial.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments import cli
from experiments.reporting import tuned
from experiments.reporting.runs import TUNING, find_runs
from experiments.reporting.tables import print_table
from experiments.results import ROOT
from experiments.settings import PRESETS
from experiments.sweep import sweep
from experiments.tuning import LOG_SEEDS, MOST, TRIALS, trial_suite


@dataclass(frozen=True)
class Options:
    """On which campaigns, and how often."""

    preset: tuple[str, ...] = PRESETS[:3]  # campaigns; settings are chosen by their mean
    trials: int = MOST  # of each method, the present settings among them
    seeds: tuple[int, ...] = LOG_SEEDS  # of logs and of training
    out: Path = (
        ROOT / "results" / TUNING
    )  # results land in OUT/PRESET-random/METHOD-TRIAL-SEED.json
    workers: int = max(1, os.cpu_count() or 1)  # processes, each with one torch thread


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("tune", __doc__, Options)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="methods; default: all")
    given = parser.parse_args(argv)
    o = cli.from_options(Options, given)
    try:
        suite = trial_suite(tuple(given.methods) or tuple(TRIALS), o.preset, o.trials, o.seeds)
    except ValueError as error:
        parser.error(str(error))
    sweep(suite, o.out, o.workers)
    found = find_runs(o.out)
    (o.out / "tuning.md").write_text(tuned.document(found))
    rows = tuned.rows(found)
    print_table(rows, list(rows[0]), "mean scores on validation logs")
    print(f"{o.out / 'tuning.md'}: with what they mean")


if __name__ == "__main__":
    main()
