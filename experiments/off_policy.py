"""What a log alone says of trained policies, to be held against what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from agents.common.values.ope import FittedQEvaluation
from experiments.campaigns import collect
from experiments.settings import Setting
from marketing_env import ConstantPolicy, Estimate, Policy, replay

TEST_SEED = 50_000  # added to a training seed; logs and populations to learn from stay below
MOST_USERS = 5_000  # of the test log
# Of an `Estimate`, what results keep.
KEPT = ("reward", "reward_error", "cost", "cost_error", "effective_users")


class TestLog:
    """A log of fresh users under the policy that collected the training log."""

    __test__ = False  # no test, whatever pytest makes of the name

    def __init__(self, setting: Setting, seed: int) -> None:
        users = min(setting.log_users, MOST_USERS)
        self.log = collect(replace(setting, log_users=users), TEST_SEED + seed)
        self.evaluation = FittedQEvaluation(self.log)

    def estimates(self, policies: Sequence[Policy]) -> list[dict[str, dict[str, float]]]:
        """Of each policy, by estimator: reward, cost, their standard errors, and the gain.

        The gain is over giving no incentives, whose reward is that of fitted Q evaluation for all
        estimators: hardly a user of the log got nothing every day, which leaves weights nothing to
        weigh. Nothing here knows the simulator.
        """
        every = [*policies, ConstantPolicy(0, self.log.n_actions)]
        values = self.evaluation.values(every)
        found = [replay(policy, self.log, q) for policy, q in zip(every, values, strict=True)]
        idle = found.pop()["fitted_q"].reward
        return [
            {name: _kept(estimate, idle) for name, estimate in each.items()
             if name != "logged"}
            for each in found
        ]  # fmt: skip


def _kept(estimate: Estimate, idle: float) -> dict[str, float]:
    numbers = {name: float(f"{asdict(estimate)[name]:.6g}") for name in KEPT}
    return numbers | {"gain": float(f"{estimate.reward - idle:.6g}")}
