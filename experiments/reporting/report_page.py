"""What the report says, as data for its template: verdict, sections, limits, makers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import plot
from experiments.plots.titles import main_method, shown_name
from experiments.reporting import report_tables, tuned
from experiments.reporting.report_tables import Table, slug
from experiments.reporting.runs import (
    REFERENCES,
    Groups,
    Run,
    by_method,
    by_suite,
    makers,
    setting_of,
)
from experiments.reporting.table import about_setting
from experiments.reporting.verdict import BEHIND, OPEN, Duel, by_setting, duels, points, said
from experiments.settings import SUITES

Settings = Mapping[Path, Sequence[Run]]
FEW_SEEDS = 5


class Verdict(NamedTuple):
    suite: str
    said: str
    exceptions: list[str]
    table: Table | None
    every: Table | None


def verdict(suite: str, settings: Settings) -> Verdict | None:
    """One sentence, what contradicts it, and the numbers; None if nothing was compared."""
    main = main_method(by_method(run for runs in settings.values() for run in runs))
    found = duels(settings, main)
    if not found:
        return None
    groups = by_setting(found)
    return Verdict(
        suite, said(shown_name(main).capitalize(), found),
        [*_exceptions(found), *_alone(settings, groups)],
        report_tables.closest(suite, found, main), report_tables.every_duel(suite, found, main),
    )  # fmt: skip


def _exceptions(found: Sequence[Duel]) -> Iterator[str]:
    """Defeats in words first, then what is not clear."""
    for outcome, says in ((BEHIND, "behind"), (OPEN, "not clearly ahead of")):
        for duel in found:
            at = [b for b in range(len(duel.shares)) if duel.outcome(b) == outcome]
            if at:
                where = ", ".join(
                    f"{100 * duel.shares[b]:g} % ({points(duel.difference, b)})" for b in at
                )
                yield f"{duel.setting}: {says} {shown_name(duel.baseline)} at a budget of {where}"


def _alone(settings: Settings, compared: Mapping[str, Any]) -> Iterator[str]:
    alone = [place.name for place in settings if place.name not in compared]
    if alone:
        yield f"not compared yet, for want of a baseline's results: {', '.join(alone)}"


def page(folder: Path, found: Mapping[Path, list[Run]], draw: Any) -> dict[str, Any]:
    """All that the template asks for.

    Args:
        draw: makes of each (name, figure) what the template embeds.
    """
    suites = by_suite(found)
    runs = [run for group in found.values() for run in group]
    verdicts = [v for suite, s in suites.items() if (v := verdict(suite.name, s))]
    return {
        "title": "Marketing budgets learned from logs: results",
        "about": f"{len(runs)} runs in {len(found)} settings, from the files below {folder.name}/.",
        "verdicts": verdicts,
        "reading": (
            "Score: 100 x (reward - reward without incentives) / (the same for the exact optimum"
            " at that budget), on fresh simulated users, spend matched to the budget."
        ),
        "ran": report_tables.ran(suites),
        "missing": list(missing(suites)),
        "suites": [_suite(suite.name, s, draw) for suite, s in suites.items()],
        "trials": report_tables.trials(folder),
        "trials_reading": tuned.READING,
        "own_logs": report_tables.own_logs(folder),
        "studies": [draw(name, fig) for name, fig in plot.of_studies(folder)],
        "limits": list(limits(found)),
        "makers": makers(runs),
        "versions": versions(runs),
        "footer": f"Made by python -m experiments.report {folder.name}.",
    }


def _suite(name: str, settings: Settings, draw: Any) -> dict[str, Any]:
    every = by_method(run for runs in settings.values() for run in runs)
    learners = [m for m in every if m not in REFERENCES]
    main = main_method(every)
    return {
        "name": slug(f"suite-{name}"),
        "title": name,
        "table": report_tables.methods(name, settings, main) if learners else None,
        "figures": [draw(*drawn) for drawn in plot.of_suite(settings, name)],
        "replay": report_tables.replay(name, settings),
        "settings": [_setting(name, place, by_method(s), draw) for place, s in settings.items()],
    }


def _setting(suite: str, place: Path, groups: Groups, draw: Any) -> dict[str, Any]:
    runs = [run for group in groups.values() for run in group]
    return {
        "name": slug(f"{suite}-{place.name}"),
        "title": place.name,
        "about": about_setting(setting_of(runs)).replace("`", ""),
        "table": report_tables.of_setting(suite, place.name, groups),
        "commands": [again(suite, place.name, m, group) for m, group in groups.items()],
        "figures": [draw(*drawn) for drawn in plot.of_setting(place, groups)],
    }


def again(suite: str, setting: str, method: str, runs: Sequence[Run]) -> str:
    """The command that makes a row anew; what no suite has is added by its module's path."""
    added = "" if suite not in SUITES or _of_suite(suite, method) else f" --methods {method}"
    seeds = "" if method in REFERENCES else f" --seeds {' '.join(str(r['seed']) for r in runs)}"
    return (
        f"python -m experiments.sweep --suite {suite} --settings {setting}{added}"
        f" --only {_quoted(method)}{seeds} --out again"
    )


