"""What a policy sees, what it answers, and the policies that collect logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from marketing_env.config import Array, CampaignConfig


class DayView(NamedTuple):
    """All that a policy may know when it decides on a day. What is not here cannot leak."""

    obs: Array  # (n, d_obs) float32
    bucket: Array  # (n,) in [0, 1), one number per user for the whole campaign
    day: int
    remaining_budget: float  # currency per user of the campaign; inf if unconstrained


@runtime_checkable
class Policy(Protocol):
    """Whom to give what: one row of action probabilities per user."""

    def probs(self, view: DayView) -> Array:
        """(n, K), rows sum to 1; a deterministic policy answers one-hot rows."""
        ...


class ConstantPolicy:
    """Everyone gets the same incentive every day."""

    def __init__(self, action: int, n_actions: int) -> None:
        if not 0 <= action < n_actions:
            raise ValueError(f"action = {action}: allowed is 0 to {n_actions - 1}")
        self.action, self.n_actions = action, n_actions

    def probs(self, view: DayView) -> Array:
        return one_hot(np.full(len(view.obs), self.action), self.n_actions)


class RandomPolicy:
    """Every incentive with the same probability: the log that is easiest to learn from."""

    def __init__(self, n_actions: int) -> None:
        if n_actions < 1:
            raise ValueError(f"n_actions = {n_actions}: allowed is 1 or more")
        self.n_actions = n_actions

    def probs(self, view: DayView) -> Array:
        return np.full((len(view.obs), self.n_actions), 1 / self.n_actions)


class ProductionPolicy:
    """What many platforms run: engaged and recently seen users get more, with some exploration.

    It wants the level `floor(K * sigmoid(2 * (engagement - 1/2) + feature_0 - recency))` and
    explores uniformly with probability `epsilon`. Engagement drives both the offer and the
    outcome, so its logs are confounded: whoever got much would have come anyway.
    """

    def __init__(self, config: CampaignConfig, epsilon: float = 0.2) -> None:
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon = {epsilon}: allowed is [0, 1]")
        self.n_actions, self.epsilon = config.n_actions, epsilon
        names = ("engagement", "recency", "feature_0")
        self._columns = [config.columns.index(name) for name in names]

    def probs(self, view: DayView) -> Array:
        engagement, recency, feature = view.obs[:, self._columns].T.astype(float)
        propensity = 1 / (1 + np.exp(-(2 * (engagement - 0.5) + 0.5 * feature - recency)))
        wanted = np.minimum((self.n_actions * propensity).astype(int), self.n_actions - 1)
        explore = self.epsilon / self.n_actions
        return (1 - self.epsilon) * one_hot(wanted, self.n_actions) + explore


class MixedPolicy:
    """Each user follows one of several policies for the whole campaign, drawn by its bucket.

    User i follows component `searchsorted(cumsum(weights), bucket_i)`, so the mixture needs no
    memory and serves the same user the same way everywhere. A mixture of policies earns and
    costs the mean of its components; a mixture re-drawn each day would be another policy.
    """

    def __init__(self, policies: Sequence[Policy], weights: npt.ArrayLike) -> None:
        w = np.asarray(weights, dtype=float)
        if w.shape != (len(policies),) or not len(policies):
            raise ValueError(f"weights has shape {w.shape}: allowed is ({len(policies)},)")
        if not (w >= 0).all() or abs(w.sum() - 1) > 1e-6:
            raise ValueError(f"weights = {w.tolist()}: allowed are numbers >= 0 that sum to 1")
        self.policies, self.weights = tuple(policies), w / w.sum()

    def component(self, bucket: Array) -> Array:
        """(n,) which policy each user follows."""
        edges = np.cumsum(self.weights)[:-1]
        return np.searchsorted(edges, bucket, side="right")

    def probs(self, view: DayView) -> Array:
        part = self.component(view.bucket)
        parts = [np.flatnonzero(part == k) for k in range(len(self.policies))]
        chosen = [(rows, p) for rows, p in zip(parts, self.policies, strict=True) if len(rows)]
        if len(chosen) == 1:
            return chosen[0][1].probs(view)
        answers = [(rows, p.probs(_rows(view, rows))) for rows, p in chosen]
        if not answers:
            return self.policies[0].probs(view)
        result = np.empty((len(view.obs), answers[0][1].shape[1]))
        for rows, answer in answers:
            result[rows] = answer
        return result


def one_hot(action: Array, n_actions: int) -> Array:
    """(n,) actions as (n, K) probabilities."""
    return np.asarray(np.eye(n_actions)[action])


def check_probs(probs: Array, n: int, n_actions: int) -> Array:
    """The probabilities, if they are such.

    Raises:
        ValueError: naming the shape, or the first row that is no distribution.
    """
    probs = np.asarray(probs, dtype=float)
    if probs.shape != (n, n_actions):
        raise ValueError(f"policy.probs has shape {probs.shape}: allowed is ({n}, {n_actions})")
    bad = ~((probs >= 0).all(axis=1) & (np.abs(probs.sum(axis=1) - 1) < 1e-5))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"policy.probs row {row} = {probs[row].tolist()}: allowed are numbers >= 0, sum 1"
        )
    return probs


def _rows(view: DayView, rows: Array) -> DayView:
    return view._replace(obs=view.obs[rows], bucket=view.bucket[rows])
