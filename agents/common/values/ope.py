"""Fitted Q evaluation of given policies, cross-fitted over users."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.common.nets import Schedule, Track, no_track
from agents.common.tensors import panel
from agents.common.types import Array
from agents.common.values.factored_q import FactoredMember
from agents.common.values.fitted_q import ROWS, ActionValues, backward_pass
from agents.common.values.response import fit_members
from marketing_env import DayView, LoggedDataset, MixedPolicy, Policy

Probabilities = Callable[[Tensor, Tensor, int], Tensor]
"""What G policies do: from observations (n, d), the rows (n,) of the users in the log and the day
to action probabilities (n, K, G)."""


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
        batch: int = 512,
        epochs: float = 8.0,
        seed: int = 0,
        track: Track = no_track,
        progress: bool = False,
    ) -> None:
        """Fit the outcome model, which all evaluations share.

        Args:
            folds: the spread between members that were fitted on different users enters the errors.
            steps: gradient steps per day and fold for the values.
            batch: users per step; 2,048 are no nearer to the truth.
            epochs: passes over the log for the outcome model.
            track: receives learning curves, like TensorBoard's `add_scalar`.
        """
        self.log, self.data, self.seed, self.progress = log, panel(log), seed, progress
        self.width, self.schedule = width, Schedule(steps=steps, batch=batch)
        self.track: Track = lambda tag, value, step: track(f"judge/{tag}", value, step)
        order = torch.randperm(log.n_users, generator=torch.Generator().manual_seed(seed))
        self.fold = order % folds
        self.outcomes = fit_members(
            self.data, self.fold, folds, seed=seed, width=width, epochs=epochs, track=self.track,
            progress=progress,
        )  # fmt: skip

    def values(self, policies: Sequence[Policy]) -> Array:
        """(P, n, T, K, 3) reward-, cost- and contacts-to-go of each policy."""
        heads, follows = _parts(policies, self.log.bucket)
        contact = (torch.arange(self.data.n_actions) > 0).float()[:, None]
        acts = _acts(heads, self.log)
        members, _ = self.learn(lambda obs, user, day: acts[day][user], len(heads), contact)
        return self._judged(ActionValues(members), follows)

    def learn(
        self, act: Probabilities, n_heads: int, uses: Tensor
    ) -> tuple[list[FactoredMember], Tensor]:
        """Members that value G policies, and V[0] of every user, (n, D, G).

        Args:
            uses: (K, m - 1) what each incentive takes of the limits other than money.
        """
        members = [
            FactoredMember(
                o, uses, n_heads, width=self.width, schedule=self.schedule, seed=self.seed + f
            )
            for f, o in enumerate(self.outcomes)
        ]

        def choose(q: Tensor, obs: Tensor, user: Tensor, day: int) -> Tensor:
            return act(obs, user, day).to(q.dtype)

        first = backward_pass(
            self.data, self.fold, members, choose, (2 + uses.shape[1], n_heads),
            seed=self.seed, track=self.track,
            progress="fitted Q evaluation" if self.progress else None,
        )  # fmt: skip
        return members, first

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
