"""From learned values to policies: best responses, and mixtures that follow the money."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents.common.fitted_q import ActionValues, greedy
from agents.common.frontier import Frontier
from agents.common.game import InfeasibleError, solve_master
from agents.common.support import Support
from agents.common.types import Array
from marketing_env import DayView, MixedPolicy

_ROWS = 8192  # users served at once


class Responder:
    """Best responses to every price, where the log supports them."""

    def __init__(
        self, values: ActionValues, prices: Tensor, support: Support | None, pessimism: float
    ) -> None:
        self.values, self.prices = values, prices  # (G, m)
        self.support, self.pessimism = support, pessimism

    def allowed(self, obs: Tensor, day: int) -> Tensor | None:
        """(n, K) bool, or None for every incentive."""
        return None if self.support is None else self.support.allowed(obs, day)

    @torch.no_grad()
    def act(self, view: DayView, head: int) -> Array:
        """(n,) best response to the price of one head."""
        obs = torch.as_tensor(np.ascontiguousarray(view.obs))
        parts = [
            greedy(
                self.values.members(rows, view.day, head), self.prices[[head]],
                self.allowed(rows, view.day), self.pessimism,
            )[:, 0]
            for rows in obs.split(_ROWS)
        ]  # fmt: skip
        return np.asarray(torch.cat(parts).numpy()) if parts else np.empty(0, dtype=np.int64)

    @torch.no_grad()
    def worth(self, view: DayView) -> Array:
        """(G, D) mean values-to-go over the users of a day, if each followed one head."""
        obs = torch.as_tensor(np.ascontiguousarray(view.obs))
        total = torch.zeros(len(self.prices), 1, dtype=torch.float64)
        for rows in obs.split(_ROWS):
            q = self.values.members(rows, view.day)
            choice = greedy(q, self.prices, self.allowed(rows, view.day), self.pessimism)
            index = choice[:, None, None].expand(-1, 1, q.shape[3], -1)
            total = total + q.mean(0).gather(1, index)[:, 0].double().sum(0).T
        return np.asarray((total / max(len(obs), 1)).numpy())


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
    plan of the campaign is kept where nothing is known about the money.
    """

    def __init__(
        self, plan: MixedPolicy, responder: Responder, frontier: Frontier, n_actions: int
    ) -> None:
        self.plan, self.responder, self.frontier = plan, responder, frontier
        heads = range(len(frontier.price))
        self.responses = [BestResponse(responder, head, n_actions) for head in heads]

    def probs(self, view: DayView) -> Array:
        if not np.isfinite(view.remaining_budget) or not len(view.obs):
            return self.plan.probs(view)
        left = np.full(self.frontier.price.shape[1], np.inf)
        left[0] = max(view.remaining_budget, 0.0)
        worth = self.responder.worth(view)
        worth[self.frontier.idle, 1:] = 0.0
        try:
            weight = solve_master(worth, left).weight
        except InfeasibleError:
            weight = np.eye(len(worth))[self.frontier.idle]
        used = np.flatnonzero(weight)
        return MixedPolicy([self.responses[k] for k in used], weight[used]).probs(view)
