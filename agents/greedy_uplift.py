"""Greedy uplift + integer programming: the two-stage baseline that most platforms run.

Stage 1 predicts reward and cost of today under every incentive; stage 2 solves, every morning,
one multiple-choice knapsack over all users with the day's share of the money:

    max sum_ij rhat_ij z_ij   s.t.  sum_ij chat_ij z_ij <= remaining / days left,  sum_j z_ij = 1

It maximises today's reward exactly and knows nothing of tomorrow.

Sources: Zhao et al., A Unified Framework for Marketing Budget Allocation, KDD 2019 (response model
+ knapsack); Kunzel et al., Metalearners, PNAS 2019 (T-learner); Ai et al., LBCF, WWW 2022 (dual
prices for the knapsack).

Differences from the sources:
1. The knapsack is solved exactly with an integrality certificate (`common/knapsack.py`), not by a
   bisection that stops at an absolute tolerance.
2. The `network` learner shares one outcome model over incentives and days (`common/response.py`);
   `lightgbm` is a T-learner, one boosted regression per incentive and outcome.
3. Models are cross-fitted over users; the policy uses their mean, the forecast the member that did
   not see the user.
4. Incentives that the log never tried in a state are not eligible (`common/support.py`).
5. The campaign's money is paced over the days by what remains, or evenly if nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from tqdm import tqdm

from agents.common import files
from agents.common.knapsack import Allocation, solve_mckp
from agents.common.nets import Track, no_track
from agents.common.response import OutcomeModel, fit_outcomes
from agents.common.support import Support, fit_support, load_support
from agents.common.tensors import panel
from agents.common.types import Array, Forecast
from marketing_env import DayView, LoggedDataset, Policy

_CROWD = 200  # users from which the daily knapsack needs no integer repair


@dataclass(frozen=True)
class Config:
    """Settings of the response models and of the daily allocation."""

    learner: Literal["network", "lightgbm"] = "network"  # outcome network or boosted T-learner
    folds: int = 2  # cross-fitted models
    width: int = 128  # of the network's hidden layers
    epochs: float = 6.0  # of the network
    trees: int = 150  # of each boosted regression
    leaves: int = 31
    learning_rate: float = 0.06  # of the boosting
    min_leaf: int = 200  # user-days in a leaf, at least
    least_support: float = 0.01  # logging probability below which an incentive is not chosen
    pacing: bool = True  # spread what remains over the days left; else a fixed share a day
    progress: bool = True  # show progress bars on a terminal


class Response(Protocol):
    """Predicts a day's reward and cost under every incentive."""

    def predict(self, obs: Array, day: int) -> Array:
        """(n, K, 2)"""
        ...


class NetworkResponse:
    """The shared outcome model's means."""

    def __init__(self, outcomes: OutcomeModel) -> None:
        self.outcomes = outcomes

    @torch.no_grad()
    def predict(self, obs: Array, day: int) -> Array:
        x = torch.as_tensor(np.ascontiguousarray(obs))
        parts = [
            torch.stack(self.outcomes(rows, torch.full((len(rows),), day)).mean(), dim=-1)
            for rows in x.split(8192)
        ]
        return np.asarray(torch.cat(parts).double().numpy())


class BoostedResponse:
    """A T-learner: one boosted regression per incentive for reward and for cost."""

    def __init__(self, boosters: Sequence[Sequence[Any]], horizon: int) -> None:
        self.boosters, self.horizon = boosters, horizon  # [2][K], None where constant 0

    def predict(self, obs: Array, day: int) -> Array:
        x = with_calendar(obs, np.full(len(obs), day), self.horizon)
        columns = [
            [np.zeros(len(x)) if b is None else b.predict(x, num_threads=1) for b in arms]
            for arms in self.boosters
        ]
        return np.moveaxis(np.array(columns), (0, 1, 2), (2, 1, 0))


