"""What policies are worth: the same fresh users for all, and their exact optimum beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from agents import Model
from agents.oracle import Oracle, TablePolicy
from experiments.campaigns import budgets, campaign
from experiments.results import write_json
from experiments.settings import Setting
from marketing_env import (
    ConstantPolicy,
    Evaluation,
    MixedPolicy,
    Optimum,
    Policy,
    dynamics,
    evaluate,
    optimum,
    sample_users,
    score,
)
from marketing_env.evaluate import Reference
from marketing_env.rollout import days
from marketing_env.users import Users, concatenate

_STATES = ("engagement", "recency", "fatigue")


class Shown(NamedTuple):
    """One campaign of a policy."""

    cost: np.ndarray  # (T,) of a day, per user
    reward: np.ndarray  # (T,)
    given: Mapping[str, Mapping[float, np.ndarray]]  # by state and level: user-days, incentives


class _Told:
    """A plan that remembers what it is expected to earn with each population that it meets."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle, self.expected = oracle, list[float]()

    def for_users(self, users: Users) -> TablePolicy:
        made = self.oracle.for_users(users)
        self.expected.append(made.expected)
        return made

    def gain(self, idle: np.ndarray) -> np.ndarray:
        """(populations,) over what they earn without incentives."""
        return np.array(self.expected) - idle


class Judge:
    """Evaluates policies of one setting on the same fresh users, beside their exact optimum.

    A mixture is worth the weighted mean of its parts: each of them is simulated on all users, so
    that neither chance, who follows which part, nor another mixture of the same parts costs more.

    Args:
        truth: file that keeps the exact optimum, which takes minutes, for the next judge.
    """

    def __init__(self, setting: Setting, progress: bool = True, truth: Path | None = None) -> None:
        self.setting, self.config = setting, campaign(setting)
        self.budgets = budgets(setting)
        self.bar = tqdm(desc="judging", unit="campaign", disable=None if progress else True)
        # What is known of parts of mixtures, by id; kept with them, so that no other gets the id.
        self.known: dict[int, tuple[Policy, Evaluation, Shown]] = {}
        self.idle = self.evaluate(ConstantPolicy(0, self.config.n_actions))
        self.best = self._optimum(truth)

    def planned(self, model: Model) -> Model:
        """The model, planned for the judged users by what is seen of them on the first day.

        A model without `for_users` plans every morning, or for the users of its log.
        """
        if not hasattr(model, "for_users"):
            return model
        users = self.users
        return model.for_users(dynamics.observe(self.config, users, users.start, 0))

    @property
    def users(self) -> Users:
        """All populations, one after another."""
        s = self.setting
        return concatenate([sample_users(self.config, s.test_users, i) for i in s.test_seeds])

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
        """Under a hard limit parts of a mixture compete for the same money: it is served whole."""
        if budget == np.inf and isinstance(policy, MixedPolicy):
            return averaged([self.part(part)[0] for part in policy.policies], policy.weights)
        return self._simulated(policy, budget)

    def part(self, policy: Policy) -> tuple[Evaluation, Shown]:
        """What a part of a mixture is worth and does, simulated once for all mixtures."""
        if id(policy) not in self.known:
            self.known[id(policy)] = policy, self._simulated(policy), self.shown(policy)
        return self.known[id(policy)][1:]

    def shown(self, policy: Policy | Reference) -> Shown:
        """One campaign of the first population in detail."""
        config, seed = self.config, self.setting.test_seeds[0]
        users = sample_users(config, self.setting.test_users, seed)
        acting = policy.for_users(users) if isinstance(policy, Reference) else policy
        run_days = list(days(acting, config, users, seed))
        column = config.n_features
        given = np.concatenate([config.doses[d.action] for d in run_days])
        states = np.concatenate([d.view.obs[:, column : column + 3] for d in run_days])
        return Shown(
            cost=np.array([d.cost.mean() for d in run_days]),
            reward=np.array([d.reward.mean() for d in run_days]),
            given={name: _by_level(states[:, i], given) for i, name in enumerate(_STATES)},
        )

    def _simulated(self, policy: Policy | Reference, budget: float = np.inf) -> Evaluation:
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
        plan = _Told(policy) if isinstance(policy, Oracle) else None
        free = self.evaluate(plan or policy)
        value, error = score(free, self.idle, self.best, i)
        gain = free.reward - self.idle.reward
        matched = min(1.0, budget / max(float(free.cost.mean()), 1e-300))
        return {
            "budget": budget,
            "budget_share": self.setting.budget_shares[i],
            "score": value,
            "score_error": error,
            "gain": float(gain.mean()),
            "best_gain": float(self.best.gain[:, i].mean()),
            "reward": float(free.reward.mean()),
            "reward_error": free.reward_error,
            "cost": float(free.cost.mean()),
            "spend_share": float(free.cost.mean()) / budget,
            "spend_share_error": free.cost_error / budget,
            # By population, at matched spend: differences between methods are paired by them.
            "gains": _rounded(matched * gain),
            "best_gains": _rounded(self.best.gain[:, i]),
            # What a plan gains more than is expected of it.
            **({"luck": _rounded(gain - plan.gain(self.best.idle))} if plan else {}),
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


def _by_level(level: np.ndarray, given: np.ndarray) -> dict[float, np.ndarray]:
    """Number of user-days and sum of incentives at each level of a state."""
    values, at = np.unique(level, return_inverse=True)
    sums = np.stack([np.bincount(at), np.bincount(at, given)], axis=1)
    return dict(zip(values.tolist(), sums, strict=True))


def averaged(parts: Sequence[Evaluation], weights: np.ndarray) -> Evaluation:
    """Expected values of a mixture over who follows which of its parts."""
    reward, cost, contacts, refused = (
        weights @ np.stack([getattr(part, name) for part in parts])
        for name in ("reward", "cost", "contacts", "refused")
    )
    return Evaluation(reward, cost, contacts, refused, parts[0].seeds)


def example(judge: Judge, policy: Policy | Reference) -> dict[str, Any]:
    """Spend by day, and the mean incentive in each state, of the first population's campaign."""
    if isinstance(policy, MixedPolicy):
        parts, weights = [judge.part(part)[1] for part in policy.policies], policy.weights
    else:
        parts, weights = [judge.shown(policy)], np.ones(1)
    return {
        "cost_by_day": (weights @ np.stack([part.cost for part in parts])).tolist(),
        "reward_by_day": (weights @ np.stack([part.reward for part in parts])).tolist(),
        "incentive_by_state": {
            name: _means(weights, [part.given[name] for part in parts]) for name in _STATES
        },
    }


def _rounded(values: np.ndarray) -> list[float]:
    """Six digits: more than the luck of a population leaves, and small on disk."""
    return [float(f"{value:.6g}") for value in values]


def _means(weights: np.ndarray, parts: Sequence[Mapping[float, np.ndarray]]) -> dict[str, float]:
    """Mean incentive at each level of a state, by the level's value in [0, 1]."""
    levels = sorted(set().union(*parts))
    totals = {
        v: sum(w * part[v] for w, part in zip(weights, parts, strict=True) if v in part)
        for v in levels
    }
    return {f"{v:.3f}": float(total[1] / total[0]) for v, total in totals.items()}
