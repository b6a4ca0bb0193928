"""One backward pass gives the exact planner's values, judged by members that saw others."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from agents.common.nets import Schedule
from agents.common.tensors import Panel, panel
from agents.common.values.factored_q import FactoredMember
from agents.common.values.fitted_q import (
    ActionValues,
    Member,
    backward_pass,
    greedy,
    greedy_choice,
    lesson_of,
    seen_by,
)
from agents.common.values.plain_q import PlainMember
from agents.common.values.response import fit_members
from marketing_env import DayView, RandomPolicy, plan, preset, rollout, sample_users
from marketing_env.config import Array, Spread

torch.set_num_threads(1)
# Users differ by a single feature, and their state has few levels: a small table of values.
CONFIG = preset(
    "toy", n_features=1, base=Spread(-2.5, 0.0), lift=Spread(2.5, 0.0), need=4.0,
    dose_scale=Spread(1.0, 0.0), redeem=(1.0, 1.0), engagement_levels=2, fatigue_levels=2,
)  # fmt: skip
K, T = CONFIG.n_actions, CONFIG.horizon
PRICES = torch.tensor([0.0, 0.05, 0.15, 0.4, torch.inf])[:, None]
MONEY_ONLY = torch.zeros(K, 0)
ORACLES = pytest.mark.parametrize("oracle", ["factored", "plain"])


def members_of(
    data: Panel, fold: Tensor, folds: int, oracle: str = "factored", uses: Tensor = MONEY_ONLY,
    heads: int = len(PRICES), **schedule: Any,
) -> list[Any]:  # fmt: skip
    settings: dict[str, Any] = {"width": 24, "schedule": Schedule(**schedule)}
    if oracle == "plain":
        n_obs = data.obs.shape[2]
        return [
            PlainMember(n_obs, data.horizon, uses, heads, seed=f, **settings) for f in range(folds)
        ]
    epochs = 8 if schedule["steps"] >= 60 else 0.1  # where values matter, or only shapes
    outcomes = fit_members(data, fold, folds, width=24, batch=1024, epochs=epochs)
    return [
        FactoredMember(o, uses, heads, joint=24, seed=f, **settings) for f, o in enumerate(outcomes)
    ]


def passed(
    data: Panel, folds: int, oracle: str = "factored", **schedule: Any
) -> tuple[ActionValues, Tensor, Tensor]:
    """Values, V[0] and the users' folds."""
    fold = torch.arange(data.n_users) % folds
    members: list[Member] = members_of(data, fold, folds, oracle, **schedule)
    first = backward_pass(data, fold, members, greedy_choice(PRICES), (2, len(PRICES)))
    return ActionValues(members), first, fold


class Greedy:
    """The learned best response to the price of one head."""

    def __init__(self, values: ActionValues, head: int, prices: Tensor = PRICES) -> None:
        self.values, self.head, self.prices = values, head, prices

    def probs(self, view: DayView) -> Array:
        q = self.values.members(torch.as_tensor(view.obs), view.day, self.head)
        return np.asarray(np.eye(K)[greedy(q, self.prices[[self.head]])[:, 0]])


@pytest.fixture(scope="module")
def learned() -> tuple[ActionValues, Tensor]:
    data = panel(rollout(RandomPolicy(K), CONFIG, 8_000, seed=1))
    values, first, _ = passed(data, folds=2, steps=150, batch=1024)
    return values, first


def test_values_are_those_of_the_exact_plan(learned: tuple[ActionValues, Tensor]) -> None:
    _, first = learned
    exact = plan(CONFIG, sample_users(CONFIG, 8_000, 1), PRICES[:, 0].double().numpy())
    reward, cost = first.mean(dim=0).numpy()
    finite = np.array([*PRICES[:-1, 0], 0.0])
    # Of two incentives that are worth the same, either may be taken: spending is known less well.
    net = (exact.reward - finite * exact.cost).mean(axis=0)
    assert_allclose(reward - finite * cost, net, rtol=0.08)
    assert_allclose(cost, exact.cost.mean(axis=0), rtol=0.2, atol=0.01)


