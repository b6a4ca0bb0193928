"""End-to-end marketing goal: predictions regularised by what their allocation earns in the log.

The two-stage method predicts, then allocates. Here the prediction loss of the same network
(`one_day/predictors.py`) is joined by the goal itself, what an allocation by predictions earns:

    L(theta) = L_pred(theta) - alpha h sum_B EOM_r(B; theta)

A mini-batch is the population of a knapsack. The predictions, and the price that spends the batch's
share of budget B, choose an incentive for every row; EOM_r is the mean reward of those rows whose
logged incentive is the chosen one (inverse-propensity weighted, self-normalised). It moves in
steps: `one_day/eom_gradients.py` has three estimators of its gradient. Every morning the exact
knapsack spends the day's money by the predictions; a log of one day is the one-shot problem of the
paper, and alpha = 0 is the two-stage method.

Source: Yan et al., An End-to-End Framework for Marketing Effectiveness Optimization under Budget
Constraint, 2023, arXiv 2302.04477.

Differences from the paper:
1. Several incentives, and gradients in rewards and costs alike.
2. Beside finite differences in single entries there are Gaussian smoothing and, the default, flips
   of single rows, which need neither perturbations nor the solver.
3. Shadow-price correction (`corrected`): at running prices of money, without solving again, real
   costs are charged the slope of the frontier that the log shows. Else, as in the paper, predicting
   costs too low is a way to earn more at the same predicted spend. False is the paper's.
4. No scale is set by hand. Rewards and costs are in standard deviations of the log. The size h of
   perturbations is the gap between the two best scores that a fifth of the rows do not exceed after
   the warm start. The goal is weighted by it because its gradient's noise grows as 1 / h.
5. Calibration: the knapsack would miss its budget by costs that the goal has bent. Users whom the
   network did not learn from tell what its decisions really spend; the decisions themselves are not
   touched (`one_day/calibration.py`).
6. The state kept is the one of least L on held-out users of the training fold, with EOM_r read
   where the real spend, not the predicted one, is B. The warm start is a candidate.
7. The days of a campaign are drawn into one batch and share its money. Budgets are geometric shares
   of the range of the incentives' mean daily costs.
8. Members are cross-fitted over users, and act and forecast as in `one_day/daily.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.common.bounds import check
from agents.common.nets import Track, no_track
from agents.common.one_day import predictors
from agents.common.one_day.calibration import logged_of, overspend, read_calibrated
from agents.common.one_day.daily import DailyModel, Response, fit_daily, load_daily
from agents.common.one_day.eom_gradients import (
    Kind,
    Logged,
    MarketingGoal,
    gap_scale,
    ladder,
    matched_sums,
    means,
    prices_that_spend,
)
from agents.common.one_day.focused import Warm, evenly, fit_member
from agents.common.one_day.predictors import Predictor, train_on
from agents.common.one_day.representation import UserDays
from agents.common.types import Array
from marketing_env import LoggedDataset

METHOD = "end_to_end"

_JUDGED = 20_000  # user-days, at most, that judge a state
_SHARES = (0.03, 0.75)  # of the range of mean daily costs, between which budgets lie


@dataclass(frozen=True)
class Config:
    """Settings of the network, of the regulariser and of the daily allocation."""

    gradient: Kind = "flip"
    corrected: bool = True  # charge real costs the frontier's slope; False as in the paper
    alpha: float = 1.0  # weight of the goal, in units of h; 0 is the two-stage method
    budgets: int = 5  # of the goal
    samples: int = 16  # perturbations per step of coordinate and gaussian
    network: predictors.Kind = "auto"  # outcomes, or multi_task where rewards may be negative
    width: int = 128
    warm_epochs: float = 6.0  # of the prediction loss alone
    epochs: float = 3.0  # of both
    batch: int = 2048  # user-days a step: the population of a knapsack
    learning_rate: float = 1e-3  # after the warm start
    folds: int = 2  # cross-fitted members
    least_support: float = 0.01  # logging probability below which an incentive is not chosen
    pacing: bool = True  # spread what remains over the days left; else a fixed share a day
    progress: bool = True  # show progress bars on a terminal

    def __post_init__(self) -> None:
        check(self)


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> DailyModel:
    """Train on a log alone.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`: prediction loss and reward
            at each budget, of learned and of held-out users, and the solver calls so far.
    """

    def learn(users: Array, member: int) -> Response:
        def focus(warm: Warm) -> None:
            _regularise(warm, Task.of(warm.rows, log.n_actions, config.budgets), config)

        return fit_member(log, users, config, seed, member, track, _JUDGED, focus)

    return fit_daily(METHOD, log, config, learn, seed=seed, track=track)


def load(folder: str | Path) -> DailyModel:
    """Read a model that its `save` wrote."""
    return load_daily(folder, Config, lambda config, state: read_calibrated(state))


class Task(NamedTuple):
    """What the goal is about."""

    unit: Tensor  # (2,) standard deviations of the log's rewards and costs
    budgets: Array  # (M,) rising, per user-day, in units of cost

    @staticmethod
    def of(rows: UserDays, n_actions: int, count: int) -> Task:
        unit = rows.outcome.std(0, correction=0).clamp(min=1e-9)
        mass, cost = (
            torch.bincount(rows.arm, rows.weight * part, n_actions)
            for part in (torch.ones_like(rows.weight), rows.outcome[:, 1] / unit[1])
        )
        level = (cost / mass)[mass > 0].double().numpy()
        shares = np.geomspace(*_SHARES, count)
        return Task(unit, level.min() + shares * (level.max() - level.min()))

    def standardised(self, predicted: Tensor, rows: UserDays) -> tuple[Array, Logged]:
        """Predictions (m, K, 2), and what the log knows of their rows, in units."""
        logged = logged_of(rows._replace(outcome=rows.outcome / self.unit))
        return (predicted.detach() / self.unit).double().numpy(), logged

    def gap(self, predicted: Tensor, rows: UserDays) -> float:
        """h, in units."""
        values, _ = self.standardised(predicted, rows)
        return gap_scale(values, prices_that_spend(values, self.budgets))

    def reward(self, predicted: Tensor, rows: UserDays) -> Array:
        """(M,) where the real spend is B, between the policies that should spend the budgets."""
        values, logged = self.standardised(predicted, rows)
        prices = prices_that_spend(values, self.budgets)
        reward, cost = means(matched_sums(ladder(values, prices), logged)).T
        return np.interp(self.budgets, np.maximum.accumulate(cost), reward)


class Judgement(NamedTuple):
    """What predictions are worth on some rows."""

    prediction_loss: float
    reward: Array  # (M,) at real spends of the budgets, in units
    overspend: float  # real over predicted spend at the budgets' prices, less 1

    def worth(self, weight: float) -> float:
        """Minus the loss, with the goal at this weight."""
        return weight * float(self.reward.sum()) - self.prediction_loss

    def curves(self, unit: Tensor) -> dict[str, float]:
        """By name, rewards in those of the log."""
        reward = self.reward * float(unit[0])
        named = {f"reward_at_budget_{m}": float(value) for m, value in enumerate(reward)}
        return {"prediction_loss": self.prediction_loss, "overspend": self.overspend, **named}


def judged(predictor: Predictor, task: Task, rows: UserDays) -> Judgement:
    """Judge a network on some rows."""
    with torch.no_grad():
        predicted = predictor(rows)
        error = float(predictor.loss(predicted, rows))
    values, logged = task.standardised(predicted, rows)
    told = overspend(values, prices_that_spend(values, task.budgets), logged)
    return Judgement(error, task.reward(predicted, rows), told)


def _regularise(warm: Warm, task: Task, config: Config) -> None:
    """Train by both losses."""
    predictor, rows, held, fitting, tag = warm
    few = evenly(rows, _JUDGED)
    with torch.no_grad():
        h = task.gap(predictor(few), few)
    goal = MarketingGoal(
        task.budgets, h, config.gradient, corrected=config.corrected, samples=config.samples,
        seed=fitting.seed,
    )  # fmt: skip

    def loss(index: Tensor) -> Tensor:
        batch = rows.take(index)
        predicted = predictor(batch)
        total = predictor.loss(predicted, batch)
        if config.alpha:
            ascent = torch.tensor(goal.gradient(*task.standardised(predicted, batch))).float()
            total = total - config.alpha * h * (ascent * predicted / task.unit).sum()
        return total

    def judge(step: int) -> float:
        fitting.track(f"{tag}/solver_calls", goal.solver_calls, step)
        for part, some in {"learned": few, "held_out": held}.items():
            found = judged(predictor, task, some)
            for name, number in found.curves(task.unit).items():
                fitting.track(f"{tag}/{part}/{name}", number, step)
        return found.worth(config.alpha * h)

    fitting = fitting._replace(epochs=config.epochs, learning_rate=config.learning_rate)
    train_on(predictor, loss, judge, rows, fitting, f"{tag}/both")
