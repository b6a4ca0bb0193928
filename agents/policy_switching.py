"""Switching between policies: every day the boldest one that the money left still allows.

Heads trained for different trade-offs each propose an incentive. A user follows, for this day, the
head with the best reward-to-go among those whose cost-to-go keeps what is left of the budget; if
there is none, the head that spends least, which gives nothing:

    head(s) = argmax_h Q_r[t,h](s, a_h)   over the heads with   Q_c[t,h](s, a_h) <= limit_t

Source: Chemingui et al., Constraint-Adaptive Policy Switching for Offline Safe Reinforcement
Learning, AAAI 2025, arXiv 2412.18946.

Differences from the paper:
1. Heads are best responses to prices from one offline pass (`values/fitted_q.py`), instead of
   actors weighted by mixed advantages; each is judged by its own values, reward and cost of
   following it to the end, instead of by one critic for the best reward and one for the least cost.
2. The budget binds the mean of all users: the limit is raised until the mean of what they will
   spend is what is left (`limit="mean"`). With the paper's limit for everyone (`limit="each"`),
   money that one user does not need is not given to another.
3. What is left is the campaign's remaining money per user, as nobody's own account is seen. Where
   it is unknown, it is the budget times the share that the main method's plan for this budget still
   has to spend at that day, on the log's states.
4. The forecast is that of keeping the head of the first morning. Later switches follow the same
   rule, so they earn more, as far as the values are right.
5. Costs carry the main method's margin for estimation errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from agents.common import files
from agents.common.nets import Track, no_track
from agents.common.types import Array, Forecast
from agents.common.values.acting import Responder
from agents.common.values.responses import Responses, Settings, learn_responses
from marketing_env import DayView, LoggedDataset

METHOD = "policy_switching"
_USERS = 2000  # of the log, who tell what policies still spend on each day
_HALVINGS = 20  # of the range in which the common limit lies


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the oracle, and of the switching."""

    heads: int = 4  # policies to switch between, from free spending to none
    limit: Literal["mean", "each"] = "mean"  # whose cost-to-go has to keep what is left


class Switching:
    """The rule for one budget."""

    def __init__(self, responder: Responder, rule: Rule, left: Array, n_actions: int) -> None:
        self.responder, self.rule, self.n_actions = responder, rule, n_actions
        self.left = left  # (T,) currency per user, where the remaining money is unknown

    def probs(self, view: DayView) -> Array:
        n, heads = len(view.obs), self.rule.heads
        action, value = np.zeros((n, len(heads)), np.int64), np.zeros((n, 2, len(heads)))
        for rows, proposed, worth in self.responder.proposals(view):
            action[rows], value[rows] = proposed[:, heads], worth[:, :2, heads]
        known = np.isfinite(view.remaining_budget)
        left = max(view.remaining_budget, 0.0) if known else float(self.left[view.day])
        head = self.rule.choose(value, left)
        return np.asarray(np.eye(self.n_actions)[action[np.arange(n), head]])


class Rule(NamedTuple):
    """Which head a user follows."""

    heads: Array  # (H,) the last gives nothing
    margin: Array  # (H,) factor on costs-to-go
    each: bool  # everyone's cost-to-go keeps what is left, not only the mean

    def choose(self, value: Array, left: float) -> Array:
        """(n,) index of a head, from reward- and cost-to-go (n, 2, H) and currency per user."""
        if left == 0:  # whatever a network takes for free
            return np.full(len(value), len(self.heads) - 1)
        cost = value[:, 1] * self.margin
        low, high = left, float(cost.max(initial=0.0))
        for _ in range(0 if self.each else _HALVINGS):
            limit = (low + high) / 2
            head = switch(value[:, 0], cost, limit)
            fits = cost[np.arange(len(cost)), head].mean() <= left if len(cost) else True
            low, high = (limit, high) if fits else (low, limit)
        return switch(value[:, 0], cost, low)


def switch(reward: Array, cost: Array, limit: float) -> Array:
    """(n,) the head with the best reward of those whose cost fits; the last one always does."""
    fits = cost <= limit
    fits[:, -1] = True
    return np.asarray(np.where(fits, reward, -np.inf).argmax(axis=1))


