"""Who takes part: observed features, latent parameters, starting state and bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from marketing_env.config import FEATURE_LIMIT, Array, CampaignConfig

N_FACTORS = 7


class State(NamedTuple):
    """What a user remembers, as integer levels (`CampaignConfig.shape`)."""

    engagement: Array  # (n,) frequency of activity
    recency: Array  # (n,) days since the last active day
    fatigue: Array  # (n,) saturation with incentives


class Users(NamedTuple):
    """A population. Policies see `features` and `bucket`; all else is the simulator's secret."""

    features: Array  # (n, d) float32, observed
    base: Array  # (n,) logit of activity at rest
    habit: Array  # (n,) logit per unit of engagement
    need: Array  # (n,) logit per unit of recency
    lift: Array  # (n,) logit of a saturating incentive
    dose_scale: Array  # (n,) dose at which 63 % of the lift is reached
    fatigue: Array  # (n,) sensitivity to fatigue
    redeem: Array  # (n,) probability that an active user redeems an offer
    basket: Array  # (n,) mean reward of an active day
    start: State  # (n,) levels on day 0
    bucket: Array  # (n,) in [0, 1), decides the component of a mixed policy

    @property
    def n(self) -> int:
        return len(self.bucket)

    def take(self, rows: Array | slice | int) -> Users:
        """The users at the given rows; a single row gives scalars."""
        parts = {f: getattr(self, f)[rows] for f in self._fields if f != "start"}
        return Users(**parts, start=State(*(level[rows] for level in self.start)))


def concatenate(populations: Sequence[Users]) -> Users:
    """Several populations as one."""
    parts = {
        f: np.concatenate([getattr(p, f) for p in populations])
        for f in Users._fields
        if f != "start"
    }
    levels = zip(*(p.start for p in populations), strict=True)
    start = State(*(np.concatenate(level) for level in levels))
    return Users(**parts, start=start)


def sample_users(config: CampaignConfig, n: int, seed: int = 0) -> Users:
    """Draw `n` users of the campaign's population.

    The first users of a larger sample with the same seed are the users of the smaller one.
    Latent parameters are smooth nonlinear functions of factors h; a factor is a direction in
    feature space plus, with variance share `config.unobserved`, something that no feature shows.
    Deal-prone users (h0) respond, stockpile, redeem and tire more and form weaker habits, so
    those with the largest immediate lift are not those with the largest lasting one.
    """
    if n < 0:
        raise ValueError(f"n = {n}: allowed is 0 or more users")
    d = config.n_features
    draws = np.random.default_rng([seed, 1]).standard_normal((n, d + N_FACTORS))
    uniform = np.random.default_rng([seed, 2]).random((n, 3))
    features = np.clip(draws[:, :d], -FEATURE_LIMIT, FEATURE_LIMIT)
    h = _factors(config, features, hidden=draws[:, d:])
    deal = 1 / (1 + np.exp(-3 * h[0]))
    low, high = config.redeem
    return Users(
        features=features.astype(np.float32),
        base=config.base.centre + config.base.sd * (h[1] + 0.3 * h[1] * h[2]),
        habit=config.habit * (1.15 - deal) * np.maximum(0.2, 1 + 0.2 * h[3]),
        need=config.need * deal,
        lift=config.lift.centre * np.exp(config.lift.sd * h[2]) * (0.5 + deal),
        dose_scale=config.dose_scale.centre * np.exp(config.dose_scale.sd * h[4]),
        fatigue=config.fatigue * (0.2 + 0.8 * deal),
        redeem=low + (high - low) * deal,
        basket=config.basket.centre * np.exp(config.basket.sd * h[5]),
        start=_start(config, h[6], uniform),
        bucket=uniform[:, 0],
    )


def _factors(config: CampaignConfig, features: Array, hidden: Array) -> Array:
    """Standard normal factors (N_FACTORS, n) behind the latent parameters."""
    rng = np.random.default_rng([config.world, 0])
    directions = rng.standard_normal((config.n_features, N_FACTORS))
    directions /= np.linalg.norm(directions, axis=0)
    shown = features @ directions
    return np.asarray(
        np.sqrt(1 - config.unobserved) * shown + np.sqrt(config.unobserved) * hidden
    ).T


def _start(config: CampaignConfig, h: Array, uniform: Array) -> State:
    """Campaigns find users in the middle of their lives, fresh only as regards incentives."""
    top_engagement, top_recency = config.engagement_levels - 1, config.recency_levels - 1
    engagement = np.clip(0.3 + 0.15 * h + 0.4 * (uniform[:, 1] - 0.5), 0, 1) * top_engagement
    days = np.floor(np.log1p(-uniform[:, 2]) / np.log1p(-0.25))
    return State(
        engagement=np.rint(engagement).astype(np.int64),
        recency=np.minimum(days, top_recency).astype(np.int64),
        fatigue=np.zeros(len(h), dtype=np.int64),
    )
