"""What every learner answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from marketing_env import Policy

Array = npt.NDArray[Any]
MOST_DISPERSION = 1.1  # of users' sums of rewards, that an imperfect model may leave


@dataclass(frozen=True)
class Forecast:
    """What a model expects of its policy at a budget: means per user per campaign."""

    reward: float
    reward_error: float  # standard error
    cost: float  # currency
    cost_error: float
    bound: float  # the best any policy could earn within the budget, as the model believes
    baseline: float  # reward without any incentive
    prices: tuple[float, ...] = ()  # of the policies mixed; inf gives no incentive
    weights: tuple[float, ...] = ()
    over_log: float = math.nan  # reward above the log's own policy at equal spend
    over_log_error: float = math.nan
    violation: float = math.nan  # probability of spending `leeway` more than the budget
    oracle_calls: int = 0  # best responses asked for while mixing; 0 if nothing was
    # `values/dispersion.py`: 1 if the log shows the users' state. None: the method does not ask.
    dispersion: float | None = None
    dispersion_error: float = 0.0

    @property
    def safe(self) -> bool:
        """Whether the log's own policy is beaten at equal spend, with 95 % confidence."""
        return self.over_log - 1.645 * self.over_log_error >= 0

    @property
    def exaggerated(self) -> bool:
        """Whether users clearly differ in what the log does not show: gains are less then."""
        least = (self.dispersion or 1.0) - 1.645 * self.dispersion_error
        return least > MOST_DISPERSION

    @property
    def gap(self) -> float:
        """Share of the possible gain over no incentives that the policy may leave unearned."""
        possible = self.bound - self.baseline
        return (self.bound - self.reward) / possible if possible > 0 else 0.0

    def __str__(self) -> str:
        return (
            f"reward {self.reward:.4g} +- {1.96 * self.reward_error:.2g}, "
            f"cost {self.cost:.4g} +- {1.96 * self.cost_error:.2g}, "
            f"at most {100 * self.gap:.1f} % of the gain left to the best policy"
            + self._promise()
            + self._warning()
        )

    def _promise(self) -> str:
        if math.isnan(self.over_log):
            return ""
        if self.safe:
            return "; better than the log's policy at equal spend (95 % confidence)"
        return "; no promise to beat the log's policy at equal spend"

    def _warning(self) -> str:
        if not self.exaggerated:
            return ""
        return (
            "; users differ in what the log does not show "
            f"(dispersion {self.dispersion:.2f}, not 1): expect less gain"
        )


class Model(Protocol):
    """A trained method: trained once, asked for any budget."""

    def policy(self, budget: float) -> Policy:
        """What to do at a budget, in currency per user per campaign."""
        ...

    def forecast(self, budget: float) -> Forecast:
        """What to expect of it."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write the model so that `agents.load` reads it."""
        ...
