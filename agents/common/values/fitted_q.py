"""All best responses from one backward pass: finite-horizon fitted Q iteration over prices.

For a grid of prices lambda_g on the costs c_1 .. c_m, and for every incentive a, the vector
(reward-to-go, costs-to-go) of the lambda_g-greedy policy is, with m the day's measurement,

    Q[t,g](s,a) = E[ m + V[t+1,g](s') | s, a ]
    V[t,g](s)   = Q[t,g](s, a*),   a* = argmax_a Q_r[t,g](s,a) - lambda_g . Q_c[t,g](s,a)

How the conditional mean is learned from the log is the member's affair: `factored_q.py` (our
oracle) or `plain_q.py` (fitted Q iteration as the literature has it).

Maximisation bias is met by cross-fitting (double Q-learning, van Hasselt 2010, over user folds):
member f is trained on the users outside fold f; the action of a user in fold f is chosen by the
members that saw him and valued by the one that did not. The choice uses the members' mean or,
where it is told to be pessimistic, their lower confidence bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from agents.common.nets import Track, bfloat16_products, no_track
from agents.common.tensors import Panel

AGE = 3  # columns of `Lesson.age`
ROWS = 4096  # users valued at once, so that intermediate arrays stay small


class Lesson(NamedTuple):
    """Transitions of one day, and of other days shown as if they were of that one."""

    user: Tensor  # (m,)
    obs: Tensor  # (m, d)
    age: Tensor  # (m, AGE) how far away the true day is; 0 for the day's own transitions
    action: Tensor  # (m,)
    outcome: Tensor  # (m,) label
    measured: Tensor  # (m, 2) reward and cost
    following: Tensor  # (m, D, G) values V[day + 1] of the next morning
    own: Tensor  # (m,) bool: of the day, and drawn whatever followed it

    def take(self, rows: Tensor) -> Lesson:
        return Lesson(*(part[rows] for part in self))

    def add(self, other: Lesson) -> Lesson:
        return Lesson(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


class Member(Protocol):
    """One estimate of Q for every day, learned from the last day to the first."""

    def learn(self, lesson: Lesson, day: int) -> float | None:
        """Fit Q[day]; returns the loss, or None if there was nothing to fit."""
        ...

    def q(self, obs: Tensor, day: int, head: int | None = None) -> Tensor:
        """(n, K, D, G) reward- and costs-to-go at every price, or (n, K, D, 1) at one."""
        ...


def merit(q: Tensor, prices: Tensor) -> Tensor:
    """(..., K, G) reward-to-go less priced costs-to-go, of (..., K, 1 + m, G) and prices (G, m)."""
    finite = torch.where(prices.isinf(), 0, prices).T.to(q.dtype)
    return q[..., 0, :] - (finite * q[..., 1:, :]).sum(-2)


def greedy(
    q: Tensor, prices: Tensor, allowed: Tensor | None = None, pessimism: float = 0.0
) -> Tensor:
    """(n, G) best allowed action at each price given members' values (E, n, K, 1 + m, G).

    Args:
        prices: (G, m); where one is inf, the action is 0, no incentive.
        allowed: (n, K) bool.
        pessimism: standard deviations between members by which the gain over no incentive is
            lowered before incentives are compared.
    """
    each = merit(q, prices)
    score = each.mean(0)
    if pessimism and len(each) > 1:
        score = score - pessimism * (each - each[:, :, :1]).std(0)
    if allowed is not None:
        score = score.masked_fill(~allowed[..., None], -torch.inf)
    best = score.max(dim=1).indices  # six times faster than argmax of a middle dimension
    return torch.where(prices.isinf().any(-1), 0, best)


class ActionValues:
    """What the members believe."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.each = list(members)

    def members(self, obs: Tensor, day: int, head: int | None = None) -> Tensor:
        """(E, n, K, D, G or 1) each member's values-to-go."""
        return torch.stack([member.q(obs, day, head) for member in self.each])

    def mean(self, obs: Tensor, day: int, head: int | None = None) -> Tensor:
        """(n, K, D, G or 1)"""
        return self.members(obs, day, head).mean(0)

    def without(self, member: int) -> ActionValues:
        """All members but one, or the only one."""
        return ActionValues(self.each[:member] + self.each[member + 1 :] or self.each)


