"""One run: log a campaign, learn from the log alone, hold the policies against the optimum."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from agents import Model
from agents.common.files import check_folder, describe
from experiments.campaigns import behaviour, campaign, collect
from experiments.curves import Curves
from experiments.judging import Judge, example
from experiments.memory import forget_peak, peak_memory
from experiments.methods import method
from experiments.references import reference
from experiments.reporting.runs import REFERENCES
from experiments.results import provenance, write_json
from experiments.settings import Setting
from experiments.sharing import Effort, Oracles
from marketing_env import CampaignConfig, LoggedDataset, Policy

Estimates = Callable[[Sequence[Policy]], Sequence[Mapping[str, Any]]]
"""From the policies of all budgets to what a log alone says of each, by estimator."""
_FEW = 4  # populations that choose the prices of plans


def train(
    name: str,
    log: LoggedDataset | CampaignConfig,
    config: Mapping[str, Any],
    seed: int,
    folder: Path,
    oracles: Oracles | None = None,
) -> tuple[Model, Effort]:
    """Fit a method, write its learning curves and its model; returns what fitting took.

    Args:
        log: what it learns from; the campaign itself if it needs the simulator.
        oracles: best responses learned from the log before, by other methods.
    """
    torch.set_num_threads(1)
    place = check_folder(folder / "model")
    with Curves(folder) as track:
        model, effort = (oracles or Oracles()).fit(name, log, config, seed, track)
    model.save(place)
    known = isinstance(log, LoggedDataset) and log.meta.get("columns")
    if known and (place / "model.json").exists():  # a method of one's own may keep what it likes
        describe(place, columns=known)
    return model, effort


def run(
    setting: Setting,
    name: str,
    seed: int,
    out: Path,
    *,
    config: Mapping[str, Any] | None = None,
    log: LoggedDataset | None = None,
    judge: Judge | None = None,
    row: str | None = None,
    oracles: Oracles | None = None,
    estimates: Estimates | None = None,
) -> dict[str, Any]:
    """Train one method on one log and judge it at every budget; writes `out`.json.

    Args:
        row: name of the row that the result is for, if it is not the method's own.
        oracles: best responses learned from the log before, by other methods.
        estimates: also judges the policies from a log alone (`off_policy.py`).
    """
    folder = out.with_suffix("")
    log = collect(setting, seed) if log is None else log
    forget_peak()
    online = getattr(method(name), "NEEDS_SIMULATOR", False)
    source = campaign(setting) if online else log
    model, effort = train(name, source, config or {}, seed, folder, oracles)
    memory, judge = peak_memory(), judge or Judge(setting)
    start = time.perf_counter()
    rows = judged(model, judge, estimates)
    result = {
        "setting": asdict(setting),
        "method": row or name,
        "config": asdict(method(name).Config(**(config or {}))),
        "seed": seed,
        "rows": rows,
        "log": {"users": log.n_users, "reward": log.value, "cost": log.spend},
        **asdict(effort),
        "judge_seconds": time.perf_counter() - start,
        "memory": memory,
        **provenance(),
    }  # fmt: skip
    write_json(out, result)
    return result


def judged(model: Model, judge: Judge, estimates: Estimates | None) -> list[dict[str, Any]]:
    """A row for every budget: what the policy is worth, what was forecast, what it does."""
    model = judge.planned(model)
    policies, rows = [model.policy(budget) for budget in judge.budgets], []
    for i, policy in enumerate(policies):
        believed = model.forecast(judge.budgets[i])
        found = judge.row(i, policy)
        found["forecast"] = {**asdict(believed), "gap": believed.gap, "safe": believed.safe}
        found["policies"] = len(believed.weights) or 1
        rows.append(found | example(judge, policy))
    if estimates is not None:
        for row, told in zip(rows, estimates(policies), strict=True):
            row["replay"] = told
    return rows


def references(
    setting: Setting, out: Path, progress: bool = True, only: Sequence[str] = REFERENCES
) -> list[dict[str, Any]]:
    """What methods are held against (`references.py`), judged like a method.

    The optimum meets every population, for its luck there tells what methods owe to theirs
    (`reporting/luck.py`). The others meet the first few, and these choose every plan's prices:
    plans are solved for each user.
    """
    whole, rest = (tuple(n for n in only if (n == "oracle") == w) for w in (True, False))
    results = []
    if whole:
        judge = Judge(setting, progress, out / "truth.json")
        results += [_reference(name, judge, out) for name in whole]
    if rest:
        judge = Judge(replace(setting, test_seeds=setting.test_seeds[:_FEW]), progress)
        results += [_reference(name, judge, out) for name in rest]
    return results


def _reference(name: str, judge: Judge, out: Path) -> dict[str, Any]:
    setting, users = judge.setting, judge.users.take(slice(0, _FEW * judge.setting.test_users))
    policies = reference(name, judge.config, judge.budgets, logging=behaviour(setting), users=users)
    rows = [judge.row(i, p) | example(judge, p) for i, p in enumerate(policies)]
    result = {
        "setting": asdict(setting), "method": name, "config": {}, "seed": 0, "rows": rows,
        "seconds": 0.0, **provenance(),
    }  # fmt: skip
    write_json(out / f"{name}.json", result)
    return result
