"""The comparison of oracles at toy size: done once, resumed, and tabulated by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("d3rlpy")
pytest.importorskip("rich")

from experiments import oracles
from experiments.settings import Setting
from experiments.table import find_runs

TOY = Setting(
    "toy", "toy", log_users=600, budget_shares=(0.1, 0.4), test_users=100,
    test_seeds=(1_000, 1_001), repeats=1,
)  # fmt: skip
TINY = {"steps": 20, "prices": 4, "width": 16, "batch": 256, "progress": False}
WANTED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "mixed_policy": ("mixed_policy", {"outcome_epochs": 1.0, "folds": 2, **TINY}),
    "d3rlpy_ddqn": ("d3rlpy_price", {"algorithm": "ddqn", "updates": 20, **TINY}),
    "d3rlpy_bcq": ("d3rlpy_price", {"algorithm": "bcq", "updates": 20, **TINY}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oracles") / "toy"
    oracles.compare(TOY, WANTED, (0,), folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def test_each_oracle_leaves_one_run_under_its_name(folder: Path) -> None:
    assert set(contents(folder)) == {f"{name}-0.json" for name in WANTED}
    for name, (method, config) in WANTED.items():
        run = json.loads((folder / f"{name}-0.json").read_text())
        assert run["method"] == name
        assert config.items() <= run["config"].items()
        assert run["log"]["users"] == 600
        assert [row["budget_share"] for row in run["rows"]] == [0.1, 0.4]
        assert run["seconds"] > 0
        model = json.loads((folder / f"{name}-0" / "model" / "model.json").read_text())
        assert model["method"] == method


def test_finished_runs_are_not_repeated_and_lost_ones_are(folder: Path) -> None:
    before = contents(folder)
    oracles.compare(TOY, WANTED, (0,), folder)
    assert contents(folder) == before
    # A run that was stopped before it got its name is not finished.
    stopped = folder / "d3rlpy_bcq-0.json"
    whole = json.loads(stopped.read_text())
    stopped.write_text(json.dumps({**whole, "method": "d3rlpy_price"}))
    oracles.compare(TOY, WANTED, (0,), folder)
    again = json.loads(stopped.read_text())
    assert (again["method"], again["rows"]) == ("d3rlpy_bcq", whole["rows"])
    assert {n: c for n, c in contents(folder).items() if n != stopped.name} == {
        n: c for n, c in before.items() if n != stopped.name
    }


def test_table_has_a_row_per_oracle(folder: Path) -> None:
    rows = {row["oracle"]: row for row in oracles.table(find_runs(folder)[folder])}
    assert set(rows) == set(WANTED)
    run = json.loads((folder / "d3rlpy_ddqn-0.json").read_text())
    row = rows["d3rlpy_ddqn"]
    assert float(row["seconds"]) == pytest.approx(run["seconds"], abs=0.5)
    assert float(row["40 %"]) == pytest.approx(run["rows"][1]["score"], abs=0.05)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oracles.main(
        ["--preset", "toy", "--log-users", "300", "--test-users", "50", "--oracles", "d3rlpy_cql",
         "--prices", "3", "--steps", "10", "--updates", "10", "--seeds", "0", "1",
         "--out", str(tmp_path)]
    )  # fmt: skip
    place = tmp_path / "toy-random-300"
    runs = [json.loads((place / f"d3rlpy_cql-{seed}.json").read_text()) for seed in (0, 1)]
    assert all(run["config"]["algorithm"] == "cql" for run in runs)
    assert all(len(run["rows"]) == 5 for run in runs)
    assert "d3rlpy_cql" in capsys.readouterr().out
    markdown = (tmp_path / "table.md").read_text()
    assert "## toy-random-300" in markdown
    assert "d3rlpy_cql" in markdown


def test_unknown_oracles_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        oracles.main(["--oracles", "delphi"])
    assert "delphi: there are mixed_policy, d3rlpy_cql" in capsys.readouterr().err
