"""Prices at which spending falls evenly, whatever the campaign."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.common.tensors import panel
from agents.common.types import Array
from agents.common.values.prices import choose_prices, prices_spending
from agents.common.values.response import fit_outcomes
from marketing_env import RandomPolicy, preset, rollout

SHARES = np.geomspace(0.95, 0.015, 12)


@given(
    steepness=st.floats(0.7, 40), decades=st.floats(-1.5, 3.5), unit=st.sampled_from([1e-3, 1, 50])
)
@settings(max_examples=60, deadline=None)
def test_spending_falls_as_wanted(steepness: float, decades: float, unit: float) -> None:
    """Also where it falls between two prices of the wide grid, and far above what a day earns."""

    def spending(price: Tensor) -> Array:
        return 7 / (1 + (price.double().numpy() / (unit * 10**decades)) ** steepness)

    price = prices_spending(spending, unit, SHARES)
    assert price[0] == 0
    assert len(price) == 1 + len(SHARES)
    found = spending(torch.tensor(price))
    assert (found[:-1] < 3.3 * found[1:]).all()  # where the wanted shares fall by 1.5
    assert found[-1] < 7 * 2 * SHARES[-1]


def test_a_spending_that_never_falls_has_prices_too() -> None:
    price = prices_spending(lambda price: np.ones(len(price)), 1.0, SHARES)
    assert np.isfinite(price).all()


def test_prices_rise_from_none_to_infinite() -> None:
    config = preset("toy")
    data = panel(rollout(RandomPolicy(config.n_actions), config, n_users=500, seed=0))
    model = fit_outcomes(data, torch.arange(data.n_users), width=8, epochs=0.1)
    money = choose_prices(data, model, torch.zeros(config.n_actions, 0), 6, steps=20)
    assert money.shape == (7, 1)
    assert (money[1:] > money[:-1]).all()
    assert money[0] == 0
    assert money[-1] == torch.inf
    contact = (torch.arange(config.n_actions) > 0).float()[:, None]
    both = choose_prices(data, model, contact, 4, steps=20)
    assert both.shape == (4 * 5 + 1, 2)  # four prices of contacts, and none
    assert both[-1].isinf().all()
