"""What is served, by how a method was saved.

responses   a user follows the best response to one price, chosen by its bucket, with the choices of
            the trained policy (`responses.py`); methods that play a game for every budget
            (`price_games.py`) play it in torch, once a budget
members     argmax_j rhat_j - price(day) * chat_j, at the price at which the day's knapsack on the
            log's users spends the day's money (`daily.py`)
clusters    the incentive of the user's cluster, by the day's table (`cluster.py`)
any other   the trained policy itself, in torch, at its own speed; one that remembers earlier days
            knows no more than the day it is asked about

A user's answer depends on that user alone; `offers` are what an allocation of one budget to many
users chooses from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from agents.common.buckets import left_out, redrawn
from agents.common.games.frontier import Frontier
from agents.common.games.game import InfeasibleError
from agents.common.knapsack import CostCurve, cost_curve
from agents.common.one_day.cluster_program import Outcomes
from agents.common.one_day.cluster_tables import Judged, Tables
from agents.common.served.inference import Weights, by_chunks, chunks, on_all_cores, under, users_of
from agents.common.served.served_responses import Classifier, mean_of, read_response
from agents.common.served.served_values import FactoredValues, PlainValues, Support
from agents.common.types import Array
from marketing_env import DayView, MixedPolicy

_RECENT = 256  # budgets whose plans are kept
_TURN = 0.6180339887498949  # of the buckets from day to day, for policies that draw


class Decision(NamedTuple):
    """What a user is offered; arrays (n,), or numbers for one user."""

    incentive: Any  # int
    reward: Any  # expected: from this day on if values-to-go are known, of this day else
    cost: Any  # currency, likewise; NaN where the model knows neither
    component: Any  # int: which policy of a mixture, or cluster; else 0


class Offers(NamedTuple):
    """What a user could get, J items of which an allocation chooses one."""

    incentive: Array  # (n, J) uint8
    reward: Array  # (n, J) float32
    cost: Array  # (n, J) float32, currency
    component: Array  # (n, J) uint8


class Rule(Protocol):
    """How a kind of model decides."""

    mixes: bool  # offers are policies for the rest of the campaign, else incentives for the day

    def __call__(self, obs: Array, day: int, bucket: Array, budget: float) -> Decision:
        """Decisions for users (n, d) at a campaign's budget per user."""
        ...

    def offers(self, obs: Array, day: int, bucket: Array, budget: float) -> Offers:
        """What an allocation may choose for each user; it, not the rule, keeps the budget.

        budget: as above; it matters to policies that are another one for every budget.
        """
        ...


