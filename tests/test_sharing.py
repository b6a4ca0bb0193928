"""Methods that play the same game learn their best responses once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.common.nets import no_track
from agents.common.values import responses
from experiments.sharing import Oracles
from marketing_env import RandomPolicy, preset, rollout

CONFIG = preset("toy")
LOG = rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 200, seed=1)
BRIEF: dict[str, Any] = {
    "folds": 2, "prices": 4, "width": 8, "steps": 2, "outcome_epochs": 0.1, "progress": False,
}  # fmt: skip


def test_one_pass_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    real = responses.backward_pass

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(1)
        return real(*args, **options)

    monkeypatch.setattr(responses, "backward_pass", counted)
    oracles = Oracles()
    first, alone = oracles.fit("mixed_policy", LOG, BRIEF, 0, no_track)
    second, together = oracles.fit("price_bisection", LOG, BRIEF, 0, no_track)
    assert len(passes) == 1
    assert second.responses.policies is first.responses.policies  # judged once, too
    assert together.seconds >= alone.seconds > 0
    assert together.cpu_seconds >= alone.cpu_seconds > 0
    np.testing.assert_array_equal(second.responses.frontier.value, first.responses.frontier.value)
    oracles.fit("price_bisection", LOG, BRIEF, 1, no_track)
    oracles.fit("mixed_policy", LOG, BRIEF | {"contacts": True}, 0, no_track)
    oracles.fit("mixed_policy", LOG, BRIEF | {"steps": 3}, 0, no_track)
    assert len(passes) == 4


def test_plans_of_another_caution_need_no_pass() -> None:
    oracles, careful = Oracles(), {"risk": 0.01, "leeway": 0.0}
    usual, _ = oracles.fit("mixed_policy", LOG, BRIEF, 0, no_track)
    shared, _ = oracles.fit("mixed_policy", LOG, BRIEF | careful, 0, no_track)
    alone, _ = Oracles().fit("mixed_policy", LOG, BRIEF | careful, 0, no_track)
    assert len(oracles.known) == 1
    assert shared.forecast(0.2) == alone.forecast(0.2)
    assert shared.frontier.cautious[0, 1] > usual.frontier.cautious[0, 1]


def test_methods_without_them_are_trained_as_ever() -> None:
    oracles = Oracles()
    model, effort = oracles.fit("greedy_uplift", LOG, {"width": 8, "epochs": 1}, 0, no_track)
    assert effort.seconds > 0
    assert not oracles.known
    assert model.forecast(0.2).cost >= 0
