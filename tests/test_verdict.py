"""Who is compared with whom, and what counts as a win."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up import made_up

import agents
from experiments.reporting import report_page, verdict
from experiments.reporting.runs import Run, by_method
from experiments.reporting.statistics import Difference

OPTIONS = {"folds": 4, "risk": 0.1}


def seeds(method: str, *scores: float) -> list[Run]:
    return [made_up(method, seed, score) for seed, score in enumerate(scores)]


def duel(value: float, half: float) -> verdict.Duel:
    gap = Difference(np.array([value] * 2), np.array([half] * 2), 3, True)
    return verdict.Duel("s", "b", (0.1,), gap)


@pytest.mark.parametrize(
    ("value", "half", "expected"),
    [
        (2, 1, verdict.AHEAD), (2, 2, verdict.OPEN), (-2, 1, verdict.BEHIND), (-2, 3, verdict.OPEN),
        (9, np.nan, verdict.OPEN),
    ],
)  # fmt: skip
def test_only_an_interval_clear_of_zero_decides(value: float, half: float, expected: str) -> None:
    assert duel(value, half).outcome(0) == expected
    assert duel(value, half).wins == (expected == verdict.AHEAD)


def test_references_variants_and_methods_with_a_simulator_are_no_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [made_up(method) for method in ("oracle", "dfcl", "my_lab.thrifty", "online")]
    runs += [
        made_up("mixed_policy", config=OPTIONS),
        made_up("no folds", config={**OPTIONS, "folds": 1}),
    ]
    (tmp_path / "online.py").touch()  # a file of agents/ that is none of the learners
    monkeypatch.setattr(agents, "__path__", [str(tmp_path)])
    found = verdict.baselines(by_method(runs), "mixed_policy")
    assert found == ["dfcl", "my_lab.thrifty"]


def test_variants_are_no_baselines_beside_a_larger_family() -> None:
    runs = [made_up(f"d3rlpy_{name}", config={"algorithm": name}) for name in ("cql", "bcq")]
    runs += [made_up("mixed_policy", config=OPTIONS), made_up("brief", config=OPTIONS)]
    assert set(verdict.baselines(by_method(runs), "mixed_policy")) == {"d3rlpy_cql", "d3rlpy_bcq"}


def test_a_setting_without_the_main_method_has_no_duel() -> None:
    settings = {Path("a"): [made_up("mixed_policy"), made_up("dfcl")], Path("b"): [made_up("dfcl")]}
    assert [d.setting for d in verdict.duels(settings, "mixed_policy")] == ["a"]


def test_the_hardest_baseline_reaches_lowest() -> None:
    near, wide, far = duel(2, 1), duel(3, 2.5), duel(9, 1)
    assert verdict.hardest([far, near, wide], 0) is wide
    assert verdict.hardest([far, duel(0.4, np.nan), wide], 0).difference.value[0] == 0.4


def test_a_clean_sweep_is_said_and_so_is_its_lack() -> None:
    ours = seeds("mixed_policy", 90, 91, 92)
    clear = {Path("a"): [*ours, *seeds("dfcl", 70, 71, 72.5)]}
    found = report_page.verdict("main", clear)
    assert found is not None
    assert "at every budget in all 1 compared settings" in found.said
    assert (
        "Against 1 baseline, setting by setting and budget by budget, it is clearly ahead 2 times"
        in found.said
    )
    assert found.exceptions == []

    mixed = {
        Path("a"): [*ours, *seeds("dfcl", 70, 110, 92), *seeds("greedy_uplift", 95, 96.5, 97)],
        Path("lonely"): ours,
    }
    found = report_page.verdict("main", mixed)
    assert found is not None
    assert "Mixed policy beats every offline baseline at every budget in 0 of 1" in found.said
    assert found.said.endswith("clearly behind 2 times (greedy uplift 2).")
    assert [says.split(" (")[0] for says in found.exceptions] == [
        "a: behind greedy uplift at a budget of 10 %",
        "a: not clearly ahead of dfcl at a budget of 10 %",
        "not compared yet, for want of a baseline's results: lonely",
    ]
    assert report_page.verdict("main", {Path("a"): ours}) is None


def test_intervals_of_one_log_are_named() -> None:
    once = [made_up("mixed_policy", 1), made_up("dfcl", 1)]
    settings = {Path("a"): once, Path("b"): [*seeds("mixed_policy", 9, 8), *seeds("dfcl", 7, 6)]}
    said = verdict.said("it", verdict.duels(settings, "mixed_policy"))
    assert "1 of the 2 pairs of a setting and a baseline have one training seed" in said
    assert "training seed" not in verdict.said("it", verdict.duels(settings, "mixed_policy")[1:])
