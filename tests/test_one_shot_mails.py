"""The e-mail experiment on a made-up file of the same layout, and on the real one if present."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("torch")
pytest.importorskip("lightgbm")

from trial_files import e_mail_file  # noqa: E402

from experiments.real_logs import data_folder  # noqa: E402
from experiments.trials import one_shot_mails  # noqa: E402
from experiments.trials.one_shot_logs import ARMS, hillstrom  # noqa: E402
from experiments.trials.one_shot_mails import RIVAL, SHARES, run, settings  # noqa: E402
from experiments.trials.one_shot_methods import REFERENCE, Entry, arm_means  # noqa: E402

SMALL = {"learner": "t", "trees": 20, "leaves": 4, "min_leaf": 50}
ENTRY = Entry("greedy_uplift-t", "greedy_uplift", SMALL)


@dataclass(frozen=True)
class Options:
    file: Path | None
    reward: str = "visit"
    folds: int = 2


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The reference is the same kind of trees, grown on nothing but the women's e-mail's cost."""
    o = Options(e_mail_file(tmp_path_factory.mktemp("mails")))
    with pytest.MonkeyPatch.context() as patch:
        poor = Entry(REFERENCE, "greedy_uplift", {**SMALL, "trees": 1, "leaves": 2})
        patch.setattr(one_shot_mails, "entries", lambda names: [poor])
        return run(o, settings(o)[0], ENTRY, 0)


def row(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (found,) = (r for r in rows if all(r[k] == v for k, v in wanted.items()))
    return found


@pytest.mark.parametrize("estimator", ["ht", "hajek", "post_stratified", "doubly_robust"])
def test_value_at_a_budget_is_the_known_one(played: dict[str, Any], estimator: str) -> None:
    """Half of the users respond, and by half: 0.4 of the money for all buys 0.2 visits."""
    e = row(played["estimates"], policy="allocator", share=0.4, estimator=estimator)
    assert e["value"] == pytest.approx(0.3, abs=4 * e["value_error"])
    assert e["value_error"] < 0.02
    assert e["cost"] == pytest.approx(0.4, abs=0.03)
    assert e["cost_estimate"] == pytest.approx(e["cost"], abs=4 * e["cost_estimate_error"] + 0.01)


def test_every_arm_stands_beside_it(played: dict[str, Any]) -> None:
    for arm, (name, value) in enumerate(zip(ARMS, (0.1, 0.35, 0.2), strict=True)):
        e = row(played["estimates"], policy=name, estimator="hajek")
        assert e["share"] is None
        assert e["value"] == pytest.approx(value, abs=0.03)
        assert e["cost"] == arm


def test_differences_are_paired(played: dict[str, Any]) -> None:
    """The best mix of 0.4 for random users buys 0.4 x 0.25 visits, the allocator 0.2."""
    d = row(played["differences"], against=RIVAL, share=0.4)
    assert d["difference"] == pytest.approx(0.1, abs=4 * d["difference_error"])
    assert d["difference"] > 4 * d["difference_error"]
    for against in (RIVAL, REFERENCE):
        by_budget = [row(played["differences"], against=against, share=s) for s in SHARES]
        mean = row(played["differences"], against=against, share=None)
        assert mean["difference"] == pytest.approx(np.mean([r["difference"] for r in by_budget]))
        unpaired = max(e["value_error"] for e in played["estimates"]) * 2**0.5
        assert mean["difference_error"] < unpaired


def test_metrics_know_the_responders(played: dict[str, Any]) -> None:
    assert played["metrics"]["qini_1"] > 0.2
    assert abs(played["metrics"]["qini_2"]) < 0.2  # men's e-mail works alike for everyone


def test_reference_against_itself_is_nothing(tmp_path: Path) -> None:
    o = Options(e_mail_file(tmp_path, 900))
    with pytest.MonkeyPatch.context() as patch:
        same = Entry(REFERENCE, "greedy_uplift", SMALL)
        patch.setattr(one_shot_mails, "entries", lambda names: [same])
        found = run(o, settings(o)[0], same, 0)
    own = [r for r in found["differences"] if r["against"] == REFERENCE]
    assert all(r["difference"] == r["difference_error"] == 0 for r in own)


def test_real_file() -> None:
    if not (data_folder() / "hillstrom").exists():
        pytest.skip(f"no Hillstrom file in {data_folder()}: set MARKETING_DATA")
    log = hillstrom()
    for arm in range(3):
        probs = np.tile(np.eye(3)[arm], (log.n_users, 1))
        found = one_shot_mails._terms(log, probs, np.zeros((log.n_users, 3, 2)))
        rows = {r["estimator"]: r for r in one_shot_mails.measured(found, log, probs, {})}
        assert rows["hajek"]["value"] == pytest.approx(arm_means(log)[arm, 0])
        assert rows["hajek"]["cost"] == rows["post_stratified"]["cost_estimate"] == arm
