"""Who serves a user: all members but one, the same one all campaign long."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.common.buckets import left_out
from agents.common.values.acting import Responder
from agents.common.values.fitted_q import ActionValues
from marketing_env import DayView, MixedPolicy, RandomPolicy

K = 3
BUCKET = np.random.default_rng(0).random(20_000)


class Likes:
    """A member to whom one incentive is worth more than others."""

    def __init__(self, action: int, worth: float = 1.0) -> None:
        self.value = torch.zeros(K, 2, 1)
        self.value[action, 0] = worth

    def learn(self, lesson: object, day: int) -> float | None:
        raise NotImplementedError

    def q(self, obs: Tensor, day: int, head: int | None = None) -> Tensor:
        return self.value.expand(len(obs), -1, -1, -1)


def responder(*members: Likes) -> Responder:
    return Responder(ActionValues(members), torch.zeros(1, 1), None, 0.0)


def view(bucket: np.ndarray) -> DayView:
    return DayView(np.zeros((len(bucket), 2), np.float32), bucket, 0, np.inf)


@pytest.mark.parametrize("members", [2, 3, 4, 7])
def test_members_share_the_work_within_each_part_of_a_mixture(members: int) -> None:
    idle = left_out(BUCKET, members)
    part = MixedPolicy([RandomPolicy(K)] * 2, [0.3, 0.7]).component(BUCKET)
    for k in range(2):
        share = np.bincount(idle[part == k], minlength=members) / (part == k).sum()
        np.testing.assert_allclose(share, 1 / members, atol=0.03)


def test_a_user_is_served_by_all_members_but_one() -> None:
    # Without the first member incentive 1 wins, without the third 2; the second is outvoted.
    found = responder(Likes(1), Likes(0, 0.1), Likes(2)).act(view(BUCKET), 0)
    expected = np.array([2, 1, 1])[left_out(BUCKET, 3)]
    np.testing.assert_array_equal(found, expected)


def test_a_single_member_serves_everyone() -> None:
    assert (responder(Likes(2)).act(view(BUCKET[:50]), 0) == 2).all()


def test_worth_is_that_of_the_chosen_incentives() -> None:
    # Two members: each user is served by one of them, and gets what that one likes.
    worth = responder(Likes(1, 1.0), Likes(2, 3.0)).worth(view(BUCKET))
    share = (left_out(BUCKET, 2) == 1).mean()
    np.testing.assert_allclose(worth, [[share * 1.0 + (1 - share) * 3.0, 0.0]])


def test_nobody_there_is_answered() -> None:
    nobody = view(BUCKET[:0])
    assert responder(Likes(1)).act(nobody, 0).shape == (0,)
    assert not responder(Likes(1)).worth(nobody).any()
