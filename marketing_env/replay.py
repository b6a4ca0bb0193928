"""What a policy would have earned, from a log alone: off-policy evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from marketing_env.config import Array
from marketing_env.dataset import LoggedDataset
from marketing_env.policy import DayView, Policy, check_probs

ESTIMATORS = ("logged", "importance", "self_normalised", "doubly_robust", "fitted_q")


@dataclass(frozen=True)
class Estimate:
    """Estimated campaign means per user, and how much of the log speaks about the policy."""

    estimator: str
    reward: float
    reward_error: float  # standard error over users
    cost: float  # currency
    cost_error: float
    contacts: float  # incentives offered per user per campaign
    contacts_error: float
    effective_users: float  # (sum of weights)^2 / sum of squared weights, on the last day


def replay(policy: Policy, log: LoggedDataset, q: Array | None = None) -> dict[str, Estimate]:
    """Estimate the policy on a log, by every estimator that the inputs allow.

    With rho_t the product of pi(a|s) / propensity over days 0..t, per user,

    - `logged`: the log's own policy, for comparison;
    - `importance`: mean of sum_t rho_t m_t (per-decision importance weighting, Precup 2000);
    - `self_normalised`: each day's weights divided by their mean;
    - `doubly_robust`: V(s_0) + sum_t rho_t (m_t + V(s_{t+1}) - Q(s_t, a_t)) (Jiang & Li 2016);
    - `fitted_q`: mean of V(s_0).

    Args:
        q: (n, T, K, 3) reward-, cost- and contacts-to-go of the policy from an evaluation that did
            not learn from the same users (`agents.common.values.ope.fitted_q_evaluation` cross-fits
            them). Without it the last two estimators are left out.

    Raises:
        ValueError: if the log was collected under a hard budget that refused offers (a refused
            offer has no honest propensity), or if shapes disagree.
    """
    if log.meta.get("refused", 0):
        raise ValueError(
            f"meta['refused'] = {log.meta['refused']}: logs with refused offers have no honest"
            " propensities; collect the log without a budget"
        )
    n, horizon, k = log.n_users, log.horizon, log.n_actions
    if q is not None and q.shape != (n, horizon, k, 3):
        raise ValueError(f"q has shape {q.shape}: allowed is ({n}, {horizon}, {k}, 3)")
    probs = _probs(policy, log)
    taken = np.take_along_axis(probs, log.action[..., None].astype(np.int64), axis=2)[..., 0]
    ratio = np.where(log.valid, taken / np.where(log.valid, log.propensity, 1), 1.0)
    weight = np.cumprod(ratio, axis=1)
    measured = np.stack([log.reward, log.cost, log.action > 0], axis=-1)
    outcome = np.where(log.valid[..., None], measured, 0.0)
    ess = _effective(weight[:, -1])
    found = {
        "logged": _estimate("logged", outcome.sum(axis=1), n),
        "importance": _estimate("importance", (weight[..., None] * outcome).sum(axis=1), ess),
        "self_normalised": _self_normalised(weight, outcome, ess),
    }
    if q is not None:
        value = (probs[..., None] * q).sum(axis=2)
        logged_q = np.take_along_axis(q, log.action[..., None, None].astype(np.int64), axis=2)
        advantage = _temporal_errors(log, outcome, value, logged_q[:, :, 0])
        first = _first_values(log, value)
        robust = first + (weight[..., None] * advantage).sum(axis=1)
        found["doubly_robust"] = _estimate("doubly_robust", robust, ess)
        found["fitted_q"] = _estimate("fitted_q", first, n)
    return found


def _probs(policy: Policy, log: LoggedDataset) -> Array:
    """(n, T, K) what the policy would have done on every logged morning."""
    answers = [
        policy.probs(DayView(log.obs[:, day], log.bucket, day, math.inf))
        for day in range(log.horizon)
    ]
    checked = [check_probs(a, log.n_users, log.n_actions) for a in answers]
    return np.stack(checked, axis=1)


def _temporal_errors(log: LoggedDataset, outcome: Array, value: Array, logged_q: Array) -> Array:
    """(n, T, 3) m_t + V(next valid day) - Q(s_t, a_t); 0 on days the user was not there."""
    following = np.zeros_like(value[:, 0])
    errors = np.zeros_like(outcome)
    for day in reversed(range(log.horizon)):
        there = log.valid[:, day, None]
        errors[:, day] = np.where(there, outcome[:, day] + following - logged_q[:, day], 0)
        following = np.where(there, value[:, day], following)
    return errors


def _first_values(log: LoggedDataset, value: Array) -> Array:
    """(n, 3) value on the first day each user was there."""
    first = log.valid.argmax(axis=1)
    ever = np.any(log.valid, axis=1, keepdims=True)
    return np.where(ever, value[np.arange(log.n_users), first], 0.0)


def _estimate(name: str, per_user: Array, effective: float) -> Estimate:
    n = len(per_user)
    means = per_user.mean(axis=0)
    errors = np.std(per_user, axis=0, ddof=1) / math.sqrt(n) if n > 1 else np.full(3, math.nan)
    reward, cost, contacts = means.tolist()
    reward_error, cost_error, contacts_error = errors.tolist()
    return Estimate(
        name, reward, reward_error, cost, cost_error, contacts, contacts_error, effective
    )


def _self_normalised(weight: Array, outcome: Array, effective: float) -> Estimate:
    """Weights divided by their daily mean; errors by the delta method."""
    mean = weight.mean(axis=0)
    if not (mean > 0).all():
        nan = math.nan
        return Estimate("self_normalised", nan, nan, nan, nan, nan, nan, effective)
    share = (weight / mean)[..., None]
    daily = (share * outcome).mean(axis=0)
    influence = (share * (outcome - daily)).sum(axis=1)
    return _estimate("self_normalised", influence + daily.sum(axis=0), effective)


def _effective(weight: Array) -> float:
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0
