"""The network of a day starts from what the next day's has learned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from agents.common.nets import Schedule, fold_alike
from agents.common.tensors import panel
from agents.common.values.factored_q import FactoredMember
from agents.common.values.fitted_q import backward_pass, greedy_choice, lesson_of
from agents.common.values.plain_q import PlainMember
from agents.common.values.response import fit_members
from marketing_env import RandomPolicy, preset, rollout

torch.set_num_threads(1)
CONFIG = preset("toy")
T, N, EVERYONE = CONFIG.horizon, 300, torch.zeros(300).long()
DATA = panel(rollout(RandomPolicy(CONFIG.n_actions), CONFIG, N, seed=4))
MONEY_ONLY = torch.zeros(CONFIG.n_actions, 0)
PRICES = torch.tensor([0.0, 0.2, torch.inf])[:, None]


def factored(schedule: Schedule) -> FactoredMember:
    (outcomes,) = fit_members(DATA, EVERYONE, 1, width=16, epochs=0.1)
    return FactoredMember(outcomes, MONEY_ONLY, len(PRICES), width=24, joint=24, schedule=schedule)


def plain(schedule: Schedule) -> PlainMember:
    return PlainMember(DATA.obs.shape[2], T, MONEY_ONLY, len(PRICES), width=24, schedule=schedule)


def test_alike_columns_move_to_the_bias() -> None:
    layer = torch.nn.Linear(3, 5)
    net = torch.nn.Sequential(layer, torch.nn.SiLU(), torch.nn.Linear(5, 2))
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 0.7
    with torch.no_grad():
        before = net(x)
        left = fold_alike(net, x)
        assert_array_equal(left[:, 1], 0)
        assert_array_equal(left[:, [0, 2]], x[:, [0, 2]])
        assert_array_equal(layer.weight[:, 1], 0)
        assert_allclose(net(left), before, atol=1e-6)
        assert_array_equal(fold_alike(net, x[:1]), x[:1])  # one row does not tell


def test_a_day_starts_from_the_answers_of_the_next() -> None:
    """The same values on two mornings: what was learned of one is not lost to the other."""
    member, lost = factored(Schedule()), []
    following = DATA.obs[:, 0, :1, None].expand(-1, 2, len(PRICES)).contiguous()
    for day, steps in ((T - 2, 40), (T - 3, 40), (T - 4, 1)):
        member.schedule = Schedule(steps, 128)
        lesson = lesson_of(DATA, torch.arange(N), torch.zeros(N).long(), day, following)
        lost.append(member.learn(lesson, day))
    assert lost[-1] is not None
    assert lost[-1] < 0.01  # of the variance; .3 if the calendar has weights


@pytest.mark.parametrize("make", [factored, plain])
def test_the_calendar_of_a_day_has_no_weight(
    make: Callable[[Schedule], FactoredMember | PlainMember],
) -> None:
    member = make(Schedule(2, 32))
    backward_pass(DATA, EVERYONE, [member], greedy_choice(PRICES), (2, len(PRICES)))
    first = next(part for part in member.net.modules() if isinstance(part, torch.nn.Linear))
    # The last three columns that are observed, and the three that are added, tell the day.
    n_obs = DATA.obs.shape[2]
    assert_array_equal(first.weight[:, n_obs - 3 : n_obs + 3].detach(), 0)
    assert (first.weight[:, : n_obs - 3] != 0).any()
