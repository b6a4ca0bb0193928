"""Decision losses: values by formulas, gradients by differences, and what they are blind to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor
from torch.autograd import gradcheck

from agents.common.one_day.decision_losses import Clip, dr, flip_gradient, ifd, merl, pll
from agents.common.types import Array

torch.set_num_threads(1)
seeds = st.integers(0, 100_000)
Loss = Callable[..., Tensor]


class Case(NamedTuple):
    scores: Tensor  # (G, m, K)
    arm: Tensor  # (m,)
    net: Tensor  # (G, m)
    weight: Tensor  # (m,)


def case(n: int, k: int, seed: int, prices: int = 2) -> Case:
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(k, 5.0), n)
    arm = (share.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=k - 1)
    weight = 1 / share[np.arange(n), arm]
    parts = rng.normal(0, 1, (prices, n, k)), arm, rng.normal(1, 1, (prices, n)), weight
    return Case(*(torch.tensor(part) for part in parts))


def gradient(loss: Loss, given: Case, *more: Any) -> Array:
    scores = given.scores.clone().requires_grad_(True)
    loss(scores, *given[1:], *more).backward()
    assert scores.grad is not None
    return scores.grad.numpy()


def matched_mean(choice: Array, given: Case, price: int) -> float:
    """D, row by row; 0 if nobody matches."""
    top = bottom = 0.0
    for i, arm in enumerate(given.arm.tolist()):
        if choice[i] == arm:
            top += float(given.weight[i] * given.net[price, i])
            bottom += float(given.weight[i])
    return top / bottom if bottom else 0.0


def test_pll_and_merl_are_their_formulas() -> None:
    given, tau, total = case(20, 3, 0), 0.7, {1.0: 0.0, 0.7: 0.0}
    for t in total:
        for g in range(2):
            for i, arm in enumerate(given.arm.tolist()):
                likely = np.exp(given.scores[g, i].numpy() / t)
                share = likely[arm] / likely.sum()
                total[t] -= float(given.weight[i] * given.net[g, i]) * share / 40
    assert float(pll(*given)) == pytest.approx(total[1.0])
    assert float(merl(*given, tau=tau)) == pytest.approx(total[tau])


@pytest.mark.parametrize("k", [2, 4])
def test_smooth_losses_have_the_gradients_of_their_values(k: int) -> None:
    given = case(12, k, 1)
    model = torch.tensor(np.random.default_rng(2).normal(size=given.scores.shape))
    rest: dict[str, Any] = {
        "pll": lambda s: pll(s, *given[1:]),
        "merl": lambda s: merl(s, *given[1:], tau=0.4),
        "dr": lambda s: dr(s, *given[1:], model, tau=1.7),
    }
    for loss in rest.values():
        assert gradcheck(loss, given.scores.requires_grad_(True))


@given(seeds, st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_flips_change_the_matched_mean_by_what_they_say(seed: int, k: int) -> None:
    """The identity behind ifd, against a second evaluation for every flipped user."""
    rows = case(15, k, seed)
    step = 1e3
    found = gradient(partial(ifd, step=step), rows) * 2 * -step  # mean over two prices; loss is -D
    for g in range(2):
        choice = rows.scores[g].argmax(-1).numpy()
        for i, arm in enumerate(rows.arm.tolist()):
            score = rows.scores[g, i].clone()
            score[arm] += torch.inf if choice[i] != arm else -torch.inf
            flipped, matched = choice.copy(), choice == rows.arm.numpy()
            flipped[i] = int(score.argmax())
            others = matched.sum() - matched[i]
            change = matched_mean(flipped, rows, g) - matched_mean(choice, rows, g)
            change = change * (1 if choice[i] != arm else -1) if others else 0.0
            expected = np.zeros(k)
            expected[[choice[i]] if choice[i] != arm else np.arange(k) != arm] = -change
            expected[arm] = -expected.sum()
            assert_allclose(found[g, i], expected, atol=1e-10)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_flips_follow_the_baseline(seed: int) -> None:
    """Who did better than the mean of the matched is drawn to his arm, all others from it."""
    given = case(25, 3, seed, prices=1)
    found = -gradient(partial(ifd, step=1e3), given)[0, torch.arange(25), given.arm]
    choice = given.scores[0].argmax(-1).numpy()
    if (choice == given.arm.numpy()).sum() > 1:
        above = given.net[0].numpy() - matched_mean(choice, given, 0)
        assert (np.sign(found) == np.sign(above)).all()


def test_the_value_of_ifd_is_the_matched_mean() -> None:
    given = case(30, 3, 4)
    means = [matched_mean(given.scores[g].argmax(-1).numpy(), given, g) for g in range(2)]
    assert float(ifd(*given, step=0.5)) == pytest.approx(-np.mean(means))
    nobody = given._replace(scores=torch.eye(3).double()[(given.arm + 1) % 3].expand(2, 30, 3))
    assert float(ifd(*nobody, step=9.0)) == 0
    assert not gradient(partial(ifd, step=9.0), nobody).any()


@pytest.mark.parametrize("clip", ["fix", "max"])
def test_clipping(clip: Clip) -> None:
    given, step = case(30, 2, 5, prices=1), 0.8
    lead = torch.gather(given.scores[0], 1, given.arm[:, None])
    lead = lead - given.scores[0].gather(1, 1 - given.arm[:, None])
    data = (lead > 0)[:, 0], given.net[0], given.weight
    exact = flip_gradient(lead, *data, 1e9, "fix") * 1e9  # D' - D
    found = flip_gradient(lead, *data, step, clip)
    if clip == "max":
        assert_allclose(found, exact / (lead.abs().max() + 1e-6))
    else:
        assert_allclose(found, torch.where(lead.abs() < step, exact / step, 0))
        assert 5 < (found != 0).sum() < 30


@pytest.mark.parametrize("name", ["pll", "ifd", "dr"])
def test_who_has_a_baseline(name: str) -> None:
    """A constant on all net values prefers no arm. pll and merl do not know that."""
    given = case(40, 3, 6)
    model = torch.zeros(2, 40, 3).double()
    losses: dict[str, Loss] = {
        "pll": pll,
        "ifd": partial(ifd, step=1e3),
        "dr": partial(dr, model=model, tau=1.0),
    }
    low, high = (
        gradient(losses[name], given._replace(net=given.net + shift)) for shift in (0.0, 50.0)
    )
    assert np.allclose(low, high) == (name != "pll")


def test_activity_that_no_arm_changes_pushes_nobody() -> None:
    """Of two kinds of users one earns more under every arm alike."""
    rng, n = np.random.default_rng(9), 60_000
    kind, arm = rng.integers(0, 2, n), torch.tensor(rng.integers(0, 4, n))
    net = torch.tensor(rng.normal(np.array([1.0, 3.0])[kind], 0.1))[None]
    scores = torch.tensor(np.array([[0.3, 0.1, 0.2, 0.0], [0.0, 0.2, 0.1, 0.3]])[kind])[None]
    weight = torch.full((n,), 4.0).double()
    push = gradient(partial(ifd, step=1e3), Case(scores, arm, net, weight))[0]
    for each in (0, 1):
        given = push[kind == each]
        assert np.abs(given.sum(axis=0)).max() < 0.03 * np.abs(given).sum()


def test_unequal_arms_deceive_only_unweighted_losses() -> None:
    """85 % got arm 1, which is worse: without weights its many rows speak louder."""
    rng = np.random.default_rng(7)
    arm = torch.tensor((rng.random(4000) < 0.85).astype(np.int64))
    net = torch.tensor(rng.normal(1.0 - 0.3 * arm.numpy(), 0.1))[None]
    true = torch.tensor([0.15, 0.85]).double()
    scores = torch.zeros(1, 4000, 2).double()
    for weight, prefers in ((1 / true[arm], 0), (torch.ones(4000).double(), 1)):
        pull = -gradient(pll, Case(scores, arm, net, weight))[0].sum(axis=0)
        assert pull.argmax() == prefers


@pytest.mark.parametrize(("true_weight", "true_model"), [(True, False), (False, True)])
def test_dr_needs_one_truth_of_two(true_weight: bool, true_model: bool) -> None:
    """Users of two kinds, and their policies' true value, of which dr is an estimate."""
    rng, n = np.random.default_rng(8), 200_000
    kind = rng.integers(0, 2, n)
    chance, worth = np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([[1.0, 2.0], [3.0, 1.5]])
    arm = (rng.random(n) > chance[kind, 0]).astype(np.int64)
    net = rng.normal(worth[kind, arm], 0.5)
    weight = 1 / chance[kind, arm] if true_weight else np.full(n, 2.0)
    model = worth if true_model else np.array([[0.0, 5.0], [1.0, 1.0]])
    scores = np.array([[0.5, -0.5], [-1.0, 1.0]])
    policy = np.exp(scores / 2) / np.exp(scores / 2).sum(axis=1, keepdims=True)
    given = Case(*(torch.tensor(part) for part in (scores[kind][None], arm, net[None], weight)))
    found = float(dr(*given, torch.tensor(model[kind][None]), tau=2.0))
    assert found == pytest.approx(-(policy * worth).sum(axis=1).mean(), abs=0.02)
