"""The benchmarks at toy size: every rival solves the same problem, and results are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import solve_mckp
from experiments import speed
from experiments.benchmarks import speed_streaming, speed_training
from experiments.benchmarks.speed_allocator import (
    RIVALS,
    Offers,
    Rival,
    allocator,
    campaign,
    cp_sat,
)
from experiments.benchmarks.stopwatch import read, timed
from experiments.settings import Setting


@pytest.fixture(scope="module")
def offers() -> Offers:
    value, cost = campaign(400)
    return Offers(value, cost, 0.2 * solve_mckp(value, cost, np.inf).cost)


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_rivals_are_close_to_the_optimum(rival: Rival, offers: Offers) -> None:
    """A rival that is built wrong would make the allocator look good."""
    value, cost, budget = offers
    choice = rival.choose(offers, 60.0)
    assert choice is not None
    rows, best = np.arange(len(value)), solve_mckp(*offers)
    spent = cost[rows, choice].sum(dtype=float)
    assert spent <= budget * 1.01 if "gradient" in rival.name else spent <= budget
    assert value[rows, choice].sum(dtype=float) == pytest.approx(best.value, rel=0.01)


def test_rival_that_does_not_finish_has_no_answer(offers: Offers) -> None:
    unfinished = [r for r in RIVALS if r.name == "HiGHS, integer program"]
    assert [r.choose(offers, 1e-3) for r in unfinished] == [None]


def test_cp_sat_solves_the_same_problem(offers: Offers) -> None:
    pytest.importorskip("ortools")
    few = Offers(offers.value[:50], offers.cost[:50], offers.budget / 8)
    choice, best = cp_sat(few, 60.0), solve_mckp(*few)
    assert choice is not None
    assert few.value[np.arange(50), choice].sum(dtype=float) == pytest.approx(best.value, rel=1e-3)


def test_slow_rival_is_left_out_at_the_next_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def slow(o: Offers, limit: float) -> None:
        asked.append(len(o.value))

    monkeypatch.setattr("experiments.benchmarks.speed_allocator.RIVALS", (Rival("slow", slow),))
    rows = list(allocator((200, 300), repeats=1, limit=0.0))
    assert set(asked) == {200}
    assert [row["users"] for row in rows if row["method"] == "slow"] == [200]
    ours = [row for row in rows if row["method"] != "slow"]
    assert all(row["overspent"] == 0 and -1e-12 <= row["gap"] < 1e-2 for row in ours)


def test_results_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row: dict[str, Any] = {"method": "a | b", "users": 12_345, "seconds": 0.01234, "gap": np.nan}
    monkeypatch.setitem(
        speed.BENCHMARKS, "allocator", speed.Benchmark(lambda o: [row] * o.repeats, "")
    )
    speed.main(["--only", "allocator", "--repeats", "2", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "allocator.json").read_text())
    assert len(found["rows"]) == 2
    assert found["rows"][0]["users"] == 12_345
    assert {"command", "commit", "machine", "load"} <= set(found)
    text = (tmp_path / "allocator.md").read_text()
    assert "12,345 | 0.0123 | nan |" in text


def test_passes_over_a_file_find_the_answer_in_memory(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = list(speed_streaming.streaming(3_000, repeats=1))
    assert rows[0]["pass"] == "read only"
    assert {row["users"] for row in rows} == {3_000}
    assert all(0 <= row["gap"] < 1e-3 for row in rows)
    path = tmp_path / "users.parquet"
    speed_streaming.write(path, 3_000)
    (batch,) = speed_streaming.batches(path)
    for columns, expected in zip(
        speed_streaming.fields(batch), [*campaign(3_000), np.arange(3_000)], strict=False
    ):
        read = np.stack(columns.columns, axis=1) if expected.ndim == 2 else np.asarray(columns)
        np.testing.assert_array_equal(read, expected)


def test_model_of_a_sample_is_judged_on_fresh_users() -> None:
    """From a log of that size on, however large the others are."""
    setting = Setting(
        "toy", "toy", budget_shares=(0.1, 0.4), test_users=100, test_seeds=(1_000, 1_001),
        repeats=1, hard_limit=False,
    )  # fmt: skip
    brief = {"folds": 2, "steps": 5, "width": 8, "prices": 4, "outcome_epochs": 0.25}
    (row,) = speed_training.training((200, 700), setting, brief, learned_from=500)
    assert row["users"] == 700
    assert -100 < row["score"] <= 100
    steps = {
        f"{step}_{name}" for step in ("write", "read", "train") for name in ("seconds", "memory")
    }
    assert set(row) == {"users", "score", *steps}
    assert all(row[name] > 0 for name in steps)


@pytest.mark.parametrize("bad", [["--only", "nothing"], ["--repeats", "0"], ["--users", "0"]])
def test_bad_options_are_refused(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speed.main(bad)
    assert "allowed" in capsys.readouterr().err


def test_stopwatch_counts_runs_and_memory() -> None:
    runs: list[int] = []

    def task() -> int:
        np.ones(1_000_000)
        runs.append(1)
        return len(runs)

    t = timed(task, (np.ones((3, 5), dtype=np.float32),), repeats=3)
    assert (t.answer, len(runs)) == (1, 4)
    assert 8.0 <= t.memory < 9.0
    assert t.seconds > 0
    assert t.reads > 0
    assert np.isnan(timed(task, repeats=1).reads)


def test_reading_leaves_the_data_alone() -> None:
    x = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    x.setflags(write=False)
    read([x, x.astype(np.float32)])