@dataclass(frozen=True)
class Model:
    """Trained heads, and what they spend over the days."""

    config: Config
    responses: Responses
    to_go: Array  # (T, G) mean cost-to-go of each response on the days of the log
    morning: Array = field(repr=False)  # (n, D, G) values-to-go of users of the log on day 0

    @property
    def heads(self) -> Array:
        """(H,) responses at equal distances between free spending and none."""
        by_price = np.argsort(self.responses.frontier.price[:, 0], kind="stable")
        steps = np.linspace(0, len(by_price) - 1, max(self.config.heads, 2))
        return by_price[np.unique(steps.round().astype(int))]

    def policy(self, budget: float) -> Switching:
        """The rule at a budget, in currency per user per campaign.

        Raises:
            ValueError: if the budget is NaN or below what giving no incentives costs.
        """
        known = self.responses
        weight = known.frontier.mix([budget]).weight
        spends = self.to_go @ weight
        share = spends / spends[0] if spends[0] > 0 else np.ones(len(spends))
        left = np.where(share > 0, budget, 0.0) * np.where(share > 0, share, 1.0)
        return Switching(known.responder, self._rule(), left, known.n_actions)

    def forecast(self, budget: float) -> Forecast:
        """What the model expects of `policy(budget)`, with errors and certificate."""
        frontier, value = self.responses.frontier, self.morning[:, :, self.heads]
        frontier.mix([budget])
        head = self._rule().choose(value, budget)
        weight = np.bincount(self.heads[head], minlength=len(frontier.price)) / len(head)
        followed = value[np.arange(len(head)), :, head].mean(axis=0)
        by_chance = self.morning.mean(axis=0) @ weight
        return frontier.forecast_of(weight, [budget], len(self.heads), followed - by_chance)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        tensors = {"to_go": torch.as_tensor(self.to_go), "morning": torch.as_tensor(self.morning)}
        self.responses.save(folder, METHOD, self.config, tensors)

    def _rule(self) -> Rule:
        """Costs-to-go carry the frontier's margin as a factor; giving nothing is no estimate."""
        frontier, heads = self.responses.frontier, self.heads
        cost, cautious = frontier.value[heads, 1], frontier.cautious[heads, 1]
        margin = np.divide(cautious, cost, out=np.zeros(len(heads)), where=cost > 0)
        return Rule(heads, margin, self.config.limit == "each")


def fit(
    log: LoggedDataset,
    config: Config = Config(),
    seed: int = 0,
    *,
    track: Track = no_track,
    responses: Responses | None = None,
) -> Model:
    """Learn from a log alone; one training serves every budget.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
        responses: best responses that were learned from the log before.
    """
    responses = responses or learn_responses(log, config, seed, track=track)
    responder, idle = responses.responder, responses.frontier.idle
    to_go = np.stack([responder.worth(some_users(log, day))[:, 1] for day in range(log.horizon)])
    parts = [value.double().numpy() for _, _, value in responder.proposals(some_users(log, 0))]
    morning = np.ascontiguousarray(np.concatenate(parts))
    to_go[:, idle], morning[:, 1:, idle] = 0.0, 0.0
    model = Model(config, responses, to_go, morning)
    for i, share in enumerate(np.linspace(0.1, 1, 10)):
        expected = model.forecast(share * float(responses.frontier.cautious[:, 1].max()))
        track("switching/reward", expected.reward, i)
        track("switching/cost", expected.cost, i)
    return model


def load(folder: str | Path) -> Model:
    """Read a model that `Model.save` wrote."""
    meta, tensors = files.read_meta(folder), files.read_tensors(folder)
    config = Config(**meta["config"])
    responses = Responses.load(folder, config, meta)
    return Model(config, responses, tensors["to_go"].numpy(), tensors["morning"].numpy())


def some_users(log: LoggedDataset, day: int) -> DayView:
    """The first users of the log who are there on a day."""
    users = np.flatnonzero(log.valid[:, day])[:_USERS]
    return DayView(log.obs[users, day], log.bucket[users], day, np.inf)
