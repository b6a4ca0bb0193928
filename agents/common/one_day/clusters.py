"""Clusters of user-days, and the classifier that serves them.

Clusters are those of k-means++ on hidden representations, standardised, or on what decides an
allocation: the predicted curves (r_j - r_0, c_j) over the arms j. A classifier x -> cluster learns
soft labels in proportion to exp(-d_l^2 / temperature), where d_l are the distances to the centres.

Wang et al., 2025, arXiv 2506.00959 (clusters, distillation); Arthur & Vassilvitskii, SODA 2007
(k-means++).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from agents.common import files
from agents.common.nets import mlp, seeded
from agents.common.one_day.representation import Fitting, Inputs, Representation, UserDays
from agents.common.types import Array

_RESTARTS = 10  # of k-means
_SERVED = 8192  # rows at once
_TINY = 1e-6


class Space(NamedTuple):
    """Where distances are taken: coordinates (z - mean) / spread."""

    curves: bool  # predicted curves, else hidden representations
    mean: Tensor  # (e,)
    spread: Tensor  # (e,)


class Clusters(nn.Module):
    """Nearest centres."""

    mean: Tensor
    spread: Tensor
    centre: Tensor  # (L, e)

    def __init__(self, representation: Representation, space: Space, centre: Tensor) -> None:
        super().__init__()
        self.representation, self.curves = representation, space.curves
        self.register_buffer("mean", space.mean)
        self.register_buffer("spread", space.spread)
        self.register_buffer("centre", centre)

    @classmethod
    def rebuild(cls, state: Mapping[str, Tensor], curves: bool, horizon: int) -> Clusters:
        """The clusters whose `state_dict` this is."""
        network = Representation.rebuild(files.under("representation", dict(state)), horizon)
        return cls(network, Space(curves, state["mean"], state["spread"]), state["centre"])

    def forward(self, obs: Tensor, day: Tensor) -> Tensor:
        """(m, L) squared distances to the centres, negative: the largest is the nearest."""
        z = _raw(self.representation, self.curves, obs, day)
        return -(torch.cdist((z - self.mean) / self.spread, self.centre) ** 2)


class Classifier(nn.Module):
    """Scores of the clusters from what is observed."""

    def __init__(self, n_obs: int, n_clusters: int, horizon: int, width: int) -> None:
        super().__init__()
        self.inputs = Inputs(n_obs, horizon)
        self.net = nn.Sequential(mlp(n_obs + 3, width, 2), nn.Linear(width, n_clusters))

    @classmethod
    def rebuild(cls, state: Mapping[str, Tensor], horizon: int) -> Classifier:
        """The classifier whose `state_dict` this is."""
        width, n_inputs = state["net.0.0.weight"].shape
        model = cls(n_inputs - 3, len(state["net.1.bias"]), horizon, width)
        model.load_state_dict(dict(state))
        return model.eval().requires_grad_(False)

    def forward(self, obs: Tensor, day: Tensor) -> Tensor:
        """(m, L)"""
        return torch.as_tensor(self.net(self.inputs(obs, day)))


class Network(Protocol):
    """Answers row by row: clusters and classifiers with scores (m, L)."""

    def __call__(self, obs: Tensor, day: Tensor) -> Tensor: ...


@torch.no_grad()
def answers(network: Network, obs: Tensor, day: Tensor) -> Tensor:
    """The network's answers for many rows."""
    parts = zip(obs.split(_SERVED), day.split(_SERVED), strict=True)
    return torch.cat([network(*part) for part in parts])


def assign(network: Network, obs: Tensor, day: Tensor) -> Array:
    """(m,) cluster of each row: the one of largest score."""
    return np.asarray(answers(network, obs, day).argmax(1).numpy())


def fit_clusters(
    representation: Representation, rows: UserDays, n_clusters: int, curves: bool, seed: int = 0
) -> Clusters:
    """k-means++ with restarts; there are no more clusters than rows."""
    from sklearn.cluster import MiniBatchKMeans

    z = answers(lambda *part: _raw(representation, curves, *part), rows.obs, rows.day)
    spread = z.std(0, correction=0)
    if curves:
        # One unit for all rewards and one for all costs: arms that differ little stay close.
        spread = spread.reshape(-1, 2).square().mean(0).sqrt().repeat(len(spread) // 2)
    space = Space(curves, z.mean(0), spread.clamp(min=_TINY))
    found = MiniBatchKMeans(
        min(n_clusters, len(z)), n_init=_RESTARTS, batch_size=2048, random_state=seed
    ).fit(((z - space.mean) / space.spread).numpy())
    return Clusters(representation, space, torch.tensor(found.cluster_centers_).float())


def distil(
    teacher: Clusters, rows: UserDays, width: int, temperature: float, fitting: Fitting
) -> Classifier:
    """Train a classifier on the teacher's soft labels.

    Args:
        temperature: in units of the mean squared distance to the nearest centre.
    """
    network = teacher.representation
    with seeded(fitting.seed):
        model = Classifier(rows.obs.shape[1], len(teacher.centre), network.inputs.horizon, width)
    model.inputs.load_state_dict(network.inputs.state_dict())
    closeness = answers(teacher, rows.obs, rows.day)
    unit = -float(closeness.amax(1).mean())
    label = (closeness / max(temperature * unit, _TINY)).softmax(1)

    def loss(index: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(rows.obs[index], rows.day[index]), label[index])

    fitting.run(model, loss, len(label), "classifier")
    return model


def _raw(representation: Representation, curves: bool, obs: Tensor, day: Tensor) -> Tensor:
    return representation.curves(obs, day) if curves else representation.hidden(obs, day)