class Responses:
    """Mixtures of best responses to prices, as `responses.Responses` are mixed."""

    mixes = True

    def __init__(
        self,
        frontier: Frontier,
        members: list[dict[str, Array]],
        horizon: int,
        support: Support | None,
        pessimism: float,
        weigh: Callable[[float], Array],
    ) -> None:
        """weigh: from a budget to the weight (G,) of each response."""
        self.frontier, self.support, self.pessimism = frontier, support, pessimism
        self.weigh, self.n_members = weigh, len(members)
        self.prices = frontier.price.astype(np.float32)
        kind = FactoredValues if "outcomes.mean" in members[0] else PlainValues
        self.values = [
            kind(members[:e] + members[e + 1 :] or members, horizon) for e in range(len(members))
        ]
        self.mix = lru_cache(_RECENT)(self._mix)

    @classmethod
    def read(
        cls,
        meta: Mapping[str, Any],
        weights: Weights,
        weigh: Callable[[float], Array] | None = None,
        **limits: float,
    ) -> Responses:
        """A saved model; without `weigh`, responses are mixed as `Frontier.mix` says."""
        config, horizon = meta["config"], meta["horizon"]
        frontier = Frontier.from_lists(meta["frontier"])
        others = tuple(limits.values())
        free = frontier.price.shape[1] - 1 - len(others)
        if set(limits) - {"contacts"} or free < 0:
            raise ValueError(f"limits = {limits}: allowed is contacts, if trained with it")
        all_limits = *others, *[math.inf] * free
        support = under("support", weights)
        return cls(
            frontier,
            [under(f"member.{e}", weights) for e in range(config["folds"])],
            horizon,
            Support(support, horizon, config["least_support"]) if support else None,
            config["pessimism"],
            weigh or _weigh(frontier, all_limits),
        )

    def __call__(self, obs: Array, day: int, bucket: Array, budget: float) -> Decision:
        heads, edges = self.mix(budget)
        head = heads[np.searchsorted(edges, bucket, side="right")]
        asked = [(heads[[i]], head == g) for i, g in enumerate(heads)]
        action, worth = self.respond(obs, day, bucket, asked)
        reward, cost = worth[:, 0, :2].T
        return Decision(action[:, 0], reward, cost, head)

    def offers(self, obs: Array, day: int, bucket: Array, budget: float) -> Offers:
        """Of every response, from this day on."""
        heads = np.arange(len(self.prices))
        everyone = np.ones(len(obs), dtype=bool)
        action, worth = self.respond(obs, day, bucket, [(heads, everyone)])
        reward, cost = np.moveaxis(worth[..., :2].astype(np.float32), -1, 0)
        component = np.broadcast_to(heads.astype(np.uint8), action.shape)
        return Offers(action.astype(np.uint8), reward, cost, component)

    def _mix(self, budget: float) -> tuple[Array, Array]:
        """(H,) responses in use, and the buckets at which each but the first begins."""
        try:
            weight = self.weigh(budget)
        except InfeasibleError:
            weight = np.eye(len(self.prices))[self.frontier.idle]
        heads = np.flatnonzero(weight)
        return heads, np.cumsum(weight[heads] / weight[heads].sum())[:-1]

    def respond(
        self, obs: Array, day: int, bucket: Array, asked: Sequence[tuple[Array, Array]]
    ) -> tuple[Array, Array]:
        """(n, H) best responses of the members that serve each user, and (n, H, D) their values.

        asked: pairs of responses (H,), and of who is asked about them, (n,) bool.
        """
        served, n_heads = left_out(bucket, self.n_members), len(asked[0][0])
        action = np.empty((len(obs), n_heads), dtype=np.int64)
        worth = np.empty((len(obs), n_heads, 1 + self.prices.shape[1]))
        # Users of one member and one mixture's part at a time: nothing else is computed for them.
        jobs = [
            (values, heads, rows)
            for member, values in enumerate(self.values)
            for heads, who in asked
            for rows in chunks(np.flatnonzero(who & (served == member)))
            if len(rows)
        ]

        def answer(job: tuple[FactoredValues | PlainValues, Array, Array]) -> None:
            values, heads, rows = job
            action[rows], worth[rows] = self._best(values, obs[rows], day, heads)

        on_all_cores(answer, jobs)
        return action, worth

    def _best(
        self, values: FactoredValues | PlainValues, obs: Array, day: int, heads: Array
    ) -> tuple[Array, Array]:
        """(n, H) best response to each price, and (n, H, D) its values."""
        q, prices = values(obs, day, heads), self.prices[heads]  # (E, B, D, H, K, 16)
        idle, mean = np.isinf(prices).any(axis=1), q.mean(axis=0)
        prices = np.where(np.isinf(prices), 0, prices)
        score = _net(mean, prices)
        if self.pessimism and len(q) > 1:
            each = _net(q, prices)
            score -= self.pessimism * (each - each[:, :, :, :1]).std(axis=0, ddof=1)
        score, mean = users_of(score, len(obs)), users_of(mean, len(obs))
        if self.support is not None:
            score = np.where(self.support(obs, day)[:, None], score, -np.inf)
        choice = np.where(idle, 0, score.argmax(axis=2))  # (n, H)
        worth = np.take_along_axis(mean, choice[:, None, :, None], axis=3)[..., 0]  # (n, D, H)
        worth[:, 1:] = np.where(idle & self.frontier.free[:, None], 0, worth[:, 1:])
        return choice, worth.swapaxes(1, 2)


