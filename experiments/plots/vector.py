"""Figures as small vector graphics, for pages that hold dozens of them."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Letters stay text, set in the viewer's fonts: outlines of them are most of a figure. Verdana is as
# wide as the font that the figure is laid out with.
LETTERS: Any = {"svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans", "Verdana"]}
_SUPERFLUOUS = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", re.S)
_PLACES = re.compile(r' (?:d|x|y)="[^"]*"')


def small_svg(fig: Figure) -> str:
    """The figure as SVG, a quarter as large as matplotlib writes it; it looks the same.

    Places are rounded to tenths of a point, styles that elements share stand once, and what no
    viewer needs is left out.
    """
    file = io.BytesIO()
    with matplotlib.rc_context(LETTERS):
        fig.savefig(file, format="svg", metadata={"Date": None})
    text = _SUPERFLUOUS.sub("", file.getvalue().decode())
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")
    text = _PLACES.sub(lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), text)
    return _named_styles(_short_names(text)).strip()


def _short_names(text: str) -> str:
    """Names that something refers to are numbers; there are no others."""
    there, asked = re.findall(r' id="([^"]*)"', text), set(re.findall(r'#([^\s")]+)', text))
    number = {name: f"n{i}" for i, name in enumerate(there) if name in asked}
    text = re.sub(r'#([^\s")]+)', lambda found: f"#{number.get(found[1], found[1])}", text)
    return re.sub(
        r' id="([^"]*)"',
        lambda found: f' id="{number[found[1]]}"' if found[1] in number else "",
        text,
    )


def _named_styles(text: str) -> str:
    """Every style once, by a class."""
    styles = dict.fromkeys(re.findall(r' style="([^"]*)"', text))
    number = {style: i for i, style in enumerate(styles)}
    text = re.sub(r' style="([^"]*)"', lambda found: f' class="s{number[found[1]]}"', text)
    rules = "".join(f".s{i}{{{style}}}" for style, i in number.items())
    return text.replace("</style>", f"{rules}</style>", 1)