def _of_suite(suite: str, method: str) -> bool:
    return method in (*SUITES[suite].methods, *REFERENCES)


def _quoted(method: str) -> str:
    return f'"{method}"' if " " in method else method


def missing(suites: Mapping[Path, Settings]) -> Iterator[str]:
    """Rows that some settings of a suite have and others lack."""
    for suite, settings in suites.items():
        groups = {place.name: by_method(runs) for place, runs in settings.items()}
        for method in dict.fromkeys(m for found in groups.values() for m in found):
            lacks = [name for name, found in groups.items() if method not in found]
            if lacks:
                yield f"{shown_name(method)} in suite {suite.name}: {', '.join(lacks)}"


def limits(found: Settings) -> Iterator[str]:
    """What a reader must not conclude, from what the results hold."""
    yield (
        "All campaigns are simulated: scores say which method learns more from such logs, not what"
        " it would earn in a real campaign. The campaigns are modelled after published reports."
    )
    yield (
        "Every interval is for one comparison at 95 %: among many that are truly equal, one in"
        " twenty looks different, one in forty in favour of a given side."
    )
    learned = [by_method(r for r in runs if r["method"] not in REFERENCES)
               for runs in found.values()]  # fmt: skip
    seeds = Counter(len(runs) for groups in learned for runs in groups.values())
    few = sum(count for n, count in seeds.items() if 1 < n < FEW_SEEDS)
    if seeds[1]:
        yield (
            f"{seeds[1]} of {seeds.total()} rows have one training seed: their intervals hold the"
            " luck of the judged populations, not that of another log or another training."
        )
    if few:
        yield (
            f"{few} rows have fewer than {FEW_SEEDS} training seeds: bootstrap intervals over so"
            " few are too narrow."
        )
    yield from _old(found)
    yield (
        "All rows are judged on the same users, who may spend a few percent more or less than a"
        " small log's own: then all rows of that log miss their budgets on the same side. A mixture"
        " counts as the weighted mean of its parts, without the luck of who follows which."
    )
    yield (
        "The exact optimum was simulated on the methods' populations: what it gained there beyond"
        " its expectation is luck that methods near it share, and their scores are less that part."
        " Other references are simulated on fewer populations."
    )


def _old(found: Settings) -> Iterator[str]:
    runs = [run for group in found.values() for run in group]
    commits = {run.get("commit", "?") for run in runs}
    if len(commits) > 1:
        yield f"The results come from {len(commits)} commits: rows may differ by more than methods."
    loose = sum(run.get("commit", "").endswith("+") for run in runs)
    if loose:
        yield f"{loose} runs were made with changes that no commit holds."
    unpaired = sum(
        d.difference.seeds == 0
        for suite, s in by_suite({p: list(r) for p, r in found.items()}).items()
        for d in duels(s, main_method(by_method(run for group in s.values() for run in group)))
    )
    if unpaired:
        yield (
            f"{unpaired} comparisons have no common training seed: means are compared, and the"
            " errors of both sides count in full."
        )


def versions(runs: Sequence[Run]) -> Table:
    """Which versions, on which machines."""
    count = Counter(
        (run.get("python", "?"), tuple(run.get("versions", {}).items()), run.get("machine", "?"))
        for run in runs
    )
    rows = [
        {"machine": machine, "python": python, **dict(packages), "runs": str(n)}
        for (python, packages, machine), n in count.items()
    ]
    return report_tables.make("versions", "Machines and versions.", rows)
