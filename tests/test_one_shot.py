"""The e-mail experiment on a made-up file of the same layout, and on the real one if present."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("torch")
pytest.importorskip("lightgbm")

from experiments import one_shot  # noqa: E402
from experiments.one_shot_logs import ARMS, hillstrom  # noqa: E402
from experiments.real_logs import data_folder  # noqa: E402

TOY = ("--seeds", "2", "--folds", "3", "--learners", "t", "--budgets", "0.3", "1")


def e_mail_file(folder: Path, n: int = 6000, effect: float = 0.5) -> Path:
    """Women's e-mail works for buyers of women's goods, men's a little for everyone."""
    rng = np.random.default_rng(0)
    womens, arm = rng.integers(0, 2, n), rng.integers(0, 3, n)
    chance = 0.1 + effect * (arm == 1) * womens + 0.1 * (arm == 2)
    table = pd.DataFrame(
        {
            "recency": rng.integers(1, 13, n),
            "history_segment": "1) $0 - $100",
            "history": rng.lognormal(5, 1, n),
            "mens": 1 - womens,
            "womens": womens,
            "zip_code": rng.choice(["Rural", "Surburban", "Urban"], n),
            "newbie": rng.integers(0, 2, n),
            "channel": rng.choice(["Phone", "Web", "Multichannel"], n),
            "segment": np.array(ARMS)[arm],
            "visit": (rng.random(n) < chance).astype(int),
        }
    )
    table["conversion"] = table["visit"] * rng.integers(0, 2, n)
    table["spend"] = table["conversion"] * 80.0
    file = folder / "hillstrom.csv.gz"
    table.to_csv(file, index=False)
    return file


def played(out: Path, *options: str) -> dict[str, Any]:
    one_shot.main([*options, "--out", str(out)])
    found: dict[str, Any] = json.loads((out / "visit" / "summary.json").read_text())
    return found


def row(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (found,) = (r for r in rows if all(r[k] == v for k, v in wanted.items()))
    return found


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = played(tmp_path, "--data", str(e_mail_file(tmp_path)), *TOY)
    for rival in one_shot.RIVALS:
        assert row(summary["differences"], against=rival, budget=0.3)["low"] > 0.02
    # Half of the users respond, and by half: 0.3 of the money for all buys 0.15 visits.
    for estimator in ("ht", "hajek", "post_stratified", "doubly_robust"):
        e = row(summary["estimates"], policy="allocator", budget=0.3, estimator=estimator)
        assert e["value"] == pytest.approx(0.25, abs=0.04), estimator
        assert e["low"] < 0.25 < e["high"], estimator
        assert e["cost"] == pytest.approx(0.3, abs=0.03)
        assert e["cost_estimate"] == pytest.approx(e["cost"], abs=0.05)
    assert summary["commit"] is not None
    assert "better at 0.3" in capsys.readouterr().out
    assert {p.name for p in tmp_path.rglob("runs/*")} == {"t-0.json", "t-1.json"}


def test_finished_partitions_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--data", str(e_mail_file(tmp_path, 600)), *TOY)
    first = played(tmp_path, *options)

    def refuse(*args: Any, **keywords: Any) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(one_shot, "cross_fit", refuse)
    assert played(tmp_path, *options)["estimates"] == first["estimates"]
    with pytest.raises(AssertionError, match="fitted again"):
        played(tmp_path, *options, "--reward", "visit", "--budgets", "0.5")


def difference(value: float, error: float, budget: float | None) -> dict[str, Any]:
    measured = {"difference": value, "difference_error": error}
    return {"against": "random mix", "budget": budget, **measured}


def test_medians_over_partitions_widen_by_their_spread() -> None:
    runs = [
        {"setting": {"learner": "network"}, "differences": [difference(v, 3.0, 1.0)]}
        for v in (6.0, 10.0, 14.0)
    ]
    (found,) = one_shot.over_partitions(runs, "differences", "difference")
    assert found["learner"] == "network"
    assert found["difference"] == 10.0
    assert found["difference_error"] == pytest.approx(5.0)  # median of 3^2 + (0, 4^2, 4^2), rooted
    assert (found["low"], found["high"]) == pytest.approx((10 - 9.8, 10 + 9.8))


def test_verdict_says_where_nothing_is_gained() -> None:
    rows = [
        difference(5.0, 1.0, 0.1),
        difference(0.5, 1.0, 0.2),
        difference(1e-16, 0.0, 0.25),
        difference(-5.0, 1.0, 0.3),
        difference(0.1, 1.0, None),
    ]
    runs = [{"setting": {"learner": "t"}, "differences": rows}]
    _, said = one_shot.verdict(one_shot.over_partitions(runs, "differences", "difference"), "visit")
    assert "mean over budgets +0.1 [-1.86, +2.06]" in said
    assert "better at 0.1; no difference shown at 0.2, 0.25; worse at 0.3." in said


def test_unknown_learner_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        one_shot.main(["--learners", "forest", "--out", str(tmp_path)])
    assert "--learners forest: allowed are t, network" in capsys.readouterr().err


def test_real_file(tmp_path: Path) -> None:
    if not (data_folder() / "hillstrom").exists():
        pytest.skip(f"no Hillstrom file in {data_folder()}: set MARKETING_DATA")
    summary = played(tmp_path, *TOY, "--seeds", "1")
    log = hillstrom()
    for arm, name in enumerate(ARMS):
        e = row(summary["estimates"], policy=name, estimator="hajek")
        assert e["value"] == pytest.approx(log.reward[log.action == arm].mean())
        assert e["cost"] == arm
    for budget in (0.3, 1.0):
        e = row(summary["estimates"], policy="allocator", budget=budget, estimator="doubly_robust")
        assert e["cost"] == pytest.approx(budget, abs=0.03)
        assert 0.10 < e["low"] < e["high"] < 0.19
