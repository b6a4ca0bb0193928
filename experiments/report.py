"""One page that says it all: verdict, tables, figures, limits, and how to make it again.

    python -m experiments.report results -o report.html

The page is a single file without network, for screens of any width, light and dark.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import matplotlib
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from experiments import cli
from experiments.plots.drawing import LOOK
from experiments.plots.vector import small_svg
from experiments.reporting.report_page import page
from experiments.reporting.runs import find_runs
from experiments.results import ROOT

_DOTS = 96  # CSS pixels per inch
# How to read each figure; names of several kinds begin alike.
READING = {
    "profiles": "Each line: the share of runs (settings, budgets and seeds) that score more than"
    " the level below. Further right is better; bands are 95 % intervals.",
    "ranks": "How often each method has each place; more weight on the left is better.",
    "spend": "Each point: a policy's true spend. Left of 100 % money stays unspent; the shaded"
    " side breaks the budget.",
    "frontier": "Left: what incentives earn at each budget, in units; the black line is the most"
    " that any policy can earn. Right: the same as a share of that optimum.",
    "spend_over_days": "When the money is spent: a short-sighted policy spends evenly or early.",
    "who_gets_what": "To whom the money goes, by what is known of a user on the day.",
    "forecast": "What the model told from the log alone, as a share of what came true: 100 % is"
    " an honest forecast.",
    "replay": "What a log alone says of the trained policies, against what they are worth. Points"
    " on the line are right; bars that miss it claim too much.",
    "learning": "What training shows: losses and the learned value of each day.",
    "by_": "How results change along the axis, all else equal.",
    "variants": "The same method with single parts changed; hollow: not clearly different.",
    "myopia": "How hard the campaigns are for the short-sighted.",
    "mixing": "How many policies and best responses a player of the game needs to come close.",
    "regret": "One decision a user, every counterfactual known: what is lost to the best knapsack.",
    "decision_focused": "What training for decisions adds to two stages; above 0 it helps.",
    "difference": "A real test of e-mails: value above two stages at the same budget.",
    "revenue": "A real promotion: net revenue of users who were held out.",
    "aucc": "How well users are ranked by what a promotion brings for its cost.",
}
_LONGEST = sorted(READING.items(), key=lambda item: -len(item[0]))


class Picture(NamedTuple):
    """A figure inside the page."""

    name: str
    source: str  # data URI
    alt: str
    caption: str
    width: int  # CSS pixels
    height: int


def embed(name: str, fig: Figure) -> Picture:
    """A figure as an SVG data URI, with a text that says what it shows."""
    source = "data:image/svg+xml;base64," + base64.b64encode(small_svg(fig).encode()).decode()
    kind = name.rpartition("/")[2]
    reading = next((says for start, says in _LONGEST if kind.startswith(start)), "")
    width, height = (round(_DOTS * side) for side in fig.get_size_inches())
    return Picture(name.replace("_", " "), source, described(fig), reading, width, height)


def described(fig: Figure) -> str:
    """The title, and for each panel what is drawn against what."""
    parts = [str(fig.get_suptitle()).replace("\n", ": ")]
    for ax in (ax for ax in fig.axes if ax.get_visible()):
        title = ax.get_title() or ax.get_title("left")
        against = " against ".join(filter(None, (ax.get_ylabel(), ax.get_xlabel())))
        parts.append(": ".join(filter(None, (title, against))).replace("\n", " "))
    names = [str(text.get_text()) for legend in fig.legends for text in legend.get_texts()]
    if names:
        parts.append("Shown: " + ", ".join(names))
    return ". ".join(filter(None, parts)) + "."


def render(folder: Path) -> str:
    """The whole page of a results folder.

    Raises:
        ValueError: if the folder is missing or holds no runs.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found = find_runs(folder)
    if not found:
        raise ValueError(f"{folder}: no results; experiments.sweep makes them")
    text = files("experiments.reporting").joinpath("report.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
    with matplotlib.rc_context(LOOK):
        return template.render(page=page(folder.resolve(), found, embed))


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.command("report", __doc__)
    parser.add_argument(
        "results", nargs="?", type=Path, default=ROOT / "results", metavar="RESULTS"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("report.html"), metavar="FILE")
    o = parser.parse_args(argv)
    try:
        text = render(o.results)
    except ValueError as error:
        parser.error(str(error))
    o.out.write_text(text, encoding="utf-8")
    print(f"{o.out}: {len(text) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
