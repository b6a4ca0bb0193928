"""Named campaigns as plain literals, after the platforms where this problem lives."""

from __future__ import annotations

from typing import Any

from marketing_env.config import CampaignConfig, Spread, override

PRESETS: dict[str, CampaignConfig] = {
    # Cash bonus of a payment app; what counts is that the user comes back and pays with it.
    "payment_bonus": CampaignConfig(
        name="payment_bonus",
        horizon=30,
        incentives=(0.0, 0.5, 1.0, 2.0, 3.0, 5.0),
        weekday=(0.1, 0.1, 0.1, 0.15, 0.3, -0.2, -0.35),
        drag=1.4,
    ),
    # Coins for watching; an active day brings minutes, more of them to engaged users.
    "short_video_coins": CampaignConfig(
        name="short_video_coins",
        horizon=21,
        incentives=(0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5),
        unit="minutes",
        basket=Spread(35.0, 0.5),
        basket_noise=0.6,
        basket_engagement=0.6,
        basket_lift=0.1,
        base=Spread(-2.4, 0.9),
        weekday=(-0.1, -0.1, -0.1, 0.0, 0.1, 0.25, 0.25),
        habit=6.5,
        need=10.0,
        dose_scale=Spread(0.12, 0.6),
        fatigue=2.6,
        drag=1.6,
        redeem=(0.7, 1.0),
    ),
    # Percentage coupons on a meal, paid on at most 40 of the basket.
    "food_coupons": CampaignConfig(
        name="food_coupons",
        horizon=28,
        incentives=(0.0, 0.1, 0.2, 0.3, 0.5),
        offer="percent",
        unit="currency of orders",
        basket=Spread(18.0, 0.4),
        basket_noise=0.5,
        basket_cap=40.0,
        basket_lift=0.1,
        base=Spread(-3.2, 1.0),
        weekday=(-0.1, -0.1, 0.0, 0.0, 0.25, 0.3, 0.1),
        habit=6.0,
        need=9.0,
        dose_scale=Spread(0.2, 0.5),
        fatigue=2.2,
        drag=1.6,
        redeem=(0.4, 0.9),
    ),
    # Weekly rhythm, visit rate, gaps and baskets near those of the Complete Journey households.
    "grocery": CampaignConfig(
        name="grocery",
        horizon=28,
        incentives=(0.0, 0.05, 0.1, 0.2, 0.3),
        offer="percent",
        unit="currency of sales",
        basket=Spread(33.0, 0.2),
        basket_noise=1.12,
        basket_cap=100.0,
        base=Spread(-2.8, 0.8),
        weekday=(0.01, -0.07, -0.1, -0.06, -0.03, 0.09, 0.11),
        habit=4.2,
        need=5.0,
        need_centre=0.5,
        dose_scale=Spread(0.12, 0.5),
        fatigue=2.2,
        drag=2.0,
        recency_levels=10,
        engagement_memory=0.85,
    ),
    # Small enough to enumerate: for tests and first steps.
    "toy": CampaignConfig(
        name="toy",
        horizon=4,
        incentives=(0.0, 1.0, 3.0),
        engagement_levels=3,
        recency_levels=3,
        fatigue_levels=3,
        engagement_memory=0.6,
        fatigue_memory=0.6,
        n_features=3,
    ),
}


def preset(name: str, **overrides: Any) -> CampaignConfig:
    """The named campaign, with some constants changed.

    Raises:
        ValueError: for an unknown preset or an unknown constant.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: there are {', '.join(PRESETS)}")
    return override(PRESETS[name], **overrides)
