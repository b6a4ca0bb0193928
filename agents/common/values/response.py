"""Outcome model: what a user-day brings under each incentive.

The outcome y = (level, paid) of a user-day says how large its reward was (level 0: none; more than
one further level only where the size matters, `tensors.reward_bins`) and whether it cost anything
(the incentive was redeemed). The model gives

    P(y | s, a) = P(level | s, a) P(paid | level, s, a)     cross-entropy on every logged user-day
    rbar, cbar(s, a, y)    mean reward and cost of each outcome, by gamma regression; of rewards
                           that may be negative by least squares

for all days at once, so that E[r | s, a] = sum_y P(y | s, a) rbar(s, a, y), and the same for cost.
The chain of two questions lets every user-day teach how often users respond, and the paid ones
only how often a response is redeemed. Where a reward or a cost does not vary within (a, y), as with
activity and fixed bonuses, its mean is read off the log.

With five or more incentives that rise in cost, logits follow the incentive through a few
saturating functions of the dose, 1 - exp(-dose / scale), plus one constant per incentive:
neighbouring levels then share their data. Otherwise each incentive has a head of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.common.nets import (
    Track,
    bfloat16_products,
    minimise,
    mlp,
    moments,
    no_track,
    seeded,
    standardised,
)
from agents.common.tensors import Happened, Panel
from agents.common.values.fitted_q import seen_by

_DOSE_SCALES = (1 / 8, 3 / 8, 9 / 8)  # of the largest dose
# Gradient steps: below the first two numbers small logs pass twice as often (the first is that of 8
# epochs); beyond the third, batches of twice the size learn as much in two thirds of the time;
# 200,000 users of a month fill the last, and more users then pass fewer times.
_LEAST_STEPS, _FEW_STEPS, _MANY_STEPS, _MOST_STEPS = 300, 6_000, 12_000, 32_000
_TINY = 20_000  # user-days; so few are asked whether longer is better
_NEVER = -1e4  # log-probability of an outcome that an incentive never had


class Expected(NamedTuple):
    """Outcomes of n user-days under each of K incentives."""

    probability: Tensor  # (n, K, Y)
    reward: Tensor  # (n, K, Y) mean, given the outcome
    cost: Tensor  # (n, K, Y) mean, given the outcome

    def mean(self) -> tuple[Tensor, Tensor]:
        """(n, K) expected reward and cost of the day."""
        p = self.probability
        return (p * self.reward).sum(-1), (p * self.cost).sum(-1)

    def size(self) -> Tensor:
        """(n, 2) mean reward of a response to no incentive, mean cost of redeeming the last one."""
        response, paid = self.probability[:, 0, 2:], self.probability[:, -1, 1::2]
        reward = (response * self.reward[:, 0, 2:]).sum(-1) / response.sum(-1).clamp(min=1e-12)
        cost = (paid * self.cost[:, -1, 1::2]).sum(-1) / paid.sum(-1).clamp(min=1e-12)
        return torch.stack([reward, cost], dim=-1).abs()


class OutcomeModel(nn.Module):
    """P(y | s, a) and the mean reward and cost of each outcome."""

    # Buffers, saved with the weights.
    mean: Tensor
    scale: Tensor
    basis: Tensor  # (K, b) what each incentive adds to the logits
    seen: Tensor  # (K, Y) bool: the outcome occurred under the incentive
    table: Tensor  # (2, K, Y) mean reward and cost of the log
    varies: Tensor  # (2, K, Y) bool
    unit: Tensor  # (2,) spread of rewards, of costs, if some are negative; else 0

    def __init__(
        self, n_obs: int, n_actions: int, n_levels: int, n_basis: int, horizon: int, width: int
    ) -> None:
        super().__init__()
        self.horizon, n_in, n_y = horizon, n_obs + 3, 2 * n_levels
        self.n_levels, n_questions = n_levels, 2 * n_levels - 1
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("scale", torch.ones(n_in))
        self.register_buffer("basis", torch.zeros(n_actions, n_basis))
        self.register_buffer("seen", torch.ones(n_actions, n_y, dtype=torch.bool))
        self.register_buffer("table", torch.zeros(2, n_actions, n_y))
        self.register_buffer("varies", torch.zeros(2, n_actions, n_y, dtype=torch.bool))
        self.register_buffer("unit", torch.zeros(2))
        self.trunk = mlp(n_in, width, 2)
        self.logits = nn.Linear(width, n_questions * (1 + n_basis))
        self.offset = nn.Parameter(torch.zeros(n_actions, n_questions))
        # Means follow the level alone: whether a day's incentive was redeemed only shifts them.
        self.mean_trunk = mlp(n_in, width, 2)
        self.means = nn.Linear(width, 2 * n_levels * (1 + n_basis))
        nn.init.zeros_(self.means.weight)
        nn.init.zeros_(self.means.bias)

    @classmethod
    def rebuild(cls, state: Mapping[str, Tensor], horizon: int) -> OutcomeModel:
        """The model whose `state_dict` this is."""
        (n_actions, n_y), n_basis = state["seen"].shape, state["basis"].shape[1]
        n_obs, width = len(state["mean"]) - 3, state["logits.weight"].shape[1]
        model = cls(n_obs, n_actions, n_y // 2, n_basis, horizon, width)
        model.load_state_dict(dict(state))
        return model.eval().requires_grad_(False)

    def inputs(self, obs: Tensor, day: Tensor) -> Tensor:
        """Standardised observation and calendar, (n, d + 3)."""
        return standardised(obs, day, self.horizon, self.mean, self.scale)

    def log_probability(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        """(n, K, Y) of every incentive, or (n, Y) of one for each row; unnormalised."""
        heads = self.logits(self.trunk(x))
        answers = self._by_dose(heads, 2 * self.n_levels - 1, action)
        answers = answers + (self.offset if action is None else self.offset[action])
        level, paid = answers.split([self.n_levels - 1, self.n_levels], dim=-1)
        level = nn.functional.pad(level, (1, 0)).log_softmax(-1)
        paid = nn.functional.logsigmoid(torch.stack([-paid, paid], dim=-1))
        seen = self.seen if action is None else self.seen[action]
        return (level[..., None] + paid).flatten(-2).masked_fill(~seen, _NEVER)

    def departure(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        """What state changes in mean reward and cost, (n, K, 2, Y), or (n, 2, Y) of one.

        The log of the mean relative to `table`, or, with a `unit`, so many units added to it.
        """
        heads = self.means(self.mean_trunk(x))
        by_level = self._by_dose(heads, 2 * self.n_levels, action).unflatten(-1, (2, -1))
        return by_level.repeat_interleave(2, dim=-1)

    def _by_dose(self, heads: Tensor, n: int, action: Tensor | None) -> Tensor:
        """(n, m * (1 + b)) heads to (n, K, m) of every incentive, or (n, m) of one for each row."""
        heads = heads.unflatten(-1, (n, -1))
        basis = self.basis if action is None else self.basis[action][:, None]
        values = heads[..., None, :, 0] + torch.matmul(basis, heads[..., 1:].transpose(-1, -2))
        return values if action is None else values[:, 0]

    def forward(self, obs: Tensor, day: Tensor) -> Expected:
        x = self.inputs(obs, day)
        # Few outcomes: a softmax over the first dimension is many times as fast as over the last.
        p = self.log_probability(x).movedim(-1, 0).contiguous().softmax(0).movedim(0, -1)
        if not self.varies.any():
            return Expected(p, *(t.expand_as(p) for t in self.table))
        departure = self.departure(x).movedim(-2, 0) * self.varies[:, None]
        unit, table = self.unit[:, None, None, None], self.table[:, None]
        reward, cost = torch.where(unit > 0, table + unit * departure, table * departure.exp())
        return Expected(p, reward, cost)


@bfloat16_products()
def fit_outcomes(
    data: Panel,
    users: Tensor,
    *,
    width: int = 128,
    epochs: float = 8,
    batch: int = 512,
    lr: float = 3e-3,
    longer: int = 1,
    seed: int = 0,
    track: Track = no_track,
    tag: str = "outcomes",
    progress: str | None = None,
) -> OutcomeModel:
    """Fit the outcome model on the valid user-days of the given users.

    Args:
        epochs: passes over the user-days of a large log; of a small one up to twice as many.
        batch: user-days a step; of a large log twice as many, at a rate a third higher.
        longer: multiple of these.
        lr: for a width of 128; narrow networks learn faster in proportion (Yang et al., Tensor
            Programs V, 2021), up to four times.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = data.user_days(users)
    with seeded(seed):
        model = _initial(data, rows, width)
    passes = math.ceil(epochs * len(rows) / batch)
    if passes > _MANY_STEPS:
        passes, batch, lr = math.ceil(passes / 2), 2 * batch, 4 / 3 * lr
    least = math.ceil(epochs / 8 * _LEAST_STEPS)
    steps = longer * min(max(passes, min(2 * passes, _FEW_STEPS), least), _MOST_STEPS)

    def loss(some: Tensor) -> Tensor:
        return outcome_loss(model, model.inputs(*data.mornings(some)), data.happened(some))

    def on_step(step: int, value: Tensor) -> None:
        if step % 50 == 0 or step == steps - 1:
            track(f"{tag}/loss", float(value), step)

    minimise(
        model.parameters(), loss, rows,
        steps=steps, batch=batch, lr=lr * min(128 / width, 4.0), generator=generator,
        on_step=on_step, progress=progress,
    )  # fmt: skip
    return model.eval().requires_grad_(False)


