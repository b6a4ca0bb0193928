"""Sweeps: what is left to do, whose methods join, what a kill leaves, on one core or two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import made_up, put

from experiments import sweep
from experiments.reporting.runs import REFERENCES
from experiments.results import write_json
from experiments.settings import SUITES, Suite

TOY = SUITES["toy"]
THRIFTY = '''
"""Nothing for anybody."""
from dataclasses import dataclass
from agents.common.types import Forecast
from marketing_env import ConstantPolicy

@dataclass(frozen=True)
class Config:
    fail: bool = False

class Model:
    def policy(self, budget): return ConstantPolicy(0, 3)
    def forecast(self, budget): return Forecast(1.0, 0.1, 0.0, 0.0, 1.0, 1.0)
    def save(self, folder): ...

def fit(log, config=Config(), seed=0, *, track=None):
    if config.fail:
        raise RuntimeError("out of thrift")
    return Model()
'''


@pytest.fixture
def my_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method outside the package, importable here and in fresh processes."""
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "__init__.py").touch()
    (tmp_path / "my_lab" / "thrifty.py").write_text(THRIFTY)
    monkeypatch.syspath_prepend(str(tmp_path))


def small(*methods: str, seeds: tuple[int, ...] = (0,)) -> Suite:
    setting = replace(TOY.settings[0], log_users=60, test_users=40)
    return Suite((setting,), methods, seeds=seeds, references=False)


def scores(folder: Path) -> dict[str, list[float]]:
    files = sorted(folder.glob("toy/*-*.json"))
    return {path.name: json.loads(path.read_text())["rows"] for path in files}


@pytest.mark.usefixtures("my_lab")
def test_a_method_of_your_own_joins_the_suite(tmp_path: Path) -> None:
    o = sweep.Options(methods=("my_lab.thrifty",), only=("my_lab.thrifty",))
    suite = sweep.part(TOY, o)
    assert suite.methods == ("my_lab.thrifty",)
    both = sweep.part(TOY, sweep.Options(methods=("my_lab.thrifty", "mixed_policy")))
    assert both.methods == (*TOY.methods, "my_lab.thrifty")
    sweep.work(sweep.jobs(small("my_lab.thrifty"), tmp_path)[0])
    run = json.loads((tmp_path / "toy" / "my_lab.thrifty-0.json").read_text())
    assert run["method"] == "my_lab.thrifty"
    assert run["rows"][0]["cost"] == 0
    assert run["memory"] > 1e7
    assert len(run["rows"][0]["gains"]) == len(run["rows"][0]["best_gains"]) == 2


def test_what_is_no_method_is_an_error_before_anything_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for options, says in (
        (["--methods", "my_lab.lost"], "no method 'my_lab.lost'"),
        (["--methods", "experiments.cli"], "is no method: it has no Config"),
        (["--only", "my_lab.lost"], "--only my_lab.lost: allowed are"),
        (["--suite", "lost"], "there are toy"),
    ):
        with pytest.raises(SystemExit):
            sweep.main(options)
        assert says in capsys.readouterr().err


@pytest.mark.usefixtures("my_lab")
def test_a_failed_run_does_not_stop_its_neighbours(tmp_path: Path) -> None:
    suite = replace(
        small("broken", "my_lab.thrifty"), variants={"broken": "my_lab.thrifty"},
        configs={"broken": {"fail": True}},
    )  # fmt: skip
    (job,) = sweep.jobs(suite, tmp_path)
    with pytest.raises(RuntimeError, match=r"broken: RuntimeError\('out of thrift'\)"):
        sweep.work(job)
    assert job.left == ("broken",)


@pytest.mark.slow
@pytest.mark.usefixtures("my_lab")
def test_one_process_and_two_give_equal_numbers(tmp_path: Path) -> None:
    suite = replace(
        small("greedy_uplift", "my_lab.thrifty", seeds=(3, 4)),
        configs={"greedy_uplift": {"width": 8}},
    )
    sweep.sweep(suite, tmp_path / "one", workers=1)
    sweep.sweep(suite, tmp_path / "two", workers=2)
    one = scores(tmp_path / "one")
    assert len(one) == 4
    assert one == scores(tmp_path / "two")
    assert one["greedy_uplift-3.json"] != one["greedy_uplift-4.json"]


def test_a_killed_writer_leaves_whole_files_or_none(tmp_path: Path) -> None:
    code = (
        "import sys; from experiments.results import write_json\n"
        "for i in range(10**9): write_json(f'{sys.argv[1]}/{i % 3}.json', [i] * 200_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        while not list(tmp_path.glob("*.json")):
            time.sleep(0.01)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    for path in tmp_path.glob("*.json"):
        assert len(json.loads(path.read_text())) == 200_000


def test_only_whole_results_count_as_done(tmp_path: Path) -> None:
    suite = replace(TOY, seeds=(0, 1))
    folder = tmp_path / "toy"
    put(folder, made_up("oracle"), made_up("mixed_policy", 0), made_up("greedy_uplift", 1))
    (folder / ".greedy_uplift-0.json.4711").write_text('{"half": ')  # what a kill leaves
    assert [(job.seed, job.rows) for job in sweep.jobs(suite, tmp_path)] == [
        (0, (*REFERENCES[1:], "greedy_uplift")), (1, ("mixed_policy",)),
    ]  # fmt: skip


def test_what_is_left_is_told_from_what_is_done(tmp_path: Path) -> None:
    suite = replace(TOY, seeds=(0, 1, 2), references=False)
    todo, pace = sweep.jobs(suite, tmp_path), sweep.Pace(tmp_path)
    assert pace.left(todo, workers=2) is None
    assert pace.says(todo[:1], todo, 2) == "now toy, seed 0: mixed_policy"
    slow = made_up("mixed_policy", 0) | {"seconds": 80.0, "judge_seconds": 20.0}
    write_json(tmp_path / "toy" / "mixed_policy-0.json", slow)
    # Two more of 100 s, and three of a method that nobody has timed yet.
    assert pace.left(todo, workers=2) == pytest.approx(250)
    # It took 10 s, though alone it would have taken 70: the other's training served it too.
    put(tmp_path / "toy", made_up("greedy_uplift", 0) | {"seconds": 70.0})
    ended = (tmp_path / "toy" / "mixed_policy-0.json").stat().st_mtime + 10
    os.utime(tmp_path / "toy" / "greedy_uplift-0.json", (ended, ended))
    assert pace.left(todo[1:], workers=2) == pytest.approx(110)
    assert pace.left(todo[1:], workers=9) == pytest.approx(110)
    assert pace.says(todo[1:2], todo[1:], 2) == "about 2 min left; now toy, seed 1: mixed_policy"
