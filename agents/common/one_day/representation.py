"""Hidden representations of user-days, learned from reward and cost together.

A multi-task network whose shared layers never see the incentive,

    h1 = silu(W1 x),  h2 = silu(W2 h1),  yhat_jk(x) = level_jk + spread_jk tower_k(h2)_j,

has one tower for each outcome k (reward, cost), with one head for each incentive j; level and
spread are the mean and standard deviation of y_k among the rows that got j. A cost is instead
level_j softplus(tower_j + ln(e - 1)): what was paid for is never free, what never was costs 0.

Logged arms t_i teach it, rows weighted by inverse propensity w_i and tasks by their uncertainty
u_k:

    L = (1/2) sum_k exp(-u_k) L_k + u_k
    L_k = mean_i w_i ((y_ik - yhat_{t_i k}) / spread_{t_i k})^2

As weights add up alike for all arms, L_k is in a trial the error of the whole table (i, j) in
expectation. It does not depend on units, and cheap incentives teach as much as dear ones.

Wang et al., 2025, arXiv 2506.00959 (representation); Zhou et al., DFCL, KDD 2024 (L_k, there
without scales); Kendall, Gal & Cipolla, CVPR 2018 (weights of the tasks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from agents.common.nets import (
    Track,
    minimise,
    mlp,
    moments,
    no_track,
    seeded,
    standardised,
    steps_of,
)
from agents.common.one_day.direct_rank import arm_weights
from agents.common.tensors import panel
from agents.common.types import Array
from marketing_env import LoggedDataset

_ONE = math.log(math.e - 1)  # softplus of it is 1
_TINY = 1e-6  # spread, as a share of the whole, below which an outcome does not vary


class UserDays(NamedTuple):
    """Rows of a log to learn from."""

    obs: Tensor  # (m, d) float32
    day: Tensor  # (m,) int64
    user: Tensor  # (m,) int64
    arm: Tensor  # (m,) int64
    propensity: Tensor  # (m,) float64
    outcome: Tensor  # (m, 2) reward and cost
    weight: Tensor  # (m,) inverse propensity, of the same sum in each arm: in a trial N / (K N_t)

    def take(self, rows: Tensor) -> UserDays:
        return UserDays(*(part[rows] for part in self))

    def logged(self, values: Tensor) -> Tensor:
        """(m, ...) of the logged arm, from (m, K, ...)."""
        return values[torch.arange(len(self.arm)), self.arm]


class Fitting(NamedTuple):
    """How a network is trained."""

    epochs: float = 6.0  # passes over the rows, but at least as many steps as `fewest`
    batch: int = 2048
    learning_rate: float = 5e-3
    seed: int = 0
    track: Track = no_track
    progress: bool = False
    fewest: int = 300

    def steps(self, n_rows: int) -> int:
        return steps_of(self.epochs, n_rows, self.batch, self.fewest)

    def run(
        self,
        model: nn.Module,
        loss: Callable[[Tensor], Tensor],
        n_rows: int,
        name: str,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        """Minimise a loss of row numbers, and freeze the model.

        Args:
            on_step: is told the number of steps done, after each.
        """

        def follow(step: int, value: Tensor) -> None:
            if step % 50 == 0:
                self.track(f"{name}/loss", float(value), step)
            if on_step is not None:
                on_step(step + 1)

        minimise(
            model.parameters(), loss, torch.arange(n_rows), steps=self.steps(n_rows),
            batch=self.batch, lr=self.learning_rate,
            generator=torch.Generator().manual_seed(self.seed), on_step=follow,
            progress=name if self.progress else None,
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
        return standardised(obs, day, self.horizon, self.mean, self.spread)

    def fit(self, obs: Tensor, day: Tensor) -> None:
        x = self(obs, day)
        self.mean, self.spread = moments(x)


class Representation(nn.Module):
    """The multi-task network."""

    level: Tensor  # (K, 2) mean reward and cost of each arm
    spread: Tensor  # (K, 2) their standard deviations, or 0

    def __init__(self, n_obs: int, n_actions: int, horizon: int, width: int) -> None:
        """Width is that of h1, twice that of h2; 0 makes the heads linear in the inputs."""
        super().__init__()
        n_inputs, half, deep = n_obs + 3, max(width // 2, 1), int(width > 0)
        n_hidden = half if deep else n_inputs
        self.inputs = Inputs(n_obs, horizon)
        self.shared = nn.Sequential(*mlp(n_inputs, width, deep), *mlp(width, half, deep))
        towers = [
            nn.Sequential(*mlp(n_hidden, half, deep), nn.Linear(n_hidden, n_actions))
            for _ in range(2)
        ]
        for tower in towers:
            for parameter in tower[-1].parameters():
                nn.init.zeros_(parameter)
        self.towers = nn.ModuleList(towers)
        self.uncertainty = nn.Parameter(torch.zeros(2))
        self.register_buffer("level", torch.zeros(n_actions, 2))
        self.register_buffer("spread", torch.zeros(n_actions, 2))

    @classmethod
    def rebuild(cls, state: Mapping[str, Tensor], horizon: int) -> Representation:
        """The network whose `state_dict` this is."""
        width = len(state.get("shared.0.weight", ()))
        model = cls(len(state["inputs.mean"]) - 3, len(state["level"]), horizon, width)
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
        reward, cost = (tower(h) for tower in self.towers)
        reward = self.level[:, 0] + self.spread[:, 0] * reward
        return torch.stack([reward, self.level[:, 1] * softplus(cost + _ONE)], dim=-1)

    def loss(self, predicted: Tensor, rows: UserDays) -> Tensor:
        """L of predictions (m, K, 2)."""
        unit = torch.where(self.spread > 0, self.spread, 1.0)[rows.arm]
        error = (rows.outcome - rows.logged(predicted)) / unit
        task = (rows.weight[:, None] * error**2).mean(0)
        return (torch.exp(-self.uncertainty) * task + self.uncertainty).sum() / 2


def user_days(log: LoggedDataset, users: Array) -> UserDays:
    """The valid user-days of some users."""
    data, propensity = panel(log), torch.tensor(log.propensity)
    rows = data.user_days(torch.as_tensor(users))
    obs, day = data.mornings(rows)
    arm, _, *measured = data.happened(rows)
    p = propensity.flatten()[rows]
    weight, user = arm_weights(arm, p, data.n_actions), rows // data.horizon
    return UserDays(obs, day, user, arm, p, torch.stack(measured, dim=-1), weight)


def fit_representation(
    rows: UserDays,
    n_actions: int,
    horizon: int,
    width: int,
    fitting: Fitting,
    name: str = "representation",
) -> Representation:
    """Train the network on logged arms; `width` as of `Representation`."""
    with seeded(fitting.seed):
        model = Representation(rows.obs.shape[1], n_actions, horizon, width)
    model.inputs.fit(rows.obs, rows.day)
    model.level, model.spread = _moments(rows, n_actions)

    def loss(index: Tensor) -> Tensor:
        batch = rows.take(index)
        return model.loss(model(batch.obs, batch.day), batch)

    fitting.run(model, loss, len(rows.arm), name)
    return model


def _moments(rows: UserDays, n_actions: int) -> tuple[Tensor, Tensor]:
    """(K, 2) weighted means and standard deviations of each arm's reward and cost."""
    weight, outcome = rows.weight[:, None].double(), rows.outcome.double()
    mass = torch.zeros(n_actions, 1, dtype=torch.double).index_add(0, rows.arm, weight)

    def mean(values: Tensor) -> Tensor:
        return torch.zeros(n_actions, 2).double().index_add(0, rows.arm, weight * values) / mass

    level = mean(outcome)
    # An arm that none of these users got is no bargain.
    typical = torch.stack([outcome[:, 0].mean(), level[:, 1].nan_to_num(0).max()])
    level = torch.where(mass > 0, level, typical)
    spread = mean((outcome - level[rows.arm]) ** 2).sqrt()
    varies = spread > _TINY * outcome.std(0, correction=0)
    return level.float(), torch.where(varies, spread, 0.0).float()