def _net(q: Array, prices: Array) -> Array:
    """(.., H, K, 16) reward less the price (H, m) of what it costs, of values (.., D, H, K, 16)."""
    found = q[..., 0, :, :, :]
    for cost, price in enumerate(prices.T, start=1):
        found = found - price[:, None, None] * q[..., cost, :, :, :]
    return found


def _weigh(frontier: Frontier, limits: tuple[float, ...]) -> Callable[[float], Array]:
    """`frontier.mix` at a budget and the other limits, by its edges if there are none of those."""
    if limits:
        return lambda budget: frontier.mix((budget, *limits)).weight
    reward, cost = frontier.cautious.T
    edge = upper_hull(reward, cost)

    def weigh(budget: float) -> Array:
        weight, after = np.zeros(len(cost)), int(np.searchsorted(cost[edge], budget, side="right"))
        if after == 0:
            raise InfeasibleError(np.array([budget]), cost[edge[0]] - budget, cost[edge[:1]])
        if after == len(edge):
            weight[edge[-1]] = 1.0
            return weight
        low, high = edge[after - 1], edge[after]
        weight[high] = (budget - cost[low]) / (cost[high] - cost[low])
        weight[low] = 1 - weight[high]
        return weight

    return weigh


def upper_hull(reward: Array, cost: Array) -> list[int]:
    """Points that some budget wants, by rising cost: each next unit of cost earns less."""
    edge: list[int] = []
    for g in np.lexsort((-reward, cost)).tolist():
        if edge and reward[g] <= reward[edge[-1]]:
            continue
        while len(edge) > 1:
            (a, b), gain, rise = edge[-2:], reward[g] - reward[edge[-2]], cost[g] - cost[edge[-2]]
            if (reward[b] - reward[a]) * rise > gain * (cost[b] - cost[a]):
                break
            edge.pop()
        edge.append(g)
    return edge


class PricedDay:
    """The daily knapsack's price, applied to each user by itself."""

    mixes = False

    def __init__(
        self,
        predict: Callable[[Array, int], Array],
        support: Support | None,
        logged: list[Array],
    ) -> None:
        self.predict, self.support = predict, support
        self.logged = logged  # per day (n, K, 2) predictions on the log's users
        self.curve = cache(self._curve)

    @classmethod
    def read(cls, meta: Mapping[str, Any], weights: Weights) -> PricedDay:
        horizon = meta["horizon"]
        members = [
            read_response(under(f"member.{f}", weights), described)
            for f, described in enumerate(meta["members"])
        ]
        support, least = under("support", weights), meta["config"]["least_support"]
        return cls(
            mean_of(members),
            Support(support, horizon, least) if support else None,
            [weights[f"logged.{t}"] for t in range(horizon)],
        )

    def __call__(self, obs: Array, day: int, bucket: Array, budget: float) -> Decision:
        reward, cost, allowed = self.expected(obs, day)
        worth = reward - self.price(day, budget / len(self.logged)) * cost
        choice = np.where(allowed, worth, -np.inf).argmax(axis=1)
        rows = np.arange(len(obs))
        return Decision(choice, reward[rows, choice], cost[rows, choice], np.zeros_like(choice))

    def offers(self, obs: Array, day: int, bucket: Array, budget: float) -> Offers:
        """Of every incentive that may be given, on the day."""
        reward, cost, allowed = self.expected(obs, day)
        return _offers(reward, cost, allowed, np.zeros(len(obs), dtype=np.uint8))

    def expected(self, obs: Array, day: int) -> tuple[Array, Array, Array]:
        """(n, K) expected reward and cost of the day, and whether an incentive may be given."""
        expected = self.predict(obs, day)
        allowed = np.ones(expected.shape[:2], dtype=bool)
        if self.support is not None:
            support = self.support
            allowed = by_chunks(lambda part: support(part, day), obs)
        return expected[..., 0], np.maximum(expected[..., 1], 0), allowed

    def price(self, day: int, money: float) -> float:
        """Reward that another unit of money earns on a day with so much money per user."""
        curve, n = self.curve(day), len(self.logged[day])
        return float(curve.price_at(max(money * n, curve.budget[0])))

    def _curve(self, day: int) -> CostCurve:
        reward, cost = np.nan_to_num(np.moveaxis(self.logged[day], -1, 0))
        eligible = ~np.isnan(self.logged[day][..., 0])
        return cost_curve(reward, np.maximum(cost, 0), eligible=eligible)


