"""Networks that learn to predict, and are then trained on for what their predictions decide.

outcomes     the outcome model of the two-stage method (`response.py`), by its own likelihood: the
             better one where rewards are not negative
multi_task   one head per incentive and outcome (`representation.py`), for rewards of any sign
linear       the same, linear in what is observed

`auto` takes the first one that a log allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from agents.common.one_day.daily import NetworkResponse, Response, State
from agents.common.one_day.representation import (
    Fitting,
    Representation,
    UserDays,
    fit_representation,
)
from agents.common.tensors import Panel, panel
from agents.common.types import Array
from agents.common.values.response import OutcomeModel, fit_outcomes, outcome_loss
from marketing_env import LoggedDataset

Kind = Literal["auto", "outcomes", "multi_task", "linear"]

_CHECKS = 12  # states to choose from
_FEWEST = 100  # steps of training on
_SERVED = 8192  # rows at once


class Predictor(Protocol):
    """A network that predicts reward and cost of user-days."""

    @property
    def net(self) -> nn.Module: ...

    def __call__(self, rows: UserDays) -> Tensor:
        """(m, K, 2) reward and cost, in the units of the log."""
        ...

    def loss(self, predicted: Tensor, rows: UserDays) -> Tensor:
        """What it is trained to predict by; `predicted` are its predictions of the rows."""
        ...

    def response(self) -> Response:
        """The network as it is, no longer to be trained."""
        ...


class OutcomePredictor:
    """The outcome model."""

    def __init__(self, net: OutcomeModel, data: Panel) -> None:
        self.net, self.data = net, data

    def __call__(self, rows: UserDays) -> Tensor:
        return torch.stack(self.net(rows.obs, rows.day).mean(), dim=-1)

    def loss(self, predicted: Tensor, rows: UserDays) -> Tensor:
        logged = self.data.happened(rows.user * self.data.horizon + rows.day)
        return outcome_loss(self.net, self.net.inputs(rows.obs, rows.day), logged)

    def response(self) -> Response:
        return NetworkResponse(self.net)


class MultiTaskPredictor:
    """The network with one head per incentive and outcome."""

    def __init__(self, net: Representation) -> None:
        self.net = net

    def __call__(self, rows: UserDays) -> Tensor:
        return torch.as_tensor(self.net(rows.obs, rows.day))

    def loss(self, predicted: Tensor, rows: UserDays) -> Tensor:
        return self.net.loss(predicted, rows)

    def response(self) -> Response:
        return MultiTaskResponse(self.net)


class MultiTaskResponse:
    """Predictions of the network with one head per incentive and outcome."""

    def __init__(self, net: Representation) -> None:
        self.net = net

    @torch.no_grad()
    def predict(self, obs: Array, day: int) -> Array:
        parts = torch.as_tensor(np.ascontiguousarray(obs)).split(_SERVED)
        found = [self.net(part, torch.full((len(part),), day)) for part in parts]
        return np.asarray(torch.cat(found).double().numpy())

    def state(self) -> State:
        return State(self.net.state_dict(), {"horizon": self.net.inputs.horizon})

    @staticmethod
    def from_state(state: State) -> MultiTaskResponse:
        return MultiTaskResponse(Representation.rebuild(state.tensors, state.meta["horizon"]))


def fit_predictor(
    kind: Kind, log: LoggedDataset, rows: UserDays, width: int, fitting: Fitting, name: str
) -> Predictor:
    """A network trained to predict.

    Args:
        rows: all valid user-days of some users.

    Raises:
        ValueError: for another kind.
    """
    if kind == "auto":
        kind = "outcomes" if float(rows.outcome.min()) >= 0 else "multi_task"
    if kind == "outcomes":
        data = panel(log)
        outcomes = fit_outcomes(
            data, rows.user.unique(), width=width, epochs=fitting.epochs, seed=fitting.seed,
            track=fitting.track, tag=name, progress=name if fitting.progress else None,
        )  # fmt: skip
        return OutcomePredictor(outcomes, data)
    if kind not in ("multi_task", "linear"):
        raise ValueError(f"network = {kind!r}: allowed are auto, outcomes, multi_task, linear")
    width = width if kind == "multi_task" else 0
    return MultiTaskPredictor(
        fit_representation(rows, log.n_actions, log.horizon, width, fitting, name)
    )


def train_on(
    predictor: Predictor,
    loss: Callable[[Tensor], Tensor],
    judge: Callable[[int], float],
    rows: UserDays,
    fitting: Fitting,
    name: str,
    follow: Callable[[int], None] | None = None,
) -> None:
    """Train by another loss, and end with the state that was judged best, the first included.

    Args:
        loss: of the numbers of some rows.
        judge: values the present state, at the number of steps that it is told.
        follow: is told the number of steps done, after each.
    """
    fitting = fitting._replace(fewest=_FEWEST)
    net, steps = predictor.net, fitting.steps(len(rows.arm))
    best, state = -math.inf, net.state_dict()

    def check(step: int) -> None:
        nonlocal best, state
        if follow is not None and step:
            follow(step)
        if step * _CHECKS // steps > (step - 1) * _CHECKS // steps:
            with torch.no_grad():
                value = judge(step)
            if value > best:
                best = value
                state = {key: part.clone() for key, part in net.state_dict().items()}

    check(0)
    net.requires_grad_(True)
    fitting.run(net, loss, len(rows.arm), name, check)
    net.load_state_dict(state)


def read_response(state: State) -> Response:
    """The response that a predictor became."""
    outcomes = "basis" in state.tensors
    return (NetworkResponse if outcomes else MultiTaskResponse).from_state(state)
