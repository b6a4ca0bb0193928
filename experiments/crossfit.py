"""Cross-fitted one-shot policies: every user is allocated by models and prices that saw others.

Users are cut into parts. For each part the response models learn from all others but one; that one,
the validation part, chooses their regularisation and the shadow price of every budget. The part
itself is only scored. Its uniform and random rivals take what they need from outside it, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agents import cost_curve, greedy_uplift
from agents.common.daily import DailyModel
from agents.common.game import solve_master
from agents.common.types import Array
from marketing_env import LoggedDataset
from marketing_env.policy import one_hot

Policies = dict[tuple[str, float | None], Array]  # (policy, budget or None) -> (n, K) probabilities

# Regularisation to choose from. One model each: folds are made here.
CANDIDATES: dict[str, tuple[greedy_uplift.Config, ...]] = {
    "t": tuple(
        greedy_uplift.Config(
            learner="t", folds=1, trees=trees, leaves=leaves, min_leaf=200, progress=False
        )
        for trees, leaves in ((30, 4), (100, 4), (100, 16))
    ),
    "network": tuple(
        greedy_uplift.Config(learner="network", folds=1, width=width, progress=False)
        for width in (4, 32)
    ),
}


@dataclass(frozen=True)
class CrossFit:
    """All policies, and predictions by models that saw neither the user nor his part's prices."""

    policies: Policies
    model: Array  # (n, K, 2) reward and cost of every arm
    folds: tuple[dict[str, Any], ...]  # the settings and prices that each part was allocated with


@dataclass(frozen=True)
class PriceRule:
    """argmax_j reward_j - price * cost_j; a user whom the price leaves undecided is randomised.

    Randomising between the two ends of a tie spends exactly the budget on the rows that set the
    price: the optimum of the linear relaxation, also where many users share a prediction.
    """

    price: float
    dear: float  # probability of the dearer end of a tie

    @staticmethod
    def at(expected: Array, budget: float) -> PriceRule:
        """The rule that spends `budget` per user on rows with predictions (n, K, 2)."""
        curve = cost_curve(expected[..., 0], expected[..., 1])
        price = float(curve.price_at(max(budget * len(expected), curve.budget[0])))
        cheap, dear = (
            float((end * expected[..., 1]).sum(axis=1).mean()) for end in _ends(expected, price)
        )
        share = (budget - cheap) / (dear - cheap) if price > 0 and dear > cheap else 0.0
        return PriceRule(price, float(np.clip(share, 0, 1)))

    def probs(self, expected: Array) -> Array:
        """(n, K) for users with these predictions."""
        cheap, dear = _ends(expected, self.price)
        return np.asarray((1 - self.dear) * cheap + self.dear * dear)


def _ends(expected: Array, price: float) -> tuple[Array, Array]:
    """(n, K) one-hot: the cheapest and the dearest of each user's best arms at a price."""
    reward, cost = expected[..., 0], expected[..., 1]
    net = reward - price * cost
    best = net >= net.max(axis=1, keepdims=True) - 1e-9 * np.abs(reward).max()
    cheap = np.where(best, cost, np.inf).argmin(axis=1)
    dear = np.where(best, cost, -np.inf).argmax(axis=1)
    return one_hot(cheap, cost.shape[1]), one_hot(dear, cost.shape[1])


def cross_fit(
    log: LoggedDataset,
    candidates: Sequence[greedy_uplift.Config],
    budgets: Sequence[float],
    *,
    folds: int,
    seed: int,
    on_fold: Callable[[], object],
) -> CrossFit:
    """Allocate every user of a randomised one-day log at every budget.

    Args:
        budgets: shares of the cost of the cheapest arm for all.
        on_fold: called when a part is done.

    Raises:
        ValueError: if the log has more than one day, or there are fewer than three parts.
    """
    if log.horizon != 1 or folds < 3:
        raise ValueError(f"horizon = {log.horizon}, folds = {folds}: allowed are 1, and 3 or more")
    part = np.random.default_rng([seed, 11]).permutation(log.n_users) % folds
    shape = (log.n_users, log.n_actions)
    policies: Policies = defaultdict(lambda: np.empty(shape))
    predicted, used = np.empty((*shape, 2)), []
    for f in range(folds):
        test, check = part == f, part == (f + 1) % folds
        train, validation = log.take(~test & ~check), log.take(check)
        model, believed = _choose_model(train, validation, candidates, seed * folds + f)
        arms = arm_means(log.take(~test))
        rules = {b: PriceRule.at(believed, b * arms[1:, 1].min()) for b in budgets}
        predicted[test] = _predict(model, log.take(test))
        for key, probs in _part_policies(predicted[test], rules, arms, log).items():
            policies[key][test] = probs
        prices = [rule.price for rule in rules.values()]
        used.append({"config": asdict(model.config), "prices": prices})
        on_fold()
    return CrossFit(dict(policies), predicted, tuple(used))


def arm_means(log: LoggedDataset) -> Array:
    """(K, 2) mean reward and cost of every arm."""
    outcome = np.concatenate([log.reward, log.cost], axis=1)
    arms = range(log.n_actions)
    return np.stack([outcome[log.action[:, 0] == arm].mean(axis=0) for arm in arms])


def _predict(model: DailyModel, log: LoggedDataset) -> Array:
    return np.asarray(np.mean([m.predict(log.obs[:, 0], 0) for m in model.members], axis=0))


def _choose_model(
    train: LoggedDataset,
    validation: LoggedDataset,
    candidates: Sequence[greedy_uplift.Config],
    seed: int,
) -> tuple[DailyModel, Array]:
    """The candidate that predicts rewards of the validation part best, and its predictions."""
    arm = validation.action.astype(np.int64)
    found = []
    for config in candidates:
        model = greedy_uplift.fit(train, config, seed)
        expected = _predict(model, validation)
        error = np.take_along_axis(expected[..., 0], arm, axis=1) - validation.reward
        found.append((float((error**2).mean()), model, expected))
    _, model, expected = min(found, key=lambda candidate: candidate[0])
    return model, expected


def _part_policies(
    expected: Array, rules: Mapping[float, PriceRule], arms: Array, log: LoggedDataset
) -> Policies:
    """What every policy does with the users of one part."""
    n, k = expected.shape[:2]
    names = log.meta.get("actions") or [f"arm {j}" for j in range(k)]
    found: Policies = {(name, None): _same(p, n) for name, p in zip(names, np.eye(k), strict=True)}
    found["random arm", None] = _same(np.full(k, 1 / k), n)
    cost, dearest = arms[:, 1], int(arms[:, 1].argmax())
    for budget, rule in rules.items():
        probs = rule.probs(expected)
        spend = float((probs @ cost).mean())
        share = spend / cost[dearest]
        found["allocator", budget] = probs
        found["random dearest", budget] = _same(
            (1 - share) * np.eye(k)[0] + share * np.eye(k)[dearest], n
        )
        found["random mix", budget] = _same(solve_master(arms, spend).weight, n)
    return found


def _same(probs: Array, n: int) -> Array:
    return np.tile(probs, (n, 1))
