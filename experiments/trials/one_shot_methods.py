"""Who is compared on one-shot data: learners of `agents/`, once for each of their variants.

A `Config` whose field `learner` or `loss` names alternatives gives a row for each of them, such as
greedy_uplift-t; so a new method, and a new loss of a known one, are rows without a line here.
Beside them stands `two_stage`, the network of dfcl trained as long by its prediction loss alone:
what decision losses add is the difference to it.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from agents import Model
from agents.common.one_day.daily import DailyModel, Response, State
from agents.common.types import Array
from experiments.methods import method, method_names
from marketing_env import DayView, LoggedDataset

REFERENCE = "two_stage"
VARIANTS = ("learner", "loss")  # fields of a Config
# Allocators of a single day, and the main method. Others of agents/ take part if they are named:
# on one day they differ from the main method only in how they find the price.
METHODS = (
    REFERENCE, "greedy_uplift", "dfcl", "bi_dfcl", "end_to_end", "cluster", "mixed_policy",
)  # fmt: skip
# What a row's name begins with, by what it is trained for.
DECISION, DIRECT, TWO_STAGE, OTHER = "decision-focused", "direct score", "two-stage", "other"
KINDS = {
    "dfcl": DECISION,
    "bi_dfcl": DECISION,
    "end_to_end": DECISION,
    "greedy_uplift-drm": DIRECT,
    "greedy_uplift-drp": DIRECT,
    "greedy_uplift-dpm": DIRECT,
    "greedy_uplift": TWO_STAGE,
    REFERENCE: TWO_STAGE,
}
# Whoever is judged was not learned from: nobody else needs to be held out by cross-fitting.
ALONE = {"progress": False, "workers": 1, "folds": 1}
# But folds of these two have other tasks, too.
OWN: Mapping[str, Mapping[str, Any]] = {
    "cluster": {"folds": 4},
    "mixed_policy": {"folds": 2},
}
# Settings of all methods that have them: sizes that suit the logs, the same for everyone.
_LBCF = {
    "width": 32, "trees": 100, "min_leaf": 40, "batch": 2048, "warm_epochs": 100, "epochs": 100,
}  # fmt: skip
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "lbcf": _LBCF,
    "lbcf-linear": {**_LBCF, "network": "linear"},
    "hillstrom": {
        "width": 16, "trees": 60, "leaves": 4, "batch": 2048, "warm_epochs": 20, "epochs": 20,
    },
    "starbucks": {
        "width": 32, "trees": 60, "leaves": 8, "batch": 2048, "warm_epochs": 10, "epochs": 10,
    },
    "criteo": {},
}  # fmt: skip
# After a warm start of few steps decision losses go on at its rate, or their passes would count for
# less than as many by the prediction loss.
RATES: Mapping[str, float] = dict.fromkeys(("lbcf", "lbcf-linear"), 5e-3)
STEPS = 60  # budgets by which a policy that predicts nothing is asked for its ranking
LEAST_COST = 1e-6  # of a step, as in the published code


@dataclass(frozen=True)
class Entry:
    """One row: a method, and the settings that make it this row."""

    name: str
    module: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self, data: str) -> Any:
        """The method's Config for a kind of data."""
        cls = method(self.module).Config
        known = {f.name for f in fields(cls)}
        wanted = {**ALONE, **SETTINGS.get(data, {}), **OWN.get(self.module, {})}
        if kind(self.module) == DECISION and data in RATES:
            wanted["learning_rate"] = RATES[data]
        if self.name == REFERENCE:  # as many passes as with a decision loss
            both = [{**vars(cls()), **wanted}[phase] for phase in ("warm_epochs", "epochs")]
            wanted |= {"warm_epochs": sum(both), "epochs": 0}
        return cls(**{k: v for k, v in {**wanted, **self.settings}.items() if k in known})

    def fit(self, log: LoggedDataset, data: str, seed: int) -> Model:
        model: Model = method(self.module).fit(log, self.config(data), seed)
        return remembering(model)


