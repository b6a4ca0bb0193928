"""BCRLSP: an offline Q-function for the long run, a linear program for each day's money.

Learned once: Q(s, a), the reward-to-go of giving incentive a today and following the best policy
without a budget after it, kept to incentives that the log tried. Every morning, the day's money is
allocated over all users who are there by an exact multiple-choice knapsack,

    max sum_ij Q(s_i, j) z_ij   s.t.  sum_ij c(s_i, j) z_ij <= remaining / days left,
                                      sum_j z_ij = 1,  z_ij >= 0

with c the expected cost of the day. The budget is kept by construction, whatever it is, and no
price has to be found. Its weakness is known: Q takes it for granted that money is free from
tomorrow on, and the days' shares of the money are not chosen.

Source: Chen et al., BCRLSP: An Offline Reinforcement Learning Framework for Sequential Targeted
Promotion, arXiv 2207.07790.

Differences from the paper:
1. Q is of a finite horizon, without discount, from one backward pass of cross-fitted members
   (`values/responses.py`), where the paper trains a deep Q-network until it stops improving;
   `oracle="plain"` regresses on logged outcomes like the paper.
2. The batch constraint is an absolute threshold on logging probabilities (`values/support.py`).
3. The linear program is solved exactly, in near linear time (`common/knapsack.py`).
4. The day's cost is the expected one, not the face value: coupons that nobody redeems are free.
5. The forecast is fitted Q evaluation, on held-out users, of the knapsacks of some budgets. Their
   prices are those of an audience in the states of the log, so it is rougher than the plan itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agents.common import files
from agents.common.games.frontier import Frontier
from agents.common.nets import Track, no_track
from agents.common.one_day.daily import DailyKnapsack, State, check_budget, solve_day, supported
from agents.common.types import Array, Forecast
from agents.common.values.family import recorded, with_judge
from agents.common.values.responses import Responses, Settings, learn_responses
from marketing_env import LoggedDataset, Policy

METHOD = "bcrlsp"
_ROWS = 8192  # users valued at once


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the values (see `values/responses.py`) and of the plan."""

    prices: int = 2  # of the backward pass: only free money and no incentives are needed
    pacing: bool = True  # spread what remains over the days left; else a fixed share a day
    judge_share: float = 0.3  # of users, kept from the learner to evaluate its plans
    judged: int = 8  # budgets at which plans are evaluated


class DayValues:
    """Reward-to-go under free money, and cost of the day, under every incentive."""

    def __init__(self, responses: Responses) -> None:
        self.values, self.idle = responses.responder.values, responses.frontier.idle

    @torch.no_grad()
    def predict(self, obs: Array, day: int) -> Array:
        """(n, K, 2)"""
        parts = []
        for rows in torch.as_tensor(np.ascontiguousarray(obs)).split(_ROWS):
            free = self.values.mean(rows, day, 0)[:, :, 0, 0]
            # What an incentive costs if none follows it is what it costs today.
            today = self.values.mean(rows, day, self.idle)[:, :, 1, 0]
            parts.append(torch.stack([free, today], dim=-1))
        return np.asarray(torch.cat(parts).double().numpy())

    def state(self) -> State:
        return State({}, {})


@dataclass(frozen=True)
class Model:
    """Trained values; a budget is only needed when money is allocated."""

    config: Config
    responses: Responses = field(repr=False)
    judged: Frontier  # plans at some budgets, and giving nothing

    def policy(self, budget: float) -> Policy:
        """One knapsack a day; budget in currency per user per campaign.

        Raises:
            ValueError: if the budget is negative or no number.
        """
        check_budget(budget)
        r = self.responses
        return DailyKnapsack([DayValues(r)], budget, r.horizon, self.config.pacing, r.support)

    def forecast(self, budget: float) -> Forecast:
        """What held-out users say of plans that spend the budget, with errors."""
        return self.judged.forecast((budget,))

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        self.responses.save(folder, METHOD, self.config, judged=self.judged.lists())


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> Model:
    """Learn from a log alone; one training serves every budget.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
    """
    learn, judge = with_judge(log, config, seed, track)
    responses = learn_responses(learn, config, seed, track=track)
    top = float(responses.frontier.value[0, 1])
    budgets = np.append(np.inf, top * np.geomspace(0.8, 0.02, config.judged - 1))
    choice, price = _plans(responses, judge.log, budgets)
    prices = torch.tensor([*price, np.inf], dtype=torch.float32)[:, None]
    judged = judge.verdict(recorded(choice, log.n_actions), prices, config.risk).frontier
    return Model(config, responses, judged)


def load(folder: str | Path) -> Model:
    """Read a model that `Model.save` wrote."""
    meta = files.read_meta(folder)
    config = Config(**meta["config"])
    judged = Frontier.from_lists(meta["judged"])
    return Model(config, Responses.load(folder, config, meta), judged)


def _plans(responses: Responses, log: LoggedDataset, budgets: Array) -> tuple[Tensor, Array]:
    """(n, T, G) incentives that the knapsacks of each budget give, and their mean prices (G,)."""
    values, support = DayValues(responses), responses.support
    choice = np.zeros((*log.action.shape, len(budgets)), dtype=np.int64)
    price = np.zeros((log.horizon, len(budgets)))
    for day in range(log.horizon):
        here = np.flatnonzero(log.valid[:, day])
        obs = log.obs[here, day]
        expected = supported(values.predict(obs, day), support, obs, day)
        for g, budget in enumerate(budgets):
            solution = solve_day(expected, float(budget) / log.horizon)
            choice[here, day, g], price[day, g] = solution.choice, solution.price
    return torch.as_tensor(choice), price.mean(axis=0)