class DailyKnapsack:
    """Every morning the exact knapsack on predicted reward and cost."""

    def __init__(
        self,
        members: Sequence[Response],
        budget: float,
        horizon: int,
        pacing: bool,
        support: Support | None = None,
    ) -> None:
        self.members, self.budget, self.horizon, self.pacing = members, budget, horizon, pacing
        self.support = support

    def probs(self, view: DayView) -> Array:
        expected = np.mean([m.predict(view.obs, view.day) for m in self.members], axis=0)
        expected = supported(expected, self.support, view.obs, view.day)
        money = self.budget / self.horizon
        if self.pacing and math.isfinite(view.remaining_budget):
            money = view.remaining_budget / max(self.horizon - view.day, 1)
        choice = solve_day(expected, money, view.bucket).choice
        return np.asarray(np.eye(expected.shape[1])[choice])


@dataclass(frozen=True)
class Model:
    """Trained response models; a budget is only needed when money is allocated."""

    config: Config
    members: tuple[Response, ...]
    n_actions: int
    horizon: int
    n_obs: int
    logged: tuple[Array, ...]  # per day (n, K, 2) predictions on a sample of the log's users
    support: Support | None = None  # None: the log tried everything

    def policy(self, budget: float) -> Policy:
        """One knapsack a day; budget in currency per user per campaign."""
        _check_budget(budget)
        return DailyKnapsack(self.members, budget, self.horizon, self.config.pacing, self.support)

    def forecast(self, budget: float) -> Forecast:
        """Predicted totals if users stayed in the states of the log: a myopic model's belief."""
        _check_budget(budget)
        money = budget / self.horizon
        n = len(self.logged[0])
        total, idle, bound = np.zeros((n, 2)), 0.0, 0.0
        for expected in self.logged:
            solution = solve_day(expected, money)
            total += expected[np.arange(n), solution.choice]
            idle += float(np.nanmean(expected[:, 0, 0]))
            bound += solution.bound / n
        error = total.std(axis=0) / math.sqrt(n)
        reward, cost = total.mean(axis=0)
        return Forecast(float(reward), float(error[0]), float(cost), float(error[1]), bound, idle)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        tensors = {f"logged.{t}": torch.tensor(day) for t, day in enumerate(self.logged)}
        meta: dict[str, Any] = {
            "config": asdict(self.config),
            "n_actions": self.n_actions,
            "horizon": self.horizon,
            "n_obs": self.n_obs,
            "boosters": [],
        }
        for f, member in enumerate(self.members):
            if isinstance(member, NetworkResponse):
                tensors |= files.prefixed(f"member.{f}", member.outcomes)
                meta["n_basis"] = member.outcomes.basis.shape[1]
                meta["outcome_width"] = member.outcomes.logits.in_features
            elif isinstance(member, BoostedResponse):
                texts = [[b and b.model_to_string() for b in arms] for arms in member.boosters]
                meta["boosters"].append(texts)
        if self.support is not None:
            tensors |= files.prefixed("support", self.support)
        files.save_model(folder, "greedy_uplift", tensors, meta)


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> Model:
    """Fit the response models on a log alone.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
    """
    fold = np.random.default_rng([seed, 5]).permutation(log.n_users) % config.folds
    learn = _network if config.learner == "network" else _boosted
    members = [learn(log, _outside(fold, f), config, seed, f, track) for f in range(config.folds)]
    support = fit_support(log, panel(log), least=config.least_support, seed=seed, track=track)
    sample = np.arange(min(log.n_users, 5000))
    logged = []
    for day in range(log.horizon):
        predictions = [m.predict(log.obs[sample, day], day) for m in members]
        there = log.valid[sample, day, None, None]
        expected = np.where(there, np.array(predictions)[fold[sample], sample], 0.0)
        logged.append(supported(expected, support, log.obs[sample, day], day))
    n_obs = log.obs.shape[2]
    return Model(config, tuple(members), log.n_actions, log.horizon, n_obs, tuple(logged), support)


def supported(expected: Array, support: Support | None, obs: Array, day: int) -> Array:
    """Predictions (n, K, 2) with NaN for incentives that the log cannot speak about."""
    if support is None:
        return expected
    allowed = support.allowed(torch.as_tensor(np.ascontiguousarray(obs)), day).numpy()
    return np.where(allowed[..., None], expected, np.nan)


