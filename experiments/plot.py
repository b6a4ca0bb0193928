"""Draw the results: figures beside the runs, tables in Markdown, the README's tables.

    python -m experiments.plot results

Every setting's folder gets its figures as PNG and SVG, every suite's folder a `table.md`, a
`replay.md` if its sweep estimated policies from a log too, and the figures of what it compares, and
the README beside RESULTS the tables between its markers `<!-- table:SUITE -->` and
`<!-- /table -->`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from experiments import cli
from experiments.curves import read_curves
from experiments.plots import (
    one_shot_figures,
    profile_figures,
    replay_figures,
    study_figures,
    suite_figures,
)
from experiments.plots.drawing import LOOK, save
from experiments.plots.figures import FIGURES, learning
from experiments.plots.titles import GREEDY, MAIN, foremost, looks, main_method, shown_name
from experiments.reporting import replayed, table, tuned
from experiments.reporting.comparisons import lines, variants
from experiments.reporting.runs import (
    REFERENCES,
    Groups,
    Run,
    by_method,
    by_suite,
    find_runs,
    setting_of,
)
from experiments.reporting.statistics import strata
from experiments.results import ROOT


def draw(folder: str | Path, out: str | Path | None = None) -> list[Path]:
    """Draw every setting, suite, `myopia.json` and one-shot test below a folder; returns the files.

    Figures land beside the runs, or at the same places below `out`.
    """
    folder = Path(folder)
    target = Path(out or folder)
    written: list[Path] = []
    settings = find_runs(folder)
    with matplotlib.rc_context(LOOK):
        for place, runs in settings.items():
            for name, fig in of_setting(place, by_method(runs)):
                written += save(fig, target / place.relative_to(folder) / name)
        for suite, found in by_suite(settings).items():
            for name, fig in of_suite(found, suite.name) if suite.is_relative_to(folder) else ():
                written += save(fig, target / suite.relative_to(folder) / name)
        for name, fig in of_studies(folder):
            written += save(fig, target / name)
    return written


def documents(folder: str | Path) -> dict[Path, str]:
    """What every generated text of a folder of results should say."""
    found = find_runs(folder)
    texts = table.documents(folder, found) | replayed.documents(found)
    return texts | tuned.documents(Path(folder))


def tabulate(folder: str | Path) -> list[Path]:
    """Write the tables that are missing or stale; returns these."""
    texts = documents(folder)
    old = table.stale(texts)
    for path in old:
        path.write_text(texts[path])
    return old


def of_setting(place: Path, groups: Groups) -> Iterator[tuple[str, Figure]]:
    """Figures of one setting by name, one at a time."""
    missing = [m for m in (*REFERENCES, MAIN, GREEDY) if m not in groups]
    if missing:
        print(f"{place}: no results of {', '.join(missing)}; drawing what is there")
    chosen = foremost(groups)
    for name, (figure, say) in FIGURES.items():
        shown = chosen
        if name == "forecast":
            shown = {m: g for m, g in chosen.items() if "forecast" in g[0]["rows"][0]}
        if shown:
            yield name, figure(shown, f"{place.name}\n{say(shown)}")
    told = {m: some for m, runs in chosen.items() if (some := replayed.replayed(runs))}
    if told:
        yield "replay", replay_figures.replay(told, f"{place.name}\n{replay_figures.says(told)}")
    for method, runs in groups.items():
        path = place / f"{method}-{runs[0]['seed']}" / "curves.csv"
        if path.exists() and (curves := read_curves(path)):
            title = f"{place.name}\n{shown_name(method)} learns, training seed {runs[0]['seed']}"
            colour = looks(groups)[method][0]
            yield f"learning-{method}", learning(curves, setting_of(runs), colour, title)


def of_suite(settings: Mapping[Path, Sequence[Run]], name: str) -> Iterator[tuple[str, Figure]]:
    """Figures of every line of settings, of the variants of a method, and of all methods."""
    drawn: dict[str, int] = {}
    for line in lines(settings):
        drawn[line.axis] = count = drawn.get(line.axis, 0) + 1
        fig = suite_figures.by_axis(line, settings, name)
        yield f"by_{line.axis}{f'-{count}' if count > 1 else ''}", fig
    every = by_method(run for runs in settings.values() for run in runs)
    found = variants(every)
    if found:
        yield "variants", suite_figures.variants(found, settings, name)
    scores = strata(settings.values(), main_method(every))
    if len(scores) > 1 and not (found and scores.keys() <= found.changes.keys()):
        yield "profiles", profile_figures.profiles(scores, name)
        yield "ranks", profile_figures.rank_map(scores, name)
    if scores:
        yield "spend", profile_figures.calibration(every, name)


def of_studies(folder: Path) -> Iterator[tuple[str, Figure]]:
    """Figures of single studies by their place below the folder."""
    if (folder / "myopia.json").exists():
        yield "myopia", study_figures.myopia(json.loads((folder / "myopia.json").read_text()))
    if (folder / "mixing.json").exists():
        yield "mixing", study_figures.mixing(json.loads((folder / "mixing.json").read_text()))
    for path in sorted(folder.rglob("one_shot/*/one_shot.json")):
        place = path.parent.relative_to(folder)
        for name, fig in one_shot_figures.figures(json.loads(path.read_text())):
            yield str(place / name), fig


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 if there is nothing to draw, or if `--check` finds a stale table."""
    parser = cli.command("plot", __doc__)
    parser.add_argument(
        "results", nargs="?", type=Path, default=ROOT / "results", metavar="RESULTS"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="figures go here [RESULTS]")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if tables differ"
    )
    o = parser.parse_args(argv)
    if o.check:
        old = table.stale(documents(o.results))
        print("\n".join(f"{path} differs from the results: run experiments.plot" for path in old))
        return int(bool(old))
    written = [*tabulate(o.results), *draw(o.results, o.out)]
    print("\n".join(map(str, written)) or f"{o.results}: no results; experiments.sweep makes them")
    return int(not written)


if __name__ == "__main__":
    sys.exit(main())
