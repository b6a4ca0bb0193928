"""The study of mixing at toy size."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from experiments import mixing
from experiments.plots import study_figures
from marketing_env import preset, sample_users
from marketing_env.exact import best_mixture


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("mixing") / "mixing.json"
    mixing.main(
        ["--presets", "toy", "--users", "20", "--prices", "40", "--shares", "0.1", "0.5",
         "--rounds", "1", "3", "30", "--out", str(out)]
    )  # fmt: skip
    return dict(json.loads(out.read_text()))


def rows_of(result: dict[str, Any], method: str, rounds: int) -> list[dict[str, Any]]:
    return [r for r in result["rows"] if (r["method"], r["rounds"]) == (method, rounds)]


def test_plans_are_the_exact_frontier() -> None:
    config, o = preset("toy"), mixing.Options(users=30, prices=200)
    z = mixing.plans(config, o)
    users = sample_users(config, o.users, o.seed)
    assert z[0, 1] == 0
    assert (np.diff(z[:, 1]) >= 0).all()
    for share in (0.05, 0.5):
        budget = share * z[-1, 1]
        best = best_mixture(config, users, float(budget)).reward
        reached = np.interp(budget, z[:, 1], z[:, 0])
        assert reached == pytest.approx(best, abs=0.005 * (z[-1, 0] - z[0, 0]))
        assert reached <= best + 1e-9


def test_every_method_at_every_number_of_rounds(result: dict[str, Any]) -> None:
    methods = {r["method"] for r in result["rows"]}
    assert methods == set(mixing.methods(0))
    assert len(result["rows"]) == len(methods) * 2 * 3
    assert all(r["shortfall"] >= 0 <= r["violation"] for r in result["rows"])
    assert all(1 <= r["different"] <= r["stored"] for r in result["rows"])
    assert {"command", "commit", "versions"} <= set(result)
    assert "out" not in result


def test_the_main_method_ends_at_the_optimum_with_two_policies(result: dict[str, Any]) -> None:
    for row in rows_of(result, "mixed_policy", 30):
        assert row["shortfall"] + row["violation"] < 1e-6
        assert row["stored"] == 2
        assert row["calls"] < 30
    for row in rows_of(result, "exponentiated_gradient", 30):
        assert row["stored"] == 30
        assert row["shortfall"] + row["violation"] > 0.1
    assert all(r["stored"] == 1 for r in rows_of(result, "price_bisection", 30))


def test_the_figure_shows_means_of_what_was_measured(result: dict[str, Any]) -> None:
    fig = study_figures.mixing(result)
    left, right = fig.axes
    lines = {str(line.get_label()): np.asarray(line.get_xydata()) for line in left.get_lines()}
    assert list(lines) == [name.replace("_", " ") for name in mixing.methods(0)]
    rows = rows_of(result, "exponentiated_gradient", 30)
    distance = np.mean([r["shortfall"] + r["violation"] for r in rows])
    assert lines["exponentiated gradient"][-1] == pytest.approx([30, distance])
    assert lines["mixed policy"][-1] == pytest.approx([2, 0.01])
    calls = np.mean([r["calls"] for r in rows])
    shown = {str(line.get_label()): np.asarray(line.get_xydata()) for line in right.get_lines()}
    assert shown["exponentiated gradient"][-1] == pytest.approx([calls, distance])
    assert fig.get_suptitle().endswith("mixed policy 2, exponentiated gradient over 30")


def test_no_users_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mixing.main(["--users", "0"])
    assert "--users 0" in capsys.readouterr().err
