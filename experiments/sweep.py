"""Run a whole suite: every method on every setting with every seed, in parallel processes.

    python -m experiments.sweep --suite first

Each finished run is one JSON file; a sweep that was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import cli
from experiments.results import ROOT
from experiments.settings import SUITES, Setting, Suite


@dataclass(frozen=True)
class Options:
    """Which suite, and where its results go."""

    suite: str = "toy"  # name in experiments/settings.py
    out: Path = ROOT / "results"  # results land in OUT/SUITE/SETTING/METHOD-SEED.json
    workers: int = max(1, os.cpu_count() or 1)  # processes, each with one torch thread


@dataclass(frozen=True)
class Job:
    """All runs of one setting: they share its logs and its exact optimum."""

    setting: Setting
    runs: tuple[tuple[str, int], ...]  # (method, seed) not yet done
    configs: dict[str, dict[str, Any]]
    folder: Path


def jobs(suite: Suite, folder: Path) -> list[Job]:
    """What is left to do."""
    configs = {name: dict(c) for name, c in suite.configs.items()}
    return [
        Job(setting, tuple(missing), configs, folder / setting.name)
        for setting in suite.settings
        if (missing := _missing(suite, folder / setting.name))
    ]


def _missing(suite: Suite, folder: Path) -> list[tuple[str, int]]:
    wanted = [(m, s) for s in suite.seeds for m in suite.methods]
    open_runs = [(m, s) for m, s in wanted if not (folder / f"{m}-{s}.json").exists()]
    references = all((folder / f"{r}.json").exists() for r in ("oracle", "perfect_myopic"))
    return open_runs if references else [("references", 0), *open_runs]


def work(job: Job) -> str:
    """Do the runs of one job (in a process of its own)."""
    from experiments.run import Judge, collect, references, run

    judge = None
    logs: dict[int, Any] = {}
    for name, seed in job.runs:
        if name == "references":
            references(job.setting, job.folder, progress=False)
            continue
        judge = judge or Judge(job.setting, progress=False)
        if seed not in logs:
            logs = {seed: collect(job.setting, seed)}
        config = {"progress": False} | job.configs.get(name, {})
        run(
            job.setting, name, seed, job.folder / f"{name}-{seed}.json",
            config=config, log=logs[seed], judge=judge,
        )  # fmt: skip
    return job.setting.name


def sweep(suite: Suite, folder: Path, workers: int) -> None:
    """Run what is missing of a suite.

    Raises:
        RuntimeError: if a run failed; the others are finished first.
    """
    todo = jobs(suite, folder)
    failed = []
    # Fresh processes: a forked torch may hang on its parent's threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(work, job): job for job in todo}
        for done in tqdm(as_completed(running), total=len(running), desc="settings"):
            if error := done.exception():
                failed.append(f"{running[done].setting.name}: {error!r}")
    if failed:
        raise RuntimeError("failed runs:\n" + "\n".join(failed))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="experiments.sweep", description=__doc__)
    cli.add_options(parser, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    if o.suite not in SUITES:
        parser.error(f"--suite {o.suite}: there are {', '.join(SUITES)}")
    sweep(SUITES[o.suite], o.out / o.suite, o.workers)
    print(f"{o.out / o.suite}: done; python -m experiments.plot {o.out} draws it")


if __name__ == "__main__":
    main()
