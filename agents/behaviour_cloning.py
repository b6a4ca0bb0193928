"""Behaviour cloning: do what the log did, or, for less money, do it to fewer users.

A classifier learns P(a | s, day) from every user-day of the log by cross-entropy. A clone spends
what the log spent. For a smaller budget, each user follows the clone with a probability and gets
nothing otherwise, for the whole campaign:

    weight of the clone = min(1, budget / (expected spend of the clone + margin))

At a larger budget it still clones the log and leaves the rest of the money unspent: nothing in the
log's choices says how to spend more, and `forecast` says what it spends. Whatever learns from
outcomes must beat it, and its score says how good the log's own policy was.

Source: Pomerleau, ALVINN: An Autonomous Land Vehicle in a Neural Network, NeurIPS 1988; as the
baseline of offline reinforcement learning, Fujimoto et al., arXiv 1910.01708.

Differences from the sources:
1. A mixture with giving nothing meets budgets below the log's own spend; the sources have none.
2. The clone draws incentives with the log's probabilities, not the likeliest one: that keeps its
   spend and its exploration.
3. Expected values come from fitted Q evaluation, cross-fitted over users (`values/family.py`).
   A clone maximises nothing that estimates could flatter, so no user is held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agents.common import files
from agents.common.bounds import check
from agents.common.nets import Track, no_track
from agents.common.tensors import panel
from agents.common.values.family import (
    FamilyModel,
    Judge,
    Memoryless,
    Sizes,
    load_family,
    sizes_of,
)
from agents.common.values.support import Support, fit_support, load_support
from marketing_env import LoggedDataset, Policy

METHOD = "behaviour_cloning"
_ANY = 1e-12  # logging probability from which an incentive is cloned


@dataclass(frozen=True)
class Config:
    """Settings of the classifier and of its evaluation."""

    width: int = 128  # of every hidden layer
    epochs: float = 8.0  # passes over the log for the classifier
    outcome_epochs: float = 8.0  # passes over the log for the outcome model of the evaluation
    steps: int = 100  # gradient steps per day and fold for the values of the evaluation
    risk: float = 0.05  # accepted probability that a plan violates its budget
    progress: bool = True  # show progress bars on a terminal

    def __post_init__(self) -> None:
        check(self)


class Clone:
    """The log's policy, as learned from its choices."""

    def __init__(self, support: Support | None, n_actions: int) -> None:
        """support: None if the log chose uniformly, as its propensities tell."""
        self.support, self.n_actions = support, n_actions

    @torch.no_grad()
    def act(self, obs: Tensor, day: int) -> Tensor:
        """(n, K) probabilities of the incentives."""
        if self.support is None:
            return torch.full((len(obs), self.n_actions), 1 / self.n_actions)
        x = self.support.inputs(obs, torch.full((len(obs),), day))
        return torch.softmax(self.support.net(x), dim=-1)

    def policy(self, head: int) -> Policy:
        return Memoryless(self.act)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.support is None else files.prefixed("support", self.support)


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> FamilyModel:
    """Learn the log's policy from a log alone.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
    """
    support = fit_support(
        log, panel(log), least=_ANY, width=config.width, epochs=config.epochs, seed=seed,
        track=track, progress="classifier" if config.progress else None,
    )  # fmt: skip
    clone = Clone(support, log.n_actions)
    judge = Judge(
        log, width=config.width, epochs=config.outcome_epochs, steps=config.steps, seed=seed,
        track=track, progress=config.progress,
    )  # fmt: skip
    verdict = judge.verdict(
        lambda obs, user, day: clone.act(obs, day)[..., None],
        torch.tensor([[0.0], [torch.inf]]),
        config.risk,
    )
    return FamilyModel(METHOD, config, clone, verdict, sizes_of(log))


def load(folder: str | Path) -> FamilyModel:
    """Read a model that its `save` wrote."""
    return load_family(folder, Config, _rebuild)


def _rebuild(config: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> Clone:
    return Clone(load_support(tensors, *sizes, _ANY), sizes.n_actions)
