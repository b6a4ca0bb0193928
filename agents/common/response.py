"""Outcome model: what a user-day brings under each incentive.

A user-day ends in one of four classes y (nothing, reward, reward and cost, cost). The model gives

    P(y | s, a)       one classifier for all days, by cross-entropy on every logged user-day
    rbar, cbar(s,a,y) mean reward and cost given the class, by gamma regression on the logged means

so that E[r | s, a] = sum_y P(y | s, a) rbar(s, a, y), and the same for cost. Where a reward or a
cost does not vary within (a, y), as with activity and fixed bonuses, its mean is read off the log.

With four or more incentives that rise in cost, the logit of an outcome follows the incentive
through a few saturating functions of the dose, 1 - exp(-dose / scale), plus one constant per
incentive and class: neighbouring levels then share their data. Otherwise each incentive has a
head of its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.common.nets import Track, calendar, minimise, mlp, no_track
from agents.common.tensors import CLASSES, Panel

_DOSE_SCALES = (1 / 8, 3 / 8, 9 / 8)  # of the largest dose
_NEVER = -1e4  # logit of an outcome that an incentive never had


class Expected(NamedTuple):
    """Outcomes of n user-days under each of K incentives."""

    probability: Tensor  # (n, K, Y)
    reward: Tensor  # (n, K, Y) mean, given the class
    cost: Tensor  # (n, K, Y) mean, given the class

    def mean(self) -> tuple[Tensor, Tensor]:
        """(n, K) expected reward and cost of the day."""
        p = self.probability
        return (p * self.reward).sum(-1), (p * self.cost).sum(-1)


class OutcomeModel(nn.Module):
    """P(y | s, a) and the mean reward and cost of each class."""

    # Buffers, saved with the weights.
    mean: Tensor
    scale: Tensor
    basis: Tensor  # (K, b) what each incentive adds to the logits
    seen: Tensor  # (K, Y) bool: the outcome occurred under the incentive
    table: Tensor  # (2, K, Y) mean reward and cost of the log
    varies: Tensor  # (2, K, Y) bool

    def __init__(self, n_obs: int, n_actions: int, n_basis: int, horizon: int, width: int) -> None:
        super().__init__()
        self.horizon, n_in, n_y = horizon, n_obs + 3, len(CLASSES)
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("scale", torch.ones(n_in))
        self.register_buffer("basis", torch.zeros(n_actions, n_basis))
        self.register_buffer("seen", torch.ones(n_actions, n_y, dtype=torch.bool))
        self.register_buffer("table", torch.zeros(2, n_actions, n_y))
        self.register_buffer("varies", torch.zeros(2, n_actions, n_y, dtype=torch.bool))
        self.trunk = mlp(n_in, width, 2)
        self.logits = nn.Linear(width, n_y * (1 + n_basis))
        self.offset = nn.Parameter(torch.zeros(n_actions, n_y))
        self.mean_trunk = mlp(n_in, width, 2)
        self.log_means = nn.Linear(width, 2 * n_y * (1 + n_basis))
        nn.init.zeros_(self.log_means.weight)
        nn.init.zeros_(self.log_means.bias)

    def inputs(self, obs: Tensor, day: Tensor) -> Tensor:
        """Standardised observation and calendar, (n, d + 3)."""
        x = torch.cat([obs, calendar(day, self.horizon)], dim=-1)
        return (x - self.mean) / self.scale

    def class_logits(self, x: Tensor, basis: Tensor) -> Tensor:
        """Logits without the incentives' constants; `basis` is (K, b) for all, (n, b) for one."""
        return _by_dose(self.logits(self.trunk(x)).unflatten(-1, (len(CLASSES), -1)), basis)

    def means(self, x: Tensor, basis: Tensor) -> Tensor:
        """Log of (reward, cost) relative to `table`."""
        heads = self.log_means(self.mean_trunk(x)).unflatten(-1, (2 * len(CLASSES), -1))
        return _by_dose(heads, basis)

    def forward(self, obs: Tensor, day: Tensor) -> Expected:
        x = self.inputs(obs, day)
        logits = self.class_logits(x, self.basis) + self.offset
        p = logits.masked_fill(~self.seen, _NEVER).softmax(-1)
        if not self.varies.any():
            return Expected(p, *(t.expand_as(p) for t in self.table))
        log_means = self.means(x, self.basis).unflatten(-1, (2, -1)).movedim(-2, 0)
        reward, cost = self.table[:, None] * torch.exp(log_means * self.varies[:, None])
        return Expected(p, reward, cost)


