"""Fitted Q evaluation of a given policy, cross-fitted over users."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from agents.common.nets import Schedule
from agents.common.tensors import panel
from agents.common.types import Array
from agents.common.values.factored_q import FactoredMember
from agents.common.values.fitted_q import ActionValues, Choose, backward_pass
from agents.common.values.response import fit_members
from marketing_env import DayView, LoggedDataset, MixedPolicy, Policy


def fitted_q_evaluation(
    policy: Policy,
    log: LoggedDataset,
    *,
    folds: int = 2,
    width: int = 128,
    steps: int = 100,
    epochs: float = 8.0,
    seed: int = 0,
    progress: bool = False,
) -> Array:
    """(n, T, K, 3) reward-, cost- and contacts-to-go, each user judged by others' data.

    The same outcome-factored backward pass as the learner's, with the policy's own actions instead
    of greedy ones (Le et al., Batch Policy Learning under Constraints, ICML 2019, algorithm 3, for
    a finite horizon). The policies of a mixture are evaluated one by one, in one pass: a user
    follows the same one to the end, and his values are of that one.

    Args:
        steps: gradient steps per day and fold for the values.
        epochs: passes over the log for the outcome model.
    """
    data = panel(log)
    fold = torch.randperm(data.n_users, generator=torch.Generator().manual_seed(seed)) % folds
    mixed = policy if isinstance(policy, MixedPolicy) else MixedPolicy([policy], [1.0])
    n_heads, contact = len(mixed.policies), (torch.arange(data.n_actions) > 0).float()[:, None]
    schedule = Schedule(steps=steps)
    members = [
        FactoredMember(o, contact, n_heads, width=width, schedule=schedule, seed=seed + f)
        for f, o in enumerate(fit_members(data, fold, folds, seed=seed, width=width, epochs=epochs))
    ]
    backward_pass(
        data, fold, members, _each(mixed.policies, log), (3, n_heads),
        progress="fitted Q evaluation" if progress else None,
    )  # fmt: skip
    values = ActionValues(members)
    follows = torch.as_tensor(mixed.component(log.bucket))
    return _judged(values, data.obs, fold, follows, log.horizon)


def _each(policies: tuple[Policy, ...], log: LoggedDataset) -> Choose:
    """Head g follows policy g."""

    def choose(q: Tensor, obs: Tensor, user: Tensor, day: int) -> Tensor:
        view = DayView(obs.numpy(), log.bucket[user.numpy()], day, math.inf)
        probs = np.stack([policy.probs(view) for policy in policies], axis=-1)
        return torch.as_tensor(probs, dtype=q.dtype)

    return choose


@torch.no_grad()
def _judged(values: ActionValues, obs: Tensor, fold: Tensor, head: Tensor, horizon: int) -> Array:
    """Every user's values at his head, from the member that was fitted without him."""
    days = []
    for day in range(horizon):
        parts = []
        for rows in torch.arange(len(fold)).split(8192):
            members = values.members(obs[rows, day], day)
            parts.append(members[fold[rows], torch.arange(len(rows)), :, :, head[rows]])
        days.append(torch.cat(parts))
    return np.asarray(torch.stack(days, dim=1).double().numpy())
