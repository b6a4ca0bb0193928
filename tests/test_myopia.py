"""The myopia study at toy size, against the optimum by column generation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import myopia
from marketing_env import preset, sample_users
from marketing_env.exact import best_mixture, curve

TOY = preset("toy")
BUDGET = np.array([0.1, 0.4, 1.2])
USERS = 50


@pytest.fixture(scope="module")
def prices() -> list[np.ndarray]:
    return [myopia.price_grid(TOY, BUDGET, foresight) for foresight in (1.0, 0.0)]


def test_grids_reach_around_every_budget(prices: list[np.ndarray]) -> None:
    people = sample_users(TOY, USERS, seed=1)
    for grid, foresight in zip(prices, (1.0, 0.0), strict=True):
        cost = curve(TOY, people, grid, foresight=foresight).cost
        assert grid[0] == 0
        assert (np.diff(np.sort(grid)) > 0).all()
        assert ((cost > 0) & (cost < BUDGET[0])).any()
        assert cost.max() > BUDGET[-1]


def test_scores_are_gains_over_the_exact_optimum(prices: list[np.ndarray]) -> None:
    people = sample_users(TOY, USERS, seed=1)
    idle = best_mixture(TOY, people, 0.0).reward
    best = np.array([best_mixture(TOY, people, b).bound for b in BUDGET])
    many = curve(TOY, people, np.geomspace(1e-3, 10, 400), foresight=0.0)
    truth = 100 * (many.reward_at(BUDGET) - idle) / (best - idle)
    found = myopia.scores(TOY, BUDGET, users=USERS, seed=1, prices=prices)
    assert found == pytest.approx(truth, abs=2.0)
    assert (found < 100).all()


def test_foresight_is_the_whole_difference(prices: list[np.ndarray]) -> None:
    people = sample_users(TOY, USERS, seed=1)
    best = curve(TOY, people, prices[0])
    assert best.reward_at(BUDGET) == pytest.approx(best.bound_at(BUDGET), rel=5e-3)


def test_command_writes_scores_with_their_provenance(tmp_path: Path) -> None:
    out = tmp_path / "myopia.json"
    myopia.main(
        ["--presets", "toy", "--users", "20", "--seeds", "2", "--shares", "0.1", "0.4",
         "--out", str(out)]
    )  # fmt: skip
    result = json.loads(out.read_text())
    scores = np.array(result["found"]["toy"]["score"])
    assert scores.shape == (2, 2)
    assert (scores[0] != scores[1]).all()
    assert ((scores > 0) & (scores <= 100)).all()
    assert result["found"]["toy"]["budget"][1] == pytest.approx(
        4 * result["found"]["toy"]["budget"][0]
    )
    assert {"command", "commit", "versions"} <= set(result)
    assert "out" not in result


def test_no_users_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        myopia.main(["--users", "0"])
    assert "--users 0" in capsys.readouterr().err
