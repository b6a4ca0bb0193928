"""A log as tensors: the user-days that learners draw their batches from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from agents.common.types import Array
from marketing_env import LoggedDataset

_BINS = 3  # of the reward of a user-day, where its size tells something about tomorrow
_TELLS = 0.01  # share of what is left unexplained of the next state that the size must explain


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
    def calendar(self) -> tuple[Tensor, Tensor]:
        """Columns of the observation that are the same for everyone on a day, and their values.

        (c,) column numbers and (T + 1, c) values.
        """
        same = (self.obs == self.obs[:1]).all(0).all(0).nonzero()[:, 0]
        return same, self.obs[0, :, same]

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
