"""What methods are held against: policies that know the simulator, and policies that know nothing.

The exact optimum and the myopic policy with the true response are plans for the very users they
meet. The logging policy, uniform draws and no incentives ignore the budget: each is mixed with no
incentives, user by user, until the mixture costs the budget in expectation.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.oracle import oracles
from marketing_env import (
    CampaignConfig,
    ConstantPolicy,
    MixedPolicy,
    Policy,
    RandomPolicy,
    Users,
    evaluate,
)
from marketing_env.evaluate import Reference

FORESIGHT = {"oracle": 1.0, "perfect_myopic": 0.0}
_SPEND_USERS, _SPEND_SEEDS = 2_000, range(900_000, 900_010)  # met by no log and no judge


def reference(
    name: str,
    config: CampaignConfig,
    budgets: Sequence[float],
    *,
    logging: Policy,
    users: Users,
) -> Sequence[Policy | Reference]:
    """The named reference at each budget (currency per user per campaign).

    Args:
        users: of whom the plans' mixtures are to spend the budgets.

    Raises:
        ValueError: for a name that is no reference.
    """
    k = config.n_actions
    plain = {"logging": logging, "uniform": RandomPolicy(k), "none": ConstantPolicy(0, k)}
    if name in FORESIGHT:
        return oracles(config, budgets, users, FORESIGHT[name])
    if name not in plain:
        raise ValueError(f"no reference {name!r}: there are {', '.join([*FORESIGHT, *plain])}")
    found = evaluate(plain[name], config, n_users=_SPEND_USERS, seeds=_SPEND_SEEDS)
    return [diluted(plain[name], float(found.cost.mean()), budget, k) for budget in budgets]


def diluted(policy: Policy, spend: float, budget: float, n_actions: int) -> MixedPolicy:
    """The policy for as many users as the budget pays for, and nothing for the others.

    Args:
        spend: of the policy, currency per user per campaign.
    """
    share = min(1.0, budget / spend) if spend > 0 else 1.0
    return MixedPolicy([policy, ConstantPolicy(0, n_actions)], [share, 1 - share])
