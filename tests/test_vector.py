"""Small vector graphics say and draw what large ones do."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections import Counter

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.plots.drawing import legend, panels
from experiments.plots.vector import LETTERS, small_svg


@pytest.fixture
def figure() -> Figure:
    fig, (ax, _) = panels(1, 2, "Budgets & <spend>, 0.125 of 1")
    for g in range(4):
        ax.plot(
            np.linspace(0, 1, 30), np.random.default_rng(g).random(30), marker="o", label=f"{g}"
        )
    ax.set_xticks([0.05, 0.125], ["0.05 %", "0.125"])
    legend(fig, ax)
    return fig


def whole(fig: Figure) -> str:
    file = io.BytesIO()
    with matplotlib.rc_context(LETTERS):
        fig.savefig(file, format="svg")
    return file.getvalue().decode()


def tags(text: str) -> Counter[str]:
    return Counter(e.tag.rpartition("}")[2] for e in ET.fromstring(text).iter())


def test_every_element_and_word_is_still_there(figure: Figure) -> None:
    small, large = small_svg(figure), whole(figure)
    drawn = ("path", "use", "text", "clipPath", "defs")
    assert {tag: tags(small)[tag] for tag in drawn} == {tag: tags(large)[tag] for tag in drawn}
    words = [[e.text for e in ET.fromstring(t).iter() if e.tag.endswith("text")]
             for t in (small, large)]  # fmt: skip
    assert words[0] == words[1]
    assert {"Budgets & <spend>, 0.125 of 1", "0.05 %", "0.125"} <= set(words[0])


def test_lines_go_where_they_went(figure: Figure) -> None:
    def places(text: str) -> list[float]:
        paths = re.findall(r'\bd="([^"]*)"', text)
        return [float(number) for path in paths for number in re.findall(r"-?\d+\.?\d*", path)]

    small, large = places(small_svg(figure)), places(whole(figure))
    assert len(small) == len(large) > 200
    assert np.abs(np.subtract(small, large)).max() < 0.1


def test_every_style_and_name_that_is_used_is_known(figure: Figure) -> None:
    text = small_svg(figure)
    assert ' style="' not in text
    classes = set(re.findall(r'class="(s\d+)"', text))
    rules = dict(re.findall(r"\.(s\d+)\{([^}]*)\}", text))
    assert classes == set(rules)
    styles = set(re.findall(r'style="([^"]*)"', whole(figure)))
    assert set(rules.values()) == {re.sub(r"\s*\n\s*", " ", style) for style in styles}
    names = set(re.findall(r'id="([^"]*)"', text))
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', text)) == names


def test_it_is_much_smaller(figure: Figure) -> None:
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    assert len(small_svg(figure)) < 0.45 * len(file.getvalue())