Choose = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""From members' values (E, n, K, D, G), observations (n, d), users (n,) and the day to action
probabilities (n, K, G)."""
Allowed = Callable[[Tensor, int], Tensor]
"""From observations (n, d) and the day to the incentives (n, K) that may be given."""


def greedy_choice(prices: Tensor, allowed: Allowed | None = None, pessimism: float = 0.0) -> Choose:
    """Best responses: head g follows the greedy policy of price g, where it is allowed."""

    def choose(q: Tensor, obs: Tensor, user: Tensor, day: int) -> Tensor:
        best = greedy(q, prices, allowed(obs, day) if allowed else None, pessimism)
        return torch.nn.functional.one_hot(best, q.shape[2]).movedim(-1, 1).to(q.dtype)

    return choose


def backward_pass(
    data: Panel,
    fold: Tensor,
    members: Sequence[Member],
    choose: Choose,
    shape: tuple[int, int],
    *,
    pooled: int = 0,
    seed: int = 0,
    workers: int = 1,
    track: Track = no_track,
    progress: str | None = None,
) -> Tensor:
    """Teach the members Q[t] for t = T-1 .. 0; returns V[0] of every user, (n, D, G).

    Args:
        fold: (n,) user fold; member f learns from the users outside fold f.
        choose: the policies whose values are wanted: greedy ones, or a given one (evaluation).
        shape: (D, G), coordinates and heads.
        pooled: transitions of other days that teach each day beside its own. They are shown with
            the day's calendar and next morning, so they help where users move alike on all days;
            `Lesson.age` tells them apart where not. Days before a gap, whose next morning is not
            known, teach nothing here.
        workers: threads; the result does not depend on their number.
        progress: label of the progress bar; None shows none.
    """
    value = torch.zeros(data.n_users, *shape, device=data.obs.device)
    generator = torch.Generator().manual_seed(seed)
    pooled = pooled if data.horizon > 1 else 0
    days = range(data.horizon - 1, -1, -1)
    with ThreadPoolExecutor(workers) as pool:

        def values(obs: Tensor, user: Tensor, day: int) -> Tensor:
            if day == data.horizon:
                return torch.zeros(len(obs), *shape, device=obs.device)
            parts = _parts(fold[user], len(members))
            jobs = pool.map(
                lambda part: _values(members, part[0], obs[part[1]], user[part[1]], day, choose),
                parts,
            )
            result = torch.empty(len(obs), *shape, device=obs.device)
            for (_, rows), found in zip(parts, jobs, strict=True):
                result[rows] = found
            return result

        for day in tqdm(days, progress, unit="day", disable=True if progress is None else None):
            here = data.valid[:, day].nonzero()[:, 0]
            lesson = lesson_of(data, here, torch.full_like(here, day), day, value[here])
            if pooled:
                user, then = _drawn(data, pooled, generator)
                following = values(data.at(user, then + 1, day + 1), user, day + 1)
                following[data.leaves[user, then]] = 0
                lesson = lesson.add(lesson_of(data, user, then, day, following, own=False))
            for f, loss in enumerate(_taught(members, lesson, fold, day, pool)):
                if loss is not None:
                    track(f"value_loss/member_{f}", loss, data.horizon - day)
            value[here] = values(data.obs[here, day], here, day)
            _track_values(track, value, data.horizon - day)
    return value


def _drawn(data: Panel, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Users and days at random, where the log tells what followed."""
    user, then = (
        torch.randint(n, (count,), generator=generator) for n in (data.n_users, data.horizon)
    )
    known = (data.stays | data.leaves)[user, then]
    return user[known], then[known]


@bfloat16_products()
def _taught(
    members: Sequence[Member], lesson: Lesson, fold: Tensor, day: int, pool: ThreadPoolExecutor
) -> list[float | None]:
    """The members' losses. What they learn is rounded; what it is worth is reckoned as served."""
    return list(pool.map(partial(_teach, members, lesson, fold, day), range(len(members))))


def _teach(
    members: Sequence[Member], lesson: Lesson, fold: Tensor, day: int, f: int
) -> float | None:
    mine = seen_by(fold[lesson.user], f, len(members)).nonzero()[:, 0]
    return members[f].learn(lesson.take(mine), day)


def _track_values(track: Track, value: Tensor, step: int) -> None:
    for name, means in zip(("reward", "cost"), value.mean(0), strict=False):
        for g, mean in enumerate(means.tolist()):
            track(f"{name}_to_go/head_{g}", mean, step)


def seen_by(fold: Tensor, member: int, members: int) -> Tensor:
    """(n,) bool: the users a member learns from; all of them if it is the only one."""
    return (fold != member) | (members == 1)


def lesson_of(
    data: Panel, user: Tensor, then: Tensor, day: int, following: Tensor, own: bool = True
) -> Lesson:
    """Transitions of the users' days `then`, as if they were of `day`.

    Args:
        own: everybody of the day is among them. A sample of all days leaves out those before a gap,
            on the day itself too: it cannot say how high the day's values are.
    """
    away = (then - day)[:, None].float()
    week = 2 * torch.pi * away / 7
    age = torch.cat([away / data.horizon, week.sin(), 1 - week.cos()], dim=1)
    measured = torch.stack([data.reward[user, then], data.cost[user, then]], dim=-1)
    action, outcome = data.action[user, then], data.outcome[user, then]
    obs, mine = data.at(user, then, day), torch.full_like(user, own, dtype=torch.bool)
    return Lesson(user, obs, age, action, outcome, measured, following, mine)


def _parts(fold: Tensor, members: int) -> list[tuple[int, Tensor]]:
    """Rows of users of one fold, some at a time."""
    rows = ((fold == f).nonzero()[:, 0] for f in range(members))
    return [(f, some) for f, mine in enumerate(rows) for some in mine.split(ROWS)]


@torch.no_grad()
def _values(
    members: Sequence[Member], f: int, obs: Tensor, user: Tensor, day: int, choose: Choose
) -> Tensor:
    """V[day], (n, D, G), of users of fold f: chosen by the members that saw them, valued by f."""
    q = [member.q(obs, day) for member in members]
    others = q[:f] + q[f + 1 :] or q
    probability = choose(torch.stack(others), obs, user, day)
    return (q[f] * probability[:, :, None]).sum(1)
