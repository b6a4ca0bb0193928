"""A grid of prices chosen from the data: what would each price spend?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from agents.common.nets import Schedule
from agents.common.tensors import Panel
from agents.common.types import Array
from agents.common.values.factored_q import FactoredMember
from agents.common.values.fitted_q import Allowed, backward_pass, greedy_choice
from agents.common.values.response import OutcomeModel

_USERS = 6000  # enough to see what a price spends to a tenth or so
_STEPS = 120  # gradient steps a day, likewise
_SHARES = (0.95, 0.015)  # first and last share of the unconstrained spend
_CONTACTS = (0.7, 0.4, 0.2, 0.08)  # shares of the contacts without a price on them
_TRIED = (-2.5, 1.8, 18)  # decades of prices about what a unit earns on its day, and their number
_ROUNDS = 3  # of further prices, where spending falls too fast between those tried
_FALL = 3.0  # which is by more than this factor

Spending = Callable[[Tensor], Array]
"""From prices (G,) to what each spends, roughly."""


def choose_prices(
    data: Panel,
    outcomes: OutcomeModel,
    uses: Tensor,
    count: int,
    seed: int = 0,
    allowed: Allowed | None = None,
    *,
    steps: int = _STEPS,
    progress: str | None = None,
) -> Tensor:
    """(G, m) prices at which spending falls geometrically from all to almost nothing, then inf.

    A rough backward pass on a few users over a wide grid shows what each price would spend. The
    wide grid is centred on what a unit of money earns on the same day. With a second limit, every
    price of money meets every price of a contact, whose grid is chosen likewise at free money.

    Args:
        uses: (K, m - 1) what each incentive takes of the limits other than money.
        count: prices of money, the infinite one among them.
        steps: gradient steps a day of the learner that asks; below 60, twice as many here.
    """
    users = torch.randperm(data.n_users, generator=torch.Generator().manual_seed(seed))[:_USERS]
    few, schedule = data.take(users), Schedule(min(2 * steps, _STEPS), 256)

    def spent(limit: int, tried: Tensor) -> Array:
        """What each price on one limit takes of it, if the others are free."""
        prices = torch.zeros(len(tried), 1 + uses.shape[1])
        prices[:, limit] = tried
        member = FactoredMember(
            outcomes, uses, len(prices), width=64, joint=48, schedule=schedule, seed=seed
        )
        choose, everyone = greedy_choice(prices, allowed), torch.zeros(few.n_users).long()
        shape = (1 + prices.shape[1], len(prices))
        first = backward_pass(few, everyone, [member], choose, shape, progress=progress)
        return np.asarray(first[:, 1 + limit].double().mean(0).numpy())

    money, contact = _day_price(few, outcomes)
    grid = prices_spending(partial(spent, 0), money, np.geomspace(*_SHARES, count - 1))
    if not uses.shape[1]:
        return torch.tensor([*grid, np.inf], dtype=torch.float32)[:, None]
    contacts = prices_spending(partial(spent, 1), contact, np.array(_CONTACTS))
    pairs = torch.cartesian_prod(
        torch.tensor(grid, dtype=torch.float32), torch.tensor(contacts, dtype=torch.float32)
    )
    return torch.cat([pairs, torch.full((1, 2), torch.inf)])


def prices_spending(spending: Spending, unit: float, shares: Array) -> Array:
    """0, and the prices at which spending is the given falling shares of that at price 0."""
    price = torch.cat([torch.zeros(1), unit * torch.logspace(*_TRIED)])
    spend = spending(price)
    for _ in range(_ROUNDS):
        missing = _missing(price, spend, shares[-1] * spend[0])
        if not len(missing):
            break
        price, order = torch.cat([price, missing]).sort()
        spend = np.append(spend, spending(missing))[order.numpy()]
    # Spending must fall with the price; a rough pass may disagree with itself by a little.
    spend = np.minimum.accumulate(np.maximum(spend, 1e-6 * abs(spend[0]) + 1e-12))
    wanted = np.log(shares * spend[0])
    found = np.interp(-wanted, -np.log(spend[1:]), np.log(price[1:].numpy()))
    return np.unique(np.concatenate([[0.0], np.exp(found)]))


def _missing(price: Tensor, spend: Array, least: float) -> Tensor:
    """Prices between two where spending falls steeply, and beyond the last if it spends too much.

    Args:
        least: spending that matters.
    """
    known = np.minimum.accumulate(np.maximum(spend, least))
    steep = np.flatnonzero(known[1:-1] > _FALL * known[2:]) + 1
    between = [np.geomspace(price[i], price[i + 1], 7)[1:-1] for i in steep]
    beyond = price[-1] * torch.logspace(0.25, 2.0, 8)[: 8 * int(known[-1] > least)]
    return torch.tensor(np.concatenate([*between, beyond]), dtype=torch.float32)


def _day_price(data: Panel, outcomes: OutcomeModel) -> tuple[float, float]:
    """What incentives earn on the day they are offered: per unit of money, and per offer."""
    rows = data.user_days()[:: data.horizon + 1]  # every weekday in turn
    with torch.no_grad():
        reward, cost = outcomes(*data.mornings(rows)).mean()
    gain = (reward[:, 1:] - reward[:, :1]).abs().mean()
    extra = (cost[:, 1:] - cost[:, :1]).abs().mean()
    return float(gain / extra.clamp(min=1e-9)) or 1.0, float(gain) or 1.0
