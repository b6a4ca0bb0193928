"""Hidden representations of user-days, learned from reward and cost together.

A multi-task network whose shared layers never see the treatment,

    h1 = silu(W1 x),  h2 = silu(W2 h1),  yhat_jk(x) = level_jk + scale_jk tower_k(h2)_j,

has one tower for each outcome k (reward, cost), with one head for each arm j. Logged arms t_i teach
it, rows weighted by inverse propensity w_i and tasks by their uncertainty u_k:

    L = (1/2) sum_k exp(-u_k) L_k + u_k,  L_k = (1/m) sum_i w_i (y_ik - yhat_{t_i k}(x_i))^2 / s_k^2

L_k is the mean over arms of each arm's error (L_PL), in units of the outcome's variance s_k^2.

Wang et al., 2025, arXiv 2506.00959 (representation); Kendall, Gal & Cipolla, CVPR 2018 (weights of
the tasks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.common.direct_rank import arm_weights
from agents.common.nets import Track, calendar, minimise, mlp, no_track, seeded
from agents.common.tensors import Panel

_TINY = 1e-6  # spread, as a share of the whole, below which an outcome does not vary


class UserDays(NamedTuple):
    """Rows of a log to learn from."""

    obs: Tensor  # (m, d) float32
    day: Tensor  # (m,) int64
    user: Tensor  # (m,) int64
    arm: Tensor  # (m,) int64
    propensity: Tensor  # (m,) float64
    outcome: Tensor  # (m, 2) reward and cost

    def take(self, rows: Tensor) -> UserDays:
        return UserDays(*(part[rows] for part in self))


class Fitting(NamedTuple):
    """How a network is trained."""

    epochs: float = 6.0  # passes over the rows, but at least 300 steps
    batch: int = 2048
    learning_rate: float = 5e-3
    seed: int = 0
    track: Track = no_track
    progress: bool = False

    def run(
        self, model: nn.Module, loss: Callable[[Tensor], Tensor], n_rows: int, name: str
    ) -> None:
        """Minimise a loss of row numbers, and freeze the model."""

        def on_step(step: int, value: Tensor) -> None:
            if step % 50 == 0:
                self.track(f"{name}/loss", float(value), step)

        minimise(
            model.parameters(), loss, torch.arange(n_rows),
            steps=max(300, math.ceil(self.epochs * n_rows / self.batch)), batch=self.batch,
            lr=self.learning_rate, generator=torch.Generator().manual_seed(self.seed),
            on_step=on_step, progress=name if self.progress else None,
        )  # fmt: skip
        model.eval().requires_grad_(False)


class Inputs(nn.Module):
    """Standardises observation and calendar."""

    mean: Tensor
    spread: Tensor

    def __init__(self, n_obs: int, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.register_buffer("mean", torch.zeros(n_obs + 3))
        self.register_buffer("spread", torch.ones(n_obs + 3))

    def forward(self, obs: Tensor, day: Tensor) -> Tensor:
        """(m, d + 3)"""
        x = torch.cat([obs, calendar(day, self.horizon)], dim=-1)
        return (x - self.mean) / self.spread

    def fit(self, obs: Tensor, day: Tensor) -> None:
        x = self(obs, day)
        self.mean, self.spread = x.mean(0), x.std(0, correction=0).clamp(min=1e-4)


class Representation(nn.Module):
    """The multi-task network."""

    level: Tensor  # (K, 2) mean reward and cost of each arm
    scale: Tensor  # (K, 2) s_k, or 0 where an outcome is the same on all days of an arm

    def __init__(self, n_obs: int, n_actions: int, horizon: int, width: int) -> None:
        super().__init__()
        half = max(width // 2, 1)
        self.inputs = Inputs(n_obs, horizon)
        self.shared = nn.Sequential(*mlp(n_obs + 3, width, 1), *mlp(width, half, 1))
        self.towers = nn.ModuleList(
            nn.Sequential(*mlp(half, half, 1), nn.Linear(half, n_actions)) for _ in range(2)
        )
        self.uncertainty = nn.Parameter(torch.zeros(2))
        self.register_buffer("level", torch.zeros(n_actions, 2))
        self.register_buffer("scale", torch.zeros(n_actions, 2))

    @classmethod
    def rebuild(cls, state: Mapping[str, Tensor], horizon: int) -> Representation:
        """The network whose `state_dict` this is."""
        width, n_inputs = state["shared.0.weight"].shape
        model = cls(n_inputs - 3, len(state["level"]), horizon, width)
        model.load_state_dict(dict(state))
        return model.eval().requires_grad_(False)

    def hidden(self, obs: Tensor, day: Tensor) -> Tensor:
        """(m, width / 2) h2."""
        return torch.as_tensor(self.shared(self.inputs(obs, day)))

    def curves(self, obs: Tensor, day: Tensor) -> Tensor:
        """(m, 2K) what decides an allocation: predicted rewards above arm 0, and costs."""
        y = self(obs, day)
        return torch.stack([y[..., 0] - y[:, :1, 0], y[..., 1]], dim=-1).flatten(1)

    def forward(self, obs: Tensor, day: Tensor) -> Tensor:
        """(m, K, 2) predicted reward and cost."""
        h = self.hidden(obs, day)
        return self.level + self.scale * torch.stack([tower(h) for tower in self.towers], dim=-1)


def user_days(data: Panel, propensity: Tensor, users: Tensor) -> UserDays:
    """The valid user-days of some users.

    Args:
        propensity: (n, T) of all users.
    """
    rows = data.user_days(users)
    user, day = rows // data.horizon, rows % data.horizon
    outcome = torch.stack([data.reward[user, day], data.cost[user, day]], dim=-1)
    arm, p = data.action[user, day], propensity[user, day]
    return UserDays(data.obs[user, day], day, user, arm, p, outcome)


def fit_representation(
    rows: UserDays, n_actions: int, horizon: int, width: int, fitting: Fitting
) -> Representation:
    """Train the network on logged arms; width is that of h1."""
    weight = arm_weights(rows.arm, rows.propensity, n_actions)
    with seeded(fitting.seed):
        model = Representation(rows.obs.shape[1], n_actions, horizon, width)
    model.inputs.fit(rows.obs, rows.day)
    unit = rows.outcome.std(0, correction=0)
    for j in rows.arm.unique().tolist():
        y, w = rows.outcome[rows.arm == j], weight[rows.arm == j, None]
        model.level[j] = (w * y).sum(0) / w.sum()
        model.scale[j] = unit * (y.std(0, correction=0) > _TINY * unit)
    unit = unit.clamp(min=_TINY)

    def loss(index: Tensor) -> Tensor:
        at = torch.arange(len(index))
        predicted = model(rows.obs[index], rows.day[index])[at, rows.arm[index]]
        error = ((rows.outcome[index] - predicted) / unit) ** 2
        task = (weight[index, None] * error).mean(0)
        return (torch.exp(-model.uncertainty) * task + model.uncertainty).sum() / 2

    fitting.run(model, loss, len(rows.arm), "representation")
    return model
