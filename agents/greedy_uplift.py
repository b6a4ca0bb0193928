"""Greedy uplift + integer programming: the two-stage baseline that most platforms run.

Stage 1 predicts reward and cost of today under every incentive; stage 2 solves, every morning,
one multiple-choice knapsack over all users with the day's share of the money:

    max sum_ij rhat_ij z_ij   s.t.  sum_ij chat_ij z_ij <= remaining / days left,  sum_j z_ij = 1

It maximises today's reward exactly and knows nothing of tomorrow.

Stage 1 is the outcome network (`values/response.py`), a meta-learner over boosted trees or a causal
forest (`one_day/uplift.py`), or a direct score of marginal returns (`one_day/direct_rank.py`).

Sources: Zhao et al., A Unified Framework for Marketing Budget Allocation, KDD 2019 (response model
+ knapsack); Kunzel et al., Metalearners, PNAS 2019 (S-, T-, X-learner); Kennedy, EJS 2023
(DR-learner); Du, Lee & Ghaffarizadeh, 2019 (DRM); Zhou et al., Direct Heterogeneous Causal
Learning, AAAI 2023 (DRP, DPM, causal forest + knapsack); Ai et al., LBCF, WWW 2022 (dual prices for
the knapsack).

Differences from the sources:
1. The knapsack is solved exactly with an integrality certificate (`common/knapsack.py`), not by a
   bisection that stops at an absolute tolerance.
2. The `network` learner shares one outcome model over incentives and days.
3. Models are cross-fitted over users; the policy uses their mean, the forecast the member that did
   not see the user. So are, once more, the nuisances of the X- and DR-learner.
4. Direct scores also meet the knapsack: they are turned into rewards by the outcome model's costs,
   where the sources rank users or climb the incentives up to a threshold.
5. Incentives that the log never tried in a state are not eligible (`values/support.py`).
6. The campaign's money is paced over the days by what remains, or evenly if nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from agents.common.bounds import check
from agents.common.nets import Track, no_track
from agents.common.one_day.daily import (
    DailyModel,
    NetworkResponse,
    Response,
    State,
    fit_daily,
    load_daily,
)
from agents.common.one_day.direct_rank import LOSSES, DirectResponse, fit_direct
from agents.common.one_day.uplift import BoostedResponse, Boosting, fit_uplift
from agents.common.tensors import panel
from agents.common.types import Array
from agents.common.values.response import fit_outcomes
from marketing_env import LoggedDataset

METHOD = "greedy_uplift"
Learner = Literal["network", "s", "t", "x", "dr", "causal_forest", "drm", "drp", "dpm"]


@dataclass(frozen=True)
class Config:
    """Settings of the response models and of the daily allocation."""

    learner: Learner = "network"  # or trees (s, t, x, dr), a forest, direct scores (drm, drp, dpm)
    folds: int = 2  # cross-fitted models
    width: int = 128  # of the networks' hidden layers
    epochs: float = 6.0  # of the networks
    trees: int = 150  # of each boosted regression
    leaves: int = 31
    learning_rate: float = 0.06  # of the boosting
    min_leaf: int = 200  # user-days in a leaf, at least
    least_support: float = 0.01  # logging probability below which an incentive is not chosen
    pacing: bool = True  # spread what remains over the days left; else a fixed share a day
    progress: bool = True  # show progress bars on a terminal

    def __post_init__(self) -> None:
        check(self)


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> DailyModel:
    """Fit the response models on a log alone.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.

    Raises:
        ValueError: for an unknown learner, or a log from which a direct score cannot learn.
        ImportError: for the learner causal_forest if econml is not installed.
    """

    def learn(users: Array, member: int) -> Response:
        return _learn(log, users, config, seed, member, track)

    return fit_daily(METHOD, log, config, learn, seed=seed, track=track)


def load(folder: str | Path) -> DailyModel:
    """Read a model that its `save` wrote."""
    return load_daily(folder, Config, _read)


def _learn(
    log: LoggedDataset, users: Array, config: Config, seed: int, member: int, track: Track
) -> Response:
    tag = f"response/member_{member}"
    progress = f"response model {member + 1}/{config.folds}" if config.progress else None
    if config.learner != "network" and config.learner not in LOSSES:
        boost = Boosting(
            config.trees, config.leaves, config.learning_rate, config.min_leaf, seed, track, tag
        )
        return fit_uplift(log, users, config.learner, boost, progress)
    outcomes = fit_outcomes(
        panel(log), torch.as_tensor(users), width=config.width, epochs=config.epochs,
        seed=seed * 1000 + member, track=track, tag=tag, progress=progress,
    )  # fmt: skip
    if config.learner == "network":
        return NetworkResponse(outcomes)
    return fit_direct(
        log, users, outcomes, config.learner, width=config.width, epochs=config.epochs,
        seed=seed * 1000 + member, track=track, tag=tag, progress=progress,
    )  # fmt: skip


def _read(config: Config, state: State) -> Response:
    if config.learner == "network":
        return NetworkResponse.from_state(state)
    direct = config.learner in LOSSES
    return DirectResponse.from_state(state) if direct else BoostedResponse.from_state(state)
