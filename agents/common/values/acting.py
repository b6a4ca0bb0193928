"""From learned values to policies: best responses, and mixtures that follow the money."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from agents.common.buckets import left_out
from agents.common.games.frontier import Frontier
from agents.common.games.game import InfeasibleError, solve_master
from agents.common.types import Array
from agents.common.values.fitted_q import ActionValues, greedy
from agents.common.values.support import Support
from marketing_env import DayView, MixedPolicy

_ROWS = 8192  # users served at once


class Responder:
    """Best responses to every price, where the log supports them.

    Each user is served by all members but one, drawn by its bucket. So are the users of the log
    when their values are estimated (`fitted_q.py`), the one left out being the judge: what acts is
    then what was judged. The mean of all members would be another policy, which spends less.
    """

    def __init__(
        self, values: ActionValues, prices: Tensor, support: Support | None, pessimism: float
    ) -> None:
        self.values, self.prices = values, prices  # (G, m)
        self.support, self.pessimism = support, pessimism

    def allowed(self, obs: Tensor, day: int) -> Tensor | None:
        """(n, K) bool, or None for every incentive."""
        return None if self.support is None else self.support.allowed(obs, day)

    def act(self, view: DayView, head: int) -> Array:
        """(n,) best response to the price of one head."""
        action = np.empty(len(view.obs), dtype=np.int64)
        for rows, obs, acting in self._served(view):
            q = acting.members(obs, view.day, head)
            action[rows] = self._greedy(q, obs, view.day, self.prices[[head]])[:, 0]
        return action

    def worth(self, view: DayView) -> Array:
        """(G, D) mean values-to-go over the users of a day, if each followed one head."""
        total = torch.zeros(len(self.prices), 1, dtype=torch.float64)
        for _, _, value in self.proposals(view):
            total = total + value.double().sum(0).T
        return np.asarray((total / max(len(view.obs), 1)).numpy())

    def proposals(self, view: DayView) -> Iterator[tuple[Array, Tensor, Tensor]]:
        """Some users at a time: their rows, every head's action (u, G) and values-to-go (u, D, G).

        A head's values are what follows if it decides to the end.
        """
        for rows, obs, acting in self._served(view):
            q = acting.members(obs, view.day)
            choice = self._greedy(q, obs, view.day, self.prices)
            index = choice[:, None, None].expand(-1, 1, q.shape[3], -1)
            yield rows, choice, q.mean(0).gather(1, index)[:, 0]

    def _greedy(self, q: Tensor, obs: Tensor, day: int, prices: Tensor) -> Tensor:
        return greedy(q, prices, self.allowed(obs, day), self.pessimism)

    def _served(self, view: DayView) -> Iterator[tuple[Array, Tensor, ActionValues]]:
        """Some users at a time: their rows, what is seen of them, and who serves them."""
        idle = left_out(view.bucket, len(self.values.each))
        with torch.no_grad():
            for member in np.unique(idle):
                acting = self.values.without(member)
                users = np.flatnonzero(idle == member)
                for start in range(0, len(users), _ROWS):
                    rows = users[start : start + _ROWS]
                    yield rows, torch.as_tensor(view.obs[rows], device=self.prices.device), acting


class BestResponse:
    """The greedy policy of one price."""

    def __init__(self, responder: Responder, head: int, n_actions: int) -> None:
        self.responder, self.head, self.n_actions = responder, head, n_actions

    def probs(self, view: DayView) -> Array:
        if torch.isinf(self.responder.prices[self.head]).any():
            action = np.zeros(len(view.obs), dtype=np.int64)
        else:
            action = self.responder.act(view, self.head)
        return np.asarray(np.eye(self.n_actions)[action])


class PacedMixture:
    """A mixture whose weights are solved again every morning for the money that is left.

    The values-to-go of the users who are there say what each best response would still spend; the
    plan of the campaign is kept where nothing is known about the money. Of other limits, whose rest
    nobody tells, a morning's mixture takes no more than the plan would from there on.
    """

    def __init__(
        self, responses: Sequence[BestResponse], weight: Array, limits: Sequence[float],
        responder: Responder, frontier: Frontier,
    ) -> None:  # fmt: skip
        """weight: (G,) the plan of the campaign, which keeps the limits (m,)."""
        self.responses, self.weight, self.limits = responses, weight, limits
        self.responder, self.frontier = responder, frontier

    def probs(self, view: DayView) -> Array:
        if not np.isfinite(view.remaining_budget) or not len(view.obs):
            return self._mixed(self.weight).probs(view)
        worth, idle = self.responder.worth(view), self.frontier.idle
        worth[idle, 1:][self.frontier.free] = 0.0
        left = np.where(np.isinf(self.limits), np.inf, self.weight @ worth[:, 1:])
        left[0] = max(view.remaining_budget, 0.0)
        try:
            weight = solve_master(worth, left).weight
        except InfeasibleError:
            weight = np.eye(len(worth))[idle]
        return self._mixed(weight).probs(view)

    def _mixed(self, weight: Array) -> MixedPolicy:
        used = np.flatnonzero(weight)
        return MixedPolicy([self.responses[k] for k in used.tolist()], weight[used])
