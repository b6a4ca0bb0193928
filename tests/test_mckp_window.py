"""Windows from samples hold the price, are narrow, and may fail without harm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_knapsack import campaign

from agents import solve_mckp
from agents.common.mckp.offers import Offers, read_offers
from agents.common.mckp.solve import _WIDTHS
from agents.common.mckp.sweep import NO_GROUPS, Window
from agents.common.mckp.window import _BLOCK, _STAGES, CROWD, Money, guess_window, whole_window

Array = NDArray[Any]
N = CROWD + 1_000
VALUE, COST = campaign(N, 4)
MOST = float(COST[np.arange(N), VALUE.argmax(axis=1)].sum())
ALONE = np.array([np.inf])


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 1.5])
@pytest.mark.parametrize("order", ["random", "sorted"])
def test_window_is_narrow_and_holds_the_price(share: float, order: str) -> None:
    rows = np.argsort(VALUE[:, 3]) if order == "sorted" else np.arange(N)
    offers = read_offers(VALUE[rows], COST[rows], None, "auto")
    window = guess_window(offers, Money(share * MOST, None, ALONE), NO_GROUPS, 4.0)
    price = solve_mckp(VALUE, COST, share * MOST).price
    assert window.low[0] < price < window.high[0] or window.low[0] == price == 0
    if share < 0.9:
        assert window.high[0] < 1.5 * window.low[0]


def test_groups_have_windows_of_their_own() -> None:
    group = (np.arange(N) % 3).astype(np.int32)
    own = np.array([0.01, 0.1, np.inf]) * MOST
    offers = read_offers(VALUE, COST, None, "auto")
    window = guess_window(offers, Money(0.3 * MOST, None, own), group, 4.0)
    a = solve_mckp(VALUE, COST, 0.3 * MOST, groups=group, group_budgets=own)
    assert np.all((window.low < a.group_price) & (a.group_price < window.high))
    assert window.low[0] > window.high[2]


def test_rare_group_keeps_all_prices() -> None:
    group = (np.arange(N) < 50).astype(np.int32)
    offers = read_offers(VALUE, COST, None, "auto")
    money = Money(0.3 * MOST, None, np.array([np.inf, 3.0]))
    window = guess_window(offers, money, group, 4.0)
    assert window.high[1] == np.inf
    assert window.high[0] < np.inf


def test_minimum_may_need_negative_prices() -> None:
    least = 0.95 * COST.max(axis=1).sum()
    offers = read_offers(VALUE, COST, None, "auto")
    window = guess_window(offers, Money(np.inf, least, ALONE), NO_GROUPS, 4.0)
    price = solve_mckp(VALUE, COST, np.inf, min_spend=least).price
    assert -np.inf < window.low[0] < price < window.high[0] < 0


@pytest.mark.parametrize("wrong", [(100.0, 50.0), (1e-6, 1e-9), (0.0, -np.inf)])
def test_wrong_window_costs_time_only(
    monkeypatch: pytest.MonkeyPatch, wrong: tuple[float, float]
) -> None:
    right = solve_mckp(VALUE, COST, 0.2 * MOST)
    tried: list[float] = []

    def misled(offers: Any, money: Any, group: Any, width: float) -> Window:
        tried.append(width)
        return Window(np.array([wrong[0]]), np.array([wrong[1]]))

    monkeypatch.setattr("agents.common.mckp.solve.guess_window", misled)
    a = solve_mckp(VALUE, COST, 0.2 * MOST)
    assert len(tried) == len(_WIDTHS)
    assert (a.bound, a.price, a.value) == (right.bound, right.price, right.value)


def test_few_users_are_not_sampled() -> None:
    money = Money(1.0, None, ALONE)
    few = read_offers(VALUE[:100], COST[:100], None, "auto")
    assert guess_window(few, money, NO_GROUPS, 4.0) == whole_window(money)
    assert whole_window(money._replace(least=1.0)).low[0] == -np.inf


def test_nan_that_only_the_sample_meets_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = COST.copy()
    wrong[30_001:, 2] = np.nan
    with pytest.raises(ValueError, match="cost is nan in row 30001, column 2"):
        solve_mckp(VALUE, wrong, 0.2 * MOST)


def test_amount_that_the_sample_missed_is_summed_all_the_same() -> None:
    value, cost = VALUE.copy(), COST.copy()
    value[12_345], cost[12_345] = (0, 1e9, 0, 0), (0, 1e8, 1e8, 1e8)
    a = solve_mckp(value, cost, 1e8 + 0.2 * MOST)
    assert a.choice[12_345] == 1
    assert a.gap < 1e-9


def test_infeasible_crowd_is_told_the_least() -> None:
    with pytest.raises(
        ValueError, match=r"budget is 1\.0, which no allocation meets; least possible"
    ):
        solve_mckp(VALUE, COST + 1, 1.0)


def test_blocks_of_the_sample_are_spread_over_all_users(monkeypatch: pytest.MonkeyPatch) -> None:
    offers, blocks = read_offers(VALUE, COST, None, "auto"), Offers.blocks
    seen: list[Array] = []

    def watched(self: Offers, picks: Array, size: int) -> Offers:
        seen.append(picks)
        return blocks(self, picks, size)

    monkeypatch.setattr(Offers, "blocks", watched)
    guess_window(offers, Money(0.2 * MOST, None, ALONE), NO_GROUPS, 4.0)
    picks = seen[0]
    assert len(picks) == _STAGES[0] // _BLOCK
    assert np.all(np.diff(picks) > 0)
    assert picks[0] < 10
    assert picks[-1] > N // _BLOCK - 10