def test_values_differ_between_users_as_they_should(learned: tuple[ActionValues, Tensor]) -> None:
    _, first = learned
    exact = plan(CONFIG, sample_users(CONFIG, 8_000, 1), PRICES[:, 0].double().numpy())
    for head in range(len(PRICES)):
        mine, true = first[:, 0, head].numpy(), exact.reward[:, head]
        assert np.corrcoef(mine, true)[0, 1] > 0.9


def test_the_policy_is_nearly_optimal(learned: tuple[ActionValues, Tensor]) -> None:
    """At each price, what the greedy policy earns net of its spend in simulation."""
    values, _ = learned
    users = sample_users(CONFIG, 3_000, seed=9)
    exact = plan(CONFIG, users, PRICES[:4, 0].double().numpy())
    idle = plan(CONFIG, users, np.inf).reward.mean()
    for head in (1, 2):
        log = rollout(Greedy(values, head), CONFIG, users=users, seed=9)
        price = float(PRICES[head, 0])
        net = log.reward.sum(axis=1).mean() - price * log.spend - idle
        best = (exact.reward - price * exact.cost)[:, head].mean() - idle
        assert net > 0.75 * best


def test_spending_falls_with_the_price(learned: tuple[ActionValues, Tensor]) -> None:
    cost = learned[1][:, 1].mean(dim=0)
    assert (cost.diff() < 0).all()
    assert abs(float(cost[-1])) < 1e-5


def test_each_day_has_its_own_values(learned: tuple[ActionValues, Tensor]) -> None:
    values, _ = learned
    obs = torch.as_tensor(rollout(RandomPolicy(K), CONFIG, 200, seed=2).obs[:, 1])
    to_go = [values.mean(obs, day)[:, 0, 0, 0].mean() for day in range(T)]
    assert all(a > b for a, b in itertools.pairwise(to_go))
    last = values.members(obs, T - 1)
    day = torch.full((200,), T - 1)
    for member, its in zip(last, values.each, strict=True):
        assert isinstance(its, FactoredMember)
        reward, cost = its.outcomes(obs, day).mean()
        assert_array_equal(member[:, :, 0, 0], reward)
        assert_array_equal(member[:, :, 1, 0], cost)


def test_one_head_is_a_column_of_all(learned: tuple[ActionValues, Tensor]) -> None:
    values, _ = learned
    obs = torch.as_tensor(rollout(RandomPolicy(K), CONFIG, 50, seed=2).obs[:, 0])
    for day in (0, T - 1):
        every = values.members(obs, day)
        assert every.shape == (2, 50, K, 2, len(PRICES))
        for head in range(len(PRICES)):
            one = values.members(obs, day, head)
            assert_allclose(one[..., 0], every[..., head], rtol=1e-5, atol=1e-6)
        assert_allclose(values.mean(obs, day), every.mean(dim=0), rtol=1e-6)


@ORACLES
@pytest.mark.parametrize("folds", [2, 3])
def test_users_are_valued_by_the_member_that_did_not_see_them(folds: int, oracle: str) -> None:
    data = panel(rollout(RandomPolicy(K), CONFIG, 120, seed=3))
    values, first, fold = passed(data, folds, oracle, steps=4, batch=64)
    members = values.members(data.obs[:, 0], 0)
    for f in range(folds):
        others = [e for e in range(folds) if e != f]
        choice = greedy(members[others], PRICES)
        index = choice[:, None, None].expand(-1, 1, 2, -1)
        expected = torch.gather(members[f], 1, index)[:, 0]
        assert_allclose(first[fold == f], expected[fold == f], rtol=1e-4, atol=1e-5)


