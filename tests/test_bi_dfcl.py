"""Two levels: which rows are a trial, what each measures, and how one answers to the other."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from agents.bi_dfcl import Bridge, Config, Goal, Levels, fit, in_trial, lower_loss
from agents.common.one_day import decision_losses
from agents.common.one_day.decisions import Prices, choose_prices
from agents.common.one_day.focused import Warm
from agents.common.one_day.hypergradient import hypergradient
from agents.common.one_day.predictors import MultiTaskPredictor, fit_predictor
from agents.common.one_day.representation import Fitting, UserDays, user_days
from agents.common.types import Array
from marketing_env import LoggedDataset

torch.set_num_threads(1)
SMALL = Config(
    network="multi_task", width=16, folds=1, batch=512, warm_epochs=2, epochs=2, prices=3,
    inner=2, progress=False,
)  # fmt: skip
EITHER = pytest.mark.parametrize("loss", ["ppl", "pifd"])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def half_a_trial(n: int, seed: int = 0, hidden: float = 0.0) -> LoggedDataset:
    """One day, arms that cost 0, 1, 2 on average; even users are in a trial, odd ones observed.

    What an arm adds is worth its cost where feature 0 is positive. Observed users who earn
    `hidden` more, whatever they get, mostly get the dearest arm, and the log does not know why.
    """
    random = np.random.default_rng(seed)
    x, trait = random.normal(size=(n, 2)), random.random(n) < 0.5
    trial = np.arange(n) % 2 == 0
    biased = np.where(trait[:, None], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2])
    chance = np.where(trial[:, None], 1 / 3, biased)
    arm = (chance.cumsum(axis=1) < random.random((n, 1))).sum(axis=1)
    told = np.where(trial[:, None], 1 / 3, [0.25, 0.25, 0.5])
    reward = 3 + hidden * trait + true_gain(x)[np.arange(n), arm] + 0.3 * random.normal(size=n)
    cost = arm * random.uniform(0.5, 1.5, n)
    return LoggedDataset(
        obs=np.repeat(x[:, None], 2, axis=1).astype(np.float32), action=arm[:, None],
        propensity=told[np.arange(n), arm][:, None], reward=reward[:, None],
        cost=cost[:, None], valid=np.ones((n, 1), bool), bucket=random.random(n),
        meta={"incentives": (0, 1, 2)},
    )  # fmt: skip


def true_gain(x: Array) -> Array:
    """(n, 3) what each arm adds to the reward."""
    return np.asarray(np.arange(3) * (0.5 + 0.5 * np.tanh(3 * x[:, :1])))


class Small(NamedTuple):
    """A linear network in double precision, and rows of each level."""

    predictor: MultiTaskPredictor
    observed: UserDays
    trial: UserDays
    bridge: Bridge


def small(log: LoggedDataset | None = None) -> Small:
    log = half_a_trial(120) if log is None else log
    rows = user_days(log, np.arange(log.n_users))
    predictor = fit_predictor("linear", log, rows, 0, Fitting(1.0, 64), "x")
    assert isinstance(predictor, MultiTaskPredictor)
    torch.manual_seed(0)
    bridge = Bridge(rows, 3, 1, 4).double()
    predictor.net.double().requires_grad_(True)
    rows = UserDays(*(part.double() if part.is_floating_point() else part for part in rows))
    chosen = in_trial(rows, 3, 0.5, rng())
    return Small(predictor, rows.take(~chosen), rows.take(chosen), bridge)


def test_users_whose_incentives_were_all_drawn_uniformly_are_the_trial() -> None:
    rows = user_days(half_a_trial(60), np.arange(60))
    again = rows._replace(propensity=rows.propensity.clone())
    again.propensity[4] = 0.5
    days = UserDays(*(torch.cat(parts) for parts in zip(rows, again, strict=True)))
    found = in_trial(days, 3, 0.9, rng())
    assert_array_equal(found, (days.user % 2 == 0) & (days.user != 4))


@pytest.mark.parametrize("kind", ["random", "production"])
def test_without_a_trial_of_its_own_a_share_of_users_stands_in(kind: str) -> None:
    log = half_a_trial(400)
    rows = user_days(log, np.arange(0 if kind == "random" else 1, 400, 2))
    rows = UserDays(*(torch.cat([part, part]) for part in rows))
    found = in_trial(rows, 3, 0.3, rng())
    assert int(found.sum()) == 2 * 60
    assert_array_equal(found[:200], found[200:])
    assert not torch.equal(found, in_trial(rows, 3, 0.3, rng(1)))
    for share in (1e-6, 1 - 1e-6):
        assert 0 < int(in_trial(rows, 3, share, rng()).sum()) < 400


def test_labels_of_what_was_not_observed_are_mixed() -> None:
    predictor, rows, _, _ = small()
    teacher = torch.rand(len(rows.arm), 3, 2, generator=rng(), dtype=torch.double)
    gate = torch.rand(len(rows.arm), 3, 2, generator=rng(1), dtype=torch.double)
    unit = torch.tensor([2.0, 0.5], dtype=torch.double)
    with torch.no_grad():
        expected = predictor(rows)
        plain = float(predictor.loss(expected, rows))
        found = float(lower_loss(predictor, rows, teacher, gate, unit))
        believed = float(lower_loss(predictor, rows, teacher, torch.ones_like(gate), unit))
    mixed = gate * expected + (1 - gate) * teacher
    distance = (((expected - mixed) / unit) ** 2).sum(-1).numpy()
    distance[np.arange(len(distance)), rows.arm] = 0
    assert found - plain == pytest.approx(distance.sum(1).mean() / 2)
    assert believed == plain


def prices() -> Prices:
    price = torch.tensor([0.2, 0.6], dtype=torch.double)
    return Prices(price, torch.tensor([0.5, 1.5]).double(), torch.tensor([2.0, 3.0]).double())


@EITHER
@pytest.mark.parametrize("primal", [True, False])
def test_decisions_count_rewards_or_net_values(loss: Any, primal: bool) -> None:
    predictor, _, rows, _ = small()
    expected = predictor(rows).detach()
    config = replace(SMALL, loss=loss, primal=primal, tau=0.7, reach=2.0)
    goal = Goal(prices(), np.array([1.2, 0.3]))
    found = float(goal.loss(config, expected, rows))
    at = goal.repriced(expected, rows) if primal else goal.prices
    total = 0.0
    for price, gap, spread in zip(*at, strict=True):
        net = rows.outcome[:, 0] - (0 if primal else price) * rows.outcome[:, 1]
        scores = (expected[..., 0] - price * expected[..., 1]) / gap
        data = scores, rows.arm, net / spread, 3 * rows.weight
        each = (
            decision_losses.merl(*data, tau=0.7)
            if loss == "ppl"
            else decision_losses.ifd(*data, step=2.0)
        )
        total += float(each) / 2
    assert found == pytest.approx(total, rel=1e-5)


def test_prices_of_a_batch_keep_the_real_spend_at_the_budgets() -> None:
    predictor, _, rows, _ = small()
    expected = predictor(rows).detach()
    budgets = np.array([1.2, 0.4, 0.0])
    three = Prices(*(torch.ones(3).double() for _ in range(3)))
    found = Goal(three, budgets).repriced(expected, rows)
    assert (found.price.diff() > 0).all()
    for price, budget in zip(found.price.double(), budgets, strict=True):
        matched = (expected[..., 0] - price * expected[..., 1]).argmax(1) == rows.arm
        assert float(rows.outcome[matched, 1].mean()) <= budget + 1e-9


def test_goals_are_what_the_first_decisions_really_spend() -> None:
    log = half_a_trial(4000)
    rows = user_days(log, np.arange(log.n_users))
    predictor = fit_predictor("multi_task", log, rows, 16, Fitting(3.0, 512), "x")
    trial = rows.take(in_trial(rows, 3, 0.5, rng()))
    chosen = choose_prices(predictor, rows, 3)
    goal = Goal.of(chosen, predictor, trial)
    with torch.no_grad():
        choice = chosen.net(predictor(trial)).argmax(-1).double()
    assert_allclose(goal.budgets, choice.mean(1), rtol=0.1, atol=0.02)


def solved(parts: Small, teacher: Tensor, unit: Tensor) -> None:
    """Bring the linear network to the minimum of the lower level."""
    parameters = [p for p in parts.predictor.net.parameters() if p.requires_grad]
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=400, tolerance_grad=1e-11, tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        gate = parts.bridge(parts.observed).detach()
        value = lower_loss(parts.predictor, parts.observed, teacher, gate, unit)
        value.backward()
        return value

    optimiser.step(closure)


def test_the_bridge_follows_what_solving_the_lower_level_again_would_earn() -> None:
    """The hypergradient of both levels against central differences in weights of the bridge."""
    parts = small()
    teacher = parts.predictor(parts.observed).detach() + torch.tensor([0.5, 0.2]).double()
    unit = torch.ones(2, dtype=torch.double)
    goal = Goal(prices(), np.zeros(2))
    config = replace(SMALL, loss="ppl")
    theta = tuple(parts.predictor.net.parameters())
    phi = tuple(parts.bridge.net.parameters())

    def upper() -> Tensor:
        return goal.loss(config, parts.predictor(parts.trial), parts.trial)

    solved(parts, teacher, unit)
    gate = parts.bridge(parts.observed)
    lower = lower_loss(parts.predictor, parts.observed, teacher, gate, unit)
    found = hypergradient(upper(), lower, theta, phi, steps=200, damping=1e-9)
    bias, gradient = phi[-1], found[-1]
    assert gradient.abs().max() > 1e-5
    for entry in (0, 4):  # gates of a reward and of a cost
        values = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                bias[entry] += step
            solved(parts, teacher, unit)
            values.append(float(upper().detach()))
            with torch.no_grad():
                bias[entry] -= step
        difference = (values[0] - values[1]) / 2e-3
        assert float(gradient[entry]) == pytest.approx(difference, rel=0.02, abs=1e-7)


def test_gates_start_halfway() -> None:
    rows = user_days(half_a_trial(20), np.arange(20))
    assert_array_equal(Bridge(rows, 3, 1, 8)(rows).detach(), np.full((20, 3, 2), 0.5))


@pytest.mark.parametrize("right", [True, False])
def test_a_teacher_is_believed_as_far_as_its_labels_decide_well(right: bool) -> None:
    """Who got the dearest arm earned more whatever he got; one teacher knows what arms add."""
    log = half_a_trial(400, hidden=6.0)
    parts, x = small(log), log.obs[1::2, 0].astype(float)
    gain = true_gain(x) if right else -true_gain(x)
    teacher = torch.tensor(np.stack([6 + gain, np.tile([0.0, 1.0, 2.0], (200, 1))], axis=-1))
    goal = Goal(Prices(*torch.tensor([[0.5], [0.3], [2.0]]).double()), np.zeros(1))
    unit, losses, gates = torch.ones(2, dtype=torch.double), [], []
    phi = tuple(parts.bridge.net.parameters())
    optimiser = torch.optim.Adam(phi, 0.3)
    for _ in range(8):
        solved(parts, teacher, unit)
        gate = parts.bridge(parts.observed)
        upper = goal.loss(replace(SMALL, loss="ppl"), parts.predictor(parts.trial), parts.trial)
        lower = lower_loss(parts.predictor, parts.observed, teacher, gate, unit)
        theta = tuple(parts.predictor.net.parameters())
        found = hypergradient(upper, lower, theta, phi, steps=50, damping=1e-6)
        for parameter, gradient in zip(phi, found, strict=True):
            parameter.grad = gradient
        optimiser.step()
        losses.append(float(upper.detach()))
        gates.append(float(gate[..., 0].mean().detach()))
    assert losses[-1] < losses[0]
    assert gates[-1] < 0.4 if right else gates[-1] > 0.5


@EITHER
@pytest.mark.parametrize("rate", [1e-3, 30.0])
def test_the_warm_start_is_left_for_less_of_both_losses(loss: Any, rate: float) -> None:
    curves: dict[str, list[float]] = defaultdict(list)
    log, obs = half_a_trial(1500), half_a_trial(500, seed=1).obs[:, 0]
    config = replace(SMALL, loss=loss, learning_rate=rate)
    found, plain = (
        fit(log, c, track=lambda tag, value, _: curves[tag].append(value)).members[0]
        for c in (config, replace(config, epochs=0))
    )
    parts = [curves[f"response/member_0/held_out/{x}_loss"] for x in ("prediction", "decision")]
    total = np.sum(parts, axis=0)
    moved = not np.array_equal(found.predict(obs, 0), plain.predict(obs, 0))
    assert moved == (total.min() < total[0])
    assert not (moved and rate > 1)


def test_the_target_keeps_learning_from_the_trial() -> None:
    log = half_a_trial(400)
    rows = user_days(log, np.arange(400))
    fitting = Fitting(1.0, 128, fewest=5)
    predictor = fit_predictor("multi_task", log, rows, 8, fitting, "x")
    levels = Levels(Warm(predictor, rows, rows, fitting, "x"), log, SMALL)
    assert len(levels.trial.arm) == 200
    assert_array_equal(levels.rows.user, np.arange(400))
    assert levels.teacher.shape == (400, 3, 2)


@pytest.mark.parametrize(
    ("name", "value"), [("loss", "ifd"), ("trial_share", 0.0), ("trial_share", 1.0)]
)
def test_settings_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        fit(half_a_trial(30), replace(SMALL, **{name: value}))
