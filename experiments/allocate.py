"""Allocate today's incentives: score users with a trained model and spend a budget on them.

    python -m experiments.allocate --model models/mine/model --users users.parquet \\
        --budget 500000 --out allocation.parquet

USERS is a Parquet file, or a folder of them: user_id, the log's features in the log's order, and
`bucket` if the log has one; what else a log holds is ignored, so a day of a log will do. OUT has
user_id, incentive, expected_reward, expected_cost and component, a row for each row of USERS in
their order; OUT.json says what is expected, and how far from optimal it can be at most.

The budget is currency in total, for all these users, from --day to the end of the campaign; on a
later day, give what is left. What is kept exactly depends on what a method knows:

values-to-go (mixed_policy)   expected costs from this day on add up to at most the budget: users
                              follow one of two policies for the rest of the campaign, by bucket
a day's response              expected costs of the day add up to at most the budget / days left:
(greedy_uplift, cluster, ..)  the exact knapsack
neither                       the policy trained for such a budget; costs are its forecast's

Users are read in batches, so memory does not grow with their number. Offers are kept in a folder
beside OUT until it is finished: a run that was killed goes on where it stopped. OUT appears whole
or not at all, and the same inputs give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from experiments import cli
from experiments.engines.on_dask import on_cluster
from experiments.engines.scoring import BATCH, Plan, allocated, rule_of, score
from experiments.results import write_json

T = TypeVar("T")

_BUFFER = 1 << 18  # bytes read at once of each column; without it, a row group is in memory twice


class Each(Protocol):
    """Where work is done: one core, or a cluster."""

    def __call__(self, work: Callable[[int], T], numbers: Sequence[int]) -> Iterable[T]: ...


@dataclass(frozen=True)
class Options:
    """Which users get how much money."""

    model: Path  # folder `model` that experiments.train wrote
    users: Path  # Parquet file, or folder of such
    budget: float  # currency in total from this day to the end of the campaign
    out: Path  # Parquet file to write
    day: int = 0  # of the campaign, from 0
    cluster: str = ""  # address of a Dask scheduler; its workers see the same files
    progress: bool = True  # show progress bars on a terminal


class Unit(NamedTuple):
    """A row group: what is scored at once, and again if a run is resumed."""

    file: str
    group: int

    def batches(self) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.file, buffer_size=_BUFFER) as file:
            yield from file.iter_batches(BATCH, row_groups=[self.group], use_threads=False)


def units_of(users: Path) -> tuple[list[Unit], int]:
    """The row groups of all files, and how many users they hold.

    Raises:
        ValueError: if there are no users, or a file has other columns than the first one.
    """
    files = sorted(users.rglob("*.parquet")) if users.is_dir() else [users]
    files = [file.resolve() for file in files]
    if not files or not files[0].exists():
        raise ValueError(f"{users}: allowed is a Parquet file, or a folder with some")
    units, count, first = [], 0, pq.read_schema(files[0])
    for file in files:
        meta = pq.read_metadata(file)
        if (names := meta.schema.to_arrow_schema().names) != first.names:
            raise ValueError(f"{file} has columns {names}; {files[0]} has {first.names}")
        groups = range(meta.num_row_groups)
        units += [Unit(str(file), g) for g in groups if meta.row_group(g).num_rows]
        count += meta.num_rows
    if not count:
        raise ValueError(f"{users} has no users")
    return units, count


class Job(NamedTuple):
    """An allocation, and where its intermediate files are."""

    plan: Plan
    units: list[Unit]
    folder: Path  # of scored units

    def scored(self, number: int) -> Path:
        return self.folder / f"offers-{number:06d}.parquet"

    def done(self, number: int) -> Path:
        return self.folder / f"allocated-{number:06d}.parquet"

    def score(self, number: int) -> None:
        """Score a unit, unless that has been done."""
        path = self.scored(number)
        if not path.exists():
            write_parquet(path, (score(self.plan, b) for b in self.units[number].batches()))

    def partial(self, number: int, cut: Any) -> Any:
        """A unit's part in a pass."""
        rule = rule_of(self.plan)
        return rule.merge(rule.partial(batch, cut) for batch in batches_of(self.scored(number)))

    def allocate(self, number: int, cut: Any) -> None:
        """Write what a unit's users get."""
        offers = batches_of(self.scored(number))
        write_parquet(self.done(number), (allocated(self.plan, batch, cut) for batch in offers))


