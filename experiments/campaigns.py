"""The campaign, the log and the budgets that a setting means."""

from __future__ import annotations

from experiments.settings import Setting
from marketing_env import (
    CampaignConfig,
    LoggedDataset,
    MixedPolicy,
    Policy,
    ProductionPolicy,
    RandomPolicy,
    plan,
    preset,
    rollout,
    sample_users,
)


def campaign(setting: Setting) -> CampaignConfig:
    return preset(setting.preset, **setting.overrides)


def behaviour(setting: Setting) -> Policy:
    """The policy that collects the setting's log."""
    config = campaign(setting)
    random = RandomPolicy(config.n_actions)
    production = ProductionPolicy(config, setting.epsilon)
    policies: dict[str, Policy] = {
        "random": random,
        "production": production,
        "mixture": MixedPolicy([random, production], [0.5, 0.5]),
    }
    return policies[setting.behaviour]


def collect(setting: Setting, seed: int) -> LoggedDataset:
    """The log of a setting; seeds of logs and of evaluations never meet."""
    return rollout(behaviour(setting), campaign(setting), setting.log_users, seed=seed)


def budgets(setting: Setting) -> tuple[float, ...]:
    """The setting's budgets in currency per user: shares of the unconstrained optimum's spend."""
    config = campaign(setting)
    top = float(plan(config, sample_users(config, 500, seed=900), 0.0).cost.mean())
    return tuple(share * top for share in setting.budget_shares)