# `--methods estimator`: the paper's goal solves a knapsack for the batch and for every perturbation
# of it. These rows show what its gradient estimators reach with equally many solver calls, 310 to
# 315 on LBCF's 2,000 users an arm; a step takes one, nine or ten of them.
_EQUAL_CALLS: Mapping[str, Mapping[str, float]] = {
    "flip": {"epochs": 100.0},
    "gaussian": {"epochs": 1.05, "samples": 8},
    "coordinate": {"epochs": 0.93, "samples": 8},
}
ESTIMATORS = {
    f"estimator-{gradient}": Entry(
        f"estimator-{gradient}", "end_to_end", {"gradient": gradient, "corrected": False, **few}
    )
    for gradient, few in _EQUAL_CALLS.items()
}


def entries(names: Sequence[str] = METHODS) -> list[Entry]:
    """Rows by name of a row, of a method with all its variants, or by dotted path of your module.

    Raises:
        ValueError: for an unknown name.
    """
    found = {REFERENCE: Entry(REFERENCE, "dfcl"), **ESTIMATORS}
    known = [*method_names(), *(name.partition("-")[0] for name in names if "." in name)]
    for module in (m for m in known if any(_is_part(n, m) for n in names)):
        found |= {entry.name: entry for entry in _variants(module)}
    if unknown := [n for n in names if not any(_is_part(entry, n) for entry in found)]:
        allowed = ", ".join({**found, **dict.fromkeys(known)})
        raise ValueError(f"methods = {' '.join(unknown)}: allowed are {allowed}")
    return [entry for name, entry in found.items() if any(_is_part(name, n) for n in names)]


def kind(name: str) -> str:
    """What a row is trained for."""
    return next((found for part, found in KINDS.items() if _is_part(name, part)), OTHER)


def policy_of(model: Model, log: LoggedDataset, budget: float) -> Array:
    """(n, K) probabilities for the users of a one-day log, who are one audience."""
    view = DayView(log.obs[:, 0], log.bucket, 0, np.inf)
    return np.asarray(model.policy(max(budget, 0.0)).probs(view))


def step_scores(model: Model, log: LoggedDataset) -> Array:
    """(n, K - 1) the order in which steps from arm j to arm j + 1 get the money.

    The predicted return of the step, where a model predicts; else the share of budgets, evenly
    spread from the cheapest arm for all to the dearest, at which the policy buys it.
    """
    if isinstance(model, DailyModel):
        expected = np.mean([m.predict(log.obs[:, 0], 0) for m in model.members], axis=0)
        gain, extra = np.moveaxis(np.diff(expected, axis=1), -1, 0)
        return np.asarray(gain / np.maximum(extra, LEAST_COST))
    cost = arm_means(log)[:, 1]
    bought = np.zeros((log.n_users, log.n_actions - 1))
    for budget in np.linspace(cost.min(), cost.max(), STEPS):
        probs = policy_of(model, log, float(budget))
        bought += np.cumsum(probs[:, ::-1], axis=1)[:, -2::-1]
    return np.asarray(bought / STEPS)


def arm_means(log: LoggedDataset) -> Array:
    """(K, 2) mean reward and cost of every arm; 0 of an arm that nobody got."""
    outcome = np.concatenate([log.reward, log.cost], axis=1)
    given = [outcome[log.action[:, 0] == arm] for arm in range(log.n_actions)]
    return np.stack([part.mean(axis=0) if len(part) else np.zeros(2) for part in given])


def remembering(model: Model) -> Model:
    """The same model; one that predicts does so only once for the users of all budgets."""
    if not isinstance(model, DailyModel):
        return model
    return replace(model, members=tuple(_Remembered(member) for member in model.members))


class _Remembered:
    """A response that keeps its last predictions."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.asked: Array | None = None
        self.answer: Array = np.empty(0)

    def predict(self, obs: Array, day: int) -> Array:
        # The array asked about is kept alive, so equal addresses mean equal contents.
        if self.asked is None or self.asked.__array_interface__ != obs.__array_interface__:
            self.asked, self.answer = obs, self.response.predict(obs, day)
        return self.answer

    def state(self) -> State:
        return self.response.state()


def _variants(module: str) -> list[Entry]:
    hints = typing.get_type_hints(method(module).Config)
    for name in VARIANTS:
        if name in hints:
            options = [v for v in typing.get_args(hints[name]) if _installed(v)]
            return [Entry(f"{module}-{v}", module, {name: v}) for v in options]
    return [Entry(module, module)]


def _installed(variant: str) -> bool:
    return variant != "causal_forest" or find_spec("econml") is not None


def _is_part(entry: str, name: str) -> bool:
    return entry == name or entry.startswith(f"{name}-")