def fit_members(
    data: Panel,
    fold: Tensor,
    members: int,
    *,
    workers: int = 1,
    seed: int = 0,
    track: Track = no_track,
    progress: bool = False,
    **settings: Any,
) -> list[OutcomeModel]:
    """Outcome models of cross-fitted members: model f is fitted without the users of fold f.

    Args:
        fold: (n,) of each user; with one member, it learns from everyone.
        workers: threads; the result does not depend on their number.
        settings: of `fit_outcomes`.
    """

    def fit(f: int, longer: int) -> tuple[OutcomeModel, list[tuple[str, float, int]]]:
        curve: list[tuple[str, float, int]] = []
        model = fit_outcomes(
            data, seen_by(fold, f, members).nonzero()[:, 0], longer=longer,
            seed=seed * 1000 + f, track=lambda *point: curve.append(point),
            tag=f"outcomes/member_{f}",
            progress=f"outcome model {f + 1}/{members}" if progress else None, **settings,
        )  # fmt: skip
        return model, curve

    # What a few thousand user-days tell differs by orders of magnitude between campaigns: users
    # held out say whether the members of a tiny log learn longer.
    tiny = members > 1 and len(data.user_days((fold != 0).nonzero()[:, 0])) <= _TINY
    longer, found = 1, []
    with ThreadPoolExecutor(workers) as pool:
        if tiny:
            lengths, held = (1, 4), (fold == 0).nonzero()[:, 0]
            tried = list(pool.map(partial(fit, 0), lengths))
            losses = [_held_out_loss(model, data, held) for model, _ in tried]
            best = min(range(len(tried)), key=losses.__getitem__)
            longer, found = lengths[best], [tried[best]]
        found += pool.map(partial(fit, longer=longer), range(len(found), members))
    for _, curve in found:
        for point in curve:
            track(*point)
    return [model for model, _ in found]


