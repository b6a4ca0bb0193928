"""Families of policies that one number steers: what each is worth, and the mixture for a budget.

A method that takes a price (a budget, a return) as an input learns one network and has a policy
for every price of a grid. Its own values flatter it, for it chose what looks best in them. So a
`Judge` evaluates each policy on users from whom the network did not learn, by fitted Q evaluation
(Le et al., Batch Policy Learning under Constraints, ICML 2019, algorithm 3), and a linear program
mixes at most two of them for a budget (`frontier.py`).

A method writes its `Config`, a `Family`, a `fit` that returns a `FamilyModel` and a `load` that
calls `load_family`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from agents.common import files
from agents.common.games.frontier import Frontier
from agents.common.nets import Track, no_track
from agents.common.types import Array, Forecast
from agents.common.values.fitted_q import Allowed
from agents.common.values.ope import FittedQEvaluation, Probabilities
from agents.common.values.prices import choose_prices
from agents.common.values.responses import frontier_of
from marketing_env import ConstantPolicy, DayView, LoggedDataset, MixedPolicy, Policy

_ROWS = 8192  # users served at once
C = TypeVar("C")


class Sizes(NamedTuple):
    """What a network is built for."""

    n_obs: int
    n_actions: int
    horizon: int


class Family(Protocol):
    """Policies of one network, one for each finite price of a frontier."""

    def policy(self, head: int) -> Policy: ...

    def tensors(self) -> dict[str, Tensor]:
        """All that the method's `load` needs to rebuild the family."""
        ...


class Memoryless:
    """A policy that looks at today's observation only."""

    def __init__(self, act: Callable[[Tensor, int], Tensor]) -> None:
        """act: from observations (n, d) and the day to action probabilities (n, K)."""
        self.act = act

    def probs(self, view: DayView) -> Array:
        obs = torch.as_tensor(np.ascontiguousarray(view.obs))
        parts = [self.act(rows, view.day) for rows in obs.split(_ROWS)]
        return np.asarray(torch.cat(parts).double().numpy())


class Judge:
    """Says what policies are worth, from a log that taught them nothing."""

    def __init__(self, log: LoggedDataset, *, track: Track = no_track, **settings: Any) -> None:
        """settings: of `FittedQEvaluation`."""
        self.evaluation = FittedQEvaluation(log, track=track, **settings)
        self.log, self.track = log, track
        self.money = torch.zeros(self.evaluation.data.n_actions, 0)  # the only limit

    def prices(self, count: int, allowed: Allowed | None = None) -> Tensor:
        """(G + 1, 1) prices from unconstrained to almost no spending; the last is inf."""
        known = self.evaluation
        return choose_prices(
            known.data, known.outcomes[0], self.money, count, known.seed, allowed,
            progress="price range" if known.progress else None,
        )  # fmt: skip

    def frontier(self, act: Probabilities, prices: Tensor, risk: float) -> Frontier:
        """Values and errors of G policies and, last, of giving nothing.

        Args:
            prices: (G + 1, 1), the last is inf; marginal returns at which the policies stop
                spending, 0 if they know none.
            risk: accepted probability that a mixture violates its budget.
        """

        def with_nothing(obs: Tensor, user: Tensor, day: int) -> Tensor:
            nothing = torch.zeros(len(obs), len(self.money), 1)
            nothing[:, 0] = 1
            return torch.cat([act(obs, user, day), nothing], dim=2)

        _, first = self.evaluation.learn(with_nothing, len(prices), self.money)
        found = frontier_of(self.log, first, self.evaluation.fold, prices, risk)
        # In the memory layout that a saved model is read into, so that sums round alike.
        value, error = np.ascontiguousarray(found.value), np.ascontiguousarray(found.error)
        frontier = replace(found, value=value, error=error)
        for g, (reward, cost) in enumerate(frontier.value):
            self.track("frontier/reward", reward, g)
            self.track("frontier/cost", cost, g)
        return frontier


@dataclass(frozen=True)
class FamilyModel:
    """A trained family: answers every budget."""

    method: str  # file of `agents` that loads it
    config: Any  # the method's `Config`
    family: Family = field(repr=False)
    frontier: Frontier
    sizes: Sizes

    def policy(self, budget: float) -> Policy:
        """The best mixture of at most two policies; budget in currency per user per campaign.

        Raises:
            ValueError: if the budget is negative or no number.
        """
        weight = self.frontier.mix((budget,)).weight
        used = np.flatnonzero(weight)
        return MixedPolicy([self.policies[k] for k in used], weight[used])

    @cached_property
    def policies(self) -> tuple[Policy, ...]:
        """One for each price; mixtures share them, so that each is evaluated once."""
        return tuple(self._follow(head) for head in range(len(self.frontier.price)))

    def forecast(self, budget: float) -> Forecast:
        """What held-out users say of `policy(budget)`, with errors."""
        return self.frontier.forecast((budget,))

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        meta = {
            "config": asdict(self.config),
            "frontier": {k: np.asarray(v).tolist() for k, v in asdict(self.frontier).items()},
            "sizes": self.sizes._asdict(),
        }
        files.save_model(folder, self.method, self.family.tensors(), meta)

    def _follow(self, head: int) -> Policy:
        if head == self.frontier.idle:
            return ConstantPolicy(0, self.sizes.n_actions)
        return self.family.policy(head)


def load_family(
    folder: str | Path,
    config: Callable[..., C],
    rebuild: Callable[[C, Mapping[str, Tensor], Sizes], Family],
) -> FamilyModel:
    """Read a model that `FamilyModel.save` wrote.

    Args:
        config: the method's `Config`.
        rebuild: makes the family from its tensors.
    """
    meta, tensors = files.read_meta(folder), files.read_tensors(folder)
    settings, sizes = config(**meta["config"]), Sizes(**meta["sizes"])
    family = rebuild(settings, tensors, sizes)
    frontier = Frontier.from_lists(meta["frontier"])
    return FamilyModel(meta["method"], settings, family, frontier, sizes)


def recorded(choice: Tensor, n_actions: int) -> Probabilities:
    """G policies whose choices on every user-day of the judge's log, (n, T, G), are known."""

    def act(obs: Tensor, user: Tensor, day: int) -> Tensor:
        return torch.nn.functional.one_hot(choice[user, day], n_actions).movedim(-1, 1)

    return act


def sizes_of(log: LoggedDataset) -> Sizes:
    return Sizes(log.obs.shape[2], log.n_actions, log.horizon)


def hold_out(log: LoggedDataset, share: float, seed: int) -> tuple[LoggedDataset, LoggedDataset]:
    """Users to learn from and users to judge by, who both know every incentive of the log."""
    return declared(log).split(1 - share, seed)


def with_judge(
    log: LoggedDataset, config: Any, seed: int, track: Track
) -> tuple[LoggedDataset, Judge]:
    """Users to learn from, and a judge that has the others, as a method's `config` wants them."""
    learn, test = hold_out(log, config.judge_share, seed)
    return learn, Judge(
        test, width=config.width, epochs=config.outcome_epochs, seed=seed, track=track,
        progress=config.progress,
    )  # fmt: skip


def declared(log: LoggedDataset) -> LoggedDataset:
    """The log, with all its incentives named, so that parts of it know them too."""
    levels = {"incentives": list(range(log.n_actions))}
    return replace(log, meta=levels | dict(log.meta))
