"""One network at every price: by hand where the best incentives are known, and on a campaign."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from agents.bcorle import Config, Priced, PricedQ, _initial, _learned
from agents.common.nets import no_track
from agents.common.tensors import panel
from agents.common.values.family import sizes_of
from agents.common.values.support import fit_support
from marketing_env import LoggedDataset, RandomPolicy, preset, rollout
from marketing_env.config import Array

torch.set_num_threads(1)
SMALL = Config(steps=700, batch=256, width=32, heads=4, tau=0.05, progress=False)


def learned(log: LoggedDataset, prices: list[float], least: float = 0.0) -> Priced:
    data = panel(log)
    support = fit_support(log, data, least=least, width=16)
    net = _initial(data, sizes_of(log), torch.tensor(prices), SMALL, seed=0)
    return Priced(_learned(net, data, support, SMALL, 0, no_track), support)


def made_up(obs: Array, action: Array, reward: Array, cost: Array) -> LoggedDataset:
    """A log of three incentives, of which none is unheard of."""
    users, shape = len(action), action.shape
    return LoggedDataset(
        obs=obs, action=action, propensity=np.full(shape, 0.4), reward=reward, cost=cost,
        valid=np.ones(shape, dtype=bool), bucket=np.linspace(0, 0.99, users),
        meta={"incentives": [0.0, 1.0, 3.0]},
    )  # fmt: skip


def bought(family: Priced, observed: float, day: int) -> list[int]:
    """The incentive at each price."""
    obs = torch.full((1, 1), observed)
    return [int(family.act(obs, day, g).argmax()) for g in range(len(family.net.price))]


def test_a_single_day_is_a_matter_of_arithmetic() -> None:
    """Responses .2, .4, .5 and costs 0, .4, 1.5: each price has a best incentive by hand."""
    action = np.random.default_rng(0).integers(3, size=(6_000, 1))
    chance, face = np.array([0.2, 0.4, 0.5]), np.array([0.0, 1.0, 3.0])
    reward = (np.random.default_rng(1).random(action.shape) < chance[action]).astype(float)
    log = made_up(np.zeros((6_000, 2, 1)), action, reward, reward * face[action])
    prices = [0.0, 0.02, 0.2, 0.35, 0.8]
    best = (chance - np.outer(prices, chance * face)).argmax(axis=1).tolist()
    assert best == [2, 2, 1, 1, 0]
    assert bought(learned(log, prices), 0.0, 0) == best


def test_what_pays_later_is_bought_at_its_price() -> None:
    """Incentive 1 on the first of three days costs 1 and brings 2 on the last: worth it up to 2."""
    action = np.random.default_rng(1).integers(3, size=(3_000, 3))
    invested = action[:, 0] == 1
    obs = np.zeros((3_000, 4, 1))
    obs[:, 1:, 0] = invested[:, None]
    reward = np.zeros(action.shape)
    reward[:, 2] = 2.0 * invested
    cost = np.array([0.0, 1.0, 1.5])[action]
    family = learned(made_up(obs, action, reward, cost), [0.5, 1.5, 3.0])
    assert bought(family, 0.0, 0) == [1, 1, 0]
    assert bought(family, 1.0, 1) == [0, 0, 0]


def test_a_higher_price_buys_less() -> None:
    config = preset("toy")
    log = rollout(RandomPolicy(config.n_actions), config, 3_000, seed=1)
    family = learned(log, [0.0, 0.1, 0.3, 1.0])
    spent = [rollout(family.policy(g), config, 1_000, seed=2).spend for g in range(4)]
    assert all(b <= 1.02 * a for a, b in pairwise(spent))
    assert spent[3] < 0.1 * spent[0]


def test_what_the_log_never_tried_is_not_chosen() -> None:
    """Incentive 2 would look best, but users with feature 1 never got it."""
    rng = np.random.default_rng(2)
    group = rng.integers(2, size=4_000)
    action = rng.integers(3 - group)[:, None]
    obs = np.repeat(group[:, None, None], 2, axis=1).astype(float)
    log = made_up(obs, action, action * 1.0, np.zeros(action.shape))
    kept = learned(log, [0.0, 0.1], least=0.05)
    assert bought(kept, 0.0, 0) == [2, 2]
    assert bought(kept, 1.0, 0) == [1, 1]


@pytest.mark.parametrize("price", [0.0, 0.3, 5.0])
def test_values_are_in_units_in_which_prices_weigh_alike(price: float) -> None:
    net = PricedQ(sizes_of(rollout(RandomPolicy(3), preset("toy"), 10)), 2, 8, 2)
    net.middle, net.unit = torch.tensor(0.3), torch.tensor(4.0)
    found = net.net_reward(torch.tensor(8.0), torch.tensor(2.0), torch.tensor(price))
    assert float(found) == pytest.approx((8 - 2 * price) / 4 / (1 + price / 0.3))