@ORACLES
def test_member_learns_nothing_from_its_own_fold(oracle: str) -> None:
    data = panel(rollout(RandomPolicy(K), CONFIG, 120, seed=4))
    fold = torch.arange(120) % 2
    other = Panel(
        data.obs, torch.where(fold[:, None] == 0, 0, data.action), data.reward, data.cost,
        data.outcome, data.valid, n_actions=K,
    )  # fmt: skip
    outcomes = fit_members(data, fold, 2, width=8, epochs=0.1)
    schedule = Schedule(steps=3, batch=32)
    day, following = T - 2, torch.randn(120, 2, 5, generator=torch.Generator().manual_seed(0))
    users, days = torch.arange(120), torch.full((120,), T - 1)
    found = []
    for log in (data, other):
        last = lesson_of(log, users, days, T - 1, torch.zeros(120, 2, 5))
        before = lesson_of(log, users, days - 1, day, following)
        for f in (0, 1):
            member: Member = (
                FactoredMember(outcomes[f], MONEY_ONLY, 5, width=8, joint=8, schedule=schedule)
                if oracle == "factored"
                else PlainMember(data.obs.shape[2], T, MONEY_ONLY, 5, width=8, schedule=schedule)
            )
            mine = seen_by(fold, f, 2).nonzero()[:, 0]
            member.learn(last.take(mine), T - 1)
            member.learn(before.take(mine), day)
            found.append(member.q(data.obs[:, 0], day))
    assert_array_equal(found[0], found[2])
    assert not torch.equal(found[1], found[3])


def test_other_days_are_shown_as_the_day_they_teach() -> None:
    data = panel(rollout(RandomPolicy(K), CONFIG, 40, seed=4))
    users, then = torch.arange(40), torch.arange(40) % T
    lesson = lesson_of(data, users, then, 2, torch.zeros(40, 2, 5))
    calendar = -3  # progress, sine and cosine of the week come last
    assert_array_equal(lesson.obs[:, calendar:], data.obs[:, 2, calendar:])
    assert_array_equal(lesson.obs[:, :calendar], data.obs[users, then, :calendar])
    assert_array_equal(lesson.age[then == 2], 0)
    assert (lesson.age[then != 2] != 0).any(dim=1).all()
    assert_array_equal(lesson.measured[:, 1], data.cost[users, then])


def test_days_before_a_gap_count_in_the_level_of_values() -> None:
    """Every valid day brings 1; half of the users miss the second of three, whom nothing marks."""
    n = 400
    log = rollout(RandomPolicy(K), replace(CONFIG, horizon=3), n, seed=1)
    valid = np.ones((n, 3), dtype=bool)
    valid[::2, 1] = False
    ones = np.ones((n, 3), dtype=np.float32)
    same = replace(log, obs=np.zeros_like(log.obs), reward=ones, cost=0 * ones, valid=valid)
    data, fold = panel(same), torch.arange(n) // 2 % 2
    outcomes = fit_members(data, fold, 2, width=8, epochs=8)
    members = [
        FactoredMember(o, MONEY_ONLY, 1, width=8, joint=8, schedule=Schedule(60, 256))
        for o in outcomes
    ]
    choose = greedy_choice(torch.zeros(1, 1))
    first = backward_pass(data, fold, members, choose, (2, 1), pooled=2_000)
    assert float(first[:, 0].mean()) == pytest.approx(2.5, abs=0.02)


def test_pooling_other_days_helps_where_users_move_alike() -> None:
    """A few users are worth more if every day learns from all days; truth is the exact plan."""
    data = panel(rollout(RandomPolicy(K), CONFIG, 400, seed=1))
    fold = torch.arange(400) % 2
    exact = plan(CONFIG, sample_users(CONFIG, 400, 1), PRICES[:, 0].double().numpy())
    wrong = []
    for pooled in (0, 3_000):
        members: list[Member] = members_of(data, fold, 2, steps=150, batch=256)
        choose = greedy_choice(PRICES)
        first = backward_pass(data, fold, members, choose, (2, 5), pooled=pooled)
        wrong.append(float(np.square(first[:, 0].numpy() - exact.reward).mean()))
    assert wrong[1] < wrong[0]


def test_the_number_of_threads_changes_nothing() -> None:
    data = panel(rollout(RandomPolicy(K), CONFIG, 300, seed=6))
    fold = torch.arange(300) % 3
    first = []
    for workers in (1, 3):
        outcomes = fit_members(data, fold, 3, workers=workers, width=8, epochs=0.1)
        members = [
            FactoredMember(o, MONEY_ONLY, 5, width=8, joint=8, schedule=Schedule(steps=3), seed=f)
            for f, o in enumerate(outcomes)
        ]
        choose = greedy_choice(PRICES)
        first.append(backward_pass(data, fold, members, choose, (2, 5), workers=workers))
    assert_array_equal(first[0], first[1])


