"""Bi-level decision-focused causal learning: a trial corrects what observations teach.

Observations (OBS) are many and biased, trials (RCT) unbiased and few. A target network F learns
from the former, a teacher T from the latter, and a bridge network G decides row by row how far the
teacher is to be believed. For arms j that user i did not get, G mixes a label of both,

    y_ij = g_ij F(x_i)_j + (1 - g_ij) T(x_i)_j,   g = G(x_i) in (0, 1), for reward and cost alike

    lower level   theta(phi) = argmin_theta L_PL(F; OBS) + sum_i sum_{j != t_i} |F(x_i)_j - y_ij|^2
    upper level   min_phi L_DL(F_theta(phi); RCT)

L_PL is the prediction loss of what was observed, L_DL (`one_day/decision_losses.py`) minus what
users of the trial earn by the decisions of F: smoothed (ppl), or by flips of single users (pifd).
The gradient of L_DL in phi goes through the lower solution by implicit differentiation
(`one_day/hypergradient.py`). So G learns to let through of the teacher what makes for better
decisions, and nothing weighs predictions against decisions by hand. Every morning the exact
knapsack spends the day's money by the predictions of F.

Source: Zhang et al., Bi-Level Decision-Focused Causal Learning for Large-Scale Marketing
Optimization, NeurIPS 2025, arXiv 2510.19517.

Differences from the paper:
1. One log holds both kinds of rows: those of users whose incentives were all drawn uniformly are
   the trial. Where all users' were, or nobody's, `trial_share` of the users stand in: known
   propensities weight the rows of any log into a trial.
2. The target learns from both kinds of rows, in its warm start and after. A trial is the better
   part of a log, and may be all of it: without its rows the lower level would unlearn them.
3. The hypergradient is taken where `inner` steps of the target lead, not those of a copy, with ten
   Hessian-vector products instead of fifty, damped.
4. Prices of money are those at which daily budgets from 90 to 1 % of the unconstrained spend bind.
   `primal=True` counts rewards alone, as the paper does, and finds in each batch of the trial the
   prices at which the real spend keeps the budgets; `primal=False` counts net values at fixed
   prices. By the envelope theorem the latter is the former's derivative at a fixed spend.
5. Flips are compared with the mean of those who got what they should, a baseline, and are clipped
   (`one_day/decision_losses.py`); scores are in median gaps of the best two arms.
6. Calibration, the choice of the state and cross-fitting are those of DFCL here (`dfcl.py`, 6-8):
   the state kept is that of least L_PL + L_DL on the trial among the users held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.common.bounds import check
from agents.common.nets import Track, mlp, no_track, seeded
from agents.common.one_day import decision_losses, predictors
from agents.common.one_day.calibration import logged_of, read_calibrated
from agents.common.one_day.daily import DailyModel, Response, fit_daily, load_daily
from agents.common.one_day.decisions import Prices, choose_prices, decision_value
from agents.common.one_day.eom import price_that_spends
from agents.common.one_day.eom_gradients import allocate, matched_sums, means
from agents.common.one_day.focused import Warm, fit_member
from agents.common.one_day.hypergradient import hypergradient
from agents.common.one_day.predictors import Predictor, fit_predictor, train_on
from agents.common.one_day.representation import Inputs, UserDays
from agents.common.types import Array
from marketing_env import LoggedDataset

METHOD = "bi_dfcl"

_JUDGED = 50_000  # held-out user-days, at most, that judge a state
_UNIFORM = 1e-4  # by which a propensity may differ from 1 / K in a trial


@dataclass(frozen=True)
class Config:
    """Settings of the networks, of both levels and of the daily allocation."""

    loss: Literal["ppl", "pifd"] = "pifd"
    primal: bool = False  # count rewards at budgets, as the paper does; else net values at prices
    tau: float = 1.0  # temperature of ppl, in median gaps
    reach: float = 1.0  # of pifd's flips, in median gaps
    prices: int = 8  # of money, at which decisions are trained
    trial_share: float = 0.5  # of users in the upper level, where the log has no trial in it
    inner: int = 5  # steps of the target to each of the bridge
    solver_steps: int = 10  # Hessian-vector products to each step of the bridge
    damping: float = 0.1  # added to the Hessian
    bridge_rate: float = 1e-2  # learning rate of the bridge
    network: predictors.Kind = "auto"  # outcomes, or multi_task where rewards may be negative
    width: int = 128
    warm_epochs: float = 6.0  # of the prediction loss alone
    epochs: float = 3.0  # of both levels; 0 is the two-stage method
    batch: int = 4096  # user-days a step, of each level
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
            prediction loss and the value of decisions, on the trial the decision loss, and the mean
            of the gates.

    Raises:
        ValueError: for an unknown network.
    """

    def learn(users: Array, member: int) -> Response:
        def focus(warm: Warm) -> None:
            Levels(warm, log, config).train()

        return fit_member(log, users, config, seed, member, track, _JUDGED, focus)

    return fit_daily(METHOD, log, config, learn, seed=seed, track=track)


