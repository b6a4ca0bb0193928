"""The past decides and the future does not; policies remember what they saw and gave."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.common.nets import no_track
from agents.common.tensors import panel
from agents.common.values.family import sizes_of
from agents.common.values.responses import Responses, learn_responses
from agents.common.values.sequence_model import History, SequenceModel
from agents.decision_transformer import (
    Config,
    Sequences,
    _history,
    _learned,
    _lessons,
    _some,
)
from marketing_env import DayView, LoggedDataset, RandomPolicy, preset, rollout

torch.set_num_threads(1)
N, T, D, K, G = 6, 7, 4, 3, 5
CONFIG = preset("toy")
SMALL = Config(
    prices=5, folds=2, steps=30, width=32, outcome_epochs=4, tokens=32, updates=800, campaigns=64,
    progress=False,
)  # fmt: skip


@pytest.fixture
def net() -> SequenceModel:
    torch.manual_seed(0)
    net = SequenceModel(D, K, T, G, width=8, layers=2, heads=2)
    net.price = torch.linspace(0, 1, G)
    return net.requires_grad_(False)


def history(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """(obs, before, there) of N users over T days."""
    made = torch.Generator().manual_seed(seed)
    obs = torch.randn(N, T, D, generator=made)
    before = torch.randint(-1, K, (N, T), generator=made)
    return obs, before, torch.rand(N, T, generator=made) < 0.8


def answers(net: SequenceModel, past: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    h = net(*past, torch.full((N,), 0.3))
    return torch.cat([net.best(h)[..., None], net.choose(h, net.best(h))], dim=-1)


def test_the_future_changes_nothing_in_the_past(net: SequenceModel) -> None:
    obs, before, there = history()
    first = answers(net, (obs, before, there))
    for day in range(T - 1):
        other = history(seed=2)
        mixed = (torch.cat([a[:, : day + 1], b[:, day + 1 :]], 1) for a, b in zip(
            (obs, before, there), other, strict=True
        ))  # fmt: skip
        obs2, before2, there2 = mixed
        found = answers(net, (obs2, before2, there2))
        torch.testing.assert_close(found[:, : day + 1], first[:, : day + 1])
        assert (found[:, -1] - first[:, -1]).abs().max() > 1e-4


def test_the_past_and_the_price_do_change_the_present(net: SequenceModel) -> None:
    obs, before, there = history()
    there[:] = True
    first = answers(net, (obs, before, there))[:, -1]
    moved = obs.clone()
    moved[:, 1] += 1
    assert (answers(net, (moved, before, there))[:, -1] - first).abs().max() > 1e-4
    other = before.clone()
    other[:, 2] = (other[:, 2] + 1) % K
    assert (answers(net, (obs, other, there))[:, -1] - first).abs().max() > 1e-4
    dear = net(obs, before, there, torch.full((N,), 0.9))
    cheap = net(obs, before, there, torch.full((N,), 0.3))
    assert (dear - cheap).abs().max() > 1e-3


def test_days_of_absence_are_not_seen(net: SequenceModel) -> None:
    obs, before, there = history()
    there[:, 2], there[:, 3:] = False, True
    first = answers(net, (obs, before, there))
    gone = obs.clone()
    gone[:, 2] = math.nan
    found = answers(net, (gone, before, there))
    torch.testing.assert_close(found[:, 3:], first[:, 3:])


@pytest.fixture(scope="module")
def log() -> LoggedDataset:
    return rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 1_500, seed=1)


@pytest.fixture(scope="module")
def critic(log: LoggedDataset) -> Responses:
    return learn_responses(log, SMALL)


@pytest.fixture(scope="module")
def family(log: LoggedDataset, critic: Responses) -> Sequences:
    return Sequences(_learned(log, critic, SMALL, 0, no_track), critic.support)


def test_policies_remember_a_campaign_and_forget_it_at_the_next(family: Sequences) -> None:
    """Asked day by day, in any order of users, they choose as over the whole history at once."""
    fresh = rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 40, seed=5)
    policy, shuffle = family.policy(1), np.random.default_rng(0)
    for _ in range(2):
        given = np.zeros((40, 0), dtype=int)
        for day in range(CONFIG.horizon):
            order = shuffle.permutation(40)
            view = DayView(fresh.obs[order, day], fresh.bucket[order], day, math.inf)
            chosen = np.empty(40, dtype=int)
            chosen[order] = policy.probs(view).argmax(axis=1)
            before = np.concatenate([np.full((40, 1), -1), given], axis=1)
            seen, there = fresh.obs[:, : day + 1], np.ones(before.shape, dtype=bool)
            past = History(*(torch.tensor(x) for x in (seen, before, there)))
            whole = family.choices(past, 1)
            assert np.array_equal(chosen, whole[:, -1].numpy())
            given = np.concatenate([given, chosen[:, None]], axis=1)


def test_policies_are_judged_by_what_they_do_after_their_own_incentives(family: Sequences) -> None:
    """On the mornings of a log with absences, and not after the log's incentives."""
    fresh = rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 200, seed=6)
    gaps = np.random.default_rng(0).random(fresh.valid.shape) < 0.8
    history = _history(panel(replace(fresh, valid=gaps)))
    policy, found = family.policy(2), family.follow(history, 2)
    for day in range(CONFIG.horizon):
        here = gaps[:, day]
        view = DayView(fresh.obs[here, day], fresh.bucket[here], day, math.inf)
        assert np.array_equal(found[here, day].numpy(), policy.probs(view).argmax(axis=1))
    assert not torch.equal(found, family.choices(history, 2))


def test_returns_are_over_those_of_nothing(log: LoggedDataset, critic: Responses) -> None:
    lessons = _lessons(log, critic)
    assert not lessons.gain[:, :, 0].any()
    unit = lessons.gain.amax(2).square().mean((0, 1))
    torch.testing.assert_close(unit, torch.ones_like(unit))
    assert float(lessons.gain.min()) == -3
    assert float(lessons.weight.mean()) == pytest.approx(1)


def test_it_gives_what_the_critic_thinks_best(
    log: LoggedDataset, critic: Responses, family: Sequences
) -> None:
    lessons = _lessons(log, critic)
    heads = range(len(family.net.price))
    chosen = torch.stack([family.choices(lessons.history, head) for head in heads], dim=-1)
    found = lessons.gain.gather(2, chosen[:, :, None]).mean((0, 1, 2))
    best, drawn = lessons.gain.amax(2).mean((0, 1)), lessons.gain.mean((0, 1, 2))
    assert found.mean() > 0.75 * best.mean()
    assert (found > drawn + 0.1).all()


def test_imitation_alone_prefers_good_returns(log: LoggedDataset, critic: Responses) -> None:
    config = replace(SMALL, guidance=0.0)
    family = Sequences(_learned(log, critic, config, 0, no_track), critic.support)
    lessons = _lessons(log, critic)
    gain = lessons.gain[..., 1]
    found = gain.gather(-1, family.choices(lessons.history, 1)[..., None]).mean()
    assert found > 0.5 * (gain.mean() + gain.amax(-1).mean())


def test_at_most_so_many_users_teach(log: LoggedDataset) -> None:
    for users in (1, 100, 400, 1_499, 10_000):
        few = _some(log, users)
        assert min(users, 1_500) / 2 <= few.n_users <= users
    assert sizes_of(_some(log, 10)) == sizes_of(log)
