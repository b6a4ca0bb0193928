"""A log as tensors: what it shows of the next morning, and of the calendar."""

from __future__ import annotations

from dataclasses import replace

import torch
from numpy.testing import assert_array_equal

from agents.common.tensors import panel
from marketing_env import RandomPolicy, preset, rollout

CONFIG = preset("toy")
K, T = CONFIG.n_actions, CONFIG.horizon


def test_what_a_log_shows_of_the_next_morning() -> None:
    log = rollout(RandomPolicy(K), CONFIG, 4, seed=5)
    data = panel(log)
    data.valid[0, 3:] = False  # leaves
    data.valid[1, 2] = False  # is away for a day
    data.valid[2, 0] = False  # comes late
    leaves, stays = torch.zeros(4, T, dtype=torch.bool), data.valid.clone()
    leaves[0, 2] = True
    stays[0, 2] = stays[1, 1] = False
    assert_array_equal(data.leaves, leaves)
    assert_array_equal(data.stays, stays)
    data = panel(log)
    assert data.stays.all()
    # A log that ends with the last day repeats its observation.
    ended = replace(data, obs=torch.cat([data.obs[:, :T], data.obs[:, T - 1 : T]], dim=1))
    assert not ended.stays[:, -1].any()
    assert ended.stays[:, :-1].all()


def test_the_calendar_is_read_off_those_who_are_there() -> None:
    log = rollout(RandomPolicy(K), CONFIG, 50, seed=5)
    columns, values = panel(log).calendar
    assert len(columns)
    gone = panel(log)
    gone.valid[::3, 2:] = False
    gone.obs[::3, 2:] = gone.obs[::3, 1:2].clone()  # as a table leaves them
    found, shown = gone.calendar
    assert_array_equal(found, columns)
    assert_array_equal(shown, values)
