"""Which files are drawn and written from made-up results, what is missing, what is stale."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import estimated, made_up, put

from experiments import plot
from experiments.plots.figures import FIGURES

SUITE_FIGURES = ("profiles", "ranks", "spend")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with one suite of one setting, curves and the myopia study."""
    folder = tmp_path / "results"
    setting = folder / "toy" / "toy"
    put(
        setting, made_up("oracle", score=100), made_up("perfect_myopic", score=70),
        made_up("mixed_policy", 0, 90), made_up("mixed_policy", 1, 94), made_up("greedy_uplift"),
    )  # fmt: skip
    tags = ["loss/member_0", "loss/member_1", *(f"cost_to_go/head_{g}" for g in range(5))]
    lines = [f"{tag},{step},{0.5 / step}" for tag in tags for step in (1, 2, 3)]
    (setting / "mixed_policy-0").mkdir()
    (setting / "mixed_policy-0" / "curves.csv").write_text("\n".join(["tag,step,value", *lines]))
    study = {"shares": [0.1, 0.4], "found": {"toy": {"score": [[70.0, 80.0], [72.0, 84.0]]}}}
    (folder / "myopia.json").write_text(json.dumps(study))
    return folder


def test_every_figure_is_drawn_below_out(results: Path, tmp_path: Path) -> None:
    names = [*FIGURES, "learning-mixed_policy"]
    expected = {f"toy/toy/{n}.{kind}" for n in names for kind in ("png", "svg")}
    expected |= {f"toy/{n}.{kind}" for n in SUITE_FIGURES for kind in ("png", "svg")}
    expected |= {"myopia.png", "myopia.svg"}
    out = tmp_path / "elsewhere"
    written = plot.draw(results, out)
    assert {p.relative_to(out).as_posix() for p in written} == expected
    assert all(p.stat().st_size > 1000 for p in written)
    assert not list(results.rglob("*.png"))


def test_the_same_results_give_the_same_files_beside_the_runs(tmp_path: Path) -> None:
    study = {"shares": [0.1], "found": {"toy": {"score": [[70.0], [72.0]]}}}
    (tmp_path / "myopia.json").write_text(json.dumps(study))
    files = [tmp_path / "myopia.png", tmp_path / "myopia.svg"]
    assert plot.draw(tmp_path) == files
    first = [path.read_bytes() for path in files]
    plot.draw(tmp_path)
    assert [path.read_bytes() for path in files] == first


def test_a_suite_is_drawn_by_what_its_settings_and_rows_differ_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "FIGURES", {})
    for n in (100, 200):
        for row, folds in (("whole", 4), ("half", 2)):
            run = made_up(row, config={"folds": folds}, name=f"n{n}", log_users=n)
            put(tmp_path / "mine" / f"n{n}", run)
    put(tmp_path / "other" / "one", made_up("whole", config={"folds": 4}))
    drawn = {p.relative_to(tmp_path).as_posix() for p in plot.draw(tmp_path)}
    names = ("mine/by_log_users", "mine/variants", "mine/spend", "other/spend")
    assert drawn == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}


def test_methods_are_profiled_beside_the_variants_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "FIGURES", {})
    for row, options in (("whole", {"folds": 4}), ("half", {"folds": 2}), ("cluster", {"k": 3})):
        put(tmp_path / "mine" / "here", made_up(row, config=options))
    drawn = {path.stem for path in plot.draw(tmp_path)}
    assert drawn == {"variants", *SUITE_FIGURES}


def test_estimates_from_a_log_have_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "FIGURES", {})
    monkeypatch.setattr(plot, "of_suite", lambda *_: iter(()))
    put(tmp_path / "s" / "told", estimated(made_up("mixed_policy")), made_up("oracle"))
    put(tmp_path / "s" / "untold", made_up("mixed_policy"))
    drawn = [path.relative_to(tmp_path / "s").as_posix() for path in plot.draw(tmp_path)]
    assert drawn == ["told/replay.png", "told/replay.svg"]


def test_partial_results_are_drawn_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "FIGURES", {"forecast": FIGURES["forecast"]})
    put(tmp_path / "suite" / "part", made_up("my_lab.thrifty"))
    (tmp_path / "suite" / "part" / "broken.json").write_text('{"setting": ')
    (tmp_path / "suite" / "part" / "replay.json").write_text('{"rows": [{"estimator": "ipw"}]}')
    names = ("forecast.png", "forecast.svg", "spend.png", "spend.svg")
    assert {p.name for p in plot.draw(tmp_path)} == {*names}
    said = capsys.readouterr().out
    assert "no results of oracle, perfect_myopic, logging, uniform, none, mixed_policy" in said
    assert "broken.json: left out" in said


def test_references_alone_have_no_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "FIGURES", {"forecast": FIGURES["forecast"]})
    put(tmp_path / "toy", made_up("oracle"))
    assert plot.draw(tmp_path) == []


def test_nothing_to_draw_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main([str(tmp_path)]) == 1
    assert "no results" in capsys.readouterr().out


def test_stale_tables_are_found_and_mended(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "draw", lambda *_: [])
    readme = results.parent / "README.md"
    readme.write_text("before\n<!-- table:toy -->\nold\n<!-- /table -->\nafter\n")
    check = [str(results), "--check"]
    assert plot.main(check) == 1
    assert readme.read_text().splitlines()[2] == "old"
    assert plot.main([str(results)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- /table -->\nafter\n")
    assert "| mixed_policy |" in text
    assert plot.main(check) == 0
    put(results / "toy" / "toy", made_up("greedy_uplift", score=55.0))
    assert plot.main(check) == 1
    plot.main([str(results)])
    readme.write_text(readme.read_text().replace("55.5", "99.9"))
    assert plot.main(check) == 1


def test_a_readme_table_without_results_is_an_error(results: Path) -> None:
    (results.parent / "README.md").write_text("<!-- table:lost -->\n<!-- /table -->\n")
    with pytest.raises(ValueError, match="no results for the tables lost"):
        plot.main([str(results), "--check"])


def test_drawing_needs_no_display() -> None:
    code = "import sys, experiments.plot; print('matplotlib.pyplot' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