def fit_outcomes(
    data: Panel,
    users: Tensor,
    *,
    width: int = 128,
    epochs: float = 6,
    batch: int = 4096,
    lr: float = 3e-3,
    seed: int = 0,
    track: Track = no_track,
    tag: str = "outcomes",
    progress: str | None = None,
) -> OutcomeModel:
    """Fit the outcome model on the valid user-days of the given users.

    Cost: about `epochs` passes over the user-days, at least 300 steps.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    rows = data.user_days(users)
    model = _initial(data, rows, width)
    steps = max(300, math.ceil(epochs * len(rows) / batch))
    users_of, days_of = rows // data.horizon, rows % data.horizon

    def loss(index: Tensor) -> Tensor:
        user, day = users_of[index], days_of[index]
        x = model.inputs(data.obs[user, day], day)
        return _loss(model, data, x, user, day)

    def on_step(step: int, value: Tensor) -> None:
        if step % 50 == 0 or step == steps - 1:
            track(f"{tag}/loss", float(value), step)

    everything = torch.arange(len(rows))
    minimise(
        model.parameters(), loss, everything,
        steps=steps, batch=batch, lr=lr, generator=generator, on_step=on_step, progress=progress,
    )  # fmt: skip
    return model.eval().requires_grad_(False)


def _loss(model: OutcomeModel, data: Panel, x: Tensor, user: Tensor, day: Tensor) -> Tensor:
    action, label = data.action[user, day], data.outcome[user, day]
    logits = model.class_logits(x, model.basis[action][:, None])[:, 0] + model.offset[action]
    logits = logits.masked_fill(~model.seen[action], _NEVER)
    total = nn.functional.cross_entropy(logits, label)
    if model.varies.any():
        total = total + _gamma_loss(model, data, x, user, day)
    return total


def _gamma_loss(model: OutcomeModel, data: Panel, x: Tensor, user: Tensor, day: Tensor) -> Tensor:
    """Gamma deviance log mu + y / mu, whose minimiser is the mean whatever the law of y."""
    action, label = data.action[user, day], data.outcome[user, day]
    some = model.varies[:, action, label].any(0).nonzero()[:, 0]
    if not len(some):
        return x.new_zeros(())
    user, day, action, label = user[some], day[some], action[some], label[some]
    heads = model.means(x[some], model.basis[action][:, None])[:, 0].unflatten(-1, (2, -1))
    log_ratio = heads[torch.arange(len(some)), :, label].T
    table, varies = model.table[:, action, label], model.varies[:, action, label]
    logged = torch.stack([data.reward[user, day], data.cost[user, day]])
    ratio = torch.where(varies, logged / torch.where(varies, table, 1), 0)
    deviance = log_ratio + ratio * torch.exp(-log_ratio)
    return (deviance * varies).sum() / len(x)


def _by_dose(heads: Tensor, basis: Tensor) -> Tensor:
    """(n, Y, 1 + b) heads and (K, b) or (n, 1, b) basis to (n, K, Y) logits."""
    return heads[..., None, :, 0] + torch.matmul(basis, heads[..., 1:].transpose(-1, -2))


def _initial(data: Panel, rows: Tensor, width: int) -> OutcomeModel:
    """A model whose buffers are read off the log."""
    n_actions, n_y = data.n_actions, len(CLASSES)
    action, label = data.action.reshape(-1)[rows], data.outcome.reshape(-1)[rows]
    cell = action * n_y + label
    count = torch.bincount(cell, minlength=n_actions * n_y).double()
    moments = []
    for values in (data.reward, data.cost):
        v = values.reshape(-1)[rows].double()
        total = torch.zeros_like(count).index_add(0, cell, v)
        square = torch.zeros_like(count).index_add(0, cell, v * v)
        mean = total / count.clamp(min=1)
        moments.append((mean, (square / count.clamp(min=1) - mean**2).clamp(min=0).sqrt()))
    table = torch.stack([m for m, _ in moments]).reshape(2, n_actions, n_y)
    spread = torch.stack([s for _, s in moments]).reshape(2, n_actions, n_y)
    # A multiplicative model needs positive means; with negative rewards in the log,
    # the log's own means are kept.
    positive = torch.stack([v.reshape(-1)[rows].min() >= 0 for v in (data.reward, data.cost)])
    varies = (spread > 1e-5 * table.abs()) & (table > 0) & positive[:, None, None]
    basis = _basis(table[1], count.reshape(n_actions, n_y))
    n_obs = data.obs.shape[-1]
    model = OutcomeModel(n_obs, n_actions, basis.shape[1], data.horizon, width)
    sample = rows[torch.randperm(len(rows))[:100_000]]
    user, day = sample // data.horizon, sample % data.horizon
    x = model.inputs(data.obs[user, day], day)
    model.mean, model.scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-4)
    model.table, model.varies = table.float(), varies
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