def test_contacts_are_counted() -> None:
    """What the values say is what the simulation counts; a high price leaves no contact."""
    data = panel(rollout(RandomPolicy(K), CONFIG, 4_000, seed=7))
    fold, prices = torch.zeros(4_000, dtype=torch.long), torch.tensor([[0.0, 0.0], [0.0, 50.0]])
    uses = (torch.arange(K) > 0).float()[:, None]
    members: list[Member] = members_of(data, fold, 1, uses=uses, heads=2, steps=150, batch=1024)
    first = backward_pass(data, fold, members, greedy_choice(prices), (3, 2))
    acting = Greedy(ActionValues(members), 0, prices)
    simulated = rollout(acting, CONFIG, 4_000, seed=8)
    contacts = (simulated.action > 0).sum(axis=1).mean()
    assert contacts > 2
    assert float(first[:, 2, 0].mean()) == pytest.approx(contacts, rel=0.05)
    assert first[:, 1:, 1].mean(dim=0).tolist() == pytest.approx([0, 0], abs=0.05)


def test_the_plain_oracle_learns_too() -> None:
    data = panel(rollout(RandomPolicy(K), CONFIG, 20_000, seed=1))
    _, first, _ = passed(data, 2, "plain", steps=250, batch=1024)
    exact = plan(CONFIG, sample_users(CONFIG, 8_000, 1), PRICES[:, 0].double().numpy())
    reward, cost = first.mean(dim=0).numpy()
    finite = np.array([*PRICES[:-1, 0], 0.0])
    net = (exact.reward - finite * exact.cost).mean(axis=0)
    assert_allclose(reward - finite * cost, net, rtol=0.12)


@ORACLES
def test_a_rebuilt_member_answers_alike(oracle: str) -> None:
    data = panel(rollout(RandomPolicy(K), CONFIG, 120, seed=3))
    values, _, _ = passed(data, 1, oracle, steps=2, batch=64)
    (member,) = values.each
    assert isinstance(member, FactoredMember | PlainMember)
    again = type(member).rebuild(member.state(), T)
    for day in range(T):
        assert_array_equal(again.q(data.obs[:, day], day), member.q(data.obs[:, day], day))


def test_days_without_the_user_are_skipped() -> None:
    """A user who is only there on the last day is worth his last day."""
    log = rollout(RandomPolicy(K), CONFIG, 100, seed=5)
    data = panel(log)
    data.valid[:50, :-1] = False
    values, first, fold = passed(data, 2, steps=4, batch=64)
    last = values.members(data.obs[:, T - 1], T - 1)
    judge = last[fold, torch.arange(100)]
    rich = torch.where(fold[:, None] == 0, greedy(last[[1]], PRICES), greedy(last[[0]], PRICES))
    worth = torch.gather(judge, 1, rich[:, None, None].expand(-1, 1, 2, -1))[:, 0]
    assert_allclose(first[:50], worth[:50], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(first[50:], worth[50:])


@ORACLES
@pytest.mark.parametrize("pooled", [0, 200])
def test_a_day_without_anybody_is_passed_over(oracle: str, pooled: int) -> None:
    """Every morning is worth what the next one on which somebody is there is worth."""
    data = panel(rollout(RandomPolicy(K), CONFIG, 100, seed=5))
    for day in (T - 1, T - 2, 2):
        data.valid[:, day] = False
        fold = torch.arange(100) % 2
        members = members_of(data, fold, 2, oracle, steps=4, batch=64)
        shape = (2, len(PRICES))
        first = backward_pass(data, fold, members, greedy_choice(PRICES), shape, pooled=pooled)
        assert first.isfinite().all()
        assert first[:, 0].abs().max() < 100  # of rewards of at most 1 a day


def test_greedy_weighs_money_by_its_price() -> None:
    reward, cost = torch.tensor([1.0, 2.0, 3.5]), torch.tensor([0.0, 1.0, 3.0])
    q = torch.stack([reward, cost], dim=-1)[None, None, :, :, None].expand(1, 2, -1, -1, 4)
    prices = torch.tensor([0.0, 0.9, 1.5, torch.inf])[:, None]
    assert greedy(q, prices).tolist() == [[2, 1, 0, 0]] * 2
    # Even where no incentive looks worst: an infinite price never pays.
    assert greedy(-q, prices)[:, 3].tolist() == [0, 0]
    allowed = torch.tensor([[True, True, False], [True, False, True]])
    assert greedy(q, prices, allowed).tolist() == [[1, 1, 0, 0], [2, 0, 0, 0]]


def test_every_limit_has_its_price() -> None:
    q = torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, 1.0]])[None, None, :, :, None].expand(
        -1, -1, -1, -1, 3
    )
    assert greedy(q, torch.tensor([[1.0, 0.5], [1.0, 1.5], [2.5, 0.0]])).tolist() == [[1, 0, 0]]


