"""Cross-fitted one-shot policies: every user is allocated by a model that saw others.

Users of a randomised one-day log are cut into parts. For each part a method learns from all others
and allocates the part's users, an audience whose outcomes it never sees. So do the predictions of
the doubly robust estimates, which are the same for all methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from agents.common.one_day.daily import DailyModel
from agents.common.one_day.uplift_metrics import mt_aucc, qini
from agents.common.types import Array
from experiments.trials.one_shot_methods import Entry, policy_of, step_scores
from marketing_env import LoggedDataset

OUTCOMES = Entry("outcomes", "greedy_uplift", {"learner": "t", "folds": 1})  # of the estimates


class CrossFit(NamedTuple):
    """What a method does with users it did not learn from."""

    policies: tuple[Array, ...]  # (n, K) probabilities at each budget
    scores: Array  # (n, K - 1) order of the steps from arm to arm


def parts(log: LoggedDataset, folds: int, seed: int) -> Array:
    """(n,) the part of each user.

    Raises:
        ValueError: if the log has more than one day, or there are fewer than two parts.
    """
    if log.horizon != 1 or not 2 <= folds <= log.n_users:
        raise ValueError(
            f"horizon = {log.horizon}, folds = {folds}: allowed are 1, and 2 to {log.n_users}"
        )
    return np.asarray(np.random.default_rng([seed, 11]).permutation(log.n_users) % folds)


def cross_fit(
    log: LoggedDataset, entry: Entry, data: str, budgets: Sequence[float], folds: int, seed: int
) -> CrossFit:
    """Allocate every user at every budget (currency per user)."""
    part = parts(log, folds, seed)
    policies = tuple(np.empty((log.n_users, log.n_actions)) for _ in budgets)
    scores = np.empty((log.n_users, log.n_actions - 1))
    for f in range(folds):
        test = part == f
        model, users = entry.fit(log.take(~test), data, seed * folds + f), log.take(test)
        scores[test] = step_scores(model, users)
        for probs, budget in zip(policies, budgets, strict=True):
            probs[test] = policy_of(model, users, budget)
    return CrossFit(policies, scores)


def outcomes(log: LoggedDataset, data: str, folds: int, seed: int) -> Array:
    """(n, K, 2) reward and cost of every arm, by regressions that did not see the user."""
    part = parts(log, folds, seed)
    predicted = np.empty((log.n_users, log.n_actions, 2))
    for f in range(folds):
        model = OUTCOMES.fit(log.take(part != f), data, seed * folds + f)
        assert isinstance(model, DailyModel)
        predicted[part == f] = model.members[0].predict(log.obs[part == f, 0], 0)
    return predicted


def ranking(scores: Array, log: LoggedDataset) -> dict[str, float]:
    """MT-AUCC of all steps, and Qini of each arm against arm 0, by the mean score of its steps.

    nan where the data do not determine the sign of an effect that a metric divides by.
    """
    arm, reward, cost = log.action[:, 0].astype(int), log.reward[:, 0], log.cost[:, 0]
    found = {"mt_aucc": or_nan(mt_aucc, scores, arm, reward, cost)}
    for j in range(1, log.n_actions):
        pair = (arm == 0) | (arm == j)
        score = scores[pair, :j].mean(axis=1)
        found[f"qini_{j}"] = or_nan(qini, score, arm[pair] == j, reward[pair])
    return found


def or_nan(metric: Callable[..., float], *data: Array) -> float:
    """The metric, or nan where it is undefined."""
    try:
        return metric(*data)
    except ValueError:
        return math.nan
