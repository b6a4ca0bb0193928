"""A grid of prices chosen from the data: what would each price spend?"""

from __future__ import annotations

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
_SHARES = (0.95, 0.015)  # first and last share of the unconstrained spend
_CONTACTS = (0.7, 0.4, 0.2, 0.08)  # shares of the contacts without a price on them


def choose_prices(
    data: Panel,
    outcomes: OutcomeModel,
    uses: Tensor,
    count: int,
    seed: int = 0,
    allowed: Allowed | None = None,
    progress: str | None = None,
) -> Tensor:
    """(G, m) prices at which spending falls geometrically from all to almost nothing, then inf.

    A rough backward pass on a few users over a wide grid shows what each price would spend. The
    wide grid is centred on what a unit of money earns on the same day. With a second limit, every
    price of money meets every price of a contact, whose grid is chosen likewise at free money.

    Args:
        uses: (K, m - 1) what each incentive takes of the limits other than money.
        count: prices of money, the infinite one among them.
    """
    users = torch.randperm(data.n_users, generator=torch.Generator().manual_seed(seed))[:_USERS]
    few = data.take(users)
    money, gain = _day_price(few, outcomes)
    wide = torch.cat([torch.zeros(1), money * torch.logspace(-2.5, 1.8, 18)])[:, None]
    if uses.shape[1]:
        contact = gain * torch.logspace(-2.5, 1.3, 14)
        free = torch.zeros(len(contact))
        wide = torch.nn.functional.pad(wide, (0, 1))
        wide = torch.cat([wide, torch.stack([free, contact], dim=1)])
    member = FactoredMember(
        outcomes, uses, len(wide), width=64, joint=48, schedule=Schedule(120, 256), seed=seed
    )
    choose = greedy_choice(wide, allowed)
    fold = torch.zeros(few.n_users, dtype=torch.long)
    shape = (wide.shape[1] + 1, len(wide))
    first = backward_pass(few, fold, [member], choose, shape, progress=progress)
    worth = first.mean(0).double().numpy()
    grid = _spread(wide[:19, 0], worth[1, :19], np.geomspace(*_SHARES, count - 1))
    if not uses.shape[1]:
        return torch.tensor([*grid, np.inf], dtype=torch.float32)[:, None]
    by_contact = worth[2, [0, *range(19, len(wide))]]
    contacts = _spread(torch.cat([torch.zeros(1), contact]), by_contact, np.array(_CONTACTS))
    pairs = torch.cartesian_prod(
        torch.tensor(grid, dtype=torch.float32), torch.tensor(contacts, dtype=torch.float32)
    )
    return torch.cat([pairs, torch.full((1, 2), torch.inf)])


def _spread(price: Tensor, spend: Array, shares: Array) -> Array:
    """0, and the prices at which spending is the given shares of that at price 0."""
    # Spending must fall with the price; a rough pass may disagree with itself by a little.
    spend = np.minimum.accumulate(np.maximum(spend, 1e-6 * abs(spend[0]) + 1e-12))
    wanted = np.log(shares * spend[0])
    found = np.interp(-wanted, -np.log(spend[1:]), np.log(price[1:].numpy()))
    return np.unique(np.concatenate([[0.0], np.exp(found)]))


def _day_price(data: Panel, outcomes: OutcomeModel) -> tuple[float, float]:
    """What incentives earn on the day they are offered: per unit of money, and per offer."""
    rows = data.user_days()[:: data.horizon + 1]  # every weekday in turn
    user, day = rows // data.horizon, rows % data.horizon
    with torch.no_grad():
        reward, cost = outcomes(data.obs[user, day], day).mean()
    gain = (reward[:, 1:] - reward[:, :1]).abs().mean()
    extra = (cost[:, 1:] - cost[:, :1]).abs().mean()
    return float(gain / extra.clamp(min=1e-9)) or 1.0, float(gain) or 1.0