def job_of(o: Options) -> Job:
    """The allocation that the options ask for; its folder has a name of all that decides it."""
    units, users = units_of(o.users)
    plan = Plan.of(o.model, o.day, o.budget, users)
    print_of = hashlib.blake2b(repr(plan).encode(), digest_size=8)
    for file in sorted({Path(unit.file) for unit in units}):
        stat = file.stat()
        print_of.update(f"{file} {stat.st_size} {stat.st_mtime_ns}".encode())
    for name in ("model.json", "model.safetensors"):
        print_of.update((o.model / name).read_bytes())
    folder = o.out.with_name(f".{o.out.name}.{print_of.hexdigest()}")
    folder.mkdir(parents=True, exist_ok=True)
    return Job(plan, units, folder)


def batches_of(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, buffer_size=_BUFFER) as file:
        yield from file.iter_batches(BATCH, use_threads=False)


def write_parquet(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write under a name of its own, then rename: many may write the same at the same time."""
    scratch = path.with_name(f".{path.name}.{uuid4().hex}")
    first = next(batches)
    with pq.ParquetWriter(scratch, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
    scratch.replace(path)


class Totals:
    """What an allocation comes to, gathered as it is written."""

    def __init__(self) -> None:
        self.users, self.reward, self.cost = 0, 0.0, 0.0
        self.counts = {name: np.zeros(256, dtype=int) for name in ("incentive", "component")}

    def seen(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self.users += len(batch)
            for name, counts in self.counts.items():
                counts += np.bincount(batch.column(name).to_numpy(), minlength=256)
            yield batch


def summary(plan: Plan, cut: Any, totals: Totals) -> dict[str, Any]:
    """What is expected, and the certificate."""
    shares = {
        name: {str(k): int(n) for k, n in enumerate(counts) if n}
        for name, counts in totals.counts.items()
    }
    gap = (cut.bound - cut.value) / abs(cut.bound) if cut.bound else 0.0
    about = "rest of the campaign" if plan.mixes else "day"
    return {
        **asdict(plan), "expected": about, "expected_reward": cut.value,
        "expected_cost": cut.cost, "price": cut.price, "bound": cut.bound, "gap": gap, **shares,
    }  # fmt: skip


def in_turn(work: Callable[[int], T], numbers: Sequence[int]) -> Iterable[T]:
    return map(work, numbers)


def allocate(o: Options, each: Each = in_turn) -> dict[str, Any]:
    """Write the allocation and its summary, which is returned.

    each: calls a function with each of some numbers and yields the answers in any order, here or on
        other machines that see the same files (`on_dask.py`).

    Raises:
        ValueError: for users, a model, a day or a budget that is none, or a budget below the least
            possible spend.
    """
    job = job_of(o)

    def on_all(work: Callable[[int], T], name: str) -> Iterator[T]:
        numbers, quiet = range(len(job.units)), None if o.progress else True
        yield from tqdm(each(work, numbers), name, len(numbers), unit="group", disable=quiet)

    for _ in on_all(job.score, "score"):
        pass
    cut = rule_of(job.plan).find_cut(
        lambda cut: on_all(partial(job.partial, cut=cut), "pass"), job.plan.money
    )
    for _ in on_all(partial(job.allocate, cut=cut), "allocate"):
        pass
    totals, whole = Totals(), job.folder / "whole.parquet"
    parts = (batch for n in range(len(job.units)) for batch in batches_of(job.done(n)))
    write_parquet(whole, totals.seen(parts))
    whole.replace(o.out)
    found = {**summary(job.plan, cut, totals), "model": str(o.model)}
    write_json(o.out.with_name(f"{o.out.name}.json"), found)
    shutil.rmtree(job.folder)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("allocate", __doc__, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    try:
        found = allocate(o, on_cluster(o.cluster) if o.cluster else in_turn)
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(found, indent=1))
    print(
        f"{o.out}: {found['users']} users, expected cost {found['expected_cost']:.6g} of"
        f" {found['money']:.6g}, reward {found['expected_reward']:.6g}"
        f" (at most {100 * found['gap']:.2g} % below the best possible)"
    )


if __name__ == "__main__":
    main()