def _held_out_loss(model: OutcomeModel, data: Panel, users: Tensor) -> float:
    rows = data.user_days(users)
    return float(outcome_loss(model, model.inputs(*data.mornings(rows)), data.happened(rows)))


def outcome_loss(model: OutcomeModel, x: Tensor, logged: Happened) -> Tensor:
    """Of the model's answers at inputs (m, d + 3): cross-entropy, and what means miss."""
    total = nn.functional.cross_entropy(model.log_probability(x, logged.action), logged.outcome)
    if model.varies.any():
        total = total + _mean_loss(model, x, logged)
    return total


def _mean_loss(model: OutcomeModel, x: Tensor, logged: Happened) -> Tensor:
    """Gamma deviance log mu + y / mu, or half the square of (y - mu) / unit.

    The minimiser of both is the mean, whatever the law of y.
    """
    some = model.varies[:, logged.action, logged.outcome].any(0).nonzero()[:, 0]
    if not len(some):
        return x.new_zeros(())
    action, label, *values = (part[some] for part in logged)
    departure = model.departure(x[some], action)[torch.arange(len(some)), :, label].T
    table, varies = model.table[:, action, label], model.varies[:, action, label]
    value, unit = torch.stack(values), model.unit[:, None]
    ratio = torch.where(varies, value / torch.where(varies, table, 1), 0)
    gamma = departure + ratio * torch.exp(-departure)
    square = ((value - table) / torch.where(unit > 0, unit, 1) - departure).square() / 2
    return (torch.where(unit > 0, square, gamma) * varies).sum() / len(x)


