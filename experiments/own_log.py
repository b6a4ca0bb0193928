"""Methods on a log of your own: trained on some of its users, judged on the others by replay.

What a policy is worth there nobody knows: results hold the forecasts of the models and off-policy
estimates side by side, no score, and stand beside those of simulated campaigns, not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.memory import forget_peak, peak_memory
from experiments.methods import method
from experiments.replay import on_log, verdict
from experiments.results import provenance, write_json
from experiments.run import train
from experiments.train import read_log

SHARES = (0.5, 0.75, 1.0, 1.25)  # budgets, as shares of what the log spends
HELD_OUT = 0.3  # share of the users that judge


@dataclass(frozen=True)
class Job:
    """Runs of one training seed, which also splits the log's users."""

    log: str  # folder, file, or name of a public data set
    configs: Mapping[str, Mapping[str, Any]]  # settings by method, for those not yet done
    seed: int
    folder: Path

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(self.configs)

    @property
    def left(self) -> tuple[str, ...]:
        return tuple(row for row in self.rows if not self.result(row).exists())

    def result(self, row: str) -> Path:
        return self.folder / f"{row}-{self.seed}.json"

    def __str__(self) -> str:
        return f"{self.folder.name}, seed {self.seed}"


def jobs(
    log: str, configs: Mapping[str, Mapping[str, Any]], seeds: tuple[int, ...], out: Path
) -> list[Job]:
    """What is left to do, seed by seed; results land in OUT/LOG/METHOD-SEED.json."""
    every = (Job(log, configs, seed, out / Path(log).stem) for seed in seeds)
    return [
        replace(job, configs={row: configs[row] for row in job.left}) for job in every if job.left
    ]


def work(job: Job) -> None:
    """Train every method of a job and estimate what its policies earn."""
    learn, judge = read_log(job.log).split(1 - HELD_OUT, seed=job.seed)
    budgets = tuple(learn.spend * np.array(SHARES))
    for row in job.rows:
        forget_peak()
        out = job.result(row)
        model, effort = train(row, learn, job.configs[row], job.seed, out.with_suffix(""))
        memory, estimates = peak_memory(), on_log(model, judge, budgets)
        told = {b: asdict(model.forecast(b)) for b in dict.fromkeys(e["budget"] for e in estimates)}
        write_json(out, {
            "own_log": job.log, "method": row, "seed": job.seed,
            "config": asdict(method(row).Config(**job.configs[row])),
            "users": learn.n_users, "judged_users": judge.n_users, "spend": learn.spend,
            "forecasts": [{"budget": b, **forecast} for b, forecast in told.items()],
            "estimates": estimates, "verdict": verdict(estimates, judge),
            **asdict(effort), "memory": memory, **provenance(),
        })  # fmt: skip