def load(folder: str | Path) -> DailyModel:
    """Read a model that its `save` wrote."""
    return load_daily(folder, Config, lambda config, state: read_calibrated(state))


class Bridge(nn.Module):
    """Gates from what is observed; untrained ones are 1/2."""

    def __init__(self, rows: UserDays, n_actions: int, horizon: int, width: int) -> None:
        super().__init__()
        self.inputs = Inputs(rows.obs.shape[1], horizon)
        self.inputs.fit(rows.obs, rows.day)
        n_inputs = len(self.inputs.mean)
        self.net = nn.Sequential(mlp(n_inputs, width, 2), nn.Linear(width, 2 * n_actions))
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, rows: UserDays) -> Tensor:
        """(m, K, 2) in (0, 1): how far the target is believed rather than the teacher."""
        gate = torch.sigmoid(self.net(self.inputs(rows.obs, rows.day)))
        return gate.unflatten(-1, (-1, 2))


class Goal(NamedTuple):
    """What decisions on rows of the trial are about."""

    prices: Prices
    budgets: Array  # (G,) real spend per user-day of the first decisions at the prices

    @staticmethod
    def of(prices: Prices, predictor: Predictor, rows: UserDays) -> Goal:
        with torch.no_grad():
            predicted = predictor(rows).double().numpy()
        choices = allocate(predicted, prices.price.double().numpy())
        return Goal(prices, means(matched_sums(choices, logged_of(rows)))[:, 1])

    def loss(self, config: Config, expected: Tensor, rows: UserDays) -> Tensor:
        """L_DL of predictions (m, K, 2), the mean over prices."""
        prices = self.repriced(expected, rows) if config.primal else self.prices
        scores = prices.net(expected) / prices.gap[:, None, None]
        net = prices.net(rows.outcome * torch.tensor([1.0, float(not config.primal)]))
        data = rows.arm, net / prices.spread[:, None], expected.shape[1] * rows.weight
        if config.loss == "pifd":
            return decision_losses.ifd(scores, *data, step=config.reach)
        return decision_losses.merl(scores, *data, tau=config.tau)

    def repriced(self, expected: Tensor, rows: UserDays) -> Prices:
        """Prices at which the real spend on these rows keeps the budgets."""
        predicted, cost = expected.detach().double().numpy(), rows.outcome[:, 1].double().numpy()
        data = predicted, rows.arm.numpy(), rows.propensity.numpy(), cost
        least = means(matched_sums(predicted[None, ..., 1].argmin(-1), logged_of(rows)))[0, 1]
        budgets = np.maximum(self.budgets, least * (1 + 1e-9))
        price = [price_that_spends(budget, *data) for budget in budgets]
        return self.prices._replace(price=torch.tensor(price, dtype=self.prices.price.dtype))


def uniform(rows: UserDays, n_actions: int) -> Tensor:
    """(m,) bool: rows of users whose incentives were all drawn uniformly."""
    users, number = rows.user.unique(return_inverse=True)
    drawn = torch.ones(len(users), dtype=torch.bool)
    drawn[number[(rows.propensity - 1 / n_actions).abs() > _UNIFORM]] = False
    return drawn[number]


def in_trial(rows: UserDays, n_actions: int, share: float, generator: torch.Generator) -> Tensor:
    """(m,) bool: rows of the trial.

    Args:
        share: of all users, drawn at random, if everyone's incentives were uniform, or nobody's.
    """
    trial = uniform(rows, n_actions)
    if trial.any() and not trial.all():
        return trial
    users, number = rows.user.unique(return_inverse=True)
    wanted = min(max(round(share * len(users)), 1), max(len(users) - 1, 1))
    return (torch.randperm(len(users), generator=generator) < wanted)[number]


