"""The command: all kinds of data at toy size, kept runs, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("torch")
pytest.importorskip("lightgbm")
pytest.importorskip("matplotlib")

from trial_files import criteo_file, e_mail_file, promotions  # noqa: E402

from experiments import one_shot  # noqa: E402
from experiments.plots import one_shot_figures  # noqa: E402
from experiments.reporting.runs import find_runs  # noqa: E402
from experiments.trials import one_shot_lbcf, one_shot_methods  # noqa: E402
from experiments.trials.one_shot_methods import Entry  # noqa: E402

TINY = {"width": 8, "trees": 5, "leaves": 4, "min_leaf": 20, "epochs": 1, "prices": 3}
LBCF = ("--users-per-arm", "150", "--test-users-per-arm", "100", "--noises", "10", "--seeds", "2")
METHODS = ("--methods", "greedy_uplift-t", "greedy_uplift-s")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models; trees stand in for the network that others are compared with."""
    data = ("lbcf", "lbcf-linear", "hillstrom", "starbucks", "criteo")
    monkeypatch.setattr(one_shot_methods, "SETTINGS", dict.fromkeys(data, TINY))


def played(out: Path, data: str, *options: str) -> dict[str, Any]:
    one_shot.main(["--data", data, *options, "--out", str(out)])
    summary: dict[str, Any] = json.loads((out / data / "one_shot.json").read_text())
    return summary


def test_generated_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = played(tmp_path, "lbcf", *LBCF, "--methods", "two_stage", "greedy_uplift-t")
    assert {r["method"] for r in summary["regrets"]} == {"two_stage", "greedy_uplift-t"}
    assert {(r["noise"], r["shift"], r["seeds"]) for r in summary["regrets"]} == {
        (10.0, False, 2), (10.0, True, 2),
    }  # fmt: skip
    names = {p.name for p in tmp_path.rglob("runs/*/*.json")}
    assert names == {f"{m}-{s}.json" for m in ("two_stage", "greedy_uplift-t") for s in (0, 1)}
    assert "tested in another world" in capsys.readouterr().out
    assert find_runs(tmp_path) == {}  # campaigns' tables do not take them for theirs


def test_networks_without_a_hidden_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(entry: Entry, log: Any, data: str, seed: int) -> Any:
        model: Any = real(entry, log, data, seed)
        layers.append({name.split(".")[0] for name in model.members[0].state().tensors})
        return model

    layers: list[set[str]] = []
    real = Entry.fit
    monkeypatch.setattr(Entry, "fit", fit)
    monkeypatch.setitem(one_shot_methods.SETTINGS, "lbcf-linear", {**TINY, "network": "linear"})
    for data in ("lbcf", "lbcf-linear"):
        tables = played(tmp_path, data, *LBCF, "--methods", "two_stage")
        assert [name for name, _ in one_shot_figures.figures(tables)] == ["regret"]
        assert (tmp_path / data / "regret.png").exists()
    assert ["shared" in found for found in layers] == [True] * 2 + [False] * 2


def test_finished_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = played(tmp_path, "lbcf", *LBCF, *METHODS)

    def refuse(*args: Any) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr(one_shot_lbcf, "run", refuse)
    assert played(tmp_path, "lbcf", *LBCF, *METHODS)["regrets"] == first["regrets"]
    with pytest.raises(AssertionError, match="run again"):
        played(tmp_path, "lbcf", *LBCF, *METHODS, "--users-per-arm", "151")
    monkeypatch.setattr(one_shot_methods, "SETTINGS", {"lbcf": {**TINY, "trees": 6}})
    with pytest.raises(AssertionError, match="run again"):
        played(tmp_path, "lbcf", *LBCF, *METHODS)


def test_refusals_do_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(entry: Entry, log: Any, data: str, seed: int) -> Any:
        if entry.name == "greedy_uplift-s":
            raise ValueError("cost of arm 2 is nan")
        return real(entry, log, data, seed)

    real = Entry.fit
    monkeypatch.setattr(Entry, "fit", fit)
    summary = played(tmp_path, "lbcf", *LBCF, *METHODS)
    assert {r["method"] for r in summary["regrets"]} == {"greedy_uplift-t"}
    (failure,) = summary["failures"]
    assert (failure["method"], failure["error"]) == ("greedy_uplift-s", "cost of arm 2 is nan")


def test_trials_of_files(tmp_path: Path) -> None:
    common = ("--seeds", "1", "--folds", "2", "--methods", "greedy_uplift-t")
    mails = played(tmp_path, "hillstrom", "--file", str(e_mail_file(tmp_path, 2000)), *common)
    assert {r["against"] for r in mails["differences"]} == {"two_stage", "random mix"}
    assert {r["metric"] for r in mails["metrics"]} == {"mt_aucc", "qini_1", "qini_2"}
    file = promotions(tmp_path, 0.1, 3000)
    revenue = played(tmp_path, "starbucks", "--file", str(file), *common)["revenue"]
    assert {r["policy"] for r in revenue} == {"allocator", "everyone"}
    criteo = played(
        tmp_path, "criteo", "--file", str(criteo_file(tmp_path, 6000)), *common[:2], *METHODS
    )
    assert {r["metric"] for r in criteo["metrics"]} == {"aucc", "qini"}
    for data in ("hillstrom", "starbucks", "criteo"):
        assert list((tmp_path / data).glob("*.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "forest"), "methods = forest: allowed are two_stage"),
        (("--split", "50/50"), "--split 50/50: allowed are 70/30, 60/10/30"),
        (("--data", "adult"), "invalid choice"),
    ],
)
def test_unknown_names_are_refused(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        one_shot.main(options)
    assert message in capsys.readouterr().err
