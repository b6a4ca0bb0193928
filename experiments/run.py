"""One run: log a campaign, learn from the log alone, hold the policies against the optimum."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from agents import Model
from agents.oracle import oracles
from experiments.curves import Curves
from experiments.methods import method
from experiments.results import provenance, write_json
from experiments.settings import Setting
from marketing_env import (
    CampaignConfig,
    ConstantPolicy,
    Evaluation,
    LoggedDataset,
    MixedPolicy,
    Optimum,
    Policy,
    ProductionPolicy,
    RandomPolicy,
    evaluate,
    optimum,
    plan,
    preset,
    rollout,
    sample_users,
    score,
)
from marketing_env.evaluate import Reference
from marketing_env.rollout import days
from marketing_env.users import concatenate


def campaign(setting: Setting) -> CampaignConfig:
    return preset(setting.preset, **setting.overrides)


def behaviour(setting: Setting) -> Policy:
    """The policy that collects the setting's log."""
    config = campaign(setting)
    random = RandomPolicy(config.n_actions)
    production = ProductionPolicy(config, setting.epsilon)
    policies: dict[str, Policy] = {
        "random": random,
        "production": production,
        "mixture": MixedPolicy([random, production], [0.5, 0.5]),
    }
    return policies[setting.behaviour]


def collect(setting: Setting, seed: int) -> LoggedDataset:
    """The log of a setting; seeds of logs and of evaluations never meet."""
    return rollout(behaviour(setting), campaign(setting), setting.log_users, seed=seed)


def budgets(setting: Setting) -> tuple[float, ...]:
    """The setting's budgets in currency per user: shares of the unconstrained optimum's spend."""
    config = campaign(setting)
    top = float(plan(config, sample_users(config, 500, seed=900), 0.0).cost.mean())
    return tuple(share * top for share in setting.budget_shares)


class Judge:
    """Evaluates policies of one setting on the same fresh users, beside their exact optimum.

    Args:
        truth: file that keeps the exact optimum, which takes minutes, for the next judge.
    """

    def __init__(self, setting: Setting, progress: bool = True, truth: Path | None = None) -> None:
        self.setting, self.config = setting, campaign(setting)
        self.budgets = budgets(setting)
        self.bar = tqdm(desc="judging", unit="campaign", disable=None if progress else True)
        self.idle = self.evaluate(ConstantPolicy(0, self.config.n_actions))
        self.best = self._optimum(truth)

    def _optimum(self, truth: Path | None) -> Optimum:
        s = self.setting
        asked: Any = {
            "campaign": asdict(self.config), "budgets": self.budgets,
            "users": s.test_users, "seeds": s.test_seeds,
        }  # fmt: skip
        asked = json.loads(json.dumps(asked))
        if truth is not None and truth.exists():
            kept = json.loads(truth.read_text())
            if kept["asked"] == asked:
                return Optimum(*(np.array(kept[name]) for name in ("budget", "best", "idle")))
        best = optimum(self.config, self.budgets, n_users=s.test_users, seeds=s.test_seeds)
        if truth is not None:
            arrays = {name: value.tolist() for name, value in asdict(best).items()}
            write_json(truth, {"asked": asked, **arrays})
        return best

    def evaluate(self, policy: Policy | Reference, budget: float = np.inf) -> Evaluation:
        s = self.setting
        found = evaluate(
            policy, self.config, n_users=s.test_users, seeds=s.test_seeds, budget=budget,
            repeats=s.repeats,
        )  # fmt: skip
        self.bar.update()
        return found

    def row(self, i: int, policy: Policy | Reference) -> dict[str, Any]:
        """What the policy for budget `i` is worth, without and with the hard limit."""
        budget = self.budgets[i]
        free = self.evaluate(policy)
        value, error = score(free, self.idle, self.best, i)
        return {
            "budget": budget,
            "budget_share": self.setting.budget_shares[i],
            "score": value,
            "score_error": error,
            "gain": float((free.reward - self.idle.reward).mean()),
            "best_gain": float(self.best.gain[:, i].mean()),
            "reward": float(free.reward.mean()),
            "cost": float(free.cost.mean()),
            "spend_share": float(free.cost.mean()) / budget,
            "spend_share_error": free.cost_error / budget,
            **(self.held(i, policy) if self.setting.hard_limit else {}),
        }

    def held(self, i: int, policy: Policy | Reference) -> dict[str, Any]:
        """What it is worth if the simulator enforces the budget."""
        budget = self.budgets[i]
        found = self.evaluate(policy, budget)
        value, error = score(found, self.idle, self.best, i)
        return {
            "score_hard_limit": value,
            "score_hard_limit_error": error,
            "spend_share_hard_limit": float(found.cost.mean()) / budget,
            "refused_share": float(found.refused.mean()),
        }


