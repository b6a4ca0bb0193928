"""Decision-focused causal learning: predictions trained for what the allocation by them earns.

A network (`one_day/predictors.py`) first learns to predict what a user-day brings and costs under
every incentive, which is the two-stage method, and then also to decide:

    L = alpha L_PL + mean_lambda L_DL(lambda)

L_PL is the prediction loss. L_DL (`one_day/decision_losses.py`) is minus the net value r - lambda c
that users earn if each gets argmax_j rhat_ij - lambda chat_ij, as the log tells: smoothed (pll,
merl), by flips of single users (ifd), or doubly robust (dr). Every morning the exact knapsack
spends the day's money by the predictions; a log of one day is the one-shot problem of the paper.

Scales: in L_DL, net values are divided by their standard deviation at that price, and scores by the
median gap between the best two arms after the warm start. So `alpha`, `tau` and `reach` mean the
same whatever a log's units are.

Source: Zhou et al., Decision Focused Causal Learning for Direct Counterfactual Marketing
Optimization, KDD 2024, arXiv 2407.13664.

Differences from the paper:
1. Prices are not set by hand: they are those at which daily budgets from 90 to 1 % of the
   unconstrained spend bind, by the warm start's predictions on training rows.
2. Gradients flow through rewards and costs; the public code drops those of the costs. Flips are
   clipped in units of scores, so that the gradient of chat is exactly -lambda that of rhat.
3. Logged propensities weight the rows, arm by arm scaled to N / (K N_t): logs need not be trials.
   `weighted=False` gives the public code's unweighted decision losses.
4. The loss dr is ours: cross-fitted predictions carry what they can explain of the net values, and
   the self-normalised rest has a baseline.
5. L_PL is the negative log-likelihood of what is logged (`values/response.py`), or squared errors
   in units of each arm's spread where rewards may be negative (`one_day/representation.py`).
6. Calibration: decision losses are free to distort costs, by which the knapsack would miss its
   budget. Users that the network did not learn from tell what its decisions really spend; the
   decisions themselves are not touched (`one_day/calibration.py`).
7. The state kept is the one of least L on held-out users of the training fold. What decisions earn
   there (`decision_value`) is a curve only: it is far noisier than what a few steps change, and
   would as a rule keep an early state. The warm start is a candidate.
8. Members are cross-fitted over users, and act and forecast as in `one_day/daily.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from agents.common.bounds import check
from agents.common.nets import Track, no_track
from agents.common.one_day import decision_losses, predictors
from agents.common.one_day.calibration import logged_of, overspend, read_calibrated
from agents.common.one_day.daily import DailyModel, Response, fit_daily, load_daily
from agents.common.one_day.decision_losses import Clip
from agents.common.one_day.decisions import Prices, choose_prices, decision_value
from agents.common.one_day.focused import Warm, fit_member
from agents.common.one_day.predictors import fit_predictor, train_on
from agents.common.one_day.representation import UserDays
from agents.common.types import Array
from marketing_env import LoggedDataset

METHOD = "dfcl"

_JUDGED = 50_000  # held-out user-days, at most, that judge a state


@dataclass(frozen=True)
class Config:
    """Settings of the network, of its losses and of the daily allocation."""

    loss: Literal["pll", "merl", "ifd", "dr"] = "ifd"
    alpha: float = 1.0  # weight of the prediction loss beside the decision loss
    tau: float = 3.0  # temperature of merl and dr, in median gaps; that of pll is 1
    clip: Clip = "fix"  # of ifd: flips within reach count alike, or ("max") all flips do
    reach: float = 1.0  # of ifd's flips, in median gaps
    prices: int = 8  # of money, at which decisions are trained
    weighted: bool = True  # decision losses by inverse propensity; False as in the public code
    network: predictors.Kind = "auto"  # outcomes, or multi_task where rewards may be negative
    width: int = 128
    warm_epochs: float = 6.0  # of the prediction loss alone
    epochs: float = 3.0  # of both; 0 is the two-stage method
    batch: int = 4096  # user-days a step: ifd and dr are ratios of means over it
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
        track: receives learning curves, like TensorBoard's `add_scalar`: on held-out users the
            prediction loss, the decision loss, the value of decisions and the calibration.

    Raises:
        ValueError: for an unknown network, or dr without weights.
    """
    _check(config)

    def learn(users: Array, member: int) -> Response:
        def focus(warm: Warm) -> None:
            _decide(warm, log, config)

        return fit_member(log, users, config, seed, member, track, _JUDGED, focus)

    return fit_daily(METHOD, log, config, learn, seed=seed, track=track)


