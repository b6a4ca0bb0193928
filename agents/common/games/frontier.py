"""What a set of policies is worth, and the best mixture of them for any budget.

    max_w  sum_k w_k R_k   s.t.  sum_k w_k C_k <= limits,  sum_k w_k = 1,  w >= 0

mixes at most one policy more than there are limits. Since every policy is the best response to a
price, weak duality bounds what any policy could earn if the values were true:

    bound(limits) = min_k  lambda_k . limits + R_k - lambda_k . C_k
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.common.games.game import Master, solve_master
from agents.common.types import Array, Forecast

LEEWAY = 0.03  # share of a budget; spending more on average violates it


@dataclass(frozen=True)
class Frontier:
    """Campaign means per user of best responses; a price of inf gives no incentives."""

    price: Array  # (G, m) reward per unit of each limited cost
    value: Array  # (G, 1 + m) reward, then costs
    error: Array  # (G, 1 + m) standard errors
    logged: Array  # (1 + m,) what the log's own policy brought
    logged_error: Array  # (1 + m,)
    risk: float = 0.05  # accepted probability that a plan violates a limit
    leeway: float = LEEWAY  # share by which the mean cost may exceed a limit
    dispersion: float | None = None  # `values/dispersion.py`
    dispersion_error: float = 0.0

    @classmethod
    def from_lists(cls, lists: Mapping[str, Any]) -> Frontier:
        """From what JSON keeps of `dataclasses.asdict`."""
        known: Any = {k: np.array(v, float) if isinstance(v, list) else v for k, v in lists.items()}
        return cls(**known)

    def lists(self) -> dict[str, Any]:
        """What JSON keeps, for `from_lists`."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self).items()}

    @property
    def idle(self) -> int:
        """The policy that gives no incentives."""
        return int(np.isinf(self.price).any(axis=1).argmax())

    @property
    def free(self) -> Array:
        """(m,) bool: giving no incentives takes nothing of the limit.

        Networks say so but for rounding, which would break a limit of 0.
        """
        return np.asarray(self.value[self.idle, 1:] == 0)

    @property
    def cautious(self) -> Array:
        """(G, 1 + m) values whose costs, with what is tolerated, hold with probability 1 - risk.

        A limit L is kept in expectation, and L (1 + leeway) with that probability.
        """
        careful = secured(self.value, self.error, self.risk, self.leeway)
        careful[:, 0] = self.value[:, 0]
        # Giving nothing is no estimate: its cost is what the log says, without a margin.
        careful[self.idle] = self.value[self.idle]
        return np.asarray(careful)

    def of_users(self, value: Array, error: Array) -> Frontier:
        """The same policies for other users than the log's.

        The log's policy is assumed to add as much for them as it did for the log's.

        Args:
            value: (G, 1 + m) what is expected of these users.
            error: (G, 1 + m) how much the costs of that err, beside the rewards.
        """
        value, error, idle = value.copy(), error.copy(), self.idle
        value[idle, 1:][self.free] = 0
        error[:, 0] = self.error[:, 0]
        logged = self.logged + value[idle] - self.value[idle]
        return replace(self, value=without_dust(value), error=error, logged=logged)

    def mix(self, limits: Sequence[float]) -> Master:
        """The best mixture that keeps the limits in expectation, and is unlikely to violate them.

        Args:
            limits: (m,) per user per campaign; inf leaves a cost free.

        Raises:
            ValueError: if a limit is negative or less than giving no incentives costs.
        """
        return solve_master(self.cautious, checked(limits))

    def forecast(self, limits: Sequence[float]) -> Forecast:
        """What is expected of `mix(limits)`."""
        mixed = self.mix(limits)
        return self.forecast_of(mixed.weight, limits, mixed.calls)

    def forecast_of(
        self,
        weight: Array,
        limits: Sequence[float],
        oracle_calls: int = 0,
        beyond: npt.ArrayLike = 0.0,
    ) -> Forecast:
        """What is expected of a mixture, with errors, certificate and comparison to the log.

        Args:
            weight: (G,) of each best response.
            beyond: (1 + m,) what the policy earns and costs beyond the mixture, if it chooses
                better than by chance who follows which response.
        """
        most = checked(limits)
        value, error, used = weight @ self.value + beyond, weight @ self.error, weight > 0
        over, over_error = self._over_log(value[1], value[0], error[0])
        return Forecast(
            reward=float(value[0]),
            reward_error=float(error[0]),
            cost=float(value[1]),
            cost_error=float(error[1]),
            bound=max(self._bound(most), float(value[0])),
            baseline=float(self.value[self.idle, 0]),
            prices=tuple(self.price[used, 0].tolist()),
            weights=tuple(weight[used].tolist()),
            over_log=float(over),
            over_log_error=float(over_error),
            violation=self._violation(value[1], error[1], most[0]),
            oracle_calls=oracle_calls,
            dispersion=self.dispersion,
            dispersion_error=self.dispersion_error,
        )

    def _violation(self, cost: float, error: float, budget: float) -> float:
        """Probability that the true mean cost is not tolerated."""
        most = budget * (1 + self.leeway)
        # Giving nothing costs nothing: no estimate.
        if not error > 0 or np.isinf(most) or cost == 0:
            return float(cost > most)
        return 1 - NormalDist(cost, error).cdf(most)

    def _bound(self, limits: Array) -> float:
        finite = ~np.isinf(self.price).any(axis=1)
        price, value = self.price[finite], self.value[finite]
        # A cost without a price is free, also under an infinite limit.
        worth = np.where(price > 0, price * np.where(price > 0, limits, 0), 0).sum(axis=1)
        return float((worth + value[:, 0] - (price * value[:, 1:]).sum(axis=1)).min())

    def _over_log(self, cost: float, reward: float, error: float) -> tuple[float, float]:
        """Reward above the log's policy at equal spend, and its standard error.

        At less than its own spend, the log's policy serves some users and leaves the others alone.
        """
        (baseline, unavoidable), share = self.value[self.idle, :2], 1.0
        if self.logged[1] > unavoidable:
            share = min((cost - unavoidable) / (self.logged[1] - unavoidable), 1.0)
        same_spend = baseline + share * (self.logged[0] - baseline)
        rest = (1 - share) * self.error[self.idle, 0]
        return reward - same_spend, float(np.hypot(error + rest, share * self.logged_error[0]))


def secured(cost: Array, error: Array, risk: float, leeway: float = LEEWAY) -> Array:
    """Costs to plan with: a plan within L is within L (1 + leeway) with probability 1 - risk."""
    margin = NormalDist().inv_cdf(1 - risk) * error
    return np.maximum(cost, (cost + margin) / (1 + leeway))


def without_dust(value: Array) -> Array:
    """Networks round to single precision: so giving nothing would break a budget of 0."""
    cost = value[:, 1:]
    return np.column_stack([value[:, :1], np.where(cost < 1e-6 * cost.max(axis=0), 0.0, cost)])


def checked(limits: Sequence[float]) -> Array:
    """(m,) limits on money and contacts.

    Raises:
        ValueError: if one is negative, NaN or no number.
    """
    for name, limit in zip(("budget", "contacts"), limits, strict=False):
        given = np.asarray(limit)
        if given.dtype.kind not in "iuf" or not given >= 0:
            raise ValueError(f"{name} = {given.item()!r}: allowed are numbers of at least 0")
    return np.asarray(limits, dtype=float)
