"""A randomised e-mail test with three arms: what an allocation of e-mails earns at five budgets.

Users are allocated by models that saw others (`trials/crossfit.py`), at budgets that are
shares of the cost of the cheapest arm for all. Value and cost are estimated in four ways
(`one_day/eom.py`). The doubly robust value is compared, user by user, with that of the
two-stage network at the same budget, and with random users getting the best mixture of arms at the
same cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from agents.common.games.game import solve_master
from agents.common.one_day import eom
from agents.common.types import Array
from experiments.trials.crossfit import CrossFit, cross_fit, outcomes, ranking
from experiments.trials.one_shot_logs import hillstrom
from experiments.trials.one_shot_methods import REFERENCE, Entry, arm_means, entries
from marketing_env import LoggedDataset

SHARES = (0.2, 0.4, 0.7, 1.0, 1.5)
RIVAL = "random mix"

Row = dict[str, Any]


class Options(Protocol):
    @property
    def file(self) -> Path | None: ...
    @property
    def reward(self) -> str: ...
    @property
    def folds(self) -> int: ...


class Partition(NamedTuple):
    """Which users, outcome and parts: what the methods of a run share."""

    file: Path | None
    reward: str
    folds: int
    seed: int


def settings(o: Options) -> list[Row]:
    return [{"name": o.reward, "reward": o.reward, "folds": o.folds}]


def run(o: Options, setting: Mapping[str, Any], entry: Entry, seed: int) -> Row:
    """One partition of the users."""
    partition = Partition(o.file, o.reward, o.folds, seed)
    log, model = _log(o.file, o.reward), _outcomes(partition)
    other = _reference(partition)
    fitted = other if entry.name == REFERENCE else _fitted(partition, entry)
    estimates, gaps = [], []
    for share, probs, rival in zip(SHARES, fitted.policies, other.policies, strict=True):
        found = _terms(log, probs, model)
        estimates += measured(found, log, probs, {"policy": "allocator", "share": share})
        mix = np.tile(_mixture(log, probs), (log.n_users, 1))
        rivals = [_terms(log, p, model)["doubly_robust"] for p in (rival, mix)]
        gaps.append([(found["doubly_robust"] - r)[:, 0] for r in rivals])
    for name, arm in zip(log.meta["actions"], np.eye(log.n_actions), strict=True):
        probs = np.tile(arm, (log.n_users, 1))
        found = _terms(log, probs, model)
        estimates += measured(found, log, probs, {"policy": name, "share": None})
    differences = differences_of(np.array(gaps), (REFERENCE, RIVAL))
    metrics = ranking(fitted.scores, log)
    return {"estimates": estimates, "differences": differences, "metrics": metrics}


def measured(found: Mapping[str, Array], log: LoggedDataset, probs: Array, names: Row) -> list[Row]:
    """Estimates by each estimator, and the spend, which the arms' unit costs tell exactly."""
    spend = float((probs @ arm_means(log)[:, 1]).mean())
    rows = []
    for estimator, per_user in found.items():
        mean, error = (x.tolist() for x in eom.mean_and_error(per_user))
        row = {"value": mean[0], "value_error": error[0], "cost": spend}
        row |= {"cost_estimate": mean[1], "cost_estimate_error": error[1]}
        rows.append({**names, "estimator": estimator, **row})
    return rows


def differences_of(gaps: Array, rivals: Sequence[str]) -> list[Row]:
    """Means of (B, R, n) differences paired by user, at each budget and over all of them."""
    rows = []
    for r, rival in enumerate(rivals):
        for share, gap in [*zip(SHARES, gaps[:, r], strict=True), (None, gaps[:, r].mean(axis=0))]:
            (mean,), (error,) = eom.mean_and_error(gap[:, None])
            row = {"difference": float(mean), "difference_error": float(error)}
            rows.append({"against": rival, "share": share, **row})
    return rows


def _terms(log: LoggedDataset, probs: Array, model: Array) -> dict[str, Array]:
    outcome = np.concatenate([log.reward, log.cost], axis=1)
    return eom.terms(probs, log.action[:, 0], log.propensity[:, 0], outcome, model)


def _mixture(log: LoggedDataset, probs: Array) -> Array:
    """(K,) the best mixture of arms, by their means, that costs as much as a policy."""
    arms = arm_means(log)
    spend = float((probs @ arms[:, 1]).mean())
    return np.asarray(solve_master(arms, np.array([spend])).weight)


@lru_cache(maxsize=1)
def _log(file: Path | None, reward: Any) -> LoggedDataset:
    return hillstrom(file, reward)


@lru_cache(maxsize=1)
def _outcomes(p: Partition) -> Array:
    return outcomes(_log(p.file, p.reward), "hillstrom", p.folds, p.seed)


@lru_cache(maxsize=1)
def _reference(p: Partition) -> CrossFit:
    (reference,) = entries([REFERENCE])
    return _fitted(p, reference)


def _fitted(p: Partition, entry: Entry) -> CrossFit:
    log = _log(p.file, p.reward)
    cheapest = arm_means(log)[1:, 1].min()
    budgets = [float(share * cheapest) for share in SHARES]
    return cross_fit(log, entry, "hillstrom", budgets, p.folds, p.seed)
