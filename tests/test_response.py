"""The outcome model finds the probabilities and means that made the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from agents.common.nets import moments, standardised
from agents.common.tensors import Panel, outcome_class, panel, reward_bins
from agents.common.values import response
from agents.common.values.response import OutcomeModel, fit_members, fit_outcomes
from marketing_env import ConstantPolicy, LoggedDataset, RandomPolicy, preset, rollout
from marketing_env.config import Array

torch.set_num_threads(1)
NOTHING, COST, REWARD, BOTH = range(4)  # labels where the size of a reward says nothing


def made_log(n: int, incentives: tuple[float, ...], percent: bool, seed: int) -> LoggedDataset:
    """Users of one trait x in {0, 1}, active with probability 0.2 + 0.3 x + 0.06 a.

    Baskets are 10 + 5 x on average; half of the active redeem; an offer costs its amount, or its
    share of the basket.
    """
    rng = np.random.default_rng(seed)
    horizon, k = 2, len(incentives)
    x = rng.integers(0, 2, n).astype(float)
    action = rng.integers(0, k, (n, horizon))
    active = rng.random((n, horizon)) < 0.2 + 0.3 * x[:, None] + 0.06 * action
    basket = (10 + 5 * x[:, None]) * (rng.gamma(4, 0.25, (n, horizon)) if percent else 1)
    redeemed = active & (rng.random((n, horizon)) < 0.5)
    paid = np.array(incentives)[action] * (basket if percent else 1)
    return LoggedDataset(
        obs=np.repeat(x[:, None, None], horizon + 1, axis=1),
        action=action,
        propensity=np.full((n, horizon), 1 / k),
        reward=active * basket,
        cost=redeemed * paid,
        valid=np.ones((n, horizon), dtype=bool),
        bucket=rng.random(n),
        meta={"incentives": incentives},
    )


def fitted(log: LoggedDataset, **settings: Any) -> OutcomeModel:
    data = panel(log)
    return fit_outcomes(data, torch.arange(data.n_users), width=16, batch=1024, **settings)


def expected(model: OutcomeModel) -> tuple[Array, Array, Array]:
    """Probabilities (2, K, Y), and means of reward and cost (2, K), of x = 0 and x = 1 on day 1."""
    with torch.no_grad():
        found = model(torch.tensor([[0.0], [1.0]]), torch.ones(2, dtype=torch.long))
    reward, cost = found.mean()
    return found.probability.numpy(), reward.numpy(), cost.numpy()


X = np.array([[0.0], [1.0]])
FEW, MANY = (0.0, 0.1, 0.2), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


@pytest.mark.parametrize("incentives", [FEW, MANY], ids=["separate", "dose"])
@pytest.mark.parametrize("percent", [False, True], ids=["amount", "percent"])
def test_truth_is_recovered(incentives: tuple[float, ...], percent: bool) -> None:
    model = fitted(made_log(12_000, incentives, percent, seed=1), epochs=10)
    action = np.arange(len(incentives))
    active = 0.2 + 0.3 * X + 0.06 * action
    free, paid = active * np.where(action, 0.5, 1.0), active * np.where(action, 0.5, 0.0)
    probability, reward, cost = expected(model)
    truth = np.stack([1 - active, np.zeros_like(paid), free, paid], axis=-1)
    assert_allclose(probability, truth, atol=0.05)
    basket = (10 + 5 * X) * np.ones(len(action))
    assert_allclose(reward, active * basket, rtol=0.12)
    offer = np.array(incentives) * (basket if percent else 1)
    assert_allclose(cost, paid * offer, rtol=0.15, atol=1e-9)


def test_means_of_rewards_that_may_be_negative_follow_the_state() -> None:
    log = made_log(12_000, FEW, False, seed=2)
    noise = np.random.default_rng(3).normal(0, 1, log.reward.shape)
    _, reward, _ = expected(fitted(replace(log, reward=log.reward - 5 + noise), epochs=10))
    active = 0.2 + 0.3 * X + 0.06 * np.arange(len(FEW))
    assert_allclose(reward, active * (10 + 5 * X) - 5, atol=0.5)


def test_a_model_names_columns_that_it_does_not_know() -> None:
    model = fitted(made_log(1_000, FEW, False, seed=4), epochs=1)
    with pytest.raises(ValueError, match="obs has 3 columns: the model learned from 1"):
        model(torch.zeros(5, 3), torch.zeros(5))


def test_a_dose_has_few_functions_and_other_incentives_their_own() -> None:
    by_dose, separate = (fitted(made_log(500, i, False, seed=2), epochs=1) for i in (MANY, FEW))
    assert by_dose.basis.shape == (6, 3)
    assert_array_equal(by_dose.basis[0], 0)
    assert (by_dose.basis.diff(dim=0) > 0).all()
    assert_array_equal(separate.basis, [[0, 0], [1, 0], [0, 1]])


def test_percent_offers_cost_their_share_of_the_basket() -> None:
    config = preset("food_coupons", horizon=3, n_features=2)
    log = rollout(RandomPolicy(config.n_actions), config, 4_000, seed=3)
    model = fitted(log)
    data = panel(log)
    with torch.no_grad():
        reward, cost = model(data.obs[:, 1], torch.ones(data.n_users, dtype=torch.long)).mean()
    for action in range(config.n_actions):
        given = log.action == action
        assert float(reward[:, action].mean()) == pytest.approx(log.reward[given].mean(), rel=0.2)
        assert float(cost[:, action].mean()) == pytest.approx(log.cost[given].mean(), rel=0.25)
    assert_array_equal(cost[:, 0], 0)


def test_outcomes_that_never_were_have_no_probability() -> None:
    model = fitted(made_log(2_000, FEW, False, seed=4), epochs=1)
    probability, _, cost = expected(model)
    assert_array_equal(probability[:, :, COST], 0)
    assert_array_equal(probability[:, 0, BOTH], 0)
    assert_array_equal(cost[:, 0], 0)
    assert_allclose(probability.sum(axis=2), 1, rtol=1e-6)


def test_an_incentive_that_was_never_given_has_no_nan() -> None:
    config = preset("toy")
    log = rollout(ConstantPolicy(1, config.n_actions), config, 300, seed=5)
    assert log.n_actions == 3
    model = fitted(log, epochs=1)
    with torch.no_grad():
        found = model(panel(log).obs[:, 0], torch.zeros(300, dtype=torch.long))
    assert all(torch.isfinite(part).all() for part in found)


def test_fixed_amounts_are_read_off_the_log() -> None:
    model = fitted(made_log(2_000, (0.0, 1.5, 4.0), False, seed=6), epochs=1)
    assert_allclose(model.table[1, :, BOTH], [0, 1.5, 4.0], rtol=1e-6)
    assert not model.varies[1].any()
    assert fitted(made_log(2_000, FEW, True, seed=6), epochs=1).varies[:, 1:, BOTH].all()


def test_only_the_given_users_teach() -> None:
    log = made_log(600, FEW, False, seed=7)
    reward = log.reward.copy()
    reward[300:] = 99.0
    other = LoggedDataset(
        log.obs, log.action, log.propensity, reward, log.cost, log.valid, log.bucket, log.meta
    )
    half = torch.arange(300)
    a, b = (fit_outcomes(panel(x), half, width=8, epochs=1) for x in (log, other))
    for mine, theirs in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert_array_equal(mine, theirs)


def test_outcome_class_labels_what_the_day_brought() -> None:
    reward = np.array([[0.0, 1.0, -2.0], [3.0, 0.0, 0.0]])
    cost = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    assert outcome_class(reward, cost).tolist() == [
        [NOTHING, REWARD, REWARD],
        [BOTH, COST, NOTHING],
    ]
    sized = outcome_class(
        np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.0, 1.0, 0.0, 0.0]), (2.0, 4.0)
    )
    assert sized.tolist() == [0, 3, 4, 6]


def stocked_log(n: int, lasting: float, seed: int = 0) -> LoggedDataset:
    """Users who buy for 1 to 9; tomorrow's stock follows from today's and from the purchase."""
    rng = np.random.default_rng(seed)
    horizon = 4
    bought = np.where(rng.random((n, horizon)) < 0.5, rng.uniform(1, 9, (n, horizon)), 0.0)
    stock = np.zeros((n, horizon + 1))
    stock[:, 0] = rng.normal(size=n)
    for day in range(horizon):
        drawn = rng.normal(size=n)
        stock[:, day + 1] = 0.5 * stock[:, day] + lasting * bought[:, day] + drawn
    return LoggedDataset(
        obs=stock[..., None], action=rng.integers(0, 2, (n, horizon)),
        propensity=np.full((n, horizon), 0.5), reward=bought, cost=np.zeros((n, horizon)),
        valid=np.ones((n, horizon), dtype=bool), bucket=rng.random(n), meta={},
    )  # fmt: skip


def test_the_size_of_a_reward_counts_where_it_shapes_tomorrow() -> None:
    assert len(reward_bins(stocked_log(3_000, lasting=0.0))) == 0
    lasting = stocked_log(3_000, lasting=0.5)
    assert_allclose(reward_bins(lasting), [1 + 8 / 3, 1 + 16 / 3], atol=0.2)
    data = panel(lasting)
    assert (data.n_levels, data.n_outcomes) == (4, 8)
    # Binned, the probabilities and means still add up to what the log brought.
    model = fitted(lasting, epochs=6)
    with torch.no_grad():
        found = model(data.obs[:, 1], torch.ones(3_000, dtype=torch.long))
    assert found.probability.shape == (3_000, 2, 8)
    assert float(found.mean()[0].mean()) == pytest.approx(lasting.reward.mean(), rel=0.06)


def test_columns_that_never_varied_tell_nothing() -> None:
    """However large, and whatever they are later; small ones that vary count in full."""
    x = torch.randn(50_000, 3, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 2_026.1
    x[:, 1] *= 1e-6
    x[:, 2] = 1e9 + x[:, 2]
    mean, scale = moments(x)
    assert scale.isinf().tolist() == [True, False, True]
    known = torch.cat([mean, torch.zeros(3)]), torch.cat([scale, torch.ones(3)])
    later = x + torch.tensor([1.0, 0.0, 64.0])
    seen = standardised(later, torch.zeros(len(x)), 7, *known)
    assert (seen[:, [0, 2]] == 0).all()
    assert float(seen[:, 1].std()) == pytest.approx(1, rel=1e-3)


def test_user_days_are_the_valid_ones() -> None:
    log = made_log(4, FEW, False, seed=8)
    valid = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], dtype=bool)
    data: Panel = panel(
        LoggedDataset(
            log.obs, log.action, log.propensity, log.reward, log.cost, valid, log.bucket, log.meta
        )
    )
    assert data.user_days().tolist() == [0, 4, 5, 7]
    assert data.user_days(torch.tensor([3, 1, 0])).tolist() == [7, 0]
    rows = torch.tensor([4, 1, 7])  # user 2 on day 0, user 0 and user 3 on day 1
    obs, day = data.mornings(rows)
    np.testing.assert_array_equal(obs, log.obs[[2, 0, 3], [0, 1, 1]])
    assert day.tolist() == [0, 1, 1]
    happened = data.happened(rows)
    for name in ("action", "reward", "cost"):
        logged = getattr(log, name)[[2, 0, 3], [0, 1, 1]]
        np.testing.assert_array_equal(getattr(happened, name), logged.astype(np.float32))
    assert happened.outcome.tolist() == data.outcome[[2, 0, 3], [0, 1, 1]].tolist()
    some = data.take(torch.tensor([2]))
    assert (some.n_users, some.horizon, some.n_actions) == (1, 2, 3)


def test_members_are_fitted_without_their_fold_in_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(response, "_TINY", 0)
    data = panel(made_log(400, FEW, False, seed=9))
    fold = torch.arange(400) % 2
    one, two = (fit_members(data, fold, 2, workers=w, width=8, epochs=1) for w in (1, 2))
    alone = fit_outcomes(data, (fold != 1).nonzero()[:, 0], width=8, epochs=1, seed=1)
    for a, b, c in zip(*(m.state_dict().values() for m in (one[1], two[1], alone)), strict=True):
        assert_array_equal(a, b)
        assert_array_equal(a, c)


def test_a_rebuilt_model_answers_alike() -> None:
    model = fitted(made_log(300, MANY, True, seed=9), epochs=1)
    again = OutcomeModel.rebuild(model.state_dict(), model.horizon)
    for a, b in zip(expected(model), expected(again), strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("users", "clear", "longer"), [(3_000, True, 4), (3_000, False, 1), (25_000, True, 1)]
)
def test_tiny_logs_say_how_long_to_learn(
    users: int, clear: bool, longer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times as long where it serves users held out; larger logs are not asked."""
    log = made_log(users, FEW, percent=False, seed=1)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (users, 3, 2))
    wave = np.sin(4 * x[:, :2]).prod(axis=2) > 0
    active = wave if clear else rng.random(wave.shape) < 0.5
    data = panel(replace(log, obs=x, reward=active.astype(float), cost=np.zeros(wave.shape)))
    asked = []
    real = response.fit_outcomes

    def counted(*args: Any, longer: int, **settings: Any) -> OutcomeModel:
        asked.append(longer)
        return real(*args, longer=longer, **settings)

    monkeypatch.setattr(response, "fit_outcomes", counted)
    fit_members(data, torch.arange(users) % 2, 2, width=32, epochs=8)
    assert asked[-1] == longer
    assert asked[:-1] == ([1] if users > 20_000 else [1, 4])
