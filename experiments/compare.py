"""What changed between two folders of results: scores with intervals, rows, commits, settings.

    python -m experiments.compare results.before results

Rows of the same suite, setting and method are compared on common training seeds and populations,
so that equal code gives differences of exactly zero.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cli
from experiments.reporting.runs import Run, by_method, column, find_runs
from experiments.reporting.statistics import difference
from experiments.reporting.table import as_markdown
from experiments.reporting.verdict import points

Key = tuple[str, str]  # setting below the folder, method
Rows = Mapping[Key, Sequence[Run]]


def rows_of(folder: str | Path) -> dict[Key, list[Run]]:
    """Runs by setting and method.

    Raises:
        ValueError: if there is no such folder, or no run in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found = {
        (str(place.relative_to(folder)), method): group
        for place, runs in find_runs(folder).items()
        for method, group in by_method(runs).items()
    }
    if not found:
        raise ValueError(f"{folder}: no results; experiments.sweep makes them")
    return found


def compared(before: Rows, after: Rows) -> dict[str, list[dict[str, str]]]:
    """By setting, a row for each method that both folders judged alike."""
    tables: dict[str, list[dict[str, str]]] = {}
    for key, runs in after.items():
        if key in before and not _judged_otherwise(before[key], runs):
            tables.setdefault(key[0], []).append(_row(key[1], before[key], runs))
    return tables


def _row(method: str, before: Sequence[Run], after: Sequence[Run]) -> dict[str, str]:
    gap, shares = difference(after, before), [r["budget_share"] for r in after[0]["rows"]]
    spend = 100 * (column(after, "spend_share").mean() - column(before, "spend_share").mean())
    return {
        "method": method,
        **{f"at {100 * share:g} %": points(gap, b) for b, share in enumerate(shares)},
        "mean": points(gap, len(shares)),
        "clear": "yes" if abs(gap.value[-1]) > gap.half[-1] else "no",
        "spend, % of budget": f"{spend:+.1f}",
        "seconds": f"{_seconds(before):.0f} → {_seconds(after):.0f}",
        "common seeds": str(gap.seeds or "0: not paired"),
    }


def _seconds(runs: Sequence[Run]) -> float:
    return float(np.mean([run["seconds"] for run in runs]))


def changes(before: Rows, after: Rows) -> Iterator[str]:
    """What is in one folder only, and what else is not the same, a line each."""
    for says, some, others in (("only in A", before, after), ("only in B", after, before)):
        alone: dict[str, list[str]] = {}
        for setting, method in some:
            if (setting, method) not in others:
                alone.setdefault(setting, []).append(method)
        yield from (f"{says}: {place}: {', '.join(rows)}" for place, rows in alone.items())
    for key in (key for key in before if key in after):
        of = f"{key[0]}, {key[1]}"
        if told := _judged_otherwise(before[key], after[key]):
            yield f"not comparable: {of}: {told}"
        if told := _differences(before[key][-1]["config"], after[key][-1]["config"]):
            yield f"config: {of}: {told}"
    old, new = _commits(before), _commits(after)
    if old != new:
        yield f"commits: {', '.join(old)} → {', '.join(new)}"


def _judged_otherwise(before: Sequence[Run], after: Sequence[Run]) -> str:
    """How the settings differ; empty if scores can be subtracted."""
    return _differences(before[-1]["setting"], after[-1]["setting"])


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    keys = dict.fromkeys((*before, *after))
    return "; ".join(
        f"{key} {before.get(key)!r} → {after.get(key)!r}"
        for key in keys
        if before.get(key) != after.get(key)
    )


def _commits(rows: Rows) -> list[str]:
    return sorted({run.get("commit") or "none" for runs in rows.values() for run in runs})


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.command("compare", __doc__)
    parser.add_argument("before", type=Path, metavar="A")
    parser.add_argument("after", type=Path, metavar="B")
    o = parser.parse_args(argv)
    try:
        before, after = rows_of(o.before), rows_of(o.after)
    except ValueError as error:
        parser.error(str(error))
    print(f"Scores of {o.after} (B) minus those of {o.before} (A), with 95 % intervals")
    tables = compared(before, after)
    for setting, rows in tables.items():
        print(f"\n## {setting}\n\n{as_markdown(rows)}")
    if not tables:
        print("No row is in both and judged alike.")
    print("", *changes(before, after), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
