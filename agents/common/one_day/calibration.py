"""Calibration that changes no decision: predictions spend what they say, by the log.

Predictions trained for decisions need not be right about money. At a price they choose
argmax_j rhat_j - price * chat_j; if these choices really cost more than predicted, a knapsack on
the predictions overspends. Lines fitted to costs, or factors for groups of users, do not mend that:
who is chosen is selected for a low predicted cost.

A user's incentives are points (chat_j, rhat_j). What he gets as the price falls climbs their upper
concave hull, whose slopes alone decide when. So the part of every user's hull that is climbed
between two prices is stretched, by one factor in both directions:

    y'_j = y_0 + sum_m phi_m clip(y_j - y_m, 0, y_{m+1} - y_m)        for y = chat and y = rhat

with y_m the outcome of the user's choice at the m-th price, and y_0 that of his cheapest incentive.
All slopes, and with them the choice at every price, stay as they were. phi_m is the real over the
predicted rise of spend from one price to the next, real being the propensity-weighted mean cost of
the rows whose logged incentive is the choice (EOM, Hajek): at these prices predicted spend becomes
that of the log. The log is noisy where little is spent, so ratios are shrunk towards 1 (`shrunk`).
Last, a line common to all rewards and a constant common to all costs bring levels to those of the
log, which changes no choice either.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from agents.common.one_day.daily import Response, State
from agents.common.one_day.eom_gradients import (
    Logged,
    allocate,
    ladder,
    matched_sums,
    means,
    prices_that_spend,
)
from agents.common.one_day.predictors import read_response
from agents.common.one_day.representation import UserDays, user_days
from agents.common.types import Array
from marketing_env import LoggedDataset

# Of the predicted free spend, at which it is put right.
SHARES = np.array([0.03, 0.1, 0.2, 0.4, 0.7])
_FACTORS = (0.1, 10.0)  # what a noisy log may say
_PRIOR = 0.3  # s: what ratios differ from 1 by as a rule
_ENOUGH = 200_000  # user-days to read the factors from


class Calibration(NamedTuple):
    """A map of predictions (n, K, 2)."""

    prices: Array  # (M,) falling
    factor: Array  # (M + 1,) phi, from the cheapest incentive to the best one
    line: Array  # (2, 2) intercept and slope, of reward and of cost

    def __call__(self, predicted: Array) -> Array:
        intercept, slope = self.line.T
        return np.asarray(intercept + slope * stretch(predicted, self.prices, self.factor))


class Calibrated:
    """A response whose predictions are calibrated."""

    def __init__(self, response: Response, calibration: Calibration) -> None:
        self.response, self.calibration = response, calibration

    def predict(self, obs: Array, day: int) -> Array:
        return self.calibration(self.response.predict(obs, day))

    def state(self) -> State:
        """The response's own, and the calibration as `calibration.*`."""
        tensors, meta = self.response.state()
        own = {f"calibration.{k}": torch.tensor(v) for k, v in self.calibration._asdict().items()}
        return State({**tensors, **own}, meta)


def read_calibrated(state: State) -> Calibrated:
    """The calibrated response of a predictor, from its state."""
    names = {name: f"calibration.{name}" for name in Calibration._fields}
    own = {key: part for key, part in state.tensors.items() if key not in names.values()}
    calibration = Calibration(**{k: state.tensors[v].numpy() for k, v in names.items()})
    return Calibrated(read_response(State(own, state.meta)), calibration)


