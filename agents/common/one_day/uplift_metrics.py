"""Ranking metrics of one-shot allocation on randomised data: AUCC, MT-AUCC and Qini.

They judge the order in which users, or steps from one arm to the next, get the money. AUCC (area
under the cost curve) pays for what an order buys with what it costs; Qini ignores cost.

Sources: Du et al., Improve User Retention with Causal Learning, CD@KDD 2019 (AUCC); Zhou et al.,
Direct Heterogeneous Causal Learning, AAAI 2023 (MT-AUCC), and Decision Focused Causal Learning,
KDD 2024, whose code fixes the steps; Radcliffe, Using Control Groups to Target on Predicted Lift,
2007 (Qini).

Differences from the papers:
1. Tied scores are ordered at random, by a fixed seed; the published code takes whatever order its
   sort leaves, which may know the outcome.
2. MT-AUCC counts group sizes with the same weights N / N_t as outcomes. With arms of equal size
   this is the published number. Otherwise the published sizes, plain counts, would compare
   N mean_1 / N_1 with N mean_0 / N_0, which is no effect of anything.
3. Where the effect on cost or on reward is not positive, AUCC is undefined: an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from agents.common.types import Array


class Interval(NamedTuple):
    """Bootstrap percentiles and standard error of one number, or of an array of them."""

    low: Array
    high: Array
    error: Array


def aucc(
    score: Array,
    treated: Array,
    reward: Array,
    cost: Array,
    *,
    weight: Array | None = None,
    q: int = 200,
    seed: int = 0,
) -> float:
    """Area under the cost curve of a binary arm; about 0.5 at random, above 1 in principle.

    Users come by falling score. With n_T and n_C the sizes of the whole groups,

        C(k) = sum_{treated <= k} c_i / n_T - sum_{control <= k} c_i / n_C,    R(k) likewise
        AUCC = (R(k_1) + ... + R(k_{q-1}) + R(n)) / (q R(n) + R(n))

    where k_j is the first row after k_{j-1} with C(k_j) >= (j / q) C(n). Steps that are never
    reached add nothing, so an order whose cost curve falls back is judged low.

    Args:
        score: (n,) predicted return on cost; only its order counts.
        treated: (n,) bool.
        weight: (n,) of each user in sums and sizes, such as 1 / propensity; default 1.
        q: steps; published comparisons use 200.

    Raises:
        ValueError: for shapes that disagree, a score, outcome or weight that is not a number, an
            empty group, or an effect on reward or cost that is not positive.
    """
    treated = _group(treated)
    weight = np.ones(len(treated)) if weight is None else weight
    _check(len(treated), score=score, reward=reward, cost=cost, weight=weight)
    order = _ranked(score, seed)
    treated, weight = treated[order], weight[order]
    gain, spend = (_curve(y[order], treated, weight) for y in (reward, cost))
    for name, curve in (("reward", gain), ("cost", spend)):
        if not curve[-1] > 0:
            raise ValueError(f"effect on {name} is {curve[-1]:g}: AUCC needs a positive one")
    return float(gain[_steps(spend, q)].sum() / (gain[-1] * (q + 1)))


def mt_aucc(
    score: Array, action: Array, reward: Array, cost: Array, *, q: int = 200, seed: int = 0
) -> float:
    """AUCC of several arms: all steps from an arm to the next one compete for the money.

    Step j compares users with arm j + 1, as treated, with users with arm j, as control, both
    scored by column j; a user of a middle arm enters twice. Weights N / N_t make arms equal: two
    arms give plain `aucc`.

    Args:
        score: (n, K - 1) predicted return on cost of the step from arm j to arm j + 1.
        action: (n,) logged arm.

    Raises:
        ValueError: as `aucc`, and for an arm that nobody got.
    """
    n, last = score.shape
    arm = np.asarray(action).astype(np.int64)
    size = np.bincount(arm, minlength=last + 1)
    if len(arm) != n or len(size) > last + 1 or not size.all():
        raise ValueError(f"action has {size} users by arm: allowed are 1 or more in {last + 1}")
    below, above = np.flatnonzero(arm < last), np.flatnonzero(arm > 0)
    user = np.concatenate([below, above])
    treated = np.arange(len(user)) >= len(below)
    step, weight = arm[user] - treated, n / size[arm[user]]
    return aucc(score[user, step], treated, reward[user], cost[user], weight=weight, q=q, seed=seed)


def qini_curve(score: Array, treated: Array, outcome: Array, *, seed: int = 0) -> Array:
    """(n + 1,) Q(k) = Y_T(k) - Y_C(k) n_T(k) / n_C(k) after the k users of highest score.

    Y are cumulative sums of the outcome, n cumulative counts. While no control is among them there
    is nothing to subtract.
    """
    treated = _group(treated)
    _check(len(treated), score=score, outcome=outcome)
    order = _ranked(score, seed)
    y, t = outcome[order], treated[order]
    n_treated, n_control = np.cumsum(t), np.cumsum(~t)
    expected = np.cumsum(y * ~t) * n_treated / np.maximum(n_control, 1)
    return np.append(0.0, np.cumsum(y * t) - expected)


def qini(
    score: Array, treated: Array, outcome: Array, *, effect: Array | None = None, seed: int = 0
) -> float:
    """Qini coefficient: area above the chord from (0, 0) to (n, Q(n)), as a share of the best.

    The best order is by `effect` (n,) where the true one is known. Otherwise it is the usual one,
    which hindsight alone reaches: responders in treatment first, responders in control last.

    Raises:
        ValueError: as `aucc`, or if the best order is no better than the chord.
    """
    curve = qini_curve(score, treated, outcome, seed=seed)
    best = outcome * np.where(_group(treated), 1, -1) if effect is None else effect
    most = _above_chord(qini_curve(best, treated, outcome, seed=seed))
    if most <= 0:
        raise ValueError(f"the best order has area {most:g} above the chord: nothing to find")
    return _above_chord(curve) / most


def bootstrap(
    metric: Callable[[Array], ArrayLike],
    n: int,
    *,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of any metric over users drawn with replacement.

    `metric(rows)` gets (n,) row numbers. To compare methods, let it return all of them and their
    differences: they share the draw, so the differences are paired. Standard errors of means:
    `metric = lambda rows: terms[rows].mean(axis=0)`.

    Raises:
        ValueError: what the metric raises on a draw, such as an effect that is not positive: then
            the data do not determine the sign of its denominator.
    """
    rng = np.random.default_rng([seed, 21])
    drawn = np.stack([np.asarray(metric(rng.integers(n, size=n))) for _ in range(repeats)])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(low, high, drawn.std(axis=0, ddof=1))