def solve_day(expected: Array, money: float, user_id: Array | None = None) -> Allocation:
    """Knapsack on (n, K, 2) predictions with `money` per user.

    Where even the cheapest incentives cost more than the money, everyone gets the cheapest.
    Incentives whose prediction is NaN are not eligible.
    """
    eligible = ~np.isnan(expected[..., 0])
    reward, cost = np.nan_to_num(expected[..., 0]), np.maximum(np.nan_to_num(expected[..., 1]), 0)
    least = float(np.where(eligible, cost, np.inf).min(axis=1).sum())
    money = max(money * len(cost), least)
    # In a crowd, one user's rounding is far below the error of the predictions.
    repair = len(cost) < _CROWD
    return solve_mckp(reward, cost, money, eligible=eligible, user_id=user_id, repair=repair)


def _check_budget(budget: float) -> None:
    if not budget >= 0:
        raise ValueError(f"budget = {budget!r}: allowed are numbers of at least 0")


def with_calendar(obs: Array, day: Array, horizon: int) -> Array:
    """Observation with progress and weekday, for the boosted trees."""
    return np.column_stack([obs, day / horizon, day % 7])


def load(folder: str | Path) -> Model:
    """Read a model that `Model.save` wrote."""
    meta, tensors = files.read_meta(folder), files.read_tensors(folder)
    config, horizon = Config(**meta["config"]), meta["horizon"]
    members: list[Response] = []
    for f in range(config.folds):
        if config.learner == "network":
            sizes = (meta["n_obs"], meta["n_actions"], meta["n_basis"], horizon)
            outcomes = OutcomeModel(*sizes, meta["outcome_width"])
            outcomes.load_state_dict(files.under(f"member.{f}", tensors))
            members.append(NetworkResponse(outcomes.eval().requires_grad_(False)))
        else:
            import lightgbm

            arms = [
                [text and lightgbm.Booster(model_str=text) for text in texts]
                for texts in meta["boosters"][f]
            ]
            members.append(BoostedResponse(arms, horizon))
    logged = tuple(tensors[f"logged.{t}"].numpy() for t in range(horizon))
    n_obs, n_actions = meta["n_obs"], meta["n_actions"]
    support = load_support(tensors, n_obs, n_actions, horizon, config.least_support)
    return Model(config, tuple(members), n_actions, horizon, n_obs, logged, support)


def _outside(fold: Array, f: int) -> Array:
    """Users a member learns from: all outside its fold, or everyone if there is one fold."""
    return np.flatnonzero((fold != f) | (fold.max() == 0))


def _network(
    log: LoggedDataset, users: Array, config: Config, seed: int, f: int, track: Track
) -> Response:
    outcomes = fit_outcomes(
        panel(log), torch.as_tensor(users), width=config.width, epochs=config.epochs,
        seed=seed * 1000 + f, track=track, tag=f"response/member_{f}",
        progress=f"response model {f + 1}/{config.folds}" if config.progress else None,
    )  # fmt: skip
    return NetworkResponse(outcomes)


def _boosted(
    log: LoggedDataset, users: Array, config: Config, seed: int, f: int, track: Track
) -> Response:
    import lightgbm

    row, day = np.nonzero(log.valid[users])
    row = users[row]
    x = with_calendar(log.obs[row, day], day, log.horizon)
    settings = {
        "objective": "regression", "num_leaves": config.leaves, "verbosity": -1, "num_threads": 1,
        "learning_rate": config.learning_rate, "min_data_in_leaf": config.min_leaf, "seed": seed,
    }  # fmt: skip
    boosters: list[list[Any]] = [[], []]
    jobs = [(k, a) for k in (0, 1) for a in range(log.n_actions)]
    label = f"response model {f + 1}/{config.folds}"
    for k, arm in tqdm(jobs, desc=label, disable=None if config.progress else True):
        given = log.action[row, day] == arm
        y = (log.cost if k else log.reward)[row, day][given]
        if not len(y) or not y.any():
            boosters[k].append(None)
            continue
        curve: dict[str, Any] = {}
        train = lightgbm.Dataset(x[given], y)
        booster = lightgbm.train(
            settings, train, config.trees, valid_sets=[train], valid_names=["train"],
            callbacks=[lightgbm.record_evaluation(curve)],
        )  # fmt: skip
        for step, loss in enumerate(curve["train"]["l2"]):
            track(f"response/member_{f}/{'cost' if k else 'reward'}_{arm}", loss, step)
        boosters[k].append(booster)
    return BoostedResponse(boosters, log.horizon)