def calibrate(response: Response, log: LoggedDataset, users: Array) -> Calibrated:
    """Calibrate on users whom the response did not learn from.

    Args:
        users: (n,) rows of the log; some of them suffice in a large log. All, if there are none.
    """
    users = users if len(users) else np.arange(log.n_users)
    rows = user_days(log, users[:: max(1, len(users) * log.horizon // _ENOUGH)])
    predicted = np.empty((len(rows.arm), log.n_actions, 2))
    for day in range(log.horizon):
        here = rows.day == day
        predicted[here] = response.predict(rows.obs[here].numpy(), day)
    return Calibrated(response, fit_calibration(predicted, logged_of(rows)))


def logged_of(rows: UserDays) -> Logged:
    """What happened to user-days."""
    return Logged(rows.arm.numpy(), rows.weight.double().numpy(), rows.outcome.double().numpy())


def overspend(predicted: Array, prices: Array, logged: Logged) -> float:
    """Real over predicted spend of the choices at prices (M,), less 1; 0 where nothing is told."""
    choices = allocate(predicted, prices)
    real = means(matched_sums(choices, logged))[:, 1].sum()
    said = predicted[np.arange(len(predicted)), choices, 1].mean(axis=1).sum()
    return float(real / said - 1) if said > 0 else 0.0


def fit_calibration(predicted: Array, logged: Logged) -> Calibration:
    """Read factors and levels off rows; predictions (n, K, 2) are in the units of the outcomes."""
    rows, cost = np.arange(len(predicted)), predicted[..., 1]
    least, most = cost.min(axis=1).mean(), cost[rows, predicted[..., 0].argmax(axis=1)].mean()
    prices = prices_that_spend(predicted, least + SHARES * (most - least))
    choices = ladder(predicted, prices)
    said = cost[rows, choices].mean(axis=1)
    real, error = _rises(choices, logged)
    factor = np.clip(shrunk(real, error, np.diff(said)), *_FACTORS)
    reward = stretch(predicted, prices, factor)[rows, logged.action, 0]
    idle = means(matched_sums(choices[:1], logged))[0, 1] - said[0]
    line = [_line(reward, logged.outcome[:, 0], logged.weight), (idle, 1.0)]
    return Calibration(prices, factor, np.array(line))


def shrunk(real: Array, error: Array, told: Array) -> Array:
    """(M + 1,) ratios real / told, drawn to 1 by v / (v + s^2) where v is their sampling variance.

    Args:
        error: standard errors of `real`; infinite where nothing is known.
    """
    ratio, noise = (
        np.divide(part, told, out=np.full_like(told, empty), where=told > 0)
        for part, empty in ((real, 1.0), (error, np.inf))
    )
    return np.asarray(1 + (ratio - 1) / (1 + (noise / _PRIOR) ** 2))


def _rises(choices: Array, logged: Logged) -> tuple[Array, Array]:
    """(M + 1,) rises of real spend from rung to rung (M + 2, n), and their standard errors."""
    sums, cost = matched_sums(choices, logged), logged.outcome[:, 1]
    mean = means(sums)[:, 1:]
    # How much each row moves its rung's Hajek mean.
    moves = np.where(choices == logged.action, logged.weight * (cost - mean), 0.0)
    moves /= np.maximum(sums[:, :1], 1e-300)
    # A rung without rows tells nothing.
    error = np.sqrt((np.diff(moves, axis=0) ** 2).sum(axis=1))
    known = (sums[1:, 0] > 0) & (sums[:-1, 0] > 0) & (error > 0)
    return np.diff(mean[:, 0]), np.where(known, error, np.inf)


def stretch(predicted: Array, prices: Array, factor: Array) -> Array:
    """(n, K, 2) with hulls stretched by `factor` (M + 1,) between falling prices (M,)."""
    rows = np.arange(len(predicted))
    corners = [predicted[rows, choice][:, None] for choice in ladder(predicted, prices)[:-1]]
    found = corners[0] + np.zeros_like(predicted)
    for phi, low, high in zip(factor, corners, [*corners[1:], np.inf], strict=True):
        found += phi * np.clip(predicted - low, 0, high - low)
    return found


def _line(told: Array, outcome: Array, weight: Array) -> tuple[float, float]:
    """Intercept and slope of weighted least squares; slope 1 where none that rises is found."""
    centre, mean = np.average(told, weights=weight), np.average(outcome, weights=weight)
    rise = weight @ ((told - centre) * (outcome - mean))
    slope = rise / (weight @ (told - centre) ** 2) if rise > 0 else 1.0
    return float(mean - slope * centre), float(slope)
