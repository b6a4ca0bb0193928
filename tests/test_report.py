"""The report's page: whole, safe, and usable in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import ABSENT, CHROMIUM, ask, dump
from made_up import estimated, made_up, put

from experiments import plot, report
from experiments.plots.figures import FIGURES

EVIL = "<img src=x onerror=alert(1)>"
TOLD = {"reward": 2.0, "reward_error": 0.5, "cost": 1.0, "cost_error": 0.0, "budget": 1.0}
OWN = {
    "own_log": "logs/mine", "method": "dfcl", "seed": 0, "forecasts": [TOLD],
    "estimates": [{**TOLD, "estimator": "importance", "effective_users": 7.25}],
}  # fmt: skip
browser = pytest.mark.skipif(CHROMIUM is None, reason=ABSENT)


class Tags(HTMLParser):
    """Every tag with its attributes, and every id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in names]


def cells(text: str, table: str) -> list[str]:
    """What the columns after the first say, row by row."""
    body = text[text.index(f'<table id="{table}"') :].split("</table>")[0]
    return re.findall(r"<td>(.*?)</td>", body)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("report") / "results"
    runs = [made_up("oracle", score=100), made_up("perfect_myopic", score=70)]
    for seed in (0, 1):
        main = estimated(made_up("mixed_policy", seed, 90 + seed), importance=0.5)
        runs += [main, made_up("greedy_uplift", seed, 101)]
        runs.append(made_up("my_lab.thrifty", seed, 60 + seed))
    runs[-1]["commit"] = EVIL
    put(folder / "toy" / "toy", *runs)
    trials = (made_up(f"dfcl-{n}", 0, 65.0 + 5 * n, {"alpha": 1 / n}) for n in (1, 2))
    put(folder / "tuning" / "toy", *trials)
    (folder / "own_logs" / "mine").mkdir(parents=True)
    (folder / "own_logs" / "mine" / "dfcl-0.json").write_text(json.dumps(OWN))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "FIGURES", {"frontier": FIGURES["frontier"]})
        out = folder.parent / "report.html"
        assert report.main([str(folder), "-o", str(out)]) == 0
        yield out


@pytest.fixture(scope="module")
def tags(page: Path) -> Tags:
    return Tags(page.read_text())


