"""What passes over batches find: added up in any order, and sent from machine to machine."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_knapsack import campaign

from agents.common.mckp.cut import LAST, Cut
from agents.common.mckp.parts import Partial, grouped, merge, merge_all
from agents.common.mckp.stream import SAMPLE, partial

VALUE, COST = campaign(300)
IDS = np.arange(300)
LISTING = Cut(0, LAST)
CUTS = [None, SAMPLE, LISTING]


def assert_same(one: Partial, two: Partial) -> None:
    assert (one.cut, one.users, one.value, one.cost) == (two.cut, two.users, two.value, two.cost)
    for x, y in zip([one.table, *one.groups], [two.table, *two.groups], strict=True):
        np.testing.assert_array_equal(x, y)


def some(cut: Cut | None, start: int, step: int) -> Partial:
    own = slice(start, None, step)
    return partial(VALUE[own], COST[own], IDS[own], cut)


@pytest.mark.parametrize("cut", CUTS)
def test_merging_is_associative(cut: Cut | None) -> None:
    a, b, c = (some(cut, i, 3) for i in range(3))
    assert_same(merge(merge(a, b), c), merge(c, merge(b, a)))
    assert_same(merge(a, b, c), merge(c, merge(b, a)))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("most", [0, 4, 1 << 19])
def test_many_are_merged_as_they_come(
    monkeypatch: pytest.MonkeyPatch, cut: Cut | None, most: int
) -> None:
    """In whatever steps; lists that are too long are listed in groups, which hold the same."""
    parts = [some(cut, i, 13) for i in range(13)]
    whole = merge(*parts)
    monkeypatch.setattr("agents.common.mckp.parts._GROUPS", max(most, 1))
    found = merge_all(iter(parts))
    if cut is LISTING and most < 1 << 19:
        assert 0 < len(found.groups.members) <= max(most, 1) < len(whole.groups.members)
        for name in ("members", "gain", "spend"):
            sums = (getattr(x.groups, name).sum(axis=-1) for x in (found, whole))
            np.testing.assert_array_equal(*sums)
    else:
        assert_same(found, whole)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
@settings(deadline=None, derandomize=True)
def test_edges_of_one_key_are_one(pairs: list[tuple[int, int]]) -> None:
    key = np.array(pairs, dtype=np.uint64).reshape(-1, 2).T
    amounts = np.arange(3 * len(pairs)).reshape(3, -1)
    found = grouped(0, key, np.ones(len(pairs), dtype=np.int64), amounts, 2 * amounts)
    assert [tuple(k) for k in found.key.T.tolist()] == sorted(set(pairs))
    for pair, members, gain in zip(sorted(set(pairs)), found.members, found.gain.T, strict=True):
        own = [i for i, other in enumerate(pairs) if other == pair]
        assert members == len(own)
        assert gain.tolist() == amounts[:, own].sum(axis=1).tolist()
    np.testing.assert_array_equal(found.spend, 2 * found.gain)


@pytest.mark.parametrize("cut", CUTS)
def test_parts_and_cuts_travel(cut: Cut | None) -> None:
    part = some(cut, 0, 1)
    data = part.to_bytes()
    assert_same(Partial.from_bytes(data), part)
    assert len(data) < 100_000
    assert cut is None or Cut(**json.loads(json.dumps(asdict(cut)))) == cut


@pytest.mark.parametrize("cut", CUTS[1:])
def test_curve_needs_all_users(cut: Cut) -> None:
    assert some(None, 0, 1).curve().budget[-1] > 0
    with pytest.raises(ValueError, match=r"cut is Cut\(.*; a curve needs the pass that has none"):
        some(cut, 0, 1).curve()


def test_parts_of_several_passes_are_refused() -> None:
    with pytest.raises(ValueError, match="made with the same cut"):
        merge(some(None, 0, 2), some(LISTING, 1, 2))
    with pytest.raises(ValueError, match="made with the same cut"):
        merge()
    with pytest.raises(ValueError, match="made with the same cut"):
        merge_all([])
