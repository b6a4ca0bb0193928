"""Run a whole suite: every method on every setting with every seed, in parallel processes.

    python -m experiments.sweep --suite small
    python -m experiments.sweep --suite small --methods my_lab.thrifty --only my_lab.thrifty
    python -m experiments.sweep --suite full --cluster tcp://scheduler:8786
    python -m experiments.sweep --log logs/mine --only mixed_policy my_lab.thrifty --seeds 1 2 3

Each finished run is one JSON file; a sweep that was stopped goes on where it stopped. A method of
your own joins the same tables by its module's path; a log of your own stands beside them. Workers
of a Dask cluster write the same files: they need OUT at the same path, this project, and one thread
each.
"""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import cli, own_log
from experiments.engines.on_dask import pool_on
from experiments.methods import method
from experiments.reporting.runs import REFERENCES
from experiments.results import ROOT
from experiments.settings import METHODS, SUITES, Setting, Suite

_FREE = range(10, 800)  # training seeds that no trial has, and no judged population


@dataclass(frozen=True)
class Options:
    """Which suite, and where its results go."""

    suite: str = "toy"  # name in experiments/settings.py, or
    log: str = ""  # a log of your own: folder, file, or public data set (see experiments.train)
    out: Path = ROOT / "results"  # results land in OUT/SUITE/SETTING/METHOD-SEED.json
    workers: int = max(1, os.cpu_count() or 1)  # processes, each with one torch thread
    cluster: str = ""  # address of a Dask scheduler whose workers run it, not processes here
    methods: tuple[str, ...] = ()  # rows to add: files of agents/, or dotted paths of modules
    only: tuple[str, ...] = ()  # rows to run; default: all of the suite, and what is added
    settings: tuple[str, ...] = ()  # settings to run; default: all of the suite
    seeds: tuple[int, ...] = ()  # training seeds to run; default: those of the suite
    replay: bool = False  # estimate what is run now from a test log too, beside the truth


@dataclass(frozen=True)
class Job:
    """Runs of one setting that share a log."""

    setting: Setting
    rows: tuple[str, ...]  # not yet done
    seed: int
    suite: Suite
    folder: Path
    replay: bool = False  # estimate policies from a test log too

    def result(self, row: str) -> Path:
        """Where a row's result goes; references have one for all seeds."""
        name = row if row in REFERENCES else f"{row}-{self.seed}"
        return self.folder / f"{name}.json"

    @property
    def left(self) -> tuple[str, ...]:
        return tuple(row for row in self.rows if not self.result(row).exists())

    def __str__(self) -> str:
        return f"{self.setting.name}, seed {self.seed}"


Task = Job | own_log.Job


def jobs(suite: Suite, folder: Path, replay: bool = False) -> list[Job]:
    """What is left to do: the first seed of every setting, then the next."""
    every = (
        Job(setting, _rows(suite, seed), seed, suite, folder / setting.name, replay)
        for seed in suite.seeds
        for setting in suite.settings
    )
    return [replace(job, rows=job.left) for job in every if job.left]


def _rows(suite: Suite, seed: int) -> tuple[str, ...]:
    simulated = suite.references and seed == suite.seeds[0]
    return (*(REFERENCES if simulated else ()), *suite.methods)


def work(job: Job) -> None:
    """Do what is left of one job, in a process of its own; another may have died over it.

    Raises:
        RuntimeError: if a run failed; the others are finished first.
    """
    from experiments.campaigns import collect
    from experiments.judging import Judge
    from experiments.off_policy import TestLog
    from experiments.run import references, run
    from experiments.sharing import Oracles

    left = job.left
    if known := [row for row in left if row in REFERENCES]:
        references(job.setting, job.folder, progress=False, only=known)
    rows = [row for row in left if row not in REFERENCES]
    if rows:
        judge = Judge(job.setting, progress=False, truth=job.folder / "truth.json")
        log, oracles = collect(job.setting, job.seed), Oracles()
        estimates = TestLog(job.setting, job.seed).estimates if job.replay else None
    failed = []
    for row in rows:
        module = job.suite.variants.get(row, row)
        try:
            config = {**_alone(module), **job.suite.configs.get(row, {})}
            out = job.result(row)
            run(
                job.setting, module, job.seed, out, config=config, log=log, judge=judge, row=row,
                oracles=oracles, estimates=estimates,
            )  # fmt: skip
        except Exception as error:
            traceback.print_exc()
            failed.append(f"{row}: {error!r}")
    if failed:
        raise RuntimeError("; ".join(failed))


def _alone(module: str) -> dict[str, Any]:
    """Settings of a method that runs beside others: no progress bar, one thread."""
    alone = {"progress": False, "workers": 1}
    known = {f.name for f in fields(method(module).Config)}
    return {name: value for name, value in alone.items() if name in known}


