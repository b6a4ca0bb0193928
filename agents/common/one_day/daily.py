"""One-shot allocation, day by day: what the methods share that predict a day and solve a knapsack.

Such a method learns members, each a `Response`: reward and cost of a user-day under every
incentive. Every morning the exact multiple-choice knapsack spends the day's money by their mean,

    max sum_ij rhat_ij z_ij   s.t.  sum_ij chat_ij z_ij <= money,  sum_j z_ij = 1,

with money = remaining / days left, or an even share of the budget if nothing is known or wanted.
Members are cross-fitted over users: the forecast reads each user of the log from the member that
did not see him. Incentives that the log never tried in a state are not eligible.

A method writes its `Config` (with the fields of `Settings`), a `fit` that calls `fit_daily`, a
`load` that calls `load_daily`, and a `Response` of its own where `NetworkResponse` does not serve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from agents.common import files
from agents.common.knapsack import Allocation, solve_mckp
from agents.common.nets import Track, no_track
from agents.common.tensors import panel
from agents.common.types import Array, Forecast
from agents.common.values.response import OutcomeModel
from agents.common.values.support import Support, fit_support, load_support
from marketing_env import DayView, LoggedDataset, Policy

_CROWD = 200  # users from which the daily knapsack needs no integer repair
_SAMPLE = 5000  # users of the log whose predictions the forecast is made from


class State(NamedTuple):
    """What a response is rebuilt from: networks as tensors, boosted trees as text."""

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]  # JSON


class Response(Protocol):
    """Predicts a day's reward and cost under every incentive."""

    def predict(self, obs: Array, day: int) -> Array:
        """(n, K, 2) levels, not increments; cost in currency."""
        ...

    def state(self) -> State:
        """All that the method's `load` needs to rebuild this response."""
        ...


class Settings(Protocol):
    """What the Config of every such method holds, beside settings of its own."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def folds(self) -> int:
        """Cross-fitted members; with one, the forecast is made from data that it learned from."""
        ...

    @property
    def least_support(self) -> float:
        """Logging probability below which an incentive is not chosen."""
        ...

    @property
    def pacing(self) -> bool:
        """Spread what remains over the days left; else the same money every day."""
        ...


C = TypeVar("C", bound=Settings)


class NetworkResponse:
    """The means of the shared outcome model (`values/response.py`)."""

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

    def state(self) -> State:
        return State(self.outcomes.state_dict(), {"horizon": self.outcomes.horizon})

    @staticmethod
    def from_state(state: State) -> NetworkResponse:
        return NetworkResponse(OutcomeModel.rebuild(state.tensors, state.meta["horizon"]))


class DailyKnapsack:
    """Every morning the exact knapsack on the members' mean prediction."""

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
        choice = solve_day(expected, self.money(view), view.bucket).choice
        return np.asarray(np.eye(expected.shape[1])[choice])

    def money(self, view: DayView) -> float:
        """Currency per user to spend today."""
        return money_today(view, self.budget, self.horizon, self.pacing)


@dataclass(frozen=True)
class DailyModel:
    """Trained members; a budget is only needed when money is allocated."""

    method: str  # file of `agents` that loads it
    config: Settings
    members: tuple[Response, ...]
    n_actions: int
    horizon: int
    n_obs: int
    logged: tuple[Array, ...]  # per day (n, K, 2) predictions on a sample of the log's users
    support: Support | None = None  # None: the log tried everything

    def policy(self, budget: float) -> Policy:
        """One knapsack a day; budget in currency per user per campaign."""
        check_budget(budget)
        return DailyKnapsack(self.members, budget, self.horizon, self.config.pacing, self.support)

    def forecast(self, budget: float) -> Forecast:
        """Predicted totals if users stayed in the states of the log: a myopic model's belief."""
        check_budget(budget)
        n = len(self.logged[0])
        total, idle, bound = np.zeros((n, 2)), 0.0, 0.0
        for expected in self.logged:
            solution = solve_day(expected, budget / self.horizon)
            total += expected[np.arange(n), solution.choice]
            idle += float(np.nanmean(expected[:, 0, 0]))
            bound += solution.bound / n
        error = total.std(axis=0) / math.sqrt(n)
        reward, cost = total.mean(axis=0)
        return Forecast(float(reward), float(error[0]), float(cost), float(error[1]), bound, idle)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        tensors = {f"logged.{t}": torch.tensor(day) for t, day in enumerate(self.logged)}
        states = [member.state() for member in self.members]
        for f, state in enumerate(states):
            tensors |= {f"member.{f}.{name}": tensor for name, tensor in state.tensors.items()}
        if self.support is not None:
            tensors |= files.prefixed("support", self.support)
        meta = {
            "config": asdict(self.config),
            "n_actions": self.n_actions,
            "horizon": self.horizon,
            "n_obs": self.n_obs,
            "members": [state.meta for state in states],
        }
        files.save_model(folder, self.method, tensors, meta)


