"""A log as tensors: the user-days that learners draw their batches from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from marketing_env import LoggedDataset

# Outcome classes of a user-day, in the order of their labels.
CLASSES = ("nothing", "reward", "reward and cost", "cost")


@dataclass(frozen=True)
class Panel:
    """Tensors of n users over T days; a user-day is the flat index `user * T + day`."""

    obs: Tensor  # (n, T + 1, d) float32
    action: Tensor  # (n, T) int64
    reward: Tensor  # (n, T) float32
    cost: Tensor  # (n, T) float32
    outcome: Tensor  # (n, T) int64 label in CLASSES
    valid: Tensor  # (n, T) bool
    n_actions: int

    @property
    def horizon(self) -> int:
        return int(self.action.shape[1])

    @property
    def n_users(self) -> int:
        return int(self.action.shape[0])

    def take(self, users: Tensor) -> Panel:
        """The panel of some users."""
        parts = (self.obs, self.action, self.reward, self.cost, self.outcome, self.valid)
        obs, action, reward, cost, outcome, valid = (part[users] for part in parts)
        return Panel(obs, action, reward, cost, outcome, valid, self.n_actions)

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
    return Panel(
        obs=obs,
        action=torch.tensor(log.action.astype(np.int64), device=device),
        reward=torch.tensor(log.reward, dtype=torch.float32, device=device),
        cost=torch.tensor(log.cost, dtype=torch.float32, device=device),
        outcome=torch.tensor(outcome_class(log.reward, log.cost), device=device),
        valid=torch.tensor(log.valid, device=device),
        n_actions=log.n_actions,
    )


def outcome_class(reward: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Label in CLASSES of each user-day: did it bring a reward, and did it cost anything?"""
    return np.where(cost > 0, np.where(reward != 0, 2, 3), (reward != 0).astype(np.int64))
