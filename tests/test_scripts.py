"""Every script at toy size, from the simulator to replayed models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import demo, log_data, plot, replay, sweep, train
from experiments.curves import read_curves
from experiments.settings import SUITES

TINY = [
    "--steps",
    "10",
    "--outcome-epochs",
    "0.1",
    "--width",
    "16",
    "--prices",
    "5",
    "--no-progress",
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts") / "log"
    log_data.main(
        ["--preset", "toy", "--users", "600", "--behaviour", "mixture", "--out", str(folder)]
    )
    return folder


@pytest.fixture(scope="module")
def model(log: Path) -> Path:
    out = log.parent / "mine"
    train.main(["--log", str(log), "--out", str(out), "--held-out", "0.3", *TINY])
    return out


def test_a_folder_that_takes_no_model_is_an_error_before_training(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "letters.txt").touch()
    monkeypatch.setattr("agents.mixed_policy.fit", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(ValueError, match="exists and is no model folder"):
        train.main(["--log", str(log), "--out", str(tmp_path), *TINY])


def test_training_leaves_model_and_curves(model: Path) -> None:
    assert (model / "model" / "model.safetensors").exists()
    assert list((model / "tensorboard").iterdir())
    curves = read_curves(model / "curves.csv")
    assert any(tag.endswith("/loss") for tag in curves)
    assert any(tag.startswith("frontier/") for tag in curves)
    assert json.loads((model / "train.json").read_text())["commit"] is not None


def test_replay_in_the_simulator(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = model / "simulated.json"
    args = ["--model", str(model / "model"), "--preset", "toy", "--users", "100", "--seeds", "2"]
    replay.main([*args, "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 5
    assert all(row["spend_share_hard_limit"] <= 1 for row in rows)


def test_replay_on_the_held_out_log(
    model: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = model / "held_out.json"
    args = ["--model", str(model / "model"), "--log", str(log), "--held-out", "0.3"]
    replay.main([*args, "--budgets", "0.5", "--out", str(out)])
    said = capsys.readouterr().out
    assert "180 users" in said
    estimators = {row["estimator"] for row in json.loads(out.read_text())["rows"]}
    assert estimators == {
        "logged", "importance", "self_normalised", "doubly_robust", "fitted_q",
    }  # fmt: skip


def test_replay_wants_one_judge(model: Path) -> None:
    with pytest.raises(SystemExit):
        replay.main(["--model", str(model / "model")])


def test_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match=r"no method 'magic'.*mixed_policy"):
        train.main(["--log", "x", "--out", "y", "--method", "magic"])


def test_demo_and_sweep_tell_one_story(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.main(["--suite", "toy", "--out", str(tmp_path)])
    assert "frontier.png" in capsys.readouterr().out
    assert plot.main([str(tmp_path), "--check"]) == 0
    folder = tmp_path / "toy"
    made = {p: p.read_bytes() for p in (folder / "toy").glob("*.json")}
    assert {"oracle.json", "mixed_policy-0.json", "greedy_uplift-0.json"} <= {p.name for p in made}

    # A sweep finds everything done and repeats nothing; a lost run is made again, equal.
    lost = folder / "toy" / "greedy_uplift-0.json"
    before = json.loads(lost.read_text())["rows"]
    lost.unlink()
    assert [(j.seed, j.rows) for j in sweep.jobs(SUITES["toy"], folder)] == [
        (0, ("greedy_uplift",))
    ]
    for job in sweep.jobs(SUITES["toy"], folder):
        sweep.work(job)
    assert json.loads(lost.read_text())["rows"] == before
    assert not sweep.jobs(SUITES["toy"], folder)
    assert all(p.read_bytes() == content for p, content in made.items() if p != lost)


def test_part_of_a_suite_can_be_asked_for(tmp_path: Path) -> None:
    full = SUITES["full"]
    o = sweep.Options(only=("greedy_uplift",), settings=("grocery-random",), seeds=(11, 12))
    found = sweep.jobs(sweep.part(full, o), tmp_path)
    assert [(j.setting.name, j.seed, j.rows) for j in found] == [
        ("grocery-random", seed, ("greedy_uplift",)) for seed in (11, 12)
    ]
    with pytest.raises(ValueError, match=r"--seeds 3: allowed are 10 to 799"):
        sweep.part(full, sweep.Options(seeds=(3,)))
    assert sweep.part(SUITES["small"], sweep.Options(seeds=(11, 12))).seeds == (11, 12)
    with pytest.raises(ValueError, match=r"--seeds 1000: allowed are 10 to 799; trials"):
        sweep.part(SUITES["small"], sweep.Options(seeds=(1_000,)))