def _initial(data: Panel, rows: Tensor, width: int) -> OutcomeModel:
    """A model whose buffers are read off the log."""
    n_actions, n_y = data.n_actions, data.n_outcomes
    action, label = data.action.reshape(-1)[rows], data.outcome.reshape(-1)[rows]
    cell = action * n_y + label
    count = torch.bincount(cell, minlength=n_actions * n_y).double()
    measured = []
    for values in (data.reward, data.cost):
        v = values.reshape(-1)[rows].double()
        total = torch.zeros_like(count).index_add(0, cell, v)
        square = torch.zeros_like(count).index_add(0, cell, v * v)
        mean = total / count.clamp(min=1)
        measured.append((mean, (square / count.clamp(min=1) - mean**2).clamp(min=0).sqrt()))
    table = torch.stack([m for m, _ in measured]).reshape(2, n_actions, n_y)
    spread = torch.stack([s for _, s in measured]).reshape(2, n_actions, n_y)
    # A multiplicative model needs positive means.
    logged = torch.stack([data.reward.reshape(-1)[rows], data.cost.reshape(-1)[rows]])
    unit = torch.where((logged < 0).any(1), logged.std(1, correction=0), 0)
    varies = (spread > 1e-5 * table.abs()) & ((table > 0) | (unit > 0)[:, None, None])
    basis = _basis(table[1], count.reshape(n_actions, n_y))
    n_obs = data.obs.shape[-1]
    model = OutcomeModel(n_obs, n_actions, data.n_levels, basis.shape[1], data.horizon, width)
    sample = rows[torch.randperm(len(rows))[:100_000]]
    x = model.inputs(*data.mornings(sample))
    model.mean, model.scale = moments(x)
    model.table, model.varies, model.unit = table.float(), varies, unit
    model.seen, model.basis = count.reshape(n_actions, n_y) > 0, basis
    return model.to(data.obs.device)


def _basis(cost: Tensor, count: Tensor) -> Tensor:
    """(K, b) functions of the incentive: of its dose where doses rise, else one per incentive."""
    paid = count * (cost > 0)
    dose = ((cost * paid).sum(1) / paid.sum(1).clamp(min=1)).float()
    n_actions = len(dose)
    if n_actions < 5 or not (dose.diff() > 0).all():
        return torch.eye(n_actions)[:, 1:]
    dose = (dose - dose[0]) / (dose[-1] - dose[0])
    return 1 - torch.exp(-dose[:, None] / torch.tensor(_DOSE_SCALES))
