"""How fast everything is, measured side by side in one process.

    python -m experiments.speed
    python -m experiments.speed --only allocator --users 100000

Each benchmark writes a JSON with what produced it, and the same as a Markdown table. Times depend
on the machine; ratios of times in one process much less so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from experiments import cli
from experiments.benchmarks.speed_allocator import allocator
from experiments.benchmarks.speed_scale import scale
from experiments.benchmarks.speed_serving import serving
from experiments.benchmarks.speed_simulator import simulator
from experiments.benchmarks.speed_streaming import streaming
from experiments.benchmarks.speed_training import training
from experiments.results import ROOT, provenance, write_json

Row = dict[str, Any]  # column -> text or number


@dataclass(frozen=True)
class Options:
    """What is measured, and where the results go."""

    only: tuple[str, ...] = ()  # benchmarks; all if none is named
    users: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)  # numbers of them
    streamed: int = 20_000_000  # users of the Parquet file
    repeats: int = 5  # timed runs of what takes less than ten seconds
    limit: float = 60.0  # seconds that a rival gets
    out: Path = ROOT / "results" / "speed"  # folder


class Benchmark(NamedTuple):
    rows: Callable[[Options], Iterable[Row]]  # all with the same columns
    note: str  # what the columns mean


_CPU = "`seconds`: of the processor, all threads together."
BENCHMARKS = {
    "allocator": Benchmark(
        lambda o: allocator(o.users, o.repeats, o.limit),
        f"{_CPU} `reads`: the same as a multiple of reading values and costs once, just before."
        " `memory`: MB beyond the input at the peak, as Python and numpy see it. `gap`: what is"
        " missing to the linear relaxation's optimum, which no allocation exceeds, as a share of"
        " it. `overspent`: share of the budget. `budget`: share of what everybody's best item"
        " costs. nan: not solved in the time given; a method that is missing at some size would"
        " need longer.",
    ),
    "streaming": Benchmark(
        lambda o: streaming(o.streamed, o.repeats),
        f"{_CPU} `reads`: the same as a multiple of only reading the file. `memory`: MB at the"
        " peak of a process that does nothing else, libraries included. `gap`: what is missing to"
        " the linear relaxation's optimum, as a share of it. The first pass looks at a sample, the"
        " second at everybody; the curve of all budgets, which no budget needs, adds up"
        " everybody's edges.",
    ),
    "simulator": Benchmark(
        lambda o: simulator(o.users, o.repeats),
        f"{_CPU} `memory`: MB at the peak, as Python and numpy see it.",
    ),
    "serving": Benchmark(
        lambda o: serving(), "Milliseconds of the clock for one user, and for 10,000 at once."
    ),
    "training": Benchmark(
        lambda o: training(o.users),
        "Seconds of the clock, and MB of the process at the peak, for each step by itself. Training"
        " draws 100,000 users from the log. `score`: of what fresh users could add at best, 0 to"
        " 100, the mean over budgets of 5, 10, 20, 40 and 60 % of the unconstrained optimum's"
        " spend.",
    ),
    "scale": Benchmark(
        lambda o: scale(o.out),
        "Reckoned, not measured: core hours of allocating to 10^8 and 10^9 users, from the rates in"
        " `serving` and `streaming`. Reading from storage is in the passes, the network is not;"
        " `currency` assumes 0.05 a core hour.",
    ),
}


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[c]) for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(x: Any) -> str:
    if isinstance(x, int):
        return f"{x:,}"
    return f"{x:.3g}" if isinstance(x, float) else str(x)


def page(name: str, rows: Sequence[Row], made: dict[str, Any]) -> str:
    by = f"`{made['command']}`, commit {made['commit']}, {made['machine']}, load {made['load']}"
    return f"# {name}\n\n{BENCHMARKS[name].note}\n\n{table(rows)}\n\n{by}\n"


def measure(name: str, o: Options) -> None:
    load, rows = f"{os.getloadavg()[0]:.1f}", []
    for row in tqdm(BENCHMARKS[name].rows(o), desc=name, unit="row"):
        tqdm.write("  ".join(f"{k} {_cell(v)}" for k, v in row.items()))
        rows.append(row)
    made = {**provenance(), "load": load}
    write_json(o.out / f"{name}.json", {"rows": rows, **made})
    (o.out / f"{name}.md").write_text(page(name, rows, made), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("speed", __doc__, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    unknown = set(o.only) - set(BENCHMARKS)
    if unknown:
        parser.error(f"--only {' '.join(unknown)}: allowed are {', '.join(BENCHMARKS)}")
    if min(o.users) < 1 or o.repeats < 1:
        parser.error(f"--users {o.users} --repeats {o.repeats}: allowed is 1 or more")
    for name in o.only or BENCHMARKS:
        measure(name, o)


if __name__ == "__main__":
    main()