def load(folder: str | Path) -> DailyModel:
    """Read a model that its `save` wrote."""
    return load_daily(folder, Config, lambda config, state: read_calibrated(state))


def decision_loss(
    config: Config, prices: Prices, expected: Tensor, rows: UserDays, model: Tensor
) -> Tensor:
    """L_DL of predictions (m, K, 2), the mean over prices.

    Args:
        model: (m, K, 2) predictions by what did not learn from the user, for the loss dr.
    """
    n_actions, spread = expected.shape[1], prices.spread[:, None]
    scores = prices.net(expected) / prices.gap[:, None, None]
    weight = n_actions * rows.weight if config.weighted else torch.ones_like(rows.weight)
    data = rows.arm, prices.net(rows.outcome) / spread, weight
    if config.loss == "ifd":
        return decision_losses.ifd(scores, *data, step=config.reach, clip=config.clip)
    if config.loss == "dr":
        judged = prices.net(model) / spread[..., None]
        return decision_losses.dr(scores, *data, judged, tau=config.tau)
    if config.loss == "merl":
        return decision_losses.merl(scores, *data, tau=config.tau)
    return decision_losses.pll(scores, *data)


def _check(config: Config) -> None:
    if config.loss == "dr" and not config.weighted:
        raise ValueError("weighted = False: allowed with the losses pll, merl and ifd")


def _decide(warm: Warm, log: LoggedDataset, config: Config) -> None:
    """Train by both losses."""
    predictor, rows, held, fitting, tag = warm
    prices = choose_prices(predictor, rows, config.prices)
    model = _out_of_half(warm, log, config) if config.loss == "dr" else None
    with torch.no_grad():
        known, happened = predictor(held), logged_of(held)

    def loss(index: Tensor) -> Tensor:
        batch = rows.take(index)
        expected = predictor(batch)
        judged = expected if model is None else model[index]
        decision = decision_loss(config, prices, expected, batch, judged)
        return config.alpha * predictor.loss(expected, batch) + decision

    def judge(step: int) -> float:
        expected = predictor(held)
        curves = {
            "prediction_loss": float(predictor.loss(expected, held)),
            "decision_loss": float(decision_loss(config, prices, expected, held, known)),
            "decision_value": decision_value(prices, expected, held, known),
            "overspend": overspend(expected.numpy(), prices.price.numpy(), happened),
        }
        for name, number in curves.items():
            fitting.track(f"{tag}/held_out/{name}", number, step)
        return -config.alpha * curves["prediction_loss"] - curves["decision_loss"]

    fitting = fitting._replace(epochs=config.epochs, learning_rate=config.learning_rate)
    train_on(predictor, loss, judge, rows, fitting, f"{tag}/both")


def _out_of_half(warm: Warm, log: LoggedDataset, config: Config) -> Tensor:
    """(m, K, 2) predictions, each half of the users by a network that saw the other half."""
    rows, fitting = warm.rows, warm.fitting
    users, number = rows.user.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(fitting.seed)
    half = torch.randperm(len(users), generator=generator)[number] % 2
    first, second = (
        fit_predictor(
            config.network, log, rows.take((half != part).nonzero()[:, 0]), config.width, fitting,
            f"{warm.tag}/half_{part}",
        )
        for part in (0, 1)
    )  # fmt: skip
    with torch.no_grad():
        return torch.where((half == 0)[:, None, None], first(rows), second(rows))
