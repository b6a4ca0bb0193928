"""A randomised promotion that loses money if everyone gets it: how much to spend, and on whom.

Each promotion sent costs $0.15, each purchase brings $10. With s_i whether a policy sends, and t_i
whether the user had been sent the promotion by chance,

    NIR = sum_i s_i [ t_i (10 y_i - 0.15) - (1 - t_i) 10 y_i ]

is the task's net incremental revenue over the users whom the policy would send it to, half of whom
were controls. Beside it stand unbiased estimates of the net revenue over sending nothing, in $ per
1,000 users (`one_day/eom.py`).

A held-out part of the users is allocated by a model and at a budget that come from the others
alone: those are cut in halves, each half is allocated by a model of the other at every budget, and
the budget of largest doubly robust net revenue is taken. None at all is a candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from agents.common.one_day import eom
from agents.common.types import Array
from experiments.trials.crossfit import cross_fit, outcomes, parts, ranking
from experiments.trials.one_shot_logs import starbucks
from experiments.trials.one_shot_methods import Entry, policy_of, step_scores
from marketing_env import LoggedDataset

SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # of users; 0 sends nothing
THOUSAND = 1000

Row = dict[str, Any]


class Options(Protocol):
    @property
    def file(self) -> Path | None: ...
    @property
    def folds(self) -> int: ...


class Part(NamedTuple):
    """Held-out users, and those that a method may learn from."""

    test: Array  # (n,) bool
    train: LoggedDataset
    users: LoggedDataset
    outcomes: Array  # (m, 2, 2) cross-fitted predictions for the training users


def settings(o: Options) -> list[Row]:
    return [{"name": "net-revenue", "folds": o.folds}]


def run(o: Options, setting: Mapping[str, Any], entry: Entry, seed: int) -> Row:
    """One partition of the users; each part is held out once."""
    log, model = _log(o.file), _outcomes(o.file, o.folds, seed)
    held_out = _parts(o.file, o.folds, seed)
    probs, scores = np.empty((log.n_users, 2)), np.empty((log.n_users, 1))
    shares = []
    for f, part in enumerate(held_out):
        share = choose_share(part, entry, seed * o.folds + f)
        fitted = entry.fit(part.train, "starbucks", seed * o.folds + f)
        probs[part.test] = policy_of(fitted, part.users, share * _price(log))
        scores[part.test] = step_scores(fitted, part.users)
        shares.append(share)
    rows = [
        {"policy": name, **row}
        for name, p in (("allocator", probs), ("everyone", np.tile([0.0, 1.0], (len(probs), 1))))
        for row in net_revenue(log, p, model)
    ]
    return {"revenue": rows, "shares": shares, "metrics": ranking(scores, log)}


def choose_share(part: Part, entry: Entry, seed: int) -> float:
    """The share of users, of those tried, that earns the training users most."""
    budgets = [share * _price(part.train) for share in SHARES]
    found = cross_fit(part.train, entry, "starbucks", budgets, 2, seed)
    earned = [
        _net(part.train, probs, part.outcomes)["doubly_robust"].mean() for probs in found.policies
    ]
    return SHARES[int(np.argmax(earned))]


def net_revenue(log: LoggedDataset, probs: Array, model: Array) -> list[Row]:
    """$ over sending nothing: per 1,000 users by each estimator; and the task's sum (`task`)."""
    rows = []
    sent = float(probs[:, 1].mean())
    for estimator, per_user in _net(log, probs, model).items():
        (mean,), (error,) = eom.mean_and_error(per_user[:, None])
        row = {"net": float(THOUSAND * mean), "net_error": float(THOUSAND * error)}
        rows.append({"estimator": estimator, **row, "sent": sent})
    t, y, c = log.action[:, 0], log.reward[:, 0], log.cost[:, 0]
    counted = probs[:, 1] * (t * (y - c) - (1 - t.astype(float)) * y)
    row = {"net": float(counted.sum()), "net_error": float(counted.std() * len(t) ** 0.5)}
    return [*rows, {"estimator": "task", **row, "sent": sent}]


def _net(log: LoggedDataset, probs: Array, model: Array) -> dict[str, Array]:
    """(n,) terms of reward minus cost, minus those of sending nothing."""
    outcome = log.reward - log.cost
    nothing = np.tile([1.0, 0.0], (log.n_users, 1))
    net = (model[..., 0] - model[..., 1])[..., None]
    mine, idle = (
        eom.terms(p, log.action[:, 0], log.propensity[:, 0], outcome, net) for p in (probs, nothing)
    )
    return {name: (mine[name] - idle[name])[:, 0] for name in mine}


def _price(log: LoggedDataset) -> float:
    return float(log.meta["incentives"][1])


@lru_cache(maxsize=1)
def _log(file: Path | None) -> LoggedDataset:
    return starbucks(file)


@lru_cache(maxsize=1)
def _parts(file: Path | None, folds: int, seed: int) -> tuple[Part, ...]:
    log = _log(file)
    number = parts(log, folds, seed)
    found = []
    for f in range(folds):
        train = log.take(number != f)
        model = outcomes(train, "starbucks", 2, seed * folds + f)
        found.append(Part(number == f, train, log.take(number == f), model))
    return tuple(found)


@lru_cache(maxsize=1)
def _outcomes(file: Path | None, folds: int, seed: int) -> Array:
    return outcomes(_log(file), "starbucks", folds, seed)
