"""Do the log's columns hold the users' state? The sums of their rewards tell.

If a day depends on what the log shows of it and on nothing else, then what it brings beyond the
outcome model's expectation,

    e_t = r_t - E[r_t | s_t, a_t],

is uncorrelated between the days of a user, and sums of it vary as much as its squares add up to:

    phi = E[(sum_t e_t)^2] / E[sum_t e_t^2] = 1.

Where users differ in something that no column shows, the e_t of one user are alike, and phi is
larger. Values then take what users are for what their state does to them (Heckman, Heterogeneity
and State Dependence, 1981): they exaggerate how much incentives change, and gains with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from agents.common.tensors import Panel
from agents.common.values.fitted_q import ROWS
from agents.common.values.response import OutcomeModel

_USERS = 20_000  # enough to know the ratio within a hundredth


class Dispersion(NamedTuple):
    """Variance of users' unexplained sums of rewards, relative to what the model expects."""

    ratio: float | None = None
    error: float = 0.0  # standard error


@torch.no_grad()
def dispersion(data: Panel, fold: Tensor, models: Sequence[OutcomeModel]) -> Dispersion:
    """Phi of users whom their judge did not see; None of one model, which saw everybody.

    Args:
        fold: (n,) of each user; model f was fitted without the users of fold f.
    """
    if len(models) < 2:
        return Dispersion()
    totals, squares = [], []
    for f, model in enumerate(models):
        some = data.take((fold == f).nonzero()[: _USERS // len(models), 0])
        left = torch.zeros_like(some.reward, dtype=torch.float64)  # 0 on days without the user
        for rows in some.user_days().split(ROWS):
            expected, _ = model(*some.mornings(rows)).mean()
            logged = some.happened(rows)
            given = expected.gather(1, logged.action[:, None])[:, 0]
            left.view(-1)[rows] = (logged.reward - given).double()
        totals.append(left.sum(1).square())
        squares.append(left.square().sum(1))
    total, square = torch.cat(totals), torch.cat(squares)
    if not square.any():
        return Dispersion(1.0, 0.0)
    ratio = total.mean() / square.mean()
    spread = ((total - ratio * square) / square.mean()).std()
    return Dispersion(float(ratio), float(spread) / len(total) ** 0.5)
