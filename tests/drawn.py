"""What an axis shows, as numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer


class Bars(NamedTuple):
    """Points with their error bars."""

    label: str
    x: np.ndarray
    y: np.ndarray
    half: np.ndarray  # of the bars' length
    colour: Any
    face: Any  # of the markers


def points(ax: Axes) -> list[np.ndarray]:
    """(n, 2) points of every line."""
    return [np.asarray(line.get_xydata()) for line in ax.get_lines()]


def named_lines(ax: Axes) -> dict[str, np.ndarray]:
    """(n, 2) points of the lines that stand in the legend."""
    lines = {str(line.get_label()): np.asarray(line.get_xydata()) for line in ax.get_lines()}
    return {name: xy for name, xy in lines.items() if not name.startswith("_")}


def bars(ax: Axes) -> list[Bars]:
    found = []
    for container in ax.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, (stems,) = container.lines
        lengths = [np.ptp(stem, axis=0).max() for stem in stems.get_segments()]
        x, y = np.asarray(line.get_xydata()).T
        look = line.get_color(), line.get_markerfacecolor()
        found.append(Bars(str(container.get_label()), x, y, np.array(lengths) / 2, *look))
    return found


def legend_of(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []
