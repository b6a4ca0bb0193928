"""Direct scores: how much reward the next unit of money brings, without predicting rewards.

Networks z(x) are trained by losses whose minimisers rank users by marginal return. DRM, DRP and DCL
compare two arms, T and C, with Delta X[g] = mean_T(X g) - mean_C(X g):

    drm  L = Delta c[w] / Delta r[w],  w = exp(s), s = tanh z, w of mean 1 within T and C: a rank
    drp  L = -Delta r[logit q] - Delta c[log(1 - q)],  q = sigmoid z         q* = tau_r / tau_c
    dcl  L = -Delta(r - lambda c)[log((1 + u) / (1 - u))] - mean log(1 - u^2),  u = tanh z
                                                                   u* = tau_r - lambda tau_c

DPM has a q_t = sigmoid z_t for every step t -> t + 1 between K arms of rising cost; q_{-1} and
q_{K-1}, of steps that do not exist, are 0:

    dpm  L = mean w [ c (q_{t-1}^2 - q_t^2) - r (q_{t-1} - q_t) ]    q_t* = Delta r / (2 Delta c)

with w = N / (K N_t), so that arms need not be of equal size. Logged propensities enter as row
weights (`arm_weights`), which in a randomised trial are exactly N / (K N_t).

Sources: Du, Lee & Ghaffarizadeh, 2019 (direct rank, DRM); Zhou et al., Direct Heterogeneous Causal
Learning for Resource Allocation Problems in Marketing, AAAI 2023 (DRP, DPM); DCL as in its authors'
code. The losses' minimisers are checked in tests.

Choices of ours: with K > 2 arms, DRM and DRP compare each arm with arm 0, by a network of its own;
DPM has one network per step. Rewards are divided by a constant that leaves room below q = 1, and
the score is multiplied by it. A DRM score is exp(s) of mean 1 times the arm's mean return.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from agents.common import files
from agents.common.nets import Track, minimise, mlp, no_track
from agents.common.one_day.daily import NetworkResponse, State
from agents.common.tensors import panel
from agents.common.types import Array
from agents.common.values.response import OutcomeModel
from marketing_env import LoggedDataset

_ROOM = 8.0  # largest score that can be told apart, over the mean score

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def drm(z: Tensor, arm: Tensor, reward: Tensor, cost: Tensor, weight: Tensor) -> Tensor:
    """Cost per reward of users weighted by exp(tanh z); all arguments (m,)."""
    weight = weight * torch.exp(torch.tanh(z))
    return _contrast(cost, arm, weight) / _contrast(reward, arm, weight)


def drp(z: Tensor, arm: Tensor, reward: Tensor, cost: Tensor, weight: Tensor) -> Tensor:
    """Its minimiser is sigmoid z = tau_r / tau_c, where 0 < tau_r < tau_c; all arguments (m,)."""
    # logit q = z, log(1 - q) = -softplus z
    return -_contrast(reward * z - cost * softplus(z), arm, weight)


def dcl(
    z: Tensor, arm: Tensor, reward: Tensor, cost: Tensor, weight: Tensor, price: float = 0.2
) -> Tensor:
    """Its minimiser is tanh z = tau_r - price * tau_c, if within (-1, 1); all arguments (m,).

    A net effect holds at one price of money only, so no allocation for other budgets follows.
    """
    # log((1 + u) / (1 - u)) = 2 z, log(1 - u^2) = -2 log cosh z
    log_cosh = z.abs() + softplus(-2 * z.abs()) - math.log(2)
    return 2 * log_cosh.mean() - _contrast((reward - price * cost) * 2 * z, arm, weight)


def dpm(z: Tensor, arm: Tensor, reward: Tensor, cost: Tensor, weight: Tensor) -> Tensor:
    """Its minimiser is sigmoid z_t = half the marginal return of step t -> t + 1.

    Args:
        z: (m, K - 1); all others (m,).
    """
    edge = torch.zeros_like(z[:, :1])
    q = torch.cat([edge, torch.sigmoid(z), edge], dim=1)
    arm = arm[:, None]
    before, after = q.gather(1, arm)[:, 0], q.gather(1, arm + 1)[:, 0]
    return (weight * (cost * (before**2 - after**2) - reward * (before - after))).mean()


LOSSES: dict[str, Loss] = {"drm": drm, "drp": drp, "dpm": dpm}


def arm_weights(arm: Tensor, propensity: Tensor, n_actions: int) -> Tensor:
    """(m,) inverse propensities, scaled to sum to m / K in each arm: N / (K N_t) in a trial."""
    inverse = 1 / propensity
    total = torch.zeros(n_actions, dtype=inverse.dtype).index_add(0, arm, inverse)
    return (inverse * len(arm) / (n_actions * total[arm])).float()


class Scores(nn.Module):
    """One network per arm (of DRM and DRP) or step (of DPM)."""

    scale: Tensor

    def __init__(self, loss: str, n_inputs: int, n_steps: int, width: int) -> None:
        super().__init__()
        self.loss = loss
        self.nets = nn.ModuleList(
            nn.Sequential(*mlp(n_inputs, width, 1), nn.Linear(width, 1)) for _ in range(n_steps)
        )
        self.register_buffer("scale", torch.ones(n_steps))

    @property
    def largest(self) -> float:
        """Score of q = 1, before scaling: DPM finds half of the return."""
        return 2.0 if self.loss == "dpm" else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(m, K - 1) z."""
        return torch.cat([net(x) for net in self.nets], dim=1)

    def returns(self, x: Tensor) -> Tensor:
        """(m, K - 1) reward that a unit of money brings."""
        z = self(x)
        if self.loss == "drm":
            return self.scale * torch.exp(torch.tanh(z))
        return self.scale * self.largest * torch.sigmoid(z)


class DirectResponse:
    """Costs of the outcome model, and rewards that rise with them by the direct scores.

    Arm 0 brings what the outcome model says; arm j on top of it the sum of score times marginal
    cost, over the steps up to j (DPM) or from arm 0 at once (DRM, DRP). So the knapsack that serves
    predictions serves scores.
    """

    def __init__(self, outcomes: OutcomeModel, scores: Scores) -> None:
        self.outcomes, self.scores = outcomes, scores

    @torch.no_grad()
    def predict(self, obs: Array, day: int) -> Array:
        expected = NetworkResponse(self.outcomes).predict(obs, day)
        rows = torch.as_tensor(np.ascontiguousarray(obs))
        x = self.outcomes.inputs(rows, torch.full((len(rows),), day))
        returns, cost = self.scores.returns(x).double().numpy(), expected[..., 1]
        if self.scores.loss == "dpm":
            gain = np.cumsum(returns * np.diff(cost, axis=1), axis=1)
        else:
            gain = returns * (cost[:, 1:] - cost[:, :1])
        expected[:, 1:, 0] = expected[:, :1, 0] + gain
        return expected

    def state(self) -> State:
        tensors = files.prefixed("outcomes", self.outcomes) | files.prefixed("scores", self.scores)
        return State(tensors, {"horizon": self.outcomes.horizon, "loss": self.scores.loss})

    @staticmethod
    def from_state(state: State) -> DirectResponse:
        own, weights = (files.under(part, state.tensors) for part in ("outcomes", "scores"))
        width, n_inputs = weights["nets.0.0.weight"].shape
        scores = Scores(state.meta["loss"], n_inputs, len(weights["scale"]), width)
        scores.load_state_dict(weights)
        outcomes = OutcomeModel.rebuild(own, state.meta["horizon"])
        return DirectResponse(outcomes, scores.eval().requires_grad_(False))


def fit_direct(
    log: LoggedDataset,
    users: Array,
    outcomes: OutcomeModel,
    loss: str,
    *,
    width: int = 128,
    epochs: float = 6.0,
    batch: int = 8192,
    lr: float = 1e-3,
    seed: int = 0,
    track: Track = no_track,
    tag: str = "response",
    progress: str | None = None,
) -> DirectResponse:
    """Fit the scores on the valid user-days of the given users.

    Args:
        outcomes: fitted on the same users; its costs turn scores into rewards.
        loss: drm, drp or dpm.
        batch: user-days a step; DRM divides by the rise of the batch's mean reward, which in few
            user-days of an arm may be near 0.

    Raises:
        ValueError: for another loss; if an arm (DPM: a step) costs no more than what it is compared
            with; for DRM, if it brings no more.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss = {loss!r}: allowed are {', '.join(LOSSES)}")
    data = panel(log)
    rows = data.user_days(torch.as_tensor(users))
    x = outcomes.inputs(*data.mornings(rows))
    arm, _, reward, cost = data.happened(rows)
    weight = arm_weights(arm, torch.tensor(log.propensity).flatten()[rows], data.n_actions)
    mean = mean_returns(loss, arm, reward, cost, weight, data.n_actions)
    torch.manual_seed(seed)
    scores = _untrained(loss, mean, x.shape[1], width)
    parts = arm, reward / scores.scale.max(), cost, weight

    def step_loss(index: Tensor) -> Tensor:
        return _all_arms(LOSSES[loss], scores(x[index]), *(part[index] for part in parts))

    def on_step(step: int, value: Tensor) -> None:
        if step % 50 == 0:
            track(f"{tag}/{loss}", float(value), step)

    minimise(
        scores.parameters(), step_loss, torch.arange(len(rows)),
        steps=max(300, math.ceil(epochs * len(rows) / batch)), batch=batch, lr=lr,
        generator=torch.Generator().manual_seed(seed), on_step=on_step, progress=progress,
    )  # fmt: skip
    scores.eval().requires_grad_(False)
    if loss == "drm":
        scores.scale = mean / torch.exp(torch.tanh(scores(x))).mean(0)
    return DirectResponse(outcomes, scores)


def mean_returns(
    loss: str, arm: Tensor, reward: Tensor, cost: Tensor, weight: Tensor, n_actions: int
) -> Tensor:
    """(K - 1,) mean reward per unit of money: of each step with DPM, else of each arm over arm 0.

    With DRP and DPM, whose networks start there, at least the standard error of its reward.
    """
    n = torch.bincount(arm, minlength=n_actions)
    level = torch.stack(
        [torch.bincount(arm, weight.double() * y, n_actions) for y in (reward, cost)]
    ) / torch.bincount(arm, weight.double(), n_actions)
    before = torch.arange(n_actions - 1) * (loss == "dpm")
    gain, extra = level[:, 1:] - level[:, before]
    _check_rise(f"{loss}: cost", extra, before)
    if loss == "drm":
        _check_rise("drm: reward", gain, before)
        return (gain / extra).float()
    error = reward.double().std() * (1 / n[1:] + 1 / n[before]).sqrt()
    return (torch.maximum(gain, error) / extra).float()


def _check_rise(name: str, rise: Tensor, before: Tensor) -> None:
    for j, (more, i) in enumerate(zip(rise.tolist(), before.tolist(), strict=True), start=1):
        if not more > 0:
            raise ValueError(
                f"{name} of arm {j} is {more:.4g} above that of arm {i} in the log: allowed is more"
                " than 0 (nan: an arm was never given)"
            )


def _untrained(loss: str, mean: Tensor, n_inputs: int, width: int) -> Scores:
    """Networks that give everyone the mean return."""
    scores = Scores(loss, n_inputs, len(mean), width)
    if loss == "drm":
        return scores
    scores.scale = (_ROOM / scores.largest * mean.max()).expand(len(mean)).clone()
    share = mean / (_ROOM * mean.max())
    for net, q in zip(scores.nets, share, strict=True):
        last = net[-1]  # type: ignore[index]
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, float(torch.logit(q)))
    return scores


def _all_arms(
    loss: Loss, z: Tensor, arm: Tensor, reward: Tensor, cost: Tensor, weight: Tensor
) -> Tensor:
    """A loss of two arms, summed over the arms beside arm 0; DPM knows several."""
    if loss is dpm:
        return dpm(z, arm, reward, cost, weight)
    total = 0 * z.sum()
    for j in range(1, z.shape[1] + 1):
        pair = ((arm == 0) | (arm == j)).nonzero()[:, 0]
        treated = (arm[pair] == j).long()
        if treated.any() and not treated.all():  # else a rare arm is not in the batch
            score = z[:, j - 1].index_select(0, pair)  # its gradient adds up faster than z[pair]'s
            total = total + loss(score, treated, reward[pair], cost[pair], weight[pair])
    return total


def _contrast(x: Tensor, arm: Tensor, weight: Tensor) -> Tensor:
    """mean_T(x) - mean_C(x), weighted."""
    if (arm > 1).any() or arm.all() or not arm.any():
        raise ValueError(f"arm holds {arm.unique().tolist()}: this loss compares 1 with 0, no more")
    treated, control = weight * arm, weight * (1 - arm)
    return (treated * x).sum() / treated.sum() - (control * x).sum() / control.sum()
