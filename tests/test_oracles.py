"""The comparison of oracles at toy size: made once, resumed, and tabulated by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("d3rlpy")
pytest.importorskip("rich")

from experiments import oracles
from experiments.oracles import ALGORITHMS, ORACLES, Options, comparison
from experiments.reporting.runs import find_runs
from experiments.settings import Suite

PLACE = "toy-random-400"
SMALL = {"prices": 4, "steps": 10, "width": 16}


def toy(o: Options) -> Suite:
    """What the options ask for, judged on a few users; little training for mixed_policy too."""
    suite = comparison(o)
    judged = replace(suite.settings[0], test_seeds=(1_000, 1_001), repeats=1, hard_limit=False)
    quick = {"outcome_epochs": 0.25, "folds": 2, **SMALL}
    return replace(suite, settings=(judged,), configs={**suite.configs, "mixed_policy": quick})


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """The command at toy size, which can be repeated; returns its folder."""
    out = tmp_path_factory.mktemp("oracles")
    options = {
        "preset": "toy", "log-users": 400, "test-users": 60, "prices": 3, "steps": 10,
        "updates": 10, "out": out,
    }  # fmt: skip

    def run() -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(oracles, "comparison", toy)
            oracles.main(
                [word for name, value in options.items() for word in (f"--{name}", f"{value}")]
            )
        return out

    run()
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / PLACE).glob("*-0.json")}


def test_each_oracle_leaves_one_run_under_its_name(command: Callable[[], Path]) -> None:
    files = contents(command())
    assert set(files) == {f"{name}-0.json" for name in ORACLES}
    for name in ORACLES:
        run = json.loads(files[f"{name}-0.json"])
        assert run["method"] == name
        assert run["log"]["users"] == 400
        assert [row["budget_share"] for row in run["rows"]] == [0.05, 0.1, 0.2, 0.4, 0.6]
        if name in ALGORITHMS:
            asked = {"algorithm": ALGORITHMS[name], "prices": 3, "steps": 10, "updates": 10}
            assert asked.items() <= run["config"].items()


def test_goes_on_where_it_stopped(command: Callable[[], Path]) -> None:
    folder = command()
    before = contents(folder)
    lost = folder / PLACE / "d3rlpy_bcq-0.json"
    lost.unlink()
    command()
    after = contents(folder)
    for name in set(before) - {lost.name}:
        assert after[name] == before[name]
    assert json.loads(after[lost.name])["rows"] == json.loads(before[lost.name])["rows"]


def test_tables_show_each_oracle(
    command: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = command()
    said, page = capsys.readouterr().out, (folder / "table.md").read_text()
    rows = {row["oracle"]: row for row in oracles.table(find_runs(folder)[folder / PLACE])}
    assert set(rows) == set(ORACLES)
    for name in ORACLES:
        assert name in said
        assert name in page
    run = json.loads((folder / PLACE / "d3rlpy_ddqn-0.json").read_text())
    assert float(rows["d3rlpy_ddqn"]["cpu seconds"]) == pytest.approx(run["cpu_seconds"], abs=0.5)
    assert float(rows["d3rlpy_ddqn"]["40 %"]) == pytest.approx(run["rows"][3]["score"], abs=0.05)


def test_unknown_oracles_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        oracles.main(["--oracles", "delphi"])
    said = capsys.readouterr().err
    assert "delphi: there are mixed_policy, mixed_policy_brief, d3rlpy_cql" in said
