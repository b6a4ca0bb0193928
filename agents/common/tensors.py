"""A log as tensors: the user-days that learners draw their batches from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.common.types import Array
from marketing_env import LoggedDataset

_BINS = 3  # of the reward of a user-day, where its size tells something about tomorrow
_TELLS = 0.01  # share of what is left unexplained of the next state that the size must explain


class Happened(NamedTuple):
    """What was done on m user-days, and what came of it."""

    action: Tensor  # (m,) int64
    outcome: Tensor  # (m,) int64
    reward: Tensor  # (m,) float32
    cost: Tensor  # (m,) float32


@dataclass(frozen=True)
class Panel:
    """Tensors of n users over T days; a user-day is the flat index `user * T + day`."""

    obs: Tensor  # (n, T + 1, d) float32
    action: Tensor  # (n, T) int64
    reward: Tensor  # (n, T) float32
    cost: Tensor  # (n, T) float32
    outcome: Tensor  # (n, T) int64 label, `2 * level + paid` (`outcome_class`)
    valid: Tensor  # (n, T) bool
    n_actions: int
    n_levels: int = 2  # of the reward: nothing, then bins of its size

    @property
    def horizon(self) -> int:
        return int(self.action.shape[1])

    @cached_property
    def stays(self) -> Tensor:
        """(n, T) bool: the log shows the user on the next morning too."""
        # A log without a last morning repeats the day's observation there.
        last = (self.obs[:, -1] != self.obs[:, -2]).any().expand(self.n_users, 1)
        return self.valid & torch.cat([self.valid[:, 1:], last], dim=1)

    @cached_property
    def leaves(self) -> Tensor:
        """(n, T) bool: the user is not seen again, though the campaign goes on."""
        days_left = self.valid.flip(1).cumsum(1).flip(1)
        left = self.valid & (days_left == 1)
        left[:, -1] = False
        return left

    @cached_property
    def calendar(self) -> tuple[Tensor, Tensor]:
        """Columns of the observation that are the same for everyone on a day, and their values.

        (c,) column numbers and (T + 1, c) values.
        """
        n_days, n_obs = self.obs.shape[1:]
        same, values = torch.ones(n_obs, dtype=torch.bool), torch.zeros(n_days, n_obs)
        for day, there in enumerate([*self.valid.unbind(1), self.valid[:, -1]]):
            if len(seen := self.obs[there, day]):
                same &= (seen == seen[0]).all(0).cpu()
                values[day] = seen[0]
        columns = same.nonzero()[:, 0]
        return columns.to(self.obs.device), values[:, columns].to(self.obs.device)

    # `index_select` of a flat array takes a seventh of the time that two indices take.
    def mornings(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(m, d) observations and (m,) days of user-days."""
        user = rows // self.horizon
        return self.obs.flatten(0, 1).index_select(0, rows + user), rows - user * self.horizon

    def happened(self, rows: Tensor) -> Happened:
        """What the log says of m user-days."""
        parts = self.action, self.outcome, self.reward, self.cost
        return Happened(*(part.flatten().index_select(0, rows) for part in parts))

    def at(self, users: Tensor, day: Tensor, shown: int) -> Tensor:
        """(n, d) observations of user-days, as if the calendar showed another day."""
        obs = self.obs[users, day]
        columns, values = self.calendar
        obs[:, columns] = values[shown]
        return obs

    @property
    def n_outcomes(self) -> int:
        return 2 * self.n_levels

    @property
    def n_users(self) -> int:
        return int(self.action.shape[0])

    def take(self, users: Tensor) -> Panel:
        """The panel of some users."""
        parts = (self.obs, self.action, self.reward, self.cost, self.outcome, self.valid)
        obs, action, reward, cost, outcome, valid = (part[users] for part in parts)
        return Panel(obs, action, reward, cost, outcome, valid, self.n_actions, self.n_levels)

    def user_days(self, users: Tensor | None = None) -> Tensor:
        """Flat indices of the valid user-days (of some users)."""
        if users is None:
            return self.valid.reshape(-1).nonzero()[:, 0]
        rows, days = self.valid[users].nonzero(as_tuple=True)
        return users[rows] * self.horizon + days


def panel(log: LoggedDataset, device: str = "cpu") -> Panel:
    """The log on a device. Arrays of the right type are shared with the log, not copied."""
    with warnings.catch_warnings():
        # Torch warns that it cannot mark tensors read-only; nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        obs = torch.as_tensor(log.obs).to(device)
    edges = reward_bins(log)
    return Panel(
        obs=obs,
        action=torch.tensor(log.action.astype(np.int64), device=device),
        reward=torch.tensor(log.reward, dtype=torch.float32, device=device),
        cost=torch.tensor(log.cost, dtype=torch.float32, device=device),
        outcome=torch.tensor(outcome_class(log.reward, log.cost, edges), device=device),
        valid=torch.tensor(log.valid, device=device),
        n_actions=log.n_actions,
        n_levels=2 + len(edges),
    )


def outcome_class(reward: Array, cost: Array, edges: Array | tuple[float, ...] = ()) -> Array:
    """Label `2 * level + paid` of each user-day.

    `level` is 0 without a reward, else 1 + the bin of its size between the edges; `paid` is 1 if
    the day cost anything.
    """
    level = np.where(reward != 0, 1 + np.searchsorted(np.asarray(edges), reward, "right"), 0)
    return np.asarray(2 * level + (cost > 0), dtype=np.int64)


def reward_bins(log: LoggedDataset, sample: int = 50_000) -> Array:
    """Edges between bins of a day's reward; none if its size says nothing about the next state.

    Bins make the next state easier to predict from (state, incentive, outcome), but leave each bin
    fewer user-days. They are worth it only if, among rewarded days, the size of the reward explains
    some of what state and incentive leave open about the next morning.
    """
    here = log.valid & (log.reward != 0)
    here[:, :-1] &= log.valid[:, 1:]
    here[:, -1] = False
    user, day = np.nonzero(here)
    if len(user) < 1000:
        return np.empty(0)
    step = max(1, len(user) // sample)
    user, day = user[::step], day[::step]
    size = np.argsort(np.argsort(log.reward[user, day], kind="stable")) / len(user)
    arms = np.eye(log.n_actions)[log.action[user, day]]
    known = np.column_stack([log.obs[user, day], arms, np.eye(log.horizon)[day]])
    told = np.column_stack([size, log.obs[user, day + 1]]).astype(float)
    left = told - known @ np.linalg.lstsq(known, told, rcond=None)[0]
    left = left[:, left.std(axis=0) > 1e-6]
    if np.ptp(log.reward[user, day]) == 0 or left.shape[1] < 2:
        return np.empty(0)
    explained = np.corrcoef(left, rowvar=False)[0, 1:] ** 2
    if explained.max() < _TELLS:
        return np.empty(0)
    return np.unique(np.quantile(log.reward[user, day], np.arange(1, _BINS) / _BINS))