def part(suite: Suite, o: Options) -> Suite:
    """The part of a suite that was asked for, with the methods that were added.

    Raises:
        ValueError: for a row or setting that the suite does not have, a seed of trials or
            populations, or if an added method is none.
    """
    for name in o.methods:
        method(name)
    suite = replace(suite, methods=tuple(dict.fromkeys((*suite.methods, *o.methods))))
    known = {
        "only": (*suite.methods, *REFERENCES),
        "settings": tuple(s.name for s in suite.settings),
    }
    for option, allowed in known.items():
        for name in getattr(o, option):
            if name not in allowed:
                raise ValueError(f"--{option} {name}: allowed are {', '.join(allowed)}")
    for seed in o.seeds:
        if seed not in suite.seeds and seed not in _FREE:
            own = "".join(f"{s}, " for s in suite.seeds if s not in _FREE)
            raise ValueError(
                f"--seeds {seed}: allowed are {own}{_FREE[0]} to {_FREE[-1]}; trials and"
                " judged populations have the others"
            )
    return replace(
        suite,
        methods=tuple(m for m in suite.methods if not o.only or m in o.only),
        settings=tuple(s for s in suite.settings if not o.settings or s.name in o.settings),
        seeds=o.seeds or suite.seeds,
        references=suite.references and (not o.only or bool({*REFERENCES} & {*o.only})),
    )


def sweep(
    suite: Suite, folder: Path, workers: int, cluster: str = "", replay: bool = False
) -> None:
    """Run what is missing of a suite.

    Raises:
        RuntimeError: if a run failed; the others are finished first.
    """
    folder = folder.resolve()  # workers may stand elsewhere
    run_all(work, jobs(suite, folder, replay), folder, workers, cluster)


def on_own_log(o: Options) -> Path:
    """Run methods on a log of one's own; returns the folder of the results."""
    folder = o.out.resolve() / "own_logs"
    rows = dict.fromkeys((*o.only, *o.methods)) or METHODS
    configs = {row: _alone(row) for row in rows}
    todo = own_log.jobs(o.log, configs, o.seeds or (0,), folder)
    run_all(own_log.work, todo, folder, o.workers, o.cluster)
    return folder


def run_all(
    do: Callable[[Any], None],
    todo: Sequence[Task],
    folder: Path,
    workers: int,
    cluster: str = "",
) -> None:
    """Do all jobs in processes of their own, and say what runs and how long it still takes.

    Raises:
        RuntimeError: if a run failed; the others are finished first.
    """
    failed: list[str] = []
    total = sum(len(job.rows) for job in todo)
    form = "{n_fmt}/{total_fmt} runs |{bar:20}| {elapsed}{postfix}"
    with (
        _pool(workers, cluster) as (pool, workers),
        tqdm(total=total, bar_format=form) as bar,
    ):
        running: dict[Future[None], Task] = {pool.submit(do, job): job for job in todo}
        waiting, pace = set(running), Pace(folder)
        while waiting:
            done, waiting = wait(waiting, timeout=2, return_when=FIRST_COMPLETED)
            failed += [f"{running[f]}: {error}" for f in done if (error := f.exception())]
            # Jobs are begun in their order: the first of those that are not done are at work.
            busy = [job for f, job in running.items() if f in waiting][:workers]
            bar.n = total - sum(len(job.left) for job in todo)
            bar.set_postfix_str(pace.says(busy, [running[f] for f in waiting], workers))
    if failed:
        raise RuntimeError("failed runs:\n" + "\n".join(failed))


@contextmanager
def _pool(workers: int, cluster: str) -> Iterator[tuple[Executor, int]]:
    """Processes that take jobs, here or on a cluster, and their number."""
    if cluster:
        with pool_on(cluster) as found:
            yield found
        return
    # Fresh processes: a forked torch may hang on its parent's threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool, workers


class Pace:
    """How long runs take, from the results of a suite so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[Path, float] = {}

    def says(self, busy: Iterable[Task], waiting: Sequence[Task], workers: int) -> str:
        now = [f"{job}: {job.left[0]}" for job in busy if job.left]
        left = self.left(waiting, workers)
        hours = "" if left is None else f"about {left / 60:.0f} min left; "
        return f"{hours}now {' | '.join(now)}"

    def left(self, waiting: Sequence[Task], workers: int) -> float | None:
        """Seconds that the jobs still take; None before the first result."""
        self._read()
        by_row: dict[str, list[float]] = {}
        for path, seconds in self.seconds.items():
            by_row.setdefault(path.stem.rpartition("-")[0], []).append(seconds)
        if not by_row:
            return None
        means = {row: sum(found) / len(found) for row, found in by_row.items()}
        other = sum(means.values()) / len(means)
        rows = [row for job in waiting for row in job.left if row not in REFERENCES]
        busy = max(1, min(workers, len(waiting)))
        return sum(means.get(row, other) for row in rows) / busy

    def _read(self) -> None:
        """A run takes no longer than since its job's last: players of a game share a training."""
        last: dict[tuple[Path, str], float] = {}
        for ended, path in sorted((p.stat().st_mtime, p) for p in self.folder.glob("*/*-*.json")):
            job = path.parent, path.stem.rpartition("-")[2]
            if path not in self.seconds:
                run = json.loads(path.read_text())
                alone = run["seconds"] + run.get("judge_seconds", 0.0)
                self.seconds[path] = min(alone, ended - last.get(job, -math.inf))
            last[job] = ended


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("sweep", __doc__, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    if not o.log and o.suite not in SUITES:
        parser.error(f"--suite {o.suite}: there are {', '.join(SUITES)}")
    try:
        if o.log:
            print(f"{on_own_log(o)}: done; experiments.report tells it")
            return
        sweep(part(SUITES[o.suite], o), o.out / o.suite, o.workers, o.cluster, o.replay)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{o.out / o.suite}: done; experiments.plot draws it, experiments.report tells it")


if __name__ == "__main__":
    main()
