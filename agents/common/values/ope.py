"""Fitted Q evaluation of given policies, cross-fitted over users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.common.nets import Schedule
from agents.common.tensors import panel
from agents.common.types import Array
from agents.common.values.factored_q import FactoredMember
from agents.common.values.fitted_q import ROWS, ActionValues, backward_pass
from agents.common.values.response import fit_members
from marketing_env import DayView, LoggedDataset, MixedPolicy, Policy


class FittedQEvaluation:
    """Judges policies by one log, each user by others' data.

    The same outcome-factored backward pass as the learner's, with the policies' own actions instead
    of greedy ones (Le et al., Batch Policy Learning under Constraints, ICML 2019, algorithm 3, for
    a finite horizon). One pass values any number of policies. The parts of a mixture are valued one
    by one: a user follows the same one to the end, and his values are of that one. A policy object
    that several mixtures hold is valued once.
    """

    def __init__(
        self,
        log: LoggedDataset,
        *,
        folds: int = 2,
        width: int = 128,
        steps: int = 100,
        epochs: float = 8.0,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        """Fit the outcome model, which all evaluations share.

        Args:
            steps: gradient steps per day and fold for the values.
            epochs: passes over the log for the outcome model.
        """
        self.log, self.data, self.seed, self.progress = log, panel(log), seed, progress
        self.width, self.schedule = width, Schedule(steps=steps)
        order = torch.randperm(log.n_users, generator=torch.Generator().manual_seed(seed))
        self.fold = order % folds
        self.outcomes = fit_members(
            self.data, self.fold, folds, seed=seed, width=width, epochs=epochs
        )

    def values(self, policies: Sequence[Policy]) -> Array:
        """(P, n, T, K, 3) reward-, cost- and contacts-to-go of each policy."""
        heads, follows = _parts(policies, self.log.bucket)
        contact = (torch.arange(self.data.n_actions) > 0).float()[:, None]
        members = [
            FactoredMember(
                o, contact, len(heads), width=self.width, schedule=self.schedule,
                seed=self.seed + f,
            )
            for f, o in enumerate(self.outcomes)
        ]  # fmt: skip
        acts = _acts(heads, self.log)
        backward_pass(
            self.data, self.fold, members, lambda q, obs, user, day: acts[day][user],
            (3, len(heads)), progress="fitted Q evaluation" if self.progress else None,
        )  # fmt: skip
        return self._judged(ActionValues(members), follows)

    @torch.no_grad()
    def _judged(self, values: ActionValues, follows: Tensor) -> Array:
        """Every user's values at his heads, from the member that was fitted without him."""
        days = []
        for day in range(self.log.horizon):
            parts = []
            for rows in torch.arange(self.log.n_users).split(ROWS):
                members = values.members(self.data.obs[rows, day], day)
                each = torch.arange(len(rows))
                parts.append(members[self.fold[rows], each, :, :, follows[:, rows]])
            days.append(torch.cat(parts, dim=1))
        return np.asarray(torch.stack(days, dim=2).double().numpy())


def fitted_q_evaluation(policy: Policy, log: LoggedDataset, **settings: Any) -> Array:
    """(n, T, K, 3) values of one policy.

    Args:
        settings: of `FittedQEvaluation`.
    """
    return np.asarray(FittedQEvaluation(log, **settings).values([policy])[0])


def _parts(policies: Sequence[Policy], bucket: Array) -> tuple[list[Policy], Tensor]:
    """The policies that users follow to the end, and (P, n) which of them each user follows."""
    mixtures = [p if isinstance(p, MixedPolicy) else MixedPolicy([p], [1.0]) for p in policies]
    parts = {id(part): part for mixture in mixtures for part in mixture.policies}
    place = {key: head for head, key in enumerate(parts)}
    follows = [
        np.array([place[id(part)] for part in mixture.policies])[mixture.component(bucket)]
        for mixture in mixtures
    ]
    return list(parts.values()), torch.as_tensor(np.stack(follows))


def _acts(policies: Sequence[Policy], log: LoggedDataset) -> list[Tensor]:
    """By day, (n, K, G) what each policy does on the logged mornings.

    Asked from the first day to the last, with everyone there, as `marketing_env.replay` asks: some
    policies remember, and some look at the whole audience.
    """
    days = []
    for day in range(log.horizon):
        view = DayView(log.obs[:, day], log.bucket, day, math.inf)
        probs = np.stack([policy.probs(view) for policy in policies], axis=-1)
        days.append(torch.as_tensor(probs, dtype=torch.float32))
    return days
