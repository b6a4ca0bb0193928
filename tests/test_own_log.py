"""Methods on a log of one's own: who learns, who judges, what is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up import made_up, put

from experiments import own_log
from experiments.reporting import report_tables
from experiments.reporting.runs import find_runs
from marketing_env import RandomPolicy, preset, rollout

TINY = {"steps": 5, "width": 8, "prices": 4, "folds": 2, "progress": False}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = preset("toy")
    folder = tmp_path_factory.mktemp("logs") / "mine"
    rollout(RandomPolicy(config.n_actions), config, n_users=200, seed=3).save(folder)
    return folder


def test_estimates_stand_beside_the_forecasts(log: Path, tmp_path: Path) -> None:
    (job,) = own_log.jobs(str(log), {"mixed_policy": TINY}, (4,), tmp_path / "own_logs")
    assert (str(job), job.left) == ("mine, seed 4", ("mixed_policy",))
    own_log.work(job)
    assert job.left == ()
    run = json.loads((tmp_path / "own_logs" / "mine" / "mixed_policy-4.json").read_text())
    assert (run["users"], run["judged_users"]) == (140, 60)
    assert [f["budget"] / run["spend"] for f in run["forecasts"]] == pytest.approx(own_log.SHARES)
    (table,) = report_tables.own_logs(tmp_path)
    assert len(table.rows) == 4
    first = dict(zip(table.heads, (cell.text for cell in table.rows[0]), strict=True))
    assert first["method"] == "mixed policy"
    (robust,) = (e for e in run["estimates"][:5] if e["estimator"] == "doubly_robust")
    assert first["doubly robust reward"].startswith(f"{robust['reward']:.4g} ± ")


def test_they_are_no_runs_of_a_suite(tmp_path: Path) -> None:
    put(tmp_path / "main" / "here", made_up("dfcl"))
    told = {"own_log": "x", "method": "dfcl", "seed": 0, "forecasts": [], "estimates": []}
    (tmp_path / "own_logs" / "x").mkdir(parents=True)
    (tmp_path / "own_logs" / "x" / "dfcl-0.json").write_text(json.dumps(told))
    assert list(find_runs(tmp_path)) == [tmp_path / "main" / "here"]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dfcl-1.json").write_text("{}")
    found = own_log.jobs("logs/mine", {"dfcl": {}, "cluster": {}}, (1, 2), tmp_path)
    assert [(job.seed, job.rows) for job in found] == [(1, ("cluster",)), (2, ("dfcl", "cluster"))]
