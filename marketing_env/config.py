"""Every constant of the simulated world, with its unit and its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STATE_COLUMNS = ("engagement", "recency", "fatigue")
CALENDAR_COLUMNS = ("progress", "weekday_sin", "weekday_cos")

# Features are normal draws cut here, so that the observation space has finite bounds.
FEATURE_LIMIT = 4.0


class Spread(NamedTuple):
    """A latent parameter over the population: `centre * exp(sd * z)` or `centre + sd * z`."""

    centre: float
    sd: float


@dataclass(frozen=True)
class CampaignConfig:
    """One marketing campaign: its calendar, offers, population and physics.

    The logit of a user's activity on day t (`dynamics.response`) is

        base + weekday[t mod 7] + habit * engagement + need * (recency - need_centre)
        + lift * (1 - exp(-dose / dose_scale)) * max(0, 1 - fatigue * f) - drag * fatigue * f

    with engagement, recency and fatigue scaled to [0, 1]. Money is in one currency; budgets are
    currency per user per campaign everywhere in the project.
    """

    name: str
    horizon: int  # days
    incentives: tuple[float, ...]  # level 0 is "no incentive"; currency or share of the basket
    offer: Literal["amount", "percent"] = "amount"  # what an incentive level means
    unit: str = "active days"  # of the reward

    # value of an active day
    basket: Spread = Spread(1.0, 0.0)  # mean reward of an active day, lognormal over users
    basket_noise: float = 0.0  # log-sd of one active day around its mean
    basket_cap: float = math.inf  # a percentage is paid on at most this much of the basket
    basket_engagement: float = 0.0  # relative growth of the mean from lowest to full engagement
    basket_lift: float = 0.0  # relative growth of the mean under a saturating incentive

    # activity (logits)
    base: Spread = Spread(-3.0, 1.0)  # at rest
    weekday: tuple[float, ...] = (0.0,) * 7  # weekly rhythm, day 0 of the campaign first
    habit: float = 5.0  # engagement 0 -> 1: today's activity feeds on the past weeks'
    need: float = 8.0  # recency 0 -> 1 for the most deal-prone: who just bought needs nothing
    need_centre: float = 0.6  # recency at which need neither helps nor hurts
    lift: Spread = Spread(1.5, 0.7)  # of a saturating incentive
    dose_scale: Spread = Spread(2.0, 0.6)  # dose that gives 63 % of the lift
    fatigue: float = 1.6  # response lost at full fatigue by the most deal-prone
    drag: float = 1.0  # share of fatigue that also lowers the base rate
    redeem: tuple[float, float] = (0.4, 1.0)  # probability, least to most deal-prone

    # memory
    engagement_levels: int = 9
    recency_levels: int = 6  # days since the last active day, the last level means "or more"
    fatigue_levels: int = 5
    engagement_memory: float = 0.8  # share of engagement kept over a day
    fatigue_memory: float = 0.8

    # population
    n_features: int = 8
    unobserved: float = 0.0  # share of the latent variance that no feature explains
    world: int = 0  # seed of the map from features to latent parameters

    def __post_init__(self) -> None:
        # Overrides may come as lists (from JSON, from the command line).
        for name in ("basket", "base", "lift", "dose_scale"):
            object.__setattr__(self, name, Spread(*getattr(self, name)))
        for name in ("incentives", "weekday", "redeem"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        _check(self)

    @property
    def n_actions(self) -> int:
        return len(self.incentives)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Levels of (engagement, recency, fatigue)."""
        return self.engagement_levels, self.recency_levels, self.fatigue_levels

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the observation's columns, in order."""
        features = tuple(f"feature_{i}" for i in range(self.n_features))
        return features + STATE_COLUMNS + CALENDAR_COLUMNS

    @cached_property
    def doses(self) -> Array:  # (K,)
        return np.asarray(self.incentives, dtype=float)

    @cached_property
    def face_values(self) -> Array:  # (K,) currency
        """The most that one offer can cost: what a hard budget must reserve for it."""
        return self.doses * (self.basket_cap if self.offer == "percent" else 1.0)

    @cached_property
    def basket_quantiles(self) -> Array:  # (64,) mean 1
        """Equally likely multiples of the mean basket: a lognormal in 64 steps, hence bounded."""
        ranks = [NormalDist().inv_cdf((i + 0.5) / 64) for i in range(64)]
        table = np.exp(self.basket_noise * np.array(ranks))
        return np.asarray(table / table.mean())


def override(config: CampaignConfig, **changes: Any) -> CampaignConfig:
    """The same campaign with some constants changed.

    Raises:
        ValueError: for a name that is no constant of a campaign.
    """
    known = [f.name for f in fields(config)]
    for name in changes:
        if name not in known:
            raise ValueError(f"CampaignConfig has no field {name!r}; it has {', '.join(known)}")
    return replace(config, **changes)


def _check(c: CampaignConfig) -> None:
    doses = c.incentives
    rising = all(a < b for a, b in pairwise(doses))
    rules: list[tuple[str, bool, str]] = [
        ("horizon", c.horizon >= 1, "at least 1 day"),
        ("incentives", 2 <= len(doses) <= 256, "2 to 256 levels"),
        ("incentives", rising and doses[0] == 0, "rising from 0 (no incentive)"),
        ("offer", c.offer in ("amount", "percent"), "'amount' or 'percent'"),
        ("incentives", c.offer == "amount" or doses[-1] <= 1, "shares of the basket, at most 1"),
        ("basket_cap", c.offer == "amount" or c.basket_cap < math.inf, "finite with percentages"),
        ("basket_cap", c.basket_cap > 0, "above 0"),
        ("basket", c.basket[0] > 0 and c.basket[1] >= 0, "centre above 0, sd at least 0"),
        ("basket_noise", c.basket_noise >= 0, "at least 0"),
        ("dose_scale", c.dose_scale[0] > 0, "centre above 0"),
        ("weekday", len(c.weekday) == 7, "seven logits"),
        ("redeem", all(0 <= p <= 1 for p in c.redeem), "probabilities in [0, 1]"),
        ("engagement_levels", c.engagement_levels >= 2, "at least 2"),
        ("recency_levels", c.recency_levels >= 2, "at least 2"),
        ("fatigue_levels", c.fatigue_levels >= 2, "at least 2"),
        ("engagement_memory", 0 <= c.engagement_memory <= 1, "in [0, 1]"),
        ("fatigue_memory", 0 <= c.fatigue_memory <= 1, "in [0, 1]"),
        ("n_features", c.n_features >= 1, "at least 1"),
        ("unobserved", 0 <= c.unobserved <= 1, "a share in [0, 1]"),
    ]
    for name, holds, allowed in rules:
        if not holds:
            raise ValueError(f"CampaignConfig.{name} = {getattr(c, name)!r}: allowed is {allowed}")
