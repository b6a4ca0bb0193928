"""The allocator on batches: whatever the partition, the answer of one machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_knapsack import campaign

from agents import cost_curve, solve_mckp
from agents.common.mckp.cut import Cut
from agents.common.mckp.parts import Partial, merge
from agents.common.mckp.stream import SAMPLE, assign, choose, find_cut, partial
from agents.common.mckp.sweep import BINS, Scales, bin_floor

Array = NDArray[Any]


def allocate(
    value: Array, cost: Array, ids: Array, budget: float, parts: list[Array], **options: Any
) -> tuple[Array, Cut]:
    """What the module's docstring tells a driver to do."""
    own = [{k: x[p] for k, x in options.items()} for p in parts]

    def read(cut: Cut | None) -> Iterator[Partial]:
        for p, o in zip(parts, own, strict=True):
            yield partial(value[p], cost[p], ids[p], cut, **o)

    cut = find_cut(read, budget)
    choice = np.empty(len(value), dtype=np.uint8)
    for p, o in zip(parts, own, strict=True):
        choice[p] = assign(value[p], cost[p], ids[p], cut, **o)
    return choice, cut


def partition(n: int, seed: int) -> list[Array]:
    """Shuffled users in batches of random size, some of them empty."""
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(0, n, rng.integers(1, 9)))
    return np.split(rng.permutation(n), ends)


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.05, 0.3, 0.9, 1.0, np.inf])
def test_partitions_give_the_answer_of_one_machine(share: float) -> None:
    value, cost = campaign(3_000)
    rng = np.random.default_rng(0)
    ids = rng.permutation(10**6)[:3_000]
    mask = rng.random(value.shape) < 0.8
    mask[:, 0] = True
    most = solve_mckp(value, cost, np.inf, eligible=mask).cost
    budget = share * most
    a = solve_mckp(value, cost, budget, eligible=mask, user_id=ids, repair=False)
    for seed in range(3):
        choice, cut = allocate(value, cost, ids, budget, partition(3_000, seed), eligible=mask)
        np.testing.assert_array_equal(choice, a.choice)
        assert (cut.value, cut.cost, cut.price) == (a.value, a.cost, a.price)
        assert cut.bound == pytest.approx(a.bound, rel=1e-14)


@given(st.integers(0, 10**6), st.integers(0, 60))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_ties_and_repeated_users_are_cut_alike(seed: int, budget: int) -> None:
    rng = np.random.default_rng(seed)
    value, cost = rng.integers(0, 4, (40, 3)), rng.integers(0, 3, (40, 3))
    ids = rng.integers(0, 30, 40)
    if cost.min(axis=1).sum() > budget:
        return
    one, cut = allocate(value, cost, ids, budget, [np.arange(40)])
    two, again = allocate(value, cost, ids, budget, partition(40, seed))
    np.testing.assert_array_equal(one, two)
    assert cut == again
    assert cut.cost == cost[np.arange(40), one].sum() <= budget
    assert cut.value == value[np.arange(40), one].sum() <= cut.bound


def test_identical_users_are_served_by_hash() -> None:
    offer, ids = np.tile([0.0, 1.0], (5_000, 1)), np.arange(5_000)
    choice, cut = allocate(offer, offer, ids, 777.5, partition(5_000, 1))
    np.testing.assert_array_equal(choice, solve_mckp(offer, offer, 777.5, user_id=ids).choice)
    assert (cut.value, cut.cost, cut.bound, cut.price) == (777, 777, 777.5, 1)


def test_two_passes_are_enough() -> None:
    value, cost = campaign(2_000)
    ids = np.arange(2_000)
    first = choose(partial(value, cost, ids), 100.0)
    assert not first.exact
    second = partial(value, cost, ids, first)
    assert second.groups.members.sum() < 200
    assert choose(second, 100.0).exact


def counted(value: Array, cost: Array, budget: float, size: int) -> tuple[Cut, list[Cut | None]]:
    """The cut that batches of some size lead to, and what the passes looked for."""
    asked: list[Cut | None] = []

    def read(cut: Cut | None) -> Iterator[Partial]:
        asked.append(cut)
        for at in range(0, len(value), size):
            part = slice(at, at + size)
            yield partial(value[part], cost[part], np.arange(len(value))[part], cut)

    return find_cut(read, budget), asked


@pytest.mark.parametrize("size", [64, 10_000])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.6, 2.0])
def test_sample_tells_where_to_look(share: float, size: int) -> None:
    value, cost = campaign(10_000)
    budget = share * solve_mckp(value, cost, np.inf).cost
    cut, asked = counted(value, cost, budget, size)
    assert len(asked) == 2
    assert asked[0] == SAMPLE
    ids = np.arange(10_000)
    window = choose(partial(value, cost, ids), budget)
    assert cut == choose(partial(value, cost, ids, window), budget)


def test_sample_looks_at_one_user_in_so_many() -> None:
    value, cost = campaign(1_003)
    ids = np.arange(1_003)
    found = partial(value, cost, ids, SAMPLE)
    step = SAMPLE.every
    few = partial(value[::step], cost[::step], ids[::step])
    assert (found.users, found.seen) == (1_003, few.users)
    assert (found.value, found.cost) == (few.value, few.cost)
    np.testing.assert_array_equal(found.table, few.table.reshape(len(found.table), -1, 4).sum(1))


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_misleading_sample_costs_passes_only(factor: float) -> None:
    """Rows recur as samples do: what is seen is worth much less than what is not, or much more."""
    value, cost = campaign(2_000)
    value[:: SAMPLE.every] *= factor
    budget = 0.3 * cost.max(axis=1).sum()
    cut, asked = counted(value, cost, budget, 2_000)
    assert len(asked) == 4
    assert asked[2] is None
    a = solve_mckp(value, cost, budget, repair=False)
    assert (cut.value, cut.cost, cut.price) == (a.value, a.cost, a.price)


