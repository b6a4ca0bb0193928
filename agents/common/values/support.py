"""Which incentives the log can speak about, state by state.

Values of state-actions that the log never tried are extrapolation, and a greedy policy seeks out
the most flattering ones. So the policy is kept to incentives whose logging probability, estimated
from the log, is not negligible (discrete BCQ, Fujimoto et al. 2019, with an absolute threshold:
with a relative one, rare but honest exploration would not count).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from agents.common import files
from agents.common.nets import Track, minimise, mlp, moments, no_track, standardised, steps_of
from agents.common.tensors import Panel
from marketing_env import LoggedDataset


class Support(nn.Module):
    """Estimated logging probabilities, and the incentives they allow."""

    mean: Tensor
    scale: Tensor

    def __init__(self, n_obs: int, n_actions: int, horizon: int, width: int, least: float) -> None:
        super().__init__()
        self.horizon, self.least = horizon, least
        self.register_buffer("mean", torch.zeros(n_obs + 3))
        self.register_buffer("scale", torch.ones(n_obs + 3))
        self.net = nn.Sequential(mlp(n_obs + 3, width, 2), nn.Linear(width, n_actions))

    def inputs(self, obs: Tensor, day: Tensor) -> Tensor:
        return standardised(obs, day, self.horizon, self.mean, self.scale)

    @torch.no_grad()
    def allowed(self, obs: Tensor, day: int | Tensor) -> Tensor:
        """(n, K) bool: logging probability at least `least`, or the most likely action."""
        day_column = torch.as_tensor(day, device=obs.device).expand(len(obs))
        p = self.net(self.inputs(obs, day_column)).softmax(-1)
        return (p >= self.least) | (p == p.amax(-1, keepdim=True))


def fit_support(
    log: LoggedDataset,
    data: Panel,
    *,
    least: float,
    width: int = 64,
    epochs: float = 3,
    batch: int = 4096,
    seed: int = 0,
    track: Track = no_track,
    progress: str | None = None,
) -> Support | None:
    """Estimate P(a | s, day) by cross-entropy on every valid user-day of the log.

    None, for no restriction, if `least` is 0 or the log tried every incentive equally everywhere.
    """
    if not least or np.allclose(log.propensity[log.valid], 1 / log.n_actions):
        return None
    torch.manual_seed(seed)
    rows = data.user_days()
    model = Support(data.obs.shape[-1], data.n_actions, data.horizon, width, least)
    x = model.inputs(*data.mornings(rows[:100_000]))
    model.mean, model.scale = moments(x)
    steps = steps_of(epochs, len(rows), batch, fewest=300)

    def loss(some: Tensor) -> Tensor:
        logits = model.net(model.inputs(*data.mornings(some)))
        return nn.functional.cross_entropy(logits, data.happened(some).action)

    def on_step(step: int, value: Tensor) -> None:
        if step % 50 == 0 or step == steps - 1:
            track("support/loss", float(value), step)

    minimise(
        model.parameters(), loss, rows,
        steps=steps, batch=batch, lr=3e-3, generator=torch.Generator().manual_seed(seed),
        on_step=on_step, progress=progress,
    )  # fmt: skip
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Silence:
    """Where the log cannot speak about an incentive."""

    incentive: int
    share: float  # of user-days on which it has no support
    column: str  # of the observation that tells these user-days best from the others
    silent: float  # its mean where the incentive has no support
    heard: float  # and where it has

    def __str__(self) -> str:
        text = f"nothing is known of incentive {self.incentive} on {100 * self.share:.0f} % of"
        if self.share == 1:
            return f"{text} user-days"
        return (
            f"{text} user-days, first of all by {self.column}:"
            f" mean {self.silent:.3g} there, {self.heard:.3g} elsewhere"
        )


def silences(support: Support | None, log: LoggedDataset, sample: int = 100_000) -> list[Silence]:
    """The incentives that the log cannot judge everywhere, the most silent first.

    An incentive that the policy may not choose on some user-days is no finding about it: it was
    not tried there. A log that explores there is the only remedy.
    """
    if support is None:
        return []
    user, day = np.nonzero(log.valid)
    step = max(1, len(user) // sample)
    user, day = user[::step], day[::step]
    obs = torch.as_tensor(np.ascontiguousarray(log.obs[user, day]))
    device = support.mean.device
    allowed = support.allowed(obs.to(device), torch.as_tensor(day, device=device)).cpu().numpy()
    names = log.meta.get("columns") or [f"column {i}" for i in range(obs.shape[1])]
    found = []
    for k in np.flatnonzero(~allowed.all(axis=0)).tolist():
        heard, silent = (obs.numpy()[allowed[:, k] == yes] for yes in (True, False))
        means = [
            x.mean(axis=0) if len(x) else np.full(obs.shape[1], np.nan) for x in (heard, silent)
        ]
        apart = np.abs(means[1] - means[0]) / (obs.numpy().std(axis=0) + 1e-12)
        i = int(np.nan_to_num(apart).argmax())
        share = len(silent) / len(obs)
        found.append(Silence(k, share, str(names[i]), float(means[1][i]), float(means[0][i])))
    return sorted(found, key=lambda s: -s.share)


def load_support(
    tensors: Mapping[str, Tensor], n_obs: int, n_actions: int, horizon: int, least: float
) -> Support | None:
    """The support model among a saved model's weights, if it has one."""
    state = files.under("support", tensors)
    if not state:
        return None
    support = Support(n_obs, n_actions, horizon, state["net.1.weight"].shape[1], least)
    support.load_state_dict(state)
    return support.eval().requires_grad_(False)