def fit_daily(
    method: str,
    log: LoggedDataset,
    config: Settings,
    learn: Callable[[Array, int], Response],
    *,
    seed: int = 0,
    track: Track = no_track,
) -> DailyModel:
    """Cross-fit the members, and see what they predict for users of the log.

    Args:
        learn: fits one member; it is given the rows of the users to learn from, and its number.

    Raises:
        ValueError: if there is no fold, or there are more folds than users.
    """
    if not 1 <= config.folds <= log.n_users:
        raise ValueError(f"folds = {config.folds}: allowed is 1 to {log.n_users}, a user in each")
    fold = np.random.default_rng([seed, 5]).permutation(log.n_users) % config.folds
    members = tuple(learn(_outside(fold, f), f) for f in range(config.folds))
    support = fit_support(log, panel(log), least=config.least_support, seed=seed, track=track)
    logged = tuple(_held_out(members, fold, support, log, day) for day in range(log.horizon))
    sizes = log.n_actions, log.horizon, log.obs.shape[2]
    return DailyModel(method, config, members, *sizes, logged, support)


def load_daily(
    folder: str | Path, config: Callable[..., C], read: Callable[[C, State], Response]
) -> DailyModel:
    """Read a model that `DailyModel.save` wrote.

    Args:
        config: the method's `Config`.
        read: rebuilds a member from its state.
    """
    meta, tensors = files.read_meta(folder), files.read_tensors(folder)
    settings = config(**meta["config"])
    members = tuple(
        read(settings, State(files.under(f"member.{f}", tensors), described))
        for f, described in enumerate(meta["members"])
    )
    sizes = n_actions, horizon, n_obs = meta["n_actions"], meta["horizon"], meta["n_obs"]
    logged = tuple(tensors[f"logged.{t}"].numpy() for t in range(horizon))
    support = load_support(tensors, n_obs, n_actions, horizon, settings.least_support)
    return DailyModel(meta["method"], settings, members, *sizes, logged, support)


def money_today(view: DayView, budget: float, horizon: int, pacing: bool) -> float:
    """Currency per user: an even share of what remains if it is known and wanted, else of all."""
    if pacing and math.isfinite(view.remaining_budget):
        return view.remaining_budget / max(horizon - view.day, 1)
    return budget / horizon


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


def _held_out(
    members: Sequence[Response], fold: Array, support: Support | None, log: LoggedDataset, day: int
) -> Array:
    """(n, K, 2) predictions for the sample, each user by the member that did not see him.

    Who was not there that day is neither paid nor missed: 0 under every incentive.
    """
    sample = np.arange(min(log.n_users, _SAMPLE))
    obs, there = log.obs[sample, day], log.valid[sample, day, None, None]
    expected = np.array([m.predict(obs, day) for m in members])[fold[sample], sample]
    return np.where(there, supported(expected, support, obs, day), 0.0)


def _outside(fold: Array, f: int) -> Array:
    """Users a member learns from: all outside its fold, or everyone if there is one fold."""
    return np.flatnonzero((fold != f) | (fold.max() == 0))


def check_budget(budget: float) -> None:
    """Raise ValueError for a budget that is negative or no number."""
    if not budget >= 0:
        raise ValueError(f"budget = {budget!r}: allowed are numbers of at least 0")
