"""Decisions at prices of money: which prices, in which units, and what decisions are worth.

At a price lambda, predictions give user i the arm argmax_j rhat_ij - lambda chat_ij. What that
earns, net of lambda times what it costs, is comparable between prices in units of each: net values
in standard deviations of the log, leads of one arm before another in their median.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.common.knapsack import cost_curve
from agents.common.one_day.focused import evenly
from agents.common.one_day.predictors import Predictor
from agents.common.one_day.representation import UserDays

_SAMPLE = 20_000  # user-days that show prices and gaps
_SHARES = (0.9, 0.01)  # of the unconstrained spend, between which prices bind


class Prices(NamedTuple):
    """Prices of money, and the units of decisions at each."""

    price: Tensor  # (G,) reward per currency, rising
    gap: Tensor  # (G,) median lead of the best arm's score
    spread: Tensor  # (G,) standard deviation of logged net values

    def net(self, outcome: Tensor) -> Tensor:
        """(G, ...) reward - price * cost of outcomes (..., 2)."""
        price = self.price.reshape(-1, *[1] * (outcome.dim() - 1))
        return outcome[..., 0] - price * outcome[..., 1]


def choose_prices(predictor: Predictor, rows: UserDays, count: int) -> Prices:
    """Prices at which geometric shares of the unconstrained spend bind, by predictions on rows."""
    few = evenly(rows, _SAMPLE)
    with torch.no_grad():
        expected = predictor(few)
    curve = cost_curve(*expected.double().unbind(-1))
    least, most = curve.budget[0], curve.budget[-1]
    budgets = least + np.geomspace(*_SHARES, count) * (most - least)
    units = torch.ones(count)
    prices = Prices(torch.as_tensor(curve.price_at(budgets), dtype=torch.float32), units, units)
    first, second = prices.net(expected).topk(2, dim=-1).values.unbind(-1)
    spread = prices.net(few.outcome).std(-1, correction=0).clamp(min=1e-9)
    gap = torch.maximum((first - second).median(-1).values, 1e-4 * spread)
    return Prices(prices.price, gap, spread)


def decision_value(prices: Prices, expected: Tensor, rows: UserDays, model: Tensor) -> float:
    """Doubly robust net value of the decisions, in standard deviations, mean over prices.

    Args:
        model: (m, K, 2) predictions by what did not learn from the user.
    """
    told = prices.net(model)
    choice = prices.net(expected).argmax(-1)  # (G, m)
    unexplained = prices.net(rows.outcome - rows.logged(model))
    weight = model.shape[1] * rows.weight * (choice == rows.arm)
    value = told.gather(-1, choice[..., None])[..., 0] + weight * unexplained
    return float((value.mean(-1) / prices.spread).mean())