def test_pessimism_avoids_what_members_disagree_about() -> None:
    gains = torch.tensor([[0.0, 1.0, 0.1], [0.0, 1.0, 2.5]])  # (E, K): mean 0, 1, 1.3
    q = torch.stack([gains, torch.zeros(2, 3)], dim=-1)[:, None, :, :, None]
    free = torch.zeros(1, 1)
    assert greedy(q, free).tolist() == [[2]]
    assert greedy(q, free, pessimism=0.5).tolist() == [[1]]
    # What all actions share is no reason for caution.
    shared = (
        q
        + torch.tensor([0.0, 100.0])[:, None, None, None, None] * torch.tensor([1.0, 0.0])[:, None]
    )
    assert greedy(shared, free, pessimism=0.5).tolist() == [[1]]


def test_greedy_choice_is_one_hot_per_price() -> None:
    q = torch.randn(2, 6, K, 2, 5, generator=torch.Generator().manual_seed(0))
    weight = greedy_choice(PRICES)(q, torch.zeros(6, 1), torch.arange(6), 0)
    assert weight.shape == (6, K, 5)
    assert_array_equal(weight.argmax(dim=1), greedy(q, PRICES))
    assert_array_equal(weight.sum(dim=1), np.ones((6, 5)))


def test_values_follow_the_size_of_the_user() -> None:
    """Users whose rewards are a hundred times as large do not drown the others."""
    log = rollout(RandomPolicy(K), CONFIG, 3_000, seed=2)
    size = np.exp(2 * log.obs[:, 0, 0])
    data = panel(replace(log, reward=log.reward * size[:, None]))
    fold = torch.zeros(len(size), dtype=torch.long)
    (member,) = members_of(data, fold, 1, heads=1, steps=60, batch=512)
    idle = greedy_choice(torch.tensor([[torch.inf]]))
    first = backward_pass(data, fold, [member], idle, (2, 1))[:, 0, 0].numpy()
    exact = size * plan(CONFIG, sample_users(CONFIG, len(size), 2), [np.inf]).reward[:, 0]
    small = size < 0.2
    assert_allclose(first[small].mean(), exact[small].mean(), rtol=0.15)
    assert np.corrcoef(first[small], exact[small])[0, 1] > 0.8


@pytest.mark.parametrize("sized", [False, True])
def test_the_level_is_that_of_the_days_own_transitions(sized: bool) -> None:
    """Whether values follow the size of the users, or have nothing to do with it."""
    log = rollout(RandomPolicy(K), CONFIG, 400, seed=2)
    size = np.exp(log.obs[:, :1, 0])
    data = panel(replace(log, reward=log.reward * size))
    (member,) = members_of(data, torch.zeros(400, dtype=torch.long), 1, heads=2, steps=3, batch=64)
    user = torch.arange(400)
    following = torch.randn(400, 2, 2, generator=torch.Generator().manual_seed(0)) + 5
    if sized:
        following[:, 0] *= torch.as_tensor(size)
    lesson = lesson_of(data, user, torch.full_like(user, T - 2), T - 2, following)
    member.learn(lesson, T - 2)
    net = member.days[T - 2]
    assert net.sized.tolist() == [float(sized), 0.0]
    x = torch.cat([member._inputs(lesson.obs, T - 2), lesson.age], dim=1)
    cell = lesson.action * data.n_outcomes + lesson.outcome
    shown = net.given(net.trunk(x), cell).unflatten(1, (2, 2))
    relative = net.relative(member._size(lesson.obs, T - 2))
    mean = ((shown * net.spread + net.centre) * relative).mean(0)
    assert_allclose(mean, following.mean(0), rtol=1e-4)