def lower_loss(
    predictor: Predictor, rows: UserDays, teacher: Tensor, gate: Tensor, unit: Tensor
) -> Tensor:
    """What was observed, and mixed labels of what was not.

    Args:
        teacher: (m, K, 2) its predictions.
        gate: (m, K, 2)
        unit: (2,) standard deviations of reward and cost.
    """
    expected = predictor(rows)
    error = (1 - gate) * (expected - teacher) / unit
    others = torch.arange(expected.shape[1]) != rows.arm[:, None]
    unseen = (others[..., None] * error**2).sum((1, 2)).mean() / 2
    return predictor.loss(expected, rows) + unseen


class Levels:
    """Target and bridge of a member, each with the rows that it learns from."""

    def __init__(self, warm: Warm, log: LoggedDataset, config: Config) -> None:
        predictor, rows, held, fitting, tag = warm
        self.config, self.predictor, self.fitting, self.tag = config, predictor, fitting, tag
        self.generator = torch.Generator().manual_seed(fitting.seed)
        self.rows = rows
        self.trial = rows.take(in_trial(rows, log.n_actions, config.trial_share, self.generator))
        judges = uniform(held, log.n_actions)
        self.held = held.take(judges) if judges.any() else held
        teacher = fit_predictor(
            config.network, log, self.trial, config.width, fitting, f"{tag}/teacher"
        )
        with torch.no_grad():
            self.teacher, self.known = teacher(rows), predictor(self.held)
        self.goal = Goal.of(choose_prices(predictor, rows, config.prices), predictor, self.trial)
        self.unit = rows.outcome.std(0, correction=0).clamp(min=1e-9)
        with seeded(fitting.seed):
            self.bridge = Bridge(rows, log.n_actions, log.horizon, config.width)
        self.gates = tuple(self.bridge.net.parameters())
        self.optimiser = torch.optim.Adam(self.gates, config.bridge_rate)

    def lower(self, index: Tensor) -> Tensor:
        """L of some rows."""
        rows = self.rows.take(index)
        return lower_loss(self.predictor, rows, self.teacher[index], self.bridge(rows), self.unit)

    def upper(self) -> Tensor:
        """L_DL of a batch of the trial."""
        rows = self.trial.take(self._batch(self.trial))
        return self.goal.loss(self.config, self.predictor(rows), rows)

    def correct(self, step: int) -> None:
        """Move the bridge, once every `inner` steps of the target."""
        if step % self.config.inner:
            return
        loss = self.upper()
        self.fitting.track(f"{self.tag}/trial/decision_loss", float(loss.detach()), step)
        found = hypergradient(
            loss, self.lower(self._batch(self.rows)), tuple(self.predictor.net.parameters()),
            self.gates, steps=self.config.solver_steps, damping=self.config.damping,
        )  # fmt: skip
        for parameter, gradient in zip(self.gates, found, strict=True):
            parameter.grad = gradient
        self.optimiser.step()

    def judge(self, step: int) -> float:
        """Minus both losses of the present target on users held out."""
        expected = self.predictor(self.held)
        curves = {
            "prediction_loss": float(self.predictor.loss(expected, self.held)),
            "decision_loss": float(self.goal.loss(self.config, expected, self.held)),
            "decision_value": decision_value(self.goal.prices, expected, self.held, self.known),
            "gate": float(self.bridge(self.held).mean()),
        }
        for name, number in curves.items():
            self.fitting.track(f"{self.tag}/held_out/{name}", number, step)
        return -curves["prediction_loss"] - curves["decision_loss"]

    def train(self) -> None:
        """Both levels in turn; the target ends with the state that was judged best."""
        config, name = self.config, f"{self.tag}/both"
        fitting = self.fitting._replace(epochs=config.epochs, learning_rate=config.learning_rate)
        train_on(self.predictor, self.lower, self.judge, self.rows, fitting, name, self.correct)

    def _batch(self, rows: UserDays) -> Tensor:
        return torch.randint(len(rows.arm), (self.config.batch,), generator=self.generator)