class Clusters:
    """One table of incentives for a day."""

    mixes = False

    def __init__(self, meta: Mapping[str, Any], weights: Weights) -> None:
        self.outcomes = Outcomes(**under("outcomes", weights))
        self.tables = Tables(self.outcomes, weights["share"], meta["config"]["risk"])
        self.judged = Judged(**under("judged", weights))
        self.classifier = Classifier(under("classifier", weights), len(self.tables.share))

    def __call__(self, obs: Array, day: int, bucket: Array, budget: float) -> Decision:
        cluster = self.classifier(obs, day)
        split = self.tables.split(day, self.judged.plan_for(budget))
        arm = split.serve(cluster, redrawn(bucket, day))
        reward, cost = np.nan_to_num(self.outcomes.mean[cluster, arm]).T
        return Decision(arm, reward, cost, cluster)

    def offers(self, obs: Array, day: int, bucket: Array, budget: float) -> Offers:
        """Of every incentive of the user's cluster, on the day."""
        cluster = self.classifier(obs, day)
        reward, cost = np.nan_to_num(np.moveaxis(self.outcomes.mean[cluster], -1, 0))
        return _offers(reward, cost, self.outcomes.eligible[cluster], cluster.astype(np.uint8))


def trained(folder: str | Path, method: str) -> Any:
    """The model itself, which needs torch.

    Raises:
        ValueError: if the method is not one of this package's files.
    """
    if not method.isidentifier():
        raise ValueError(f"{folder}: method {method!r}, allowed are files of `agents`")
    return import_module(f"agents.{method}").load(folder)


class Trained:
    """The trained policy itself, for methods that no faster way is known for."""

    mixes = True

    def __init__(
        self, folder: str | Path, method: str, horizon: int, limits: Mapping[str, float]
    ) -> None:
        self.horizon, self.model, self.limits = horizon, trained(folder, method), limits

    def __call__(self, obs: Array, day: int, bucket: Array, budget: float) -> Decision:
        policy = self.model.policy(budget, **self.limits)  # anew: it may remember whom it served
        probs = policy.probs(DayView(obs, bucket, day, math.inf))
        turned = (bucket + day * _TURN) % 1.0
        choice = (probs.cumsum(axis=1)[:, :-1] <= turned[:, None]).sum(axis=1)
        mixed = isinstance(policy, MixedPolicy)
        part = policy.component(bucket) if mixed else np.zeros(len(obs), dtype=np.int64)
        unknown = np.full(len(obs), math.nan)
        return Decision(choice, unknown, unknown, part)

    def offers(self, obs: Array, day: int, bucket: Array, budget: float) -> Offers:
        """One: what the policy does at the budget, and for everyone what its model forecasts."""
        found = self(obs, day, bucket, budget)
        forecast = self.model.forecast(budget, **self.limits)
        left = (self.horizon - day) / self.horizon
        mean = np.array([forecast.reward, min(forecast.cost, budget)]) * left
        worth = np.tile(mean.astype(np.float32), (len(obs), 1))
        action, part = (x.astype(np.uint8)[:, None] for x in (found.incentive, found.component))
        return Offers(action, worth[:, :1], worth[:, 1:], part)


def _offers(reward: Array, cost: Array, allowed: Array, component: Array) -> Offers:
    """The allowed incentives (n, K); in place of any other, the cheapest of them once more."""
    least = np.where(allowed, cost, np.inf).argmin(axis=1)[:, None]
    incentive = np.where(allowed, np.arange(cost.shape[1]), least)
    reward, cost = (
        np.take_along_axis(x, incentive, axis=1).astype(np.float32) for x in (reward, cost)
    )
    parts = np.broadcast_to(component[:, None], incentive.shape)
    return Offers(incentive.astype(np.uint8), reward, cost, parts)