def test_nothing_on_the_page_is_fetched(page: Path, tags: Tags) -> None:
    for attributes in (attributes for _, attributes in tags.found):
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/svg+xml;base64,", "#"))
    text = page.read_text()
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = (a["content"] for a in tags.of("meta") if a.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'")


def test_what_files_say_is_text(page: Path) -> None:
    text = page.read_text()
    assert EVIL not in text
    assert "&lt;img src=x onerror" in text


def test_figures_and_tables_have_words(tags: Tags) -> None:
    images = tags.of("img")
    # Profiles, ranks and spend of the suite; frontier and replay of the setting.
    assert len(images) == 5
    for image in images:
        assert len(str(image["alt"])) > 60
        assert int(str(image["width"])) > 0
    tables, captions = tags.of("table"), tags.of("caption")
    assert len(tables) == len(captions) >= 5
    names = [str(a["id"]) for _, a in tags.found if "id" in a]
    assert len(names) == len(set(names))
    pointed = {a[key] for _, a in tags.found for key in ("aria-labelledby",) if key in a}
    assert pointed <= set(names)
    assert {str(a["href"])[1:] for a in tags.of("a")} <= set(names)
    assert all(a["scope"] in ("col", "row") for a in tags.of("th"))


def test_the_verdict_comes_first_and_is_plain(page: Path) -> None:
    text = page.read_text()
    first = text.index("<h2")
    assert text[first:].startswith('<h2 id="verdict">')
    assert "beats every offline baseline at every budget in 0 of 1 compared settings" in text
    assert "behind greedy uplift at a budget of 10 %" in text


def test_the_page_says_how_it_was_made(page: Path) -> None:
    text = page.read_text()
    assert "python -m experiments.sweep --suite toy" in text
    again = "--settings toy --methods my_lab.thrifty --only my_lab.thrifty --seeds 0 1"
    assert again in text


def test_results_that_are_not_there_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, says in ((tmp_path, "no results"), (tmp_path / "lost", "no such folder")):
        with pytest.raises(SystemExit):
            report.main([str(folder), "-o", str(tmp_path / "out.html")])
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_a_log_of_ones_own_has_its_table(page: Path) -> None:
    assert cells(page.read_text(), "own-mine") == [
        "0", "1", "2 ± 0.98", "1 ± 0", "2 ± 0.98", "7.2",
    ]  # fmt: skip


def test_what_a_log_alone_said_stands_beside_the_truth(page: Path) -> None:
    text = page.read_text()
    assert cells(text, "replay-all-toy")[:4] == ["+50 %", "50 %", "0 %", "100 %"]
    assert "What a log alone would have said" in text


def test_trials_of_settings_have_their_section_and_are_no_suite(page: Path) -> None:
    text = page.read_text()
    assert cells(text, "trials") == [
        "1", "as they were", "70.5", "95", "–", "1", "–",
        "2", "alpha=0.5", "75.5", "95", "+5.0", "1", "kept",
    ]  # fmt: skip
    assert "Suite tuning" not in text


@browser
def test_it_loads_without_complaint_and_a_link_sorts(page: Path) -> None:
    dom, console = dump(page, "#sort=setting-toy-toy,1,down")
    assert console == []
    table = dom[dom.index('<table id="setting-toy-toy"') :]
    table = table[: table.index("</table>")]
    names = re.findall(r'<th scope="row">(.*?)</th>', table)
    assert names == [
        "greedy uplift", "exact optimum", "mixed policy", "perfect myopic", "my_lab.thrifty",
    ]  # fmt: skip
    assert table.count('aria-sort="descending"') == 1
    assert "sorted by score at 10 %, high to low" in dom


@browser
def test_buttons_sort_by_number_and_images_show(page: Path) -> None:
    script = """
      const table = document.getElementById("setting-toy-toy");
      const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
      const column = [...table.tHead.rows[0].cells].findIndex(
        (cell) => cell.textContent.startsWith("training seeds"));
      const button = table.tHead.rows[0].cells[column].querySelector("button");
      button.focus();
      const focused = document.activeElement === button;
      button.click(); const up = names();
      button.click(); const down = names();
      const score = table.tHead.rows[0].cells[1].querySelector("button");
      score.click(); const byScore = names();
      return {up, down, byScore, focused,
        sorted: [...table.tHead.rows[0].cells].map((cell) => cell.getAttribute("aria-sort")),
        status: document.getElementById("status").textContent,
        images: [...document.images].map((image) => image.naturalWidth)};
    """
    found: dict[str, Any] = ask(page, script)
    assert found["focused"]
    # References have no training seeds: a dash comes last, in both directions.
    assert set(found["up"][-2:]) == set(found["down"][-2:]) == {"exact optimum", "perfect myopic"}
    assert found["byScore"] == [
        "my_lab.thrifty", "perfect myopic", "mixed policy", "exact optimum", "greedy uplift",
    ]  # fmt: skip
    assert [state for state in found["sorted"] if state] == ["ascending"]
    assert found["sorted"][1] == "ascending"
    assert "score at 10 %, low to high" in found["status"]
    assert all(width > 100 for width in found["images"])


@browser
def test_a_phone_scrolls_tables_not_the_page(page: Path, tmp_path: Path) -> None:
    narrow = page.with_name("narrow.html")
    told = """<script>addEventListener("load", () => parent.postMessage(
      [document.documentElement.scrollWidth, innerWidth], "*"));</script></body>"""
    narrow.write_text(page.read_text().replace("</body>", told))
    host = page.with_name("host.html")
    host.write_text(
        f'<body><script>onmessage = (e) => document.body.append("width " + e.data)</script>'
        f'<iframe width="390" height="800" style="border:0" src="{narrow.name}"></iframe></body>'
    )
    dom, _ = dump(host)
    (needed, there) = re.findall(r"width (\d+),(\d+)", dom)[0]
    assert there == "390"
    assert int(needed) <= 390
