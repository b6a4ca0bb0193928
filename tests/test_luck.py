"""The optimum's luck on the judged populations leaves the scores of methods, and only that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import made_up
from numpy.testing import assert_allclose

from experiments.judging import Judge
from experiments.reporting.luck import without_luck as of_settings
from experiments.reporting.runs import Run, column, find_runs
from experiments.run import references
from experiments.settings import SUITES
from marketing_env import ConstantPolicy

SEEDS = tuple(range(1_000, 1_020))
TOY = replace(
    SUITES["toy"].settings[0], test_users=100, test_seeds=SEEDS, hard_limit=False,
    budget_shares=(0.3,),
)  # fmt: skip


def without_luck(runs: list[Run]) -> list[Run]:
    return of_settings({Path("a"): runs})[Path("a")]


def pair(share: float = 0.8, sharing: float = 0.7, n: int = 20, seed: int = 0) -> list[Run]:
    """The optimum and a method that earns a share of it and has part of its luck."""
    rng = np.random.default_rng(seed)
    optimum, method = (made_up(m, test_seeds=SEEDS[:n]) for m in ("oracle", "dfcl"))
    for known, row in zip(optimum["rows"], method["rows"], strict=True):
        best, luck = 1 + 0.05 * rng.normal(size=n), 0.2 * rng.normal(size=n)
        gains = share * best + sharing * luck + 0.02 * rng.normal(size=n)
        known["luck"] = luck.tolist()
        row |= {"gains": gains.tolist(), "best_gains": best.tolist(), "gain": gains.mean()}
        row["score"] = 100 * gains.mean() / best.mean()
        row["score_error"] = 100 * float(np.std(gains - share * best, ddof=1)) / n**0.5
    return [optimum, method]


def test_scores_come_nearer_to_the_truth_and_say_so() -> None:
    before, after, told = [], [], []
    for seed in range(100):
        runs = pair(seed=seed)
        found = without_luck(runs)[1]
        before.append(column(runs[1:], "score")[0, 0] - 80)
        after.append(column([found], "score")[0, 0] - 80)
        told.append(column([found], "score_error")[0, 0])
    assert abs(np.mean(after)) < 3 * np.std(after) / 10  # no bias
    assert np.std(after) < 0.25 * np.std(before)
    assert np.mean(told) == pytest.approx(np.std(after), rel=0.25)


def test_luck_that_is_not_shared_is_left() -> None:
    runs = pair(sharing=0.0)
    assert_allclose(column(without_luck(runs)[1:], "score"), column(runs[1:], "score"), atol=0.5)


def test_gains_and_rewards_move_together() -> None:
    runs = pair()
    (row,), (old,) = ([of[1]["rows"][0]] for of in (without_luck(runs), runs))
    assert row["gain"] == pytest.approx(np.mean(row["gains"]))
    assert row["reward"] - old["reward"] == pytest.approx(row["gain"] - old["gain"])
    assert row["score"] == pytest.approx(100 * row["gain"] / np.mean(old["best_gains"]))


@pytest.mark.parametrize("change", ["populations", "few", "no luck", "no optimum", "campaign"])
def test_other_campaigns_tell_nothing(change: str) -> None:
    runs = pair(n=5 if change == "few" else 20)
    setting: dict[str, Any] = runs[0]["setting"]
    if change == "populations":
        setting["test_seeds"] = SEEDS[:4]
    if change == "campaign":
        setting["overrides"] = {"unobserved": 0.5}
    if change == "no luck":
        for row in runs[0]["rows"]:
            del row["luck"]
    if change == "no optimum":
        del runs[0]
    assert without_luck(runs) == runs


def test_settings_of_the_same_populations_share_the_optimum() -> None:
    optimum, method = pair()
    a, b = Path("random"), Path("production")
    found = of_settings({a: [method], b: [optimum]})
    assert found == {a: without_luck([optimum, method])[1:], b: [optimum]}
    assert found[a] != [method]


def test_the_optimum_meets_every_population_and_its_luck_is_chance(tmp_path: Path) -> None:
    made = references(TOY, tmp_path, progress=False, only=("none", "oracle"))
    optimum, none = made
    assert [run["method"] for run in made] == ["oracle", "none"]
    assert [len(run["setting"]["test_seeds"]) for run in made] == [20, 4]
    assert "luck" not in none["rows"][0]
    luck = np.array(optimum["rows"][0]["luck"])
    assert luck.std() > 0
    assert abs(luck.mean()) < 3.5 * luck.std(ddof=1) / 20**0.5
    # A campaign without incentives has none of it; the optimum's row keeps its own.
    judge = Judge(TOY, progress=False, truth=tmp_path / "truth.json")
    idle = made_up("dfcl", test_seeds=SEEDS)
    idle["setting"] = optimum["setting"]
    idle["rows"] = [judge.row(0, ConstantPolicy(0, judge.config.n_actions))]
    kept, found = without_luck([optimum, idle])
    assert kept == optimum
    assert found["rows"][0]["score"] == pytest.approx(0)
    assert [run["method"] for run in next(iter(find_runs(tmp_path).values()))] == ["none", "oracle"]
