"""Tuning: fair trials, seeds apart from those of results, at toy size, resumed and told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import made_up, put

from experiments import plot, tune, tuning
from experiments.methods import method
from experiments.reporting import report_tables, tuned
from experiments.reporting.runs import Run, find_runs
from experiments.settings import OFFLINE, SUITES, Setting, Suite
from experiments.sharing import _oracle
from experiments.sweep import jobs, work
from experiments.tuning import TRIALS, trial_suite

ALL = trial_suite(tuple(TRIALS), ("payment_bonus",), 4, (0, 1))


def test_every_offline_method_has_as_many_trials() -> None:
    assert set(TRIALS) == {*OFFLINE, *SUITES["small"].variants}
    assert {len(trials) for trials in TRIALS.values()} == {4}


@pytest.mark.parametrize("name", TRIALS)
def test_trials_are_settings_that_differ_from_one_another(name: str) -> None:
    rows = [row for row in ALL.methods if row.rpartition("-")[0] == name]
    assert [row.rpartition("-")[2] for row in rows] == ["1", "2", "3", "4"]
    made = [method(ALL.variants[row]).Config(**ALL.configs[row]) for row in rows]
    assert len({repr(config) for config in made}) == 4
    assert ALL.configs[rows[0]] == SUITES["small"].configs.get(name, {})


def test_three_oracles_serve_all_who_can_share_one() -> None:
    sharing = ("mixed_policy", "price_bisection", "exponentiated_gradient", "approachability",
               "conditional_gradient", "price_bandit", "policy_switching")  # fmt: skip
    keys = {
        _oracle(method(ALL.variants[row]).Config(**ALL.configs[row]))
        for row in ALL.methods
        if row.rpartition("-")[0] in sharing
    }
    assert len(keys) == 3


def test_no_seed_is_one_of_the_results() -> None:
    used = {seed for suite in (SUITES["small"], SUITES["full"]) for seed in suite.seeds}
    populations = {
        seed for suite in SUITES.values() for s in suite.settings for seed in s.test_seeds
    }
    assert not used & set(tuning.LOG_SEEDS)
    for setting in ALL.settings:
        assert not populations & set(setting.test_seeds)
        assert not set(setting.test_seeds) & {*tuning.LOG_SEEDS, *used}


def test_what_has_no_trials_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for options, says in (
        (["delphi"], "no trials of 'delphi': there are mixed_policy"),
        (["--trials", "5"], "trials = 5: allowed is 1 to 4"),
        (["--preset", "moon"], "moon"),
    ):
        with pytest.raises(SystemExit):
            tune.main(options)
        assert says in capsys.readouterr().err


def test_the_command_runs_resumes_and_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tiny(preset: str) -> Setting:
        return replace(
            SUITES["toy"].settings[0], name=f"{preset}-random", log_users=60, test_users=40
        )

    def here(suite: Suite, folder: Path, workers: int) -> None:
        for job in jobs(suite, folder):
            work(job)

    trials = ({"width": 8, "epochs": 1}, {"width": 8, "epochs": 2})
    monkeypatch.setattr(tuning, "_validated", tiny)
    monkeypatch.setattr(tuning, "MOST", 2)
    monkeypatch.setitem(TRIALS, "greedy_uplift", trials)
    monkeypatch.setattr(tune, "sweep", here)
    out = tmp_path / "tuning"
    options = ["greedy_uplift", "--preset", "toy", "--trials", "2", "--seeds", "0"]
    tune.main([*options, "--out", str(out)])
    files = sorted((out / "toy-random").glob("greedy_uplift-*.json"))
    assert [path.name for path in files] == ["greedy_uplift-1-0.json", "greedy_uplift-2-0.json"]
    text = (out / "tuning.md").read_text()
    assert "| greedy_uplift | 2 | epochs=2 |" in text
    assert text.count("| kept |") == 2  # the head of the column, and one row
    before = files[0].read_bytes()
    files[1].unlink()
    tune.main([*options, "--out", str(out)])
    assert files[0].read_bytes() == before
    assert json.loads(files[1].read_text())["config"]["epochs"] == 2
    assert "mean scores on validation logs" in capsys.readouterr().out


@pytest.fixture
def found(tmp_path: Path) -> dict[Path, list[Run]]:
    """Two trials on two campaigns with two logs; the second lacks one of the four."""
    folder = tmp_path / "results" / "tuning"
    for place, shift in (("a", 0.0), ("b", 10.0)):
        for seed in (0, 1):
            first = made_up("dfcl-1", seed, 70 + shift, {"alpha": 1.0, "tau": 3.0})
            second = made_up("dfcl-2", seed, 72 + shift + 2 * seed, {"alpha": 0.3, "tau": 3.0})
            put(folder / place, first, *([second] if (place, seed) != ("b", 1) else []))
    return find_runs(folder)


def test_trials_are_compared_where_all_ran(found: dict[Path, list[Run]]) -> None:
    first, second = tuned.tried(found)["dfcl"]
    assert second.changes == {"alpha": 0.3}
    assert first.score == pytest.approx([70.5, 70.5, 80.5])
    assert second.score == pytest.approx([72.5, 74.5, 82.5])
    assert tuned.kept([first, second]) is second
    assert tuned.kept([first, first._replace(number=2)]) is first
    rows = tuned.rows(found)
    assert rows[0]["settings"] == "as they were"
    # Differences 2, 4, 2: Student's interval over three, 4.303 x 1.155 / sqrt(3).
    assert rows[1]["minus the first"] == "+2.7 ± 2.9"
    assert [row["kept"] for row in rows] == ["–", "kept"]
    assert rows[1]["logs"] == "3"


def test_trials_are_no_results_but_have_their_place(
    found: dict[Path, list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "draw", lambda *_: [])
    results = tmp_path / "results"
    put(results / "toy" / "toy", made_up("mixed_policy"))
    assert list(find_runs(results)) == [results / "toy" / "toy"]
    assert plot.main([str(results)]) == 0
    assert (results / "tuning" / "tuning.md").read_text() == tuned.document(found)
    table = report_tables.trials(results)
    assert table is not None
    assert [row[0].text for row in table.rows] == ["dfcl", "dfcl"]
    assert report_tables.trials(tmp_path) is None
