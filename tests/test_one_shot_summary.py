"""Summaries, sentences and tables of made-up runs whose answers are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from experiments.trials import one_shot_report
from experiments.trials.one_shot_methods import REFERENCE, kind
from experiments.trials.one_shot_summary import (
    best_against_best,
    contrast,
    contrasts,
    failures,
    frame_of,
    interval,
    metrics,
    over_partitions,
    regrets,
)
from experiments.trials.one_shot_verdict import verdict

SHARES = (0.1, 0.4)
MADE_BY = {"command": "python -m experiments.one_shot", "commit": "abc"}


def trial_run(
    method: str, seed: int, noise: float, regret: float, users: int = 100
) -> dict[str, Any]:
    """Regret in the same world; a shift adds 10."""
    about = {
        "name": f"noise-{noise:g}-users-{users}", "noise": noise, "users_per_arm": users,
        "method": method, "kind": kind(method), "seed": seed,
    }  # fmt: skip
    rows = [
        {"shift": shift, "share": share, "regret": regret + 10 * shift, "spend": 1.0,
         "regret_equal": regret / 2, "regret_hindsight": regret + 20, "mt_aucc": 0.6}
        for shift in (False, True) for share in SHARES
    ]  # fmt: skip
    return {"about": about, "budgets": rows}


def trial_runs(seeds: int = 8) -> list[dict[str, Any]]:
    """dfcl-ifd gains 2 at noise 5, nothing at noise 10; the seeds' worlds differ by far more."""
    runs = []
    for seed in range(seeds):
        world = 30.0 * seed
        for noise, gain in ((5.0, 2.0), (10.0, 0.0)):
            luck = 0.5 * (-1) ** seed * (noise == 10)
            runs += [
                trial_run(REFERENCE, seed, noise, world + 10),
                trial_run("dfcl-ifd", seed, noise, world + 10 - gain + luck),
                trial_run("greedy_uplift-t", seed, noise, world + 7),
                trial_run("mixed_policy", seed, noise, world + 12),
            ]
    return runs


def test_regrets_are_paired_by_seed() -> None:
    rows = regrets(frame_of(trial_runs()))
    assert len(rows) == 2 * 2 * 4
    (row,) = (r for r in rows if (r["method"], r["noise"], r["shift"]) == ("dfcl-ifd", 5.0, True))
    assert row["mean"] == row["centre"] == pytest.approx(30 * 3.5 + 18)
    assert row["regret"] == pytest.approx([row["mean"]] * 2)
    assert row["centre_high"] - row["centre_low"] > 50  # worlds differ
    assert (row["difference"], row["difference_low"], row["difference_high"]) == pytest.approx(
        (-2, -2, -2)
    )
    assert rows[0]["method"] == "greedy_uplift-t"  # the least regret first


def test_one_odd_world_decides_nothing() -> None:
    runs = [trial_run(REFERENCE, seed, 5.0, 10.0) for seed in range(20)]
    runs += [trial_run("dfcl-ifd", seed, 5.0, 9.0 if seed else 900.0) for seed in range(20)]
    frame = frame_of(runs)
    (row,) = (r for r in regrets(frame) if r["method"] == "dfcl-ifd" and not r["shift"])
    assert row["mean"] == pytest.approx((900 + 19 * 9) / 20)
    assert (row["centre"], row["difference"]) == pytest.approx((9, -1))
    assert row["difference_high"] < 0
    assert contrast(frame, ["dfcl-ifd"], [REFERENCE])["difference"] == pytest.approx(-1)


def test_contrasts_by_noise_and_shift() -> None:
    rows = contrasts(frame_of(trial_runs()))
    found = {(r["by"], r["value"], r["measure"]): r for r in rows}
    assert found["all", "", "regret"]["difference"] == pytest.approx(-1)
    assert found["all", "", "regret"]["seeds"] == 8
    assert found["noise", 5.0, "regret"]["high"] == pytest.approx(-2)
    clueless = found["noise", 10.0, "regret"]
    assert clueless["low"] < 0 < clueless["high"]
    assert found["all", "", "regret_equal"]["difference"] == pytest.approx(-0.5)
    for shift in (False, True):
        assert found["shift", shift, "regret"]["difference"] == pytest.approx(-1)
    assert {value for by, value, _ in found if by == "users_per_arm"} == {100}


def test_unfinished_seeds_are_left_out_of_contrasts() -> None:
    for method in (REFERENCE, "dfcl-ifd"):
        frame = frame_of([*trial_runs(), trial_run(method, 8, 5.0, 900.0)])
        found = contrast(frame, ["dfcl-ifd"], [REFERENCE])
        assert (found["seeds"], found["difference"]) == (8, pytest.approx(-1))


def test_best_against_best() -> None:
    found = best_against_best(frame_of(trial_runs()))
    assert found is not None
    assert (found["method"], found["against"]) == ("dfcl-ifd", "greedy_uplift-t")
    assert found["difference"] == pytest.approx(2)


def test_interval_of_few_and_of_many() -> None:
    assert all(math.isnan(end) for end in (*interval([3.0]), *interval([1.0, 2.0, 3.0, 4.0])))
    values = np.random.default_rng(0).normal(5, 2, 100)
    low, high = interval(values)
    assert (low, high) == pytest.approx((values.mean() - 0.39, values.mean() + 0.39), abs=0.1)


