"""The default campaigns are worth learning: foresight pays, and so does money."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from marketing_env import PRESETS, CampaignConfig, bound, curve, plan, preset, sample_users
from marketing_env.exact import Curve

SHARES = (0.05, 0.1, 0.2, 0.4)  # of the unconstrained optimum's spend


@cache
def truth(name: str) -> tuple[Curve, Curve]:
    """Plans over a fine grid of prices with foresight and without it."""
    config = PRESETS[name]
    users = sample_users(config, 100, seed=2024)
    # The price at which the smallest offer is worth a third of an active day.
    redeemed = config.doses[1] * (config.basket.centre if config.offer == "percent" else 1)
    prices = np.append(0.0, config.basket.centre / 3 / redeemed * np.geomspace(0.04, 8, 20))
    wise, myopic = (curve(config, users, prices, foresight=f) for f in (1.0, 0.0))
    return wise, myopic


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "toy"])
def test_perfect_myopia_reaches_60_to_90_percent(name: str, share: float) -> None:
    """What remains for planning is worth the trouble, and is not everything."""
    wise, myopic = truth(name)
    budget, none = share * wise.cost[-1], wise.reward[0]
    reached = (myopic.reward_at(budget) - none) / (wise.reward_at(budget) - none)
    assert 0.6 <= reached <= 0.9


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "toy"])
def test_money_buys_something_and_has_diminishing_returns(name: str) -> None:
    wise, _ = truth(name)
    budgets = wise.cost[-1] * np.array([0, *SHARES, 1.0])
    gain = wise.reward_at(budgets) - wise.reward[0]
    assert gain[-1] > 0.1 * wise.reward[0]
    slopes = np.diff(gain) / np.diff(budgets)
    assert (np.diff(slopes) < 0).all()
    assert slopes[-1] > 0


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_known_by_its_name(name: str) -> None:
    config = preset(name)
    assert isinstance(config, CampaignConfig)
    assert config.name == name
    assert config is not preset(name, horizon=3)
    assert preset(name, horizon=3).horizon == 3
    assert preset(name) == config == PRESETS[name]


def test_toy_can_be_enumerated() -> None:
    config = preset("toy")
    assert np.prod(config.shape) <= 27
    users = sample_users(config, 20)
    assert bound(config, users, 0.5) > plan(config, users, np.inf).reward.mean()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("payment", {}, "no preset 'payment': there are payment_bonus"),
        ("toy", {"horison": 3}, "no field 'horison'"),
        ("toy", {"horizon": 0}, "horizon = 0"),
        ("toy", {"incentives": (0.0,)}, "incentives"),
        ("toy", {"incentives": (1.0, 2.0)}, "rising from 0"),
        ("toy", {"incentives": (0.0, 2.0, 1.0)}, "rising"),
        ("toy", {"offer": "coupon"}, "offer = 'coupon'"),
        ("food_coupons", {"incentives": (0.0, 10.0)}, "shares of the basket"),
        ("food_coupons", {"basket_cap": float("inf")}, "basket_cap = inf"),
        ("toy", {"weekday": (0.0,) * 6}, "seven"),
        ("toy", {"unobserved": 1.5}, "unobserved = 1.5"),
        ("toy", {"redeem": (0.5, 1.5)}, "redeem"),
        ("toy", {"engagement_memory": -0.1}, "engagement_memory"),
    ],
)
def test_bad_presets_are_named(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset(name, **changes)
