"""Draw the results: figures beside the runs, tables in Markdown, the README's tables.

    python -m experiments.plot results

Every setting's folder gets its figures as PNG and SVG, every suite's folder a `table.md` and the
figures of what it compares, and the README beside RESULTS the tables between its markers
`<!-- table:SUITE -->` and `<!-- /table -->`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from experiments import study_figures, suite_figures, table
from experiments.comparisons import lines, variants
from experiments.curves import read_curves
from experiments.drawing import LOOK, save
from experiments.figures import FIGURES, learning
from experiments.results import ROOT
from experiments.runs import REFERENCES, Groups, Run, by_method, by_suite, find_runs, setting_of
from experiments.titles import GREEDY, MAIN, looks, shown_name


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
            written += _draw_setting(place, by_method(runs), target / place.relative_to(folder))
        for suite, found in by_suite(settings).items():
            if suite.is_relative_to(folder):
                written += _draw_suite(found, suite.name, target / suite.relative_to(folder))
        written += _draw_studies(folder, target)
    return written


def _draw_setting(place: Path, groups: Groups, target: Path) -> list[Path]:
    written: list[Path] = []
    missing = [m for m in (*REFERENCES, MAIN, GREEDY) if m not in groups]
    if missing:
        print(f"{place}: no results of {', '.join(missing)}; drawing what is there")
    for name, (figure, say) in FIGURES.items():
        shown = groups
        if name == "forecast":
            shown = {m: g for m, g in groups.items() if "forecast" in g[0]["rows"][0]}
        if shown:
            written += save(figure(shown, f"{place.name}\n{say(shown)}"), target / name)
    for method, runs in groups.items():
        path = place / f"{method}-{runs[0]['seed']}" / "curves.csv"
        if path.exists() and (curves := read_curves(path)):
            title = f"{place.name}\n{shown_name(method)} learns, training seed {runs[0]['seed']}"
            fig = learning(curves, setting_of(runs), looks(groups)[method][0], title)
            written += save(fig, target / f"learning-{method}")
    return written


def _draw_suite(settings: dict[Path, list[Run]], name: str, target: Path) -> list[Path]:
    """A figure for every line of settings, and one for the variants of a method."""
    written: list[Path] = []
    drawn: dict[str, int] = {}
    for line in lines(settings):
        drawn[line.axis] = count = drawn.get(line.axis, 0) + 1
        fig = suite_figures.by_axis(line, settings, name)
        written += save(fig, target / f"by_{line.axis}{f'-{count}' if count > 1 else ''}")
    every = by_method(run for runs in settings.values() for run in runs)
    if found := variants(every):
        written += save(suite_figures.variants(found, settings, name), target / "variants")
    return written


def _draw_studies(folder: Path, target: Path) -> list[Path]:
    written: list[Path] = []
    if (folder / "myopia.json").exists():
        fig = study_figures.myopia(json.loads((folder / "myopia.json").read_text()))
        written += save(fig, target / "myopia")
    for path in sorted(folder.rglob("one_shot/*/summary.json")):
        fig = study_figures.one_shot(json.loads(path.read_text()))
        written += save(fig, target / path.parent.relative_to(folder) / "one_shot")
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 if there is nothing to draw, or if `--check` finds a stale table."""
    parser = argparse.ArgumentParser(
        prog="experiments.plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results", nargs="?", type=Path, default=ROOT / "results", metavar="RESULTS"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="figures go here [RESULTS]")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if tables differ"
    )
    o = parser.parse_args(argv)
    texts = table.documents(o.results, find_runs(o.results))
    old = table.stale(texts)
    if o.check:
        print("\n".join(f"{path} differs from the results: run experiments.plot" for path in old))
        return int(bool(old))
    for path in old:
        path.write_text(texts[path])
    written = [*old, *draw(o.results, o.out)]
    print("\n".join(map(str, written)) or f"{o.results}: no results; experiments.sweep makes them")
    return int(not written)


if __name__ == "__main__":
    sys.exit(main())
