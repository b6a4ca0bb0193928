"""Looks of many methods, and which of them a figure has room for."""

from __future__ import annotations

import pytest
from made_up import made_up

from experiments.plots import titles
from experiments.reporting.runs import by_method


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names = [*titles.STYLES, *(f"method_{i}" for i in range(20))]
    monkeypatch.setattr(titles, "method_names", lambda: names)
    return names


def test_files_without_a_colour_are_grey_and_differ(many: list[str]) -> None:
    found = titles.looks(many)
    assert len(set(found.values())) == len(many)
    plain = {colour for name, (colour, _) in found.items() if name.startswith("method_")}
    assert plain == set(titles.GREYS)


def test_a_look_does_not_depend_on_the_company(many: list[str]) -> None:
    among = titles.looks([*many, "my_lab.thrifty"])
    for name in many:
        assert titles.looks([name]) == {name: among[name]}
    assert among["my_lab.thrifty"] in titles.OTHERS


def test_every_marker_is_one_of_matplotlibs() -> None:
    from matplotlib.markers import MarkerStyle

    for marker in {*titles.MARKERS, *(m for _, m in titles.STYLES.values())}:
        assert MarkerStyle(marker).get_marker() == marker


def test_a_figure_shows_the_main_method_and_the_best_others() -> None:
    runs = [made_up(f"m{i}", score=50 + i) for i in range(12)]
    runs += [made_up("mixed_policy", score=10), made_up("greedy_uplift", score=5)]
    runs += [made_up("oracle"), made_up("perfect_myopic")]
    shown = titles.foremost(by_method(runs), most=4)
    assert list(shown) == [
        "oracle", "perfect_myopic", "m11", "m10", "mixed_policy", "greedy_uplift",
    ]  # fmt: skip


def test_paths_of_modules_keep_their_name() -> None:
    assert titles.shown_name("my_lab.thrifty_one") == "my_lab.thrifty_one"
    assert titles.shown_name("greedy_uplift") == "greedy uplift"