def _ranked(score: Array, seed: int) -> Array:
    """Rows by falling score, ties at random."""
    tie = np.random.default_rng([seed, 20]).random(len(score))
    return np.lexsort((tie, -score.astype(float)))


def _curve(outcome: Array, treated: Array, weight: Array) -> Array:
    """(n,) cumulative treated minus cumulative control, each by the size of its whole group."""
    total, size = np.cumsum(weight * outcome * treated), (weight * treated).sum()
    other, other_size = np.cumsum(weight * outcome * ~treated), (weight * ~treated).sum()
    return np.asarray(total / size - other / other_size)


def _steps(spend: Array, q: int) -> list[int]:
    """One row for each j < q, the first after the last one to spend j / q of all; and the end."""
    rows, start = [], 0
    for threshold in spend[-1] * np.arange(1, q) / q:
        reached = spend[start:-1] >= threshold
        if not reached.any():
            break
        start += int(reached.argmax()) + 1
        rows.append(start - 1)
    return [*rows, len(spend) - 1]


def _above_chord(curve: Array) -> float:
    return float((curve[1:] + curve[:-1]).sum() / 2 - curve[-1] * (len(curve) - 1) / 2)


def _group(treated: Array) -> Array:
    """As bool, once both groups are there."""
    found = np.unique(treated)
    if treated.ndim != 1 or not np.array_equal(found, [0, 1]):
        raise ValueError(
            f"treated has shape {treated.shape}, values {found}: allowed are (n,), both 0 and 1"
        )
    return treated.astype(bool)


def _check(n: int, **arrays: Array) -> None:
    for name, values in arrays.items():
        if values.shape != (n,):
            raise ValueError(f"{name} has shape {values.shape}: allowed is {(n,)}")
        bad = np.isnan(values) if name == "score" else ~np.isfinite(values)
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(f"{name} of row {row} is {values[row]}: allowed are numbers")
