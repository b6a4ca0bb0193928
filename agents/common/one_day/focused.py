"""Members that predict, are trained on for what they decide, and are calibrated.

What DFCL and the end-to-end regulariser share: which users teach a member, which of them choose its
best state, and which tell what its decisions really spend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch

from agents.common.nets import Track
from agents.common.one_day.calibration import calibrate
from agents.common.one_day.daily import Response
from agents.common.one_day.predictors import Kind, Predictor, fit_predictor
from agents.common.one_day.representation import Fitting, UserDays, user_days
from agents.common.types import Array
from marketing_env import LoggedDataset

_HELD_OUT = 0.2  # of a member's users, to choose the best state


class Settings(Protocol):
    """What the Config of a method holds that trains such a network on."""

    @property
    def network(self) -> Kind: ...
    @property
    def width(self) -> int: ...
    @property
    def warm_epochs(self) -> float:
        """Passes over the rows by the prediction loss alone."""
        ...

    @property
    def epochs(self) -> float:
        """Passes by the method's own loss; 0 is the two-stage method."""
        ...

    @property
    def batch(self) -> int: ...
    @property
    def progress(self) -> bool: ...


class Warm(NamedTuple):
    """A member that has learned to predict."""

    predictor: Predictor
    rows: UserDays  # that it learns from
    held: UserDays  # of users held out, to choose the best state
    fitting: Fitting
    tag: str  # of its learning curves


def fit_member(
    log: LoggedDataset,
    users: Array,
    config: Settings,
    seed: int,
    member: int,
    track: Track,
    judged: int,
    focus: Callable[[Warm], None],
) -> Response:
    """A network that predicts, is trained on, and is calibrated on users that it has not seen.

    Args:
        users: of the member; some of them are held out.
        judged: held-out user-days, at most.
        focus: trains on, by the method's own loss.
    """
    seed, tag = seed * 1000 + member, f"response/member_{member}"
    order = np.random.default_rng([seed, 6]).permutation(users)
    cut = max(1, round(_HELD_OUT * len(order)))
    learned = order[cut:] if len(order) > 1 else order
    rows = user_days(log, learned)
    fitting = Fitting(
        config.warm_epochs, config.batch, seed=seed, track=track, progress=config.progress
    )
    predictor = fit_predictor(config.network, log, rows, config.width, fitting, f"{tag}/warm")
    if config.epochs:
        held = evenly(user_days(log, order[:cut]), judged)
        focus(Warm(predictor, rows, held, fitting, tag))
    return calibrate(predictor.response(), log, np.setdiff1d(np.arange(log.n_users), learned))


def evenly(rows: UserDays, most: int) -> UserDays:
    """Evenly drawn rows."""
    return rows.take(torch.linspace(0, len(rows.arm) - 1, min(len(rows.arm), most)).long())