def test_budget_that_only_the_sample_keeps_is_refused() -> None:
    value, cost = campaign(1_000)
    cost += 1.0
    cost[:: SAMPLE.every] = 0.0
    with pytest.raises(ValueError, match="which no allocation meets; least possible"):
        counted(value, cost, 700.0, 1_000)


def test_batches_stay_on_their_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(workers: int) -> None:
        raise AssertionError(f"{workers} threads")

    value, cost = campaign(2_000)
    ids = np.arange(2_000)
    monkeypatch.setattr("agents.common.mckp.sweep.threads", lambda: 3)
    monkeypatch.setattr("agents.common.mckp.sweep.ThreadPoolExecutor", refuse)
    monkeypatch.setattr("agents.common.mckp.offers._PIECE", 1_000)
    with pytest.raises(AssertionError, match="3 threads"):
        cost_curve(value, cost)
    cut = find_cut(lambda cut: [partial(value, cost, ids, cut)], 30.0)
    assert len(assign(value, cost, ids, cut)) == 2_000


@pytest.mark.parametrize("shift", [-(1 << 114), 1 << 114])
def test_wrong_window_is_left_for_the_others(shift: int) -> None:
    value, cost = campaign(500)
    ids = np.arange(500)
    right = choose(partial(value, cost, ids), 30.0)
    cut, passes = Cut(right.first + shift, right.end + shift), 0
    while not cut.exact:
        cut, passes = choose(partial(value, cost, ids, cut), 30.0), passes + 1
    assert passes == 2
    assert cut == choose(partial(value, cost, ids, right), 30.0)


@pytest.mark.parametrize("tied", ["exactly", "nearly"])
def test_crowd_at_the_price_is_listed_in_groups(monkeypatch: pytest.MonkeyPatch, tied: str) -> None:
    """However many users tie, lists stay short; one more pass looks into the last group."""
    n, budget = 3_000, 700.5
    rng, ids = np.random.default_rng(4), np.arange(3_000)
    cost = np.stack([np.zeros(n), rng.integers(1, 4, n)], axis=1)
    value = cost * (1.0 if tied == "exactly" else rng.uniform(1, 1 + 1e-9, (n, 1)))
    expected = allocate(value, cost, ids, budget, [ids])
    monkeypatch.setattr("agents.common.mckp.parts._GROUPS", 600)
    first = choose(partial(value, cost, ids), budget)
    listed = partial(value, cost, ids, first)
    assert len(listed.groups.members) <= 600 < listed.groups.members.sum()
    assert not choose(listed, budget).exact
    choice, cut = allocate(value, cost, ids, budget, partition(n, 3))
    np.testing.assert_array_equal(choice, expected[0])
    assert cut == expected[1]
    a = solve_mckp(value, cost, budget, repair=False)
    np.testing.assert_array_equal(choice, a.choice)
    assert cut.bound == pytest.approx(a.bound, rel=1e-14)


@pytest.mark.parametrize("steep", [False, True])
def test_slopes_beyond_the_bins_are_cut_exactly(steep: bool) -> None:
    value, cost = campaign(300)
    value, cost = (value * 1e5, cost * 1e-16) if steep else (value * 1e-16, cost * 1e5)
    budget = 0.3 * cost.max(axis=1).sum()
    ids = np.arange(300)
    ends = bin_floor(np.array([1, BINS - 1]), Scales(0, 0))
    _, cut = allocate(value, cost, ids, budget, partition(300, 2))
    assert cut.price > ends[1] if steep else 0 < cut.price < ends[0]
    assert cut.price == solve_mckp(value, cost, budget, repair=False).price


def test_first_pass_holds_the_whole_curve() -> None:
    value, cost = campaign(3_000)
    parts = partition(3_000, 5)
    whole = merge(*(partial(value[p], cost[p], p) for p in parts))
    budgets = np.linspace(0, cost.max(axis=1).sum(), 200)
    np.testing.assert_allclose(
        whole.curve().value_at(budgets), cost_curve(value, cost).value_at(budgets), rtol=2e-6
    )
    assert whole.table.nbytes < 5e6


def test_arrow_batches_are_read() -> None:
    pa = pytest.importorskip("pyarrow")
    value, cost = campaign(400)
    ids = np.arange(400)
    names = [*(f"v{k}" for k in range(6)), *(f"c{k}" for k in range(6)), "user"]
    table = pa.table(dict(zip(names, [*value.T, *cost.T, ids], strict=True)))
    batches = table.to_batches(max_chunksize=150)

    def fields(batch: Any) -> tuple[Any, Any, Any]:
        return batch.select(names[:6]), batch.select(names[6:12]), batch.column("user")

    cut = find_cut(lambda cut: (partial(*fields(b), cut) for b in batches), 50.0)
    choice = np.concatenate([assign(*fields(b), cut) for b in batches])
    np.testing.assert_array_equal(choice, solve_mckp(value, cost, 50.0, repair=False).choice)


def test_misuse_is_named() -> None:
    value, cost = campaign(50)
    ids = np.arange(50)
    with pytest.raises(ValueError, match="cut is not exact"):
        assign(value, cost, ids, Cut(3, 4))
    with pytest.raises(ValueError, match="user_id is missing"):
        partial(value, cost, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"least possible: 50\.0"):
        choose(partial(value, cost + 1, ids), 49.0)
    with pytest.raises(ValueError, match=r"2\^31 or more"):
        partial(value, cost + 2.0**31, ids)
    cost[7, 2] = np.nan
    with pytest.raises(ValueError, match="cost is nan in row 7, column 2"):
        partial(value, cost, ids)
