"""Figures and tables from made-up runs: what they say, what is missing, what is stale."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments import plot, table
from experiments.settings import SUITES
from experiments.titles import OTHERS, STYLES, came_true, style, tag_groups

SETTING = SUITES["toy"].settings[0]
STATES = ("engagement", "recency", "fatigue")


def made_up(method: str, seed: int = 0, score: float = 80.0) -> dict[str, Any]:
    rows = []
    for i, share in enumerate(SETTING.budget_shares):
        rows.append(
            {
                "budget": 2.0 * share, "budget_share": share, "score": score + i,
                "score_error": 1.0, "gain": 0.1 * score / 100, "best_gain": 0.1,
                "reward": 1.0 + 0.1 * score / 100, "cost": 1.9 * share, "spend_share": 0.95,
                "spend_share_error": 0.01, "score_hard_limit": score - 5,
                "score_hard_limit_error": 1.0, "spend_share_hard_limit": 0.9,
                "refused_share": 0.02, "cost_by_day": [0.1, 0.2, 0.1, 0.3],
                "reward_by_day": [0.3] * 4,
                "incentive_by_state": {s: {"0.000": 0.2, "0.500": 0.1} for s in STATES},
            }
        )  # fmt: skip
        if method not in table.REFERENCES:
            rows[-1] |= {"policies": 2, "forecast": forecast(share)}
    return {
        "setting": asdict(SETTING), "method": method, "config": {}, "seed": seed, "rows": rows,
        "seconds": 3.0, "command": "python -m experiments.sweep --suite toy", "commit": "abc1234",
    }  # fmt: skip


def forecast(share: float) -> dict[str, float]:
    return {
        "reward": 1.1, "reward_error": 0.01, "cost": 2.0 * share, "cost_error": 0.01,
        "bound": 1.2, "baseline": 1.0, "gap": 0.5,
    }  # fmt: skip


def put(folder: Path, *runs: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        name = run["method"] + ("" if run["method"] in table.REFERENCES else f"-{run['seed']}")
        (folder / f"{name}.json").write_text(json.dumps(run))


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


def test_every_figure_is_drawn_beside_the_runs_and_below_out(results: Path, tmp_path: Path) -> None:
    names = [*plot.FIGURES, "learning"]
    expected = {f"toy/toy/{n}.{kind}" for n in names for kind in ("png", "svg")}
    expected |= {"myopia.png", "myopia.svg"}
    for out in (None, tmp_path / "elsewhere"):
        written = plot.draw(results, out)
        assert {p.relative_to(out or results).as_posix() for p in written} == expected
        assert all(p.stat().st_size > 1000 for p in written)
    assert not plt.get_fignums()


def test_figures_of_the_same_results_are_the_same_files(results: Path, tmp_path: Path) -> None:
    first, second = (plot.draw(results, tmp_path / name) for name in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_frontier_shows_matched_gain_at_the_budget_and_true_gain_at_the_spend() -> None:
    groups = table.by_method([made_up("oracle", score=100), made_up("mixed_policy", score=90)])
    lines = plot.frontier(groups, "").axes[0].get_lines()
    points = [np.column_stack([line.get_xdata(), line.get_ydata()]) for line in lines]
    for wanted in (
        np.array([[0, 0], [0.2, 0.1], [0.8, 0.1]]),  # the optimum
        np.array([[0.2, 0.09], [0.8, 0.091]]),  # score / 100 * best_gain at the budget
        np.array([[0.19, 0.09], [0.76, 0.09]]),  # true gain at true spend
    ):
        assert any(p.shape == wanted.shape and np.allclose(p, wanted) for p in points)
    plt.close("all")


def test_partial_results_are_drawn_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "suite" / "part", made_up("my_lab.thrifty"))
    (tmp_path / "suite" / "part" / "broken.json").write_text('{"setting": ')
    (tmp_path / "suite" / "part" / "replay.json").write_text('{"rows": [{"estimator": "ipw"}]}')
    drawn = {p.name for p in plot.draw(tmp_path)}
    assert {"frontier.png", "forecast.png"} <= drawn
    assert "learning.png" not in drawn
    said = capsys.readouterr().out
    assert "no results of oracle, perfect_myopic, mixed_policy, greedy_uplift" in said
    assert "broken.json: left out" in said


def test_references_alone_have_no_forecast(tmp_path: Path) -> None:
    put(tmp_path / "toy", made_up("oracle"))
    assert "forecast.png" not in {p.name for p in plot.draw(tmp_path)}


def test_runs_with_other_budgets_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made_up("mixed_policy")
    other["rows"] = other["rows"][:1]
    put(tmp_path / "toy", made_up("greedy_uplift"), other)
    (runs,) = table.find_runs(tmp_path).values()
    assert [run["method"] for run in runs] == ["greedy_uplift"]
    assert "mixed_policy-0.json: left out" in capsys.readouterr().out


def test_nothing_to_draw_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main([str(tmp_path)]) == 1
    assert "no results" in capsys.readouterr().out


def test_methods_keep_their_look() -> None:
    looks = list(STYLES.values())
    assert len(set(looks)) == len(looks) == len({colour for colour, _ in looks})
    assert style("my_lab.thrifty") == style("my_lab.thrifty")
    assert not {colour for colour, _ in OTHERS} & {colour for colour, _ in looks}


def test_pooled_error_has_an_evaluation_part_and_a_training_part() -> None:
    runs = [made_up("mixed_policy", seed, score) for seed, score in enumerate((88.0, 90.0, 95.0))]
    mean, error = table.pooled(runs, "score")
    assert mean == pytest.approx([91, 92])
    assert error == pytest.approx(np.sqrt(1 + np.var([88, 90, 95], ddof=1) / 3))
    assert table.pooled(runs[:1], "score")[1] == pytest.approx(1.0)


def test_table_says_what_the_runs_say(results: Path) -> None:
    text = table.suite_table(table.find_runs(results))
    rows = {r.split("|")[1].strip(): r for r in text.splitlines() if r.startswith("| ")}
    assert list(rows) == ["method", "---", "*oracle*", "*perfect_myopic*", "mixed_policy",
                          "greedy_uplift"]  # fmt: skip
    cells = [c.strip() for c in rows["greedy_uplift"].strip("|").split("|")]
    assert cells[1:] == ["80.0 ± 2.0", "81.0 ± 2.0", "80.5", "1", "95 / 95", "75.0 ± 2.0", "2.0",
                         "2", "3"]  # fmt: skip
    assert "2 (2.8)" in rows["mixed_policy"]
    assert "`python -m experiments.sweep --suite toy` at commit `abc1234`" in text


def test_a_single_population_has_no_interval() -> None:
    run = made_up("mixed_policy")
    for row in run["rows"]:
        row["score_error"] = float("nan")
    assert "| 80.0 |" in table.suite_table({Path("toy"): [run]})


def test_stale_tables_are_found_and_mended(results: Path) -> None:
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


@pytest.mark.parametrize("rest", ["", "\n<!-- table:b -->\n<!-- /table -->\n"])
def test_an_open_marker_is_an_error(rest: str) -> None:
    with pytest.raises(ValueError, match="table:a --> is never closed"):
        table.readme_table("<!-- table:a -->\nold" + rest, "a", "new")


def test_readme_without_markers_is_left_alone() -> None:
    assert table.readme_table("text", "toy", "table") == "text"


def test_came_true_is_truth_over_forecast() -> None:
    runs = [made_up("mixed_policy", score=90)]
    assert came_true(runs, "reward")[0] == pytest.approx(100 * 1.09 / 1.1)
    assert came_true(runs, "incremental reward")[0] == pytest.approx(90)
    ratio, error = came_true(runs, "cost")
    assert ratio == pytest.approx(95)
    assert error == pytest.approx(100 * np.hypot(0.01 * 0.95, 0.01 * np.array([0.2, 0.8]))
                                  / [0.2, 0.8])  # fmt: skip


def test_tags_are_grouped_by_what_is_no_number() -> None:
    curve = ([1], [1.0])
    tags = ["response/member_0/cost_2", "response/member_1/cost_2", "to_go/head_11", "loss"]
    groups = tag_groups(dict.fromkeys(tags, curve))
    assert {name: list(found) for name, found in groups.items()} == {
        "response/cost": ["member 0, 2", "member 1, 2"],
        "to_go": ["head 11"],
        "loss": [""],
    }


def test_drawing_needs_no_display() -> None:
    code = "import experiments.plot, matplotlib; print(matplotlib.get_backend())"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip().lower() == "agg", done.stderr