def train(
    name: str,
    log: LoggedDataset,
    config: Mapping[str, Any],
    seed: int,
    folder: Path,
) -> tuple[Model, float]:
    """Fit a method, write its learning curves and its model; returns the seconds of fitting."""
    module = method(name)
    torch.set_num_threads(1)
    with Curves(folder) as track:
        start = time.perf_counter()
        model: Model = module.fit(log, module.Config(**config), seed, track=track)
        seconds = time.perf_counter() - start
    model.save(folder / "model")
    return model, seconds


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
) -> dict[str, Any]:
    """Train one method on one log and judge it at every budget; writes `out`.json.

    Args:
        row: name of the row that the result is for, if it is not the method's own.
    """
    folder = out.with_suffix("")
    log = collect(setting, seed) if log is None else log
    model, seconds = train(name, log, config or {}, seed, folder)
    judge = judge or Judge(setting)
    rows = []
    for i, budget in enumerate(judge.budgets):
        policy, believed = model.policy(budget), model.forecast(budget)
        found = judge.row(i, policy)
        found["forecast"] = {**asdict(believed), "gap": believed.gap, "safe": believed.safe}
        found["policies"] = len(believed.weights) or 1
        found.update(example(judge, policy))
        rows.append(found)
    result = {
        "setting": asdict(setting),
        "method": row or name,
        "config": asdict(method(name).Config(**(config or {}))),
        "seed": seed,
        "rows": rows,
        "log": {"users": log.n_users, "reward": log.value, "cost": log.spend},
        "seconds": seconds,
        **provenance(),
    }  # fmt: skip
    write_json(out, result)
    return result


def references(setting: Setting, out: Path, progress: bool = True) -> list[dict[str, Any]]:
    """The exact optimum and the myopic policy with perfect knowledge, judged like a method.

    On the first populations only: their plans are solved for every user.
    """
    judge = Judge(replace(setting, test_seeds=setting.test_seeds[:4]), progress)
    shown = judge.setting
    users = [sample_users(judge.config, shown.test_users, seed) for seed in shown.test_seeds]
    results = []
    for name, foresight in (("oracle", 1.0), ("perfect_myopic", 0.0)):
        policies = oracles(judge.config, judge.budgets, concatenate(users), foresight)
        rows = [judge.row(i, p) | example(judge, p) for i, p in enumerate(policies)]
        result = {
            "setting": asdict(judge.setting), "method": name, "config": {}, "seed": 0, "rows": rows,
            "seconds": 0.0, **provenance(),
        }  # fmt: skip
        write_json(out / f"{name}.json", result)
        results.append(result)
    return results


def example(judge: Judge, policy: Policy | Reference) -> dict[str, Any]:
    """One campaign in detail: spend by day, and the mean incentive in each state."""
    config = judge.config
    users = sample_users(config, judge.setting.test_users, judge.setting.test_seeds[0])
    acting = policy.for_users(users) if isinstance(policy, Reference) else policy
    run_days = list(days(acting, config, users, judge.setting.test_seeds[0]))
    column = config.n_features
    given = np.concatenate([config.doses[d.action] for d in run_days])
    states = np.concatenate([d.view.obs[:, column : column + 3] for d in run_days])
    return {
        "cost_by_day": [float(d.cost.mean()) for d in run_days],
        "reward_by_day": [float(d.reward.mean()) for d in run_days],
        "incentive_by_state": {
            name: _means(states[:, i], given)
            for i, name in enumerate(("engagement", "recency", "fatigue"))
        },
    }


def _means(level: np.ndarray, given: np.ndarray) -> dict[str, float]:
    """Mean incentive at each level of a state, by the level's value in [0, 1]."""
    values = np.unique(level)
    return {f"{v:.3f}": float(given[level == v].mean()) for v in values}