def difference(value: float, error: float, share: float | None) -> dict[str, Any]:
    measured = {"difference": value, "difference_error": error}
    return {"against": "random mix", "share": share, **measured}


def mail_runs(*rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"about": {"name": "visit", "method": "cluster", "kind": "other", "seed": seed},
         "differences": some}
        for seed, some in enumerate(rows)
    ]  # fmt: skip


def test_medians_over_partitions_widen_by_their_spread() -> None:
    runs = mail_runs(*([difference(v, 3.0, 1.0)] for v in (6.0, 10.0, 14.0)))
    (found,) = over_partitions(runs, "differences", "difference")
    assert (found["method"], found["difference"]) == ("cluster", 10.0)
    assert found["difference_error"] == pytest.approx(5.0)  # median of 3^2 + (0, 4^2, 4^2), rooted
    assert (found["low"], found["high"]) == pytest.approx((10 - 9.8, 10 + 9.8))


def test_verdict_says_where_nothing_is_gained() -> None:
    rows = [
        difference(5.0, 1.0, 0.1), difference(0.5, 1.0, 0.2), difference(1e-16, 0.0, 0.25),
        difference(-5.0, 1.0, 0.3), difference(0.1, 1.0, None),
    ]  # fmt: skip
    tables = {"differences": over_partitions(mail_runs(rows), "differences", "difference")}
    (said,) = verdict("hillstrom", tables)
    assert "`cluster` against random mix, visit per user: +0.1" in said
    assert "better at 0.1, worse at 0.3 of 4." in said


def test_verdict_of_regrets_follows_the_numbers() -> None:
    frame = frame_of(trial_runs())
    tables = {"regrets": regrets(frame), "contrasts": contrasts(frame)}
    said = " ".join(verdict("lbcf", {**tables, "best": best_against_best(frame)}))
    assert "-1.0 [-1.2, -0.8] points of regret over 8 seeds; they beat it." in said
    assert "Less regret shown at noise 5; more at none." in said
    assert "`dfcl-ifd` has less regret than `two_stage` in 2 of 4 settings" in said
    assert "`greedy_uplift-t` (both chosen by these numbers): +2.0" in said
    assert "the second is better" in said
    worse = frame_of(trial_runs()).assign(regret=lambda f: -f["regret"])
    tables = {"regrets": regrets(worse), "contrasts": contrasts(worse)}
    assert "it beats them" in " ".join(verdict("lbcf", {**tables, "best": None}))


def test_metrics_against_the_reference() -> None:
    runs = [
        {"about": {"name": "s", "method": m, "kind": kind(m), "seed": seed},
         "metrics": {"aucc": 0.5 + 0.1 * seed + (0.02 if m == "dfcl-dr" else 0)}}
        for m in (REFERENCE, "dfcl-dr") for seed in range(5)
    ]  # fmt: skip
    mine = next(r for r in metrics(runs) if r["method"] == "dfcl-dr")
    assert mine["value"] == pytest.approx(0.72)
    assert mine["sd"] == pytest.approx(np.std(0.1 * np.arange(5), ddof=1))
    assert (mine["difference_low"], mine["difference_high"]) == pytest.approx((0.02, 0.02))
    (first, second) = verdict("criteo", {"metrics": metrics(runs)})
    assert first.startswith("s: `dfcl-dr` AUCC 0.7200")
    assert "+0.0000 [+0.0000, +0.0000]" in second


def test_refusals_are_listed_once() -> None:
    about = {"name": "noise-5", "method": "dpm", "seed": 0}
    runs = [{"about": {**about, "seed": s}, "error": "cost of arm 2"} for s in range(3)]
    assert failures(runs) == [{"setting": "noise-5", "method": "dpm", "error": "cost of arm 2"}]


@pytest.mark.parametrize("data", ["lbcf", "lbcf-linear"])
def test_report_holds_tables_verdict_and_figures(tmp_path: Path, data: str) -> None:
    folder = tmp_path / data
    failed = {"about": {**trial_run("dfcl-dr", 0, 5.0, 0)["about"]}, "error": "no such thing"}
    for run in [*trial_runs(5), failed]:
        about = run["about"]
        file = folder / "runs" / about["name"] / f"{about['method']}-{about['seed']}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(run))
    text = one_shot_report.write(folder, MADE_BY)
    assert (folder / "one_shot.md").read_text() == text
    assert text.startswith(f"# {one_shot_report.TITLES[data]}\n\n- ")
    assert "## Noise 5, 100 users an arm, tested in another world: regret, %" in text
    assert "| `dfcl-ifd` | decision-focused | 5 | 68.0 | 68.0 | 68.0 [" in text
    assert "`dfcl-dr`: no such thing" in text
    assert text.rstrip().endswith(
        "\n\n41 runs; summarised by `python -m experiments.one_shot` at commit `abc`."
    )
    summary = json.loads((folder / "one_shot.json").read_text())
    assert summary["verdict"]
    assert len(summary["regrets"]) == 16
    for name in ("regret", "decision_focused"):
        assert (folder / f"{name}.png").stat().st_size > 5000
        assert (folder / f"{name}.svg").exists()


def test_report_of_nothing_is_empty(tmp_path: Path) -> None:
    for data in one_shot_report.TITLES:
        assert "0 runs" in one_shot_report.write(tmp_path / data, MADE_BY)
