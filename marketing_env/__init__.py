"""Multi-day marketing campaigns under one budget: simulate, log, evaluate, and know the optimum.

`gymnasium.make("marketing_env/Campaign-v0", preset="payment_bonus")` is one user;
`gymnasium.make_vec` of the same id is many; `marketing_env/Audience-v0` is everyone at once under
one hard budget; `marketing_env/Coupons-v0` is another world, the daily coupons of BCORLE(lambda)
(`bcorle`). The functions below are the same campaign without an environment around it;
`lbcf` is a trial of one decision per user with every counterfactual.
"""

from gymnasium import register

from marketing_env.config import CampaignConfig
from marketing_env.dataset import LoggedDataset
from marketing_env.evaluate import Evaluation, Optimum, evaluate, optimum, score
from marketing_env.exact import best_mixture, bound, curve, plan
from marketing_env.one_shot import OneShotConfig, Trial, lbcf
from marketing_env.parquet import save_parts
from marketing_env.policy import (
    ConstantPolicy,
    DayView,
    MixedPolicy,
    Policy,
    ProductionPolicy,
    RandomPolicy,
)
from marketing_env.presets import PRESETS, preset
from marketing_env.replay import Estimate, replay
from marketing_env.rollout import rollout, rollout_parts
from marketing_env.users import State, Users, sample_users

register(
    "marketing_env/Campaign-v0",
    entry_point="marketing_env.envs:CampaignEnv",
    vector_entry_point="marketing_env.envs:CampaignVectorEnv",
)
register("marketing_env/Audience-v0", entry_point="marketing_env.envs:AudienceEnv")
register(
    "marketing_env/Coupons-v0",
    entry_point="marketing_env.bcorle_envs:CouponsEnv",
    vector_entry_point="marketing_env.bcorle_envs:CouponsVectorEnv",
)

__all__ = [
    "PRESETS",
    "CampaignConfig",
    "ConstantPolicy",
    "DayView",
    "Estimate",
    "Evaluation",
    "LoggedDataset",
    "MixedPolicy",
    "OneShotConfig",
    "Optimum",
    "Policy",
    "ProductionPolicy",
    "RandomPolicy",
    "State",
    "Trial",
    "Users",
    "best_mixture",
    "bound",
    "curve",
    "evaluate",
    "lbcf",
    "optimum",
    "plan",
    "preset",
    "replay",
    "rollout",
    "rollout_parts",
    "sample_users",
    "save_parts",
    "score",
]
