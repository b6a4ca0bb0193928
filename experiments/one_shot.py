"""One-shot allocation: learners of `agents/` on trials with one decision per user.

    python -m experiments.one_shot --data lbcf
    python -m experiments.one_shot --data lbcf --methods estimator

lbcf         a generator with all counterfactuals: regret to the optimum, with and without shift
lbcf-linear  the same, by networks without a hidden layer, which cannot be right about everyone
hillstrom    an e-mail test of three arms: estimated value at five budgets
starbucks    a promotion: net revenue of held-out users at a budget that training users chose
criteo       CRITEO-UPLIFT v2, given its file: AUCC by the published protocol

A finished run is one JSON file, `OUT/DATA/runs/SETTING/METHOD-SEED.json`, and is not run again.
What has been run so far, by this call or earlier ones, is summarised in `OUT/DATA`:
`one_shot.json`, `one_shot.md` with tables and verdict, and figures. `--methods estimator` adds the
gradient estimators of end_to_end after equally many solver calls.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from tqdm import tqdm

from experiments import cli
from experiments.results import ROOT, provenance, write_json
from experiments.trials import (
    one_shot_criteo,
    one_shot_lbcf,
    one_shot_mails,
    one_shot_promotion,
    one_shot_report,
)
from experiments.trials.criteo import SPLITS
from experiments.trials.one_shot_methods import METHODS, Entry, entries, kind

# Each lists the settings that options ask for, and runs a method on one of them with a seed.
STUDIES: dict[str, ModuleType] = {
    "lbcf": one_shot_lbcf,
    "lbcf-linear": one_shot_lbcf,
    "hillstrom": one_shot_mails,
    "starbucks": one_shot_promotion,
    "criteo": one_shot_criteo,
}


@dataclass(frozen=True)
class Options:
    """Which data, which methods, and how often."""

    data: Literal["lbcf", "lbcf-linear", "hillstrom", "starbucks", "criteo"] = "lbcf"
    methods: tuple[str, ...] = METHODS  # or others of agents/, single rows, dotted paths of yours
    seeds: int = 20  # of training; of a trial's users, also a partition each
    file: Path | None = None  # of hillstrom, starbucks or criteo; default in the public data
    noises: tuple[float, ...] = (5.0, 10.0, 15.0, 20.0)  # lbcf
    users_per_arm: int = 2000  # lbcf: to learn from
    test_users_per_arm: int = 1000  # lbcf: to be allocated
    reward: Literal["visit", "conversion", "spend"] = "visit"  # hillstrom
    folds: int = 3  # hillstrom, starbucks: parts of the users, each held out once
    split: str = "60/10/30"  # criteo; or 70/30
    sample: int = 500_000  # criteo: users to learn from
    out: Path = ROOT / "results" / "one_shot"


def run(o: Options, setting: dict[str, Any], entry: Entry, seed: int) -> Path:
    """One method on one setting with one seed, unless its file is there."""
    file = o.out / o.data / "runs" / setting["name"] / f"{entry.name}-{seed}.json"
    about = {
        **setting, "data": o.data, "seed": seed, "method": entry.name, "kind": kind(entry.name),
        "config": asdict(entry.config(o.data)),
    }  # fmt: skip
    if file.exists() and json.loads(file.read_text())["about"] == about:
        return file
    start = time.perf_counter()
    try:
        found = STUDIES[o.data].run(o, setting, entry, seed)
    except ValueError as error:  # what a method refuses to learn from is a result, too
        found = {"error": str(error)}
    seconds = round(time.perf_counter() - start, 2)
    write_json(file, {"about": about, **found, "seconds": seconds, **_made_by()})
    return file


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("one_shot", __doc__, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    if o.split not in SPLITS:
        parser.error(f"--split {o.split}: allowed are {', '.join(SPLITS)}")
    try:
        chosen = entries(o.methods)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    settings = STUDIES[o.data].settings(o)
    jobs = [(s, entry, seed) for seed in range(o.seeds) for s in settings for entry in chosen]
    with tqdm(jobs, disable=None) as bar:
        for setting, entry, seed in bar:
            bar.set_description(f"{setting['name']} {entry.name} {seed}")
            run(o, setting, entry, seed)
    print(one_shot_report.write(o.out / o.data, {**_made_by()}))


@cache
def _made_by() -> dict[str, Any]:
    return provenance()


if __name__ == "__main__":
    main()
