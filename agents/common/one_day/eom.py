"""Expected outcome of a one-shot policy on randomised data, by four estimators.

With w_i = pi(t_i | x_i) / p_i, the policy's probability of the logged arm over its propensity,

    ht               (1/N) sum_i w_i y_i
    hajek            sum_i w_i y_i / sum_i w_i
    post_stratified  sum_j share_j * sum_{t_i=j} w_i y_i / sum_{t_i=j} w_i
    doubly_robust    (1/N) sum_i { sum_j pi(j|x_i) m_j(x_i) + w_i (y_i - m_{t_i}(x_i)) }

where share_j is the mean of pi(j | x_i), and m_j(x) predicts the outcome of arm j.

Horvitz & Thompson, JASA 47 (1952); Hajek (1971); Ai et al., LBCF, WWW 2022, for its randomised test
(post-stratified; here also for policies that randomise); Dudik et al., ICML 2011 (doubly robust).
Horvitz-Thompson and doubly robust are unbiased, the other two up to O(1/N).

On a one-day log `marketing_env.replay` gives three of these as totals; here each comes as terms per
user, so that two policies on the same users can be compared pair by pair.

At a budget, the price of money is chosen on validation rows (`price_that_spends`), and what the
policy at that price earns and spends is estimated on test rows. The published procedure sets the
price on the spend of the very rows that it then scores.
"""

from __future__ import annotations

import math

import numpy as np

from agents.common.types import Array

ESTIMATORS = ("ht", "hajek", "post_stratified", "doubly_robust")
HALVINGS = 60  # of the bracket of a price: down to the last digits of a double


def terms(
    probs: Array,
    action: Array,
    propensity: Array,
    outcome: Array,
    model: Array | None = None,
) -> dict[str, Array]:
    """Per-user terms (n, M) of each estimator: their mean is the estimate.

    Their spread gives its standard error, to first order for the self-normalised ones. Hajek is nan
    if no user got the policy's arm, post-stratified if nobody at all got one of its arms; if only
    none of those meant for it did, the arm's mean over everyone who got it stands in.

    Args:
        probs: (n, K) the policy's.
        action: (n,) logged arm.
        propensity: (n,) probability with which it was drawn.
        outcome: (n, M) logged, such as reward and cost.
        model: (n, K, M) predictions that did not learn from the same user; without them there is
            no doubly robust estimate.

    Raises:
        ValueError: if shapes disagree, or a propensity is not in (0, 1].
    """
    _check(probs, action, propensity, outcome, model)
    rows, arm = np.arange(len(action)), action.astype(np.int64)
    weight = (probs[rows, arm] / propensity)[:, None]
    found = {
        "ht": weight * outcome,
        "hajek": _hajek(weight, outcome),
        "post_stratified": _post_stratified(probs, arm, propensity, weight, outcome),
    }
    if model is not None:
        expected = (probs[..., None] * model).sum(axis=1)
        found["doubly_robust"] = expected + weight * (outcome - model[rows, arm])
    return found


def mean_and_error(terms: Array) -> tuple[Array, Array]:
    """(M,) means of (n, M) terms, and their standard errors."""
    return terms.mean(axis=0), terms.std(axis=0, ddof=1) / math.sqrt(len(terms))


def at_price(expected: Array, price: float) -> Array:
    """(n,) argmax_j reward_j - price * cost_j of predictions (n, K, 2), the lowest j of a tie."""
    return np.asarray((expected[..., 0] - price * expected[..., 1]).argmax(axis=1))


def price_that_spends(
    budget: float, expected: Array, action: Array, propensity: Array, cost: Array
) -> float:
    """The price at which the real spend of `at_price`, not the predicted one, meets a budget.

    Bisection between 0 and a price at which everybody gets the cheapest arm, on the Hajek estimate
    of the spend. That moves in steps: it is at most the budget at the price found, and above it
    just below that price.

    Args:
        budget: currency per user.
        expected: (n, K, 2) predicted reward and cost of every arm.
        cost: (n,) logged.

    Raises:
        ValueError: if even the cheapest arms spend more than the budget.
    """

    def spend(price: float) -> float:
        weight = (at_price(expected, price) == action) / propensity
        return float(weight @ cost / weight.sum()) if weight.any() else math.inf

    low, high = 0.0, _highest_price(expected)
    if spend(low) <= budget:
        return low
    if not spend(high) <= budget:
        raise ValueError(f"budget = {budget}: everybody's cheapest arm spends {spend(high):g}")
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if spend(middle) <= budget else (middle, high)
    return high


def _highest_price(expected: Array) -> float:
    """Twice the largest ratio of gain to cost over a user's cheapest arm."""
    cheapest = expected[..., 1].argmin(axis=1)
    base = np.take_along_axis(expected, cheapest[:, None, None], axis=1)
    gain, extra = np.moveaxis(expected - base, -1, 0)
    ratio = np.divide(gain, extra, out=np.zeros_like(gain), where=extra > 0)
    return 2 * float(ratio.max())


def _hajek(weight: Array, outcome: Array) -> Array:
    """The ratio, plus its influence function (whose mean is 0)."""
    if not weight.any():
        return np.full_like(outcome, np.nan, dtype=float)
    share = weight / weight.mean()
    mean = (share * outcome).mean(axis=0)
    return np.asarray(mean + share * (outcome - mean))


def _post_stratified(
    probs: Array, arm: Array, propensity: Array, weight: Array, outcome: Array
) -> Array:
    """Each arm's mean is a ratio of its own; the policy's shares of the arms weight them."""
    total = np.zeros(outcome.shape)
    for j in np.flatnonzero(probs.any(axis=0)):
        got = (arm == j)[:, None]
        # Whom the policy gives a rare arm may be nobody who got it: then all who did stand in.
        own = weight * got if (weight * got).any() else got / propensity[:, None]
        if not got.any():
            return np.full_like(total, np.nan)
        mean = (own * outcome).sum(axis=0) / own.sum()
        share = probs[:, j].mean()
        total += probs[:, [j]] * mean + share * own / own.mean() * (outcome - mean)
    return total


def _check(
    probs: Array, action: Array, propensity: Array, outcome: Array, model: Array | None
) -> None:
    n, k = probs.shape
    m = outcome.shape[-1]
    shapes = [
        ("action", action, (n,)), ("propensity", propensity, (n,)), ("outcome", outcome, (n, m)),
        *([] if model is None else [("model", model, (n, k, m))]),
    ]  # fmt: skip
    for name, array, allowed in shapes:
        if array.shape != allowed:
            raise ValueError(f"{name} has shape {array.shape}: allowed is {allowed}")
    bad = ~((propensity > 0) & (propensity <= 1))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"propensity of row {row} is {propensity[row]}: allowed is (0, 1]")
