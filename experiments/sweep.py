"""Run a whole suite: every method on every setting with every seed, in parallel processes.

    python -m experiments.sweep --suite main

Each finished run is one JSON file; a sweep that was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import cli
from experiments.methods import method
from experiments.results import ROOT
from experiments.runs import REFERENCES
from experiments.settings import SUITES, Setting, Suite


@dataclass(frozen=True)
class Options:
    """Which suite, and where its results go."""

    suite: str = "toy"  # name in experiments/settings.py
    out: Path = ROOT / "results"  # results land in OUT/SUITE/SETTING/METHOD-SEED.json
    workers: int = max(1, os.cpu_count() or 1)  # processes, each with one torch thread
    only: tuple[str, ...] = ()  # rows to run; default: all of the suite
    settings: tuple[str, ...] = ()  # settings to run; default: all of the suite
    seeds: tuple[int, ...] = ()  # training seeds to run; default: all of the suite


@dataclass(frozen=True)
class Job:
    """Runs of one setting that share a log."""

    setting: Setting
    rows: tuple[str, ...]  # not yet done
    seed: int
    suite: Suite
    folder: Path


def jobs(suite: Suite, folder: Path) -> list[Job]:
    """What is left to do: the first seed of every setting, then the next."""
    return [
        Job(setting, rows, seed, suite, folder / setting.name)
        for seed in suite.seeds
        for setting in suite.settings
        if (rows := _missing(suite, folder / setting.name, seed))
    ]


def _missing(suite: Suite, folder: Path, seed: int) -> tuple[str, ...]:
    """Rows without a result; references have one for all seeds."""
    files = {row: folder / f"{row}-{seed}.json" for row in suite.methods}
    if suite.references and seed == suite.seeds[0]:
        files = {row: folder / f"{row}.json" for row in REFERENCES} | files
    return tuple(row for row, path in files.items() if not path.exists())


def work(job: Job) -> str:
    """Do the runs of one job (in a process of its own)."""
    from experiments.run import Judge, collect, references, run

    if set(job.rows) & set(REFERENCES):
        references(job.setting, job.folder, progress=False)
    rows = [row for row in job.rows if row not in REFERENCES]
    if rows:
        judge = Judge(job.setting, progress=False, truth=job.folder / "truth.json")
        log = collect(job.setting, job.seed)
    for row in rows:
        module = job.suite.variants.get(row, row)
        config = {**_alone(module), **job.suite.configs.get(row, {})}
        out = job.folder / f"{row}-{job.seed}.json"
        run(job.setting, module, job.seed, out, config=config, log=log, judge=judge, row=row)
    return f"{job.setting.name}, seed {job.seed}"


def _alone(module: str) -> dict[str, Any]:
    """Settings of a method that runs beside others: no progress bar, one thread."""
    alone = {"progress": False, "workers": 1}
    known = {f.name for f in fields(method(module).Config)}
    return {name: value for name, value in alone.items() if name in known}


def part(suite: Suite, o: Options) -> Suite:
    """The part of a suite that was asked for.

    Raises:
        ValueError: for a row, setting or seed that the suite does not have.
    """
    known = {
        "only": (*suite.methods, *REFERENCES),
        "settings": tuple(s.name for s in suite.settings),
        "seeds": suite.seeds,
    }
    for option, allowed in known.items():
        for name in getattr(o, option):
            if name not in allowed:
                raise ValueError(f"--{option} {name}: allowed are {', '.join(map(str, allowed))}")
    return replace(
        suite,
        methods=tuple(m for m in suite.methods if not o.only or m in o.only),
        settings=tuple(s for s in suite.settings if not o.settings or s.name in o.settings),
        seeds=tuple(s for s in suite.seeds if not o.seeds or s in o.seeds),
        references=suite.references and (not o.only or bool({*REFERENCES} & {*o.only})),
    )


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
        for done in tqdm(as_completed(running), total=len(running), desc="settings x seeds"):
            if error := done.exception():
                job = running[done]
                failed.append(f"{job.setting.name}, seed {job.seed}: {error!r}")
    if failed:
        raise RuntimeError("failed runs:\n" + "\n".join(failed))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="experiments.sweep", description=__doc__)
    cli.add_options(parser, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    if o.suite not in SUITES:
        parser.error(f"--suite {o.suite}: there are {', '.join(SUITES)}")
    sweep(part(SUITES[o.suite], o), o.out / o.suite, o.workers)
    print(f"{o.out / o.suite}: done; python -m experiments.plot {o.out} draws it")


if __name__ == "__main__":
    main()
